#include "stream/batch.hpp"

#include "pg/spi.hpp"
#include "stream/coop.hpp"
#include "stream/restore.hpp"
#include "stream/wake.hpp"

namespace tasker::stream {
namespace {

[[noreturn]] void lost_tick(const Queue &queue, int64_t tick_id)
{
    throw pg::Error(ERRCODE_DATA_CORRUPTED, "tick " INT64_FORMAT " of queue \"%s\" does not exist", tick_id,
                    queue.name)
        .detail("A consumer stands there.")
        .hint("tasker.register_consumer_at() puts it to another tick.");
}

} // namespace

Tick tick_of(const Queue &queue, std::optional<int64_t> tick_id, bool keep)
{
    const std::optional<Tick> tick = tick_id ? find_tick(queue.queue_id, *tick_id, keep) : std::nullopt;
    if (!tick)
        lost_tick(queue, tick_id.value_or(0));
    return *tick;
}

std::optional<Tick> end_of_batch(const Queue &queue, const Tick &previous, const BatchLimits &limits)
{
    const std::optional<Tick> tick =
        limits.min_count || limits.min_interval_us
            ? find_tick_beyond(queue.queue_id, previous, limits.min_count, limits.min_interval_us)
            : next_tick(queue.queue_id, previous.id);
    if (tick && limits.min_lag_us && GetCurrentTransactionStartTimestamp() - tick->time < *limits.min_lag_us)
        return std::nullopt;
    return tick;
}

void unknown_subscription(std::string_view queue, std::string_view consumer)
{
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "consumer \"%.*s\" is not registered on queue \"%.*s\"",
                    static_cast<int>(consumer.size()), consumer.data(), static_cast<int>(queue.size()),
                    queue.data())
        .hint("Register it with tasker.register_consumer().");
}

std::optional<Batch> next_batch(std::string_view queue_name, std::string_view consumer,
                                const BatchLimits &limits)
{
    const std::optional<Queue> queue = find_queue(queue_name);
    std::optional<Subscription> subscription =
        queue ? lock_subscription(queue->queue_id, consumer) : std::nullopt;
    if (!subscription)
        unknown_subscription(queue_name, consumer);
    require_restored();
    if (!subscription->batch)
        require_no_cooperation(*subscription, consumer);
    const Tick previous = tick_of(*queue, subscription->last_tick);
    if (subscription->batch)
        return Batch{*subscription->batch, tick_of(*queue, subscription->next_tick), previous};
    if (queue->paused)
        return std::nullopt;
    const std::optional<Tick> current = end_of_batch(*queue, previous, limits);
    if (!current) {
        mark_wanted(queue->queue_id);
        return std::nullopt;
    }
    const Batch batch{new_batch_id(subscription->sub_key), *current, previous};
    subscription->batch = batch.id;
    subscription->next_tick = current->id;
    append_version(*subscription);
    return batch;
}

void finish(Subscription &subscription)
{
    subscription.last_tick = subscription.is_member() ? std::nullopt : subscription.next_tick;
    subscription.clear_batch();
    append_version(subscription);
}

BatchPlan plan_of(int64_t batch_id)
{
    const std::optional<Subscription> subscription = find_batch(batch_id, false);
    if (!subscription)
        unknown_batch(batch_id);
    return plan_of(*subscription);
}

void unknown_batch(int64_t batch_id)
{
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "batch " INT64_FORMAT " does not exist", batch_id)
        .hint("It may have been finished already.");
}

BatchPlan plan_of(const Subscription &with_batch)
{
    const std::optional<Queue> queue = read_queue_with_id(with_batch.queue_id);
    if (!queue)
        unknown_batch(with_batch.batch.value_or(0));
    const int64_t last = with_batch.last_tick.value_or(0);
    const int64_t next = with_batch.next_tick.value_or(0);
    const std::optional<core::TickSnapshot> previous = find_snapshot(queue->queue_id, last);
    const std::optional<core::TickSnapshot> current = find_snapshot(queue->queue_id, next);
    if (!previous)
        lost_tick(*queue, last);
    if (!current)
        lost_tick(*queue, next);
    return {*queue, with_batch.sub_id, *previous, *current};
}

