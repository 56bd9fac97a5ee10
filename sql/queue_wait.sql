-- wait_for_records, as far as one session can see it.
\set VERBOSITY terse
\pset null '(null)'

select tasker.create_flow('wa') > 0 as has_id;
-- Nothing there: it waits out its time, and no longer.
select clock_timestamp() as before \gset
call tasker.wait_for_records('wa', '0');
select clock_timestamp() - :'before'::timestamptz < interval '3 seconds' as at_once;
select clock_timestamp() as before \gset
call tasker.wait_for_records('wa', '200 ms');
select clock_timestamp() - :'before'::timestamptz >= interval '200 ms' as waited;
-- Something is there.
select qt.add('wa', 'a');
call tasker.wait_for_records('wa', '1 hour');
call tasker.wait_for_records(flow_name => 'wa', timeout => '178000000 years', ready => null);
select qt.claim('wa');
call tasker.wait_for_records('wa', '0');
-- Something becomes due while it waits; what lies behind the timeout does not count.
select tasker.enqueue('wa', '{"n": "soon"}', run_at => clock_timestamp() + interval '100 ms') > 0 as enqueued;
select tasker.enqueue('wa', '{"n": "never"}', 9, 'infinity') > 0 as enqueued;
call tasker.wait_for_records('wa', '1 hour');
select qt.claim('wa', 10);
call tasker.wait_for_records('wa', '50 ms');

-- Not in a transaction block, nor in what runs inside one.
begin;
call tasker.wait_for_records('wa', '0');
rollback;
select 1 as one \; call tasker.wait_for_records('wa', '0') \; select 2 as two;
create function qt.wait_in_function() returns void language plpgsql as
$$ declare r boolean; begin call tasker.wait_for_records('wa', '0', r); end $$;
select qt.wait_in_function();
do $$
declare r boolean;
begin
    call tasker.wait_for_records('wa', '0', r);
exception when others then
    raise notice '%: %', sqlstate, sqlerrm;
end
$$;
-- From a procedure: what it did before is committed, its variables live on.
create table qt.step (n int);
create procedure qt.wait_in_procedure(flow text, inout ready boolean) language plpgsql as
$$
begin
    insert into qt.step values (1);
    call tasker.wait_for_records(flow, '0', ready);
    insert into qt.step values (2);
    rollback;
end
$$;
call qt.wait_in_procedure('wa', null);
select n from qt.step;
select qt.add('wa', 'b');
call qt.wait_in_procedure('wa', null);
select n from qt.step;
do $$
declare
    ready boolean;
begin
    for i in 1..3 loop
        call tasker.wait_for_records('wa', '10 ms', ready);
        raise notice 'ready: %, claimed: %', ready, qt.claim('wa');
        commit;
    end loop;
end
$$;
-- In a loop over a query, which is a cursor that must live on.
do $$
declare
    ready boolean;
    r record;
begin
    for r in select i from generate_series(1, 3) i loop
        call tasker.wait_for_records('wa', '0', ready);
        raise notice '% ready: %', r.i, ready;
    end loop;
end
$$;

-- Bad input.
call tasker.wait_for_records(null, '0');
call tasker.wait_for_records('', '0');
call tasker.wait_for_records('wa', null);
call tasker.wait_for_records('wa', '-1 second');
call tasker.wait_for_records('wa', '1 month -31 days');
-- Cancelled while it sleeps.
set statement_timeout = '100 ms';
call tasker.wait_for_records('wa', '1 hour');
reset statement_timeout;
select qt.claim('wa');
select * from tasker.check_queue_integrity();
