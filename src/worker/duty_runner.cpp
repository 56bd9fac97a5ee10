#include "worker/duty_runner.hpp"

#include "pg/memory.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "worker/process.hpp"

namespace tasker::worker {
namespace {

constexpr int64_t kBusyRetryUs = core::kUsPerSecond;
constexpr int64_t kRepeatLogUs = 60 * core::kUsPerMinute;
constexpr int kQuietLockFailures = 2; // a lock that was not to be had is no news until it happens again

// Leaves a duty without an error.
struct Interlude
{
    Outcome outcome;
};

// An active snapshot for a scope. While an error unwinds, the abort pops it.
class SnapshotScope
{
  public:
    SnapshotScope() : exceptions_(std::uncaught_exceptions())
    {
        pg::pg_call([] { PushActiveSnapshot(GetTransactionSnapshot()); });
    }
    ~SnapshotScope()
    {
        if (std::uncaught_exceptions() == exceptions_)
            PopActiveSnapshot();
    }
    SnapshotScope(const SnapshotScope &) = delete;
    SnapshotScope &operator=(const SnapshotScope &) = delete;

  private:
    int exceptions_;
};

// Takes a share lock on the extension itself, which DROP and ALTER EXTENSION lock exclusively before they
// touch anything of it: so a duty never sees half an extension, and never waits for one that is being
// dropped. Plain C inside: may ereport.
Outcome lock_extension()
{
    static Oid known = InvalidOid;

    Oid extension = get_extension_oid("tasker", true);
    if (!OidIsValid(extension))
        return Outcome::gone;
    LOCKTAG tag;
    SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, extension, 0);
    if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
        return Outcome::busy;
    AcceptInvalidationMessages();
    if (get_extension_oid("tasker", true) != extension)
        return Outcome::gone;
    if (OidIsValid(known) && known != extension)
        return Outcome::replaced;
    known = extension;
    return Outcome::done;
}

// Is the process to leave, or the worker to make room for a partition that somebody waits for?
bool is_told_to_stop()
{
    pg::LockScope lock(&shared()->lock, LW_SHARED);
    return must_leave() || (own_role() == Role::worker && own_slot().partition_wanted);
}

// The process' transactions.
class WorkerSteps final : public Steps
{
  public:
    WorkerSteps(int timeout_ms, MemoryContext memory) : timeout_ms_(timeout_ms), memory_(memory) {}

    bool may_run_top_level() const override { return true; }
    bool should_stop() const override
    {
        const bool stop = is_told_to_stop();
        was_stopped_ = was_stopped_ || stop;
        return stop;
    }
    // Has the duty been told to leave work undone?
    bool was_stopped() const { return was_stopped_; }

  protected:
    void run(void (*call)(void *), void *object) override
    {
        begin();
        {
            pg::AsOwner owner;
            SnapshotScope snapshot;
            call(object);
        }
        commit();
    }

  private:
    void begin()
    {
        Outcome outcome = pg::pg_call([&] {
            SetCurrentStatementStartTimestamp();
            StartTransactionCommand();
            enable_timeout_after(STATEMENT_TIMEOUT, timeout_ms_);
            return lock_extension();
        });
        if (outcome != Outcome::done)
            throw Interlude{outcome};
    }
    void commit()
    {
        pg::pg_call([&] {
            disable_timeout(STATEMENT_TIMEOUT, false);
            CommitTransactionCommand();
            MemoryContextSwitchTo(memory_);
        });
    }

