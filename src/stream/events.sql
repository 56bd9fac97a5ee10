-- Queues, events, consumers and batches: PgQ's calls, and the short forms for sending.

create function tasker.create_queue(i_queue_name text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_create_queue';
comment on function tasker.create_queue(text) is
'Creates an event queue with its tables and its first tick. Result: 1, or 0 when there is one of that name. Errors: 22023 bad name.';
create function tasker.drop_queue(x_queue_name text, x_force boolean) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_drop_queue';
comment on function tasker.drop_queue(text, boolean) is
'Drops a queue with its events; with x_force also while consumers are registered, who are unregistered. Result: 1. Errors: 42704 unknown queue; 55000 it has consumers.';
create function tasker.drop_queue(x_queue_name text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_drop_queue';
comment on function tasker.drop_queue(text) is 'The same as drop_queue(x_queue_name, false).';

create function tasker.insert_event(queue_name text, ev_type text, ev_data text) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_insert_event';
comment on function tasker.insert_event(text, text, text) is
'Inserts an event in this transaction and returns its id. Errors: 42704 unknown queue; 55000 inserts are disabled; 54000 more than the queue allows one transaction; 42501 no right to produce.';
create function tasker.insert_event(queue_name text, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text,
        ev_extra3 text, ev_extra4 text)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_insert_event';
comment on function tasker.insert_event(text, text, text, text, text, text, text) is
'The same as insert_event(queue_name, ev_type, ev_data), with four more columns of text.';
create function tasker.insert_event_raw(queue_name text, ev_id bigint, ev_time timestamptz, ev_owner integer,
        ev_retry integer, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_insert_event_raw';
comment on function tasker.insert_event_raw(text, bigint, timestamptz, integer, integer, text, text, text, text, text, text) is
'Inserts an event with all its columns; ev_id null: the next one, ev_time null: now. With an ev_owner only the subscription with that sub_id gets it. Returns its id. Errors: as insert_event().';
create function tasker.current_event_table(x_queue_name text) returns text
    language c as 'MODULE_PATHNAME', 'tasker_current_event_table';
comment on function tasker.current_event_table(text) is
'The table that takes the events of a queue now, for COPY; whoever writes to it must write in the transaction that asked. Errors: 42704 unknown queue; 55000 inserts are disabled.';

create function tasker.send(queue_name text, payload text) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_text';
comment on function tasker.send(text, text) is
'Inserts an event of type ''default'' and returns its id. Errors: as insert_event().';
create function tasker.send(queue_name text, type_name text, payload text) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_text';
comment on function tasker.send(text, text, text) is 'Inserts an event and returns its id. Errors: as insert_event().';
create function tasker.send(queue_name text, payload jsonb) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_jsonb';
comment on function tasker.send(text, jsonb) is
'Inserts an event of type ''default'' whose data is the text of a JSON value, and returns its id. Errors: as insert_event().';
create function tasker.send(queue_name text, type_name text, payload jsonb) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_jsonb';
comment on function tasker.send(text, text, jsonb) is
'Inserts an event whose data is the text of a JSON value, and returns its id. Errors: as insert_event().';
create function tasker.send_batch(queue_name text, type_name text, payloads text[]) returns bigint[]
    language c as 'MODULE_PATHNAME', 'tasker_send_batch_text';
comment on function tasker.send_batch(text, text, text[]) is
'Inserts an event for each payload, together, and returns their ids in the same order. Errors: as insert_event(); 22023 payloads is null.';
create function tasker.send_batch(queue_name text, payloads text[]) returns bigint[]
    language c as 'MODULE_PATHNAME', 'tasker_send_batch_text';
comment on function tasker.send_batch(text, text[]) is
'The same as send_batch(queue_name, ''default'', payloads).';
create function tasker.send_batch(queue_name text, type_name text, payloads jsonb[]) returns bigint[]
    language c as 'MODULE_PATHNAME', 'tasker_send_batch_jsonb';
comment on function tasker.send_batch(text, text, jsonb[]) is
'The same as send_batch() with payloads of text, for JSON values.';
create function tasker.send_batch(queue_name text, payloads jsonb[]) returns bigint[]
    language c as 'MODULE_PATHNAME', 'tasker_send_batch_jsonb';
comment on function tasker.send_batch(text, jsonb[]) is
'The same as send_batch(queue_name, ''default'', payloads).';

create function tasker.register_consumer(x_queue_name text, x_consumer_id text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_register_consumer';
comment on function tasker.register_consumer(text, text) is
'Registers a consumer on a queue; it gets the events after the last tick. Result: 1, or 0 when it was registered. Errors: 22023 bad name; 42704 unknown queue; 55000 the queue has no tick.';
create function tasker.register_consumer_at(x_queue_name text, x_consumer_name text, x_tick_pos bigint) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_register_consumer_at';
comment on function tasker.register_consumer_at(text, text, bigint) is
'Registers a consumer so that it gets the events after a tick (null: the last); one that is registered is put there, and its open batch is dropped. Result: 1, or 0 when it was registered. Errors: 22023 bad name; 42704 unknown queue or tick, or a tick whose later events are not all kept any more.';
create function tasker.unregister_consumer(x_queue_name text, x_consumer_name text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_unregister_consumer';
comment on function tasker.unregister_consumer(text, text) is
'Ends a subscription; its retried events go. Result: how many subscriptions went (a cooperative consumer goes with its members), 0 when there was none. Errors: 22023 an argument is null.';
create function tasker.subscribe(queue text, consumer text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_register_consumer';
comment on function tasker.subscribe(text, text) is 'The same as register_consumer().';
create function tasker.unsubscribe(queue text, consumer text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_unregister_consumer';
comment on function tasker.unsubscribe(text, text) is 'The same as unregister_consumer().';

create function tasker.next_batch(i_queue_name text, i_consumer_name text) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_next_batch';
comment on function tasker.next_batch(text, text) is
'The consumer''s open batch, or else the next one, which it opens; null when there is none yet. Errors: 42704 the consumer is not registered.';
create function tasker.next_batch_info(i_queue_name text, i_consumer_name text, out batch_id bigint,
        out cur_tick_id bigint, out prev_tick_id bigint, out cur_tick_time timestamptz, out prev_tick_time timestamptz,
        out cur_tick_event_seq bigint, out prev_tick_event_seq bigint)
    language c as 'MODULE_PATHNAME', 'tasker_next_batch_info';
comment on function tasker.next_batch_info(text, text) is
'The same as next_batch(), with the ticks that it lies between: their ids, times and event ids. All null when there is no batch yet.';
create function tasker.next_batch_custom(i_queue_name text, i_consumer_name text, i_min_lag interval,
        i_min_count integer, i_min_interval interval, out batch_id bigint,
        out cur_tick_id bigint, out prev_tick_id bigint, out cur_tick_time timestamptz, out prev_tick_time timestamptz,
        out cur_tick_event_seq bigint, out prev_tick_event_seq bigint)
    language c as 'MODULE_PATHNAME', 'tasker_next_batch_custom';
comment on function tasker.next_batch_custom(text, text, interval, integer, interval) is
'The same as next_batch_info(), for a new batch whose end is at least i_min_lag old, and that has about i_min_count events or covers i_min_interval, whichever comes first; each may be null. Errors: 42704 the consumer is not registered; 22023 a negative interval.';
create function tasker.get_batch_events(x_batch_id bigint, out ev_id bigint, out ev_time timestamptz, out ev_txid bigint,
        out ev_retry integer, out ev_type text, out ev_data text, out ev_extra1 text, out ev_extra2 text,
        out ev_extra3 text, out ev_extra4 text)
    returns setof record
    language c rows 500 as 'MODULE_PATHNAME', 'tasker_get_batch_events';
comment on function tasker.get_batch_events(bigint) is
'The events of an open batch in the order of their ids. Errors: 42704 the batch is not open.';
create function tasker.finish_batch(x_batch_id bigint) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_finish_batch';
comment on function tasker.finish_batch(bigint) is
'Closes a batch: its consumer goes on after it. Result: 1, or 0 with a warning when the batch is not open. Errors: 22023 x_batch_id is null.';
create function tasker.ticker(i_queue_name text) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_ticker_of_queue';
comment on function tasker.ticker(text) is
'Makes a tick of one queue if one is due by its ticker settings, and returns its id, else null. Errors: 42704 unknown queue; 55000 its ticker is external or paused.';
create function tasker.ticker() returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_ticker';
comment on function tasker.ticker() is
'Makes the ticks that are due by the ticker settings, for all queues but those whose ticker is external or paused; returns their number.';
create function tasker.ticker(i_queue_name text, i_tick_id bigint, i_orig_timestamp timestamptz, i_event_seq bigint)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_external_ticker';
comment on function tasker.ticker(text, bigint, timestamptz, bigint) is
'Makes a tick that an external ticker has decided on, and returns its id. Errors: 42704 unknown queue; 55000 its ticker is not external, or is paused.';
create function tasker.force_tick(i_queue_name text) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_force_tick';
comment on function tasker.force_tick(text) is
'Makes the queue''s next tick due at the next ticker(), by raising the sequence of event ids; returns the last tick''s id. An external or paused ticker is left alone. Errors: 42704 unknown queue.';
create function tasker.force_next_tick(queue text) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_force_tick';
comment on function tasker.force_next_tick(text) is 'The same as force_tick().';
create function tasker.version() returns text
    language c immutable as 'MODULE_PATHNAME', 'tasker_version';
comment on function tasker.version() is 'The version of the extension''s library.';
