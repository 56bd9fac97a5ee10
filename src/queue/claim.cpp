// Claiming: hand out the first due records of a flow, each to one claimer.
//
// A claim looks at the flow's lanes in shared memory, takes the one whose turn it is (highest priority, then
// the lowest floor), and scans its index from the floor for pending rows. It holds the lane's scan lock for
// that piece of the scan only, and leaves the floor behind what it took before it lets the next claimer in:
// claimers scan one after the other and never see each other's rows. The rows are then updated side by side,
// outside of the lock. The row itself stays the truth: an update that finds the row locked or changed skips
// it, whatever the floors say.
//
// Positions are not unique: thousands of records can be due at the same moment. A scan that stops among them
// leaves the floor at their position, and the next one begins there again. So a claim keeps in mind which of
// them it has tried: it would meet them again, for ever, while their holder waits for this very transaction.
//
// Several lanes of one priority (records of different partitions: a retry keeps its old partition) are merged
// by position: a lane is scanned up to the floor of the next one only.
//
// Snapshots: the scan uses a snapshot taken after begin_scan() (rule 3 of core/floor.hpp), in every isolation
// level. A queue hands out what is there now; an older view would only find rows that are gone.
//
// Without shared memory every partition is scanned for every priority from its beginning; all else is the
// same.
#include "queue/claim.hpp"

#include "partition/directory.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/failure.hpp"
#include "queue/flow.hpp"
#include "queue/rebuild.hpp"
#include "queue/record_ids.hpp"

