#include "queue/pending_scan.hpp"

#include "core/task_priority.hpp"
#include "partition/directory.hpp"
#include "queue/effects.hpp"
#include "queue/flow.hpp"
#include "queue/record_table.hpp"

namespace tasker::queue {
namespace {

using core::AgeBand;

// Records that are read of a band at a time. Between two readings no scan stays open: there may be thousands
// of bands, and each open scan holds pages and memory.
constexpr int kFirstReading = 8;
constexpr int kLargestReading = 512;

// What was read of a band and not been returned.
struct Reading
{
    PendingRecord *records;
    int count;
    int next;
    int size; // of the next reading
    bool complete;
    // Those of the last position: the next reading begins there again.
    int64_t *seen;
    int seen_count;
    int seen_capacity;
};

// One band of ages of one lane.
struct Stream
{
    double value;     // of its next record; before it is opened, the most that can be
    int64_t order;    // among those of the same value, ascending
    Reading *reading; // null: not opened
    int64_t from, to; // positions
    Oid partition;
    int32_t flow_id;
    int16_t priority;
    AgeBand band;
};

} // namespace

struct PendingScan
{
    int64_t now_ms;
    int64_t due; // the last position that is due
    PayloadReader reader;
    Stream *heap;
    size_t count;
    size_t capacity;
    Partition **partitions;
    int partition_count;
    int partition_capacity;
    MemoryContext readings; // of payloads, for the time of one reading
};

namespace {

int64_t age_ms(const PendingScan *scan, int64_t position)
{
    return scan->now_ms - (position >> core::kSequenceBits);
}

// The lowest position that is at most so old.
int64_t lowest_position(const PendingScan *scan, int64_t oldest_ms)
{
    return oldest_ms >= scan->now_ms ? 0 : core::record_id_floor((scan->now_ms - oldest_ms) * core::kUsPerMs);
}

int64_t order_of(const Stream &stream, int64_t position)
{
    return core::youngest_first(stream.band, stream.priority) ? -position : position;
}

const PendingRecord *next_of(const Stream &stream)
{
    const Reading *reading = stream.reading;
    return reading == nullptr || reading->next == reading->count ? nullptr : reading->records + reading->next;
}

// Does `a` come after `b`? One that has to be read first comes before others of its value.
bool comes_after(const Stream &a, const Stream &b)
{
    if (a.value != b.value)
        return a.value < b.value;
    const PendingRecord *next_a = next_of(a);
    const PendingRecord *next_b = next_of(b);
    if (next_a == nullptr || next_b == nullptr)
        return next_a != nullptr && next_b == nullptr;
    return a.order != b.order ? a.order > b.order : next_a->object > next_b->object;
}

void push(PendingScan *scan, const Stream &stream)
{
    if (scan->count == scan->capacity) {
        scan->capacity *= 2;
        scan->heap = static_cast<Stream *>(repalloc_huge(scan->heap, sizeof(Stream) * scan->capacity));
    }
    scan->heap[scan->count++] = stream;
}

// A band of a lane in which something may lie from `from` up to `to`.
void add_band(PendingScan *scan, const LaneKey &key, AgeBand band, int64_t from, int64_t to)
{
    const core::AgeRange ages = core::ages_of(band);
    Stream stream{};
    stream.from = std::max(from, lowest_position(scan, ages.highest_ms));
    stream.to =
        std::min(to, band == AgeBand::fresh ? scan->due : lowest_position(scan, ages.lowest_ms - 1) - 1);
    if (stream.from > stream.to)
        return;
    stream.partition = key.partition;
    stream.flow_id = key.flow_id;
    stream.priority = static_cast<int16_t>(key.priority);
    stream.band = band;
    stream.value = core::highest_priority(band, key.priority,
                                          {std::max(age_ms(scan, stream.to), ages.lowest_ms),
                                           std::max(age_ms(scan, stream.from), ages.lowest_ms)});
    push(scan, stream);
}

// Where in a lane there may be pending records.
struct LaneWindow
{
    LaneKey key;
    int64_t from, to; // positions
};

void add_lane(PendingScan *scan, const LaneWindow &window)
{
    for (int band = 0; band < core::kAgeBandCount; band++)
        add_band(scan, window.key, static_cast<AgeBand>(band), window.from, window.to);
}

// The windows of the flow's open lanes; returns how many there are, also when they do not fit.
size_t copy_windows(FlowState *flow, LaneWindow *windows, size_t capacity)
{
    // What this transaction itself has added is in no open lane yet, and in no bound.
    const bool own = have_own_effects();
    size_t count = 0;
    LWLockAcquire(&flow->lock, LW_SHARED);
    for (const Lane *lane = own ? flow->lanes : flow->open_lanes; lane != nullptr;
         lane = own ? lane->next : lane->next_open) {
        const int64_t floor = own ? std::min(lane->claim.value, own_pending_floor(lane)) : lane->claim.value;
        if (floor == core::kNothing)
            continue;
        if (count < capacity)
            windows[count] = {lane->key, floor, own ? PG_INT64_MAX : lane->latest_position};
        count++;
    }
    LWLockRelease(&flow->lock);
    return count;
}

void add_flow(PendingScan *scan, FlowState *flow)
{
    LaneWindow few[32];
    LaneWindow *windows = few;
    size_t capacity = std::size(few);
    size_t count = copy_windows(flow, windows, capacity);
    while (count > capacity) {
        capacity = count * 2;
        windows = static_cast<LaneWindow *>(palloc_extended(sizeof(LaneWindow) * capacity, MCXT_ALLOC_HUGE));
        count = copy_windows(flow, windows, capacity);
    }
    for (size_t i = 0; i < count; i++)
        add_lane(scan, windows[i]);
    if (windows != few)
        pfree(windows);
}

// False where lanes are not kept: without shared memory, or when there is no room for another flow.
bool add_kept_lanes(PendingScan *scan, Oid parent, std::span<const int32_t> flows)
{
    if (database_state(parent) == nullptr)
        return false;
    for (int32_t flow_id : flows) {
        FlowState *flow = flow_state(parent, flow_id);
        if (flow == nullptr)
            return false;
        add_flow(scan, flow);
    }
    return true;
}

void add_all_lanes(PendingScan *scan, Oid parent, std::span<const int32_t> flows)
{
    scan->count = 0;
    for (const partition::DirectoryEntry &entry : partition::directory(parent)) {
        for (int32_t flow_id : flows) {
            for (int priority = kLowestPriority; priority <= kHighestPriority; priority++)
                add_lane(scan, {{MyDatabaseId, entry.relid, flow_id, priority}, 0, PG_INT64_MAX});
        }
    }
}

// The partition, opened for the time of the walk; null when it is gone.
Partition *opened(PendingScan *scan, Oid relid)
{
    for (int i = 0; i < scan->partition_count; i++) {
        if (scan->partitions[i]->relid == relid)
            return scan->partitions[i];
    }
    Partition *partition = open_partition(relid, AccessShareLock);
    if (partition == nullptr)
        return nullptr;
    if (scan->partition_count == scan->partition_capacity) {
        scan->partition_capacity *= 2;
        scan->partitions = static_cast<Partition **>(
            repalloc(scan->partitions, sizeof(Partition *) * static_cast<Size>(scan->partition_capacity)));
    }
    scan->partitions[scan->partition_count++] = partition;
    return partition;
}

bool was_seen(const Reading *reading, int64_t id)
{
    return std::binary_search(reading->seen, reading->seen + reading->seen_count, id);
}

void note_seen(Reading *reading, int64_t id)
{
    if (reading->seen_count == reading->seen_capacity) {
        reading->seen_capacity = Max(16, reading->seen_capacity * 2);
        const Size bytes = sizeof(int64_t) * static_cast<Size>(reading->seen_capacity);
        reading->seen = static_cast<int64_t *>(
            reading->seen == nullptr ? palloc(bytes) : repalloc_huge(reading->seen, bytes));
    }
    reading->seen[reading->seen_count++] = id;
}

// Keeps in mind what stands where the reading has stopped: the next one meets it again.
void note_last_position(Stream &stream, int64_t last_before)
{
    Reading *reading = stream.reading;
    const int64_t last = reading->records[reading->count - 1].position;
    if (last != last_before)
        reading->seen_count = 0;
    for (int i = reading->count; i-- > 0 && reading->records[i].position == last;)
        note_seen(reading, reading->records[i].id);
    std::sort(reading->seen, reading->seen + reading->seen_count);
    (core::youngest_first(stream.band, stream.priority) ? stream.to : stream.from) = last;
}

// Takes the record in the slot, if it is pending and wanted.
void take(PendingScan *scan, Stream &stream, TupleTableSlot *slot, int64_t last_before)
{
    Reading *reading = stream.reading;
    const RecordHead head = head_of(slot);
    if (head.status != core::RecordStatus::pending ||
        (head.position == last_before && was_seen(reading, head.id)))
        return;
    bool null = false;
    MemoryContext outer = MemoryContextSwitchTo(scan->readings);
    const std::optional<core::Uuid> object = scan->reader(slot_getattr(slot, kPayload, &null));
    MemoryContextSwitchTo(outer);
    if (object)
        reading->records[reading->count++] = {
            head.id, head.position, *object,
            core::computed_priority(stream.priority, age_ms(scan, head.position))};
}

// Reads the next records of an opened band; false at its end.
bool read_on(PendingScan *scan, Stream &stream)
{
    Reading *reading = stream.reading;
    const bool backwards = core::youngest_first(stream.band, stream.priority);
    const int64_t last_before = reading->count == 0 ? -1 : backwards ? stream.to : stream.from;
    Partition *partition = reading->complete ? nullptr : opened(scan, stream.partition);
    if (partition == nullptr)
        return false;
    reading->records = static_cast<PendingRecord *>(
        reading->records == nullptr
            ? palloc(sizeof(PendingRecord) * static_cast<Size>(reading->size))
            : repalloc(reading->records, sizeof(PendingRecord) * static_cast<Size>(reading->size)));
    reading->count = 0;
    reading->next = 0;
    LaneScan lane = begin_lane_scan(partition, GetActiveSnapshot(), stream.flow_id, stream.priority,
                                    stream.from, stream.to);
    const ScanDirection direction = backwards ? BackwardScanDirection : ForwardScanDirection;
    while (reading->count < reading->size && !reading->complete) {
        CHECK_FOR_INTERRUPTS();
        if (index_getnext_slot(lane.scan, direction, partition->read_slot))
            take(scan, stream, partition->read_slot, last_before);
        else
            reading->complete = true;
    }
    end_lane_scan(lane);
    MemoryContextReset(scan->readings);
    if (reading->count == 0)
        return false;
    note_last_position(stream, last_before);
    reading->size = Min(reading->size * 2, kLargestReading);
    return true;
}

// Gives the band its place again. What comes behind the last record that was read counts no more than that.
void put_back(PendingScan *scan, Stream stream)
{
    if (const PendingRecord *next = next_of(stream); next != nullptr) {
        stream.value = next->computed_priority;
        stream.order = order_of(stream, next->position);
    }
    push(scan, stream);
    std::push_heap(scan->heap, scan->heap + scan->count, comes_after);
}

void free_reading(Reading *reading)
{
    if (reading->records != nullptr)
        pfree(reading->records);
    if (reading->seen != nullptr)
        pfree(reading->seen);
    pfree(reading);
}

} // namespace

PendingScan *begin_pending_scan(Oid parent, std::span<const int32_t> flows, TimestampTz now,
                                PayloadReader reader)
{
    auto *scan = static_cast<PendingScan *>(palloc0(sizeof(PendingScan)));
    const int64_t now_us = pg::unix_us_of_timestamp(now);
    scan->now_ms = core::floor_div(now_us, core::kUsPerMs);
    scan->due = core::record_id_ceiling(now_us);
    scan->reader = reader;
    scan->capacity = 256;
    scan->heap = static_cast<Stream *>(palloc(sizeof(Stream) * scan->capacity));
    scan->partition_capacity = 16;
    scan->partitions = static_cast<Partition **>(palloc(sizeof(Partition *) * 16));
    scan->readings = AllocSetContextCreate(CurrentMemoryContext, "tasker readings", ALLOCSET_SMALL_SIZES);
    if (!add_kept_lanes(scan, parent, flows))
        add_all_lanes(scan, parent, flows);
    std::make_heap(scan->heap, scan->heap + scan->count, comes_after);
    return scan;
}

bool next_pending(PendingScan *scan, PendingRecord &record)
{
    while (scan->count > 0) {
        std::pop_heap(scan->heap, scan->heap + scan->count, comes_after);
        Stream stream = scan->heap[--scan->count];
        if (const PendingRecord *next = next_of(stream); next != nullptr) {
            record = *next;
            stream.reading->next++;
            put_back(scan, stream);
            return true;
        }
        if (stream.reading == nullptr) {
            stream.reading = static_cast<Reading *>(palloc0(sizeof(Reading)));
            stream.reading->size = kFirstReading;
        }
        if (read_on(scan, stream))
            put_back(scan, stream);
        else
            free_reading(stream.reading);
    }
    return false;
}

void end_pending_scan(PendingScan *scan)
{
    for (int i = 0; i < scan->partition_count; i++)
        close_partition(scan->partitions[i]);
    MemoryContextDelete(scan->readings);
    pfree(scan->partitions);
    pfree(scan->heap);
    pfree(scan);
}

} // namespace tasker::queue
