// ticker(): makes the ticks that are due, by PgQ's rules.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "stream/consumer.hpp"
#include "stream/restore.hpp"
#include "stream/tick.hpp"
#include "stream/ticker.hpp"
#include "stream/wake_notes.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

void require_own_ticker(const Queue &queue)
{
    if (queue.external_ticker)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "queue \"%s\" has an external ticker",
                        queue.name)
            .hint("Its ticks are made by tasker.ticker(queue, tick_id, time, event_seq).");
    if (queue.ticker_paused)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the ticker of queue \"%s\" is paused",
                        queue.name)
            .hint("See its setting \"ticker_paused\".");
}

// Without events ticks grow rarer: each waits twice as long as the one before, up to the idle period.
bool is_idle_tick_due(const Queue &queue, const Tick &last, int64_t lag_us)
{
    const std::optional<Tick> before = previous_tick(queue.queue_id, last.id);
    if (!before)
        return true;
    return lag_us >= queue.max_lag_us / 2 &&
           (lag_us / 2 >= last.time - before->time || lag_us >= queue.idle_period_us);
}

bool is_tick_due(const Queue &queue, int64_t event_seq)
{
    const std::optional<Tick> last = last_tick(queue.queue_id);
    if (!last)
        return true;
    const int64_t lag_us = GetCurrentTransactionStartTimestamp() - last->time;
    const int64_t events = event_seq - last->event_seq;
    if (events > 0)
        return events >= queue.max_count || lag_us >= queue.max_lag_us;
    return is_idle_tick_due(queue, *last, lag_us);
}

// Takes the turn to make a tick, and looks at the queue then: it may have changed or gone while we waited.
std::optional<Queue> lock_queue(int32_t queue_id)
{
    lock_ticks(queue_id);
    return queue_with_id(queue_id);
}

Queue lock_queue(std::string_view name)
{
    require_restored();
    for (;;) {
        if (const std::optional<Queue> queue = lock_queue(queue_named(name).queue_id))
            return *queue;
        pg::check_for_interrupts();
    }
}

std::optional<int64_t> tick_if_due(const Queue &queue)
{
    if (queue.has_log && !has_consumers(queue.queue_id))
        return std::nullopt;
    const int64_t event_seq = sequence_value(queue.event_sequence);
    if (!is_tick_due(queue, event_seq))
        return std::nullopt;
    return make_tick(queue, event_seq);
}

} // namespace

// ticker(i_queue_name): the tick's id, null when none is due.
TASKER_FUNCTION(ticker_of_queue)
{
    PreventCommandIfReadOnly("tasker.ticker()");
    const std::string_view name = args.text(0, "i_queue_name");
    require_own_ticker(queue_named(name));
    const Queue queue = lock_queue(name);
    require_own_ticker(queue);
    const std::optional<int64_t> tick = tick_if_due(queue);
    return tick ? args.result(*tick) : args.null();
}

int64_t tasker::stream::tick_due_queues()
{
    PreventCommandIfReadOnly("tasker.ticker()");
    static pg::Statement query("select queue_id from tasker.queue where not queue_external_ticker and "
                               "not queue_ticker_paused order by queue_name",
                               {});
    require_restored();
    pg::ContextResource memory;
    pg::Vector<int32_t> queues(&memory);
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(query);
        for (uint64 i = 0; i < rows.count(); i++)
            queues.push_back(rows.i32(i, 1));
    }
    int64_t ticks = 0;
    for (const int32_t queue_id : queues) {
        const std::optional<Queue> queue = lock_queue(queue_id);
        if (queue && !queue->external_ticker && !queue->ticker_paused && tick_if_due(*queue))
            ticks++;
        pg::check_for_interrupts();
    }
    return ticks;
}

// ticker(): the number of queues that got a tick.
TASKER_FUNCTION(ticker)
{
    return args.result(tick_due_queues());
}

// ticker(i_queue_name, i_tick_id, i_orig_timestamp, i_event_seq): the tick's id.
TASKER_FUNCTION(external_ticker)
{
    PreventCommandIfReadOnly("tasker.ticker()");
    const Queue queue = lock_queue(args.text(0, "i_queue_name"));
    const ExternalTick tick{args.i64(1, "i_tick_id"), args.i64(2, "i_orig_timestamp")};
    const int64_t event_seq = args.i64(3, "i_event_seq");
    if (!queue.external_ticker || queue.ticker_paused)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the ticker of queue \"%s\" is %s",
                        queue.name, queue.external_ticker ? "paused" : "not external")
            .hint("See its settings \"external_ticker\" and \"ticker_paused\".");
    if (const std::optional<Tick> last = last_tick(queue.queue_id); last && last->id >= tick.id)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "tick " INT64_FORMAT " of queue \"%s\" does not come after tick " INT64_FORMAT,
                        tick.id, queue.name, last->id);
    make_tick(queue, event_seq, &tick);
    raise_sequence(queue.tick_sequence, tick.id);
    raise_sequence(queue.event_sequence, event_seq);
    return args.result(tick.id);
}

// force_tick(i_queue_name): the last tick's id. An external or paused ticker is left alone, as PgQ does.
TASKER_FUNCTION(force_tick)
{
    PreventCommandIfReadOnly("tasker.force_tick()");
    const Queue queue = queue_named(args.text(0, "i_queue_name"));
    if (!queue.external_ticker && !queue.ticker_paused) {
        raise_sequence(queue.event_sequence, sequence_value(queue.event_sequence) +
                                                 2 * static_cast<int64_t>(queue.max_count) + 1000);
        request_tick(queue.queue_id);
    }
    const std::optional<Tick> last = last_tick(queue.queue_id);
    return last ? args.result(last->id) : args.null();
}
