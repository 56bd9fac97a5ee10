#include "worker/launcher.hpp"

#include "pg/settings.hpp"
#include "stream/retry.hpp"
#include "worker/database_list.hpp"
#include "worker/duty.hpp"
#include "worker/hooks.hpp"
#include "worker/partition_request.hpp"
#include "worker/shared.hpp"
#include "worker/ticker_process.hpp"
#include "worker/worker.hpp"

#include "partition/owned_set.hpp"

namespace tasker::worker {
namespace {

constexpr int64_t kLookUs = 60 * core::kUsPerSecond;
constexpr int64_t kNoProcessRetryUs = 10 * core::kUsPerSecond;
constexpr int64_t kStartPatienceUs = 5 * core::kUsPerSecond; // then the next database gets its turn
constexpr int64_t kStartLimitUs = 30 * core::kUsPerSecond;   // then the start has failed
constexpr int kRestartSeconds = 5;

// Has the worker left because there is no extension?
bool is_without_extension(const DatabaseSlot &slot)
{
    return slot.worker.state == WorkerState::waiting && slot.worker.departure == Departure::no_extension;
}

// What the launcher knows beyond shared memory.
class Launcher
{
  public:
    Launcher() : resource_(TopMemoryContext), databases_(&resource_), without_extension_(&resource_)
    {
        handles_ = pg::pg_call([] {
            return static_cast<BackgroundWorkerHandle **>(
                MemoryContextAllocZero(TopMemoryContext, sizeof(BackgroundWorkerHandle *) * 2 *
                                                             static_cast<Size>(shared()->slot_count)));
        });
    }

    void turn();

  private:
    // A process to be started; null: none.
    struct Choice
    {
        DatabaseSlot *slot;
        ProcessSlot *process;
    };

    void look_at_databases();
    void settle_slots();
    void settle_slot(DatabaseSlot &slot);
    void give_up_start(DatabaseSlot &slot, ProcessSlot &process, int64_t now);
    bool start_next();
    bool is_starting(int64_t now) const;
    Choice choose_next(int64_t now);
    Choice choose_of(const DatabaseInfo &info, int64_t now);
    DatabaseSlot *take_slot(Oid database);
    void start(const Choice &choice);
    void free_slot(DatabaseSlot &slot);
    void forget_handle(BackgroundWorkerHandle *&handle);
    int64_t next_wakeup_us() const;

    const DatabaseInfo *find(Oid database) const;
    bool is_wanted(Oid database) const;
    bool lacks_extension(Oid database) const;
    BackgroundWorkerHandle *&handle_of(const DatabaseSlot &slot, const ProcessSlot &process) const
    {
        return handles_[2 * (&slot - shared()->slots) + (&process == &slot.ticker ? 1 : 0)];
    }

