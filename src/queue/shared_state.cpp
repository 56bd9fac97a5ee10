#include "queue/shared_state.hpp"

#include "pg/settings.hpp"
#include "pg/spi.hpp"

namespace tasker::queue {
namespace {

namespace settings = pg::settings;

int waiter_slots()
{
    return (MaxBackends + NUM_AUXILIARY_PROCS + max_prepared_xacts) * kWaitersEach;
}

int snapshot_slots()
{
    return MaxBackends + max_prepared_xacts + 16;
}

Size area_size()
{
    Size size = MAXALIGN(sizeof(SharedState));
    size = add_size(size, MAXALIGN(mul_size(sizeof(Waiter), waiter_slots())));
    size = add_size(size, MAXALIGN(mul_size(sizeof(DatabaseState), settings::max_databases)));
    size =
        add_size(size, mul_size(mul_size(sizeof(TransactionId), snapshot_slots()), settings::max_databases));
    return size;
}

Size hash_size()
{
    return add_size(hash_estimate_size(settings::max_lanes, sizeof(Lane)),
                    hash_estimate_size(settings::max_flows, sizeof(FlowState)));
}

void initialize_area(void *memory)
{
    auto *state = static_cast<SharedState *>(memory);
    char *next = static_cast<char *>(memory) + MAXALIGN(sizeof(SharedState));

    state->waiters = reinterpret_cast<Waiter *>(next);
    state->waiter_count = waiter_slots();
    next += MAXALIGN(sizeof(Waiter) * static_cast<Size>(state->waiter_count));
    state->databases = reinterpret_cast<DatabaseState *>(next);
    state->database_count = settings::max_databases;
    next += MAXALIGN(sizeof(DatabaseState) * static_cast<Size>(state->database_count));
    LWLockInitialize(&state->directory, pg::lwlock_tranche());
    for (int i = 0; i < state->database_count; i++) {
        DatabaseState &database = state->databases[i];
        database.snapshot_xip =
            reinterpret_cast<TransactionId *>(next) + static_cast<ptrdiff_t>(i) * snapshot_slots();
        ConditionVariableInit(&database.built);
        LWLockInitialize(&database.apply, pg::lwlock_tranche());
    }
}

// The tables are opened by every process; forked backends inherit them.
HTAB *lane_table = nullptr;
HTAB *flow_table = nullptr;

void attach_tables(void *)
{
    HASHCTL lanes{};
    lanes.keysize = sizeof(LaneKey);
    lanes.entrysize = sizeof(Lane);
    lane_table = ShmemInitHash("tasker lanes", settings::max_lanes, settings::max_lanes, &lanes,
                               HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
    HASHCTL flows{};
    flows.keysize = sizeof(FlowKey);
    flows.entrysize = sizeof(FlowState);
    flow_table = ShmemInitHash("tasker flows", settings::max_flows, settings::max_flows, &flows,
                               HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

pg::SharedArea area{"tasker queue", area_size, initialize_area, hash_size, attach_tables};

// Removes every lane and flow of a database; `directory` is held exclusively. Used when the database's
// extension is a new one, or the database is gone: no transaction can have effects pending on the old one's
// lanes, because dropping its tables waited for all of them. Waiters hold nothing: they are sent to look.
void forget_database(Oid database)
{
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, lane_table);
    while (auto *lane = static_cast<Lane *>(hash_seq_search(&scan))) {
        if (lane->key.database == database)
            hash_search(lane_table, &lane->key, HASH_REMOVE, nullptr);
    }
    hash_seq_init(&scan, flow_table);
    while (auto *flow = static_cast<FlowState *>(hash_seq_search(&scan))) {
        if (flow->key.database != database)
            continue;
        LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
        flow->lanes = nullptr;
        wake_waiters(flow, PG_INT64_MAX);
        LWLockRelease(&flow->lock);
        hash_search(flow_table, &flow->key, HASH_REMOVE, nullptr);
    }
}

void begin_database(DatabaseState &database, Oid oid, Oid parent)
{
    database.database = oid;
    database.parent = parent;
    database.ids_raised = false;
    database.build = BuildState::unbuilt;
    database.overflow = false;
    database.prepared_seen = false;
    database.rebuilding = false;
    database.claimed_by_rebuild = false;
    database.invalidated = false;
}

DatabaseState *find_database(SharedState *state, Oid oid)
{
    for (int i = 0; i < state->database_count; i++) {
        if (state->databases[i].database == oid)
            return &state->databases[i];
    }
    return nullptr;
}

// Ids must stay above every id in the table, also when the clock has stepped back across a restart.
void raise_ids(SharedState *state, DatabaseState *database)
{
    static pg::Statement highest("select max(id) from tasker.queue_record", {});
    pg::Spi spi;
    pg::Rows rows = spi.run(highest);
    if (!rows.empty() && !rows.is_null(0, 1))
        state->ids.raise(rows.i64(0, 1));
    database->ids_raised = true;
}

// Forgets databases that have been dropped; true when there was one. Asks the catalog.
bool reclaim_dropped_databases(SharedState *state)
{
    bool reclaimed = false;
    AcceptInvalidationMessages();
    for (int i = 0; i < state->database_count; i++) {
        const Oid oid = state->databases[i].database;
        if (!OidIsValid(oid) || SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(oid)))
            continue;
        LWLockAcquire(&state->directory, LW_EXCLUSIVE);
        if (state->databases[i].database == oid) {
            forget_database(oid);
            begin_database(state->databases[i], InvalidOid, InvalidOid);
            reclaimed = true;
        }
        LWLockRelease(&state->directory);
    }
    return reclaimed;
}

// Holds the table to the end of the transaction. Whoever still knows it by an old oid, from before DROP and
// CREATE EXTENSION, must not take the state away from those who use the new one.
void hold_parent(Oid parent)
{
    LockRelationOid(parent, AccessShareLock);
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(parent)))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
                errmsg("relation with OID %u does not exist", parent),
                errdetail("The extension has been dropped meanwhile."));
}

