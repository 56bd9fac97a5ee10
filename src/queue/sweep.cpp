// Looking over the live window: ended leases, and floors that nobody could lower.
//
// The live window of a lane holds what is claimed and not yet finished. Below the done floor everything is
// finished. Above the claim floor, and above the bound of what is in processing where a record given back has
// lowered the floor below others, nothing has been claimed.
//
// ORPHANS. A record whose lease has ended, or whose claim is older than asked, has lost an attempt: it goes
// back to pending, or to the dead letters. The lane's lower bounds of lease ends and claim times tell without
// a scan that nothing is due, which is the usual answer; a scan renews them.
//
// SWEEP. A pending record below the claim floor is one whose lowering nobody could make: its transaction was
// prepared and committed by another backend, or its row was locked by hand when a claim passed it. The sweep
// lowers the floor to it. After prepared transactions have ended it counts everything anew (rebuild.cpp).
//
// It also forgets the lanes of partitions that were dropped or detached by hand.
//
// Both raise the done floor as they go (the same rules as claims, core/floor.hpp, one sweep at a time).
#include "queue/duties.hpp"

#include "partition/directory.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/failure.hpp"
#include "queue/enqueue.hpp"
#include "queue/flow.hpp"
#include "queue/lost_lease.hpp"
#include "queue/rebuild.hpp"