    pg::ContextResource resource_;
    pg::Vector<DatabaseInfo> databases_;
    pg::Vector<Oid> without_extension_; // sorted
    BackgroundWorkerHandle **handles_;
    int64_t next_look_us_ = 0;
    bool complained_of_slots_ = false;
    bool complained_of_processes_ = false;
};

const DatabaseInfo *Launcher::find(Oid database) const
{
    auto at = std::lower_bound(databases_.begin(), databases_.end(), database,
                               [](const DatabaseInfo &info, Oid oid) { return info.oid < oid; });
    return at != databases_.end() && at->oid == database ? &*at : nullptr;
}

bool Launcher::is_wanted(Oid database) const
{
    const DatabaseInfo *info = find(database);
    return pg::settings::worker && info != nullptr && info->wanted;
}

bool Launcher::lacks_extension(Oid database) const
{
    return std::binary_search(without_extension_.begin(), without_extension_.end(), database);
}

// Reads pg_database when it is time, or when somebody said that it has changed; forgets what it does not
// hold.
void Launcher::look_at_databases()
{
    bool asked = false;
    {
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        asked = std::exchange(shared()->look_at_databases, false);
    }
    const int64_t now = now_us();
    if (!asked && now < next_look_us_ && next_look_us_ - now <= kLookUs)
        return;
    databases_ = list_databases(resource_);
    next_look_us_ = now_us() + kLookUs;
    auto gone = [&](Oid oid) { return find(oid) == nullptr; };
    without_extension_.erase(std::remove_if(without_extension_.begin(), without_extension_.end(), gone),
                             without_extension_.end());
}

void Launcher::forget_handle(BackgroundWorkerHandle *&handle)
{
    if (handle != nullptr)
        pfree(std::exchange(handle, nullptr));
}

void Launcher::free_slot(DatabaseSlot &slot)
{
    forget_handle(handle_of(slot, slot.worker));
    forget_handle(handle_of(slot, slot.ticker));
    memset(static_cast<void *>(&slot), 0, sizeof slot);
    pg_atomic_init_u32(&slot.requested, 0);
}

// A process that was asked of the postmaster and did not come.
void Launcher::give_up_start(DatabaseSlot &slot, ProcessSlot &process, int64_t now)
{
    if (process.state != WorkerState::starting || process.pid != 0)
        return;
    pid_t pid = 0;
    BackgroundWorkerHandle *handle = handle_of(slot, process);
    const bool stopped = handle != nullptr && GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED;
    const bool overdue = now - process.starting_since_us > kStartLimitUs || now < process.starting_since_us;
    if (!stopped && !overdue)
        return;
    if (handle != nullptr)
        TerminateBackgroundWorker(handle);
    process.state = WorkerState::waiting;
    process.departure = Departure::failed;
    process.retry_at_us = now + core::duty_backoff_us(++process.failures);
    process.last_error_us = now;
    set_text(process.last_error, "the background worker process did not start");
}

void Launcher::settle_slot(DatabaseSlot &slot)
{
    give_up_start(slot, slot.worker, now_us());
    give_up_start(slot, slot.ticker, now_us());
    const bool wanted = is_wanted(slot.database);
    const bool lacking = is_without_extension(slot);
    for (ProcessSlot *process : {&slot.worker, &slot.ticker}) {
        if ((!wanted || lacking) && process->pid != 0 && !process->stop_requested)
            stop_process(*process);
    }
    if (has_process(slot) || slot.worker.state != WorkerState::waiting ||
        slot.ticker.state != WorkerState::waiting)
        return;
    if (lacking) {
        auto at = std::lower_bound(without_extension_.begin(), without_extension_.end(), slot.database);
        if (at == without_extension_.end() || *at != slot.database)
            without_extension_.insert(at, slot.database);
    }
    if (lacking || !wanted)
        free_slot(slot);
}

// Takes notice of what workers and others have written into the slots. Departures come first: a database that
// turned out to be without the extension may have got it since.
void Launcher::settle_slots()
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);

    for (int i = 0; i < state.slot_count; i++) {
        if (OidIsValid(state.slots[i].database))
            settle_slot(state.slots[i]);
    }
    const bool all = std::exchange(state.told_all, false);
    const auto told = [&](Oid database) {
        return all || std::find(state.told, state.told + state.told_count, database) !=
                          state.told + state.told_count;
    };
    without_extension_.erase(std::remove_if(without_extension_.begin(), without_extension_.end(), told),
                             without_extension_.end());
    for (int i = 0; i < state.slot_count; i++) { // those whose ticker has not left yet
        DatabaseSlot &slot = state.slots[i];
        if (OidIsValid(slot.database) && is_without_extension(slot) && told(slot.database))
            slot.worker.departure = Departure::anew;
    }
    state.told_count = 0;
}

// A free slot for the database; null when all are in use. The lock is held.
DatabaseSlot *Launcher::take_slot(Oid database)
{
    DatabaseSlot *slot = find_slot(InvalidOid);
    if (slot == nullptr)
        return nullptr;
    slot->database = database;
    slot->worker.state = slot->ticker.state = WorkerState::waiting;
    slot->running_duty = -1;
    return slot;
}

