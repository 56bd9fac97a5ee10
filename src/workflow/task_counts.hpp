// What a call changes in the counts of a task, and where the task rests afterwards.
#pragma once

#include "workflow/transition_log.hpp"

namespace tasker::workflow {

struct TaskDelta
{
    int64_t active = 0;
    int64_t waiting = 0;
    int64_t failed = 0;
    int32_t new_steps = 0;
    int32_t next_step_number = 0; // where there are new ones

    bool is_nothing() const { return active == 0 && waiting == 0 && failed == 0 && new_steps == 0; }

    // A step has left one state (nothing: it was created) for another.
    void move(std::optional<core::StepState> from, core::StepState to)
    {
        if (from)
            count(*from, -1);
        count(to, 1);
    }

  private:
    void count(core::StepState state, int64_t change)
    {
        if (state == core::StepState::enqueued || state == core::StepState::in_progress ||
            state == core::StepState::enqueued_for_orchestration ||
            state == core::StepState::enqueued_as_error_for_orchestration)
            active += change;
        else if (state == core::StepState::waiting_for_retry)
            waiting += change;
        else if (state == core::StepState::error)
            failed += change;
    }
};

// Applies the delta to the task's row and moves the task to where it rests with it, or to `target`, after all
// of its steps have been changed. Returns the state. Errors: undefined_object.
core::TaskState apply_delta(Instances &instances, TransitionLog &log, const core::Uuid &task,
                            const TaskDelta &delta, core::Walk walk, const MoveNote &note,
                            std::optional<core::TaskState> target = std::nullopt);

} // namespace tasker::workflow
