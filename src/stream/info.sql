-- Settings of queues, and what queues, consumers and batches look like.

create function tasker.set_queue_config(x_queue_name text, x_param_name text, x_param_value text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_set_queue_config';
comment on function tasker.set_queue_config(text, text, text) is
'Changes a setting of a queue (null: the default) and returns 1; it counts from the commit on. Settings, also with queue_ before them: ticker_max_count, ticker_max_lag, ticker_idle_period, ticker_paused, external_ticker, min_tick_interval, rotation_period, metadata_rotation_period, disable_insert, per_tx_limit, ttl, paused, max_retries; the columns of tasker.queue say what they mean. Errors: 42704 unknown queue; 22023 unknown setting, bad value, null queue or setting.';

create function tasker.get_queue_info(out queue_name text, out queue_ntables integer, out queue_cur_table integer,
        out queue_rotation_period interval, out queue_switch_time timestamptz, out queue_external_ticker boolean,
        out queue_ticker_paused boolean, out queue_ticker_max_count integer, out queue_ticker_max_lag interval,
        out queue_ticker_idle_period interval, out ticker_lag interval, out ev_per_sec float8, out ev_new bigint,
        out last_tick_id bigint, out paused boolean, out disable_insert boolean, out rotation_deferrals bigint,
        out rotation_held_by text, out metadata_rotation_period interval, out subscription_rotation_deferrals bigint,
        out tick_rotation_deferrals bigint, out metadata_rotation_held_by text, out ttl interval)
    returns setof record
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_get_queue_info';
comment on function tasker.get_queue_info() is
'All queues: settings, age and id of the last tick, events per second over the last 20 ticks, events since the last tick (ev_new, by the ids given out), rotations put off in a row and by whom. The rotation of subscriptions and ticks is one for all queues.';
create function tasker.get_queue_info(i_queue_name text, out queue_name text, out queue_ntables integer,
        out queue_cur_table integer, out queue_rotation_period interval, out queue_switch_time timestamptz,
        out queue_external_ticker boolean, out queue_ticker_paused boolean, out queue_ticker_max_count integer,
        out queue_ticker_max_lag interval, out queue_ticker_idle_period interval, out ticker_lag interval,
        out ev_per_sec float8, out ev_new bigint, out last_tick_id bigint, out paused boolean,
        out disable_insert boolean, out rotation_deferrals bigint, out rotation_held_by text,
        out metadata_rotation_period interval, out subscription_rotation_deferrals bigint,
        out tick_rotation_deferrals bigint, out metadata_rotation_held_by text, out ttl interval)
    returns setof record
    language c rows 1 as 'MODULE_PATHNAME', 'tasker_get_queue_info';
comment on function tasker.get_queue_info(text) is
'The same as get_queue_info() for one queue (null: all); no row when there is none of that name.';

create function tasker.get_consumer_info(out queue_name text, out consumer_name text, out lag interval,
        out last_seen interval, out last_tick bigint, out current_batch bigint, out next_tick bigint,
        out pending_events bigint)
    returns setof record
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_get_consumer_info';
comment on function tasker.get_consumer_info() is
'All consumers of all queues: how old the tick is where they stand, how long ago they were last heard of, their open batch and the ticks around it, and about how many events are between them and the last tick (by the ids given out).';
create function tasker.get_consumer_info(i_queue_name text, out queue_name text, out consumer_name text,
        out lag interval, out last_seen interval, out last_tick bigint, out current_batch bigint,
        out next_tick bigint, out pending_events bigint)
    returns setof record
    language c rows 10 as 'MODULE_PATHNAME', 'tasker_get_consumer_info';
comment on function tasker.get_consumer_info(text) is
'The same as get_consumer_info() for one queue (null: all).';
create function tasker.get_consumer_info(i_queue_name text, i_consumer_name text, out queue_name text,
        out consumer_name text, out lag interval, out last_seen interval, out last_tick bigint,
        out current_batch bigint, out next_tick bigint, out pending_events bigint)
    returns setof record
    language c rows 1 as 'MODULE_PATHNAME', 'tasker_get_consumer_info';
comment on function tasker.get_consumer_info(text, text) is
'The same as get_consumer_info() for one queue and one consumer (null: all of them).';

create function tasker.get_batch_info(x_batch_id bigint, out queue_name text, out consumer_name text,
        out batch_start timestamptz, out batch_end timestamptz, out prev_tick_id bigint, out tick_id bigint,
        out lag interval, out seq_start bigint, out seq_end bigint)
    language c as 'MODULE_PATHNAME', 'tasker_get_batch_info';
comment on function tasker.get_batch_info(bigint) is
'An open batch: whose it is, the ticks that it lies between with their times and event ids, and how old its end is. All null when the batch is not open.';

create function tasker.get_batch_cursor(i_batch_id bigint, i_cursor_name text, i_quick_limit integer,
        i_extra_where text, out ev_id bigint, out ev_time timestamptz, out ev_txid bigint, out ev_retry integer,
        out ev_type text, out ev_data text, out ev_extra1 text, out ev_extra2 text, out ev_extra3 text,
        out ev_extra4 text)
    returns setof record
    language c rows 500 as 'MODULE_PATHNAME', 'tasker_get_batch_cursor';
comment on function tasker.get_batch_cursor(bigint, text, integer, text) is
'Opens a cursor over the events of a batch in this transaction and returns the first i_quick_limit of them; the others are fetched from the cursor, which the caller closes. i_extra_where is an SQL condition on the columns of get_batch_events(), run with the caller''s rights (null: none). No cursor and no rows when one of the first three is null. Errors: 42704 the batch is not open; 22023 empty name; 42P03 there is a cursor of that name; those of the condition.';
create function tasker.get_batch_cursor(i_batch_id bigint, i_cursor_name text, i_quick_limit integer,
        out ev_id bigint, out ev_time timestamptz, out ev_txid bigint, out ev_retry integer, out ev_type text,
        out ev_data text, out ev_extra1 text, out ev_extra2 text, out ev_extra3 text, out ev_extra4 text)
    returns setof record
    language c rows 500 as 'MODULE_PATHNAME', 'tasker_get_batch_cursor';
comment on function tasker.get_batch_cursor(bigint, text, integer) is
'The same as get_batch_cursor(i_batch_id, i_cursor_name, i_quick_limit, null).';

create function tasker._stream_metrics()
    returns table (metric text, labels jsonb, value double precision, help text, type text)
    language c rows 1000 as 'MODULE_PATHNAME', 'tasker_stream_metrics';
comment on function tasker._stream_metrics() is 'The rows of metrics() about queues, consumers and rotations.';

grant execute on function tasker.set_queue_config(text, text, text) to tasker_admin;
grant execute on function tasker.get_queue_info(), tasker.get_queue_info(text), tasker.get_consumer_info(),
    tasker.get_consumer_info(text), tasker.get_consumer_info(text, text)
    to tasker_observer, tasker_worker, tasker_admin;
grant execute on function tasker._stream_metrics() to tasker_observer, tasker_admin;
grant execute on function tasker.get_batch_info(bigint), tasker.get_batch_cursor(bigint, text, integer, text),
    tasker.get_batch_cursor(bigint, text, integer)
    to tasker_worker, tasker_admin;
