-- Reading workflows: views, readiness, execution contexts, dependencies; all of it on histories that the engine has made.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;
create schema rd;

-- Steps of a task as people see them: name, state, and what readiness says of them.
create function rd.readiness(task uuid)
    returns table (name text, current_state text, deps boolean, eligible boolean, ready boolean, failed boolean,
        retry_in text, parents text, attempts text)
    language sql volatile as
$$
select r.name, r.current_state, r.dependencies_satisfied, r.retry_eligible, r.ready_for_execution,
    r.last_failure_at is not null,
    case when r.next_retry_at > now() + interval '30 minutes' then 'an hour' when r.next_retry_at is not null then 'soon' end,
    r.completed_parents || '/' || r.total_parents, r.attempts || '/' || r.max_attempts
from tasker.get_step_readiness_status(task) r
$$;
create function rd.context(task uuid)
    returns table (status text, counts text, execution_status text, recommended_action text, percent numeric, health text)
    language sql volatile as
$$
select c.status, concat_ws(' ', total_steps, pending_steps, in_progress_steps, completed_steps, failed_steps, ready_steps,
    enqueued_steps, waiting_for_retry_steps), c.execution_status, c.recommended_action, c.completion_percentage, c.health_status
from tasker.get_task_execution_context(task) c
$$;
-- Claims the next step and completes or fails it; a claim takes the step that became ready first.
create function rd.claim() returns table (step uuid, token bigint) language sql volatile as
$$ select workflow_step_uuid, lease_token from tasker.claim_steps('reading', 1, 'reader') $$;
create function rd.complete(result jsonb default '{}', steps jsonb default null) returns text language sql volatile as
$$ select tasker.complete_step(c.step, result, steps, c.token) from rd.claim() c $$;
create function rd.fail(retryable boolean default true, seconds int default 3600) returns text language sql volatile as
$$ select tasker.fail_step(c.step, '{"why": "test"}', retryable, seconds, c.token) from rd.claim() c $$;
create function rd.step(task uuid, step text) returns uuid language sql stable as
$$ select s.workflow_step_uuid from tasker.get_workflow_steps(task) s where s.name = step $$;

select tasker.define_task('reading', 'chain', '{"steps": [
    {"name": "a", "handler": "h", "inputs": {"from": "template"}},
    {"name": "b", "handler": "h", "depends_on": ["a"], "max_attempts": 1},
    {"name": "c", "handler": "h", "depends_on": ["a"]},
    {"name": "d", "handler": "h", "depends_on": ["b", "c"]}]}') is not null as defined;

-- From the first step to the last.
select tasker.create_task('reading', 'chain', '{"order": 1}', priority => 3, correlation_id => '00000000-0000-7000-8000-00000000aaaa',
    parent_correlation_id => '00000000-0000-7000-8000-00000000bbbb', tags => '{"kind": "test"}', initiator => 'me',
    source_system => 'here', reason => 'because', identity_key => 'read-1') as task \gset
select * from rd.context(:'task');
select * from rd.readiness(:'task');
select rd.complete('{"a": 1}');
select * from rd.context(:'task');
select * from rd.readiness(:'task');
select c.step as held, c.token as token from rd.claim() c \gset
select * from rd.context(:'task');
select rd.fail();
select * from rd.context(:'task');
select * from rd.readiness(:'task');
select tasker.complete_step(:'held', '{"b": 2}', lease_token => :token);
select * from rd.context(:'task');
-- A retry that is due is ready; the last failure is remembered whatever comes after it.
select tasker.retry_task(:'task');
select * from rd.readiness(:'task');
select * from rd.context(:'task');
select rd.complete('{"c": 3}');
select rd.complete('{"d": 4}');
select * from rd.context(:'task');
select * from rd.readiness(:'task');

-- The views.
select complete, requested_at = created_at as requested, completed_at = state_entered_at as completed, initiator,
    source_system, reason, tags, context, identity_key, abs(extract(epoch from now() - created_at)) < 60 as created_now,
    priority, correlation_id, parent_correlation_id, current_state, run_at, total_steps, task_name, namespace_name, version
