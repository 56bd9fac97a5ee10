// Finding a row by its key.
#include "partition/move_sink.hpp"

namespace tasker::partition {
namespace {

bool is_named(const char *column, const NameData *names, int count)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(NameStr(names[i]), column) == 0)
            return true;
    }
    return false;
}

// A unique key over exactly these columns of the table that tells rows apart at once and for all rows.
bool is_index_over(Relation table, Relation index, const NameData *names, int count)
{
    Form_pg_index form = index->rd_index;
    if (!form->indisunique || !form->indimmediate || !form->indisvalid || !form->indisready ||
        form->indnkeyatts != count || !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr))
        return false;
    for (int i = 0; i < form->indnkeyatts; i++) {
        const AttrNumber column = form->indkey.values[i];
        if (column <= 0 ||
            !is_named(NameStr(TupleDescAttr(RelationGetDescr(table), column - 1)->attname), names, count))
            return false;
    }
    return true;
}

Relation open_index_over(Relation table, const NameData *names, int count)
{
    List *indexes = RelationGetIndexList(table);
    ListCell *cell = nullptr;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), RowExclusiveLock);
        if (is_index_over(table, index, names, count)) {
            list_free(indexes);
            return index;
        }
        index_close(index, NoLock);
    }
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("table \"%s\" lacks the unique key by which its rows are found",
                   RelationGetRelationName(table)));
    pg_unreachable();
}

void prepare_scan_key(Relation index, int i, ScanKey key)
{
    bool null = false;
    Datum classes = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indclass, &null);
    const Oid opclass = reinterpret_cast<oidvector *>(DatumGetPointer(classes))->values[i];
    const Oid type = get_opclass_input_type(opclass);
    const Oid equality = get_opfamily_member(get_opclass_family(opclass), type, type, BTEqualStrategyNumber);
    if (!OidIsValid(equality))
        elog(ERROR, "index \"%s\" knows no equality", RelationGetRelationName(index));
    ScanKeyInit(key, static_cast<AttrNumber>(i + 1), BTEqualStrategyNumber, get_opcode(equality), 0);
    key->sk_collation = index->rd_indcollation[i];
}

} // namespace

void open_probe(KeyProbe *probe, Relation table, const NameData *names, int count)
{
    probe->table = table;
    probe->index = open_index_over(table, names, count);
    for (int i = 0; i < count; i++)
        prepare_scan_key(probe->index, i, &probe->keys[i]);
    probe->scan = tasker_index_beginscan(table, probe->index, SnapshotSelf, count);
    probe->found = table_slot_create(table, nullptr);
}

void close_probe(KeyProbe *probe)
{
    ExecDropSingleTupleTableSlot(probe->found);
    index_endscan(probe->scan);
    index_close(probe->index, NoLock);
}

// A key column is never null: choose_key has seen to that.
bool probe_key(KeyProbe *probe, TupleTableSlot *row)
{
    Form_pg_index form = probe->index->rd_index;
    for (int i = 0; i < form->indnkeyatts; i++) {
        bool null = false;
        probe->keys[i].sk_argument = slot_getattr(row, form->indkey.values[i], &null);
        if (null)
            return false;
    }
    index_rescan(probe->scan, probe->keys, form->indnkeyatts, nullptr, 0);
    return index_getnext_slot(probe->scan, ForwardScanDirection, probe->found);
}

} // namespace tasker::partition
