// Batches: what lies between two ticks.
#pragma once

#include "pg/function.hpp"
#include "stream/subscription.hpp"
#include "stream/tick.hpp"

namespace tasker::stream {

struct BatchLimits
{
    std::optional<int64_t> min_lag_us;
    std::optional<int64_t> min_count;
    std::optional<int64_t> min_interval_us;
};

struct Batch
{
    int64_t id;
    Tick current;
    Tick previous;
};

// The consumer's open batch, or a new one; nothing when there is no tick for it yet. Errors:
// undefined_object.
std::optional<Batch> next_batch(std::string_view queue_name, std::string_view consumer,
                                const BatchLimits &limits);

// The end of the next batch of who stands at a tick; nothing when there is none yet.
std::optional<Tick> end_of_batch(const Queue &queue, const Tick &previous, const BatchLimits &limits);

// A tick that a subscription names; with `keep` as in find_tick(). Errors: data_corrupted.
Tick tick_of(const Queue &queue, std::optional<int64_t> tick_id, bool keep = false);

// The row of a function with the out columns of next_batch_info(): all null without a batch.
Datum batch_row(const pg::Args &args, const std::optional<Batch> &batch);

// Closes the open batch of a subscription, which is locked: it goes on after it. A member of a cooperative
// consumer has no place of its own, the consumer has gone on when the member took the batch.
void finish(Subscription &subscription);

// Where the events of a batch are.
struct BatchPlan
{
    Queue queue;
    int32_t sub_id;
    core::TickSnapshot previous;
    core::TickSnapshot current;
};

// Errors: undefined_object.
BatchPlan plan_of(int64_t batch_id);
BatchPlan plan_of(const Subscription &with_batch);

// A batch that is not open. Errors: undefined_object, always.
[[noreturn]] void unknown_batch(int64_t batch_id);
// A consumer that is not registered. Errors: undefined_object, always.
[[noreturn]] void unknown_subscription(std::string_view queue, std::string_view consumer);

// The event tables that may hold events of the batch.
std::span<const Oid> tables_of(const BatchPlan &plan, Oid (&list)[kTables]);

} // namespace tasker::stream
