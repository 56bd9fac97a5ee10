#include "pg/direct_table.hpp"

namespace tasker::pg {
namespace {

bool is_plain(Relation index)
{
    return RelationGetIndexExpressions(index) == NIL && RelationGetIndexPredicate(index) == NIL &&
           index->rd_rel->relam == BTREE_AM_OID;
}

void open_index(DirectTable *table, DirectIndex &entry, Oid relid, LOCKMODE mode)
{
    entry = {index_open(relid, mode), nullptr, nullptr};
    if (is_plain(entry.relation))
        return;
    if (table->estate == nullptr)
        table->estate = CreateExecutorState();
    entry.info = BuildIndexInfo(entry.relation);
    MemoryContext outer = MemoryContextSwitchTo(table->estate->es_query_cxt);
    if (entry.info->ii_Predicate != NIL)
        entry.predicate = ExecPrepareQual(entry.info->ii_Predicate, table->estate);
    MemoryContextSwitchTo(outer);
}

void open_indexes(DirectTable *table, LOCKMODE mode)
{
    List *relids = RelationGetIndexList(table->heap);
    const Oid key = table->heap->rd_pkindex;
    if (!OidIsValid(key))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("table \"%s\" has no primary key", RelationGetRelationName(table->heap)));
    if (mode == AccessShareLock) {
        table->primary_key = index_open(key, mode);
        list_free(relids);
        return;
    }
    const int count = list_length(relids);
    table->indexes = static_cast<DirectIndex *>(palloc(sizeof(DirectIndex) * static_cast<Size>(count)));
    ListCell *cell = nullptr;
    foreach (cell, relids) {
        DirectIndex &entry = table->indexes[table->index_count++];
        open_index(table, entry, lfirst_oid(cell), mode);
        if (lfirst_oid(cell) == key)
            table->primary_key = entry.relation;
    }
    list_free(relids);
}

void insert_entry(DirectTable *table, const DirectIndex &entry, TupleTableSlot *slot, bool update)
{
    const Form_pg_index form = entry.relation->rd_index;
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS] = {};
    IndexInfo plain{};
    IndexInfo *info = entry.info;
    if (!form->indisready)
        return;
    if (info == nullptr) {
        plain.type = T_IndexInfo;
        plain.ii_NumIndexAttrs = form->indnatts;
        plain.ii_NumIndexKeyAttrs = form->indnkeyatts;
        plain.ii_Unique = form->indisunique;
        info = &plain;
        for (int i = 0; i < form->indnatts; i++)
            values[i] = slot_getattr(slot, form->indkey.values[i], &nulls[i]);
    } else {
        ExprContext *context = GetPerTupleExprContext(table->estate);
        context->ecxt_scantuple = slot;
        if (entry.predicate != nullptr && !ExecQual(entry.predicate, context))
            return;
        FormIndexDatum(info, slot, table->estate, values, nulls);
    }
    index_insert(entry.relation, values, nulls, &slot->tts_tid, table->heap,
                 form->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, update && form->indisunique, info);
    if (entry.info != nullptr)
        ResetPerTupleExprContext(table->estate);
}

// One index after the other: neighbouring keys meet the same pages.
void insert_entries(DirectTable *table, std::span<TupleTableSlot *const> slots, bool update)
{
    for (int i = 0; i < table->index_count; i++) {
        for (TupleTableSlot *slot : slots)
            insert_entry(table, table->indexes[i], slot, update);
    }
}

// In a transaction with one snapshot, may the row in read_slot be changed? A row that came since may; one of
// which the snapshot sees an older version may not, as the transaction would see two of them from then on.
void check_serializable(DirectTable *table)
{
    const Form_pg_index form = table->primary_key->rd_index;
    const int columns = form->indnkeyatts;
    ScanKeyData keys[INDEX_MAX_KEYS];
    for (int i = 0; i < columns; i++) {
        bool null = false;
        Datum value = slot_getattr(table->read_slot, form->indkey.values[i], &null);
        const Oid type = TupleDescAttr(RelationGetDescr(table->heap), form->indkey.values[i] - 1)->atttypid;
        ScanKeyInit(&keys[i], static_cast<AttrNumber>(i + 1), BTEqualStrategyNumber,
                    type == UUIDOID ? F_UUID_EQ : F_INT4EQ, value);
    }
    TupleTableSlot *slot = table_slot_create(table->heap, nullptr);
    IndexScanDesc scan =
        tasker_index_beginscan(table->heap, table->primary_key, GetTransactionSnapshot(), columns);
    index_rescan(scan, keys, columns, nullptr, 0);
    const bool changed = index_getnext_slot(scan, ForwardScanDirection, slot) &&
                         !ItemPointerEquals(&slot->tts_tid, &table->read_slot->tts_tid);
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    if (changed)
        ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                errmsg("could not serialize access due to concurrent update"),
                errdetail("A row of table \"%s\" has changed since the transaction's snapshot was taken.",
                          RelationGetRelationName(table->heap)),
                errhint("Repeat the transaction, or use READ COMMITTED."));
}

} // namespace

DirectTable *open_direct(Oid relid, LOCKMODE mode)
{
    Relation heap = try_relation_open(relid, mode);
    if (heap == nullptr)
        return nullptr;
    auto *table = static_cast<DirectTable *>(palloc0(sizeof(DirectTable)));
    table->relid = relid;
    table->heap = heap;
    open_indexes(table, mode);
    table->read_slot = table_slot_create(heap, nullptr);
    table->write_slot = MakeSingleTupleTableSlot(RelationGetDescr(heap), &TTSOpsHeapTuple);
    return table;
}

