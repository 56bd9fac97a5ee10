// Identity keys: what makes a task the same when it is created again.
#pragma once

#include "core/task_id.hpp"
#include "pg/error.hpp"

namespace tasker::workflow {

// The task that holds the key, which stays in use for as long as its task exists; else the key is given to
// `new_task`, and nothing is returned: the caller creates that task in this transaction. Two who create the
// same at once meet at the key's row: the second waits for the first one's outcome. Errors:
// invalid_parameter_value for a key that is empty or too long.
std::optional<core::Uuid> take_identity(const core::Uuid &named_task, std::string_view key,
                                        const core::Uuid &new_task);

} // namespace tasker::workflow