DatabaseState *place_database(SharedState *state, Oid parent)
{
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    DatabaseState *database = find_database(state, MyDatabaseId);
    if (database == nullptr)
        database = find_database(state, InvalidOid);
    if (database != nullptr && (database->database != MyDatabaseId || database->parent != parent)) {
        forget_database(MyDatabaseId);
        begin_database(*database, MyDatabaseId, parent);
    }
    LWLockRelease(&state->directory);
    return database;
}

DatabaseState *make_database(SharedState *state, Oid parent)
{
    hold_parent(parent);
    DatabaseState *database = place_database(state, parent);
    if (database == nullptr && reclaim_dropped_databases(state))
        database = place_database(state, parent);
    return database;
}

void overflow(DatabaseState *database, const char *what, const char *setting)
{
    if (database->overflow)
        return;
    database->overflow = true;
    ereport(LOG, errmsg("no room in shared memory for another %s of the queue", what),
            errdetail("The queue of this database goes on without shared memory, slower."),
            errhint("Raise %s and restart the server.", setting));
}

// Keeps flow->lanes sorted: priority descending, then partition as created.
void link_lane(FlowState *flow, Lane *lane)
{
    Lane **at = &flow->lanes;
    while (*at != nullptr && (*at)->key.priority >= lane->key.priority)
        at = &(*at)->next;
    lane->next = *at;
    *at = lane;
}

void leave_open_lanes(Lane *lane)
{
    for (Lane **at = &lane->flow->open_lanes; *at != nullptr; at = &(*at)->next_open) {
        if (*at == lane) {
            *at = lane->next_open;
            break;
        }
    }
    lane->open = false;
}

