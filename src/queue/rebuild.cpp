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
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "queue/effects.hpp"
#include "queue/seal.hpp"

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
    int64_t highest_held = 0;
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
            database->invalidated = false;
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
            claim_floor_changed(lane);
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

// The counts of one lane and status, from a partition or from its seal.
struct Count
{
    RecordStatus status;
    int64_t records;
    int64_t lowest_position;
    int64_t highest_position;
    TimestampTz earliest_expiry;
    TimestampTz earliest_claim;
};

// What has been found so far.
struct Findings
{
    Oid parent;
    Found *lanes;
    size_t count;
    size_t capacity;
};

Found *finding_of(Findings &findings, int32_t flow_id, int priority, Oid partition)
{
    Lane *lane = acquire_lane(findings.parent, flow_id, priority, partition);
    if (lane == nullptr)
        return nullptr; // no room: the database goes over to work without lanes
    if (findings.count > 0 && findings.lanes[findings.count - 1].lane == lane)
        return &findings.lanes[findings.count - 1];
    if (findings.count == findings.capacity)
        findings.lanes =
            static_cast<Found *>(repalloc_huge(findings.lanes, sizeof(Found) * (findings.capacity *= 2)));
    Found &fresh = findings.lanes[findings.count++];
    fresh = Found{lane, {}, core::kNothing, core::kNothing, 0, PG_INT64_MAX, PG_INT64_MAX};
    return &fresh;
}

void add_count(Found &found, const Count &count)
{
    const int index = core::status_index(count.status);
    if (index < 0)
        return; // the table's check constraint knows no other
    found.counts[index] += count.records;
    if (core::is_terminal(count.status))
        return;
    found.lowest_live = std::min(found.lowest_live, count.lowest_position);
    if (count.status == RecordStatus::pending) {
        found.lowest_pending = count.lowest_position;
        found.highest_pending = count.highest_position;
    } else {
        found.earliest_expiry = count.earliest_expiry;
        found.earliest_claim = count.earliest_claim;
        found.highest_held = count.highest_position;
    }
}

// Counts one partition; false when there is no room for its lanes.
bool count_partition(Findings &findings, Oid partition, Snapshot snapshot)
{
    const char *sql = psprintf("select flow_id, priority::int, status::text, count(*), "
                               "min(position), max(position), coalesce(min(lease_expires_at), 'infinity'), "
                               "coalesce(min(claimed_at), 'infinity') from %s group by 1, 2, 3 order by 1, 2",
                               quote_qualified_identifier(get_namespace_name(get_rel_namespace(partition)),
                                                          get_rel_name(partition)));
    pg::Spi spi;
    pg::Rows rows = spi.read_text_under(sql, snapshot);
    for (uint64 i = 0; i < rows.count(); i++) {
        Found *found =
            pg::pg_call([&] { return finding_of(findings, rows.i32(i, 1), rows.i32(i, 2), partition); });
        if (found == nullptr)
            return false;
        add_count(*found, {static_cast<RecordStatus>(rows.text(i, 3)[0]), rows.i64(i, 4), rows.i64(i, 5),
                           rows.i64(i, 6), DatumGetTimestampTz(rows.datum(i, 7)),
                           DatumGetTimestampTz(rows.datum(i, 8))});
    }
    return true;
}

// The counts of sealed partitions, which are not read; `sealed` gets their oids.
bool count_seals(Findings &findings, Snapshot snapshot, pg::Vector<Oid> &sealed)
{
    static pg::Statement seals("select partition, flow_id, priority, completed, failed, cancelled "
                               "from tasker.sealed_partition order by 1, 2, 3",
                               {});
    pg::Spi spi;
    pg::Rows rows = spi.read_under(seals, snapshot);
    for (uint64 i = 0; i < rows.count(); i++) {
        const Oid partition = rows.oid(i, 1);
        if (sealed.empty() || sealed.back() != partition)
            sealed.push_back(partition);
        if (rows.i32(i, 3) == kSealMark)
            continue;
        Found *found =
            pg::pg_call([&] { return finding_of(findings, rows.i32(i, 2), rows.i32(i, 3), partition); });
        if (found == nullptr)
            return false;
        add_count(*found, {RecordStatus::completed, rows.i64(i, 4), 0, 0, 0, 0});
        add_count(*found, {RecordStatus::failed, rows.i64(i, 5), 0, 0, 0, 0});
        add_count(*found, {RecordStatus::cancelled, rows.i64(i, 6), 0, 0, 0, 0});
    }
    return true;
}

