-- Rotation and maintenance of the stream. Ticks are made by hand (an external ticker), and there is no worker meanwhile: it
-- would run the same duties, and who comes second finds nothing to do.
\set VERBOSITY terse
set client_min_messages = warning;
create extension if not exists tasker;
reset client_min_messages;
load 'tasker';
alter system set tasker.worker = off;
select pg_reload_conf();
do
$$
begin
    while exists (select from pg_stat_activity where backend_type in ('tasker worker', 'tasker ticker')) loop
        perform pg_sleep(0.01), pg_stat_clear_snapshot();
    end loop;
end
$$;
create schema st;
select tasker.create_queue('sm'), tasker.create_queue('sm_idle');
update tasker.queue set queue_external_ticker = true where queue_name like 'sm%';
update tasker.queue set queue_metadata_rotation_period = '100 days', queue_rotation_period = '100 days';
select queue_id as q from tasker.queue where queue_name = 'sm' \gset
-- A tick, as an external ticker makes it.
create function st.tick(id bigint, queue text = 'sm') returns bigint language sql as
$$ select tasker.ticker(queue, id, now(), id) $$;
-- Step 1 for a queue that is due.
create function st.step1(q_name text = 'sm') returns text language plpgsql as
$$
declare
    before int = (select queue_cur_table from tasker.queue where queue_name = q_name);
    made_due timestamptz = now() - interval '101 days';
    q tasker.queue;
begin
    update tasker.queue set queue_switch_time = made_due where queue_name = q_name;
    perform tasker.maint_rotate_tables_step1(q_name);
    select * into q from tasker.queue where queue_name = q_name;
    update tasker.queue set queue_switch_time = now() where queue_name = q_name;
    return format('%s; %s deferrals; %s',
        case when q.queue_cur_table = before then 'not rotated' else 'rotated' end,
        q.queue_rotation_deferrals, coalesce(q.queue_rotation_held_by, 'nobody'));
end
$$;
-- Reads all there is.
create function st.read_all(consumer text, queue text = 'sm') returns text language plpgsql as
$$
declare
    batch bigint;
    result text = '';
begin
    loop
        batch := tasker.next_batch(queue, consumer);
        exit when batch is null;
        result := result || coalesce((select string_agg(ev_data, ',') from tasker.get_batch_events(batch)), '') || ';';
        perform tasker.finish_batch(batch);
    end loop;
    return result;
end
$$;

-- Nothing is due, nothing to rotate, no such queue.
select tasker.maint_rotate_tables_step1('sm'), tasker.maint_rotate_tables_step1('no such queue');
select tasker.maint_rotate_tables_step1(null);
select st.step1() as "all tables are empty";

-- The consumer that holds up the rotation is named, each time counts.
select tasker.register_consumer('sm', 'slow'), tasker.register_consumer('sm', 'fast');
select tasker.insert_event('sm', 't', 'first') is not null as inserted;
select st.tick(10);
begin;
select st.step1();
select st.step1() as "before step 2";
commit;
select tasker.maint_rotate_tables_step2();
select tasker.insert_event('sm', 't', 'second') is not null as inserted;
select st.tick(11);
select st.read_all('fast');
select st.step1();
-- An index of somebody's own, which does not hold all events, does not hide that there are some.
select format('create index st_partial on tasker.event_%s_0 (ev_txid) where ev_type = ''other''', :q) as ddl \gset
:ddl;
select st.step1();
drop index tasker.st_partial;
select st.read_all('slow');
select st.step1();
select tasker.maint_rotate_tables_step2();

-- Step 2 is no business of the transaction that did step 1.
begin;
select st.step1() || '; ' || tasker.maint_rotate_tables_step2() as "both steps at once";
select queue_switch_step2 is null as "step 2 is to come" from tasker.queue where queue_name = 'sm';
commit;

-- Who has read everything stands before step 2, and holds up nobody. After three rotations all is empty.
select tasker.maint_rotate_tables_step2();
select st.step1();
select tasker.maint_rotate_tables_step2();
select st.step1() as "all tables are empty";
select pg_relation_size(format('tasker.event_%s_%s', :q, n)) from generate_series(0, 2) n;

-- A transaction that has begun before a rotation, and has written, is waited for.
begin;
select tasker.insert_event('sm', 't', 'third') is not null as inserted;
prepare transaction 'st_writer';
select tasker.insert_event('sm', 't', 'fourth') is not null as inserted;
select st.step1();
select tasker.maint_rotate_tables_step2();
select st.step1();
select st.tick(12);
select st.read_all('slow'), st.read_all('fast');
select st.step1();
select tasker.unregister_consumer('sm', 'fast');
commit prepared 'st_writer';
select st.step1();
select st.tick(13);
select st.read_all('slow');
select st.step1();
select tasker.maint_rotate_tables_step2();

