#include "stream/rotate_events.hpp"

#include "core/arithmetic.hpp"
#include "pg/function.hpp"
#include "pg/invalidation.hpp"
#include "pg/spi.hpp"
#include "stream/empty_table.hpp"
#include "stream/event.hpp"
#include "stream/index.hpp"
#include "stream/restore.hpp"
#include "stream/slots.hpp"
#include "stream/tick.hpp"
#include "stream/wake_notes.hpp"

namespace tasker::stream {
namespace {

// Rows of the former table that are looked at to prove that a consumer has read it all; a table of which it
// is not clear sooner is better kept.
constexpr int kLookedAt = 10'000;

struct State
{
    int64_t deferrals;
    bool held_by_same;
    int64_t period_us;
};

// What this process remembers, so that the worker need not write a row to know it.
struct Memo
{
    int32_t queue_id;
    int64_t switch_step1;   // the rest is from since that rotation
    TimestampTz counted_at; // when it last wrote that the next one was put off
    TimestampTz empty_at;   // when it last found the queue without events
};
HTAB *memos = nullptr;

Oid queue_table()
{
    return pg::pg_call([] { return get_relname_relid("queue", get_namespace_oid("tasker", false)); });
}

// The lock of both steps, and of hold_rotation().
bool lock_rotation(int32_t queue_id, LOCKMODE mode, bool wait)
{
    const Oid table = queue_table();
    return pg::pg_call([&] {
        LOCKTAG tag;
        SET_LOCKTAG_OBJECT(tag, MyDatabaseId, table, static_cast<Oid>(queue_id), 0);
        return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
    });
}

bool is_due(int32_t queue_id)
{
    static pg::Statement query(
        "select from tasker.queue where queue_id = $1 and queue_switch_step2 is not null "
        "and queue_switch_time + queue_rotation_period < pg_catalog.now()",
        {INT4OID});
    pg::Spi spi;
    return !spi.read_latest(query, {queue_id}).empty();
}

bool has_no_events(const Queue &queue)
{
    return std::all_of(std::begin(queue.tables), std::end(queue.tables), is_without_pages);
}

} // namespace

// A subscription is rather seen twice than missed: see pin_subscriptions().
std::optional<Slowest> slowest_consumer(int32_t queue_id)
{
    static pg::Statement query("select s.sub_last_tick, c.co_name from tasker.subscription s "
                               "join tasker.consumer c on c.co_id = s.sub_consumer "
                               "where s.sub_queue = $1 and s.sub_last_tick is not null "
                               "order by s.sub_last_tick limit 1",
                               {INT4OID});
    const MemoryContext memory = CurrentMemoryContext;
    pin_subscriptions();
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue_id});
    if (rows.empty())
        return std::nullopt;
    const std::string_view name = rows.text(0, 2);
    return Slowest{rows.i64(0, 1), pg::pg_call([&] {
                       return MemoryContextStrdup(memory, pnstrdup(name.data(), name.size()));
                   })};
}

