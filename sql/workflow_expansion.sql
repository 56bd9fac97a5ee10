-- Steps that come to life while their task runs: what decision and batch steps create, which names and parents it gets,
-- what comes after it, deferred steps, and every create_steps that does not fit. The output holds no uuid and no time.
-- Uses what workflow_engine has made.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;

-- The steps of a task with their parents, by name.
create function we.graph(mark text) returns table (step text, kind text, state text, waits text, parents text, inputs jsonb)
    language sql volatile as
$$
select s.name, s.step_type, s.current_state, s.total_parents - s.completed_parents || '/' || s.total_parents,
    (select string_agg(p.name, ', ' order by p.workflow_step_uuid) from tasker.workflow_step_edges e
     join tasker.workflow_steps p on p.workflow_step_uuid = e.from_step_uuid where e.to_step_uuid = s.workflow_step_uuid),
    s.inputs
from tasker.get_workflow_steps(we.task(mark)) s order by s.workflow_step_uuid
$$;
-- Completes a step that creates others.
create function we.creates(mark text, name text, steps jsonb, results jsonb default null) returns text language sql volatile as
$$ select we.try(format('select tasker.complete_step(%L, %L, %L)', we.step(mark, name), results, steps)) $$;
-- Claims and completes all that is ready, as often as something is, and says in which order.
create function we.run(mark text) returns text language plpgsql volatile as
$$
declare
    done text := '';
    these text;
begin
    loop
        select string_agg(c.step_name, '+' order by c.workflow_step_uuid) into these
        from (select * from tasker.claim_steps('we', 100, 'w') offset 0) c, lateral tasker.complete_step(c.workflow_step_uuid, to_jsonb(c.step_name)) d;
        exit when these is null;
        done := concat_ws(' ', nullif(done, ''), these);
    end loop;
    return concat_ws(' | ', nullif(done, ''), we.state(mark));
end
$$;
select count(*) from tasker.claim_steps('we', 1000);

-- --- decisions -------------------------------------------------------------------------------------------------

select tasker.define_task('we', 'choice', '{"steps": [{"name": "begin"}, {"name": "choose", "type": "decision", "depends_on": ["begin"]},
    {"name": "yes", "depends_on": ["choose"], "inputs": {"of": "template"}}, {"name": "no", "depends_on": ["choose"]},
    {"name": "after yes", "depends_on": ["yes"]}, {"name": "after both", "depends_on": ["yes", "no"]},
    {"name": "join", "type": "deferred", "depends_on": ["after yes", "no", "begin"]}, {"name": "end", "depends_on": ["join"]}]}') is not null as defined;
select tasker.create_task('we', 'choice', '{"mark": "x1"}') is not null, we.claim(1, '{begin}'), we.done('x1', 'begin'), we.claim(1, '{choose}');
-- Only what is created at once is there.
select * from we.graph('x1');
select we.creates('x1', 'choose', '["yes"]', '"why"');
select * from we.graph('x1');
select total_steps, current_state from tasker.tasks where task_uuid = we.task('x1');
select workflow_step_uuid - 1 as number, dependency_level from (select ('x' || right(workflow_step_uuid::text, 8))::bit(32)::int + 1, dependency_level
    from tasker.calculate_dependency_levels(we.task('x1'))) l (workflow_step_uuid, dependency_level) order by 1;
