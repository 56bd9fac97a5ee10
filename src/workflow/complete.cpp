// complete_step(), complete_steps(): results are stored, children that waited for nothing else are enqueued,
// and the task comes to rest with its last step.
//
// O(children): the edges of the completed steps are read, the children's rows changed in one ascending pass
// together with the steps themselves, and the task's row only when the number of its active steps changes.
#include "pg/function.hpp"
#include "workflow/edges.hpp"
#include "workflow/expansion.hpp"
#include "workflow/notes.hpp"
#include "workflow/task_counts.hpp"

namespace tasker::workflow {
namespace {

// A step that the caller completes.
struct Completed
{
    core::Uuid uuid;
    Datum results;      // 0: none
    Datum create_steps; // 0: none
    bool has_token;
    int64_t token;
    bool by_hand; // resolved by a person, whatever state it is in
    MoveNote note;
};

// A row of the pass.
struct Touch
{
    core::Uuid uuid;
    int32_t own;    // index of the completed step, or -1
    int32_t done;   // parents that are done by this call
    int32_t gained; // new parents
    bool hold;      // an edge from it is added
};

struct Completion
{
    Instances instances;
    TransitionLog log;
    Growing<RecordChange> records;
    NewRows rows;
    std::span<const Completed> completed; // ascending
};

// What is done to one task.
struct TaskPass
{
    Completion &call;
    TaskHead task;
    const Template *definition = nullptr;
    Growing<Touch> touches = {};
    int64_t edges_as_of = 0;    // the snapshot under which the children were looked for
    core::Uuid last_known = {}; // no step that was found then has a higher number
    Expansion expansion = {};
    TaskDelta delta = {};
};

void sort_and_merge(Growing<Touch> &touches, size_t from)
{
    std::sort(touches.begin() + from, touches.end(),
              [](const Touch &a, const Touch &b) { return a.uuid < b.uuid; });
    size_t kept = from;
    for (size_t i = from; i < touches.count; i++) {
        if (kept > from && touches[kept - 1].uuid == touches[i].uuid) {
            Touch &same = touches[kept - 1];
            same.own = std::max(same.own, touches[i].own);
            same.done += touches[i].done;
            same.gained += touches[i].gained;
            same.hold = same.hold || touches[i].hold;
        } else {
            touches[kept++] = touches[i];
        }
    }
    touches.count = kept;
}

void add_children(TaskPass &pass, const core::Uuid &step)
{
    Growing<core::Uuid> children;
    find_children(pass.call.instances, step, children);
    for (const core::Uuid &child : children)
        pass.touches.add({child, -1, 1, 0, false});
}

// A parent that got an edge to a new step is either done when its turn comes, or its completion will count.
void settle_held(TaskPass &pass, const core::Uuid &parent, bool done)
{
    for (const HeldParent &held : pass.expansion.held) {
        if (held.parent == parent && !done)
            pass.expansion.steps[static_cast<size_t>(held.new_step)].remaining_parents++;
    }
}

[[noreturn]] void not_in_progress(const StepHead &head, bool by_hand)
{
    if (by_hand)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("workflow step %s is done already", text_of(head.uuid)),
                errdetail("Its state is \"%s\".", core::state_name(head.state).data()));
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("workflow step %s is not in progress", text_of(head.uuid)),
            errdetail("Its state is \"%s\".", core::state_name(head.state).data()),
            errhint("Its lease was lost, or it was finished, cancelled or reset: drop this work."));
    pg_unreachable();
}

// Between the look for the children and the change of the step, somebody may have added edges from it: to
// steps that he has created, with higher numbers than all that there were. His change of the step's row was
// met, here or on an earlier row of the pass, and there is a new snapshot since.
void add_late_children(TaskPass &pass, size_t at)
{
    if (pass.call.instances.snapshots == pass.edges_as_of)
        return;
    const size_t before = pass.touches.count;
    Growing<core::Uuid> children;
    find_children(pass.call.instances, pass.touches[at].uuid, children);
    for (const core::Uuid &child : children) {
        if (child > pass.last_known)
            pass.touches.add({child, -1, 1, 0, false});
    }
    if (pass.touches.count > before)
        sort_and_merge(pass.touches, at + 1);
}