from tasker.tasks where task_uuid = :'task';
select name, task_uuid = :'task' as task, retryable, max_attempts, in_process, processed, processed_at is not null as at,
    attempts, inputs, results, priority, current_state, total_parents, completed_parents, processor, error, handler, step_type
from tasker.workflow_steps where task_uuid = :'task' order by workflow_step_uuid;
select f.name as parent, t.name as child, e.name, e.task_uuid = :'task' as task
from tasker.workflow_step_edges e
join tasker.workflow_steps f on f.workflow_step_uuid = e.from_step_uuid
join tasker.workflow_steps t on t.workflow_step_uuid = e.to_step_uuid
where e.task_uuid = :'task' order by 1, 2;
select sort_key, from_state, to_state, most_recent from tasker.task_transitions where task_uuid = :'task' order by sort_key;
select sort_key, from_state, to_state, processor, most_recent from tasker.get_workflow_step_transitions(rd.step(:'task', 'c'));
select count(*) filter (where most_recent) = 4 as one_each, bool_and(most_recent = (to_state = 'complete')) as the_last
from tasker.workflow_step_transitions where task_uuid = :'task';
select count(*) from tasker.get_workflow_step_transitions(:'task');
select count(*) from tasker.get_task_transitions(:'task') where most_recent and to_state = tasker.get_current_task_state(:'task');
select string_agg(s.name || ' ' || tasker.get_current_step_state(s.workflow_step_uuid), ', ' order by s.name)
from tasker.get_workflow_steps(:'task') s;
select tasker.uuid_time(:'task') = tasker.uuid_time(rd.step(:'task', 'd')) as a_step_has_the_time_of_its_task;

-- Blocked, cancelled, scheduled for later.
select tasker.create_task('reading', 'chain') as blocked \gset
select rd.complete(), rd.fail(false);
select * from rd.context(:'blocked');
select * from rd.readiness(:'blocked');
select execution_status from tasker.task_execution_contexts where task_uuid = :'blocked';
select tasker.cancel_task(:'blocked', 'enough');
select * from rd.context(:'blocked');
select tasker.create_task('reading', 'chain', run_at => now() + interval '1 hour') as later \gset
select * from rd.context(:'later');
select * from rd.readiness(:'later');

-- Several tasks, some steps of them; what does not exist is left out.
select name, current_state from tasker.get_step_readiness_status(:'task', array[rd.step(:'task', 'd'), rd.step(:'later', 'a'),
    rd.step(:'task', 'a'), rd.step(:'task', 'd'), gen_random_uuid(), :'task']);
select case task_uuid when :'task' then 'task' when :'later' then 'later' end as task, name
from tasker.get_step_readiness_status_batch(array[:'later', :'task', :'later', gen_random_uuid()]::uuid[])
where name in ('a', 'd');
select name from tasker.get_step_readiness_status_batch(array[:'later', :'task']::uuid[], array[rd.step(:'blocked', 'a'), rd.step(:'later', 'b')]);
select case task_uuid when :'task' then 'task' when :'later' then 'later' end as task, execution_status
from tasker.get_task_execution_contexts_batch(array[:'later', :'task', :'later', gen_random_uuid()]::uuid[]);
select count(*) from tasker.get_step_readiness_status(gen_random_uuid());
select count(*) from tasker.get_task_execution_context(gen_random_uuid());
select count(*) from tasker.get_step_readiness_status_batch('{}');
select tasker.get_current_task_state(gen_random_uuid()), tasker.get_current_step_state(:'task');
select qt.try('select count(*) from tasker.get_step_readiness_status(null)');
select qt.try('select count(*) from tasker.get_step_readiness_status_batch(array[null]::uuid[])');
select qt.try('select count(*) from tasker.get_task_execution_contexts_batch(null)');
select qt.try('select tasker.get_current_task_state(null)');

