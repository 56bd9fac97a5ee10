#include "stream/log_restore.hpp"

#include "pg/spi.hpp"
#include "stream/event.hpp"
#include "stream/index.hpp"
#include "stream/log_ddl.hpp"
#include "stream/log_reader.hpp"
#include "stream/restore.hpp"

namespace tasker::stream {
namespace {

// A table that holds log ids.
struct IdTable
{
    Oid table;
    const char *column;
};

const char *qualified_name(Oid table)
{
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), get_rel_name(table));
}

// Has it ids with a mark? Plain C: may ereport.
bool has_marked(const IdTable &ids)
{
    Relation heap = table_open(ids.table, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, txid_column_of(heap, ids.column), BTGreaterEqualStrategyNumber, F_INT8GE,
                Int64GetDatum(kAfterRestore));
    Relation index = open_index_on(heap, key.sk_attno, AccessShareLock);
    Snapshot latest = RegisterSnapshot(GetLatestSnapshot());
    SysScanDesc scan = systable_beginscan(heap, RelationGetRelid(index), true, latest, 1, &key);
    const bool found = HeapTupleIsValid(systable_getnext(scan));
    systable_endscan(scan);
    UnregisterSnapshot(latest);
    index_close(index, AccessShareLock);
    table_close(heap, AccessShareLock);
    return found;
}

// As the owner of the table, whose triggers may have to say something to that.
void unmark(const IdTable &ids, int64_t id)
{
    const Oid owner = pg::pg_call([&] {
        Relation heap = table_open(ids.table, RowExclusiveLock);
        const Oid found = heap->rd_rel->relowner;
        table_close(heap, NoLock);
        return found;
    });
    const pg::AsOwner as_owner(owner);
    pg::Spi spi(pg::Spi::Identity::caller);
    const char *column = pg::pg_call([&] { return quote_identifier(ids.column); });
    spi.run_text(pg::pg_call([&] {
        return psprintf("update only %s set %s = " INT64_FORMAT " where %s >= " INT64_FORMAT,
                        qualified_name(ids.table), column, id, column, kAfterRestore);
    }));
}

// Writers lock a log first and then the queue: so do we.
void list_tables(pg::Vector<IdTable> &tables)
{
    static pg::Statement logs(
        "select distinct on (log_table) log_table::oid, log_txid::text from tasker.queue_log "
        "order by log_table",
        {});
    static pg::Statement events("select (q.queue_data_pfx || '_' || n)::regclass::oid from tasker.queue q, "
                                "pg_catalog.generate_series(0, 2) n where exists "
                                "(select from tasker.queue_log l where l.queue_id = q.queue_id) order by 1",
                                {});
    const MemoryContext memory = CurrentMemoryContext;
    pg::ContextResource resource;
    pg::Vector<IdTable> parents(&resource);
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(logs);
        for (uint64 i = 0; i < rows.count(); i++) {
            const std::string_view column = rows.text(i, 2);
            parents.push_back({rows.oid(i, 1), pg::pg_call([&] {
                                   return MemoryContextStrdup(memory, pnstrdup(column.data(), column.size()));
                               })});
        }
    }
    for (const IdTable &log : parents) {
        lock_out_writers_of(log.table);
        List *leaves = pg::pg_call([&] { return tables_of_log(log.table); });
        for (int i = 0; i < list_length(leaves); i++)
            tables.push_back({list_nth_oid(leaves, i), log.column});
    }
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(events);
    for (uint64 i = 0; i < rows.count(); i++) {
        lock_out_writers_of(rows.oid(i, 1));
        tables.push_back({rows.oid(i, 1), "ev_txid"});
    }
}

// The greatest that a tick or a rotation knows.
int64_t last_known_id()
{
    static pg::Statement query(
        "select coalesce(pg_catalog.max(id), 0) from (select "
        "pg_catalog.txid_snapshot_xmax(t.tick_snapshot) from tasker.tick t where exists "
        "(select from tasker.queue_log l where l.queue_id = t.tick_queue) union all select "
        "greatest(q.queue_switch_step1, q.queue_switch_step2, q.queue_emptied_txid) from tasker.queue q "
        "where exists "
        "(select from tasker.queue_log l where l.queue_id = q.queue_id)) ids (id)",
        {});
    pg::Spi spi;
    return spi.read_latest(query).i64(0, 1);
}

