-- Cooperative consumers: members that share a position, batches that are taken over, names and rights of members.
-- The queues have external tickers, so that ticks come when the test wants them.
\set VERBOSITY terse
\pset null '(null)'
\pset format unaligned
\pset tuples_only on
set client_min_messages = error; -- finish_batch() warns, with a number that differs
set intervalstyle = postgres;
create extension if not exists tasker;
create schema sc;

create function sc.tick(name text) returns void language sql as
$$ select tasker.ticker(name, i.last_tick_id + 1, clock_timestamp(), 0) from tasker.get_queue_info(name) i $$;
create function sc.queue(name text) returns void language sql as
$$ select tasker.create_queue(name), tasker.set_queue_config(name, 'external_ticker', 'true') $$;
create function sc.send(name text, variadic data text[]) returns void language plpgsql as
$$ begin perform tasker.send(name, d) from unnest(data) d; end $$;
create function sc.try(statement text) returns text language plpgsql as
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
create function sc.batch(name text, consumer text) returns bigint language sql as
$$
    select s.sub_batch from tasker.subscription s join tasker.consumer c on c.co_id = s.sub_consumer
    join tasker.queue q on q.queue_id = s.sub_queue where q.queue_name = name and c.co_name = consumer
$$;
create function sc.receive(name text, member text, dead interval = null, most int = 100) returns text language sql as
$$
    select coalesce(string_agg(concat_ws(':', m.payload, m.retry_count), ' '), 'nothing')
    from tasker.receive_coop(name, 'c', member, most, dead) m
$$;
create function sc.ack(name text, member text) returns int language sql as
$$ select tasker.ack(sc.batch(name, 'c.' || member)) $$;
create function sc.state(name text) returns setof text language sql as
$$
    select concat_ws(' ', c.co_name, s.sub_last_tick, s.sub_next_tick, case when s.sub_batch is not null then 'open' end)
    from tasker.subscription s join tasker.consumer c on c.co_id = s.sub_consumer join tasker.queue q on q.queue_id = s.sub_queue
    where q.queue_name = name order by c.co_name
$$;
-- A member that has not been heard of for an hour.
create function sc.silence(name text, consumer text) returns void language sql as
$$
    update tasker.subscription set sub_active = now() - interval '1 hour' where sub_batch = sc.batch(name, consumer)
$$;

-- Members and their consumer.
select sc.queue('m');
select tasker.register_subconsumer('m', 'c', '1'), tasker.register_subconsumer('m', 'c', '1'), tasker.subscribe_subconsumer('m', 'c', '2');
select sc.state('m');
select (tasker.next_batch('m', 'c', '1')) is null;
-- Each batch goes to one of them; the consumer's position goes on with it.
select sc.send('m', 'a1', 'a2', 'a3'), sc.tick('m');
select sc.tick('m');
select sc.send('m', 'b1');
select sc.tick('m');
select sc.send('m', 'd1');
select sc.tick('m');
select sc.receive('m', '1', most => 2), sc.receive('m', '2'), sc.receive('m', '2'), sc.receive('m', '1');
select sc.state('m');
select sc.ack('m', '2'), sc.receive('m', '2'), sc.ack('m', '2'), sc.receive('m', '2');
select sc.state('m');
select tasker.finish_batch(sc.batch('m', 'c.1')), sc.receive('m', '1');
select sc.state('m');
-- In parts.
select sc.send('m', 'e1', 'e2', 'e3');
select sc.tick('m');
select sc.receive('m', '1', most => 2), sc.ack('m', '1'), sc.receive('m', '1', most => 2), sc.ack('m', '1'), sc.receive('m', '1');
-- Limits of a batch, and its ticks.
select sc.send('m', 'f1');
select sc.tick('m');
select sc.send('m', 'f2');
select sc.tick('m');
select batch_id is null from tasker.next_batch_custom('m', 'c', '1', '1 hour', null, null);
select batch_id = sc.batch('m', 'c.1'), cur_tick_id - prev_tick_id, cur_tick_time > prev_tick_time
from tasker.next_batch_custom('m', 'c', '1', null, null, '1 microsecond', '1 hour');
select string_agg(ev_data, ' ') from tasker.get_batch_events(sc.batch('m', 'c.1'));