-- What get_next_ready_tasks() would say of a task.
select task_name, priority, namespace_name, ready_steps_count, round(computed_priority, 2), current_state
from tasker.get_task_ready_info(:'later');
select tasker.create_task('reading', 'chain', priority => 5) as aged \gset
-- It counts as its best ready step, like there; the step's time is that since which it is ready.
select r.computed_priority - t.computed_priority between -0.001 and 0.001 as same, r.ready_steps_count = t.ready_steps_count as same, t.priority
from tasker.get_next_ready_tasks(1000) r, tasker.get_task_ready_info(r.task_uuid) t where r.task_uuid = :'aged';
create function rd.priority_after(task uuid, since interval) returns numeric language sql volatile as
$$
update tasker.workflow_step set state_entered_at = clock_timestamp() - since where workflow_step_uuid = rd.step(task, 'a');
select round(computed_priority, 3) from tasker.get_task_ready_info(task);
$$;
select rd.priority_after(:'aged', h * interval '1 hour') as "computed after", h as hours from unnest('{0.5,2,12,23.9,24.1}'::numeric[]) h;
-- Without one, by its own time.
select tasker.cancel_task(:'aged', 'seen');
select ready_steps_count, round(computed_priority, 2), current_state from tasker.get_task_ready_info(:'aged');

-- Graphs: a decision that creates a branch, whose steps a deferred step then waits for.
select tasker.define_task('reading', 'branches', '{"steps": [
    {"name": "first", "handler": "h"},
    {"name": "choose", "handler": "h", "type": "decision", "depends_on": ["first"]},
    {"name": "left", "handler": "h", "depends_on": ["choose"]},
    {"name": "right", "handler": "h", "depends_on": ["choose"]},
    {"name": "join", "handler": "h", "type": "deferred", "depends_on": ["left", "right"]},
    {"name": "aside", "handler": "h", "depends_on": ["first"]}]}') is not null as defined;
select tasker.create_task('reading', 'branches') as branches \gset
select rd.complete(), rd.complete(steps => '["right"]');
select s.name, l.dependency_level from tasker.calculate_dependency_levels(:'branches') l
join tasker.get_workflow_steps(:'branches') s using (workflow_step_uuid) order by 2, 1;
select step_name, processed, results, distance from tasker.get_step_transitive_dependencies(rd.step(:'branches', 'join'));
select s.name, parent_count, child_count, is_root_step, is_leaf_step, min_depth_from_root
from tasker.get_step_dag_relationships(:'branches') r
join tasker.get_workflow_steps(:'branches') s using (workflow_step_uuid) order by s.workflow_step_uuid;
select count(*) from tasker.get_step_transitive_dependencies(rd.step(:'branches', 'first'));
select count(*) from tasker.calculate_dependency_levels(gen_random_uuid());
select qt.try('select count(*) from tasker.calculate_dependency_levels(null)');

-- All of it against the plain definitions, over all tasks here.
create view rd.task as select task_uuid from tasker.tasks where namespace_name = 'reading';
create view rd.plain_step as
select s.workflow_step_uuid as step, s.current_state, s.attempts, s.max_attempts, s.retryable, s.next_retry_at,
    (select count(*) from tasker.workflow_step_edges e where e.to_step_uuid = s.workflow_step_uuid) as parents,
    (select count(*) from tasker.workflow_step_edges e join tasker.workflow_steps p on p.workflow_step_uuid = e.from_step_uuid
     where e.to_step_uuid = s.workflow_step_uuid and p.current_state in ('complete', 'resolved_manually')) as done,
    (select max(l.created_at) from tasker.workflow_step_transitions l where l.workflow_step_uuid = s.workflow_step_uuid
        and (l.to_state = 'enqueued_as_error_for_orchestration' or l.to_state = 'error')) as failed_at
from tasker.workflow_steps s join rd.task using (task_uuid);
select count(*) > 15 as some,
    bool_and(r.total_parents = p.parents and r.completed_parents = p.done) as parents,
    bool_and(r.dependencies_satisfied = (p.parents = p.done)) as dependencies,
    bool_and(r.retry_eligible = (p.attempts = 0 or p.retryable and p.attempts < p.max_attempts)) as eligible,
    bool_and(r.ready_for_execution = (p.current_state in ('enqueued', 'waiting_for_retry') and p.parents = p.done
        and coalesce(p.next_retry_at <= now(), true))) as ready,
    bool_and((r.last_failure_at is null) = (p.failed_at is null)) as failures
from rd.task, tasker.get_step_readiness_status(task_uuid) r join rd.plain_step p on p.step = r.workflow_step_uuid;
(select * from tasker.step_readiness_statuses where task_uuid in (table rd.task)
 except select r.* from rd.task, tasker.get_step_readiness_status(rd.task.task_uuid) r)
