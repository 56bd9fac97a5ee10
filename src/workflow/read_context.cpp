// What can be said of whole tasks: their state, how their steps stand, and what is to be done about it.
#include "core/task_priority.hpp"
#include "workflow/read.hpp"
#include "workflow/template.hpp"

#include <cmath>

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

int64_t ms_since(TimestampTz time, TimestampTz now)
{
    return (now - time) / 1000;
}

// How many steps of a task are ready, and what the task counts by its best one (core/task_priority.hpp).
struct Urgency
{
    int64_t ready_steps;
    double computed_priority;
};

// A task without ready steps counts by the time that it has been in its state.
Urgency urgency_of(Instances &instances, const TaskHead &task)
{
    Urgency urgency{0, 0};
    for_each_step(instances, task.uuid, [&](TupleTableSlot *slot) {
        const StepHead step = step_head(slot);
        if (!is_ready(step, instances.now))
            return;
        // A retry is ready when it is due; what is enqueued for later, then.
        const TimestampTz since = step.state == StepState::waiting_for_retry
                                      ? step.next_retry_at
                                      : std::max(step.state_entered_at, step.next_retry_at);
        urgency.ready_steps++;
        urgency.computed_priority =
            std::max(urgency.computed_priority,
                     core::computed_priority(step.priority, ms_since(since, instances.now)));
    });
    if (urgency.ready_steps == 0)
        urgency.computed_priority =
            core::computed_priority(task.priority, ms_since(task.state_entered_at, instances.now));
    return urgency;
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

TASKER_FUNCTION(get_task_ready_info)
{
    const core::Uuid uuid = uuid_argument(args, 0, "p_task_uuid");
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    if (pg::DirectTable *table = find_task(instances, uuid)) {
        const TaskHead task = task_head(table->read_slot);
        const Template &definition = template_with_id(task.named_task_uuid);
        const Urgency urgency = urgency_of(instances, task);
        const auto scaled = static_cast<int64_t>(std::llrint(urgency.computed_priority * 1e6));
        const Datum values[] = {
            key_datum(task.uuid),
            CStringGetTextDatum(definition.name),
            Int32GetDatum(task.priority),
            CStringGetTextDatum(definition.namespace_name),
            Int64GetDatum(urgency.ready_steps),
            NumericGetDatum(int64_div_fast_to_numeric(scaled, 6)),
            state_word(task.state),
        };
        const bool nulls[std::size(values)] = {};
        result.add(values, nulls);
    }
    end_instances(instances);
    return 0;
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
