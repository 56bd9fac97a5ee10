-- check_workflow_integrity(): finds nothing where nothing is broken, and each thing that somebody breaks.
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;
create extension if not exists tasker;
create schema wi;
select tasker.define_task('wi', 'work', '{"steps": [{"name": "a", "handler": "h", "backoff": {"base_seconds": 3600, "max_seconds": 3600}},
    {"name": "b", "handler": "h", "depends_on": ["a"]}, {"name": "c", "handler": "h", "depends_on": ["a"]},
    {"name": "d", "handler": "h", "depends_on": ["b", "c"]}]}') is not null;

-- Five tasks: t0 just made; t1 with a done, b in progress, c ready; t2 waits for the retry of a; t3 is blocked; t4 is done.
create table wi.task as select n, tasker.create_task('wi', 'work', identity_key => 'key ' || n) as uuid from generate_series(0, 4) n;
create function wi.step(n int, step int) returns uuid language sql stable as
$$ select overlay(uuid::text placing lpad(to_hex(step), 8, '0') from 29)::uuid from wi.task t where t.n = step.n $$;
create function wi.task(n int) returns uuid language sql stable as $$ select uuid from wi.task t where t.n = task.n $$;
create table wi.claimed as select * from tasker.claim_steps('wi', 5, 'wi');
select count(tasker.release_steps(array[workflow_step_uuid])) from wi.claimed where task_uuid = wi.task(0);
select count(tasker.complete_step(workflow_step_uuid)) from wi.claimed where task_uuid in (wi.task(1), wi.task(4));
select count(tasker.fail_step(workflow_step_uuid, '{}')) from wi.claimed where task_uuid = wi.task(2);
select count(tasker.fail_step(workflow_step_uuid, '{}', false)) from wi.claimed where task_uuid = wi.task(3);
do $$
declare step record; round int;
begin
    for round in 1..10 loop
        for step in select * from tasker.claim_steps('wi', 10, 'wi') loop
            if step.task_uuid = wi.task(4) then perform tasker.complete_step(step.workflow_step_uuid);
            elsif step.workflow_step_uuid <> wi.step(1, 2) then perform tasker.release_steps(array[step.workflow_step_uuid]);
            end if;
        end loop;
    end loop;
end $$;
select n, current_state from wi.task join tasker.tasks on task_uuid = uuid order by n;
select s.name, s.current_state from tasker.get_workflow_steps(wi.task(1)) s order by workflow_step_uuid;
select * from tasker.check_workflow_integrity();

-- Breaks something, shows what is found, and takes it back. Uuids become the number of the task and of the step.
create function wi.breaks(what text) returns setof text language plpgsql as
$$
declare
    found text[];
begin
    begin
        execute what;
        select array_agg(object || ': ' || problem order by object, problem) into found from tasker.check_workflow_integrity();
        raise exception 'undone' using errcode = 'YYYYY';
    exception when sqlstate 'YYYYY' then null;
    end;
    if found is null then
        return next 'NOTHING FOUND';
    end if;
    return query
        select regexp_replace(regexp_replace(regexp_replace(regexp_replace(
            (select coalesce(max(replace(line, left(uuid::text, 28), 't' || n || '.')) filter (where line like '%' || left(uuid::text, 28) || '%'), line) from wi.task),
            '0000000([0-9])', '\1', 'g'), 'record \d{3,}', 'record N'), 'flow \d+', 'flow N'), '[0-9a-f]{8}-[0-9a-f-]{14,}', 'UUID', 'g')
        from unnest(found) line;
end
$$;

-- Tasks.
select wi.breaks('delete from tasker.task where task_uuid = wi.task(0)');
select wi.breaks($$update tasker.task set named_task_uuid = wi.task(0) where task_uuid = wi.task(0)$$);
select wi.breaks($$update tasker.task set priority = 10 where task_uuid = wi.task(0)$$);
select wi.breaks($$update tasker.task set total_steps = 5 where task_uuid = wi.task(0)$$);
select wi.breaks($$update tasker.task set active_steps = 3, retry_steps = 4, failed_steps = 5 where task_uuid = wi.task(1)$$);
select wi.breaks($$update tasker.task set next_step_number = 4 where task_uuid = wi.task(0)$$);
select wi.breaks($$update tasker.task set current_state = 'z' where task_uuid = wi.task(0)$$);
select wi.breaks($$update tasker.task set current_state = 'v' where task_uuid = wi.task(0)$$);
select wi.breaks($$update tasker.task set current_state = 'c' where task_uuid = wi.task(1)$$);
select wi.breaks($$update tasker.task set current_state = 's' where task_uuid = wi.task(2)$$);
select wi.breaks($$update tasker.task set current_state = 'b' where task_uuid = wi.task(2)$$);
select wi.breaks($$update tasker.task set current_state = 'r' where task_uuid = wi.task(3)$$);
select wi.breaks($$update tasker.task set current_state = 'c' where task_uuid = wi.task(3)$$);

