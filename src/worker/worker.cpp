#include "worker/worker.hpp"

#include "pg/settings.hpp"
#include "worker/duty_runner.hpp"
#include "worker/partition_request.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace tasker::worker {
namespace {

DatabaseSlot *own_slot = nullptr;
NameData database_name;

// What this process last reported as fatal; the slot gets it when the process ends.
ErrorText last_words;
ErrorText earlier_words; // of the process before it
emit_log_hook_type previous_emit_log_hook = nullptr;

constexpr int64_t kStableUs = 5 * core::kUsPerMinute; // a worker that lived that long starts a new count
constexpr int kStartTimeoutMs = 60 * 1000;

// Errors that end this process are kept for worker_status. One that is the same as at the last attempt (a
// database that cannot be connected to) is not written to the log again, and neither is one that only says
// that the process was asked to go.
void keep_last_words(ErrorData *error)
{
    if (error->elevel >= ERROR && error->message != nullptr) {
        set_text(last_words, error->message);
        const bool asked = ShutdownRequestPending || own_slot == nullptr || own_slot->stop_requested;
        if (asked || strcmp(last_words, earlier_words) == 0)
            error->output_to_server = false;
    }
    if (previous_emit_log_hook != nullptr)
        previous_emit_log_hook(error);
}

// SIGTERM: whatever runs is cancelled like a query, so that everything unwinds in an orderly way; the loop
// then sees that it is to leave.
void on_sigterm(SIGNAL_ARGS)
{
    const int saved_errno = errno;
    ShutdownRequestPending = true;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
    errno = saved_errno;
}

// Runs when the process has already left the list of backends, so nobody who waits for it finds it there.
void detach_slot(int, Datum)
{
    WorkerShared &state = *shared();
    LWLockAcquire(&state.lock, LW_EXCLUSIVE);
    DatabaseSlot &slot = *own_slot;
    const int64_t now = now_us();

    slot.pid = 0;
    slot.latch = nullptr;
    slot.partition_wanted = false;
    if (slot.running_duty >= 0)
        slot.duties[slot.running_duty].running = false;
    slot.running_duty = -1;
    slot.yields = false;
    if (slot.departure == Departure::failed) {
        const bool was_stable = slot.state == WorkerState::running && now - slot.started_us >= kStableUs;
        slot.failures = was_stable ? 1 : slot.failures + 1;
        slot.retry_at_us = now + core::duty_backoff_us(slot.failures);
        slot.last_error_us = now;
        memcpy(slot.last_error, last_words, sizeof last_words);
    } else {
        const bool terminated = slot.departure == Departure::asked && !slot.stop_requested;
        slot.failures = 0;
        slot.retry_at_us = terminated ? now + core::kDutyBackoffMinUs : 0;
    }
    slot.state = WorkerState::waiting;
    slot.stop_requested = false;
    if (state.launcher_latch != nullptr)
        SetLatch(state.launcher_latch);
    for (Hold &hold : state.holds) {
        if (hold.database == slot.database && hold.latch != nullptr)
            SetLatch(hold.latch);
    }
    for (PartitionRequestSlot &request : state.requests) {
        if (request.database == slot.database && request.state != RequestState::free)
            SetLatch(request.latch);
    }
    LWLockRelease(&state.lock);
}

// Takes the slot unless somebody keeps workers of this database away, or another one has it.
bool attach_slot(Oid database)
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    DatabaseSlot *slot = find_slot(database);
    if (slot == nullptr || slot->pid != 0 || slot->state != WorkerState::starting)
        return false;
    if (is_held(database) || slot->stop_requested) {
        slot->state = WorkerState::waiting;
        slot->stop_requested = false;
        slot->retry_at_us = 0;
        if (state.launcher_latch != nullptr)
            SetLatch(state.launcher_latch);
        return false;
    }
    slot->pid = MyProcPid;
    slot->latch = MyLatch;
    slot->state = WorkerState::connecting;
    slot->departure = Departure::failed; // until it is known better
    slot->look_again = false;
    slot->partition_wanted = false;
    slot->running_duty = -1;
    memcpy(earlier_words, slot->last_error, sizeof earlier_words);
    own_slot = slot;
    return true;
}

