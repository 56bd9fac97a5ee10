// cancel_task(), retry_task(), transition_task_state_atomic(): what is done to a task as a whole.
//
// The steps are walked in ascending order, and what was created meanwhile is walked after: a completion that
// creates steps has changed its own step's row before, so whoever comes to that row later sees them, and they
// have higher numbers than all that there were.
#include "workflow/control.hpp"

#include "pg/function.hpp"
#include "workflow/create.hpp"
#include "workflow/notes.hpp"
#include "workflow/retention.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

using core::StepState;
using core::TaskState;

// A call that walks over the steps of one task.
struct Walker
{
    Instances instances;
    TransitionLog log;
    Growing<RecordChange> records;
    NewRows rows;
    TaskDelta delta;
    MoveNote note;
};

template <class Visit> void walk_steps(Walker &walker, const core::Uuid &task, Visit visit)
{
    Growing<core::Uuid> steps;
    for (core::Uuid last = task;;) {
        steps.clear();
        list_steps(walker.instances, last, steps);
        if (steps.count == 0)
            return;
        for (const core::Uuid &step : steps) {
            CHECK_FOR_INTERRUPTS();
            visit(step);
        }
        last = steps[steps.count - 1];
        refresh_instances(walker.instances);
    }
}

void cancel_step(Walker &walker, const core::Uuid &uuid)
{
    const size_t noted = walker.log.transitions.count;
    StepState from{};
    bool cancelled = false;
    int64_t record_id = 0;
    change_step(walker.instances, uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
        forget_from(walker.log, noted);
        cancelled = !core::is_terminal(head.state);
        if (!cancelled)
            return false;
        from = head.state;
        record_id = head.record_id;
        move_step(walker.log, walker.instances, head, StepState::cancelled, core::Walk::forward, walker.note,
                  change);
        change.set(kStepRecordId, Int64GetDatum(0));
        change.set_null(kStepNextRetryAt);
        return true;
    });
    if (!cancelled)
        return;
    walker.delta.move(from, StepState::cancelled);
    if (record_id != 0)
        walker.records.add({record_id, uuid, RecordFate::dropped, false, 0, 0, 0});
}

const Template &template_of_task(Walker &walker, const core::Uuid &task)
{
    pg::DirectTable *table = find_task(walker.instances, task);
    if (table == nullptr)
        unknown_task(task);
    return template_with_id(task_head(table->read_slot).named_task_uuid);
}

// Brings a step back that is in error or was cancelled, with all of its attempts before it, and lets one that
// waits for its retry begin at once. Returns whether there was something to do.
bool retry_step(Walker &walker, const Template &definition, const core::Uuid &uuid)
{
    const size_t noted = walker.log.transitions.count;
    const size_t records = walker.rows.records.count;
    StepState from{};
    bool again = false;
    StepState to{};
    int64_t waiting_record = 0;
    change_step(walker.instances, uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
        forget_from(walker.log, noted);
        walker.rows.records.count = records;
        again = false;
        waiting_record = 0;
        if (head.state == StepState::waiting_for_retry) {
            if (head.next_retry_at == walker.instances.now) // in an earlier walk
                return false;
            waiting_record = head.record_id;
            change.set(kStepNextRetryAt, TimestampTzGetDatum(walker.instances.now));
            return true;
        }
        if (head.state != StepState::error && head.state != StepState::cancelled)
            return false;
        const StepTemplate *step = find_step(definition, head.named_step_uuid);
        if (step == nullptr)
            elog(ERROR, "workflow step %s is not in its task's template", text_of(uuid));
        again = true;
        from = head.state;
        to = head.remaining_parents == 0 ? StepState::enqueued : StepState::pending;
        move_step(walker.log, walker.instances, head, to, core::Walk::again, walker.note, change);
        change.set(kStepAttempts, Int32GetDatum(0));
        change.set(kStepRetryable, BoolGetDatum(step->retryable));
        change.set_null(kStepNextRetryAt);
        change.set_null(kStepBackoffRequestSeconds);
        if (to == StepState::enqueued) {
            (void)queue::flow_for_enqueue(step->flow_id);
            walker.rows.records.add(record_of_step(uuid, step->flow_id, head.priority, std::nullopt));
            change.set(kStepRecordId, Int64GetDatum(walker.rows.records[records].id));
        }
        return true;
    });
    if (waiting_record != 0)
        walker.records.add({waiting_record, uuid, RecordFate::postponed, false, 0, walker.instances.now, 0});
    if (again)
        walker.delta.move(from, to);
    return again || waiting_record != 0;
}

