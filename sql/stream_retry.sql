-- Events that come again or later, messages that are received, confirmed and refused, dead letters. The queues have
-- external tickers, so that ticks come when the test wants them. What waits is made due and moved in one transaction,
-- so that a background worker cannot be faster.
\set VERBOSITY terse
\pset null '(null)'
\pset format unaligned
\pset tuples_only on
set client_min_messages = error; -- ack() warns, with a number that differs
set intervalstyle = postgres;
create extension if not exists tasker;
create schema sy;

create function sy.tick(name text) returns void language sql as
$$ select tasker.ticker(name, i.last_tick_id + 1, clock_timestamp(), 0) from tasker.get_queue_info(name) i $$;
create function sy.queue(name text, variadic consumers text[]) returns void language sql as
$$
    select tasker.create_queue(name), tasker.set_queue_config(name, 'external_ticker', 'true');
    select tasker.subscribe(name, c) from unnest(consumers) c;
$$;
create function sy.try(statement text) returns text language plpgsql as
$$
declare
    result text;
    state text;
    message text;
begin
    execute statement into result;
    return coalesce(result, '(null)');
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text;
    return state || ' | ' || regexp_replace(message, '\d{6,}', '<id>');
end
$$;
-- The open batch of a consumer; its events as id:data:retries.
create function sy.batch(name text, consumer text = 'c') returns bigint language sql as
$$
    select s.sub_batch from tasker.subscription s join tasker.consumer c on c.co_id = s.sub_consumer
    join tasker.queue q on q.queue_id = s.sub_queue where q.queue_name = name and c.co_name = consumer
$$;
create function sy.open(name text, consumer text = 'c') returns text language plpgsql as
$$
begin
    return (select string_agg(concat_ws(':', e.ev_id, e.ev_data, e.ev_retry), ' ')
            from tasker.get_batch_events(tasker.next_batch(name, consumer)) e);
end
$$;
create function sy.receive(name text, consumer text = 'c', most int = 100) returns text language sql as
$$ select string_agg(concat_ws(':', m.msg_id, m.payload, m.retry_count), ' ') from tasker.receive(name, consumer, most) m $$;
create function sy.ack(name text, consumer text = 'c') returns int language sql as
$$ select tasker.ack(sy.batch(name, consumer)) $$;
-- Makes all of a queue due that waits, and moves it.
create function sy.move(name text) returns text language plpgsql as
$$
declare
    moved int;
begin
    update tasker.retry_queue set ev_retry_after = now() where ev_queue = (select queue_id from tasker.queue where queue_name = name);
    moved := tasker.maint_retry_events();
    return concat_ws(' ', moved, tasker.maint_retry_events());
end
$$;
create function sy.waiting(name text) returns text language sql as
$$
    select string_agg(concat_ws(':', ev_id, ev_data, ev_retry, case ev_owner when 0 then 'all' end), ' ' order by ev_id)
    from tasker.retry_queue where ev_queue = (select queue_id from tasker.queue where queue_name = name)
$$;

