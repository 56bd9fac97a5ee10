// The rows of tasks and steps, and how a call of the engine reads and changes them.
//
// INVARIANT, for every writer: rows are changed in ascending order of the steps' uuids, then the row of their
// task, then the next task's. So no two calls wait for each other in a circle. Records of the queue come
// after the steps; who claims records holds them before he comes to the steps, but nobody who holds a step
// waits for a record that is being claimed.
//
// A row is found, judged and changed; when somebody else was faster it is looked at again. What was read and
// not changed may be changed by others in the next moment.
//
// Plain C: everything here may ereport; nothing has a destructor.
#pragma once

#include "core/workflow_states.hpp"
#include "pg/direct_table.hpp"
#include "workflow/ids.hpp"
#include "workflow/sets.hpp"
#include "workflow/template.hpp"

namespace tasker::workflow {

enum TaskColumn : int
{
    kTaskUuid = 1,
    kTaskNamedTask,
    kTaskStateEnteredAt,
    kTaskUpdatedAt,
    kTaskCurrentState,
    kTaskPriority,
    kTaskTotalSteps,
    kTaskActiveSteps,
    kTaskRetrySteps,
    kTaskFailedSteps,
    kTaskLastTransition,
    kTaskNextStepNumber,
    kTaskRunAt,
    kTaskCorrelationId,
    kTaskParentCorrelationId,
    kTaskInitiator,
    kTaskSourceSystem,
    kTaskReason,
    kTaskIdentityKey,
    kTaskTags,
    kTaskContext,
};

enum StepColumn : int
{
    kStepUuid = 1,
    kStepNamedStep,
    kStepRecordId,
    kStepStateEnteredAt,
    kStepLastAttemptedAt,
    kStepLastFailureAt,
    kStepNextRetryAt,
    kStepCurrentState,
    kStepType,
    kStepRetryable,
    kStepPriority,
    kStepAttempts,
    kStepMaxAttempts,
    kStepTotalParents,
    kStepRemainingParents,
    kStepLastTransition,
    kStepBackoffRequestSeconds,
    kStepName,
    kStepProcessor,
    kStepInputs,
    kStepResults,
    kStepCheckpoint,
    kStepError,
};

enum EdgeColumn : int
{
    kEdgeFrom = 1,
    kEdgeTo,
    kEdgeName,
};

// The fixed-width columns. Times that are null are 0.
struct TaskHead
{
    core::Uuid uuid;
    core::Uuid named_task_uuid;
    TimestampTz state_entered_at;
    core::TaskState state;
    int16_t priority;
    int32_t total_steps;
    core::StepCounts counts;
    int32_t last_transition;
    int32_t next_step_number;
};

struct StepHead
{
    core::Uuid uuid;
    core::Uuid named_step_uuid;
    int64_t record_id; // 0: none
    TimestampTz state_entered_at;
    TimestampTz last_attempted_at;
    TimestampTz last_failure_at;
    TimestampTz next_retry_at;
    core::StepState state;
    StepKind kind;
    bool retryable;
    int16_t priority;
    int32_t attempts;
    int32_t max_attempts;
    int32_t total_parents;
    int32_t remaining_parents;
    int32_t last_transition;
    std::optional<int32_t> backoff_request_seconds;
};

// An array that grows, in the current memory context; nothing to destroy.
template <class T> struct Growing
{
    static_assert(std::is_trivially_copyable_v<T>);

    T *items = nullptr;
    size_t count = 0;
    size_t capacity = 0;

    void add(const T &item)
    {
        if (count == capacity) {
            capacity = capacity == 0 ? 16 : capacity * 2;
            items = static_cast<T *>(items == nullptr ? palloc_extended(sizeof(T) * capacity, MCXT_ALLOC_HUGE)
                                                      : repalloc_huge(items, sizeof(T) * capacity));
        }
        items[count++] = item;
    }
    T *begin() const { return items; }
    T *end() const { return items + count; }
    T &operator[](size_t i) const { return items[i]; }
    std::span<T> all() const { return {items, count}; }
    void clear() { count = 0; }
};

// What one call works with: one snapshot at a time, and the partitions that it has opened.
struct Instances
{
    struct Opened
    {
        int64_t lower;
        int64_t upper;
        pg::DirectTable *table;
    };

    LOCKMODE mode = RowExclusiveLock;
    TimestampTz now = 0;
    int64_t snapshots = 0;               // taken so far
    Growing<Opened> opened[kTableCount]; // they stay open to the end of the call
};

// Begins with what is committed, and what the transaction itself has done, at this moment.
void begin_instances(Instances &instances, LOCKMODE mode = RowExclusiveLock);
// Takes a new snapshot: somebody was faster, or the call itself has written.
void refresh_instances(Instances &instances);
void end_instances(Instances &instances);

// The partition of a table that holds the uuid; null when there is none.
pg::DirectTable *find_table(Instances &instances, Table table, const core::Uuid &uuid);
// The same, made when it is not there.
pg::DirectTable *table_for_new(Instances &instances, Table table, const core::Uuid &uuid);

// The table in whose read_slot the row stands; null when there is none.
pg::DirectTable *find_task(Instances &instances, const core::Uuid &uuid);
pg::DirectTable *find_step(Instances &instances, const core::Uuid &uuid);

TaskHead task_head(TupleTableSlot *slot);
StepHead step_head(TupleTableSlot *slot);

[[noreturn]] void unknown_task(const core::Uuid &uuid);
[[noreturn]] void unknown_step(const core::Uuid &uuid);

// Writes the change over the row in the table's read_slot. False when it has to be looked at again.
bool write_change(Instances &instances, pg::DirectTable *table, const pg::RowValues &change);

// Has `decide` judge the step as it is now, fill in its change and say whether there is one. Returns false
// when the step does not exist.
template <class Decide> bool change_step_if_there(Instances &instances, const core::Uuid &uuid, Decide decide)
{
    for (;;) {
        pg::DirectTable *table = find_step(instances, uuid);
        if (table == nullptr)
            return false;
        pg::RowValues change;
        if (!decide(step_head(table->read_slot), table->read_slot, change) ||
            write_change(instances, table, change))
            return true;
    }
}

// The same. Errors: undefined_object.
template <class Decide> void change_step(Instances &instances, const core::Uuid &uuid, Decide decide)
{
    if (!change_step_if_there(instances, uuid, decide))
        unknown_step(uuid);
}

template <class Decide> void change_task(Instances &instances, const core::Uuid &uuid, Decide decide)
{
    for (;;) {
        pg::DirectTable *table = find_task(instances, uuid);
        if (table == nullptr)
            unknown_task(uuid);
        pg::RowValues change;
        if (!decide(task_head(table->read_slot), table->read_slot, change) ||
            write_change(instances, table, change))
            return;
    }
}

} // namespace tasker::workflow
