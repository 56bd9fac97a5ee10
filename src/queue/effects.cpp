#include "queue/effects.hpp"

#include "pg/error.hpp"

namespace tasker::queue {

DatabaseState *own_rebuild = nullptr;

namespace {

constexpr int kKeptCapacity = 256;

Effect *effects = nullptr; // in TopMemoryContext
int effect_count = 0;
int effect_capacity = 0;
bool callbacks_registered = false;
Effect nobody; // where lanes are not kept

void clear(Effect &effect, Lane *lane, FlowState *flow)
{
    effect = Effect{};
    effect.lane = lane;
    effect.flow = flow;
    effect.subtransaction = GetCurrentSubTransactionId();
    effect.lower_on_commit = core::kNothing;
    effect.lower_on_abort = core::kNothing;
    effect.lower_done_on_commit = core::kNothing;
    effect.own_floor = core::kNothing;
    effect.earliest_expiry = PG_INT64_MAX;
    effect.earliest_claim = PG_INT64_MAX;
}

// Does the snapshot of the running rebuild see this transaction? `database->apply` is held.
bool rebuild_sees(const DatabaseState *database, TransactionId xid)
{
    if (!TransactionIdIsValid(xid) || TransactionIdPrecedes(xid, database->snapshot_xmin))
        return true;
    if (TransactionIdFollowsOrEquals(xid, database->snapshot_xmax))
        return false;
    return !std::binary_search(database->snapshot_xip, database->snapshot_xip + database->snapshot_count,
                               xid);
}

void wake_for(const Effect &effect, int64_t lowered_to, int64_t due)
{
    FlowState *flow = effect.flow;
    int64_t wakes = 0;

    if (effect.wake_all) {
        wakes = PG_INT64_MAX;
        flow->settings_changes++;
    } else if (lowered_to !=
               core::kNothing) // one is woken for a later record too: it has to set its alarm anew
        wakes = lowered_to <= due
                    ? std::max<int64_t>(1, effect.delta[core::status_index(core::RecordStatus::pending)])
                    : 1;
    if (flow->limited)
        wakes = std::max(wakes, -effect.delta[core::status_index(core::RecordStatus::processing)]);
    if (wakes > 0)
        wake_waiters(flow, wakes);
}

void apply_commit(const Effect &effect, bool track, int64_t due)
{
    FlowState *flow = effect.flow;
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    if (Lane *lane = effect.lane; lane != nullptr) {
        for (int i = 0; i < core::kStatusCount; i++) {
            lane->counts[i] += effect.delta[i];
            flow->counts[i] += effect.delta[i];
            if (track)
                lane->since[i] += effect.delta[i];
        }
        if (effect.lower_on_commit != core::kNothing) {
            lane->claim.lower(effect.lower_on_commit);
            claim_floor_changed(lane);
            lane->done.lower(effect.lower_on_commit);
            lane->latest_position = std::max(lane->latest_position, effect.latest_position);
        }
        lane->done.lower(effect.lower_done_on_commit);
        lane->earliest_expiry = std::min(lane->earliest_expiry, effect.earliest_expiry);
        lane->earliest_claim = std::min(lane->earliest_claim, effect.earliest_claim);
        lane->expiry_since = std::min(lane->expiry_since, effect.earliest_expiry);
        lane->claim_since = std::min(lane->claim_since, effect.earliest_claim);
        lane->latest_held = std::max(lane->latest_held, effect.latest_held);
        lane->held_since = std::max(lane->held_since, effect.latest_held);
    }
    wake_for(effect, effect.lower_on_commit, due);
    LWLockRelease(&flow->lock);
}

// Gives back what the effect has reserved of max_in_flight. At commit this comes after all counts: at no
// moment does a record count neither as reserved nor as in processing. What the transaction has not left in
// processing is room for others.
void give_back_reserved(const Effect &effect, bool committed)
{
    FlowState *flow = effect.flow;
    if (effect.reserved == 0)
        return;
    int64_t room = committed ? 0 : effect.reserved;
    for (int i = 0; committed && i < effect_count; i++) {
        if (effects[i].flow == flow)
            room +=
                effects[i].reserved - effects[i].delta[core::status_index(core::RecordStatus::processing)];
    }
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    flow->reserved -= effect.reserved;
    wake_for_room(flow, room);
    LWLockRelease(&flow->lock);
}

void apply_abort(const Effect &effect, int64_t due)
{
    FlowState *flow = effect.flow;
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    if (effect.lane != nullptr && effect.lower_on_abort != core::kNothing) {
        effect.lane->claim.lower(effect.lower_on_abort);
        claim_floor_changed(effect.lane);
        wake_for(effect, effect.lower_on_abort, due);
    }
    LWLockRelease(&flow->lock);
}

int64_t due_now()
{
    return core::record_id_ceiling(pg::unix_us_of_timestamp(GetCurrentTimestamp()));
}

DatabaseState *database_of(const Effect &effect)
{
    SharedState *state = shared_state();
    for (int i = 0; i < state->database_count; i++) {
        if (state->databases[i].database == effect.flow->key.database)
            return &state->databases[i];
    }
    return nullptr;
}

void forget_all()
{
    effect_count = 0;
    if (effect_capacity > kKeptCapacity) {
        pfree(effects);
        effects = nullptr;
        effect_capacity = 0;
    }
}

// Has the state built anew by whoever needs it next; lanes keep what they have until then.
void invalidate_state(DatabaseState *database)
{
    LWLockAcquire(&shared_state()->directory, LW_EXCLUSIVE);
    if (database->build == BuildState::built)
        database->build = BuildState::unbuilt;
    database->invalidated = true; // a rebuild under way may count what is gone
    LWLockRelease(&shared_state()->directory);
}

void commit_all()
{
    DatabaseState *database = database_of(effects[0]);
    const TransactionId xid = GetTopTransactionIdIfAny();
    const int64_t due = due_now();

    LWLockAcquire(&database->apply, LW_SHARED);
    const bool track = database->rebuilding && !rebuild_sees(database, xid);
    for (int i = 0; i < effect_count; i++)
        apply_commit(effects[i], track, due);
    for (int i = 0; i < effect_count; i++)
        give_back_reserved(effects[i], true);
    LWLockRelease(&database->apply);
    for (int i = 0; i < effect_count; i++) {
        if (effects[i].invalidate)
            invalidate_state(database);
    }
    forget_all();
}

void abort_all()
{
    const int64_t due = due_now();
    for (int i = 0; i < effect_count; i++)
        apply_abort(effects[i], due);
    for (int i = 0; i < effect_count; i++)
        give_back_reserved(effects[i], false);
    forget_all();
}

// The outcome is decided elsewhere: only what other backends wait for is given back.
void prepare_all()
{
    DatabaseState *database = database_of(effects[0]);
    for (int i = 0; i < effect_count; i++) {
        LWLockAcquire(&effects[i].flow->lock, LW_EXCLUSIVE);
        effects[i].flow->reserved -= effects[i].reserved;
        LWLockRelease(&effects[i].flow->lock);
    }
    database->prepared_seen = true;
    forget_all();
}

void abandon_rebuild()
{
    DatabaseState *database = std::exchange(own_rebuild, nullptr);
    LWLockAcquire(&shared_state()->directory, LW_EXCLUSIVE);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    database->rebuilding = false;
    database->claimed_by_rebuild = false;
    if (database->build == BuildState::building)
        database->build = BuildState::unbuilt;
    LWLockRelease(&database->apply);
    LWLockRelease(&shared_state()->directory);
    ConditionVariableBroadcast(&database->built);
}

void on_transaction_end(XactEvent event, void *)
{
    switch (event) {
    case XACT_EVENT_COMMIT:
        if (effect_count > 0)
            commit_all();
        break;
    case XACT_EVENT_ABORT:
        if (own_rebuild != nullptr)
            abandon_rebuild();
        if (effect_count > 0)
            abort_all();
        break;
    case XACT_EVENT_PREPARE:
        if (effect_count > 0)
            prepare_all();
        break;
    default:
        break;
    }
}

void on_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *)
{
    if (event == SUBXACT_EVENT_ABORT_SUB && own_rebuild != nullptr)
        abandon_rebuild();
    if (effect_count == 0 || (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
        return;
    const int64_t due = event == SUBXACT_EVENT_ABORT_SUB ? due_now() : 0;
    int kept = 0;
    for (int i = 0; i < effect_count; i++) {
        if (effects[i].subtransaction == mine) {
            if (event == SUBXACT_EVENT_ABORT_SUB) {
                apply_abort(effects[i], due);
                give_back_reserved(effects[i], false);
                continue;
            }
            effects[i].subtransaction = parent;
        }
        if (event == SUBXACT_EVENT_ABORT_SUB) // what the subtransaction's claims had scanned is pending again
            effects[i].own_floor = effects[i].lower_on_commit;
        effects[kept++] = effects[i];
    }
    effect_count = kept;
}

void make_room()
{
    if (!callbacks_registered) {
        RegisterXactCallback(on_transaction_end, nullptr);
        RegisterSubXactCallback(on_subtransaction_end, nullptr);
        callbacks_registered = true;
    }
    if (effect_count < effect_capacity)
        return;
    int capacity = std::max(16, effect_capacity * 2);
    Size bytes = sizeof(Effect) * static_cast<Size>(capacity);
    effects = static_cast<Effect *>(effects == nullptr ? MemoryContextAlloc(TopMemoryContext, bytes)
                                                       : repalloc_huge(effects, bytes));
    effect_capacity = capacity;
}

Effect &find_or_add(Lane *lane, FlowState *flow)
{
    const SubTransactionId now = GetCurrentSubTransactionId();
    for (int i = effect_count; i-- > 0;) {
        Effect &effect = effects[i];
        if (effect.lane == lane && effect.flow == flow && effect.subtransaction == now)
            return effect;
    }
    make_room();
    clear(effects[effect_count], lane, flow);
    return effects[effect_count++];
}

Effect &nobody_effect()
{
    clear(nobody, nullptr, nullptr);
    return nobody;
}

} // namespace

void register_effect_callbacks()
{
    make_room();
}

Effect &effect_on_lane(Oid parent, int32_t flow_id, int priority, Oid partition)
{
    Lane *lane = acquire_lane(parent, flow_id, priority, partition);
    return lane == nullptr ? nobody_effect() : find_or_add(lane, lane->flow);
}

Effect &effect_on_lane(Lane *lane)
{
    return lane == nullptr ? nobody_effect() : find_or_add(lane, lane->flow);
}

Effect &effect_on_flow(Oid parent, int32_t flow_id)
{
    FlowState *flow = flow_state(parent, flow_id);
    return flow == nullptr ? nobody_effect() : find_or_add(nullptr, flow);
}

int64_t own_pending_floor(const Lane *lane)
{
    int64_t floor = core::kNothing;
    for (int i = 0; i < effect_count; i++) {
        if (effects[i].lane == lane)
            floor = std::min(floor, effects[i].own_floor);
    }
    return floor;
}

void raise_own_floor(const Lane *lane, int64_t reached)
{
    for (int i = 0; i < effect_count; i++) {
        if (effects[i].lane == lane && effects[i].own_floor < reached)
            effects[i].own_floor = reached;
    }
}

void add_own_changes(const Lane *lane, int64_t (&counts)[core::kStatusCount])
{
    for (int i = 0; i < effect_count; i++) {
        if (effects[i].lane != lane)
            continue;
        for (int s = 0; s < core::kStatusCount; s++)
            counts[s] += effects[i].delta[s];
    }
}

void note_truncation(Oid parent)
{
    effect_on_flow(parent, 0).invalidate = true;
}

bool have_own_effects()
{
    return effect_count > 0;
}

} // namespace tasker::queue
