// The ids of tasks and steps as PostgreSQL has them.
#pragma once

#include "core/task_id.hpp"
#include "pg/error.hpp"

namespace tasker::workflow {

// A new id, higher than all that this backend has made before. No two backends make the same.
core::Uuid new_task_uuid();

core::Uuid uuid_of(Datum value);
// palloc'd
Datum datum_of(const core::Uuid &uuid);
// palloc'd, in the usual form
const char *text_of(const core::Uuid &uuid);

} // namespace tasker::workflow