select step_name, inputs, dependency_results from tasker.claim_steps('we');
select we.done('x1', 'yes'), we.run('x1');
-- Both, with inputs and names of their own.
select tasker.create_task('we', 'choice', '{"mark": "x2"}') is not null, we.claim(1, '{begin}'), we.done('x2', 'begin'), we.claim(1, '{choose}');
select we.creates('x2', 'choose', '[{"name": "no", "as": "it''s \"no\" ☃", "inputs": [1, null]}, {"name": "yes", "inputs": null}]');
select * from we.graph('x2');
select step_name, inputs from tasker.claim_steps('we', 10) order by 1;
select we.done('x2', 'yes'), we.done('x2', 'it''s "no" ☃', '{"a": 1}');
select dependency_results from tasker.claim_steps('we', 10, handlers => '{"after both"}');
select we.done('x2', 'after both'), we.run('x2');
-- Nothing at all: the task goes on without.
select m, tasker.create_task('we', 'choice', jsonb_build_object('mark', m)) is not null, we.claim(1, '{begin}'), we.done(m, 'begin'), we.claim(1, '{choose}')
from unnest('{x3,x4}'::text[]) m;
select we.creates('x3', 'choose', '[]'), we.done('x4', 'choose');
select * from we.graph('x3');
select we.state('x4');

-- --- batches ---------------------------------------------------------------------------------------------------

select tasker.define_task('we', 'batch', '{"steps": [{"name": "split", "type": "batch"}, {"name": "part", "depends_on": ["split"], "priority": 5},
    {"name": "other", "depends_on": ["split"]}, {"name": "sum", "depends_on": ["part"]}, {"name": "end", "type": "deferred", "depends_on": ["sum", "other"]}]}') is not null as defined;
select tasker.create_task('we', 'batch', '{"mark": "y1"}') is not null, we.claim(1, '{split}');
select we.creates('y1', 'split', '["part", {"name": "part", "inputs": {"from": 10}}, {"name": "part", "as": "last part"}, "part"]');
select * from we.graph('y1');
select step_name, inputs from tasker.claim_steps('we', 10, handlers => '{part}') order by 1;
select we.done('y1', 'part_1', '1'), we.done('y1', 'part_2', '2'), we.done('y1', 'last part', '3');
select we.claim(), we.done('y1', 'part_4', '4');
select step_name, dependency_results from tasker.claim_steps('we');
select we.done('y1', 'sum'), we.run('y1');
-- One of a name keeps it.
select tasker.create_task('we', 'batch', '{"mark": "y2"}') is not null, we.claim(1, '{split}'), we.creates('y2', 'split', '["part", "other"]');
select * from we.graph('y2');
select we.run('y2');
-- Many.
select tasker.create_task('we', 'batch', '{"mark": "y3"}') is not null, we.claim(1, '{split}');
select we.creates('y3', 'split', (select jsonb_agg(jsonb_build_object('name', 'part', 'inputs', i)) from generate_series(1, 1001) i));
select total_steps from tasker.tasks where task_uuid = we.task('y3');
select count(*), count(distinct inputs), min(step_name), max(step_name) from tasker.claim_steps('we', 5000);
select tasker.complete_steps(array_agg(workflow_step_uuid order by random())) from tasker.get_workflow_steps(we.task('y3')) where name like 'part%';
select step_name, dependency_results from tasker.claim_steps('we');
select count(*) from tasker.step_results(we.step('y3', 'sum'));
select we.done('y3', 'sum'), we.run('y3');

-- --- what does not fit -----------------------------------------------------------------------------------------

select m, tasker.create_task('we', 'choice', jsonb_build_object('mark', m)) is not null, we.claim(1, '{begin}'), we.done(m, 'begin'), we.claim(1, '{choose}') from unnest('{z1}'::text[]) m;
select tasker.create_task('we', 'batch', '{"mark": "z2"}') is not null, we.claim(1, '{split}');
select tasker.create_task('we', 'chain', '{"mark": "z3"}') is not null, we.claim(1, '{one}');
select we.fingerprint() as before \gset
select steps, we.creates('z1', 'choose', steps::jsonb) as answer from unnest(array[
    '{}', '{"name": "yes"}', 'null', '"yes"', '1', '[1]', '[null]', '[["yes"]]', '[true]',
    '[{}]', '[{"as": "x"}]', '[{"name": 1}]', '[{"name": null}]', '[{"name": "yes", "as": 1}]', '[{"name": "yes", "as": ""}]',
    '[{"name": "yes", "more": 1}]', '["nobody"]', '["it''s \"nobody\""]', '["begin"]', '["choose"]', '["after yes"]', '["join"]',
    '["yes", "yes"]', '["yes", {"name": "yes", "as": "again"}]', '[{"name": "yes", "as": "same"}, {"name": "no", "as": "same"}]'])
    with ordinality s (steps, o) order by o;