void complete_own(TaskPass &pass, size_t at)
{
    Completion &call = pass.call;
    const core::Uuid uuid = pass.touches[at].uuid;
    const Completed &own = call.completed[static_cast<size_t>(pass.touches[at].own)];
    const int32_t done = pass.touches[at].done; // parents that this call completes too
    const size_t noted = call.log.transitions.count;
    int64_t record_id = 0;
    core::StepState from{};
    const core::StepState to = own.by_hand ? core::StepState::resolved_manually : core::StepState::complete;
    change_step(call.instances, uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
        forget_from(call.log, noted);
        if (own.by_hand ? core::satisfies_children(head.state) : head.state != core::StepState::in_progress)
            not_in_progress(head, own.by_hand);
        from = head.state;
        record_id = head.record_id;
        move_step(call.log, call.instances, head, to, core::Walk::forward, own.note, change);
        if (own.results != 0)
            change.set(kStepResults, own.results);
        if (done != 0) // one that was reset after this step had begun
            change.set(kStepRemainingParents, Int32GetDatum(head.remaining_parents - done));
        change.set(kStepRecordId, Int64GetDatum(0));
        change.set_null(kStepNextRetryAt);
        return true;
    });
    if (record_id != 0)
        call.records.add({record_id, uuid, own.by_hand ? RecordFate::dropped : RecordFate::completed,
                          own.has_token, own.token, 0, 0});
    pass.delta.move(from, to);
    add_late_children(pass, at);
}

// A step that has not waited any more when its turn came gets no new parents.
void forget_edges_to(TaskPass &pass, const core::Uuid &child)
{
    Growing<NewEdge> &edges = pass.expansion.edges;
    const NewEdge *kept =
        std::remove_if(edges.begin(), edges.end(), [&](const NewEdge &edge) { return edge.to == child; });
    edges.count = static_cast<size_t>(kept - edges.begin());
}

// A child whose parents are done, or that gets more of them.
void change_child(TaskPass &pass, const Touch &touch)
{
    Completion &call = pass.call;
    const size_t noted = call.log.transitions.count;
    const size_t records = call.rows.records.count;
    bool waits = false;
    bool enqueued = false;
    change_step(
        call.instances, touch.uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
            forget_from(call.log, noted);
            call.rows.records.count = records;
            waits = head.state == core::StepState::pending;
            const int32_t gained = waits ? touch.gained : 0;
            const int32_t remaining = head.remaining_parents + gained - touch.done;
            change.set(kStepRemainingParents, Int32GetDatum(remaining));
            if (gained != 0)
                change.set(kStepTotalParents, Int32GetDatum(head.total_parents + gained));
            enqueued = waits && remaining == 0;
            if (enqueued) {
                const StepTemplate *step = find_step(*pass.definition, head.named_step_uuid);
                if (step == nullptr)
                    elog(ERROR, "workflow step %s is not in its task's template", text_of(head.uuid));
                (void)queue::flow_for_enqueue(step->flow_id);
                call.rows.records.add(record_of_step(head.uuid, step->flow_id, head.priority, std::nullopt));
                change.set(kStepRecordId, Int64GetDatum(call.rows.records[records].id));
                move_step(call.log, call.instances, head, core::StepState::enqueued, core::Walk::forward, {},
                          change);
            }
            return true;
        });
    if (enqueued)
        pass.delta.move(core::StepState::pending, core::StepState::enqueued);
    if (!waits && touch.gained != 0)
        forget_edges_to(pass, touch.uuid);
}

// Changes the row of a step from which an edge is added, so that its completion takes notice.
void hold_parent(TaskPass &pass, const Touch &touch)
{
    bool done = false;
    change_step(pass.call.instances, touch.uuid,
                [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
                    done = core::satisfies_children(head.state);
                    change.set(kStepStateEnteredAt, TimestampTzGetDatum(head.state_entered_at));
                    return !done;
                });
    settle_held(pass, touch.uuid, done);
}

void pass_over_steps(TaskPass &pass)
{
    for (size_t i = 0; i < pass.touches.count; i++) { // complete_own() may add some
        CHECK_FOR_INTERRUPTS();
        const Touch touch = pass.touches[i];
        if (touch.own >= 0)
            complete_own(pass, i);
        else if (touch.done != 0 || touch.gained != 0)
            change_child(pass, touch);
        if (touch.hold) {
            if (touch.own >= 0)
                settle_held(pass, touch.uuid, true);
            else
                hold_parent(pass, touch);
        }
    }
}

