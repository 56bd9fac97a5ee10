-- get_system_health_counts(): exact at every moment, whatever writes and however its transaction ends.
\set VERBOSITY terse
set client_min_messages = warning;
create schema counts_test;

-- What the counts have changed by since the last look, and whether they are those of the tables.
create table counts_test.last (counts jsonb);
insert into counts_test.last select to_jsonb(c) from tasker.get_system_health_counts() c;
create function counts_test.look() returns table (what text, change bigint) language sql as $$
    with now as materialized (select to_jsonb(c) as counts from tasker.get_system_health_counts() c),
    changed as (
        select key, value::bigint - (select (counts ->> key)::bigint from counts_test.last) as change
        from now, jsonb_each_text(now.counts)),
    kept as (update counts_test.last set counts = now.counts from now)
    select key, change from changed where change <> 0
    union all
    select 'WRONG ' || object || ': ' || problem, null from tasker._check_workflow_counts()
    order by 1
$$;

-- The columns, in the order of the states.
select string_agg(name, ' ' order by ordinality) from pg_proc, unnest(proargnames) with ordinality as names (name, ordinality)
    where oid = 'tasker.get_system_health_counts()'::regprocedure;
select tasker.define_task('counts', 'pair', '{"steps": [{"name": "a", "handler": "h", "max_attempts": 2},
    {"name": "b", "handler": "h", "depends_on": ["a"]}]}') is not null as defined;

-- The engine.
select count(tasker.create_task('counts', 'pair')) from generate_series(1, 10);
select * from counts_test.look();
create table counts_test.claimed as select *, row_number() over (order by workflow_step_uuid) as n
    from tasker.claim_steps('counts', 6, 'test');
select * from counts_test.look();
select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from counts_test.claimed where n <= 3;
select * from counts_test.look();
select tasker.fail_step(workflow_step_uuid, '"no"', retryable => n = 4, backoff_seconds => 3600, lease_token => lease_token)
    from counts_test.claimed where n between 4 and 5;
select * from counts_test.look();

-- What a transaction has changed it sees itself; a rollback undoes it.
begin;
select cardinality(tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[100])));
select * from counts_test.look();
rollback;
select * from counts_test.look();

-- Savepoints, nested, kept and undone.
begin;
select tasker.create_task('counts', 'pair') is not null as one;
savepoint a;
select cardinality(tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[2])));
savepoint b;
select cardinality(tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[4])));
release b;
savepoint c;
select cardinality(tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[8])));
rollback to c;
savepoint d;
select cardinality(tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[16])));
release d;
select * from counts_test.look();
release a;
savepoint e;
select cardinality(tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[32])));
rollback to e;
select * from counts_test.look();
commit;
select * from counts_test.look();
do $$
begin
    for i in 1..20 loop
        begin
            perform tasker.create_task('counts', 'pair');
            if i % 2 = 0 then
                raise exception 'undone';
            end if;
        exception when raise_exception then
            null;
        end;
    end loop;
end $$;
select * from counts_test.look();

-- Statements on the tables, and rows that change nothing that counts.
begin;
update tasker.task set current_state = 'x' where task_uuid in (select task_uuid from counts_test.claimed where n = 6);
select * from counts_test.look();
update tasker.task set priority = 3, current_state = current_state where current_state = 'x';
update tasker.workflow_step set attempts = attempts where current_state = 'q';
select * from counts_test.look();
delete from tasker.workflow_step where tasker.task_of(workflow_step_uuid) in (select task_uuid from counts_test.claimed);
select * from counts_test.look();
rollback;
select * from counts_test.look();
begin;
create temporary table copied on commit drop as
    select t.* from tasker.task t join counts_test.claimed c using (task_uuid) where c.n <= 2;
delete from tasker.task where task_uuid in (select task_uuid from copied);
select * from counts_test.look();
insert into tasker.task select * from copied;
select * from counts_test.look();
commit;
select * from counts_test.look();

-- TRUNCATE, undone.
begin;
truncate tasker.task;
rollback;
select * from counts_test.look();

-- In one snapshot: what is committed now, not what was.
begin isolation level repeatable read;
select total_tasks > 0 as some from tasker.get_system_health_counts();
select tasker.create_task('counts', 'pair') is not null as one;
select * from counts_test.look();
rollback;
select * from counts_test.look();

-- Metrics.
select count(*), count(*) filter (where value < 0) as negative,
       sum(value) filter (where metric = 'tasker_workflow_tasks') = (select total_tasks from tasker.get_system_health_counts()) as tasks,
       sum(value) filter (where metric = 'tasker_workflow_steps') = (select total_steps from tasker.get_system_health_counts()) as steps
    from tasker.metrics() where metric like 'tasker!_workflow!_%' escape '!' and labels ? 'state';
select count(*) from tasker.metrics() where metric = 'tasker_workflow_tasks' and labels = '{"state": "total"}';

-- Only roles that may.
create role counts_nobody;
set role counts_nobody;
select * from tasker.get_system_health_counts();
reset role;
drop role counts_nobody;
set role tasker_observer;
select total_tasks > 0 as some from tasker.get_system_health_counts();
select * from tasker.sealed_workflow_partition;
reset role;

-- Everything is worked off.
do $$
begin
    perform tasker.complete_step(workflow_step_uuid, lease_token => lease_token) from counts_test.claimed where n > 5;
    update tasker.workflow_step set next_retry_at = null where next_retry_at is not null
        and named_step_uuid in (select s.named_step_uuid from tasker.named_steps s join tasker.named_tasks t using (named_task_uuid)
                                join tasker.task_namespaces n using (task_namespace_uuid) where n.name = 'counts');
    update tasker.queue_record set position = id where status = 'p' and flow_id in (select f.flow_id from tasker.step_flow f
        join tasker.task_namespaces n using (task_namespace_uuid) where n.name = 'counts');
    loop
        perform tasker.complete_step(c.workflow_step_uuid, lease_token => c.lease_token)
            from tasker.claim_steps('counts', 100, 'test') c;
        exit when not found;
    end loop;
end $$;
select * from counts_test.look();
drop schema counts_test cascade;
