// What can be said of whole tasks: their state, how their steps stand, and what is to be done about it.
#include "workflow/read.hpp"

extern "C" {
#include "utils/numeric.h"
}

namespace tasker::workflow {
namespace {

using core::StepState;

struct Verdict
{
    const char *execution_status;
    const char *recommended_action;
};

int64_t steps_done(const StepTally &tally)
{
    return tally.in(StepState::complete) + tally.in(StepState::resolved_manually);
}

int64_t steps_enqueued(const StepTally &tally)
{
    return tally.in(StepState::enqueued) + tally.in(StepState::enqueued_for_orchestration) +
           tally.in(StepState::enqueued_as_error_for_orchestration);
}

// A step in error blocks, whatever else could go on: somebody has to look at it.
Verdict verdict_on(const StepTally &tally)
{
    if (tally.in(StepState::error) > 0)
        return {"blocked_by_failures", "handle_failures"};
    if (tally.ready > 0)
        return {"has_ready_steps", "execute_ready_steps"};
    if (tally.in(StepState::in_progress) > 0 || steps_enqueued(tally) > 0)
        return {"processing", "wait_for_completion"};
    if (tally.total > 0 && steps_done(tally) == tally.total)
        return {"all_complete", "finalize_task"};
    return {"waiting_for_dependencies", "wait_for_dependencies"};
}

// Failures that will be tried again are a task that recovers: they wait for their retry and are not in error.
const char *health_of(const StepTally &tally)
{
    if (tally.in(StepState::error) > 0)
        return "blocked";
    if (tally.in(StepState::waiting_for_retry) > 0 ||
        tally.in(StepState::enqueued_as_error_for_orchestration) > 0)
        return "recovering";
    return tally.unknown > 0 ? "unknown" : "healthy";
}

// Percent with two digits, rounded half up.
Datum percentage(int64_t part, int64_t whole)
{
    const int64_t hundredths = whole == 0 ? 0 : (part * 20'000 + whole) / (2 * whole);
    return NumericGetDatum(int64_div_fast_to_numeric(hundredths, 2));
}

void add_context(Instances &instances, pg::ResultSet &result, const core::Uuid &uuid)
{
    pg::DirectTable *table = find_task(instances, uuid);
    if (table == nullptr)
        return;
    const TaskHead task = task_head(table->read_slot);
    const StepTally tally = tally_steps(instances, uuid);
    const Verdict verdict = verdict_on(tally);
    const Datum values[] = {
        key_datum(task.uuid),
        key_datum(task.named_task_uuid),
        state_word(task.state),
        Int64GetDatum(tally.total),
        Int64GetDatum(tally.in(StepState::pending)),
        Int64GetDatum(tally.in(StepState::in_progress)),
        Int64GetDatum(steps_done(tally)),
        Int64GetDatum(tally.in(StepState::error)),
        Int64GetDatum(tally.ready),
        CStringGetTextDatum(verdict.execution_status),
        CStringGetTextDatum(verdict.recommended_action),
        percentage(steps_done(tally), tally.total),
        CStringGetTextDatum(health_of(tally)),
        Int64GetDatum(steps_enqueued(tally)),
        Int64GetDatum(tally.in(StepState::waiting_for_retry)),
    };
    const bool nulls[std::size(values)] = {};
    result.add(values, nulls);
}

void add_contexts(const pg::Args &args, std::span<const core::Uuid> tasks)
{
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    for (const core::Uuid &task : tasks)
        add_context(instances, result, task);
    end_instances(instances);
}

} // namespace

TASKER_FUNCTION(get_task_execution_context)
{
    const core::Uuid task = uuid_argument(args, 0, "input_task_uuid");
    add_contexts(args, {&task, 1});
    return 0;
}

TASKER_FUNCTION(get_task_execution_contexts_batch)
{
    add_contexts(args, sorted_uuids(args.array(0, "input_task_uuids", UUIDOID)));
    return 0;
}

// How many of the task's steps a worker could claim now.
TASKER_FUNCTION(count_ready_steps)
{
    Instances instances;
    begin_reading(instances);
    const StepTally tally = tally_steps(instances, uuid_of(args.datum(0)));
    end_instances(instances);
    return args.result(tally.ready);
}

TASKER_FUNCTION(get_current_task_state)
{
    const core::Uuid uuid = uuid_argument(args, 0, "p_task_uuid");
    Instances instances;
    begin_reading(instances);
    pg::DirectTable *table = find_task(instances, uuid);
    const Datum word = table == nullptr ? args.null() : state_word(task_head(table->read_slot).state);
    end_instances(instances);
    return word;
}

TASKER_FUNCTION(get_current_step_state)
{
    const core::Uuid uuid = uuid_argument(args, 0, "p_step_uuid");
    Instances instances;
    begin_reading(instances);
    pg::DirectTable *table = find_step(instances, uuid);
    const Datum word = table == nullptr ? args.null() : state_word(step_head(table->read_slot).state);
    end_instances(instances);
    return word;
}

} // namespace tasker::workflow
