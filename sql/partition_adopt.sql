-- Taking over tables that have partitions: made by hand or by pg_partman, with gaps, odd bounds and a DEFAULT partition;
-- letting them go, and taking them back. What is near now is shown relative to today.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
set timezone = 'UTC';
set datestyle = 'ISO';
create schema adopt;
create schema adopt_other;
set search_path = adopt, public;

-- The partitions that end today or later, with days counted from today.
create function around_now(parent regclass) returns table (partition text, from_day numeric, to_day numeric)
language sql as $$
    select regexp_replace(partition::text, '\d{8}$', '#'),
        round(extract(epoch from lower_bound::timestamp - current_date) / 86400, 1),
        round(extract(epoch from upper_bound::timestamp - current_date) / 86400, 1)
    from tasker.show_partitions(parent) where upper_bound::timestamp >= current_date
$$;
create function fill(parent regclass, from_day integer, to_day integer) returns text language plpgsql as $$
begin
    execute format('insert into %s (at) select (current_date + d)::timestamptz + make_interval(hours => h)
        from generate_series(%s, %s) d, generate_series(0, 23) h', parent, from_day, to_day);
    return 'every hour has its partition';
end $$;

-- By hand: odd names and lengths, gaps, another schema. What is there stays as it is; a gap ahead of now is filled.
create table hand (at timestamptz not null, v int default 1) partition by range (at);
do $$
begin
    create table "Old Ones" partition of hand for values from (minvalue) to ('2001-01-01');
    create table adopt_other.hand_x partition of hand for values from ('2002-01-01') to ('2002-01-01 00:00:00.000001');
    create table hand_2003 partition of hand for values from ('2003-01-01') to ('2004-01-01');
    create table hand_2005 partition of hand for values from ('2005-01-01') to ('2006-01-01');
    create table hand_2007 partition of hand for values from ('2007-01-01') to ('2008-01-01');
    execute format('create table hand_now partition of hand for values from (%L) to (%L)', current_date - 9, current_date + 1);
    execute format('create table hand_noon partition of hand for values from (%L) to (%L)', current_date + 1,
        current_date + 1.5 * interval '1 day');
    execute format('create table hand_later partition of hand for values from (%L) to (%L)', current_date + 3, current_date + 4);
end $$;
select tasker.create_parent('hand', 'at', '1 day');
select * from around_now('hand');
select fill('hand', 0, 3);
select partition, lower_bound, upper_bound from tasker.show_partitions('hand') where lower_bound < '2008';
select tasker.create_partition('hand', '2002-01-01'), tasker.create_partition('hand', '2002-01-01 12:00'),
    tasker.create_partition('hand', '2001-12-31');
select partition, lower_bound, upper_bound from tasker.show_partitions('hand') where lower_bound < '2003';
-- A changed interval goes on where the partitions end.
select tasker.alter_parent('hand', 'partition_interval', '1 week'), tasker.alter_parent('hand', 'premake', '7');
call tasker.run_maintenance('hand');
select count(*) as gaps from (select lower_bound, lag(upper_bound) over (order by lower_bound::timestamptz) as previous
    from tasker.show_partitions('hand') where upper_bound::timestamptz > now()) t where previous <> lower_bound;
select fill('hand', 0, 17);
select tasker.alter_parent('hand', 'partition_interval', '1 day');
select health, partitions_ahead, failing from tasker.partition_status where parent = 'hand'::regclass;

-- Let go, and taken back: nothing but the row goes, and the settings are new ones.
select tasker.alter_parent('hand', 'retention', '1 year'), tasker.alter_parent('hand', 'legal_hold', 'on');
select tasker.drop_partition_set('hand');
select count(*) from tasker.part_config where parent = 'hand'::regclass;
select tasker.drop_partition_set('hand');
select * from tasker.show_partitions('hand');
select fill('hand', 0, 1);
do $$ begin set local client_min_messages = error; perform tasker.create_parent('hand', 'at', '1 day', 2); end $$;
select partition_interval, premake, retention, retention_action, legal_hold from tasker.part_config where parent = 'hand'::regclass;
select tasker.create_parent('hand', 'at', '1 day');

-- A DEFAULT partition, without rows and with.
create table with_default (at timestamptz) partition by range (at);
create table with_default_rest partition of with_default default;
select tasker.create_parent('with_default', 'at', '1 day', 1);
select * from around_now('with_default');
insert into with_default values ('2001-01-01');
select tasker.drop_partition_set('with_default');
select tasker.create_parent('with_default', 'at', '1 day', 1);
-- Its rows keep a partition from being made; that one waits, the others do not.
create table blocked (at timestamptz) partition by range (at);
create table blocked_rest partition of blocked default;
select fill('blocked', 1, 1);
do $$ begin set local client_min_messages = error; perform tasker.create_parent('blocked', 'at', '1 day', 2); end $$;
select * from around_now('blocked');
\set VERBOSITY sqlstate
select tasker.create_partition('blocked', (current_date + 1)::text);
\set VERBOSITY terse
truncate blocked_rest;
call tasker.run_maintenance('blocked');
select * from around_now('blocked');
select count(*) from tasker.part_failure;

-- UUIDs: bounds by hand are often those of a valid version 7, which lie between two milliseconds.
create table hand_uuid (id uuid) partition by range (id);
create table hand_uuid_a partition of hand_uuid
    for values from ('00f9ceba-b800-7000-8000-000000000000') to ('00f9d3e1-1400-7000-8000-000000000000');
create table hand_uuid_b partition of hand_uuid
    for values from ('00f9d907-7000-7abc-8def-000000000000') to ('00f9d907-7001-0000-0000-000000000000');
do $$ begin set local client_min_messages = error; perform tasker.create_parent('hand_uuid', 'id', '1 day', 0); end $$;
select tasker.create_partition('hand_uuid', at) from unnest(array['2003-12-31', '2004-01-01', '2004-01-02', '2004-01-03']) at;
select partition, pg_get_expr(relpartbound, c.oid) as bound from tasker.show_partitions('hand_uuid') s
join pg_class c on c.oid = s.partition where lower_bound < '2005';
insert into hand_uuid select (lpad(to_hex(ms), 12, '0') || '7fffbfffffffffffffff')::uuid
from generate_series((extract(epoch from timestamptz '2003-12-31') * 1000)::bigint,
    (extract(epoch from timestamptz '2004-01-03') * 1000)::bigint, 100000) ms;
select tableoid::regclass, count(*) from hand_uuid group by 1 order by 1;
create table too_close (id uuid) partition by range (id);
create table too_close_a partition of too_close
    for values from ('00f9ceba-b800-7000-8000-000000000000') to ('00f9ceba-b800-7000-9000-000000000000');
select tasker.create_parent('too_close', 'id', '1 day');

-- Numbers: what is there may have any length, and reach to the end.
create table hand_number (k int) partition by range (k);
create table hand_number_low partition of hand_number for values from (minvalue) to (-5);
create table hand_number_odd partition of hand_number for values from (-5) to (17);
select tasker.create_parent('hand_number', 'k', '10', 2);
insert into hand_number values (-10), (16);
call tasker.run_maintenance('hand_number');
select partition, lower_bound, upper_bound, is_current from tasker.show_partitions('hand_number');
create table hand_number_high partition of hand_number for values from (40) to (maxvalue);
insert into hand_number values (1000);
call tasker.run_maintenance('hand_number');
select partition, lower_bound, upper_bound, is_current from tasker.show_partitions('hand_number');
select tasker.create_partition('hand_number', '39');
insert into hand_number values (39);
create table whole (k int) partition by range (k);
create table whole_one partition of whole for values from (minvalue) to (maxvalue);
select tasker.create_parent('whole', 'k', '10');
select partition, is_current from tasker.show_partitions('whole');

-- A foreign table as a partition, and a parent that is a partition itself.
create foreign data wrapper adopt_wrapper;
create server adopt_server foreign data wrapper adopt_wrapper;
create table far (k int) partition by range (k);
create foreign table far_away partition of far for values from (0) to (10) server adopt_server;
select tasker.create_parent('far', 'k', '10', 1);
select partition, lower_bound, upper_bound, is_current from tasker.show_partitions('far');
create table regions (region text, at date) partition by list (region);
create table region_a partition of regions for values in ('a') partition by range (at);
select tasker.create_parent('region_a', 'at', '1 month', 0);
select tasker.create_partition('region_a', '2004-02-29');
insert into regions values ('a', '2004-02-01');
select tableoid::regclass from regions;
create table nested (at date) partition by range (at);
create table nested_2004 partition of nested for values from ('2004-01-01') to ('2005-01-01') partition by range (at);
select tasker.create_parent('nested', 'at', '1 year');
select tasker.create_parent('nested_2004', 'at', '1 month', 0, start_at => '2026-01-01');
select tasker.create_partition('nested_2004', '2004-05-06');

-- pg_partman: its partitions keep their names; its row in its configuration is pointed at.
create schema adopt_partman;
create extension pg_partman schema adopt_partman;
create table managed (id bigint, at timestamptz not null) partition by range (at);
select adopt_partman.create_parent('adopt.managed', 'at', 'native', 'daily', p_premake => 2);
create table managed_too (id bigint not null) partition by range (id);
select adopt_partman.create_parent('adopt.managed_too', 'id', 'native', '10', p_premake => 1);
insert into managed_too select generate_series(0, 19);
select fill('managed', 0, 2);
select tasker.create_parent('managed', 'at', '1 day', retention => '30 days');
select tasker.create_parent('managed_too', 'id', '10');
delete from adopt_partman.part_config;
select tasker.drop_partition_set('managed'), tasker.drop_partition_set('managed_too');
alter table managed detach partition managed_default;
alter table managed_too detach partition managed_too_default;
select tasker.create_parent('managed', 'at', '1 day', retention => '30 days');
select tasker.create_parent('managed_too', 'id', '10');
select regexp_replace(regexp_replace(partition::text, '\d{4}_\d\d_\d\d$', 'YYYY_MM_DD'), '\d{8}$', 'YYYYMMDD') as partition,
    lower_bound::date - current_date as from_day, upper_bound::date - current_date as to_day, is_current
from tasker.show_partitions('managed');
select partition, lower_bound, upper_bound, is_current from tasker.show_partitions('managed_too');
select fill('managed', -2, 4);
drop extension pg_partman;

set client_min_messages = warning;
drop schema adopt, adopt_other, adopt_partman cascade;
drop foreign data wrapper adopt_wrapper cascade;
call tasker.run_maintenance();
select parent from tasker.part_config where not owner_set;
select * from tasker.part_failure;
select count(*) from tasker.part_retirement;