void create_planned(TaskPass &pass)
{
    Completion &call = pass.call;
    if (pass.expansion.edges.count == 0)
        return;
    refresh_instances(call.instances);
    pass.delta.new_steps = static_cast<int32_t>(pass.expansion.steps.count);
    pass.delta.next_step_number = pass.expansion.next_step_number;
    for (const NewStep &step : pass.expansion.steps)
        call.rows.steps.add(step);
    for (const NewEdge &edge : pass.expansion.edges)
        call.rows.edges.add(edge);
    pass.delta.active += write_steps(call.instances, call.log, call.rows, std::nullopt);
    refresh_instances(call.instances);
}

StepHead read_own(Completion &call, const core::Uuid &uuid)
{
    pg::DirectTable *table = core::step_number(uuid) == 0 ? nullptr : find_step(call.instances, uuid);
    if (table == nullptr)
        unknown_step(uuid);
    return step_head(table->read_slot);
}

// The task of a step.
TaskHead read_task(Completion &call, const core::Uuid &step)
{
    pg::DirectTable *table = find_task(call.instances, core::task_of(step));
    if (table == nullptr) {
        (void)read_own(call, step); // it is the step that the caller knows
        unknown_task(core::task_of(step));
    }
    return task_head(table->read_slot);
}

// A finished task keeps its steps as they are.
void require_unfinished(const TaskHead &task)
{
    if (!core::is_terminal(task.state))
        return;
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("task %s is finished", text_of(task.uuid)),
            errdetail("Its state is \"%s\".", core::state_name(task.state).data()),
            task.state == core::TaskState::complete
                ? errhint("All of its steps are done: tasker.reset_step() has one done again.")
                : errhint("Bring it back with tasker.retry_task() first."));
}

// Whoever finishes the task meanwhile need not have met this step: one that is in error stays as it is.
core::TaskState apply_by_hand(TaskPass &pass)
{
    core::TaskState state{};
    (void)apply_delta_if(pass.call.instances, pass.call.log, pass.task.uuid, pass.delta, core::Walk::again,
                         {}, std::nullopt, [&](const TaskHead &task) {
                             require_unfinished(task);
                             state = core::resting_state(counts_with(task, pass.delta));
                             return true;
                         });
    return state;
}

void plan(TaskPass &pass, const StepHead &head, const Completed &own)
{
    if (head.state != core::StepState::in_progress) // what it has created before would not fit
        not_in_progress(head, own.by_hand);
    plan_expansion(pass.call.instances, pass.task, *pass.definition, head, own.create_steps, pass.expansion);
    for (const ParentGain &gain : pass.expansion.gains)
        pass.touches.add({gain.child, -1, gain.done, gain.done + gain.waiting, false});
    for (const HeldParent &held : pass.expansion.held)
        pass.touches.add({held.parent, -1, 0, 0, true});
}

// Completes the steps [first, last) of the call, which are of one task.
core::TaskState complete_in_task(Completion &call, size_t first, size_t last)
{
    const core::Uuid uuid = core::task_of(call.completed[first].uuid);
    const bool by_hand = call.completed[first].by_hand;
    // Whoever creates nothing adds no edges, and meets those of others at the rows of his own steps.
    const bool locked = std::any_of(call.completed.begin() + first, call.completed.begin() + last,
                                    [](const Completed &own) { return own.create_steps != 0; });
    if (locked) {
        lock_expansion(uuid);
        refresh_instances(call.instances);
    }
    TaskPass pass{call, read_task(call, call.completed[first].uuid)};
    if (by_hand)
        (void)read_own(call, call.completed[first].uuid);
    pass.definition = &template_with_id(pass.task.named_task_uuid);
    pass.expansion.next_step_number = pass.task.next_step_number;
    for (size_t i = first; i < last; i++) {
        const Completed &own = call.completed[i];
        pass.touches.add({own.uuid, static_cast<int32_t>(i), 0, 0, false});
        add_children(pass, own.uuid);
        if (locked)
            plan(pass, read_own(call, own.uuid), own);
    }
    sort_and_merge(pass.touches, 0);
    pass.edges_as_of = call.instances.snapshots;
    pass.last_known = pass.touches[pass.touches.count - 1].uuid;
    if (by_hand)
        require_unfinished(pass.task);
    pass_over_steps(pass);
    if (by_hand) { // who finishes a task changes its unfinished steps first: had he been faster, it is seen
                   // now
        refresh_instances(call.instances);
        pass.task = read_task(call, uuid);
        require_unfinished(pass.task);
    }
    create_planned(pass);
    if (pass.delta.is_nothing() && pass.task.state == core::TaskState::steps_in_process)
        return pass.task.state;
    return by_hand ? apply_by_hand(pass)
                   : apply_delta(call.instances, call.log, uuid, pass.delta, core::Walk::forward, {});
}

