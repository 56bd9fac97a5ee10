#include "stream/overview.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::stream {
namespace {

// Columns of tasker.tick_0..2 and of tasker.subscription_0..2, counted from 0.
enum TickColumn
{
    kTickId = 1,
    kTickTime = 2,
    kTickEventSeq = 4
};

enum VersionColumn
{
    kLastTick = 2,
    kActive,
    kBatch,
    kNextTick
};

constexpr int kKeyColumns = 2; // of the primary keys

void copy_by_value(TupleTableSlot *from, SlotRow *row)
{
    TupleDesc descriptor = from->tts_tupleDescriptor;
    slot_getallattrs(from);
    for (int i = 0; i < kSlotColumns; i++) {
        row->nulls[i] =
            i >= descriptor->natts || from->tts_isnull[i] || !TupleDescAttr(descriptor, i)->attbyval;
        row->values[i] = row->nulls[i] ? 0 : from->tts_values[i];
    }
}

void set_keys(ScanKeyData *keys, int32_t key, StrategyNumber strategy, RegProcedure compare, int64_t value)
{
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(key));
    ScanKeyInit(&keys[1], 2, strategy, compare, Int64GetDatum(value));
}

std::optional<Tick> tick_of(bool found, const SlotRow &row)
{
    if (!found)
        return std::nullopt;
    return Tick{row.i64(kTickId), row.i64(kTickTime), row.i64(kTickEventSeq)};
}

} // namespace

void SlotScan::open(const Oid (&tables)[kTables])
{
    for (int i = 0; i < kTables; i++) {
        heaps_[i] = table_open(tables[i], AccessShareLock);
        list_free(RelationGetIndexList(heaps_[i]));
        if (!OidIsValid(heaps_[i]->rd_pkindex))
            ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("table \"%s\" has no primary key", RelationGetRelationName(heaps_[i])));
        indexes_[i] = index_open(heaps_[i]->rd_pkindex, AccessShareLock);
    }
}

void SlotScan::begin(Snapshot snapshot)
{
    for (int i = 0; i < kTables; i++) {
        rows_[i] = table_slot_create(heaps_[i], nullptr);
        is_empty_[i] = RelationGetNumberOfBlocks(heaps_[i]) == 0;
        scans_[i] = tasker_index_beginscan(heaps_[i], indexes_[i], snapshot, kKeyColumns);
    }
}

void SlotScan::close()
{
    for (int i = 0; i < kTables; i++) {
        index_endscan(scans_[i]);
        ExecDropSingleTupleTableSlot(rows_[i]);
        index_close(indexes_[i], AccessShareLock);
        table_close(heaps_[i], AccessShareLock);
    }
}

bool SlotScan::find_in(int slot, ScanKeyData *keys, ScanDirection direction, SlotRow *row)
{
    if (is_empty_[slot])
        return false;
    index_rescan(scans_[slot], keys, kKeyColumns, nullptr, 0);
    if (!index_getnext_slot(scans_[slot], direction, rows_[slot]))
        return false;
    row->slot = slot;
    copy_by_value(rows_[slot], row);
    ExecClearTuple(rows_[slot]);
    return true;
}

bool SlotScan::find_from(int32_t key, int64_t from, SlotRow *row)
{
    ScanKeyData keys[kKeyColumns];
    bool found = false;
    set_keys(keys, key, BTGreaterEqualStrategyNumber, F_INT8GE, from);
    for (int i = 0; i < kTables; i++) {
        SlotRow here;
        if (!find_in(i, keys, ForwardScanDirection, &here))
            continue;
        if (!found || here.i64(1) < row->i64(1))
            *row = here;
        found = true;
    }
    return found;
}

bool SlotScan::find_equal(int32_t key, int64_t value, SlotRow *row)
{
    ScanKeyData keys[kKeyColumns];
    set_keys(keys, key, BTEqualStrategyNumber, F_INT8EQ, value);
    for (int i = 0; i < kTables; i++) {
        if (find_in(i, keys, ForwardScanDirection, row))
            return true;
    }
    return false;
}

bool SlotScan::find_last(int32_t key, SlotRow *row)
{
    ScanKeyData keys[kKeyColumns];
    bool found = false;
    set_keys(keys, key, BTLessEqualStrategyNumber, F_INT8LE, PG_INT64_MAX);
    for (int i = 0; i < kTables; i++) {
        SlotRow here;
        if (!find_in(i, keys, BackwardScanDirection, &here))
            continue;
        if (!found || here.i64(1) > row->i64(1))
            *row = here;
        found = true;
    }
    return found;
}

// The snapshot is taken under the locks: what was emptied away before is not there. Subscriptions come first,
// as in rotate_metadata().
Overview::Overview() : exceptions_(std::uncaught_exceptions())
{
    const Slots slots = current_slots();
    pg::pg_call([&] {
        subscriptions_.open(slots.subscriptions);
        ticks_.open(slots.ticks);
        PushActiveSnapshot(GetLatestSnapshot());
        ticks_.begin(GetActiveSnapshot());
        subscriptions_.begin(GetActiveSnapshot());
    });
}

// While an error unwinds, the abort that it leads to closes everything.
Overview::~Overview()
{
    if (std::uncaught_exceptions() != exceptions_)
        return;
    ticks_.close();
    subscriptions_.close();
    PopActiveSnapshot();
}

std::optional<Tick> Overview::last_tick(int32_t queue_id)
{
    SlotRow row{};
    return tick_of(pg::pg_call([&] { return ticks_.find_last(queue_id, &row); }), row);
}

std::optional<Tick> Overview::first_tick_from(int32_t queue_id, int64_t tick_id)
{
    SlotRow row{};
    return tick_of(pg::pg_call([&] { return ticks_.find_from(queue_id, tick_id, &row); }), row);
}

std::optional<Tick> Overview::find_tick(int32_t queue_id, std::optional<int64_t> tick_id)
{
    SlotRow row{};
    if (!tick_id)
        return std::nullopt;
    return tick_of(pg::pg_call([&] { return ticks_.find_equal(queue_id, *tick_id, &row); }), row);
}

std::optional<Standing> Overview::standing(int32_t sub_key)
{
    SlotRow row{};
    if (!pg::pg_call([&] { return subscriptions_.find_last(sub_key, &row); }))
        return std::nullopt;
    return Standing{row.i64(kActive), row.optional_i64(kLastTick), row.optional_i64(kBatch),
                    row.optional_i64(kNextTick)};
}

// As the function nextval does, but without its lock, which stays to the end of the transaction: a thousand
// of them would fill the lock table.
std::optional<int64_t> peek_sequence(Oid sequence)
{
    int64_t value = 0;
    const bool found = pg::pg_call([&] {
        Relation relation = OidIsValid(sequence) ? try_relation_open(sequence, AccessShareLock) : nullptr;
        if (relation == nullptr)
            return false;
        Buffer buffer = ReadBuffer(relation, 0);
        LockBuffer(buffer, BUFFER_LOCK_SHARE);
        Page page = BufferGetPage(buffer);
        HeapTupleData tuple{};
        tuple.t_data =
            reinterpret_cast<HeapTupleHeader>(PageGetItem(page, PageGetItemId(page, FirstOffsetNumber)));
        const auto *data = reinterpret_cast<Form_pg_sequence_data>(GETSTRUCT(&tuple));
        value = data->is_called ? data->last_value : 0;
        UnlockReleaseBuffer(buffer);
        relation_close(relation, AccessShareLock);
        return true;
    });
    return found ? std::optional(value) : std::nullopt;
}

} // namespace tasker::stream
