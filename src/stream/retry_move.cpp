// maint_retry_events(): moves events whose time has come from the retry queue into their queues.
//
// One session does that at a time, a bounded number of events in a transaction. Where it begins to look is in
// retry_floor.hpp. Rows that somebody else is just deleting or changing are passed over; the floor stays
// below them.
#include <tuple>

#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/index.hpp"
#include "stream/restore.hpp"
#include "stream/retry.hpp"
#include "stream/retry_floor.hpp"

namespace tasker::stream {
namespace {

constexpr size_t kMostEvents = 5000; // that one call moves
constexpr Size kMostBytes = 32 * 1024 * 1024;
constexpr uint64_t kNoXid = PG_INT64_MAX; // beyond all
constexpr int kMostLooks = 64;            // at rows for the next due time

TimestampTz next_due = PG_INT64_MAX;

// Columns of tasker.retry_queue.
enum RetryColumn : AttrNumber
{
    kRetryAfter = 1,
    kRetryQueue,
    kRetryEvent, // the columns of an event from here on
    kRetryTxid = kRetryEvent + kEvTxid - 1
};

struct DueEvent
{
    TimestampTz due;
    int32_t queue_id;
    uint32_t number; // in the order in which they were found
    NewEvent event;
};

// Takes due rows out of the table. Plain C: may ereport.
class DueRows
{
  public:
    DueRows(Oid table, DueEvent *events)
        : events_(events), heap_(table_open(table, RowExclusiveLock)),
          by_due_(open_index_on(heap_, kRetryAfter, AccessShareLock)),
          by_txid_(open_index_on(heap_, kRetryTxid, AccessShareLock)),
          slot_(table_slot_create(heap_, nullptr)), command_(GetCurrentCommandId(true))
    {
    }

    void close()
    {
        ExecDropSingleTupleTableSlot(slot_);
        index_close(by_due_, NoLock);
        index_close(by_txid_, NoLock);
        table_close(heap_, NoLock);
    }

    // Rows that were due before, of these transactions. False when there is no room for more.
    bool take_late(core::XidRange ids, TimestampTz until)
    {
        ScanKeyData keys[2];
        ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE,
                    Int64GetDatum(static_cast<int64_t>(ids.from)));
        ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(static_cast<int64_t>(ids.to)));
        return take(by_txid_, keys, 2, until);
    }

    // Rows that were due after a time; DT_NOBEGIN: all.
    bool take_due(TimestampTz after, TimestampTz until)
    {
        ScanKeyData keys[2];
        ScanKeyInit(&keys[0], 1, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE, TimestampTzGetDatum(until));
        ScanKeyInit(&keys[1], 1, BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT, TimestampTzGetDatum(after));
        return take(by_due_, keys, TIMESTAMP_IS_NOBEGIN(after) ? 1 : 2, until);
    }

