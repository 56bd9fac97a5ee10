-- What to look at from now on.
set search_path = app;

select parent, health, partitions, partitions_ahead, oldest, newest, problems from tasker.partition_status
where parent in ('tasks'::regclass, 'workflow_steps'::regclass, 'task_transitions'::regclass,
                 'workflow_step_transitions'::regclass);

select partition, size, rows_estimate, is_current from tasker.partition_sizes where parent = 'tasks'::regclass;

select parent, size, rows_per_day, rows_per_day_before, pg_size_pretty(bytes_expected) as size_at_retention, suggested_interval
from tasker.partition_growth
where parent in ('tasks'::regclass, 'workflow_steps'::regclass, 'task_transitions'::regclass,
                 'workflow_step_transitions'::regclass);

-- Is pruning working? A look-up by id reads one partition; so does a range of ids, which is a range of time.
select * from tasker.check_pruning(format('select * from tasks where task_uuid = %L', uuid_v7()));
select * from tasker.check_pruning(format(
    'select * from tasks where task_uuid >= %L', overlay(uuid_v7(now() - interval '7 days')::text placing '0000-0000-000000000000' from 15)));

select * from tasker.partition_picture('workflow_step_transitions');