    int timeout_ms_;
    MemoryContext memory_;
    mutable bool was_stopped_ = false;
};

MemoryContext duty_memory()
{
    static MemoryContext memory = nullptr;
    if (memory == nullptr)
        memory = pg::pg_call([] {
            return AllocSetContextCreateInternal(TopMemoryContext, "tasker duty", ALLOCSET_DEFAULT_MINSIZE,
                                                 ALLOCSET_DEFAULT_INITSIZE, ALLOCSET_DEFAULT_MAXSIZE);
        });
    else
        MemoryContextReset(memory);
    return memory;
}

// Brings the process back to a clean state after an error, as a client's session does.
void recover()
{
    pg::pg_call([] {
        disable_all_timeouts(false);
        QueryCancelPending = false;
        AbortCurrentTransaction();
    });
}

// Was the error the answer to a request to leave or to make room, rather than something of the duty's own?
bool was_asked_to_stop(const pg::CaughtError &error)
{
    if (error.sqlstate() != ERRCODE_QUERY_CANCELED)
        return false;
    return is_told_to_stop();
}

// One line in the server's log for each new message; again after an hour, or when it changes.
void log_failure(const Duty &duty, const pg::CaughtError &error, int in_a_row)
{
    pg::pg_call([&] {
        ereport(WARNING, errcode(error.sqlstate()),
                errmsg("duty \"%s\" failed: %s", duty.name, error.message()),
                error.detail() ? errdetail_internal("%s", error.detail()) : 0,
                error.hint() ? errhint("%s", error.hint()) : 0,
                error.context() ? errcontext("%s", error.context()) : 0,
                errcontext("background worker of database \"%s\", failure %d in a row, next attempt in %d s",
                           own_database_name(), in_a_row,
                           static_cast<int>(core::duty_backoff_us(in_a_row) / core::kUsPerSecond)));
    });
}

// When each duty's failure was last logged, in this process.
int64_t last_logged_us[kMaxDuties];

// Does this failure go to the log? Called before the duty's record takes over the new message.
bool is_news(const DutySlot &record, const pg::CaughtError &error, int index)
{
    if (error.sqlstate() == ERRCODE_LOCK_NOT_AVAILABLE && record.times.failures < kQuietLockFailures)
        return false;
    ErrorText text;
    set_text(text, error.message());
    return last_logged_us[index] == 0 || strcmp(text, record.last_error) != 0 ||
           now_us() - last_logged_us[index] >= kRepeatLogUs;
}

void note_start(DatabaseSlot &slot, int index)
{
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    DutySlot &record = slot.duties[index];
    const int64_t now = now_us();
    record.times.start(now);
    record.last_start_us = now;
    record.running = true;
    slot.running_duty = index;
    slot.yields = duties()[index].yields;
}

struct Verdict
{
    bool log;
    int in_a_row;        // failures up to now
    int in_a_row_before; // failures before this run
};

Verdict note_end(DatabaseSlot &slot, int index, const RunResult &result)
{
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    DutySlot &record = slot.duties[index];
    const int64_t now = now_us();
    Verdict verdict{false, 0, record.times.failures};

    slot.running_duty = -1;
    slot.yields = false;
    record.running = false;
    switch (result.outcome) {
    case Outcome::done:
        record.times.period_us = duties()[index].period_us(); // it may depend on what was found
        record.times.after_success(now);
        record.duration_us = std::max<int64_t>(now - record.last_start_us, 0);
        ++record.runs;
        break;
    case Outcome::failed:
        verdict.log = is_news(record, *result.error, index);
        record.times.after_failure(now);
        record.duration_us = std::max<int64_t>(now - record.last_start_us, 0);
        ++record.runs;
        ++record.failures;
        record.last_error_us = now;
        set_text(record.last_error, result.error->message());
        break;
    case Outcome::cancelled:
        record.times.next_due_us = now;
        break;
    case Outcome::busy:
    case Outcome::gone:
    case Outcome::replaced:
        record.times.next_due_us = core::saturating_add(now, kBusyRetryUs);
        break;
    }
    verdict.in_a_row = record.times.failures;
    return verdict;
}

void report(const Duty &duty, int index, const RunResult &result, const Verdict &verdict, int64_t took_us)
{
    if (verdict.log) {
        log_failure(duty, *result.error, verdict.in_a_row);
        last_logged_us[index] = now_us();
    }
    if (result.outcome == Outcome::done && verdict.in_a_row_before > 0 && last_logged_us[index] != 0) {
        pg::pg_call([&] {
            ereport(LOG,
                    errmsg("duty \"%s\" works again after %d failures", duty.name, verdict.in_a_row_before));
        });
        last_logged_us[index] = 0;
    }
    if (result.outcome == Outcome::done && pg::settings::log_duties)
        pg::pg_call([&] {
            ereport(LOG,
                    errmsg("duty \"%s\" took %.3f ms", duty.name, static_cast<double>(took_us) / 1000.0));
        });
}

// The due duty that has been waiting longest, -1 when none is due. Takes over what others have asked for.
int choose_due_duty(DatabaseSlot &slot)
{
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    const int64_t now = now_us();
    const uint32 requested = pg_atomic_exchange_u32(&slot.requested, 0);
    int chosen = -1;

    for (int i = 0; i < static_cast<int>(duties().size()); i++) {
        core::DutyTimes &times = slot.duties[i].times;
        if ((requested & (1u << i)) != 0)
            times.request_now(now);
        if (times.is_due(now) && (chosen < 0 || times.next_due_us < slot.duties[chosen].times.next_due_us))
            chosen = i;
    }
    return chosen;
}

} // namespace