-- event_retry() in both forms: once, and only for who asked for it.
select sy.queue('r', 'c', 'd');
select count(tasker.send('r', 'e' || n)) from generate_series(1, 4) n;
select sy.tick('r');
select sy.open('r');
create temp table first as select * from tasker.get_batch_events(sy.batch('r'));
select tasker.event_retry(sy.batch('r'), 2, 3600), tasker.event_retry(sy.batch('r'), 2, 3600), tasker.event_retry(sy.batch('r'), 4, now() + '1 day');
select sy.waiting('r');
select tasker.finish_batch(sy.batch('r'));
select sy.move('r');
select sy.waiting('r');
select sy.tick('r');
select sy.open('r'), sy.open('r', 'd');
select tasker.finish_batch(sy.batch('r', 'd'));
select coalesce(sy.open('r', 'd'), 'nothing');
select ev_id, ev_time = (select f.ev_time from first f where f.ev_id = e.ev_id) as time_is_kept, ev_txid > (select max(ev_txid) from first) as txid_is_new
from tasker.get_batch_events(sy.batch('r')) e order by 1;
-- The same event once more, and the rest of the batch; what waits already is not counted.
select tasker.event_retry(sy.batch('r'), 2, 3600), tasker.batch_retry(sy.batch('r'), 3600), tasker.batch_retry(sy.batch('r'), 3600);
select sy.waiting('r');
-- A time in the past, and one that never comes.
select tasker.finish_batch(sy.batch('r'));
select sy.move('r');
select sy.tick('r');
begin;
select sy.open('r');
select tasker.event_retry(sy.batch('r'), 2, -3600), tasker.event_retry(sy.batch('r'), 4, timestamptz 'infinity');
select tasker.maint_retry_events();
select sy.waiting('r');
rollback;
select coalesce(sy.waiting('r'), 'nothing');
-- A round that is rolled back has moved nothing, and the next one finds it.
begin;
select sy.open('r') is not null;
select tasker.event_retry(sy.batch('r'), 2, 0);
savepoint s;
select tasker.maint_retry_events();
rollback to s;
select tasker.maint_retry_events(), tasker.maint_retry_events();
savepoint t;
select tasker.event_retry(sy.batch('r'), 4, 0);
select tasker.maint_retry_events();
release t;
select tasker.maint_retry_events();
commit;
-- Bad input.
select sy.try($$select tasker.event_retry(sy.batch('r'), 99, 0)$$);
select sy.try($$select tasker.event_retry(123456789, 2, 0)$$);
select sy.try($$select tasker.event_retry(null, 2, 0)$$);
select sy.try($$select tasker.event_retry(sy.batch('r'), null, 0)$$);
select sy.try($$select tasker.event_retry(sy.batch('r'), 2, null::integer)$$);
select sy.try($$select tasker.event_retry(sy.batch('r'), 2, null::timestamptz)$$);
select sy.try($$select tasker.batch_retry(123456789, 0)$$);
select sy.try($$select tasker.batch_retry(sy.batch('r'), null)$$);
select sy.try($$select tasker.batch_retry(null, 0)$$);
-- event_retry_raw(): any event for one consumer.
select tasker.event_retry_raw('r', 'd', now() + '1 hour', 77, '2020-01-01 00:00Z', 5, 't', 'raw', '1', null, '3', ''),
    tasker.event_retry_raw('r', 'd', now() + '1 hour', null, null, null, null, null, null, null, null, null) > 4;
