-- What can be seen of partition sets: partitions, health, growth, pruning, advice and pictures.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
set timezone = 'UTC';
set client_min_messages = error;
create schema views;
create schema "views, old";
set search_path = views, public;

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

-- A set of numbers, made by hand: open at the bottom, a hole, a DEFAULT partition, one in another schema, one that
-- is partitioned itself.
create table points (n bigint not null, t text) partition by range (n);
create table points_low partition of points for values from (minvalue) to (0);
create table "views, old"."Points 1" partition of points for values from (0) to (1000);
create table points_rest partition of points default;
select tasker.create_parent('points', 'n', '1000', premake => 0);
create table points_split partition of points for values from (5000) to (6000) partition by range (n);
create table points_split_a partition of points_split for values from (5000) to (5500);
create table points_split_b partition of points_split for values from (5500) to (6000);
insert into points select g, 'x' from generate_series(-10, 1100) g;
insert into points select g, 'x' from generate_series(5400, 5600) g;
insert into points values (100000, 'far');
select pg_stat_force_next_flush();
analyze points;
select * from tasker.show_partitions('points');
select v, tasker.partition_of('points', v) from unnest(array['MINVALUE', '-1', '0', '999', '1000', '4999', '5999',
    '100000', 'maxvalue']) v;
-- Every bound is read back as the same key.
select bool_and(tasker.partition_of('points', lower_bound)::regclass = partition) from tasker.show_partitions('points')
where state <> 'default';
set client_encoding = 'LATIN1';
select * from tasker.partition_picture('points');
select * from tasker.partition_picture('points', 72);
reset client_encoding;
select health, partitions, partitions_ahead, oldest, newest, overdue, default_rows, gaps_ahead, problems
from tasker.partition_status where parent = 'points'::regclass;
select * from tasker.check_default();
select * from tasker.check_default('points');
select partition, lower_bound, upper_bound, state, is_current, rows_estimate, size, percent_of_set
from tasker.partition_sizes where parent = 'points'::regclass;
select parent, partitions, rows_estimate, rows_per_day, suggested_interval
from tasker.partition_growth where parent = 'points'::regclass;

-- Later partitions behind a hole do not count as ready; where the rest is empty, all is well.
delete from points_rest;
select tasker.create_partition('points', '3000'), tasker.create_partition('points', '8000');
begin;
select tasker.alter_parent('points', 'premake', '2');
select health, partitions_ahead, gaps_ahead, default_rows, problems from tasker.partition_status
where parent = 'points'::regclass;
rollback;
drop table points_p8000;
select pg_stat_force_next_flush();
vacuum analyze points_rest;
select health, partitions_ahead, gaps_ahead, default_rows, problems from tasker.partition_status
where parent = 'points'::regclass;
select * from tasker.check_default();

-- A set that ends: nothing can be ahead of it.
create table ends (at timestamp) partition by range (at);
create table ends_1 partition of ends for values from (minvalue) to ('2020-01-01');
create table ends_2 partition of ends for values from ('2020-01-01') to (maxvalue);
select tasker.create_parent('ends', 'at', '1 month');
select * from tasker.show_partitions('ends');
select v, tasker.partition_of('ends', v) from unnest(array['-infinity', '2019-12-31 23:59:59.999999', '2020-01-01',
    'infinity']) v;
select health, partitions_ahead, problems from tasker.partition_status where parent = 'ends'::regclass;
create table small (n smallint) partition by range (n);
select tasker.create_parent('small', 'n', '10000', start_at => '30000');
select * from tasker.show_partitions('small');
select health, partitions_ahead, problems from tasker.partition_status where parent = 'small'::regclass;

-- Rows of now in the DEFAULT partition, and nowhere at all.
create table loose (at date) partition by range (at);
create table loose_rest partition of loose default;
select tasker.create_parent('loose', 'at', '1 year', premake => 0);
select health, problems from tasker.partition_status where parent = 'loose'::regclass;
begin;
do $$ begin execute 'drop table ' || tasker.partition_of('loose', current_date::text); end $$;
select health, problems, default_rows from tasker.partition_status where parent = 'loose'::regclass;
select partition, is_current, state from tasker.show_partitions('loose');
select tasker.partition_of('loose', 'today');
drop table loose_rest;
select health, problems, default_rows from tasker.partition_status where parent = 'loose'::regclass;
set client_encoding = 'LATIN1';
select * from tasker.partition_picture('loose');
reset client_encoding;
select to_char(current_date, '"views.loose_p"YYYY') = tasker.partition_of('loose', 'today') as would_be;
rollback;

-- Time-ordered keys: bounds are times, in the session's time zone.
create table ids (id uuid primary key) partition by range (id);
select tasker.create_parent('ids', 'id', '1 month', premake => 0, start_at => (now() - interval '40 days')::text);
select bool_and(lower_bound ~ '^\d{4}-\d\d-01 00:00:00\+00$'), bool_and(tasker.partition_of('ids', lower_bound)::regclass = partition),
    count(*) filter (where is_current)
