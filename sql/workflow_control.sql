-- Steering: checkpoints, leases, giving back, back-off; cancel, retry, reset, resolve, transition. What each does to the
-- task, its steps, their attempts and their records, and what each refuses. The output holds no uuid, token or time.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;
create schema wc;

-- Tasks have a mark, by which the functions here find them. Those that look at states are volatile: each sees what the one
-- before it in a statement has done.
create table wc.made (mark text primary key, task_uuid uuid);
create function wc.create(mark text, name text default 'diamond', run_at timestamptz default null) returns text language sql volatile as
$$ insert into wc.made select $1, tasker.create_task('wc', $2, run_at => $3) returning 'created' $$;
create function wc.task(mark text) returns uuid language sql stable as
$$ select task_uuid from wc.made m where m.mark = $1 $$;
create function wc.step(mark text, name text) returns uuid language sql stable as
$$ select workflow_step_uuid from tasker.get_workflow_steps(wc.task(mark)) s where s.name = $2 $$;

-- Runs a statement; uuids are shown as the number of the step, 0 for a task.
create function wc.try(statement text) returns text language sql volatile as
$$
select regexp_replace(regexp_replace(qt.try(statement),
    '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{4}0*([0-9a-f]+)', '<\1>', 'g'),
    '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', '<uuid>', 'g')
$$;

create function wc.token(mark text, name text) returns bigint language sql volatile as
$$
select r.lease_token from tasker.get_workflow_steps(wc.task(mark)) s join tasker.queue_record r on r.id = s.record_id
where s.name = $2
$$;

-- How a task stands.
create function wc.state(mark text) returns text language sql volatile as
$$ select current_state from tasker.tasks where task_uuid = wc.task(mark) $$;
create function wc.steps(mark text)
    returns table (step text, state text, tries text, waits int, record text, due text, results jsonb, checkpoint jsonb,
                   error jsonb)
    language sql volatile as
$$
select s.name, s.current_state, s.attempts || '/' || s.max_attempts, s.total_parents - s.completed_parents, q.status,
    case when s.next_retry_at > clock_timestamp() then 'later' when s.next_retry_at is not null then 'now' end,
    s.results, s.checkpoint, s.error
from tasker.get_workflow_steps(wc.task(mark)) s left join tasker.processing_queue q on q.id = s.record_id
order by s.workflow_step_uuid
$$;
-- All records that were ever made for a task.
create function wc.records(mark text) returns text language sql volatile as
$$
select string_agg(s.name || ' ' || q.status, ', ' order by s.workflow_step_uuid, q.id)
from tasker.queue_record r join tasker.processing_queue q on q.id = r.id
join tasker.get_workflow_steps(wc.task(mark)) s on r.payload = to_jsonb(s.workflow_step_uuid)
where r.flow_id in (select f.flow_id from tasker.flow f where f.flow_name like 'wc/%')
$$;
-- The last transitions of a step, or of the task.
create function wc.log(mark text, name text default null) returns text language sql volatile as
$$
select string_agg(coalesce(from_state, '') || '>' || to_state || coalesce(' by ' || processor, '') ||
    case when metadata is null or metadata = '{}' then '' else ' ' || metadata::text end, e'\n' order by sort_key)
from (select from_state, to_state, processor, metadata, sort_key from tasker.get_task_transitions(wc.task(mark)) where $2 is null
      union all
      select from_state, to_state, processor, metadata, sort_key
      from tasker.get_workflow_step_transitions(wc.step(mark, $2)) where $2 is not null) l
$$;
-- Works on steps by name, one after the other, each in a claim of its own.
create function wc.claim(mark text, name text) returns text language plpgsql volatile as
$$
declare
    wanted uuid := wc.step(mark, name);
    claimed record;
begin
    select c.workflow_step_uuid, c.attempts, c.checkpoint into claimed
    from tasker.claim_steps('wc', 1, 'w', handlers => array[(select s.handler from tasker.workflow_steps s where s.workflow_step_uuid = wanted)]) c;
    if claimed.workflow_step_uuid is distinct from wanted then
        return 'claimed ' || coalesce(claimed.workflow_step_uuid::text, 'nothing');
    end if;
    return concat_ws(' ', 'attempt', claimed.attempts, claimed.checkpoint);
end
$$;
create function wc.complete(mark text, variadic names text[]) returns text language plpgsql volatile as
$$
declare
    name text;
    state text;
