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

create sequence tasker.dead_letter_dl_id_seq;
comment on sequence tasker.dead_letter_dl_id_seq is 'Ids of dead letters in tasker.dead_letter';
create table tasker.dead_letter (
    dl_id          bigint primary key default nextval('tasker.dead_letter_dl_id_seq'),
    dl_queue_id    integer not null,
    dl_consumer_id integer not null,
    dl_time        timestamptz not null default pg_catalog.now(),
    dl_reason      text,
    ev_id          bigint not null,
    ev_time        timestamptz not null,
    ev_txid        bigint,
    ev_retry       integer,
    ev_type        text,
    ev_data        text,
    ev_extra1      text,
    ev_extra2      text,
    ev_extra3      text,
    ev_extra4      text,
    dl_consumer    text not null,
    unique (dl_queue_id, dl_consumer_id, ev_id)
);
create index dead_letter_dl_time on tasker.dead_letter (dl_queue_id, dl_time);
alter sequence tasker.dead_letter_dl_id_seq owned by tasker.dead_letter.dl_id;
select pg_catalog.pg_extension_config_dump('tasker.dead_letter', '');
select pg_catalog.pg_extension_config_dump('tasker.dead_letter_dl_id_seq', '');
comment on table tasker.dead_letter is
'Events that a consumer has given up: see nack() and dlq_inspect(). They stay when the consumer is unregistered, and go with their queue.';
comment on column tasker.dead_letter.dl_id is 'Names the letter, see dlq_replay()';
comment on column tasker.dead_letter.dl_queue_id is 'The queue''s id';
comment on column tasker.dead_letter.dl_consumer_id is 'The id that the consumer had; of a cooperative consumer''s member that of the consumer';
comment on column tasker.dead_letter.dl_time is 'When the event was given up';
comment on column tasker.dead_letter.dl_reason is 'Why';
comment on column tasker.dead_letter.ev_id is 'The event''s id';
comment on column tasker.dead_letter.ev_time is 'When the event was inserted';
comment on column tasker.dead_letter.ev_txid is 'The transaction that inserted it last';
comment on column tasker.dead_letter.ev_retry is 'How often it was retried; null: never';
comment on column tasker.dead_letter.ev_type is 'What kind of event it is';
comment on column tasker.dead_letter.ev_data is 'Its data';
comment on column tasker.dead_letter.ev_extra1 is 'More data';
comment on column tasker.dead_letter.ev_extra2 is 'More data';
comment on column tasker.dead_letter.ev_extra3 is 'More data';
comment on column tasker.dead_letter.ev_extra4 is 'More data';
comment on column tasker.dead_letter.dl_consumer is 'The consumer''s name, by which a replay finds it';

create type tasker.message as (
    msg_id      bigint,
    batch_id    bigint,
    type        text,
    payload     text,
    retry_count integer,
    created_at  timestamptz,
    extra1      text,
    extra2      text,
    extra3      text,
    extra4      text
);
comment on type tasker.message is 'An event as receive() gives it';
comment on column tasker.message.msg_id is 'The event''s id';
comment on column tasker.message.batch_id is 'The batch that it is in, for ack() and nack()';
comment on column tasker.message.type is 'What kind of event it is';
comment on column tasker.message.payload is 'Its data';
comment on column tasker.message.retry_count is 'How often it has been retried; null: never';
comment on column tasker.message.created_at is 'When the event was inserted';
comment on column tasker.message.extra1 is 'More data';
comment on column tasker.message.extra2 is 'More data';
comment on column tasker.message.extra3 is 'More data';
comment on column tasker.message.extra4 is 'More data';

