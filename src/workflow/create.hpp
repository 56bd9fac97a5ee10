// Writing new steps: their rows, edges, first transitions and records.
#pragma once

#include "workflow/records.hpp"
#include "workflow/template.hpp"
#include "workflow/transition_log.hpp"

namespace tasker::workflow {

struct NewStep
{
    core::Uuid uuid;
    const StepTemplate *step;
    int16_t priority; // the task's, where the template says nothing
    int32_t total_parents;
    int32_t remaining_parents;
    Datum name;   // text; 0: the template's
    Datum inputs; // jsonb; 0: the template's
};

struct NewEdge
{
    core::Uuid from;
    core::Uuid to;
};

// What a call is going to add.
struct NewRows
{
    Growing<NewStep> steps;
    Growing<NewEdge> edges;
    Growing<queue::PlacedRecord> records;
};

// Writes the steps, those without remaining parents as enqueued and with a record that becomes due at
// `run_at`, and the edges; the rows are forgotten, the records are kept for queue::add_placed_records().
// Returns how many steps were enqueued. Errors: undefined_object for a flow that was dropped.
int32_t write_steps(Instances &instances, TransitionLog &log, NewRows &rows,
                    std::optional<TimestampTz> run_at);

// Adds the records that were collected, in the order of their ids.
void write_records(NewRows &rows);

// The priority of a step in a task.
inline int16_t priority_of(const StepTemplate &step, int16_t of_task)
{
    return step.priority == kNoPriority ? of_task : static_cast<int16_t>(step.priority);
}

} // namespace tasker::workflow