    // When the next row after a time is due; soon, when that is not quickly found.
    TimestampTz due_after(TimestampTz after)
    {
        ScanKeyData key;
        ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT, TimestampTzGetDatum(after));
        IndexScanDesc scan = tasker_index_beginscan(heap_, by_due_, GetActiveSnapshot(), 1);
        TimestampTz due = PG_INT64_MAX;
        int looks = 0;
        index_rescan(scan, &key, 1, nullptr, 0);
        while (due == PG_INT64_MAX && index_getnext_tid(scan, ForwardScanDirection) != nullptr) {
            if (++looks > kMostLooks)
                due = after;
            else if (index_fetch_heap(scan, slot_)) {
                slot_getsomeattrs(slot_, kRetryAfter);
                due = DatumGetTimestampTz(slot_->tts_values[kRetryAfter - 1]);
            }
        }
        index_endscan(scan);
        ExecClearTuple(slot_);
        return due;
    }

    size_t count() const { return count_; }
    // The due times of the last row that was taken, and of the first that was passed over.
    TimestampTz last_due() const { return events_[count_ - 1].due; }
    TimestampTz first_passed() const { return first_passed_; }

  private:
    bool take(Relation index, ScanKeyData *keys, int key_count, TimestampTz until)
    {
        IndexScanDesc scan = tasker_index_beginscan(heap_, index, GetActiveSnapshot(), key_count);
        bool room = true;
        index_rescan(scan, keys, key_count, nullptr, 0);
        while (room && index_getnext_slot(scan, ForwardScanDirection, slot_)) {
            CHECK_FOR_INTERRUPTS();
            slot_getsomeattrs(slot_, kRetryQueue);
            // '-infinity' may be a due time, and the floor has to be below all that is left.
            const TimestampTz due =
                std::max(DatumGetTimestampTz(slot_->tts_values[kRetryAfter - 1]), DT_NOBEGIN + 1);
            if (due > until)
                continue;
            room = count_ < kMostEvents && bytes_ < kMostBytes;
            if (room)
                take_row(due);
        }
        index_endscan(scan);
        ExecClearTuple(slot_);
        return room;
    }

    // Waits for nobody. A row that this transaction itself has locked or changed looks like one that others
    // work on, until it is locked once more.
    TM_Result remove_row()
    {
        TM_FailureData failure;
        Snapshot snapshot = GetActiveSnapshot();
        TM_Result result = table_tuple_delete(heap_, &slot_->tts_tid, command_, snapshot, InvalidSnapshot,
                                              false, &failure, false);
        if (result != TM_BeingModified ||
            table_tuple_lock(heap_, &slot_->tts_tid, snapshot, slot_, command_, LockTupleExclusive,
                             LockWaitSkip, 0, &failure) != TM_Ok)
            return result;
        return table_tuple_delete(heap_, &slot_->tts_tid, command_, snapshot, InvalidSnapshot, true, &failure,
                                  false);
    }

    void take_row(TimestampTz due)
    {
        const TM_Result result = remove_row();
        if (result == TM_BeingModified)
            first_passed_ = std::min(first_passed_, due);
        if (result != TM_Ok)
            return; // what has changed comes back with the id of who has changed it
        DueEvent &event = events_[count_];
        event.due = due;
        event.queue_id = DatumGetInt32(slot_->tts_values[kRetryQueue - 1]);
        event.number = static_cast<uint32_t>(count_);
        event.event = copy_event(slot_, kRetryEvent);
        for (int i = 0; i < kTextColumns; i++)
            bytes_ += event.event.null[i] ? 0 : VARSIZE_ANY(DatumGetPointer(event.event.text[i]));
        count_++;
    }

    DueEvent *events_;
    Relation heap_;
    Relation by_due_;
    Relation by_txid_;
    TupleTableSlot *slot_;
    CommandId command_;
    size_t count_ = 0;
    Size bytes_ = 0;
    TimestampTz first_passed_ = PG_INT64_MAX;
};

Oid retry_table()
{
    return pg::pg_call([] { return get_relname_relid("retry_queue", get_namespace_oid("tasker", false)); });
}

bool lock_moving(Oid table, bool wait)
{
    return pg::pg_call([&] {
        LOCKTAG tag;
        SET_LOCKTAG_OBJECT(tag, MyDatabaseId, table, 0, 0);
        return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
    });
}

// Takes what is due, and says what is known then; `known` may be nothing.
size_t take_due_rows(Oid table, DueEvent *events, const std::optional<RetryFloor> &known)
{
    const core::TickSnapshot now_seen = active_snapshot();
    const TimestampTz now = GetCurrentTimestamp();
    const TimestampTz after = known ? known->due : DT_NOBEGIN;
    RetryFloor floor{now, now_seen};
    bool late_done = true;
    const size_t count = pg::pg_call([&] {
        DueRows rows(table, events);
        if (known) {
            for (const uint64_t xid : known->seen.running)
                late_done = late_done && rows.take_late({xid, xid + 1}, after);
            late_done = late_done && rows.take_late({known->seen.xmax, kNoXid}, after);
        }
        const bool done = late_done && rows.take_due(after, now);
        if (late_done && !done) // others may be due at the same time as the last one
            floor.due = std::max(after, rows.last_due() - 1);
        floor.due = std::min(floor.due, rows.first_passed() - 1);
        next_due = done ? rows.due_after(now) : now;
        rows.close();
        return rows.count();
    });
    if (late_done)
        remember_floor(table, floor);
    return count;
}

