-- Sets by every kind of column: which partition a value belongs to, where partitions begin and end by the calendar and
-- the clocks of a time zone, and what they are called. All of it lies far from now, so that the time of the run does not
-- matter; what lies near now is counted.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
create schema controls;
set search_path = controls, public;
set timezone = 'UTC';

-- The partitions of a set before a bound, in their order, with their bounds as Postgres has them.
create function bounds_of(parent regclass, below text default '2100') returns table (partition name, bound text)
language sql as $$
    select c.relname, pg_get_expr(c.relpartbound, c.oid)
    from tasker.show_partitions(parent) s join pg_class c on c.oid = s.partition
    where s.lower_bound < below
$$;

-- Every partition begins where the one before it ends, and no row is outside of its partition's bounds.
create function gaps_in(parent regclass, from_text text, to_text text) returns bigint language sql as $$
    select count(*) from (
        select lower_bound, lag(upper_bound) over (order by lower_bound::timestamptz) as previous
        from tasker.show_partitions(parent) where upper_bound::timestamptz > from_text::timestamptz
            and lower_bound::timestamptz < to_text::timestamptz) t
    where previous <> lower_bound
$$;

-- Each kind. Lengths from a minute to centuries.
create domain stamp as timestamptz not null;
create domain counted as bigint;
create domain counted_again as counted check (value is not null);
create table by_timestamptz (at timestamptz) partition by range (at);
create table by_domain (at stamp) partition by range (at);
create table by_timestamp (at timestamp) partition by range (at);
create table by_date (at date) partition by range (at);
create table by_uuid (id uuid) partition by range (id);
create table by_record_id (id bigint) partition by range (id);
create table by_smallint (k smallint) partition by range (k);
create table by_integer (k integer) partition by range (k);
create table by_bigint (k bigint) partition by range (k);
create table by_number_domain (k counted_again) partition by range (k);

select tasker.create_parent('by_timestamptz', 'at', '1 minute', 0);
select tasker.create_parent('by_domain', 'at', '1 day', 0);
select tasker.create_parent('by_timestamp', 'at', '15 minutes', 0);
select tasker.create_parent('by_date', 'at', '1 day', 0);
select tasker.create_parent('by_uuid', 'id', '1 hour', 0);
select tasker.create_parent('by_record_id', 'id', '1 week', 0);
select tasker.create_parent('by_smallint', 'k', '10000', 100, start_at => '-32768');
select tasker.create_parent('by_integer', 'k', '1000000000', 100, start_at => '-2147483648');
select tasker.create_parent('by_bigint', 'k', '4000000000000000000', 100, start_at => '-9223372036854775808');
select tasker.create_parent('by_number_domain', 'k', '10', 1);
select parent, control, control_kind, partition_interval, premake, timezone from tasker.part_config
where parent <> 'tasker.queue_record'::regclass order by parent::text;

-- Each length, in turn, for the same moment: the names say as much as the length needs, and sort.
select length, tasker.partition_of('by_timestamptz', '2004-02-29 23:59:59.999999')
from unnest(array['1 minute', '5 minutes', '1 hour', '7 hours', '1 day', '1 week', '1 month', '3 months', '1 year',
    '10 years', '1 century', '1 millennium']) as length,
    lateral (select tasker.alter_parent('by_timestamptz', 'partition_interval', length)) t;
select length, tasker.create_partition('by_date', at)
from (values ('1 day', '2004-02-28'), ('1 day', '2004-02-29'), ('2 days', '2004-03-02'), ('1 week', '2004-03-08'),
    ('1 month', '2004-03-15'), ('1 year', '2004-12-31'), ('1 century', '1950-01-01')) t (length, at),
    lateral (select tasker.alter_parent('by_date', 'partition_interval', length)) u;
select * from bounds_of('by_date', '2010');

