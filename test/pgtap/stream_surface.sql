-- The SQL contract of the stream plane: names, arguments, results, views and their columns. What holds for every object of
-- the extension (comments, nothing for PUBLIC, pinned search_path) is checked by queue_surface.sql; here are the checks
-- that need the stream's own list of calls, and the tables that are made at run time.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
begin;
set client_min_messages = warning;
create extension if not exists pgtap;

-- Result columns of functions that return rows are out arguments, except where the result is a type or TABLE.
create temp table surface (name text, arguments text, result text);
insert into surface values
-- PgQ's calls.
('create_queue', 'i_queue_name text', 'integer'),
('drop_queue', 'x_queue_name text', 'integer'),
('drop_queue', 'x_queue_name text, x_force boolean', 'integer'),
('set_queue_config', 'x_queue_name text, x_param_name text, x_param_value text', 'integer'),
('insert_event', 'queue_name text, ev_type text, ev_data text', 'bigint'),
('insert_event', 'queue_name text, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text', 'bigint'),
('insert_event_raw', 'queue_name text, ev_id bigint, ev_time timestamp with time zone, ev_owner integer, ev_retry integer, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text', 'bigint'),
('current_event_table', 'x_queue_name text', 'text'),
('register_consumer', 'x_queue_name text, x_consumer_id text', 'integer'),
('register_consumer_at', 'x_queue_name text, x_consumer_name text, x_tick_pos bigint', 'integer'),
('unregister_consumer', 'x_queue_name text, x_consumer_name text', 'integer'),
('next_batch', 'i_queue_name text, i_consumer_name text', 'bigint'),
('next_batch_info', 'i_queue_name text, i_consumer_name text, OUT batch_id bigint, OUT cur_tick_id bigint, OUT prev_tick_id bigint, OUT cur_tick_time timestamp with time zone, OUT prev_tick_time timestamp with time zone, OUT cur_tick_event_seq bigint, OUT prev_tick_event_seq bigint', 'record'),
('next_batch_custom', 'i_queue_name text, i_consumer_name text, i_min_lag interval, i_min_count integer, i_min_interval interval, OUT batch_id bigint, OUT cur_tick_id bigint, OUT prev_tick_id bigint, OUT cur_tick_time timestamp with time zone, OUT prev_tick_time timestamp with time zone, OUT cur_tick_event_seq bigint, OUT prev_tick_event_seq bigint', 'record'),
('get_batch_events', 'x_batch_id bigint, OUT ev_id bigint, OUT ev_time timestamp with time zone, OUT ev_txid bigint, OUT ev_retry integer, OUT ev_type text, OUT ev_data text, OUT ev_extra1 text, OUT ev_extra2 text, OUT ev_extra3 text, OUT ev_extra4 text', 'SETOF record'),
('get_batch_cursor', 'i_batch_id bigint, i_cursor_name text, i_quick_limit integer, OUT ev_id bigint, OUT ev_time timestamp with time zone, OUT ev_txid bigint, OUT ev_retry integer, OUT ev_type text, OUT ev_data text, OUT ev_extra1 text, OUT ev_extra2 text, OUT ev_extra3 text, OUT ev_extra4 text', 'SETOF record'),
('get_batch_cursor', 'i_batch_id bigint, i_cursor_name text, i_quick_limit integer, i_extra_where text, OUT ev_id bigint, OUT ev_time timestamp with time zone, OUT ev_txid bigint, OUT ev_retry integer, OUT ev_type text, OUT ev_data text, OUT ev_extra1 text, OUT ev_extra2 text, OUT ev_extra3 text, OUT ev_extra4 text', 'SETOF record'),
('event_retry', 'x_batch_id bigint, x_event_id bigint, x_retry_seconds integer', 'integer'),
('event_retry', 'x_batch_id bigint, x_event_id bigint, x_retry_time timestamp with time zone', 'integer'),
('batch_retry', 'i_batch_id bigint, i_retry_seconds integer', 'integer'),
('finish_batch', 'x_batch_id bigint', 'integer'),
('get_queue_info', 'OUT queue_name text, OUT queue_ntables integer, OUT queue_cur_table integer, OUT queue_rotation_period interval, OUT queue_switch_time timestamp with time zone, OUT queue_external_ticker boolean, OUT queue_ticker_paused boolean, OUT queue_ticker_max_count integer, OUT queue_ticker_max_lag interval, OUT queue_ticker_idle_period interval, OUT ticker_lag interval, OUT ev_per_sec double precision, OUT ev_new bigint, OUT last_tick_id bigint, OUT paused boolean, OUT disable_insert boolean, OUT rotation_deferrals bigint, OUT rotation_held_by text, OUT metadata_rotation_period interval, OUT subscription_rotation_deferrals bigint, OUT tick_rotation_deferrals bigint, OUT metadata_rotation_held_by text, OUT ttl interval', 'SETOF record'),
('get_queue_info', 'i_queue_name text, OUT queue_name text, OUT queue_ntables integer, OUT queue_cur_table integer, OUT queue_rotation_period interval, OUT queue_switch_time timestamp with time zone, OUT queue_external_ticker boolean, OUT queue_ticker_paused boolean, OUT queue_ticker_max_count integer, OUT queue_ticker_max_lag interval, OUT queue_ticker_idle_period interval, OUT ticker_lag interval, OUT ev_per_sec double precision, OUT ev_new bigint, OUT last_tick_id bigint, OUT paused boolean, OUT disable_insert boolean, OUT rotation_deferrals bigint, OUT rotation_held_by text, OUT metadata_rotation_period interval, OUT subscription_rotation_deferrals bigint, OUT tick_rotation_deferrals bigint, OUT metadata_rotation_held_by text, OUT ttl interval', 'SETOF record'),
('get_consumer_info', 'OUT queue_name text, OUT consumer_name text, OUT lag interval, OUT last_seen interval, OUT last_tick bigint, OUT current_batch bigint, OUT next_tick bigint, OUT pending_events bigint', 'SETOF record'),
('get_consumer_info', 'i_queue_name text, OUT queue_name text, OUT consumer_name text, OUT lag interval, OUT last_seen interval, OUT last_tick bigint, OUT current_batch bigint, OUT next_tick bigint, OUT pending_events bigint', 'SETOF record'),
('get_consumer_info', 'i_queue_name text, i_consumer_name text, OUT queue_name text, OUT consumer_name text, OUT lag interval, OUT last_seen interval, OUT last_tick bigint, OUT current_batch bigint, OUT next_tick bigint, OUT pending_events bigint', 'SETOF record'),
('get_batch_info', 'x_batch_id bigint, OUT queue_name text, OUT consumer_name text, OUT batch_start timestamp with time zone, OUT batch_end timestamp with time zone, OUT prev_tick_id bigint, OUT tick_id bigint, OUT lag interval, OUT seq_start bigint, OUT seq_end bigint', 'record'),
('ticker', '', 'bigint'),
('ticker', 'i_queue_name text', 'bigint'),
('ticker', 'i_queue_name text, i_tick_id bigint, i_orig_timestamp timestamp with time zone, i_event_seq bigint', 'bigint'),
('force_tick', 'i_queue_name text', 'bigint'),
('maint_operations', 'OUT func_name text, OUT func_arg text', 'SETOF record'),
('maint_retry_events', '', 'integer'),
('maint_rotate_tables_step1', 'i_queue_name text', 'integer'),
('maint_rotate_tables_step2', '', 'integer'),
('maint_tables_to_vacuum', '', 'SETOF text'),
('version', '', 'text'),
('jsontriga', '', 'trigger'),
('logutriga', '', 'trigger'),
('sqltriga', '', 'trigger'),
-- PgQue's short forms.
('subscribe', 'queue text, consumer text', 'integer'),
('unsubscribe', 'queue text, consumer text', 'integer'),
('send', 'queue_name text, payload text', 'bigint'),
('send', 'queue_name text, payload jsonb', 'bigint'),
('send', 'queue_name text, type_name text, payload text', 'bigint'),
('send', 'queue_name text, type_name text, payload jsonb', 'bigint'),
('send_batch', 'queue_name text, payloads text[]', 'bigint[]'),
('send_batch', 'queue_name text, payloads jsonb[]', 'bigint[]'),
('send_batch', 'queue_name text, type_name text, payloads text[]', 'bigint[]'),
('send_batch', 'queue_name text, type_name text, payloads jsonb[]', 'bigint[]'),
('receive', 'queue text, consumer text, max_return integer DEFAULT 100', 'SETOF tasker.message'),
('ack', 'batch_id bigint', 'integer'),
('nack', 'batch_id bigint, msg tasker.message, retry_after interval DEFAULT ''00:01:00''::interval, reason text DEFAULT NULL::text', 'integer'),
('event_dead', 'batch_id bigint, event_id bigint, reason text DEFAULT NULL::text', 'integer'),
('dlq_inspect', 'queue text, limit_count integer DEFAULT 100', 'SETOF tasker.dead_letter'),
('dlq_replay', 'dead_letter_id bigint', 'bigint'),
('dlq_replay_all', 'queue text, OUT replayed bigint, OUT failed bigint, OUT first_error text', 'record'),
('dlq_purge', 'queue text, older_than interval DEFAULT ''30 days''::interval', 'integer'),
('register_subconsumer', 'queue text, consumer text, subconsumer text, convert_normal boolean DEFAULT false', 'integer'),
('unregister_subconsumer', 'queue text, consumer text, subconsumer text, batch_handling integer DEFAULT 0', 'integer'),
('receive_coop', 'queue text, consumer text, subconsumer text, max_return integer DEFAULT 100, dead_interval interval DEFAULT NULL::interval', 'SETOF tasker.message'),
('start', 'database name DEFAULT NULL::name', 'text'),
('stop', 'database name DEFAULT NULL::name', 'integer'),
('maint', '', 'integer'),
('status', '', 'TABLE(component text, status text, detail text)'),
('set_tick_period_ms', 'ms integer', 'integer'),
('force_next_tick', 'queue text', 'bigint'),
-- What is new.
('maint_rotate_metadata', '', 'integer'),
('maint_rotate_metadata_step2', '', 'integer'),
('send_at', 'queue_name text, payload text, at timestamp with time zone', 'bigint'),
('send_at', 'queue_name text, payload jsonb, at timestamp with time zone', 'bigint'),
('wait_for_batch', 'IN queue text, IN consumer text, IN timeout interval, INOUT batch_id bigint DEFAULT NULL::bigint', null),
('after_restore', 'force boolean DEFAULT false, OUT queue_name text, OUT consumers integer, OUT events bigint, OUT ticks integer', 'SETOF record'),
('restore_pending', '', 'boolean'),
('create_log_queue', 'queue text, log regclass[], txid_column name DEFAULT ''txid''::name, mapping jsonb DEFAULT ''{}''::jsonb', 'integer'),
('log_txid', '', 'bigint'),
('log_written', '', 'trigger'),
('grant_queue', 'queue text, role text, privilege text', 'integer'),
('revoke_queue', 'queue text, role text, privilege text', 'integer');

