#include "stream/slots.hpp"

#include "pg/function.hpp"
#include "pg/invalidation.hpp"
#include "pg/spi.hpp"
#include "stream/restore.hpp"
#include "stream/table_writer.hpp"

namespace tasker::stream {
namespace {

Slots cached{};
bool is_cached = false; // an error in read_slots() leaves the watch begun and nothing read
pg::TableWatch rotation("metadata_rotation");

Slots read_slots()
{
    static pg::Statement query(
        "select rotation_subscription_table, rotation_tick_table, 'tasker.subscription_0'::regclass::oid, "
        "'tasker.subscription_1'::regclass::oid, 'tasker.subscription_2'::regclass::oid, "
        "'tasker.tick_0'::regclass::oid, 'tasker.tick_1'::regclass::oid, 'tasker.tick_2'::regclass::oid, "
        "'tasker.registration'::regclass::oid from tasker.metadata_rotation",
        {});
    rotation.begin(); // first: a change from here on must not be lost
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query);
    if (rows.empty()) {
        rotation.forget();
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "there is no queue yet")
            .hint("Create one with tasker.create_queue().");
    }
    Slots slots{rows.i32(0, 1), rows.i32(0, 2), {}, {}, rows.oid(0, 9)};
    for (int i = 0; i < kTables; i++) {
        slots.subscriptions[i] = rows.oid(0, 3 + i);
        slots.ticks[i] = rows.oid(0, 6 + i);
    }
    return slots;
}

// Plain C from here on: may ereport.

bool is_backward(Seek seek)
{
    return seek == Seek::last || seek == Seek::last_before;
}

ScanDirection direction_of(Seek seek)
{
    return is_backward(seek) ? BackwardScanDirection : ForwardScanDirection;
}

int scan_keys(Seek seek, int32_t key, int64_t value, ScanKeyData *keys)
{
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(key));
    if (seek == Seek::last)
        return 1;
    if (seek == Seek::equal)
        ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(value));
    else if (seek == Seek::last_before)
        ScanKeyInit(&keys[1], 2, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(value));
    else
        ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(value));
    return 2;
}

void copy_row(TupleTableSlot *slot, SlotRow *row)
{
    TupleDesc descriptor = slot->tts_tupleDescriptor;
    slot_getallattrs(slot);
    for (int i = 0; i < kSlotColumns; i++) {
        row->nulls[i] = i >= descriptor->natts || slot->tts_isnull[i];
        row->values[i] = 0;
        if (row->nulls[i])
            continue;
        const Form_pg_attribute column = TupleDescAttr(descriptor, i);
        if (column->attlen == -1) // what is in the TOAST table, while nobody can empty it
            row->values[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(slot->tts_values[i]));
        else
            row->values[i] = datumCopy(slot->tts_values[i], column->attbyval, column->attlen);
    }
}

Relation open_primary_key(Relation heap)
{
    const Oid index = (RelationGetIndexList(heap), heap->rd_pkindex);
    if (!OidIsValid(index))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("table \"%s\" has no primary key", RelationGetRelationName(heap)));
    return index_open(index, AccessShareLock);
}

// The first row in one table; false when there is none.
bool find_in_table(Relation heap, int32_t key, Seek seek, int64_t value, SlotRow *row)
{
    Relation index = open_primary_key(heap);
    TupleTableSlot *slot = table_slot_create(heap, nullptr);
    ScanKeyData keys[2];
    const int count = scan_keys(seek, key, value, keys);
    IndexScanDesc scan = tasker_index_beginscan(heap, index, GetActiveSnapshot(), count);
    index_rescan(scan, keys, count, nullptr, 0);
    const bool found = index_getnext_slot(scan, direction_of(seek), slot);
    if (found)
        copy_row(slot, row);
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, AccessShareLock);
    return found;
}

bool is_before(const SlotRow &a, const SlotRow &b, Seek seek)
{
    return is_backward(seek) ? a.i64(1) > b.i64(1) : a.i64(1) < b.i64(1);
}

void pin(const Oid (&tables)[kTables])
{
    pg::pg_call([&] {
        for (Oid table : tables)
            LockRelationOid(table, AccessShareLock);
    });
}

} // namespace

Slots current_slots()
{
    if (!rotation.holds() || !is_cached) {
        is_cached = false;
        cached = read_slots();
        is_cached = true;
    }
    return cached;
}

int32_t hold_subscriptions()
{
    require_restored();
    const Slots slots = current_slots();
    pg::pg_call([&] { LockRelationOid(slots.subscriptions[slots.subscription], RowExclusiveLock); });
    return slots.subscription;
}

int32_t hold_ticks()
{
    require_restored();
    const Slots slots = current_slots();
    pg::pg_call([&] { LockRelationOid(slots.ticks[slots.tick], RowExclusiveLock); });
    return slots.tick;
}

void pin_subscriptions()
{
    pin(current_slots().subscriptions);
}

void pin_ticks()
{
    pin(current_slots().ticks);
}

void prepare_slots()
{
    static pg::Statement insert("insert into tasker.metadata_rotation default values on conflict do nothing",
                                {});
    pg::Spi().run(insert);
}

// All tables are locked before the snapshot is taken: else one might be emptied in between, and what was
// appended to another one meanwhile would not be in the snapshot.
std::optional<SlotRow> find_row(const Oid (&tables)[kTables], int32_t key, Seek seek, int64_t value,
                                bool keep)
{
    SlotRow best{-1, {}, {}};
    pg::pg_call([&] {
        Relation heaps[kTables];
        for (int i = 0; i < kTables; i++)
            heaps[i] = table_open(tables[i], AccessShareLock);
        PushActiveSnapshot(GetLatestSnapshot());
        for (int32_t i = 0; i < kTables; i++) {
            SlotRow row{i, {}, {}};
            if (find_in_table(heaps[i], key, seek, value, &row) &&
                (best.slot < 0 || is_before(row, best, seek)))
                best = row;
        }
        PopActiveSnapshot();
        for (Relation heap : heaps)
            table_close(heap, keep ? NoLock : AccessShareLock);
    });
    return best.slot >= 0 ? std::optional(best) : std::nullopt;
}

void append_row(Oid table, const Datum (&values)[kSlotColumns], const bool (&nulls)[kSlotColumns])
{
    pg::pg_call([&] {
        TableWriter writer(table_open(table, NoLock));
        if (writer.descriptor()->natts > kSlotColumns)
            ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("table \"%s\" has been altered", RelationGetRelationName(writer.heap())));
        writer.insert(values, nulls);
        writer.close();
        CommandCounterIncrement();
    });
}

bool lock_key(int32_t sub_key, bool wait)
{
    const Oid registration = current_slots().registration;
    return pg::pg_call([&] {
        LOCKTAG tag;
        SET_LOCKTAG_OBJECT(tag, MyDatabaseId, registration, static_cast<Oid>(sub_key), 0);
        return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
    });
}

} // namespace tasker::stream
