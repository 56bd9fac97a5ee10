// A condition on the task of a step, as a range of the step's key.
//
// The views over steps, edges and transitions have a column task_uuid that is no column of their tables: it
// is tasker.task_of(workflow_step_uuid). "task_uuid = X" on such a view is by itself nothing that an index or
// a partition's bounds can answer: all steps of all tasks would be read. But whenever it is true,
//
//     workflow_step_uuid >= X and workflow_step_uuid <= tasker.last_step_of(X)
//
// is true as well, which is a range of the primary key in one partition. So before a query is planned, that
// is added to every such condition: the result stays the same, and one partition is read by its key, for
// constants, parameters and joins alike. It is done in the query's tree after views have been expanded, so no
// table of ours is named in it and nothing is looked up for queries that do not have such a condition.
#pragma once

namespace tasker::workflow {

// Takes its place among those who look at queries before they are planned; from _PG_init.
void install_planner_hook();

} // namespace tasker::workflow
