// What stands in the queue: statistics by flow, from shared memory where there is one.
#include "partition/directory.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/effects.hpp"
#include "queue/flow.hpp"
#include "queue/rebuild.hpp"
#include "queue/record_table.hpp"

namespace tasker::queue {
namespace {

using core::RecordStatus;

struct FlowStatus
{
    int32_t flow_id;
    Datum name; // text
    int64_t counts[core::kStatusCount];
    int64_t scheduled; // of the pending
    int64_t first_due; // position of the first due record, or kNothing
};

// A lane that needs a look into the table: something in it is due, or something is scheduled.
struct LaneLook
{
    LaneKey key;
    size_t flow; // index into the statuses
    int64_t floor;
    bool due;
    bool scheduled;
};

struct Report
{
    Oid parent;
    int64_t due;
    std::span<FlowStatus> flows; // sorted by flow_id
    LaneLook *looks;
    size_t look_count;
    size_t look_capacity;
};

std::span<FlowStatus> list_flows(const std::optional<std::string_view> &name)
{
    static pg::Statement all("select flow_id, flow_name from tasker.flow order by flow_id", {});
    MemoryContext memory = CurrentMemoryContext;
    if (name) {
        Flow flow = flow_named(*name);
        auto *one = static_cast<FlowStatus *>(palloc0(sizeof(FlowStatus)));
        one->flow_id = flow.flow_id;
        one->name = CStringGetTextDatum(flow.name);
        one->first_due = core::kNothing;
        return {one, 1};
    }
    pg::Spi spi;
    pg::Rows rows = spi.read_latest(all);
    return pg::pg_call([&]() -> std::span<FlowStatus> {
        MemoryContext outer = MemoryContextSwitchTo(memory);
        auto *flows =
            static_cast<FlowStatus *>(palloc0(sizeof(FlowStatus) * std::max<uint64>(rows.count(), 1)));
        for (uint64 i = 0; i < rows.count(); i++) {
            flows[i].flow_id = rows.i32(i, 1);
            flows[i].name = datumCopy(rows.datum(i, 2), false, -1);
            flows[i].first_due = core::kNothing;
        }
        MemoryContextSwitchTo(outer);
        return {flows, static_cast<size_t>(rows.count())};
    });
}

// Notes a lane in which something may be pending; flow->lock is held.
void add_lane(Report &report, size_t index, const Lane *lane)
{
    int64_t counts[core::kStatusCount];
    memcpy(counts, lane->counts, sizeof counts);
    add_own_changes(lane, counts);
    if (counts[core::status_index(RecordStatus::pending)] <= 0 || report.look_count == report.look_capacity)
        return;
    const int64_t floor = std::min(lane->claim.value, own_pending_floor(lane));
    report.looks[report.look_count++] = {lane->key, index, floor, floor <= report.due,
                                         lane->latest_position > report.due || have_own_effects()};
}

size_t lane_count(FlowState *flow)
{
    size_t count = 0;
    for (Lane *lane = flow->lanes; lane != nullptr; lane = lane->next)
        count++;
    return count;
}

// A flow's counts, and its lanes in which something is pending: the open ones, and what this transaction has
// added.
void add_flow(Report &report, size_t index)
{
    FlowState *flow = flow_state(report.parent, report.flows[index].flow_id);
    if (flow == nullptr)
        return;
    const bool own = have_own_effects();
    auto next = [&](const Lane *lane) { return own ? lane->next : lane->next_open; };
    for (bool fits = false; !fits;) {
        LWLockAcquire(&flow->lock, LW_SHARED);
        Lane *first = own ? flow->lanes : flow->open_lanes;
        size_t lanes = 0;
        for (const Lane *lane = first; lane != nullptr; lane = next(lane))
            lanes++;
        fits = report.look_count + lanes <= report.look_capacity;
        if (fits) {
            memcpy(report.flows[index].counts, flow->counts, sizeof flow->counts);
            for (const Lane *lane = first; lane != nullptr; lane = next(lane)) {
                add_lane(report, index, lane);
                add_own_changes(lane, report.flows[index].counts);
            }
        }
        LWLockRelease(&flow->lock);
        if (!fits) {
            report.look_capacity = (report.look_count + lanes) * 2;
            report.looks =
                static_cast<LaneLook *>(repalloc_huge(report.looks, sizeof(LaneLook) * report.look_capacity));
        }
    }
}

// The position of the first pending record from `from` up to `to`, or kNothing.
int64_t first_pending(Partition *partition, const LaneKey &key, int64_t from, int64_t to)
{
    int64_t position = core::kNothing;
    LaneScan scan = begin_lane_scan(partition, GetActiveSnapshot(), key.flow_id,
                                    static_cast<int16_t>(key.priority), from, to);
    while (position == core::kNothing && next_in_lane(scan)) {
        const RecordHead head = head_of(partition->read_slot);
        if (head.status == RecordStatus::pending)
            position = head.position;
    }
    end_lane_scan(scan);
    return position;
}

// Finds the first due record of a lane, and counts what is scheduled in it.
void look_into_lane(Report &report, Partition *partition, const LaneLook &look)
{
    FlowStatus &flow = report.flows[look.flow];
    if (look.due) {
        // Claims leave the floor at the next record, as a rule.
        int64_t position = first_pending(partition, look.key, look.floor, look.floor);
        if (position == core::kNothing && look.floor < report.due)
            position = first_pending(partition, look.key, look.floor + 1, report.due);
        flow.first_due = std::min(flow.first_due, position);
    }
    if (look.scheduled) {
        LaneScan scan = begin_lane_scan(partition, GetActiveSnapshot(), look.key.flow_id,
                                        static_cast<int16_t>(look.key.priority), report.due + 1);
        while (next_in_lane(scan))
            flow.scheduled += head_of(partition->read_slot).status == RecordStatus::pending ? 1 : 0;
        end_lane_scan(scan);
    }
}

// Lanes of one partition are looked into with the partition opened once.
void look_into_lanes(Report &report)
{
    std::sort(report.looks, report.looks + report.look_count,
              [](const LaneLook &a, const LaneLook &b) { return a.key.partition < b.key.partition; });
    Partition *partition = nullptr;
    PushActiveSnapshot(GetLatestSnapshot());
    for (size_t i = 0; i < report.look_count; i++) {
        const LaneLook &look = report.looks[i];
        if (!look.due && !look.scheduled)
            continue;
        if (partition != nullptr && partition->relid != look.key.partition) {
            close_partition(partition);
            partition = nullptr;
        }
        if (partition == nullptr)
            partition = open_partition(look.key.partition, AccessShareLock);
        if (partition != nullptr)
            look_into_lane(report, partition, look);
    }
    PopActiveSnapshot();
    if (partition != nullptr)
        close_partition(partition);
}

// Without shared memory: the table is counted.
void count_table(Report &report)
{
    static pg::Statement count(
        "select flow_id, status::text, count(*), count(*) filter (where position > $1), "
        "coalesce(min(position) filter (where position <= $1), 9223372036854775807) "
        "from tasker.queue_record where flow_id = $2 or $2 = 0 group by 1, 2",
        {INT8OID, INT4OID});
    pg::Spi spi;
    const int32_t only = report.flows.size() == 1 ? report.flows[0].flow_id : 0;
    pg::Rows rows = spi.read_latest(count, {report.due, only});
    for (uint64 i = 0; i < rows.count(); i++) {
        const int32_t flow_id = rows.i32(i, 1);
        auto at = std::lower_bound(report.flows.begin(), report.flows.end(), flow_id,
                                   [](const FlowStatus &flow, int32_t id) { return flow.flow_id < id; });
        if (at == report.flows.end() || at->flow_id != flow_id)
            continue;
        const auto status = static_cast<RecordStatus>(rows.text(i, 2)[0]);
        const int index = core::status_index(status);
        if (index >= 0)
            at->counts[index] += rows.i64(i, 3);
        if (status == RecordStatus::pending) {
            at->scheduled += rows.i64(i, 4);
            at->first_due = std::min(at->first_due, rows.i64(i, 5));
        }
    }
}

void add_result(pg::ResultSet &result, const FlowStatus &flow)
{
    auto count = [&](RecordStatus status) { return flow.counts[core::status_index(status)]; };
    int64_t total = 0;
    for (int64_t c : flow.counts)
        total += c;
    // Counted in the table a moment after the statistics were read.
    const int64_t scheduled =
        std::clamp<int64_t>(flow.scheduled, 0, std::max<int64_t>(count(RecordStatus::pending), 0));
    const bool due = flow.first_due != core::kNothing;
    Datum values[9] = {
        flow.name,
        Int64GetDatum(count(RecordStatus::pending) - scheduled),
        Int64GetDatum(scheduled),
        Int64GetDatum(count(RecordStatus::processing)),
        Int64GetDatum(count(RecordStatus::completed)),
        Int64GetDatum(count(RecordStatus::failed)),
        Int64GetDatum(count(RecordStatus::cancelled)),
        Int64GetDatum(total),
        due ? TimestampTzGetDatum(pg::timestamp_of_unix_us(core::unix_us_of(flow.first_due))) : 0,
    };
    bool nulls[9] = {};
    nulls[8] = !due;
    result.add(values, nulls);
}

} // namespace

TASKER_FUNCTION(get_queue_status)
{
    std::optional<std::string_view> name = args.optional_name(0, "flow_name");
    pg::ResultSet result(args.call());
    Report report{};
    report.parent = queue_parent();
    report.due = core::record_id_ceiling(pg::unix_us_of_timestamp(GetCurrentTimestamp()));
    report.flows = list_flows(name);
    if (built_state(report.parent) != nullptr) {
        report.look_capacity = 256;
        report.looks = static_cast<LaneLook *>(palloc(sizeof(LaneLook) * report.look_capacity));
        for (size_t i = 0; i < report.flows.size(); i++)
            add_flow(report, i);
        look_into_lanes(report);
    } else {
        count_table(report);
    }
    for (const FlowStatus &flow : report.flows)
        add_result(result, flow);
    return 0;
}

TASKER_FUNCTION(queue_lanes)
{
    pg::ResultSet result(args.call());
    const Oid parent = queue_parent();
    if (built_state(parent) == nullptr)
        return 0;
    for (const FlowStatus &listed : list_flows(std::nullopt)) {
        FlowState *flow = flow_state(parent, listed.flow_id);
        if (flow == nullptr)
            continue;
        struct Copy
        {
            LaneKey key;
            int64_t claim, done;
            int64_t counts[core::kStatusCount];
        };
        Copy *copies = nullptr;
        size_t count = 0;
        size_t capacity = 0;
        for (bool fits = false; !fits;) {
            if (capacity > 0)
                copies = static_cast<Copy *>(palloc_extended(sizeof(Copy) * capacity, MCXT_ALLOC_HUGE));
            LWLockAcquire(&flow->lock, LW_SHARED);
            const size_t lanes = lane_count(flow);
            fits = lanes <= capacity;
            count = 0;
            for (Lane *lane = flow->lanes; fits && lane != nullptr; lane = lane->next) {
                Copy &copy = copies[count++];
                copy = {lane->key, lane->claim.value, lane->done.value, {}};
                memcpy(copy.counts, lane->counts, sizeof copy.counts);
            }
            LWLockRelease(&flow->lock);
            capacity = std::max(capacity, lanes);
        }
        for (size_t i = 0; i < count; i++) {
            const Copy &copy = copies[i];
            Datum values[10] = {listed.name, Int32GetDatum(copy.key.priority),
                                ObjectIdGetDatum(copy.key.partition), Int64GetDatum(copy.claim),
                                Int64GetDatum(copy.done)};
            bool nulls[10] = {};
            nulls[3] = copy.claim == core::kNothing;
            nulls[4] = copy.done == core::kNothing;
            for (int s = 0; s < core::kStatusCount; s++)
                values[5 + s] = Int64GetDatum(copy.counts[s]);
            result.add(values, nulls);
        }
    }
    return 0;
}

} // namespace tasker::queue
