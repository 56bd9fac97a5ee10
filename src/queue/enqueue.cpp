#include "queue/enqueue.hpp"

#include "partition/directory.hpp"
#include "partition/owned_set.hpp"
#include "pg/function.hpp"
#include "queue/effects.hpp"
#include "queue/record_ids.hpp"

namespace tasker::queue {
namespace {

// Rows go to multi-insert in pieces of this size: enough for one WAL record a page, small enough to be
// interrupted.
constexpr int kInsertPiece = 500;

Change row_of(int32_t flow_id, int64_t id, int64_t position, const NewRecord &record)
{
    Change row{};
    row.set(kId, Int64GetDatum(id));
    row.set(kPosition, Int64GetDatum(position));
    row.set(kFlowId, Int32GetDatum(flow_id));
    row.set(kRetryCount, Int32GetDatum(record.retry_count));
    row.set(kPriority, Int16GetDatum(record.priority));
    row.set_status(core::RecordStatus::pending);
    row.set(kPayload, record.payload);
    return row;
}

// The bridge to LISTEN, for flows that ask for it.
void notify_listeners(const Flow &flow, int64_t id)
{
    char channel[NAMEDATALEN];
    char payload[32];
    snprintf(channel, sizeof channel, "tasker_%s", flow.name);
    channel[pg_mbcliplen(channel, static_cast<int>(strlen(channel)), NAMEDATALEN - 1)] = '\0';
    snprintf(payload, sizeof payload, INT64_FORMAT, id);
    Async_Notify(channel, payload);
}

// Adds the rows of ids[0..count), which lie in one partition.
void add_piece(Oid parent, const Flow &flow, std::span<const int64_t> ids, std::span<const Datum> payloads,
               NewRecord record)
{
    const int count = static_cast<int>(ids.size());
    Partition *partition = open_partition_for_new(parent, ids[0]);
    auto *rows = static_cast<Change *>(palloc(sizeof(Change) * ids.size()));
    int64_t lowest = core::kNothing;
    int64_t highest = 0;

    for (int i = 0; i < count; i++) {
        int64_t position = position_for(ids[i], record.run_at);
        lowest = std::min(lowest, position);
        highest = std::max(highest, position);
        record.payload = payloads[i];
        rows[i] = row_of(flow.flow_id, ids[i], position, record);
    }
    Effect &effect = effect_on_lane(parent, flow.flow_id, record.priority, partition->relid);
    insert_records(partition, rows, count, GetCurrentCommandId(true));
    effect.became_pending(lowest, highest, count);
    close_partition(partition);
    pfree(rows);
}

int64_t partition_upper(Oid parent, int64_t id)
{
    for (const partition::DirectoryEntry &entry : partition::directory(parent)) {
        if (entry.lower <= id && id < entry.upper)
            return entry.upper;
    }
    return id + 1;
}

void add_records(Oid parent, const Flow &flow, std::span<const Datum> payloads, const NewRecord &record)
{
    auto *ids = static_cast<int64_t *>(palloc(sizeof(int64_t) * payloads.size()));
    reserve_record_ids(parent, {ids, payloads.size()});
    for (size_t from = 0; from < payloads.size();) {
        CHECK_FOR_INTERRUPTS();
        close_partition(open_partition_for_new(parent, ids[from]));
        const int64_t upper = partition_upper(parent, ids[from]);
        size_t to = from;
        while (to < payloads.size() && to - from < kInsertPiece && ids[to] < upper)
            to++;
        add_piece(parent, flow, {ids + from, to - from}, payloads.subspan(from, to - from), record);
        from = to;
    }
    if (flow.notify)
        notify_listeners(flow, ids[payloads.size() - 1]);
    pfree(ids);
}

// Where a record stands among those that become due in the same millisecond: as its id stands among others,
// as far as 20 bits can tell. Records that were added in one millisecond keep their order; and so do those of
// four seconds, as long as there are no more than 256 in each millisecond. The id's own lower bits would not
// do: where records come one by one all are zero, and a claim that begins among equal positions looks at them
// all.
int64_t place_in_millisecond(int64_t id)
{
    if (shared_state() == nullptr)
        return id & core::kSequenceMask; // of the sequence, which goes on from one millisecond to the next
    constexpr int64_t kMilliseconds = 4096;
    constexpr int64_t kRecordsEach = (core::kSequenceMask + 1) / kMilliseconds;
    const int64_t millisecond = (id >> core::kSequenceBits) % kMilliseconds;
    return std::min(millisecond * kRecordsEach + (id & core::kSequenceMask), core::kSequenceMask);
}

Datum require_payload(const pg::Args &args, int i)
{
    if (args.is_null(i))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"payload\" must not be null")
            .hint("An empty payload is 'null'::jsonb.");
    return args.datum(i);
}

Datum enqueue(const pg::Args &args, int64_t priority)
{
    PreventCommandIfReadOnly("tasker.enqueue()");
    std::string_view name = args.name(0, "flow_name");
    NewRecord record{};
    record.payload = require_payload(args, 1);
    check_priority(priority);
    record.priority = static_cast<int16_t>(priority);
    record.run_at = args.optional_timestamp(3);
    std::optional<std::string_view> key = args.optional_text(4);
    std::optional<int64_t> window = args.optional_duration_us(5, "dedup_window");

    Flow flow = flow_for_enqueue(name);
    if (!key)
        return args.result(enqueue_record(flow, record));

    const Oid parent = queue_parent();
    const int64_t id = reserve_record_id(parent);
    if (auto holder = take_dedup_key(parent, flow, *key, window, id))
        return args.result(*holder);
    add_record(parent, flow, id, record);
    if (flow.notify)
        notify_listeners(flow, id);
    return args.result(id);
}

Datum add_records_to_queue(const pg::Args &args, int64_t priority)
{
    PreventCommandIfReadOnly("tasker.add_records_to_queue()");
    std::string_view name = args.name(0, "flow_name");
    std::span<Datum> payloads = args.array(1, "payloads", JSONBOID);
    NewRecord record{};
    check_priority(priority);
    record.priority = static_cast<int16_t>(priority);
    record.run_at = args.optional_timestamp(3);

    Flow flow = flow_for_enqueue(name);
    if (!payloads.empty())
        add_records(queue_parent(), flow, payloads, record);
    return args.result(static_cast<int32_t>(payloads.size()));
}

} // namespace