select sy.try($$select tasker.event_retry_raw('r', 'd', now(), 77, now(), 5, 't', 'raw', '1', null, '3', '')$$);
select sy.try($$select tasker.event_retry_raw('r', 'x', now(), 77, now(), 5, 't', 'raw', '1', null, '3', '')$$);
select sy.try($$select tasker.event_retry_raw('x', 'd', now(), 77, now(), 5, 't', 'raw', '1', null, '3', '')$$);
select sy.try($$select tasker.event_retry_raw('r', 'd', null, 78, now(), 5, 't', 'raw', '1', null, '3', '')$$);
select sy.move('r');
select tasker.ack(batch_id) from tasker.receive('r', 'd') limit 1;
select sy.tick('r');
select coalesce(sy.receive('r', 'd'), 'nothing') ~ '77:raw:5';
select ev_id, ev_time at time zone 'UTC', ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4
from tasker.get_batch_events(tasker.next_batch('r', 'd')) where ev_id = 77;
-- An insert of an administrator, and one with an id of its transaction that is not so.
begin;
insert into tasker.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_owner, ev_txid)
select now(), sub_queue, 200, now(), sub_id, 1 from tasker.subscription where sub_batch = sy.batch('r', 'd');
select ev_txid = txid_current() from tasker.retry_queue where ev_id = 200;
select tasker.maint_retry_events();
rollback;
-- Who is unregistered gets nothing any more, nor does a queue that was dropped.
select sy.queue('gone', 'c', 'd');
select count(tasker.send('gone', 'e' || n)) from generate_series(1, 3) n;
select sy.tick('gone');
select sy.open('gone');
select tasker.batch_retry(sy.batch('gone'), 3600), tasker.send_at('gone', 'later', now() + '1 hour') > 0;
create temp table saved as select * from tasker.retry_queue where ev_queue = (select queue_id from tasker.queue where queue_name = 'gone');
select tasker.unsubscribe('gone', 'c');
select sy.waiting('gone');
begin;
insert into tasker.retry_queue select * from saved where ev_owner <> 0;
select sy.move('gone');
commit;
select sy.tick('gone');
select coalesce(sy.waiting('gone'), 'nothing'), sy.receive('gone', 'd');
select tasker.drop_queue('gone', true);
begin;
insert into tasker.retry_queue select * from saved;
update tasker.retry_queue set ev_retry_after = now() where ev_id in (select ev_id from saved);
select tasker.maint_retry_events(), tasker.maint_retry_events();
select count(*) from tasker.retry_queue where ev_queue in (select ev_queue from saved);
commit;
-- More than one call moves, and more than one queue; all in the order of their times.
select sy.queue('many', 'c'), sy.queue('few', 'c');
begin;
select count(tasker.send_at('many', n::text, clock_timestamp() + '1 hour')) from generate_series(1, 6000) n;
select tasker.send_at('few', 'x', now() + '1 hour'), tasker.send_at('few', repeat('y', 100000), now() + '1 hour');
select sy.move('many'), sy.move('few');
commit;
select sy.tick('many'), sy.tick('few');
select count(*), min(ev_data::int), max(ev_data::int), count(distinct ev_id) from tasker.get_batch_events(tasker.next_batch('many', 'c'));
select string_agg(left(ev_data, 1) || length(ev_data), ' ') from tasker.get_batch_events(tasker.next_batch('few', 'c'));

-- send_at(): for everybody, at its time, with its transaction.
select sy.queue('at', 'c', 'd');
begin;
select tasker.send_at('at', 'not sent', now() + '1 hour');
rollback;
select tasker.send_at('at', 'text', now() + '1 hour'), tasker.send_at('at', 'typed', 'text', now() + '1 hour'),
    tasker.send_at('at', '{"a":  1}'::jsonb, now() + '1 hour'), tasker.send_at('at', 'typed', '[1]'::jsonb, now() + '1 hour'),
    tasker.send_at('at', null::text, now() + '1 hour'), tasker.send_at('at', 'at once', now() - interval '1 hour');
select sy.waiting('at');
select sy.tick('at');
select sy.receive('at'), sy.receive('at', 'd');
select sy.ack('at'), sy.ack('at', 'd');
select sy.move('at');
select sy.tick('at');
select msg_id, type, payload, retry_count, created_at between now() + '59 minutes' and now() + '1 hour' from tasker.receive('at', 'c');
select sy.receive('at') = sy.receive('at', 'd');
select sy.try($$select tasker.send_at('at', 'x', null)$$);
select sy.try($$select tasker.send_at('at', 'x', 'infinity')$$);
select sy.try($$select tasker.send_at('nowhere', 'x', now() + '1 hour')$$);
select sy.try($$select tasker.send_at(null, 'x', now() + '1 hour')$$);
select tasker.set_queue_config('at', 'disable_insert', 'true');
select sy.try($$select tasker.send_at('at', 'x', now() + '1 hour')$$);
select tasker.set_queue_config('at', 'disable_insert', 'false'), tasker.set_queue_config('at', 'per_tx_limit', '2');
select sy.try($$select count(tasker.send_at('at', 'x', now() + '1 hour')) from generate_series(1, 2)$$);
select sy.try($$select count(tasker.send_at('at', 'x', now() + '1 hour')) from generate_series(1, 3)$$);
-- What was accepted is published, whatever the queue says now.
select tasker.set_queue_config('at', 'disable_insert', 'true'), tasker.set_queue_config('at', 'per_tx_limit', '1');
select sy.move('at');