void close_direct(DirectTable *table)
{
    end_key_scan(table);
    ExecDropSingleTupleTableSlot(table->read_slot);
    ExecDropSingleTupleTableSlot(table->write_slot);
    if (table->index_count == 0)
        index_close(table->primary_key, NoLock);
    for (int i = 0; i < table->index_count; i++)
        index_close(table->indexes[i].relation, NoLock);
    if (table->estate != nullptr)
        FreeExecutorState(table->estate);
    table_close(table->heap, NoLock);
    pfree(table);
}

void begin_key_scan(DirectTable *table, Snapshot snapshot)
{
    end_key_scan(table);
    table->scan = tasker_index_beginscan(table->heap, table->primary_key, snapshot, 2);
}

void end_key_scan(DirectTable *table)
{
    if (table->scan == nullptr)
        return;
    ExecClearTuple(table->read_slot);
    index_endscan(table->scan);
    table->scan = nullptr;
}

bool find_by_key(DirectTable *table, Datum key)
{
    seek_range(table, key, key);
    return next_in_range(table, BackwardScanDirection);
}

void seek_range(DirectTable *table, Datum from, Datum to)
{
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_UUID_GE, from);
    ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_UUID_LE, to);
    index_rescan(table->scan, keys, 2, nullptr, 0);
}

bool next_in_range(DirectTable *table, ScanDirection direction)
{
    CHECK_FOR_INTERRUPTS();
    return index_getnext_slot(table->scan, direction, table->read_slot);
}

HeapTuple form_row(DirectTable *table, const RowValues &row)
{
    TupleDesc descriptor = RelationGetDescr(table->heap);
    const int columns = descriptor->natts;
    Datum few_values[kMaxDirectColumns];
    bool few_nulls[kMaxDirectColumns];
    Datum *values = few_values;
    bool *nulls = few_nulls;
    if (columns > kMaxDirectColumns) {
        values = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<Size>(columns)));
        nulls = static_cast<bool *>(palloc(static_cast<Size>(columns)));
    }
    for (int i = 0; i < columns; i++) {
        const bool given = i < kMaxDirectColumns && row.given[i];
        values[i] = given ? row.values[i] : 0;
        nulls[i] = !given || row.nulls[i];
    }
    return heap_form_tuple(descriptor, values, nulls);
}

void insert_rows(DirectTable *table, std::span<HeapTuple> rows)
{
    const CommandId command = GetCurrentCommandId(true);
    // Slots over a copy of the descriptor need no pin each.
    TupleDesc copy = CreateTupleDescCopy(RelationGetDescr(table->heap));
    auto **slots = static_cast<TupleTableSlot **>(palloc(sizeof(TupleTableSlot *) * rows.size()));
    for (size_t i = 0; i < rows.size(); i++) {
        slots[i] = MakeSingleTupleTableSlot(copy, &TTSOpsHeapTuple);
        slots[i]->tts_tableOid = table->relid;
        ExecStoreHeapTuple(rows[i], slots[i], true);
    }
    table_multi_insert(table->heap, slots, static_cast<int>(rows.size()), command, 0, nullptr);
    insert_entries(table, {slots, rows.size()}, false);
    for (size_t i = 0; i < rows.size(); i++)
        ExecDropSingleTupleTableSlot(slots[i]);
    pfree(slots);
    FreeTupleDesc(copy);
}

TM_Result update_found(DirectTable *table, const RowValues &change, Snapshot snapshot)
{
    if (IsolationUsesXactSnapshot())
        check_serializable(table);
    TupleDesc descriptor = RelationGetDescr(table->heap);
    const int columns = descriptor->natts;
    const Size bytes = static_cast<Size>(Max(columns, kMaxDirectColumns));
    auto *values = static_cast<Datum *>(palloc0(sizeof(Datum) * bytes));
    auto *nulls = static_cast<bool *>(palloc0(bytes));
    auto *given = static_cast<bool *>(palloc0(bytes));
    memcpy(values, change.values, sizeof change.values);
    memcpy(nulls, change.nulls, sizeof change.nulls);
    memcpy(given, change.given, sizeof change.given);

    bool must_free = false;
    HeapTuple old_row = ExecFetchSlotHeapTuple(table->read_slot, false, &must_free);
    HeapTuple new_row = heap_modify_tuple(old_row, descriptor, values, nulls, given);
    ItemPointerData tid = table->read_slot->tts_tid;
    TM_FailureData failure;
    LockTupleMode lock_mode;
    tasker_update_indexes indexes{};
    TupleTableSlot *slot = table->write_slot;

    ExecStoreHeapTuple(new_row, slot, true);
    slot->tts_tableOid = table->relid;
    const TM_Result outcome = table_tuple_update(table->heap, &tid, slot, GetCurrentCommandId(true), snapshot,
                                                 InvalidSnapshot, true, &failure, &lock_mode, &indexes);
    if (outcome == TM_Ok && tasker_needs_index_entries(indexes))
        insert_entries(table, {&slot, 1}, true);
    ExecClearTuple(slot);
    pfree(values);
    pfree(nulls);
    pfree(given);
    return outcome;
}

TM_Result try_lock_found(DirectTable *table, Snapshot snapshot)
{
    TM_FailureData failure;
    ItemPointerData tid = table->read_slot->tts_tid;
    TupleTableSlot *slot = table_slot_create(table->heap, nullptr);
    const TM_Result locked = table_tuple_lock(table->heap, &tid, snapshot, slot, GetCurrentCommandId(true),
                                              LockTupleNoKeyExclusive, LockWaitSkip, 0, &failure);
    ExecDropSingleTupleTableSlot(slot);
    return locked;
}

} // namespace tasker::pg
