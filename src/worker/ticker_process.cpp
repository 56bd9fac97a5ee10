#include "worker/ticker_process.hpp"

#include "stream/follow.hpp"
#include "worker/duty_runner.hpp"
#include "worker/process.hpp"

namespace tasker::worker {
namespace {

using stream::Follower;
using stream::TickFailure;

constexpr int kTimeoutMs = 60 * 1000;
constexpr int64_t kBusyRetryUs =
    core::kUsPerSecond; // somebody is creating, dropping or altering the extension

void sleep_until(int64_t wakeup_us)
{
    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerTickerMain");
    const bool forever = wakeup_us == PG_INT64_MAX;
    const int64_t left = forever ? 0 : wakeup_us - now_us();
    if (left <= 0 && !forever)
        return;
    pg::pg_call([&] {
        if (forever)
            pgstat_report_stat(true); // nobody knows when the next chance comes
        const int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (forever ? 0 : WL_TIMEOUT);
        const auto milliseconds = static_cast<long>(std::min<int64_t>((left + 999) / 1000, INT_MAX));
        (void)WaitLatch(MyLatch, events, milliseconds, wait_event);
    });
}

void note_ticks(int64_t ticks)
{
    if (ticks == 0)
        return;
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    DatabaseSlot &slot = own_slot();
    slot.rounds++;
    slot.ticks += ticks;
    slot.last_tick_us = now_us();
}

// Once for each queue that has begun to fail, not for each attempt.
void report_failure(const TickFailure &failure, const pg::CaughtError &error)
{
    {
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        own_slot().tick_failures++;
        own_process().last_error_us = now_us();
        set_text(own_process().last_error, error.message());
    }
    if (failure.in_a_row > 1)
        return;
    pg::pg_call([&] {
        ereport(WARNING, errcode(error.sqlstate()),
                failure.queue_id != 0
                    ? errmsg("could not make a tick of queue %d: %s", failure.queue_id, error.message())
                    : errmsg("could not look at the queues: %s", error.message()),
                error.detail() ? errdetail_internal("%s", error.detail()) : 0,
                error.hint() ? errhint("%s", error.hint()) : 0,
                error.context() ? errcontext("%s", error.context()) : 0,
                errcontext("ticker of database \"%s\"", own_database_name()));
    });
}

void report_recovery(const Follower &follower)
{
    if (follower.recovered() > 0)
        pg::pg_call([&] {
            ereport(LOG, errmsg("%d queues have ticks again after failures", follower.recovered()),
                    errcontext("ticker of database \"%s\"", own_database_name()));
        });
}

void work(Follower &follower)
{
    auto body = [&](Steps &steps) { steps.transaction([&] { follower.work(); }); };
    const RunResult result = run_guarded("tick", kTimeoutMs, body);
    leave_unless_at_home(result.outcome);
    switch (result.outcome) {
    case Outcome::done:
        follower.done();
        note_ticks(follower.ticks());
        report_recovery(follower);
        break;
    case Outcome::failed:
        report_failure(follower.failed(), *result.error);
        break;
    default:
        follower.put_off(result.outcome == Outcome::busy ? now_us() + kBusyRetryUs : 0);
        break;
    }
}

void turn(Follower &follower)
{
    ResetLatch(MyLatch);
    // A cancel that came when nothing was running concerns nothing.
    QueryCancelPending = false;
    pg::check_for_interrupts();
    if (must_leave())
        leave(Departure::asked);
    if (reload_settings())
        follower.settings_changed();
    if (own_process().look_again)
        look_for_extension("look for the extension");
    follower.collect();
    const int64_t due = follower.due_us();
    if (due <= now_us())
        work(follower);
    else
        sleep_until(due);
}

// Before the process gives up its latch.
void stop_following(int, Datum)
{
    stream::stop_following();
}

// A ticker that misses the extension is not to come again before the worker has looked for it, too.
void detached(DatabaseSlot &slot)
{
    if (slot.ticker.departure != Departure::no_extension && slot.ticker.departure != Departure::anew)
        return;
    slot.ticker.retry_at_us = now_us() + core::kDutyBackoffMinUs;
    if (slot.worker.pid != 0) {
        slot.worker.look_again = true;
        SetLatch(slot.worker.latch);
    }
}

// The place of this database in shared memory. While somebody is creating or altering the extension, there is
// no transaction to look for it in.
stream::DatabaseWake *take_place()
{
    stream::DatabaseWake *wake = nullptr;
    for (;;) {
        auto body = [&](Steps &steps) { steps.transaction([&] { wake = stream::database_wake(); }); };
        const RunResult result = run_guarded("start", kTimeoutMs, body);
        leave_unless_at_home(result.outcome);
        if (must_leave())
            leave(Departure::asked);
        if (result.outcome == Outcome::done)
            return wake;
        if (result.outcome == Outcome::failed)
            throw pg::Error(result.error->sqlstate(), "%s", result.error->message());
        ResetLatch(MyLatch);
        sleep_until(now_us() + kBusyRetryUs);
        pg::check_for_interrupts();
    }
}

void run_ticker(Oid database)
{
    begin_process(database, Role::ticker, detached);
    stream::DatabaseWake *wake = take_place();
    if (wake == nullptr)
        throw pg::Error(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                        "no room in shared memory for the event stream of database \"%s\"",
                        own_database_name())
            .hint("Raise \"tasker.max_databases\" and restart the server.");
    before_shmem_exit(stop_following, 0);
    Follower follower(*wake);
    note_running();
    for (;;)
        turn(follower);
}

} // namespace
} // namespace tasker::worker

extern "C" PGDLLEXPORT void tasker_ticker_main(Datum database)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, tasker::worker::on_sigterm);
    tasker::pg::boundary([&] { tasker::worker::run_ticker(DatumGetObjectId(database)); });
}
