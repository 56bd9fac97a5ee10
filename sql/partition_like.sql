-- Partitioned tables of the shape of a plain one.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
set client_min_messages = notice;
set timezone = 'UTC';

-- Errors with their SQLSTATE, without the place in the source.
create function pg_temp.error_of(statement text) returns text language plpgsql as $$
declare
    message text; detail text; hint text;
begin
    execute statement;
    return 'no error';
exception when others then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    return concat_ws(' | ', sqlstate, message, nullif(detail, ''), nullif(hint, ''));
end $$;

create role like_owner;
create role like_reader;
create schema like_test;
grant usage, create on schema like_test to like_owner;
grant usage on schema like_test to like_reader;

-- A source with everything.
set role like_owner;
create table like_test.customer (id int primary key, name text);
insert into like_test.customer select i, 'c' || i from generate_series(1, 9) i;
create table like_test.users (login name primary key, customer int);
insert into like_test.users values ('like_reader', 2);
create function like_test.stamp() returns trigger language plpgsql as
    'begin new.note := concat_ws('','', new.note, tg_name); return new; end';
create table like_test.orders (
    id bigint generated always as identity (increment 10),
    number serial,
    gone text,
    at timestamptz not null default '2020-01-01',
    customer int not null references like_test.customer on delete cascade deferrable initially deferred,
    amount numeric(10, 2) check (amount >= 0),
    doubled numeric generated always as (amount * 2) stored,
    note text compression pglz collate "C",
    email text,
    constraint orders_pkey primary key (id),
    constraint orders_number_key unique (number) include (at) deferrable initially deferred,
    constraint "at and customer" unique nulls not distinct (at, customer, number)
) with (fillfactor = 80, autovacuum_enabled = off, toast.autovacuum_vacuum_threshold = 99);
alter table like_test.orders drop column gone;
alter table like_test.orders alter note set storage external, alter amount set statistics 123,
    alter customer set (n_distinct = 9);
create index on like_test.orders (customer) where amount > 5;
create unique index on like_test.orders (lower(email));
create index orders_note on like_test.orders using hash (note);
alter index like_test.orders_lower_idx alter column 1 set statistics 44;
create statistics like_test.both (ndistinct) on at, customer from like_test.orders;
create trigger " ON like_test.orders " before insert on like_test.orders for each row
    when (new.amount is distinct from 0) execute function like_test.stamp();
create trigger off_row before update of note, amount on like_test.orders for each row execute function
    like_test.stamp('an argument');
create constraint trigger late after insert on like_test.orders deferrable for each row execute function
    like_test.stamp();
create trigger whole after delete on like_test.orders referencing old table as o execute function
    like_test.stamp();
alter table like_test.orders disable trigger off_row, enable always trigger late;
alter table like_test.orders enable row level security;
create policy own on like_test.orders for select to like_reader using (exists (select from like_test.users u
    where u.login = current_user and u.customer = orders.customer));
create policy positive on like_test.orders as restrictive for insert with check (amount < 1000);
alter table like_test.orders replica identity using index "at and customer";
grant select on like_test.orders to like_reader;
grant select on like_test.users to like_reader;
grant update (note) on like_test.orders to like_reader with grant option;
comment on table like_test.orders is 'orders of customers';
comment on column like_test.orders.amount is 'in euros';
comment on index like_test.orders_note is 'for equality';
comment on constraint orders_amount_check on like_test.orders is 'no debts';
insert into like_test.orders (at, customer, amount, email) select
    timestamptz '2021-03-05 12:00+00' + i * interval '10 days', i, i, 'e' || i from generate_series(1, 9) i;
create table like_test.line (order_id bigint references like_test.orders, n int);
reset role;
set client_min_messages = error;
create publication like_publication for table like_test.orders;
set client_min_messages = notice;

select tasker.create_partitioned_table_like('like_test.orders', 'Orders by month', 'at', '1 month', premake => 0,
    retention => '100 years');
select parent, control, control_kind, partition_interval, premake, retention, retention_action
from tasker.part_config where parent = 'like_test."Orders by month"'::regclass;
select count(*) = 1 + (extract(year from age(date_trunc('month', now(), 'UTC'), timestamptz '2021-03-01')) * 12 +
    extract(month from age(date_trunc('month', now(), 'UTC'), timestamptz '2021-03-01'))) as from_the_first_row_to_now,
    min(lower_bound) as first
