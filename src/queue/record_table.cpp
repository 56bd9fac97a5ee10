#include "queue/record_table.hpp"

namespace tasker::queue {
namespace {

bool is_id_index(Form_pg_index index)
{
    return index->indisunique && index->indnkeyatts == 1 && index->indkey.values[0] == kId;
}

bool is_lane_index(Form_pg_index index)
{
    return index->indnkeyatts == 3 && index->indkey.values[0] == kFlowId &&
           index->indkey.values[1] == kPriority && index->indkey.values[2] == kPosition;
}

// Sorts an index of the partition to its use; false when it is none of ours.
bool adopt_index(Partition *partition, Relation index)
{
    Form_pg_index form = index->rd_index;
    if (partition->id_index == nullptr && is_id_index(form))
        partition->id_index = index;
    else if (partition->lane_index == nullptr && is_lane_index(form))
        partition->lane_index = index;
    else
        return false;
    return true;
}

// Opens the partition's indexes; with more than our two the executor takes over, where anything is written.
void open_indexes(Partition *partition, LOCKMODE mode)
{
    bool ours = true;
    List *indexes = RelationGetIndexList(partition->heap);
    ListCell *cell = nullptr;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), mode);
        if (!adopt_index(partition, index)) {
            ours = false;
            index_close(index, NoLock);
        }
    }
    list_free(indexes);
    if (partition->id_index == nullptr || partition->lane_index == nullptr)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("partition \"%s\" lacks its index on (%s)", RelationGetRelationName(partition->heap),
                       partition->id_index == nullptr ? "id" : "flow_id, priority, position"),
                errhint("Create the index; every partition of tasker.queue_record needs both."));
    if (ours || mode == AccessShareLock)
        return;
    partition->estate = CreateExecutorState();
    partition->executor = makeNode(ResultRelInfo);
    InitResultRelInfo(partition->executor, partition->heap, 1, nullptr, 0);
    ExecOpenIndices(partition->executor, false);
}

// The row in a slot over plain tuples.
HeapTuple slot_row(TupleTableSlot *slot)
{
    bool must_free = false;
    return ExecFetchSlotHeapTuple(slot, false, &must_free);
}

// Arrays from this size on get pages of their own.
constexpr size_t kRowsWithOwnPages = 50;

// How many of the rows fit into one empty page that is filled to the table's fillfactor.
size_t rows_of_one_page(std::span<TupleTableSlot *const> slots, Size room)
{
    size_t count = 0;
    for (TupleTableSlot *slot : slots) {
        const Size needed = MAXALIGN(slot_row(slot)->t_len) + sizeof(ItemIdData);
        if (count > 0 && needed > room)
            break;
        room -= std::min(room, needed);
        count++;
    }
    return count;
}

// Inserts rows into the heap, many through multi-insert: one WAL record a page.
//
// Pages hold few rows, because each row needs room for its later versions. Server 15 would take the table's
// extension lock for every page, and sessions that add arrays side by side would mostly wait for each other
// there. So an array adds the pages that it will fill in one go, and is then led from page to page.
void insert_rows(Relation heap, std::span<TupleTableSlot *> slots, CommandId command)
{
    const Size room =
        BLCKSZ - SizeOfPageHeaderData - RelationGetTargetPageFreeSpace(heap, HEAP_DEFAULT_FILLFACTOR);
    int pages = 0;
    BlockNumber block = InvalidBlockNumber;

    if (slots.size() >= kRowsWithOwnPages) {
        for (size_t at = 0; at < slots.size(); pages++)
            at += rows_of_one_page(slots.subspan(at), room);
        block = tasker_extend_heap(heap, pages);
    }
    if (block == InvalidBlockNumber) {
        table_multi_insert(heap, slots.data(), static_cast<int>(slots.size()), command, 0, nullptr);
        return;
    }
    for (size_t at = 0; at < slots.size(); block++) {
        const size_t count = rows_of_one_page(slots.subspan(at), room);
        RelationSetTargetBlock(heap, block);
        table_multi_insert(heap, slots.data() + at, static_cast<int>(count), command, 0, nullptr);
        at += count;
    }
}

// Columns that are not given, and those that users have added, are null.
HeapTuple form_row(Partition *partition, const Change &row)
{
    TupleDesc descriptor = RelationGetDescr(partition->heap);
    const int columns = descriptor->natts;
    Datum few_values[kColumnCount];
    bool few_nulls[kColumnCount];
    Datum *values = few_values;
    bool *nulls = few_nulls;

    if (columns > kColumnCount) {
        values = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<Size>(columns)));
        nulls = static_cast<bool *>(palloc(static_cast<Size>(columns)));
    }
    for (int i = 0; i < columns; i++) {
        const bool given = i < kColumnCount && row.replace[i];
        values[i] = given ? row.values[i] : 0;
        nulls[i] = !given || row.nulls[i];
    }
    return heap_form_tuple(descriptor, values, nulls);
}

