#include "workflow/edges.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

// The index that begins with the children; users may have added others.
Relation open_parents_index(Relation heap)
{
    List *indexes = RelationGetIndexList(heap);
    ListCell *cell = nullptr;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        const Form_pg_index form = index->rd_index;
        if (form->indkey.values[0] == kEdgeTo && form->indisvalid && index->rd_rel->relam == BTREE_AM_OID &&
            heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr)) {
            list_free(indexes);
            return index;
        }
        index_close(index, AccessShareLock);
    }
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("table \"%s\" has no index on column \"to_step_uuid\"", RelationGetRelationName(heap)));
    pg_unreachable();
}

core::Uuid column_of(TupleTableSlot *slot, int column)
{
    bool null = false;
    return uuid_of(slot_getattr(slot, column, &null));
}

} // namespace

void find_children(Instances &instances, const core::Uuid &step, Growing<core::Uuid> &found)
{
    pg::DirectTable *table = find_table(instances, Table::edge, step);
    if (table == nullptr)
        return;
    if (table->scan == nullptr)
        pg::begin_key_scan(table, GetActiveSnapshot());
    const Datum key = UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&step));
    pg::seek_range(table, key, key);
    while (pg::next_in_range(table))
        found.add(column_of(table->read_slot, kEdgeTo));
}

void find_parents(Instances &instances, const core::Uuid &step, Growing<core::Uuid> &found)
{
    pg::DirectTable *table = find_table(instances, Table::edge, step);
    if (table == nullptr)
        return;
    Relation index = open_parents_index(table->heap);
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ,
                UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&step)));
    TupleTableSlot *slot = table_slot_create(table->heap, nullptr);
    IndexScanDesc scan = tasker_index_beginscan(table->heap, index, GetActiveSnapshot(), 1);
    index_rescan(scan, &key, 1, nullptr, 0);
    while (index_getnext_slot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        found.add(column_of(slot, kEdgeFrom));
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, NoLock);
}

} // namespace tasker::workflow
