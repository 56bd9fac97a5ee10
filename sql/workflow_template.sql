-- Defining tasks: what is written, what is refused, and what sessions keep of it.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;
create schema wt;

-- Defines, and says what came of it.
create function wt.define(definition jsonb, name text default 't', namespace text default 'bad', version text default '1')
    returns text language sql volatile as
$$
select regexp_replace(qt.try(format('select tasker.define_task(%L, %L, %L, %L) is not null',
    namespace, name, definition, version)), '^returned true$', 'defined')
$$;
create function wt.steps(variadic steps jsonb[]) returns jsonb language sql immutable as
$$ select jsonb_build_object('steps', to_jsonb(steps)) $$;

-- A definition with everything in it.
select tasker.define_task('shop', 'order', '{
    "description": "From the order to the parcel",
    "lifecycle": {"max_waiting_for_dependencies_minutes": 60, "max_waiting_for_retry_minutes": 30,
        "max_steps_in_process_minutes": 10, "max_duration_minutes": 1440},
    "steps": [
        {"name": "ship", "depends_on": ["pack", "pay"]},
        {"name": "check", "handler": "checks", "inputs": {"strict": true}, "priority": 9},
        {"name": "pay", "depends_on": ["check"], "handler": "money/take", "retryable": true, "max_attempts": 5,
            "backoff": {"base_seconds": 0.5, "multiplier": 3, "max_seconds": 600, "jitter": 0}, "timeout_seconds": 90},
        {"name": "pack", "depends_on": ["check"], "retryable": false}
    ]}', '1.0.0') as task \gset
select namespace, name, version, steps, description, named_task_uuid = :'task' as same,
    created_at between now() - interval '1 minute' and clock_timestamp() as made_now
from tasker.task_templates where namespace = 'shop';
-- Parents come first; of those that may come next, that which was given first.
select s.step_order, s.name, s.handler, s.step_type, f.flow_name, f.max_attempts, f.lease,
    s.named_step_uuid = overlay(:'task' placing lpad(s.step_order::text, 8, '0') from 29)::uuid as uuid_fits
from tasker.named_steps s join tasker.flow f using (flow_id) where s.named_task_uuid = :'task' order by 1;
select n.name, s.handler, f.flow_name from tasker.step_flow s join tasker.flow f using (flow_id)
join tasker.task_namespaces n using (task_namespace_uuid) where n.name = 'shop' order by 2;
select tasker.get_task_template('shop', 'order', '1.0.0') = configuration as same from tasker.named_tasks
where named_task_uuid = :'task';

-- The same again is the same, however it is written; another one is another version.
select tasker.define_task('shop', 'small', '{"steps": [{"name": "a", "max_attempts": 3}]}') as small \gset
select tasker.define_task('shop', 'small', '{"steps": [{"max_attempts": 3.0, "name": "a"}]}', '0.1.0') = :'small' as same;
select wt.define('{"steps": [{"name": "a"}]}', 'small', 'shop', '0.1.0');
select wt.define('{"steps": [{"name": "b"}]}', 'small', 'shop', '0.2.0');
select wt.define('{"steps": [{"name": "a"}]}', 'small', 'shop', '0.1.5');
select version, steps from tasker.task_templates where namespace = 'shop' and name = 'small' order by created_at;
-- Without a version, the one that was defined last.
select tasker.get_task_template('shop', 'small') as youngest, tasker.get_task_template('shop', 'small', '0.2.0') as second;
-- Handlers of a namespace share their flow, over versions and tasks.
select count(*) from tasker.step_flow s join tasker.task_namespaces n using (task_namespace_uuid)
where n.name = 'shop' and s.handler = 'a';

-- What is created when the task runs comes last: the children of decision and batch steps and all behind them.
select wt.define('{"steps": [
    {"name": "join", "type": "deferred", "depends_on": ["yes", "no", "log"]},
    {"name": "choose", "type": "decision", "depends_on": ["begin"]},
    {"name": "yes", "depends_on": ["choose"]}, {"name": "no", "depends_on": ["choose"]},
    {"name": "begin"}, {"name": "log", "depends_on": ["begin"]},
    {"name": "split", "type": "batch", "depends_on": ["log"]}, {"name": "part", "depends_on": ["split"]},
    {"name": "end", "type": "deferred", "depends_on": ["join", "part"]}]}', 'dynamic', 'shop');
