// The partition sets of the instances.
#pragma once

#include "core/task_id.hpp"
#include "pg/error.hpp"

namespace tasker::workflow {

// The tables of the instances, in the order in which the partitions of a time are made.
enum class Table
{
    task,
    step,
    edge,
    task_transition,
    step_transition
};
inline constexpr int kTableCount = 5;

// Declares the sets to the partition plane; from _PG_init.
void declare_workflow_sets();

// The partitioned parent of a table. Errors: undefined_object where the extension does not exist.
Oid parent_of(Table table);

// The name of the parent.
const char *name_of(Table table);

// The least uuid of a bound (a key as in partition/control.hpp); bounds are whole milliseconds.
core::Uuid lowest_uuid_at(int64_t key);

} // namespace tasker::workflow
