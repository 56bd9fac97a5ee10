// What a worker does with a step while it holds it: checkpoint_step(), extend_step_lease(), release_steps(),
// set_step_backoff_atomic().
#include "pg/function.hpp"
#include "queue/failure.hpp"
#include "queue/lookup.hpp"
#include "workflow/records.hpp"
#include "workflow/task_counts.hpp"
#include "workflow/template.hpp"

namespace tasker::workflow {
namespace {

using core::StepState;

core::Uuid step_argument(const pg::Args &args, int i)
{
    if (args.is_null(i))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"workflow_step_uuid\" must not be null");
    return uuid_of(args.datum(i));
}

void require_in_progress(const StepHead &head)
{
    if (head.state == StepState::in_progress)
        return;
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("workflow step %s is not in progress", text_of(head.uuid)),
            errdetail("Its state is \"%s\".", core::state_name(head.state).data()),
            errhint("Its lease was lost, or it was finished, cancelled or reset: drop this work."));
}

// A step that the caller believes to hold.
struct Held
{
    core::Uuid step;
    bool has_token;
    int64_t token;
};

// The steps of the first argument with the tokens of argument `tokens_at`, ascending.
Growing<Held> steps_argument(const pg::Args &args, int tokens_at)
{
    const std::span<Datum> values = args.array(0, "workflow_step_uuids", UUIDOID);
    const auto tokens = args.optional_array(tokens_at, "lease_tokens", INT8OID);
    if (tokens && tokens->values.size() != values.size())
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "argument \"lease_tokens\" must have as many elements as workflow_step_uuids");
    Growing<Held> steps;
    for (size_t i = 0; i < values.size(); i++) {
        const bool has_token = tokens && !tokens->nulls[i];
        steps.add({uuid_of(values[i]), has_token, has_token ? DatumGetInt64(tokens->values[i]) : 0});
    }
    std::sort(steps.begin(), steps.end(), [](const Held &a, const Held &b) { return a.step < b.step; });
    for (size_t i = 1; i < steps.count; i++) {
        if (steps[i].step == steps[i - 1].step)
            throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "workflow step %s is given more than once",
                            text_of(steps[i].step));
    }
    return steps;
}

// The longest time that a claim of the step may last; 0: no limit.
int64_t timeout_us(Instances &instances, const StepHead &head)
{
    pg::DirectTable *table = find_task(instances, core::task_of(head.uuid));
    if (table == nullptr)
        unknown_task(core::task_of(head.uuid));
    const StepTemplate *step =
        find_step(template_with_id(task_head(table->read_slot).named_task_uuid), head.named_step_uuid);
    return step != nullptr ? int64_t{step->timeout_seconds} * USECS_PER_SEC : 0;
}

RecordChange extend(Instances &instances, const Held &wanted, int64_t lease_us)
{
    pg::DirectTable *table =
        core::step_number(wanted.step) == 0 ? nullptr : find_step(instances, wanted.step);
    if (table == nullptr)
        unknown_step(wanted.step);
    const StepHead head = step_head(table->read_slot);
    require_in_progress(head);
    TimestampTz end = queue::lease_end(instances.now, lease_us);
    if (const int64_t timeout = timeout_us(instances, head); timeout != 0)
        end = std::min(end, head.last_attempted_at + timeout);
    return {head.record_id, wanted.step, RecordFate::lease, wanted.has_token, wanted.token, end, 0};
}

// The step is in line again, at once; but where a parent was reset meanwhile it waits for that one.
RecordChange release(Instances &instances, TransitionLog &log, const Held &held, TaskDelta &delta)
{
    const size_t noted = log.transitions.count;
    RecordChange record{0, held.step, RecordFate::released, held.has_token, held.token, 0, 0};
    StepState to{};
    change_step(instances, held.step, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
        forget_from(log, noted);
        require_in_progress(head);
        const bool in_line = head.remaining_parents == 0;
        to = in_line ? StepState::enqueued : StepState::pending;
        record.id = head.record_id;
        record.fate = in_line ? RecordFate::released : RecordFate::completed;
        move_step(log, instances, head, to, core::Walk::again, {}, change);
        change.set(kStepAttempts, Int32GetDatum(head.attempts - 1));
        if (!in_line)
            change.set(kStepRecordId, Int64GetDatum(0));
        return true;
    });
    delta.move(StepState::in_progress, to);
    return record;
}

