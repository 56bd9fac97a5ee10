-- What is there, how fast it grows, and what that suggests. Nothing is locked or changed.
create extension if not exists tasker;
set search_path = app;

-- The growth of a table as one would ask it by hand. It reads the whole table.
select pg_size_pretty(pg_total_relation_size('tasks')) as total_size,
       count(*) as row_count,
       min(created_at) as oldest_task,
       max(created_at) as newest_task,
       round(count(*) / extract(day from max(created_at) - min(created_at))) as avg_tasks_per_day
from tasks;

-- The same for all four, from a thousand pages of each, with the interval that it suggests:
-- a day above 1,000,000 rows a day, a week above 100,000, a month below.
select t.name, s.rows_per_day, s.partition_interval, s.premake, s.rows_per_partition, s.rows_estimate,
       pg_size_pretty(s.bytes) as size, s.oldest, s.reason
from (values ('tasks'::regclass, 'task_uuid'::name), ('workflow_steps', 'workflow_step_uuid'),
             ('task_transitions', 'task_transition_uuid'),
             ('workflow_step_transitions', 'workflow_step_transition_uuid')) t (name, control)
cross join lateral tasker.suggest_interval(t.name, t.control) s;
