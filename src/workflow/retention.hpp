// Retention of tasks: the five tables of the instances retire together, partition by partition.
#pragma once

#include "pg/error.hpp"

namespace tasker::workflow {

// The hook of the partition plane for all five sets (owned_set.hpp): why this partition may not go, or null.
const char *refuse_retirement(Oid partition, int64_t lower, int64_t upper);

} // namespace tasker::workflow
