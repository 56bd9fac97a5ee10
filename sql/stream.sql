-- The stream: queues, events, limits, consumers and batches; then bad input of every kind. The queues have external
-- tickers, so that ticks come when the test wants them, whether a background worker runs or not.
\set VERBOSITY terse
\pset null '(null)'
\pset format unaligned
\pset tuples_only on
set client_min_messages = error; -- finish_batch() warns, with a number that differs
set intervalstyle = postgres;
create extension if not exists tasker;
create schema st;

-- A queue with an external ticker.
create function st.queue(name text) returns integer language sql as
$$ select tasker.create_queue(name) * tasker.set_queue_config(name, 'external_ticker', 'true') $$;
-- Its next tick, some seconds later than the last.
create function st.tick(name text, seconds int = 1) returns bigint language sql as
$$
    select tasker.ticker(name, i.last_tick_id + 1, t.tick_time + make_interval(secs => seconds), t.tick_event_seq + i.ev_new)
    from tasker.get_queue_info(name) i
    join tasker.queue q on q.queue_name = i.queue_name
    join tasker.tick t on t.tick_queue = q.queue_id and t.tick_id = i.last_tick_id
$$;
-- The next batch of a consumer as text, finished; null when there is none.
create function st.read(name text, consumer text = 'c') returns text language plpgsql as
$$
declare
    batch bigint := tasker.next_batch(name, consumer);
    events text;
begin
    if batch is null then
        return null;
    end if;
    select coalesce(string_agg(concat_ws(' ', ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4), ', ' order by ev_id), 'none')
    into events from tasker.get_batch_events(batch);
    return events || case tasker.finish_batch(batch) when 1 then '' else ' (not finished)' end;
end
$$;
-- A statement's result, or its error without ids.
create function st.try(statement text) returns text language plpgsql as
$$
declare
    result text;
    state text;
    message text;
    detail text;
begin
    execute statement into result;
    return coalesce(result, '(null)');
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail;
    return concat_ws(' | ', state, regexp_replace(message, '\d{6,}', '<id>'), nullif(detail, ''));
end
$$;

-- The rest of a cursor's rows, or some of them: the data of the events.
create function st.fetch(cursor_name text, count int = null) returns text language plpgsql as
$$
declare
    rows refcursor := cursor_name;
    event record;
    fetched text[];
begin
    while count is null or cardinality(coalesce(fetched, '{}')) < count loop
        fetch rows into event;
        exit when not found;
        fetched := fetched || event.ev_data;
    end loop;
    return fetched;
end
$$;
-- How many queues, consumers, registrations, ticks and event tables there are.
create function st.counts() returns text language sql as
$$
    select concat_ws(' ', (select count(*) from tasker.queue), (select count(*) from tasker.consumer),
        (select count(*) from tasker.registration), (select count(*) from tasker.tick),
        (select count(*) from pg_class where relnamespace = 'tasker'::regnamespace and relname ~ '^event_\d'))
$$;

-- Creating and dropping.
select st.counts() as counts \gset
select tasker.create_queue('s'), tasker.create_queue('s');
select tasker.drop_queue('s');
select st.try($$select tasker.drop_queue('s')$$);
select tasker.create_queue('a "b" ''c'' \d ä'), tasker.create_queue('a "b" ''c'' \d ä'), tasker.create_queue(repeat('n', 128));
select tasker.insert_event('a "b" ''c'' \d ä', 't', 'd'), tasker.send(repeat('n', 128), 'd');
select queue_name, last_tick_id > 0 from tasker.get_queue_info('a "b" ''c'' \d ä');
select tasker.register_consumer('a "b" ''c'' \d ä', '"it''s"'), tasker.register_consumer(repeat('n', 128), repeat('m', 128));
select queue_name, consumer_name from tasker.get_consumer_info() where queue_name ~ '^(a|n+$)' order by 1;
select st.try($$select tasker.drop_queue('a "b" ''c'' \d ä')$$);
select st.try($$select tasker.drop_queue('a "b" ''c'' \d ä', false)$$);
select tasker.drop_queue('a "b" ''c'' \d ä', true), tasker.unregister_consumer(repeat('n', 128), repeat('m', 128)), tasker.drop_queue(repeat('n', 128));
-- Nothing of them is left.
select st.counts() = :'counts';
-- Undone with its transaction; the name is free, and its tables are gone.
begin;
select tasker.create_queue('s'), tasker.insert_event('s', 't', 'd');
rollback;
select st.try($$select tasker.insert_event('s', 't', 'd')$$);
begin;
select tasker.create_queue('s');
savepoint a;
select tasker.drop_queue('s');
select st.try($$select tasker.insert_event('s', 't', 'd')$$);
rollback to a;
select tasker.insert_event('s', 't', 'd');
select tasker.drop_queue('s');
commit;

