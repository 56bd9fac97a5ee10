#include "workflow/task_counts.hpp"

namespace tasker::workflow {

core::TaskState fill_task_change(const Instances &instances, TransitionLog &log, const TaskHead &head,
                                 const TaskDelta &delta, core::Walk walk, const MoveNote &note,
                                 std::optional<core::TaskState> target, pg::RowValues &change)
{
    const core::StepCounts counts = counts_with(head, delta);
    const core::TaskState state = target.value_or(core::resting_state(counts));
    // Where somebody has moved the task by hand to where its steps are not, there may be no other way.
    const bool no_way = core::shortest_path(head.state, state, walk).count == 0 && !target;
    move_task(log, instances, head, state, no_way ? core::Walk::again : walk, note, change);
    change.set(kTaskActiveSteps, Int32GetDatum(static_cast<int32_t>(counts.active)));
    change.set(kTaskRetrySteps, Int32GetDatum(static_cast<int32_t>(counts.waiting)));
    change.set(kTaskFailedSteps, Int32GetDatum(static_cast<int32_t>(counts.failed)));
    if (delta.new_steps != 0) {
        change.set(kTaskTotalSteps, Int32GetDatum(head.total_steps + delta.new_steps));
        change.set(kTaskNextStepNumber, Int32GetDatum(delta.next_step_number));
    }
    return state;
}

core::TaskState apply_delta(Instances &instances, TransitionLog &log, const core::Uuid &task,
                            const TaskDelta &delta, core::Walk walk, const MoveNote &note,
                            std::optional<core::TaskState> target)
{
    core::TaskState state{};
    const size_t noted = log.transitions.count;
    change_task(instances, task, [&](const TaskHead &head, TupleTableSlot *, pg::RowValues &change) {
        forget_from(log, noted);
        state = fill_task_change(instances, log, head, delta, walk, note, target, change);
        return true;
    });
    return state;
}

} // namespace tasker::workflow
