-- The ticker that follows commits, and waiting for a batch.

create table tasker.ticker_config (
    config_id      boolean primary key default true check (config_id),
    tick_period_ms integer not null check (tick_period_ms between 1 and 3600000)
);
select pg_catalog.pg_extension_config_dump('tasker.ticker_config', '');
comment on table tasker.ticker_config is 'What set_tick_period_ms() was told: one row, or none';
comment on column tasker.ticker_config.config_id is 'There is one row at most';
comment on column tasker.ticker_config.tick_period_ms is 'Shortest time between two ticks of a queue, in milliseconds, for all queues of this database';
create trigger ticker_config_changed after insert or update or delete or truncate on tasker.ticker_config
    for each statement execute function tasker._queue_changed();
alter table tasker.ticker_config enable always trigger ticker_config_changed;

create procedure tasker.wait_for_batch(queue text, consumer text, timeout interval, inout batch_id bigint default null)
    language c as 'MODULE_PATHNAME', 'tasker_wait_for_batch';
comment on procedure tasker.wait_for_batch(text, text, interval, bigint) is
'Waits until the consumer has a batch, opens it as next_batch() does, commits, and returns its id; null after the timeout. A batch that is open already is returned at once. It commits first, and holds no transaction and no snapshot while it waits. Errors: 42704 the consumer is not registered, or no longer; 22023 a null or a negative timeout; 25001 inside a transaction block or a function.';

create function tasker.set_tick_period_ms(ms integer) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_set_tick_period_ms';
comment on function tasker.set_tick_period_ms(integer) is
'Sets the shortest time between two ticks of a queue for this database, and returns it; null takes it back. A queue''s own min_tick_interval and the server''s tasker.min_tick_interval hold too: the longest of them counts. Kept in tasker.ticker_config. Errors: 22023 not between 1 and 3600000.';

create function tasker._ticker_status()
    returns table (pid int, state text, started_at timestamptz, rounds bigint, ticks bigint, last_tick_at timestamptz,
        failures bigint, restarts bigint, last_error text, last_error_at timestamptz)
    language c volatile rows 1 as 'MODULE_PATHNAME', 'tasker_ticker_status';
comment on function tasker._ticker_status() is 'The row of view ticker_status.';
create view tasker.ticker_status as select * from tasker._ticker_status();
comment on view tasker.ticker_status is
'The process that makes the ticks of this database: one row. Without one, ticks are made by ticker() alone.';
comment on column tasker.ticker_status.pid is 'The process, if there is one';
comment on column tasker.ticker_status.state is 'running, connecting, starting, waiting, kept away, stopping, or none; see worker_status';
comment on column tasker.ticker_status.started_at is 'When it began its work';
comment on column tasker.ticker_status.rounds is 'Transactions with ticks since the server started; ticks of several queues share one';
comment on column tasker.ticker_status.ticks is 'Ticks that it has made since the server started';
comment on column tasker.ticker_status.last_tick_at is 'When it made the last one';
comment on column tasker.ticker_status.failures is 'Rounds that failed';
comment on column tasker.ticker_status.restarts is 'Starts after a failure of the process';
comment on column tasker.ticker_status.last_error is 'Message of the last failure; the server''s log has detail and hint';
comment on column tasker.ticker_status.last_error_at is 'When that was';

create function tasker._queue_ticks()
    returns table (queue_id int, dirty boolean, wanted boolean, waiting int, ticks bigint, last_tick_at timestamptz,
        failures_in_a_row bigint)
    language c volatile rows 100 as 'MODULE_PATHNAME', 'tasker_queue_ticks';
comment on function tasker._queue_ticks() is 'What shared memory knows of the queues of this database, for view queue_ticks.';
create view tasker.queue_ticks as
select q.queue_name, t.dirty, t.wanted, t.waiting, t.ticks, t.last_tick_at, t.failures_in_a_row
from tasker._queue_ticks() t
join tasker.queue q on q.queue_id = t.queue_id;
comment on view tasker.queue_ticks is
'What the ticker knows of each queue that has had events since the server started, or has somebody waiting.';
comment on column tasker.queue_ticks.queue_name is 'The queue';
comment on column tasker.queue_ticks.dirty is 'Events have been committed, and the tick for them is to come';
comment on column tasker.queue_ticks.wanted is 'A consumer has found no batch since the last tick: the next comes as soon as it may';
comment on column tasker.queue_ticks.waiting is 'Consumers in wait_for_batch()';
comment on column tasker.queue_ticks.ticks is 'Ticks that the ticker has made since the server started';
comment on column tasker.queue_ticks.last_tick_at is 'When it made the last one';
comment on column tasker.queue_ticks.failures_in_a_row is 'Attempts that have failed since the last that did not; the next is delayed by 1 second, doubled with each, at most 5 minutes';

grant execute on procedure tasker.wait_for_batch(text, text, interval, bigint) to tasker_worker, tasker_admin;
grant execute on function tasker.set_tick_period_ms(integer) to tasker_admin;
grant execute on function tasker._ticker_status(), tasker._queue_ticks() to tasker_observer, tasker_admin;
grant select on tasker.ticker_config, tasker.ticker_status, tasker.queue_ticks to tasker_observer, tasker_admin;
