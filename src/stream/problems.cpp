#include "stream/problems.hpp"

#include "stream/restore.hpp"

namespace tasker::stream {
namespace {

constexpr int64_t kTickerLagUs = 60 * USECS_PER_SEC; // beyond the queue's own limit
constexpr int64_t kConsumerLagUs = 60 * 60 * USECS_PER_SEC;
// Rotations put off in a row; the worker counts one in each rotation period.
constexpr int64_t kDeferrals = 2;
constexpr int64_t kMetadataDeferrals = 30;
constexpr int kLookedInto = 5; // queues whose events are looked at

template <class... Values> const char *text(const char *format, Values... values)
{
    return pg::pg_call([&] { return psprintf(format, values...); });
}

int minutes(int64_t us)
{
    return static_cast<int>(us / (60 * USECS_PER_SEC));
}

// " (and N more)", or nothing.
const char *and_more(int64_t others)
{
    return others > 0 ? text(" (and " INT64_FORMAT " more)", others) : "";
}

int64_t allowed_ticker_lag_us(const QueueState &queue)
{
    return queue.max_lag_us > PG_INT64_MAX - kTickerLagUs ? PG_INT64_MAX : queue.max_lag_us + kTickerLagUs;
}

void find_pending_restore(pg::Vector<Problem> &problems)
{
    if (restore_pending())
        problems.push_back({true, "restore",
                            "the stream was restored from a dump of another cluster, and makes no ticks yet",
                            "When the restore is complete: select * from tasker.after_restore()."});
}

// An old tick is suspicious where ids have been given out since; but they may be of a moment ago, or of a
// transaction that was rolled back or is still open. So the events are looked at: in a few queues, which are
// enough to tell that the ticker does not tick.
void find_late_ticks(const StreamState &state, pg::Vector<Problem> &problems)
{
    const TimestampTz now = GetCurrentTimestamp();
    int looks = 0;
    for (const QueueState &queue : state.queues) {
        if (ticker_lag_us(queue, now) <= allowed_ticker_lag_us(queue))
            continue;
        if (looks++ == kLookedInto)
            return;
        const std::optional<TimestampTz> first = first_event_without_tick(queue);
        if (!first || now - *first <= allowed_ticker_lag_us(queue))
            continue;
        problems.push_back(
            {false, "ticker",
             text("queue \"%s\" has events that have waited %d minutes for a tick", queue.name,
                  minutes(now - *first)),
             "Its consumers do not get them. The background worker makes the ticks, or whoever "
             "calls tasker.ticker(): see tasker.status()."});
        return;
    }
}

void find_lagging_consumers(const StreamState &state, pg::Vector<Problem> &problems)
{
    const TimestampTz now = GetCurrentTimestamp();
    const ConsumerState *worst = nullptr;
    int64_t count = 0;
    for (const ConsumerState &consumer : state.consumers) {
        const int64_t lag = consumer_lag_us(consumer, now);
        if (lag < kConsumerLagUs || consumer.queue->paused)
            continue;
        count++;
        if (worst == nullptr || lag > consumer_lag_us(*worst, now))
            worst = &consumer;
    }
    if (worst != nullptr)
        problems.push_back(
            {false, "consumer lag",
             text("consumer \"%s\" of queue \"%s\" is %d minutes behind%s", worst->name, worst->queue->name,
                  minutes(consumer_lag_us(*worst, now)), and_more(count - 1)),
             "See whether it runs: tasker.get_consumer_info() tells when it was last heard of. One that is "
             "no longer in use must be unregistered: its events are kept until then."});
}

void find_deferred_rotations(const StreamState &state, pg::Vector<Problem> &problems)
{
    const QueueState *worst = nullptr;
    int64_t count = 0;
    for (const QueueState &queue : state.queues) {
        if (queue.deferrals < kDeferrals)
            continue;
        count++;
        if (worst == nullptr || queue.deferrals > worst->deferrals)
            worst = &queue;
    }
    if (worst != nullptr)
        problems.push_back(
            {false, "rotation",
             text("the rotation of queue \"%s\" has been put off " INT64_FORMAT " times in a row by %s%s",
                  worst->name, worst->deferrals, worst->held_by, and_more(count - 1)),
             "Its event tables grow until that ends."});
}

void find_deferred_metadata_rotation(const StreamState &state, pg::Vector<Problem> &problems)
{
    const auto check = [&](const char *tables, int64_t deferrals) {
        if (deferrals >= kMetadataDeferrals)
            problems.push_back(
                {false, "metadata rotation",
                 text("the rotation of %s has been put off " INT64_FORMAT " times in a row by %s", tables,
                      deferrals, state.metadata_held_by),
                 "Nothing is lost: their tables grow until that ends."});
    };
    check("subscriptions", state.subscription_deferrals);
    check("ticks", state.tick_deferrals);
}

} // namespace

void find_problems(const StreamState &state, pg::Vector<Problem> &problems)
{
    find_pending_restore(problems);
    find_late_ticks(state, problems);
    find_lagging_consumers(state, problems);
    find_deferred_rotations(state, problems);
    find_deferred_metadata_rotation(state, problems);
}

} // namespace tasker::stream
