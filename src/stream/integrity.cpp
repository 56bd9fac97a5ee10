// Proofs: do the stream's tables keep its rules?
//
// Each rule is asked in one statement, so it holds in any snapshot, also while others write. The tables that
// are rotated are kept from being emptied meanwhile (pin_subscriptions, pin_ticks).
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "stream/event.hpp"
#include "stream/log_reader.hpp"
#include "stream/slots.hpp"
#include "stream/tick.hpp"

namespace tasker::stream {
namespace {

void report(pg::ResultSet &result, std::string_view object, std::string_view problem)
{
    const Datum values[2] = {pg::Param(object).value, pg::Param(problem).value};
    const bool nulls[2] = {};
    result.add(values, nulls);
}

void report_rows(pg::ResultSet &result, const pg::Rows &rows)
{
    for (uint64 i = 0; i < rows.count(); i++)
        report(result, rows.text(i, 1), rows.text(i, 2));
}

#define NAME_OF_SUBSCRIPTION                                                                                 \
    "pg_catalog.format('subscription %s (consumer \"%s\" of queue \"%s\")', r.sub_key, "                     \
    "coalesce(c.co_name, r.sub_consumer::text), coalesce(q.queue_name, r.sub_queue::text))"
#define REGISTRATIONS                                                                                        \
    "from tasker.registration r left join tasker.queue q on q.queue_id = r.sub_queue "                       \
    "left join tasker.consumer c on c.co_id = r.sub_consumer "
#define VERSIONS                                                                                             \
    "(select * from tasker.subscription_0 union all select * from tasker.subscription_1 "                    \
    "union all select * from tasker.subscription_2)"

pg::Statement
    broken_registrations("select " NAME_OF_SUBSCRIPTION ", problem " REGISTRATIONS ", lateral (values "
                         "  (q.queue_id is null, 'its queue does not exist'), "
                         "  (c.co_id is null, 'its consumer does not exist'), "
                         "  (not exists (select from " VERSIONS
                         " v where v.sub_key = r.sub_key), 'it has no version'), "
                         "  (not exists (select from tasker.registration o where o.sub_key = r.sub_id), "
                         "   'it is a member of a consumer that does not exist') "
                         ") rules (broken, problem) where broken",
                         {});

pg::Statement
    double_versions("select pg_catalog.format('subscription %s', sub_key), "
                    "pg_catalog.format('its version %s stands more than once', sub_version) from " VERSIONS
                    " v "
                    "group by sub_key, sub_version having pg_catalog.count(*) > 1",
                    {});

// The newest versions.
pg::Statement broken_positions(
    "select " NAME_OF_SUBSCRIPTION ", problem " REGISTRATIONS "join lateral (select * from " VERSIONS
    " v where v.sub_key = r.sub_key order by sub_version desc limit 1) s "
    "on true, lateral (values "
    "  (s.sub_last_tick is null and r.sub_id = r.sub_key, 'it stands nowhere'), "
    "  (s.sub_last_tick is not null and not exists (select from tasker.tick t "
    "     where t.tick_queue = r.sub_queue and t.tick_id = s.sub_last_tick), "
    "   pg_catalog.format('it stands at tick %s, which does not exist', s.sub_last_tick)), "
    "  (s.sub_next_tick is not null and not exists (select from tasker.tick t "
    "     where t.tick_queue = r.sub_queue and t.tick_id = s.sub_next_tick), "
    "   pg_catalog.format('its batch ends at tick %s, which does not exist', s.sub_next_tick)), "
    "  ((s.sub_batch is null) <> (s.sub_next_tick is null), 'it has half a batch'), "
    "  (s.sub_next_tick <= s.sub_last_tick, 'its batch ends before it begins'), "
    "  (s.sub_batch & 1048575 <> r.sub_key & 1048575, "
    "   pg_catalog.format('its batch %s is named as that of another one', s.sub_batch)) "
    ") rules (broken, problem) where broken",
    {});

pg::Statement double_ticks(
    "select pg_catalog.format('tick %s of queue %s', tick_id, tick_queue), 'it stands more than once' "
    "from tasker.tick group by tick_queue, tick_id having pg_catalog.count(*) > 1",
    {});

pg::Statement stray_ticks(
    "select pg_catalog.format('tick %s of queue %s', t.tick_id, t.tick_queue), 'its queue does not exist' "
    "from tasker.tick t where not exists (select from tasker.queue q where q.queue_id = t.tick_queue)",
    {});

// Ids of logs are above the server's: see log.hpp.
#define OFFSET_OF_QUEUE                                                                                      \
    "case when exists (select from tasker.queue_log l where l.queue_id = q.queue_id) "                       \
    "then coalesce((select log_offset from tasker.stream_origin), 0) else 0 end"

pg::Statement all_ticks("select t.tick_queue, t.tick_id, q.queue_name, t.tick_snapshot, " OFFSET_OF_QUEUE
                        " from tasker.tick t "
                        "join tasker.queue q on q.queue_id = t.tick_queue order by t.tick_queue, t.tick_id",
                        {});

pg::Statement
    missing_logs("select pg_catalog.format('queue %s', coalesce(q.queue_name, l.queue_id::text)), problem "
                 "from tasker.queue_log l left join tasker.queue q using (queue_id), lateral (values "
                 "  (q.queue_id is null, 'it has a log, and does not exist'), "
                 "  (not exists (select from pg_catalog.pg_class c where c.oid = l.log_table), "
                 "   pg_catalog.format('its log %s does not exist', l.log_number)) "
                 ") rules (broken, problem) where broken",
                 {});

pg::Statement stray_retries(
    "select pg_catalog.format('retried event %s of queue %s', e.ev_id, e.ev_queue), problem "
    "from tasker.retry_queue e, lateral (values "
    "  (not exists (select from tasker.queue q where q.queue_id = e.ev_queue), 'its queue does not exist'), "
    "  (e.ev_owner <> 0 and not exists (select from tasker.registration r "
    "     where r.sub_id = e.ev_owner and r.sub_queue = e.ev_queue), 'nobody has asked for it') "
    ") rules (broken, problem) where broken",
    {});

pg::Statement
    broken_pointer("select 'metadata_rotation', 'it has no row' where exists (select from tasker.queue) "
                   "and not exists (select from tasker.metadata_rotation)",
                   {});

pg::Statement missing_objects(
    "select pg_catalog.format('queue \"%s\"', q.queue_name), "
    "pg_catalog.format('%s \"%s\" does not exist', o.kind, o.name) from tasker.queue q, lateral (values "
    "  ('table', q.queue_data_pfx), ('table', q.queue_data_pfx || '_0'), ('table', q.queue_data_pfx || "
    "'_1'), "
    "  ('table', q.queue_data_pfx || '_2'), ('sequence', q.queue_event_seq), ('sequence', q.queue_tick_seq) "
    ") o (kind, name) where pg_catalog.to_regclass(o.name) is null",
    {});

pg::Statement missing_indexes(
    "select pg_catalog.format('queue \"%s\"', q.queue_name), "
    "pg_catalog.format('table \"%s_%s\" has no index on ev_txid', q.queue_data_pfx, n) "
    "from tasker.queue q, pg_catalog.generate_series(0, 2) n "
    "where pg_catalog.to_regclass(q.queue_data_pfx || '_' || n) is not null and not exists ("
    "  select from pg_catalog.pg_index i join pg_catalog.pg_attribute a on a.attrelid = i.indrelid "
    "  and a.attnum = i.indkey[0] where i.indrelid = pg_catalog.to_regclass(q.queue_data_pfx || '_' || n) "
    "  and a.attname = 'ev_txid' and i.indnatts = 1 and i.indisvalid and i.indpred is null)",
    {});

pg::Statement
    orphans("select pg_catalog.format('table \"tasker.%s\"', c.relname), 'it belongs to no queue' "
            "from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = 'tasker' and c.relkind = 'r' and c.relname ~ '^event_[0-9]+(_[0-2])?$' "
            "and not exists (select from tasker.queue q where 'tasker.' || c.relname in "
            "  (q.queue_data_pfx, q.queue_data_pfx || '_0', q.queue_data_pfx || '_1', "
            "   q.queue_data_pfx || '_2'))",
            {});

pg::Statement event_tables(
    "select queue_id, n, t::regclass::text from (select q.queue_id, n, "
    "  pg_catalog.to_regclass(q.queue_data_pfx || case when n < 3 then '_' || n else '' end) as t "
    "  from tasker.queue q, pg_catalog.generate_series(0, 3) n) tables where t is not null order by 1, 2",
    {});

constexpr int kParent = 3; // as a number of a table

// A table other than the current one holds nothing of transactions from after step 2, and none holds
// anything of transactions that have not begun. Nobody reads the parent.
void check_events(pg::ResultSet &result)
{
    pg::Spi spi;
    const pg::Rows tables = spi.read_latest(event_tables);
    for (uint64 i = 0; i < tables.count(); i++) {
        const std::string_view name = tables.text(i, 3);
        const int32_t queue_id = tables.i32(i, 1);
        const int32_t number = tables.i32(i, 2);
        const char *sql = pg::pg_call([&] {
            return psprintf("select pg_catalog.format('event %%s of queue \"%%s\"', e.ev_id, q.queue_name), "
                            "pg_catalog.format('it is of transaction %%s, and cannot be in table %%s', "
                            "  e.ev_txid, e.tableoid::regclass) "
                            "from tasker.queue q, only %.*s e where q.queue_id = %d and (%s "
                            "e.ev_txid >= pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) "
                            "+ " OFFSET_OF_QUEUE " "
                            "or (q.queue_cur_table <> %d and e.ev_txid > q.queue_switch_step2)) limit 10",
                            static_cast<int>(name.size()), name.data(), queue_id,
                            number == kParent ? "true or" : "", number);
        });
        pg::Spi one;
        report_rows(result, one.run_text(sql));
        pg::check_for_interrupts();
    }
}

// Each tick's snapshot was taken after that of the tick before.
void check_ticks(pg::ResultSet &result)
{
    const auto next = U64FromFullTransactionId(ReadNextFullTransactionId());
    pg::Spi spi;
    const pg::Rows rows = spi.run(all_ticks);
    core::TickSnapshot before{};
    for (uint64 i = 0; i < rows.count(); i++) {
        const core::TickSnapshot now = snapshot_of_datum(rows.datum(i, 4));
        const bool is_first = i == 0 || rows.i32(i, 1) != rows.i32(i - 1, 1);
        const char *problem = nullptr;
        if (!is_first && !core::follows(now, before))
            problem = "its snapshot is not later than that of the tick before";
        else if (now.xmax > next + static_cast<uint64_t>(rows.i64(i, 5)))
            problem = "its snapshot is of transactions that have not begun: see tasker.after_restore()";
        if (problem != nullptr) {
            const std::string_view queue = rows.text(i, 3);
            report(result, pg::pg_call([&] {
                       return psprintf("tick " INT64_FORMAT " of queue \"%.*s\"", rows.i64(i, 2),
                                       static_cast<int>(queue.size()), queue.data());
                   }),
                   problem);
        }
        before = now;
        pg::check_for_interrupts();
    }
}

// Every table of a log can be looked through, and holds nothing of transactions that have not begun.
void check_log(pg::ResultSet &result, const char *queue, const LogTable &log, int64_t offset)
{
    List *tables = pg::pg_call([&] { return tables_of_log(log.table); });
    for (int i = 0; i < list_length(tables); i++) {
        const Oid table = list_nth_oid(tables, i);
        int64_t last = 0;
        const auto error = pg::try_in_subtransaction(
            [&] { last = pg::pg_call([&] { return last_log_id(table, log.txid_column); }); });
        const auto next = static_cast<int64_t>(U64FromFullTransactionId(ReadNextFullTransactionId()));
        if (!error && last < next + offset)
            continue;
        const char *problem = error ? error->message() : pg::pg_call([&] {
            return psprintf("table \"%s\" of its log has rows of transaction " INT64_FORMAT
                            ", which has not begun: see tasker.log_txid()",
                            get_rel_name(table), last);
        });
        report(result, pg::pg_call([&] { return psprintf("queue \"%s\"", queue); }), problem);
        pg::check_for_interrupts();
    }
}

void check_logs(pg::ResultSet &result)
{
    static pg::Statement queues("select q.queue_id, q.queue_name, " OFFSET_OF_QUEUE
                                " from tasker.queue q where exists "
                                "(select from tasker.queue_log l where l.queue_id = q.queue_id) order by 1",
                                {});
    static pg::Statement exists("select from pg_catalog.pg_class where oid = $1", {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(queues);
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view name = rows.text(i, 2);
        const char *queue = pg::pg_call([&] { return pnstrdup(name.data(), name.size()); });
        for (const LogTable &log : logs_of(rows.i32(i, 1))) {
            if (!pg::Spi().run(exists, {log.table}).empty())
                check_log(result, queue, log, rows.i64(i, 3));
        }
    }
}

bool has_slots()
{
    static pg::Statement query("select from tasker.metadata_rotation", {});
    return !pg::Spi().read_latest(query).empty();
}

} // namespace

TASKER_FUNCTION(check_stream_integrity)
{
    pg::ResultSet result(args.call());
    if (has_slots()) {
        pin_subscriptions();
        pin_ticks();
    }
    {
        pg::Spi spi;
        for (pg::Statement *rule :
             {&broken_pointer, &broken_registrations, &double_versions, &broken_positions, &double_ticks,
              &stray_ticks, &stray_retries, &missing_logs, &missing_objects, &missing_indexes, &orphans})
            report_rows(result, spi.run(*rule));
    }
    check_ticks(result);
    check_events(result);
    check_logs(result);
    return 0;
}

} // namespace tasker::stream
