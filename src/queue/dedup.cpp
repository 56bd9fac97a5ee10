// Deduplication keys: one row per key in use, so that an index makes two enqueues of one key meet.
//
// INVARIANT: a key in use names the record that holds it. The row is written in the transaction that adds the
// record, so both appear or neither does; a second enqueue of the key waits at the row for the first one's
// outcome. Nothing touches the row when the record finishes: whether the key is still in use is decided by
// the record's own state when somebody asks. Rows of keys no longer in use are removed by the worker.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/duties.hpp"
#include "queue/enqueue.hpp"
#include "queue/lookup.hpp"

namespace tasker::queue {
namespace {

constexpr size_t kMaxKeyBytes = 1024; // must fit into an index entry together with the flow

bool in_window(int64_t holder, std::optional<int64_t> window_us, TimestampTz now)
{
    if (!window_us)
        return false;
    const int64_t age = pg::unix_us_of_timestamp(now) - core::unix_us_of(holder);
    return age < *window_us;
}

bool is_live(Oid parent, int64_t id)
{
    std::optional<RecordHead> head = read_head(parent, id);
    return head && !core::is_terminal(head->status);
}

} // namespace

std::optional<int64_t> take_dedup_key(Oid parent, const Flow &flow, std::string_view key,
                                      std::optional<int64_t> window_us, int64_t new_id)
{
    static pg::Statement insert("insert into tasker.dedup_key (flow_id, dedup_key, record_id, expires_at) "
                                "values ($1, $2, $3, $4) on conflict do nothing",
                                {INT4OID, TEXTOID, INT8OID, TIMESTAMPTZOID});
    static pg::Statement look("select record_id, coalesce(expires_at, '-infinity') from tasker.dedup_key "
                              "where flow_id = $1 and dedup_key = $2 for update",
                              {INT4OID, TEXTOID});
    static pg::Statement take("update tasker.dedup_key set record_id = $3, expires_at = $4 "
                              "where flow_id = $1 and dedup_key = $2",
                              {INT4OID, TEXTOID, INT8OID, TIMESTAMPTZOID});

    if (key.empty() || key.size() > kMaxKeyBytes)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "dedup_key must have 1 to %zu bytes", kMaxKeyBytes);
    const TimestampTz now = GetCurrentTimestamp();
    std::optional<pg::Timestamp> expires;
    if (window_us)
        expires = pg::Timestamp{*window_us < PG_INT64_MAX / 2 - now ? now + *window_us : DT_NOEND};

    pg::Spi spi;
    for (;;) {
        if (spi.run(insert, {flow.flow_id, key, new_id, expires}).count() > 0)
            return std::nullopt;
        pg::Rows rows = spi.run(look, {flow.flow_id, key});
        if (rows.empty()) { // its row went away between the two
            pg::check_for_interrupts();
            continue;
        }
        const int64_t holder = rows.i64(0, 1);
        const bool held = DatumGetTimestampTz(rows.datum(0, 2)) > now || in_window(holder, window_us, now) ||
                          pg::pg_call([&] { return is_live(parent, holder); });
        if (held)
            return holder;
        spi.run(take, {flow.flow_id, key, new_id, expires});
        return std::nullopt;
    }
}

// Looks through the keys whose window has passed, oldest records first, a limited number each time.
int64_t expire_dedup_keys()
{
    static pg::Statement expire("delete from tasker.dedup_key d using ("
                                "  select k.flow_id, k.dedup_key from tasker.dedup_key k "
                                "  where coalesce(k.expires_at, '-infinity') <= pg_catalog.now() "
                                "    and not exists (select from tasker.queue_record r where r.id = "
                                "k.record_id and r.status in ('p', 'r')) "
                                // A key without a window may be asked for with one later: it stays for a day.
                                "    and k.record_id < (extract(epoch from pg_catalog.now() - interval '1 "
                                "day') * 1000)::bigint << 20 "
                                "  limit 10000 for update skip locked) gone "
                                "where d.flow_id = gone.flow_id and d.dedup_key = gone.dedup_key",
                                {});
    pg::Spi spi;
    return static_cast<int64_t>(spi.run(expire).count());
}

} // namespace tasker::queue
