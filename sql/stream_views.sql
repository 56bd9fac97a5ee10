-- tasker.subscription and tasker.tick take insert, update and delete as PgQ's tables of those names.
\set VERBOSITY terse
set client_min_messages = warning;
create extension if not exists tasker;
reset client_min_messages;
create schema sv;
select tasker.create_queue('sv'), tasker.create_queue('sv2');
update tasker.queue set queue_external_ticker = true where queue_name like 'sv%';
update tasker.queue set queue_metadata_rotation_period = '100 days', queue_rotation_period = '100 days';
select tasker.register_consumer('sv', 'one');
insert into tasker.consumer (co_name) values ('two');
select queue_id as q from tasker.queue where queue_name = 'sv' \gset
select queue_id as q2 from tasker.queue where queue_name = 'sv2' \gset
select co_id as one from tasker.consumer where co_name = 'one' \gset
select co_id as two from tasker.consumer where co_name = 'two' \gset
create view sv.subscription as
select c.co_name, q.queue_name, s.sub_last_tick, s.sub_batch is not null as has_batch, s.sub_next_tick
from tasker.subscription s join tasker.queue q on q.queue_id = s.sub_queue join tasker.consumer c on c.co_id = s.sub_consumer
where queue_name like 'sv%';
select tasker.insert_event('sv', 't', 'event') is not null as inserted;
select tasker.ticker('sv', 10, now(), 1);
select tasker.ticker('sv', 20, now(), 1);

-- Insert, with PgQ's defaults; what is returned is what was stored.
insert into tasker.subscription (sub_queue, sub_consumer, sub_last_tick) values (:q, :two, 10)
returning sub_id > 0 as "a new id", sub_last_tick,
    sub_active = now() as "active now", sub_batch, sub_next_tick;
select last_value + 100 as given from tasker.registration_sub_key_seq \gset
insert into tasker.subscription (sub_id, sub_queue, sub_consumer, sub_last_tick, sub_active)
values (:given, :q2, :two, 1, '2020-01-01 00:00:00+00') returning sub_id = :given as "the id given", sub_last_tick, sub_active = '2020-01-01 00:00:00+00' as active;
select sub_key = :given as "its own" from tasker.registration where sub_id = :given;
-- Members of a cooperative consumer share its id, and stand nowhere.
insert into tasker.consumer (co_name) values ('member') returning co_id as member \gset
insert into tasker.subscription (sub_id, sub_queue, sub_consumer) values (:given, :q2, :member)
returning sub_id = :given as "the consumer's", sub_last_tick;
select sub_key > :given as "a key of its own" from tasker.registration where sub_consumer = :member;
table sv.subscription order by 1, 2;
\set VERBOSITY default
\set SHOW_CONTEXT never
insert into tasker.subscription (sub_queue, sub_consumer, sub_last_tick) values (-1, :two, 10);
insert into tasker.subscription (sub_queue, sub_consumer, sub_last_tick) values (:q, -1, 10);
insert into tasker.subscription (sub_queue, sub_last_tick) values (:q, 10);
\set VERBOSITY terse
insert into tasker.subscription (sub_queue, sub_consumer, sub_last_tick) values (:q, :two, 10);
delete from tasker.subscription where sub_queue = :q2;
insert into tasker.subscription (sub_queue, sub_consumer, sub_last_tick) values (:q2, :two, 99);
insert into tasker.subscription (sub_queue, sub_consumer, sub_last_tick, sub_active) values (:q2, :two, 1, null);
table sv.subscription order by 1, 2;

-- Update: a consumer is moved, its batch opened and dropped; the functions see all of it.
update tasker.subscription set sub_last_tick = 1 where sub_consumer = :two returning sub_last_tick;
select tasker.next_batch('sv', 'two') as batch \gset
select ev_data from tasker.get_batch_events(:batch);
update tasker.subscription set sub_batch = null, sub_next_tick = null where sub_batch = :batch returning sub_last_tick, sub_next_tick;
set client_min_messages = error;
select tasker.finish_batch(:batch);
reset client_min_messages;
update tasker.subscription set sub_batch = :batch, sub_next_tick = 20 where sub_consumer = :two;
select ev_data from tasker.get_batch_events(:batch);
select tasker.finish_batch(:batch);
table sv.subscription order by 1, 2;
update tasker.subscription set sub_active = '2020-01-01 00:00:00+00' where sub_consumer = :two;
select sub_active = '2020-01-01 00:00:00+00' as active from tasker.subscription where sub_consumer = :two;
update tasker.subscription set sub_last_tick = 10 where sub_queue = :q;
table sv.subscription order by 1, 2;
with moved as (update tasker.subscription set sub_last_tick = 20 where sub_queue = :q returning sub_last_tick)
select count(*), min(sub_last_tick) from moved;
begin;
update tasker.subscription set sub_last_tick = 10 where sub_consumer = :two;
rollback;
table sv.subscription order by 1, 2;
-- The same transaction sees its own changes.
begin;
update tasker.subscription set sub_last_tick = 1 where sub_consumer = :two;
update tasker.subscription set sub_last_tick = 10 where sub_consumer = :two and sub_last_tick = 1;
select sub_last_tick from tasker.subscription where sub_consumer = :two;
commit;
update tasker.subscription set sub_last_tick = 99 where sub_consumer = :two;
update tasker.subscription set sub_next_tick = 99 where sub_consumer = :two;
update tasker.subscription set sub_batch = 0, sub_next_tick = 20 where sub_consumer = :two;
update tasker.subscription set sub_active = null where sub_consumer = :two;
\set VERBOSITY default
update tasker.subscription set sub_queue = :q2 where sub_consumer = :two;
update tasker.subscription set sub_id = 5 where sub_consumer = :two;
\set VERBOSITY terse
update tasker.subscription set sub_consumer = :one where sub_consumer = :two;
update tasker.subscription set sub_last_tick = 10 where sub_consumer = -1;
table sv.subscription order by 1, 2;