void insert_entry(Partition *partition, Relation index, TupleTableSlot *slot, bool update)
{
    const Form_pg_index form = index->rd_index;
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS] = {};
    for (int i = 0; i < form->indnatts; i++)
        values[i] = slot_getattr(slot, form->indkey.values[i], &nulls[i]);
    IndexInfo info{};
    info.type = T_IndexInfo;
    info.ii_NumIndexAttrs = form->indnatts;
    info.ii_NumIndexKeyAttrs = form->indnkeyatts;
    info.ii_Unique = form->indisunique;
    index_insert(index, values, nulls, &slot->tts_tid, partition->heap,
                 form->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, update && form->indisunique, &info);
}

void insert_index_entries(Partition *partition, std::span<TupleTableSlot *const> slots, bool update,
                          bool only_summarizing)
{
    if (partition->executor != nullptr) {
        for (TupleTableSlot *slot : slots) {
            tasker_exec_insert_index_tuples(partition->executor, slot, partition->estate, only_summarizing);
            ResetPerTupleExprContext(partition->estate);
        }
        return;
    }
    if (only_summarizing)
        return;
    // One index after the other: neighbouring keys meet the same pages.
    for (TupleTableSlot *slot : slots)
        insert_entry(partition, partition->id_index, slot, update);
    for (TupleTableSlot *slot : slots)
        insert_entry(partition, partition->lane_index, slot, update);
}

// Who has locked or changed a row, and has not ended yet?
enum class Holder
{
    nobody,
    self,
    others
};

Holder holder_of(HeapTupleHeader row)
{
    const TransactionId holder = HeapTupleHeaderGetRawXmax(row);
    if ((row->t_infomask & HEAP_XMAX_INVALID) != 0)
        return Holder::nobody;
    if ((row->t_infomask & HEAP_XMAX_IS_MULTI) != 0)
        return MultiXactIdIsRunning(holder, false) ? Holder::others : Holder::nobody;
    if (TransactionIdIsCurrentTransactionId(holder))
        return Holder::self;
    return TransactionIdIsInProgress(holder) ? Holder::others : Holder::nobody;
}

Holder holder_at(Partition *partition, const ItemPointerData &tid)
{
    Buffer buffer = ReadBuffer(partition->heap, ItemPointerGetBlockNumber(&tid));
    LockBuffer(buffer, BUFFER_LOCK_SHARE);
    Page page = BufferGetPage(buffer);
    ItemId item = PageGetItemId(page, ItemPointerGetOffsetNumber(&tid));
    const Holder holder = ItemIdIsNormal(item)
                              ? holder_of(reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item)))
                              : Holder::nobody;
    UnlockReleaseBuffer(buffer);
    return holder;
}

TM_Result lock_without_waiting(Partition *partition, ItemPointerData tid, CommandId command,
                               Snapshot snapshot)
{
    TM_FailureData failure;
    TupleTableSlot *slot = table_slot_create(partition->heap, nullptr);
    const TM_Result locked = table_tuple_lock(partition->heap, &tid, snapshot, slot, command,
                                              LockTupleNoKeyExclusive, LockWaitSkip, 0, &failure);
    ExecDropSingleTupleTableSlot(slot);
    return locked;
}

#ifdef USE_ASSERT_CHECKING
constexpr bool kUpdateMayDecline = false;
#else
constexpr bool kUpdateMayDecline = true;
#endif

// Makes sure that an update will not wait: TM_Ok, or what stands in the way. Leaves in `wait` what to tell
// table_tuple_update.
//
// Between a look at the row and its update somebody else may take it. Asked not to wait, heap_update then
// answers TM_BeingModified, as the table access method interface says; but servers with assertions forbid the
// question. There the row is locked first, which costs a second WAL record.
TM_Result ready_to_update(Partition *partition, ItemPointerData tid, CommandId command, Snapshot snapshot,
                          bool *wait)
{
    *wait = false;
    const Holder holder = holder_at(partition, tid);
    if (holder == Holder::others)
        return TM_WouldBlock;
    if (holder == Holder::nobody && kUpdateMayDecline)
        return TM_Ok;
    *wait = true; // for nobody: the row is ours
    if (holder == Holder::self)
        return TM_Ok;

    return lock_without_waiting(partition, tid, command, snapshot);
}