create temp table relation_columns (relation text, columns text[]);
insert into relation_columns values
('subscription', '{sub_id integer, sub_queue integer, sub_consumer integer, sub_last_tick bigint, sub_active timestamp with time zone, sub_batch bigint, sub_next_tick bigint}'),
('tick', '{tick_queue integer, tick_id bigint, tick_time timestamp with time zone, tick_snapshot txid_snapshot, tick_event_seq bigint}'),
('consumer', '{co_id integer, co_name text}'),
('queue', '{queue_id integer, queue_name text, queue_ntables integer, queue_cur_table integer, queue_rotation_period interval, queue_switch_step1 bigint, queue_switch_step2 bigint, queue_switch_time timestamp with time zone, queue_external_ticker boolean, queue_disable_insert boolean, queue_ticker_paused boolean, queue_ticker_max_count integer, queue_ticker_max_lag interval, queue_ticker_idle_period interval, queue_per_tx_limit integer, queue_data_pfx text, queue_event_seq text, queue_tick_seq text, queue_extra_maint text[]}'),
('event_template', '{ev_id bigint, ev_time timestamp with time zone, ev_txid bigint, ev_owner integer, ev_retry integer, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text}'),
('retry_queue', '{ev_retry_after timestamp with time zone, ev_queue integer, ev_id bigint, ev_time timestamp with time zone, ev_txid bigint, ev_owner integer, ev_retry integer, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text}'),
('message', '{msg_id bigint, batch_id bigint, type text, payload text, retry_count integer, created_at timestamp with time zone, extra1 text, extra2 text, extra3 text, extra4 text}');

