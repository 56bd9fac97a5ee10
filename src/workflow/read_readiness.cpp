// Readiness of steps: get_step_readiness_status() and its batch form.
//
// Nothing is computed from the edges or from the log: a step's row has how many parents it still waits for
// and when it last failed.
#include "workflow/read.hpp"

namespace tasker::workflow {
namespace {

constexpr int kColumns = 16;

Datum time_or_null(TimestampTz time, bool &null)
{
    null = time == 0;
    return TimestampTzGetDatum(time);
}

void add_step(pg::ResultSet &result, TupleTableSlot *slot, TimestampTz now)
{
    const StepHead step = step_head(slot);
    const Datum name = step_name(slot);
    const core::Uuid task = core::task_of(step.uuid);
    bool nulls[kColumns] = {};
    nulls[3] = name == 0;
    nulls[14] = is_null(slot, kStepBackoffRequestSeconds);
    const Datum values[kColumns] = {
        key_datum(step.uuid),
        key_datum(task),
        key_datum(step.named_step_uuid),
        name,
        state_word(step.state),
        BoolGetDatum(step.remaining_parents == 0),
        BoolGetDatum(is_retry_eligible(step)),
        BoolGetDatum(is_ready(step, now)),
        time_or_null(step.last_failure_at, nulls[8]),
        time_or_null(step.next_retry_at, nulls[9]),
        Int32GetDatum(step.total_parents),
        Int32GetDatum(step.total_parents - step.remaining_parents),
        Int32GetDatum(step.attempts),
        Int32GetDatum(step.max_attempts),
        value_of(slot, kStepBackoffRequestSeconds),
        time_or_null(step.last_attempted_at, nulls[15]),
    };
    result.add(values, nulls);
}

void add_steps_of(Instances &instances, pg::ResultSet &result, const core::Uuid &task)
{
    for_each_step(instances, task, [&](TupleTableSlot *slot) { add_step(result, slot, instances.now); });
}

// Only these steps, as far as they belong to the tasks.
void add_chosen(Instances &instances, pg::ResultSet &result, std::span<const core::Uuid> tasks,
                std::span<const core::Uuid> steps)
{
    for (const core::Uuid &step : steps) {
        const core::Uuid task = core::task_of(step);
        if (step == task || !std::binary_search(tasks.begin(), tasks.end(), task))
            continue;
        if (pg::DirectTable *table = find_step(instances, step))
            add_step(result, table->read_slot, instances.now);
    }
}

void add_all(const pg::Args &args, std::span<const core::Uuid> tasks)
{
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    if (args.is_null(1)) {
        for (const core::Uuid &task : tasks)
            add_steps_of(instances, result, task);
    } else {
        add_chosen(instances, result, tasks, sorted_uuids(args.array(1, "step_uuids", UUIDOID)));
    }
    end_instances(instances);
}

} // namespace

TASKER_FUNCTION(get_step_readiness_status)
{
    const core::Uuid task = uuid_argument(args, 0, "input_task_uuid");
    add_all(args, {&task, 1});
    return 0;
}

TASKER_FUNCTION(get_step_readiness_status_batch)
{
    add_all(args, sorted_uuids(args.array(0, "input_task_uuids", UUIDOID)));
    return 0;
}

} // namespace tasker::workflow
