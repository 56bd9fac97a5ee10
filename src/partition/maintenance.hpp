// The plane's duties: what keeps partition sets healthy, in rounds.
//
//   premake    the partition of now and `premake` ones after it exist in every open set
//   finalize   a DETACH that was cut off is completed
//   retire     partitions that may go are detached and dropped
//   analyze    parents whose rows have changed get fresh statistics, which autovacuum never gives them
//
// A round is called OUTSIDE of a transaction and makes its own, one per set or step, through the Steps that
// it is given. It returns with none open. Sets are isolated from each other: what one of them raises is
// undone, written to tasker.part_failure (or part_retirement), logged when it is news, and the round goes on.
// So a round throws only what concerns all of them: a cancel, a termination, or that the plane's own tables
// are missing.
//
// Only open sets are touched, those that have a row in tasker.part_config. A restore loads that row after it
// has made the tables, so no round meets half a restored set; see retire.cpp for what retirement adds to
// that.
//
// A round is killed anywhere without harm: the next one finds what it left in the catalogs and in
// tasker.part_retirement, and goes on from there. Two rounds at once do not collide either: finalize, retire
// and analyze hold the set's lane (locks.hpp), and who does not get it leaves the set to who has it; premake
// waits for nobody but others who make partitions of the same set.
//
// Waits. Every wait for a lock ends after tasker.lock_timeout, doubled with each failure of the same step up
// to kLongestWaitMs. DETACH CONCURRENTLY waits like that for transactions that may still read the partition,
// without a lock that anybody would notice; FINALIZE and ANALYZE hold SHARE UPDATE EXCLUSIVE on the parent
// meanwhile, which only delays those who make a partition on demand. So the retire, finalize and analyze
// rounds may be cancelled at any point when such a request comes in, and be continued afterwards.
//
// Where readers or writers would queue behind the wait, it is never longer than kLongestPoliteWaitMs, and the
// step is tried again later: a detach without CONCURRENTLY, whatever locks the other side of a foreign key,
// and the last step on a detached table.
#pragma once

#include "partition/create.hpp"

namespace tasker::partition {

// How the rounds run their steps; the worker and the SQL procedures each have theirs.
class Steps
{
  public:
    virtual ~Steps() = default;

    // Runs `body` in a transaction of its own as the owner of the extension, with an active snapshot, and
    // commits. What `body` throws leaves the round (it isolates its sets itself, in subtransactions). Memory
    // that `body` allocates in the current context may be gone after it.
    template <class Body> void transaction(Body &&body)
    {
        run([](void *object) { (*static_cast<std::remove_reference_t<Body> *>(object))(); },
            const_cast<void *>(static_cast<const void *>(std::addressof(body))));
    }

    // May the round call pg::run_top_level between its transactions? If not, a retirement detaches without
    // CONCURRENTLY, which locks the parent for a moment, and says so by a notice.
    virtual bool may_run_top_level() const = 0;

    // Is it time to leave? A round then returns after the step at hand; the rest is found by the next one.
    virtual bool should_stop() const = 0;

  protected:
    virtual void run(void (*call)(void *), void *object) = 0;
};

inline constexpr int kLongestWaitMs = 10'000;
inline constexpr int kLongestPoliteWaitMs = 50;

// Asks the worker to run a retire round soon; false when there is none. Set by the worker plane.
using RetireRequest = bool (*)();
extern RetireRequest retire_request_hook;

// Each for one set (any parent that is none is an error), or for all that are open.
void run_premake_round(Steps &steps, Oid parent = InvalidOid);
void run_finalize_round(Steps &steps, Oid parent = InvalidOid);
void run_retire_round(Steps &steps, Oid parent = InvalidOid);

// For one partitioned table or for all in the database, sets or not. With `force` whether rows changed or
// not.
void run_analyze_round(Steps &steps, Oid parent = InvalidOid, bool force = false);

// Rows changed in a partitioned table since it was last analyzed, as far as is known.
int64_t rows_changed_since_analyze(Oid parent);

} // namespace tasker::partition