select s.step_order, s.name, s.step_type from tasker.named_steps s join tasker.named_tasks t using (named_task_uuid)
where t.name = 'dynamic' order by 1;

-- Limits, from inside.
select wt.define(wt.steps(jsonb_build_object('name', repeat('n', 128), 'handler', 'h'), jsonb_build_object('name', 'x',
    'handler', repeat('h', 124))), repeat('t', 128), 'lim', repeat('v', 128));
select wt.define('{"steps": [{"name": "a", "max_attempts": 1, "priority": 0, "timeout_seconds": 1, "backoff": {"base_seconds": 0,
    "multiplier": 1, "max_seconds": 0, "jitter": 0}}, {"name": "b", "max_attempts": 1000, "priority": 9,
    "timeout_seconds": 2678400, "backoff": {"base_seconds": 2678400, "multiplier": 1000, "jitter": 1}}],
    "lifecycle": {"max_duration_minutes": 1, "max_steps_in_process_minutes": 2147483647}}', 'limits', 'lim');
-- A JSON null is the default.
select wt.define('{"description": null, "lifecycle": null, "steps": [{"name": "a", "handler": null, "depends_on": null,
    "type": null, "retryable": null, "max_attempts": null, "backoff": null, "timeout_seconds": null, "priority": null,
    "inputs": null}, {"name": "b", "backoff": {"base_seconds": null}}], "lifecycle": {"max_duration_minutes": null}}',
    'nulls', 'lim');