-- Somebody has locked the table that would be next, as pg_dump does. Who has locked another one does no harm.
select tasker.insert_event('sm', 't', 'fifth') is not null as inserted;
select st.tick(14);
select st.read_all('slow');
select format('lock tasker.event_%s_%s in access share mode', queue_id, (queue_cur_table + 1) % 3) as lock
from tasker.queue where queue_name = 'sm' \gset
begin;
:lock;
prepare transaction 'st_dump';
select st.step1();
select st.step1();
rollback prepared 'st_dump';
begin;
do $$
declare
    t text;
begin
    for t in select format('tasker.event_%s_%s', queue_id, n)
        from tasker.queue, unnest(array[queue_cur_table, (queue_cur_table + 2) % 3]) n where queue_name = 'sm'
    loop
        execute format('lock %s in access share mode', t);
    end loop;
end
$$;
prepare transaction 'st_dump';
select st.step1();
rollback prepared 'st_dump';
select tasker.maint_rotate_tables_step2();

-- Nobody can be put to a tick whose later events are not all there.
select tasker.unregister_consumer('sm', 'slow');
select tasker.insert_event('sm', 't', 'sixth') is not null as inserted;
select st.step1();
select tasker.maint_rotate_tables_step2();
select st.step1();
select tasker.maint_rotate_tables_step2();
select st.tick(15);
select tasker.register_consumer_at('sm', 'late', 11);
select tasker.register_consumer_at('sm', 'late', 15);
select tasker.register_consumer_at('sm', 'late', 15);
select tasker.register_consumer('sm_idle', 'late');

-- Subscriptions and ticks. What was kept and nothing more: nothing to do.
create function st.metadata() returns text language plpgsql as
$$
declare
    before tasker.metadata_rotation;
    m tasker.metadata_rotation;
    result int;
begin
    select * into before from tasker.metadata_rotation;
    update tasker.metadata_rotation set rotation_switch_time = now() - interval '101 days';
    result := tasker.maint_rotate_metadata();
    select * into m from tasker.metadata_rotation;
    update tasker.metadata_rotation set rotation_switch_time = now();
    return format('%s: subscriptions %s, ticks %s; deferrals %s, %s; %s', result,
        case when m.rotation_subscription_table = before.rotation_subscription_table then 'stay' else 'rotated' end,
        case when m.rotation_tick_table = before.rotation_tick_table then 'stay' else 'rotated' end,
        m.rotation_subscription_deferrals, m.rotation_tick_deferrals,
        regexp_replace(coalesce(m.rotation_held_by, 'nobody'), 'pid \d+', 'pid'));
end
$$;
-- By the caller, or by the worker.
create function st.step2() returns text language plpgsql as
$$
begin
    perform tasker.maint_rotate_metadata_step2();
    return case when last_step2_txid is null then 'to come' else 'done' end from tasker.metadata_rotation;
end
$$;
select tasker.maint_rotate_metadata() as "not due", st.step2();
begin;
select st.metadata();
select st.metadata() as "before step 2";
commit;
select st.step2();
select tasker.maint_rotate_metadata_step2() as "nothing to do";
select st.metadata() as "nothing was written";

-- Only what was written to is rotated: ticks here.
select st.tick(16);
select st.metadata();
select st.step2();
select st.read_all('late');
select st.metadata() || '; ' || tasker.maint_rotate_metadata_step2() || ', step 2 is ' || st.step2() as "both steps at once";
select st.step2();

-- Somebody has locked the tables that would be next: both are put off, each on its own.
select st.tick(17);
select st.read_all('late');
select format('lock tasker.subscription_%s in access share mode', (rotation_subscription_table + 1) % 3) as lock_s,
    format('lock tasker.tick_%s in access share mode', (rotation_tick_table + 1) % 3) as lock_t
from tasker.metadata_rotation \gset
begin;
:lock_s;
prepare transaction 'st_subscriptions';
begin;
:lock_t;
prepare transaction 'st_ticks';
select st.metadata();
select st.metadata();
rollback prepared 'st_subscriptions';
select st.metadata();
select st.step2();
select st.read_all('late');
rollback prepared 'st_ticks';
select st.metadata();
select st.step2();

