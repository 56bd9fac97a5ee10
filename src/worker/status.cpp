// What duty_status and worker_status show.
#include "pg/function.hpp"
#include "pg/settings.hpp"
#include "worker/duty.hpp"
#include "worker/shared.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace tasker::worker {
namespace {

// A row under construction: columns are appended in their order.
template <int columns> class Row
{
  public:
    void add_null() { nulls_[count_++] = true; }
    void add(Datum value) { values_[count_++] = value; }
    void add_text(const char *text)
    {
        add(PointerGetDatum(pg::pg_call([&] { return cstring_to_text(text); })));
    }
    void add_time(int64_t us)
    {
        if (us <= 0 || us == PG_INT64_MAX)
            add_null();
        else
            add(TimestampTzGetDatum(pg::timestamp_of_unix_us(us)));
    }
    void add_interval(int64_t us) { add(IntervalPGetDatum(pg::interval_of_us(us))); }
    void put(pg::ResultSet &rows)
    {
        Assert(count_ == columns);
        rows.add(values_, nulls_);
    }

  private:
    Datum values_[columns]{};
    bool nulls_[columns]{};
    int count_ = 0;
};

// An error's text from shared memory. Another database may have another encoding: what is not ASCII is then
// shown as a question mark.
void add_error(auto &row, const ErrorText &stored, int encoding)
{
    if (stored[0] == '\0') {
        row.add_null();
        return;
    }
    ErrorText text;
    memcpy(text, stored, sizeof text);
    if (encoding != GetDatabaseEncoding()) {
        for (char &c : text) {
            if (static_cast<unsigned char>(c) >= 0x80)
                c = '?';
        }
    }
    row.add_text(text);
}

// A copy of this database's slot, in palloc'd memory; null when it has none.
DatabaseSlot *copy_own_slot()
{
    if (shared() == nullptr)
        return nullptr;
    auto *copy = pg::pg_call([] { return static_cast<DatabaseSlot *>(palloc(sizeof(DatabaseSlot))); });
    pg::LockScope lock(&shared()->lock, LW_SHARED);
    const DatabaseSlot *slot = find_slot(MyDatabaseId);
    if (slot == nullptr)
        return nullptr;
    memcpy(static_cast<void *>(copy), slot, sizeof *slot);
    return copy;
}

constexpr int kDutyColumns = 12;

void add_duty(pg::ResultSet &rows, const Duty &duty, const DutySlot *record, const DatabaseSlot *slot)
{
    Row<kDutyColumns> row;
    const int64_t period = duty.period_us();
    row.add_text(duty.name);
    row.add_text(duty.what);
    if (period > 0)
        row.add_interval(period);
    else
        row.add_null();
    if (record == nullptr) {
        for (int i = 3; i < kDutyColumns; i++)
            row.add_null();
        row.put(rows);
        return;
    }
    row.add_time(record->last_start_us);
    if (record->runs > 0)
        row.add_interval(record->duration_us);
    else
        row.add_null();
    if (slot->worker.state == WorkerState::running && !record->running)
        row.add_time(std::max(record->times.next_due_us, now_us()));
    else
        row.add_null();
    row.add(Int64GetDatum(record->runs));
    row.add(Int64GetDatum(record->failures));
    row.add(Int32GetDatum(record->times.failures));
    add_error(row, record->last_error, slot->encoding);
    row.add_time(record->last_error_us);
    row.add(BoolGetDatum(record->running));
    row.put(rows);
}

constexpr int kWorkerColumns = 10;

const char *state_name(const DatabaseSlot &slot, const ProcessSlot &process)
{
    if (is_held(slot.database))
        return "kept away";
    if (process.stop_requested)
        return "stopping";
    switch (process.state) {
    case WorkerState::waiting:
        return "waiting";
    case WorkerState::starting:
        return "starting";
    case WorkerState::connecting:
        return "connecting";
    case WorkerState::running:
        return "running";
    }
    return "unknown";
}

void add_worker(pg::ResultSet &rows, const DatabaseSlot &slot, const char *state)
{
    const char *name = pg::pg_call([&] { return get_database_name(slot.database); });
    const bool busy = slot.worker.pid != 0 && slot.running_duty >= 0;
    Row<kWorkerColumns> row;
    if (name != nullptr)
        row.add_text(name);
    else
        row.add_null();
    if (slot.worker.pid != 0)
        row.add(Int32GetDatum(slot.worker.pid));
    else
        row.add_null();
    row.add_text(state);
    row.add_time(slot.worker.state == WorkerState::running ? slot.worker.started_us : 0);
    if (busy)
        row.add_text(duties()[static_cast<size_t>(slot.running_duty)].name);
    else
        row.add_null();
    row.add(Int64GetDatum(slot.worker.restarts));
    row.add(Int32GetDatum(slot.worker.failures));
    add_error(row, slot.worker.last_error, slot.encoding);
    row.add_time(slot.worker.last_error_us);
    row.add_time(
        slot.worker.state == WorkerState::waiting && slot.worker.failures > 0 ? slot.worker.retry_at_us : 0);
    row.put(rows);
}

// A row for what has no slot: the launcher (no database), or this database without a worker.
void add_plain(pg::ResultSet &rows, bool this_database, pid_t pid, const char *state, int64_t started_us)
{
    Row<kWorkerColumns> row;
    if (this_database)
        row.add_text(pg::pg_call([] { return get_database_name(MyDatabaseId); }));
    else
        row.add_null();
    if (pid != 0)
        row.add(Int32GetDatum(pid));
    else
        row.add_null();
    row.add_text(state);
    row.add_time(started_us);
    for (int i = 4; i < kWorkerColumns; i++)
        row.add_null();
    row.put(rows);
}

// What worker_status says of this database while no slot speaks for it.
const char *state_without_slot()
{
    if (shared() == nullptr)
        return "not loaded";
    if (RecoveryInProgress())
        return "standby";
    return worker_is_meant_to_run() ? "none" : "off";
}

} // namespace

