// get_queue_info(), get_consumer_info(), get_batch_info(): PgQ's columns, and some of our own after them.
// Each caller sees the queues that he has a right to see.
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/overview.hpp"
#include "stream/rights.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

constexpr int64_t kTicksOfRate = 20; // events per second are counted over so many ticks

// A row under construction: columns are added in their order.
template <int columns> class Row
{
  public:
    Row &add(Datum value)
    {
        values_[count_++] = value;
        return *this;
    }
    Row &add_null()
    {
        nulls_[count_++] = true;
        return *this;
    }
    Row &add_i64(std::optional<int64_t> value) { return value ? add(Int64GetDatum(*value)) : add_null(); }
    Row &add_time(std::optional<TimestampTz> value)
    {
        return value ? add(TimestampTzGetDatum(*value)) : add_null();
    }
    // How long ago, as `current_timestamp - time`.
    Row &add_age(std::optional<TimestampTz> time)
    {
        if (!time)
            return add_null();
        return add(pg::pg_call([&] {
            return DirectFunctionCall2(timestamp_mi,
                                       TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()),
                                       TimestampTzGetDatum(*time));
        }));
    }
    Row &add_column(const pg::Rows &rows, uint64 row, int column)
    {
        return rows.is_null(row, column) ? add_null() : add(rows.datum(row, column));
    }
    void put(pg::ResultSet &result)
    {
        Assert(count_ == columns && result.columns() == columns);
        result.add(values_, nulls_);
    }
    Datum composite(const pg::Args &args)
    {
        Assert(count_ == columns);
        return pg::pg_call([&] {
            TupleDesc descriptor = nullptr;
            if (get_call_result_type(args.call(), nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
                elog(ERROR, "return type must be a row type");
            return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values_, nulls_));
        });
    }

  private:
    Datum values_[columns]{};
    bool nulls_[columns]{};
    int count_ = 0;
};

// The queues of that name, or all, which the caller may see; ascending. An Spi object acts as the owner, who
// sees all: so this is found out before.
class VisibleQueues
{
  public:
    explicit VisibleQueues(std::optional<std::string_view> name) : ids_(&memory_)
    {
        static pg::Statement query("select queue_id from tasker.queue where $1 is null or queue_name = $1 "
                                   "order by queue_id",
                                   {TEXTOID});
        {
            pg::Spi spi;
            const pg::Rows rows = spi.read_latest(query, {name});
            for (uint64 i = 0; i < rows.count(); i++)
                ids_.push_back(rows.i32(i, 1));
        }
        ids_.erase(std::remove_if(ids_.begin(), ids_.end(), [](int32_t id) { return !may(Right::see, id); }),
                   ids_.end());
    }

    bool contains(int32_t id) const { return std::binary_search(ids_.begin(), ids_.end(), id); }
    bool empty() const { return ids_.empty(); }

  private:
    pg::ContextResource memory_;
    pg::Vector<int32_t> ids_;
};

std::optional<TimestampTz> time_of(const std::optional<Tick> &tick)
{
    return tick ? std::optional(tick->time) : std::nullopt;
}

std::optional<int64_t> events_between(const std::optional<Tick> &from, const std::optional<Tick> &to)
{
    return from && to ? std::optional(to->event_seq - from->event_seq) : std::nullopt;
}

// Events per second over the last ticks; nothing where they have no duration.
std::optional<double> rate_of(Overview &overview, int32_t queue_id, const Tick &last)
{
    const std::optional<Tick> before = overview.first_tick_from(queue_id, last.id - kTicksOfRate);
    if (!before || before->time >= last.time)
        return std::nullopt;
    return static_cast<double>(last.event_seq - before->event_seq) /
           (static_cast<double>(last.time - before->time) / USECS_PER_SEC);
}

constexpr int kOfQueueTable = 10; // the first columns of get_queue_info()
constexpr int kQueueColumns = 23;

#define SELECT_QUEUES                                                                                        \
    "select queue_name, queue_ntables, queue_cur_table, queue_rotation_period, queue_switch_time, "          \
    "queue_external_ticker, queue_ticker_paused, queue_ticker_max_count, queue_ticker_max_lag, "             \
    "queue_ticker_idle_period, queue_id, pg_catalog.to_regclass(queue_event_seq)::oid, "                     \
    "queue_paused, queue_disable_insert, queue_rotation_deferrals, queue_rotation_held_by, "                 \
    "queue_metadata_rotation_period, rotation_subscription_deferrals, rotation_tick_deferrals, "             \
    "rotation_held_by, queue_ttl from tasker.queue cross join tasker.metadata_rotation "

