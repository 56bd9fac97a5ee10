#include "stream/restore.hpp"

#include "core/rebase.hpp"
#include "pg/extension.hpp"
#include "pg/function.hpp"
#include "pg/invalidation.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/empty_table.hpp"
#include "stream/event.hpp"
#include "stream/index.hpp"
#include "stream/log_ddl.hpp"
#include "stream/log_restore.hpp"
#include "stream/slots.hpp"
#include "stream/table_writer.hpp"
#include "stream/tick.hpp"

extern "C" {
#include "access/detoast.h"
#include "utils/tuplestore.h"
}

namespace tasker::stream {
namespace {

pg::TableWatch origins("stream_origin");
pg::TableWatch queues("queue");
bool is_home = false;    // the row was written here
bool has_queues = false; // what follows is known for them only
bool is_pending = false;
bool is_said = false;
int64_t log_offset = 0;

void read_origin()
{
    static pg::Statement query(
        "select exists (select from tasker.stream_origin where installation = $1 "
        "or (writer = xmin::text::bigint and ctid <> '(0,1)'::tid)), exists (select from tasker.queue), "
        "exists (select from tasker.registration) or exists (select from tasker.retry_queue), "
        "coalesce((select log_offset from tasker.stream_origin), 0)",
        {TEXTOID});
    origins.begin(); // first: a change from here on must not be lost
    queues.begin();
    is_home = has_queues = false; // where an error leaves here, nothing is known
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {pg::installation()});
    is_home = rows.boolean(0, 1);
    has_queues = rows.boolean(0, 2);
    is_pending = !is_home && (has_queues || rows.boolean(0, 3));
    log_offset = rows.i64(0, 4);
}

// Writes the row, where there is none, and so that it does not stand at the table's first place.
void write_origin()
{
    static pg::Statement insert("insert into tasker.stream_origin (installation, writer) values ($1, $2) "
                                "on conflict do nothing",
                                {TEXTOID, INT8OID});
    static pg::Statement move("update tasker.stream_origin set written_at = pg_catalog.now()", {});
    const int64_t writer = pg::pg_call([] { return static_cast<int64_t>(GetCurrentTransactionId()); });
    if (pg::Spi().run_latest(insert, {pg::installation(), writer}).count() > 0)
        pg::Spi().run_latest(move);
}

} // namespace

bool restore_pending()
{
    const bool known = origins.holds() && (is_home || (queues.holds() && has_queues));
    if (!known)
        read_origin();
    return is_pending;
}

void require_restored()
{
    if (restore_pending())
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the event stream was restored from a dump")
            .detail("Its ticks hold transaction ids of another cluster.")
            .hint("When the restore has ended, call tasker.after_restore().");
}

bool awaits_restore()
{
    const bool pending = restore_pending();
    if (pending && !is_said)
        pg::pg_call([] {
            ereport(LOG, errmsg("the event stream was restored from a dump, and makes no ticks"),
                    errhint("When the restore has ended, call tasker.after_restore()."));
        });
    is_said = pending;
    return pending;
}

int64_t event_txid(int64_t txid)
{
    if (is_home && origins.still_holds()) // the lock has brought the news
        return txid;
    return restore_pending() ? txid | kAfterRestore : txid;
}

// Whoever writes into a log asks at each write, also where there is no queue at all.
int64_t log_txid()
{
    const int64_t txid = current_txid();
    if (!origins.holds() || !(is_home || queues.holds()))
        read_origin();
    return is_pending ? txid | kAfterRestore : txid + log_offset;
}

void note_origin()
{
    static pg::Statement forget(
        "delete from tasker.stream_origin where not exists (select from tasker.queue) and installation <> $1",
        {TEXTOID});
    static pg::Statement query("select from tasker.queue limit 1", {});
    if (!pg::Spi().read_latest(query).empty())
        return;
    pg::Spi().run_latest(forget, {pg::installation()});
    write_origin();
}

void tie_to_extension(const Queue &queue)
{
    for (const Oid relation : {queue.parent, queue.tables[0], queue.tables[1], queue.tables[2],
                               queue.event_sequence, queue.tick_sequence})
        pg::tie_to_extension(relation);
}

namespace {

// The ticks of a queue that are kept, in order.
struct Ticks
{
    explicit Ticks(pg::ContextResource *memory) : ticks(memory), snapshots(memory) {}