namespace {

Oid txid_index(Relation heap)
{
    Relation index = open_index_on(heap, kEvTxid, AccessShareLock);
    const Oid found = RelationGetRelid(index);
    index_close(index, AccessShareLock);
    return found;
}

// Has the table an event that the snapshot does not see, or so many to look at that it is not clear?
// Plain C: may ereport.
bool may_have_unread(Oid table, const core::TickSnapshot &snapshot)
{
    Relation heap = table_open(table, AccessShareLock);
    ScanKeyData key;
    ScanKeyInit(&key, kEvTxid, BTGreaterEqualStrategyNumber, F_INT8GE,
                Int64GetDatum(static_cast<int64_t>(snapshot.xmin)));
    Snapshot latest = RegisterSnapshot(GetLatestSnapshot());
    SysScanDesc scan = systable_beginscan(heap, txid_index(heap), true, latest, 1, &key);
    bool unread = false;
    int seen = 0;
    while (HeapTuple row = unread ? nullptr : systable_getnext(scan)) {
        bool null = false;
        const int64_t txid = DatumGetInt64(heap_getattr(row, kEvTxid, RelationGetDescr(heap), &null));
        unread = !snapshot.sees(static_cast<uint64_t>(txid)) || ++seen == kLookedAt;
    }
    systable_endscan(scan);
    UnregisterSnapshot(latest);
    table_close(heap, AccessShareLock);
    return unread;
}

Oid former_table(const Queue &queue)
{
    return queue.tables[(queue.current + kTables - 1) % kTables];
}

// Does a consumer need the table that the rotation takes out of its reach? Writers to it are kept away from
// the look on: those that come have looked for the current table after step 1, and find another one.
bool needs_former_table(const Queue &queue, int64_t tick_id)
{
    const std::optional<core::TickSnapshot> snapshot = find_snapshot(queue.queue_id, tick_id);
    if (!snapshot)
        throw pg::Error(ERRCODE_DATA_CORRUPTED, "tick " INT64_FORMAT " of queue \"%s\" does not exist",
                        tick_id, queue.name)
            .detail("A consumer stands there, so the queue's tables cannot be rotated.")
            .hint("tasker.register_consumer_at() puts it to another tick.");
    if (static_cast<int64_t>(snapshot->xmin) > *queue.switch_step2)
        return false;
    const Oid former = former_table(queue);
    return !lock_out_writers(former) || pg::pg_call([&] { return may_have_unread(former, *snapshot); });
}

// Who holds the queue's row is changing or dropping it.
bool lock_row(int32_t queue_id)
{
    static pg::Statement lock("select from tasker.queue where queue_id = $1 for no key update skip locked",
                              {INT4OID});
    pg::Spi spi;
    return !spi.run_latest(lock, {queue_id}).empty();
}

// Makes the next table the current one; returns who is in the way, if anybody is.
const char *switch_tables(const Queue &queue)
{
    static pg::Statement update(
        "update tasker.queue set queue_cur_table = $2, queue_switch_time = pg_catalog.now(), "
        "queue_emptied_txid = case when $4 then queue_emptied_txid else queue_switch_step2 end, "
        "queue_switch_step1 = $3, queue_switch_step2 = null, "
        "queue_rotation_deferrals = 0, queue_rotation_held_by = null where queue_id = $1",
        {INT4OID, INT4OID, INT8OID, BOOLOID});
    const std::optional<Slowest> slowest = slowest_consumer(queue.queue_id);
    if (slowest && needs_former_table(queue, slowest->tick))
        return in_words("consumer \"%s\"", slowest->consumer);
    // Who registers now gets all of a transaction that is committed later, also what it has written before.
    if (!slowest && !lock_out_writers(former_table(queue)))
        return "a transaction that has written to the table before the current one";
    const int32_t next = (queue.current + 1) % kTables;
    if (const char *holder = lock_to_empty(queue.tables[next], Patience::none))
        return in_words("lock of %s", holder);
    if (!lock_row(queue.queue_id))
        return "a transaction that changes the queue";
    empty_locked(queue.tables[next]);
    pg::Spi().run_latest(update, {queue.queue_id, next, current_txid() + queue.txid_offset,
                                  is_without_pages(former_table(queue))});
    return nullptr;
}

Memo &memo_of(const Queue &queue)
{
    return *pg::pg_call([&] {
        if (memos == nullptr) {
            HASHCTL control{};
            control.keysize = sizeof(int32_t);
            control.entrysize = sizeof(Memo);
            memos = hash_create("tasker rotations", 16, &control, HASH_ELEM | HASH_BLOBS);
        }
        bool found = false;
        auto *memo = static_cast<Memo *>(hash_search(memos, &queue.queue_id, HASH_ENTER, &found));
        if (!found || memo->switch_step1 != queue.switch_step1)
            *memo = {queue.queue_id, queue.switch_step1, 0, 0};
        return memo;
    });
}

State read_state(int32_t queue_id, const char *holder)
{
    static pg::Statement query(
        "select queue_rotation_deferrals, queue_rotation_held_by is not distinct from $2, "
        "queue_rotation_period from tasker.queue where queue_id = $1",
        {INT4OID, TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue_id, holder});
    if (rows.empty())
        return {0, true, PG_INT64_MAX};
    return {rows.i64(0, 1), rows.boolean(0, 2), pg::interval_us(*DatumGetIntervalP(rows.datum(0, 3)))};
}

bool is_news(const Queue &queue, const char *holder)
{
    const State state = read_state(queue.queue_id, holder);
    const int64_t since = GetCurrentTimestamp() - memo_of(queue).counted_at;
    return state.deferrals == 0 || since >= state.period_us || (!state.held_by_same && since >= kHoldersUs);
}

void count_deferral(const Queue &queue, const char *holder, Counting counting)
{
    static pg::Statement update(
        "update tasker.queue q set queue_rotation_deferrals = q.queue_rotation_deferrals + 1, "
        "queue_rotation_held_by = $2 from (select queue_id from tasker.queue where queue_id = $1 "
        "for no key update skip locked) locked where q.queue_id = locked.queue_id",
        {INT4OID, TEXTOID});
    if (counting == Counting::when_new && !is_news(queue, holder))
        return;
    pg::Spi().run_latest(update, {queue.queue_id, holder});
    memo_of(queue).counted_at = GetCurrentTimestamp();
}

} // namespace

