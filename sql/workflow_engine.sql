-- Creating tasks, claiming and finishing their steps: what is written, what is answered, and what is refused. The output
-- holds no uuid, token or time.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;
create schema we;

-- Runs a statement; uuids and tokens do not show.
create function we.try(statement text) returns text language sql volatile as
$$ select regexp_replace(qt.try(statement), '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', '<uuid>', 'g') $$;
-- Tasks are told apart by the "mark" of their context.
create function we.task(mark text) returns uuid language sql volatile as
$$ select task_uuid from tasker.tasks where context ->> 'mark' = mark $$;
create function we.step(mark text, name text) returns uuid language sql volatile as
$$ select workflow_step_uuid from tasker.get_workflow_steps(we.task(mark)) s where s.name = $2 $$;
create function we.token(mark text, name text) returns bigint language sql volatile as
$$
select r.lease_token from tasker.get_workflow_steps(we.task(mark)) s join tasker.queue_record r on r.id = s.record_id
where s.name = $2
$$;
create function we.state(mark text) returns text language sql volatile as
$$ select current_state from tasker.tasks where task_uuid = we.task(mark) $$;
create function we.steps(mark text)
    returns table (step text, state text, tries text, waits text, record text, due text, priority int, results jsonb, error jsonb)
    language sql volatile as
$$
select s.name, s.current_state, s.attempts || '/' || s.max_attempts, s.total_parents - s.completed_parents || '/' || s.total_parents,
    q.status, case when s.next_retry_at > clock_timestamp() then 'later' when s.next_retry_at is not null then 'now' end,
    s.priority, s.results, s.error
from tasker.get_workflow_steps(we.task(mark)) s left join tasker.processing_queue q on q.id = s.record_id
order by s.workflow_step_uuid
$$;
create function we.log(mark text, name text default null) returns text language sql volatile as
$$
select string_agg(coalesce(from_state, '') || '>' || to_state, ' ' order by sort_key)
from (select from_state, to_state, sort_key from tasker.get_task_transitions(we.task(mark)) where $2 is null
      union all
      select from_state, to_state, sort_key from tasker.get_workflow_step_transitions(we.step(mark, $2)) where $2 is not null) l
$$;
-- Claims what there is, and says what came, in the order of the steps.
create function we.claim(batch int default 100, handlers text[] default null, namespace text default 'we') returns text
    language sql volatile as
$$
select coalesce(string_agg(c.context ->> 'mark' || ':' || c.step_name, ' ' order by c.context ->> 'mark', c.workflow_step_uuid), 'nothing')
from tasker.claim_steps(namespace, batch, 'w', handlers => handlers) c
$$;
create function we.done(mark text, name text, results jsonb default null) returns text language sql volatile as
$$ select we.try(format('select tasker.complete_step(%L, %L)', we.step(mark, name), results)) $$;
create function we.failed(mark text, name text, retryable boolean default true, backoff int default 0) returns text
    language sql volatile as
$$ select we.try(format('select tasker.fail_step(%L, %L, %L, %L)', we.step(mark, name), '{"message": "it broke"}', retryable, backoff)) $$;
-- What must not change when a call fails.
create function we.fingerprint() returns text language sql volatile as
$$
select md5(concat_ws('/', qt.fingerprint(),
    (select string_agg(md5(t::text), ',' order by task_uuid) from tasker.task t),
    (select string_agg(md5(s::text), ',' order by workflow_step_uuid) from tasker.workflow_step s),
    (select string_agg(md5(e::text), ',' order by from_step_uuid, to_step_uuid) from tasker.workflow_step_edge e),
    (select count(*) from tasker.task_transition), (select count(*) from tasker.workflow_step_transition),
    (select count(*) from tasker.task_identity)))
$$;

select tasker.define_task('we', 'diamond', '{"steps": [
    {"name": "top", "inputs": {"deep": [1, null]}, "max_attempts": 2, "backoff": {"base_seconds": 100, "jitter": 0}},
    {"name": "left", "depends_on": ["top"], "priority": 9}, {"name": "right", "depends_on": ["top"], "timeout_seconds": 3600},
    {"name": "bottom", "depends_on": ["left", "right"]}]}') is not null as defined;