    pg::Vector<Tick> ticks;
    pg::Vector<core::TickSnapshot> snapshots;
    bool successive = true;
};

// From the first that a consumer stands at on; where there are more than can be kept, those that nobody
// stands at are thinned out.
void read_ticks(const Queue &queue, size_t limit, Ticks &kept)
{
    static pg::Statement query(
        "with used as (select distinct u.tick from tasker.subscription s, "
        "lateral (values (s.sub_last_tick), (s.sub_next_tick)) u(tick) where s.sub_queue = $1), "
        "newest as (select pg_catalog.max(tick_id) as tick from tasker.tick where tick_queue = $1) "
        "select t.tick_id, t.tick_time, t.tick_event_seq, t.tick_snapshot, "
        "t.tick_id in (select tick from used where tick is not null union all select tick from newest) "
        "from tasker.tick t where t.tick_queue = $1 "
        "and t.tick_id >= least((select pg_catalog.min(tick) from used), (select tick from newest)) "
        "order by t.tick_id",
        {INT4OID});
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue.queue_id});
    const pg::MemoryContextScope scope(memory); // snapshots outlive the Spi object
    size_t in_use = 0;
    for (uint64 i = 0; i < rows.count(); i++)
        in_use += rows.boolean(i, 5) ? 1 : 0;
    if (in_use > limit)
        throw pg::Error(
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "queue \"%s\" has consumers at %zu ticks, more than this cluster has had transactions",
            queue.name, in_use)
            .hint("Call it again after some more transactions; pg_current_xact_id() makes one count.");
    core::Thinning thinning(rows.count(), in_use, limit);
    for (uint64 i = 0; i < rows.count(); i++) {
        if (!thinning.keeps(rows.boolean(i, 5)))
            continue;
        kept.ticks.push_back({rows.i64(i, 1), DatumGetTimestampTz(rows.datum(i, 2)), rows.i64(i, 3)});
        kept.snapshots.push_back(snapshot_of_datum(rows.datum(i, 4)));
    }
    kept.successive = core::are_successive({kept.snapshots.data(), kept.snapshots.size()});
}

// Moves the events of a queue that are still wanted, with their new ids: out of the tables, which are then
// emptied, and into the current one. In between they are in a tuple store, on disk where they are many.
class EventMover
{
  public:
    EventMover(const Ticks &ticks, const core::Rebase &rebase)
        : ticks_(ticks), rebase_(rebase),
          store_(pg::pg_call([] { return tuplestore_begin_heap(false, false, maintenance_work_mem); }))
    {
    }
    ~EventMover() { tuplestore_end(store_); }
    EventMover(const EventMover &) = delete;
    EventMover &operator=(const EventMover &) = delete;

    void take(Oid table)
    {
        pg::pg_call([&] { take_from(table); });
    }
    void put(Oid table)
    {
        pg::pg_call([&] { put_into(table); });
    }
    int64_t events() const { return events_; }

  private:
    // Plain C from here on: may ereport.
    void take_from(Oid table)
    {
        Relation heap = table_open(table, AccessShareLock);
        Relation index = open_index(heap);
        MemoryContext row_memory =
            AllocSetContextCreate(CurrentMemoryContext, "tasker event", ALLOCSET_DEFAULT_SIZES);
        ScanKeyData key;
        ScanKeyInit(&key, kEvTxid, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(least_wanted()));
        Snapshot latest = RegisterSnapshot(GetLatestSnapshot());
        SysScanDesc scan = systable_beginscan(heap, RelationGetRelid(index), true, latest, 1, &key);
        while (HeapTuple row = systable_getnext(scan)) {
            CHECK_FOR_INTERRUPTS();
            MemoryContext outer = MemoryContextSwitchTo(row_memory);
            take_row(RelationGetDescr(heap), row);
            MemoryContextSwitchTo(outer);
            MemoryContextReset(row_memory);
        }
        systable_endscan(scan);
        UnregisterSnapshot(latest);
        MemoryContextDelete(row_memory);
        index_close(index, AccessShareLock);
        table_close(heap, AccessShareLock);
    }

