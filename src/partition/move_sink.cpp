#include "partition/move_sink.hpp"

extern "C" {
#include "executor/execPartition.h"
#include "executor/nodeModifyTable.h"
}

namespace tasker::partition {
namespace {

// Rows that wait to be inserted together, over all tables.
constexpr int kMaxBuffered = 1000;

struct Leaf
{
    ResultRelInfo *relation;
    KeyProbe probe;
    int count;
    int slot_count;
    TupleTableSlot *slots[kMaxBuffered];
};

} // namespace

struct Sink
{
    EState *estate;
    ModifyTableState *modify;
    ResultRelInfo *root;
    PartitionTupleRouting *routing; // null for a plain table
    AttrMap *map;                   // null when a row of the source is laid out like one of the target
    TupleTableSlot *root_slot;
    const MoveKey *key;
    List *leaves;
    Leaf *last;
    int buffered;
    MemoryContext memory;  // of the sink
    MemoryContext scratch; // of a flush
};

namespace {

// May a tuple be read with the other descriptor as it is? Not when it leaves out columns that were added to
// its table with a default.
bool is_identity(const AttrMap *map, TupleDesc source)
{
    if (map->maplen != source->natts || (source->constr != nullptr && source->constr->missing != nullptr))
        return false;
    for (int i = 0; i < map->maplen; i++) {
        if (map->attnums[i] != i + 1)
            return false;
    }
    return true;
}

EState *make_executor(Relation target)
{
    EState *estate = CreateExecutorState();
    RangeTblEntry *entry = makeNode(RangeTblEntry);
    entry->rtekind = RTE_RELATION;
    entry->relid = RelationGetRelid(target);
    entry->relkind = target->rd_rel->relkind;
    entry->rellockmode = RowExclusiveLock;
    tasker_init_range_table(estate, entry);
    return estate;
}

Leaf *leaf_of(Sink *sink, ResultRelInfo *relation)
{
    if (sink->last != nullptr && sink->last->relation == relation)
        return sink->last;
    ListCell *cell = nullptr;
    foreach (cell, sink->leaves) {
        auto *leaf = static_cast<Leaf *>(lfirst(cell));
        if (leaf->relation == relation)
            return sink->last = leaf;
    }
    if (relation->ri_RelationDesc->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
        ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                errmsg("cannot move rows into foreign table \"%s\"",
                       RelationGetRelationName(relation->ri_RelationDesc)));
    MemoryContext outer = MemoryContextSwitchTo(sink->memory);
    auto *leaf = static_cast<Leaf *>(palloc0(sizeof(Leaf)));
    leaf->relation = relation;
    if (sink->key != nullptr)
        open_probe(&leaf->probe, relation->ri_RelationDesc, sink->key->columns, sink->key->count);
    sink->leaves = lappend(sink->leaves, leaf);
    MemoryContextSwitchTo(outer);
    return sink->last = leaf;
}

TupleTableSlot *free_slot(Sink *sink, Leaf *leaf)
{
    if (leaf->count == leaf->slot_count) {
        MemoryContext outer = MemoryContextSwitchTo(sink->memory);
        leaf->slots[leaf->slot_count++] = table_slot_create(leaf->relation->ri_RelationDesc, nullptr);
        MemoryContextSwitchTo(outer);
    }
    return leaf->slots[leaf->count];
}

// Lays a row of the source out as the leaf has it, in the leaf's next free slot, which it does not take.
TupleTableSlot *lay_out(Sink *sink, TupleTableSlot *row, Leaf **leaf)
{
    ResultRelInfo *relation = sink->root;
    ResetPerTupleExprContext(sink->estate);
    if (sink->map != nullptr)
        row = execute_attr_map_slot(sink->map, row, sink->root_slot);
    if (sink->routing != nullptr)
        relation = ExecFindPartition(sink->modify, sink->root, sink->routing, row, sink->estate);
    *leaf = leaf_of(sink, relation);
    TupleTableSlot *slot = free_slot(sink, *leaf);
    TupleConversionMap *map = tasker_root_to_leaf(relation, sink->estate);
    if (map != nullptr)
        (void)execute_attr_map_slot(map->attrMap, row, slot);
    else
        (void)ExecCopySlot(slot, row);
    ExecMaterializeSlot(slot);
    slot->tts_tableOid = RelationGetRelid(relation->ri_RelationDesc);
    return slot;
}

// What the executor does before it writes a row, but for triggers.
void complete_row(Sink *sink, Leaf *leaf, TupleTableSlot *slot)
{
    TupleConstr *constraints = RelationGetDescr(leaf->relation->ri_RelationDesc)->constr;
    if (constraints == nullptr)
        return;
    if (constraints->has_generated_stored)
        ExecComputeStoredGenerated(leaf->relation, sink->estate, slot, CMD_INSERT);
    ExecConstraints(leaf->relation, slot, sink->estate);
}

// A deferrable key is checked by a trigger at the end of the transaction, which is not queued here.
void insert_index_entries(Sink *sink, Leaf *leaf, TupleTableSlot *slot, bool only_summarizing)
{
    if (leaf->relation->ri_NumIndices == 0)
        return;
    ResetPerTupleExprContext(sink->estate);
    List *unsure = tasker_exec_insert_index_tuples(leaf->relation, slot, sink->estate, only_summarizing);
    if (unsure != NIL)
        ereport(ERROR, errcode(ERRCODE_UNIQUE_VIOLATION),
                errmsg("duplicate key value violates unique constraint \"%s\"",
                       get_rel_name(linitial_oid(unsure))),
                errdetail("The constraint is deferrable, but a row that is moved is checked at once."));
}

void flush_leaf(Sink *sink, Leaf *leaf)
{
    if (leaf->count == 0)
        return;
    Relation table = leaf->relation->ri_RelationDesc;
    MemoryContext outer = MemoryContextSwitchTo(sink->scratch);
    table_multi_insert(table, leaf->slots, leaf->count, GetCurrentCommandId(true), 0, nullptr);
    MemoryContextSwitchTo(outer);
    for (int i = 0; i < leaf->count; i++) {
        leaf->slots[i]->tts_tableOid = RelationGetRelid(table);
        insert_index_entries(sink, leaf, leaf->slots[i], false);
        ExecClearTuple(leaf->slots[i]);
    }
    MemoryContextReset(sink->scratch);
    leaf->count = 0;
}

void buffer_row(Sink *sink, Leaf *leaf, TupleTableSlot *slot)
{
    complete_row(sink, leaf, slot);
    leaf->count++;
    if (++sink->buffered == kMaxBuffered)
        flush_sink(sink);
}

[[noreturn]] void refuse_changed_copy(Leaf *leaf)
{
    ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
            errmsg("could not mirror a change into \"%s\"",
                   RelationGetRelationName(leaf->relation->ri_RelationDesc)),
            errdetail("Somebody else changes the copy of the row at the same time."),
            errhint("While its rows are being copied, only the source table may be written to."));
}

void update_copy(Sink *sink, Leaf *leaf, TupleTableSlot *slot)
{
    TM_FailureData failure;
    LockTupleMode mode;
    tasker_update_indexes indexes{};
    Relation table = leaf->relation->ri_RelationDesc;
    ItemPointerData tid = leaf->probe.found->tts_tid;
    TM_Result result = table_tuple_update(table, &tid, slot, GetCurrentCommandId(true), InvalidSnapshot,
                                          InvalidSnapshot, true, &failure, &mode, &indexes);
    if (result != TM_Ok)
        refuse_changed_copy(leaf);
    if (tasker_needs_index_entries(indexes))
        insert_index_entries(sink, leaf, slot, tasker_only_summarizing(indexes));
}

} // namespace