bool holds_token(int64_t record_id, int64_t token)
{
    const auto head = queue::read_head(queue::queue_parent(), record_id);
    return head && head->status == core::RecordStatus::processing && head->lease_token == token;
}

} // namespace

TASKER_FUNCTION(checkpoint_step)
{
    PreventCommandIfReadOnly("tasker.checkpoint_step()");
    const core::Uuid uuid = step_argument(args, 0);
    const std::optional<int64_t> token = args.optional_i64(2);
    Instances instances;
    begin_instances(instances);
    change_step(instances, uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
        require_in_progress(head);
        if (token && !holds_token(head.record_id, *token))
            ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("lease on workflow step %s is lost", text_of(uuid)),
                    errhint("Drop this work: the step has been given to another worker, or finished."));
        if (args.is_null(1))
            change.set_null(kStepCheckpoint);
        else
            change.set(kStepCheckpoint, args.datum(1));
        return true;
    });
    end_instances(instances);
    return 0;
}

TASKER_FUNCTION(extend_step_lease)
{
    PreventCommandIfReadOnly("tasker.extend_step_lease()");
    const int64_t lease_us = args.duration_us(1, "lease");
    if (lease_us == 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"lease\" must be positive");
    const Growing<Held> steps = steps_argument(args, 2);
    Instances instances;
    Growing<RecordChange> records;
    begin_instances(instances, AccessShareLock);
    for (const Held &step : steps)
        records.add(extend(instances, step, lease_us));
    end_instances(instances);
    change_step_records(instances.now, records.all());
    return args.result(static_cast<int32_t>(steps.count));
}

TASKER_FUNCTION(release_steps)
{
    PreventCommandIfReadOnly("tasker.release_steps()");
    const Growing<Held> steps = steps_argument(args, 1);
    Instances instances;
    TransitionLog log;
    Growing<RecordChange> records;
    begin_instances(instances);
    TaskDelta delta;
    for (size_t i = 0; i < steps.count; i++) {
        const core::Uuid task = core::task_of(steps[i].step);
        records.add(release(instances, log, steps[i], delta));
        if (i + 1 < steps.count && core::task_of(steps[i + 1].step) == task)
            continue;
        if (!delta.is_nothing())
            (void)apply_delta(instances, log, task, delta, core::Walk::forward, {});
        delta = {};
    }
    write_transitions(instances, log);
    end_instances(instances);
    change_step_records(instances.now, records.all());
    return args.result(static_cast<int32_t>(steps.count));
}

TASKER_FUNCTION(set_step_backoff_atomic)
{
    PreventCommandIfReadOnly("tasker.set_step_backoff_atomic()");
    const core::Uuid uuid = step_argument(args, 0);
    const int32_t seconds = args.i32(1, "backoff_seconds");
    if (seconds < 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"backoff_seconds\" must not be negative");
    Instances instances;
    RecordChange record{};
    bool changed = false;
    begin_instances(instances);
    change_step(instances, uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
        changed = head.state == StepState::in_progress || head.state == StepState::waiting_for_retry;
        if (!changed)
            return false;
        change.set(kStepBackoffRequestSeconds, Int32GetDatum(seconds));
        record = {};
        if (head.state == StepState::waiting_for_retry) {
            const TimestampTz due = queue::lease_end(instances.now, int64_t{seconds} * USECS_PER_SEC);
            change.set(kStepNextRetryAt, TimestampTzGetDatum(due));
            record = {head.record_id, uuid, RecordFate::postponed, false, 0, due, 0};
        }
        return true;
    });
    end_instances(instances);
    if (record.id != 0)
        change_step_records(instances.now, {&record, 1});
    return args.result(changed);
}

} // namespace tasker::workflow
