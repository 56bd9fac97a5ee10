-- Queues whose events are the rows of logs.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;
create extension if not exists tasker;
create schema sl;

-- A log with two partitions, whose columns do not stand in the same order, and one whose rows are in a plain table.
create table sl.log (
    id bigint not null,
    txid bigint not null default tasker.log_txid(),
    created_at timestamptz not null default clock_timestamp(),
    what text,
    n int
) partition by range (id);
create table sl.log_old partition of sl.log for values from (0) to (100);
create table sl.log_new (gone int, n int, what text, created_at timestamptz not null default clock_timestamp(), id bigint not null, txid bigint not null default tasker.log_txid());
alter table sl.log_new drop column gone;
alter table sl.log attach partition sl.log_new for values from (100) to (1000);
create index on sl.log (txid);
create table sl.plain (what text, at timestamptz default now(), txid bigint not null default tasker.log_txid());
create index on sl.plain (txid);

-- What cannot be a queue over a log.
create function sl.refused(sql text) returns text language plpgsql as
$$
begin
    execute sql;
    return 'not refused';
exception when others then
    return sqlstate || ' ' || sqlerrm;
end
$$;
create view sl.view as select * from sl.plain;
create temp table sl_temporary (txid bigint default tasker.log_txid(), created_at timestamptz);
create table sl.no_default (txid bigint, created_at timestamptz);
create table sl.other_default (txid bigint default txid_current(), created_at timestamptz);
create table sl.other_type (txid int, created_at timestamptz);
create table sl.no_index (txid bigint default tasker.log_txid(), created_at timestamptz);
create table sl.partial (txid bigint default tasker.log_txid(), created_at timestamptz);
create index on sl.partial (txid) where txid > 0;
select sl.refused($$select tasker.create_log_queue('sl_bad', '{}')$$);
select sl.refused($$select tasker.create_log_queue('', '{sl.log}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.view}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl_temporary}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.log}', 'nothing')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.no_default}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.other_default}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.other_type}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.no_index}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.partial}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.plain}')$$);
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.log}', mapping => '{"ev_tipe": "what"}')$$);
select sl.refused(format('select tasker.create_log_queue(%L, %L, mapping => %L)', 'sl_bad', '{sl.log}', jsonb_build_object(key, expression)))
from (values
    ('ev_type', 'wat'),
    ('ev_type', 'what) from sl.log where (true'),
    ('ev_type', 'what), (n'),
    ('ev_type', 'what); drop table sl.log; select (1'),
    ('ev_type', 'what) union select (what'),
    ('ev_type', '(select max(what) from sl.plain)'),
    ('ev_type', 'max(what)'),
    ('ev_type', 'what as x'),
    ('ev_type', ''),
    ('ev_time', 'n'),
    ('ev_order', 'what')) e (key, expression);
create role regress_sl_admin in role tasker_admin;
grant usage on schema sl to regress_sl_admin;
set role regress_sl_admin;
select sl.refused($$select tasker.create_log_queue('sl_bad', '{sl.log}')$$);
reset role;
select count(*) from tasker.queue where queue_name = 'sl_bad';

-- Two logs in one queue.
select tasker.create_log_queue('sl', '{sl.log}', mapping => '{"ev_type": "what", "ev_extra1": "n * 2", "ev_extra2": "log.id", "ev_order": "n"}');
select tasker.create_log_queue('sl', '{sl.plain}');
select tasker.create_log_queue('sl_both', '{sl.log,sl.plain}', mapping => '{"ev_type": "upper(what)", "ev_data": "what", "ev_time": "clock_timestamp()"}');
select log_number, log_table, log_ev_time, log_ev_type, log_ev_data, log_order
from tasker.queue_log join tasker.queue using (queue_id) where queue_name in ('sl', 'sl_both') order by queue_id, log_number;
create trigger written after insert on sl.log referencing new table as rows for each statement execute function tasker.log_written('sl', 'sl_both', 'nobody''s');
create trigger written after insert on sl.plain for each statement execute function tasker.log_written('sl_both');

-- Without a consumer there are no ticks, whatever is written.
insert into sl.log (id, what, n) values (0, 'before', 0);
select tasker.ticker('sl') is null as no_tick, (select count(*) from tasker.tick join tasker.queue on tick_queue = queue_id where queue_name = 'sl') as ticks;