bool has_owner(int32_t queue_id, int32_t owner)
{
    static pg::Statement query("select from tasker.registration where sub_id = $1 and sub_queue = $2 limit 1",
                               {INT4OID, INT4OID});
    pg::Spi spi;
    return !spi.read_latest(query, {owner, queue_id}).empty();
}

// Events of one queue; those whose consumer has gone are left out.
void redeliver(int32_t queue_id, std::span<DueEvent> due)
{
    const std::optional<Queue> queue = queue_with_id(queue_id);
    if (!queue)
        return;
    pg::ContextResource memory;
    pg::Map<int32_t, bool> owners(&memory);
    auto *events = static_cast<NewEvent *>(
        pg::pg_call([&] { return palloc_extended(sizeof(NewEvent) * due.size(), MCXT_ALLOC_HUGE); }));
    size_t count = 0;
    for (const DueEvent &from : due) {
        NewEvent &event = events[count];
        event = from.event;
        if (event.owner == kEverybody)
            event.owner = std::nullopt;
        if (event.owner && !owners.contains(*event.owner))
            owners.emplace(*event.owner, has_owner(queue_id, *event.owner));
        if (!event.owner || owners.at(*event.owner))
            count++;
    }
    if (count > 0)
        redeliver_events(queue->name, {events, count});
}

} // namespace

int64_t move_due_events(bool wait)
{
    const Oid table = retry_table();
    if (awaits_restore() || !lock_moving(table, wait)) // a consumer that is missing may be still to come
        return 0;
    auto *events = static_cast<DueEvent *>(
        pg::pg_call([] { return palloc_extended(sizeof(DueEvent) * kMostEvents, MCXT_ALLOC_HUGE); }));
    pg::pg_call([] { PushActiveSnapshot(GetLatestSnapshot()); });
    const size_t count = take_due_rows(table, events, remembered_floor(table));
    pg::pg_call([] { PopActiveSnapshot(); });
    std::sort(events, events + count, [](const DueEvent &a, const DueEvent &b) {
        return std::tie(a.queue_id, a.due, a.number) < std::tie(b.queue_id, b.due, b.number);
    });
    for (size_t from = 0, to = 0; from < count; from = to) {
        while (to < count && events[to].queue_id == events[from].queue_id)
            to++;
        redeliver(events[from].queue_id, {events + from, to - from});
    }
    return static_cast<int64_t>(count);
}

TimestampTz next_due_event() noexcept
{
    return next_due;
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// maint_retry_events(): the number of events that left the retry queue.
TASKER_FUNCTION(maint_retry_events)
{
    PreventCommandIfReadOnly("tasker.maint_retry_events()");
    return args.result(static_cast<int32_t>(move_due_events(true)));
}

// The trigger of tasker.retry_queue: a row carries the transaction that has written it.
TASKER_FUNCTION(retry_queue_written)
{
    if (!CALLED_AS_TRIGGER(args.call()))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function \"_retry_queue_written\" was not called by a trigger");
    auto *trigger = reinterpret_cast<TriggerData *>(args.call()->context);
    const Datum txid = Int64GetDatum(current_txid());
    return pg::pg_call([&] {
        int column = kRetryTxid;
        Datum value = txid;
        bool null = false;
        HeapTuple row =
            TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
        return PointerGetDatum(heap_modify_tuple_by_cols(row, RelationGetDescr(trigger->tg_relation), 1,
                                                         &column, &value, &null));
    });
}
