-- What create_parent(), alter_parent(), drop_partition_set() and create_partition() refuse, and that nothing is half done
-- after it: bad arguments, tables that cannot be sets, other people's tables, transactions that roll back.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
set timezone = 'UTC';
create schema bad;
set search_path = bad, public;

-- Errors with their SQLSTATE, without the place in the source. OIDs and lists of columns are cut.
create function error_of(statement text) returns text language plpgsql as $$
declare
    message text; detail text; hint text;
begin
    execute statement;
    return 'no error';
exception when others then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    return concat_ws(' | ', sqlstate, message, nullif(detail, ''), nullif(hint, ''));
end $$;

create table t (at timestamptz not null, id bigint, n int, u uuid, label text) partition by range (at);
create table numbers (n int) partition by range (n);
create table ids (id bigint) partition by range (id);
create table days (at date) partition by range (at);
create table plain (at timestamptz);
create table by_list (at timestamptz) partition by list (at);
create table by_hash (at timestamptz) partition by hash (at);
create table by_two (at timestamptz, n int) partition by range (at, n);
create table by_expression (at timestamp) partition by range ((at + interval '1 day'));
create table by_text (at text) partition by range (at);
create table by_numeric (at numeric) partition by range (at);
create table by_float (at float8) partition by range (at);
create table by_time (at time) partition by range (at);
create operator class backwards for type int using btree as operator 1 >, operator 2 >=, operator 3 =, operator 4 <=,
    operator 5 <, function 1 btint4cmp(int, int);