-- Takes what there is, batch by batch; a worker may make ticks in between.
create table sl.seen (queue text, consumer text, ev_id bigint, ev_txid bigint, ev_retry int, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text);
create function sl.take(queue text, consumer text) returns void language plpgsql as
$$
declare
    batch bigint;
begin
    perform tasker.force_tick(queue), tasker.ticker(queue);
    loop
        batch := tasker.next_batch(queue, consumer);
        exit when batch is null;
        insert into sl.seen select take.queue, take.consumer, e.ev_id, e.ev_txid, e.ev_retry, e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2
        from tasker.get_batch_events(batch) e;
        perform tasker.finish_batch(batch);
    end loop;
end
$$;
-- The place of an event in its transaction, and whether its id says which one that is.
create view sl.got as
select queue, consumer, ev_type, ev_id & ((1 << 22) - 1) as place, ev_id >> 22 = ev_txid as of_transaction, ev_retry, ev_extra1, ev_extra2
from sl.seen;
begin;
insert into sl.log (id, what, n) values (1, 'own transaction, before', 1);
select tasker.register_consumer('sl', 'a'), tasker.register_consumer('sl', 'b');
insert into sl.log (id, what, n) values (2, 'own transaction', 2);
commit;
select sl.take('sl', 'a');
select * from sl.got order by ev_type;

-- In both partitions, in the order that the mapping says; a statement, savepoints, and what is rolled back.
delete from sl.seen;
insert into sl.log (id, what, n) select i, 'row ' || i, 200 - i from generate_series(97, 103) i;
begin;
insert into sl.log (id, what, n) values (10, 'kept 1', 1);
savepoint s;
insert into sl.log (id, what, n) values (110, 'undone', 2);
rollback to s;
insert into sl.log (id, what, n) values (111, 'kept 2', 3);
savepoint s;
insert into sl.log (id, what, n) values (11, 'kept 3', 4);
release s;
commit;
begin;
insert into sl.log (id, what, n) values (12, 'rolled back', 1);
rollback;
select sl.take('sl', 'a'), sl.take('sl', 'b');
select * from sl.got where consumer = 'a' order by ev_type not like 'row%', place;
select count(*), count(distinct ev_id) from sl.seen;
select ev_data::jsonb - 'created_at' - 'txid' as data, (ev_data::jsonb ->> 'txid')::bigint = ev_txid as txid from sl.seen where consumer = 'b' and ev_type = 'kept 2';

-- A transaction that commits late is in the batch of its end, among those that began later.
delete from sl.seen;
begin;
insert into sl.log (id, what, n) values (20, 'late', 1), (120, 'late', 2);
savepoint s;
insert into sl.log (id, what, n) values (21, 'late', 3);
prepare transaction 'sl_late';
insert into sl.log (id, what, n) values (22, 'early', 1);
select sl.take('sl', 'a');
select ev_type, place from sl.got order by 1, 2;
insert into sl.log (id, what, n) select 30, 'in between', i from generate_series(1, 300) i;
select sl.take('sl', 'a');
commit prepared 'sl_late';
select sl.take('sl', 'a'), sl.take('sl', 'b');
select consumer, ev_type, count(*), count(distinct ev_id) as ids, min(ev_id & 4194303), max(ev_id & 4194303) from sl.seen group by 1, 2 order by 1, 2;

-- In parts, once more, later, and as a dead letter that is replayed. Ids stay.
delete from sl.seen;
select tasker.set_queue_config('sl', 'max_retries', '1');
insert into sl.log (id, what, n) select i * 20, 'part ' || i, i from generate_series(1, 9) i;
create table sl.parts (step text, msg_id bigint, batch_id bigint, type text, retry_count int);
create function sl.receive(step text, most int) returns table (type text, retry_count int) language plpgsql as
$$
begin
    perform tasker.force_tick('sl'), tasker.ticker('sl');
    return query with m as (select * from tasker.receive('sl', 'a', most)),
        kept as (insert into sl.parts select receive.step, m.msg_id, m.batch_id, m.type, m.retry_count from m returning parts.type, parts.retry_count)
    select * from kept;