Sink *open_sink(Oid target, Relation source, const MoveKey *key)
{
    auto *sink = static_cast<Sink *>(palloc0(sizeof(Sink)));
    Relation table = table_open(target, RowExclusiveLock);
    sink->memory = CurrentMemoryContext;
    sink->scratch = AllocSetContextCreate(CurrentMemoryContext, "tasker moved rows", ALLOCSET_DEFAULT_SIZES);
    sink->key = key;
    sink->estate = make_executor(table);
    sink->root = makeNode(ResultRelInfo);
    InitResultRelInfo(sink->root, table, 1, nullptr, 0);
    sink->modify = makeNode(ModifyTableState);
    sink->modify->ps.state = sink->estate;
    sink->modify->operation = CMD_INSERT;
    sink->modify->mt_nrels = 1;
    sink->modify->resultRelInfo = sink->root;
    sink->modify->rootResultRelInfo = sink->root;
    if (table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
        sink->routing = ExecSetupPartitionTupleRouting(sink->estate, table);
    else
        ExecOpenIndices(sink->root, false);
    sink->map = map_columns_by_name(RelationGetDescr(source), RelationGetDescr(table));
    if (is_identity(sink->map, RelationGetDescr(source)))
        sink->map = nullptr;
    else
        sink->root_slot = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsVirtual);
    return sink;
}

