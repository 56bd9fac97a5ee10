// get_next_ready_tasks(): the tasks with ready steps that count most.
//
// Candidates are the pending, due records of the flows that carry steps, in the order of what they count
// (queue/pending_scan.hpp). The first of a task's records to come is its best. The task and its steps are
// read then, from one partition each: whether the record is the step's, how many steps are ready, and whether
// the task has been waiting for so long that it counts as stale. So a call costs the tasks that it returns,
// and those that it passes over.
#include "core/arithmetic.hpp"
#include "queue/pending_scan.hpp"
#include "queue/rebuild.hpp"
#include "workflow/read.hpp"
#include "workflow/records.hpp"

#include <cmath>

extern "C" {
#include "utils/numeric.h"
}

namespace tasker::workflow {
namespace {

constexpr int kColumns = 7;
constexpr int32_t kMaxWaitingForDependenciesMinutes = 60;
constexpr int32_t kMaxWaitingForRetryMinutes = 30;
// Decimal places of computed_priority.
constexpr int kScale = 6;
constexpr double kScaleFactor = 1e6;
// A task with more steps than this is read only when the record is known to be its step's.
constexpr int32_t kWideTask = 32;

// The tasks that need not be looked at again: open addressing, at most half full.
class TaskSet
{
  public:
    explicit TaskSet(size_t expected)
    {
        while (capacity_ < expected * 4)
            capacity_ *= 2;
        slots_ = make_slots(capacity_);
    }

    bool contains(const core::Uuid &task) const { return *slot_of(task) == task; }
    void add(const core::Uuid &task)
    {
        if (count_ * 2 >= capacity_)
            grow();
        core::Uuid *slot = slot_of(task);
        count_ += *slot == task ? 0 : 1;
        *slot = task;
    }