from tasker.show_partitions('like_test."Orders by month"');

-- The same shape.
create view pg_temp.shape as
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as filled, a.attidentity as identity,
    a.attgenerated as generated, pg_get_expr(d.adbin, d.adrelid) as default, a.attstorage as storage,
    a.attcompression as compression, a.attstattarget as target, a.attacl, col_description(c.oid, a.attnum) as comment
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'like_test'::regnamespace;
select * from pg_temp.shape where relname = 'Orders by month' order by attname;
select count(*) as differences from (select attname, type, identity, generated, "default", storage, compression, target,
    attacl, comment from pg_temp.shape where relname = 'orders' except select attname, type, identity, generated, "default",
    storage, compression, target, attacl, comment from pg_temp.shape where relname = 'Orders by month') d;
select relname, relowner::regrole, relacl, relrowsecurity, relforcerowsecurity, relreplident, obj_description(oid) as comment
from pg_class where oid in ('like_test.orders'::regclass, 'like_test."Orders by month"'::regclass,
    'like_test."Orders by month_p2021_04"'::regclass) order by relname;
select conname, contype, condeferrable as deferrable, condeferred as deferred, pg_get_constraintdef(oid),
    obj_description(oid, 'pg_constraint') as comment
from pg_constraint where conrelid = 'like_test."Orders by month"'::regclass order by contype, conname;
select indexrelid::regclass, indisreplident as identity, indisvalid as valid, pg_get_indexdef(indexrelid),
    obj_description(indexrelid, 'pg_class') as comment, (select max(attstattarget) from pg_attribute where attrelid = indexrelid)
    as target from pg_index where indrelid = 'like_test."Orders by month"'::regclass order by indexrelid::regclass::text;
select tgname, tgenabled, pg_get_triggerdef(oid) from pg_trigger
where tgrelid = 'like_test."Orders by month"'::regclass and not tgisinternal order by tgname;
select polname, pg_get_expr(polqual, polrelid) as "using", pg_get_expr(polwithcheck, polrelid) as "check", polcmd, polpermissive,
    polroles::regrole[] from pg_policy where polrelid = 'like_test."Orders by month"'::regclass order by polname;
select pg_get_statisticsobjdef_columns(oid), stxkind from pg_statistic_ext
where stxrelid = 'like_test."Orders by month"'::regclass;
select reloptions, (select reloptions from pg_class t where t.oid = c.reltoastrelid) as toast
from pg_class c where oid = 'like_test."Orders by month_p2021_04"'::regclass;
select pg_get_serial_sequence('like_test."Orders by month"', 'id') <> pg_get_serial_sequence('like_test.orders', 'id')
    as own_identity, pg_get_serial_sequence('like_test."Orders by month"', 'number') as serial_is_the_source_s;

-- It works like the source, and goes on where that stands.
set role like_owner;
insert into like_test."Orders by month" (at, customer, amount, email) values
    ('2021-04-01', 2, 5, 'a'), ('2021-05-01', 3, 0, 'a') returning id, number, at, customer, doubled, note;
insert into like_test."Orders by month" (at, customer, amount) values ('2021-04-01', 2, -5);
insert into like_test."Orders by month" (at, customer, amount) values ('2021-04-01', 77, 5);
insert into like_test."Orders by month" (at, customer, amount, email) values ('2021-04-01', 2, 5, 'A');
set role like_reader;
select id, customer from like_test."Orders by month";
select count(*) from like_test."Orders by month_p2021_04";
reset role;

