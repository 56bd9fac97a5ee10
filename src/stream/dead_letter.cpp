// Dead letters: events that a consumer has given up.
//
// A letter belongs to a consumer, by its name: it survives that the consumer is unregistered, and whoever
// registers under that name again can have it replayed. It goes with its queue. A replayed letter is a new
// event, with an id and a time of its own and all retries before it, that only this consumer gets: the others
// have been through with it.
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "stream/retry.hpp"

namespace tasker::stream {

// The letters of a cooperative consumer's members are the consumer's.
bool bury(const Subscription &batch, const NewEvent &event, std::optional<std::string_view> reason)
{
    static pg::Statement insert(
        "insert into tasker.dead_letter (dl_queue_id, dl_consumer_id, dl_consumer, dl_reason, ev_id, "
        "ev_time, "
        "ev_txid, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4) "
        "select r.sub_queue, c.co_id, c.co_name, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 "
        "from tasker.registration r join tasker.consumer c on c.co_id = r.sub_consumer where r.sub_key = $1 "
        "on conflict (dl_queue_id, dl_consumer_id, ev_id) do nothing",
        {INT4OID, TEXTOID, INT8OID, TIMESTAMPTZOID, INT8OID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
         TEXTOID, TEXTOID});
    pg::Param text[kTextColumns];
    for (int i = 0; i < kTextColumns; i++)
        text[i] = pg::Param(event.text[i], event.null[i], TEXTOID);
    pg::Spi spi;
    return spi.run_latest(insert, {batch.sub_id, reason, *event.id, pg::Timestamp{event.time}, event.txid,
                                   event.retry, text[0], text[1], text[2], text[3], text[4], text[5]})
               .count() > 0;
}

void retry_or_bury(const Subscription &batch, const Queue &queue, const NewEvent &event, TimestampTz after,
                   std::optional<std::string_view> reason)
{
    const int32_t retries = event.retry.value_or(0);
    if (retries < queue.max_retries)
        put_into_retry_queue(event, {batch.queue_id, batch.sub_id, after, retries + 1});
    else
        bury(batch, event, reason ? reason : "max retries exceeded");
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

namespace {

constexpr int kLetterColumns = 16;

// A letter that was taken out of the table.
struct Letter
{
    int32_t queue_id;
    std::string_view consumer;
    NewEvent event; // as it shall be inserted, but for its owner
};

[[noreturn]] void unknown_letter(int64_t letter_id)
{
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "dead letter " INT64_FORMAT " does not exist", letter_id)
        .hint("tasker.dlq_inspect() lists the dead letters of a queue.");
}

// Its texts are copied: they outlive the Spi object.
Letter take_letter(int64_t letter_id)
{
    static pg::Statement take(
        "delete from tasker.dead_letter where dl_id = $1 returning dl_queue_id, dl_consumer, "
        "ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4",
        {INT8OID});
    const MemoryContext memory = CurrentMemoryContext;
    const auto copy = [memory](Datum text) {
        return pg::pg_call([&] {
            const MemoryContext outer = MemoryContextSwitchTo(memory);
            const Datum result = datumCopy(text, false, -1);
            MemoryContextSwitchTo(outer);
            return result;
        });
    };
    pg::Spi spi;
    const pg::Rows rows = spi.run_latest(take, {letter_id});
    if (rows.empty())
        unknown_letter(letter_id);
    const auto *name = reinterpret_cast<const varlena *>(DatumGetPointer(copy(rows.datum(0, 2))));
    Letter letter{rows.i32(0, 1), {VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)}, {}};
    letter.event.time = GetCurrentTransactionStartTimestamp();
    for (int i = 0; i < kTextColumns; i++) {
        letter.event.null[i] = rows.is_null(0, 3 + i);
        if (!letter.event.null[i])
            letter.event.text[i] = copy(rows.datum(0, 3 + i));
    }
    return letter;
}

int64_t replay(int64_t letter_id)
{
    Letter letter = take_letter(letter_id);
    const std::optional<Queue> queue = queue_with_id(letter.queue_id);
    if (!queue)
        unknown_letter(letter_id);
    const std::optional<Subscription> subscription = lock_subscription(queue->queue_id, letter.consumer);
    if (!subscription)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "consumer \"%.*s\" of dead letter " INT64_FORMAT " is not registered on queue \"%s\"",
                        static_cast<int>(letter.consumer.size()), letter.consumer.data(), letter_id,
                        queue->name)
            .hint("Register it again with tasker.register_consumer(), or remove the letter with "
                  "tasker.dlq_purge().");
    letter.event.owner = subscription->sub_id;
    insert_events(queue->name, {&letter.event, 1}, Right::none);
    return *letter.event.id;
}

// The letters of a queue, in the order in which they came.
std::span<int64_t> letters_of(const Queue &queue)
{
    static pg::Statement query("select dl_id from tasker.dead_letter where dl_queue_id = $1 order by dl_id",
                               {INT4OID});
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue.queue_id});
    auto *ids = static_cast<int64_t *>(pg::pg_call(
        [&] { return MemoryContextAllocHuge(memory, sizeof(int64_t) * std::max<uint64>(rows.count(), 1)); }));
    for (uint64 i = 0; i < rows.count(); i++)
        ids[i] = rows.i64(i, 1);
    return {ids, static_cast<size_t>(rows.count())};
}