end
$$;
select * from sl.receive('first', 4);
select * from sl.receive('again', 4);
select count(distinct msg_id) from sl.parts;
select tasker.nack(batch_id, msg_id, '0 seconds', 'not now') from sl.parts where step = 'again' and type in ('part 2', 'part 4') order by type;
select tasker.event_retry(batch_id, msg_id, 0) from sl.parts where step = 'again' and type = 'part 7';
select tasker.event_retry(batch_id, (select msg_id from sl.parts where type = 'part 1' limit 1) + 6, 0) from sl.parts where step = 'again' and type = 'part 1';
select tasker.ack(min(batch_id)) from sl.parts where step = 'again';
select * from sl.receive('rest', 100);
select tasker.ack(min(batch_id)) from sl.parts where step = 'rest';
do $$ begin while tasker.maint_retry_events() > 0 loop end loop; end $$;
-- The worker may have made ticks between the two.
create function sl.receive_again() returns setof sl.parts language plpgsql as
$$
declare
    m tasker.message;
begin
    for i in 1 .. 10 loop
        perform tasker.maint_retry_events(), tasker.force_tick('sl'), tasker.ticker('sl');
        for m in select * from tasker.receive('sl', 'a') loop
            return next ('retried', m.msg_id, m.batch_id, m.type, m.retry_count)::sl.parts;
            perform tasker.nack(m.batch_id, m.msg_id, '0 seconds', 'never') where m.type = 'part 4';
        end loop;
        perform tasker.ack(m.batch_id) where m.batch_id is not null;
    end loop;
end
$$;
insert into sl.parts select * from sl.receive_again();
select p.step, p.type, p.retry_count, p.msg_id = f.msg_id as same_id
from sl.parts p left join sl.parts f on f.step in ('first', 'rest') and f.type = p.type where p.step = 'retried' order by p.type;
select ev_type, dl_reason, dl_consumer, ev_retry from tasker.dlq_inspect('sl');
delete from sl.seen;
select count(tasker.dlq_replay(dl_id)) from tasker.dlq_inspect('sl');
select sl.take('sl', 'a'), sl.take('sl', 'b');
-- The replayed one is a new event of one consumer, and the other has got each row once.
select consumer, ev_type, ev_retry, place >= 1 << 21 as replayed, ev_id >> 22 = ev_txid as of_transaction from (select *, ev_id & ((1 << 22) - 1) as place from sl.seen) s order by 1, 2;

-- A cursor, and what comes with the batch's other calls.
insert into sl.log (id, what, n) select i, 'cursor ' || i, i from generate_series(1, 5) i;
create function sl.open_batch(queue text, consumer text) returns bigint language plpgsql as
$$
declare
    batch bigint;
begin
    perform tasker.force_tick(queue), tasker.ticker(queue);
    loop
        batch := tasker.next_batch(queue, consumer);
        exit when exists (select from tasker.get_batch_events(batch));
        perform tasker.finish_batch(batch);
    end loop;
    return batch;
end
$$;
begin;
select ev_type, ev_extra1 from tasker.get_batch_cursor(sl.open_batch('sl', 'a'), 'sl_cursor', 2, 'ev_extra1::int > 2');
fetch forward 1 from sl_cursor \gset cursor_
\echo :cursor_ev_type
select tasker.batch_retry(tasker.next_batch('sl', 'a'), 0);
rollback;
select sl.take('sl', 'a');

-- A row that came through another mapping, from another log, too.
delete from sl.seen;
select tasker.register_consumer('sl_both', 'c');
begin;
insert into sl.plain values ('plain 1');
insert into sl.log (id, what) values (40, 'log 1');
insert into sl.plain values ('plain 2');
commit;
select sl.take('sl_both', 'c');
select ev_type, place, of_transaction from sl.got order by 1;

