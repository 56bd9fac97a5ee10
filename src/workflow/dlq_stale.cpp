// Finding the tasks that do not get on.
//
// States stand in no index, so tasks are read; but only those of partitions in which some are unfinished, as
// far as the counts by state know it, and of them only what was created long enough ago.
#include "workflow/counts.hpp"
#include "workflow/dlq.hpp"
#include "workflow/read.hpp"
#include "workflow/template.hpp"

#include "partition/directory.hpp"
#include "pg/spi.hpp"

#include <numeric>

extern "C" {
#include "utils/numeric.h"
}

namespace tasker::workflow {
namespace {

using core::TaskState;

// The partitions of tasks that begin before a time and may hold unfinished tasks.
Growing<Oid> partitions_with_unfinished(TimestampTz before)
{
    const int64_t end = pg::unix_us_of_timestamp(before);
    Growing<partition::DirectoryEntry> entries; // a copy: asking may change the directory
    for (const partition::DirectoryEntry &entry : partition::directory(parent_of(Table::task)))
        entries.add(entry);
    Growing<Oid> partitions;
    for (const partition::DirectoryEntry &entry : entries) {
        if (entry.lower < end && unfinished_tasks(entry.lower, entry.upper).value_or(1) > 0)
            partitions.add(entry.relid);
    }
    return partitions;
}

// Visits the tasks of those partitions that are in one of the states (their characters), under the active
// snapshot.
template <class Visit> void for_each_task_in(TimestampTz created_before, std::string_view states, Visit visit)
{
    for (Oid relid : partitions_with_unfinished(created_before)) {
        Relation heap = try_relation_open(relid, AccessShareLock);
        if (heap == nullptr)
            continue;
        TupleTableSlot *slot = table_slot_create(heap, nullptr);
        TableScanDesc scan = table_beginscan(heap, GetActiveSnapshot(), 0, nullptr);
        while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
            CHECK_FOR_INTERRUPTS();
            slot_getsomeattrs(slot, kTaskCurrentState);
            if (states.find(DatumGetChar(value_of(slot, kTaskCurrentState))) != std::string_view::npos)
                visit(slot);
        }
        table_endscan(scan);
        ExecDropSingleTupleTableSlot(slot);
        table_close(heap, NoLock);
    }
}

TimestampTz created_at(const core::Uuid &uuid)
{
    return pg::timestamp_of_unix_us(core::unix_ms_of(uuid) * 1000);
}

TimestampTz minutes_before(TimestampTz now, int64_t minutes)
{
    return now - minutes * USECS_PER_MINUTE;
}

// For how long a task of this template may stay in the state, and how long it may live, in minutes.
struct Patience
{
    int32_t in_state;
    int64_t alive;
};

Patience patience_with(const Template &definition, TaskState state, const StaleLimits &limits)
{
    const auto own_or = [](int32_t own, int32_t common) { return own > 0 ? own : common; };
    Patience patience{};
    patience.alive = definition.max_duration_minutes > 0 ? definition.max_duration_minutes
                                                         : int64_t{limits.lifetime_hours} * 60;
    if (state == TaskState::waiting_for_dependencies)
        patience.in_state =
            own_or(definition.max_waiting_for_dependencies_minutes, limits.waiting_for_dependencies);
    else if (state == TaskState::waiting_for_retry)
        patience.in_state = own_or(definition.max_waiting_for_retry_minutes, limits.waiting_for_retry);
    else
        patience.in_state = own_or(definition.max_steps_in_process_minutes, limits.steps_in_process);
    return patience;
}

bool waits_longer(const StaleTask &a, const StaleTask &b)
{
    return a.since != b.since ? a.since < b.since : a.uuid < b.uuid;
}

// The tasks that are under investigation already.
HTAB *pending_entries()
{
    static pg::Statement pending("select task_uuid from tasker.tasks_dlq where resolution_status = 'pending'",
                                 {});
    HASHCTL control{};
    control.keysize = sizeof(core::Uuid);
    control.entrysize = sizeof(core::Uuid);
    control.hcxt = CurrentMemoryContext;
    HTAB *tasks = hash_create("tasker pending entries", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    pg::Spi spi;
    pg::Rows rows = spi.run(pending);
    pg::pg_call([&] {
        for (uint64 i = 0; i < rows.count(); i++) {
            const core::Uuid task = uuid_of(rows.datum(i, 1));
            bool found = false;
            hash_search(tasks, &task, HASH_ENTER, &found);
        }
    });
    return tasks;
}

// Keeps the `limit` tasks that wait longest: a heap whose top is the one that goes first.
void keep(Growing<StaleTask> &kept, const StaleTask &task, size_t limit)
{
    if (kept.count == limit) {
        if (!waits_longer(task, kept[0]))
            return;
        std::pop_heap(kept.begin(), kept.end(), waits_longer);
        kept.count--;
    }
    kept.add(task);
    std::push_heap(kept.begin(), kept.end(), waits_longer);
}

StaleLimits limits_argument(const pg::Args &args, const std::array<int, 4> &at, const char *const names[4])
{
    std::array<int32_t, 4> values{};
    for (size_t i = 0; i < values.size(); i++) {
        values[i] = args.i32(at[i], names[i]);
        if (values[i] <= 0)
            throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must be positive", names[i]);
    }
    return {values[0], values[1], values[2], values[3]};
}

int32_t batch_argument(const pg::Args &args, int i)
{
    const int32_t size = args.i32(i, "p_batch_size");
    if (size <= 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"p_batch_size\" must be positive");
    return size;
}

// Minutes with four digits.
Datum minutes_between(TimestampTz from, TimestampTz to)
{
    return NumericGetDatum(int64_div_fast_to_numeric((to - from) / (USECS_PER_MINUTE / 10'000), 4));
}

Datum whole_minutes_between(TimestampTz from, TimestampTz to)
{
    return Int32GetDatum(
        static_cast<int32_t>(std::min<int64_t>((to - from) / USECS_PER_MINUTE, PG_INT32_MAX)));
}

// Whose transition it was that brought the task where it is; null where nobody's name was noted.
Datum last_processor(Instances &instances, const StaleTask &task, bool &null)
{
    constexpr int kSortKey = 4;
    constexpr int kProcessorUuid = 7;
    Datum processor = 0;
    null = true;
    for_each_in_range(instances, Table::task_transition, task.uuid, task.uuid, [&](TupleTableSlot *slot) {
        slot_getsomeattrs(slot, kProcessorUuid);
        if (DatumGetInt32(value_of(slot, kSortKey)) != task.last_transition)
            return;
        null = is_null(slot, kProcessorUuid);
        if (!null)
            processor = datum_of(uuid_of(value_of(slot, kProcessorUuid)));
    });
    return processor;
}

void add_detected(pg::ResultSet &result, const StaleTask &task, TimestampTz now, const char *action,
                  bool entered, bool moved)
{
    const Template &definition = template_with_id(task.named_task_uuid);
    const Datum values[] = {
        key_datum(task.uuid),
        CStringGetTextDatum(definition.namespace_name),
        CStringGetTextDatum(definition.name),
        state_word(task.state),
        whole_minutes_between(task.since, now),
        Int32GetDatum(task.threshold_minutes),
        CStringGetTextDatum(action),
        BoolGetDatum(entered),
        BoolGetDatum(moved),
    };
    const bool nulls[std::size(values)] = {};
    result.add(values, nulls);
}

struct GivenUp
{
    bool moved;   // false: it failed, which was told as a warning
    bool entered; // with a new entry
};

// Gives stale tasks up, in the order in which everybody locks tasks: all stay locked to the end of the
// transaction. Returns what became of each, in the order given.
std::span<const GivenUp> give_up(const Growing<StaleTask> &tasks, TimestampTz now)
{
    auto *order = static_cast<size_t *>(palloc_extended(sizeof(size_t) * (tasks.count + 1), MCXT_ALLOC_HUGE));
    auto *given_up =
        static_cast<GivenUp *>(palloc_extended(sizeof(GivenUp) * (tasks.count + 1), MCXT_ALLOC_HUGE));
    std::iota(order, order + tasks.count, size_t{0});
    std::sort(order, order + tasks.count, [&](size_t a, size_t b) { return tasks[a].uuid < tasks[b].uuid; });
    for (size_t i = 0; i < tasks.count; i++) {
        GivenUp &outcome = given_up[order[i]];
        outcome.entered = false;
        const std::optional<pg::CaughtError> error = try_give_up(tasks[order[i]], now, outcome.entered);
        outcome.moved = !error;
        if (error)
            error->emit(WARNING);
    }
    return {given_up, tasks.count};
}

} // namespace

TimestampTz last_progress(Instances &instances, const TaskHead &task)
{
    TimestampTz latest = task.state_entered_at;
    if (task.state == TaskState::steps_in_process)
        for_each_step(instances, task.uuid, [&](TupleTableSlot *slot) {
            latest = std::max(latest, step_head(slot).state_entered_at);
        });
    return latest;
}

Growing<StaleTask> find_stale_tasks(const StaleLimits &limits, int64_t limit, TimestampTz now)
{
    Growing<StaleTask> kept;
    HTAB *pending = pending_entries();
    Instances instances;
    begin_reading(instances);
    // A task cannot have been in its state for longer than it exists, nor any limit be below a minute.
    for_each_task_in(minutes_before(now, 1), "drs", [&](TupleTableSlot *slot) {
        const TaskHead head = task_head(slot);
        const Patience patience = patience_with(template_with_id(head.named_task_uuid), head.state, limits);
        const bool too_old = created_at(head.uuid) <= minutes_before(now, patience.alive);
        const TimestampTz last_moment = minutes_before(now, patience.in_state);
        StaleTask task{head.uuid,
                       head.named_task_uuid,
                       head.state,
                       head.state_entered_at,
                       head.state_entered_at,
                       head.last_transition,
                       patience.in_state};
        if ((!too_old && head.state_entered_at > last_moment) ||
            (kept.count == static_cast<size_t>(limit) && !waits_longer(task, kept[0])) ||
            hash_search(pending, &head.uuid, HASH_FIND, nullptr) != nullptr)
            return;
        // Its steps are read only now: hardly any task comes this far.
        task.since = last_progress(instances, head);
        if (too_old || task.since <= last_moment)
            keep(kept, task, static_cast<size_t>(limit));
    });
    end_instances(instances);
    hash_destroy(pending);
    std::sort(kept.begin(), kept.end(), waits_longer);
    return kept;
}

TASKER_FUNCTION(last_progress_at)
{
    const core::Uuid uuid = uuid_argument(args, 0, "task_uuid");
    Instances instances;
    begin_reading(instances);
    pg::DirectTable *table = find_task(instances, uuid);
    const Datum time = table == nullptr
                           ? args.null()
                           : TimestampTzGetDatum(last_progress(instances, task_head(table->read_slot)));
    end_instances(instances);
    return time;
}

TASKER_FUNCTION(find_stuck_tasks)
{
    const int32_t minutes = args.i32(0, "minutes");
    if (minutes < 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"minutes\" must not be negative");
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    const TimestampTz before = minutes_before(instances.now, minutes);
    Growing<StaleTask> stuck;
    for_each_task_in(before, "iqsv", [&](TupleTableSlot *slot) {
        const TaskHead head = task_head(slot);
        if (head.state_entered_at >= before)
            return;
        const TimestampTz since = last_progress(instances, head);
        if (since < before)
            stuck.add({head.uuid, head.named_task_uuid, head.state, head.state_entered_at, since,
                       head.last_transition, 0});
    });
    std::sort(stuck.begin(), stuck.end(), waits_longer);
    for (const StaleTask &task : stuck) {
        bool nulls[4] = {};
        const Datum processor = last_processor(instances, task, nulls[2]);
        const Datum values[4] = {key_datum(task.uuid), state_word(task.state), processor,
                                 whole_minutes_between(task.since, instances.now)};
        result.add(values, nulls);
    }
    end_instances(instances);
    return 0;
}

TASKER_FUNCTION(get_stale_tasks_for_dlq)
{
    constexpr const char *kNames[] = {"p_default_waiting_deps", "p_default_waiting_retry",
                                      "p_default_steps_process", "p_max_lifetime_hours"};
    const StaleLimits limits = limits_argument(args, {0, 1, 2, 3}, kNames);
    const int32_t batch = batch_argument(args, 4);
    pg::ResultSet result(args.call());
    const TimestampTz now = GetCurrentTimestamp();
    for (const StaleTask &task : find_stale_tasks(limits, batch, now)) {
        const Template &definition = template_with_id(task.named_task_uuid);
        const Datum values[] = {
            key_datum(task.uuid),
            CStringGetTextDatum(definition.namespace_name),
            CStringGetTextDatum(definition.name),
            state_word(task.state),
            minutes_between(task.since, now),
            Int32GetDatum(task.threshold_minutes),
            minutes_between(created_at(task.uuid), now),
        };
        const bool nulls[std::size(values)] = {};
        result.add(values, nulls);
    }
    return 0;
}

TASKER_FUNCTION(detect_and_transition_stale_tasks)
{
    constexpr const char *kNames[] = {"p_default_waiting_deps_threshold", "p_default_waiting_retry_threshold",
                                      "p_default_steps_in_process_threshold",
                                      "p_default_task_max_lifetime_hours"};
    const bool dry_run = args.boolean(0, "p_dry_run");
    if (!dry_run)
        pg::pg_call([] { PreventCommandIfReadOnly("tasker.detect_and_transition_stale_tasks()"); });
    const int32_t batch = batch_argument(args, 1);
    const StaleLimits limits = limits_argument(args, {2, 3, 4, 5}, kNames);
    pg::ResultSet result(args.call());
    const TimestampTz now = GetCurrentTimestamp();
    const Growing<StaleTask> tasks = find_stale_tasks(limits, batch, now);
    std::span<const GivenUp> given_up;
    if (!dry_run)
        given_up = give_up(tasks, now);
    for (size_t i = 0; i < tasks.count; i++) {
        const bool moved = !dry_run && given_up[i].moved;
        const bool entered = moved && given_up[i].entered;
        add_detected(result, tasks[i], now,
                     dry_run   ? "would_transition_to_dlq_and_error"
                     : !moved  ? "transition_failed"
                     : entered ? "transitioned_to_dlq_and_error"
                               : "transitioned_to_error_only",
                     entered, moved);
    }
    return 0;
}

int64_t transition_stale_tasks()
{
    constexpr int64_t kBatch = 100;
    const TimestampTz now = GetCurrentTimestamp();
    int64_t done = 0;
    for (const GivenUp &outcome : give_up(find_stale_tasks({}, kBatch, now), now))
        done += outcome.moved ? 1 : 0;
    return done;
}

} // namespace tasker::workflow