-- Events in all forms: ids ascend, nulls are kept, what is empty stays empty.
select st.queue('s'), tasker.register_consumer('s', 'c');
select tasker.insert_event('s', 't', 'plain'), tasker.insert_event('s', 't', 'extra', '1', null, '3', ''),
    tasker.insert_event('s', null, null), tasker.insert_event('s', '', ''), tasker.send('s', 'sent'), tasker.send('s', 'typed', 'sent'),
    tasker.send('s', '{"a":  1}'::jsonb), tasker.send('s', 'typed', '[1, null]'::jsonb), tasker.send('s', null::text), tasker.send('s', 'typed', null::jsonb);
select tasker.send_batch('s', array['x', null, 'z']), tasker.send_batch('s', 'many', array['x', '']), tasker.send_batch('s', '{}'::text[]),
    tasker.send_batch('s', array['{"b": 2}', 'null', null]::jsonb[]), tasker.send_batch('s', null, array['[]']::jsonb[]);
select tasker.insert_event_raw('s', null, null, null, null, 'raw', 'new id', null, null, null, null),
    tasker.insert_event_raw('s', 7, '2020-01-01 00:00Z', null, 3, 'raw', 'again', null, null, null, null),
    tasker.insert_event_raw('s', 8, null, 12345678, 1, 'raw', 'of another consumer', null, null, null, null);
select st.tick('s');
select ev_id, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4, case when ev_time = '2020-01-01 00:00Z' then 'old' else 'now' end
from tasker.get_batch_events(tasker.next_batch('s', 'c')) order by ev_id, ev_retry nulls first;
select tasker.finish_batch(tasker.next_batch('s', 'c'));
-- Rolled back events are in no batch; those of a savepoint that was kept are.
begin;
select count(tasker.send('s', 'kept'));
savepoint a;
select count(tasker.send('s', 'undone'));
rollback to a;
savepoint b;
select count(tasker.send('s', 'kept too'));
release b;
commit;
begin;
select count(tasker.send('s', 'undone as well'));
rollback;
select st.tick('s'), st.read('s');
-- A value that is too large for a row of a table.
select count(tasker.send('s', repeat('0123456789', 100000)));
select st.tick('s');
select length(ev_data), md5(ev_data) = md5(repeat('0123456789', 100000)) from tasker.get_batch_events(tasker.next_batch('s', 'c'));
select tasker.finish_batch(tasker.next_batch('s', 'c'));
-- An array that is longer than what goes to the table at once.
select array_length(tasker.send_batch('s', array(select g::text from generate_series(1, 1234) g)), 1);
select st.tick('s');
select count(*), count(distinct ev_id), sum(ev_data::int), bool_and(ev_data::int = row_number) from
    (select *, row_number() over () from tasker.get_batch_events(tasker.next_batch('s', 'c'))) e;
select tasker.finish_batch(tasker.next_batch('s', 'c'));

-- The current event table, for COPY.
begin;
select tasker.current_event_table('s') ~ '^tasker\.event_\d+_0$';
select tasker.current_event_table('s') as event_table \gset
insert into :event_table (ev_time, ev_type, ev_data) values (now(), 'copied', '1');
commit;
select st.tick('s'), st.read('s');