[[noreturn]] void leave(Departure departure)
{
    {
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        // Created between our look and now: the launcher must not take this database for one without it.
        if (departure == Departure::no_extension && own_slot->look_again)
            departure = Departure::anew;
        own_slot->departure = departure;
    }
    proc_exit(0);
}

void set_option(const char *name, const char *value)
{
    SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

// Settings of the database or of a role must not change what duties mean. Plain C inside.
void set_session_up()
{
    char lock_timeout[16];
    snprintf(lock_timeout, sizeof lock_timeout, "%d", pg::settings::lock_timeout);
    set_option("application_name", "tasker");
    set_option("search_path", "pg_catalog, pg_temp");
    set_option("lock_timeout", lock_timeout);
    set_option("statement_timeout", "0");
    set_option("idle_in_transaction_session_timeout", "0");
    set_option("default_transaction_isolation", "read committed");
    set_option("default_transaction_read_only", "off");
    set_option("default_transaction_deferrable", "off");
    set_option("session_replication_role", "origin");
    set_option("row_security", "on");
    set_option("DateStyle", "ISO, YMD");
    set_option("IntervalStyle", "postgres");
    set_option("TimeZone", "UTC");
}

void reload_settings()
{
    pg::pg_call([] {
        ProcessConfigFile(PGC_SIGHUP);
        set_session_up();
    });
    reschedule_duties(*own_slot);
}

void note_running()
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    own_slot->state = WorkerState::running;
    own_slot->started_us = now_us();
    own_slot->encoding = GetDatabaseEncoding();
    if (state.launcher_latch != nullptr)
        SetLatch(state.launcher_latch);
}

// Leaves when this is no place for a worker (any more).
void leave_unless_at_home(Outcome outcome)
{
    if (outcome == Outcome::gone)
        leave(Departure::no_extension);
    if (outcome == Outcome::replaced)
        leave(Departure::anew);
}

// Asks for the extension in a transaction of its own, which also takes notice of what others have committed.
void look_for_extension(const char *activity)
{
    {
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        own_slot->look_again = false;
    }
    auto nothing = [](Steps &steps) { steps.transaction([] {}); };
    leave_unless_at_home(run_guarded(activity, kStartTimeoutMs, nothing).outcome);
}

void sleep_until(int64_t wakeup_us)
{
    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerWorkerMain");
    const int64_t left = wakeup_us - now_us();
    if (left <= 0)
        return;
    // Rounded up, so that the duty is due when the worker wakes.
    const long milliseconds = static_cast<long>(std::min<int64_t>(left / 1000 + 1, INT_MAX));
    pg::pg_call([&] {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, wait_event);
    });
}

// One turn of the loop: whatever is to be done, else sleep.
void turn()
{
    ResetLatch(MyLatch);
    // A cancel that came when nothing was running concerns nothing.
    QueryCancelPending = false;
    pg::check_for_interrupts();
    if (must_leave(*own_slot))
        leave(Departure::asked);
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        reload_settings();
    }
    if (own_slot->look_again)
        look_for_extension("look for the extension");
    if (serve_partition_requests() > 0)
        request_duty("premake");
    const std::optional<Outcome> outcome = run_due_duty(*own_slot);
    if (outcome)
        leave_unless_at_home(*outcome);
    else
        sleep_until(next_duty_us(*own_slot));
}

void run_worker(Oid database)
{
    // Before the connection is made, so that it runs after the process has left the list of backends.
    if (!attach_slot(database))
        proc_exit(0);
    on_shmem_exit(detach_slot, 0);
    previous_emit_log_hook = std::exchange(emit_log_hook, keep_last_words);
    BackgroundWorkerUnblockSignals();

    pg::pg_call([&] {
        BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
        set_session_up();
        StartTransactionCommand();
        namestrcpy(&database_name, get_database_name(MyDatabaseId));
        CommitTransactionCommand();
        pgstat_report_appname("tasker");
    });
    look_for_extension("start");
    schedule_duties(*own_slot);
    note_running();
    for (;;)
        turn();
}

} // namespace

const char *worker_database_name()
{
    return NameStr(database_name);
}

} // namespace tasker::worker

extern "C" PGDLLEXPORT void tasker_worker_main(Datum database)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, tasker::worker::on_sigterm);
    tasker::pg::boundary([&] { tasker::worker::run_worker(DatumGetObjectId(database)); });
}
