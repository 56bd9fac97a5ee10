// Sleeping until a flow has something to claim.
//
// wait_for_records is a procedure because a function runs inside a transaction: it commits, so that it holds
// no snapshot and no lock while it sleeps, and where it was called at top level not even a transaction. A
// waiter queues up in the flow's shared state and sleeps on its latch; the transaction callback of the commit
// that makes a record claimable takes it off the queue and sets the latch.
//
// A wake-up cannot be lost: the waiter queues up and looks at the lanes under flow->lock, the committer
// lowers the floors and looks at the queue under the same lock. A waiter that was woken and died before it
// claimed leaves the record to the others' next look, a few seconds later at most.
//
// Who waits for several flows queues up in each of them. A wake-up by one takes him off the others; what he
// was woken for there as well he finds by himself, as he claims from all of them.
//
// The alarm is set to the time at which the next scheduled record becomes due, or the rate limit has a token.
#include "queue/wait.hpp"

#include "partition/directory.hpp"
#include "pg/between_transactions.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/flow.hpp"
#include "queue/rebuild.hpp"

extern "C" {
#include "catalog/pg_proc.h"
#include "storage/ipc.h"
}

namespace tasker::queue {
namespace {

using core::RecordStatus;

constexpr int64_t kSecondLookUs = 5 * USECS_PER_SEC;
constexpr int64_t kPollUs = 50'000; // without shared memory

// When to look again: now (something is claimable), or at a time.
struct Look
{
    bool ready;
    int64_t wake_us; // Unix microseconds
};

int64_t now_us()
{
    return pg::unix_us_of_timestamp(GetCurrentTimestamp());
}

// What the flow's limits allow at this moment; flow->lock is held.
int64_t limits_open_at(const Flow &settings, FlowState *flow, int64_t now)
{
    flow->limited = settings.max_in_flight > 0;
    if (flow->limited) {
        const int64_t in_flight = flow->reserved + flow->counts[core::status_index(RecordStatus::processing)];
        if (in_flight >= settings.max_in_flight)
            return PG_INT64_MAX; // a completion wakes us
    }
    if (settings.rate_limit > 0) {
        const double burst = core::TokenBucket::burst_of(settings.rate_limit);
        const int64_t us = flow->bucket.us_until(1, settings.rate_limit, burst, now);
        return us > PG_INT64_MAX - now ? PG_INT64_MAX : now + us;
    }
    return now;
}

// Looks at the flow, and queues up when there is nothing.
Look look_and_queue(const Flow &settings, FlowState *flow, Waiter *waiter)
{
    const int64_t now = now_us();
    Look look{false, now + kSecondLookUs};

    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    int64_t first = core::kNothing;
    for (Lane *lane = flow->open_lanes; lane != nullptr; lane = lane->next_open)
        first = std::min(first, lane->claim.value);
    int64_t open_at = settings.paused ? PG_INT64_MAX : limits_open_at(settings, flow, now);
    if (first != core::kNothing)
        open_at = std::max(open_at, core::unix_us_of(first));
    else
        open_at = PG_INT64_MAX;
    look.ready = open_at <= now;
    look.wake_us = std::min(look.wake_us, open_at);
    if (!look.ready && waiter->flow == nullptr) {
        waiter->flow = flow;
        waiter->latch = MyLatch;
        dlist_push_tail(&flow->waiters, &waiter->node);
    }
    LWLockRelease(&flow->lock);
    return look;
}

// Leaves the queue, if nobody has taken us off it.
void stop_waiting(Waiter *waiter)
{
    FlowState *flow = waiter->flow;
    if (flow == nullptr)
        return;
    LWLockAcquire(&flow->lock, LW_EXCLUSIVE);
    if (waiter->flow == flow) {
        dlist_delete(&waiter->node);
        waiter->flow = nullptr;
    }
    LWLockRelease(&flow->lock);
}

void stop_all_waiting()
{
    for (Waiter &waiter : own_waiters())
        stop_waiting(&waiter);
}

void leave_queue_at_exit(int, Datum)
{
    if (shared_state() != nullptr)
        stop_all_waiting();
}

void sleep_until(int64_t wake_us)
{
    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerWaitForRecords");
    const int64_t timeout_ms = std::clamp<int64_t>((wake_us - now_us() + 999) / 1000, 1, PG_INT32_MAX);
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, static_cast<long>(timeout_ms),
                    wait_event);
    ResetLatch(MyLatch);
}

struct Waiting
{
    Oid parent;
    std::span<WaitedFlow> flows;
    int64_t until_us;
};

// Without lanes: is there a due pending record? Ignores the flow's limits, which the claim checks.
bool due_by_counting(const Flow &flow, int64_t due)
{
    static pg::Statement probe("select exists (select from tasker.queue_record where flow_id = $1 "
                               "and priority between 0 and 9 and position <= $2 and status = 'p')",
                               {INT4OID, INT8OID});
    if (flow.paused)
        return false;
    pg::Spi spi;
    return spi.read_latest(probe, {flow.flow_id, due}).boolean(0, 1);
}

bool any_due_by_counting(Waiting &waiting, int64_t due)
{
    for (const WaitedFlow &flow : waiting.flows) {
        if (due_by_counting(flow_named(flow.name), due))
            return true;
    }
    return false;
}

bool wait_by_polling(Waiting &waiting, pg::BetweenTransactions &between)
{
    for (;;) {
        const int64_t now = now_us();
        const bool due =
            between.inside([&] { return any_due_by_counting(waiting, core::record_id_ceiling(now)); });
        if (due || now >= waiting.until_us)
            return due;
        sleep_until(std::min(now + kPollUs, waiting.until_us));
        CHECK_FOR_INTERRUPTS();
    }
}

// Has the flow been changed since this backend last asked? The commit of a change wakes waiters, who may be
// quicker than its invalidation messages to their caches.
bool settings_have_changed(WaitedFlow &waited, FlowState *flow)
{
    LWLockAcquire(&flow->lock, LW_SHARED);
    const int64_t changes = flow->settings_changes;
    LWLockRelease(&flow->lock);
    const bool changed = flow != waited.seen_flow || changes != waited.seen_changes;
    waited.seen_flow = flow;
    waited.seen_changes = changes;
    return changed;
}

// Reads the settings: from the cache, unless they have changed while we slept. The table may be another one,
// after DROP and CREATE EXTENSION. The flow's state is null where shared memory has no room.
FlowState *find_flow(Oid parent, WaitedFlow &waited, Flow &settings)
{
    settings = flow_named(waited.name);
    FlowState *flow = flow_state(parent, settings.flow_id);
    if (flow != nullptr && settings_have_changed(waited, flow)) {
        forget_cached_flows();
        settings = flow_named(waited.name);
        flow = flow_state(parent, settings.flow_id);
    }
    return flow;
}

enum class Found
{
    ready,
    nothing,
    no_room
};

// Looks at every flow, and queues up in all of them when there is nothing. All are looked up before: an error
// must leave nobody behind in a queue, who would swallow a wake-up.
Found look_at_all(Waiting &waiting, int64_t *wake_us)
{
    Flow settings[kMaxWaitedFlows];
    FlowState *states[kMaxWaitedFlows];
    waiting.parent = queue_parent();
    if (built_state(waiting.parent) == nullptr)
        return Found::no_room;
    for (size_t i = 0; i < waiting.flows.size(); i++) {
        states[i] = find_flow(waiting.parent, waiting.flows[i], settings[i]);
        if (states[i] == nullptr)
            return Found::no_room;
    }
    const std::span<Waiter> waiters = own_waiters();
    for (size_t i = 0; i < waiting.flows.size(); i++) {
        const Look look = look_and_queue(settings[i], states[i], &waiters[i]);
        *wake_us = std::min(*wake_us, look.wake_us);
        if (look.ready)
            return Found::ready;
    }
    return Found::nothing;
}

bool wait_on_latch(Waiting &waiting, pg::BetweenTransactions &between)
{
    for (;;) {
        int64_t wake_us = waiting.until_us;
        const Found found = between.inside([&] { return look_at_all(waiting, &wake_us); });
        if (found == Found::nothing && now_us() < waiting.until_us)
            sleep_until(wake_us);
        stop_all_waiting();
        if (found == Found::no_room) // shared memory has run out of room meanwhile
            return wait_by_polling(waiting, between);
        if (found == Found::ready || now_us() >= waiting.until_us)
            return found == Found::ready;
        CHECK_FOR_INTERRUPTS();
    }
}

} // namespace