-- Limits and switches.
select tasker.set_queue_config('s', 'per_tx_limit', '3');
begin;
select count(tasker.send_batch('s', array['1', '2'])), count(tasker.send('s', '3'));
select st.try($$select tasker.send('s', '4')$$);
rollback;
select st.try($$select tasker.send_batch('s', array['1', '2', '3', '4'])$$);
select count(tasker.send_batch('s', array['1', '2', '3']));
select tasker.set_queue_config('s', 'per_tx_limit', '0');
select st.try($$select tasker.send('s', '1')$$);
select tasker.set_queue_config('s', 'per_tx_limit', null);
select st.tick('s'), st.read('s');
select tasker.set_queue_config('s', 'disable_insert', 'on');
select st.try($$select tasker.send('s', '1')$$);
select st.try($$select tasker.current_event_table('s')$$);
set session_replication_role = replica;
select count(tasker.send('s', 'from a replica'));
reset session_replication_role;
select tasker.set_queue_config('s', 'disable_insert', null);
select st.tick('s'), st.read('s');
-- A paused queue takes events and hands out no batch; one that is open stays.
select count(tasker.send('s', 'before'));
select st.tick('s');
select tasker.next_batch('s', 'c') as open_batch \gset
select tasker.set_queue_config('s', 'paused', 'true'), count(tasker.send('s', 'meanwhile'));
select st.tick('s');
select tasker.next_batch('s', 'c') = :open_batch, st.read('s'), st.read('s');
select tasker.set_queue_config('s', 'paused', 'false'), st.read('s');
-- Events that are too old.
select tasker.set_queue_config('s', 'ttl', '1 hour');
select count(tasker.insert_event_raw('s', null, now() - interval '2 hours', null, null, 't', 'old', null, null, null, null)), count(tasker.send('s', 'young'));
select st.tick('s'), st.read('s');
select tasker.set_queue_config('s', 'ttl', null);

-- Tickers: none but the external one ticks here, and not when it is paused; ids must ascend.
select st.try($$select tasker.ticker('s')$$);
select st.try($$select tasker.ticker('s', 1, now(), 1)$$);
select tasker.force_tick('s') = last_tick_id from tasker.get_queue_info('s');
select tasker.set_queue_config('s', 'ticker_paused', '1');
select st.try($$select tasker.ticker('s', 1000, now(), 10000)$$);
select tasker.set_queue_config('s', 'ticker_paused', '0');
select tasker.ticker('s', 1000, '2020-01-01 00:00Z', 100000);
select last_tick_id, ev_new, queue_external_ticker from tasker.get_queue_info('s');
select tasker.insert_event('s', 't', 'its id follows the tick''s');
select tasker.create_queue('own'), tasker.set_queue_config('own', 'ticker_paused', 'yes');
select st.try($$select tasker.ticker('own')$$);
select st.try($$select tasker.ticker('own', 2, now(), 1)$$);
select tasker.force_tick('own'), tasker.drop_queue('own');

-- Consumers: from the last tick on, or from another one.
select tasker.register_consumer('s', 'c'), tasker.subscribe('s', 'd'), tasker.subscribe('s', 'd');
select st.tick('s'), st.read('s', 'd'), st.read('s', 'd');
select tasker.register_consumer_at('s', 'd', 1000), st.read('s', 'd'), st.read('s', 'd');
select tasker.next_batch('s', 'c') is not null, tasker.register_consumer_at('s', 'c', 1000);
select current_batch, last_tick from tasker.get_consumer_info('s', 'c');
select st.try($$select tasker.register_consumer_at('s', 'd', 4711)$$);
select st.try($$select tasker.register_consumer_at('s', 'new', 4711)$$);
select tasker.register_consumer_at('s', 'e', null), tasker.register_consumer_at('s', 'e', null), tasker.register_consumer_at('s', 'e', 1000);
select tasker.unregister_consumer('s', 'e'), tasker.unsubscribe('s', 'd'), tasker.unsubscribe('s', 'd'), tasker.unregister_consumer('none', 'd');
select consumer_name from tasker.get_consumer_info('s');
select count(*) from tasker.consumer where co_name in ('d', 'e', 'new');
select st.try($$select tasker.next_batch('s', 'd')$$);
select st.read('s');

