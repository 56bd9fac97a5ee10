// Which steps wait for which.
#pragma once

#include "workflow/instance.hpp"

namespace tasker::workflow {

// Adds the children of a step, or its parents, in ascending order. They are of the same task, and their
// edges in the same partition.
void find_children(Instances &instances, const core::Uuid &step, Growing<core::Uuid> &found);
void find_parents(Instances &instances, const core::Uuid &step, Growing<core::Uuid> &found);

} // namespace tasker::workflow
