-- task_graph(): every state, every kind of step, names that must be escaped, tasks that are wide or deep.
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
set timezone = 'UTC';
set client_min_messages = warning;
create extension if not exists tasker;
create schema wg;

-- Rows as the engine would write them, at a time of our own. A task that is not finished keeps them from being retired.
create function wg.uuid(task text, step int) returns uuid language sql immutable as
$$ select ('016f5e66-e800-7000-8000-' || lpad(task, 4, '0') || lpad(to_hex(step), 8, '0'))::uuid $$;
create function wg.template(step int) returns uuid language sql immutable as
$$ select ('00000000-0000-7000-8000-00000001' || lpad(to_hex(step), 4, '0'))::uuid $$;
select count(tasker.create_partition(set_of, '2020-01-01'))
from unnest('{tasker.task,tasker.workflow_step,tasker.workflow_step_edge,tasker.task_transition,tasker.workflow_step_transition}'::regclass[]) set_of;
insert into tasker.task_namespaces (task_namespace_uuid, name) values (wg.template(0), 'wg shop');
insert into tasker.named_tasks (named_task_uuid, task_namespace_uuid, name, version, configuration)
values (wg.template(0), wg.template(0), 'order', '1.0', '{}');
insert into tasker.named_steps (named_step_uuid, named_task_uuid, step_order, name, handler, step_type, flow_id)
select wg.template(i::int), wg.template(0), i, name, 'h', 'standard', 0
from unnest(array['collect', 'weigh "it" \', 'a<b>&#1;`x`', E'br\tan\nch', 'gather', 'report', '%s', '--> s1', 'end', 'schön'])
    with ordinality names (name, i);

create function wg.add_task(task text, state "char") returns int language sql as
$$ insert into tasker.task (task_uuid, named_task_uuid, state_entered_at, updated_at, current_state, priority, total_steps,
       active_steps, retry_steps, failed_steps, last_transition, next_step_number, correlation_id, context)
   values (wg.uuid(task, 0), wg.template(0), '2020-01-01 00:03', '2020-01-01 00:03', state, 0, 0, 0, 0, 0, 0, 1, wg.uuid(task, 0), '{}') returning 1 $$;
create function wg.add_step(task text, step int, state "char", type "char" = 's', name text = null) returns int language sql as
$$ insert into tasker.workflow_step (workflow_step_uuid, named_step_uuid, record_id, state_entered_at, current_state,
       step_type, retryable, priority, attempts, max_attempts, total_parents, remaining_parents, last_transition, name)
   values (wg.uuid(task, step), wg.template(step), 0, '2020-01-01', state, type, true, 0, step % 3, 3, 0, 0, 0, name) returning 1 $$;
create function wg.add_edge(task text, parent int, child int) returns int language sql as
$$ insert into tasker.workflow_step_edge (from_step_uuid, to_step_uuid) values (wg.uuid(task, parent), wg.uuid(task, child)) returning 1 $$;

select wg.add_task('0', 's');
select wg.add_task('1', 'e');
select count(wg.add_step('1', i::int, state::"char", substr('sdbfssssss', i::int, 1)::"char"))
from unnest('{c,q,s,r,e,x,m,p,o,f}'::text[]) with ordinality steps (state, i);
select count(wg.add_edge('1', parent, child)) from (values (1, 2), (1, 3), (1, 4), (2, 5), (3, 5), (4, 5), (5, 6), (6, 7), (4, 8), (7, 9), (8, 9)) edges (parent, child);
-- Each was in a worker's hands, and waited for one, as many times 1.7 s as its number says.
insert into tasker.workflow_step_transition (workflow_step_uuid, txid, created_at, sort_key, from_state, to_state)
select wg.uuid('1', i), 0, timestamptz '2020-01-01' + k * i * interval '1.7 s', k, null, state::"char"
from generate_series(1, 10) i, unnest('{p,q,s,c}'::text[]) with ordinality states (state, k);

select tasker.task_graph(wg.uuid('1', 0), 'text');
select tasker.task_graph(wg.uuid('1', 0));
select tasker.task_graph(wg.uuid('1', 0), 'dot');

-- A task without steps; how long it has lasted is the clock's business.
select regexp_replace(tasker.task_graph(wg.uuid('0', 0), 'text'), 'done, .*', 'done');

-- Times of every length: each step's log has one visit of a worker that took so long.
select wg.add_task('2', 'c');
create table wg.length (i serial, us bigint);
insert into wg.length (us) values (1), (9949), (12345), (999999), (1000000), (59999999), (60000000), (3599000000), (3600000000), (90061000000), (8640000000000);
select count(wg.add_step('2', i, 'c', 's', format('%s us', us))) from wg.length;
insert into tasker.workflow_step_transition (workflow_step_uuid, txid, created_at, sort_key, to_state)
select wg.uuid('2', i), 0, timestamptz '2020-01-01' + k * us * interval '1 us', k + 1, substr('sc', k + 1, 1)::"char" from wg.length, generate_series(0, 1) k;
select tasker.task_graph(wg.uuid('2', 0), 'text', 0);

-- Ten thousand side by side, and one that gathers them: some are drawn, those in trouble first, the others are counted.
set statement_timeout = '30s';
select wg.add_task('3', 'c');
select wg.add_step('3', 1, 'c', 'b', 'split');
select count(wg.add_step('3', i, case when i = 7000 then 'e' when i = 8000 then 's' when i % 1000 = 1 then 'q' else 'c' end::"char", 's', 'part ' || i - 1))
from generate_series(2, 10001) i;
select wg.add_step('3', 10002, 'p', 'f', 'gather'), wg.add_step('3', 10003, 'p', 's', 'report');
select count(wg.add_edge('3', 1, i)), count(wg.add_edge('3', i, 10002)) from generate_series(2, 10001) i;
select wg.add_edge('3', 10002, 10003);
select tasker.task_graph(wg.uuid('3', 0), 'text', 4);
select count(*), count(*) filter (where line like '%part%') as parts from string_to_table(tasker.task_graph(wg.uuid('3', 0), 'text'), E'\n') line;
select count(*) from string_to_table(tasker.task_graph(wg.uuid('3', 0), 'text', 0), E'\n') line;
select count(*) filter (where line like '%-->%') as edges, count(*) filter (where line like '%"%') as steps
from string_to_table(tasker.task_graph(wg.uuid('3', 0)), E'\n') line;
select count(*) filter (where line like '%->%') as edges, count(*) filter (where line like '%class=%') as steps
from string_to_table(tasker.task_graph(wg.uuid('3', 0), 'dot'), E'\n') line;

-- The same picture each time.
select count(distinct tasker.task_graph(wg.uuid('3', 0), format)) from generate_series(1, 3), unnest('{text,dot,mermaid}'::text[]) format;

-- Branches that go on are left out as a whole, with what comes after them.
select wg.add_task('4', 'c');
select wg.add_step('4', 1, 'c', 's', 'root');
select count(wg.add_step('4', i, 'c', 's', 'left ' || i)), count(wg.add_step('4', i + 10, case when i = 9 then 'r' else 'q' end::"char", 's', 'right ' || i)) from generate_series(2, 11) i;
select count(wg.add_edge('4', 1, i)), count(wg.add_edge('4', i, i + 10)) from generate_series(2, 11) i;
select tasker.task_graph(wg.uuid('4', 0), 'text', 2);

-- A thousand in a row: no line is longer than the terminal because of that.
select wg.add_task('5', 'c');
select count(wg.add_step('5', i, 'c', 's', 'link ' || i)) from generate_series(1, 1000) i;
select count(wg.add_edge('5', i, i + 1)) from generate_series(1, 999) i;
select number, line from string_to_table(tasker.task_graph(wg.uuid('5', 0), 'text'), E'\n') with ordinality lines (line, number)
where number in (1, 2, 3, 24, 25, 26, 27, 1001);
select count(*), max(length(line)) from string_to_table(tasker.task_graph(wg.uuid('5', 0), 'text'), E'\n') line;

-- Several ends and beginnings, and a way round.
select wg.add_task('6', 'c');
select count(wg.add_step('6', i, 'c', 's', chr(96 + i))) from generate_series(1, 8) i;
select count(wg.add_edge('6', parent, child)) from (values (1, 3), (2, 3), (3, 4), (3, 5), (4, 6), (5, 6), (3, 6), (1, 8), (4, 7), (5, 8)) edges (parent, child);
select tasker.task_graph(wg.uuid('6', 0), 'text');

-- What is refused.
select tasker.task_graph(wg.uuid('9', 0));
select tasker.task_graph(null);
select tasker.task_graph(wg.uuid('1', 0), null);
select tasker.task_graph(wg.uuid('1', 0), 'svg');
select tasker.task_graph(wg.uuid('1', 0), 'text', -1);
select tasker.task_graph(wg.uuid('1', 0), 'text', null);

delete from tasker.workflow_step_transition where workflow_step_uuid >= wg.uuid('0', 0) and workflow_step_uuid < wg.uuid('9', 0);
delete from tasker.workflow_step_edge where from_step_uuid >= wg.uuid('0', 0) and from_step_uuid < wg.uuid('9', 0);
delete from tasker.workflow_step where workflow_step_uuid >= wg.uuid('0', 0) and workflow_step_uuid < wg.uuid('9', 0);
delete from tasker.task where task_uuid >= wg.uuid('0', 0) and task_uuid < wg.uuid('9', 0);
delete from tasker.named_steps where named_task_uuid = wg.template(0);
delete from tasker.named_tasks where named_task_uuid = wg.template(0);
delete from tasker.task_namespaces where task_namespace_uuid = wg.template(0);
drop schema wg cascade;