Rotation rotate_events(int32_t queue_id, Counting counting)
{
    std::optional<Queue> queue = queue_with_id(queue_id);
    if (!queue || awaits_restore() || !is_due(queue_id) || has_no_events(*queue))
        return Rotation::not_due;
    const char *holder = nullptr;
    if (lock_rotation(queue_id, ExclusiveLock, false)) {
        queue =
            queue_with_id(queue_id); // it may have been rotated, or dropped, before the lock was to be had
        if (!queue || !is_due(queue_id))
            return Rotation::not_due;
        holder = switch_tables(*queue);
    } else {
        holder = in_words("lock of %s", holder_of_object(queue_table(), static_cast<Oid>(queue_id)));
    }
    if (holder == nullptr)
        return Rotation::done;
    count_deferral(*queue, holder, counting);
    return Rotation::deferred;
}

namespace {

pg::TableWatch queues_changed("queue");
TimestampTz quiet_until = 0; // nothing can be due before that, while no queue is changed

// A queue without events is due all the time. It is looked at once in a period: what comes after that look is
// younger than a period at the next one. Returns when that is, or nothing for a queue that has events.
std::optional<TimestampTz> look_again_at(int32_t queue_id, int64_t period_us, TimestampTz now)
{
    const std::optional<Queue> queue = queue_with_id(queue_id);
    if (!queue)
        return now;
    Memo &memo = memo_of(*queue);
    if (now >= core::saturating_add(memo.empty_at, period_us)) {
        if (!has_no_events(*queue))
            return std::nullopt;
        memo.empty_at = now;
    }
    return core::saturating_add(memo.empty_at, period_us);
}

} // namespace

void list_due_rotations(pg::Vector<int32_t> &queues)
{
    static pg::Statement query(
        "select queue_id, queue_rotation_period, queue_switch_time + queue_rotation_period "
        "from tasker.queue where queue_switch_step2 is not null order by queue_id",
        {});
    const TimestampTz now = GetCurrentTimestamp();
    if (queues_changed.holds() && now < quiet_until)
        return;
    queues_changed.begin();
    quiet_until = PG_INT64_MAX;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query);
    for (uint64 i = 0; i < rows.count(); i++) {
        const int64_t period_us = pg::interval_us(*DatumGetIntervalP(rows.datum(i, 2)));
        std::optional<TimestampTz> next = rows.i64(i, 3);
        if (next < now)
            next = look_again_at(rows.i32(i, 1), period_us, now);
        if (!next)
            queues.push_back(rows.i32(i, 1));
        quiet_until = std::min(quiet_until, next.value_or(now));
    }
}

