// Retention of tasks: the five tables of the instances retire together, partition by partition.
//
// The sets have one configuration, that of tasker.task, so their partitions have the same bounds. The
// partition of the tasks goes first, and only when no task in it is unfinished; the partitions of the steps,
// edges and transitions of that time go when it is gone for good. A round takes the sets in this order, so
// all five go in one round. Killed in the middle, it leaves steps without a task, never a task without its
// steps: a look-up by the task finds nothing, and the next round finishes.
//
//                    asked                                       answer while it is so
//    task            no task is unfinished                       task … is not finished
//    the other four  no partition of tasks overlaps, be it       the tasks of its time are still in …
//                    attached, pending, or detached and not
//                    dropped yet
//
// Of the transitions, the stream also refuses what a consumer has still to read (stream/log.hpp).
//
// While the partition of the tasks is pending or detached its tasks cannot be found (undefined_object). An
// unfinished one that was committed meanwhile brings it back: see partition/retire_one.hpp. Its records and
// steps are all there then; who finds a step whose task cannot be found must leave both as they are.
//
// Whoever brings a finished task back to life calls hold_task() before it looks at the task.
#pragma once

#include "core/task_id.hpp"
#include "pg/error.hpp"

namespace tasker::workflow {

// The hooks of the partition plane (owned_set.hpp): why this partition may not go, or null.
const char *refuse_retirement_of_tasks(Oid partition, int64_t lower, int64_t upper);
const char *refuse_retirement_of_steps(Oid partition, int64_t lower, int64_t upper);

// Keeps the partition of a task, or of any step of it, from being retired until the end of the transaction;
// for who brings finished work back to life (retry, reset). Errors: undefined_object when there is no such
// partition any more, object_not_in_prerequisite_state while it is being retired. Plain C++: may throw.
void hold_task(const core::Uuid &uuid);

// Removes what names tasks that are retired: identity keys and entries of the dead letter queue. Returns the
// number of rows, 0 when nothing is left; each call is a bounded piece of work.
int64_t forget_retired_tasks();

} // namespace tasker::workflow
