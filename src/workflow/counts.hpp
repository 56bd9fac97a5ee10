// How many tasks and steps are in which state, counted as they change.
//
// Shared memory keeps the counts of each partition of tasker.task and tasker.workflow_step. They follow the
// outcome of each transaction: what it has noted is added at its commit and dropped at its abort, and by
// subtransaction likewise; of a prepared transaction it is kept aside until somebody sees how that has ended.
// After a restart or a crash one scan builds them anew (counts_rebuild.cpp) while everybody goes on; sealed
// partitions are not read for it (counts_seal.cpp). Without shared memory the tables are counted.
//
// WHO NOTES
//    Rows that are written past the executor (pg/direct_table.hpp): whoever logs the transition, once for
//    every hop, in the transaction and subtransaction that writes the row, with its partition locked.
//    Rows that a statement writes (INSERT, UPDATE, DELETE, COPY, restore): the triggers of both tables do.
//    Nobody must note these himself.
#pragma once

#include "core/task_id.hpp"
#include "core/workflow_states.hpp"
#include "pg/error.hpp"

namespace tasker::workflow {

// `n` tasks have come from one state, or from nothing, into another. `task` is any of them; all n are in its
// partition. Costs a few nanoseconds, but for the first call of a (sub)transaction for a partition.
void note_task_states(const core::Uuid &task, std::optional<core::TaskState> from, core::TaskState to,
                      int64_t n = 1);
// Likewise steps.
void note_step_states(const core::Uuid &step, std::optional<core::StepState> from, core::StepState to,
                      int64_t n = 1);

// Declares the shared memory; from _PG_init.
void declare_counts();

// Builds the counts of this database if they are not built yet; a duty of the worker.
void prepare_counts();

// Keeps the counts of partitions whose tasks are all finished in tasker.sealed_workflow_partition; returns
// how many were sealed. A duty of the worker.
int64_t seal_counts();

// How many tasks of the partitions that overlap [lower, upper), keys of the partition plane, are not
// finished, as far as it is committed; nothing when counts are not kept or not built.
std::optional<int64_t> unfinished_tasks(int64_t lower, int64_t upper);

// A partition has been dropped and its transaction has committed.
void forget_counts(Oid partition);

} // namespace tasker::workflow