-- receive() in parts: nothing is passed over, and nothing comes twice once it is confirmed.
select sy.queue('p', 'c', 'd');
select sy.tick('p'), sy.tick('p');
select count(tasker.send('p', 'e' || n)) from generate_series(1, 7) n;
select sy.tick('p'), sy.tick('p');
select tasker.send('p', 'next');
select sy.tick('p');
select sy.receive('p', 'c', 3);
select sy.receive('p', 'c', 3);
select sy.ack('p');
select sy.receive('p', 'c', 3);
select sy.receive('p', 'c', 2);
begin;
select sy.ack('p');
select sy.receive('p', 'c', 100);
rollback;
select sy.ack('p');
select sy.receive('p', 'c', 100);
select sy.receive('p', 'c', 1);
select sy.receive('p', 'c', 100);
select sy.ack('p');
select sy.receive('p');
select sy.ack('p');
select coalesce(sy.receive('p'), 'nothing'), sy.batch('p');
-- The whole batch is PgQ's: finish_batch() closes it, whatever was handed out; so does ack() where nothing was.
select sy.receive('p', 'd', 2);
select tasker.finish_batch(sy.batch('p', 'd'));
select sy.receive('p', 'd'), sy.ack('p', 'd');
select tasker.send('p', 'not looked at');
select sy.tick('p');
select tasker.next_batch('p', 'd') is not null;
select sy.ack('p', 'd');
-- All columns.
select tasker.insert_event('p', 't', 'd', '1', null, '3', '');
select sy.tick('p');
select batch_id = sy.batch('p', 'd'), msg_id, type, payload, retry_count, created_at <= now(), extra1, extra2, extra3, extra4 from tasker.receive('p', 'd');
select sy.ack('p', 'd');
-- Events that have grown too old are not handed out, and hold nobody up.
select count(tasker.insert_event_raw('p', null, now() - age, null, null, 't', age::text, null, null, null, null)) from unnest('{1 hour,0,2 hours,0,3 hours}'::interval[]) age;
select sy.tick('p');
select tasker.set_queue_config('p', 'ttl', '30 minutes');
select sy.receive('p', 'd', 1);
select sy.ack('p', 'd');
select sy.receive('p', 'd', 1);
select sy.ack('p', 'd');
select coalesce(sy.receive('p', 'd', 1), 'nothing'), sy.batch('p', 'd');
-- An event and its retry in one batch are handed out together.
select tasker.set_queue_config('p', 'ttl', null);
select count(tasker.insert_event_raw('p', id, null, null, retry, 't', null, null, null, null, null)) from (values (901, null), (902, 1), (902, 2), (903, null)) v(id, retry);
select sy.tick('p');
select sy.receive('p', 'd', 2);
select sy.ack('p', 'd');
select sy.receive('p', 'd', 2);
select sy.ack('p', 'd');
-- Bad input.
select sy.try($$select tasker.receive('p', 'c', 0)$$);
select sy.try($$select tasker.receive('p', 'c', -1)$$);
select sy.try($$select tasker.receive('p', 'c', null)$$);
select sy.try($$select tasker.receive('p', 'x')$$);
select sy.try($$select tasker.receive('x', 'c')$$);
select sy.try($$select tasker.receive(null, 'c')$$);
select sy.try($$select tasker.receive('p', null)$$);
select tasker.ack(123456789), sy.try($$select tasker.ack(null)$$);

