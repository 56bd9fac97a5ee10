// Retirement: partitions that may go are detached and dropped, moved or kept, and nobody waits for it.
//
//   ask      the set's rules and its owner may refuse; the refusal is shown in tasker.partition_status
//   look     what would make a later step fail is found before anything is begun (retire_checks.hpp)
//   book     a row in tasker.part_retirement, committed: from here on the partition leaves
//   detach   DETACH CONCURRENTLY, at top level; cut off in the middle it is pending, and is finalized
//   ask again, with the table locked against everybody: a transaction that was open all along may have
//            written to it, or somebody has put the set under legal hold
//   finish   drop it, move it to another schema, or leave it as a table, and strike the row; or attach it
//            again
//
// Each step can be the last one before a kill. The next round reads from the catalogs how far it came: still
// attached (begin anew), pending (finalize), a plain table (ask again and finish), gone (strike the row).
//
// Where DETACH CONCURRENTLY is not to be had, in a session or in a set with a DEFAULT partition, detach and
// finish are one transaction, which locks the parent for a moment.
//
// A round holds the set's lane and the partition's retirement lock from the first question to the end, so
// that whoever brings a finished record back to life (try_hold_partition) either comes first and is seen by
// the question, or is told that the partition is leaving.
//
// A set that was restored from a dump is left alone for an hour, and an owner's partition without its keys
// for as long as it has none: the restore makes the tables first, fills them later and makes the keys last,
// and until then an empty partition looks as if nobody needed it.
#pragma once

#include "partition/maintenance.hpp"
#include "partition/retirement.hpp"

namespace tasker::partition {

// The duty, as failures name it.
inline constexpr const char *kRetire = "retire";

// Takes a due partition of a set whose lane is held as far as it goes now. False when there is no use in
// trying others of the set in this round.
bool retire_one(Steps &steps, const SetConfig &config, const OwnedSet *owned, const DuePartition &due);

// Completes a detach that was cut off, in the current transaction.
void finalize_detach(const SetConfig &config, Oid partition);

} // namespace tasker::partition