-- Steps.
select wi.breaks('delete from tasker.workflow_step where workflow_step_uuid = wi.step(4, 4)');
select wi.breaks('delete from tasker.workflow_step where workflow_step_uuid = wi.step(4, 1)');
select wi.breaks($$update tasker.workflow_step set named_step_uuid = wi.task(0) where workflow_step_uuid = wi.step(4, 1)$$);
select wi.breaks($$update tasker.workflow_step set current_state = 'z' where workflow_step_uuid = wi.step(4, 1)$$);
select wi.breaks($$update tasker.workflow_step set current_state = 'o' where workflow_step_uuid = wi.step(4, 4)$$);
select wi.breaks($$update tasker.workflow_step set priority = -1, attempts = -1 where workflow_step_uuid = wi.step(4, 4)$$);
select wi.breaks($$update tasker.workflow_step set total_parents = 3, remaining_parents = 1 where workflow_step_uuid = wi.step(4, 4)$$);
select wi.breaks($$update tasker.workflow_step set current_state = 'p' where workflow_step_uuid = wi.step(1, 1)$$);
select wi.breaks($$update tasker.workflow_step set current_state = 'p' where workflow_step_uuid = wi.step(1, 3)$$);
select wi.breaks($$update tasker.workflow_step set next_retry_at = null where workflow_step_uuid = wi.step(2, 1)$$);

-- Edges.
select wi.breaks('delete from tasker.workflow_step_edge where from_step_uuid = wi.step(4, 2)');
select wi.breaks('insert into tasker.workflow_step_edge values (wi.step(4, 4), wi.step(4, 1))');
select wi.breaks('insert into tasker.workflow_step_edge values (wi.step(4, 1), wi.step(4, 7))');
select wi.breaks('insert into tasker.workflow_step_edge values (wi.step(3, 4), wi.step(4, 4))');

-- Records.
select wi.breaks($$update tasker.workflow_step set record_id = 0 where workflow_step_uuid = wi.step(1, 3)$$);
select wi.breaks($$update tasker.workflow_step set record_id = 17 where workflow_step_uuid = wi.step(1, 3)$$);
select wi.breaks($$update tasker.workflow_step set record_id = (select record_id from tasker.workflow_step where workflow_step_uuid = wi.step(0, 1)) where workflow_step_uuid = wi.step(1, 3)$$);
select wi.breaks($$update tasker.queue_record set status = 'x' where payload = to_jsonb(wi.step(0, 1)::text)$$);
select wi.breaks($$update tasker.queue_record set status = 'p', position = id where payload = to_jsonb(wi.step(1, 2)::text)$$);
select wi.breaks($$update tasker.queue_record set flow_id = 0 where payload = to_jsonb(wi.step(0, 1)::text)$$);

-- Logs.
select wi.breaks('delete from tasker.task_transition where task_uuid = wi.task(0)');
select wi.breaks('delete from tasker.workflow_step_transition where workflow_step_uuid = wi.step(4, 1)');
select wi.breaks('delete from tasker.workflow_step_transition where workflow_step_uuid = wi.step(4, 1) and sort_key = 2');
select wi.breaks('delete from tasker.task_transition where task_uuid = wi.task(4) and sort_key = (select last_transition from tasker.task where task_uuid = wi.task(4))');
select wi.breaks($$update tasker.workflow_step_transition set to_state = 'c' where workflow_step_uuid = wi.step(0, 1) and sort_key = 2$$);
select wi.breaks($$update tasker.task_transition set from_state = 'p' where task_uuid = wi.task(0) and sort_key = 1$$);
select wi.breaks($$update tasker.task set last_transition = 9 where task_uuid = wi.task(0)$$);
select wi.breaks($$insert into tasker.workflow_step_transition (workflow_step_uuid, txid, created_at, sort_key, to_state) values (wi.step(4, 9), 0, now(), 1, 'p')$$);

-- Identity keys, templates, settings.
select wi.breaks($$update tasker.task_identity set task_uuid = overlay(task_uuid::text placing translate(substr(task_uuid::text, 28, 1), '0123456789abcdef', '123456789abcdef0') from 28)::uuid where identity_key = 'key 4'$$);
select wi.breaks($$delete from tasker.step_flow where handler = 'h' and task_namespace_uuid = (select task_namespace_uuid from tasker.task_namespaces where name = 'wi')$$);
select wi.breaks($$update tasker.part_config set retention = '1 day' where parent = 'tasker.workflow_step_edge'::regclass$$);

-- All was taken back, and the tasks come to their end.
select * from tasker.check_workflow_integrity();
select count(tasker.cancel_task(uuid)) from wi.task where n < 4;
select * from tasker.check_workflow_integrity();
drop schema wi cascade;