    // Indexes come last in a restore.
    static Relation open_index(Relation heap)
    {
        List *indexes = RelationGetIndexList(heap);
        if (indexes == NIL)
            ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("event table \"%s\" has no index on ev_txid", RelationGetRelationName(heap)),
                    errhint("Call tasker.after_restore() when the restore has ended."));
        list_free(indexes);
        return open_index_on(heap, kEvTxid, AccessShareLock);
    }

    int64_t least_wanted() const
    {
        return ticks_.successive && !ticks_.snapshots.empty()
                   ? static_cast<int64_t>(ticks_.snapshots.front().xmin)
                   : PG_INT64_MIN;
    }

    std::optional<uint64_t> new_id(int64_t txid)
    {
        if (ticks_.snapshots.empty())
            return rebase_.before_all();
        if (txid != last_txid_) { // events of one transaction mostly stand together
            last_txid_ = txid;
            last_id_ = rebase_.event(core::first_seeing({ticks_.snapshots.data(), ticks_.snapshots.size()},
                                                        static_cast<uint64_t>(txid), ticks_.successive));
        }
        return last_id_;
    }

    // What is stored outside of the row goes with the table.
    void take_row(TupleDesc descriptor, HeapTuple row)
    {
        Datum values[kEvColumns];
        bool nulls[kEvColumns];
        heap_deform_tuple(row, descriptor, values, nulls);
        const std::optional<uint64_t> id = new_id(DatumGetInt64(values[kEvTxid - 1]));
        if (!id)
            return;
        values[kEvTxid - 1] = Int64GetDatum(static_cast<int64_t>(*id));
        for (int i = kEvType - 1; i < kEvColumns; i++) {
            auto *text = reinterpret_cast<varlena *>(DatumGetPointer(values[i]));
            if (!nulls[i] && VARATT_IS_EXTERNAL(text))
                values[i] = PointerGetDatum(detoast_external_attr(text));
        }
        tuplestore_putvalues(store_, descriptor, values, nulls);
        events_++;
    }

    void put_into(Oid table)
    {
        constexpr size_t kPiece = 500;
        HeapTuple rows[kPiece];
        size_t count = 0;
        Relation heap = table_open(table, RowExclusiveLock);
        TableWriter writer(heap);
        TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(heap), &TTSOpsMinimalTuple);
        while (tuplestore_gettupleslot(store_, true, false, slot)) {
            CHECK_FOR_INTERRUPTS();
            rows[count++] = ExecCopySlotHeapTuple(slot);
            if (count == kPiece)
                writer.insert_many({rows, std::exchange(count, 0)});
        }
        if (count > 0)
            writer.insert_many({rows, count});
        ExecDropSingleTupleTableSlot(slot);
        writer.close();
    }

    const Ticks &ticks_;
    const core::Rebase &rebase_;
    Tuplestorestate *store_;
    int64_t events_ = 0;
    int64_t last_txid_ = PG_INT64_MIN;
    std::optional<uint64_t> last_id_;
};

struct NewTick
{
    int32_t queue_id;
    Tick tick;
    const char *snapshot; // as text
};

void lock_stream()
{
    pg::Spi spi;
    spi.run_text("lock table tasker.queue in share row exclusive mode");
    spi.run_text("lock table tasker.registration, tasker.subscription_0, tasker.subscription_1, "
                 "tasker.subscription_2 in exclusive mode");
    spi.run_text("lock table tasker.tick_0, tasker.tick_1, tasker.tick_2 in access exclusive mode");
}

// With its tables, which inherit from it.
void lock_events(const Queue &queue)
{
    pg::Spi().run_text(pg::pg_call([&] {
        return psprintf("lock table %s in access exclusive mode",
                        quote_qualified_identifier(get_namespace_name(get_rel_namespace(queue.parent)),
                                                   get_rel_name(queue.parent)));
    }));
}

// No transaction with a lower id runs, or will. Whoever has one and has not written to the queues yet finds
// them locked, and writes after all that is re-based.
uint64_t oldest_running()
{
    static pg::Statement query(
        "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint", {});
    pg::Spi spi;
    return static_cast<uint64_t>(spi.read_latest(query).i64(0, 1));
}

void update_queue(const Queue &queue, uint64_t before_all)
{
    static pg::Statement update(
        "update tasker.queue set queue_switch_step1 = $2, queue_switch_step2 = $2, queue_emptied_txid = $2, "
        "queue_switch_time = pg_catalog.now(), queue_rotation_deferrals = 0, queue_rotation_held_by = null "
        "where queue_id = $1",
        {INT4OID, INT8OID});
    pg::Spi().run_latest(update, {queue.queue_id, static_cast<int64_t>(before_all)});
}

// A re-based one: nothing runs.
const char *text_of(const core::TickSnapshot &snapshot, MemoryContext memory)
{
    const pg::MemoryContextScope scope(memory);
    return pg::pg_call(
        [&] { return psprintf(UINT64_FORMAT ":" UINT64_FORMAT ":", snapshot.xmin, snapshot.xmax); });
}

// Re-bases one queue and returns how many events are kept.
int64_t rebase_queue(const Queue &queue, uint64_t oldest, pg::Vector<NewTick> &new_ticks)
{
    const MemoryContext outer = CurrentMemoryContext;
    const pg::OwnedContext own("tasker restored queue");
    const pg::MemoryContextScope scope(own.get());
    pg::ContextResource memory;
    Ticks kept(&memory);
    lock_events(queue);
    read_ticks(queue, core::Rebase::most_ticks(oldest), kept);
    const core::Rebase rebase(oldest, kept.ticks.size());
    EventMover mover(kept, rebase);
    for (const Oid table : queue.tables)
        mover.take(table);
    for (const Oid table : queue.tables)
        empty_locked(table);
    mover.put(queue.tables[queue.current]);
    for (size_t i = 0; i < kept.ticks.size(); i++)
        new_ticks.push_back({queue.queue_id, kept.ticks[i], text_of(rebase.tick(i), outer)});
    update_queue(queue, rebase.before_all());
    return mover.events();
}