void finish(Walker &walker)
{
    write_transitions(walker.instances, walker.log);
    end_instances(walker.instances);
    change_step_records(walker.instances.now, walker.records.all());
    write_records(walker.rows);
}

TaskState state_of(Walker &walker, const core::Uuid &task)
{
    pg::DirectTable *table = find_task(walker.instances, task);
    if (table == nullptr)
        unknown_task(task);
    return task_head(table->read_slot).state;
}

[[noreturn]] void finished_otherwise(const core::Uuid &task, TaskState state, TaskState target)
{
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("task %s cannot go from state \"%s\" to \"%s\"", text_of(task),
                   core::state_name(state).data(), core::state_name(target).data()),
            errhint("It is finished."));
    pg_unreachable();
}

// Cancels what is not finished, until the task's row agrees that nothing is left: a step that was finished
// when it was passed may have been brought back by a reset or a retry. Returns false when somebody else has
// done the same meanwhile; with `atomic` also when the task was finished otherwise. On its own, as
// retry_steps().
pg_noinline bool cancel_steps(Walker &walker, const core::Uuid &task, TaskState target, bool atomic)
{
    bool done_before = false;
    bool looked_again = false;
    for (;;) {
        const size_t noted = walker.log.transitions.count;
        walk_steps(walker, task, [&](const core::Uuid &step) { cancel_step(walker, step); });
        const bool nothing_new = walker.log.transitions.count == noted;
        const auto fits = [&](const TaskHead &head) {
            const bool finished = core::shortest_path(head.state, target).count == 0;
            done_before = finished && (head.state == target || atomic);
            if (done_before)
                return false;
            if (finished)
                finished_otherwise(task, head.state, target);
            const core::StepCounts left = counts_with(head, walker.delta);
            return (left.active == 0 && left.waiting == 0) || (looked_again && nothing_new);
        };
        if (apply_delta_if(walker.instances, walker.log, task, walker.delta, core::Walk::forward, walker.note,
                           target, fits))
            return true;
        if (done_before)
            return false;
        looked_again = true;
    }
}

bool stop(Walker &walker, const core::Uuid &task, TaskState target, bool atomic)
{
    const TaskState state = state_of(walker, task);
    if (state == target)
        return false;
    if (core::shortest_path(state, target).count == 0)
        finished_otherwise(task, state, target);
    return cancel_steps(walker, task, target, atomic);
}

// Retries the steps of a task and returns how many. On its own: what is inlined into an entry point must not
// live across the guard there.
pg_noinline int32_t retry_steps(Walker &walker, const core::Uuid &task)
{
    const Template &definition = template_of_task(walker, task);
    int32_t retried = 0;
    bool applied = false;
    while (!applied) {
        const TaskState state = state_of(walker, task);
        walk_steps(walker, task,
                   [&](const core::Uuid &step) { retried += retry_step(walker, definition, step); });
        if (retried == 0)
            break;
        // Who has stopped the task meanwhile has cancelled steps that were passed already.
        applied = apply_delta_if(
            walker.instances, walker.log, task, walker.delta, core::Walk::again, {}, std::nullopt,
            [&](const TaskHead &head) { return head.state == state || !core::is_terminal(head.state); });
    }
    return retried;
}

core::Uuid task_argument(const pg::Args &args, int i, const char *name)
{
    if (args.is_null(i))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not be null", name);
    return uuid_of(args.datum(i));
}

