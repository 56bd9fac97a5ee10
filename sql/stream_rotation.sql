-- Rotation of subscriptions and ticks: round and round with work in between, held up by a consumer that lags, and never
-- twice without its second step. The queues have external tickers, so that ticks come when the test wants them; a
-- rotation is due only inside the transaction that asks for it, so a background worker makes none.
\set VERBOSITY terse
\pset null '(null)'
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;
create extension if not exists tasker;
create schema ro;

create function ro.queue(name text) returns integer language sql as
$$ select tasker.create_queue(name) * tasker.set_queue_config(name, 'external_ticker', 'true') $$;
create function ro.tick(name text) returns void language sql as
$$
    select tasker.ticker(name, i.last_tick_id + 1, clock_timestamp(), t.tick_event_seq + i.ev_new)
    from tasker.get_queue_info(name) i
    join tasker.queue q on q.queue_name = i.queue_name
    join tasker.tick t on t.tick_queue = q.queue_id and t.tick_id = i.last_tick_id
$$;
-- All batches there are: their events.
create function ro.read(name text, consumer text) returns text language plpgsql as
$$
declare
    batch bigint;
    events text[];
begin
    loop
        batch := tasker.next_batch(name, consumer);
        exit when batch is null;
        events := events || (select array_agg(ev_data order by ev_id) from tasker.get_batch_events(batch));
        perform tasker.finish_batch(batch);
    end loop;
    return array_to_string(events, ' ');
end
$$;
-- A rotation that is due now: its result, and by how many tables the pointers have moved.
create function ro.rotate() returns text language plpgsql as
$$
declare
    before tasker.metadata_rotation;
    after tasker.metadata_rotation;
    result integer;
begin
    select * into before from tasker.metadata_rotation;
    update tasker.metadata_rotation set rotation_switch_time = '-infinity';
    result := tasker.maint_rotate_metadata();
    select * into after from tasker.metadata_rotation;
    update tasker.metadata_rotation set rotation_switch_time = now();
    return format('%s: subscriptions %s, ticks %s', result,
        (after.rotation_subscription_table - before.rotation_subscription_table + 3) % 3,
        (after.rotation_tick_table - before.rotation_tick_table + 3) % 3);
end
$$;
-- Its second step. A worker may have been faster.
create function ro.step2() returns void language sql as $$ select tasker.maint_rotate_metadata_step2() $$;
-- What the view shows of our queues: each subscription once, with the tick where it stands.
create function ro.view() returns text language sql as
$$
    select string_agg(format('%s %s: %s row, at tick %s%s', queue_name, co_name, count, tick,
        case when there then '' else ' that is gone' end), ', ' order by queue_name, co_name)
    from (
        select q.queue_name, c.co_name, count(*), max(s.sub_last_tick) as tick,
            bool_and(exists (select from tasker.tick t where t.tick_queue = s.sub_queue and t.tick_id = s.sub_last_tick)) as there
        from tasker.subscription s
        left join tasker.queue q on q.queue_id = s.sub_queue
        left join tasker.consumer c on c.co_id = s.sub_consumer
        group by 1, 2) v
$$;
select ro.queue('a'), ro.queue('b');
select tasker.register_consumer('a', 'one'), tasker.register_consumer('a', 'two'), tasker.register_consumer('b', 'one');
select ro.view();
-- What an earlier test has left is out of the way.
select ro.step2();

-- Three rotations, all around, and one more. Between them events are sent, ticked, read and finished.
select tasker.send('a', 'a1') > 0 and tasker.send('b', 'b1') > 0;
select ro.tick('a'), ro.tick('b');
select ro.read('a', 'one'), ro.read('a', 'two'), ro.read('b', 'one');
select ro.rotate();
select ro.view();
select ro.step2();
select tasker.send('a', 'a2') > 0 and tasker.send('b', 'b2') > 0;
select ro.tick('a'), ro.tick('b');
select tasker.next_batch('a', 'one') is not null as open;
select ro.rotate();
select ro.view();
select ro.step2();
select ro.read('a', 'one'), ro.read('a', 'two'), ro.read('b', 'one');
select tasker.send('a', 'a3') > 0 and tasker.send('b', 'b3') > 0;
select ro.tick('a'), ro.tick('b');
select ro.read('a', 'one'), ro.read('a', 'two'), ro.read('b', 'one');
select ro.rotate();
select ro.view();
select ro.step2();
select tasker.send('a', 'a4') > 0 and tasker.send('b', 'b4') > 0;
select ro.tick('a'), ro.tick('b');
select ro.read('a', 'one'), ro.read('a', 'two'), ro.read('b', 'one');
select ro.rotate();
select ro.view();
select ro.step2();
select ro.read('a', 'one'), ro.read('a', 'two'), ro.read('b', 'one');

