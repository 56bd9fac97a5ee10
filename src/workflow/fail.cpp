// fail_step(): a failed attempt. What becomes of the step is decided by its own policy, not by its flow's.
#include "workflow/fail.hpp"

#include <cmath>

#include "pg/function.hpp"

extern "C" {
#include "common/pg_prng.h"
}

namespace tasker::workflow {
namespace {

struct FailArguments
{
    core::Uuid uuid;
    Datum error; // jsonb
    bool retryable;
    std::optional<int32_t> backoff_seconds;
    bool has_token;
    int64_t token;
};

// The delay before the next attempt: base × multiplier^(attempts - 1), at most max, varied by the jitter.
int64_t backoff_us(const StepTemplate &step, int32_t attempts)
{
    const double exponent = static_cast<double>(std::max(attempts, 1) - 1);
    double seconds = step.backoff_base_s * std::pow(step.backoff_multiplier, exponent);
    seconds = std::min(seconds, step.backoff_max_s);
    const double chance = 2 * pg_prng_double(&pg_global_prng_state) - 1;
    seconds = std::max(seconds * (1 + step.backoff_jitter * chance), 0.0);
    return static_cast<int64_t>(std::min(seconds, 1e10) * static_cast<double>(USECS_PER_SEC));
}

// What the queue shows of an error: its message, where it is an object with one.
Datum error_text(Datum error)
{
    Jsonb *json = DatumGetJsonbP(error);
    if (JB_ROOT_IS_OBJECT(json)) {
        JsonbValue found;
        if (getKeyJsonValueFromContainer(&json->root, "message", 7, &found) != nullptr &&
            found.type == jbvString)
            return PointerGetDatum(cstring_to_text_with_len(found.val.string.val, found.val.string.len));
    }
    return CStringGetTextDatum(JsonbToCString(nullptr, &json->root, VARSIZE(json)));
}

const StepTemplate &template_of_step(Instances &instances, const core::Uuid &step,
                                     const core::Uuid &named_step)
{
    pg::DirectTable *table = find_task(instances, core::task_of(step));
    if (table == nullptr)
        unknown_task(core::task_of(step));
    const Template &definition = template_with_id(task_head(table->read_slot).named_task_uuid);
    const StepTemplate *found = find_step(definition, named_step);
    if (found == nullptr)
        elog(ERROR, "workflow step %s is not in its task's template", text_of(step));
    return *found;
}

// From waiting for its retry on to waiting for its parents.
void wait_for_parents(TransitionLog &log, const Instances &instances, const StepHead &head,
                      FailedStep &failed, pg::RowValues &change)
{
    StepHead waiting = head;
    waiting.state = failed.state;
    waiting.last_transition = log.transitions[log.transitions.count - 1].sort_key;
    failed.state = core::StepState::pending;
    move_step(log, instances, waiting, failed.state, core::Walk::forward, {}, change);
}

RecordFate fate_of_record(core::StepState state)
{
    return state == core::StepState::waiting_for_retry ? RecordFate::retry
           : state == core::StepState::error           ? RecordFate::failed
                                                       : RecordFate::completed;
}

core::StepState fail(const FailArguments &arguments)
{
    Instances instances;
    TransitionLog log;
    begin_instances(instances);
    pg::DirectTable *table =
        core::step_number(arguments.uuid) == 0 ? nullptr : find_step(instances, arguments.uuid);
    if (table == nullptr)
        unknown_step(arguments.uuid);
    const StepHead before = step_head(table->read_slot);
    const StepTemplate &named = template_of_step(instances, arguments.uuid, before.named_step_uuid);

    Failure failure{arguments.error, arguments.retryable, std::nullopt};
    if (arguments.backoff_seconds)
        failure.delay_us = int64_t{*arguments.backoff_seconds} * USECS_PER_SEC;
    FailedStep failed{};
    change_step(
        instances, arguments.uuid, [&](const StepHead &head, TupleTableSlot *, pg::RowValues &change) {
            forget_from(log, 0);
            if (head.state != core::StepState::in_progress)
                ereport(
                    ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("workflow step %s is not in progress", text_of(head.uuid)),
                    errdetail("Its state is \"%s\".", core::state_name(head.state).data()),
                    errhint("Its lease was lost, or it was finished, cancelled or reset: drop this work."));
            failed = fail_attempt(log, instances, head, named, failure, change);
            if (arguments.backoff_seconds) // else what was asked for before, which has been heeded
                change.set(kStepBackoffRequestSeconds, Int32GetDatum(*arguments.backoff_seconds));
            return true;
        });
    TaskDelta delta;
    delta.move(core::StepState::in_progress, failed.state);
    (void)apply_delta(instances, log, core::task_of(arguments.uuid), delta, core::Walk::forward, {});
    write_transitions(instances, log);
    end_instances(instances);

    RecordChange record{failed.record_id, arguments.uuid, fate_of_record(failed.state), arguments.has_token,
                        arguments.token,  failed.due,     error_text(arguments.error)};
    change_step_records(instances.now, {&record, 1});
    return failed.state;
}

} // namespace

FailedStep fail_attempt(TransitionLog &log, const Instances &instances, const StepHead &head,
                        const StepTemplate &named, const Failure &failure, pg::RowValues &change)
{
    FailedStep failed{};
    failed.record_id = head.record_id;
    const bool again = failure.retryable && head.retryable && head.attempts < head.max_attempts;
    failed.state = again ? core::StepState::waiting_for_retry : core::StepState::error;
    move_step(log, instances, head, failed.state, core::Walk::forward, {0, 0, failure.error}, change);
    change.set(kStepLastFailureAt, TimestampTzGetDatum(instances.now));
    change.set(kStepError, failure.error);
    if (!failure.retryable)
        change.set(kStepRetryable, BoolGetDatum(false));
    if (again && head.remaining_parents > 0)
        wait_for_parents(log, instances, head, failed, change);
    if (failed.state != core::StepState::waiting_for_retry) {
        change.set(kStepRecordId, Int64GetDatum(0));
        return failed;
    }
    int64_t delay = failure.delay_us.value_or(0);
    if (!failure.delay_us)
        delay = head.backoff_request_seconds ? int64_t{*head.backoff_request_seconds} * USECS_PER_SEC
                                             : backoff_us(named, head.attempts);
    failed.due = queue::lease_end(instances.now, delay);
    change.set(kStepNextRetryAt, TimestampTzGetDatum(failed.due));
    return failed;
}

TASKER_FUNCTION(fail_step)
{
    PreventCommandIfReadOnly("tasker.fail_step()");
    if (args.is_null(0))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"workflow_step_uuid\" must not be null");
    if (args.is_null(1))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"error\" must not be null")
            .hint("Give an object such as '{\"message\": \"…\"}'.");
    FailArguments arguments{};
    arguments.uuid = uuid_of(args.datum(0));
    arguments.error = args.datum(1);
    arguments.retryable = args.boolean(2, "retryable");
    arguments.backoff_seconds = args.optional_i32(3);
    if (arguments.backoff_seconds.value_or(0) < 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"backoff_seconds\" must not be negative");
    arguments.has_token = !args.is_null(4);
    arguments.token = args.optional_i64(4).value_or(0);
    return args.result(core::state_name(fail(arguments)));
}

} // namespace tasker::workflow