-- Batches: ticks and ids; the same batch until it is finished; finished once.
select count(tasker.send('s', 'x'));
select st.tick('s', 10);
select tasker.next_batch('s', 'c') as batch \gset
select i.batch_id = :batch, i.cur_tick_id, i.prev_tick_id, i.cur_tick_time - i.prev_tick_time, i.cur_tick_event_seq - i.prev_tick_event_seq
from tasker.next_batch_info('s', 'c') i;
select queue_name, consumer_name, batch_end - batch_start, tick_id - prev_tick_id, lag = now() - batch_end, seq_end - seq_start from tasker.get_batch_info(:batch);
select queue_name, consumer_name, last_tick, current_batch = :batch, next_tick, pending_events from tasker.get_consumer_info('s', 'c');
select tasker.finish_batch(:batch), tasker.finish_batch(:batch);
select tasker.next_batch('s', 'c'), i.* from tasker.next_batch_info('s', 'c') i;
select * from tasker.get_batch_info(:batch);
select st.try(format('select * from tasker.get_batch_events(%s)', :batch));
select tasker.ack(:batch);
-- Ten ticks, a second and an event apart; then batches of a size that the consumer asks for.
do $$ begin for i in 1..10 loop perform tasker.send('s', i::text); commit; perform st.tick('s', 1); commit; end loop; end $$;
begin;
select cur_tick_id - prev_tick_id from tasker.next_batch_custom('s', 'c', null, null, null);
rollback;
begin;
select cur_tick_id - prev_tick_id from tasker.next_batch_custom('s', 'c', null, 4, null);
rollback;
begin;
select cur_tick_id - prev_tick_id from tasker.next_batch_custom('s', 'c', null, 6, null);
rollback;
begin;
select cur_tick_id - prev_tick_id from tasker.next_batch_custom('s', 'c', null, 11, null);
select cur_tick_id - prev_tick_id from tasker.next_batch_custom('s', 'c', null, null, '3 seconds');
rollback;
begin;
select cur_tick_id - prev_tick_id from tasker.next_batch_custom('s', 'c', null, 8, '2 seconds');
select cur_tick_id - prev_tick_id from tasker.next_batch_custom('s', 'c', null, 1, null);
rollback;
select batch_id from tasker.next_batch_custom('s', 'c', '1000 years', null, null);
select batch_id is not null from tasker.next_batch_custom('s', 'c', '1 hour', 10, null);
select st.read('s');

-- Settings: shown by get_queue_info(), with and without their prefix; null restores the default.
select tasker.set_queue_config('s', 'ticker_max_count', '7'), tasker.set_queue_config('s', 'queue_ticker_max_lag', '1 day 1 second'),
    tasker.set_queue_config('s', 'ticker_idle_period', '90 s'), tasker.set_queue_config('s', 'rotation_period', '1 mon'),
    tasker.set_queue_config('s', 'queue_metadata_rotation_period', '00:00:30'), tasker.set_queue_config('s', 'min_tick_interval', '0'),
    tasker.set_queue_config('s', 'max_retries', '0'), tasker.set_queue_config('s', 'ttl', '30 days');
select queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period, queue_rotation_period, metadata_rotation_period, ttl from tasker.get_queue_info('s');
select queue_min_tick_interval, queue_max_retries from tasker.queue where queue_name = 's';
select sum(tasker.set_queue_config('s', name, null)) from unnest('{ticker_max_count, ticker_max_lag, ticker_idle_period, rotation_period, metadata_rotation_period, min_tick_interval, max_retries, ttl}'::text[]) name;
select queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period, queue_rotation_period, metadata_rotation_period, ttl from tasker.get_queue_info('s');
select queue_min_tick_interval, queue_max_retries from tasker.queue where queue_name = 's';
begin;
select tasker.set_queue_config('s', 'disable_insert', 'true');
select st.try($$select tasker.send('s', '1')$$);
rollback;
begin;
select count(tasker.send('s', '1'));
rollback;

