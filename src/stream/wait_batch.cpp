// wait_for_batch(): sleeping until a consumer has a batch.
//
// A procedure, because a function runs inside a transaction: it commits, so that it holds no snapshot and no
// lock while it sleeps, and where it was called at top level not even a transaction. It enters the queue's
// waiters first and looks for a batch then. So a tick that the look does not see is committed after it, and
// its commit sets the latch (wake.hpp).
//
// A tick wakes all that wait for its queue; so do changes of settings and the end of a subscription, after
// which a look finds a paused queue running, or the consumer gone.
#include "pg/between_transactions.hpp"
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "stream/batch.hpp"
#include "stream/wake.hpp"

namespace tasker::stream {
namespace {

constexpr int64_t kSecondLookUs = 10 * USECS_PER_SEC; // should a wake-up have been lost
constexpr int64_t kShortestPollUs = 20'000;           // without shared memory
constexpr int64_t kLongestPollUs = 500'000;

struct Waiting
{
    char queue[kMaxNameBytes + 1];
    char consumer[kMaxNameBytes + 1];
    int32_t queue_id;
    int64_t until_us;
};

// An id, or nothing.
struct Found
{
    bool open;
    int64_t batch_id;
};

int64_t now_us()
{
    return pg::unix_us_of_timestamp(GetCurrentTimestamp());
}

Found look(const Waiting &waiting)
{
    pg::OwnedContext memory("tasker wait_for_batch");
    pg::MemoryContextScope scope(memory.get());
    const std::optional<Batch> batch = next_batch(waiting.queue, waiting.consumer, {});
    return batch ? Found{true, batch->id} : Found{false, 0};
}

void sleep_until(int64_t wake_us)
{
    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerWaitForBatch");
    const int64_t timeout_ms = std::clamp<int64_t>((wake_us - now_us() + 999) / 1000, 1, PG_INT32_MAX);
    pg::pg_call([&] {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                        static_cast<long>(timeout_ms), wait_event);
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    });
}

Found wait_for_batch(const Waiting &waiting, pg::BetweenTransactions &between)
{
    const WaitingForTick woken(waiting.queue_id);
    int64_t pause_us = woken.accepted() ? kSecondLookUs : kShortestPollUs;
    for (;;) {
        const Found found = pg::pg_call([&] { return between.inside([&] { return look(waiting); }); });
        const int64_t now = now_us();
        if (found.open || now >= waiting.until_us)
            return found;
        sleep_until(std::min(waiting.until_us, now + pause_us));
        if (!woken.accepted())
            pause_us = std::min(2 * pause_us, kLongestPollUs);
    }
}

Waiting waiting_of(const pg::Args &args)
{
    Waiting waiting{};
    const std::string_view queue = args.name(0, "queue");
    const std::string_view consumer = args.name(1, "consumer");
    const int64_t timeout = args.duration_us(2, "timeout");
    const int64_t now = now_us();
    memcpy(waiting.queue, queue.data(), queue.size());
    memcpy(waiting.consumer, consumer.data(), consumer.size());
    waiting.until_us = timeout > PG_INT64_MAX - now ? PG_INT64_MAX : now + timeout;
    return waiting;
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// wait_for_batch(queue, consumer, timeout, inout batch_id)
TASKER_FUNCTION(wait_for_batch)
{
    Waiting waiting = waiting_of(args);
    if (pg::called_atomically(args.call()))
        throw pg::Error(ERRCODE_ACTIVE_SQL_TRANSACTION,
                        "tasker.wait_for_batch() cannot run inside a transaction block")
            .hint("It commits before it sleeps. Call it on its own, outside of BEGIN ... COMMIT and of "
                  "functions.");
    // A row that tells of the procedure's inout argument.
    TupleDesc descriptor = nullptr;
    if (get_call_result_type(args.call(), nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");

    const std::optional<Queue> queue = find_queue(waiting.queue);
    if (!queue)
        (void)next_batch(waiting.queue, waiting.consumer, {}); // says so
    waiting.queue_id = queue->queue_id;
    pg::BetweenTransactions between;
    between.begin();
    const Found found = wait_for_batch(waiting, between);
    between.end();

    Datum value = Int64GetDatum(found.batch_id);
    bool null = !found.open;
    return pg::pg_call([&] {
        if (get_call_result_type(args.call(), nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
            elog(ERROR, "return type must be a row type");
        return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), &value, &null));
    });
}
