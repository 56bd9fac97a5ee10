// reset_step(): a step is done again from its first attempt.
//
// INVARIANT: a step's remaining_parents is the number of its parents that are not done, whatever state it is
// in itself. A step that was done and is not any more counts again for each of its children. One of them that
// was in line goes back to wait; one that is in progress or finished stays as it is, unless the reset is to
// take in everything that came after (cascade): then every descendant that has begun is reset too.
//
// A decision or batch step that has created steps is refused: it would create them again. So is one among the
// descendants of a cascade.
#include "pg/function.hpp"
#include "queue/lookup.hpp"
#include "workflow/create.hpp"
#include "workflow/edges.hpp"
#include "workflow/expansion.hpp"
#include "workflow/retention.hpp"
#include "workflow/task_counts.hpp"

namespace tasker::workflow {
namespace {

using core::StepState;

struct Reset
{
    Instances instances;
    TransitionLog log;
    Growing<RecordChange> records;
    NewRows rows;
    TaskDelta delta;
    const Template *definition;
};

// A row of the pass, in ascending order.
struct Touch
{
    core::Uuid uuid;
    bool reset;
    int32_t undone; // parents that were done and are not any more; known when their turn has come
};

const StepTemplate &template_of(const Reset &reset, const StepHead &head)
{
    const StepTemplate *step = find_step(*reset.definition, head.named_step_uuid);
    if (step == nullptr)
        elog(ERROR, "workflow step %s is not in its task's template", text_of(head.uuid));
    return *step;
}

bool before(const Touch &a, const Touch &b)
{
    return a.uuid < b.uuid;
}

// The step and its children.
void collect_children(Reset &reset, const core::Uuid &step, Growing<Touch> &touches)
{
    Growing<core::Uuid> children;
    find_children(reset.instances, step, children);
    touches.add({step, true, 0});
    for (const core::Uuid &child : children)
        touches.add({child, false, 0});
    std::sort(touches.begin(), touches.end(), before);
}

// Every descendant once, however many ways lead to it.
void collect_descendants(Reset &reset, const core::Uuid &step, Growing<Touch> &touches)
{
    Growing<core::Uuid> level;
    level.add(step);
    touches.add({step, true, 0});
    while (level.count > 0) {
        Growing<core::Uuid> next;
        for (const core::Uuid &parent : level) {
            CHECK_FOR_INTERRUPTS();
            find_children(reset.instances, parent, next);
        }
        std::sort(next.begin(), next.end());
        next.count = static_cast<size_t>(std::unique(next.begin(), next.end()) - next.begin());
        level.clear();
        const size_t known = touches.count;
        for (const core::Uuid &child : next) {
            const Touch touch{child, true, 0};
            if (!std::binary_search(touches.begin(), touches.begin() + known, touch, before)) {
                touches.add(touch);
                level.add(child);
            }
        }
        std::sort(touches.begin(), touches.end(), before);
    }
}

void require_no_creation(Reset &reset, const StepHead &head)
{
    if ((head.kind != StepKind::decision && head.kind != StepKind::batch) ||
        !core::satisfies_children(head.state))
        return;
    Growing<core::Uuid> children;
    find_children(reset.instances, head.uuid, children);
    if (children.count == 0)
        return;
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("workflow step %s has created other steps", text_of(head.uuid)),
            errdetail("Done again, it would create them again."),
            errhint("Reset the steps that it has created, or create the task anew."));
}

bool has_begun(StepState state)
{
    return state != StepState::pending;
}

// Where a step that has to wait again stood in line, it leaves it.
bool is_in_line(StepState state)
{
    return state == StepState::enqueued || state == StepState::waiting_for_retry;
}

// Is the record of an enqueued step there? Somebody may have cancelled it in the queue, past the workflow.
bool stands_in_line(const StepHead &head)
{
    const std::optional<queue::RecordHead> record = queue::read_head(queue::queue_parent(), head.record_id);
    return record && !core::is_terminal(record->status);
}

void enqueue(Reset &reset, const StepHead &head, pg::RowValues &change)
{
    const StepTemplate &step = template_of(reset, head);
    (void)queue::flow_for_enqueue(step.flow_id);
    reset.rows.records.add(record_of_step(head.uuid, step.flow_id, head.priority, std::nullopt));
    change.set(kStepRecordId, Int64GetDatum(reset.rows.records[reset.rows.records.count - 1].id));
}

void clear_work(const StepTemplate &step, pg::RowValues &change)
{
    change.set(kStepAttempts, Int32GetDatum(0));
    change.set(kStepRetryable, BoolGetDatum(step.retryable));
    change.set_null(kStepBackoffRequestSeconds);
    change.set_null(kStepResults);
    change.set_null(kStepCheckpoint);
    change.set_null(kStepError);
}

struct Before
{
    StepState from;
    StepState to;
    int64_t record_id;
};

// What becomes of one row; returns whether the step was done before and is not any more.
bool change_row(Reset &reset, const Touch &touch, bool asked_for)
{
    const size_t noted = reset.log.transitions.count;
    const size_t records = reset.rows.records.count;
    Before seen{};
    change_step(
        reset.instances, touch.uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
            forget_from(reset.log, noted);
            reset.rows.records.count = records;
            const int32_t remaining = head.remaining_parents + touch.undone;
            seen = {head.state, head.state, head.record_id};
            const bool again = touch.reset && (has_begun(head.state) || asked_for);
            if (again) {
                require_no_creation(reset, head);
                seen.to = remaining == 0 ? StepState::enqueued : StepState::pending;
                clear_work(template_of(reset, head), change);
            } else if (remaining > 0 && is_in_line(head.state)) {
                seen.to = StepState::pending;
            }
            change.set(kStepRemainingParents, Int32GetDatum(remaining));
            if (!again && seen.to == seen.from)
                return touch.undone != 0;
            if (seen.from == StepState::enqueued && seen.to == StepState::enqueued && stands_in_line(head))
                return true; // perhaps for later
            change.set_null(kStepNextRetryAt);
            move_step(reset.log, reset.instances, head, seen.to, core::Walk::again, {}, change);
            change.set(kStepRecordId, Int64GetDatum(0));
            if (seen.to == StepState::enqueued)
                enqueue(reset, head, change);
            return true;
        });
    if (seen.from == seen.to)
        return false;
    reset.delta.move(seen.from, seen.to);
    if (seen.record_id != 0)
        reset.records.add({seen.record_id, touch.uuid, RecordFate::dropped, false, 0, 0, 0});
    return core::satisfies_children(seen.from);
}