namespace tasker::queue {

LostLeaseHook lost_lease_hook = nullptr;

namespace {

using core::RecordStatus;

// A lane to look at, copied out of shared memory.
struct LaneRef
{
    Lane *lane;
    LaneKey key;
};

// What a look at the window searches for.
struct Search
{
    Oid parent;
    TimestampTz now;
    TimestampTz claimed_before; // claims older than this are orphans
    bool orphans;               // give back ended leases
    bool renew;                 // floors and bounds; not on sight of own changes, which may be undone
    int64_t claim_floor;        // of the lane: a pending record from here on is found by claims
    int64_t recovered;
    int64_t lowered;
};

// What a look at the window has seen in processing and left there.
struct Seen
{
    TimestampTz earliest_expiry = PG_INT64_MAX;
    TimestampTz earliest_claim = PG_INT64_MAX;
    int64_t latest_held = 0;
    int64_t first_live = core::kNothing;
    int64_t first_pending = core::kNothing;
};

// Sweeps of one database run one after the other, because the done floors allow one scanner; held to the end
// of the transaction.
void lock_sweeps(Oid parent)
{
    LOCKTAG tag;
    SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, parent, 1);
    (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

bool is_orphan(const RecordHead &head, const Search &search)
{
    return head.status == RecordStatus::processing &&
           (head.lease_expires_at <= search.now || head.claimed_at < search.claimed_before);
}

const char *orphan_error(const RecordHead &head, TimestampTz now)
{
    return head.lease_expires_at <= now ? "lease ended without completion"
                                        : "claim is older than the timeout";
}

// What the plane above makes of a record of its own, as the queue would write it.
Outcome carry_out(const LostLeaseVerdict &verdict, const RecordHead &head, const FailurePolicy &policy,
                  Change &change)
{
    change.set(kChangedAt, TimestampTzGetDatum(policy.now));
    change.set(kErrorMessage, policy.error);
    if (verdict.fate == LostLease::drop) {
        change.set_status(RecordStatus::completed);
        return {RecordStatus::completed, 0, 0};
    }
    change.set(kRetryCount, Int32GetDatum(head.retry_count + 1));
    if (verdict.fate == LostLease::fail) {
        change.set_status(RecordStatus::failed);
        return {RecordStatus::failed, 0, 0};
    }
    const int64_t position = position_for(head.id, verdict.due);
    change.set_status(RecordStatus::pending);
    change.set(kPosition, Int64GetDatum(position));
    change.set_null(kLeaseToken);
    change.set_null(kLeaseExpiresAt);
    return {RecordStatus::pending, position, 0};
}

// Gives back an orphan that stands in read_slot, unless it is changing at this moment.
void give_back(Partition *partition, const RecordHead &head, Search &search)
{
    Change change{};
    FailurePolicy policy{search.now, CStringGetTextDatum(orphan_error(head, search.now)), std::nullopt};
    LostLeaseVerdict verdict;
    if (lost_lease_hook != nullptr) {
        // What the hook does belongs to the record's change, so that must not fail afterwards.
        if (!try_lock_row(partition, partition->read_slot->tts_tid, GetActiveSnapshot()))
            return;
        bool null = false;
        const Datum payload = slot_getattr(partition->read_slot, kPayload, &null);
        verdict = lost_lease_hook(head, payload, policy.error, search.now);
    }
    if (verdict.fate == LostLease::later)
        return;
    Outcome outcome = verdict.fate == LostLease::ours ? fail_attempt(head, policy, change)
                                                      : carry_out(verdict, head, policy, change);
    Effect &effect = effect_on_lane(search.parent, head.flow_id, head.priority, partition->relid);
    if (update_record(partition, change, GetCurrentCommandId(true), GetActiveSnapshot(), false) != TM_Ok) {
        if (lost_lease_hook != nullptr)
            elog(ERROR, "could not change locked record " INT64_FORMAT, head.id);
        return;
    }
    note_change(effect, head, outcome);
    search.recovered++;
}

// One row of the window.
void look_at(Partition *partition, Search &search, Seen &seen)
{
    const RecordHead head = head_of(partition->read_slot);
    if (core::is_terminal(head.status))
        return;
    seen.first_live = std::min(seen.first_live, head.position);
    if (head.status == RecordStatus::pending) {
        // Whoever holds the row at this moment lowers the floor himself, or the next sweep finds it again.
        if (head.position < search.claim_floor &&
            !is_held_by_others(partition, partition->read_slot->tts_tid))
            seen.first_pending = std::min(seen.first_pending, head.position);
        return;
    }
    // What is given back counts in the bounds all the same: this transaction may still abort.
    if (search.orphans && is_orphan(head, search))
        give_back(partition, head, search);
    seen.earliest_expiry = std::min(seen.earliest_expiry, head.lease_expires_at);
    seen.earliest_claim = std::min(seen.earliest_claim, head.claimed_at);
    seen.latest_held = std::max(seen.latest_held, head.position);
}

// The whole window of a lane, from `from` up to `to`.
Seen look_over(Partition *partition, const LaneKey &key, int64_t from, int64_t to, Search &search)
{
    Seen seen;
    LaneScan scan = begin_lane_scan(partition, GetActiveSnapshot(), key.flow_id,
                                    static_cast<int16_t>(key.priority), from);
    while (next_in_lane(scan)) {
        const int64_t position = head_of(partition->read_slot).position;
        if (position >= to && to != core::kNothing) {
            seen.first_live = std::min(seen.first_live, position);
            break;
        }
        look_at(partition, search, seen);
    }
    end_lane_scan(scan);
    return seen;
}

void look_over_lane(const LaneRef &ref, Search &search)
{
    Partition *partition = open_partition(ref.key.partition);
    if (partition == nullptr) {
        if (!holds_exclusively(ref.key.partition))
            remove_lanes_of_partition(ref.key.partition);
        return;
    }
    Lane *lane = ref.lane;
    FlowState *flow = lane->flow;
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    const int64_t from = lane->done.begin_scan();
    search.claim_floor = lane->claim.value;
    const int64_t to = std::max(search.claim_floor, core::saturating_add(lane->latest_held, 1));
    lane->expiry_since = PG_INT64_MAX;
    lane->claim_since = PG_INT64_MAX;
    lane->held_since = 0;
    LWLockRelease(&flow->lock);

    PushActiveSnapshot(GetLatestSnapshot());
    const Seen seen = look_over(partition, ref.key, from, to, search);
    PopActiveSnapshot();

    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    if (search.renew) {
        lane->done.end_scan(seen.first_live);
        lane->earliest_expiry = std::min(lane->expiry_since, seen.earliest_expiry);
        lane->earliest_claim = std::min(lane->claim_since, seen.earliest_claim);
        lane->latest_held = std::max(lane->held_since, seen.latest_held);
    } else {
        lane->done.abandon_scan();
    }
    if (seen.first_pending < lane->claim.value) {
        lane->claim.lower(seen.first_pending);
        claim_floor_changed(lane);
        wake_waiters(flow, 1);
        search.lowered++;
    }
    LWLockRelease(&flow->lock);
    close_partition(partition);
}

// The lanes of this database that `choose` wants, copied.
template <class Choose> std::span<LaneRef> lanes_where(Choose choose)
{
    SharedState *state = shared_state();
    LWLockAcquire(&state->directory, LW_SHARED);
    HASH_SEQ_STATUS scan;
    begin_lane_walk(&scan);
    size_t count = 0;
    size_t capacity = 64;
    auto *refs = static_cast<LaneRef *>(palloc(sizeof(LaneRef) * capacity));
    while (auto *lane = static_cast<Lane *>(hash_seq_search(&scan))) {
        if (lane->key.database != MyDatabaseId || !choose(*lane))
            continue;
        if (count == capacity)
            refs = static_cast<LaneRef *>(repalloc_huge(refs, sizeof(LaneRef) * (capacity *= 2)));
        refs[count++] = {lane, lane->key};
    }
    LWLockRelease(&state->directory);
    return {refs, count};
}

// Ended leases in shared memory's view; the fields are read without flow->lock, as hints: whoever writes them
// afterwards is the next round's.
bool may_have_orphans(const Lane &lane, const Search &search, int32_t flow_id)
{
    return (flow_id == 0 || lane.key.flow_id == flow_id) && lane.count(RecordStatus::processing) > 0 &&
           (lane.earliest_expiry <= search.now || lane.earliest_claim < search.claimed_before);
}

// Without shared memory: every partition, by reading it.
void recover_by_scanning(Search &search, int32_t flow_id)
{
    std::span<const partition::DirectoryEntry> entries = partition::directory(search.parent);
    auto *relids = static_cast<Oid *>(palloc(sizeof(Oid) * std::max<size_t>(entries.size(), 1)));
    const size_t count = entries.size();
    for (size_t i = 0; i < count; i++)
        relids[i] = entries[i].relid;
    for (size_t i = 0; i < count; i++) {
        Partition *partition = open_partition(relids[i]);
        if (partition == nullptr)
            continue;
        PushActiveSnapshot(GetLatestSnapshot());
        Seen seen;
        TableScanDesc scan = table_beginscan(partition->heap, GetActiveSnapshot(), 0, nullptr);
        while (table_scan_getnextslot(scan, ForwardScanDirection, partition->read_slot)) {
            CHECK_FOR_INTERRUPTS();
            if (flow_id == 0 || head_of(partition->read_slot).flow_id == flow_id)
                look_at(partition, search, seen);
        }
        table_endscan(scan);
        PopActiveSnapshot();
        close_partition(partition);
    }
    pfree(relids);
}

int64_t recover(Oid parent, int64_t timeout_us, int32_t flow_id)
{
    Search search{};
    search.parent = parent;
    search.now = GetCurrentTimestamp();
    search.claimed_before = timeout_us < search.now - MIN_TIMESTAMP ? search.now - timeout_us
                                                                    : static_cast<TimestampTz>(MIN_TIMESTAMP);
    search.orphans = true;
    search.renew = !have_own_effects();

    if (built_state(parent) == nullptr) {
        recover_by_scanning(search, flow_id);
    } else {
        std::span<LaneRef> due =
            lanes_where([&](const Lane &lane) { return may_have_orphans(lane, search, flow_id); });
        if (!due.empty())
            lock_sweeps(parent);
        for (const LaneRef &ref : due) {
            CHECK_FOR_INTERRUPTS();
            look_over_lane(ref, search);
        }
    }
    if (search.recovered > 0)
        CommandCounterIncrement();
    return search.recovered;
}

// Counts anew as long as there are prepared transactions that may end at any moment, and once after the last.
void rebuild_after_prepared(Oid parent, DatabaseState *database)
{
    if (!database->prepared_seen)
        return;
    // In this order: one that is prepared from here on sets it again itself.
    database->prepared_seen = false;
    if (prepared_transactions_left())
        database->prepared_seen = true;
    rebuild(parent);
}

std::span<Oid> partitions_by_oid(Oid parent)
{
    std::span<const partition::DirectoryEntry> entries = partition::directory(parent);
    auto *relids = static_cast<Oid *>(palloc(sizeof(Oid) * std::max<size_t>(entries.size(), 1)));
    for (size_t i = 0; i < entries.size(); i++)
        relids[i] = entries[i].relid;
    std::sort(relids, relids + entries.size());
    return {relids, entries.size()};
}

// Forgets the lanes of tables that are partitions no more; retirement does so itself. Only while nobody works
// with the table: one that we do not see may be new, and its maker's transaction not committed.
void forget_lost_partitions(Oid parent)
{
    const auto is_in = [](std::span<Oid> relids, Oid relid) {
        return std::binary_search(relids.begin(), relids.end(), relid);
    };
    std::span<Oid> known = partitions_by_oid(parent);
    std::span<LaneRef> strays =
        lanes_where([&](const Lane &lane) { return !is_in(known, lane.key.partition); });
    for (const LaneRef &ref : strays) {
        const Oid relid = ref.key.partition;
        // What this very transaction has dropped or detached is forgotten when that has committed.
        if (holds_exclusively(relid) || !ConditionalLockRelationOid(relid, ShareLock))
            continue;
        if (!is_in(partitions_by_oid(parent), relid))
            remove_lanes_of_partition(relid);
        UnlockRelationOid(relid, ShareLock);
    }
}

} // namespace

int64_t sweep()
{
    Oid parent = queue_parent();
    DatabaseState *database = built_state(parent);
    if (database == nullptr)
        return 0;
    rebuild_after_prepared(parent, database);
    forget_lost_partitions(parent);

    Search search{};
    search.parent = parent;
    search.now = GetCurrentTimestamp();
    search.renew = !have_own_effects();
    std::span<LaneRef> live = lanes_where([](const Lane &lane) {
        return lane.done.value < lane.claim.value &&
               lane.count(RecordStatus::pending) + lane.count(RecordStatus::processing) > 0;
    });
    lock_sweeps(parent);
    for (const LaneRef &ref : live) {
        CHECK_FOR_INTERRUPTS();
        look_over_lane(ref, search);
    }
    return search.lowered;
}

int64_t recover_leases()
{
    // No claim is too old by itself: only leases count.
    return recover(queue_parent(), PG_INT64_MAX, 0);
}

void prepare()
{
    (void)built_state(queue_parent());
}

TASKER_FUNCTION(sweep_queue)
{
    PreventCommandIfReadOnly("tasker.sweep_queue()");
    return args.result(sweep());
}

TASKER_FUNCTION(cleanup_orphaned_records)
{
    PreventCommandIfReadOnly("tasker.cleanup_orphaned_records()");
    const int64_t timeout = args.duration_us(0, "timeout");
    std::optional<std::string_view> name = args.optional_name(1, "flow_name");
    const int32_t flow_id = name ? flow_named(*name).flow_id : 0;
    const int64_t recovered = recover(queue_parent(), timeout, flow_id);
    return args.result(static_cast<int32_t>(std::min<int64_t>(recovered, PG_INT32_MAX)));
}

} // namespace tasker::queue
