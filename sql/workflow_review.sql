-- What a hard look at the engine has found.
\set VERBOSITY default
set client_min_messages = warning;
create schema wv;

-- Runs a statement; the words of what it says are enough.
create function wv.try(statement text) returns text language plpgsql as
$$
declare
    result text;
    more text;
begin
    execute statement into result;
    return coalesce(result, '(null)');
exception when others then
    get stacked diagnostics more = pg_exception_detail;
    return sqlstate || ' ' || regexp_replace(sqlerrm, '[0-9a-f]+-[-0-9a-f]+', '<uuid>', 'g') || coalesce(': ' || nullif(more, ''), '');
end
$$;

-- Names of steps that come on the way. A step knows the results of its parents by their names, so no two steps of a task
-- may have the same, whoever has given them.
select tasker.define_task('wv names', 't', '{"steps": [
    {"name": "plan", "handler": "h", "type": "batch"},
    {"name": "work", "handler": "h", "depends_on": ["plan"]},
    {"name": "work_2", "handler": "h", "depends_on": ["plan"]},
    {"name": "again", "handler": "h", "type": "batch"},
    {"name": "more", "handler": "h", "depends_on": ["again"]},
    {"name": "merge", "handler": "h", "type": "deferred", "depends_on": ["work", "work_2", "more"]}]}') is not null as defined;
select tasker.create_task('wv names', 't') is not null as created;
create table wv.held as select step_name, workflow_step_uuid, task_uuid from tasker.claim_steps('wv names', 2, 'me');
create function wv.plan(step text, steps text) returns text language sql volatile as
$$
select wv.try(format('select tasker.complete_step(%L, null, %L)', workflow_step_uuid, steps)) from wv.held where step_name = step
$$;
select wv.plan('plan', '[{"name": "work", "as": "merge"}]');
select wv.plan('plan', '[{"name": "work", "as": "again"}]');
select wv.plan('plan', '[{"name": "work", "as": "same"}, {"name": "work_2", "as": "same"}]');
-- Numbers go on behind names that are taken: by one that was given, or by another step of the template.
select wv.plan('plan', '["work", {"name": "work", "as": "work_1"}, "work", {"name": "work", "as": "work_4"}, "work_2"]');
select wv.plan('again', '[{"name": "more", "as": "work_4"}]');
select wv.plan('again', '[{"name": "more", "as": "work_3"}]');
select wv.plan('again', '[{"name": "more", "as": "more"}]');
-- Who has lost the step hears so, and not that there are such steps already.
select wv.plan('again', '[{"name": "more", "as": "more"}]');
select name from tasker.workflow_steps where task_uuid = (select task_uuid from wv.held limit 1) order by workflow_step_uuid;
select count(*) as completed from tasker.claim_steps('wv names', 100, 'me'),
    lateral tasker.complete_step(workflow_step_uuid, to_jsonb(step_name), lease_token => lease_token);
select step_name, dependency_results from tasker.claim_steps('wv names', 1, 'me');

-- Results that are too large for one object do not stand in the way of the claim, and of all that comes after it.
select tasker.define_task('wv large', 't', '{"steps": [
    {"name": "a", "handler": "h"}, {"name": "b", "handler": "h"},
    {"name": "z", "handler": "h", "depends_on": ["a", "b"]}]}') is not null as defined;
select tasker.create_task('wv large', 't') is not null as created;
select tasker.complete_step(workflow_step_uuid, to_jsonb(repeat('x', 34000000))) from tasker.claim_steps('wv large', 2, 'me');
select c.step_name, c.dependency_results is null as none, r.step_name as parent, length(r.results::text)
from tasker.claim_steps('wv large', 1, 'me') c, lateral tasker.step_results(c.workflow_step_uuid) r order by 3;

-- Decisions that create nothing take no lock of their own: there may be more of them in a call than the lock table has room for.
select tasker.define_task('wv choice', 't', '{"steps": [
    {"name": "d", "handler": "h", "type": "decision"}, {"name": "x", "handler": "h", "depends_on": ["d"]}]}') is not null as defined;
select cardinality(tasker.create_tasks('wv choice', 't', array['1', '2', '3']::jsonb[])) as created;
begin;
create temp table chosen on commit drop as select workflow_step_uuid from tasker.claim_steps('wv choice', 3, 'me') order by context;
create function wv.expansion_locks() returns bigint language sql volatile as
$$ select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'object' and classid = 'tasker.task'::regclass $$;
select tasker.complete_steps(array(select workflow_step_uuid from chosen limit 2));
select wv.expansion_locks();
select tasker.complete_step(workflow_step_uuid, null, '["x"]') from (select * from chosen offset 2) c;
select wv.expansion_locks();
commit;
-- An unknown step is an unknown step, also where its task is unknown or finished.
select wv.try('select tasker.complete_step(''ffffffff-ffff-7fff-bfff-ffff00000001'')');
select wv.try('select tasker.resolve_step_manually(''ffffffff-ffff-7fff-bfff-ffff00000001'', null, ''me'', null)');
select wv.try(format('select tasker.resolve_step_manually(%L, null, ''me'', null)', tasker.last_step_of(task_uuid)))
from tasker.tasks where namespace_name = 'wv choice' and context = '1';

-- A step whose record somebody has cancelled in the queue: nobody can claim it, and a reset brings it back.
select tasker.define_task('wv lost', 't', '{"steps": [{"name": "a", "handler": "h"}]}') is not null as defined;
select tasker.create_task('wv lost', 't', run_at => now() + interval '1 hour') is not null as created;
create function wv.lost() returns tasker.workflow_step language sql volatile as
$$ select s from tasker.workflow_step s join tasker.tasks t on t.task_uuid = tasker.task_of(workflow_step_uuid)
where namespace_name = 'wv lost' $$;
select tasker.reset_step((wv.lost()).workflow_step_uuid);
select count(*) as early from tasker.claim_steps('wv lost');
select tasker.cancel_records(array[(wv.lost()).record_id]) as cancelled;
select regexp_replace(problem, '\d{9,}', '<id>') as problem from tasker.check_integrity();
select tasker.reset_step((wv.lost()).workflow_step_uuid);
select regexp_replace(problem, '\d{9,}', '<id>') as problem from tasker.check_integrity();
select step_name, attempts, tasker.complete_step(workflow_step_uuid, lease_token => lease_token) from tasker.claim_steps('wv lost');

-- What may have to build the counts takes a snapshot of its own, which no leader of parallel workers may.
select proname from pg_proc where pronamespace = 'tasker'::regnamespace and proparallel <> 'u'
    and proname in ('find_stuck_tasks', 'get_stale_tasks_for_dlq', 'get_system_health_counts', 'get_next_ready_tasks', 'step_results');

drop schema wv cascade;
