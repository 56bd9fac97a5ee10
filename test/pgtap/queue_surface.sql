-- The SQL contract of the queue plane: names, arguments, defaults, results, views and their columns; and what holds for
-- every object of the extension: a comment, no right for PUBLIC, a pinned search_path where a function acts as its owner.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
begin;
set client_min_messages = warning;
create extension if not exists pgtap;

create temp table surface (name text, arguments text, result text);
insert into surface values
('create_flow', 'flow_name text, settings jsonb DEFAULT ''{}''::jsonb', 'integer'),
('alter_flow', 'flow_name text, setting text, value text', 'void'),
('drop_flow', 'flow_name text, force boolean DEFAULT false', 'void'),
('pause_flow', 'flow_name text', 'void'),
('resume_flow', 'flow_name text', 'void'),
('enqueue', 'flow_name text, payload jsonb, priority smallint DEFAULT 0, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, dedup_key text DEFAULT NULL::text, dedup_window interval DEFAULT NULL::interval', 'bigint'),
('add_records_to_queue', 'flow_name text, payloads jsonb[], priority smallint DEFAULT 0, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'integer'),
('claim_records_batch', 'flow_name text, batch_size integer DEFAULT 1, instance_id text DEFAULT NULL::text, lease interval DEFAULT NULL::interval', 'TABLE(id bigint, payload jsonb, retry_count integer, created_at timestamp with time zone, lease_token bigint, lease_expires_at timestamp with time zone)'),
('mark_record_completed', 'record_id bigint, result jsonb DEFAULT NULL::jsonb, lease_token bigint DEFAULT NULL::bigint', 'integer'),
('mark_records_completed', 'record_ids bigint[], results jsonb[] DEFAULT NULL::jsonb[], lease_tokens bigint[] DEFAULT NULL::bigint[]', 'integer'),
('mark_record_failed', 'record_id bigint, error text, retry_in interval DEFAULT NULL::interval, lease_token bigint DEFAULT NULL::bigint', 'text'),
('extend_lease', 'record_ids bigint[], lease interval, lease_tokens bigint[] DEFAULT NULL::bigint[]', 'integer'),
('release_records', 'record_ids bigint[]', 'integer'),
('cancel_records', 'record_ids bigint[]', 'integer'),
('get_queue_status', 'flow_name text DEFAULT NULL::text', 'TABLE(flow_name text, pending bigint, scheduled bigint, processing bigint, completed bigint, failed bigint, cancelled bigint, total bigint, oldest_pending_at timestamp with time zone)'),
('cleanup_orphaned_records', 'timeout interval DEFAULT ''01:00:00''::interval, flow_name text DEFAULT NULL::text', 'integer'),
('reset_failed_records', 'flow_name text, max_retries integer DEFAULT 3', 'integer'),
('retry_records', 'record_ids bigint[]', 'integer'),
('purge_failed_records', 'flow_name text, older_than interval DEFAULT ''00:00:00''::interval', 'integer'),
('wait_for_records', 'IN flow_name text, IN timeout interval, INOUT ready boolean DEFAULT NULL::boolean', null),
('health_check', '', 'jsonb'),
('sweep_queue', '', 'bigint'),
('rebuild_queue_state', '', 'void'),
('check_queue_integrity', '', 'TABLE(object text, problem text)'),
('next_record_id', '', 'bigint'),
('record_id_time', 'record_id bigint', 'timestamp with time zone'),
('partition_retention', 'partition regclass', 'text');

create temp table view_columns (view name, columns text[]);
insert into view_columns values
('processing_queue', '{id bigint, flow_name text, payload jsonb, status text, flow_instance_id text, claimed_at timestamp with time zone, completed_at timestamp with time zone, error_message text, retry_count integer, created_at timestamp with time zone, updated_at timestamp with time zone, priority smallint, run_at timestamp with time zone, result jsonb}'),
('dead_letters', '{id bigint, flow_name text, payload jsonb, error_message text, retry_count integer, created_at timestamp with time zone}'),
('queue_retention', '{partition regclass, kept_because text}'),
('xmin_holders', '{kind text, identity text, pid integer, database name}');

-- The members of the extension. Partitions are no members: they are made at run time.
create temp view members as
select d.classid, d.objid from pg_depend d join pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass
where e.extname = 'tasker' and d.deptype = 'e';

select plan((select count(*) from surface)::int + (select count(*) from view_columns)::int + 19);

-- Functions: one of this name has just these arguments and this result.
select ok(exists (
        select from pg_proc p
        where p.pronamespace = 'tasker'::regnamespace and p.proname = s.name and pg_get_function_arguments(p.oid) = s.arguments
          and pg_get_function_result(p.oid) is not distinct from s.result
          and (p.prokind = 'p') = (s.name in ('wait_for_records'))),
    format('%s(%s)', s.name, s.arguments))
from surface s;

-- Views: these columns in this order; more may follow.
select is(array(
        select format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)) from pg_attribute a
        where a.attrelid = format('tasker.%I', v.view)::regclass and a.attnum between 1 and cardinality(v.columns)
        order by a.attnum),
    v.columns, format('columns of %s', v.view))
from view_columns v;

-- Everything has a comment that says something.
select is_empty($$
    select p.oid::regprocedure from members m join pg_proc p on m.classid = 'pg_proc'::regclass and p.oid = m.objid
    where length(coalesce(obj_description(p.oid, 'pg_proc'), '')) < 20$$, 'every function has a comment');
