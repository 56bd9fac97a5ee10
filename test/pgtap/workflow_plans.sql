-- What a look-up into the views over instances reads: the plans, with constants and with parameters, and that what the
-- extension adds to conditions on task_uuid changes no result.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
begin;
set client_min_messages = warning;
create extension if not exists pgtap;
create schema wp;

-- The partitions that a statement reads when it runs, with how; those that run-time pruning leaves out do not count.
create function wp.scans(statement text, out partition text, out node text) returns setof record language plpgsql as
$$
declare
    plan jsonb;
begin
    execute 'explain (analyze, timing off, costs off, summary off, format json) ' || statement into plan;
    return query
    with recursive nodes (item) as (
        select plan #> '{0,Plan}'
        union all
        select child from nodes, jsonb_array_elements(item -> 'Plans') child)
    select distinct item ->> 'Relation Name', item ->> 'Node Type' from nodes
    where item ? 'Relation Name' and (item ->> 'Actual Loops')::float > 0
      and item ->> 'Relation Name' ~ '^(task|workflow_step|workflow_step_edge|task_transition|workflow_step_transition)_p\d+$';
end
$$;
-- The same of a prepared statement's generic plan.
create function wp.generic_scans(statement text, uuid, out partition text, out node text) returns setof record
    language plpgsql as
$$
begin
    execute 'prepare wp_generic (uuid) as ' || statement;
    perform set_config('plan_cache_mode', 'force_generic_plan', true);
    return query select * from wp.scans(format('execute wp_generic (%L)', $2));
    perform set_config('plan_cache_mode', 'auto', true);
    deallocate wp_generic;
end
$$;
create function wp.expected(tables text[], task uuid) returns setof text language sql stable as
$$
select split_part(p, '.', 2) from unnest(tables) t, lateral tasker.partition_of(('tasker.' || t)::regclass, task::text) p
$$;

-- Tasks of today, among partitions of other days.
select count(tasker.create_partition(('tasker.' || t)::regclass, d)) as made
from unnest('{task,workflow_step,workflow_step_edge,task_transition,workflow_step_transition}'::text[]) t,
    unnest('{2001-01-01,2001-01-02,2001-01-03}'::text[]) d \gset
select tasker.define_task('plans', 'diamond', '{"steps": [{"name": "a", "handler": "h", "inputs": {"n": 1}},
    {"name": "b", "handler": "h", "depends_on": ["a"]}, {"name": "c", "handler": "h", "depends_on": ["a"]},
    {"name": "d", "handler": "h", "depends_on": ["b", "c"]}]}') as template \gset
create table wp.task as select task_uuid, row_number() over () as n
from unnest(tasker.create_tasks('plans', 'diamond', array_fill('{}'::jsonb, '{40}'))) task_uuid;
select count(tasker.complete_step(workflow_step_uuid)) as completed from tasker.claim_steps('plans', 20) \gset
select task_uuid as task from wp.task where n = 7 \gset
select workflow_step_uuid as step from tasker.get_workflow_steps(:'task') where name = 'c' \gset
create table wp.other as select case when n % 2 = 0 then task_uuid end as task_uuid, n from wp.task;
-- On tables as small as these the planner would rather read all of a partition.
set local enable_seqscan = off;
set local enable_bitmapscan = off;

-- Views of users over ours.
create view wp.steps as select * from tasker.workflow_steps where name <> 'b';
create view wp.named_steps as select s.task_uuid as task, s.name, t.n, s.workflow_step_uuid as step
from wp.steps s join wp.task t on t.task_uuid = s.task_uuid;
create view wp.without_step as select task_uuid, name from tasker.workflow_steps;

