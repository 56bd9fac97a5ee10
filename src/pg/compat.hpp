// What differs between the server versions 15 to 18, and nothing else. Every other file is written
// against the names below; no other file asks for PG_VERSION_NUM.
//
// Included by pg/postgres.hpp only, inside extern "C".
#pragma once

#if PG_VERSION_NUM < 150000
#error "Tasker needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
using tasker_update_indexes = TU_UpdateIndexes;
static inline bool tasker_needs_index_entries(tasker_update_indexes u)
{
    return u != TU_None;
}
static inline bool tasker_only_summarizing(tasker_update_indexes u)
{
    return u == TU_Summarizing;
}
#else
using tasker_update_indexes = bool;
static inline bool tasker_needs_index_entries(tasker_update_indexes u)
{
    return u;
}
static inline bool tasker_only_summarizing(tasker_update_indexes)
{
    return false;
}
#endif

// Never told that it is an update: that is only a hint for index deduplication, and to find out which columns
// have changed the executor would look into a range table, which direct access does not have.
static inline List *tasker_exec_insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate,
                                                    bool only_summarizing)
{
#if PG_VERSION_NUM >= 160000
    return ExecInsertIndexTuples(rri, slot, estate, false, false, nullptr, NIL, only_summarizing);
#else
    (void)only_summarizing;
    return ExecInsertIndexTuples(rri, slot, estate, false, false, nullptr, NIL);
#endif
}

static inline IndexScanDesc tasker_index_beginscan(Relation heap, Relation index, Snapshot snapshot, int keys)
{
#if PG_VERSION_NUM >= 180000
    return index_beginscan(heap, index, snapshot, nullptr, keys, 0);
#else
    return index_beginscan(heap, index, snapshot, keys, 0);
#endif
}

static inline uint32 tasker_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
    return WaitEventExtensionNew(name);
#else
    (void)name;
    return PG_WAIT_EXTENSION;
#endif
}

static inline void tasker_init_materialized(FunctionCallInfo fcinfo)
{
#if PG_VERSION_NUM >= 160000
    InitMaterializedSRF(fcinfo, 0);
#else
    SetSingleFuncCall(fcinfo, 0);
#endif
}

// The index of this process among all that have a PGPROC.
static inline int tasker_proc_number(void)
{
#if PG_VERSION_NUM >= 170000
    return MyProcNumber;
#else
    return MyProc->pgprocno;
#endif
}

static inline bool tasker_portal_run(Portal portal, DestReceiver *receiver, QueryCompletion *completion)
{
#if PG_VERSION_NUM >= 180000
    return PortalRun(portal, FETCH_ALL, true, receiver, receiver, completion);
#else
    return PortalRun(portal, FETCH_ALL, true, true, receiver, receiver, completion);
#endif
}

// A range table of one relation, whose rights nobody asks about.
static inline void tasker_init_range_table(EState *estate, RangeTblEntry *entry)
{
#if PG_VERSION_NUM >= 160000
    RTEPermissionInfo *permissions = makeNode(RTEPermissionInfo);
    permissions->relid = entry->relid;
    entry->perminfoindex = 1;
#if PG_VERSION_NUM >= 180000
    ExecInitRangeTable(estate, list_make1(entry), list_make1(permissions), bms_make_singleton(1));
#else
    ExecInitRangeTable(estate, list_make1(entry), list_make1(permissions));
#endif
#else
    ExecInitRangeTable(estate, list_make1(entry));
#endif
}

// How rows of a partitioned table are turned into those of a partition; null when both are laid out alike.
static inline TupleConversionMap *tasker_root_to_leaf(ResultRelInfo *leaf, EState *estate)
{
#if PG_VERSION_NUM >= 160000
    return ExecGetRootToChildMap(leaf, estate);
#else
    (void)estate;
    return leaf->ri_RootToPartitionMap;
#endif
}

// CREATE INDEX of a statement that has been through the parser, on a table without rows.
static inline Oid tasker_define_index(Oid relation, IndexStmt *statement)
{
#if PG_VERSION_NUM >= 160000
    return DefineIndex(relation, statement, InvalidOid, InvalidOid, InvalidOid, -1, false, true, true, false,
                       false)
        .objectId;
#else
    return DefineIndex(relation, statement, InvalidOid, InvalidOid, InvalidOid, false, true, true, false,
                       false)
        .objectId;
#endif
}

// For databases, extensions and relations only.
static inline bool tasker_is_owner(Oid class_id, Oid object, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(class_id, object, role);
#else
    if (class_id == RelationRelationId)
        return pg_class_ownercheck(object, role);
    return class_id == DatabaseRelationId ? pg_database_ownercheck(object, role)
                                          : pg_extension_ownercheck(object, role);
#endif
}

// The number of this backend's current transaction, which it has also without a transaction id.
static inline LocalTransactionId tasker_local_transaction_id(void)
{
#if PG_VERSION_NUM >= 170000
    return MyProc->vxid.lxid;
#else
    return MyProc->lxid;
#endif
}

// Adds `pages` empty pages to the end of a heap under one hold of its extension lock and returns the first,
// or InvalidBlockNumber where that is not needed: from version 16 on the server extends by many pages itself.
static inline BlockNumber tasker_extend_heap(Relation heap, int pages)
{
#if PG_VERSION_NUM >= 160000
    (void)heap;
    (void)pages;
    return InvalidBlockNumber;
#else
    BlockNumber first = InvalidBlockNumber;
    LockRelationForExtension(heap, ExclusiveLock);
    for (int i = 0; i < pages; i++) {
        Buffer buffer = ReadBufferExtended(heap, MAIN_FORKNUM, P_NEW, RBM_ZERO_AND_LOCK, nullptr);
        PageInit(BufferGetPage(buffer), BLCKSZ, 0);
        MarkBufferDirty(buffer);
        if (i == 0)
            first = BufferGetBlockNumber(buffer);
        UnlockReleaseBuffer(buffer);
    }
    UnlockRelationForExtension(heap, ExclusiveLock);
    return first;
#endif
}

// What the cumulative statistics know of a table; all zero when they know nothing.
struct tasker_table_counters
{
    int64 changes; // rows inserted, updated and deleted
    int64 live;
    bool counted; // a vacuum or analyze has set `live`
};

static inline tasker_table_counters tasker_read_counters(Oid relid)
{
    const PgStat_StatTabEntry *entry = pgstat_fetch_stat_tabentry_ext(false, relid);
    if (entry == nullptr)
        return {0, 0, false};
    const int64 changes = entry->tuples_inserted + entry->tuples_updated + entry->tuples_deleted;
#if PG_VERSION_NUM >= 160000
    return {changes, entry->live_tuples,
            entry->last_vacuum_time != 0 || entry->last_autovacuum_time != 0 ||
                entry->last_analyze_time != 0 || entry->last_autoanalyze_time != 0};
#else
    return {changes, entry->n_live_tuples,
            entry->vacuum_timestamp != 0 || entry->autovac_vacuum_timestamp != 0 ||
                entry->analyze_timestamp != 0 || entry->autovac_analyze_timestamp != 0};
#endif
}