-- Rows at the very bounds.
select tasker.alter_parent('by_timestamptz', 'partition_interval', '1 month'),
    tasker.alter_parent('by_uuid', 'partition_interval', '1 month'),
    tasker.alter_parent('by_record_id', 'partition_interval', '1 month'),
    tasker.alter_parent('by_timestamp', 'partition_interval', '1 month');
select tasker.create_partition(parent, at) from
    unnest(array['by_timestamptz', 'by_timestamp', 'by_uuid', 'by_record_id']::regclass[]) parent,
    unnest(array['2004-01-31 23:59:59.999999', '2004-02-01', '2004-03-01']) at;
insert into by_timestamptz select at::timestamptz from
    unnest(array['2004-02-01 00:00', '2004-02-29 23:59:59.999999', '2004-03-01 00:00', '2004-01-01 00:00',
        '2004-03-31 23:59:59.999999']) at;
insert into by_timestamp select at from by_timestamptz;
insert into by_record_id select ((extract(epoch from at) * 1000)::numeric::bigint << 20) + (random() * 1048575)::int
from (select date_trunc('milliseconds', at) as at from by_timestamptz) t;
insert into by_uuid select (lpad(to_hex(ms), 12, '0') || '7abc8def0123456789ab')::uuid
from (select (extract(epoch from date_trunc('milliseconds', at)) * 1000)::bigint as ms from by_timestamptz) t;
select 'by_timestamptz' as set, tableoid::regclass, count(*) from by_timestamptz group by 2
union all select 'by_timestamp', tableoid::regclass, count(*) from by_timestamp group by 2
union all select 'by_record_id', tableoid::regclass, count(*) from by_record_id group by 2
union all select 'by_uuid', tableoid::regclass, count(*) from by_uuid group by 2 order by 1, 2;
select * from bounds_of('by_uuid', '2010');
select * from bounds_of('by_record_id', '2010');

-- The ends of the number types; negative numbers round down as others do.
insert into by_smallint values (-32768), (-30001), (-30000), (-1), (0), (9999), (10000), (32767);
insert into by_integer values (-2147483648), (-1), (0), (2147483647);
insert into by_bigint values (-9223372036854775808), (-1), (0), (9223372036854775807);
select tableoid::regclass, array_agg(k order by k) from by_smallint group by 1 order by min(k);
select tableoid::regclass, array_agg(k order by k) from by_integer group by 1 order by min(k);
select tableoid::regclass, array_agg(k order by k) from by_bigint group by 1 order by min(k);
select partition, lower_bound, upper_bound from tasker.show_partitions('by_bigint');
select tasker.partition_of('by_bigint', '9223372036854775807'), tasker.create_partition('by_bigint', '9223372036854775807'),
    tasker.partition_of('by_bigint', '-9223372036854775808'), tasker.partition_of('by_smallint', '32767');
-- What is premade follows the last partition with rows.
select partition from tasker.show_partitions('by_number_domain');
insert into by_number_domain values (15);
call tasker.run_maintenance('by_number_domain');
select partition, is_current from tasker.show_partitions('by_number_domain');

-- Long ago and far away. What a timestamp cannot say is open to that side.
select tasker.create_partition('by_timestamptz', '0044-03-15 12:00 BC'), tasker.create_partition('by_timestamptz', '0001-12-31 BC'),
    tasker.create_partition('by_timestamptz', '0001-01-01'), tasker.create_partition('by_timestamptz', '12026-01-01'),
    tasker.create_partition('by_timestamptz', '4714-11-25 BC'), tasker.create_partition('by_timestamptz', '294247-01-05');
insert into by_timestamptz values ('0044-03-31 23:59:59 BC'), ('0001-12-31 23:59:59.999999 BC'), ('-infinity'), ('infinity');
select tableoid::regclass, at from by_timestamptz where at < '0002-01-01' or at > '9999-01-01' order by at;
select partition, lower_bound, upper_bound from tasker.show_partitions('by_timestamptz')
where partition::text ~ 'bc|p0001|p12026|p294' order by partition::text;
select tasker.create_partition('by_date', '4713-01-01 BC'), tasker.create_partition('by_date', '294246-01-01');
select tasker.create_partition('by_date', '5874897-12-31');
select tasker.create_partition('by_date', 'infinity');
select tasker.create_partition('by_smallint', '32768');
select tasker.create_partition('by_bigint', '9223372036854775808');