select we.creates('z1', 'choose', jsonb_build_array(jsonb_build_object('name', 'yes', 'as', repeat('x', 129))));
select we.creates('z1', 'choose', (select jsonb_agg('yes'::text) from generate_series(1, 100001)));
-- A standard step creates nothing; an empty list is nothing.
select we.creates('z3', 'one', '["two"]');
-- A step that is done creates nothing more.
select we.creates('z1', 'begin', '[]'), we.creates('z1', 'begin', '["choose"]');
select we.fingerprint() = :'before' as unchanged;
select we.creates('z3', 'one', '[]'), we.creates('z1', 'choose', '["no"]'), we.creates('z2', 'split', '[]');
select step, state, waits, parents from we.graph('z1');
select step, state from we.graph('z2');
select we.run('z1'), we.state('z2'), we.state('z3');
-- What is taken back was not created.
select tasker.create_task('we', 'batch', '{"mark": "z4"}') is not null, we.claim(1, '{split}');
begin;
select we.creates('z4', 'split', '["part", "part"]');
select count(*) from we.graph('z4');
rollback;
select * from we.graph('z4');
select we.creates('z4', 'split', '["other"]'), we.run('z4');

-- --- deferred steps --------------------------------------------------------------------------------------------

-- A decision that a deferred step depends on, and that may also create another of its parents, is one parent.
select tasker.define_task('we', 'once', '{"steps": [{"name": "first", "type": "decision"}, {"name": "second", "type": "decision"},
    {"name": "a", "depends_on": ["first"]}, {"name": "b", "depends_on": ["second"]},
    {"name": "join", "type": "deferred", "depends_on": ["a", "b", "second"]}]}') is not null as defined;
select tasker.create_task('we', 'once', '{"mark": "u1"}') is not null, we.claim(2, '{first,second}');
select we.creates('u1', 'first', '["a"]');
select step, state, waits, parents from we.graph('u1');
select we.creates('u1', 'second', '["b"]');
select step, state, waits, parents from we.graph('u1');
select we.run('u1');
-- It waits for a decision that is still to come, as long as that may create one of its parents.
select tasker.define_task('we', 'awaits', '{"steps": [{"name": "first", "type": "decision"}, {"name": "second", "type": "decision"},
    {"name": "a", "depends_on": ["first"]}, {"name": "b", "depends_on": ["second"]}, {"name": "join", "type": "deferred", "depends_on": ["a", "b"]}]}') is not null as defined;
select m, tasker.create_task('we', 'awaits', jsonb_build_object('mark', m)) is not null, we.claim(2, '{first,second}'), we.creates(m, 'first', '["a"]') from unnest('{v1,v2}'::text[]) m;
select step, state, waits, parents from we.graph('v1');
select we.claim(2, '{a}'), we.done('v1', 'a'), we.done('v2', 'a'), we.claim(2, '{join}');
select we.creates('v1', 'second', '["b"]'), we.creates('v2', 'second', '[]');
select step, state, waits, parents from we.graph('v1');
select step, state, waits, parents from we.graph('v2');
select we.run('v1');
select we.state('v2');
-- Also for a decision that is created by another one meanwhile.
select tasker.define_task('we', 'nested', '{"steps": [{"name": "first", "type": "decision"}, {"name": "outer", "type": "decision"},
    {"name": "a", "depends_on": ["first"]}, {"name": "inner", "type": "decision", "depends_on": ["outer"]}, {"name": "b", "depends_on": ["inner"]},
    {"name": "join", "type": "deferred", "depends_on": ["a", "b"]}]}') is not null as defined;