int64_t log_offset()
{
    static pg::Statement query("select coalesce((select log_offset from tasker.stream_origin), 0)", {});
    pg::Spi spi;
    return spi.read_latest(query).i64(0, 1);
}

} // namespace

// Marked rows may be of several clusters, where a dump was made before this was called. They come after all
// that was restored, and before all that follows: they get one id in between.
int64_t settle_logs(uint64_t oldest_running)
{
    pg::ContextResource memory;
    pg::Vector<IdTable> tables(&memory);
    list_tables(tables);
    int64_t last = last_known_id();
    bool some_marked = false;
    for (const IdTable &ids : tables) {
        last = std::max(last, pg::pg_call([&] { return last_log_id(ids.table, ids.column); }));
        some_marked = some_marked || pg::pg_call([&] { return has_marked(ids); });
    }
    if (!some_marked) {
        const int64_t offset = log_offset();
        return static_cast<int64_t>(oldest_running) + offset > last ? offset : last + 1;
    }
    for (const IdTable &ids : tables) {
        if (pg::pg_call([&] { return has_marked(ids); }))
            unmark(ids, last + 1);
    }
    return last + 2;
}

namespace {

class Counter final : public EventSink
{
  public:
    bool take(TupleTableSlot *) override
    {
        count_++;
        return true;
    }
    int64_t count() const { return count_; }

  private:
    int64_t count_ = 0;
};

// What comes after a tick, for whomever.
int64_t count_events(const Queue &queue, const core::TickSnapshot &after)
{
    constexpr auto kAll = static_cast<uint64_t>(kAfterRestore);
    const BatchPlan plan{queue, 0, after, {kAll, kAll, {}}};
    LogReader reader(queue);
    Counter retried;
    auto count = static_cast<int64_t>(reader.collect(plan).size());
    static pg::Statement owners("select distinct sub_id from tasker.registration where sub_queue = $1",
                                {INT4OID});
    pg::ContextResource memory;
    pg::Vector<int32_t> ids(&memory);
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(owners, {queue.queue_id});
        for (uint64 i = 0; i < rows.count(); i++)
            ids.push_back(rows.i32(i, 1));
    }
    for (const int32_t id : ids) { // they belong to one subscription each
        BatchPlan own = plan;
        own.sub_id = id;
        own.queue.switch_step2 = std::nullopt; // all tables
        own.queue.switch_step1 = 0;
        read_event_tables(own, retried);
    }
    return count + retried.count();
}

} // namespace

int64_t keep_log_queue(const Queue &queue, pg::Vector<KeptTick> &ticks)
{
    static pg::Statement query(
        "with used as (select distinct u.tick from tasker.subscription s, "
        "lateral (values (s.sub_last_tick), (s.sub_next_tick)) u(tick) where s.sub_queue = $1) "
        "select tick_id, tick_time, tick_event_seq, tick_snapshot, tick_snapshot::text from tasker.tick "
        "where tick_queue = $1 and tick_id >= least((select pg_catalog.min(tick) from used), "
        "(select pg_catalog.max(tick_id) from tasker.tick where tick_queue = $1)) order by tick_id",
        {INT4OID});
    const MemoryContext memory = CurrentMemoryContext;
    core::TickSnapshot first{};
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(query, {queue.queue_id});
        const pg::MemoryContextScope scope(memory); // snapshots outlive the Spi object
        for (uint64 i = 0; i < rows.count(); i++) {
            const std::string_view text = rows.text(i, 5);
            ticks.push_back({{rows.i64(i, 1), DatumGetTimestampTz(rows.datum(i, 2)), rows.i64(i, 3)},
                             pg::pg_call([&] { return pnstrdup(text.data(), text.size()); })});
            if (i == 0)
                first = snapshot_of_datum(rows.datum(i, 4));
        }
        if (rows.empty())
            return 0;
    }
    return count_events(queue, first);
}

} // namespace tasker::stream