bool wait_for_flows(std::span<WaitedFlow> flows, int64_t timeout_us)
{
    Waiting waiting{};
    waiting.parent = queue_parent();
    waiting.flows = flows;
    const int64_t now = now_us();
    waiting.until_us = timeout_us > PG_INT64_MAX - now ? PG_INT64_MAX : now + timeout_us;

    pg::BetweenTransactions between;
    const bool lanes = built_state(waiting.parent) != nullptr;
    static bool exit_callback = false;
    if (lanes && !exit_callback) {
        before_shmem_exit(leave_queue_at_exit, 0);
        exit_callback = true;
    }
    if (lanes)
        stop_all_waiting(); // of a wait that ended with an error
    between.begin();
    const bool ready = lanes ? wait_on_latch(waiting, between) : wait_by_polling(waiting, between);
    between.end();
    return ready;
}

Datum inout_boolean(FunctionCallInfo call, bool value)
{
    TupleDesc descriptor = nullptr;
    if (get_call_result_type(call, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    Datum datum = BoolGetDatum(value);
    bool null = false;
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), &datum, &null));
}

TASKER_FUNCTION(wait_for_records)
{
    std::string_view name = args.name(0, "flow_name");
    const int64_t timeout = args.duration_us(1, "timeout");
    if (pg::called_atomically(args.call()))
        throw pg::Error(ERRCODE_ACTIVE_SQL_TRANSACTION,
                        "tasker.wait_for_records() cannot run inside a transaction block")
            .hint("It commits before it sleeps. Call it on its own, outside of BEGIN … COMMIT and of "
                  "functions.");
    WaitedFlow waited{};
    strlcpy(waited.name, flow_named(name).name, sizeof waited.name);
    return inout_boolean(args.call(), wait_for_flows({&waited, 1}, timeout));
}

} // namespace tasker::queue