from tasker.show_partitions('ids');
set timezone = 'Asia/Tokyo';
select bool_and(lower_bound ~ '^\d{4}-\d\d-01 09:00:00\+09$'), bool_and(tasker.partition_of('ids', lower_bound)::regclass = partition)
from tasker.show_partitions('ids');
set timezone = 'UTC';
create table stamps (id bigint, at timestamptz) partition by range (id);
create table stamps_odd partition of stamps for values from (1) to (77);
select tasker.create_parent('stamps', 'id', '1 year', premake => 0);
select lower_bound, upper_bound, tasker.partition_of('stamps', lower_bound) from tasker.show_partitions('stamps') limit 1;

-- Growth: ten full days with 240 rows each, and a day of more before.
create table grows (at timestamptz not null, filler text) partition by range (at);
select tasker.create_parent('grows', 'at', '1 day', retention => '30 days',
    start_at => (date_trunc('day', now()) - interval '11 days')::text);
insert into grows select date_trunc('day', now()) - g * interval '6 minutes', 'x' from generate_series(1, 2400) g;
insert into grows select date_trunc('day', now()) - interval '10 days' - g * interval '1 minute', 'x'
from generate_series(1, 1440) g;
select pg_stat_force_next_flush();
analyze grows;
select partitions, rows_estimate, rows_per_day, bytes_per_day > 8192 as bytes, rows_per_day_before, retention, bytes_expected = 30 * bytes_per_day as expected,
    suggested_interval
from tasker.partition_growth where parent = 'grows'::regclass;
select count(*) - count(*) filter (where line ~ '^. \d{4}-\d\d-\d\d[^\d]') from tasker.partition_picture('grows') line;

-- Pruning
select partitions, scanned from tasker.check_pruning('select * from grows where at >= now() - interval ''2 days''');
select parent, partitions, scanned, scanned_partitions from tasker.check_pruning('select * from points where n between 5 and 1005');
select parent, partitions, scanned from tasker.check_pruning('select * from points where t = ''x''');
select parent, partitions, scanned, scanned_partitions from tasker.check_pruning('delete from points where n = 5100');
select parent, partitions, scanned from tasker.check_pruning(
    'with p as (select * from points where n = 1) select * from p where exists (select from ends where at > ''2021-01-01'')')
order by parent::text;
select * from tasker.check_pruning('select 1');
select parent, scanned from tasker.check_pruning('select * from points where false');
create view seen as select * from points where n < 0;
select parent, scanned, scanned_partitions from tasker.check_pruning('select * from seen');