// In a transaction with one snapshot, may the version at `tid` be changed? A version that came since is no
// reason against it as such, which is how a claim gets records that were added since; but when the snapshot
// sees an older version of the same row, it would see both that and ours from then on. So this is what
// Postgres does: the transaction must begin anew.
void check_serializable(Partition *partition, const ItemPointerData &tid, int64_t id)
{
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
    TupleTableSlot *slot = table_slot_create(partition->heap, nullptr);
    IndexScanDesc scan =
        tasker_index_beginscan(partition->heap, partition->id_index, GetTransactionSnapshot(), 1);
    index_rescan(scan, &key, 1, nullptr, 0);
    const bool changed = index_getnext_slot(scan, ForwardScanDirection, slot) &&
                         !ItemPointerEquals(&slot->tts_tid, const_cast<ItemPointerData *>(&tid));
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    if (changed)
        ereport(
            ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
            errmsg("could not serialize access due to concurrent update"),
            errdetail("Record " INT64_FORMAT " has changed since the transaction's snapshot was taken.", id),
            errhint("Repeat the transaction, or use READ COMMITTED."));
}

int64_t id_of(Partition *partition, HeapTuple row)
{
    bool null = false;
    return DatumGetInt64(heap_getattr(row, kId, RelationGetDescr(partition->heap), &null));
}

// Forms the changed row and writes it over the one at `tid`.
TM_Result update_tuple(Partition *partition, HeapTuple old_row, const Change &change, CommandId command,
                       Snapshot snapshot, bool wait)
{
    if (!wait) {
        const TM_Result ready = ready_to_update(partition, old_row->t_self, command, snapshot, &wait);
        if (ready != TM_Ok)
            return ready;
    }
    if (IsolationUsesXactSnapshot())
        check_serializable(partition, old_row->t_self, id_of(partition, old_row));

    TupleDesc descriptor = RelationGetDescr(partition->heap);
    const int columns = descriptor->natts;
    auto *values = static_cast<Datum *>(palloc0(sizeof(Datum) * static_cast<Size>(columns)));
    auto *nulls = static_cast<bool *>(palloc0(static_cast<Size>(columns)));
    auto *replace = static_cast<bool *>(palloc0(static_cast<Size>(columns)));
    memcpy(values, change.values, sizeof change.values);
    memcpy(nulls, change.nulls, sizeof change.nulls);
    memcpy(replace, change.replace, sizeof change.replace);

    HeapTuple new_row = heap_modify_tuple(old_row, descriptor, values, nulls, replace);
    ItemPointerData tid = old_row->t_self;
    TM_FailureData failure;
    LockTupleMode lock_mode;
    tasker_update_indexes indexes{};
    TupleTableSlot *slot = partition->write_slot;

    ExecStoreHeapTuple(new_row, slot, true);
    TM_Result outcome = table_tuple_update(partition->heap, &tid, slot, command, snapshot, InvalidSnapshot,
                                           wait, &failure, &lock_mode, &indexes);
    if (outcome == TM_Ok && tasker_needs_index_entries(indexes))
        insert_index_entries(partition, {&slot, 1}, true, tasker_only_summarizing(indexes));
    ExecClearTuple(slot);
    pfree(values);
    pfree(nulls);
    pfree(replace);
    return outcome;
}

} // namespace

Partition *open_partition(Oid relid, LOCKMODE mode)
{
    Relation heap = try_relation_open(relid, mode);
    if (heap == nullptr)
        return nullptr;

    auto *partition = static_cast<Partition *>(palloc0(sizeof(Partition)));
    partition->relid = relid;
    partition->heap = heap;
    open_indexes(partition, mode);
    partition->read_slot = table_slot_create(heap, nullptr);
    partition->write_slot = MakeSingleTupleTableSlot(RelationGetDescr(heap), &TTSOpsHeapTuple);
    return partition;
}

bool holds_exclusively(Oid relid)
{
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
    return LockHeldByMe(&tag, AccessExclusiveLock);
}

void close_partition(Partition *partition)
{
    ExecDropSingleTupleTableSlot(partition->read_slot);
    ExecDropSingleTupleTableSlot(partition->write_slot);
    if (partition->executor != nullptr) {
        ExecCloseIndices(partition->executor);
        FreeExecutorState(partition->estate);
    }
    index_close(partition->id_index, NoLock);
    index_close(partition->lane_index, NoLock);
    table_close(partition->heap, NoLock);
    pfree(partition);
}

void insert_record(Partition *partition, const Change &row, CommandId command)
{
    TupleTableSlot *slot = partition->write_slot;
    ExecStoreHeapTuple(form_row(partition, row), slot, true);
    table_tuple_insert(partition->heap, slot, command, 0, nullptr);
    insert_index_entries(partition, {&slot, 1}, false, false);
    ExecClearTuple(slot);
}