void add_queue(pg::ResultSet &result, Overview &overview, const pg::Rows &rows, uint64 row)
{
    const int32_t queue_id = rows.i32(row, 11);
    const std::optional<Tick> last = overview.last_tick(queue_id);
    const std::optional<int64_t> event_seq =
        rows.is_null(row, 12) ? std::nullopt : peek_sequence(rows.oid(row, 12));
    const std::optional<double> rate = last ? rate_of(overview, queue_id, *last) : std::nullopt;
    Row<kQueueColumns> queue;
    for (int i = 1; i <= kOfQueueTable; i++)
        queue.add_column(rows, row, i);
    queue.add_age(time_of(last));
    if (rate)
        queue.add(pg::pg_call([&] { return Float8GetDatum(*rate); }));
    else
        queue.add_null();
    queue.add_i64(last && event_seq ? std::optional(*event_seq - last->event_seq) : std::nullopt);
    queue.add_i64(last ? std::optional(last->id) : std::nullopt);
    for (int i = 13; i <= 21; i++)
        queue.add_column(rows, row, i);
    queue.put(result);
}

} // namespace

// get_queue_info([i_queue_name]); null: all.
TASKER_FUNCTION(get_queue_info)
{
    static pg::Statement all(SELECT_QUEUES "order by queue_name", {});
    static pg::Statement one(SELECT_QUEUES "where queue_name = $1", {TEXTOID});
    pg::ResultSet result(args.call());
    const std::optional<std::string_view> name = args.optional_text(0);
    pg::Spi spi;
    const pg::Rows rows = name ? spi.read_latest(one, {*name}) : spi.read_latest(all);
    if (rows.empty())
        return 0;
    Overview overview;
    for (uint64 i = 0; i < rows.count(); i++) {
        if (may(Right::see, rows.i32(i, 11)))
            add_queue(result, overview, rows, i);
        pg::check_for_interrupts();
    }
    return 0;
}

// get_consumer_info([i_queue_name [, i_consumer_name]]); null: all.
TASKER_FUNCTION(get_consumer_info)
{
    static pg::Statement query(
        "select q.queue_name, c.co_name, r.sub_key, r.sub_queue from tasker.registration r "
        "join tasker.queue q on q.queue_id = r.sub_queue join tasker.consumer c on c.co_id = r.sub_consumer "
        "where ($1 is null or q.queue_name = $1) and ($2 is null or c.co_name = $2) order by 1, 2",
        {TEXTOID, TEXTOID});
    pg::ResultSet result(args.call());
    const VisibleQueues visible(args.optional_text(0));
    if (visible.empty())
        return 0;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {args.optional_text(0), args.optional_text(1)});
    Overview overview;
    for (uint64 i = 0; i < rows.count(); i++) {
        const int32_t queue_id = rows.i32(i, 4);
        if (!may(Right::see, queue_id))
            continue;
        const std::optional<Standing> at = overview.standing(rows.i32(i, 3));
        if (!at)
            continue; // unregistered since, and its versions emptied away
        const std::optional<Tick> tick = overview.find_tick(queue_id, at->last_tick);
        Row<8> consumer;
        consumer.add_column(rows, i, 1).add_column(rows, i, 2).add_age(time_of(tick)).add_age(at->active);
        consumer.add_i64(at->last_tick).add_i64(at->batch).add_i64(at->next_tick);
        consumer.add_i64(events_between(tick, overview.last_tick(queue_id)));
        consumer.put(result);
        pg::check_for_interrupts();
    }
    return 0;
}

namespace {

constexpr int kBatchColumns = 9;

Datum no_batch(const pg::Args &args)
{
    Row<kBatchColumns> row;
    for (int i = 0; i < kBatchColumns; i++)
        row.add_null();
    return row.composite(args);
}

} // namespace

// get_batch_info(x_batch_id): all null when it is not open.
TASKER_FUNCTION(get_batch_info)
{
    static pg::Statement names("select q.queue_name, c.co_name from tasker.queue q, tasker.consumer c "
                               "where q.queue_id = $1 and c.co_id = $2",
                               {INT4OID, INT4OID});
    const std::optional<int64_t> batch_id = args.optional_i64(0);
    const std::optional<Subscription> subscription = batch_id ? find_batch(*batch_id, false) : std::nullopt;
    if (!subscription || !subscription->last_tick || !subscription->next_tick)
        return no_batch(args);
    const std::optional<Tick> previous = find_tick(subscription->queue_id, *subscription->last_tick);
    const std::optional<Tick> current = find_tick(subscription->queue_id, *subscription->next_tick);
    const MemoryContext memory = CurrentMemoryContext; // the result outlives the Spi object
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(names, {subscription->queue_id, subscription->consumer_id});
    const pg::MemoryContextScope scope(memory);
    if (!previous || !current || rows.empty())
        return no_batch(args);
    Row<kBatchColumns> row;
    row.add_column(rows, 0, 1).add_column(rows, 0, 2);
    row.add_time(previous->time).add_time(current->time).add_i64(previous->id).add_i64(current->id);
    row.add_age(current->time).add_i64(previous->event_seq).add_i64(current->event_seq);
    return row.composite(args);
}