-- Names can be anything.
select tasker.define_task('q''uo"te\', 'a "b" ''c'' \ %s {}', '{"steps": [{"name": "ä \"x\" ''y'' \\ %d $1", "handler": "/"},
    {"name": "; drop table x; --", "depends_on": ["ä \"x\" ''y'' \\ %d $1"], "handler": "日本"}]}', ' ') is not null as defined;
select t.namespace, t.name, t.version, s.step_order, s.name, s.handler, f.flow_name
from tasker.task_templates t join tasker.named_steps s using (named_task_uuid) join tasker.flow f using (flow_id)
where t.namespace like 'q%' order by s.step_order;
select tasker.get_task_template('q''uo"te\', 'a "b" ''c'' \ %s {}', ' ') -> 'steps' -> 0;

-- What is refused. Nothing is left of it.
create temp table before as select (select count(*) from tasker.task_namespaces) namespaces,
    (select count(*) from tasker.named_tasks) tasks, (select count(*) from tasker.named_steps) steps,
    (select count(*) from tasker.flow) flows, (select count(*) from tasker.step_flow) step_flows;
create temp table refused (n int generated always as identity, definition jsonb);
insert into refused (definition) values
    -- the whole
    ('[]'), ('"steps"'), ('1'), ('null'), ('{}'), ('{"steps": null}'), ('{"steps": []}'), ('{"steps": {}}'),
    ('{"steps": "a"}'), ('{"step": [{"name": "a"}]}'), ('{"steps": [{"name": "a"}], "Description": "x"}'),
    ('{"steps": [{"name": "a"}], "description": 1}'), ('{"steps": [{"name": "a"}], "lifecycle": []}'),
    ('{"steps": [{"name": "a"}], "lifecycle": {"max_duration": 5}}'),
    ('{"steps": [{"name": "a"}], "lifecycle": {"max_duration_minutes": 0}}'),
    ('{"steps": [{"name": "a"}], "lifecycle": {"max_duration_minutes": 1.5}}'),
    ('{"steps": [{"name": "a"}], "lifecycle": {"max_duration_minutes": "5"}}'),
    ('{"steps": [{"name": "a"}], "lifecycle": {"max_duration_minutes": 2147483648}}'),
    -- steps
    ('{"steps": ["a"]}'), ('{"steps": [["a"]]}'), ('{"steps": [null]}'), ('{"steps": [{"name": "a"}, {}]}'),
    ('{"steps": [{"name": null}]}'), ('{"steps": [{"name": ""}]}'), ('{"steps": [{"name": 5}]}'),
    ('{"steps": [{"name": "a\tb"}]}'), ('{"steps": [{"name": "a\u007f"}]}'),
    (wt.steps(jsonb_build_object('name', repeat('n', 129)))),
    ('{"steps": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}'),
    ('{"steps": [{"name": "a", "handler": ""}]}'), ('{"steps": [{"name": "a", "handler": {}}]}'),
    (wt.steps(jsonb_build_object('name', 'a', 'handler', repeat('h', 125)))),
    ('{"steps": [{"name": "a", "depend_on": []}]}'), ('{"steps": [{"name": "a", "Name": "b"}]}'),
    ('{"steps": [{"name": "a", "type": "decide"}]}'), ('{"steps": [{"name": "a", "type": true}]}'),
    ('{"steps": [{"name": "a", "retryable": "yes"}]}'), ('{"steps": [{"name": "a", "retryable": 1}]}'),
    ('{"steps": [{"name": "a", "max_attempts": 0}]}'), ('{"steps": [{"name": "a", "max_attempts": 1001}]}'),
    ('{"steps": [{"name": "a", "max_attempts": 2.5}]}'), ('{"steps": [{"name": "a", "max_attempts": "3"}]}'),
    ('{"steps": [{"name": "a", "max_attempts": 1e400}]}'), ('{"steps": [{"name": "a", "max_attempts": -1e400}]}'),
    ('{"steps": [{"name": "a", "timeout_seconds": 0}]}'), ('{"steps": [{"name": "a", "timeout_seconds": 2678401}]}'),
    ('{"steps": [{"name": "a", "priority": -1}]}'), ('{"steps": [{"name": "a", "priority": 10}]}'),
    ('{"steps": [{"name": "a", "inputs": []}]}'), ('{"steps": [{"name": "a", "inputs": "x"}]}'),
    ('{"steps": [{"name": "a", "backoff": 5}]}'), ('{"steps": [{"name": "a", "backoff": {"base": 5}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"base_seconds": -1}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"base_seconds": 1e308}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"max_seconds": 1e400}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"base_seconds": 10, "max_seconds": 5}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"multiplier": 0.9}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"multiplier": 1e6}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"jitter": 1.01}}]}'), ('{"steps": [{"name": "a", "backoff": {"jitter": -0.01}}]}'),
    ('{"steps": [{"name": "a", "backoff": {"jitter": [0.1, {"x": "a value that is much longer than anybody wants to read in an error"}]}}]}'),
    -- dependencies
    ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": "a"}]}'), ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": {"a": 1}}]}'),
    ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": [1]}]}'), ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": [["a"]]}]}'),
    ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": [null]}]}'),
    ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": ["a", "A"]}]}'), ('{"steps": [{"name": "a", "depends_on": [""]}]}'),
    ('{"steps": [{"name": "a", "depends_on": ["a"]}]}'), ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": ["a", "a"]}]}'),
    ('{"steps": [{"name": "a", "depends_on": ["b"]}, {"name": "b", "depends_on": ["a"]}]}'),
    ('{"steps": [{"name": "z"}, {"name": "a", "depends_on": ["c", "z"]}, {"name": "b", "depends_on": ["a"]},
        {"name": "c", "depends_on": ["z", "b"]}, {"name": "d", "depends_on": ["c"]}]}'),
    (wt.steps(variadic (select array_agg(jsonb_build_object('name', 's' || i, 'depends_on',
        jsonb_build_array('s' || (i + 29) % 30)) order by i) from generate_series(0, 29) i))),
    -- kinds
    ('{"steps": [{"name": "a", "type": "decision"}]}'),
    ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": ["a"], "type": "batch"}]}'),
    ('{"steps": [{"name": "a", "type": "deferred"}]}'),
    ('{"steps": [{"name": "a"}, {"name": "b", "depends_on": ["a"], "type": "deferred"}]}'),
    ('{"steps": [{"name": "a", "type": "decision"}, {"name": "b", "depends_on": ["a"]}, {"name": "c"},
        {"name": "d", "depends_on": ["c"], "type": "deferred"}]}');