void write_ticks(const pg::Vector<NewTick> &ticks, uint64_t oldest)
{
#define INSERT_TICK(slot)                                                                                    \
    {                                                                                                        \
        "insert into tasker.tick_" #slot " (tick_queue, tick_id, tick_time, tick_event_seq, tick_snapshot) " \
        "values ($1, $2, $3, $4, $5::txid_snapshot)",                                                        \
        {                                                                                                    \
            INT4OID, INT8OID, TIMESTAMPTZOID, INT8OID, TEXTOID                                               \
        }                                                                                                    \
    }
    static pg::Statement insert[kTables] = {INSERT_TICK(0), INSERT_TICK(1), INSERT_TICK(2)};
    static pg::Statement note(
        "update tasker.metadata_rotation set rotation_tick_rows = $1, rotation_txid = 0, "
        "last_step2_txid = $2, rotation_held_by = null",
        {INT8OID, INT8OID});
    const Slots slots = current_slots();
    for (const Oid table : slots.ticks)
        empty_locked(table);
    pg::Spi spi;
    for (const NewTick &tick : ticks) {
        spi.run_latest(insert[slots.tick], {tick.queue_id, tick.tick.id, pg::Timestamp{tick.tick.time},
                                            tick.tick.event_seq, tick.snapshot});
        pg::check_for_interrupts();
    }
    spi.run_latest(note, {static_cast<int64_t>(ticks.size()), static_cast<int64_t>(oldest - 1)});
}

void list_queues(pg::Vector<int32_t> &ids)
{
    static pg::Statement query("select queue_id from tasker.queue order by queue_name", {});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query);
    for (uint64 i = 0; i < rows.count(); i++)
        ids.push_back(rows.i32(i, 1));
}

int32_t count_consumers(int32_t queue_id)
{
    static pg::Statement query(
        "select pg_catalog.count(*)::integer from tasker.registration where sub_queue = $1", {INT4OID});
    pg::Spi spi;
    return spi.read_latest(query, {queue_id}).i32(0, 1);
}

// A log's queue stays as it is: see log_restore.hpp.
int64_t keep_queue(const Queue &queue, pg::Vector<NewTick> &new_ticks)
{
    pg::ContextResource memory;
    pg::Vector<KeptTick> kept(&memory);
    const int64_t events = keep_log_queue(queue, kept);
    for (const KeptTick &tick : kept)
        new_ticks.push_back({queue.queue_id, tick.tick, tick.snapshot});
    return events;
}

// Rebases all queues and reports each. Returns the offset of log ids from now on.
int64_t rebase_stream(pg::ResultSet &result)
{
    pg::ContextResource memory;
    pg::Vector<int32_t> ids(&memory);
    pg::Vector<NewTick> ticks(&memory);
    lock_stream();
    list_queues(ids);
    if (ids.empty())
        return 0;
    const uint64_t oldest = oldest_running();
    const int64_t offset = settle_logs(oldest);
    for (const int32_t id : ids) {
        const std::optional<Queue> queue = queue_with_id(id);
        if (!queue)
            continue;
        const size_t ticks_before = ticks.size();
        const int64_t events =
            queue->has_log ? keep_queue(*queue, ticks) : rebase_queue(*queue, oldest, ticks);
        tie_to_extension(*queue);
        const bool nulls[4] = {};
        const Datum values[4] = {pg::pg_call([&] { return CStringGetTextDatum(queue->name); }),
                                 Int32GetDatum(count_consumers(id)), Int64GetDatum(events),
                                 Int32GetDatum(static_cast<int32_t>(ticks.size() - ticks_before))};
        result.add(values, nulls);
    }
    write_ticks(ticks, oldest);
    return offset;
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// after_restore(force): a row for each queue; none when it was not due.
TASKER_FUNCTION(after_restore)
{
    static pg::Statement forget("delete from tasker.stream_origin", {});
    const bool force = args.boolean(0, "force");
    pg::ResultSet result(args.call());
    pg::Spi().run_text("lock table tasker.stream_origin in exclusive mode");
    if (!force && !restore_pending())
        return 0;
    const int64_t offset = rebase_stream(result);
    renew_grants();
    pg::Spi().run_latest(forget);
    write_origin();
    set_log_offset(offset);
    return 0;
}

// restore_pending()
TASKER_FUNCTION(restore_pending)
{
    return args.result(restore_pending());
}