// Completes steps in ascending order of their uuids. Returns the state of the last one's task.
core::TaskState complete(std::span<const Completed> completed)
{
    Completion call{};
    call.completed = completed;
    core::TaskState state = core::TaskState::complete;
    begin_instances(call.instances);
    for (size_t at = 0; at < completed.size();) {
        size_t end = at + 1;
        while (end < completed.size() &&
               core::task_of(completed[end].uuid) == core::task_of(completed[at].uuid))
            end++;
        state = complete_in_task(call, at, end);
        at = end;
    }
    write_transitions(call.instances, call.log);
    end_instances(call.instances);
    change_step_records(call.instances.now, call.records.all());
    write_records(call.rows);
    return state;
}

void check_length(const std::optional<pg::Args::NullableArray> &array, size_t steps, const char *name)
{
    if (array && array->values.size() != steps)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "argument \"%s\" must have as many elements as workflow_step_uuids", name)
            .detail("It has %zu, workflow_step_uuids has %zu.", array->values.size(), steps);
}

core::Uuid step_argument(const pg::Args &args)
{
    if (args.is_null(0))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"workflow_step_uuid\" must not be null");
    return uuid_of(args.datum(0));
}

} // namespace

TASKER_FUNCTION(resolve_step_manually)
{
    PreventCommandIfReadOnly("tasker.resolve_step_manually()");
    Completed own{};
    own.uuid = step_argument(args);
    own.results = args.is_null(1) ? 0 : args.datum(1);
    own.by_hand = true;
    own.note.processor = PointerGetDatum(cstring_to_text_with_len(
        args.name(2, "resolved_by").data(), static_cast<int>(args.name(2, "resolved_by").size())));
    own.note.metadata = reason_note(args.optional_text(3));
    return args.result(core::state_name(complete({&own, 1})));
}

TASKER_FUNCTION(complete_step)
{
    PreventCommandIfReadOnly("tasker.complete_step()");
    Completed own{};
    own.uuid = step_argument(args);
    own.results = args.is_null(1) ? 0 : args.datum(1);
    own.create_steps = args.is_null(2) ? 0 : args.datum(2);
    own.has_token = !args.is_null(3);
    own.token = args.optional_i64(3).value_or(0);
    return args.result(core::state_name(complete({&own, 1})));
}

TASKER_FUNCTION(complete_steps)
{
    PreventCommandIfReadOnly("tasker.complete_steps()");
    const std::span<Datum> uuids = args.array(0, "workflow_step_uuids", UUIDOID);
    const auto results = args.optional_array(1, "results", JSONBOID);
    const auto tokens = args.optional_array(2, "lease_tokens", INT8OID);
    check_length(results, uuids.size(), "results");
    check_length(tokens, uuids.size(), "lease_tokens");
    Growing<Completed> completed;
    for (size_t i = 0; i < uuids.size(); i++) {
        Completed own{};
        own.uuid = uuid_of(uuids[i]);
        own.results = results && !results->nulls[i] ? results->values[i] : 0;
        own.has_token = tokens && !tokens->nulls[i];
        own.token = own.has_token ? DatumGetInt64(tokens->values[i]) : 0;
        completed.add(own);
    }
    std::sort(completed.begin(), completed.end(),
              [](const Completed &a, const Completed &b) { return a.uuid < b.uuid; });
    for (size_t i = 1; i < completed.count; i++) {
        if (completed[i].uuid == completed[i - 1].uuid)
            throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "workflow step %s is given more than once",
                            text_of(completed[i].uuid));
    }
    if (completed.count > 0)
        (void)complete(completed.all());
    return args.result(static_cast<int32_t>(completed.count));
}

} // namespace tasker::workflow