namespace tasker::queue {
namespace {

using core::RecordStatus;

constexpr int64_t kLargestBatch = 1'000'000;
// Rows that one piece of a scan looks at under the scan lock, where interrupts wait.
constexpr int kScanPiece = 2000;

// The rows of one position that a claim has tried, where its last scan has stopped.
struct Tried
{
    Oid partition;
    int16_t priority;
    int64_t position;
    ItemPointerData *rows; // sorted
    size_t count;
    size_t capacity;
};

struct Claim
{
    Oid parent;
    Flow flow;
    int64_t wanted; // still
    ClaimTerms terms;
    int64_t due; // the last position that is due
    ClaimSink *sink;
    Tried tried;
};

// A row that the scan found pending.
struct Candidate
{
    HeapTuple row;
    int64_t position;
};

struct Found
{
    Candidate *rows;
    int64_t count;
    int64_t reached; // for Floor::end_scan
    bool exhausted;  // nothing more up to the limit
};

// Which piece of which lane comes next.
struct Turn
{
    Lane *lane;
    Oid partition;
    int16_t priority;
    int64_t limit; // the last position of this turn
};

Datum default_instance_id()
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    const char *application =
        application_name != nullptr && *application_name != '\0' ? application_name : "?";
    return CStringGetTextDatum(psprintf("%s/%s/%d", host, application, MyProcPid));
}

bool is_at(const Tried &tried, const Turn &turn, int64_t position)
{
    return tried.position == position && tried.partition == turn.partition && tried.priority == turn.priority;
}

bool stands_before(const ItemPointerData &a, const ItemPointerData &b)
{
    return ItemPointerCompare(const_cast<ItemPointer>(&a), const_cast<ItemPointer>(&b)) < 0;
}

bool was_tried(const Tried &tried, const Turn &turn, int64_t position, const ItemPointerData &row)
{
    return is_at(tried, turn, position) &&
           std::binary_search(tried.rows, tried.rows + tried.count, row, stands_before);
}

// Notes the rows that were found where the scan has stopped.
void note_tried(Tried &tried, const Turn &turn, const Found &found)
{
    if (!is_at(tried, turn, found.reached)) {
        tried.partition = turn.partition;
        tried.priority = turn.priority;
        tried.position = found.reached;
        tried.count = 0;
    }
    for (int64_t i = found.count; i-- > 0 && found.rows[i].position == found.reached;) {
        if (tried.count == tried.capacity) {
            tried.capacity = std::max<size_t>(16, tried.capacity * 2);
            const Size bytes = sizeof(ItemPointerData) * tried.capacity;
            tried.rows = static_cast<ItemPointerData *>(
                tried.rows == nullptr ? palloc(bytes) : repalloc_huge(tried.rows, bytes));
        }
        tried.rows[tried.count++] = found.rows[i].row->t_self;
    }
    std::sort(tried.rows, tried.rows + tried.count, stands_before);
}

// Collects the pending rows from `from` on that are wanted, up to the turn's limit. Looks at no more than
// `piece` rows, and more only as long as they all stand at `from`.
Found scan_piece(Partition *partition, const Turn &turn, const Claim &claim, int64_t from, int piece)
{
    const int64_t room = std::min<int64_t>(claim.wanted, piece);
    Found found{static_cast<Candidate *>(
                    palloc_extended(sizeof(Candidate) * static_cast<Size>(room), MCXT_ALLOC_HUGE)),
                0, core::kNothing, true};
    LaneScan scan = begin_lane_scan(partition, GetActiveSnapshot(), claim.flow.flow_id, turn.priority, from);
    while (next_in_lane(scan)) {
        const RecordHead head = head_of(partition->read_slot);
        const bool wanted_row = head.status == RecordStatus::pending &&
                                !was_tried(claim.tried, turn, head.position, partition->read_slot->tts_tid);
        if (found.count == room || (piece-- <= 0 && head.position > from) ||
            (wanted_row && head.position > turn.limit)) {
            found.reached = head.position;
            found.exhausted = wanted_row && head.position > turn.limit;
            break;
        }
        if (wanted_row)
            found.rows[found.count++] = {ExecCopySlotHeapTuple(partition->read_slot), head.position};
    }
    end_lane_scan(scan);
    return found;
}

// The piece of a lane whose turn it is, under the lane's scan lock; moves the floor behind what was found.
Found scan_lane(const Claim &claim, Partition *partition, const Turn &turn)
{
    Lane *lane = turn.lane;
    FlowState *flow = lane->flow;
    // Before the floor moves there must be room to note that it has to come back in case of an abort.
    Effect &effect = effect_on_lane(lane);
    const int64_t own = own_pending_floor(lane);

    LWLockAcquire(&lane->scan_lock, LW_EXCLUSIVE);
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    const int64_t floor = lane->claim.begin_scan();
    LWLockRelease(&flow->lock);
    PushActiveSnapshot(GetLatestSnapshot());
    Found found = scan_piece(partition, turn, claim, std::min(floor, own), kScanPiece);
    if (found.count > 0)
        effect.lower_on_abort = std::min(effect.lower_on_abort, found.rows[0].position);
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    lane->claim.end_scan(found.reached);
    claim_floor_changed(lane);
    LWLockRelease(&flow->lock);
    LWLockRelease(&lane->scan_lock);
    raise_own_floor(lane, found.reached);
    return found;
}

// Marks a candidate as processing; false when somebody else has it.
bool take(Claim &claim, Partition *partition, const Candidate &candidate, Effect &effect)
{
    Change change{};
    change.set_status(RecordStatus::processing);
    change.set(kLeaseToken, Int64GetDatum(claim.terms.token));
    change.set(kClaimedAt, TimestampTzGetDatum(claim.terms.now));
    change.set(kLeaseExpiresAt, TimestampTzGetDatum(claim.terms.expires_at));
    change.set(kFlowInstanceId, claim.terms.instance);
    if (update_copied(partition, candidate.row, change, GetCurrentCommandId(true), GetActiveSnapshot(),
                      false) != TM_Ok)
        return false;
    effect.took_pending(candidate.position);
    effect.became_processing(claim.terms.now, claim.terms.expires_at);
    return true;
}

void hand_out(const Claim &claim, Partition *partition, const Candidate &candidate)
{
    TupleDesc descriptor = RelationGetDescr(partition->heap);
    bool null = false;
    ClaimedRecord record{};
    record.id = DatumGetInt64(heap_getattr(candidate.row, kId, descriptor, &null));
    record.payload = heap_getattr(candidate.row, kPayload, descriptor, &null);
    record.retry_count = DatumGetInt32(heap_getattr(candidate.row, kRetryCount, descriptor, &null));
    claim.sink->take(record, claim.terms);
}

// Takes what a scan found, under the scan's snapshot, which is popped.
void take_found(Claim &claim, Partition *partition, const Turn &turn, const Found &found, Effect &effect)
{
    note_tried(claim.tried, turn, found);
    for (int64_t i = 0; i < found.count; i++) {
        CHECK_FOR_INTERRUPTS();
        if (take(claim, partition, found.rows[i], effect)) {
            hand_out(claim, partition, found.rows[i]);
            claim.wanted--;
        }
        heap_freetuple(found.rows[i].row);
    }
    PopActiveSnapshot();
    pfree(found.rows);
}

// The lane whose turn it is: of those with something due the highest priority, and in it the lowest floor.
// The limit is the next lane's floor.
std::optional<Turn> next_turn(FlowState *flow, int64_t due)
{
    const bool own_effects = have_own_effects();
    std::optional<Turn> turn;
    int64_t lowest = core::kNothing;
    int64_t next = core::kNothing;

    LWLockAcquire(&flow->lock, LW_SHARED);
    // What this transaction itself has added is in no open lane yet.
    Lane *lane = own_effects ? flow->lanes : flow->open_lanes;
    for (; lane != nullptr; lane = own_effects ? lane->next : lane->next_open) {
        if (turn && lane->key.priority < turn->priority)
            break;
        int64_t floor = lane->claim.value;
        if (own_effects)
            floor = std::min(floor, own_pending_floor(lane));
        if (floor > due)
            continue;
        if (floor < lowest) {
            next = lowest;
            lowest = floor;
            turn = Turn{lane, lane->key.partition, static_cast<int16_t>(lane->key.priority), due};
        } else {
            next = std::min(next, floor);
        }
    }
    LWLockRelease(&flow->lock);
    if (turn)
        turn->limit = std::min(due, next);
    return turn;
}

// Opened partitions of this claim: most claims need one, a merge of retries a few.
class OpenPartitions
{
  public:
    Partition *open(Oid relid)
    {
        for (int i = 0; i < count_; i++) {
            if (opened_[i]->relid == relid)
                return opened_[i];
        }
        if (count_ == kCapacity)
            close_partition(opened_[--count_]);
        Partition *partition = open_partition(relid);
        if (partition != nullptr)
            opened_[count_++] = partition;
        return partition;
    }
    void close()
    {
        while (count_ > 0)
            close_partition(opened_[--count_]);
    }