-- Partitions of partitions; rows that are too old, and rows without a time.
delete from sl.seen;
create table sl.log_deep partition of sl.log for values from (1000) to (3000) partition by range (id);
create table sl.log_deep_1 partition of sl.log_deep for values from (1000) to (2000);
create table sl.log_deep_2 partition of sl.log_deep for values from (2000) to (3000);
select tasker.set_queue_config('sl', 'ttl', '1 hour');
insert into sl.log (id, what, n, created_at) values (1000, 'deep', 1, now()), (2000, 'old', 2, now() - interval '2 hours'), (2001, 'deep, too', 3, now());
select sl.take('sl', 'a');
select tasker.set_queue_config('sl', 'ttl', null);
select sl.take('sl', 'b');
select consumer, ev_type, place from sl.got where ev_type !~ 'cursor' order by consumer, place, ev_type;
alter table sl.log alter created_at drop not null;
alter table sl.log_new alter created_at drop not null;
insert into sl.log (id, what, created_at) values (101, 'no time', null);
create table sl.times as select sl.open_batch('sl', 'a') as batch;
select ev_type, ev_time from sl.times, tasker.get_batch_events(batch) where ev_type = 'no time';

-- A row whose mapping fails stops its consumers, until somebody mends it.
insert into sl.log (id, what, n) values (102, 'too much', 2000000000);
select sl.refused($$select sl.take('sl', 'a')$$);
update sl.log set n = 0 where id = 102;
select sl.take('sl', 'a'), sl.take('sl', 'b');

-- Nobody writes into such a queue but its log.
select sl.refused(sql) from unnest(array[
    $$select tasker.insert_event('sl', 'type', 'data')$$,
    $$select tasker.send('sl', 'data')$$,
    $$select tasker.send_batch('sl', array['data'])$$,
    $$select tasker.send_at('sl', 'data', now() + interval '1 day')$$,
    $$select tasker.current_event_table('sl')$$,
    $$select tasker.insert_event_raw('sl', 1, now(), null, null, 'type', 'data', null, null, null, null)$$]) sql;
create table sl.changed (i int primary key);
create trigger changed after insert on sl.changed for each row execute function tasker.jsontriga('sl');
select sl.refused('insert into sl.changed values (1)');
create trigger bad after insert on sl.changed for each statement execute function tasker.log_written();
alter table sl.changed disable trigger changed;
select sl.refused('insert into sl.changed values (1)');
select sl.refused('select tasker.log_written()');

-- The expressions run as the owner of the log, whoever consumes.
create role regress_sl_owner;
create role regress_sl_consumer;
grant usage on schema tasker to regress_sl_owner;
grant execute on function tasker.log_txid() to regress_sl_owner;
grant create, usage on schema sl to regress_sl_owner;
grant tasker_admin to regress_sl_owner;
set role regress_sl_owner;
create table sl.theirs (what text, created_at timestamptz not null default now(), txid bigint not null default tasker.log_txid());
create index on sl.theirs (txid);
create function sl.whoever(what text) returns text language plpgsql as $$ begin return what || ' of ' || current_user; end $$;
revoke all on function sl.whoever(text) from public;
select tasker.create_log_queue('sl_theirs', '{sl.theirs}', mapping => '{"ev_data": "sl.whoever(what)"}');
select tasker.register_consumer('sl_theirs', 'd');
select tasker.grant_queue('sl_theirs', 'regress_sl_consumer', 'consume');
insert into sl.theirs values ('row');
do $$ begin perform tasker.force_tick('sl_theirs'), tasker.ticker('sl_theirs'); end $$;
reset role;
set role regress_sl_consumer;
select type, payload from tasker.receive('sl_theirs', 'd');
reset role;

-- Information, and the proofs.
select queue_name, ev_new is not null as counted, last_tick_id > 0 as ticked from tasker.get_queue_info('sl');
select * from tasker.check_stream_integrity();
insert into sl.plain values ('from the time to come', now(), 1::bigint << 60);
drop index sl.theirs_txid_idx;
select object, regexp_replace(problem, '\d+', '<id>') as problem from tasker.check_stream_integrity();
drop table sl.plain cascade;
select * from tasker.check_stream_integrity();
select sl.refused($$select sl.take('sl_both', 'c')$$) ~ '^55000 a log of queue "sl_both" does not exist' as refused;
select tasker.drop_queue(q, true) from unnest('{sl,sl_both,sl_theirs}'::text[]) q;
insert into sl.log (id, what) values (50, 'nobody reads it');
select count(*) from tasker.queue_log where log_table::text ~ 'sl[.]';
select * from tasker.check_stream_integrity();
drop schema sl cascade;
drop owned by regress_sl_owner, regress_sl_consumer;
drop role regress_sl_admin, regress_sl_owner, regress_sl_consumer;