create temp table lookups (statement text, value uuid, tables text[]);
insert into lookups values
('select * from tasker.tasks where task_uuid = $1', :'task', '{task}'),
('select * from tasker.workflow_steps where workflow_step_uuid = $1', :'step', '{workflow_step}'),
('select * from tasker.workflow_step_edges where from_step_uuid = $1', :'step', '{workflow_step_edge}'),
('select * from tasker.task_transitions where task_uuid = $1', :'task', '{task_transition}'),
('select * from tasker.task_transitions where task_uuid = $1 and most_recent', :'task', '{task_transition}'),
('select * from tasker.workflow_step_transitions where workflow_step_uuid = $1', :'step', '{workflow_step_transition}'),
('select * from tasker.step_readiness_statuses where workflow_step_uuid = $1', :'step', '{workflow_step}'),
('select * from tasker.step_dag_relationships where workflow_step_uuid = $1', :'step', '{workflow_step}'),
('select * from tasker.task_execution_contexts where task_uuid = $1', :'task', '{task}'),
('select * from tasker.v_task_state_analysis where task_uuid = $1', :'task', '{task}'),
('select * from tasker.get_workflow_steps($1)', :'task', '{workflow_step}'),
('select * from tasker.get_workflow_step_edges($1)', :'task', '{workflow_step_edge}'),
('select * from tasker.get_task_transitions($1)', :'task', '{task_transition}'),
('select * from tasker.get_workflow_step_transitions($1)', :'task', '{workflow_step_transition}'),
('select * from tasker.get_workflow_step_transitions($1)', :'step', '{workflow_step_transition}'),
('select * from tasker.workflow_steps where task_uuid = $1', :'task', '{workflow_step}'),
('select * from tasker.workflow_steps where $1 = task_uuid and name = ''c''', :'task', '{workflow_step}'),
('select count(*) from tasker.workflow_step_edges where task_uuid = $1', :'task', '{workflow_step_edge}'),
('select * from tasker.workflow_step_transitions where task_uuid = $1 and most_recent', :'task', '{workflow_step_transition}'),
('select * from tasker.step_readiness_statuses where task_uuid = $1', :'task', '{workflow_step}'),
('select * from tasker.step_dag_relationships where task_uuid = $1', :'task', '{workflow_step}'),
('with s as (select name from tasker.workflow_steps where task_uuid = $1) select * from s', :'task', '{workflow_step}'),
('select (select count(*) from tasker.workflow_steps s where s.task_uuid = $1)', :'task', '{workflow_step}'),
('select * from wp.steps where task_uuid = $1', :'task', '{workflow_step}'),
('select * from wp.named_steps where task = $1', :'task', '{workflow_step}'),
('select * from (select task_uuid, workflow_step_uuid, name from tasker.workflow_steps order by name) s where task_uuid = $1 and name > ''''',
    :'task', '{workflow_step}'),
('select * from tasker.tasks t join tasker.workflow_steps s on s.task_uuid = t.task_uuid where t.task_uuid = $1',
    :'task', '{task,workflow_step}'),
('select * from tasker.tasks t join tasker.workflow_steps s using (task_uuid) where task_uuid = $1',
    :'task', '{task,workflow_step}'),
('select t.task_uuid, (select count(*) from tasker.workflow_steps s where s.task_uuid = t.task_uuid) from tasker.tasks t where t.task_uuid = $1',
    :'task', '{task,workflow_step}');

-- The same question to a view, with a condition that is added to and one that nobody sees through.
create temp table questions (known text, hidden text);
insert into questions select k, replace(replace(k, '{', '('), '}', ')::text') from unnest(array[
    'select workflow_step_uuid, name, current_state, inputs from tasker.workflow_steps where {task_uuid} = {X}',
    'select workflow_step_uuid from tasker.workflow_steps where {X} = {task_uuid} and current_state = ''complete''',
    'select workflow_step_uuid from tasker.workflow_steps where {task_uuid} = {X} or name = ''d''',
    'select workflow_step_uuid from tasker.workflow_steps where not ({task_uuid} = {X}) and name = ''d''',
    'select workflow_step_uuid from tasker.workflow_steps where ({task_uuid} = {X}) is not true and name = ''a''',
    'select from_step_uuid, to_step_uuid, name from tasker.workflow_step_edges where {task_uuid} = {X}',
    'select workflow_step_uuid, sort_key, to_state, most_recent from tasker.workflow_step_transitions where {task_uuid} = {X}',
    'select t.n, s.workflow_step_uuid from wp.task t join tasker.workflow_steps s on {s.task_uuid} = {t.task_uuid}',
    'select t.n, s.workflow_step_uuid from wp.task t left join tasker.workflow_steps s on {s.task_uuid} = {t.task_uuid} and s.name = ''c''',
    'select t.n, s.workflow_step_uuid from tasker.workflow_steps s left join wp.other t on {s.task_uuid} = {t.task_uuid}',
    'select t.n, s.workflow_step_uuid from wp.other t full join tasker.workflow_steps s on {s.task_uuid} = {t.task_uuid}',
    'select s.name, e.name from tasker.workflow_steps s join tasker.workflow_step_edges e on {s.task_uuid} = {e.task_uuid} where s.name = ''d''',
    'select n from wp.other t where exists (select from tasker.workflow_steps s where {s.task_uuid} = {t.task_uuid} and s.current_state = ''enqueued'')',
    'select n from wp.other t where not exists (select from tasker.workflow_steps s where {s.task_uuid} = {t.task_uuid})',
    'select workflow_step_uuid from tasker.workflow_steps where {task_uuid} = {(select task_uuid from wp.task where n = 3)}',
    'select workflow_step_uuid from tasker.workflow_steps where {task_uuid} = {(null::uuid)}',
    'select workflow_step_uuid, name from wp.steps where {task_uuid} = {X}',
    'select * from wp.named_steps where {task} = {X}',
    'select t.n as other, v.* from wp.other t left join wp.named_steps v on {v.task} = {t.task_uuid}',
    'select * from wp.without_step where {task_uuid} = {X}',
    'select * from (select task_uuid, workflow_step_uuid from tasker.workflow_steps union all select task_uuid, md5(n::text)::uuid from wp.task) s where {task_uuid} = {X}',
    'select * from (select task_uuid, workflow_step_uuid, count(*) from tasker.workflow_steps group by rollup (task_uuid, workflow_step_uuid)) s where {task_uuid} = {X}',
    'select * from (select task_uuid, workflow_step_uuid, count(*) from tasker.workflow_steps group by 1, 2) s where {task_uuid} = {X}',
    'select s.task_uuid, s.name, t.n from tasker.workflow_steps s full join wp.task t using (task_uuid) where {s.task_uuid} = {X}',
    'select n, name from wp.other t left join tasker.workflow_steps s using (task_uuid)',
    'select * from (select distinct on (name) task_uuid, workflow_step_uuid, name from tasker.workflow_steps order by name, workflow_step_uuid) s where {task_uuid} = {X}'
]) k;
create function wp.answer(question text, task uuid) returns text language plpgsql as
$$
declare
    result text;
