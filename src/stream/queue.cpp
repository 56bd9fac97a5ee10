#include "stream/queue.hpp"

#include "pg/function.hpp"
#include "pg/named_rows.hpp"
#include "pg/spi.hpp"
#include "stream/log.hpp"
#include "stream/wake_notes.hpp"

namespace tasker::stream {
namespace {

pg::NamedRows<Queue, &Queue::queue_id> queues("queue");

#define SELECT_QUEUE                                                                                         \
    "select queue_id, queue_name, queue_cur_table, queue_data_pfx::regclass::oid, "                          \
    "(queue_data_pfx || '_0')::regclass::oid, (queue_data_pfx || '_1')::regclass::oid, "                     \
    "(queue_data_pfx || '_2')::regclass::oid, queue_event_seq::regclass::oid, "                              \
    "queue_tick_seq::regclass::oid, queue_switch_step1, queue_switch_step2, queue_external_ticker, "         \
    "queue_disable_insert, queue_ticker_paused, queue_paused, coalesce(queue_per_tx_limit, -1), "            \
    "queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period, queue_min_tick_interval, "      \
    "coalesce(queue_ttl, '0'), queue_max_retries, "                                                          \
    "exists (select from tasker.queue_log l where l.queue_id = queue.queue_id), "                            \
    "coalesce((select log_offset from tasker.stream_origin), 0) from tasker.queue "

int64_t interval_us(const pg::Rows &rows, int column)
{
    return pg::interval_us(*DatumGetIntervalP(rows.datum(0, column)));
}

Queue queue_of_row(const pg::Rows &rows)
{
    Queue queue{};
    const std::string_view name = rows.text(0, 2);
    queue.queue_id = rows.i32(0, 1);
    memcpy(queue.name, name.data(), std::min<size_t>(name.size(), kMaxNameBytes));
    queue.current = rows.i32(0, 3);
    queue.parent = rows.oid(0, 4);
    for (int i = 0; i < kTables; i++)
        queue.tables[i] = rows.oid(0, 5 + i);
    queue.event_sequence = rows.oid(0, 8);
    queue.tick_sequence = rows.oid(0, 9);
    queue.switch_step1 = rows.i64(0, 10);
    if (!rows.is_null(0, 11))
        queue.switch_step2 = rows.i64(0, 11);
    queue.external_ticker = rows.boolean(0, 12);
    queue.disable_insert = rows.boolean(0, 13);
    queue.ticker_paused = rows.boolean(0, 14);
    queue.paused = rows.boolean(0, 15);
    queue.per_tx_limit = rows.i32(0, 16);
    queue.max_count = rows.i32(0, 17);
    queue.max_lag_us = interval_us(rows, 18);
    queue.idle_period_us = interval_us(rows, 19);
    queue.min_tick_interval_us = interval_us(rows, 20);
    queue.ttl_us = interval_us(rows, 21);
    queue.max_retries = rows.i32(0, 22);
    queue.has_log = rows.boolean(0, 23);
    queue.txid_offset = queue.has_log ? rows.i64(0, 24) : 0;
    return queue;
}

std::optional<Queue> read_queue(pg::Statement &query, const pg::Param &key)
{
    queues.begin();
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {key});
    if (rows.empty())
        return std::nullopt;
    const Queue queue = queue_of_row(rows);
    queues.keep(queue);
    return queue;
}

} // namespace

std::optional<Queue> find_queue(std::string_view name)
{
    static pg::Statement query(SELECT_QUEUE "where queue_name = $1", {TEXTOID});
    if (const Queue *queue = queues.find(name))
        return *queue;
    return read_queue(query, name);
}

Queue queue_named(std::string_view name, Right right)
{
    if (const std::optional<Queue> queue = find_queue(name)) {
        require_right(right, queue->queue_id, queue->name);
        return *queue;
    }
    if (create_registered_queue(name))
        return queue_named(name, right);
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "queue \"%.*s\" does not exist", static_cast<int>(name.size()),
                    name.data())
        .hint("Create it with tasker.create_queue().");
}

std::optional<Queue> queue_with_id(int32_t queue_id)
{
    if (const Queue *queue = queues.find(queue_id))
        return *queue;
    return read_queue_with_id(queue_id);
}

std::optional<Queue> read_queue_with_id(int32_t queue_id)
{
    static pg::Statement query(SELECT_QUEUE "where queue_id = $1", {INT4OID});
    return read_queue(query, queue_id);
}

void forget_queues()
{
    queues.watch().forget();
}

uint64_t cache_generation()
{
    return queues.watch().generation();
}

} // namespace tasker::stream

using namespace tasker;

// The statement-level trigger of tasker.queue and its like: all backends have cached what it says.
TASKER_FUNCTION(queue_changed)
{
    auto *trigger = reinterpret_cast<TriggerData *>(args.call()->context);
    if (!CALLED_AS_TRIGGER(args.call()))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function \"_queue_changed\" was not called by a trigger");
    pg::pg_call([&] { CacheInvalidateRelcache(trigger->tg_relation); });
    const char *table = RelationGetRelationName(trigger->tg_relation);
    if (strcmp(table, "queue_log") == 0 || strcmp(table, "stream_origin") == 0) // parts of a cached queue
        pg::pg_call([] {
            CacheInvalidateRelcacheByRelid(get_relname_relid("queue", get_namespace_oid("tasker", false)));
        });
    // The ticker and those who wait for a batch act by the settings; a queue that is new has neither.
    if (strcmp(table, "metadata_rotation") != 0 &&
        !(strcmp(table, "queue") == 0 && TRIGGER_FIRED_BY_INSERT(trigger->tg_event)))
        stream::note_settings();
    return 0;
}
