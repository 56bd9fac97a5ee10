-- Housekeeping: what keeps the workflow plane's tables small, and what proves that they are right.

-- What names a retired task is found by the task's time: see src/workflow/retention.hpp.
create index task_identity_task_uuid on tasker.task_identity (task_uuid);