-- Taken over: only when it is silent, under a new id; the old one means nothing any more.
select sc.receive('m', '2', '1 hour');
select sc.ack('m', '2');
select sc.silence('m', 'c.1');
select tasker.touch_subconsumer('m', 'c', '1');
select sc.receive('m', '2', '30 minutes');
select sc.silence('m', 'c.1');
select sc.receive('m', '2'), sc.receive('m', '2', '2 hours');
select sc.batch('m', 'c.1') as old \gset
select sc.receive('m', '2', '30 minutes');
select sc.state('m');
select sc.batch('m', 'c.2') <> :old;
select tasker.finish_batch(:old), tasker.ack(:old), sc.try('select tasker.get_batch_events(' || :old || ')'),
    sc.try('select tasker.nack(' || :old || ', 1)'), sc.try('select tasker.batch_retry(' || :old || ', 1)');
select sc.receive('m', '1'), sc.batch('m', 'c.1');
select sc.ack('m', '2');
select sc.state('m');
-- What the old one had confirmed stays confirmed; what it was handed out comes again. A third gets the one longest silent.
select tasker.register_subconsumer('m', 'c', '3');
select sc.send('m', 'g1', 'g2', 'g3', 'g4');
select sc.tick('m');
select sc.send('m', 'h1');
select sc.tick('m');
select sc.receive('m', '1', most => 2), sc.ack('m', '1'), sc.receive('m', '1', most => 1), sc.receive('m', '2');
update tasker.subscription set sub_active = now() - interval '1 hour' where sub_batch = sc.batch('m', 'c.2');
update tasker.subscription set sub_active = now() - interval '2 hours' where sub_batch = sc.batch('m', 'c.1');
select sc.receive('m', '3', '30 minutes');
select sc.ack('m', '3'), sc.receive('m', '3', '30 minutes'), sc.ack('m', '3'), sc.receive('m', '3', '30 minutes');
-- A paused queue hands out nothing new.
select sc.send('m', 'i1');
select sc.tick('m');
select tasker.set_queue_config('m', 'paused', 'true');
select sc.receive('m', '1');
select tasker.set_queue_config('m', 'paused', 'false');
select sc.receive('m', '1');

-- Retries and dead letters are the consumer's: any member gets them.
select tasker.set_queue_config('m', 'max_retries', '1');
begin;
select tasker.nack(sc.batch('m', 'c.1'), msg_id, '0') from tasker.receive_coop('m', 'c', '1');
select tasker.maint_retry_events();
commit;
select sc.ack('m', '1');
select sc.tick('m');
select sc.receive('m', '2');
select tasker.nack(sc.batch('m', 'c.2'), msg_id, '0', 'enough') from tasker.receive_coop('m', 'c', '2');
select dl_consumer, dl_reason, ev_data, ev_retry from tasker.dlq_inspect('m');
select sc.ack('m', '2');
select tasker.dlq_replay_all('m');
select sc.tick('m');
select sc.receive('m', '3'), sc.ack('m', '3');

