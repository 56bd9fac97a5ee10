#include "partition/relations.hpp"

namespace tasker::partition {

Oid tasker_relation(const char *name)
{
    return get_relname_relid(name, get_namespace_oid("tasker", false));
}

Oid owner_of(Oid relid)
{
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(tuple))
        elog(ERROR, "cache lookup failed for relation %u", relid);
    Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    return owner;
}

RowScan begin_rows(Oid table, AttrNumber column, Oid value)
{
    RowScan rows{};
    ScanKeyData key;

    rows.relation = table_open(table, AccessShareLock);
    rows.snapshot = RegisterSnapshot(GetLatestSnapshot());
    ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(value));
    rows.scan = systable_beginscan(rows.relation, RelationGetPrimaryKeyIndex(rows.relation), true,
                                   rows.snapshot, 1, &key);
    return rows;
}

bool next_row(RowScan *rows, Datum *values, bool *nulls)
{
    HeapTuple tuple = systable_getnext(rows->scan);
    if (!HeapTupleIsValid(tuple))
        return false;
    heap_deform_tuple(heap_copytuple(tuple), RelationGetDescr(rows->relation), values, nulls);
    return true;
}

void end_rows(RowScan *rows)
{
    systable_endscan(rows->scan);
    UnregisterSnapshot(rows->snapshot);
    table_close(rows->relation, AccessShareLock);
}

} // namespace tasker::partition