-- nack(): again, until it is enough; then a dead letter.
select sy.queue('n', 'c', 'd');
select tasker.set_queue_config('n', 'max_retries', '2');
select count(tasker.send('n', 'type', 'e' || n)) from generate_series(1, 3) n;
select sy.tick('n');
select sy.receive('n'), sy.receive('n', 'd');
-- By message, by a message that lies, by id; once or twice is the same.
select tasker.nack(m.batch_id, m, '1 hour', 'first') from tasker.receive('n', 'c') m where msg_id = 1;
select tasker.nack(sy.batch('n'), row(1, 0, 'forged', 'forged', 99, null, null, null, null, null)::tasker.message, '1 hour'),
    tasker.nack(sy.batch('n'), 2, '1 hour');
select ev_id, ev_type, ev_data, ev_retry, ev_retry_after between now() + '59 minutes' and now() + '1 hour'
from tasker.retry_queue where ev_queue = (select queue_id from tasker.queue where queue_name = 'n') order by ev_id;
select sy.ack('n'), sy.move('n');
select sy.tick('n');
select sy.receive('n');
select tasker.nack(sy.batch('n'), 1), tasker.nack(sy.batch('n'), 2);
select sy.ack('n'), sy.move('n');
select sy.tick('n');
select sy.receive('n');
select count(*) from tasker.dlq_inspect('n');
select tasker.nack(sy.batch('n'), 1, '0', 'broken'), tasker.nack(sy.batch('n'), 1, '0', 'broken again'), tasker.nack(sy.batch('n'), 2);
select coalesce(sy.waiting('n'), 'nothing');
select dl_reason, dl_consumer, dl_time <= now(), ev_id, ev_time < now(), ev_txid > 0, ev_retry, ev_type, ev_data, ev_extra1, ev_extra4 from tasker.dlq_inspect('n') order by ev_id;
select sy.ack('n');
-- No retries at all.
select tasker.set_queue_config('n', 'max_retries', '0');
select tasker.nack(sy.batch('n', 'd'), 3, '0', 'at once');
select dl_consumer, ev_id, ev_retry, dl_reason from tasker.dlq_inspect('n', 1);
select tasker.set_queue_config('n', 'max_retries', null);
select queue_max_retries from tasker.queue where queue_name = 'n';
-- event_dead(): at once, with what the batch says.
select tasker.event_dead(sy.batch('n', 'd'), 2, 'dead'), tasker.event_dead(sy.batch('n', 'd'), 2, 'dead'),
    tasker.event_dead(sy.batch('n', 'd'), 1, 'long form', now(), 1, 7, 'forged', 'forged');
select dl_consumer, ev_id, ev_retry, ev_type, ev_data, dl_reason from tasker.dlq_inspect('n') where dl_consumer = 'd' order by ev_id;
select sy.try($$select tasker.nack(sy.batch('n', 'd'), 99)$$);
select sy.try($$select tasker.nack(123456789, 1)$$);
select sy.try($$select tasker.nack(null, 1)$$);
select sy.try($$select tasker.nack(sy.batch('n', 'd'), null::bigint)$$);
select sy.try($$select tasker.nack(sy.batch('n', 'd'), null::tasker.message)$$);
select sy.try($$select tasker.nack(sy.batch('n', 'd'), row(null, null, null, null, null, null, null, null, null, null)::tasker.message)$$);
select sy.try($$select tasker.nack(sy.batch('n', 'd'), 1, '-1 second')$$);
select sy.try($$select tasker.nack(sy.batch('n', 'd'), 1, null)$$);
select sy.try($$select tasker.event_dead(sy.batch('n', 'd'), 99)$$);
select sy.try($$select tasker.event_dead(123456789, 1)$$);
select sy.try($$select tasker.event_dead(sy.batch('n', 'd'), null)$$);
-- A very long wait is one, and no overflow.
select tasker.nack(sy.batch('n', 'd'), 3, '200000 years');
select ev_retry_after > now() + interval '100000 years' from tasker.retry_queue where ev_id = 3 and ev_queue = (select queue_id from tasker.queue where queue_name = 'n');