void enter_open_lanes(Lane *lane)
{
    Lane **at = &lane->flow->open_lanes;
    while (*at != nullptr && (*at)->key.priority >= lane->key.priority)
        at = &(*at)->next_open;
    lane->next_open = *at;
    *at = lane;
    lane->open = true;
}

void unlink_lane(Lane *lane)
{
    for (int i = 0; i < core::kStatusCount; i++)
        lane->flow->counts[i] -= lane->counts[i];
    if (lane->open)
        leave_open_lanes(lane);
    for (Lane **at = &lane->flow->lanes; *at != nullptr; at = &(*at)->next) {
        if (*at == lane) {
            *at = lane->next;
            return;
        }
    }
}

// A new flow. Its memory may have been a flow's before, to whose lock somebody comes late: the lock stays.
void begin_flow(FlowState *flow)
{
    if (flow->lock.tranche != pg::lwlock_tranche())
        LWLockInitialize(&flow->lock, pg::lwlock_tranche());
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    flow->lanes = nullptr;
    flow->open_lanes = nullptr;
    memset(flow->counts, 0, sizeof flow->counts);
    flow->bucket = core::TokenBucket{};
    flow->limited = false;
    flow->reserved = 0;
    dlist_init(&flow->waiters);
    LWLockRelease(&flow->lock);
}

// A new lane holds nothing: in a built database every record of its key would have made it, and the first
// build starts all floors anew.
void begin_lane(Lane *lane, FlowState *flow)
{
    LaneKey key = lane->key;
    memset(static_cast<void *>(lane), 0, sizeof(Lane));
    lane->key = key;
    lane->flow = flow;
    LWLockInitialize(&lane->scan_lock, pg::lwlock_tranche());
    lane->claim.reset(core::kNothing);
    lane->done.reset(core::kNothing);
    lane->earliest_expiry = PG_INT64_MAX;
    lane->earliest_claim = PG_INT64_MAX;
    lane->expiry_since = PG_INT64_MAX;
    lane->claim_since = PG_INT64_MAX;
}

} // namespace

void declare_shared_state()
{
    pg::declare_shared_area(area);
}

SharedState *shared_state()
{
    return static_cast<SharedState *>(area.memory);
}

namespace {

// The state of this database, also after an overflow.
DatabaseState *own_database(Oid parent)
{
    static DatabaseState *known = nullptr;
    SharedState *state = shared_state();

    // A standby replays what others commit; nothing here would follow it.
    if (state == nullptr || RecoveryInProgress())
        return nullptr;
    if (known == nullptr || known->database != MyDatabaseId || known->parent != parent)
        known = make_database(state, parent);
    if (known != nullptr && !known->ids_raised)
        raise_ids(state, known);
    return known;
}

} // namespace

DatabaseState *database_state(Oid parent)
{
    DatabaseState *database = own_database(parent);
    return database != nullptr && !database->overflow ? database : nullptr;
}

core::RecordIdClock *id_clock(Oid parent)
{
    return own_database(parent) != nullptr ? &shared_state()->ids : nullptr;
}

namespace {

// Null when there is no room.
FlowState *place_flow(SharedState *state, const FlowKey &key)
{
    bool found = false;
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    auto *flow = static_cast<FlowState *>(hash_search(flow_table, &key, HASH_ENTER_NULL, &found));
    if (flow != nullptr && !found)
        begin_flow(flow);
    LWLockRelease(&state->directory);
    return flow;
}

// Likewise.
Lane *place_lane(SharedState *state, const LaneKey &key, FlowState *flow)
{
    bool found = false;
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    auto *lane = static_cast<Lane *>(hash_search(lane_table, &key, HASH_ENTER_NULL, &found));
    if (lane != nullptr && !found) {
        begin_lane(lane, flow);
        LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
        link_lane(flow, lane);
        LWLockRelease(&flow->lock);
    }
    LWLockRelease(&state->directory);
    return lane;
}

} // namespace