-- Other controls, and where partitions begin.
create table like_test.numbers (n smallint not null, v text, unique (v));
insert into like_test.numbers values (321, 'a'), (555, 'b');
select tasker.create_partitioned_table_like('like_test.numbers', 'numbers_parts', 'n', '100', 1);
select partition, lower_bound, upper_bound from tasker.show_partitions('like_test.numbers_parts');
create unlogged table like_test.days (d date, v text);
insert into like_test.days values ('-infinity', 'first'), (current_date - 2, 'then'), (null, 'never');
set datestyle = 'german';
select tasker.create_partitioned_table_like('like_test.days', 'days_parts', 'd', '1 day', 1);
reset datestyle;
select count(*), min(lower_bound::date) = current_date - 2 as first from tasker.show_partitions('like_test.days_parts');
select distinct relpersistence from pg_class where relname like 'days\_parts%';
create table like_test.uuids (id uuid primary key, v text);
insert into like_test.uuids select (lpad(to_hex((extract(epoch from date_trunc('day', now()) - interval '1 hour') * 1000)::bigint), 12, '0') ||
    '7000a000000000000000')::uuid;
select tasker.create_partitioned_table_like('like_test.uuids', 'uuids_parts', 'id', '1 day', 1);
select count(*) from tasker.show_partitions('like_test.uuids_parts');
create table like_test.empty (at timestamp primary key);
select tasker.create_partitioned_table_like('like_test.empty', 'empty_parts', 'at', '1 day', 2);
select count(*) from tasker.show_partitions('like_test.empty_parts');
select tasker.create_partitioned_table_like('like_test.numbers', 'numbers_from', 'n', '100', 1, start_at => '700');
select partition, lower_bound, upper_bound from tasker.show_partitions('like_test.numbers_from');

-- What cannot be carried is refused, and leaves nothing.
create view like_test.view as select 1::bigint as n;
create materialized view like_test.matview as select 1::bigint as n;
create table like_test.parent (n bigint) partition by range (n);
create table like_test.part partition of like_test.parent default;
create table like_test.ancestor (n bigint);
create table like_test.heir () inherits (like_test.ancestor);
create type like_test.composite as (n bigint);
create table like_test.typed of like_test.composite;
create temporary table temporary (n bigint);
create table like_test.excluding (n bigint, r int4range, exclude using gist (r with &&));
create table like_test.not_valid (n bigint);
alter table like_test.not_valid add constraint later check (n > 0) not valid;
create table like_test.not_inherited (n bigint, constraint mine check (n > 0) no inherit);
create table like_test.itself (n bigint primary key, up bigint references like_test.itself);
create table like_test.ruled (n bigint);
create rule silent as on delete to like_test.ruled do instead nothing;
create table like_test.transition (n bigint, note text);
create trigger each after insert on like_test.transition referencing new table as rows for each row
    execute function like_test.stamp();
create table like_test.old (at timestamptz not null, g bigint generated always as (1) stored, f float8);
insert into like_test.old values ('1900-01-01');
select pg_temp.error_of(format('select tasker.create_partitioned_table_like(%L, ''p'', ''n'', ''10'')', source))
from unnest(array['like_test.view', 'like_test.matview', 'like_test.parent', 'like_test.part', 'like_test.ancestor',
    'like_test.heir', 'like_test.typed', 'temporary', 'like_test.excluding', 'like_test.not_valid',
    'like_test.not_inherited', 'like_test.itself', 'like_test.ruled', 'like_test.transition', 'pg_class',
    'tasker.part_config', 'like_test.orders_number_seq']) source;
select regexp_replace(pg_temp.error_of(statement), 'than \d+ part', 'than so many part') as error_of from unnest(array[
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', 'g', '10')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', 'f', '10')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', 'nothing', '10')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', 'at', '1 hour')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', 'at', '10')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'ruled', 'at', '1 year')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', '', 'at', '1 year')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', null, 'at', '1 year')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', null, '1 year')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', 'at', null)$$,
    $$select tasker.create_partitioned_table_like(null, 'p', 'at', '1 year')$$,
    $$select tasker.create_partitioned_table_like('like_test.old', 'p', 'at', '1 year', retention_action => 'burn')$$]) statement;
grant tasker_admin to like_owner;
set role like_owner;
select pg_temp.error_of($$select tasker.create_partitioned_table_like('like_test.old', 'p', 'at', '1 year')$$);
reset role;
select to_regclass('like_test.p');

drop publication like_publication;
set client_min_messages = warning;
drop schema like_test cascade;
call tasker.run_maintenance('tasker.queue_record');
select count(*) as sets_left from tasker.part_config where parent::text like '%like_test%';
revoke tasker_admin from like_owner;
drop role like_owner, like_reader;