select plan((select count(*) from surface)::int + (select count(*) from relation_columns)::int + 14);

select ok(exists (
        select from pg_proc p
        where p.pronamespace = 'tasker'::regnamespace and p.proname = s.name and pg_get_function_arguments(p.oid) = s.arguments
          and pg_get_function_result(p.oid) is not distinct from s.result
          and (p.prokind = 'p') = (s.name = 'wait_for_batch')),
    format('%s(%s)', s.name, regexp_replace(s.arguments, ', OUT.*', ' …')))
from surface s;

select is(array(
        select format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)) from pg_attribute a
        where a.attrelid = format('tasker.%I', v.relation)::regclass and a.attnum between 1 and cardinality(v.columns)
        order by a.attnum),
    v.columns, format('columns of %s', v.relation))
from relation_columns v;

-- Comments: what can go wrong stands there, with the SQLSTATEs of the contract.
create temp view calls as
select distinct p.oid, p.oid::regprocedure as signature, p.proname, p.pronargs, obj_description(p.oid, 'pg_proc') as comment, p.provolatile, p.proparallel
from surface s join pg_proc p on p.pronamespace = 'tasker'::regnamespace and p.proname = s.name;
select is_empty($$
    select signature from calls
    where pronargs > 0 and proname not in ('get_queue_info', 'get_consumer_info', 'get_batch_info', 'start', 'stop')
      and comment !~* 'errors:|\mthe same\M'$$,
    'comments of functions with arguments name their errors');
