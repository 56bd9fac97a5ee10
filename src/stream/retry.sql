-- Events that come again or later, dead letters, and the short forms for receiving.

create function tasker._retry_queue_written() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_retry_queue_written';
comment on function tasker._retry_queue_written() is
'Sets ev_txid of a row of tasker.retry_queue to the transaction that writes it. Internal.';
create trigger retry_queue_written before insert or update on tasker.retry_queue
    for each row execute function tasker._retry_queue_written();
alter table tasker.retry_queue enable always trigger retry_queue_written;

create function tasker.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_time timestamptz) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_retry_at';
comment on function tasker.event_retry(bigint, bigint, timestamptz) is
'Has an event of an open batch come again to its consumer, at that time or after. Result: 1, or 0 when it is waiting for that already. Errors: 42704 the batch is not open, or the event is not in it.';
create function tasker.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_seconds integer) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_retry';
comment on function tasker.event_retry(bigint, bigint, integer) is
'The same, so many seconds from now.';
create function tasker.event_retry_raw(x_queue text, x_consumer text, x_retry_after timestamptz, x_ev_id bigint,
        x_ev_time timestamptz, x_ev_retry integer, x_ev_type text, x_ev_data text, x_ev_extra1 text,
        x_ev_extra2 text, x_ev_extra3 text, x_ev_extra4 text)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_event_retry_raw';
comment on function tasker.event_retry_raw(text, text, timestamptz, bigint, timestamptz, integer, text, text, text, text, text, text) is
'Has an event with all its columns come to one consumer at a time; x_ev_id null: the next one, x_ev_time null: now. Returns its id. Errors: 42704 unknown queue, or the consumer is not registered; 23505 an event with that id waits already.';
create function tasker.batch_retry(i_batch_id bigint, i_retry_seconds integer) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_batch_retry';
comment on function tasker.batch_retry(bigint, integer) is
'Has all events of an open batch come again to its consumer, so many seconds from now; returns how many, without those that wait for that already. Errors: 42704 the batch is not open.';
create function tasker.maint_retry_events() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_retry_events';
comment on function tasker.maint_retry_events() is
'Moves events of tasker.retry_queue whose time has come into their queues, at most 5,000 or about 32 MB of them; those whose queue or consumer has gone are removed. Returns how many left; to be called until it returns 0. The worker does it by itself.';

create function tasker.send_at(queue_name text, payload text, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_text';
comment on function tasker.send_at(text, text, timestamptz) is
'Inserts an event of type ''default'' that is published to all consumers at a time, with that time as its ev_time; at once when that has passed. Returns its id. Errors: as insert_event(); 22023 the time is null or infinity.';
create function tasker.send_at(queue_name text, type_name text, payload text, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_text';
comment on function tasker.send_at(text, text, text, timestamptz) is 'The same, with a type.';
create function tasker.send_at(queue_name text, payload jsonb, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_jsonb';
comment on function tasker.send_at(text, jsonb, timestamptz) is
'The same as send_at(queue_name, payload, at) with the text of a JSON value.';
create function tasker.send_at(queue_name text, type_name text, payload jsonb, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_jsonb';
comment on function tasker.send_at(text, text, jsonb, timestamptz) is
'The same as send_at(queue_name, type_name, payload, at) with the text of a JSON value.';

grant execute on function tasker.event_retry(bigint, bigint, timestamptz), tasker.event_retry(bigint, bigint, integer),
    tasker.batch_retry(bigint, integer)
    to tasker_worker, tasker_admin;
grant execute on function tasker.send_at(text, text, timestamptz), tasker.send_at(text, text, text, timestamptz),
    tasker.send_at(text, jsonb, timestamptz), tasker.send_at(text, text, jsonb, timestamptz)
    to tasker_producer, tasker_admin;
grant execute on function tasker.maint_retry_events(),
    tasker.event_retry_raw(text, text, timestamptz, bigint, timestamptz, integer, text, text, text, text, text, text)
    to tasker_admin;
grant select on tasker.retry_queue to tasker_observer, tasker_admin;