-- Advice. The rate is that of the newer half.
create table source (at timestamptz, day date, clock timestamp, n int, big bigint, id uuid, t text);
create index on source (at);
select rows_per_day, partition_interval, premake, rows_estimate, oldest, reason from tasker.suggest_interval('source', 'at');
insert into source (at, day, clock, n, big, id) values ('2026-01-01', '2026-01-01', '2026-01-01', 1, 1, '019b76da-a800-7000-8000-000000000000');
select rows_per_day, partition_interval, premake, oldest, newest, reason from tasker.suggest_interval('source', 'at');
truncate source;
insert into source select '2026-01-01', '2026-01-01', '2026-01-01', g, g, null from generate_series(1, 10) g;
select rows_per_day, partition_interval, reason from tasker.suggest_interval('source', 'at');
select rows_per_day, partition_interval, reason from tasker.suggest_interval('source', 'id');
select rows_per_day, partition_interval, premake, reason from tasker.suggest_interval('source', 'n');
-- 1,000 rows a day for a year, with some from elsewhere and some without
truncate source;
insert into source select t, t, t, g, 1000000 + 20 * g,
    (lpad(to_hex((extract(epoch from t) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(g % 4096), 3, '0') || '8000000000000000')::uuid
from (select g, date_trunc('day', now()) - interval '365 days' + g * interval '86.4 seconds' as t from generate_series(1, 365000) g) s;
select c, s.rows_per_day between 950 and 1050 as a_day, s.partition_interval, s.premake,
    s.rows_per_partition between 28000 and 55000 as a_partition, s.rows_estimate between 345000 and 385000 as in_all,
    regexp_replace(s.reason, '^[\d,]+|[\d,]+(?= pages)', 'so many', 'g') as reason
from unnest(array['at', 'day', 'clock', 'n', 'big', 'id']::name[]) c cross join lateral tasker.suggest_interval('source', c) s;
insert into source (at) values ('infinity'), ('-infinity'), ('0001-01-01'), ('9999-12-31'), (null);
select partition_interval, rows_per_day between 950 and 1050 as about from tasker.suggest_interval('source', 'at');
-- Faster: a week from 100,000 a day, a day from 1,000,000 a day
truncate source;
insert into source (at) select now() - g * interval '0.5 second' from generate_series(1, 50000) g;
select partition_interval, premake, round(rows_per_day, -3), reason from tasker.suggest_interval('source', 'at');
truncate source;
insert into source (at) select now() - g * interval '50 milliseconds' from generate_series(1, 50000) g;
select partition_interval, premake, round(rows_per_day, -4), reason from tasker.suggest_interval('source', 'at');
-- Ids that carry their time; numbers of a table without any time
create table carried as select ((extract(epoch from now() - g * interval '1 minute') * 1000)::bigint << 20) + g as id
from generate_series(1, 20000) g;
select rows_per_day, partition_interval, reason from tasker.suggest_interval('carried', 'id');
create table timeless as select g::int as n from generate_series(10, 20000, 10) g;
select rows_per_day, partition_interval, premake, rows_per_partition, reason from tasker.suggest_interval('timeless', 'n');
-- Partitioned already
select rows_per_day is not null as known, partition_interval from tasker.suggest_interval('grows', 'at');

-- What is wrong is said.
insert into source (id) select gen_random_uuid() from generate_series(1, 10);
create view no_table as select now() as at;
select statement, regexp_replace(pg_temp.error_of(statement), 'Of \d+ UUIDs', 'Of some UUIDs') from unnest(array[
    $$select tasker.suggest_interval('source', 'nothing')$$,
    $$select tasker.suggest_interval('source', 't')$$,
    $$select tasker.suggest_interval('source', 'id')$$,
    $$select tasker.suggest_interval('source', null)$$,
    $$select tasker.suggest_interval(null, 'at')$$,
    $$select tasker.suggest_interval('no_table', 'at')$$,
    $$select tasker.suggest_interval('source', 'ctid')$$,
    $$select tasker.partition_picture('points', 20)$$,
    $$select tasker.partition_picture('source')$$,
    $$select tasker.partition_picture(null)$$,
    $$select tasker.partition_picture('points', null)$$,
    $$select tasker.show_partitions('source')$$,
    $$select tasker.partition_of('source', '1')$$,
    $$select tasker.partition_of('points', 'one')$$,
    $$select tasker.partition_of('points', null)$$,
    $$select tasker.partition_of('small', '99999')$$,
    $$select tasker.check_default('source')$$,
    $$select tasker.check_pruning('select 1; drop table points')$$,
    $$select tasker.check_pruning('drop table points')$$,
    $$select tasker.check_pruning('')$$,
    $$select tasker.check_pruning('select * from nowhere')$$,
    $$select tasker.check_pruning('select * from points where n = $1')$$
]) as statement \gx

-- Rights: looking for observers, and the caller's own rights for tables of others.
create role views_nobody;
create role views_observer in role tasker_observer;
grant usage on schema views to views_nobody, views_observer;
grant create on schema public to views_nobody;
create table public.views_theirs (at date);
alter table public.views_theirs owner to views_nobody;
set role views_nobody;
select * from tasker.partition_sizes;
select tasker.suggest_interval('public.views_theirs', 'at');
set role views_observer;
select count(*) > 10 as seen from tasker.partition_sizes;
select count(*) > 3 as seen from tasker.partition_growth;
select count(*) > 3 as drawn from tasker.partition_picture('points');
select * from tasker.check_default('points');
select tasker.suggest_interval('public.views_theirs', 'at');
select tasker.check_pruning('select * from points');
reset role;

-- Everything is explained.
select a.attrelid::regclass, a.attname from pg_attribute a
where a.attrelid in ('tasker.partition_status'::regclass, 'tasker.partition_sizes'::regclass, 'tasker.partition_growth'::regclass)
    and a.attnum > 0 and col_description(a.attrelid, a.attnum) is null;

select tasker.drop_partition_set(s::regclass) from unnest(array['points', 'ends', 'small', 'loose', 'ids', 'stamps', 'grows']) s;
drop schema views, "views, old" cascade;
drop table public.views_theirs;
revoke create on schema public from views_nobody;
drop role views_nobody, views_observer;

-- Without a partition for now, what health_check() says.
create table health_set (at timestamptz not null) partition by range (at);
select tasker.create_parent('health_set', 'at', '1 year', premake => 1);
select reason ->> 'message' as message, reason ->> 'severity' as severity
from jsonb_array_elements(tasker.health_check() -> 'reasons') reason where reason ->> 'message' like 'health_set%';
select format('alter table health_set detach partition %s', partition) as detach
from tasker.show_partitions('health_set') where is_current \gset
:detach;
select reason ->> 'message' as message, reason ->> 'severity' as severity
from jsonb_array_elements(tasker.health_check() -> 'reasons') reason where reason ->> 'message' like 'health_set%';
select tasker.drop_partition_set('health_set');
drop table health_set;
