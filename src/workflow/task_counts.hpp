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

// What the task's steps come to with the delta.
inline core::StepCounts counts_with(const TaskHead &head, const TaskDelta &delta)
{
    return {head.counts.active + delta.active, head.counts.waiting + delta.waiting,
            head.counts.failed + delta.failed};
}

// Fills in the change of the task's row; returns the state that it goes to.
core::TaskState fill_task_change(const Instances &instances, TransitionLog &log, const TaskHead &head,
                                 const TaskDelta &delta, core::Walk walk, const MoveNote &note,
                                 std::optional<core::TaskState> target, pg::RowValues &change);

// Applies the delta to the task's row and moves the task to where it rests with it, or to `target`, after all
// of its steps have been changed. Returns the state. Errors: undefined_object.
core::TaskState apply_delta(Instances &instances, TransitionLog &log, const core::Uuid &task,
                            const TaskDelta &delta, core::Walk walk, const MoveNote &note,
                            std::optional<core::TaskState> target = std::nullopt);

// The same as long as `fits` says so of the task as it is at that very moment; else nothing is changed, and
// what was committed until then can be seen. It tells those who go over all of a task's steps that somebody
// has changed steps which they had passed already.
template <class Fits>
bool apply_delta_if(Instances &instances, TransitionLog &log, const core::Uuid &task, const TaskDelta &delta,
                    core::Walk walk, const MoveNote &note, std::optional<core::TaskState> target, Fits fits)
{
    bool applied = false;
    const size_t noted = log.transitions.count;
    change_task(instances, task, [&](const TaskHead &head, TupleTableSlot *, pg::RowValues &change) {
        forget_from(log, noted);
        applied = fits(head);
        if (applied)
            (void)fill_task_change(instances, log, head, delta, walk, note, target, change);
        return applied;
    });
    if (!applied)
        refresh_instances(instances);
    return applied;
}

} // namespace tasker::workflow
