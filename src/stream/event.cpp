#include "stream/event.hpp"

#include "pg/function.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::stream {
namespace {

constexpr size_t kPiece = 500; // rows that go to multi-insert together

// The current event table of a queue, locked for writing.
struct EventTable
{
    Relation heap;
    Relation index; // the only one; null when users have added others
};

bool is_replica()
{
    return SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
}

// What the limit of a queue counts. A transaction that writes into several queues by turns counts each of
// them; only the latest ones that have a limit are remembered.
struct Count
{
    int32_t queue_id;
    int64_t events;
};

constexpr int kCounted = 16;
int64_t counted_txid = 0;
int counted = 0;
Count counts[kCounted];

void check_limit(const Queue &queue, int64_t txid, size_t more)
{
    if (queue.per_tx_limit == kNoLimit)
        return;
    if (counted_txid != txid) {
        counted_txid = txid;
        counted = 0;
    }
    Count *end = counts + counted;
    Count *count = std::find_if(counts, end, [&](const Count &c) { return c.queue_id == queue.queue_id; });
    if (count == end) {
        count = counted < kCounted ? &counts[counted++] : &counts[kCounted - 1];
        *count = {queue.queue_id, 0};
    }
    count->events += static_cast<int64_t>(more);
    if (count->events > queue.per_tx_limit)
        throw pg::Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                        "queue \"%s\" allows max %d events from one transaction", queue.name,
                        queue.per_tx_limit)
            .hint("Commit more often, or change its setting \"per_tx_limit\".");
}

void check_open(const Queue &queue)
{
    if (queue.disable_insert && !is_replica())
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "inserts into queue \"%s\" are disabled",
                        queue.name)
            .hint("See its setting \"disable_insert\".");
}

// Locks the current table. Where the lock brings the news that the queue has changed, it is looked up anew.
Queue open_current(std::string_view name, EventTable *table)
{
    for (;;) {
        const Queue queue = queue_named(name);
        check_open(queue);
        const uint64_t generation = cache_generation();
        Relation heap =
            pg::pg_call([&] { return try_relation_open(queue.tables[queue.current], RowExclusiveLock); });
        if (heap != nullptr && generation == cache_generation()) {
            table->heap = heap;
            return queue;
        }
        if (heap != nullptr)
            pg::pg_call([&] { relation_close(heap, RowExclusiveLock); });
    }
}

// Plain C from here on: may ereport.

void open_index(EventTable *table)
{
    List *indexes = RelationGetIndexList(table->heap);
    table->index = list_length(indexes) == 1 ? index_open(linitial_oid(indexes), RowExclusiveLock) : nullptr;
    list_free(indexes);
}

HeapTuple form_event(const EventTable &table, const NewEvent &event, int64_t txid)
{
    TupleDesc descriptor = RelationGetDescr(table.heap);
    if (descriptor->natts != kEvColumns)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("event table \"%s\" has been altered", RelationGetRelationName(table.heap)));
    Datum values[kEvColumns];
    bool nulls[kEvColumns] = {};
    values[kEvId - 1] = Int64GetDatum(*event.id);
    values[kEvTime - 1] = TimestampTzGetDatum(event.time);
    values[kEvTxid - 1] = Int64GetDatum(txid);
    values[kEvOwner - 1] = Int32GetDatum(event.owner.value_or(0));
    nulls[kEvOwner - 1] = !event.owner;
    values[kEvRetry - 1] = Int32GetDatum(event.retry.value_or(0));
    nulls[kEvRetry - 1] = !event.retry;
    for (int i = 0; i < kTextColumns; i++) {
        values[kEvType - 1 + i] = event.text[i];
        nulls[kEvType - 1 + i] = event.null[i];
    }
    return heap_form_tuple(descriptor, values, nulls);
}

// The entry of the one index that event tables have.
void insert_entry(const EventTable &table, int64_t txid, ItemPointer tid)
{
    Datum value = Int64GetDatum(txid);
    bool null = false;
    IndexInfo info{};
    info.type = T_IndexInfo;
    info.ii_NumIndexAttrs = info.ii_NumIndexKeyAttrs = 1;
    index_insert(table.index, &value, &null, tid, table.heap, UNIQUE_CHECK_NO, false, &info);
}

