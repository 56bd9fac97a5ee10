// Steering whole tasks.
#pragma once

#include "workflow/task_counts.hpp"

namespace tasker::workflow {

// Ends a task that is not finished: every step that is not finished is cancelled and its record dropped, and
// the task goes to `target` (cancelled, error or resolved_manually). Returns false when it is in that state
// already. Errors: undefined_object; object_not_in_prerequisite_state when it is finished otherwise.
bool stop_task(const core::Uuid &task, core::TaskState target, const MoveNote &note);

// Moves a task that is in state `from` along one legal edge; false when it is in another state. To a terminal
// state it goes with its steps, as with stop_task(). Errors: undefined_object,
// object_not_in_prerequisite_state for an edge that is not legal.
bool transition_task(const core::Uuid &task, core::TaskState from, core::TaskState to, const MoveNote &note);

// The uuids of a task's steps with higher numbers than `after`, ascending.
void list_steps(Instances &instances, const core::Uuid &after, Growing<core::Uuid> &found);

} // namespace tasker::workflow