-- Days by the clocks of a zone: across each change of the clocks all partitions touch, and each begins when the clocks
-- show a new date for the first time, or for the second time where they were set back over midnight.
create function days_across(zone text, around timestamptz) returns table (day text, hours numeric, begins text)
language plpgsql as $$
begin
    perform set_config('search_path', 'controls, public', true), set_config('client_min_messages', 'warning', true);
    drop table if exists zoned;
    create table zoned (at timestamptz) partition by range (at);
    perform tasker.create_parent('zoned', 'at', '1 day', 0, timezone => zone);
    perform tasker.create_partition('zoned', (around + hour * interval '1 hour')::text) from generate_series(-40, 40, 2) hour;
    -- Each quarter of an hour has its partition, and the partition the date that the clocks show.
    insert into zoned select around + quarter * interval '15 minutes' from generate_series(-160, 160) quarter;
    if exists (select from zoned z join pg_class c on c.oid = z.tableoid
        where c.relname not like 'zoned_p' || to_char(at at time zone zone, 'YYYYMMDD')) then
        raise warning 'not by the clocks: %', (select string_agg(distinct c.relname || ' ' || (at at time zone zone), ', ')
            from zoned z join pg_class c on c.oid = z.tableoid
            where c.relname not like 'zoned_p' || to_char(at at time zone zone, 'YYYYMMDD'));
    end if;
    if controls.gaps_in('zoned', (around - interval '40 hours')::text, (around + interval '40 hours')::text) <> 0 then
        raise warning 'gaps';
    end if;
    return query select right(s.partition::text, 8),
        extract(epoch from s.upper_bound::timestamptz - s.lower_bound::timestamptz) / 3600,
        to_char(s.lower_bound::timestamptz at time zone zone, 'YYYY-MM-DD HH24:MI')
        from tasker.show_partitions('zoned') s where s.lower_bound::timestamptz < '2026-01-01';
    perform tasker.drop_partition_set('zoned');
end $$;
select * from days_across('Europe/Berlin', '2021-03-28 01:00+00');
select * from days_across('Europe/Berlin', '2021-10-31 01:00+00');
select * from days_across('America/New_York', '2021-11-07 06:00+00');
select * from days_across('Australia/Lord_Howe', '2021-10-02 15:30+00');
select * from days_across('Australia/Lord_Howe', '2021-04-03 15:00+00');
select * from days_across('Pacific/Apia', '2011-12-30 10:00+00');
select * from days_across('America/Sao_Paulo', '2018-11-04 03:00+00');
select * from days_across('America/Sao_Paulo', '2018-02-18 02:00+00');
select * from days_across('America/St_Johns', '2006-10-29 02:31+00');
select * from days_across('Asia/Kathmandu', '1985-12-31 18:30+00');

-- Days of a leap year in Berlin, months of four years, and hours over the night in which one comes twice.
create table berlin (at timestamptz) partition by range (at);
select tasker.create_parent('berlin', 'at', '1 day', 0, timezone => 'Europe/Berlin');
select count(distinct tasker.create_partition('berlin', day::text)) from generate_series(
    timestamptz '2012-02-25 12:00', '2012-04-05 12:00', '1 day') day;
select count(distinct tasker.create_partition('berlin', day::text)) from generate_series(
    timestamptz '2012-10-20 12:00', '2012-11-05 12:00', '1 day') day;
select gaps_in('berlin', '2012-02-25', '2012-04-05'), gaps_in('berlin', '2012-10-20', '2012-11-05'),
    count(*) filter (where hours = 23) as short, count(*) filter (where hours = 25) as long, count(*) as days