// Is a process on its way that the next one is to wait for?
bool Launcher::is_starting(int64_t now) const
{
    WorkerShared &state = *shared();
    const auto on_its_way = [&](const ProcessSlot &process) {
        return (process.state == WorkerState::starting || process.state == WorkerState::connecting) &&
               now - process.starting_since_us < kStartPatienceUs;
    };
    return std::any_of(state.slots, state.slots + state.slot_count, [&](const DatabaseSlot &slot) {
        return OidIsValid(slot.database) && (on_its_way(slot.worker) || on_its_way(slot.ticker));
    });
}

// The worker first: it finds out whether the extension is there.
Launcher::Choice Launcher::choose_of(const DatabaseInfo &info, int64_t now)
{
    const auto may_start = [&](const ProcessSlot &process) {
        return process.pid == 0 && process.state == WorkerState::waiting && process.retry_at_us <= now;
    };
    DatabaseSlot *slot = find_slot(info.oid);
    if (slot == nullptr)
        slot = take_slot(info.oid);
    if (slot == nullptr) {
        if (!std::exchange(complained_of_slots_, true))
            ereport(WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("no room for a background worker in database \"%s\"", NameStr(info.name)),
                    errhint("Raise \"tasker.max_databases\", or name the databases in "
                            "\"tasker.databases\"."));
        return {};
    }
    if (is_without_extension(*slot)) // and its ticker is still leaving
        return {};
    if (may_start(slot->worker))
        return {slot, &slot->worker};
    const bool at_work = slot->worker.state == WorkerState::running && !slot->worker.stop_requested;
    if (at_work && may_start(slot->ticker))
        return {slot, &slot->ticker};
    return {};
}

// The process that is to be started next. One start at a time: a server with a thousand databases is not to
// be flooded with processes that only look for the extension. The lock is held.
Launcher::Choice Launcher::choose_next(int64_t now)
{
    if (is_starting(now))
        return {};
    for (const DatabaseInfo &info : databases_) {
        if (!is_wanted(info.oid) || lacks_extension(info.oid) || is_held(info.oid))
            continue;
        if (const Choice choice = choose_of(info, now); choice.process != nullptr)
            return choice;
    }
    return {};
}

void Launcher::start(const Choice &choice)
{
    const bool is_worker = choice.process == &choice.slot->worker;
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_notify_pid = MyProcPid;
    worker.bgw_main_arg = ObjectIdGetDatum(choice.slot->database);
    snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", is_worker ? kWorkerType : kTickerType,
             choice.slot->database);
    strlcpy(worker.bgw_type, is_worker ? kWorkerType : kTickerType, BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "tasker", BGW_MAXLEN);
    strlcpy(worker.bgw_function_name, is_worker ? kWorkerMain : kTickerMain, BGW_MAXLEN);

    BackgroundWorkerHandle *handle = nullptr;
    pg::pg_call([&] {
        MemoryContext outer = MemoryContextSwitchTo(TopMemoryContext);
        if (!RegisterDynamicBackgroundWorker(&worker, &handle))
            handle = nullptr;
        MemoryContextSwitchTo(outer);
    });
    BackgroundWorkerHandle *&place = handle_of(*choice.slot, *choice.process);
    forget_handle(place);
    place = handle;
    if (handle != nullptr) {
        complained_of_processes_ = false;
        return;
    }
    {
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        choice.process->state = WorkerState::waiting;
        choice.process->departure = Departure::failed;
        choice.process->retry_at_us = now_us() + kNoProcessRetryUs;
        choice.process->last_error_us = now_us();
        set_text(choice.process->last_error, "no free background worker process");
    }
    if (!std::exchange(complained_of_processes_, true))
        pg::pg_call([] {
            ereport(WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("no free background worker process for tasker"),
                    errdetail("Each database with the extension has a worker and a ticker."),
                    errhint("Raise \"max_worker_processes\"."));
        });
}

bool Launcher::start_next()
{
    WorkerShared &state = *shared();
    Choice choice{};
    {
        pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
        const int64_t now = now_us();
        choice = choose_next(now);
        if (choice.process == nullptr)
            return false;
        if (choice.process->failures > 0)
            ++choice.process->restarts;
        choice.process->state = WorkerState::starting;
        choice.process->starting_since_us = now;
        choice.process->stop_requested = false;
    }
    start(choice);
    return true;
}

