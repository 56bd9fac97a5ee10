// receive(), ack() and nack(): the short forms of a consumer.
#include "stream/receive.hpp"

#include "stream/retry.hpp"

namespace tasker::stream {
namespace {

constexpr int kMessageColumns = 10;

// Rows of tasker.message. Plain C inside: may ereport.
class MessageSink final : public EventSink
{
  public:
    MessageSink(pg::ResultSet &result, int64_t batch_id, TimestampTz oldest)
        : result_(result), batch_id_(batch_id), oldest_(oldest)
    {
    }

    bool take(TupleTableSlot *slot) override
    {
        slot_getsomeattrs(slot, kEvColumns);
        const Datum *values = slot->tts_values;
        const bool *nulls = slot->tts_isnull;
        if (DatumGetTimestampTz(values[kEvTime - 1]) < oldest_)
            return true;
        const Datum row[kMessageColumns] = {
            values[kEvId - 1],    Int64GetDatum(batch_id_), values[kEvType - 1], values[kEvType],
            values[kEvRetry - 1], values[kEvTime - 1],      values[kEvType + 1], values[kEvType + 2],
            values[kEvType + 3],  values[kEvType + 4]};
        const bool null[kMessageColumns] = {false,
                                            false,
                                            nulls[kEvType - 1],
                                            nulls[kEvType],
                                            nulls[kEvRetry - 1],
                                            false,
                                            nulls[kEvType + 1],
                                            nulls[kEvType + 2],
                                            nulls[kEvType + 3],
                                            nulls[kEvType + 4]};
        result_.add(row, null);
        count_++;
        return true;
    }

    int32_t count() const { return count_; }

  private:
    pg::ResultSet &result_;
    int64_t batch_id_;
    TimestampTz oldest_;
    int32_t count_ = 0;
};

// Where a part of at most `most` places ends: not between events of one id.
size_t end_of_part(std::span<const EventPlace> places, size_t from, int32_t most)
{
    size_t end = std::min(places.size(), from + static_cast<size_t>(most));
    while (end < places.size() && places[end].ev_id == places[end - 1].ev_id)
        end++;
    return end;
}

} // namespace

int32_t hand_out(Subscription &batch, int32_t most, pg::ResultSet &result)
{
    const BatchPlaces places(batch);
    const std::span<const EventPlace> all = places.all();
    MessageSink sink(result, *batch.batch, oldest_wanted(places.plan().queue));
    size_t at = batch.acked ? places.after(*batch.acked) : 0;
    while (at < all.size() && sink.count() < most) {
        const size_t end = end_of_part(all, at, most - sink.count());
        places.fetch(all.subspan(at, end - at), sink);
        at = end;
    }
    if (sink.count() == 0) {
        finish(batch);
        return 0;
    }
    const std::optional<int64_t> handed = at < all.size() ? std::optional(all[at - 1].ev_id) : std::nullopt;
    if (batch.handed != handed) {
        batch.handed = handed;
        append_version(batch);
    }
    return sink.count();
}

int32_t positive_limit(const pg::Args &args, int argument)
{
    const int32_t limit = args.i32(argument, "max_return");
    if (limit < 1)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"max_return\" must be at least 1");
    return limit;
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// receive(queue, consumer, max_return)
TASKER_FUNCTION(receive)
{
    const std::string_view queue = args.text(0, "queue");
    const std::string_view consumer = args.text(1, "consumer");
    const int32_t most = positive_limit(args, 2);
    pg::ResultSet result(args.call());
    int32_t count = 0;
    while (count == 0) {
        const std::optional<Batch> batch = next_batch(queue, consumer, {});
        if (!batch)
            break;
        Subscription subscription = lock_batch(batch->id);
        count = hand_out(subscription, most, result);
        pg::check_for_interrupts();
    }
    return 0;
}

// ack(batch_id): 1, or 0 when the batch is not open.
TASKER_FUNCTION(ack)
{
    const int64_t batch_id = args.i64(0, "batch_id");
    std::optional<Subscription> batch = find_batch(batch_id, true);
    if (!batch) {
        pg::pg_call([&] { ereport(WARNING, errmsg("ack: batch " INT64_FORMAT " not found", batch_id)); });
        return args.result(int32_t{0});
    }
    if (batch->handed) {
        batch->acked = std::exchange(batch->handed, std::nullopt);
        append_version(*batch);
    } else {
        finish(*batch);
    }
    return args.result(int32_t{1});
}

namespace {

// Of a message only its id counts.
std::optional<int64_t> id_of_message(const pg::Args &args)
{
    if (args.is_null(1))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"msg\" must not be null");
    bool null = false;
    const Datum id =
        pg::pg_call([&] { return GetAttributeByNum(DatumGetHeapTupleHeader(args.datum(1)), 1, &null); });
    return null ? std::nullopt : std::optional(DatumGetInt64(id));
}

enum class Named
{
    by_message,
    by_id
};

// The right to the batch is asked for before anything else is said about it.
Datum refuse(const pg::Args &args, Named named)
{
    const int64_t batch_id = args.i64(0, "batch_id");
    const Subscription batch = lock_batch(batch_id);
    const std::optional<int64_t> id =
        named == Named::by_message ? id_of_message(args) : args.i64(1, "msg_id");
    const int64_t delay_us = args.duration_us(2, "retry_after");
    const BatchPlaces places(batch);
    const NewEvent event = event_of_batch(places, batch_id, id);
    const TimestampTz now = GetCurrentTransactionStartTimestamp();
    retry_or_bury(batch, places.plan().queue, event, now + std::min(delay_us, END_TIMESTAMP - 1 - now),
                  args.optional_text(3));
    return args.result(int32_t{1});
}

} // namespace

// nack(batch_id, msg, retry_after, reason): 1.
TASKER_FUNCTION(nack)
{
    return refuse(args, Named::by_message);
}

// nack(batch_id, msg_id, retry_after, reason)
TASKER_FUNCTION(nack_id)
{
    return refuse(args, Named::by_id);
}
