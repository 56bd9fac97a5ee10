// event_retry() and batch_retry(): events of a batch that shall come again.
#include "stream/retry.hpp"

#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::stream {
namespace {

// Keeps the newest of the events that it is given.
class NewestEvent final : public EventSink
{
  public:
    bool take(TupleTableSlot *slot) override
    {
        if (!found_ || DatumGetInt64(slot->tts_values[kEvTxid - 1]) >= event_.txid)
            event_ = copy_event(slot);
        found_ = true;
        return true;
    }

    bool found() const { return found_; }
    const NewEvent &event() const { return event_; }

  private:
    NewEvent event_{};
    bool found_ = false;
};

class EventCollector final : public EventSink
{
  public:
    EventCollector(NewEvent *events, TimestampTz oldest) : events_(events), oldest_(oldest) {}

    bool take(TupleTableSlot *slot) override
    {
        if (DatumGetTimestampTz(slot->tts_values[kEvTime - 1]) >= oldest_)
            events_[count_++] = copy_event(slot);
        return true;
    }

    size_t count() const { return count_; }

  private:
    NewEvent *events_;
    TimestampTz oldest_;
    size_t count_ = 0;
};

#define COLUMNS                                                                                              \
    "(ev_retry_after, ev_queue, ev_id, ev_time, ev_owner, ev_retry, ev_type, ev_data, ev_extra1, "           \
    "ev_extra2, ev_extra3, ev_extra4) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) "
#define COLUMN_TYPES                                                                                         \
    {                                                                                                        \
        TIMESTAMPTZOID, INT4OID, INT8OID, TIMESTAMPTZOID, INT4OID, INT4OID, TEXTOID, TEXTOID, TEXTOID,       \
            TEXTOID, TEXTOID, TEXTOID                                                                        \
    }

pg::Statement insert_if_new("insert into tasker.retry_queue " COLUMNS
                            "on conflict (ev_owner, ev_id, ev_queue) do nothing",
                            COLUMN_TYPES);

constexpr int64_t kSoonUs = USECS_PER_SEC;
constexpr int64_t kRequestUs = 10'000; // between two requests of one backend

bool wanted_soon = false; // by this transaction
TimestampTz requested_at = 0;

void at_transaction_end(XactEvent event, void *)
{
    if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
        return; // it may still fail
    const bool wanted = std::exchange(wanted_soon, false);
    if (event != XACT_EVENT_COMMIT || !wanted)
        return;
    const TimestampTz now = GetCurrentTimestamp();
    if (now >= requested_at && now - requested_at < kRequestUs)
        return; // others ask as well, or it takes a second
    requested_at = now;
    retry_request_hook();
}

void want_soon(TimestampTz after)
{
    static bool registered = false;
    if (retry_request_hook == nullptr || after > GetCurrentTimestamp() + kSoonUs)
        return;
    if (!registered)
        pg::pg_call([] { RegisterXactCallback(at_transaction_end, nullptr); });
    registered = true;
    wanted_soon = true;
}

uint64 insert_retry(pg::Spi &spi, pg::Statement &insert, const NewEvent &event, const Retry &retry)
{
    pg::Param text[kTextColumns];
    for (int i = 0; i < kTextColumns; i++)
        text[i] = pg::Param(event.text[i], event.null[i], TEXTOID);
    want_soon(retry.after);
    return spi
        .run_latest(insert, {pg::Timestamp{retry.after}, retry.queue_id, *event.id, pg::Timestamp{event.time},
                             retry.owner, retry.count, text[0], text[1], text[2], text[3], text[4], text[5]})
        .count();
}

} // namespace

void (*retry_request_hook)() noexcept = nullptr;

bool put_into_retry_queue(const NewEvent &event, const Retry &retry)
{
    pg::Spi spi;
    return insert_retry(spi, insert_if_new, event, retry) > 0;
}

int32_t put_all_into_retry_queue(const Subscription &batch, std::span<const NewEvent> events,
                                 TimestampTz after)
{
    uint64 count = 0;
    pg::Spi spi;
    for (const NewEvent &event : events) {
        const Retry retry{batch.queue_id, batch.sub_id, after, event.retry.value_or(0) + 1};
        count += insert_retry(spi, insert_if_new, event, retry);
        pg::check_for_interrupts();
    }
    return static_cast<int32_t>(count);
}

