#include "queue/record_table.hpp"

namespace tasker::queue {
namespace {

// The two indexes that every partition has; users may add more, which are maintained like these.
void find_indexes(Partition *partition)
{
    ResultRelInfo *result = partition->result;
    for (int i = 0; i < result->ri_NumIndices; i++) {
        Form_pg_index index = result->ri_IndexRelationDescs[i]->rd_index;
        const int keys = index->indnkeyatts;
        const int2vector &columns = index->indkey;
        if (index->indisunique && keys == 1 && columns.values[0] == kId)
            partition->id_index = result->ri_IndexRelationDescs[i];
        else if (keys == 3 && columns.values[0] == kFlowId && columns.values[1] == kPriority &&
                 columns.values[2] == kPosition)
            partition->lane_index = result->ri_IndexRelationDescs[i];
    }
    if (partition->id_index == nullptr || partition->lane_index == nullptr)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("partition \"%s\" lacks its index on (%s)", RelationGetRelationName(partition->heap),
                       partition->id_index == nullptr ? "id" : "flow_id, priority, position"),
                errhint("Create the index; every partition of tasker.queue_record needs both."));
}

// Copies the values of a Change over a row's; columns that users have added stay as they are.
void fill_slot(Partition *partition, const Change &row)
{
    TupleTableSlot *slot = partition->write_slot;
    const int columns = slot->tts_tupleDescriptor->natts;

    ExecClearTuple(slot);
    for (int i = 0; i < columns; i++) {
        const bool given = i < kColumnCount && row.replace[i];
        slot->tts_values[i] = given ? row.values[i] : 0;
        slot->tts_isnull[i] = !given || row.nulls[i];
    }
    ExecStoreVirtualTuple(slot);
}

void insert_index_entries(Partition *partition, TupleTableSlot *slot, bool update, bool only_summarizing)
{
    tasker_exec_insert_index_tuples(partition->result, slot, partition->estate, update, only_summarizing);
    ResetPerTupleExprContext(partition->estate);
}

// Forms the changed row and writes it over the one at `tid`.
TM_Result update_tuple(Partition *partition, HeapTuple old_row, const Change &change, CommandId command,
                       Snapshot snapshot, bool wait)
{
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

    ExecForceStoreHeapTuple(new_row, slot, false);
    TM_Result outcome = table_tuple_update(partition->heap, &tid, slot, command, snapshot, InvalidSnapshot,
                                           wait, &failure, &lock_mode, &indexes);
    if (outcome == TM_Ok && tasker_needs_index_entries(indexes))
        insert_index_entries(partition, slot, true, tasker_only_summarizing(indexes));
    ExecClearTuple(slot);
    heap_freetuple(new_row);
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
    partition->estate = CreateExecutorState();
    partition->result = makeNode(ResultRelInfo);
    InitResultRelInfo(partition->result, heap, 1, nullptr, 0);
    ExecOpenIndices(partition->result, false);
    find_indexes(partition);
    partition->read_slot = table_slot_create(heap, nullptr);
    partition->write_slot = table_slot_create(heap, nullptr);
    return partition;
}

void close_partition(Partition *partition)
{
    ExecDropSingleTupleTableSlot(partition->read_slot);
    ExecDropSingleTupleTableSlot(partition->write_slot);
    ExecCloseIndices(partition->result);
    FreeExecutorState(partition->estate);
    table_close(partition->heap, NoLock);
    pfree(partition);
}

void insert_record(Partition *partition, const Change &row, CommandId command)
{
    fill_slot(partition, row);
    table_tuple_insert(partition->heap, partition->write_slot, command, 0, nullptr);
    insert_index_entries(partition, partition->write_slot, false, false);
    ExecClearTuple(partition->write_slot);
}

void insert_records(Partition *partition, const Change *rows, int count, CommandId command)
{
    auto **slots =
        static_cast<TupleTableSlot **>(palloc(sizeof(TupleTableSlot *) * static_cast<Size>(count)));
    TupleTableSlot *write_slot = partition->write_slot;

    for (int i = 0; i < count; i++) {
        partition->write_slot = slots[i] = table_slot_create(partition->heap, nullptr);
        fill_slot(partition, rows[i]);
    }
    partition->write_slot = write_slot;
    table_multi_insert(partition->heap, slots, count, command, 0, nullptr);
    for (int i = 0; i < count; i++) {
        insert_index_entries(partition, slots[i], false, false);
        ExecDropSingleTupleTableSlot(slots[i]);
    }
    pfree(slots);
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
                         int64_t from)
{
    ScanKeyData keys[3];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(flow_id));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(priority));
    ScanKeyInit(&keys[2], 3, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
    IndexScanDesc scan = tasker_index_beginscan(partition->heap, partition->lane_index, snapshot, 3);
    index_rescan(scan, keys, 3, nullptr, 0);
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

TM_Result delete_record(Partition *partition, CommandId command, Snapshot snapshot)
{
    TM_FailureData failure;
    ItemPointerData tid = partition->read_slot->tts_tid;
    return table_tuple_delete(partition->heap, &tid, command, snapshot, InvalidSnapshot, true, &failure,
                              false);
}

} // namespace tasker::queue
