#include "stream/index.hpp"

namespace tasker::stream {
namespace {

bool is_fit(Relation index, AttrNumber column)
{
    const Form_pg_index form = index->rd_index;
    return form->indkey.values[0] == column && form->indisvalid && index->rd_rel->relam == BTREE_AM_OID &&
           (index->rd_indoption[0] & INDOPTION_DESC) == 0 &&
           heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr);
}

} // namespace

Relation open_index_on(Relation heap, AttrNumber column, LOCKMODE mode)
{
    List *indexes = RelationGetIndexList(heap);
    ListCell *cell = nullptr;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), mode);
        if (is_fit(index, column)) {
            list_free(indexes);
            return index;
        }
        index_close(index, mode);
    }
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("table \"%s\" has no index on column \"%s\"", RelationGetRelationName(heap),
                   NameStr(TupleDescAttr(RelationGetDescr(heap), column - 1)->attname)));
    pg_unreachable();
}

} // namespace tasker::stream