-- Replays reach the consumer whose letter it is, as new events with all retries before them.
select sy.ack('n', 'd');
select tasker.dlq_replay(dl_id) > 3 from tasker.dlq_inspect('n') where dl_consumer = 'c' and ev_id = 1;
select sy.tick('n');
select regexp_replace(sy.receive('n'), '\d+:', ''), coalesce(sy.receive('n', 'd'), 'nothing');
select sy.try(format('select tasker.dlq_replay(%s)', max(dl_id) + 1000)) ~ '^42704' from tasker.dlq_inspect('n');
select sy.try($$select tasker.dlq_replay(null)$$);
-- A consumer that has gone keeps its letters, and gets them when it is back.
select tasker.unsubscribe('n', 'd');
select * from tasker.dlq_replay_all('n') as r(replayed, failed, message) \gset
select :replayed, :failed, regexp_replace(:'message', '\d+', 'N', 'g');
select dl_consumer, ev_id from tasker.dlq_inspect('n') order by ev_id;
select regexp_replace(sy.try(format('select tasker.dlq_replay(%s)', dl_id)), '\d+ is', 'N is') from tasker.dlq_inspect('n') where ev_id = 1;
select tasker.subscribe('n', 'd');
select * from tasker.dlq_replay_all('n');
select sy.tick('n');
select regexp_replace(sy.receive('n', 'd'), '\d+:', '', 'g');
select count(*) from tasker.dlq_inspect('n');
-- Inserts that are refused leave the letters where they are.
select tasker.event_dead(sy.batch('n', 'd'), msg_id) from tasker.receive('n', 'd');
select tasker.set_queue_config('n', 'disable_insert', 'true');
select replayed, failed, first_error ~ 'disabled' from tasker.dlq_replay_all('n');
select tasker.set_queue_config('n', 'disable_insert', 'false');
select sy.try($$select tasker.dlq_inspect('n', 0)$$);
select sy.try($$select tasker.dlq_inspect('n', null)$$);
select sy.try($$select tasker.dlq_inspect('nowhere')$$);
select sy.try($$select tasker.dlq_replay_all('nowhere')$$);
select sy.try($$select tasker.dlq_replay_all(null)$$);
select sy.try($$select tasker.dlq_purge('nowhere')$$);
select sy.try($$select tasker.dlq_purge('n', '-1 day')$$);
select sy.try($$select tasker.dlq_purge('n', null)$$);
-- Purges.
select tasker.dlq_purge('n');
update tasker.dead_letter set dl_time = now() - interval '31 days' where dl_id = (select min(dl_id) from tasker.dlq_inspect('n'));
select tasker.dlq_purge('n', '32 days'), tasker.dlq_purge('n'), tasker.dlq_purge('n');
select tasker.dlq_purge('n', '100000 years'), tasker.dlq_purge('n', '0'), count(*) from tasker.dlq_inspect('n');
-- A time before all others, in a session that has moved nothing yet; also as the only one that is left for later.
\c -
set client_min_messages = error;
select sy.receive('n', 'd') is not null;
begin;
select tasker.event_retry(m.batch_id, m.msg_id, timestamptz '-infinity') from tasker.receive('n', 'd') m limit 1;
select tasker.maint_retry_events(), tasker.maint_retry_events();
rollback;
-- Letters go with their queue.
select sy.receive('n', 'd') is not null, tasker.event_dead(sy.batch('n', 'd'), msg_id) from tasker.receive('n', 'd') limit 1;
select count(*) from tasker.dead_letter where dl_queue_id = (select queue_id from tasker.queue where queue_name = 'n');
select sum(tasker.drop_queue(name, true)) from unnest('{r,many,few,at,p,n}'::text[]) name;
select (select count(*) from tasker.dead_letter where dl_queue_id not in (select queue_id from tasker.queue)),
    (select count(*) from tasker.retry_queue where ev_queue not in (select queue_id from tasker.queue));
drop schema sy cascade;