struct Replays
{
    int64_t replayed;
    int64_t failed;
    const char *first_error;
};

// Whoever else has replayed or removed a letter meanwhile has done so.
void replay_one(int64_t letter_id, Replays &replays)
{
    const auto error = pg::try_in_subtransaction([&] { replay(letter_id); });
    if (!error)
        replays.replayed++;
    else if (error->sqlstate() != ERRCODE_UNDEFINED_OBJECT) {
        replays.failed++;
        if (replays.first_error == nullptr)
            replays.first_error = pg::pg_call(
                [&] { return psprintf("dl_id=" INT64_FORMAT ": %s", letter_id, error->message()); });
        error->emit(WARNING);
    }
}

// Mostly all letters can be replayed: one subtransaction for all. Else one for each.
Replays replay_all(std::span<const int64_t> letters)
{
    Replays replays{static_cast<int64_t>(letters.size()), 0, nullptr};
    const auto error = pg::try_in_subtransaction([&] {
        for (const int64_t letter : letters) {
            replay(letter);
            pg::check_for_interrupts();
        }
    });
    if (!error)
        return replays;
    replays.replayed = 0;
    for (const int64_t letter : letters) {
        replay_one(letter, replays);
        pg::check_for_interrupts();
    }
    return replays;
}

} // namespace

// event_dead(batch_id, event_id, reason, ...): 1, or 0 when it is a dead letter already. What the event holds
// is read from the batch, whatever else the caller gives.
TASKER_FUNCTION(event_dead)
{
    const int64_t batch_id = args.i64(0, "batch_id");
    const int64_t event_id = args.i64(1, "event_id");
    const Subscription batch = lock_batch(batch_id);
    const BatchPlaces places(batch);
    return args.result(bury(batch, event_of_batch(places, batch_id, event_id), args.optional_text(2))
                           ? int32_t{1}
                           : int32_t{0});
}

// dlq_inspect(queue, limit_count): the newest first.
TASKER_FUNCTION(dlq_inspect)
{
    static pg::Statement query(
        "select dl_id, dl_queue_id, dl_consumer_id, dl_time, dl_reason, ev_id, ev_time, ev_txid, "
        "ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4, dl_consumer "
        "from tasker.dead_letter where dl_queue_id = $1 order by dl_time desc, dl_id desc "
        "limit $2",
        {INT4OID, INT4OID});
    const Queue queue = queue_named(args.text(0, "queue"), Right::consume);
    const int32_t limit = args.i32(1, "limit_count");
    if (limit < 1)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"limit_count\" must be at least 1");
    pg::ResultSet result(args.call());
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue.queue_id, limit});
    for (uint64 row = 0; row < rows.count(); row++) {
        Datum values[kLetterColumns];
        bool nulls[kLetterColumns];
        for (int i = 0; i < kLetterColumns; i++) {
            nulls[i] = rows.is_null(row, i + 1);
            values[i] = nulls[i] ? Datum{0} : rows.datum(row, i + 1);
        }
        result.add(values, nulls);
    }
    return 0;
}

// dlq_replay(dead_letter_id): the id of the new event.
TASKER_FUNCTION(dlq_replay)
{
    return args.result(replay(args.i64(0, "dead_letter_id")));
}

// dlq_replay_all(queue): replayed, failed, first_error.
TASKER_FUNCTION(dlq_replay_all)
{
    const Queue queue = queue_named(args.text(0, "queue"), Right::consume);
    const Replays replays = replay_all(letters_of(queue));
    return pg::pg_call([&] {
        TupleDesc descriptor = nullptr;
        if (get_call_result_type(args.call(), nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
            elog(ERROR, "return type must be a row type");
        Datum values[] = {Int64GetDatum(replays.replayed), Int64GetDatum(replays.failed), 0};
        bool nulls[] = {false, false, replays.first_error == nullptr};
        if (!nulls[2])
            values[2] = CStringGetTextDatum(replays.first_error);
        return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
    });
}

// dlq_purge(queue, older_than): the number of letters that went.
TASKER_FUNCTION(dlq_purge)
{
    static pg::Statement remove("delete from tasker.dead_letter where dl_queue_id = $1 and dl_time < $2",
                                {INT4OID, TIMESTAMPTZOID});
    const Queue queue = queue_named(args.text(0, "queue"), Right::consume);
    const int64_t age_us = args.duration_us(1, "older_than");
    const TimestampTz now = GetCurrentTransactionStartTimestamp();
    const TimestampTz limit = std::max<int64_t>(now - std::min(age_us, now - MIN_TIMESTAMP), MIN_TIMESTAMP);
    pg::Spi spi;
    return args.result(
        static_cast<int32_t>(spi.run_latest(remove, {queue.queue_id, pg::Timestamp{limit}}).count()));
}
