#include "stream/queue.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace tasker::stream {
namespace {

// Two tables over the same entries, emptied as a whole when tasker.queue changes.
struct NameEntry
{
    char name[kMaxNameBytes + 1];
    Queue queue;
};

struct IdEntry
{
    int32_t queue_id;
    Queue queue;
};

HTAB *by_name = nullptr;
HTAB *by_id = nullptr;
Oid queue_table = InvalidOid; // what the cache was filled from
bool cache_valid = false;
bool callback_registered = false;
uint64_t generation = 0;

void on_relcache_invalidation(Datum, Oid relid)
{
    if (relid == InvalidOid || relid == queue_table) {
        cache_valid = false;
        generation++;
    }
}

void begin_cache()
{
    pg::pg_call([] {
        if (!callback_registered) {
            CacheRegisterRelcacheCallback(on_relcache_invalidation, 0);
            callback_registered = true;
        }
        if (by_name != nullptr)
            hash_destroy(std::exchange(by_name, nullptr));
        if (by_id != nullptr)
            hash_destroy(std::exchange(by_id, nullptr));
        HASHCTL names{};
        names.keysize = kMaxNameBytes + 1;
        names.entrysize = sizeof(NameEntry);
        by_name = hash_create("tasker queues by name", 64, &names, HASH_ELEM | HASH_STRINGS);
        HASHCTL ids{};
        ids.keysize = sizeof(int32_t);
        ids.entrysize = sizeof(IdEntry);
        by_id = hash_create("tasker queues by id", 64, &ids, HASH_ELEM | HASH_BLOBS);
        queue_table = get_relname_relid("queue", get_namespace_oid("tasker", false));
        cache_valid = true;
    });
}

// Invalidations reach this backend when it next locks a relation; a look at the catalog cache does not lock
// one, so they are taken in here.
bool cache_ready()
{
    pg::pg_call([] { AcceptInvalidationMessages(); });
    return cache_valid;
}

#define SELECT_QUEUE                                                                                         \
    "select queue_id, queue_name, queue_cur_table, queue_data_pfx::regclass::oid, "                          \
    "(queue_data_pfx || '_0')::regclass::oid, (queue_data_pfx || '_1')::regclass::oid, "                     \
    "(queue_data_pfx || '_2')::regclass::oid, queue_event_seq::regclass::oid, "                              \
    "queue_tick_seq::regclass::oid, queue_switch_step1, queue_switch_step2, queue_external_ticker, "         \
    "queue_disable_insert, queue_ticker_paused, queue_paused, coalesce(queue_per_tx_limit, -1), "            \
    "queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period, queue_min_tick_interval, "      \
    "coalesce(queue_ttl, '0'), queue_max_retries from tasker.queue "

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
    return queue;
}

// The key in a zero-padded buffer, as HASH_STRINGS wants it.
struct NameKey
{
    char text[kMaxNameBytes + 1] = {};

    explicit NameKey(std::string_view name)
    {
        memcpy(text, name.data(), std::min<size_t>(name.size(), kMaxNameBytes));
    }
};

// Keeps a queue, unless the table changed while it was being read.
void keep(const Queue &queue)
{
    if (!cache_valid)
        return;
    pg::pg_call([&] {
        bool found = false;
        static_cast<NameEntry *>(hash_search(by_name, queue.name, HASH_ENTER, &found))->queue = queue;
        static_cast<IdEntry *>(hash_search(by_id, &queue.queue_id, HASH_ENTER, &found))->queue = queue;
    });
}

std::optional<Queue> read_queue(pg::Statement &query, const pg::Param &key)
{
    if (!cache_ready())
        begin_cache();
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {key});
    if (rows.empty())
        return std::nullopt;
    const Queue queue = queue_of_row(rows);
    keep(queue);
    return queue;
}

} // namespace

std::optional<Queue> find_queue(std::string_view name)
{
    static pg::Statement query(SELECT_QUEUE "where queue_name = $1", {TEXTOID});
    if (cache_ready()) {
        NameKey key(name);
        if (auto *entry = static_cast<NameEntry *>(hash_search(by_name, key.text, HASH_FIND, nullptr));
            entry != nullptr && name.size() <= kMaxNameBytes)
            return entry->queue;
    }
    return read_queue(query, name);
}

Queue queue_named(std::string_view name, Right right)
{
    if (const std::optional<Queue> queue = find_queue(name)) {
        require_right(right, queue->queue_id, queue->name);
        return *queue;
    }
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "queue \"%.*s\" does not exist", static_cast<int>(name.size()),
                    name.data())
        .hint("Create it with tasker.create_queue().");
}

std::optional<Queue> queue_with_id(int32_t queue_id)
{
    if (cache_ready()) {
        if (auto *entry = static_cast<IdEntry *>(hash_search(by_id, &queue_id, HASH_FIND, nullptr)))
            return entry->queue;
    }
    return read_queue_with_id(queue_id);
}

std::optional<Queue> read_queue_with_id(int32_t queue_id)
{
    static pg::Statement query(SELECT_QUEUE "where queue_id = $1", {INT4OID});
    return read_queue(query, queue_id);
}

void forget_queues()
{
    cache_valid = false;
}

uint64_t cache_generation()
{
    return generation;
}

} // namespace tasker::stream

using namespace tasker;

// The statement-level trigger of tasker.queue: all backends have cached what it says.
TASKER_FUNCTION(queue_changed)
{
    auto *trigger = reinterpret_cast<TriggerData *>(args.call()->context);
    if (!CALLED_AS_TRIGGER(args.call()))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function \"_queue_changed\" was not called by a trigger");
    pg::pg_call([&] { CacheInvalidateRelcache(trigger->tg_relation); });
    return 0;
}