-- One consumer moves, the others do not: their rows are kept, whatever goes round.
select ro.tick('a'), ro.read('a', 'one');
select ro.rotate();
select ro.step2();
select ro.tick('a'), ro.read('a', 'one');
select ro.rotate();
select ro.step2();
select ro.tick('a'), ro.read('a', 'one');
select ro.rotate();
select ro.step2();
select ro.view();

-- A consumer lags: ticks that it needs are not emptied away. Subscriptions go on.
select ro.read('a', 'two');
select tasker.send('a', 'late 1') > 0;
select ro.tick('a');
select ro.read('a', 'one');
select ro.rotate();
select ro.step2();
select tasker.send('a', 'late 2') > 0;
select ro.tick('a');
select ro.read('a', 'one');
select ro.rotate();
select ro.step2();
select tasker.send('a', 'late 3') > 0;
select ro.tick('a');
select ro.read('a', 'one');
select ro.rotate();
select rotation_subscription_deferrals, rotation_tick_deferrals, rotation_held_by from tasker.metadata_rotation;
select ro.step2();
select ro.tick('a'), ro.read('a', 'one');
select ro.rotate();
select rotation_subscription_deferrals, rotation_tick_deferrals, rotation_held_by from tasker.metadata_rotation;
select ro.step2();
select ro.view();
select ro.read('a', 'two');
select ro.tick('a'), ro.read('a', 'one');
select ro.rotate();
select rotation_subscription_deferrals, rotation_tick_deferrals, rotation_held_by from tasker.metadata_rotation;
select ro.step2();
select ro.read('a', 'two');
select ro.view();

-- The first step twice without the second: the second time nothing happens, however much there is to rotate.
begin;
select ro.rotate();
select ro.tick('a'), ro.read('a', 'one'), ro.tick('b'), ro.read('b', 'one');
select ro.rotate();
-- The second step does nothing in the transaction that ran the first.
select tasker.maint_rotate_metadata_step2();
select ro.rotate();
rollback;
begin;
select ro.rotate();
select ro.tick('a'), ro.read('a', 'one'), ro.tick('b'), ro.read('b', 'one');
select ro.rotate();
commit;
select ro.step2();
select tasker.maint_rotate_metadata_step2();
select ro.rotate();
select ro.step2();
-- Nothing was appended since: nothing to do.
select ro.rotate();

-- A rotation that is rolled back, and one of which a part is.
begin;
select ro.tick('a'), ro.read('a', 'one'), ro.read('a', 'two');
select ro.rotate();
rollback;
select ro.view();
select ro.tick('a'), ro.read('a', 'two');
begin;
savepoint s;
select ro.rotate();
rollback to s;
select ro.rotate();
commit;
select ro.step2();
select ro.read('a', 'one');
select ro.view();

-- Event tables, in the same way: not twice without the second step, and not while a consumer needs them.
create function ro.rotate_events(name text) returns text language plpgsql as
$$
declare
    before int;
    after tasker.queue;
begin
    update tasker.queue set queue_switch_time = '-infinity' where queue_name = name returning queue_cur_table into before;
    perform tasker.maint_rotate_tables_step1(name);
    update tasker.queue set queue_switch_time = now() where queue_name = name returning * into after;
    return concat_ws(', ', (after.queue_cur_table - before + 3) % 3, after.queue_rotation_deferrals, after.queue_rotation_held_by);
end
$$;
begin;
select ro.rotate_events('a');
select ro.rotate_events('a');
select tasker.maint_rotate_tables_step2();
select ro.rotate_events('a');
commit;
select tasker.maint_rotate_tables_step2();
select tasker.send('a', 'e1') > 0;
select ro.tick('a'), ro.read('a', 'one');
select ro.rotate_events('a');
select tasker.maint_rotate_tables_step2();
select tasker.send('a', 'e2') > 0;
select ro.tick('a'), ro.read('a', 'one');
select ro.rotate_events('a');
select ro.rotate_events('a');
select ro.read('a', 'two');
select ro.rotate_events('a');
select tasker.maint_rotate_tables_step2();
select tasker.send('a', 'e3') > 0;
select ro.tick('a');
select ro.read('a', 'one'), ro.read('a', 'two');

-- A session whose first look for the tables has failed looks again.
\c -
set client_min_messages = warning;
\set VERBOSITY sqlstate
begin;
alter table tasker.tick_2 rename to renamed;
savepoint s;
select tasker.next_batch('a', 'one');
rollback to s;
\set VERBOSITY terse
alter table tasker.renamed rename to tick_2;
select coalesce(tasker.next_batch('a', 'one')::text, 'nothing');
commit;

select * from tasker.check_integrity();
select tasker.drop_queue('a', true), tasker.drop_queue('b', true);
drop schema ro cascade;
