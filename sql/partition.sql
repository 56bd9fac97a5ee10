-- Partition sets as SQL shows and changes them. What is made here lies far from now, so that the queue's own
-- partitions stay as they are.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
\set parent '''tasker.queue_record'''

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

-- The set is open since the first record.
select tasker.enqueue('partition', '{}') > 0 as added;
select parent, control, control_kind, partition_interval, premake, retention, retention_action, timezone, owner_set,
    legal_hold, adopted_at
from tasker.part_config;

-- Nothing is retired in this file: what a retirement says depends on whether there is a worker.
select tasker.alter_parent(:parent, 'legal_hold', 'on');
call tasker.run_maintenance(:parent);
select parent, health, partition_interval, premake, partitions_ahead >= 4 as ahead,
    newest::timestamptz > now() + interval '4 days' as newest, pending_detaches, detached_tables, default_rows,
    legal_hold, failing
from tasker.partition_status;

-- Partitions for any key.
select tasker.partition_of(:parent, '2001-02-03 04:05:06+00');
select tasker.create_partition(:parent, '2001-02-03 04:05:06+00');
select tasker.create_partition(:parent, '2001-02-03 23:59:59.999+00');
select tasker.partition_of(:parent, '0');
select tasker.partition_of(:parent, '9223372036854775806');
set timezone = 'UTC';
select partition, lower_bound, upper_bound, rows_estimate, bytes > 0 as has_size, is_current, state
from tasker.show_partitions(:parent) where lower_bound < '2002';
set timezone = 'Asia/Tokyo';
select lower_bound, upper_bound from tasker.show_partitions(:parent) where lower_bound < '2002';
reset timezone;
select count(*) filter (where is_current) as current, count(*) filter (where state <> 'attached') as leaving
from tasker.show_partitions(:parent);

-- Settings.
select tasker.alter_parent(:parent, setting, value) from (values
    ('partition_interval', '3 hours'), ('premake', '0'), ('retention', '30 days'), ('retention_action', 'drop'),
    ('timezone', 'Europe/Berlin')) t (setting, value);
select partition_interval, premake, retention, retention_action, timezone, legal_hold from tasker.part_config;
select tasker.create_partition(:parent, '2001-02-05 04:05:06+00');
select tasker.alter_parent(:parent, 'partition_interval', '1 year');
select tasker.partition_of(:parent, '2001-12-31 22:59:59+00'), tasker.partition_of(:parent, '2001-12-31 23:00+00');
select tasker.alter_parent(:parent, 'retention', null);
select tasker.alter_parent(:parent, 'timezone', 'UTC');
select tasker.alter_parent(:parent, 'premake', '4');
select tasker.alter_parent(:parent, 'partition_interval', '1 day');

-- What is wrong is said, and changes nothing.
select statement, pg_temp.error_of(statement) from unnest(array[
    $$select tasker.alter_parent(null, 'premake', '1')$$,
    $$select tasker.alter_parent('pg_class', 'premake', '1')$$,
    $$select tasker.alter_parent('tasker.queue_record', null, '1')$$,
    $$select tasker.alter_parent('tasker.queue_record', '', '1')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'owner_set', 'false')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'premake', null)$$,
    $$select tasker.alter_parent('tasker.queue_record', 'premake', '')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'premake', '-1')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'premake', '1001')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'premake', '99999999999')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'partition_interval', 'often')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'partition_interval', '0')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'partition_interval', '-1 day')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'partition_interval', '1 month 1 day')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'partition_interval', '100 milliseconds')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'retention', '-1 day')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'retention', 'for ever')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'retention_action', 'burn')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'timezone', 'Mars/Olympus')$$,
    $$select tasker.alter_parent('tasker.queue_record', 'legal_hold', 'perhaps')$$,
    $$select tasker.create_partition(null, '0')$$,
    $$select tasker.create_partition('tasker.queue_record', null)$$,
    $$select tasker.create_partition('tasker.queue_record', '')$$,
    $$select tasker.create_partition('tasker.queue_record', '-1')$$,
    $$select tasker.create_partition('tasker.queue_record', 'soon')$$,
    $$select tasker.create_partition('tasker.queue_record', '1969-12-31 23:59:59+00')$$,
    $$select tasker.create_partition('tasker.queue_record', '9223372036854775807')$$,
    $$select tasker.create_partition('tasker.queue_record', '9223372036854775808')$$,
    $$select tasker.create_partition('tasker.queue_record', '3000-01-01')$$,
    $$select tasker.create_partition('tasker.queue_record', 'infinity')$$,
    $$select tasker.create_partition('tasker.flow', '0')$$,
    $$select tasker.partition_of('tasker.flow', '0')$$,
    $$select tasker.partition_of('tasker.queue_record', 'now and then')$$,
    $$select * from tasker.show_partitions('tasker.flow')$$,
    $$call tasker.run_maintenance('tasker.flow')$$,
    $$call tasker.analyze_parents(null, null)$$
]) as statement \gx
select partition_interval, premake, retention, retention_action, timezone, legal_hold from tasker.part_config;

-- A procedure that commits says so where it cannot; a parent that is none is found out at once.
begin;
call tasker.run_maintenance();
rollback;
call tasker.run_maintenance('tasker.flow');
call tasker.analyze_parents(:parent, null);
call tasker.analyze_parents(:parent, true);
select last_analyze > now() - interval '1 minute' as analyzed, rows_changed from tasker.partition_status;

-- Rights: nothing for everybody, looking for observers, changing for admins.
create role partition_nobody;
set role partition_nobody;
select * from tasker.partition_status;
select tasker.create_partition(:parent, '2001-02-03');
call tasker.run_maintenance();
set role tasker_observer;
select count(*) from tasker.partition_status;
select count(*) > 0 as shown from tasker.show_partitions(:parent);
select tasker.alter_parent(:parent, 'premake', '5');
select tasker.create_partition(:parent, '2001-02-03');
call tasker.analyze_parents();
update tasker.part_config set premake = 5;
set role tasker_admin;
select tasker.alter_parent(:parent, 'premake', '5');
select tasker.create_partition(:parent, '2001-02-04');
call tasker.run_maintenance(:parent);
select partitions_ahead from tasker.partition_status;
reset role;
drop role partition_nobody;

-- Everything is explained.
select objoid::regclass, objsubid from (
    select c.oid as objoid, a.attnum as objsubid from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.oid in ('tasker.part_config'::regclass, 'tasker.part_retirement'::regclass, 'tasker.part_failure'::regclass,
        'tasker.part_analyze'::regclass, 'tasker.partition_status'::regclass) and a.attnum > 0 and not a.attisdropped
    union all
    select unnest(array['tasker.part_config'::regclass, 'tasker.part_retirement', 'tasker.part_failure',
        'tasker.part_analyze', 'tasker.partition_status']), 0) t
where col_description(objoid, objsubid) is null and obj_description(objoid, 'pg_class') is null;

drop table tasker.queue_record_p20010203, tasker.queue_record_p20010204, tasker.queue_record_p20010205_0300;
select tasker.alter_parent(:parent, setting, value) from (values ('legal_hold', 'off'), ('premake', '4')) t (setting, value);