create table by_other_order (n int) partition by range (n backwards);
create table nested (at timestamptz) partition by range (at);
create table nested_part partition of nested for values from ('2004-01-01') to ('2005-01-01') partition by list (at);
create temporary table short_lived (at timestamptz) partition by range (at);
create view looks_like as select * from plain;
create materialized view kept as select * from plain;
create sequence counter;
create index plain_at on plain (at);
create index t_at on t (at);
create type composite as (at timestamptz);
create foreign data wrapper bad_wrapper;
create server bad_server foreign data wrapper bad_wrapper;
create foreign table away (at timestamptz) server bad_server;
create table """quoted"" "";drop table plain;--" ("at ""it" timestamptz) partition by range ("at ""it");

select statement, error_of(statement) from unnest(array[
    -- What is not a table for this.
    $$select tasker.create_parent(null, 'at', '1 day')$$,
    $$select tasker.create_parent('plain', 'at', '1 day')$$,
    $$select tasker.create_parent('looks_like', 'at', '1 day')$$,
    $$select tasker.create_parent('kept', 'at', '1 day')$$,
    $$select tasker.create_parent('counter', 'at', '1 day')$$,
    $$select tasker.create_parent('plain_at', 'at', '1 day')$$,
    $$select tasker.create_parent('t_at', 'at', '1 day')$$,
    $$select tasker.create_parent('composite', 'at', '1 day')$$,
    $$select tasker.create_parent('away', 'at', '1 day')$$,
    $$select tasker.create_parent('pg_class', 'at', '1 day')$$,
    $$select tasker.create_parent('by_list', 'at', '1 day')$$,
    $$select tasker.create_parent('by_hash', 'at', '1 day')$$,
    $$select tasker.create_parent('by_two', 'at', '1 day')$$,
    $$select tasker.create_parent('by_expression', 'at', '1 day')$$,
    $$select tasker.create_parent('by_text', 'at', '1 day')$$,
    $$select tasker.create_parent('by_numeric', 'at', '10')$$,
    $$select tasker.create_parent('by_float', 'at', '10')$$,
    $$select tasker.create_parent('by_time', 'at', '1 hour')$$,
    $$select tasker.create_parent('by_other_order', 'n', '10')$$,
    $$select tasker.create_parent('nested', 'at', '1 day')$$,
    $$select tasker.create_parent('nested_part', 'at', '1 day')$$,
    $$select tasker.create_parent('short_lived', 'at', '1 day')$$,
    $$select tasker.create_parent('tasker.queue_record', 'id', '1 day')$$,
    $$select tasker.create_parent('tasker.flow', 'flow_id', '1 day')$$,
    $$select tasker.create_parent('no_such_table', 'at', '1 day')$$,
    $$select tasker.create_parent(0, 'at', '1 day')$$,
    $$select tasker.create_parent(4294967295, 'at', '1 day')$$,
    -- The control column.
    $$select tasker.create_parent('t', null, '1 day')$$,
    $$select tasker.create_parent('t', '', '1 day')$$,
    $$select tasker.create_parent('t', 'id', '1 day')$$,
    $$select tasker.create_parent('t', 'AT', '1 day')$$,
    $$select tasker.create_parent('t', 'no_such_column', '1 day')$$,
    $$select tasker.create_parent('t', 'tableoid', '1 day')$$,
    $$select tasker.create_parent('t', 'at; drop table plain', '1 day')$$,
    $$select tasker.create_parent('"""quoted"" "";drop table plain;--"', 'at', '1 day')$$,
    -- The interval.
    $$select tasker.create_parent('t', 'at', null)$$,
    $$select tasker.create_parent('t', 'at', '')$$,
    $$select tasker.create_parent('t', 'at', 'daily')$$,
    $$select tasker.create_parent('t', 'at', '86400')$$,
    $$select tasker.create_parent('t', 'at', '0 days')$$,
    $$select tasker.create_parent('t', 'at', '-1 day')$$,
    $$select tasker.create_parent('t', 'at', '59 seconds')$$,
    $$select tasker.create_parent('t', 'at', '1 minute 0.5 seconds')$$,
    $$select tasker.create_parent('t', 'at', '1 month 1 day')$$,
    $$select tasker.create_parent('t', 'at', '178000001 years')$$,
    $$select tasker.create_parent('t', 'at', '1 day''; drop table plain; --')$$,
    $$select tasker.create_parent('days', 'at', '1 hour')$$,
    $$select tasker.create_parent('days', 'at', '36 hours')$$,
    $$select tasker.create_parent('numbers', 'n', '1 day')$$,
    $$select tasker.create_parent('numbers', 'n', '0')$$,
    $$select tasker.create_parent('numbers', 'n', '-10')$$,
    $$select tasker.create_parent('numbers', 'n', '1.5')$$,
    $$select tasker.create_parent('numbers', 'n', '1e6')$$,
    $$select tasker.create_parent('numbers', 'n', '9223372036854775808')$$,
    $$select tasker.create_parent('ids', 'id', ' -10 ')$$,
    $$select tasker.create_parent('ids', 'id', '10 10')$$,
    -- The rest.
    $$select tasker.create_parent('t', 'at', '1 day', null)$$,
    $$select tasker.create_parent('t', 'at', '1 day', -1)$$,
    $$select tasker.create_parent('t', 'at', '1 day', 1001)$$,
    $$select tasker.create_parent('t', 'at', '1 day', 2147483647)$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention => '-1 day')$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention => '5000 years')$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention => '178000000 years')$$,
    $$select tasker.create_parent('numbers', 'n', '10', retention => '1 day')$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention_action => null)$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention_action => '')$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention_action => 'DROP')$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention_action => 'schema:')$$,
    $$select tasker.create_parent('t', 'at', '1 day', retention_action => 'schema:' || repeat('x', 64))$$,
    $$select tasker.create_parent('t', 'at', '1 day', timezone => null)$$,
    $$select tasker.create_parent('t', 'at', '1 day', timezone => '')$$,
    $$select tasker.create_parent('t', 'at', '1 day', timezone => 'Mars/Olympus')$$,
    $$select tasker.create_parent('t', 'at', '1 day', timezone => '../../etc/passwd')$$,
    $$select tasker.create_parent('t', 'at', '1 day', timezone => repeat('x', 1000))$$,
    $$select tasker.create_parent('t', 'at', '1 day', start_at => '')$$,
    $$select tasker.create_parent('t', 'at', '1 day', start_at => 'long ago')$$,
    $$select tasker.create_parent('t', 'at', '1 day', start_at => '-infinity')$$,
    $$select tasker.create_parent('t', 'at', '1 day', start_at => '2026-02-30')$$,
    $$select tasker.create_parent('t', 'at', '1 minute', 0, start_at => '1970-01-01')$$,
    $$select tasker.create_parent('numbers', 'n', '10', start_at => '2147483648')$$,
    $$select tasker.create_parent('numbers', 'n', '10', start_at => '2026-01-01')$$,
    $$select tasker.create_parent('ids', 'id', '1 day', start_at => '1969-12-31')$$
]) as statement \gx
-- Nothing of it has left anything.
select parent from tasker.part_config where not owner_set;
select inhrelid::regclass from pg_inherits join pg_class on oid = inhrelid
where relnamespace = 'bad'::regnamespace and inhrelid <> 'nested_part'::regclass and relkind <> 'I';