-- Members go alone: not with an open batch, but its events can be given back.
select sc.send('m', 'j1', 'j2', 'j3');
select sc.tick('m');
select sc.receive('m', '1', most => 1), sc.ack('m', '1'), sc.receive('m', '1', most => 1);
select sc.try($$select tasker.unregister_subconsumer('m', 'c', '1')$$);
select sc.try($$select tasker.unregister_consumer('m', 'c.1')$$);
begin;
select tasker.unregister_subconsumer('m', 'c', '1', 1), tasker.unregister_subconsumer('m', 'c', '1', 1);
select ev_data, ev_retry from tasker.retry_queue where ev_queue = (select queue_id from tasker.queue where queue_name = 'm') order by ev_id;
select tasker.maint_retry_events();
commit;
select sc.tick('m');
select sc.receive('m', '2');
select tasker.unsubscribe_subconsumer('m', 'c', '2', 0 + 1), tasker.unregister_consumer('m', 'c.3'), tasker.unregister_consumer('m', 'c.3');
select dl_reason, ev_data from tasker.dlq_inspect('m') order by dl_id;
select sc.state('m');
select co_name from tasker.consumer where co_name ~ '^c\.';
-- Without members it is a normal consumer, and stands where they have come to.
select sc.send('m', 'k1');
select sc.tick('m');
select sc.try($$select tasker.register_subconsumer('m', 'c', '1')$$);
select payload from tasker.receive('m', 'c');
select sc.try($$select tasker.register_subconsumer('m', 'c', '1', true)$$);
select tasker.ack(sc.batch('m', 'c'));
select tasker.register_subconsumer('m', 'c', '1', true), tasker.register_subconsumer('m', 'c', '2');
select sc.try($$select tasker.next_batch('m', 'c')$$);
select sc.try($$select tasker.receive('m', 'c')$$);
select sc.try($$select tasker.next_batch_info('m', 'c')$$);
select sc.try($$select tasker.next_batch('m', 'c.1')$$);
select sc.try($$select tasker.register_consumer_at('m', 'c.1', 1)$$);
select tasker.register_consumer('m', 'c.1'), tasker.register_consumer('m', 'c');
-- It goes with its members, open batches and all.
select sc.send('m', 'l1');
select sc.tick('m');
select sc.receive('m', '1');
select tasker.unregister_consumer('m', 'c'), tasker.unregister_consumer('m', 'c');
select sc.state('m');

-- A member is registered when it asks for a batch.
select tasker.next_batch('m', 'cm', 's1'), tasker.next_batch('m', 'cm', 's2');
select sc.state('m');
select tasker.unregister_consumer('m', 'cm.s2'), tasker.unregister_consumer('m', 'cm');
-- Names.
select tasker.register_consumer('m', 'n'), tasker.register_consumer('m', 'n.1');
select sc.try($$select tasker.register_subconsumer('m', 'n', '2')$$);
select sc.try($$select tasker.next_batch('m', 'n', '2')$$);
select sc.try($$select tasker.register_subconsumer('m', 'n', '1', true)$$);
select sc.try($$select tasker.next_batch('m', 'n', '1')$$);
select tasker.unregister_subconsumer('m', 'n', '1'), tasker.touch_subconsumer('m', 'n', '1'), tasker.touch_subconsumer('m', 'n', 'x');
select sc.try($$select tasker.register_subconsumer('m', 'n.1', '1')$$);
select sc.try($$select tasker.register_subconsumer('m', 'n', '1.1')$$);
select sc.try($$select tasker.register_subconsumer('m', '', '1')$$);
select sc.try($$select tasker.register_subconsumer('m', 'n', '')$$);
select sc.try($$select tasker.register_subconsumer('m', repeat('n', 100), repeat('n', 28))$$);
select tasker.register_subconsumer('m', repeat('n', 100), repeat('n', 27));
select sc.try($$select tasker.register_subconsumer(null, 'n', '1')$$);
select sc.try($$select tasker.register_subconsumer('m', null, '1')$$);
select sc.try($$select tasker.register_subconsumer('m', 'n', null)$$);
select sc.try($$select tasker.register_subconsumer('m', 'n', '1', null)$$);
select sc.try($$select tasker.register_subconsumer('nowhere', 'n', '1')$$);
select sc.try($$select tasker.next_batch('nowhere', 'n', '1')$$);
select sc.try($$select tasker.next_batch('m', 'x', '1', '-1 second')$$);
select sc.try($$select tasker.receive_coop('m', 'x', '1', 0)$$);
select sc.try($$select tasker.receive_coop('m', 'x', '1', null)$$);
select sc.try($$select tasker.unregister_subconsumer('m', 'n', '1', 2)$$);
select sc.try($$select tasker.unregister_subconsumer('m', 'n', '1', null)$$);
select sc.try($$select tasker.unregister_subconsumer('nowhere', 'n', '1')$$);
select sc.try($$select tasker.touch_subconsumer('nowhere', 'n', '1')$$);
select tasker.drop_queue('m', true);
drop schema sc cascade;
