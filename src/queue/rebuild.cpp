// Floors and statistics from the table: after a restart or a crash, and whenever they may be wrong.
//
// The count is exact although everybody goes on working. For one instant, under `apply` held exclusively,
// nobody applies effects; in it the rebuild takes a snapshot and begins to track. A transaction that the
// snapshot sees is in the scan; one that it does not see is tracked in `since` when its effects are applied,
// whenever that is (effects.cpp asks the stored snapshot). In the end counts = scan + since.
//
// The snapshot is told not to see what this very transaction has done: that is tracked like everybody's.
//
// Until the first build has ended, claims and readers wait for it; later rebuilds disturb nobody, and only
// lower floors.
#include "queue/rebuild.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/effects.hpp"

namespace tasker::queue {
namespace {

using core::RecordStatus;

// What the scan found in one lane.
struct Found
{
    Lane *lane;
    int64_t counts[core::kStatusCount];
    int64_t lowest_pending;
    int64_t lowest_live;
    int64_t highest_pending;
    TimestampTz earliest_expiry;
    TimestampTz earliest_claim;
};

enum class Right
{
    build,
    nothing_to_do
};

// Waits for another backend's build, or takes the right to build. `again`: the state is built and shall be
// anew.
Right take_right(DatabaseState *database, bool again)
{
    SharedState *state = shared_state();
    ConditionVariablePrepareToSleep(&database->built);
    for (;;) {
        LWLockAcquire(&state->directory, LW_EXCLUSIVE);
        const bool busy = database->claimed_by_rebuild;
        const bool built = database->build == BuildState::built;
        if (!busy && (again || !built)) {
            own_rebuild = database;
            if (!built)
                database->build = BuildState::building;
            database->claimed_by_rebuild = true;
        }
        LWLockRelease(&state->directory);
        if (own_rebuild == database || (!busy && built)) {
            ConditionVariableCancelSleep();
            return own_rebuild == database ? Right::build : Right::nothing_to_do;
        }
        ConditionVariableSleep(&database->built, PG_WAIT_EXTENSION);
    }
}

template <class Visit> void for_each_lane(Visit visit)
{
    HASH_SEQ_STATUS scan;
    begin_lane_walk(&scan);
    while (auto *lane = static_cast<Lane *>(hash_seq_search(&scan))) {
        if (lane->key.database == MyDatabaseId)
            visit(lane);
    }
}

// Stores the snapshot where effects.cpp looks, this transaction among those it does not see.
void publish_snapshot(DatabaseState *database, Snapshot snapshot)
{
    const TransactionId own = GetTopTransactionIdIfAny();
    database->snapshot_xmin = snapshot->xmin;
    database->snapshot_xmax = snapshot->xmax;
    int count = 0;
    for (uint32 i = 0; i < snapshot->xcnt; i++)
        database->snapshot_xip[count++] = snapshot->xip[i];
    if (TransactionIdIsValid(own)) {
        database->snapshot_xip[count++] = own;
        if (TransactionIdPrecedes(own, database->snapshot_xmin))
            database->snapshot_xmin = own;
    }
    std::sort(database->snapshot_xip, database->snapshot_xip + count);
    database->snapshot_count = count;
}

// The instant: a snapshot, and tracking from exactly there on.
Snapshot begin_tracking(DatabaseState *database, bool first)
{
    LWLockAcquire(&shared_state()->directory, LW_SHARED);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    snapshot->curcid = FirstCommandId;
    publish_snapshot(database, snapshot);
    for_each_lane([&](Lane *lane) {
        LWLockAcquire(&lane->flow->lock, LW_EXCLUSIVE);
        memset(lane->since, 0, sizeof lane->since);
        if (first) {
            lane->claim.reset(0);
            lane->claim.begin_scan();
            lane->done.reset(0);
            lane->done.begin_scan();
        }
        LWLockRelease(&lane->flow->lock);
    });
    database->rebuilding = true;
    LWLockRelease(&database->apply);
    LWLockRelease(&shared_state()->directory);
    return snapshot;
}

// One pass over the table, with everything that lanes keep.
pg::Statement scan_table("select tableoid, flow_id, priority, status::text, count(*), "
                         "coalesce(min(position), 0), coalesce(max(position), 0), "
                         "coalesce(min(lease_expires_at), 'infinity'), coalesce(min(claimed_at), 'infinity') "
                         "from tasker.queue_record group by 1, 2, 3, 4 order by 1, 2, 3",
                         {});

std::span<Found> scan_lanes(Oid parent, Snapshot snapshot)
{
    pg::Spi spi;
    pg::Rows rows = spi.read_under(scan_table, snapshot);
    auto *found = static_cast<Found *>(
        MemoryContextAllocHuge(TopTransactionContext, sizeof(Found) * std::max<uint64>(rows.count(), 1)));
    size_t count = 0;
    for (uint64 i = 0; i < rows.count(); i++) {
        Lane *lane = acquire_lane(parent, rows.i32(i, 2), DatumGetInt16(rows.datum(i, 3)), rows.oid(i, 1));
        if (lane == nullptr)
            return {}; // no room: the database has gone over to work without lanes
        if (count == 0 || found[count - 1].lane != lane)
            found[count++] = Found{lane, {}, core::kNothing, core::kNothing, 0, PG_INT64_MAX, PG_INT64_MAX};
        Found &entry = found[count - 1];
        const auto status = static_cast<RecordStatus>(rows.text(i, 4)[0]);
        const int index = core::status_index(status);
        if (index < 0)
            continue; // the table's check constraint knows no other
        entry.counts[index] += rows.i64(i, 5);
        if (core::is_terminal(status))
            continue;
        entry.lowest_live = std::min(entry.lowest_live, rows.i64(i, 6));
        if (status == RecordStatus::pending) {
            entry.lowest_pending = rows.i64(i, 6);
            entry.highest_pending = rows.i64(i, 7);
        } else {
            entry.earliest_expiry = DatumGetTimestampTz(rows.datum(i, 8));
            entry.earliest_claim = DatumGetTimestampTz(rows.datum(i, 9));
        }
    }
    return {found, count};
}

void finish_lane(Lane *lane, const Found &found, bool first)
{
    for (int i = 0; i < core::kStatusCount; i++)
        lane->counts[i] = found.counts[i] + lane->since[i];
    // Lanes made since tracking began are not being scanned, and hide nothing either.
    if (first && lane->claim.scanning) {
        lane->claim.end_scan(found.lowest_pending);
        lane->done.end_scan(found.lowest_live);
    } else {
        lane->claim.lower(found.lowest_pending);
        lane->done.lower(found.lowest_live);
    }
    lane->latest_position = std::max(lane->latest_position, found.highest_pending);
    lane->earliest_expiry = std::min(lane->earliest_expiry, found.earliest_expiry);
    lane->earliest_claim = std::min(lane->earliest_claim, found.earliest_claim);
}

void finish(DatabaseState *database, std::span<Found> found, bool first)
{
    const Found nothing{nullptr, {}, core::kNothing, core::kNothing, 0, PG_INT64_MAX, PG_INT64_MAX};
    SharedState *state = shared_state();

    std::sort(found.begin(), found.end(), [](const Found &a, const Found &b) { return a.lane < b.lane; });
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    for_each_lane([&](Lane *lane) {
        auto at = std::lower_bound(found.begin(), found.end(), lane,
                                   [](const Found &entry, const Lane *l) { return entry.lane < l; });
        LWLockAcquire(&lane->flow->lock, LW_EXCLUSIVE);
        finish_lane(lane, at != found.end() && at->lane == lane ? *at : nothing, first);
        wake_waiters(lane->flow, PG_INT64_MAX);
        LWLockRelease(&lane->flow->lock);
    });
    database->rebuilding = false;
    database->claimed_by_rebuild = false;
    database->build = BuildState::built;
    LWLockRelease(&database->apply);
    LWLockRelease(&state->directory);
    own_rebuild = nullptr;
    ConditionVariableBroadcast(&database->built);
}

// Runs the rebuild whose right this backend has taken; the abort callback takes it back when this fails.
void run_rebuild(DatabaseState *database, Oid parent)
{
    register_effect_callbacks();
    const bool first = database->build != BuildState::built;
    Snapshot snapshot = begin_tracking(database, first);
    std::span<Found> found = scan_lanes(parent, snapshot);
    UnregisterSnapshot(snapshot);
    finish(database, found, first);
}

} // namespace

DatabaseState *built_state(Oid parent)
{
    DatabaseState *database = database_state(parent);
    if (database == nullptr)
        return nullptr;
    if (database->build != BuildState::built && take_right(database, false) == Right::build)
        run_rebuild(database, parent);
    return database->overflow ? nullptr : database;
}

void rebuild(Oid parent)
{
    DatabaseState *database = database_state(parent);
    if (database != nullptr && take_right(database, true) == Right::build)
        run_rebuild(database, parent);
}

TASKER_FUNCTION(rebuild_queue_state)
{
    PreventCommandIfReadOnly("tasker.rebuild_queue_state()");
    rebuild(queue_parent());
    return 0;
}

} // namespace tasker::queue