RunResult run_guarded(const char *activity, int timeout_ms, DutyBody body)
{
    const MemoryContext memory = duty_memory();
    pg::MemoryContextScope scope(memory);
    RunResult result;

    pgstat_report_activity(STATE_RUNNING, activity);
    try {
        WorkerSteps steps(timeout_ms, memory);
        body(steps);
        if (steps.was_stopped())
            result.outcome = Outcome::cancelled;
    } catch (const Interlude &interlude) {
        result.outcome = interlude.outcome;
    } catch (...) {
        result.outcome = Outcome::failed;
        result.error.emplace(pg::CaughtError::current());
    }
    if (result.outcome != Outcome::done)
        recover();
    if (result.error && was_asked_to_stop(*result.error))
        result.outcome = Outcome::cancelled;
    pg::pg_call([] {
        pgstat_report_stat(true);
        pgstat_report_activity(STATE_IDLE, nullptr);
    });
    return result;
}

void schedule_duties(DatabaseSlot &slot)
{
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    const int64_t now = now_us();
    for (int i = 0; i < static_cast<int>(duties().size()); i++) {
        const Duty &duty = duties()[i];
        const int64_t period = duty.period_us();
        const int64_t due = duty.at_start ? 0 : period > 0 ? core::saturating_add(now, period) : PG_INT64_MAX;
        slot.duties[i].times = {period, 0, due, 0};
        slot.duties[i].running = false;
    }
    slot.running_duty = -1;
    slot.yields = false;
}

void reschedule_duties(DatabaseSlot &slot)
{
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    for (int i = 0; i < static_cast<int>(duties().size()); i++)
        slot.duties[i].times.period_us = duties()[i].period_us();
}

std::optional<Outcome> run_due_duty(DatabaseSlot &slot)
{
    const int index = choose_due_duty(slot);
    if (index < 0)
        return std::nullopt;
    const Duty &duty = duties()[index];
    note_start(slot, index);
    const int64_t start = now_us();
    char activity[NAMEDATALEN];
    snprintf(activity, sizeof activity, "duty %s", duty.name);
    auto body = [&](Steps &steps) { duty.run(steps); };
    RunResult result = run_guarded(activity, duty.timeout_ms, body);
    report(duty, index, result, note_end(slot, index, result), now_us() - start);
    return result.outcome;
}

int64_t next_duty_us(DatabaseSlot &slot)
{
    pg::LockScope lock(&shared()->lock, LW_SHARED);
    const int64_t now = now_us();
    int64_t earliest = PG_INT64_MAX;
    for (int i = 0; i < static_cast<int>(duties().size()); i++)
        earliest = std::min(earliest, slot.duties[i].times.effective_due_us(now));
    return earliest;
}

} // namespace tasker::worker