TaskState state_argument(const pg::Args &args, int i, const char *name)
{
    const std::string_view word = args.text(i, name);
    if (const auto state = core::state_named<TaskState>(word))
        return *state;
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%.*s\" is no state of a task",
                    static_cast<int>(word.size()), word.data());
}

} // namespace

void list_steps(Instances &instances, const core::Uuid &after, Growing<core::Uuid> &found)
{
    pg::DirectTable *table = find_table(instances, Table::step, after);
    if (table == nullptr || core::step_number(after) == core::kMaxStepNumber)
        return;
    if (table->scan == nullptr)
        pg::begin_key_scan(table, GetActiveSnapshot());
    const core::Uuid from = core::step_uuid(after, core::step_number(after) + 1);
    const core::Uuid to = core::step_uuid(after, core::kMaxStepNumber);
    pg::seek_range(table, UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&from)),
                   UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&to)));
    while (pg::next_in_range(table)) {
        bool null = false;
        found.add(uuid_of(slot_getattr(table->read_slot, kStepUuid, &null)));
    }
}

bool stop_task(const core::Uuid &task, TaskState target, const MoveNote &note)
{
    Walker walker{};
    walker.note = note;
    begin_instances(walker.instances);
    const bool stopped = stop(walker, task, target, false);
    finish(walker);
    return stopped;
}

bool transition_task(const core::Uuid &task, TaskState from, TaskState to, const MoveNote &note)
{
    Walker walker{};
    walker.note = note;
    begin_instances(walker.instances);
    const TaskState state = state_of(walker, task);
    if (!core::is_legal_transition(from, to))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("task %s cannot go from state \"%s\" to \"%s\"", text_of(task),
                       core::state_name(from).data(), core::state_name(to).data()),
                errhint("No task can: see docs/workflow.md for the legal transitions."));
    bool moved = state == from;
    if (moved && core::is_terminal(to)) {
        moved = stop(walker, task, to, true);
    } else if (moved) {
        change_task(
            walker.instances, task, [&](const TaskHead &head, TupleTableSlot *, pg::RowValues &change) {
                forget_from(walker.log, 0);
                moved = head.state == from;
                if (moved)
                    move_task(walker.log, walker.instances, head, to, core::Walk::forward, note, change);
                return moved;
            });
    }
    finish(walker);
    return moved;
}

TASKER_FUNCTION(cancel_task)
{
    PreventCommandIfReadOnly("tasker.cancel_task()");
    const core::Uuid task = task_argument(args, 0, "task_uuid");
    MoveNote note{};
    note.metadata = reason_note(args.optional_text(1));
    return args.result(stop_task(task, TaskState::cancelled, note));
}

TASKER_FUNCTION(retry_task)
{
    PreventCommandIfReadOnly("tasker.retry_task()");
    const core::Uuid task = task_argument(args, 0, "task_uuid");
    hold_task(task);
    Walker walker{};
    begin_instances(walker.instances);
    const int32_t retried = retry_steps(walker, task);
    if (retried == 0)
        ereport(
            ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("task %s has nothing to retry", text_of(task)),
            errdetail(
                "Its state is \"%s\", and none of its steps is in error, cancelled or waiting for a retry.",
                core::state_name(state_of(walker, task)).data()));
    finish(walker);
    return args.result(retried);
}

TASKER_FUNCTION(transition_task_state_atomic)
{
    PreventCommandIfReadOnly("tasker.transition_task_state_atomic()");
    const core::Uuid task = task_argument(args, 0, "task_uuid");
    const TaskState from = state_argument(args, 1, "from_state");
    const TaskState to = state_argument(args, 2, "to_state");
    MoveNote note{};
    note.processor_uuid = args.is_null(3) ? 0 : args.datum(3);
    note.metadata = args.is_null(4) ? 0 : args.datum(4);
    return args.result(transition_task(task, from, to, note));
}

} // namespace tasker::workflow