begin
    foreach name in array names loop
        if wc.claim(mark, name) not like 'attempt%' then
            raise exception 'step % cannot be claimed', name;
        end if;
        state := tasker.complete_step(wc.step(mark, name), to_jsonb(name), lease_token => wc.token(mark, name));
    end loop;
    return state;
end
$$;

select tasker.define_task('wc', 'diamond', '{"steps": [
    {"name": "a"}, {"name": "b", "depends_on": ["a"], "backoff": {"base_seconds": 100, "multiplier": 1, "jitter": 0, "max_seconds": 100}},
    {"name": "c", "depends_on": ["a"], "timeout_seconds": 600, "max_attempts": 2}, {"name": "d", "depends_on": ["b", "c"]}]}') is not null as defined;
select tasker.define_task('wc', 'choice', '{"steps": [
    {"name": "pick", "type": "decision"}, {"name": "left", "depends_on": ["pick"]}, {"name": "right", "depends_on": ["pick"]},
    {"name": "end", "type": "deferred", "depends_on": ["left", "right"]}]}') is not null as defined;

-- Checkpoints: with the next claim, whoever gets it.
select wc.create('1');
select wc.try($$select tasker.checkpoint_step(wc.step('1', 'a'), '{"at": 1}')$$);
select wc.claim('1', 'a');
select wc.try($$select tasker.checkpoint_step(wc.step('1', 'a'), '{"at": 1}', wc.token('1', 'a'))$$);
select wc.try($$select tasker.checkpoint_step(wc.step('1', 'a'), '{"at": 2}')$$) as without_token;
select wc.try($$select tasker.checkpoint_step(wc.step('1', 'a'), '{"at": 3}', 4711)$$);
select wc.try($$select tasker.checkpoint_step(wc.task('1'), '{"at": 3}')$$);
select wc.try($$select tasker.checkpoint_step('01900000-0000-7000-8000-000000000001', '{"at": 3}')$$);
select wc.try($$select tasker.checkpoint_step(gen_random_uuid(), '{"at": 3}') is null$$) ~ '^42704' as unknown;
select wc.try($$select tasker.checkpoint_step(null, '{"at": 3}')$$);
select wc.try($$select tasker.fail_step(wc.step('1', 'a'), '{"message": "lost"}', backoff_seconds => 0, lease_token => wc.token('1', 'a'))$$);
select wc.claim('1', 'a');
select wc.try($$select tasker.checkpoint_step(wc.step('1', 'a'), null)$$);
select * from wc.steps('1');

-- Leases: from now on, not beyond the step's timeout; all or nothing.
create function wc.lease(mark text, name text) returns text language sql volatile as
$$
select round(extract(epoch from r.lease_expires_at - clock_timestamp()) / 60) || ' minutes'
from tasker.queue_record r where r.id = (select s.record_id from tasker.workflow_steps s where s.workflow_step_uuid = wc.step($1, $2))
$$;
select wc.lease('1', 'a');
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a')], '2 hours', array[wc.token('1', 'a')])$$), wc.lease('1', 'a');
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a')], '5 minutes')$$), wc.lease('1', 'a');
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a')], '2 hours', array[4711])$$), wc.lease('1', 'a');
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a'), wc.step('1', 'b')], '2 hours')$$), wc.lease('1', 'a');
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a'), wc.step('1', 'a')], '2 hours')$$);
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a')], '2 hours', array[1, 2])$$);
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a')], '0')$$);
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a')], '-1 hour')$$);
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'a')], null)$$);
select wc.try($$select tasker.extend_step_lease(array[wc.task('1')], '2 hours')$$);
select wc.try($$select tasker.extend_step_lease(array[null]::uuid[], '2 hours')$$);
select wc.try($$select tasker.extend_step_lease('{}', '2 hours')$$);
select tasker.complete_step(wc.step('1', 'a'));
select wc.claim('1', 'c'), wc.lease('1', 'c');
select wc.try($$select tasker.extend_step_lease(array[wc.step('1', 'c')], '2 hours')$$), wc.lease('1', 'c');