-- Cursors.
select count(tasker.send_batch('s', array(select g::text from generate_series(1, 7) g)));
select st.tick('s');
select tasker.next_batch('s', 'c') as batch \gset
begin;
select ev_data from tasker.get_batch_cursor(:batch, 'first', 2);
select ev_data from tasker.get_batch_cursor(:batch, 'odd "one"', 1, 'ev_data::int % 2 = 1');
select ev_data from tasker.get_batch_cursor(:batch, 'later', 0);
select ev_data from tasker.get_batch_cursor(:batch, 'all', 1000, null);
select tasker.finish_batch(:batch);
select st.fetch('first', 3), st.fetch('first');
select st.fetch('odd "one"');
select st.fetch('later'), st.fetch('all');
close first;
select st.try(format('select * from tasker.get_batch_cursor(%s, ''later'', 1)', :batch));
rollback;
select * from tasker.get_batch_cursor(null, 'x', 1);
select * from tasker.get_batch_cursor(:batch, null, 1);
select * from tasker.get_batch_cursor(:batch, 'x', null);
select st.try(format('select * from tasker.get_batch_cursor(%s, '''', 1)', :batch));
select st.try(format('select * from tasker.get_batch_cursor(%s, ''x'', 1, ''nonsense'')', :batch));
select st.try(format('select * from tasker.get_batch_cursor(%s, ''x'', 1, ''true); drop table tasker.queue; select (true'')', :batch));
select st.try(format('select * from tasker.get_batch_cursor(%s, ''x'', 9, ''true) union all (select 1.5, now(), 1, 1, null, null, null, null, null, null'')', :batch));
select st.try($$select * from tasker.get_batch_cursor(4711, 'x', 1)$$);
select st.try($$select * from tasker.get_batch_cursor(4711, 'x', 0)$$);
-- The condition is the caller's, with the caller's rights and the caller's names.
create role st_consumer;
grant tasker_worker to st_consumer;
grant usage on schema st to st_consumer;
create table st.secret (word text);
insert into st.secret values ('hidden');
set role st_consumer;
select ev_data from tasker.get_batch_cursor(:batch, 'mine', 9, 'ev_data = ''3''');
select * from tasker.get_batch_cursor(:batch, 'theirs', 9, 'ev_data = (select word from st.secret)');
select * from tasker.get_batch_cursor(:batch, 'theirs', 9, 'exists (select from tasker.retry_queue)');
select count(*) from tasker.get_batch_cursor(:batch, 'who', 9, 'current_user = ''st_consumer''');
reset role;
drop table st.secret;
revoke usage on schema st from st_consumer;
drop role st_consumer;
select tasker.finish_batch(:batch);

-- Bad input. Each fails with its SQLSTATE and names what is wrong; the numbers and nulls that PgQ takes are taken.
create table st.bad (number int generated always as identity, statement text);
insert into st.bad (statement) select 'select tasker.' || unnest(array[
$$create_queue(null)$$,
$$create_queue('')$$,
$$create_queue(repeat('x', 129))$$,
$$create_queue(E'a\nb')$$,
$$drop_queue(null)$$,
$$drop_queue('')$$,
$$drop_queue('s', null)$$,
$$drop_queue('none', true)$$,
$$insert_event(null, 't', 'd')$$,
$$insert_event('', 't', 'd')$$,
$$insert_event('none', 't', 'd')$$,
$$insert_event(repeat('x', 129), 't', 'd')$$,
$$insert_event(repeat('x', 1000000), 't', 'd')$$,
$$insert_event('none', 't', 'd', null, null, null, null)$$,
$$insert_event_raw(null, null, null, null, null, null, null, null, null, null, null)$$,
$$insert_event_raw('none', 1, null, null, null, null, null, null, null, null, null)$$,
$$current_event_table(null)$$,
$$current_event_table('none')$$,
$$send(null, 'd')$$,
$$send('none', '{}'::jsonb)$$,
$$send('none', 't', 'd')$$,
$$send_batch(null, array['d'])$$,
$$send_batch('none', array['d'])$$,
$$send_batch('s', null::text[])$$,
$$send_batch('s', 't', null::jsonb[])$$,
$$send_batch('s', array[array['a', 'b'], array['c', 'd']])$$,
$$send_batch('s', 't', array[array['1', '2']]::jsonb[])$$,
$$set_queue_config(null, 'ttl', '1 h')$$,
$$set_queue_config('none', 'ttl', '1 h')$$,
$$set_queue_config('s', null, '1 h')$$,
$$set_queue_config('s', '', '1 h')$$,
$$set_queue_config('s', 'queue_', '1 h')$$,
$$set_queue_config('s', 'cur_table', '1')$$,
$$set_queue_config('s', 'queue_queue_ttl', '1 h')$$,
$$set_queue_config('s', 'TTL', '1 h')$$,
$$set_queue_config('s', 'ttl = null where true --', '1')$$,
$$set_queue_config('s', 'ttl', '')$$,
$$set_queue_config('s', 'ttl', '0')$$,
$$set_queue_config('s', 'ttl', '-1 hour')$$,
$$set_queue_config('s', 'ttl', '1 fortnight')$$,
$$set_queue_config('s', 'ttl', '999999999999999999 years')$$,
$$set_queue_config('s', 'ticker_max_count', '0')$$,
$$set_queue_config('s', 'ticker_max_count', '-1')$$,
$$set_queue_config('s', 'ticker_max_count', '2147483648')$$,
$$set_queue_config('s', 'ticker_max_count', '1.5')$$,
$$set_queue_config('s', 'ticker_max_count', 'many')$$,
$$set_queue_config('s', 'ticker_max_lag', '-1 s')$$,
$$set_queue_config('s', 'ticker_idle_period', '-1 s')$$,
$$set_queue_config('s', 'ticker_paused', 'perhaps')$$,
$$set_queue_config('s', 'external_ticker', '2')$$,
$$set_queue_config('s', 'rotation_period', '-1 s')$$,
$$set_queue_config('s', 'metadata_rotation_period', '0')$$,
$$set_queue_config('s', 'min_tick_interval', '-1 ms')$$,
$$set_queue_config('s', 'disable_insert', '')$$,
$$set_queue_config('s', 'paused', 'x'';drop table tasker.queue')$$,
$$set_queue_config('s', 'per_tx_limit', '-1')$$,
$$set_queue_config('s', 'max_retries', '-1')$$,
$$register_consumer(null, 'c')$$,
$$register_consumer('none', 'c')$$,
$$register_consumer('s', null)$$,
$$register_consumer('s', '')$$,
$$register_consumer('s', repeat('x', 129))$$,
$$register_consumer('s', E'a\tb')$$,
$$register_consumer_at('none', 'c', 1)$$,
$$register_consumer_at('s', null, 1)$$,
$$register_consumer_at('s', 'c', -1)$$,
$$register_consumer_at('s', 'c', 9223372036854775807)$$,
$$register_consumer_at('s', 'c', 0)$$,
$$unregister_consumer(null, 'c')$$,
$$unregister_consumer('s', null)$$,
$$unregister_consumer('', '')$$,
$$unregister_consumer('s', repeat('x', 1000))$$,
$$next_batch(null, 'c')$$,
$$next_batch('s', null)$$,
$$next_batch('none', 'c')$$,
$$next_batch('s', 'none')$$,
$$next_batch('', '')$$,
$$next_batch_info('s', 'none')$$,
$$next_batch_custom('s', 'c', '-1 s', null, null)$$,
$$next_batch_custom('s', 'c', null, null, '-1 s')$$,
$$next_batch_custom('s', 'none', null, 1, null)$$,
$$get_batch_events(null)$$,
$$get_batch_events(0)$$,
$$get_batch_events(-1)$$,
$$get_batch_events(9223372036854775807)$$,
$$get_batch_info(null)$$,
$$get_batch_info(-1)$$,
$$finish_batch(null)$$,
$$finish_batch(-9223372036854775808)$$,
$$finish_batch(4711)$$,
$$ack(null)$$,
$$ticker(null)$$,
$$ticker('none')$$,
$$ticker('none', 1, now(), 1)$$,
$$ticker(null, 1, now(), 1)$$,
$$ticker('s', null, now(), 1)$$,
$$ticker('s', 1, null, 1)$$,
$$ticker('s', 1000000, now(), null)$$,
$$ticker('s', -1, now(), 1)$$,
$$force_tick(null)$$,
$$force_tick('none')$$,
$$force_next_tick(null)$$,
$$get_queue_info(null) limit 0$$,
$$get_queue_info('none')$$,
$$get_consumer_info('none')$$,
$$get_consumer_info('s', 'none')$$,
$$get_batch_cursor(-1, 'x', 1)$$]);
create temp table before as select (select count(*) from tasker.queue) as queues, (select count(*) from tasker.consumer) as consumers,
    (select count(*) from tasker.registration) as registrations, (select array_agg(q order by queue_id) from tasker.queue q) as settings;
select number || ': ' || regexp_replace(replace(statement, 'select tasker.', ''), 'x{100,}', 'x…') || ' => ' || regexp_replace(st.try(statement), 'x{100,}', 'x…', 'g')
from st.bad order by number;
select b.queues = (select count(*) from tasker.queue) as queues, b.consumers = (select count(*) from tasker.consumer) as consumers,
    b.registrations = (select count(*) from tasker.registration) as registrations,
    b.settings = (select array_agg(q order by queue_id) from tasker.queue q) as settings
from before b;
select st.tick('s'), st.read('s');

drop table before;
select tasker.drop_queue('s', true);
drop schema st cascade;