// Transactions of the batch have ids from the earlier snapshot's xmin to the later one's xmax. The current
// table holds nothing from before the rotation, and the one before it nothing of those that began after its
// second step; older ones have been read by everybody (rotate_events.cpp).
std::span<const Oid> tables_of(const BatchPlan &plan, Oid (&list)[kTables])
{
    const Queue &queue = plan.queue;
    size_t count = 0;
    const auto first = static_cast<int64_t>(plan.previous.xmin);
    const auto last = static_cast<int64_t>(plan.current.xmax);
    if (!queue.switch_step2 || first <= *queue.switch_step2)
        list[count++] = queue.tables[(queue.current + kTables - 1) % kTables];
    if (last >= queue.switch_step1)
        list[count++] = queue.tables[queue.current];
    return {list, count};
}

Datum batch_row(const pg::Args &args, const std::optional<Batch> &batch)
{
    TupleDesc descriptor = nullptr;
    pg::pg_call([&] {
        if (get_call_result_type(args.call(), nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
            elog(ERROR, "return type must be a row type");
        descriptor = BlessTupleDesc(descriptor);
    });
    Datum values[7] = {};
    bool nulls[7] = {true, true, true, true, true, true, true};
    if (batch) {
        const Datum row[7] = {Int64GetDatum(batch->id),
                              Int64GetDatum(batch->current.id),
                              Int64GetDatum(batch->previous.id),
                              TimestampTzGetDatum(batch->current.time),
                              TimestampTzGetDatum(batch->previous.time),
                              Int64GetDatum(batch->current.event_seq),
                              Int64GetDatum(batch->previous.event_seq)};
        std::copy(std::begin(row), std::end(row), values);
        std::fill(std::begin(nulls), std::end(nulls), false);
    }
    return pg::pg_call([&] { return HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls)); });
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// next_batch_custom(i_queue_name, i_consumer_name, i_min_lag, i_min_count, i_min_interval)
TASKER_FUNCTION(next_batch_custom)
{
    PreventCommandIfReadOnly("tasker.next_batch_custom()");
    BatchLimits limits{};
    limits.min_lag_us = args.optional_duration_us(2, "i_min_lag");
    if (const std::optional<int32_t> count = args.optional_i32(3))
        limits.min_count = *count;
    limits.min_interval_us = args.optional_duration_us(4, "i_min_interval");
    return batch_row(args, next_batch(args.text(0, "i_queue_name"), args.text(1, "i_consumer_name"), limits));
}

// next_batch_info(i_queue_name, i_consumer_name)
TASKER_FUNCTION(next_batch_info)
{
    PreventCommandIfReadOnly("tasker.next_batch_info()");
    return batch_row(args, next_batch(args.text(0, "i_queue_name"), args.text(1, "i_consumer_name"), {}));
}

// next_batch(i_queue_name, i_consumer_name)
TASKER_FUNCTION(next_batch)
{
    PreventCommandIfReadOnly("tasker.next_batch()");
    const std::optional<Batch> batch =
        next_batch(args.text(0, "i_queue_name"), args.text(1, "i_consumer_name"), {});
    return batch ? args.result(batch->id) : args.null();
}

// finish_batch(x_batch_id)
TASKER_FUNCTION(finish_batch)
{
    PreventCommandIfReadOnly("tasker.finish_batch()");
    const int64_t batch_id = args.i64(0, "x_batch_id");
    std::optional<Subscription> subscription = find_batch(batch_id, true);
    if (!subscription) {
        pg::pg_call(
            [&] { ereport(WARNING, errmsg("finish_batch: batch " INT64_FORMAT " not found", batch_id)); });
        return args.result(int32_t{0});
    }
    finish(*subscription);
    return args.result(int32_t{1});
}