void check_priority(int64_t priority)
{
    if (priority < kLowestPriority || priority > kHighestPriority)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "priority " INT64_FORMAT " is out of range",
                        priority)
            .detail("Priorities run from %d (default) to %d, higher first.", kLowestPriority,
                    kHighestPriority);
}

int64_t position_for(int64_t id, std::optional<TimestampTz> run_at)
{
    if (!run_at || TIMESTAMP_IS_NOBEGIN(*run_at))
        return id;
    if (TIMESTAMP_IS_NOEND(*run_at))
        return core::kNothing - 1;
    const int64_t due = core::record_id_floor(pg::unix_us_of_timestamp(*run_at));
    return std::max(id, std::min(due | place_in_millisecond(id), core::kNothing - 1));
}

Partition *open_partition_for_new(Oid parent, int64_t id)
{
    for (;;) {
        Oid relid = partition::find_partition(parent, id);
        if (!OidIsValid(relid))
            relid = partition::ensure_partition(parent, id);
        if (Partition *partition = open_partition(relid))
            return partition;
        CHECK_FOR_INTERRUPTS(); // it was dropped between the two; the lock attempt has refreshed the
                                // directory
    }
}

int64_t add_record(Oid parent, const Flow &flow, int64_t id, const NewRecord &record)
{
    const int64_t position = position_for(id, record.run_at);
    Partition *partition = open_partition_for_new(parent, id);
    Effect &effect = effect_on_lane(parent, flow.flow_id, record.priority, partition->relid);
    Change row = row_of(flow.flow_id, id, position, record);
    insert_record(partition, row, GetCurrentCommandId(true));
    effect.became_pending(position);
    close_partition(partition);
    return position;
}

void add_placed_records(Oid parent, std::span<const PlacedRecord> records)
{
    auto *rows =
        static_cast<Change *>(palloc(sizeof(Change) * std::min<size_t>(records.size(), kInsertPiece)));
    for (size_t from = 0; from < records.size();) {
        CHECK_FOR_INTERRUPTS();
        Partition *partition = open_partition_for_new(parent, records[from].id);
        const int64_t upper = partition_upper(parent, records[from].id);
        size_t to = from;
        for (; to < records.size() && to - from < kInsertPiece && records[to].id < upper; to++) {
            const PlacedRecord &placed = records[to];
            const int64_t position = position_for(placed.id, placed.record.run_at);
            rows[to - from] = row_of(placed.flow_id, placed.id, position, placed.record);
        }
        // Room to note the effects must be there before the rows are.
        for (size_t i = from; i < to; i++)
            (void)effect_on_lane(parent, records[i].flow_id, records[i].record.priority, partition->relid);
        insert_records(partition, rows, static_cast<int>(to - from), GetCurrentCommandId(true));
        for (size_t i = from; i < to; i++) {
            const PlacedRecord &placed = records[i];
            effect_on_lane(parent, placed.flow_id, placed.record.priority, partition->relid)
                .became_pending(position_for(placed.id, placed.record.run_at));
            if (const std::optional<Flow> flow = flow_with_id(placed.flow_id); flow && flow->notify)
                notify_listeners(*flow, placed.id);
        }
        close_partition(partition);
        from = to;
    }
    pfree(rows);
}

int64_t enqueue_record(const Flow &flow, const NewRecord &record)
{
    const Oid parent = queue_parent();
    const int64_t id = reserve_record_id(parent);
    add_record(parent, flow, id, record);
    if (flow.notify)
        notify_listeners(flow, id);
    return id;
}

TASKER_FUNCTION(enqueue)
{
    return enqueue(args, args.i16(2, "priority"));
}

TASKER_FUNCTION(enqueue_int)
{
    return enqueue(args, args.i32(2, "priority"));
}

TASKER_FUNCTION(add_records_to_queue)
{
    return add_records_to_queue(args, args.i16(2, "priority"));
}

TASKER_FUNCTION(add_records_to_queue_int)
{
    return add_records_to_queue(args, args.i32(2, "priority"));
}

} // namespace tasker::queue
