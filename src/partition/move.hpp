// Bringing the rows of an existing table into a partition set, and back out of it, while both are in use.
//
// There are two ways, and both commit a few milliseconds of work at a time, so that whoever is killed has
// only to call again.
//
// PLAIN (move_plain.cpp). A row is deleted from the one table and inserted into the other in the same
// transaction. So it is in exactly one of them at every moment, whoever looks and whatever is killed. The
// source is read in physical order, pass after pass, until a pass finds nothing: what was inserted meanwhile
// comes too. A row that somebody else holds is left to a later pass.
//
//   Whoever wants to change a row that is being moved waits for the few milliseconds, and is then told so by
//   serialization_failure (40001): the row is deleted as one that moves to another partition is. Else the
//   change would be lost without a word, because under READ COMMITTED a row that is gone is just not there.
//
// SWAP (move_mirror.cpp, move_copy.cpp, move_swap.cpp). The source stays complete. Triggers on it mirror each
// change into the target, the rows that were there before are copied, and in the end the tables exchange
// their names. Let F be the columns of the target's unique key (MoveKey), which are unique in the source too.
//
//   INVARIANT. At each moment, for each value f of F: either the target has the same row for f as the source
//   (the same version, or none where the source has none), in everybody's view that is not older than the
//   row's version; or the target has none and f's row lies before the reach of the copy: its version is older
//   than the triggers, and the copy has yet to come by or to come back to it.
//
//   Triggers. They are made under SHARE ROW EXCLUSIVE, which waits for all who have written; so each change
//   that is not yet committed then fires them. A change of f ends with the target's f being made what the
//   source's f is at that moment, in the transaction of the change: they commit together, roll back together,
//   to a savepoint too, and are prepared together.
//   The copy takes a row in a version that its snapshot sees, and locks it FOR SHARE before anything else.
//   The snapshot is younger than the triggers. If the lock cannot be had, somebody is changing the row at
//   this moment: the copy comes back later. If the row has been changed or deleted since the snapshot, that
//   change has fired the triggers: nothing is left to do. Else the version is the newest one and stays so
//   until the copy commits, and nobody else can be about to write f into the target: a trigger that does so
//   has changed the row of f in the source, which we hold, or has inserted one, which the source's unique key
//   forbids while ours is there. So the copy may look whether f is there, as a change since the triggers
//   or an earlier run has left it, and insert it if not; nobody waits here but the writer who wants the row.
//   A writer who comes after the lock waits, then finds the committed copy, and changes it.
//   Rows that are inserted after the triggers need no copy, wherever they come to lie. So one pass over the
//   blocks that were there is enough, and what had to be left is revisited.
//   TRUNCATE takes ACCESS EXCLUSIVE on the source, so no copy is under way, and empties the target.
//
//   Order of events. A trigger of the user's on the source that changes other rows runs in the middle of a
//   statement, and its changes are mirrored before older ones. So the mirror never trusts the row it is
//   called for to be the newest: it looks (move_mirror.cpp).
//
//   When the copy is complete, target and source are equal in any one snapshot. That is what is verified:
//   count and sum of hashes of all rows of both, under one snapshot, without a lock.
//
// LOCK ORDER  source, target, its partitions; within a table rows as they lie. Who waits for a lock here
// while others may wait for rows of ours does so for less than deadlock_timeout, then undoes it all and tries
// again. So if two wait for each other, it is not the writer who gives way.
#pragma once

#include "partition/maintenance.hpp"
#include "partition/move_book.hpp"

namespace tasker::partition {

struct MoveOptions
{
    Oid source;
    Oid target;
    Oid set; // the one of the two that is a partition set
    bool swap;
    std::optional<Interval> batch; // read by ranges of the control column
    int batch_rows;
    int64_t wait_us;
    std::optional<int> max_batches;
};

// What a run has done and what is left.
struct MoveOutcome
{
    int64_t rows;
    bool complete;
    int64_t locked;   // rows that others held to the end
    int64_t unplaced; // rows that no partition can hold
};

// How long a transaction lasts. Who meets one of its rows waits for no longer.
inline constexpr int64_t kPortionUs = 30'000;

MoveOutcome run_plain_move(Steps &steps, const MoveOptions &options);
// The same out of the set's own DEFAULT partition: each partition is made and filled in one transaction.
MoveOutcome run_default_move(Steps &steps, const MoveOptions &options);
MoveOutcome run_swap_move(Steps &steps, const MoveOptions &options);

// The target's identity columns go on where the source's are. In the current transaction.
void advance_identity(Oid source, Oid target);

// Sleeps between transactions; throws when the session is asked to stop.
void pause_move(int64_t us);

// Counts rows and pauses between batches.
class BatchCount
{
  public:
    explicit BatchCount(const MoveOptions &options) noexcept : options_(options) {}

    // Rows that the transaction at hand may move.
    int64_t room() const noexcept { return options_.batch_rows - in_batch_; }
    // Adds a transaction's rows, and ends the batch where a range of the control column ends; false when the
    // last batch is complete.
    bool add(int64_t rows, bool complete = false);

  private:
    const MoveOptions &options_;
    int64_t in_batch_ = 0;
    int batches_ = 0;
};

// The tables that hold the rows of the source, in the order in which they are read.
struct SourceTable
{
    Oid relid;
    int64_t blocks;
};

} // namespace tasker::partition