select is_empty($$
    select c.oid::regclass from members m join pg_class c on m.classid = 'pg_class'::regclass and c.oid = m.objid
    where length(coalesce(obj_description(c.oid, 'pg_class'), '')) < 20
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i' and d.classid = 'pg_class'::regclass)$$,
    'every table, view and sequence has a comment');
select is_empty($$
    select c.oid::regclass, a.attname from members m join pg_class c on m.classid = 'pg_class'::regclass and c.oid = m.objid
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind in ('r', 'p', 'v') and length(coalesce(col_description(c.oid, a.attnum), '')) < 3$$,
    'every column has a comment');
select is_empty($$
    select name from pg_settings where name like 'tasker.%' and length(coalesce(short_desc, '')) < 20$$,
    'every setting has a description');
select isnt(obj_description('tasker'::regnamespace, 'pg_namespace'), null, 'the schema has a comment');
-- What can go wrong stands in the comment of every function that can go wrong.
select is_empty($$
    select p.oid::regprocedure from surface s join pg_proc p on p.pronamespace = 'tasker'::regnamespace and p.proname = s.name
    where s.arguments <> '' and s.name not in ('record_id_time', 'partition_retention')
      and obj_description(p.oid, 'pg_proc') !~* 'errors:|the same as'$$,
    'comments of functions with arguments name their errors');
select is_empty($$
    select p.oid::regprocedure, code from surface s
    join pg_proc p on p.pronamespace = 'tasker'::regnamespace and p.proname = s.name,
    lateral regexp_matches(obj_description(p.oid, 'pg_proc'), '\m[0-9A-Z]{5}\M', 'g') codes (code)
    where code[1] ~ '\d' and code[1] !~ '^(22023|42704|42710|55000|25001|42501|NOTIFY)$'$$,
    'the SQLSTATEs they name are those of the contract');

-- Nothing for PUBLIC.
select is_empty($$
    select p.oid::regprocedure from pg_proc p, lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where p.pronamespace = 'tasker'::regnamespace and a.grantee = 0$$, 'PUBLIC may call no function');
select is_empty($$
    select c.oid::regclass from pg_class c, lateral aclexplode(coalesce(c.relacl,
        acldefault(case when c.relkind = 'S' then 's'::"char" else 'r'::"char" end, c.relowner))) a
    where c.relnamespace = 'tasker'::regnamespace and c.relkind in ('r', 'p', 'v', 'S', 'm') and a.grantee = 0$$,
    'PUBLIC has no right on a table, view or sequence, partitions included');
select is_empty($$
    select a.attrelid::regclass, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'tasker'::regnamespace and a.attacl is not null$$, 'there are no rights on single columns');
select is_empty($$
    select nspname from pg_namespace n, lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
    where n.nspname = 'tasker' and (a.grantee = 0 or a.privilege_type = 'CREATE' and a.grantee <> n.nspowner)$$,
    'PUBLIC has no right on the schema, and nobody may create in it');

-- Whoever acts as the owner does so under a pinned search_path.
select is_empty($$
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'tasker'::regnamespace and p.prosecdef
      and not exists (select from unnest(p.proconfig) c where c ~ '^search_path=(pg_catalog|""|tasker)')$$,
    'SECURITY DEFINER functions have a pinned search_path');
-- The script holds no procedural logic.
select is_empty($$
    select p.oid::regprocedure from pg_proc p join pg_language l on l.oid = p.prolang
    where p.pronamespace = 'tasker'::regnamespace and l.lanname not in ('c', 'sql')$$,
    'every function is C++ or a plain query');
-- What writes must not be taken for something that can be evaluated ahead, twice or in a parallel worker.
select is_empty($$
    select p.oid::regprocedure from surface s join pg_proc p on p.pronamespace = 'tasker'::regnamespace and p.proname = s.name
    where s.name <> 'record_id_time' and (p.provolatile <> 'v' or p.proparallel <> 'u')$$,
    'functions that read or write the queue are volatile and parallel unsafe');

-- Roles: without login, without rights beyond the extension's.
select set_eq($$
    select rolname, rolsuper, rolcanlogin, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls from pg_roles
    where rolname like 'tasker\_%'$$,
    $$select r::name, false as a, false as b, false as c, false as d, false as e, false as f
      from unnest('{tasker_admin, tasker_producer, tasker_worker, tasker_observer}'::text[]) r$$,
    'the roles cannot log in and own nothing');

-- The parent has neither keys nor indexes (it could not be restored from a dump); its partitions have exactly two.
select is_empty($$select indexrelid::regclass from pg_index where indrelid = 'tasker.queue_record'::regclass$$,
    'the partitioned table has no index');
select lives_ok($$select tasker.enqueue('surface', '{}')$$, 'a record makes a partition');
select is_empty($$
    select i.inhrelid::regclass from pg_inherits i where i.inhparent = 'tasker.queue_record'::regclass
      and array(select pg_get_indexdef(x.indexrelid) ~ '\((id|flow_id, priority, "?position"?)\)$'
                from pg_index x where x.indrelid = i.inhrelid) <> '{t,t}'$$,
    'every partition has its two indexes and no other');
select is_empty($$
    select i.inhrelid::regclass from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'tasker.queue_record'::regclass and coalesce(c.reloptions, '{}') && '{fillfactor=100}'
       or i.inhparent = 'tasker.queue_record'::regclass and array_to_string(c.reloptions, ',') !~ 'fillfactor=[23]\d\M'$$,
    'every partition leaves room in its pages');

select * from finish();
rollback;