-- A consumer that lags finds its ticks, however often it is tried; another one's subscription is kept all the time.
select tasker.register_consumer('sm', 'lagging');
create procedure st.round(n int) language plpgsql as
$$
begin
    perform tasker.insert_event('sm', 't', 'round ' || n);
    commit;
    perform st.tick(20 + n);
    commit;
    perform st.read_all('late');
    commit;
    raise notice '%', st.metadata();
    commit;
    perform tasker.maint_rotate_metadata_step2();
    commit;
end
$$;
call st.round(1);
call st.round(2);
call st.round(3);
call st.round(4);
call st.round(5);
select st.read_all('lagging');
call st.round(6);
call st.round(7);
call st.round(8);
select st.read_all('lagging');
select c.co_name, q.queue_name, t.tick_id is not null as "its tick is there"
from tasker.subscription s join tasker.consumer c on c.co_id = s.sub_consumer join tasker.queue q on q.queue_id = s.sub_queue
left join tasker.tick t on t.tick_queue = s.sub_queue and t.tick_id = s.sub_last_tick
where q.queue_name like 'sm%' order by 1, 2;
select * from tasker.check_stream_integrity();

-- A tick with a snapshot that does not fit into its row is kept whole.
insert into tasker.tick (tick_queue, tick_id, tick_event_seq, tick_snapshot)
select q.queue_id, 100, 0, format('%s:%s:%s', m.x, m.x, '')::txid_snapshot from tasker.queue q,
(select txid_snapshot_xmax(txid_current_snapshot()) as x) m where queue_name = 'sm_idle';
update tasker.tick set tick_snapshot = (select format('1:9001:%s', string_agg(x::text, ',')) from generate_series(1, 9000, 2) x)::txid_snapshot
where tick_id = 100 and tick_queue = (select queue_id from tasker.queue where queue_name = 'sm_idle');
select st.read_all('late', 'sm_idle') is not null as read;
call st.round(9);
select st.read_all('lagging');
call st.round(10);
select st.read_all('lagging');
call st.round(11);
select st.read_all('lagging');
call st.round(12);
select length(tick_snapshot::text) from tasker.tick
where tick_id = 100 and tick_queue = (select queue_id from tasker.queue where queue_name = 'sm_idle');
select tasker.drop_queue('sm_idle', true);

-- What a maintenance process has to do.
update tasker.queue set queue_extra_maint = array['st.extra', 'st.broken', 'st.no_such'] where queue_name = 'sm';
create table st.log (what text);
create function st.extra(queue text) returns int language sql as
$$ insert into st.log values (current_user || ' for ' || queue); select 0 $$;
create function st.broken(queue text) returns int language plpgsql as
$$ begin insert into st.log values ('broken'); raise 'broken for %', queue; end $$;
select * from tasker.maint_operations()
where (func_arg is null or func_arg = 'sm') and func_name <> 'tasker.maint_retry_events';
begin;
update tasker.queue set queue_switch_time = now() - interval '101 days' where queue_name = 'sm';
update tasker.metadata_rotation set rotation_switch_time = now() - interval '101 days';
select * from tasker.maint_operations()
where (func_arg is null or func_arg = 'sm') and func_name <> 'tasker.maint_retry_events';
rollback;
create role st_caller;
grant tasker_admin to st_caller;
grant all on schema st to st_caller;
grant all on st.log to st_caller;
set role st_caller;
select tasker.maint() > 0 as done;
reset role;
table st.log;
select count(*) from tasker.maint_tables_to_vacuum();
update tasker.queue set queue_extra_maint = null;

-- Each step 2 is apart: one that fails does not hold up the other, nor does a queue that fails hold up others.
create function st.refuse() returns trigger language plpgsql as
$$ begin raise 'refused by a test'; end $$;
create trigger refuse before update of queue_switch_step2 on tasker.queue for each row
when (new.queue_name = 'sm' and new.queue_switch_step2 is not null) execute function st.refuse();
create trigger refuse before update of last_step2_txid on tasker.metadata_rotation for each row
when (new.last_step2_txid is not null) execute function st.refuse();
create function st.state() returns text language sql as
$$
select format('step 2 of events %s, of subscriptions and ticks %s', case when queue_switch_step2 is null then 'to come' else 'done' end,
    case when last_step2_txid is null then 'to come' else 'done' end)