select tasker.define_task('we', 'solo', '{"steps": [{"name": "only"}]}') is not null as defined;

-- --- creating --------------------------------------------------------------------------------------------------

select tasker.create_task('we', 'diamond', '{"mark": "a"}') = we.task('a') as same;
select task_name, namespace_name, version, current_state, priority, total_steps, complete, completed_at, initiator,
    source_system, reason, tags, identity_key, parent_correlation_id, run_at, correlation_id = task_uuid as own_correlation,
    created_at <= clock_timestamp() as created, task_uuid = tasker.task_of(task_uuid) as is_task
from tasker.tasks where task_uuid = we.task('a');
select * from we.steps('a');
select name, handler, step_type, inputs, retryable, tasker.task_of(workflow_step_uuid) = we.task('a') as own from
tasker.get_workflow_steps(we.task('a')) order by workflow_step_uuid;
select f.name, t.name from tasker.get_workflow_step_edges(we.task('a')) e
join tasker.workflow_steps f on f.workflow_step_uuid = e.from_step_uuid
join tasker.workflow_steps t on t.workflow_step_uuid = e.to_step_uuid order by 1, 2;
select we.log('a'), we.log('a', 'top'), we.log('a', 'left');

-- Everything that can be said of a task.
select tasker.create_task('we', 'solo', '{"mark": "b"}', '0.1.0', 7, 'b''s "key"', '00000000-0000-0000-0000-00000000000b',
    '00000000-0000-0000-0000-00000000000a', '{"tag": ["x"]}', 'who''s', 'where', 'why', 'yesterday') = we.task('b') as same;
select version, current_state, priority, identity_key, correlation_id, parent_correlation_id, tags, initiator, source_system,
    reason, run_at < now() as past from tasker.tasks where task_uuid = we.task('b');
select * from we.steps('b');
-- Scheduled: it rests in pending until its first step is claimed.
select tasker.create_task('we', 'solo', '{"mark": "later"}', run_at => now() + interval '1 day') = we.task('later') as same;
select we.state('later'), we.log('later'), we.log('later', 'only');
select * from we.steps('later');
select ready_for_execution, dependencies_satisfied from tasker.get_step_readiness_status(we.task('later'));

-- An identity key is good for as long as its task exists.
select tasker.create_task('we', 'solo', '{"mark": "other"}', identity_key => 'b''s "key"') = we.task('b') as same;
select we.task('other');
select tasker.create_task('we', 'diamond', '{"mark": "c"}', identity_key => 'b''s "key"') = we.task('c') as of_another_template;
begin;
select tasker.create_task('we', 'solo', '{"mark": "gone"}', identity_key => 'once') is not null as created;
rollback;
select tasker.create_task('we', 'solo', '{"mark": "d"}', identity_key => 'once') = we.task('d') as free_again;

-- Many at once, in the order of their contexts.
select tasker.create_tasks('we', 'solo', array['{"mark": "e1"}', '{"mark": "e2"}', '{"mark": "e3"}']::jsonb[],
    identity_keys => array['e', null, 'f']) as tasks \gset
select t.context ->> 'mark' as mark, identity_key from unnest(:'tasks'::uuid[]) with ordinality u (task_uuid, o)
join tasker.tasks t using (task_uuid) order by o;
select tasker.create_tasks('we', 'solo', array['{"mark": "e4"}', '{"mark": "e5"}', '{"mark": "e6"}']::jsonb[],
    identity_keys => array['f', 'g', 'g']) = array[we.task('e3'), we.task('e5'), we.task('e5')] as same;
select we.task('e4'), we.task('e6');
select tasker.create_tasks('we', 'solo', '{}');

