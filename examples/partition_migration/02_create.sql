-- A partitioned table like each of the four, empty, under management.
set search_path = app;

-- Detaching a partition that foreign keys refer to reads all tables that refer to it: these go. The tables are locked in
-- the order in which the application writes them, so that none of its transactions gets into a deadlock with this one.
begin;
lock table tasks, workflow_steps, task_transitions, workflow_step_transitions in access exclusive mode;
alter table workflow_step_transitions drop constraint if exists workflow_step_transitions_workflow_step_uuid_fkey;
alter table task_transitions drop constraint if exists task_transitions_task_uuid_fkey;
alter table workflow_steps drop constraint if exists workflow_steps_task_uuid_fkey;
commit;

-- One interval for all, so that a task and what belongs to it are cut at the same bounds: that of the table that grows
-- fastest.
select partition_interval, premake
from tasker.suggest_interval('workflow_step_transitions', 'workflow_step_transition_uuid') \gset
\echo partitions of :partition_interval, :premake kept ready

-- Columns, defaults, keys, indexes, comments and rights are those of the source; partitions are made for all of its time.
select tasker.create_partitioned_table_like(t.source, (t.source || '_new')::name, t.control, :'partition_interval', :premake)
from (values ('tasks'::regclass, 'task_uuid'::name), ('workflow_steps', 'workflow_step_uuid'),
             ('task_transitions', 'task_transition_uuid'),
             ('workflow_step_transitions', 'workflow_step_transition_uuid')) t (source, control)
join pg_class k on k.oid = t.source
where k.relkind = 'r' and to_regclass(t.source || '_new') is null;