-- Given back: no attempt lost, and the claim is over.
select wc.token('1', 'c') as token \gset
select wc.try($$select tasker.release_steps(array[wc.step('1', 'c')])$$);
select * from wc.steps('1') where step = 'c';
select wc.log('1', 'c');
select wc.try(format($$select tasker.complete_step(wc.step('1', 'c'), null, null, %s)$$, :token));
select wc.try($$select tasker.release_steps(array[wc.step('1', 'c')])$$);
select wc.claim('1', 'c');
select wc.try(format($$select tasker.complete_step(wc.step('1', 'c'), null, null, %s)$$, :token));
select wc.try($$select tasker.release_steps(array[wc.step('1', 'c'), wc.step('1', 'b')])$$);
select wc.try($$select tasker.release_steps(array[wc.step('1', 'c'), wc.step('1', 'c')])$$);
select wc.try($$select tasker.release_steps(array[wc.task('1')])$$);
select wc.try($$select tasker.release_steps(null)$$);
select wc.try($$select tasker.release_steps('{}')$$);
select * from wc.steps('1') where step = 'c';

-- Back-off: what was asked for beforehand, what the failure says, what the template says.
create function wc.delay(mark text, name text) returns text language sql volatile as
$$
select round(extract(epoch from s.next_retry_at - clock_timestamp()), -2) || ' s'
from tasker.workflow_steps s where s.workflow_step_uuid = wc.step($1, $2)
$$;
select wc.claim('1', 'b');
select wc.try($$select tasker.fail_step(wc.step('1', 'b'), '"no"')$$), wc.delay('1', 'b') as of_the_template;
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'b'), 5000)$$), wc.delay('1', 'b') as put_off;
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'b'), 0)$$), wc.claim('1', 'b') as due;
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'b'), 700)$$);
select wc.try($$select tasker.fail_step(wc.step('1', 'b'), '{"code": 1}')$$), wc.delay('1', 'b') as asked_for;
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'b'), 0)$$), wc.claim('1', 'b') as due;
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'd'), 1)$$) as not_begun;
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'a'), 1)$$) as done;
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'b'), -1)$$);
select wc.try($$select tasker.set_step_backoff_atomic(wc.step('1', 'b'), null)$$);
select wc.try($$select tasker.set_step_backoff_atomic(null, 1)$$);
select wc.try($$select tasker.set_step_backoff_atomic(wc.task('1'), 1)$$);
select wc.try($$select tasker.fail_step(wc.step('1', 'b'), '{}', backoff_seconds => -1)$$);
select wc.try($$select tasker.fail_step(wc.step('1', 'b'), null)$$);
select wc.try($$select tasker.fail_step(wc.step('1', 'b'), '{}', null)$$);
select wc.try($$select tasker.fail_step(wc.step('1', 'b'), '{}', lease_token => 4711)$$);
select wc.try($$select tasker.fail_step(wc.step('1', 'd'), '{}')$$);

-- A lost lease is a failed attempt, by the step's own policy.
select tasker.cleanup_orphaned_records('0', 'wc/c'), wc.state('1');
select wc.try(format($$select tasker.complete_step(wc.step('1', 'c'), null, null, %s)$$, :token)) as too_late;
select tasker.set_step_backoff_atomic(wc.step('1', 'c'), 0), wc.claim('1', 'c');
select tasker.cleanup_orphaned_records('0', 'wc/c');
select wc.try($$select tasker.fail_step(wc.step('1', 'b'), '{"message": "for good"}', false)$$), wc.state('1');
select * from wc.steps('1');
select wc.records('1');
select wc.log('1');

-- Retry: steps in error begin anew; those that are done stay.
select wc.try($$select tasker.retry_task(wc.task('1'))$$), wc.state('1');
select * from wc.steps('1');
select wc.records('1');
select wc.try($$select tasker.retry_task(wc.task('1'))$$);
select wc.complete('1', 'b', 'c', 'd');
select wc.try($$select tasker.retry_task(wc.task('1'))$$);
select wc.try($$select tasker.cancel_task(wc.task('1'))$$);
select wc.try($$select tasker.retry_task('01900000-0000-7000-8000-000000000000')$$);
select wc.try($$select tasker.retry_task(null)$$);
-- A step that waits for its retry is due at once, and loses no attempt.
select wc.create('2');
select wc.claim('2', 'a');
select wc.try($$select tasker.fail_step(wc.step('2', 'a'), '{}', backoff_seconds => 5000)$$), wc.state('2'), wc.delay('2', 'a');
select wc.try($$select tasker.retry_task(wc.task('2'))$$), wc.state('2');
select * from wc.steps('2') where step = 'a';
select wc.claim('2', 'a');

