#include "stream/event.hpp"

#include "pg/function.hpp"
#include "stream/log.hpp"
#include "stream/restore.hpp"
#include "stream/table_writer.hpp"
#include "stream/wake_notes.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::stream {
namespace {

constexpr size_t kPiece = 500; // rows that go to multi-insert together

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

[[noreturn]] void refuse_event(const Queue &queue)
{
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "queue \"%s\" takes no events", queue.name)
        .detail("Its events are the rows of logs: see tasker.queue_log.");
}

// Events of a single consumer come again: a log has them already.
void check_source(const Queue &queue, std::span<const NewEvent> events)
{
    if (queue.has_log &&
        std::any_of(events.begin(), events.end(), [](const NewEvent &e) { return !e.owner; }))
        refuse_event(queue);
}

// Locks the current table. Where the lock brings the news that the queue has changed, it is looked up anew.
Queue open_current(std::string_view name, Right right, bool accepted, Relation *current)
{
    for (;;) {
        const Queue queue = queue_named(name, right);
        if (!accepted)
            check_open(queue);
        const uint64_t generation = cache_generation();
        Relation heap =
            pg::pg_call([&] { return try_relation_open(queue.tables[queue.current], RowExclusiveLock); });
        if (heap != nullptr && generation == cache_generation()) {
            *current = heap;
            return queue;
        }
        if (heap != nullptr)
            pg::pg_call([&] { relation_close(heap, RowExclusiveLock); });
        else
            forget_queues();
        pg::check_for_interrupts();
    }
}

// Plain C from here on: may ereport.

struct EventRow
{
    Datum values[kEvColumns];
    bool nulls[kEvColumns];
};

void check_shape(Relation heap)
{
    if (RelationGetDescr(heap)->natts != kEvColumns)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("event table \"%s\" has been altered", RelationGetRelationName(heap)));
}

EventRow row_of(const NewEvent &event, int64_t txid)
{
    EventRow row{};
    Datum *values = row.values;
    bool *nulls = row.nulls;
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
    return row;
}

// An id for what a log's queue delivers again as a new event, see log.hpp.
int64_t replayed_id(int64_t txid)
{
    static int64_t last_txid = 0;
    static int64_t place = 0;
    place = std::exchange(last_txid, txid) == txid ? place + 1 : kLogPlaces;
    return log_event_id(txid, place);
}

// An event that brings its id uses one up all the same: tickers see by the sequence that there are new
// events.
void give_id(const Queue &queue, NewEvent &event, int64_t txid)
{
    const int64_t id = nextval_internal(queue.event_sequence, false);
    if (!event.id)
        event.id = queue.has_log ? replayed_id(txid + queue.txid_offset) : id;
}

void write_events(Relation heap, const Queue &queue, std::span<NewEvent> events, int64_t txid)
{
    TableWriter writer(heap);
    check_shape(heap);
    if (events.size() == 1) {
        give_id(queue, events[0], txid);
        const EventRow row = row_of(events[0], txid);
        writer.insert(row.values, row.nulls);
    }
    for (size_t at = 0; events.size() > 1 && at < events.size(); at += kPiece) {
        HeapTuple rows[kPiece];
        const size_t count = std::min(kPiece, events.size() - at);
        for (size_t i = 0; i < count; i++) {
            give_id(queue, events[at + i], txid);
            EventRow row = row_of(events[at + i], txid);
            rows[i] = heap_form_tuple(writer.descriptor(), row.values, row.nulls);
        }
        writer.insert_many({rows, count});
        CHECK_FOR_INTERRUPTS();
    }
    writer.close();
}

} // namespace

int64_t current_txid()
{
    return pg::pg_call(
        [] { return static_cast<int64_t>(U64FromFullTransactionId(GetTopFullTransactionId())); });
}

void insert_events(std::string_view queue_name, std::span<NewEvent> events, Right right)
{
    Relation heap = nullptr;
    const int64_t txid = current_txid(); // before the look for the table, see event.hpp
    const Queue queue = open_current(queue_name, right, false, &heap);
    check_source(queue, events);
    check_limit(queue, txid, events.size());
    note_events(queue.queue_id, events.size());
    const int64_t written = queue.has_log ? log_txid() : event_txid(txid);
    pg::pg_call([&] { write_events(heap, queue, events, written); });
}

void redeliver_events(std::string_view queue_name, std::span<NewEvent> events)
{
    Relation heap = nullptr;
    const int64_t txid = current_txid();
    const Queue queue = open_current(queue_name, Right::none, true, &heap);
    note_events(queue.queue_id, events.size());
    const int64_t written = queue.has_log ? log_txid() : event_txid(txid);
    pg::pg_call([&] { write_events(heap, queue, events, written); });
}

int64_t accept_event(const Queue &queue)
{
    check_open(queue);
    if (queue.has_log)
        refuse_event(queue);
    check_limit(queue, current_txid(), 1);
    return pg::pg_call([&] { return nextval_internal(queue.event_sequence, false); });
}

Oid hold_event_table(std::string_view queue_name)
{
    Relation heap = nullptr;
    (void)current_txid();
    const Queue queue = open_current(queue_name, Right::produce, false, &heap);
    if (queue.has_log)
        refuse_event(queue);
    note_events(queue.queue_id, 0); // whoever asks for the table is about to write into it
    require_restored();             // who writes to the table himself does not know how: see restore.hpp
    return pg::pg_call([&] {
        const Oid oid = RelationGetRelid(heap);
        table_close(heap, NoLock);
        return oid;
    });
}

Datum text_of_jsonb(Datum jsonb)
{
    return pg::pg_call([&] {
        Jsonb *value = DatumGetJsonbP(jsonb);
        return CStringGetTextDatum(JsonbToCString(nullptr, &value->root, VARSIZE(value)));
    });
}

} // namespace tasker::stream