// The partitions of the table, locked so that none is dropped meanwhile.
void lock_partitions(Oid parent, pg::Vector<Oid> &partitions)
{
    List *children = pg::pg_call([&] { return find_inheritance_children(parent, AccessShareLock); });
    ListCell *cell = nullptr;
    foreach (cell, children)
        partitions.push_back(lfirst_oid(cell));
}

// Everything that lanes keep, as the snapshot sees it: seals, and the partitions that have none.
std::span<Found> scan_lanes(Oid parent, Snapshot snapshot)
{
    Findings findings{parent, nullptr, 0, 256};
    findings.lanes = static_cast<Found *>(
        MemoryContextAllocHuge(TopTransactionContext, sizeof(Found) * findings.capacity));
    pg::ContextResource memory;
    pg::Vector<Oid> partitions{&memory};
    pg::Vector<Oid> sealed{&memory};

    lock_partitions(parent, partitions);
    if (!count_seals(findings, snapshot, sealed))
        return {};
    for (Oid partition : partitions) {
        if (std::binary_search(sealed.begin(), sealed.end(), partition))
            continue;
        if (!count_partition(findings, partition, snapshot))
            return {};
    }
    return {findings.lanes, findings.count};
}

void finish_lane(Lane *lane, const Found &found, bool first)
{
    for (int i = 0; i < core::kStatusCount; i++) {
        lane->counts[i] = found.counts[i] + lane->since[i];
    }
    // Lanes made since tracking began are not being scanned, and hide nothing either.
    if (first && lane->claim.scanning) {
        lane->claim.end_scan(found.lowest_pending);
        lane->done.end_scan(found.lowest_live);
    } else {
        lane->claim.lower(found.lowest_pending);
        lane->done.lower(found.lowest_live);
    }
    claim_floor_changed(lane);
    lane->latest_position = std::max(lane->latest_position, found.highest_pending);
    lane->latest_held = std::max(lane->latest_held, found.highest_held);
    lane->earliest_expiry = std::min(lane->earliest_expiry, found.earliest_expiry);
    lane->earliest_claim = std::min(lane->earliest_claim, found.earliest_claim);
}

// The totals of each flow, those without lanes too. `directory` and `apply` are held exclusively.
void add_up_flows()
{
    HASH_SEQ_STATUS scan;
    begin_flow_walk(&scan);
    while (auto *flow = static_cast<FlowState *>(hash_seq_search(&scan))) {
        if (flow->key.database != MyDatabaseId)
            continue;
        LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
        memset(flow->counts, 0, sizeof flow->counts);
        for (Lane *lane = flow->lanes; lane != nullptr; lane = lane->next) {
            for (int i = 0; i < core::kStatusCount; i++)
                flow->counts[i] += lane->counts[i];
        }
        LWLockRelease(&flow->lock);
    }
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
    add_up_flows();
    database->rebuilding = false;
    database->claimed_by_rebuild = false;
    database->build = database->invalidated ? BuildState::unbuilt : BuildState::built;
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
    // Those prepared before a restart have told nobody here. Asked before the snapshot is taken: what ends in
    // between is seen by it, or marked.
    if (first && prepared_transactions_left())
        database->prepared_seen = true;
    Snapshot snapshot = begin_tracking(database, first);
    std::span<Found> found = scan_lanes(parent, snapshot);
    UnregisterSnapshot(snapshot);
    finish(database, found, first);
}

} // namespace

bool prepared_transactions_left()
{
    static pg::Statement left("select exists (select from pg_catalog.pg_prepared_xacts "
                              "where database = pg_catalog.current_database())",
                              {});
    pg::Spi spi;
    return spi.run(left).boolean(0, 1);
}

DatabaseState *built_state(Oid parent)
{
    DatabaseState *database = database_state(parent);
    if (database == nullptr)
        return nullptr;
    while (database->build != BuildState::built) {
        if (take_right(database, false) == Right::build)
            run_rebuild(database, parent);
    }
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
