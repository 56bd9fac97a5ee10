#include "stream/table_writer.hpp"

namespace tasker::stream {
namespace {

bool has_plain_columns(Relation index)
{
    return RelationGetIndexExpressions(index) == NIL && RelationGetIndexPredicate(index) == NIL &&
           index->rd_index->indisready && index->rd_index->indimmediate &&
           index->rd_rel->relam == BTREE_AM_OID;
}

} // namespace

TableWriter::TableWriter(Relation heap) : heap_(heap), index_(nullptr), command_(GetCurrentCommandId(true))
{
    List *indexes = RelationGetIndexList(heap);
    if (list_length(indexes) == 1) {
        index_ = index_open(linitial_oid(indexes), RowExclusiveLock);
        if (!has_plain_columns(index_)) {
            index_close(index_, NoLock);
            index_ = nullptr;
        }
    }
    list_free(indexes);
}

void TableWriter::close()
{
    if (index_ != nullptr)
        index_close(index_, NoLock);
    table_close(heap_, NoLock);
}

void TableWriter::insert_entry(const Datum *values, const bool *nulls, ItemPointer tid)
{
    const Form_pg_index form = index_->rd_index;
    IndexInfo info{};
    info.type = T_IndexInfo;
    info.ii_NumIndexAttrs = form->indnatts;
    info.ii_NumIndexKeyAttrs = form->indnkeyatts;
    info.ii_Unique = form->indisunique;
    index_insert(index_, const_cast<Datum *>(values), const_cast<bool *>(nulls), tid, heap_,
                 form->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, &info);
}

void TableWriter::insert_entry_of(HeapTuple row, ItemPointer tid)
{
    const Form_pg_index form = index_->rd_index;
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    for (int i = 0; i < form->indnatts; i++)
        values[i] = heap_getattr(row, form->indkey.values[i], descriptor(), &nulls[i]);
    insert_entry(values, nulls, tid);
}

void TableWriter::insert_entries_of_all(std::span<TupleTableSlot *> slots)
{
    EState *estate = CreateExecutorState();
    ResultRelInfo *relation = makeNode(ResultRelInfo);
    InitResultRelInfo(relation, heap_, 1, nullptr, 0);
    ExecOpenIndices(relation, false);
    for (TupleTableSlot *slot : slots) {
        list_free(tasker_exec_insert_index_tuples(relation, slot, estate, false));
        ResetPerTupleExprContext(estate);
    }
    ExecCloseIndices(relation);
    FreeExecutorState(estate);
}

void TableWriter::insert(const Datum *values, const bool *nulls)
{
    HeapTuple row = heap_form_tuple(descriptor(), const_cast<Datum *>(values), const_cast<bool *>(nulls));
    if (index_ != nullptr) {
        heap_insert(heap_, row, command_, 0, nullptr);
        insert_entry_of(row, &row->t_self);
        heap_freetuple(row);
        return;
    }
    TupleTableSlot *slot = MakeSingleTupleTableSlot(descriptor(), &TTSOpsHeapTuple);
    ExecStoreHeapTuple(row, slot, true);
    slot->tts_tableOid = RelationGetRelid(heap_);
    table_tuple_insert(heap_, slot, command_, 0, nullptr);
    insert_entries_of_all({&slot, 1});
    ExecDropSingleTupleTableSlot(slot);
}

void TableWriter::insert_many(std::span<HeapTuple> rows)
{
    // Slots over a copy of the descriptor need no pin each.
    TupleDesc copy = CreateTupleDescCopy(descriptor());
    auto **slots = static_cast<TupleTableSlot **>(palloc(sizeof(TupleTableSlot *) * rows.size()));
    for (size_t i = 0; i < rows.size(); i++) {
        slots[i] = MakeSingleTupleTableSlot(copy, &TTSOpsHeapTuple);
        slots[i]->tts_tableOid = RelationGetRelid(heap_);
        ExecStoreHeapTuple(rows[i], slots[i], true);
    }
    table_multi_insert(heap_, slots, static_cast<int>(rows.size()), command_, 0, nullptr);
    if (index_ == nullptr)
        insert_entries_of_all({slots, rows.size()});
    for (size_t i = 0; i < rows.size(); i++) {
        if (index_ != nullptr)
            insert_entry_of(rows[i], &slots[i]->tts_tid);
        ExecDropSingleTupleTableSlot(slots[i]);
    }
    pfree(slots);
    FreeTupleDesc(copy);
}

} // namespace tasker::stream