// Tells the children of a step that it is not done any more; they come later in the pass, but for a deferred
// step that got a younger parent, which has been passed already and is looked at once more.
void count_for_children(Reset &reset, const core::Uuid &step, Growing<Touch> &touches, size_t at)
{
    Growing<core::Uuid> children;
    find_children(reset.instances, step, children);
    for (const core::Uuid &child : children) {
        Touch *found = std::lower_bound(touches.begin(), touches.end(), Touch{child, false, 0}, before);
        if (found == touches.end() || found->uuid != child)
            elog(ERROR, "workflow step %s has got another child meanwhile", text_of(step));
        if (found > touches.begin() + at) {
            found->undone++;
        } else {
            Touch once_more{child, found->reset, 1};
            if (change_row(reset, once_more, false))
                count_for_children(reset, child, touches, at);
        }
    }
}

void require_not_stopped(const TaskHead &task)
{
    if (core::is_terminal(task.state) && task.state != core::TaskState::complete)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("task %s is finished", text_of(task.uuid)),
                errdetail("Its state is \"%s\".", core::state_name(task.state).data()),
                errhint("Bring it back with tasker.retry_task() first."));
}

void reset_step(const core::Uuid &uuid, bool cascade)
{
    Reset reset{};
    Growing<Touch> touches;
    hold_task(uuid);
    lock_expansion(core::task_of(uuid)); // no edges come while they are walked
    begin_instances(reset.instances);
    if (core::step_number(uuid) == 0 || find_step(reset.instances, uuid) == nullptr)
        unknown_step(uuid);
    pg::DirectTable *task = find_task(reset.instances, core::task_of(uuid));
    if (task == nullptr)
        unknown_task(core::task_of(uuid));
    const TaskHead head = task_head(task->read_slot);
    require_not_stopped(head);
    reset.definition = &template_with_id(head.named_task_uuid);
    if (cascade)
        collect_descendants(reset, uuid, touches);
    else
        collect_children(reset, uuid, touches);
    for (size_t i = 0; i < touches.count; i++) {
        CHECK_FOR_INTERRUPTS();
        const Touch touch = touches[i];
        if (change_row(reset, touch, touch.uuid == uuid))
            count_for_children(reset, touch.uuid, touches, i);
    }
    // Somebody may have stopped the task meanwhile, and have waited for none of these steps.
    (void)apply_delta_if(reset.instances, reset.log, core::task_of(uuid), reset.delta, core::Walk::again, {},
                         std::nullopt, [](const TaskHead &last) {
                             require_not_stopped(last);
                             return true;
                         });
    write_transitions(reset.instances, reset.log);
    end_instances(reset.instances);
    change_step_records(reset.instances.now, reset.records.all());
    write_records(reset.rows);
}

} // namespace

TASKER_FUNCTION(reset_step)
{
    PreventCommandIfReadOnly("tasker.reset_step()");
    if (args.is_null(0))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"workflow_step_uuid\" must not be null");
    const core::Uuid uuid = uuid_of(args.datum(0));
    const bool cascade = args.boolean(1, "cascade");
    reset_step(uuid, cascade);
    return 0;
}

} // namespace tasker::workflow