select n, wt.define(definition) from refused order by n;
select wt.define('{"steps": [{"name": "a"}]}', n, ns, v) from (values ('', 'bad', '1'), ('t', '', '1'), ('t', 'bad', ''),
    (repeat('t', 129), 'bad', '1'), ('t', repeat('n', 129), '1'), ('t', 'bad', repeat('v', 129)), (E't\n', 'bad', '1'),
    ('t', E'\x01', '1'), ('t', 'bad', E'1\x7f'), ('t', repeat('n', 127), '1')) names (n, ns, v);
select qt.try(format('select tasker.define_task(%s)', a)) from unnest(array['null, ''t'', ''{}''', '''n'', null, ''{}''',
    '''n'', ''t'', null', '''n'', ''t'', ''{}'', null']) a;
select qt.try('select tasker.get_task_template(''shop'', ''order'', ''2'')') union all
select qt.try('select tasker.get_task_template(''shop'', ''none'')') union all
select qt.try('select tasker.get_task_template(''none'', ''order'')') union all
select qt.try('select tasker.get_task_template(''shop'', ''order'', '''')') union all
select qt.try('select tasker.get_task_template(null, ''order'')');

-- Limits of size.
select wt.define(jsonb_build_object('steps', (select jsonb_agg(jsonb_build_object('name', i::text, 'handler', 'h'))
    from generate_series(1, 100001) i)));
select wt.define(jsonb_build_object('steps', (select jsonb_agg(jsonb_build_object('name', i::text, 'handler', 'h', 'depends_on',
    case when i > 1 then jsonb_build_array((i - 1)::text) else '[]' end)) from generate_series(1, 10001) i)));
select wt.define(jsonb_build_object('steps', (select jsonb_agg(jsonb_build_object('name', i::text, 'handler', 'h', 'depends_on',
    case when i > 1000 then (select jsonb_agg(j::text) from generate_series(1, 1000) j) else '[]' end))
    from generate_series(1, 2001) i)));

-- A flow of that name that is none of ours is left alone.
select tasker.create_flow('shop/mine') is not null as made;
select wt.define('{"steps": [{"name": "yours"}, {"name": "mine"}]}', 'flows', 'shop');
-- So is that of another namespace.
select wt.define('{"steps": [{"name": "take"}]}', 'flows', 'shop/money');
select tasker.drop_flow('shop/mine');
select b.namespaces = (select count(*) from tasker.task_namespaces) and b.tasks = (select count(*) from tasker.named_tasks)
    and b.steps = (select count(*) from tasker.named_steps) and b.flows = (select count(*) from tasker.flow)
    and b.step_flows = (select count(*) from tasker.step_flow) as nothing_is_left
from before b;

-- Flows that carry steps stay, under their names. Their settings may change.
select qt.try(s) from unnest(array['select tasker.drop_flow(''shop/a'')', 'select tasker.drop_flow(''shop/a'', true)',
    'update tasker.flow set flow_name = ''b'' where flow_name = ''shop/a''', 'delete from tasker.flow where flow_name = ''shop/checks''']) s;
select tasker.alter_flow('shop/a', 'max_in_flight', '5');
select tasker.create_flow('other') is not null as made;
update tasker.flow set flow_name = 'renamed' where flow_name = 'other';
select tasker.drop_flow('renamed');

-- What is rolled back was never there, also for the session that has seen it.
begin;
select wt.define('{"steps": [{"name": "new"}]}', 'small', 'shop', '0.3.0');
select tasker.get_task_template('shop', 'small');
savepoint s;
select wt.define('{"steps": [{"name": "newer"}]}', 'small', 'shop', '0.4.0');
select tasker.get_task_template('shop', 'small');
rollback to s;
select tasker.get_task_template('shop', 'small');
rollback;
select tasker.get_task_template('shop', 'small');
select qt.try('select tasker.get_task_template(''shop'', ''small'', ''0.3.0'')');
select count(*) from tasker.flow where flow_name in ('shop/new', 'shop/newer');
-- After a rollback it can be defined again, as something else.
select wt.define('{"steps": [{"name": "other"}]}', 'small', 'shop', '0.3.0');
select tasker.get_task_template('shop', 'small');
-- A row that goes, by hand, is noticed too.
begin;
delete from tasker.named_tasks where name = 'small' and version = '0.3.0';
select tasker.get_task_template('shop', 'small');
rollback;
select tasker.get_task_template('shop', 'small');

-- A read-only transaction may ask for what is defined.
begin read only;
select wt.define('{"steps": [{"name": "b"}]}', 'small', 'shop', '0.2.0');
select wt.define('{"steps": [{"name": "b"}]}', 'small', 'shop', '0.9.0');
commit;
begin isolation level serializable;
select wt.define('{"steps": [{"name": "s"}]}', 'serializable', 'shop');
select tasker.get_task_template('shop', 'serializable');
commit;
select tasker.get_task_template('shop', 'serializable');

-- Random definitions against the plain rules: the order of steps, what is left out at first, and the edges of a task.
create function wt.random_definition(steps int) returns jsonb language plpgsql as
$$
declare
    rank int[] := array(select i from generate_series(1, steps) i order by random());
    dense float := 0.1 + random() * 0.6;
    parents int[];
    has_children boolean;
    result jsonb := '[]';
begin
    for i in 1..steps loop
        parents := array(select j from generate_series(1, steps) j where rank[j] < rank[i] and md5(j || '/' || i || dense)
            < to_hex((dense * 255)::int) order by random());
        has_children := exists (select from generate_series(1, steps) j where rank[i] < rank[j]
            and md5(i || '/' || j || dense) < to_hex((dense * 255)::int));
        result := result || jsonb_build_object('name', 's' || i, 'handler', 'h',
            'depends_on', (select coalesce(jsonb_agg('s' || j), '[]') from unnest(parents) j),
            'type', case when has_children and random() < 0.15 then 'decision' when has_children and random() < 0.1 then 'batch'
                else 'standard' end);
    end loop;
    return jsonb_build_object('steps', result);
end
$$;
-- What is wrong; nothing, where all is right.
create function wt.problems(definition jsonb) returns setof text language plpgsql as
$$
declare
    task uuid := tasker.define_task('random', md5(definition::text), definition);
    instance uuid;
    expected text[] := '{}';
    next_step text;
begin
    drop table if exists given, edge, later;
    create temp table given as select o as place, s ->> 'name' as name, s ->> 'type' as type
        from jsonb_array_elements(definition -> 'steps') with ordinality e (s, o);
    create temp table edge as select p as parent, s ->> 'name' as child
        from jsonb_array_elements(definition -> 'steps') s, jsonb_array_elements_text(s -> 'depends_on') p;
    create temp table later as
        with recursive r (name) as (
            select child from edge join given on given.name = parent where type <> 'standard'
            union select child from edge join r on r.name = parent)
        select name from r;
    loop
        select g.name into next_step from given g where g.name <> all(expected)
            and not exists (select from edge e where e.child = g.name and e.parent <> all(expected)) order by place limit 1;
        exit when not found;
        expected := expected || next_step;
    end loop;
    return query select 'order: ' || string_agg(n.name, ' ' order by n.step_order) from tasker.named_steps n
        where n.named_task_uuid = task
        having array_agg(n.name order by n.step_order) <> (select array_agg(u.name order by l.name is not null, o)
            from unnest(expected) with ordinality u (name, o) left join later l using (name));
    instance := tasker.create_task('random', md5(definition::text));
    return query select 'step ' || coalesce(n.name, g.name) from (
            select ns.name from tasker.workflow_step s join tasker.named_steps ns using (named_step_uuid)
            where workflow_step_uuid between instance and tasker.last_step_of(instance)) n
        full join (select name from given except select name from later) g using (name) where n.name is null or g.name is null;
    return query select 'edge ' || coalesce(i.parent, e.parent) || ' ' || coalesce(i.child, e.child) from (
            select a.name as parent, b.name as child from tasker.workflow_step_edge w
            join tasker.workflow_step f on f.workflow_step_uuid = w.from_step_uuid join tasker.named_steps a using (named_step_uuid)
            join tasker.workflow_step t on t.workflow_step_uuid = w.to_step_uuid
            join tasker.named_steps b on b.named_step_uuid = t.named_step_uuid
            where w.from_step_uuid between instance and tasker.last_step_of(instance)) i
        full join (select * from edge where child not in (select name from later)) e using (parent, child)
        where i.parent is null or e.parent is null;
end
$$;
select setseed(0.25);
begin;
create temp table random_definition as select wt.random_definition(1 + i % 14) as definition from generate_series(1, 150) i;
select count(*) as definitions, count(*) filter (where definition::text ~ 'decision|batch') > 20 as with_dynamic,
    sum(jsonb_array_length(jsonb_path_query_array(definition, '$.steps[*].depends_on[*]'))) > 1000 as with_edges
from random_definition;
select definition, problem from random_definition, wt.problems(definition) problem;
rollback;

-- Many steps: a chain, a fan out and in, and one handler for each step.
create function wt.chain(steps int) returns jsonb language sql as
$$ select jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', 's' || i, 'handler', 'h', 'depends_on',
    case when i < steps then jsonb_build_array('s' || i + 1) else '[]' end) order by i)) from generate_series(1, steps) i $$;
