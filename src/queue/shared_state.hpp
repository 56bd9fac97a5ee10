// What the queue keeps in shared memory: lanes, flows and the state of each database.
//
// A LANE is what a claim scans: the records of one flow, one priority, one partition. It holds the claim
// floor and the done floor (core/floor.hpp), and exact counts of the committed records by status. None of it
// is the truth: the table is. It is lost with a crash and rebuilt by one scan (rebuild.cpp).
//
// INVARIANTS (for a database whose state is `built`)
//  1. For every committed pending record of the lane: position >= lane.claim.value, from the moment the
//     committing backend has run its transaction callback. A backend runs it before it answers its client.
//  2. For every committed record that is pending or processing: position >= lane.done.value, likewise.
//  3. counts[s] is the number of committed records of status s, at the same moment.
//  4. earliest_expiry and earliest_claim are lower bounds over the records in processing, latest_held is an
//     upper bound over their positions: what is given back lowers the claim floor below them. latest_position
//     is an upper bound over the positions of pending ones.
// Who may break them, and what keeps them: effects.hpp.
//
// LOCKS, in the order in which they are taken
//    lane.scan_lock      one claim at a time scans a lane; also one sweep at a time by its own `done` floor
//    state.directory     find (shared), add or remove (exclusive) lanes, flows and databases
//    database.apply      shared while a transaction's effects are applied, exclusive for the instant in which
//    a
//                        rebuild takes its snapshot
//    flow.lock           everything in a flow and in its lanes
// All are LWLocks; none is held while waiting for anything but the next one, and the scan lock also over a
// bounded piece of an index scan.
//
// A lane is removed only after its partition was dropped. Whoever has effects pending on it holds a lock on
// the partition until its effects are applied, so no effect ever meets a removed lane.
#pragma once

#include "core/floor.hpp"
#include "core/record_id.hpp"
#include "core/record_state.hpp"
#include "core/token_bucket.hpp"
#include "pg/shmem.hpp"

extern "C" {
#include "lib/ilist.h"
#include "storage/condition_variable.h"
}

namespace tasker::queue {

struct FlowState;

struct LaneKey
{
    Oid database;
    Oid partition;
    int32_t flow_id;
    int32_t priority;
};

struct Lane
{
    LaneKey key;     // first: the hash table finds it here
    Lane *next;      // in flow->lanes, by priority descending
    Lane *next_open; // in flow->open_lanes, likewise
    bool open;       // it is in there
    FlowState *flow;
    LWLock scan_lock;
    core::Floor claim;
    core::Floor done;
    int64_t counts[core::kStatusCount];
    int64_t since[core::kStatusCount]; // changes that the running rebuild's snapshot does not see
    TimestampTz earliest_expiry;
    TimestampTz earliest_claim;
    TimestampTz expiry_since; // what lowered the bounds since the running sweep began
    TimestampTz claim_since;
    int64_t latest_position;
    int64_t latest_held;
    int64_t held_since; // likewise what raised it

    int64_t count(core::RecordStatus s) const { return counts[core::status_index(s)]; }
};

struct FlowKey
{
    Oid database;
    int32_t flow_id;
};

struct FlowState
{
    FlowKey key; // first: the hash table finds it here
    LWLock lock;
    Lane *lanes;
    Lane *open_lanes;                   // those whose claim floor is not kNothing: what claims look at
    int64_t counts[core::kStatusCount]; // sums over the lanes
    core::TokenBucket bucket;
    bool limited;             // max_in_flight is set: completions wake waiters too
    int64_t reserved;         // records claimed by transactions that have not ended yet, for max_in_flight
    dlist_head waiters;       // sleeping in wait_for_records, first come first woken
    int64_t settings_changes; // commits that have changed the settings: caches hear of them a little later
};

// The flows that one backend can wait for at once.
inline constexpr int kWaitersEach = 64;

// A backend that sleeps in wait_for_records, for one flow; there are kWaitersEach for each backend.
struct Waiter
{
    dlist_node node; // first; in flow->waiters while `flow` is set
    FlowState *flow; // under flow->lock, except for the owner's own look
    Latch *latch;
};

enum class BuildState : int
{
    unbuilt,
    building,
    built
};

struct DatabaseState
{
    Oid database;
    Oid parent;      // the queue's table; another one after DROP and CREATE EXTENSION: all starts anew
    bool ids_raised; // the id clock has been raised above every id in the table
    bool claimed_by_rebuild; // some backend has the right to (re)build; under `directory`
    BuildState build;        // under `directory`
    bool invalidated;        // since the rebuild under way began; under `directory`
    bool overflow;      // a lane or flow found no room: everything works without shared memory from then on
    bool prepared_seen; // a prepared transaction has touched records: counts need a rebuild once it ends
    ConditionVariable built; // build has changed
    LWLock apply;
    bool rebuilding; // `since` is being kept; under `apply`
    TransactionId snapshot_xmin, snapshot_xmax;
    int snapshot_count;
    TransactionId *snapshot_xip; // sorted; transactions in progress for the rebuild's snapshot
};

struct SharedState
{
    core::RecordIdClock ids;
    LWLock directory;
    Waiter *waiters;
    int waiter_count;
    int database_count;
    DatabaseState *databases;
};

// Declares the area and its hooks; from _PG_init.
void declare_shared_state();

// Null without shared_preload_libraries.
SharedState *shared_state();

// The state of this database, made at its first use; null without shared memory, when there is no room, or
// after an overflow: callers then take the path without lanes. Raises the id clock once per server start.
DatabaseState *database_state(Oid parent);

// Where the ids of this database come from; null where the sequence gives them out. Stays the same after an
// overflow: two sources could give out one id in the same millisecond.
core::RecordIdClock *id_clock(Oid parent);

// The flow's state, made when needed; null where database_state is or when there is no room.
FlowState *flow_state(Oid parent, int32_t flow_id);

// The lane, made when needed; null as above.
Lane *acquire_lane(Oid parent, int32_t flow_id, int priority, Oid partition);

// Keeps flow->open_lanes; after every change of a claim floor, under flow->lock.
void claim_floor_changed(Lane *lane);

// Begins a walk over all lanes of all databases with hash_seq_search; `directory` is held until it ends.
void begin_lane_walk(HASH_SEQ_STATUS *scan);
// Likewise over all flows.
void begin_flow_walk(HASH_SEQ_STATUS *scan);

// Forgets the lanes of a dropped partition.
void remove_lanes_of_partition(Oid partition);

// This backend's slots for waiting.
std::span<Waiter> own_waiters();
// Wakes up to `count` waiters of the flow; flow->lock is held exclusively.
void wake_waiters(FlowState *flow, int64_t count);
// Likewise when the flow's limits have room for `count` records again, if there is any record for it.
void wake_for_room(FlowState *flow, int64_t count);

// The queue's partitioned table in this database; an error when the extension is not there.
Oid queue_parent();
// Likewise, but InvalidOid.
Oid queue_parent_or_invalid();

} // namespace tasker::queue
