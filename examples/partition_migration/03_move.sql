-- The rows go over while the application reads and writes the tables. Each call copies in batches, mirrors what is
-- written meanwhile, compares both tables, and then exchanges their names in one short transaction. Interrupted at any
-- point, it is called again. Watch it from another session: select * from tasker.partition_data_progress;
set search_path = app;

select to_regclass('tasks_new') is not null as wanted \gset
\if :wanted
call tasker.partition_data_proc('tasks_new', 'tasks', batch_rows => 10000, swap => true);
\endif
select to_regclass('workflow_steps_new') is not null as wanted \gset
\if :wanted
call tasker.partition_data_proc('workflow_steps_new', 'workflow_steps', batch_rows => 10000, swap => true);
\endif
select to_regclass('task_transitions_new') is not null as wanted \gset
\if :wanted
call tasker.partition_data_proc('task_transitions_new', 'task_transitions', batch_rows => 10000, swap => true);
\endif
select to_regclass('workflow_step_transitions_new') is not null as wanted \gset
\if :wanted
call tasker.partition_data_proc('workflow_step_transitions_new', 'workflow_step_transitions', batch_rows => 10000, swap => true);
\endif