// The next moment at which there is something to do without anybody setting the latch.
int64_t Launcher::next_wakeup_us() const
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_SHARED);
    const int64_t now = now_us();
    int64_t earliest = next_look_us_;

    const auto look_at = [&](const DatabaseSlot &slot, const ProcessSlot &process) {
        if (process.state == WorkerState::starting || process.state == WorkerState::connecting) {
            const int64_t limit =
                now - process.starting_since_us < kStartPatienceUs ? kStartPatienceUs : kStartLimitUs;
            earliest = std::min(earliest, process.starting_since_us + limit);
        } else if (process.state == WorkerState::waiting && !is_held(slot.database)) {
            earliest = std::min(earliest, process.retry_at_us);
        }
    };
    for (int i = 0; i < state.slot_count; i++) {
        const DatabaseSlot &slot = state.slots[i];
        if (!OidIsValid(slot.database))
            continue;
        look_at(slot, slot.worker);
        if (slot.worker.state == WorkerState::running) // else it is the worker's turn
            look_at(slot, slot.ticker);
    }
    return earliest;
}

void Launcher::turn()
{
    ResetLatch(MyLatch);
    pg::check_for_interrupts();
    if (ShutdownRequestPending)
        proc_exit(1); // 0 would mean: never start again
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        pg::pg_call([] { ProcessConfigFile(PGC_SIGHUP); });
        next_look_us_ = 0;
    }
    look_at_databases();
    settle_slots();
    while (start_next()) {
    }

    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerLauncherMain");
    // A wake-up in the past belongs to a database that waits for another one's start: that one sets the
    // latch.
    const int64_t left = next_wakeup_us() - now_us();
    const long milliseconds = left > 0 ? static_cast<long>(std::min<int64_t>(left / 1000 + 1, kLookUs / 1000))
                                       : static_cast<long>(kStartPatienceUs / 1000);
    pg::pg_call([&] {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, wait_event);
    });
}

void forget_launcher(int, Datum)
{
    WorkerShared &state = *shared();
    LWLockAcquire(&state.lock, LW_EXCLUSIVE);
    state.launcher_pid = 0;
    state.launcher_latch = nullptr;
    LWLockRelease(&state.lock);
}

void note_launcher()
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    state.launcher_pid = MyProcPid;
    state.launcher_latch = MyLatch;
    state.launcher_started_us = now_us();
}

void run_launcher()
{
    BackgroundWorkerUnblockSignals();
    note_launcher();
    on_shmem_exit(forget_launcher, 0);
    pg::pg_call([] {
        BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
        pgstat_report_appname("tasker");
    });
    Launcher launcher;
    for (;;)
        launcher.turn();
}

void register_launcher()
{
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished; // on a standby: when it is promoted
    worker.bgw_restart_time = kRestartSeconds;
    strlcpy(worker.bgw_name, "tasker launcher", BGW_MAXLEN);
    strlcpy(worker.bgw_type, "tasker launcher", BGW_MAXLEN);
    strlcpy(worker.bgw_library_name, "tasker", BGW_MAXLEN);
    strlcpy(worker.bgw_function_name, "tasker_launcher_main", BGW_MAXLEN);
    RegisterBackgroundWorker(&worker);
}

} // namespace

void declare_launcher()
{
    if (!process_shared_preload_libraries_in_progress)
        return;
    declare_shared_area();
    // pg_upgrade fills a cluster whose objects have to keep their oids: nobody else may make any.
    if (!IsBinaryUpgrade)
        register_launcher();
    install_hooks();
    partition::partition_request_hook = request_partition;
    partition::retire_request_hook = request_retirement;
    stream::retry_request_hook = request_retries;
}

} // namespace tasker::worker

extern "C" PGDLLEXPORT void tasker_launcher_main(Datum)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    tasker::pg::boundary([] { tasker::worker::run_launcher(); });
}
