-- Data older than 90 days leaves by whole partitions from now on. The background worker does it within a minute;
-- without it: call tasker.run_maintenance();
set search_path = app;

select tasker.alter_parent(t, 'retention', '90 days')
from unnest(array['tasks', 'workflow_steps', 'task_transitions', 'workflow_step_transitions']::regclass[]) t;

-- The plain tables were left as they were at the swap. Keep them for as long as you like.
drop table if exists tasks_old, workflow_steps_old, task_transitions_old, workflow_step_transitions_old;