-- A set that exists, and settings of it.
select tasker.create_parent('t', 'at', '1 day', 0);
select tasker.create_parent('numbers', 'n', '10', 0);
select tasker.create_parent('"""quoted"" "";drop table plain;--"', 'at "it', '1 day', 0);
select tasker.create_partition('"""quoted"" "";drop table plain;--"', '2004-02-29');
select statement, error_of(statement) from unnest(array[
    $$select tasker.create_parent('t', 'at', '1 month')$$,
    $$select tasker.alter_parent('t', 'partition_interval', null)$$,
    $$select tasker.alter_parent('t', 'partition_interval', '3600')$$,
    $$select tasker.alter_parent('t', 'partition_interval', '1 second')$$,
    $$select tasker.alter_parent('t', 'partition_interval', 'infinity')$$,
    $$select tasker.alter_parent('numbers', 'partition_interval', '1 day')$$,
    $$select tasker.alter_parent('numbers', 'partition_interval', '-1')$$,
    $$select tasker.alter_parent('numbers', 'retention', '1 day')$$,
    $$select tasker.alter_parent('numbers', 'retention', '-1')$$,
    $$select tasker.alter_parent('t', 'retention', '10000 years')$$,
    $$select tasker.alter_parent('t', 'retention', '100')$$,
    $$select tasker.alter_parent('t', 'retention_action', 'schema:')$$,
    $$select tasker.alter_parent('t', 'retention_action', null)$$,
    $$select tasker.alter_parent('t', 'timezone', '')$$,
    $$select tasker.alter_parent('t', 'legal_hold', '2')$$,
    $$select tasker.alter_parent('t', 'opened_in', 'here')$$,
    $$select tasker.alter_parent('t', 'PREMAKE', '1')$$,
    $$select tasker.alter_parent('plain', 'premake', '1')$$,
    $$select tasker.alter_parent(0, 'premake', '1')$$,
    $$select tasker.drop_partition_set(null)$$,
    $$select tasker.drop_partition_set(0)$$,
    $$select tasker.drop_partition_set('plain')$$,
    $$select tasker.drop_partition_set('looks_like')$$,
    $$select tasker.drop_partition_set('days')$$,
    $$select tasker.drop_partition_set('tasker.queue_record')$$,
    $$select tasker.create_partition('t', null)$$,
    $$select tasker.create_partition('t', '5')$$,
    $$select tasker.create_partition('numbers', '2147483648')$$,
    $$select tasker.create_partition('numbers', '1.5')$$,
    $$select tasker.create_partition('days', '2004-02-29')$$,
    $$select tasker.partition_of('numbers', 'seven')$$,
    -- Postgres keeps the control column as it is.
    $$alter table t alter at type timestamp$$,
    $$alter table t drop at$$
]) as statement \gx
select parent, control, control_kind, partition_interval, premake, retention, retention_keys, retention_action, timezone
from tasker.part_config where not owner_set order by parent::text;

-- Names change, the set stays.
alter table t rename at to happened_at;
alter table t rename to t2;
create schema bad2;
alter table t2 set schema bad2;
select tasker.create_partition('bad2.t2', '2004-02-29');
select to_regclass('bad2.t2_p20040229') is not null as made;
call tasker.run_maintenance('bad2.t2');
select parent, control from tasker.part_config where parent = 'bad2.t2'::regclass;
alter table bad2.t2 set schema bad;
alter table t2 rename to t;

