// What a transaction has done to lanes, applied when its outcome is known.
//
// Counts, floors and wake-ups follow the outcome of the transaction that causes them, never its progress: a
// claim scan that ran between a lowering and its commit would see nothing and raise the floor over the
// record. So every change of a record notes its effect here, by lane and subtransaction, and the transaction
// callbacks apply it:
//
//    COMMIT              counts change; floors are lowered to what was inserted, given back or rescheduled;
//    waiters
//                        are woken. The callback runs when new snapshots already see the commit, and before
//                        the client hears of it.
//    ABORT, ROLLBACK TO  floors are lowered to what had been taken; all else is forgotten.
//    PREPARE             all is forgotten and the database marked: the outcome is decided in another backend,
//    which
//                        runs no callback of ours for it. The sweep rebuilds the counts and floors once
//                        prepared transactions have ended.
//    crash               shared memory is gone, and rebuilt from the table.
//
// Nothing in the callbacks allocates or raises an error.
#pragma once

#include "queue/shared_state.hpp"

namespace tasker::queue {

struct Effect
{
    Lane *lane;      // null: the effect is on the flow alone, or nobody keeps lanes
    FlowState *flow; // null: nobody keeps lanes
    SubTransactionId subtransaction;
    int64_t delta[core::kStatusCount];
    int64_t lower_on_commit;
    int64_t lower_on_abort;
    int64_t lower_done_on_commit; // the done floor alone
    int64_t own_floor; // lower_on_commit, as far as this transaction's own claims have not scanned it
    int64_t latest_position;
    int64_t latest_held;
    TimestampTz earliest_expiry;
    TimestampTz earliest_claim;
    int64_t reserved; // of flow->reserved, given back at any end
    bool wake_all;    // of the flow's waiters, at commit
    bool invalidate;  // at commit the database's state is built anew

    void count(core::RecordStatus status, int64_t change) { delta[core::status_index(status)] += change; }

    // Records became pending at positions from `lowest` to `highest`: by insert, retry, release or reset.
    void became_pending(int64_t lowest, int64_t highest, int64_t records)
    {
        count(core::RecordStatus::pending, records);
        lower_on_commit = std::min(lower_on_commit, lowest);
        own_floor = std::min(own_floor, lowest);
        latest_position = std::max(latest_position, highest);
    }
    void became_pending(int64_t position) { became_pending(position, position, 1); }
    // A record in processing stands at `position` that was not live before.
    void lower_done(int64_t position)
    {
        lower_done_on_commit = std::min(lower_done_on_commit, position);
        latest_held = std::max(latest_held, position);
    }
    // A pending record was taken, to be claimed or cancelled.
    void took_pending(int64_t position)
    {
        count(core::RecordStatus::pending, -1);
        lower_on_abort = std::min(lower_on_abort, position);
        latest_held = std::max(latest_held, position);
    }
    void became_processing(TimestampTz claimed_at, TimestampTz expires_at)
    {
        count(core::RecordStatus::processing, 1);
        earliest_claim = std::min(earliest_claim, claimed_at);
        earliest_expiry = std::min(earliest_expiry, expires_at);
    }
};

// The effect of the current subtransaction on a lane. Where lanes are not kept, one that nobody applies. May
// allocate: call it before the change itself. The reference is valid until the next call.
Effect &effect_on_lane(Oid parent, int32_t flow_id, int priority, Oid partition);
Effect &effect_on_lane(Lane *lane);
// Likewise for the flow alone.
Effect &effect_on_flow(Oid parent, int32_t flow_id);

// The lowest position that this transaction itself has made pending in the lane and not scanned since, or
// kNothing: its own claims must look there although the lane's floor comes down only at commit.
int64_t own_pending_floor(const Lane *lane);
// A claim of this transaction has scanned the lane up to `reached`.
void raise_own_floor(const Lane *lane, int64_t reached);

// Adds this transaction's own, still uncommitted changes of the lane to `counts`.
void add_own_changes(const Lane *lane, int64_t (&counts)[core::kStatusCount]);

// The whole table is being truncated: at commit the database's state becomes unbuilt.
void note_truncation(Oid parent);

// Has this transaction any effect pending?
bool have_own_effects();

// Makes sure that the transaction callbacks are registered in this backend.
void register_effect_callbacks();

// The rebuild that this backend has begun (rebuild.cpp); the abort callback takes it back.
extern DatabaseState *own_rebuild;

} // namespace tasker::queue
