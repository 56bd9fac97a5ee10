-- Which tasks are ready, by priority.

create function tasker.get_next_ready_tasks(p_limit integer default 5)
    returns table (task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint,
                   computed_priority numeric, current_state text)
    language c volatile rows 5 as 'MODULE_PATHNAME', 'tasker_get_next_ready_tasks';
comment on function tasker.get_next_ready_tasks(integer) is
'The tasks with ready steps that count most, p_limit of them at most. A ready step counts its priority and how long it has been ready: for the first hour 0.1 more for each hour; then priority * exp(-hours/12); from 24 hours on 0.1, whatever its priority. A task counts as its best ready step. Of tasks that count the same, those come first that have been ready the longest (among the decaying ones the shortest). Left out are tasks that have been in waiting_for_dependencies for more than 60 or in waiting_for_retry for more than 30 minutes, or what their template''s lifecycle says. ready_steps_count: steps that a worker could claim now. Only a look at what is committed at this moment: two callers may get the same tasks, and their steps may be claimed in the next moment; claim_steps() is what hands out work. Without shared_preload_libraries all pending records are read. Errors: 22023 p_limit is null or less than 1.';
create function tasker.get_next_ready_task()
    returns table (task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint,
                   computed_priority numeric, current_state text)
    language c volatile rows 1 as 'MODULE_PATHNAME', 'tasker_get_next_ready_task';
comment on function tasker.get_next_ready_task() is 'The first row of get_next_ready_tasks(), or none.';
create function tasker._ready_tasks_at(p_limit integer, p_now timestamptz)
    returns table (task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint,
                   computed_priority numeric, current_state text)
    language c volatile rows 5 as 'MODULE_PATHNAME', 'tasker_ready_tasks_at';
comment on function tasker._ready_tasks_at(integer, timestamptz) is
'get_next_ready_tasks() as if it were then. Internal, for tests.';
revoke all on function tasker.get_next_ready_tasks(integer), tasker.get_next_ready_task(),
    tasker._ready_tasks_at(integer, timestamptz) from public;
grant execute on function tasker.get_next_ready_tasks(integer), tasker.get_next_ready_task()
    to tasker_worker, tasker_observer, tasker_admin;