from tasker.queue, tasker.metadata_rotation where queue_name = 'sm'
$$;
select tasker.insert_event('sm', 't', 'last') is not null as inserted;
select st.tick(50);
select st.tick(51);
select st.read_all('late') is not null as read, st.read_all('lagging') is not null as read;
select st.step1(), st.metadata();
call tasker.run_duty('rotate_events_step2');
call tasker.run_duty('rotate_metadata_step2');
select st.state();
drop trigger refuse on tasker.metadata_rotation;
call tasker.run_duty('rotate_events_step2');
call tasker.run_duty('rotate_metadata_step2');
select st.state();
drop trigger refuse on tasker.queue;
call tasker.run_duty('rotate_events_step2');
select st.state();
call tasker.run_duty('rotate_events');
call tasker.run_duty('rotate_metadata');
select tasker.create_queue('sm_a'), tasker.create_queue('sm_z');
update tasker.queue set queue_external_ticker = true where queue_name like 'sm%';
select tasker.insert_event(queue_name, 't', 'e') is not null as inserted from tasker.queue where queue_name like 'sm\__';
begin;
create trigger refuse before update of queue_cur_table on tasker.queue for each row
when (new.queue_name = 'sm_a' and new.queue_cur_table <> old.queue_cur_table) execute function st.refuse();
update tasker.queue set queue_switch_time = now() - interval '101 days' where queue_name like 'sm\__';
select tasker.maint() > 0 as done;
select queue_name, queue_cur_table from tasker.queue where queue_name like 'sm\__' order by 1;
drop trigger refuse on tasker.queue;
update tasker.queue set queue_switch_time = now() where queue_name like 'sm\__';
commit;
select tasker.drop_queue('sm_a'), tasker.drop_queue('sm_z');

-- Tables that are rotated have no foreign keys, in neither direction: a truncation would have to look at the other side.
select count(*) from pg_constraint where contype = 'f' and (conrelid::regclass::text ~ '^tasker\.(subscription|tick|event)_'
    or confrelid::regclass::text ~ '^tasker\.(subscription|tick|event)_');

-- Broken rules are found.
begin;
select st.tick(60) \g /dev/null
insert into tasker.tick (tick_queue, tick_id, tick_event_seq, tick_snapshot) values (:q, 900, 1, '10:10:');
select format('event_%s_%s', queue_id, queue_cur_table) as current,
    format('event_%s_%s', queue_id, (queue_cur_table + 1) % 3) as next from tasker.queue where queue_name = 'sm' \gset
insert into tasker.:next (ev_id, ev_time, ev_txid) values (7, now(), txid_snapshot_xmax(txid_current_snapshot()) - 1);
insert into tasker.:current (ev_id, ev_time, ev_txid) values (8, now(), 4000000000000);
insert into tasker.event_:q (ev_id, ev_time, ev_txid) values (9, now(), 1);
insert into tasker.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_owner) values (now() + '1 day', :q, 1, now(), 123456789);
insert into tasker.registration (sub_key, sub_id, sub_queue, sub_consumer) values (123456788, 123456788, :q, 123456788);
insert into tasker.subscription_0 (sub_key, sub_version, sub_last_tick) values (123456787, 1, 1);
insert into tasker.subscription_1 (sub_key, sub_version, sub_last_tick) values (123456787, 1, 1);
create table tasker.event_123456789_0 ();
select regexp_replace(object, 'of queue \d+', 'of queue N') as object,
    regexp_replace(regexp_replace(replace(replace(problem, :'current', 'current'), :'next', 'next'), 'transaction \d+',
        'transaction N'), 'event_\d+', 'parent') as problem
from tasker.check_integrity() order by 1, 2;
select format('drop index tasker.%1$s_txid_idx', :'next') as drop \gset
:drop;
delete from tasker.tick where tick_queue = :q;
select replace(problem, :'next', 'next') as problem, count(*) from tasker.check_stream_integrity()
where problem like '%index%' or problem like 'it stands at%' group by 1 order by 1;
rollback;
select * from tasker.check_integrity();

-- An index of somebody's own in the other order, and older than ours is since that was built anew. What is due for
-- longest is published first, so that nothing is left before the time from which on the next round looks.
create index st_descending on tasker.retry_queue (ev_retry_after desc);
reindex index concurrently tasker.retry_queue_ev_retry_after;
select count(tasker.send_at('sm', 'due', n::text, now() + '1 day')) from generate_series(1, 5001) n;
update tasker.retry_queue set ev_retry_after = now() - interval '1 minute' * ev_data::int;
select tasker.maint_retry_events();
select ev_data from tasker.retry_queue;
select tasker.maint_retry_events();
drop index tasker.st_descending;

update tasker.queue set queue_metadata_rotation_period = default, queue_rotation_period = default;
select tasker.drop_queue('sm', true);
drop owned by st_caller;
drop role st_caller;
set client_min_messages = warning;
drop schema st cascade;
alter system reset tasker.worker;
select pg_reload_conf();