create function wt.fan(steps int) returns jsonb language sql as
$$ select jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', 's' || i, 'handler', 'h', 'depends_on',
    case when i = 1 then '[]' when i < steps then '["s1"]' else
        (select jsonb_agg('s' || j) from generate_series(2, steps - 1) j) end) order by i))
    from generate_series(1, steps) i $$;
select wt.define(wt.chain(10000), 'chain', 'big'), wt.define(wt.fan(10002), 'fan', 'big');
select wt.define(jsonb_build_object('steps', (select jsonb_agg(jsonb_build_object('name', 's' || i)) from
    generate_series(1, 2000) i)), 'handlers', 'many');
select t.name, t.steps, (select array_agg(s.name order by s.step_order) from tasker.named_steps s
    where s.named_task_uuid = t.named_task_uuid and s.step_order in (1, 2, 10000, 10002)) as steps
from tasker.task_templates t where t.namespace = 'big' order by 1;
select count(*) from tasker.step_flow s join tasker.task_namespaces n using (task_namespace_uuid) where n.name = 'many';
-- Another session compiles them from their rows.
\c
\set VERBOSITY terse
select jsonb_array_length(tasker.get_task_template('big', 'chain') -> 'steps') as chain,
    jsonb_array_length(tasker.get_task_template('big', 'fan') -> 'steps') as fan,
    jsonb_array_length(tasker.get_task_template('many', 'handlers') -> 'steps') as handlers;
-- Each in less than a second, with room for a slow machine.
select clock_timestamp() as started \gset
select wt.define(wt.chain(10000), 'chain again', 'big');
select clock_timestamp() - :'started' < interval '5 seconds' as fast_enough;

-- Rows that do not fit their definition are said to be so.
begin;
delete from tasker.named_steps s using tasker.named_tasks t
where t.named_task_uuid = s.named_task_uuid and t.name = 'dynamic' and s.name = 'log';
select qt.try('select tasker.get_task_template(''shop'', ''dynamic'') is not null') like
    'XX001 task "shop/dynamic" does not have the steps of its definition%' as refused;
rollback;

-- Every function, view and column has its comment.
select p.oid::regprocedure from pg_proc p where pronamespace = 'tasker'::regnamespace and obj_description(oid, 'pg_proc') is null
and proname in ('define_task', 'get_task_template', 'account_template_change', 'keep_step_flow');
select attname from pg_attribute where attrelid = 'tasker.task_templates'::regclass and attnum > 0
and col_description(attrelid, attnum) is null;
drop schema wt cascade;