-- Delete unregisters; the consumer stays, and what was to come again goes.
insert into tasker.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_owner)
select now() + interval '1 day', sub_queue, 1, now(), sub_id from tasker.subscription where sub_queue = :q and sub_consumer = :two;
delete from tasker.subscription where sub_queue = :q and sub_consumer = :two returning sub_last_tick;
table sv.subscription order by 1, 2;
select count(*) from tasker.retry_queue where ev_queue = :q;
select tasker.next_batch('sv', 'two');
select tasker.register_consumer('sv', 'two');
select co_id = :two as "the same consumer" from tasker.consumer where co_name = 'two';

-- Ticks: on whichever table, with PgQ's defaults.
create view sv.tick as select q.queue_name, t.tick_id, t.tick_event_seq from tasker.tick t join tasker.queue q on q.queue_id = t.tick_queue
where queue_name like 'sv%';
create procedure sv.rotate() language plpgsql as
$$
begin
    update tasker.metadata_rotation set rotation_switch_time = now() - interval '101 days';
    perform tasker.maint_rotate_metadata();
    update tasker.metadata_rotation set rotation_switch_time = now();
    commit;
    perform tasker.maint_rotate_metadata_step2();
end
$$;
call sv.rotate();
insert into tasker.tick (tick_queue, tick_id, tick_event_seq) values (:q, 30, 3)
returning tick_id, tick_time = now() as "made now", txid_snapshot_xmax(tick_snapshot) > 0 as "with a snapshot", tick_event_seq;
select count(distinct tableoid) as tables
from (select tableoid from tasker.tick_0 where tick_queue = :q union all select tableoid from tasker.tick_1 where tick_queue = :q
      union all select tableoid from tasker.tick_2 where tick_queue = :q) t;
with u as (update tasker.tick set tick_event_seq = tick_event_seq + 1 where tick_queue = :q returning tick_id, tick_event_seq)
table u order by 1;
update tasker.tick set tick_id = 25, tick_time = '2020-01-01 00:00:00+00' where tick_queue = :q and tick_id = 20
returning tick_id, tick_time = '2020-01-01 00:00:00+00' as changed;
update tasker.tick set tick_id = 20 where tick_queue = :q and tick_id = 25;
table sv.tick order by 1, 2;
insert into tasker.tick (tick_queue, tick_id, tick_event_seq) values (:q, 10, 3);
update tasker.tick set tick_id = 10 where tick_queue = :q and tick_id = 30;
insert into tasker.tick (tick_queue, tick_id, tick_event_seq) values (-1, 10, 3);
insert into tasker.tick (tick_queue, tick_id) values (:q, 11);
update tasker.tick set tick_queue = :q2 where tick_queue = :q;
delete from tasker.tick where tick_queue = :q and tick_id = 10 returning tick_id, tick_event_seq;
delete from tasker.tick where tick_queue = :q and tick_id = 10;
table sv.tick order by 1, 2;
-- A queue that makes its own ticks goes on after one that was inserted.
update tasker.queue set queue_external_ticker = false where queue_name = 'sv2';
insert into tasker.tick (tick_queue, tick_id, tick_event_seq) values (:q2, 1000, 0);
select tasker.force_tick('sv2') >= 1000 as forced;
select from tasker.ticker('sv2'); -- or the worker's has been faster
select exists (select from sv.tick where queue_name = 'sv2' and tick_id > 1000) as later;
select * from tasker.check_stream_integrity();

-- Rights: the owner and tasker_admin; and no trigger of anybody else's.
create role sv_admin;
create role sv_observer;
grant tasker_admin to sv_admin;
grant tasker_observer to sv_observer;
grant usage on schema sv to sv_admin, sv_observer;
set role sv_observer;
select count(*) > 0 as seen from tasker.subscription;
update tasker.subscription set sub_last_tick = 10;
delete from tasker.tick;
reset role;
set role sv_admin;
update tasker.subscription set sub_last_tick = 30 where sub_queue = :q returning sub_last_tick;
reset role;
create view sv.mine as select 1 as tick_queue;
create trigger mine instead of insert on sv.mine for each row execute function tasker._change_tick();
insert into sv.mine values (1);
update tasker.queue set queue_metadata_rotation_period = default, queue_rotation_period = default;
select tasker.drop_queue('sv', true), tasker.drop_queue('sv2', true);
delete from tasker.consumer where co_name in ('one', 'two', 'member');
drop owned by sv_admin, sv_observer;
drop role sv_admin, sv_observer;
set client_min_messages = warning;
drop schema sv cascade;
