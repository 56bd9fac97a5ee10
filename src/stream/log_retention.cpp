// What consumers have not read of a log stays.
#include "stream/log.hpp"

#include "partition/owned_set.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/index.hpp"
#include "stream/log_reader.hpp"
#include "stream/restore.hpp"
#include "stream/rotate_events.hpp"
#include "stream/tick.hpp"

namespace tasker::stream {
namespace {

// Of rows that are younger than the oldest transaction that a consumer's tick has not seen. Where there are
// more, it is not clear whether it has read all of them.
constexpr int kLookedAt = 10'000;

struct Reader
{
    int32_t queue_id;
    const char *queue;
    const char *txid_column;
};

// The queues that read a log, or a table above it.
void list_readers(Oid log, pg::Vector<Reader> &readers)
{
    static pg::Statement query("select q.queue_id, q.queue_name, l.log_txid::text from tasker.queue_log l "
                               "join tasker.queue q using (queue_id) "
                               "where l.log_table = $1 or l.log_table in (select "
                               "pg_catalog.pg_partition_ancestors($1)) order by q.queue_id",
                               {OIDOID});
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {log});
    const auto copy = [&](uint64 row, int column) {
        const std::string_view text = rows.text(row, column);
        const pg::MemoryContextScope scope(memory);
        return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
    };
    for (uint64 i = 0; i < rows.count(); i++)
        readers.push_back({rows.i32(i, 1), copy(i, 2), copy(i, 3)});
}

// Plain C: may ereport.
bool may_have_unread(Oid table, const char *txid_column, const core::TickSnapshot &snapshot)
{
    Relation heap = table_open(table, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, txid_column_of(heap, txid_column), BTGreaterEqualStrategyNumber, F_INT8GE,
                Int64GetDatum(static_cast<int64_t>(snapshot.xmin)));
    const AttrNumber column = key.sk_attno;
    Relation index = open_index_on(heap, column, AccessShareLock);
    Snapshot latest = RegisterSnapshot(GetLatestSnapshot());
    SysScanDesc scan = systable_beginscan(heap, RelationGetRelid(index), true, latest, 1, &key);
    bool unread = false;
    int seen = 0;
    while (HeapTuple row = unread ? nullptr : systable_getnext(scan)) {
        bool null = false;
        const int64_t txid = DatumGetInt64(heap_getattr(row, column, RelationGetDescr(heap), &null));
        unread = !snapshot.sees(static_cast<uint64_t>(txid)) || ++seen == kLookedAt;
    }
    systable_endscan(scan);
    UnregisterSnapshot(latest);
    index_close(index, AccessShareLock);
    table_close(heap, AccessShareLock);
    return unread;
}

// What goes with it is not there for whoever might be put to an old tick (see require_position()).
void note_retired(const Reader &reader, Oid partition)
{
    static pg::Statement update("update tasker.queue set queue_emptied_txid = $2 where queue_id = $1 and "
                                "queue_emptied_txid < $2",
                                {INT4OID, INT8OID});
    const int64_t last = pg::pg_call([&] { return last_log_id(partition, reader.txid_column); });
    if (last > 0 && !XactReadOnly)
        pg::Spi().run_latest(update, {reader.queue_id, last});
}

} // namespace

const char *log_still_needed(Oid parent, Oid partition)
{
    pg::ContextResource memory;
    pg::Vector<Reader> readers(&memory);
    list_readers(parent, readers);
    if (!readers.empty() && restore_pending())
        return "the event stream, which reads it, was restored from a dump";
    for (const Reader &reader : readers) {
        const std::optional<Slowest> slowest = slowest_consumer(reader.queue_id);
        const std::optional<core::TickSnapshot> snapshot =
            slowest ? find_snapshot(reader.queue_id, slowest->tick) : std::nullopt;
        if (slowest && (!snapshot || pg::pg_call([&] {
                return may_have_unread(partition, reader.txid_column, *snapshot);
            })))
            return pg::pg_call([&] {
                return psprintf("consumer \"%s\" of queue \"%s\" has not read it", slowest->consumer,
                                reader.queue);
            });
    }
    for (const Reader &reader : readers)
        note_retired(reader, partition);
    return nullptr;
}

void declare_log_retention()
{
    partition::retirement_veto_hook = log_still_needed;
}

} // namespace tasker::stream