create function tasker.receive(queue text, consumer text, max_return integer default 100)
    returns setof tasker.message
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_receive';
comment on function tasker.receive(text, text, integer) is
'At most max_return messages of the consumer''s open batch, or of the next one that has any, in the order of their ids; nothing when there is none. Until ack() the same messages come again. A batch that has more is handed out in parts: after an ack() the messages that follow come, of the same batch. Errors: 42704 the consumer is not registered; 22023 max_return is not positive.';
create function tasker.ack(batch_id bigint) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_ack';
comment on function tasker.ack(bigint) is
'Confirms what receive() has handed out of a batch. When that was all, or receive() was not used, the batch is closed as by finish_batch(); else the next receive() gives the rest of it. Nothing is passed over that was not handed out. Result: 1, or 0 with a warning when the batch is not open. Errors: 22023 batch_id is null.';
create function tasker.nack(batch_id bigint, msg tasker.message, retry_after interval default '60 seconds',
        reason text default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_nack';
comment on function tasker.nack(bigint, tasker.message, interval, text) is
'Has a message of an open batch come again to its consumer after a while; when it has been retried as often as the queue allows (setting max_retries, default 5), makes it a dead letter with that reason. Of msg only msg_id counts, the rest is read from the batch. The batch is to be acknowledged all the same. Once or twice is the same. Result: 1. Errors: 42704 the batch is not open, or the message is not in it; 22023 msg is null, or a negative interval.';
create function tasker.nack(batch_id bigint, msg_id bigint, retry_after interval default '60 seconds',
        reason text default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_nack_id';
comment on function tasker.nack(bigint, bigint, interval, text) is 'The same for the message with that id.';

create function tasker.event_dead(batch_id bigint, event_id bigint, reason text default null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_dead';
comment on function tasker.event_dead(bigint, bigint, text) is
'Makes an event of an open batch a dead letter of its consumer. Result: 1, or 0 when it is one. Errors: 42704 the batch is not open, or the event is not in it.';
create function tasker.event_dead(batch_id bigint, event_id bigint, reason text, ev_time timestamptz, ev_txid bigint,
        ev_retry integer, ev_type text, ev_data text, ev_extra1 text default null, ev_extra2 text default null,
        ev_extra3 text default null, ev_extra4 text default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_dead';
comment on function tasker.event_dead(bigint, bigint, text, timestamptz, bigint, integer, text, text, text, text, text, text) is
'The same as event_dead(batch_id, event_id, reason); what the event holds is read from the batch.';
create function tasker.dlq_inspect(queue text, limit_count integer default 100) returns setof tasker.dead_letter
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_dlq_inspect';
comment on function tasker.dlq_inspect(text, integer) is
'The dead letters of a queue, the newest first. Errors: 42704 unknown queue; 22023 limit_count is not positive.';
create function tasker.dlq_replay(dead_letter_id bigint) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_dlq_replay';
comment on function tasker.dlq_replay(bigint) is
'Inserts a dead letter into its queue anew, with all retries before it, for the consumer that gave it up and no other, and removes it. Returns the id of the new event. Errors: 42704 unknown letter; 55000 no consumer of that name is registered, or inserts are disabled.';
create function tasker.dlq_replay_all(queue text, out replayed bigint, out failed bigint, out first_error text)
    language c as 'MODULE_PATHNAME', 'tasker_dlq_replay_all';
comment on function tasker.dlq_replay_all(text) is
'Replays all dead letters of a queue that can be replayed; the others stay, with a warning each. Returns how many were and were not, and what was wrong with the first. Errors: 42704 unknown queue.';
create function tasker.dlq_purge(queue text, older_than interval default '30 days') returns integer
    language c as 'MODULE_PATHNAME', 'tasker_dlq_purge';
comment on function tasker.dlq_purge(text, interval) is
'Removes the dead letters of a queue that were given up longer ago; returns their number. Errors: 42704 unknown queue; 22023 a negative interval.';

grant execute on function tasker.receive(text, text, integer), tasker.ack(bigint),
    tasker.nack(bigint, tasker.message, interval, text), tasker.nack(bigint, bigint, interval, text),
    tasker.event_dead(bigint, bigint, text), tasker.dlq_inspect(text, integer), tasker.dlq_replay(bigint),
    tasker.dlq_replay_all(text)
    to tasker_worker, tasker_admin;
grant execute on function tasker.dlq_purge(text, interval),
    tasker.event_dead(bigint, bigint, text, timestamptz, bigint, integer, text, text, text, text, text, text)
    to tasker_admin;
grant select on tasker.dead_letter to tasker_admin;
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