  private:
    static core::Uuid *make_slots(size_t capacity)
    {
        return static_cast<core::Uuid *>(
            palloc_extended(sizeof(core::Uuid) * capacity, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
    }
    // Where the task stands, or may be put: no task's uuid is all zero.
    core::Uuid *slot_of(const core::Uuid &task) const
    {
        uint64_t parts[2];
        memcpy(parts, task.bytes.data(), sizeof parts);
        size_t at = ((parts[0] ^ parts[1]) * 0x9e3779b97f4a7c15u) >> 32;
        for (;; at++) {
            core::Uuid *slot = slots_ + (at & (capacity_ - 1));
            if (*slot == task || *slot == core::Uuid{})
                return slot;
        }
    }
    void grow()
    {
        core::Uuid *old = slots_;
        const size_t old_capacity = capacity_;
        capacity_ *= 2;
        slots_ = make_slots(capacity_);
        for (size_t i = 0; i < old_capacity; i++) {
            if (old[i] != core::Uuid{})
                *slot_of(old[i]) = old[i];
        }
        pfree(old);
    }

    core::Uuid *slots_ = nullptr;
    size_t capacity_ = 64;
    size_t count_ = 0;
};

struct Search
{
    Instances instances;
    pg::ResultSet *result;
    int64_t wanted;
};

// Has the task been waiting for longer than is allowed? Then it is for find_stuck_tasks() and the dead
// letters.
bool is_stale(const TaskHead &task, const Template &definition, TimestampTz now)
{
    int32_t minutes = 0;
    int32_t own = 0;
    if (task.state == core::TaskState::waiting_for_dependencies) {
        minutes = kMaxWaitingForDependenciesMinutes;
        own = definition.max_waiting_for_dependencies_minutes;
    } else if (task.state == core::TaskState::waiting_for_retry) {
        minutes = kMaxWaitingForRetryMinutes;
        own = definition.max_waiting_for_retry_minutes;
    } else {
        return false;
    }
    return now - task.state_entered_at > (own > 0 ? own : minutes) * core::kUsPerMinute;
}

// Is the record the one that stands for the step, and the step ready?
bool stands_for(const StepHead &step, const queue::PendingRecord &record, TimestampTz now)
{
    return step.uuid == record.object && step.record_id == record.id && is_ready(step, now);
}

// How many steps of the task are ready; 0 when the record does not stand for one of them.
int64_t ready_steps(Search &search, const TaskHead &task, const queue::PendingRecord &record)
{
    const TimestampTz now = search.instances.now;
    if (task.total_steps > kWideTask) {
        pg::DirectTable *table = find_step(search.instances, record.object);
        if (table == nullptr || !stands_for(step_head(table->read_slot), record, now))
            return 0;
    }
    bool stands = false;
    int64_t ready = 0;
    for_each_step(search.instances, task.uuid, [&](TupleTableSlot *slot) {
        const StepHead step = step_head(slot);
        stands = stands || stands_for(step, record, now);
        ready += is_ready(step, now) ? 1 : 0;
    });
    return stands ? ready : 0;
}

void add_task(Search &search, const TaskHead &task, const Template &definition, int64_t ready,
              double computed_priority)
{
    const auto scaled = static_cast<int64_t>(std::llrint(computed_priority * kScaleFactor));
    const Datum values[kColumns] = {
        key_datum(task.uuid),         CStringGetTextDatum(definition.name),
        Int32GetDatum(task.priority), CStringGetTextDatum(definition.namespace_name),
        Int64GetDatum(ready),         NumericGetDatum(int64_div_fast_to_numeric(scaled, kScale)),
        state_word(task.state),
    };
    const bool nulls[kColumns] = {};
    search.result->add(values, nulls);
    search.wanted--;
}

// Looks at the task of a record; false when another record of it may still do.
bool settle_task(Search &search, const core::Uuid &uuid, const queue::PendingRecord &record)
{
    pg::DirectTable *table = find_task(search.instances, uuid);
    if (table == nullptr)
        return true;
    const TaskHead task = task_head(table->read_slot);
    if (core::is_terminal(task.state))
        return true;
    const Template &definition = template_with_id(task.named_task_uuid);
    if (is_stale(task, definition, search.instances.now))
        return true;
    const int64_t ready = ready_steps(search, task, record);
    if (ready == 0)
        return false;
    add_task(search, task, definition, ready, record.computed_priority);
    return true;
}

// `now`: as if it were then.
void find_ready_tasks(const pg::Args &args, int64_t wanted, std::optional<TimestampTz> now)
{
    pg::ResultSet result(args.call());
    const Oid parent = queue::queue_parent();
    (void)queue::built_state(parent);
    const std::span<const int32_t> flows = flows_with_steps();
    Search search{{}, &result, wanted};
    begin_instances(search.instances, AccessShareLock);
    if (now)
        search.instances.now = *now;
    TaskSet settled(static_cast<size_t>(std::min<int64_t>(wanted, 1000)));
    queue::PendingScan *scan = queue::begin_pending_scan(parent, flows, search.instances.now, step_of_record);
    queue::PendingRecord record;
    while (search.wanted > 0 && queue::next_pending(scan, record)) {
        const core::Uuid task = core::task_of(record.object);
        if (!settled.contains(task) && settle_task(search, task, record))
            settled.add(task);
    }
    queue::end_pending_scan(scan);
    end_instances(search.instances);
}

int64_t checked_limit(const pg::Args &args)
{
    const int32_t limit = args.i32(0, "p_limit");
    if (limit < 1)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"p_limit\" must be at least 1");
    return limit;
}

} // namespace

TASKER_FUNCTION(get_next_ready_tasks)
{
    find_ready_tasks(args, checked_limit(args), std::nullopt);
    return 0;
}

TASKER_FUNCTION(get_next_ready_task)
{
    find_ready_tasks(args, 1, std::nullopt);
    return 0;
}

TASKER_FUNCTION(ready_tasks_at)
{
    find_ready_tasks(args, checked_limit(args), args.optional_timestamp(1));
    return 0;
}

} // namespace tasker::workflow