namespace {

bool finish_event_rotation(int32_t queue_id)
{
    static pg::Statement update("update tasker.queue set queue_switch_step2 = $2 where queue_id = $1 "
                                "and queue_switch_step2 is null and queue_switch_step1 <> $3",
                                {INT4OID, INT8OID, INT8OID});
    if (!lock_rotation(queue_id, ExclusiveLock, false))
        return false;
    const int64_t own = pg::pg_call(
        [] { return static_cast<int64_t>(U64FromFullTransactionId(GetTopFullTransactionIdIfAny())); });
    const std::optional<Queue> queue = queue_with_id(queue_id);
    if (!queue || queue->switch_step2 || queue->switch_step1 == own + queue->txid_offset)
        return false;
    const auto last = static_cast<int64_t>(U64FromFullTransactionId(ReadNextFullTransactionId())) - 1;
    const int64_t offset = queue->txid_offset;
    return pg::Spi().run_latest(update, {queue_id, last + offset, own + offset}).count() == 1;
}

} // namespace

void finish_event_rotations(pg::Vector<int32_t> &queues)
{
    static pg::Statement query("select queue_id from tasker.queue where queue_switch_step2 is null "
                               "order by queue_id",
                               {});
    if (awaits_restore())
        return;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query);
    for (uint64 i = 0; i < rows.count(); i++) {
        if (finish_event_rotation(rows.i32(i, 1)))
            queues.push_back(rows.i32(i, 1));
    }
}

void hold_rotation(int32_t queue_id)
{
    (void)lock_rotation(queue_id, ShareLock, true);
}

namespace {

// Has nothing been emptied away yet that comes after this tick?
bool has_all_events_after(const Queue &queue, int64_t tick_id)
{
    static pg::Statement query("select queue_emptied_txid from tasker.queue where queue_id = $1", {INT4OID});
    const std::optional<core::TickSnapshot> snapshot = find_snapshot(queue.queue_id, tick_id);
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue.queue_id});
    return snapshot && !rows.empty() && static_cast<int64_t>(snapshot->xmin) > rows.i64(0, 1);
}

} // namespace

void require_position(const Queue &queue, int64_t tick_id, std::optional<int64_t> present)
{
    if (!find_tick(queue.queue_id, tick_id, true))
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "tick " INT64_FORMAT " of queue \"%s\" does not exist",
                        tick_id, queue.name)
            .hint("The view tasker.tick lists the ticks that are kept.");
    if (present == tick_id || has_all_events_after(queue, tick_id))
        return;
    if (const std::optional<Tick> last = last_tick(queue.queue_id); last && last->id == tick_id)
        return;
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT,
                    "the events after tick " INT64_FORMAT " of queue \"%s\" are not kept any more", tick_id,
                    queue.name)
        .detail("The queue's tables have been rotated since, as no consumer needed them.")
        .hint("Choose a later tick.");
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// maint_rotate_tables_step1(i_queue_name): 0, as PgQ's.
TASKER_FUNCTION(maint_rotate_tables_step1)
{
    PreventCommandIfReadOnly("tasker.maint_rotate_tables_step1()");
    if (const std::optional<Queue> queue = find_queue(args.text(0, "i_queue_name")))
        rotate_events(queue->queue_id, Counting::always);
    return args.result(int32_t{0});
}

// maint_rotate_tables_step2(): 0, as PgQ's.
TASKER_FUNCTION(maint_rotate_tables_step2)
{
    PreventCommandIfReadOnly("tasker.maint_rotate_tables_step2()");
    pg::ContextResource memory;
    pg::Vector<int32_t> queues(&memory);
    finish_event_rotations(queues);
    for (const int32_t queue_id : queues)
        request_tick(queue_id); // consumers at its last tick can go on then
    return args.result(int32_t{0});
}