-- Cancel: all that is not finished; the worker hears of it.
select wc.try($$select tasker.cancel_task(wc.task('2'), 'nobody wants it')$$), wc.state('2');
select * from wc.steps('2');
select wc.records('2'), wc.log('2', 'a');
select wc.log('2');
select wc.try($$select tasker.complete_step(wc.step('2', 'a'))$$);
select wc.try($$select tasker.fail_step(wc.step('2', 'a'), '{}')$$);
select wc.try($$select tasker.checkpoint_step(wc.step('2', 'a'), '{}')$$);
select wc.try($$select tasker.cancel_task(wc.task('2'))$$) as again;
select wc.try($$select tasker.reset_step(wc.step('2', 'a'))$$);
select wc.try($$select tasker.resolve_step_manually(wc.step('2', 'a'), null, 'ann', 'no')$$);
select wc.try($$select tasker.cancel_task('01900000-0000-7000-8000-000000000000')$$);
select wc.try($$select tasker.cancel_task(null)$$);
select wc.try($$select tasker.retry_task(wc.task('2'))$$) as back, wc.state('2');
select wc.complete('2', 'a', 'b', 'c', 'd'), wc.records('2');

-- Reset of one step: of a task that is complete; the children that are done stay done.
select wc.try($$select tasker.reset_step(wc.step('2', 'b'))$$), wc.state('2');
select * from wc.steps('2');
select wc.complete('2', 'b');
select wc.log('2', 'b');
-- With cascade: everything that came after it.
select wc.try($$select tasker.reset_step(wc.step('2', 'b'), true)$$), wc.state('2');
select * from wc.steps('2');
select wc.complete('2', 'b', 'd');
-- Of the first step: children in line go back, one that is in progress goes on; or not.
select wc.create('3');
select wc.complete('3', 'a'), wc.claim('3', 'c');
select wc.try($$select tasker.reset_step(wc.step('3', 'a'))$$), wc.state('3');
select * from wc.steps('3');
select wc.records('3');
select wc.try($$select tasker.complete_step(wc.step('3', 'c'))$$);
select wc.complete('3', 'a');
select wc.claim('3', 'b');
select wc.try($$select tasker.reset_step(wc.step('3', 'a'), true)$$), wc.state('3');
select * from wc.steps('3');
select wc.try($$select tasker.complete_step(wc.step('3', 'b'))$$);
select wc.complete('3', 'a', 'b', 'c', 'd');
-- Of a step that nobody has begun, is in line, or is in progress.
select wc.create('4');
select wc.try($$select tasker.reset_step(wc.step('4', 'd'))$$), wc.try($$select tasker.reset_step(wc.step('4', 'a'))$$);
select wc.claim('4', 'a');
select wc.try($$select tasker.reset_step(wc.step('4', 'a'))$$);
select wc.try($$select tasker.complete_step(wc.step('4', 'a'))$$);
select * from wc.steps('4');
select wc.try($$select tasker.reset_step(wc.task('4'))$$);
select wc.try($$select tasker.reset_step('01900000-0000-7000-8000-000000000001')$$);
select wc.try($$select tasker.reset_step(null)$$);
select wc.try($$select tasker.reset_step(wc.step('4', 'a'), null)$$);
-- A decision that has created steps would create them again.
select wc.create('5', 'choice');
select wc.claim('5', 'pick');
select wc.try($$select tasker.reset_step(wc.step('5', 'pick'))$$);
select wc.claim('5', 'pick');
select wc.try($$select tasker.complete_step(wc.step('5', 'pick'), null, '["left"]')$$);
select wc.try($$select tasker.reset_step(wc.step('5', 'pick'))$$);
select wc.complete('5', 'left', 'end');
select wc.try($$select tasker.reset_step(wc.step('5', 'left'), true)$$), wc.state('5');
select wc.complete('5', 'left', 'end');