select tasker.create_task('we', 'nested', '{"mark": "w1"}') is not null, we.claim(2, '{first,outer}'), we.creates('w1', 'first', '["a"]');
select step, state, waits, parents from we.graph('w1');
select we.creates('w1', 'outer', '["inner"]');
select step, state, waits, parents from we.graph('w1');
select we.claim(2, '{a,inner}'), we.done('w1', 'a'), we.claim();
select we.creates('w1', 'inner', '["b"]');
select step, state, waits, parents from we.graph('w1');
select object, problem from tasker.check_workflow_integrity();
-- Its parents may be younger than itself; levels and distances hold nevertheless.
select s.name, l.dependency_level, r.min_depth_from_root from tasker.calculate_dependency_levels(we.task('w1')) l join tasker.workflow_steps s using (workflow_step_uuid)
join tasker.get_step_dag_relationships(we.task('w1')) r using (workflow_step_uuid) order by 1;
select step_name, distance from tasker.get_step_transitive_dependencies(we.step('w1', 'join')) order by 2, 1;
select we.run('w1');
-- One that has begun gets no more parents: the decision had failed, and nobody knew that it would be tried again.
select tasker.create_task('we', 'awaits', '{"mark": "w2"}') is not null, we.claim(2, '{first,second}'), we.failed('w2', 'second', false);
select we.creates('w2', 'first', '["a"]'), we.claim(1, '{a}'), we.done('w2', 'a'), we.claim(1, '{join}');
select tasker.retry_task(we.task('w2')), we.claim(1, '{second}'), we.creates('w2', 'second', '["b"]');
select step, state, waits, parents from we.graph('w2');
select object, problem from tasker.check_workflow_integrity();
select we.done('w2', 'join'), we.run('w2');
-- One that waits still does get them.
select tasker.create_task('we', 'awaits', '{"mark": "w3"}') is not null, we.claim(2, '{first,second}'), we.failed('w3', 'second', false);
select we.creates('w3', 'first', '["a"]'), tasker.retry_task(we.task('w3')), we.claim(1, '{second}'), we.creates('w3', 'second', '["b"]');
select step, state, waits, parents from we.graph('w3');
select we.run('w3');

-- A step is chosen only when all else that it depends on is there.
select tasker.define_task('we', 'two', '{"steps": [{"name": "first", "type": "decision"}, {"name": "second", "type": "decision", "depends_on": ["first"]},
    {"name": "x", "depends_on": ["first", "second"]}]}') is not null as defined;
select m, tasker.create_task('we', 'two', jsonb_build_object('mark', m)) is not null, we.claim(1, '{first}') from unnest('{t1,t2,t3}'::text[]) m;
select we.creates('t1', 'first', '["x"]');
select we.creates('t1', 'first', '["x", "second"]');
select step, state, waits, parents from we.graph('t1');
select we.claim(1, '{second}'), we.creates('t1', 'second', '["x"]');
select step, state, waits, parents from we.graph('t1');
select we.creates('t2', 'first', '["second"]'), we.claim(1, '{second}'), we.creates('t2', 'second', '["x"]');
select step, state, waits, parents from we.graph('t2');
select we.creates('t3', 'first', '["second"]'), we.run('t1'), we.state('t2'), we.state('t3');

-- More tasks than are written in one piece.
select cardinality(tasker.create_tasks('we', 'pair', array_agg('{"mark": "many"}'::jsonb))), count(*) as wanted
from generate_series(1, 4100);
select count(*), min(total_steps), max(total_steps), count(distinct task_uuid) from tasker.tasks where context ->> 'mark' = 'many';
select count(distinct workflow_step_uuid) from tasker.claim_steps('we', 10000, handlers => '{good}') where context ->> 'mark' = 'many';

select * from tasker.check_workflow_integrity();
select count(*) > 0 as cancelled from (select tasker.cancel_task(task_uuid) from tasker.tasks
    where namespace_name like 'we%' and current_state not in ('complete', 'cancelled')) c;
select * from tasker.check_workflow_integrity();
drop schema we cascade;