FlowState *flow_state(Oid parent, int32_t flow_id)
{
    DatabaseState *database = database_state(parent);
    if (database == nullptr)
        return nullptr;

    SharedState *state = shared_state();
    FlowKey key{MyDatabaseId, flow_id};
    LWLockAcquire(&state->directory, LW_SHARED);
    auto *flow = static_cast<FlowState *>(hash_search(flow_table, &key, HASH_FIND, nullptr));
    LWLockRelease(&state->directory);
    if (flow != nullptr)
        return flow;

    flow = place_flow(state, key);
    if (flow == nullptr && reclaim_dropped_databases(state))
        flow = place_flow(state, key);
    if (flow == nullptr)
        overflow(database, "flow", "tasker.max_flows");
    return flow;
}

Lane *acquire_lane(Oid parent, int32_t flow_id, int priority, Oid partition)
{
    FlowState *flow = flow_state(parent, flow_id);
    if (flow == nullptr)
        return nullptr;

    SharedState *state = shared_state();
    DatabaseState *database = database_state(parent);
    LaneKey key{MyDatabaseId, partition, flow_id, priority};
    LWLockAcquire(&state->directory, LW_SHARED);
    auto *lane = static_cast<Lane *>(hash_search(lane_table, &key, HASH_FIND, nullptr));
    LWLockRelease(&state->directory);
    if (lane != nullptr)
        return lane;

    lane = place_lane(state, key, flow);
    if (lane == nullptr && reclaim_dropped_databases(state))
        lane = place_lane(state, key, flow);
    if (lane == nullptr)
        overflow(database, "lane", "tasker.max_lanes");
    return lane;
}

void claim_floor_changed(Lane *lane)
{
    const bool open = lane->claim.value != core::kNothing;
    if (open == lane->open)
        return;
    if (open)
        enter_open_lanes(lane);
    else
        leave_open_lanes(lane);
}

void begin_lane_walk(HASH_SEQ_STATUS *scan)
{
    hash_seq_init(scan, lane_table);
}

void begin_flow_walk(HASH_SEQ_STATUS *scan)
{
    hash_seq_init(scan, flow_table);
}

void remove_lanes_of_partition(Oid partition)
{
    SharedState *state = shared_state();
    if (state == nullptr)
        return;
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, lane_table);
    while (auto *lane = static_cast<Lane *>(hash_seq_search(&scan))) {
        if (lane->key.database != MyDatabaseId || lane->key.partition != partition)
            continue;
        LWLockAcquire(&lane->flow->lock, LW_EXCLUSIVE);
        unlink_lane(lane);
        LWLockRelease(&lane->flow->lock);
        hash_search(lane_table, &lane->key, HASH_REMOVE, nullptr);
    }
    LWLockRelease(&state->directory);
}

std::span<Waiter> own_waiters()
{
    return {&shared_state()->waiters[tasker_proc_number() * kWaitersEach], kWaitersEach};
}

void wake_waiters(FlowState *flow, int64_t count)
{
    while (count-- > 0 && !dlist_is_empty(&flow->waiters)) {
        Waiter *waiter = reinterpret_cast<Waiter *>(dlist_pop_head_node(&flow->waiters));
        waiter->flow = nullptr;
        SetLatch(waiter->latch);
    }
}

void wake_for_room(FlowState *flow, int64_t count)
{
    if (flow->open_lanes != nullptr)
        wake_waiters(flow, count);
}

Oid queue_parent_or_invalid()
{
    Oid schema = get_namespace_oid("tasker", true);
    return OidIsValid(schema) ? get_relname_relid("queue_record", schema) : InvalidOid;
}

Oid queue_parent()
{
    Oid parent = queue_parent_or_invalid();
    if (!OidIsValid(parent))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
                errmsg("relation \"tasker.queue_record\" does not exist"),
                errhint("Install the extension with CREATE EXTENSION tasker."));
    return parent;
}

} // namespace tasker::queue
