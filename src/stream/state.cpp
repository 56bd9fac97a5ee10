#include "stream/state.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace tasker::stream {
namespace {

// The text outlives the Spi object.
const char *keep_text(const pg::Rows &rows, uint64 row, int column, MemoryContext memory)
{
    const std::string_view text = rows.text(row, column);
    const pg::MemoryContextScope scope(memory);
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

void read_queues(StreamState &state, MemoryContext memory, Overview &overview, const pg::Rows &rows)
{
    state.queues.reserve(rows.count());
    for (uint64 i = 0; i < rows.count(); i++) {
        QueueState queue{};
        queue.queue_id = rows.i32(i, 1);
        queue.name = keep_text(rows, i, 2, memory);
        queue.own_ticker = rows.boolean(i, 3);
        queue.paused = rows.boolean(i, 4);
        queue.max_lag_us = pg::interval_us(*DatumGetIntervalP(rows.datum(i, 5)));
        queue.deferrals = rows.i64(i, 6);
        queue.held_by = keep_text(rows, i, 7, memory);
        queue.last_tick = overview.last_tick(queue.queue_id);
        if (!rows.is_null(i, 8))
            queue.event_seq = peek_sequence(rows.oid(i, 8)).value_or(0);
        state.queues.push_back(queue);
    }
}

// Both the rows and the queues are in the order of queue ids.
void read_consumers(StreamState &state, MemoryContext memory, Overview &overview, const pg::Rows &rows)
{
    auto queue = state.queues.begin();
    state.consumers.reserve(rows.count());
    for (uint64 i = 0; i < rows.count(); i++) {
        const int32_t queue_id = rows.i32(i, 1);
        while (queue != state.queues.end() && queue->queue_id < queue_id)
            ++queue;
        const std::optional<Standing> at = overview.standing(rows.i32(i, 2));
        if (queue == state.queues.end() || queue->queue_id != queue_id || !at)
            continue;
        ConsumerState consumer{&*queue, keep_text(rows, i, 3, memory), at->active, at->batch, {}};
        const bool is_at_last = queue->last_tick && at->last_tick == queue->last_tick->id;
        consumer.tick = is_at_last ? queue->last_tick : overview.find_tick(queue_id, at->last_tick);
        state.consumers.push_back(consumer);
    }
}

} // namespace

void read_state(StreamState &state)
{
    static pg::Statement queues(
        "select queue_id, queue_name, not (queue_external_ticker or queue_ticker_paused) and "
        "not (exists (select from tasker.queue_log l where l.queue_id = q.queue_id) and "
        "not exists (select from tasker.registration r where r.sub_queue = q.queue_id)), queue_paused, "
        "queue_ticker_max_lag, queue_rotation_deferrals, queue_rotation_held_by, "
        "pg_catalog.to_regclass(queue_event_seq)::oid from tasker.queue q order by queue_id",
        {});
    static pg::Statement consumers("select r.sub_queue, r.sub_key, c.co_name from tasker.registration r "
                                   "join tasker.consumer c on c.co_id = r.sub_consumer order by r.sub_queue",
                                   {});
    static pg::Statement rotation("select rotation_subscription_deferrals, rotation_tick_deferrals, "
                                  "rotation_held_by from tasker.metadata_rotation",
                                  {});
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rotation_row = spi.read_latest(rotation);
    if (rotation_row.empty())
        return; // before the first queue
    state.subscription_deferrals = rotation_row.i64(0, 1);
    state.tick_deferrals = rotation_row.i64(0, 2);
    state.metadata_held_by = keep_text(rotation_row, 0, 3, memory);
    const pg::Rows queue_rows = spi.read_latest(queues);
    const pg::Rows consumer_rows = spi.read_latest(consumers);
    Overview overview;
    read_queues(state, memory, overview, queue_rows);
    read_consumers(state, memory, overview, consumer_rows);
}

int64_t ticker_lag_us(const QueueState &queue, TimestampTz now)
{
    if (!queue.own_ticker || !queue.last_tick || queue.event_seq <= queue.last_tick->event_seq)
        return 0;
    return std::max<int64_t>(now - queue.last_tick->time, 0);
}

int64_t consumer_lag_us(const ConsumerState &consumer, TimestampTz now)
{
    const std::optional<Tick> &last = consumer.queue->last_tick;
    if (!consumer.tick || !last || last->event_seq <= consumer.tick->event_seq)
        return 0;
    return std::max<int64_t>(now - consumer.tick->time, 0);
}

int64_t pending_events(const ConsumerState &consumer)
{
    if (!consumer.tick)
        return 0;
    return std::max<int64_t>(consumer.queue->event_seq - consumer.tick->event_seq, 0);
}

// The ids of transactions that no tick has seen begin where the last tick's snapshot ends.
std::optional<TimestampTz> first_event_without_tick(const QueueState &state)
{
    const std::optional<Queue> queue = queue_with_id(state.queue_id);
    const std::optional<core::TickSnapshot> snapshot =
        queue && state.last_tick ? find_snapshot(state.queue_id, state.last_tick->id) : std::nullopt;
    if (!snapshot)
        return std::nullopt;
    pg::Spi spi;
    const char *sql = pg::pg_call([&]() -> const char * {
        const Oid table = queue->tables[queue->current];
        const char *name = get_rel_name(table);
        if (name == nullptr)
            return nullptr;
        const char *schema = get_namespace_name(get_rel_namespace(table));
        return psprintf("select ev_time from %s where ev_txid >= " UINT64_FORMAT " order by ev_txid limit 1",
                        quote_qualified_identifier(schema, name), snapshot->xmax);
    });
    if (sql == nullptr)
        return std::nullopt;
    const pg::Rows rows = spi.read_text_under(sql, pg::pg_call([] { return GetLatestSnapshot(); }));
    return rows.empty() ? std::nullopt : std::optional(static_cast<TimestampTz>(rows.i64(0, 1)));
}

} // namespace tasker::stream