union all
(select r.* from tasker.get_step_readiness_status_batch(array(select task_uuid from rd.task)) r
 except select * from tasker.step_readiness_statuses);
select c.task_uuid from tasker.task_execution_contexts c join rd.task using (task_uuid)
where (c.total_steps, c.pending_steps, c.in_progress_steps, c.completed_steps, c.failed_steps, c.enqueued_steps, c.ready_steps)
    <> (select count(*), count(*) filter (where current_state = 'pending'), count(*) filter (where current_state = 'in_progress'),
        count(*) filter (where current_state in ('complete', 'resolved_manually')), count(*) filter (where current_state = 'error'),
        count(*) filter (where current_state like 'enqueued%'), count(*) filter (where ready_for_execution)
        from tasker.get_step_readiness_status(c.task_uuid));
with recursive way (task, step, length) as (
    select t.task_uuid, s.workflow_step_uuid, 0 from rd.task t, tasker.get_workflow_steps(t.task_uuid) s
    where not exists (select from tasker.workflow_step_edges e where e.to_step_uuid = s.workflow_step_uuid)
    union all
    select w.task, e.to_step_uuid, w.length + 1 from way w join tasker.workflow_step_edges e on e.from_step_uuid = w.step)
select task, step, max(length), min(length) from way group by 1, 2
except
select t.task_uuid, l.workflow_step_uuid, l.dependency_level, r.min_depth_from_root
from rd.task t, tasker.calculate_dependency_levels(t.task_uuid) l, tasker.get_step_dag_relationships(t.task_uuid) r
where l.workflow_step_uuid = r.workflow_step_uuid;
with recursive above (step, ancestor, distance) as (
    select to_step_uuid, from_step_uuid, 1 from rd.task t, tasker.get_workflow_step_edges(t.task_uuid)
    union all
    select a.step, e.from_step_uuid, a.distance + 1 from above a join tasker.workflow_step_edges e on e.to_step_uuid = a.ancestor),
plain as (select step, ancestor, min(distance) as distance from above group by 1, 2),
found as (select s.workflow_step_uuid as step, d.workflow_step_uuid as ancestor, d.distance
    from rd.task t, tasker.get_workflow_steps(t.task_uuid) s, tasker.get_step_transitive_dependencies(s.workflow_step_uuid) d)
(table plain except table found) union all (table found except table plain);
select count(*) as differ from (
    (select * from tasker.step_dag_relationships where task_uuid in (table rd.task)
     except select r.* from rd.task t, tasker.get_step_dag_relationships(t.task_uuid) r)
    union all
    (select r.* from rd.task t, tasker.get_step_dag_relationships(t.task_uuid) r
     except select * from tasker.step_dag_relationships where task_uuid in (table rd.task))) d;

-- A transaction sees what it has done itself, and not what it has taken back.
begin;
select tasker.create_task('reading', 'chain', priority => 9) as mine \gset
select execution_status from rd.context(:'mine');
savepoint s;
select rd.complete();
select percent from rd.context(:'mine');
rollback to s;
select percent from rd.context(:'mine');
rollback;
select count(*) from rd.context(:'mine');

-- Rights: an observer reads everything, a worker what he needs to go on, others nothing.
create role regress_rd_observer in role tasker_observer;
create role regress_rd_nobody;
set role regress_rd_observer;
select execution_status, completion_percentage from tasker.get_task_execution_context(:'task');
select count(*) from tasker.get_step_readiness_status(:'task');
select count(*) from tasker.get_workflow_steps(:'task');
select count(*) from tasker.workflow_step_transitions where task_uuid = :'task' and most_recent;
select count(*) from tasker.task_execution_contexts where task_uuid = :'task';
select ready_steps_count from tasker.get_task_ready_info(:'task');
select count(*) from tasker.task where task_uuid = :'task';
set role regress_rd_nobody;
select count(*) from tasker.tasks;
select tasker.get_current_task_state(:'task');
reset role;
drop role regress_rd_observer, regress_rd_nobody;

select tasker.cancel_task(:'later', 'seen'), tasker.cancel_task(:'branches', 'seen');
drop schema rd cascade;