TASKER_FUNCTION(duty_status)
{
    pg::ResultSet rows(args.call());
    const DatabaseSlot *slot = copy_own_slot();
    for (size_t i = 0; i < duties().size(); i++)
        add_duty(rows, duties()[i], slot != nullptr ? &slot->duties[i] : nullptr, slot);
    return args.null();
}

TASKER_FUNCTION(worker_status)
{
    pg::ResultSet rows(args.call());
    WorkerShared *state = shared();
    bool seen_own = false;

    if (state != nullptr) {
        LWLockAcquire(&state->lock, LW_SHARED);
        const pid_t launcher = state->launcher_pid;
        const int64_t launcher_started = state->launcher_started_us;
        LWLockRelease(&state->lock);
        if (launcher != 0)
            add_plain(rows, false, launcher, "launcher", launcher_started);
        // One slot at a time: looking up a database's name may wait, and must not do so under the lock.
        auto *copy = pg::pg_call([] { return static_cast<DatabaseSlot *>(palloc(sizeof(DatabaseSlot))); });
        for (int i = 0; i < state->slot_count; i++) {
            LWLockAcquire(&state->lock, LW_SHARED);
            memcpy(static_cast<void *>(copy), &state->slots[i], sizeof *copy);
            const char *name = state_name(*copy, copy->worker);
            LWLockRelease(&state->lock);
            if (!OidIsValid(copy->database))
                continue;
            add_worker(rows, *copy, name);
            seen_own = seen_own || copy->database == MyDatabaseId;
        }
    }
    if (!seen_own)
        add_plain(rows, true, 0, state_without_slot(), 0);
    return args.null();
}

namespace {

constexpr int kTickerColumns = 10;

void add_ticker(pg::ResultSet &rows, const DatabaseSlot &slot, const char *state)
{
    const ProcessSlot &ticker = slot.ticker;
    Row<kTickerColumns> row;
    if (ticker.pid != 0)
        row.add(Int32GetDatum(ticker.pid));
    else
        row.add_null();
    row.add_text(state);
    row.add_time(ticker.state == WorkerState::running ? ticker.started_us : 0);
    row.add(Int64GetDatum(slot.rounds));
    row.add(Int64GetDatum(slot.ticks));
    row.add_time(slot.last_tick_us);
    row.add(Int64GetDatum(slot.tick_failures));
    row.add(Int64GetDatum(ticker.restarts));
    add_error(row, ticker.last_error, slot.encoding);
    row.add_time(ticker.last_error_us);
    row.put(rows);
}

} // namespace

TASKER_FUNCTION(ticker_status)
{
    pg::ResultSet rows(args.call());
    const DatabaseSlot *slot = copy_own_slot();
    if (slot == nullptr) {
        auto *none = pg::pg_call([] { return static_cast<DatabaseSlot *>(palloc0(sizeof(DatabaseSlot))); });
        add_ticker(rows, *none, state_without_slot());
        return args.null();
    }
    const char *state = nullptr;
    {
        pg::LockScope lock(&shared()->lock, LW_SHARED);
        state = state_name(*slot, slot->ticker);
    }
    add_ticker(rows, *slot, state);
    return args.null();
}

} // namespace tasker::worker