void insert_records(Partition *partition, const Change *rows, int count, CommandId command)
{
    // Slots over a copy of the descriptor need no pin each.
    TupleDesc descriptor = CreateTupleDescCopy(RelationGetDescr(partition->heap));
    auto **slots =
        static_cast<TupleTableSlot **>(palloc(sizeof(TupleTableSlot *) * static_cast<Size>(count)));
    for (int i = 0; i < count; i++) {
        slots[i] = MakeSingleTupleTableSlot(descriptor, &TTSOpsHeapTuple);
        slots[i]->tts_tableOid = partition->relid;
        ExecStoreHeapTuple(form_row(partition, rows[i]), slots[i], true);
    }
    insert_rows(partition->heap, {slots, static_cast<size_t>(count)}, command);
    insert_index_entries(partition, {slots, static_cast<size_t>(count)}, false, false);
    for (int i = 0; i < count; i++)
        ExecDropSingleTupleTableSlot(slots[i]);
    pfree(slots);
}

bool is_held_by_others(Partition *partition, const ItemPointerData &tid)
{
    return holder_at(partition, tid) == Holder::others;
}

bool try_lock_row(Partition *partition, ItemPointerData tid, Snapshot snapshot)
{
    return lock_without_waiting(partition, tid, GetCurrentCommandId(true), snapshot) == TM_Ok;
}

RecordHead head_of(TupleTableSlot *slot)
{
    slot_getsomeattrs(slot, kStatus);
    const Datum *values = slot->tts_values;
    const bool *nulls = slot->tts_isnull;
    RecordHead head{};
    head.id = DatumGetInt64(values[kId - 1]);
    head.position = DatumGetInt64(values[kPosition - 1]);
    head.lease_token = nulls[kLeaseToken - 1] ? 0 : DatumGetInt64(values[kLeaseToken - 1]);
    head.claimed_at = nulls[kClaimedAt - 1] ? PG_INT64_MAX : DatumGetTimestampTz(values[kClaimedAt - 1]);
    head.lease_expires_at =
        nulls[kLeaseExpiresAt - 1] ? PG_INT64_MAX : DatumGetTimestampTz(values[kLeaseExpiresAt - 1]);
    head.flow_id = DatumGetInt32(values[kFlowId - 1]);
    head.retry_count = DatumGetInt32(values[kRetryCount - 1]);
    head.priority = DatumGetInt16(values[kPriority - 1]);
    head.status = static_cast<core::RecordStatus>(DatumGetChar(values[kStatus - 1]));
    return head;
}

LaneScan begin_lane_scan(Partition *partition, Snapshot snapshot, int32_t flow_id, int16_t priority,
                         int64_t from, int64_t to)
{
    const int count = to == PG_INT64_MAX ? 3 : 4;
    ScanKeyData keys[4];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(flow_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(priority));
    ScanKeyInit(&keys[2], 3, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
    ScanKeyInit(&keys[3], 3, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(to));
    IndexScanDesc scan = tasker_index_beginscan(partition->heap, partition->lane_index, snapshot, count);
    index_rescan(scan, keys, count, nullptr, 0);
    return {partition, scan};
}

bool next_in_lane(LaneScan &scan)
{
    CHECK_FOR_INTERRUPTS();
    return index_getnext_slot(scan.scan, ForwardScanDirection, scan.partition->read_slot);
}

void end_lane_scan(LaneScan &scan)
{
    ExecClearTuple(scan.partition->read_slot);
    index_endscan(scan.scan);
}

IndexScanDesc begin_id_scan(Partition *partition, Snapshot snapshot)
{
    return tasker_index_beginscan(partition->heap, partition->id_index, snapshot, 1);
}

bool find_id(Partition *partition, IndexScanDesc scan, int64_t id)
{
    ScanKeyData key;
    CHECK_FOR_INTERRUPTS();
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
    index_rescan(scan, &key, 1, nullptr, 0);
    return index_getnext_slot(scan, ForwardScanDirection, partition->read_slot);
}

TM_Result update_record(Partition *partition, const Change &change, CommandId command, Snapshot snapshot,
                        bool wait)
{
    bool must_free = false;
    HeapTuple row = ExecFetchSlotHeapTuple(partition->read_slot, false, &must_free);
    return update_tuple(partition, row, change, command, snapshot, wait);
}

TM_Result update_copied(Partition *partition, HeapTuple row, const Change &change, CommandId command,
                        Snapshot snapshot, bool wait)
{
    return update_tuple(partition, row, change, command, snapshot, wait);
}

} // namespace tasker::queue