begin
    execute format('select string_agg(r::text, '','' order by r::text) from (%s) r', replace(question, 'X', quote_literal(task) || '::uuid'))
        into result;
    return coalesce(result, '');
end
$$;

select plan((3 * (select count(*) from lookups) + (select count(*) from questions) + 13)::int);

select set_eq(format('select partition from wp.scans(%L)', replace(statement, '$1', quote_literal(value))),
    array(select wp.expected(tables, value)), 'one partition: ' || statement) from lookups;
select set_eq(format('select partition from wp.generic_scans(%L, %L)', statement, value),
    array(select wp.expected(tables, value)), 'one partition, generic plan: ' || statement) from lookups;
select is_empty(format('select * from wp.generic_scans(%L, %L) where node not like ''Index%%''', statement, value),
    'by index: ' || statement) from lookups;

select is(wp.answer(replace(replace(known, '{', ''), '}', ''), :'task'), wp.answer(hidden, :'task'), 'same rows: ' || known)
from questions;

-- What was created since: only partitions of that time.
select is_empty($$select partition from wp.scans('select count(*) from tasker.tasks where task_uuid >= tasker.uuid_at(now() - interval ''1 hour'')')
    where partition ~ '2001'$$, 'what was created since an hour ago is not looked for in older partitions');
select is(count(*), 40::bigint, 'and is found') from tasker.tasks
where task_uuid >= tasker.uuid_at(now()) and namespace_name = 'plans';
select is(tasker.uuid_time(tasker.uuid_at('2026-11-21 12:34:56.789+00')), '2026-11-21 12:34:56.789+00'::timestamptz,
    'uuid_at() and uuid_time() agree');
select is(tasker.uuid_at('-infinity'), '00000000-0000-0000-0000-000000000000'::uuid, 'before all uuids');
select is(tasker.uuid_at('infinity'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid, 'after all uuids');
select is(tasker.uuid_at('1969-12-31 23:59:59+00'), '00000000-0000-0000-0000-000000000000'::uuid, 'before 1970');

-- Nothing is evaluated more often than it was, unless it is the same each time.
create function wp.adds_range(value text) returns boolean language plpgsql as
$$
declare
    line text;
begin
    for line in execute 'explain (costs off) select * from tasker.workflow_steps where task_uuid = ' || value loop
        if line ~ 'workflow_step_uuid <= ' then
            return true;
        end if;
    end loop;
    return false;
end
$$;
select ok(wp.adds_range(format('%L', :'task')), 'a range is added for a constant');
select ok(wp.adds_range(format('tasker.task_of(%L)', :'task')), 'and for a call that is always the same');
select ok(not wp.adds_range('gen_random_uuid()'), 'but not for a volatile call');
select ok(not wp.adds_range('(select task_uuid from wp.task limit 1)'), 'nor for a subquery');

-- Who reads through somebody else's view needs no right on the schema, and gets his rows with or without the range.
create role wp_guest;
grant usage on schema wp to wp_guest;
grant select on wp.without_step, wp.steps to wp_guest;
grant execute on function tasker.task_of(uuid), tasker._step_state_word("char"), tasker.uuid_time(uuid) to wp_guest;
create function wp.rows_of_guest(task uuid) returns bigint language sql volatile as
$$ select count(*) from wp.steps where task_uuid = task $$;
select 'tasker.last_step_of(uuid)'::regprocedure::oid as function \gset
set local role wp_guest;
select ok(not has_function_privilege(:function, 'execute'), 'a guest may not call last_step_of()');
select is(wp.rows_of_guest(:'task'), 3::bigint, 'and reads the steps of a task all the same');
reset role;
grant execute on function tasker.last_step_of(uuid) to wp_guest;
set local role wp_guest;
select is(wp.rows_of_guest(:'task'), 3::bigint, 'as when he may');
reset role;

select * from finish();
rollback;