  private:
    static constexpr int kCapacity = 8;
    Partition *opened_[kCapacity];
    int count_ = 0;
};

// Leaves a lane whose partition this very transaction has dropped. It may still roll that back, and it may
// have effects on the lane: the floor comes back at an abort, and the sweep forgets the lane after a commit.
void pass_over(Lane *lane)
{
    FlowState *flow = lane->flow;
    Effect &effect = effect_on_lane(lane);
    LWLockAcquire(&lane->scan_lock, LW_EXCLUSIVE);
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    effect.lower_on_abort = std::min(effect.lower_on_abort, lane->claim.begin_scan());
    lane->claim.end_scan(core::kNothing);
    claim_floor_changed(lane);
    LWLockRelease(&flow->lock);
    LWLockRelease(&lane->scan_lock);
    raise_own_floor(lane, core::kNothing);
}

void claim_from_lanes(Claim &claim, FlowState *flow)
{
    OpenPartitions partitions;
    while (claim.wanted > 0) {
        CHECK_FOR_INTERRUPTS();
        std::optional<Turn> turn = next_turn(flow, claim.due);
        if (!turn)
            break;
        Partition *partition = partitions.open(turn->partition);
        if (partition == nullptr) { // dropped by hand: nothing of it is left
            if (holds_exclusively(turn->partition))
                pass_over(turn->lane);
            else
                remove_lanes_of_partition(turn->partition);
            continue;
        }
        Found found = scan_lane(claim, partition, *turn);
        take_found(claim, partition, *turn, found, effect_on_lane(turn->lane));
    }
    partitions.close();
}

// Without shared memory: every priority and partition from its beginning.
void claim_from_partitions(Claim &claim)
{
    std::span<const partition::DirectoryEntry> entries = partition::directory(claim.parent);
    const size_t count = entries.size();
    auto *relids = static_cast<Oid *>(palloc(sizeof(Oid) * std::max<size_t>(count, 1)));
    for (size_t i = 0; i < count; i++)
        relids[i] = entries[i].relid;

    for (int priority = kHighestPriority; priority >= kLowestPriority; priority--) {
        for (size_t i = 0; i < count && claim.wanted > 0; i++) {
            Partition *partition = open_partition(relids[i]);
            if (partition == nullptr)
                continue;
            Turn turn{nullptr, relids[i], static_cast<int16_t>(priority), claim.due};
            for (int64_t from = PG_INT64_MIN; claim.wanted > 0;) {
                PushActiveSnapshot(GetLatestSnapshot());
                Found found = scan_piece(partition, turn, claim, from, PG_INT32_MAX);
                take_found(claim, partition, turn, found, effect_on_lane(nullptr));
                if (found.exhausted || found.reached == core::kNothing)
                    break;
                from = found.reached;
            }
            close_partition(partition);
        }
    }
    pfree(relids);
}

// What the limits of the flow leave of the batch, from shared memory. The records are reserved until the end
// of the transaction, so that claims under way count before they commit.
int64_t allowed_by_shared_limits(const Claim &claim, FlowState *flow, Effect &effect)
{
    int64_t allowed = claim.wanted;
    const int64_t now_us = pg::unix_us_of_timestamp(claim.terms.now);
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    flow->limited = claim.flow.max_in_flight > 0;
    if (flow->limited) {
        const int64_t in_flight = flow->reserved + flow->counts[core::status_index(RecordStatus::processing)];
        allowed = std::clamp<int64_t>(claim.flow.max_in_flight - in_flight, 0, allowed);
    }
    if (claim.flow.rate_limit > 0) {
        const double burst = core::TokenBucket::burst_of(claim.flow.rate_limit);
        allowed = std::min(allowed, flow->bucket.available(claim.flow.rate_limit, burst, now_us));
        flow->bucket.take(allowed);
    }
    if (flow->limited) {
        flow->reserved += allowed;
        effect.reserved += allowed;
    }
    LWLockRelease(&flow->lock);
    return allowed;
}

// Gives back what was reserved and not found.
void return_unused(const Claim &claim, FlowState *flow, Effect &effect)
{
    if (claim.wanted == 0)
        return;
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    if (claim.flow.rate_limit > 0)
        flow->bucket.give_back(claim.wanted);
    if (effect.reserved > 0) {
        const int64_t unused = std::min(effect.reserved, claim.wanted);
        flow->reserved -= unused;
        effect.reserved -= unused;
        wake_for_room(flow, unused);
    }
    LWLockRelease(&flow->lock);
}

// The same limits counted from the table.
int64_t allowed_by_counting(const Claim &claim)
{
    static pg::Statement count("select count(*) filter (where status = 'r'), "
                               "count(*) filter (where claimed_at > $2) "
                               "from tasker.queue_record where flow_id = $1",
                               {INT4OID, TIMESTAMPTZOID});
    if (claim.flow.max_in_flight == 0 && claim.flow.rate_limit == 0)
        return claim.wanted;
    // The time that a burst takes to gather: a second, longer where the rate is below one a second.
    const double rate = claim.flow.rate_limit;
    const double burst = core::TokenBucket::burst_of(rate);
    const double window_us = rate > 0 ? std::min(burst / rate * USECS_PER_SEC, 1e15) : USECS_PER_SEC;
    const TimestampTz since = claim.terms.now - static_cast<int64_t>(window_us);
    pg::Spi spi;
    pg::Rows rows = spi.read_latest(count, {claim.flow.flow_id, pg::Timestamp{since}});
    int64_t allowed = claim.wanted;
    if (claim.flow.max_in_flight > 0)
        allowed = std::clamp<int64_t>(claim.flow.max_in_flight - rows.i64(0, 1), 0, allowed);
    if (rate > 0)
        allowed = std::clamp<int64_t>(static_cast<int64_t>(burst) - rows.i64(0, 2), 0, allowed);
    return allowed;
}

// Returns how many records were claimed.
int64_t run_claim(Claim &claim)
{
    FlowState *flow =
        built_state(claim.parent) != nullptr ? flow_state(claim.parent, claim.flow.flow_id) : nullptr;
    if (flow == nullptr) {
        claim.wanted = allowed_by_counting(claim);
        const int64_t allowed = claim.wanted;
        claim_from_partitions(claim);
        return allowed - claim.wanted;
    }
    const bool limited = claim.flow.max_in_flight > 0 || claim.flow.rate_limit > 0;
    if (limited)
        claim.wanted =
            allowed_by_shared_limits(claim, flow, effect_on_flow(claim.parent, claim.flow.flow_id));
    const int64_t allowed = claim.wanted;
    claim_from_lanes(claim, flow);
    const int64_t claimed = allowed - claim.wanted;
    if (limited)
        return_unused(claim, flow, effect_on_flow(claim.parent, claim.flow.flow_id));
    return claimed;
}

// The result of claim_records_batch().
class ResultRows final : public ClaimSink
{
  public:
    explicit ResultRows(pg::ResultSet &result) : result_(result) {}