void close_sink(Sink *sink)
{
    flush_sink(sink);
    ListCell *cell = nullptr;
    foreach (cell, sink->leaves) {
        auto *leaf = static_cast<Leaf *>(lfirst(cell));
        for (int i = 0; i < leaf->slot_count; i++)
            ExecDropSingleTupleTableSlot(leaf->slots[i]);
        if (sink->key != nullptr)
            close_probe(&leaf->probe);
    }
    if (sink->root_slot != nullptr)
        ExecDropSingleTupleTableSlot(sink->root_slot);
    ExecResetTupleTable(sink->estate->es_tupleTable, false);
    if (sink->routing != nullptr)
        ExecCleanupTupleRouting(sink->modify, sink->routing);
    else
        ExecCloseIndices(sink->root);
    table_close(sink->root->ri_RelationDesc, NoLock);
    FreeExecutorState(sink->estate);
    MemoryContextDelete(sink->scratch);
}

void add_to_sink(Sink *sink, TupleTableSlot *row)
{
    Leaf *leaf = nullptr;
    TupleTableSlot *slot = lay_out(sink, row, &leaf);
    buffer_row(sink, leaf, slot);
}

bool add_unless_there(Sink *sink, TupleTableSlot *row)
{
    Leaf *leaf = nullptr;
    TupleTableSlot *slot = lay_out(sink, row, &leaf);
    if (!probe_key(&leaf->probe, slot)) {
        buffer_row(sink, leaf, slot);
        return true;
    }
    ExecClearTuple(slot);
    return false;
}

void flush_sink(Sink *sink)
{
    ListCell *cell = nullptr;
    foreach (cell, sink->leaves)
        flush_leaf(sink, static_cast<Leaf *>(lfirst(cell)));
    sink->buffered = 0;
}

void put_into_sink(Sink *sink, TupleTableSlot *row)
{
    Leaf *leaf = nullptr;
    TupleTableSlot *slot = lay_out(sink, row, &leaf);
    complete_row(sink, leaf, slot);
    if (probe_key(&leaf->probe, slot)) {
        update_copy(sink, leaf, slot);
        ExecClearTuple(slot);
    } else {
        leaf->count++;
        flush_leaf(sink, leaf);
    }
}

void remove_from_sink(Sink *sink, TupleTableSlot *row)
{
    Leaf *leaf = nullptr;
    TM_FailureData failure;
    TupleTableSlot *slot = lay_out(sink, row, &leaf);
    if (probe_key(&leaf->probe, slot) &&
        table_tuple_delete(leaf->relation->ri_RelationDesc, &leaf->probe.found->tts_tid,
                           GetCurrentCommandId(true), InvalidSnapshot, InvalidSnapshot, true, &failure,
                           false) != TM_Ok)
        refuse_changed_copy(leaf);
    ExecClearTuple(slot);
}

} // namespace tasker::partition
