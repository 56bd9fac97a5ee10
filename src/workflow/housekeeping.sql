-- Housekeeping: what keeps the workflow plane's tables small, and what proves that they are right.

-- What names a retired task is found by the task's time: see src/workflow/retention.hpp.
create index task_identity_task_uuid on tasker.task_identity (task_uuid);

create function tasker.check_workflow_integrity() returns table (object text, problem text)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_check_workflow_integrity';
comment on function tasker.check_workflow_integrity() is
'Checks the rules of the workflow plane against its tables: a row for each problem, none where all holds. Of each task: its steps and what it says of them, the state in which it rests; of each step: its parents and how many are not done, its record in the queue; of both: the log of their states, without a gap and of legal transitions only, up to where they are now. Reads all tasks whose partitions are there; part of check_integrity().';
