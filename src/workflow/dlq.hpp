// Tasks that do not get on: finding them, and the book in which their investigation is kept.
//
// An entry of tasker.tasks_dlq is an investigation and no task: the task stays where it is, as a rule in
// error, and is mended with the functions for tasks and steps. A task has at most one pending entry; resolved
// ones are kept until they expire.
#pragma once

#include "pg/subtransaction.hpp"
#include "workflow/instance.hpp"

namespace tasker::workflow {

// How long a task may stay in a state, in minutes, where its template says nothing ("lifecycle").
struct StaleLimits
{
    int32_t waiting_for_dependencies = 60;
    int32_t waiting_for_retry = 30;
    int32_t steps_in_process = 30;
    int32_t lifetime_hours = 24;
};
inline constexpr int32_t kMinutesElsewhere = 1440;

struct StaleTask
{
    core::Uuid uuid;
    core::Uuid named_task_uuid;
    core::TaskState state;
    TimestampTz state_entered_at;
    TimestampTz since; // nothing has moved since then: see last_progress()
    int32_t last_transition;
    int32_t threshold_minutes;
};

// When a task last got on. A task with steps in process stays in that state while one step follows the other,
// so what counts there is the latest that one of its steps came into its state.
TimestampTz last_progress(Instances &instances, const TaskHead &task);

// The tasks that have not got on for longer than they may, or have lived for too long, and have no pending
// entry; the `limit` that wait for longest, those first. Reads partitions with unfinished
// tasks only, as far as that is known, and of them what is old enough.
Growing<StaleTask> find_stale_tasks(const StaleLimits &limits, int64_t limit, TimestampTz now);

// Moves a stale task to error and makes its entry, both or none, in a subtransaction; `entered` says whether
// the entry is new. Returns the error when there was one, also when the task has gone on meanwhile.
std::optional<pg::CaughtError> try_give_up(const StaleTask &task, TimestampTz now, bool &entered);

// A duty of the worker: gives stale tasks up. Returns how many, 0 when nothing is left; each call is a
// bounded piece of work.
int64_t transition_stale_tasks();

// A duty of the worker: removes entries that were resolved long ago. The same.
int64_t expire_dlq_entries();

} // namespace tasker::workflow
