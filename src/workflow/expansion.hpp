// Steps that come into being while their task runs: what a decision or batch step creates by its completion.
//
// A child of a decision or batch step is created when that one's completion names it, a batch step's as often
// as it is named. What comes after it in the template is created with it: a deferred step as soon as one of
// its declared parents exists, and it waits for those that exist; any other step when all of its parents do.
//
// INVARIANT: an edge from a step that is not done is added only by who has changed that step's row in the
// same transaction. Whoever completes the step meets that change, and reads the edges again. Completions of
// decision and batch steps of one task run one after the other (lock_expansion), so that a deferred step
// which one creates is seen by the other.
//
// A deferred step also waits for decisions that are still to come and may create one of its declared parents.
#pragma once

#include "workflow/create.hpp"

namespace tasker::workflow {

// A step that exists and gets more parents.
struct ParentGain
{
    core::Uuid child;
    int32_t done;    // parents that are done already
    int32_t waiting; // and those that are not
};

// An edge from a step that exists and is not done as far as is known; `new_step` is an index.
struct HeldParent
{
    core::Uuid parent;
    int32_t new_step;
};

struct Expansion
{
    Growing<NewStep> steps; // their remaining parents do not count held ones yet
    Growing<NewEdge> edges;
    Growing<ParentGain> gains;
    Growing<HeldParent> held;
    int32_t next_step_number;
};

// One expansion of a task at a time, to the end of the transaction.
void lock_expansion(const core::Uuid &task);

// What the completion of `step` creates. `create_steps` is jsonb, or 0. Errors: invalid_parameter_value where
// it does not fit the step's type and children.
void plan_expansion(Instances &instances, const TaskHead &task, const Template &definition,
                    const StepHead &step, Datum create_steps, Expansion &expansion);

} // namespace tasker::workflow
