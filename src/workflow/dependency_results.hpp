// What a step gets from the steps it depends on.
#pragma once

#include "workflow/instance.hpp"
#include "workflow/template.hpp"

namespace tasker::workflow {

// An object of the parents' results by their names; 0 for a step without parents, and where the results are
// larger than 64 MB together. Results that a parent has not are null.
Datum dependency_results(Instances &instances, const Template &definition, const core::Uuid &step,
                         int32_t total_parents);

// The name of the step in a slot.
const char *name_of_step(TupleTableSlot *slot, const Template &definition);

} // namespace tasker::workflow