Subscription lock_batch(int64_t batch_id)
{
    const std::optional<Subscription> subscription = find_batch(batch_id, true);
    if (!subscription)
        unknown_batch(batch_id);
    return *subscription;
}

NewEvent event_of_batch(const BatchPlaces &places, int64_t batch_id, std::optional<int64_t> event_id)
{
    NewestEvent newest;
    if (event_id)
        places.fetch(places.with_id(*event_id), newest);
    if (newest.found())
        return newest.event();
    if (!event_id)
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "an event without an id is not in batch " INT64_FORMAT,
                        batch_id);
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "event " INT64_FORMAT " is not in batch " INT64_FORMAT,
                    *event_id, batch_id);
}

std::span<NewEvent> events_of_batch(const BatchPlaces &places)
{
    const size_t most = std::max<size_t>(places.all().size(), 1);
    auto *events = static_cast<NewEvent *>(
        pg::pg_call([&] { return palloc_extended(sizeof(NewEvent) * most, MCXT_ALLOC_HUGE); }));
    EventCollector collector(events, oldest_wanted(places.plan().queue));
    places.fetch(places.all(), collector);
    return {events, collector.count()};
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

namespace {

TimestampTz after_seconds(int32_t seconds)
{
    return GetCurrentTransactionStartTimestamp() + seconds * USECS_PER_SEC;
}

int32_t retry_event(int64_t batch_id, int64_t event_id, TimestampTz after)
{
    const Subscription batch = lock_batch(batch_id);
    const BatchPlaces places(batch);
    const NewEvent event = event_of_batch(places, batch_id, event_id);
    const Retry retry{batch.queue_id, batch.sub_id, after, event.retry.value_or(0) + 1};
    return put_into_retry_queue(event, retry) ? 1 : 0;
}

} // namespace

// event_retry(x_batch_id, x_event_id, x_retry_time): 1, or 0 when it is in the retry queue.
TASKER_FUNCTION(event_retry_at)
{
    return args.result(
        retry_event(args.i64(0, "x_batch_id"), args.i64(1, "x_event_id"), args.i64(2, "x_retry_time")));
}

// event_retry(x_batch_id, x_event_id, x_retry_seconds)
TASKER_FUNCTION(event_retry)
{
    return args.result(retry_event(args.i64(0, "x_batch_id"), args.i64(1, "x_event_id"),
                                   after_seconds(args.i32(2, "x_retry_seconds"))));
}

// batch_retry(i_batch_id, i_retry_seconds): the number of events that were not in the retry queue.
TASKER_FUNCTION(batch_retry)
{
    const int64_t batch_id = args.i64(0, "i_batch_id");
    const TimestampTz after = after_seconds(args.i32(1, "i_retry_seconds"));
    const Subscription batch = lock_batch(batch_id);
    const BatchPlaces places(batch);
    return args.result(put_all_into_retry_queue(batch, events_of_batch(places), after));
}

// event_retry_raw(x_queue, x_consumer, x_retry_after, x_ev_id, x_ev_time, x_ev_retry, x_ev_type, x_ev_data,
// x_ev_extra1, ..., x_ev_extra4): the event's id.
TASKER_FUNCTION(event_retry_raw)
{
    static pg::Statement insert("insert into tasker.retry_queue " COLUMNS, COLUMN_TYPES);
    const std::string_view queue_name = args.text(0, "x_queue");
    const std::string_view consumer = args.text(1, "x_consumer");
    const Queue queue = queue_named(queue_name);
    const std::optional<Subscription> subscription = lock_subscription(queue.queue_id, consumer);
    if (!subscription)
        unknown_subscription(queue_name, consumer);
    NewEvent event{};
    event.id = args.optional_i64(3);
    if (!event.id)
        event.id = pg::pg_call([&] { return nextval_internal(queue.event_sequence, false); });
    event.time = args.optional_timestamp(4).value_or(GetCurrentTransactionStartTimestamp());
    for (int i = 0; i < kTextColumns; i++) {
        event.null[i] = args.is_null(6 + i);
        event.text[i] = args.datum(6 + i);
    }
    pg::Spi spi;
    insert_retry(spi, insert, event,
                 {queue.queue_id, subscription->sub_id, args.i64(2, "x_retry_after"), args.optional_i32(5)});
    return args.result(*event.id);
}