void insert_entries_of_all(const EventTable &table, std::span<TupleTableSlot *> slots)
{
    EState *estate = CreateExecutorState();
    ResultRelInfo *relation = makeNode(ResultRelInfo);
    InitResultRelInfo(relation, table.heap, 1, nullptr, 0);
    ExecOpenIndices(relation, false);
    for (TupleTableSlot *slot : slots) {
        list_free(tasker_exec_insert_index_tuples(relation, slot, estate, false));
        ResetPerTupleExprContext(estate);
    }
    ExecCloseIndices(relation);
    FreeExecutorState(estate);
}

void insert_one(const EventTable &table, HeapTuple tuple, int64_t txid, CommandId command)
{
    if (table.index != nullptr) {
        heap_insert(table.heap, tuple, command, 0, nullptr);
        insert_entry(table, txid, &tuple->t_self);
        return;
    }
    TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(table.heap), &TTSOpsHeapTuple);
    ExecStoreHeapTuple(tuple, slot, false);
    slot->tts_tableOid = RelationGetRelid(table.heap);
    table_tuple_insert(table.heap, slot, command, 0, nullptr);
    insert_entries_of_all(table, {&slot, 1});
    ExecDropSingleTupleTableSlot(slot);
}

void insert_piece(const EventTable &table, std::span<HeapTuple> tuples, int64_t txid, CommandId command)
{
    const auto count = static_cast<int>(tuples.size());
    // Slots over a copy of the descriptor need no pin each.
    TupleDesc descriptor = CreateTupleDescCopy(RelationGetDescr(table.heap));
    auto **slots = static_cast<TupleTableSlot **>(palloc(sizeof(TupleTableSlot *) * tuples.size()));
    for (int i = 0; i < count; i++) {
        slots[i] = MakeSingleTupleTableSlot(descriptor, &TTSOpsHeapTuple);
        slots[i]->tts_tableOid = RelationGetRelid(table.heap);
        ExecStoreHeapTuple(tuples[static_cast<size_t>(i)], slots[i], true);
    }
    table_multi_insert(table.heap, slots, count, command, 0, nullptr);
    if (table.index == nullptr) {
        insert_entries_of_all(table, {slots, tuples.size()});
    } else {
        for (int i = 0; i < count; i++)
            insert_entry(table, txid, &slots[i]->tts_tid);
    }
    for (int i = 0; i < count; i++)
        ExecDropSingleTupleTableSlot(slots[i]);
    pfree(slots);
}

void give_id(const Queue &queue, NewEvent &event)
{
    if (!event.id)
        event.id = nextval_internal(queue.event_sequence, false);
}

void write_events(EventTable table, const Queue &queue, std::span<NewEvent> events, int64_t txid)
{
    const CommandId command = GetCurrentCommandId(true);
    open_index(&table);
    if (events.size() == 1) {
        give_id(queue, events[0]);
        HeapTuple tuple = form_event(table, events[0], txid);
        insert_one(table, tuple, txid, command);
        heap_freetuple(tuple);
    }
    for (size_t at = 0; events.size() > 1 && at < events.size(); at += kPiece) {
        HeapTuple tuples[kPiece];
        const size_t count = std::min(kPiece, events.size() - at);
        for (size_t i = 0; i < count; i++) {
            give_id(queue, events[at + i]);
            tuples[i] = form_event(table, events[at + i], txid);
        }
        insert_piece(table, {tuples, count}, txid, command);
        CHECK_FOR_INTERRUPTS();
    }
    if (table.index != nullptr)
        index_close(table.index, NoLock);
    table_close(table.heap, NoLock);
}

} // namespace

int64_t current_txid()
{
    return pg::pg_call(
        [] { return static_cast<int64_t>(U64FromFullTransactionId(GetTopFullTransactionId())); });
}

void insert_events(std::string_view queue_name, std::span<NewEvent> events)
{
    EventTable table{};
    const int64_t txid = current_txid(); // before the look for the table, see event.hpp
    const Queue queue = open_current(queue_name, &table);
    check_limit(queue, txid, events.size());
    pg::pg_call([&] { write_events(table, queue, events, txid); });
}

Oid hold_event_table(std::string_view queue_name)
{
    EventTable table{};
    (void)current_txid();
    (void)open_current(queue_name, &table);
    return pg::pg_call([&] {
        const Oid oid = RelationGetRelid(table.heap);
        table_close(table.heap, NoLock);
        return oid;
    });
}

} // namespace tasker::stream