select is_empty($$
    select signature, code from calls, lateral regexp_matches(comment, '\m(?=[A-Z0-9]*\d)[0-9A-Z]{5}\M', 'g') codes (code)
    where code[1] !~ '^(22023|42704|42710|55000|25001|42501|54000|23505|42P03|3D000|XX001)$'$$,
    'the SQLSTATEs they name are those of the contract');
select is_empty($$
    select signature from calls where (provolatile <> 'v' or proparallel <> 'u') and proname <> 'version'$$,
    'functions that read or write the stream are volatile and parallel unsafe');

-- Every call can be made by somebody: each is granted to the administrators, and to the role that it is for.
select is_empty($$
    select signature from calls where not has_function_privilege('tasker_admin', oid, 'execute') and proname !~ 'triga$'$$,
    'administrators may call everything');
select set_eq($$
    select distinct proname::text from calls where has_function_privilege('tasker_producer', oid, 'execute') and proname !~ 'triga$'$$,
    array['insert_event', 'send', 'send_batch', 'send_at', 'version', 'restore_pending', 'log_txid', 'log_written'],
    'what producers may call');
select is_empty($$
    select signature from calls where has_function_privilege('tasker_worker', oid, 'execute')
      and proname ~ '^(create_queue|drop_queue|set_queue_config|insert|send|ticker|force|maint|grant|revoke|after_restore|dlq_purge|register_consumer_at|set_tick)'$$,
    'consumers neither administrate nor produce');
select set_eq($$
    select distinct proname::text from calls where has_function_privilege('tasker_observer', oid, 'execute')$$,
    array['get_queue_info', 'get_consumer_info', 'status', 'version', 'restore_pending'],
    'what observers may call');
select is_empty($$
    select t, r from unnest('{event_template, retry_queue, subscription_0, subscription_1, subscription_2, tick_0, tick_1, tick_2, registration, queue, consumer}'::text[]) t,
        unnest('{tasker_producer, tasker_worker}'::text[]) r
    where has_table_privilege(r, 'tasker.' || t, 'select, insert, update, delete')$$,
    'producers and consumers have no right on a table');

-- What a queue is made of.
select is(tasker.create_queue('surface "queue"'), 1, 'a queue');
create temp table made as
select c.oid, c.relkind, c.relname from tasker.queue q join pg_class c
  on c.relnamespace = 'tasker'::regnamespace and c.relname ~ ('^event_' || q.queue_id || '(_[012]|_id_seq|_tick_seq)?$')
where q.queue_name = 'surface "queue"';
select results_eq('select relkind::text, count(*)::int from made group by 1 order by 1', $$values ('S', 2), ('r', 4)$$,
    'has four tables and two sequences');
select is_empty($$
    select m.oid::regclass from made m join pg_class c using (oid), lateral aclexplode(coalesce(c.relacl,
        acldefault(case when c.relkind = 'S' then 's'::"char" else 'r'::"char" end, c.relowner))) a
    where a.grantee <> c.relowner and a.grantee = 0$$, 'PUBLIC has no right on them');
select is_empty($$
    select m.oid::regclass from made m where not exists (
        select from pg_depend d where d.objid = m.oid and d.classid = 'pg_class'::regclass and d.deptype = 'x'
          and d.refclassid = 'pg_extension'::regclass)$$,
    'they go with the extension, and are dumped');
select results_eq($$
    select m.relname ~ '^event_\d+_[012]$' as takes_events, count(i.indexrelid)::int from made m left join pg_index i on i.indrelid = m.oid
    where m.relkind = 'r' group by m.relname, 1 order by 1, 2$$,
    $$values (false, 0), (true, 1), (true, 1), (true, 1)$$, 'with one index for each table that takes events');
select is_empty($$
    select a.attname, format_type(a.atttypid, a.atttypmod) from made m join pg_attribute a on a.attrelid = m.oid and a.attnum > 0 and not a.attisdropped
    where m.relkind = 'r'
    except select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = 'tasker.event_template'::regclass$$,
    'and the columns of event_template');

select * from finish();
rollback;
