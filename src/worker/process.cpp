#include "worker/process.hpp"

#include "pg/settings.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace tasker::worker {
namespace {

DatabaseSlot *slot_of_database = nullptr;
ProcessSlot *process = nullptr;
Role role_of_process = Role::worker;
void (*on_detach)(DatabaseSlot &) = nullptr;
NameData database_name;

// What this process last reported as fatal; the slot gets it when the process ends.
ErrorText last_words;
ErrorText earlier_words; // of the process before it
emit_log_hook_type previous_emit_log_hook = nullptr;

constexpr int64_t kStableUs = 5 * core::kUsPerMinute; // a process that lived that long starts a new count
constexpr int kStartTimeoutMs = 60 * 1000;

// Errors that end this process are kept for worker_status. One that is the same as at the last attempt (a
// database that cannot be connected to) is not written to the log again, and neither is one that only says
// that the process was asked to go.
void keep_last_words(ErrorData *error)
{
    if (error->elevel >= ERROR && error->message != nullptr) {
        set_text(last_words, error->message);
        const bool asked = ShutdownRequestPending || process == nullptr || process->stop_requested;
        if (asked || strcmp(last_words, earlier_words) == 0)
            error->output_to_server = false;
    }
    if (previous_emit_log_hook != nullptr)
        previous_emit_log_hook(error);
}

// When the launcher may start the next one.
void note_departure(ProcessSlot &gone, int64_t now)
{
    if (gone.departure == Departure::failed) {
        const bool was_stable = gone.state == WorkerState::running && now - gone.started_us >= kStableUs;
        gone.failures = was_stable ? 1 : gone.failures + 1;
        gone.retry_at_us = now + core::duty_backoff_us(gone.failures);
        gone.last_error_us = now;
        memcpy(gone.last_error, last_words, sizeof last_words);
    } else {
        const bool terminated = gone.departure == Departure::asked && !gone.stop_requested;
        gone.failures = 0;
        gone.retry_at_us = terminated ? now + core::kDutyBackoffMinUs : 0;
    }
    gone.state = WorkerState::waiting;
    gone.stop_requested = false;
}

// Runs when the process has already left the list of backends, so nobody who waits for it finds it there.
void detach_slot(int, Datum)
{
    WorkerShared &state = *shared();
    LWLockAcquire(&state.lock, LW_EXCLUSIVE);
    process->pid = 0;
    process->latch = nullptr;
    note_departure(*process, now_us());
    on_detach(*slot_of_database);
    if (state.launcher_latch != nullptr)
        SetLatch(state.launcher_latch);
    for (Hold &hold : state.holds) {
        if (hold.database == slot_of_database->database && hold.latch != nullptr)
            SetLatch(hold.latch);
    }
    LWLockRelease(&state.lock);
}

// Takes the slot unless somebody keeps processes of this database away, or another one has it.
bool attach_slot(Oid database)
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    DatabaseSlot *slot = find_slot(database);
    if (slot == nullptr)
        return false;
    ProcessSlot &own = role_of_process == Role::worker ? slot->worker : slot->ticker;
    if (own.pid != 0 || own.state != WorkerState::starting)
        return false;
    if (is_held(database) || own.stop_requested) {
        own.state = WorkerState::waiting;
        own.stop_requested = false;
        own.retry_at_us = 0;
        if (state.launcher_latch != nullptr)
            SetLatch(state.launcher_latch);
        return false;
    }
    own.pid = MyProcPid;
    own.latch = MyLatch;
    own.state = WorkerState::connecting;
    own.departure = Departure::failed; // until it is known better
    own.look_again = false;
    memcpy(earlier_words, own.last_error, sizeof earlier_words);
    slot_of_database = slot;
    process = &own;
    return true;
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
    if (role_of_process == Role::ticker)
        set_option("synchronous_commit", "off"); // stream/follow.hpp says why that loses nothing
}

} // namespace

void on_sigterm(SIGNAL_ARGS)
{
    const int saved_errno = errno;
    ShutdownRequestPending = true;
    InterruptPending = true;
    QueryCancelPending = true;
    SetLatch(MyLatch);
    errno = saved_errno;
}

DatabaseSlot &own_slot()
{
    return *slot_of_database;
}

ProcessSlot &own_process()
{
    return *process;
}

Role own_role()
{
    return role_of_process;
}

const char *own_database_name()
{
    return NameStr(database_name);
}

bool must_leave()
{
    return ShutdownRequestPending || process->stop_requested || slot_of_database->database != MyDatabaseId;
}

void leave(Departure departure)
{
    {
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        // Created between our look and now: the launcher must not take this database for one without it.
        if (departure == Departure::no_extension && process->look_again)
            departure = Departure::anew;
        process->departure = departure;
    }
    proc_exit(0);
}

bool reload_settings()
{
    if (!ConfigReloadPending)
        return false;
    ConfigReloadPending = false;
    pg::pg_call([] {
        ProcessConfigFile(PGC_SIGHUP);
        set_session_up();
    });
    return true;
}

void note_running()
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    process->state = WorkerState::running;
    process->started_us = now_us();
    slot_of_database->encoding = GetDatabaseEncoding();
    if (state.launcher_latch != nullptr)
        SetLatch(state.launcher_latch);
}

void leave_unless_at_home(Outcome outcome)
{
    if (outcome == Outcome::gone)
        leave(Departure::no_extension);
    if (outcome == Outcome::replaced)
        leave(Departure::anew);
}

void look_for_extension(const char *activity)
{
    {
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        process->look_again = false;
    }
    auto nothing = [](Steps &steps) { steps.transaction([] {}); };
    leave_unless_at_home(run_guarded(activity, kStartTimeoutMs, nothing).outcome);
}

void begin_process(Oid database, Role role, void (*detached)(DatabaseSlot &))
{
    role_of_process = role;
    on_detach = detached;
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
}

} // namespace tasker::worker