-- Resolved by hand: from any state in which it is not done.
select wc.try($$select tasker.resolve_step_manually(wc.step('4', 'd'), '"done by hand"', 'ann', 'it was there')$$) as waits_for_others;
select wc.try($$select tasker.resolve_step_manually(wc.step('4', 'a'), '"a"', 'ann', null)$$) as in_line;
select wc.claim('4', 'b');
select wc.try($$select tasker.resolve_step_manually(wc.step('4', 'b'), null, 'bob', 'has done it himself')$$) as in_progress;
select wc.try($$select tasker.complete_step(wc.step('4', 'b'))$$);
select wc.claim('4', 'c');
select wc.try($$select tasker.fail_step(wc.step('4', 'c'), '{}', false)$$), wc.state('4');
select wc.try($$select tasker.resolve_step_manually(wc.step('4', 'c'), '"c"', 'ann', 'fine as it is')$$) as in_error;
select * from wc.steps('4');
select wc.log('4', 'b');
select wc.log('4');
select wc.records('4');
select wc.try($$select tasker.resolve_step_manually(wc.step('4', 'c'), '"c"', 'ann', 'again')$$);
select wc.create('6');
select wc.complete('6', 'a');
select wc.try($$select tasker.resolve_step_manually(wc.step('6', 'a'), '"c"', 'ann', 'again')$$);
select wc.try($$select tasker.resolve_step_manually(wc.step('6', 'b'), '"c"', '', 'by nobody')$$);
select wc.try($$select tasker.resolve_step_manually(wc.step('6', 'b'), '"c"', null, 'by nobody')$$);
select wc.try($$select tasker.resolve_step_manually(wc.task('6'), '"c"', 'ann', 'a task')$$);
select wc.try($$select tasker.resolve_step_manually(null, '"c"', 'ann', 'none')$$);

-- One legal transition of a task, if it is where it is said to be.
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'waiting_for_retry', 'cancelled', null)$$) as elsewhere;
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'steps_in_process', 'complete', null)$$);
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'complete', 'pending', null)$$);
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'steps_in_process', 'steps_in_process', null)$$);
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'busy', 'error', null)$$);
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'steps_in_process', 'Error', null)$$);
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'steps_in_process', null, null)$$);
select wc.try($$select tasker.transition_task_state_atomic(null, 'steps_in_process', 'error', null)$$);
select wc.try($$select tasker.transition_task_state_atomic('01900000-0000-7000-8000-000000000000', 'steps_in_process', 'error', null)$$);
-- Between states of work only the task moves, and goes on where its steps are.
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'steps_in_process', 'evaluating_results', null)$$), wc.state('6');
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'evaluating_results', 'waiting_for_dependencies', null)$$), wc.state('6');
select wc.complete('6', 'b'), wc.state('6');
-- To the terminal ones it takes along all steps that are not finished.
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'steps_in_process', 'error',
    '00000000-0000-4000-8000-000000000001', '{"why": "given up"}')$$), wc.state('6');
select * from wc.steps('6');
select to_state, processor_uuid, metadata from tasker.get_task_transitions(wc.task('6')) where most_recent;
select wc.try($$select tasker.transition_task_state_atomic(wc.task('6'), 'error', 'resolved_manually', null)$$), wc.state('6');
select wc.try($$select tasker.cancel_task(wc.task('6'))$$);
select wc.try($$select tasker.retry_task(wc.task('6'))$$), wc.state('6');
select wc.complete('6', 'c', 'd');
select wc.log('6');

-- A task for later can be cancelled, and comes back in line at once.
select wc.create('7', run_at => now() + interval '1 day');
select wc.state('7'), wc.claim('7', 'a');
select wc.try($$select tasker.cancel_task(wc.task('7'))$$), wc.state('7');
select wc.try($$select tasker.retry_task(wc.task('7'))$$), wc.state('7');
select wc.complete('7', 'a', 'b', 'c', 'd'), wc.records('7');

select * from tasker.check_integrity();

-- A claim passes over stale records, however many there are, to the steps behind them.
select tasker.define_task('wc stale', 'one', '{"steps": [{"name": "a"}]}') is not null as defined;
create table wc.stale as
    select t, n from unnest(tasker.create_tasks('wc stale', 'one', array_fill('{}'::jsonb, array[20]))) with ordinality as u (t, n);
select count(tasker.cancel_task(t)) from wc.stale where n <= 15;
update tasker.queue_record r set status = 'p' from tasker.flow f where f.flow_id = r.flow_id and f.flow_name = 'wc stale/a' and r.status = 'x';
select count(*) as claimed from tasker.claim_steps('wc stale', 3);
select count(*) as claimed from tasker.claim_steps('wc stale', 10);
select pending, processing, completed, cancelled from tasker.get_queue_status('wc stale/a');
select * from tasker.check_integrity();