-- Odd names.
select tasker.define_task('we"''\ ü', 'it''s "odd" \', '{"steps": [{"name": "a''b\"c\\d", "handler": "h''\"/x"},
    {"name": "☃ %s", "handler": "h''\"/x", "depends_on": ["a''b\"c\\d"]}]}', 'v''1"') is not null as defined;
select tasker.create_task('we"''\ ü', 'it''s "odd" \', '{"mark": "odd"}', 'v''1"') is not null as created;
select * from we.steps('odd');
select we.claim(10, array['h''"/x'], 'we"''\ ü');
select we.done('odd', 'a''b"c\d', '"r"');
select step_name, dependency_results, handler, task_name from tasker.claim_steps('we"''\ ü');
select we.done('odd', '☃ %s');

-- A task stays on the version that it began with; a new one is of the version that was defined last.
select tasker.create_task('we', 'solo', '{"mark": "old"}') is not null as created;
select tasker.define_task('we', 'solo', '{"steps": [{"name": "first"}, {"name": "second", "depends_on": ["first"]}]}', '2') is not null;
select tasker.create_task('we', 'solo', '{"mark": "new"}') is not null, tasker.create_task('we', 'solo', '{"mark": "old 2"}', '0.1.0') is not null;
select context ->> 'mark' as mark, version, total_steps from tasker.tasks where context ->> 'mark' in ('old', 'new', 'old 2') order by 1;
select we.claim(100, '{only,first}');
select we.done('old', 'only'), we.done('old 2', 'only'), we.done('new', 'first');

-- What is refused; nothing is left of it.
select we.fingerprint() as before \gset
select call, we.try('select tasker.' || call) as answer from unnest(array[
    $$create_task(null, 'solo')$$,
    $$create_task('', 'solo')$$,
    $$create_task('we', null)$$,
    $$create_task('nowhere', 'solo')$$,
    $$create_task('we', 'nothing')$$,
    $$create_task('we', 'it''s "not" there')$$,
    $$create_task('we', 'solo', version => '9')$$,
    $$create_task('we', 'solo', version => '')$$,
    $$create_task('we', 'solo', null)$$,
    $$create_task('we', 'solo', priority => -1)$$,
    $$create_task('we', 'solo', priority => 10)$$,
    $$create_task('we', 'solo', priority => null)$$,
    $$create_task('we', 'solo', run_at => 'infinity')$$,
    $$create_task('we', 'solo', run_at => '-infinity')$$,
    $$create_task('we', 'solo', identity_key => '')$$,
    $$create_task('we', 'solo', identity_key => repeat('x', 1025))$$,
    $$create_task(repeat('x', 200), 'solo')$$,
    $$create_tasks('we', 'solo', null)$$,
    $$create_tasks('we', 'solo', array['{}', null]::jsonb[])$$,
    $$create_tasks('we', 'solo', array[array['{}'], array['{}']]::jsonb[])$$,
    $$create_tasks('we', 'solo', array['{}']::jsonb[], identity_keys => array['a', 'b'])$$,
    $$create_tasks('we', 'solo', array['{}', '{}']::jsonb[], identity_keys => array['fresh', ''])$$,
    $$create_tasks('we', 'solo', array['{}']::jsonb[], priority => 11)$$]) with ordinality c (call, o) order by o;
begin read only;
select tasker.create_task('we', 'solo');
rollback;
select we.fingerprint() = :'before' as unchanged;

-- --- claiming --------------------------------------------------------------------------------------------------

select step_name, handler, task_name, attempts, inputs, context, dependency_results, checkpoint,
    workflow_step_uuid = we.step('a', 'top') as step, task_uuid = we.task('a') as task, correlation_id = we.task('a') as correlation,
    lease_token = we.token('a', 'top') as token, lease_expires_at > clock_timestamp() as lease
from tasker.claim_steps('we', 1, 'the "worker"', handlers => '{top}');
select current_state, in_process, processor like 'the "worker"%' as processor, last_attempted_at <= clock_timestamp() as attempted
from tasker.workflow_steps where workflow_step_uuid = we.step('a', 'top');
select we.log('a', 'top');
-- Nothing is left for these handlers, or nothing at all.
select we.claim(5, '{left,right}'), we.claim(1, '{bottom}');
-- A step's priority, or its task's, decides in its flow.
select tasker.create_task('we', 'diamond', jsonb_build_object('mark', 'p' || p), priority => p) is not null from unnest('{3,9,0,5}'::int[]) p;
select we.claim(2, '{top}');
select we.claim(3, '{top}');
-- A step's timeout is the longest lease.
select tasker.complete_steps(array_agg(we.step('p' || p, 'top'))) from unnest('{3,9,0,5}'::int[]) p;
create function we.lease(lease interval, handler text) returns text language sql volatile as
$$
select string_agg(round(extract(epoch from lease_expires_at - clock_timestamp()) / 60) || ' minutes', ' ')
from tasker.claim_steps('we', 1, 'w', lease, array[handler])
$$;
select we.lease(null, 'right'), we.lease('2 hours', 'right'), we.lease('30 minutes', 'right'), we.lease('2 hours', 'left');
-- One from all, and none twice.
select we.claim(1000);
select we.claim(1000);

select we.fingerprint() as before \gset
select call, we.try('select count(*) from tasker.' || call) as answer from unnest(array[
    $$claim_steps(null)$$,
    $$claim_steps('nowhere')$$,
    $$claim_steps('')$$,
    $$claim_steps('we', 0)$$,
    $$claim_steps('we', -1)$$,
    $$claim_steps('we', null)$$,
    $$claim_steps('we', 1, '')$$,
    $$claim_steps('we', 1, lease => '0')$$,
    $$claim_steps('we', 1, lease => '-1 second')$$,
    $$claim_steps('we', 1, lease => '1 month -30 days')$$,
    $$claim_steps('we', 1, handlers => '{top,"no such"}')$$,
    $$claim_steps('we', 1, handlers => array['top', null])$$,
    $$claim_steps('we', 1, handlers => array[array['top'], array['left']])$$,
    $$claim_steps('we', 1, handlers => '{}')$$]) with ordinality c (call, o) order by o;
begin read only;
select count(*) from tasker.claim_steps('we');
rollback;
select we.fingerprint() = :'before' as unchanged;

-- A claim that is taken back has not happened.
select tasker.create_task('we', 'diamond', '{"mark": "back"}') is not null as created;
begin;
select we.claim(1, '{top}');
savepoint s;
select we.done('back', 'top', '1');
select we.claim(1, '{left}');
rollback to s;
select step, state, tries, waits, record from we.steps('back');
rollback;
select step, state, tries, waits, record, results from we.steps('back');
select we.log('back'), we.log('back', 'top');

-- --- completing ------------------------------------------------------------------------------------------------

select we.claim(1, '{top}');
select we.done('back', 'top', '{"rows": [1, 2]}');
select * from we.steps('back');
select we.state('back'), we.log('back', 'left');
select step_name, dependency_results from tasker.claim_steps('we', 10, handlers => '{left,right}') order by 1;
-- Results may be null, or any JSON.
select we.done('back', 'right'), we.done('back', 'left', '"text"');
select step_name, attempts, inputs, dependency_results from tasker.claim_steps('we', 10, handlers => '{bottom}');
select step_name, results from tasker.step_results(we.step('back', 'bottom')) order by 1;
select step_name, results from tasker.step_results(we.step('back', 'top'));
select step_name, results from tasker.step_results(we.step('a', 'bottom'));
select we.done('back', 'bottom', 'null');
select * from we.steps('back');
select we.log('back');
select complete, completed_at is not null as completed_at from tasker.tasks where task_uuid = we.task('back');
select execution_status, recommended_action, completion_percentage, health_status from tasker.get_task_execution_context(we.task('back'));

-- A token counts only for the claim that gave it.
select we.token('a', 'top') as token \gset
select we.try(format('select tasker.complete_step(%L, null, null, %s)', we.step('a', 'top'), :token + 1));
select we.try(format('select tasker.fail_step(%L, ''{}'', true, null, %s)', we.step('a', 'top'), :token + 1));
select we.try(format('select tasker.complete_step(%L, ''1'', null, %s)', we.step('a', 'top'), :token));
select we.try(format('select tasker.complete_step(%L, ''2'', null, %s)', we.step('a', 'top'), :token));

select we.fingerprint() as before \gset
select call, we.try('select tasker.' || call) as answer from unnest(array[
    $$complete_step(null)$$,
    $$complete_step('00000000-0000-7000-8000-000000000001')$$,
    $$complete_step(gen_random_uuid())$$,
    $$complete_step(we.task('a'))$$,
    $$complete_step((overlay(we.task('a')::text placing '00000063' from 29))::uuid)$$,
    $$complete_step(we.step('a', 'top'))$$,
    $$complete_step(we.step('a', 'left'))$$,
    $$complete_step(we.step('a', 'bottom'))$$,
    $$complete_steps(null)$$,
    $$complete_steps('{}')$$,
    $$complete_steps(array[null]::uuid[])$$,
    $$complete_steps(array[we.step('p3', 'right'), we.step('p3', 'right')])$$,
    $$complete_steps(array[we.step('p3', 'right'), we.step('a', 'bottom')])$$,
    $$complete_steps(array[we.step('p3', 'right')], array['1', '2']::jsonb[])$$,
    $$complete_steps(array[we.step('p3', 'right')], null, array[1, 2])$$,
    $$complete_steps(array[we.step('p3', 'right')], null, array[1])$$,
    $$step_results(null)$$,
    $$step_results(gen_random_uuid())$$,
    $$step_results(we.task('a'))$$,
    $$fail_step(null, '{}')$$,
    $$fail_step(gen_random_uuid(), '{}')$$,
    $$fail_step(we.task('a'), '{}')$$,
    $$fail_step(we.step('a', 'top'), '{}')$$,
    $$fail_step(we.step('p3', 'right'), null)$$,
    $$fail_step(we.step('p3', 'right'), '{}', null)$$,
    $$fail_step(we.step('p3', 'right'), '{}', true, -1)$$,
    $$fail_step(we.step('p3', 'right'), '{}', true, null, 1)$$]) with ordinality c (call, o) order by o;
begin read only;
select tasker.complete_step(we.step('p3', 'right'));
rollback;
begin read only;
select tasker.fail_step(we.step('p3', 'right'), '{}');
rollback;
begin read only;
select tasker.complete_steps(array[we.step('p3', 'right')]);
rollback;
select we.fingerprint() = :'before' as unchanged;

-- Several steps of several tasks at once; a child whose parents they are is enqueued once.
select step, state from we.steps('p3');
select tasker.complete_steps(array[we.step('p3', 'right'), we.step('p9', 'left'), we.step('p3', 'left')],
    array['"r"', null, '"l"']::jsonb[], array[null, we.token('p9', 'left'), we.token('p3', 'left')]);
select step, state, waits, record, results from we.steps('p3');
select step, state, waits, record, results from we.steps('p9');
select we.state('p3'), we.state('p9');

-- --- failing ---------------------------------------------------------------------------------------------------

select tasker.create_tasks('we', 'diamond', array['{"mark": "f1"}', '{"mark": "f2"}', '{"mark": "f3"}', '{"mark": "f4"}']::jsonb[]) is not null;
select we.claim(4, '{top}');
-- After the template's delay, or the worker's.
select we.try(format('select tasker.fail_step(%L, ''{"message": "slow", "code": 7}'')', we.step('f1', 'top')));
select we.failed('f2', 'top'), we.failed('f3', 'top', false), we.failed('f4', 'top', true, 3600);
select m, s.*, r.backoff_request_seconds, r.retry_eligible, r.ready_for_execution, r.last_failure_at is not null as failed,
    extract(epoch from r.next_retry_at - r.last_failure_at)::int as delay, we.state(m)
from unnest('{f1,f2,f3,f4}'::text[]) m, we.steps(m) s,
    lateral (select * from tasker.get_step_readiness_status(we.task(m), array[we.step(m, s.step)])) r where s.step = 'top';
select we.log('f2'), we.log('f2', 'top'), we.log('f3'), we.log('f3', 'top');
select health_status, execution_status from unnest('{f1,f2,f3,f4}'::text[]) m, tasker.get_task_execution_context(we.task(m));
-- What the queue shows of it: the message, and what has failed for good is a dead letter.
select status, error_message from tasker.processing_queue q
where payload #>> '{}' in (select we.step(m, 'top')::text from unnest('{f1,f2,f3,f4}'::text[]) m) order by id;
-- The second attempt is the last one.
select step_name, attempts, dependency_results from tasker.claim_steps('we', 5, handlers => '{top}');
select we.state('f2'), due, tries from we.steps('f2') where step = 'top';
select we.failed('f2', 'top'), we.state('f2');
select * from we.steps('f2');
select we.claim(5, '{top}');
-- Other branches of a task go on beside a failure.
select tasker.define_task('we', 'pair', '{"steps": [{"name": "bad", "retryable": false}, {"name": "good"}, {"name": "after", "depends_on": ["good"]}]}') is not null;
select tasker.create_task('we', 'pair', '{"mark": "pair"}') is not null;
select we.claim(2, '{bad,good}');
select we.failed('pair', 'bad'), we.state('pair');
select we.done('pair', 'good'), we.claim(1, '{after}'), we.done('pair', 'after');
select step, state, tries, waits, record from we.steps('pair');
select we.log('pair');
-- Delays beyond all reason are a very long time.
select tasker.create_task('we', 'pair', '{"mark": "far"}') is not null, we.claim(1, '{good}');
select we.failed('far', 'good', true, 2147483647);
select extract(year from next_retry_at) > 2080 as far from tasker.workflow_steps where workflow_step_uuid = we.step('far', 'good');

-- --- completing what had begun before its parent was reset ----------------------------------------------------------

select tasker.define_task('we', 'chain', '{"steps": [{"name": "one"}, {"name": "two", "depends_on": ["one"]}, {"name": "three", "depends_on": ["two"]}]}') is not null;
select tasker.create_task('we', 'chain', '{"mark": "again"}') is not null, we.claim(1, '{one}'), we.done('again', 'one'), we.claim(1, '{two}');
select tasker.reset_step(we.step('again', 'one'));
select we.claim(1, '{one}');
select step, state, waits from we.steps('again');
-- The parent and the child in one call: the child does not wait for the parent any more.
select tasker.complete_steps(array[we.step('again', 'one'), we.step('again', 'two')]);
select step, state, waits, record from we.steps('again');
select we.claim(1, '{three}'), we.done('again', 'three');
-- A step that is reset where it waits for its time goes on waiting for it.
select tasker.create_task('we', 'chain', '{"mark": "timed"}', run_at => now() + interval '1 day') is not null;
select tasker.reset_step(we.step('timed', 'one'));
select step, state, record, due from we.steps('timed') where step = 'one';
select ready_for_execution from tasker.get_step_readiness_status(we.task('timed')) where name = 'one';
-- One that is resolved by hand does not wait for its retry any more.
select tasker.create_task('we', 'chain', '{"mark": "hand"}') is not null, we.claim(1, '{one}'), we.failed('hand', 'one', true, 3600);
select tasker.resolve_step_manually(we.step('hand', 'one'), '1', 'me', 'why');
select step, state, record, due from we.steps('hand');

-- --- rights ----------------------------------------------------------------------------------------------------

create role regress_we_producer in role tasker_producer;
create role regress_we_worker in role tasker_worker;
create role regress_we_observer in role tasker_observer;
create role regress_we_admin in role tasker_admin;
create role regress_we_nobody;
grant usage on schema qt, we to public;
create function we.try_as(role text, statement text) returns text language plpgsql as
$$
declare
    answer text;
begin
    execute format('set local role %I', role);
    answer := qt.try(statement);
    reset role;
    return case when answer like 'returned%' then 'may' else substr(answer, 1, 5) end;
end
$$;
select c.call, string_agg(we.try_as('regress_we_' || r, 'select count(*) from tasker.' || c.call), ' ' order by o2) as
    "nobody producer worker observer admin"
from unnest(array[$$create_task('we', 'pair')$$, $$create_tasks('we', 'pair', '{}')$$, $$claim_steps('we', 1, handlers => '{}')$$,
    $$step_results('00000000-0000-7000-8000-000000000001')$$, $$complete_step('00000000-0000-7000-8000-000000000001')$$,
    $$complete_steps('{}')$$, $$fail_step('00000000-0000-7000-8000-000000000001', '{}')$$]) with ordinality c (call, o1),
    unnest('{nobody,producer,worker,observer,admin}'::text[]) with ordinality r (r, o2) group by o1, c.call order by o1;
revoke usage on schema qt, we from public;
drop role regress_we_producer, regress_we_worker, regress_we_observer, regress_we_admin, regress_we_nobody;

select * from tasker.check_workflow_integrity();
-- What is left is ended, so that nobody finds it later.
select count(*) > 0 as cancelled from (select tasker.cancel_task(task_uuid) from tasker.tasks
    where namespace_name in ('we', E'we"''\\ ü') and current_state not in ('complete', 'cancelled')) c;
select * from tasker.check_workflow_integrity();