    void take(const ClaimedRecord &record, const ClaimTerms &terms) override
    {
        const TimestampTz created_at = pg::timestamp_of_unix_us(core::unix_us_of(record.id));
        const Datum values[6] = {Int64GetDatum(record.id),          record.payload,
                                 Int32GetDatum(record.retry_count), TimestampTzGetDatum(created_at),
                                 Int64GetDatum(terms.token),        TimestampTzGetDatum(terms.expires_at)};
        const bool nulls[6] = {};
        result_.add(values, nulls);
    }

  private:
    pg::ResultSet &result_;
};

} // namespace

ClaimTerms claim_terms(std::optional<Datum> instance, int64_t lease_us)
{
    ClaimTerms terms{};
    terms.instance = instance ? *instance : default_instance_id();
    terms.now = GetCurrentTimestamp();
    terms.expires_at = lease_end(terms.now, lease_us);
    terms.token = reserve_record_id(queue_parent());
    return terms;
}

int64_t claim_records(const Flow &flow, int64_t wanted, const ClaimTerms &terms, ClaimSink &sink)
{
    if (flow.paused)
        return 0;
    Claim claim{};
    claim.flow = flow;
    claim.parent = queue_parent();
    claim.wanted = std::min(wanted, kLargestBatch);
    claim.terms = terms;
    claim.due = core::record_id_ceiling(pg::unix_us_of_timestamp(terms.now));
    claim.sink = &sink;
    CommandCounterIncrement(); // what this very statement has added is seen, and not passed over
    const int64_t claimed = run_claim(claim);
    CommandCounterIncrement();
    return claimed;
}

TASKER_FUNCTION(claim_records_batch)
{
    PreventCommandIfReadOnly("tasker.claim_records_batch()");
    std::string_view name = args.name(0, "flow_name");
    const int64_t batch = args.i32(1, "batch_size");
    if (batch < 1)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"batch_size\" must be at least 1");
    std::optional<int64_t> lease = args.optional_duration_us(3, "lease");
    if (lease && *lease == 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"lease\" must be positive");
    args.optional_name(2, "instance_id");

    pg::ResultSet result(args.call());
    const Flow flow = flow_named(name);
    std::optional<Datum> instance;
    if (!args.is_null(2))
        instance = args.datum(2);
    ResultRows rows(result);
    claim_records(flow, batch, claim_terms(instance, lease.value_or(flow.lease_us)), rows);
    return 0;
}

} // namespace tasker::queue