-- Whose table it is, counts; and who may manage at all.
create role bad_owner;
create role bad_admin in role tasker_admin;
create role bad_owning_admin in role tasker_admin, bad_owner;
grant usage, create on schema bad to bad_owner, bad_admin, bad_owning_admin;
alter table days owner to bad_owner;
alter table t owner to bad_owner;
set role bad_owner;
select tasker.create_parent('days', 'at', '1 day');
select tasker.drop_partition_set('t');
set role tasker_observer;
select tasker.create_parent('days', 'at', '1 day');
set role bad_admin;
select tasker.create_parent('days', 'at', '1 day');
select tasker.create_parent('tasker.queue_record', 'id', '1 day');
select tasker.alter_parent('t', 'premake', '1');
select tasker.drop_partition_set('t');
insert into tasker.part_config (parent, control, control_kind, partition_interval, opened_in) values ('days', 'at', 'date', '1 day', '');
set role bad_owning_admin;
select tasker.create_parent('days', 'at', '1 day', 0);
select tasker.create_partition('days', '2004-02-29');
select relowner::regrole from pg_class where oid = 'days_p20040229'::regclass;
select tasker.alter_parent('days', 'premake', '1'), tasker.drop_partition_set('days');
reset role;
-- The owner may own the table and yet not be let into the schema. (Warnings from here on would tell today's date.)
set client_min_messages = error;
revoke all on schema bad from bad_owner;
set role bad_owning_admin;
select tasker.create_parent('bad.days', 'at', '1 month', 0);
reset role;
select count(*) from tasker.part_config where parent = 'days'::regclass;
-- Rights on our own tables come from nobody's search_path.
create table bad.part_config (like tasker.part_config);
create function bad.pg_get_expr(pg_node_tree, oid) returns text language sql as 'select ''bad''';
set search_path = bad, pg_catalog;
select tasker.create_parent('days', 'at', '1 month', 0);
select tasker.create_partition('days', '2004-03-15');
select tasker.drop_partition_set('days');
select count(*) from bad.part_config;
reset search_path;
set search_path = bad, public;

-- Transactions.
begin;
create table tx (at timestamptz) partition by range (at);
select tasker.create_parent('tx', 'at', '1 day', 3);
insert into tx values (now()), (now() + interval '1 day');
select partitions, partitions_ahead from tasker.partition_status where parent = 'tx'::regclass;
rollback;
select count(*) from tasker.part_config where not owner_set and parent::text like 'tx%';
create table tx (at timestamptz) partition by range (at);
begin;
savepoint a;
select tasker.create_parent('tx', 'at', '1 day', 3);
savepoint b;
select tasker.alter_parent('tx', 'premake', '5');
rollback to b;
select premake from tasker.part_config where parent = 'tx'::regclass;
rollback to a;
select count(*) from tasker.part_config where parent = 'tx'::regclass;
select count(*) from pg_inherits where inhparent = 'tx'::regclass;
select tasker.create_parent('tx', 'at', '1 month', 1);
commit;
select count(*) from tasker.show_partitions('tx');
begin isolation level repeatable read;
select count(*) from tx;
select tasker.drop_partition_set('tx'), tasker.create_parent('tx', 'at', '1 month', 2), tasker.create_partition('tx', '2004-02-29');
insert into tx values ('2004-02-29');
commit;
select premake, (select count(*) from tasker.show_partitions('tx')) from tasker.part_config where parent = 'tx'::regclass;
begin;
select tasker.drop_partition_set('tx');
select tasker.create_parent('tx', 'at', '1 month', 4);
prepare transaction 'bad';
select premake from tasker.part_config where parent = 'tx'::regclass;
set lock_timeout = '10ms';
select tasker.alter_parent('tx', 'premake', '7');
reset lock_timeout;
commit prepared 'bad';
select premake, (select count(*) from tasker.show_partitions('tx')) from tasker.part_config where parent = 'tx'::regclass;
begin;
select tasker.create_parent('days', 'at', '1 day', 0);
prepare transaction 'bad';
rollback prepared 'bad';
select count(*) from tasker.part_config where parent = 'days'::regclass;
begin read only;
select tasker.create_parent('days', 'at', '1 day');
rollback;
begin read only;
select tasker.drop_partition_set('tx');
rollback;
-- A statement that is using the table.
create function make_set() returns trigger language plpgsql as $$
begin
    perform tasker.create_parent('tx2', 'at', '1 month', 0);
    return new;
end $$;
create table tx2 (at timestamptz) partition by range (at);
create table tx2_default partition of tx2 default;
create trigger make_set before insert on tx2 for each row execute function make_set();
insert into tx2 values ('2004-02-29');
select count(*) from tasker.part_config where parent = 'tx2'::regclass;

drop schema bad, bad2 cascade;
drop foreign data wrapper bad_wrapper cascade;
drop role bad_owner, bad_admin, bad_owning_admin;
call tasker.run_maintenance();
select parent from tasker.part_config where not owner_set;
select * from tasker.part_failure;