from (select extract(epoch from upper_bound::timestamptz - lower_bound::timestamptz) / 3600 as hours
    from tasker.show_partitions('berlin') where lower_bound < '2013') t;
select tasker.alter_parent('berlin', 'partition_interval', '1 month');
select count(distinct tasker.create_partition('berlin', month::text)) from generate_series(
    timestamptz '2013-01-15', '2016-12-15', '1 month') month;
select gaps_in('berlin', '2012-12-01', '2016-12-31'), bool_and(extract(day from lower_bound::timestamptz at time zone 'Europe/Berlin') = 1
    and extract(hour from lower_bound::timestamptz at time zone 'Europe/Berlin') = 0) as first_of_month
from tasker.show_partitions('berlin') where partition::text ~ 'p201[3-6]_';
select tasker.alter_parent('berlin', 'partition_interval', '1 hour');
select tasker.create_partition('berlin', hour::text) from generate_series(
    timestamptz '2020-10-24 23:30', '2020-10-25 02:30', '1 hour') hour;
create table local_hours (at timestamp) partition by range (at);
select tasker.create_parent('local_hours', 'at', '1 hour', 0, timezone => 'Europe/Berlin');
select tasker.create_partition('local_hours', (hour at time zone 'Europe/Berlin')::text) from generate_series(
    timestamptz '2020-10-24 23:30', '2020-10-25 02:30', '1 hour') hour;

-- Names: no more than 63 bytes, apart where parents differ behind the cut, and never that of something else.
do $$
declare
    i integer; parent text;
begin
    for i in 1..2 loop
        parent := repeat('very_long_', 6) || i;
        execute format('create table %I (at timestamptz) partition by range (at)', parent);
        perform tasker.create_parent(parent::regclass, 'at', '1 hour', 0);
        perform tasker.create_partition(parent::regclass, '2004-02-29 03:00');
    end loop;
end $$;
select relname, octet_length(relname) from pg_class where relname like 'very%2004%' and relnamespace = 'controls'::regnamespace;
create table "Ünïcödé ""quoted"" näme that is 63 bytes long, or little less" (at date) partition by range (at);
select tasker.create_parent('"Ünïcödé ""quoted"" näme that is 63 bytes long, or little less"', 'at', '1 month', 0);
select tasker.create_partition('"Ünïcödé ""quoted"" näme that is 63 bytes long, or little less"', '2004-02-29');
create table taken (at timestamptz) partition by range (at);
select tasker.create_parent('taken', 'at', '1 day', 0);
create view taken_p20040229 as select 1;
create type taken_p20040228 as enum ('a');
create sequence taken_p20040228_000000;
create schema elsewhere;
create table elsewhere.taken_p20040227 (at timestamptz);
select day, tasker.partition_of('taken', day), tasker.create_partition('taken', day)
from unnest(array['2004-02-27', '2004-02-28', '2004-02-29']) day;
-- The same day, cut again and again: each part has a name of its own, and the parts touch.
select length, tasker.create_partition('taken', at) from (values ('1 hour', '2004-02-24 05:30'), ('1 day', '2004-02-24 12:00'),
    ('1 day', '2004-02-24 01:00'), ('1 week', '2004-02-26'), ('1 month', '2004-02-20'), ('1 year', '2004-07-01'),
    ('1 year', '2004-01-01')) t (length, at),
    lateral (select tasker.alter_parent('taken', 'partition_interval', length)) u;
select * from bounds_of('taken', '2010');
select gaps_in('taken', '2004-01-01', '2005-01-01');
insert into taken select hour from generate_series(timestamptz '2004-01-01', '2004-12-31 23:00', '1 hour') hour;

drop schema controls cascade;
drop schema elsewhere cascade;
call tasker.run_maintenance();
select parent from tasker.part_config where parent <> 'tasker.queue_record'::regclass;
