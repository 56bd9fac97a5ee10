// Leases that have ended: what the queue does with the record, and the engine with its step.
//
// The sweep holds the record when it asks; whoever completes the step holds the step's row and waits for the
// record. So nobody is waited for here: where the step or its task is in other hands the record stays as it
// is to the next look.
#include "workflow/lease.hpp"

#include "queue/lost_lease.hpp"
#include "workflow/fail.hpp"
#include "workflow/notes.hpp"

namespace tasker::workflow {
namespace {

using queue::LostLease;
using queue::LostLeaseVerdict;

Datum error_of(Datum message)
{
    const text *words = DatumGetTextPP(message);
    return error_note({VARDATA_ANY(words), VARSIZE_ANY_EXHDR(words)});
}

// Fails the attempt of the step in `table`; its row is locked, and its task's.
LostLeaseVerdict lose_attempt(Instances &instances, pg::DirectTable *table, const StepHead &step,
                              const Template &definition, Datum error)
{
    const StepTemplate *named = find_step(definition, step.named_step_uuid);
    if (named == nullptr)
        elog(ERROR, "workflow step %s is not in its task's template", text_of(step.uuid));
    TransitionLog log;
    TaskDelta delta;
    pg::RowValues change;
    const FailedStep failed =
        fail_attempt(log, instances, step, *named, {error_of(error), true, std::nullopt}, change);
    if (pg::update_found(table, change, GetActiveSnapshot()) != TM_Ok)
        elog(ERROR, "could not change locked workflow step %s", text_of(step.uuid));
    delta.move(core::StepState::in_progress, failed.state);
    (void)apply_delta(instances, log, core::task_of(step.uuid), delta, core::Walk::forward, {});
    write_transitions(instances, log);
    if (failed.state == core::StepState::waiting_for_retry)
        return {LostLease::retry, failed.due};
    return {failed.state == core::StepState::error ? LostLease::fail : LostLease::drop, 0};
}

LostLeaseVerdict judge(Instances &instances, const core::Uuid &uuid, int64_t record_id, Datum error)
{
    pg::DirectTable *table = core::step_number(uuid) == 0 ? nullptr : find_step(instances, uuid);
    if (table == nullptr)
        return {LostLease::drop, 0};
    StepHead step = step_head(table->read_slot);
    if (step.record_id != record_id)
        return {LostLease::drop, 0};
    if (step.state != core::StepState::in_progress) // claimed past the workflow, by its flow's name
        return {LostLease::retry, instances.now};
    pg::DirectTable *task = find_task(instances, core::task_of(uuid));
    if (task == nullptr) // it is being retired, or coming back
        return {LostLease::later, 0};
    const TaskHead head = task_head(task->read_slot);
    if (pg::try_lock_found(task, GetActiveSnapshot()) != TM_Ok ||
        pg::try_lock_found(table, GetActiveSnapshot()) != TM_Ok)
        return {LostLease::later, 0};
    return lose_attempt(instances, table, step, template_with_id(head.named_task_uuid), error);
}

LostLeaseVerdict on_lost_lease(const queue::RecordHead &head, Datum payload, Datum error, TimestampTz)
{
    if (!carries_steps(head.flow_id))
        return {};
    const std::optional<core::Uuid> uuid = step_of_record(payload);
    if (!uuid)
        return {LostLease::drop, 0};
    Instances instances;
    begin_instances(instances);
    const LostLeaseVerdict verdict = judge(instances, *uuid, head.id, error);
    end_instances(instances);
    return verdict;
}

} // namespace

void declare_lease_hook()
{
    queue::lost_lease_hook = on_lost_lease;
}

} // namespace tasker::workflow
