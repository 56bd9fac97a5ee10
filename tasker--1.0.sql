-- Assembled by make from: src/tasker.sql src/partition/partition.sql src/partition/analyze.sql src/partition/parent.sql src/partition/like.sql src/partition/views.sql src/partition/move.sql src/queue/queue.sql src/stream/stream.sql src/stream/events.sql src/stream/views.sql src/stream/rotate.sql src/stream/info.sql src/stream/retry.sql src/stream/coop.sql src/stream/triga.sql src/stream/wake.sql src/stream/restore.sql src/stream/log.sql src/stream/rights.sql src/workflow/workflow.sql src/workflow/template.sql src/workflow/engine.sql src/workflow/control.sql src/workflow/events.sql src/workflow/views.sql src/workflow/read.sql src/workflow/ready.sql src/workflow/counts.sql src/workflow/dlq.sql src/workflow/graph.sql src/workflow/housekeeping.sql src/workflow/rights.sql src/worker/worker.sql
\echo Use "CREATE EXTENSION tasker" to load this file. \quit

-- The schema, the roles and what all planes share.

-- Roles are global to the cluster and survive DROP EXTENSION; they are made once, without rights of their own.
create function tasker._create_roles() returns void
    language c strict as 'MODULE_PATHNAME', 'tasker_create_roles';
revoke all on function tasker._create_roles() from public;
select tasker._create_roles();
comment on function tasker._create_roles() is
'Makes the roles tasker_admin, tasker_producer, tasker_worker and tasker_observer (NOLOGIN) where they do not exist. Internal: run by CREATE EXTENSION.';

revoke all on schema tasker from public;
grant usage on schema tasker to tasker_admin, tasker_producer, tasker_worker, tasker_observer;
comment on schema tasker is 'Tasker: processing queue, event stream, workflow engine and range partitions';

-- The partition plane: range-partition sets and what is known about them.

-- One row per set that has been opened. The script puts no row in: a restore runs the script first and loads
-- the rows after. What pg_dump carries is the name of the parent, so a restored row speaks of the restored table.
create table tasker.part_config (
    parent regclass primary key,
    control name not null,
    control_kind text not null 
        check (control_kind in ('number', 'record_id', 'uuid_v7', 'timestamptz', 'timestamp', 'date')),
    partition_interval text not null,
    premake integer not null default 4 check (premake between 0 and 1000),
    retention interval check (retention >= interval '0'),
    retention_action text not null default 'drop',
    timezone text not null default 'UTC',
    owner_set boolean not null default false,
    legal_hold boolean not null default false,
    opened_in text not null,
    opened_at timestamptz not null default pg_catalog.now(),
    adopted_at timestamptz,
    last_maintenance timestamptz,
    retention_keys bigint check (retention_keys >= 0)
);

comment on table tasker.part_config is
    'Partition sets under management, one row per set from its first use on; changed with tasker.alter_parent';
comment on column tasker.part_config.parent is 'The partitioned table';
comment on column tasker.part_config.control is 'The column that the table is partitioned by';
comment on column tasker.part_config.control_kind is
    'What that column holds: number, record_id (milliseconds since 1970 << 20 | sequence), uuid_v7, timestamptz, timestamp or date';
comment on column tasker.part_config.partition_interval is
    'Length of a partition: an interval of whole seconds, or of months without days and hours; of numbers, how many';
comment on column tasker.part_config.premake is 'Partitions kept ready after the one of now';
comment on column tasker.part_config.retention is
    'Age at which a partition is retired, counted from its upper bound; null: in the set of the queue each flow''s retention alone decides, in another nothing is retired';
comment on column tasker.part_config.retention_action is 
    'What becomes of a retired partition: drop, detach (it stays as a table), schema:NAME (moved to that schema)';
comment on column tasker.part_config.timezone is
    'Time zone in which partitions of days and longer begin; does not matter to shorter ones';
comment on column tasker.part_config.owner_set is
    'The set belongs to a plane of Tasker, which is asked before a partition goes';
comment on column tasker.part_config.legal_hold is 'While true, no partition of the set is retired';
comment on column tasker.part_config.opened_in is
    'Where the set was opened: system identifier, database, installation; another one means that the row was restored';
comment on column tasker.part_config.opened_at is 'When the set was opened';
comment on column tasker.part_config.adopted_at is
    'When a restored set was first seen here; nothing is retired in the hour after';
comment on column tasker.part_config.last_maintenance is
    'When maintenance last made, finalized or retired a partition of the set';
comment on column tasker.part_config.retention_keys is
    'Retention of a set of numbers: a partition is retired when its upper bound lies that far below the current partition';

-- One row per partition that is due to go: refused by its owner, or on its way out. See src/partition/retirement.hpp.
create table tasker.part_retirement (
    parent regclass not null,
    partition_name name not null,
    lower_key bigint not null,
    upper_key bigint not null,
    state text not null check (state in ('refused', 'leaving')),
    reason text,
    refusals bigint not null default 0,
    last_refused_at timestamptz,
    failures integer not null default 0,
    since timestamptz not null default pg_catalog.clock_timestamp(),
    next_try_at timestamptz,
    partition_schema name not null default 'tasker',
    partition_id oid,
    booked_in text,
    bound text,
    bounds_check text,
    primary key (parent, partition_schema, partition_name)
);

comment on table tasker.part_retirement is
    'Partitions that are due to go: refused by the set''s owner, or detached and not dropped yet';
comment on column tasker.part_retirement.parent is 'The partitioned table';
comment on column tasker.part_retirement.partition_name is 'The partition''s name when it was booked';
comment on column tasker.part_retirement.lower_key is 'Lower bound, inclusive';
comment on column tasker.part_retirement.upper_key is 'Upper bound, exclusive';
comment on column tasker.part_retirement.state is
    'refused: it stays, see reason; leaving: its detach has begun and is finished by the next round, whatever happens';
comment on column tasker.part_retirement.reason is 'Why it was refused, or why the last try failed';
comment on column tasker.part_retirement.refusals is
    'How often its owner has refused; while the reason stays, counted once in ten minutes';
comment on column tasker.part_retirement.last_refused_at is 'When the refusals were last counted';
comment on column tasker.part_retirement.failures is 'Tries that failed since the last that did not';
comment on column tasker.part_retirement.since is 'When it was first due, or when its detach began';
comment on column tasker.part_retirement.next_try_at is 'No try before this time';
comment on column tasker.part_retirement.partition_schema is 'The partition''s schema when it was booked';
comment on column tasker.part_retirement.partition_id is
    'The partition''s OID, of the installation in booked_in; in another (the row was restored) the name counts alone';
comment on column tasker.part_retirement.booked_in is
    'Where it was booked: system identifier, database, installation';
comment on column tasker.part_retirement.bound is
    'The partition''s bound as ALTER TABLE ... ATTACH PARTITION takes it, to put it back exactly as it was';
comment on column tasker.part_retirement.bounds_check is
    'The check constraint that its detach leaves on the table, to be taken off; null when it had such a one before';

-- Failures and statistics are of this server; a dump does not carry them.
create table tasker.part_failure (
    parent oid not null,
    duty text not null,
    failures integer not null default 1,
    message text not null,
    changed_at timestamptz not null default pg_catalog.now(),
    next_try_at timestamptz not null default pg_catalog.clock_timestamp() + interval '1 second',
    primary key (parent, duty)
);

comment on table tasker.part_failure is 'Sets for which a duty fails; the row goes when it succeeds again';
comment on column tasker.part_failure.parent is 'The partitioned table';
comment on column tasker.part_failure.duty is 'premake, finalize, retire or analyze';
comment on column tasker.part_failure.failures is 'Failures since the duty last succeeded';
comment on column tasker.part_failure.message is 'The last error';
comment on column tasker.part_failure.changed_at is 'When that message came first';
comment on column tasker.part_failure.next_try_at is 'The background worker makes no try before this time';

create table tasker.part_analyze (
    parent oid primary key,
    analyzed_at timestamptz,
    carried bigint not null default 0,
    leaves oid[] not null,
    files oid[] not null,
    changes bigint[] not null,
    live bigint[] not null,
    pages bigint[] not null
);

comment on table tasker.part_analyze is
    'Counters of the partitions when their parent was last analyzed, to tell how many rows have changed since';
comment on column tasker.part_analyze.parent is 'A partitioned table';
comment on column tasker.part_analyze.analyzed_at is 'When it was last analyzed; null when that is not known';
comment on column tasker.part_analyze.carried is
    'Rows that had changed since then when the counters were read; not 0 where they were read later';
comment on column tasker.part_analyze.leaves is 'Its partitions at that time';
comment on column tasker.part_analyze.files is 'The file of each, which TRUNCATE replaces';
comment on column tasker.part_analyze.changes is 'Rows inserted, updated and deleted in each until then';
comment on column tasker.part_analyze.live is 'Rows in each at that time';
comment on column tasker.part_analyze.pages is 'Pages of each; -1 when it was locked';

create procedure tasker.run_maintenance(parent regclass = null)
    language c as 'MODULE_PATHNAME', 'tasker_run_maintenance';
comment on procedure tasker.run_maintenance(regclass) is
'Makes partitions ahead, completes interrupted detaches, retires what is due and analyzes parents, for one set or for all (null). Commits after each step; a set that fails is reported by a warning and stops no other. Where Tasker''s background worker runs, it does the retirement, concurrently; else partitions are detached with a short lock on the parent, announced by a notice. Errors: 42704 not a partition set; 25001 called inside a transaction block.';

create procedure tasker.analyze_parents(parent regclass = null, force boolean = false)
    language c as 'MODULE_PATHNAME', 'tasker_analyze_parents';
comment on procedure tasker.analyze_parents(regclass, boolean) is
'Analyzes partitioned tables of which more than tasker.analyze_threshold plus tasker.analyze_scale_factor of the rows have changed since they were last analyzed: one with its sub-partitioned tables, or all of the database (null), with "force" in any case. Their partitions are left to autovacuum. Commits after each table. Errors: 25001 called inside a transaction block.';

create function tasker.alter_parent(parent regclass, setting text, value text) returns void
    language c as 'MODULE_PATHNAME', 'tasker_alter_parent';
comment on function tasker.alter_parent(regclass, text, text) is
'Changes a setting of a partition set: partition_interval (of partitions to come), premake, retention (an interval; of numbers, how many to keep behind the current partition; null: none), retention_action (drop, and for a table of yours detach or schema:NAME), timezone, legal_hold. Opens a set of Tasker''s own that has not been used yet. The five sets of the workflow plane have one configuration, that of tasker.task: to change it changes all of them. Errors: 42704 not a partition set; 42501 not the owner of the table; 22023 unknown setting or bad value, or a set that has the settings of another one.';

create function tasker.create_partition(parent regclass, value text) returns regclass
    language c as 'MODULE_PATHNAME', 'tasker_create_partition';
comment on function tasker.create_partition(regclass, text) is
'Makes the partition of a set that holds a key, unless it exists, and returns it; for rows to be copied or inserted that are older or newer than the partitions at hand. The key is a value of the control column; of record ids and UUIDs also a time. The background worker makes it at once; without one it comes with the caller''s transaction. Errors: 42704 not a partition set; 22023 no such key; 22003 out of range; 55006 that range is being retired.';

select pg_catalog.pg_extension_config_dump('tasker.part_config', '');
select pg_catalog.pg_extension_config_dump('tasker.part_retirement', '');

revoke all on tasker.part_config, tasker.part_retirement, tasker.part_failure, tasker.part_analyze from public;
revoke all on procedure tasker.run_maintenance(regclass), tasker.analyze_parents(regclass, boolean) from public;
revoke all on function tasker.alter_parent(regclass, text, text), tasker.create_partition(regclass, text) from public;
grant select on tasker.part_config, tasker.part_retirement, tasker.part_failure, tasker.part_analyze to tasker_admin, tasker_observer;
grant execute on procedure tasker.run_maintenance(regclass), tasker.analyze_parents(regclass, boolean)
    to tasker_admin;
grant execute on function tasker.alter_parent(regclass, text, text), tasker.create_partition(regclass, text)
    to tasker_admin;

-- Statistics of partitioned tables: which are analyzed and when, and what is known of each.

create table tasker.part_analyze_config (
    parent regclass primary key,
    enabled boolean,
    threshold integer check (threshold >= 0),
    scale_factor double precision check (scale_factor between 0 and 100)
);

comment on table tasker.part_analyze_config is
    'Partitioned tables that are not analyzed like all others, changed with tasker.alter_analyze; what is null is as for the table that it is a partition of, or as the settings say';
comment on column tasker.part_analyze_config.parent is 'A partitioned table, managed by Tasker or not';
comment on column tasker.part_analyze_config.enabled is 'False: maintenance does not analyze it; null: true';
comment on column tasker.part_analyze_config.threshold is
    'Number of rows that must have changed, added to the share; null: tasker.analyze_threshold';
comment on column tasker.part_analyze_config.scale_factor is
    'Share of the rows that must have changed; null: tasker.analyze_scale_factor';

create function tasker.alter_analyze(parent regclass, setting text, value text) returns void
    language c as 'MODULE_PATHNAME', 'tasker_alter_analyze';
comment on function tasker.alter_analyze(regclass, text, text) is
'Changes when maintenance analyzes a partitioned table, whoever manages it: enabled (true, false), threshold (rows), scale_factor (share of the rows). A null value gives back the default. Holds for its sub-partitioned tables too, unless they have a value of their own. Errors: 42809 not a partitioned table; 22023 unknown setting or bad value.';

create function tasker._analyze_status(parent regclass default null, out partitioned_table regclass, out enabled boolean,
    out rows_estimate bigint, out rows_changed bigint, out rows_needed bigint, out last_analyze timestamptz)
    returns setof record stable
    language c as 'MODULE_PATHNAME', 'tasker_analyze_status';
comment on function tasker._analyze_status(regclass) is
'Counts the changed rows of partitioned tables: of one with its sub-partitioned tables, or of all but temporary ones. Internal: serves tasker.analyze_status.';

create view tasker.analyze_status as
select s.partitioned_table as parent,
       case
           when not s.enabled then 'excluded'
           when f.parent is not null then 'failing'
           when s.rows_changed > s.rows_needed then 'due'
           else 'good'
       end as state,
       s.rows_estimate,
       s.rows_changed,
       s.rows_needed,
       s.last_analyze,
       f.failures,
       f.message as failing,
       f.next_try_at
  from tasker._analyze_status() s
  left join tasker.part_failure f on f.parent = s.partitioned_table and f.duty = 'analyze';

comment on view tasker.analyze_status is
    'The statistics of each partitioned table of the database, managed by Tasker or not';
comment on column tasker.analyze_status.parent is 'The partitioned table';
comment on column tasker.analyze_status.state is
    'good; due: the next round of maintenance analyzes it; failing: it is tried again; excluded: by tasker.alter_analyze';
comment on column tasker.analyze_status.rows_estimate is 'Rows in its partitions';
comment on column tasker.analyze_status.rows_changed is
    'Rows inserted, updated and deleted since the parent was last analyzed; all when it never was';
comment on column tasker.analyze_status.rows_needed is 'It is due when more than that many have changed';
comment on column tasker.analyze_status.last_analyze is 'When the parent was last analyzed; null: never, or not known';
comment on column tasker.analyze_status.failures is 'Failures in a row';
comment on column tasker.analyze_status.failing is 'The last error';
comment on column tasker.analyze_status.next_try_at is 'The background worker makes no try before this time';

select pg_catalog.pg_extension_config_dump('tasker.part_analyze_config', '');

revoke all on tasker.part_analyze_config, tasker.analyze_status from public;
revoke all on function tasker.alter_analyze(regclass, text, text), tasker._analyze_status(regclass) from public;
grant select on tasker.part_analyze_config, tasker.analyze_status to tasker_admin, tasker_observer;
grant execute on function tasker.alter_analyze(regclass, text, text) to tasker_admin;
grant execute on function tasker._analyze_status(regclass) to tasker_admin, tasker_observer;

-- Taking tables under management.

create function tasker.create_parent(parent_table regclass, control name, partition_interval text,
    premake integer = 4, retention interval = null, retention_action text = 'drop', start_at text = null,
    timezone text = 'UTC')
    returns void
    language c as 'MODULE_PATHNAME', 'tasker_create_parent';
comment on function tasker.create_parent(regclass, name, text, integer, interval, text, text, text) is
'Takes a table that is partitioned by range of one column under management and makes its partitions: the current one, "premake" after it, and those from "start_at" on. The column is a number, a date, a timestamp, a timestamptz, a UUIDv7, or a bigint that is a time-ordered record id. "partition_interval" is an interval of at least a minute ("1 day", "1 month"), or for numbers how many. Partitions older than "retention" are retired by "retention_action": drop, detach (kept as tables), or schema:NAME (moved there). Days and longer begin at midnight in "timezone". Partitions that the table already has are adopted as they are; gaps, a DEFAULT partition and another manager are reported by warnings. Errors: 42501 not the owner; 42809 not partitioned; 0A000 partitioned in another way; 42710 a set already; 22023 bad argument; 54000 more than 2,000 partitions.';

create function tasker.drop_partition_set(parent regclass) returns void
    language c as 'MODULE_PATHNAME', 'tasker_drop_partition_set';
comment on function tasker.drop_partition_set(regclass) is
'Stops managing a partition set; its tables stay, also those that were about to be retired. Errors: 42704 not a partition set; 42501 not the owner, or a set of Tasker''s own.';

revoke all on function tasker.create_parent(regclass, name, text, integer, interval, text, text, text),
    tasker.drop_partition_set(regclass) from public;
grant execute on function tasker.create_parent(regclass, name, text, integer, interval, text, text, text),
    tasker.drop_partition_set(regclass) to tasker_admin;

-- A partitioned table of the shape of a plain one.

create function tasker.create_partitioned_table_like(source regclass, parent name, control name,
    partition_interval text, premake integer = 4, retention interval = null, retention_action text = 'drop',
    start_at text = null, timezone text = 'UTC')
    returns regclass
    language c as 'MODULE_PATHNAME', 'tasker_create_partitioned_table_like';
comment on function tasker.create_partitioned_table_like(regclass, name, name, text, integer, interval, text, text, text) is
'Makes an empty table "parent" in the schema of an ordinary table, with the shape of that table but partitioned by its column "control", takes it under management as tasker.create_parent() does, and returns it. It has the columns, defaults, identity (a sequence of its own that goes on where the other stands), constraints, indexes, extended statistics, foreign keys to other tables, triggers, policies, rights, owner, comments and replica identity; its partitions have the storage parameters. A primary key or unique index without the control column gets it as its last column, which a notice says. Its partitions begin at the smallest control value of the source, or at "start_at". Rows are moved by tasker.partition_data_proc(). Errors: 42501 not the owner; 42710 the name is taken; 22023 bad argument; 0A000 something that a partitioned table cannot have; 54000 more than 2,000 partitions.';

revoke all on function tasker.create_partitioned_table_like(regclass, name, name, text, integer, interval, text, text, text)
    from public;
grant execute on function tasker.create_partitioned_table_like(regclass, name, name, text, integer, interval, text, text, text)
    to tasker_admin;

-- What can be seen of partition sets, and of tables that shall become some.

create function tasker.show_partitions(parent regclass, out partition regclass, out lower_bound text,
    out upper_bound text, out rows_estimate bigint, out bytes bigint, out is_current boolean, out state text)
    returns setof record stable strict
    language c as 'MODULE_PATHNAME', 'tasker_show_partitions';
comment on function tasker.show_partitions(regclass) is
'Lists the partitions of a set in the order of their bounds: lower bound (inclusive) and upper bound (exclusive), as partition_of() reads them; estimated rows; size in bytes with indexes and TOAST; whether it takes the rows of now; and state: attached, detach pending (a detach was cut off or is under way), detached (about to be dropped or moved), default (the DEFAULT partition, which comes last and has no bounds). Of record ids and UUIDs the bounds are the times that they carry. Errors: 42704 not a partition set.';

create function tasker.partition_of(parent regclass, value text) returns text stable
    language c as 'MODULE_PATHNAME', 'tasker_partition_of';
comment on function tasker.partition_of(regclass, text) is
'Names the partition of a set that holds a key; where none has its range, the DEFAULT partition, and without one the partition that would be made. The key is a value of the control column; of record ids and UUIDs also a time. Errors: 42704 not a partition set; 22023 no such key; 22003 out of range.';

create function tasker._partition_extents(parent regclass, out partition regclass, out lower_bound text,
    out upper_bound text, out rows_estimate bigint, out bytes bigint, out is_current boolean, out state text,
    out lower_time timestamptz, out upper_time timestamptz)
    returns setof record stable strict
    language c as 'MODULE_PATHNAME', 'tasker_partition_extents';
comment on function tasker._partition_extents(regclass) is
'show_partitions() with the bounds as times too, and without rows instead of an error. Internal: serves the views.';

create function tasker._partition_summary(parent regclass, out partitions integer, out ahead integer,
    out pending integer, out detached integer, out has_current boolean, out oldest text, out newest text,
    out error text, out gaps integer, out complete boolean, out in_default boolean, out overdue integer,
    out late integer)
    returns setof record stable strict rows 1
    language c as 'MODULE_PATHNAME', 'tasker_partition_summary';
comment on function tasker._partition_summary(regclass) is
'What the bounds of a set''s partitions say; "error" when they cannot be read. Internal: serves tasker.partition_status.';

create function tasker._partition_rows_changed(parent regclass) returns bigint stable strict
    language c as 'MODULE_PATHNAME', 'tasker_partition_rows_changed';
comment on function tasker._partition_rows_changed(regclass) is
'Rows changed in a partitioned table since it was last analyzed. Internal: serves tasker.partition_status.';

-- Health

create view tasker.partition_status as
with sets as (
    select c.*, s.*, r.*, f.failing,
           d.default_rows,
           s.late > r.refused + r.leaving and c.opened_at < pg_catalog.now() - interval '10 minutes' as neglected
      from tasker.part_config c
      join pg_catalog.pg_class k on k.oid = c.parent and k.relkind = 'p'
     cross join lateral tasker._partition_summary(c.parent) s
     cross join lateral (
               select pg_catalog.count(*) as booked,
                      pg_catalog.count(*) filter (where state = 'refused') as refused,
                      pg_catalog.count(*) filter (where state = 'leaving') as leaving,
                      coalesce(pg_catalog.bool_or(failures >= 5), false) as stuck,
                      pg_catalog.array_agg(
                          pg_catalog.format('%s: %s', partition_name,
                              pg_catalog.concat_ws('; ',
                                  case when state = 'leaving' then 'its detach has begun' end,
                                  reason,
                                  case when refusals > 0 then 'refused ' || refusals || ' times' end,
                                  case when failures > 0 then 'failed ' || failures || ' times' end))
                          order by lower_key) as reasons
                 from tasker.part_retirement
                where parent = c.parent) r
     cross join lateral (
               select pg_catalog.string_agg(
                          pg_catalog.format('%s: %s (%s times)', duty, message, failures), '; ' order by duty) as failing
                 from tasker.part_failure
                where parent = c.parent) f
      left join lateral (
               select greatest(pg_catalog.pg_stat_get_live_tuples(k.oid), k.reltuples::bigint, 0) as default_rows
                 from pg_catalog.pg_partitioned_table p
                 join pg_catalog.pg_class k on k.oid = p.partdefid
                where p.partrelid = c.parent) d on true)
select s.parent,
       case
           when s.error is not null or not (s.has_current or s.in_default) then 'unhealthy'
           when pg_catalog.cardinality(p.problems) > 0 then 'degraded'
           else 'healthy'
       end as health,
       s.partition_interval,
       s.premake,
       s.partitions,
       s.ahead as partitions_ahead,
       s.oldest,
       s.newest,
       greatest(s.overdue + s.pending + s.detached, s.booked) as overdue,
       s.reasons as overdue_reasons,
       s.pending as pending_detaches,
       s.detached as detached_tables,
       s.default_rows,
       s.legal_hold,
       s.last_maintenance,
       greatest(a.analyzed_at, pg_catalog.pg_stat_get_last_analyze_time(s.parent)) as last_analyze,
       tasker._partition_rows_changed(s.parent) as rows_changed,
       coalesce(s.failing, s.error) as failing,
       s.gaps as gaps_ahead,
       p.problems
  from sets s
  left join tasker.part_analyze a on a.parent = s.parent
 cross join lateral (
           select pg_catalog.array_remove(array[
               case when s.error is not null then 'it cannot be read: ' || s.error
                    when s.in_default then 'no partition but the DEFAULT one takes the rows of now'
                    when not s.has_current then 'no partition takes the rows of now'
                    when s.ahead < s.premake and not s.complete
                        then pg_catalog.format('%s of %s partitions are ready ahead', s.ahead, s.premake)
               end,
               case when s.default_rows > 0
                   then pg_catalog.format('the DEFAULT partition holds about %s rows', s.default_rows) end,
               case when s.stuck then 'a partition that is due to go fails to: see overdue_reasons' end,
               case when s.neglected
                   then pg_catalog.format('%s partitions are past their retention and no round of maintenance has come',
                                          s.late - s.refused - s.leaving) end,
               s.failing], null) as problems) p;

comment on view tasker.partition_status is 'The health of each open partition set';
comment on column tasker.partition_status.parent is 'The partitioned table';
comment on column tasker.partition_status.health is
    'unhealthy: no partition takes the rows of now, or the set cannot be read; degraded: see problems; else healthy. A set that ends with its type, or with a partition up to MAXVALUE, needs none ahead';
comment on column tasker.partition_status.partition_interval is 'Length of a partition';
comment on column tasker.partition_status.premake is 'Partitions wanted ahead of now';
comment on column tasker.partition_status.partitions is 'Attached partitions, without the DEFAULT one';
comment on column tasker.partition_status.partitions_ahead is
    'Attached partitions that follow the one of now without a gap';
comment on column tasker.partition_status.oldest is 'Lower bound of the first attached partition';
comment on column tasker.partition_status.newest is 'Upper bound of the last attached partition';
comment on column tasker.partition_status.overdue is
    'Partitions that are past their retention and have not gone: refused, on their way out, or not looked at yet';
comment on column tasker.partition_status.overdue_reasons is
    'Names of those that a round of maintenance has looked at, and why they are still there';
comment on column tasker.partition_status.pending_detaches is
    'Partitions whose detach is under way or was cut off; the next round of maintenance completes it';
comment on column tasker.partition_status.detached_tables is
    'Detached tables that are about to be dropped or moved';
comment on column tasker.partition_status.default_rows is
    'Rows estimated in the DEFAULT partition; null when the set has none. tasker.check_default() counts them';
comment on column tasker.partition_status.legal_hold is 'While true, no partition of the set is retired';
comment on column tasker.partition_status.last_maintenance is
    'When maintenance last made, finalized or retired a partition';
comment on column tasker.partition_status.last_analyze is 'When the parent was last analyzed';
comment on column tasker.partition_status.rows_changed is 'Rows changed since the parent was last analyzed';
comment on column tasker.partition_status.failing is 'Duties that fail for this set, with their last error';
comment on column tasker.partition_status.gaps_ahead is
    'Ranges after now that no partition has although a later one does; tasker.create_partition() fills them';
comment on column tasker.partition_status.problems is 'Why the set is not healthy; empty when it is';


-- Rows that went past all partitions, and queries that go through all of them

create function tasker.check_default(parent_table regclass = null, out parent regclass, out default_table regclass,
    out row_count bigint)
    returns setof record stable
    language c as 'MODULE_PATHNAME', 'tasker_check_default';
comment on function tasker.check_default(regclass) is
'Counts the rows in DEFAULT partitions, exactly, by reading them: of all partition sets (null), or of one partitioned table, managed or not. Only those that hold rows are listed; tasker.partition_data_proc() moves them out. A set that cannot be read is reported by a warning. Errors: 42809 not a partitioned table.';

create function tasker.check_pruning(query text, out parent regclass, out partitions integer, out scanned integer,
    out scanned_partitions regclass[])
    returns setof record volatile strict
    language c as 'MODULE_PATHNAME', 'tasker_check_pruning';
comment on function tasker.check_pruning(text) is
'Plans a statement with the rights and settings of the caller, without executing it, and tells for each partitioned table in it how many of its partitions there are, and how many and which would be read. Partitions that are left out when the plan starts count as pruned, those that a join leaves out while it runs do not. Errors: 22023 not one SELECT, INSERT, UPDATE, DELETE or MERGE; those of EXPLAIN.';

create view tasker.partition_sizes as
select c.parent, e.partition, e.lower_bound, e.upper_bound, e.state, e.is_current, e.rows_estimate, e.bytes,
       pg_catalog.pg_size_pretty(e.bytes) as size,
       pg_catalog.round(100 * e.bytes / nullif(pg_catalog.sum(e.bytes) over (partition by c.parent), 0), 1)
           as percent_of_set
  from tasker.part_config c
 cross join lateral tasker._partition_extents(c.parent) e;

comment on view tasker.partition_sizes is
    'The partitions of all sets with rows and sizes, as tasker.show_partitions() lists those of one';
comment on column tasker.partition_sizes.parent is 'The partitioned table';
comment on column tasker.partition_sizes.partition is 'The partition';
comment on column tasker.partition_sizes.lower_bound is 'Its lower bound, inclusive; null for the DEFAULT partition';
comment on column tasker.partition_sizes.upper_bound is 'Its upper bound, exclusive; null for the DEFAULT partition';
comment on column tasker.partition_sizes.state is 'attached, detach pending, detached or default';
comment on column tasker.partition_sizes.is_current is 'Does it take the rows of now?';
comment on column tasker.partition_sizes.rows_estimate is 'Its rows, estimated';
comment on column tasker.partition_sizes.bytes is 'Its size with indexes and TOAST';
comment on column tasker.partition_sizes.size is 'The same for people';
comment on column tasker.partition_sizes.percent_of_set is 'Its share of the bytes of the set';

-- Complete partitions tell how many rows came in a time that is over. The rate is that of the latest week, and of
-- three partitions at least; while there is no complete one, that of the current partition so far.
create view tasker.partition_growth as
with extents as (
    select c.parent, c.partition_interval, c.retention, c.opened_at, c.control_kind <> 'number' as timed, e.*,
           extract(epoch from e.upper_time - e.lower_time) / 86400 as days,
           e.upper_time <= pg_catalog.min(e.lower_time) filter (where e.is_current) over (partition by c.parent)
               and e.state = 'attached' as complete
      from tasker.part_config c
     cross join lateral tasker._partition_extents(c.parent) e),
ranked as (
    select x.*, pg_catalog.row_number() over (partition by parent, complete order by upper_time desc) as n,
           pg_catalog.max(upper_time) filter (where complete) over (partition by parent) as end_time
      from extents x),
recent as (
    select r.*, r.complete and (n <= 3 or upper_time > end_time - interval '7 days') as is_recent
      from ranked r),
sets as (
    select parent, partition_interval, retention,
           pg_catalog.count(*) filter (where state = 'attached') as partitions,
           pg_catalog.sum(rows_estimate)::bigint as rows_estimate,
           pg_catalog.sum(bytes)::bigint as bytes,
           pg_catalog.sum(rows_estimate) filter (where is_recent) as recent_rows,
           pg_catalog.sum(bytes) filter (where is_recent) as recent_bytes,
           nullif(pg_catalog.sum(days) filter (where is_recent), 0) as recent_days,
           pg_catalog.sum(rows_estimate) filter (where complete and not is_recent) as older_rows,
           nullif(pg_catalog.sum(days) filter (where complete and not is_recent), 0) as older_days,
           pg_catalog.sum(rows_estimate) filter (where is_current and timed) as current_rows,
           pg_catalog.sum(bytes) filter (where is_current and timed) as current_bytes,
           pg_catalog.max(greatest(extract(epoch from pg_catalog.now() - greatest(lower_time, opened_at)), 3600) / 86400)
               filter (where is_current) as current_days
      from recent
     group by parent, partition_interval, retention),
rates as (
    select s.*,
           coalesce(recent_rows / recent_days, current_rows / current_days) as rows_a_day,
           coalesce(recent_bytes / recent_days, current_bytes / current_days) as bytes_a_day
      from sets s)
select parent, partition_interval, partitions, rows_estimate, bytes, pg_catalog.pg_size_pretty(bytes) as size,
       pg_catalog.round(rows_a_day)::bigint as rows_per_day,
       pg_catalog.round(bytes_a_day)::bigint as bytes_per_day,
       pg_catalog.round(older_rows / older_days)::bigint as rows_per_day_before,
       retention,
       pg_catalog.round(bytes_a_day * extract(epoch from retention) / 86400)::bigint as bytes_expected,
       case when rows_a_day > 1000000 then '1 day' when rows_a_day > 100000 then '1 week'
            when rows_a_day is not null then '1 month' end as suggested_interval
  from rates;

comment on view tasker.partition_growth is 'How fast each set grows, told from its partitions';
comment on column tasker.partition_growth.parent is 'The partitioned table';
comment on column tasker.partition_growth.partition_interval is 'Length of a partition';
comment on column tasker.partition_growth.partitions is 'Attached partitions';
comment on column tasker.partition_growth.rows_estimate is 'Rows in the set, estimated';
comment on column tasker.partition_growth.bytes is 'Its size with indexes and TOAST';
comment on column tasker.partition_growth.size is 'The same for people';
comment on column tasker.partition_growth.rows_per_day is
    'Rows a day in the complete partitions of the latest week (three at least), or so far in the current one; null for numbers, which have no time';
comment on column tasker.partition_growth.bytes_per_day is 'Bytes a day in the same partitions';
comment on column tasker.partition_growth.rows_per_day_before is 'Rows a day in the complete partitions before these';
comment on column tasker.partition_growth.retention is 'Age at which a partition is retired';
comment on column tasker.partition_growth.bytes_expected is 'What the set will hold when it is as old as its retention';
comment on column tasker.partition_growth.suggested_interval is
    'What the rows a day suggest: a day above 1,000,000, a week above 100,000, a month below';

-- Advice for a table that is not partitioned yet

create function tasker.suggest_interval(source regclass, control name, out rows_per_day bigint,
    out partition_interval text, out premake integer, out rows_per_partition bigint, out rows_estimate bigint,
    out bytes bigint, out oldest text, out newest text, out reason text)
    returns record stable
    language c as 'MODULE_PATHNAME', 'tasker_suggest_interval';
comment on function tasker.suggest_interval(regclass, name) is
'Suggests how to partition a table by a column, from its own growth: rows a day in the newer half of its rows, and an interval of a day above 1,000,000, a week above 100,000, a month below, with the partitions to keep ready. For a number, which has no time, the growth is that of a time column of the same table, and the interval is how many numbers come in that time. Reads at most 1,000 pages of the table; "reason" tells what the suggestion rests on. rows_per_day is null where nothing tells it. Errors: 42703 no such column; 42809 not a table; 22023 a column that no set can be partitioned by; 42501 no right to read it.';

-- A picture

create function tasker.partition_picture(parent regclass, width integer = 60)
    returns setof text stable
    language c as 'MODULE_PATHNAME', 'tasker_partition_picture';
comment on function tasker.partition_picture(regclass, integer) is
'Draws a partition set for a terminal: a line per partition with a bar for its size, its size and its rows, in the order of the bounds; where there are many, older ones are folded by month, year or number. Shows the current partition, those ahead, gaps, the DEFAULT partition, what is about to go, and where the retention ends. "width" is that of a line, 50 to 250. Errors: 42704 not a partition set; 22023 bad width.';

revoke all on tasker.partition_status, tasker.partition_sizes, tasker.partition_growth from public;
revoke all on function tasker.show_partitions(regclass), tasker.partition_of(regclass, text),
    tasker._partition_extents(regclass), tasker._partition_summary(regclass),
    tasker._partition_rows_changed(regclass), tasker.check_default(regclass), tasker.check_pruning(text),
    tasker.suggest_interval(regclass, name), tasker.partition_picture(regclass, integer) from public;
grant select on tasker.partition_status, tasker.partition_sizes, tasker.partition_growth
    to tasker_admin, tasker_observer;
grant execute on function tasker.show_partitions(regclass), tasker.partition_of(regclass, text),
    tasker._partition_extents(regclass), tasker._partition_summary(regclass),
    tasker._partition_rows_changed(regclass), tasker.check_default(regclass), tasker.check_pruning(text),
    tasker.suggest_interval(regclass, name), tasker.partition_picture(regclass, integer)
    to tasker_admin, tasker_observer;


-- Rows on their way into a partition set or out of it. See src/partition/move.hpp.

create table tasker.part_move (
    source regclass primary key,
    target regclass not null,
    swap boolean not null,
    phase text not null,
    rows_moved bigint not null default 0,
    rows_left bigint,
    at_table regclass,
    next_block bigint not null default 0,
    at_file oid not null default 0,
    started_at timestamptz not null default pg_catalog.clock_timestamp(),
    last_batch_at timestamptz,
    run_started_at timestamptz not null default pg_catalog.clock_timestamp(),
    run_rows bigint not null default 0,
    held boolean not null default false
);

comment on table tasker.part_move is
    'Moves of rows that are under way or interrupted, written with each step; shown by tasker.partition_data_progress';
comment on column tasker.part_move.source is 'The table that the rows come from';
comment on column tasker.part_move.target is 'The table that they go to';
comment on column tasker.part_move.swap is
    'The rows are copied, changes are mirrored, and in the end the tables exchange their names';
comment on column tasker.part_move.phase is 'What is being done';
comment on column tasker.part_move.rows_moved is 'Rows moved or copied so far';
comment on column tasker.part_move.rows_left is 'Rows left, estimated';
comment on column tasker.part_move.at_table is 'The table that is being read: the source or a partition of it';
comment on column tasker.part_move.next_block is 'The block of it where another call goes on';
comment on column tasker.part_move.at_file is
    'The file that the block is in; when the table has another one, it was written anew, and the block means nothing';
comment on column tasker.part_move.started_at is 'When the first call began';
comment on column tasker.part_move.last_batch_at is 'When rows were last moved';
comment on column tasker.part_move.run_started_at is 'When the latest call began';
comment on column tasker.part_move.run_rows is 'Rows moved or copied since then';
comment on column tasker.part_move.held is
    'The legal hold of the source was switched on for the move, and is switched off when it is cancelled';

create procedure tasker.partition_data_proc(parent regclass, source regclass, batch interval = null,
    batch_rows int = 50000, wait interval = '0', max_batches int = null, swap boolean = false)
    language c as 'MODULE_PATHNAME', 'tasker_partition_data_proc';
comment on procedure tasker.partition_data_proc(regclass, regclass, interval, int, interval, int, boolean) is
'Moves the rows of a table into a partition set while both are in use, making partitions as they are needed, and commits as it goes: call it again to go on after anything. In physical order, or by ranges of the control column of length "batch". Batches of "batch_rows" rows, with "wait" between them, at most "max_batches" of them. With "swap" the table stays complete and in use: rows are copied, changes mirrored, and in the end the set takes the table''s name and the table becomes NAME_old. The source may also be the set''s own DEFAULT partition. Triggers do not fire for rows that are moved. Errors: 42704 not a partition set; 42501 not owner of both; 42703, 42804 columns that do not fit; 55000 foreign keys, or what else is in the way; 55006 already running; 25001 called inside a transaction block.';

create procedure tasker.undo_partition_proc(parent regclass, target regclass, batch_rows int = 50000,
    wait interval = '0', max_batches int = null, swap boolean = false)
    language c as 'MODULE_PATHNAME', 'tasker_undo_partition_proc';
comment on procedure tasker.undo_partition_proc(regclass, regclass, int, interval, int, boolean) is
'Moves the rows of a partition set into an ordinary table, from the oldest partition on, in the same way as partition_data_proc, and then ends the management of the set. Its partitions stay, empty, so that writers get no error; drop the parent when nothing uses it any more. Errors: as for partition_data_proc.';

create procedure tasker.cancel_partition_move(source regclass)
    language c as 'MODULE_PATHNAME', 'tasker_cancel_partition_move';
comment on procedure tasker.cancel_partition_move(regclass) is
'Ends a move that was interrupted or is not wanted any more. One with "swap" leaves the source as it was; the copies stay in the other table. Of one without, rows that have been moved stay moved. Errors: 42704 there is no such move; 42501 not owner; 55006 it is running; 25001 called inside a transaction block.';

create function tasker._mirror_row() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_mirror_row';
comment on function tasker._mirror_row() is
'Mirrors a change of a row into the table that the rows are being copied to. Internal.';

create function tasker._mirror_truncate() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_mirror_truncate';
comment on function tasker._mirror_truncate() is
'Empties the table that rows are being copied to together with the one they come from. Internal.';

create view tasker.partition_data_progress as
select m.source,
       m.target,
       case when m.swap then 'swap' else 'move' end as mode,
       case when l.pid is null then 'interrupted' else m.phase end as phase,
       m.rows_moved,
       m.rows_left,
       r.rows_per_second,
       case when r.rows_per_second > 0 then interval '1 second' * (m.rows_left / r.rows_per_second) end as time_left,
       m.started_at,
       m.last_batch_at,
       l.pid
  from tasker.part_move m
  left join pg_catalog.pg_locks l
         on l.locktype = 'advisory' and l.granted and l.mode = 'ExclusiveLock' and l.classid = m.source::oid and
            l.objid = 4 and l.objsubid = 21569 and
            l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
 cross join lateral (
           select m.run_rows / nullif(extract(epoch from m.last_batch_at - m.run_started_at), 0)::double precision
                      as rows_per_second) r;

comment on view tasker.partition_data_progress is 'The progress of rows on their way into partition sets or out of them';
comment on column tasker.partition_data_progress.source is 'The table that the rows come from';
comment on column tasker.partition_data_progress.target is 'The table that they go to';
comment on column tasker.partition_data_progress.mode is
    'move: each row leaves the source as it comes to the target; swap: the source stays complete to the end';
comment on column tasker.partition_data_progress.phase is
    'What is being done; interrupted: nobody is at it, call the procedure again';
comment on column tasker.partition_data_progress.rows_moved is 'Rows moved or copied so far';
comment on column tasker.partition_data_progress.rows_left is 'Rows left, estimated';
comment on column tasker.partition_data_progress.rows_per_second is 'Since the latest call began';
comment on column tasker.partition_data_progress.time_left is 'At that rate';
comment on column tasker.partition_data_progress.started_at is 'When the first call began';
comment on column tasker.partition_data_progress.last_batch_at is 'When rows were last moved';
comment on column tasker.partition_data_progress.pid is 'The session that is at it';

select pg_catalog.pg_extension_config_dump('tasker.part_move', '');

revoke all on tasker.part_move, tasker.partition_data_progress from public;
revoke all on procedure
    tasker.partition_data_proc(regclass, regclass, interval, int, interval, int, boolean),
    tasker.undo_partition_proc(regclass, regclass, int, interval, int, boolean),
    tasker.cancel_partition_move(regclass) from public;
revoke all on function tasker._mirror_row(), tasker._mirror_truncate() from public;
grant select on tasker.part_move, tasker.partition_data_progress to tasker_admin, tasker_observer;
grant execute on procedure
    tasker.partition_data_proc(regclass, regclass, interval, int, interval, int, boolean),
    tasker.undo_partition_proc(regclass, regclass, int, interval, int, boolean),
    tasker.cancel_partition_move(regclass) to tasker_admin;

-- The queue plane. Tables first, then what users call, then the duties of the worker.

create table tasker.flow (
    flow_id        int generated by default as identity primary key,
    flow_name      text not null unique,
    max_attempts   int not null default 3 check (max_attempts >= 1),
    lease          interval not null default '1 hour' check (lease > '0'),
    backoff_base   interval not null default '1 second' check (backoff_base >= '0'),
    backoff_max    interval not null default '1 minute' check (backoff_max >= '0'),
    backoff_jitter float8 not null default 0.1 check (backoff_jitter between 0 and 1),
    max_in_flight  int check (max_in_flight >= 1),
    rate_limit     float8 check (rate_limit > 0 and rate_limit <= 1e9),
    retention      interval not null default '7 days' check (retention >= '0'),
    paused         boolean not null default false,
    notify         boolean not null default false,
    created_at     timestamptz not null default now()
);
select pg_catalog.pg_extension_config_dump('tasker.flow', '');
select pg_catalog.pg_extension_config_dump('tasker.flow_flow_id_seq', '');
comment on table tasker.flow is
'A flow is a named line of records with its policy. Made by create_flow() or the first enqueue; change it with alter_flow().';
comment on column tasker.flow.flow_id is 'Key used inside; names can be long, index entries should be short';
comment on column tasker.flow.flow_name is 'The name that all functions take: 1 to 128 bytes, no control characters';
comment on column tasker.flow.max_attempts is 'Attempts before a failing record becomes a dead letter (default 3)';
comment on column tasker.flow.lease is 'How long a claim holds before the record counts as orphaned (default 1 hour)';
comment on column tasker.flow.backoff_base is 'Delay before the second attempt; doubles with each further one (default 1 second)';
comment on column tasker.flow.backoff_max is 'Longest delay before a retry (default 1 minute)';
comment on column tasker.flow.backoff_jitter is 'Share by which a delay is varied at random, 0 to 1 (default 0.1)';
comment on column tasker.flow.max_in_flight is 'Most records in processing at any time; null: no limit';
comment on column tasker.flow.rate_limit is 'Most records claimed per second, on average, with a burst of one second; null: no limit';
comment on column tasker.flow.retention is 'How long finished records are kept at least (default 7 days); they go as whole partitions';
comment on column tasker.flow.paused is 'A paused flow takes records and hands out none';
comment on column tasker.flow.notify is 'Also send NOTIFY on channel tasker_<flow name> at each enqueue (default off: its lock serializes commits)';
comment on column tasker.flow.created_at is 'When the flow was made';

-- Ids of records where there is no shared memory to take them from.
create sequence tasker.record_id_seq cycle;
comment on sequence tasker.record_id_seq is 'Low bits of record ids on servers without shared_preload_libraries';

create function tasker.next_record_id() returns bigint
    language c volatile as 'MODULE_PATHNAME', 'tasker_next_record_id';
comment on function tasker.next_record_id() is
'A new record id: (milliseconds since the Unix epoch << 20) | sequence. Strictly grows in one session and orders by time across sessions.';

create function tasker.record_id_time(record_id bigint) returns timestamptz
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'tasker_record_id_time';
comment on function tasker.record_id_time(bigint) is 'The time (milliseconds) at which a record id, lease token or position lies.';

-- Keys and indexes stand on the partitions, made by the partition plane: a parent with indexes that belongs to an
-- extension cannot be restored from a dump. Columns that change together stand together and before the payload, so
-- that the WAL of an update holds the few bytes between what stays the same.
create table tasker.queue_record (
    id               bigint not null default tasker.next_record_id(),
    position         bigint not null default tasker.next_record_id(),
    lease_token      bigint,
    claimed_at       timestamptz,
    lease_expires_at timestamptz,
    changed_at       timestamptz,
    flow_id          int not null,
    retry_count      int not null default 0,
    priority         smallint not null default 0,
    status           "char" not null default 'p',
    flow_instance_id text,
    error_message    text,
    result           jsonb,
    payload          jsonb,
    constraint queue_record_status_check check (status in ('p', 'r', 'c', 'f', 'x')),
    constraint queue_record_priority_check check (priority between 0 and 9)
) partition by range (id);
comment on table tasker.queue_record is
'The records of all flows, partitioned by id. Written by the functions of this plane; read it through processing_queue.';
comment on column tasker.queue_record.id is '(Unix milliseconds << 20) | sequence: key, partition key and time of creation';
comment on column tasker.queue_record.position is 'Where the record stands in line, same layout as id: its id, or the time at which it becomes due (schedule, retry)';
comment on column tasker.queue_record.lease_token is 'New with every claim: the fencing token';
comment on column tasker.queue_record.claimed_at is 'Time of the last claim';
comment on column tasker.queue_record.lease_expires_at is 'End of the current lease';
comment on column tasker.queue_record.changed_at is 'Time of the last change other than a claim: completion, failure, retry, release, cancellation';
comment on column tasker.queue_record.flow_id is 'The flow';
comment on column tasker.queue_record.retry_count is 'Failed attempts so far';
comment on column tasker.queue_record.priority is '0 (default) to 9, higher first';
comment on column tasker.queue_record.status is 'p pending, r processing, c completed, f failed (a dead letter), x cancelled';
comment on column tasker.queue_record.flow_instance_id is 'Who claimed it last';
comment on column tasker.queue_record.error_message is 'Error of the last failed attempt';
comment on column tasker.queue_record.result is 'What the worker returned';
comment on column tasker.queue_record.payload is 'What the producer gave';

-- The functions of this plane write the table directly and fire no trigger; this one accounts for everything else:
-- INSERT, UPDATE, DELETE and COPY by an administrator, restores, logical replication (hence ALWAYS).
create function tasker.account_record_change() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_record_change';
comment on function tasker.account_record_change() is
'Keeps floors and statistics right when the table is written by statements instead of this extension''s functions.';
create trigger account_record_change after insert or update or delete on tasker.queue_record
    for each row execute function tasker.account_record_change();
alter table tasker.queue_record enable always trigger account_record_change;
create function tasker.account_truncate() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_truncate';
comment on function tasker.account_truncate() is 'Has floors and statistics rebuilt after a TRUNCATE of the whole table.';
create trigger account_truncate after truncate on tasker.queue_record
    for each statement execute function tasker.account_truncate();

create table tasker.dedup_key (
    flow_id    int not null,
    dedup_key  text not null,
    record_id  bigint not null,
    expires_at timestamptz,
    primary key (flow_id, dedup_key)
);
select pg_catalog.pg_extension_config_dump('tasker.dedup_key', '');
comment on table tasker.dedup_key is 'Deduplication keys in use: by a live record, or within their window';
comment on column tasker.dedup_key.flow_id is 'The flow in which the key is unique';
comment on column tasker.dedup_key.dedup_key is 'The key given to enqueue()';
comment on column tasker.dedup_key.record_id is 'The record that holds it';
comment on column tasker.dedup_key.expires_at is 'End of the window in which it stays in use even when the record is finished; null: no window';

-- Not dumped: it names tables of this cluster, and is made again by the worker.
create table tasker.sealed_partition (
    partition oid not null,
    flow_id   int not null,
    priority  int not null,
    completed bigint not null,
    failed    bigint not null,
    cancelled bigint not null,
    primary key (partition, flow_id, priority)
);
comment on table tasker.sealed_partition is
'Counts of past partitions of queue_record in which everything is finished: floors and statistics are rebuilt from them without reading the partition. A row of priority -1 marks the partition.';
comment on column tasker.sealed_partition.partition is 'The partition''s oid';
comment on column tasker.sealed_partition.flow_id is 'The flow, 0 for the mark';
comment on column tasker.sealed_partition.priority is 'The priority, -1 for the mark';
comment on column tasker.sealed_partition.completed is 'Completed records';
comment on column tasker.sealed_partition.failed is 'Failed records';
comment on column tasker.sealed_partition.cancelled is 'Cancelled records';

-- Flows

create function tasker.create_flow(flow_name text, settings jsonb default '{}') returns int
    language c as 'MODULE_PATHNAME', 'tasker_create_flow';
comment on function tasker.create_flow(text, jsonb) is
'Creates a flow. settings: an object with any of max_attempts, lease, backoff_base, backoff_max, backoff_jitter, max_in_flight, rate_limit, retention, paused, notify. Result: its flow_id. Errors: 42710 the name exists; 22023 bad name or setting.';
create function tasker.alter_flow(flow_name text, setting text, value text) returns void
    language c as 'MODULE_PATHNAME', 'tasker_alter_flow';
comment on function tasker.alter_flow(text, text, text) is
'Changes one setting of a flow; it acts on the next call of every session. A null value restores the default. Errors: 42704 unknown flow; 22023 unknown setting or bad value.';
create function tasker.drop_flow(flow_name text, force boolean default false) returns void
    language c as 'MODULE_PATHNAME', 'tasker_drop_flow';
comment on function tasker.drop_flow(text, boolean) is
'Drops a flow. Its finished records are deleted. Errors: 42704 unknown flow; 55000 it has pending or processing records and force is off.';
create function tasker.pause_flow(flow_name text) returns void
    language c as 'MODULE_PATHNAME', 'tasker_pause_flow';
comment on function tasker.pause_flow(text) is 'Stops handing out records of the flow; enqueueing goes on. Errors: 42704 unknown flow.';
create function tasker.resume_flow(flow_name text) returns void
    language c as 'MODULE_PATHNAME', 'tasker_resume_flow';
comment on function tasker.resume_flow(text) is 'Ends the pause of a flow and wakes its waiting workers. Errors: 42704 unknown flow.';

create function tasker.account_flow_change() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_flow_change';
comment on function tasker.account_flow_change() is 'Makes every session read a flow''s settings anew after a change.';
create trigger account_flow_change after insert or update or delete or truncate on tasker.flow
    for each statement execute function tasker.account_flow_change();
alter table tasker.flow enable always trigger account_flow_change;

-- Producers

create function tasker.enqueue(flow_name text, payload jsonb, priority smallint default 0,
        run_at timestamptz default null, dedup_key text default null, dedup_window interval default null)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_enqueue';
comment on function tasker.enqueue(text, jsonb, smallint, timestamptz, text, interval) is
'Adds a record and returns its id. priority: 0 to 9, higher first. run_at: not before this time. dedup_key: while a record with this key is pending or processing, or was enqueued less than dedup_window ago, nothing is added and that record''s id is returned. Errors: 22023 bad argument; 42704 unknown flow while tasker.auto_create_flows is off.';
create function tasker.enqueue(flow_name text, payload jsonb, priority int,
        run_at timestamptz default null, dedup_key text default null, dedup_window interval default null)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_enqueue_int';
comment on function tasker.enqueue(text, jsonb, int, timestamptz, text, interval) is
'The same as enqueue() with a smallint priority, for integer literals.';
create function tasker.add_records_to_queue(flow_name text, payloads jsonb[], priority smallint default 0,
        run_at timestamptz default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_add_records_to_queue';
comment on function tasker.add_records_to_queue(text, jsonb[], smallint, timestamptz) is
'Adds one record for each payload, in the order of the array, and returns their number. Errors: as enqueue().';
create function tasker.add_records_to_queue(flow_name text, payloads jsonb[], priority int,
        run_at timestamptz default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_add_records_to_queue_int';
comment on function tasker.add_records_to_queue(text, jsonb[], int, timestamptz) is
'The same as add_records_to_queue() with a smallint priority, for integer literals.';

-- Workers

create function tasker.claim_records_batch(flow_name text, batch_size int default 1, instance_id text default null,
        lease interval default null)
    returns table (id bigint, payload jsonb, retry_count int, created_at timestamptz, lease_token bigint,
        lease_expires_at timestamptz)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_claim_records_batch';
comment on function tasker.claim_records_batch(text, int, text, interval) is
'Claims up to batch_size due records, by priority and position, each for this caller only, and returns them; none when nothing is due, the flow is paused or its limits are reached. instance_id names the claimer (default: host, application_name and pid); lease is how long the claim holds (default: the flow''s). Errors: 42704 unknown flow; 22023 batch_size < 1, lease not positive.';
create function tasker.mark_record_completed(record_id bigint, result jsonb default null, lease_token bigint default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_mark_record_completed';
comment on function tasker.mark_record_completed(bigint, jsonb, bigint) is
'Completes a record in processing; returns 1. With a lease_token only under that very claim. Errors: 42704 no such record; 55000 it is not in processing, or the lease is lost.';
create function tasker.mark_records_completed(record_ids bigint[], results jsonb[] default null,
        lease_tokens bigint[] default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_mark_records_completed';
comment on function tasker.mark_records_completed(bigint[], jsonb[], bigint[]) is
'Completes several records, all or none, and returns their number. results and lease_tokens have as many elements as record_ids; null elements mean none. Errors: as mark_record_completed(); 22023 duplicate ids, arrays of unequal length.';
create function tasker.mark_record_failed(record_id bigint, error text, retry_in interval default null,
        lease_token bigint default null)
    returns text
    language c as 'MODULE_PATHNAME', 'tasker_mark_record_failed';
comment on function tasker.mark_record_failed(bigint, text, interval, bigint) is
'Fails the current attempt of a record in processing. Result: pending (retried after retry_in, or the flow''s backoff) or failed (no attempts left: a dead letter). Errors: as mark_record_completed().';
create function tasker.extend_lease(record_ids bigint[], lease interval, lease_tokens bigint[] default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_extend_lease';
comment on function tasker.extend_lease(bigint[], interval, bigint[]) is
'Lets the leases of records in processing end `lease` from now, all or none; returns their number. Errors: as mark_records_completed().';
create function tasker.release_records(record_ids bigint[]) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_release_records';
comment on function tasker.release_records(bigint[]) is
'Gives back records in processing: claimable at once, no attempt lost. All or none; returns their number. Errors: 42704, 55000, 22023 as mark_records_completed().';
create function tasker.cancel_records(record_ids bigint[]) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_cancel_records';
comment on function tasker.cancel_records(bigint[]) is
'Cancels pending records, all or none; returns their number. Errors: 42704 no such record; 55000 not pending; 22023 duplicate ids.';

create procedure tasker.wait_for_records(flow_name text, timeout interval, inout ready boolean default null)
    language c as 'MODULE_PATHNAME', 'tasker_wait_for_records';
comment on procedure tasker.wait_for_records(text, interval, boolean) is
'Commits, then sleeps with no transaction and no snapshot open until something is claimable (ready = true) or the timeout has passed (false). Errors: 25001 inside a transaction block; 42704 unknown flow; 22023 negative timeout.';

-- Operators

create function tasker.get_queue_status(flow_name text default null)
    returns table (flow_name text, pending bigint, scheduled bigint, processing bigint, completed bigint,
        failed bigint, cancelled bigint, total bigint, oldest_pending_at timestamptz)
    language c volatile rows 100 as 'MODULE_PATHNAME', 'tasker_get_queue_status';
comment on function tasker.get_queue_status(text) is
'Exact numbers of records by flow and status, of one flow or all. pending are due, scheduled wait for their time (run_at or backoff). oldest_pending_at: creation of the first due record in line. Errors: 42704 unknown flow.';
create function tasker.cleanup_orphaned_records(timeout interval default '1 hour', flow_name text default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_cleanup_orphaned_records';
comment on function tasker.cleanup_orphaned_records(interval, text) is
'Gives back records whose claim is older than timeout or whose lease has ended; it counts as a failed attempt (retry or dead letter). Returns their number. The worker does it by itself for ended leases. Errors: 42704 unknown flow; 22023 negative timeout.';
create function tasker.reset_failed_records(flow_name text, max_retries int default 3) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_reset_failed_records';
comment on function tasker.reset_failed_records(text, int) is
'Makes the flow''s dead letters with fewer than, or exactly, max_retries failed attempts pending again, with all attempts before them; returns their number. Errors: 42704 unknown flow; 22023 negative max_retries.';
create function tasker.retry_records(record_ids bigint[]) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_retry_records';
comment on function tasker.retry_records(bigint[]) is
'Makes these dead letters pending again, with all attempts before them, all or none; returns their number. Errors: 42704 no such record; 55000 not failed; 22023 duplicate ids.';
create function tasker.purge_failed_records(flow_name text, older_than interval default '0') returns integer
    language c as 'MODULE_PATHNAME', 'tasker_purge_failed_records';
comment on function tasker.purge_failed_records(text, interval) is
'Deletes the flow''s dead letters that failed longer than older_than ago; returns their number. Errors: 42704 unknown flow; 22023 negative interval.';

create view tasker.processing_queue as
select r.id,
       f.flow_name,
       r.payload,
       case r.status when 'p' then 'pending' when 'r' then 'processing' when 'c' then 'completed'
                     when 'f' then 'failed' when 'x' then 'cancelled' end as status,
       r.flow_instance_id,
       case when r.status <> 'p' then r.claimed_at end as claimed_at,
       case when r.status = 'c' then r.changed_at end as completed_at,
       r.error_message,
       r.retry_count,
       tasker.record_id_time(r.id) as created_at,
       greatest(tasker.record_id_time(r.id), r.claimed_at, r.changed_at) as updated_at,
       r.priority,
       tasker.record_id_time(r.position) as run_at,
       r.result,
       r.lease_token,
       r.lease_expires_at
from tasker.queue_record r
join tasker.flow f using (flow_id);
create function tasker.insert_into_processing_queue() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_insert_into_processing_queue';
comment on function tasker.insert_into_processing_queue() is 'INSERT and COPY into processing_queue enqueue.';
create trigger insert_into_processing_queue instead of insert on tasker.processing_queue
    for each row execute function tasker.insert_into_processing_queue();
comment on view tasker.processing_queue is
'All records, with the words for their status. INSERT and COPY into it enqueue: flow_name is required; payload, priority, run_at and retry_count are taken as given.';
comment on column tasker.processing_queue.id is 'The record''s id';
comment on column tasker.processing_queue.flow_name is 'Its flow';
comment on column tasker.processing_queue.payload is 'What the producer gave';
comment on column tasker.processing_queue.status is 'pending, processing, completed, failed or cancelled';
comment on column tasker.processing_queue.flow_instance_id is 'Who claimed it last';
comment on column tasker.processing_queue.claimed_at is 'Time of the last claim; null while pending';
comment on column tasker.processing_queue.completed_at is 'Time of completion';
comment on column tasker.processing_queue.error_message is 'Error of the last failed attempt';
comment on column tasker.processing_queue.retry_count is 'Failed attempts so far';
comment on column tasker.processing_queue.created_at is 'Time of creation (milliseconds, part of the id)';
comment on column tasker.processing_queue.updated_at is 'Time of the last change';
comment on column tasker.processing_queue.priority is '0 to 9, higher first';
comment on column tasker.processing_queue.run_at is 'Due from this time on (milliseconds)';
comment on column tasker.processing_queue.result is 'What the worker returned';
comment on column tasker.processing_queue.lease_token is 'Token of the last claim';
comment on column tasker.processing_queue.lease_expires_at is 'End of the lease of the last claim';

create view tasker.dead_letters as
select id, flow_name, payload, error_message, retry_count, created_at, updated_at as failed_at, priority,
       flow_instance_id
from tasker.processing_queue
where status = 'failed';
comment on view tasker.dead_letters is
'Records without attempts left. Retry them with retry_records() or reset_failed_records(), delete them with purge_failed_records().';
comment on column tasker.dead_letters.id is 'The record''s id, for retry_records()';
comment on column tasker.dead_letters.flow_name is 'Its flow';
comment on column tasker.dead_letters.payload is 'What the producer gave';
comment on column tasker.dead_letters.error_message is 'Error of the last failed attempt';
comment on column tasker.dead_letters.retry_count is 'Failed attempts';
comment on column tasker.dead_letters.created_at is 'Time of creation (milliseconds, part of the id)';
comment on column tasker.dead_letters.failed_at is 'Time of the last failed attempt';
comment on column tasker.dead_letters.priority is '0 to 9, higher first';
comment on column tasker.dead_letters.flow_instance_id is 'Who claimed it last';

-- Duties and proofs

create function tasker.sweep_queue() returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_sweep_queue';
comment on function tasker.sweep_queue() is
'Rescans the live window and mends floors that a transaction could not lower (prepared transactions); returns how many were. The worker does it regularly.';
create function tasker.rebuild_queue_state() returns void
    language c as 'MODULE_PATHNAME', 'tasker_rebuild_queue_state';
comment on function tasker.rebuild_queue_state() is
'Counts all records anew and rebuilds floors and statistics in shared memory from the table. Needed after a partition was truncated by hand.';
create function tasker.check_queue_integrity()
    returns table (object text, problem text)
    language c volatile as 'MODULE_PATHNAME', 'tasker_check_queue_integrity';
comment on function tasker.check_queue_integrity() is
'Compares floors and statistics in shared memory with the table, and the table with its rules: a row for each problem, none where all holds.';
create function tasker.queue_lanes()
    returns table (flow_name text, priority int, partition regclass, claim_floor bigint, done_floor bigint,
        pending bigint, processing bigint, completed bigint, failed bigint, cancelled bigint)
    language c volatile as 'MODULE_PATHNAME', 'tasker_queue_lanes';
comment on function tasker.queue_lanes() is
'The lanes of this database in shared memory: floors (null: nothing there) and counts by flow, priority and partition. For diagnosis.';

create function tasker.partition_retention(partition regclass) returns text
    language c as 'MODULE_PATHNAME', 'tasker_partition_retention';
comment on function tasker.partition_retention(regclass) is
'Why a partition of queue_record is kept: unfinished records, a retention that has not passed, or that it is the current one; null when it may go.';
create view tasker.queue_retention as
select c.oid::regclass as partition, tasker.partition_retention(c.oid::regclass) as kept_because
from pg_catalog.pg_inherits i
join pg_catalog.pg_class c on c.oid = i.inhrelid
where i.inhparent = 'tasker.queue_record'::regclass
order by c.relname;
comment on view tasker.queue_retention is 'Each partition of queue_record and what keeps it; null when it goes with the next retirement.';
comment on column tasker.queue_retention.partition is 'The partition';
comment on column tasker.queue_retention.kept_because is 'The reason, or null';

-- Rights: nothing for PUBLIC.
revoke all on all functions in schema tasker from public;
revoke all on all procedures in schema tasker from public;
grant execute on function tasker.enqueue(text, jsonb, smallint, timestamptz, text, interval),
    tasker.enqueue(text, jsonb, int, timestamptz, text, interval),
    tasker.add_records_to_queue(text, jsonb[], smallint, timestamptz),
    tasker.add_records_to_queue(text, jsonb[], int, timestamptz),
    tasker.cancel_records(bigint[]),
    tasker.record_id_time(bigint)
    to tasker_producer, tasker_admin;
grant execute on function tasker.claim_records_batch(text, int, text, interval),
    tasker.mark_record_completed(bigint, jsonb, bigint),
    tasker.mark_records_completed(bigint[], jsonb[], bigint[]),
    tasker.mark_record_failed(bigint, text, interval, bigint),
    tasker.extend_lease(bigint[], interval, bigint[]),
    tasker.release_records(bigint[]),
    tasker.record_id_time(bigint)
    to tasker_worker, tasker_admin;
grant execute on procedure tasker.wait_for_records(text, interval, boolean) to tasker_worker, tasker_admin;
grant execute on function tasker.get_queue_status(text), tasker.record_id_time(bigint)
    to tasker_observer, tasker_producer, tasker_worker, tasker_admin;
grant execute on function tasker.queue_lanes(), tasker.check_queue_integrity(), tasker.partition_retention(regclass)
    to tasker_observer, tasker_admin;
grant execute on function tasker.next_record_id(), tasker.create_flow(text, jsonb), tasker.alter_flow(text, text, text),
    tasker.drop_flow(text, boolean), tasker.pause_flow(text), tasker.resume_flow(text),
    tasker.cleanup_orphaned_records(interval, text), tasker.reset_failed_records(text, int),
    tasker.retry_records(bigint[]), tasker.purge_failed_records(text, interval),
    tasker.sweep_queue(), tasker.rebuild_queue_state()
    to tasker_admin;
grant select on tasker.flow, tasker.processing_queue, tasker.dead_letters, tasker.queue_retention
    to tasker_observer, tasker_admin;
grant insert on tasker.processing_queue to tasker_producer, tasker_admin;

-- The stream plane: PgQ's model and PgQ's names. Its tables and views; the functions follow in files of their own.

create sequence tasker.queue_queue_id_seq as integer;
comment on sequence tasker.queue_queue_id_seq is 'Ids of queues in tasker.queue';
create table tasker.queue (
    queue_id                       integer primary key default nextval('tasker.queue_queue_id_seq'),
    queue_name                     text not null unique,
    queue_ntables                  integer not null default 3 check (queue_ntables = 3),
    queue_cur_table                integer not null default 0 check (queue_cur_table between 0 and 2),
    queue_rotation_period          interval not null default '2 hours' check (queue_rotation_period >= '0'),
    queue_switch_step1             bigint not null default pg_catalog.txid_current(),
    queue_switch_step2             bigint default pg_catalog.txid_current(),
    queue_switch_time              timestamptz not null default pg_catalog.now(),
    queue_external_ticker          boolean not null default false,
    queue_disable_insert           boolean not null default false,
    queue_ticker_paused            boolean not null default false,
    queue_ticker_max_count         integer not null default 500 check (queue_ticker_max_count >= 1),
    queue_ticker_max_lag           interval not null default '3 seconds' check (queue_ticker_max_lag >= '0'),
    queue_ticker_idle_period       interval not null default '1 minute' check (queue_ticker_idle_period >= '0'),
    queue_per_tx_limit             integer check (queue_per_tx_limit >= 0),
    queue_data_pfx                 text not null,
    queue_event_seq                text not null,
    queue_tick_seq                 text not null,
    queue_extra_maint              text[],
    queue_metadata_rotation_period interval not null default '2 minutes' check (queue_metadata_rotation_period > '0'),
    queue_min_tick_interval        interval not null default '1 millisecond' check (queue_min_tick_interval >= '0'),
    queue_ttl                      interval check (queue_ttl > '0'),
    queue_paused                   boolean not null default false,
    queue_rotation_deferrals       bigint not null default 0,
    queue_rotation_held_by         text,
    queue_max_retries              integer not null default 5 check (queue_max_retries >= 0),
    queue_emptied_txid             bigint not null default 0
);
alter sequence tasker.queue_queue_id_seq owned by tasker.queue.queue_id;
select pg_catalog.pg_extension_config_dump('tasker.queue', '');
select pg_catalog.pg_extension_config_dump('tasker.queue_queue_id_seq', '');
comment on table tasker.queue is
'The queues of the event stream, with PgQ''s columns. Made by create_queue(); settings are changed with set_queue_config().';
comment on column tasker.queue.queue_id is 'Key used inside, and in the names of the event tables';
comment on column tasker.queue.queue_name is 'The name that all functions take';
comment on column tasker.queue.queue_ntables is 'Event tables that are rotated: 3';
comment on column tasker.queue.queue_cur_table is 'The one that takes events now';
comment on column tasker.queue.queue_rotation_period is 'How long a table takes events before the next one does (default 2 hours)';
comment on column tasker.queue.queue_switch_step1 is 'Transaction of the last rotation';
comment on column tasker.queue.queue_switch_step2 is
'A transaction from after the last rotation was committed; null until there has been one. What began later writes to the current table only.';
comment on column tasker.queue.queue_switch_time is 'When the last rotation happened';
comment on column tasker.queue.queue_external_ticker is 'Ticks come from outside, by ticker(queue, tick_id, time, event_seq)';
comment on column tasker.queue.queue_disable_insert is 'Events are refused, except in sessions that replicate';
comment on column tasker.queue.queue_ticker_paused is 'No ticks are made';
comment on column tasker.queue.queue_ticker_max_count is 'ticker() ticks at once when so many events wait (default 500)';
comment on column tasker.queue.queue_ticker_max_lag is 'ticker() lets no event wait for longer (default 3 seconds)';
comment on column tasker.queue.queue_ticker_idle_period is 'ticker() ticks so often without events (default 1 minute)';
comment on column tasker.queue.queue_per_tx_limit is 'Most events that one transaction may insert; null: no limit';
comment on column tasker.queue.queue_data_pfx is 'The event tables are called that, _0, _1 and _2';
comment on column tasker.queue.queue_event_seq is 'Sequence of event ids';
comment on column tasker.queue.queue_tick_seq is 'Sequence of tick ids';
comment on column tasker.queue.queue_extra_maint is 'Functions that maint_operations() names for this queue too';
comment on column tasker.queue.queue_metadata_rotation_period is
'How often subscriptions and ticks change their table when they are written to (default 2 minutes); the shortest of all queues counts';
comment on column tasker.queue.queue_min_tick_interval is 'Shortest time between two ticks of the worker (default 1 millisecond)';
comment on column tasker.queue.queue_ttl is 'Events older than that are left out of batches; null: none';
comment on column tasker.queue.queue_paused is 'A paused queue takes events and hands out no batches';
comment on column tasker.queue.queue_rotation_deferrals is 'Rotations put off in a row because a consumer still needs the table';
comment on column tasker.queue.queue_rotation_held_by is 'The consumer, or the lock, that put off the last one';
comment on column tasker.queue.queue_max_retries is 'nack() sends an event again so often before it becomes a dead letter (default 5)';
comment on column tasker.queue.queue_emptied_txid is
'Events of transactions up to this one may have been emptied away, or have gone with a partition of a log, as no consumer needed them: nobody can be registered at a tick from before';

create sequence tasker.consumer_co_id_seq as integer;
comment on sequence tasker.consumer_co_id_seq is 'Ids of consumers in tasker.consumer';
create table tasker.consumer (
    co_id   integer primary key default nextval('tasker.consumer_co_id_seq'),
    co_name text not null unique
);
alter sequence tasker.consumer_co_id_seq owned by tasker.consumer.co_id;
select pg_catalog.pg_extension_config_dump('tasker.consumer', '');
select pg_catalog.pg_extension_config_dump('tasker.consumer_co_id_seq', '');
comment on table tasker.consumer is 'The names of consumers';
comment on column tasker.consumer.co_id is 'Key used inside';
comment on column tasker.consumer.co_name is 'The name that all functions take';

-- All event tables are like this one.
create table tasker.event_template (
    ev_id     bigint not null,
    ev_time   timestamptz not null,
    ev_txid   bigint not null default pg_catalog.txid_current(),
    ev_owner  integer,
    ev_retry  integer,
    ev_type   text,
    ev_data   text,
    ev_extra1 text,
    ev_extra2 text,
    ev_extra3 text,
    ev_extra4 text
);
comment on table tasker.event_template is 'The shape of the event tables, which is PgQ''s';
comment on column tasker.event_template.ev_id is 'Unique in its queue; a retried event keeps it';
comment on column tasker.event_template.ev_time is 'When the event was inserted';
comment on column tasker.event_template.ev_txid is 'The transaction that inserted it';
comment on column tasker.event_template.ev_owner is 'The subscription that wants it again; null: all';
comment on column tasker.event_template.ev_retry is 'How often it has been retried; null: never';
comment on column tasker.event_template.ev_type is 'What kind of event it is';
comment on column tasker.event_template.ev_data is 'Its data';
comment on column tasker.event_template.ev_extra1 is 'More data';
comment on column tasker.event_template.ev_extra2 is 'More data';
comment on column tasker.event_template.ev_extra3 is 'More data';
comment on column tasker.event_template.ev_extra4 is 'More data';

-- Ticks and where consumers stand are in three tables each, of which one is written to; see src/stream/slots.hpp. Rows
-- are only appended, and go with the table: there is nothing to vacuum, and a vacuum would be in the way of emptying it.
create table tasker.tick_0 (
    tick_queue     integer not null,
    tick_id        bigint not null,
    tick_time      timestamptz not null default pg_catalog.now(),
    tick_snapshot  txid_snapshot not null default pg_catalog.txid_current_snapshot(),
    tick_event_seq bigint not null,
    primary key (tick_queue, tick_id)
) with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
comment on table tasker.tick_0 is 'Ticks; the view tasker.tick shows those of all three tables';
comment on column tasker.tick_0.tick_queue is 'The queue''s id';
comment on column tasker.tick_0.tick_id is 'Ascending in its queue';
comment on column tasker.tick_0.tick_time is 'When the tick was made';
comment on column tasker.tick_0.tick_snapshot is 'Which transactions had ended: their events are before this tick';
comment on column tasker.tick_0.tick_event_seq is 'The last event id given out then; a hint at how many events are in a batch';
create table tasker.tick_1 (like tasker.tick_0 including all)
    with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create table tasker.tick_2 (like tasker.tick_0 including all)
    with (autovacuum_enabled = off, toast.autovacuum_enabled = off);
create sequence tasker.registration_sub_key_seq as integer;
comment on sequence tasker.registration_sub_key_seq is 'Keys of subscriptions in tasker.registration';
create table tasker.registration (
    sub_key      integer primary key default nextval('tasker.registration_sub_key_seq'),
    sub_id       integer not null,
    sub_queue    integer not null,
    sub_consumer integer not null,
    unique (sub_queue, sub_consumer)
);
create index registration_low_bits on tasker.registration ((sub_key & 1048575)); -- of a batch id
create index registration_sub_id on tasker.registration (sub_id);
create index registration_sub_consumer on tasker.registration (sub_consumer);
alter sequence tasker.registration_sub_key_seq owned by tasker.registration.sub_key;
select pg_catalog.pg_extension_config_dump('tasker.registration', '');
select pg_catalog.pg_extension_config_dump('tasker.registration_sub_key_seq', '');
comment on table tasker.registration is
'Which consumer reads which queue. Where it stands is in tasker.subscription_0 to 2; the view tasker.subscription shows both as PgQ does.';
comment on column tasker.registration.sub_key is 'Key used inside';
comment on column tasker.registration.sub_id is 'Owner of retried events: its own sub_key; for a member of a cooperative consumer that of the consumer';
comment on column tasker.registration.sub_queue is 'The queue''s id';
comment on column tasker.registration.sub_consumer is 'The consumer''s id';

create table tasker.subscription_0 (
    sub_key       integer not null,
    sub_version   bigint not null,
    sub_last_tick bigint,
    sub_active    timestamptz not null default pg_catalog.now(),
    sub_batch     bigint,
    sub_next_tick bigint,
    sub_acked     bigint,
    sub_handed    bigint,
    primary key (sub_key, sub_version)
) with (autovacuum_enabled = off);
comment on table tasker.subscription_0 is
'Where consumers stand, version after version; the view tasker.subscription shows the newest in all three tables';
comment on column tasker.subscription_0.sub_key is 'Names the subscription, see tasker.registration';
comment on column tasker.subscription_0.sub_version is 'Counts its changes; the greatest is the one that counts';
comment on column tasker.subscription_0.sub_last_tick is 'The tick up to which everything has been read';
comment on column tasker.subscription_0.sub_active is 'When the consumer was last heard of';
comment on column tasker.subscription_0.sub_batch is 'Its open batch, or null';
comment on column tasker.subscription_0.sub_next_tick is 'The tick at the end of that batch';
comment on column tasker.subscription_0.sub_acked is
'The last event of that batch that ack() has confirmed; null where receive() gives all of it at once';
comment on column tasker.subscription_0.sub_handed is
'The last event of that batch that receive() has handed out, where more are to come; ack() confirms up to there';
create table tasker.subscription_1 (like tasker.subscription_0 including all) with (autovacuum_enabled = off);
create table tasker.subscription_2 (like tasker.subscription_0 including all) with (autovacuum_enabled = off);
comment on table tasker.tick_1 is 'Ticks; the view tasker.tick shows those of all three tables';
comment on table tasker.tick_2 is 'Ticks; the view tasker.tick shows those of all three tables';
comment on table tasker.subscription_1 is 'Where consumers stand, version after version; the view tasker.subscription shows the newest in all three tables';
comment on table tasker.subscription_2 is 'Where consumers stand, version after version; the view tasker.subscription shows the newest in all three tables';
select pg_catalog.pg_extension_config_dump('tasker.tick_0', '');
select pg_catalog.pg_extension_config_dump('tasker.tick_1', '');
select pg_catalog.pg_extension_config_dump('tasker.tick_2', '');
select pg_catalog.pg_extension_config_dump('tasker.subscription_0', '');
select pg_catalog.pg_extension_config_dump('tasker.subscription_1', '');
select pg_catalog.pg_extension_config_dump('tasker.subscription_2', '');

create sequence tasker.batch_id_seq;
select pg_catalog.pg_extension_config_dump('tasker.batch_id_seq', '');
comment on sequence tasker.batch_id_seq is 'A batch id is (the next of these << 20) | the low bits of sub_key';

create table tasker.metadata_rotation (
    rotation_id                     boolean primary key default true check (rotation_id),
    rotation_subscription_table     integer not null default 0 check (rotation_subscription_table between 0 and 2),
    rotation_tick_table             integer not null default 0 check (rotation_tick_table between 0 and 2),
    rotation_switch_time            timestamptz not null default pg_catalog.now(),
    last_step2_txid                 bigint default pg_catalog.txid_current(),
    rotation_subscription_deferrals bigint not null default 0,
    rotation_tick_deferrals         bigint not null default 0,
    rotation_held_by                text,
    rotation_txid                   bigint not null default 0,
    rotation_subscription_rows      bigint not null default 0,
    rotation_tick_rows              bigint not null default 0
);
select pg_catalog.pg_extension_config_dump('tasker.metadata_rotation', '');
comment on table tasker.metadata_rotation is 'Which tables of subscriptions and ticks are active: one row, made with the first queue';
comment on column tasker.metadata_rotation.rotation_id is 'There is one row';
comment on column tasker.metadata_rotation.rotation_subscription_table is 'The active table of subscriptions';
comment on column tasker.metadata_rotation.rotation_tick_table is 'The active table of ticks';
comment on column tasker.metadata_rotation.rotation_switch_time is 'When the last rotation happened';
comment on column tasker.metadata_rotation.last_step2_txid is
'A transaction from after the last rotation was committed; null until there has been one. The next rotation waits for it: a matter of order, and no gate against old snapshots';
comment on column tasker.metadata_rotation.rotation_subscription_deferrals is 'Rotations of subscriptions put off in a row';
comment on column tasker.metadata_rotation.rotation_tick_deferrals is 'Rotations of ticks put off in a row';
comment on column tasker.metadata_rotation.rotation_held_by is 'What put off the last one';
comment on column tasker.metadata_rotation.rotation_txid is 'Transaction of the last rotation';
comment on column tasker.metadata_rotation.rotation_subscription_rows is
'Rows that it kept in the active table of subscriptions: there is nothing to rotate until there are more';
comment on column tasker.metadata_rotation.rotation_tick_rows is 'Rows that it kept in the active table of ticks';

create table tasker.retry_queue (
    ev_retry_after timestamptz not null,
    ev_queue       integer not null,
    like tasker.event_template,
    primary key (ev_owner, ev_id, ev_queue)
);
create index retry_queue_ev_txid on tasker.retry_queue (ev_txid);
create index retry_queue_ev_retry_after on tasker.retry_queue (ev_retry_after);
select pg_catalog.pg_extension_config_dump('tasker.retry_queue', '');
comment on table tasker.retry_queue is 'Events that come again later; one without a consumer (owner 0) comes for the first time';
comment on column tasker.retry_queue.ev_retry_after is 'When it comes';
comment on column tasker.retry_queue.ev_queue is 'The queue''s id';
comment on column tasker.retry_queue.ev_id is 'As in the queue';
comment on column tasker.retry_queue.ev_time is 'When the event was inserted at first';
comment on column tasker.retry_queue.ev_txid is 'The transaction that wrote the row; set by a trigger';
comment on column tasker.retry_queue.ev_owner is 'The subscription that wants it again';
comment on column tasker.retry_queue.ev_retry is 'How often it has been retried, this time included';
comment on column tasker.retry_queue.ev_type is 'What kind of event it is';
comment on column tasker.retry_queue.ev_data is 'Its data';
comment on column tasker.retry_queue.ev_extra1 is 'More data';
comment on column tasker.retry_queue.ev_extra2 is 'More data';
comment on column tasker.retry_queue.ev_extra3 is 'More data';
comment on column tasker.retry_queue.ev_extra4 is 'More data';

create function tasker._queue_changed() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_queue_changed';
comment on function tasker._queue_changed() is 'Makes every session read anew what it has cached of a changed table. Internal.';
create trigger queue_changed after insert or update or delete or truncate on tasker.queue
    for each statement execute function tasker._queue_changed();
alter table tasker.queue enable always trigger queue_changed;
create trigger queue_changed after insert or update or delete or truncate on tasker.metadata_rotation
    for each statement execute function tasker._queue_changed();
alter table tasker.metadata_rotation enable always trigger queue_changed;
create trigger registration_changed after insert or update or delete or truncate on tasker.registration
    for each statement execute function tasker._queue_changed();
alter table tasker.registration enable always trigger registration_changed;
create trigger consumer_changed after insert or update or delete or truncate on tasker.consumer
    for each statement execute function tasker._queue_changed();
alter table tasker.consumer enable always trigger consumer_changed;

create view tasker.tick as
select tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq from tasker.tick_0
union all
select tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq from tasker.tick_1
union all
select tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq from tasker.tick_2;
create view tasker.subscription as
select r.sub_id, r.sub_queue, r.sub_consumer, v.sub_last_tick, v.sub_active, v.sub_batch, v.sub_next_tick
from tasker.registration r
cross join lateral (
    (select * from tasker.subscription_0 s where s.sub_key = r.sub_key order by s.sub_version desc limit 1)
    union all
    (select * from tasker.subscription_1 s where s.sub_key = r.sub_key order by s.sub_version desc limit 1)
    union all
    (select * from tasker.subscription_2 s where s.sub_key = r.sub_key order by s.sub_version desc limit 1)
    order by sub_version desc
    limit 1
) v;

comment on view tasker.tick is 'The ticks of all queues, as PgQ''s table of that name';
comment on column tasker.tick.tick_queue is 'The queue''s id';
comment on column tasker.tick.tick_id is 'Ascending in its queue';
comment on column tasker.tick.tick_time is 'When the tick was made';
comment on column tasker.tick.tick_snapshot is 'Which transactions had ended: their events are before this tick';
comment on column tasker.tick.tick_event_seq is 'The last event id given out then';
comment on view tasker.subscription is 'Where each consumer of each queue stands, as PgQ''s table of that name: one row for each registration';
comment on column tasker.subscription.sub_id is 'Owner of its retried events';
comment on column tasker.subscription.sub_queue is 'The queue''s id';
comment on column tasker.subscription.sub_consumer is 'The consumer''s id';
comment on column tasker.subscription.sub_last_tick is 'The tick up to which everything has been read';
comment on column tasker.subscription.sub_active is 'When the consumer was last heard of';
comment on column tasker.subscription.sub_batch is 'Its open batch, or null';
comment on column tasker.subscription.sub_next_tick is 'The tick at the end of that batch';

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

-- The views tasker.tick and tasker.subscription for insert, update and delete.

create function tasker._change_subscription() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_change_subscription';
comment on function tasker._change_subscription() is
'Makes tasker.subscription behave as a table. Errors: 0A000 a change of sub_id, sub_queue or sub_consumer; 40001 the subscription was changed after the statement began; 42704 sub_last_tick or sub_next_tick names no tick, or one whose later events are not all kept; 22023 a sub_batch of another subscription; 23502 null; 23503 no such queue or consumer; 23505 the consumer has a subscription of the queue. Internal.';
create trigger change_subscription instead of insert or update or delete on tasker.subscription
    for each row execute function tasker._change_subscription();
alter view tasker.subscription alter sub_active set default pg_catalog.now();

create function tasker._change_tick() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_change_tick';
comment on function tasker._change_tick() is
'Makes tasker.tick behave as a table. Errors: 0A000 a change of tick_queue; 40001 the tick was changed after the statement began; 23502 null; 23503 no such queue; 23505 the queue has a tick of that id. Internal.';
create trigger change_tick instead of insert or update or delete on tasker.tick
    for each row execute function tasker._change_tick();
alter view tasker.tick alter tick_time set default pg_catalog.now();
alter view tasker.tick alter tick_snapshot set default pg_catalog.txid_current_snapshot();

grant insert, update, delete on tasker.subscription, tasker.tick to tasker_admin;

-- Rotation: tables of events, subscriptions and ticks that are emptied in turn, and the rounds of maintenance.

create function tasker.maint_rotate_tables_step1(i_queue_name text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_tables_step1';
comment on function tasker.maint_rotate_tables_step1(text) is
'Makes the next of a queue''s three event tables the current one, emptied, when its rotation period is over. It is put off while a consumer has not read the one before the current table, or while somebody has locked the next one: queue_rotation_deferrals counts that, and queue_rotation_held_by says who it is. A queue whose tables are all empty is left alone. Result: 0, also for an unknown queue. Errors: 22023 null; XX001 a consumer stands at a tick that does not exist.';
create function tasker.maint_rotate_tables_step2() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_tables_step2';
comment on function tasker.maint_rotate_tables_step2() is
'Notes for each rotation that it is visible to all; the queue''s next rotation waits for that. Does nothing in the transaction that ran step 1. Result: 0.';
create function tasker.maint_rotate_metadata() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_metadata';
comment on function tasker.maint_rotate_metadata() is
'Makes the next of the three tables of subscriptions, and of ticks, the active one, emptied but for what is still wanted, where something was appended to the active one since the last rotation, when the shortest metadata_rotation_period of all queues is over. Ticks are put off while a consumer needs an old one, either while somebody has locked the table: tasker.metadata_rotation counts that (rotation_subscription_deferrals, rotation_tick_deferrals) and says who it is (rotation_held_by). Result: 1, or 0 when nothing was rotated, as before step 2 of the last rotation.';
create function tasker.maint_rotate_metadata_step2() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_rotate_metadata_step2';
comment on function tasker.maint_rotate_metadata_step2() is
'Lets the next maint_rotate_metadata() rotate: one transaction has begun after the last rotation was committed. A matter of order, no gate against old snapshots. Result: 1, or 0 when there is nothing to note, or the rotation is of this transaction.';

create function tasker.maint_operations(out func_name text, out func_arg text) returns setof record
    language c rows 10 as 'MODULE_PATHNAME', 'tasker_maint_operations';
comment on function tasker.maint_operations() is
'What a maintenance process should call now, in this order, each in a transaction of its own: functions with no argument or with the one that func_arg gives, and vacuum with the table that func_arg names. The background worker does all of it but vacuum and the functions of queue_extra_maint.';
create function tasker.maint_tables_to_vacuum() returns setof text
    language c rows 10 as 'MODULE_PATHNAME', 'tasker_maint_tables_to_vacuum';
comment on function tasker.maint_tables_to_vacuum() is
'The stream''s tables that want frequent vacuuming; none while autovacuum is on. Tables that are rotated need none.';
create function tasker.maint() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint';
comment on function tasker.maint() is
'Runs what maint_operations() lists, but for vacuum and the step 2s, which need transactions of their own. What fails is undone and reported as a warning, and does not stop the others. Functions of queue_extra_maint run with the caller''s rights. Result: the number of operations that went well.';

grant execute on function tasker.maint_operations(), tasker.maint_tables_to_vacuum(), tasker.maint() to tasker_admin;
grant execute on function tasker.maint_rotate_tables_step1(text), tasker.maint_rotate_tables_step2(),
    tasker.maint_rotate_metadata(), tasker.maint_rotate_metadata_step2()
    to tasker_admin;

create function tasker.check_stream_integrity() returns table (object text, problem text)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_check_stream_integrity';
comment on function tasker.check_stream_integrity() is
'Checks the rules of the stream: subscriptions and where they stand, ticks and the order of their snapshots, event tables and what may be in them, retried events. A row for each problem, none where all holds. Subscriptions and ticks are not rotated while it runs. No errors are expected.';
grant execute on function tasker.check_stream_integrity() to tasker_observer, tasker_admin;

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

-- Events that come again or later, dead letters, and the short forms for receiving.

create function tasker._retry_queue_written() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_retry_queue_written';
comment on function tasker._retry_queue_written() is
'Sets ev_txid of a row of tasker.retry_queue to the transaction that writes it. Internal.';
create trigger retry_queue_written before insert or update on tasker.retry_queue
    for each row execute function tasker._retry_queue_written();
alter table tasker.retry_queue enable always trigger retry_queue_written;

create function tasker.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_time timestamptz) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_retry_at';
comment on function tasker.event_retry(bigint, bigint, timestamptz) is
'Has an event of an open batch come again to its consumer, at that time or after. Result: 1, or 0 when it is waiting for that already. Errors: 42704 the batch is not open, or the event is not in it.';
create function tasker.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_seconds integer) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_retry';
comment on function tasker.event_retry(bigint, bigint, integer) is
'The same, so many seconds from now.';
create function tasker.event_retry_raw(x_queue text, x_consumer text, x_retry_after timestamptz, x_ev_id bigint,
        x_ev_time timestamptz, x_ev_retry integer, x_ev_type text, x_ev_data text, x_ev_extra1 text,
        x_ev_extra2 text, x_ev_extra3 text, x_ev_extra4 text)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_event_retry_raw';
comment on function tasker.event_retry_raw(text, text, timestamptz, bigint, timestamptz, integer, text, text, text, text, text, text) is
'Has an event with all its columns come to one consumer at a time; x_ev_id null: the next one, x_ev_time null: now. Returns its id. Errors: 42704 unknown queue, or the consumer is not registered; 23505 an event with that id waits already.';
create function tasker.batch_retry(i_batch_id bigint, i_retry_seconds integer) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_batch_retry';
comment on function tasker.batch_retry(bigint, integer) is
'Has all events of an open batch come again to its consumer, so many seconds from now; returns how many, without those that wait for that already. Errors: 42704 the batch is not open.';
create function tasker.maint_retry_events() returns integer
    language c as 'MODULE_PATHNAME', 'tasker_maint_retry_events';
comment on function tasker.maint_retry_events() is
'Moves events of tasker.retry_queue whose time has come into their queues, at most 5,000 or about 32 MB of them; those whose queue or consumer has gone are removed. Returns how many left; to be called until it returns 0. The worker does it by itself.';

create function tasker.send_at(queue_name text, payload text, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_text';
comment on function tasker.send_at(text, text, timestamptz) is
'Inserts an event of type ''default'' that is published to all consumers at a time, with that time as its ev_time; at once when that has passed. Returns its id. Errors: as insert_event(); 22023 the time is null or infinity.';
create function tasker.send_at(queue_name text, type_name text, payload text, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_text';
comment on function tasker.send_at(text, text, text, timestamptz) is 'The same, with a type.';
create function tasker.send_at(queue_name text, payload jsonb, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_jsonb';
comment on function tasker.send_at(text, jsonb, timestamptz) is
'The same as send_at(queue_name, payload, at) with the text of a JSON value.';
create function tasker.send_at(queue_name text, type_name text, payload jsonb, at timestamptz) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_send_at_jsonb';
comment on function tasker.send_at(text, text, jsonb, timestamptz) is
'The same as send_at(queue_name, type_name, payload, at) with the text of a JSON value.';

create sequence tasker.dead_letter_dl_id_seq;
comment on sequence tasker.dead_letter_dl_id_seq is 'Ids of dead letters in tasker.dead_letter';
create table tasker.dead_letter (
    dl_id          bigint primary key default nextval('tasker.dead_letter_dl_id_seq'),
    dl_queue_id    integer not null,
    dl_consumer_id integer not null,
    dl_time        timestamptz not null default pg_catalog.now(),
    dl_reason      text,
    ev_id          bigint not null,
    ev_time        timestamptz not null,
    ev_txid        bigint,
    ev_retry       integer,
    ev_type        text,
    ev_data        text,
    ev_extra1      text,
    ev_extra2      text,
    ev_extra3      text,
    ev_extra4      text,
    dl_consumer    text not null,
    unique (dl_queue_id, dl_consumer_id, ev_id)
);
create index dead_letter_dl_time on tasker.dead_letter (dl_queue_id, dl_time);
alter sequence tasker.dead_letter_dl_id_seq owned by tasker.dead_letter.dl_id;
select pg_catalog.pg_extension_config_dump('tasker.dead_letter', '');
select pg_catalog.pg_extension_config_dump('tasker.dead_letter_dl_id_seq', '');
comment on table tasker.dead_letter is
'Events that a consumer has given up: see nack() and dlq_inspect(). They stay when the consumer is unregistered, and go with their queue.';
comment on column tasker.dead_letter.dl_id is 'Names the letter, see dlq_replay()';
comment on column tasker.dead_letter.dl_queue_id is 'The queue''s id';
comment on column tasker.dead_letter.dl_consumer_id is 'The id that the consumer had; of a cooperative consumer''s member that of the consumer';
comment on column tasker.dead_letter.dl_time is 'When the event was given up';
comment on column tasker.dead_letter.dl_reason is 'Why';
comment on column tasker.dead_letter.ev_id is 'The event''s id';
comment on column tasker.dead_letter.ev_time is 'When the event was inserted';
comment on column tasker.dead_letter.ev_txid is 'The transaction that inserted it last';
comment on column tasker.dead_letter.ev_retry is 'How often it was retried; null: never';
comment on column tasker.dead_letter.ev_type is 'What kind of event it is';
comment on column tasker.dead_letter.ev_data is 'Its data';
comment on column tasker.dead_letter.ev_extra1 is 'More data';
comment on column tasker.dead_letter.ev_extra2 is 'More data';
comment on column tasker.dead_letter.ev_extra3 is 'More data';
comment on column tasker.dead_letter.ev_extra4 is 'More data';
comment on column tasker.dead_letter.dl_consumer is 'The consumer''s name, by which a replay finds it';

create type tasker.message as (
    msg_id      bigint,
    batch_id    bigint,
    type        text,
    payload     text,
    retry_count integer,
    created_at  timestamptz,
    extra1      text,
    extra2      text,
    extra3      text,
    extra4      text
);
comment on type tasker.message is 'An event as receive() gives it';
comment on column tasker.message.msg_id is 'The event''s id';
comment on column tasker.message.batch_id is 'The batch that it is in, for ack() and nack()';
comment on column tasker.message.type is 'What kind of event it is';
comment on column tasker.message.payload is 'Its data';
comment on column tasker.message.retry_count is 'How often it has been retried; null: never';
comment on column tasker.message.created_at is 'When the event was inserted';
comment on column tasker.message.extra1 is 'More data';
comment on column tasker.message.extra2 is 'More data';
comment on column tasker.message.extra3 is 'More data';
comment on column tasker.message.extra4 is 'More data';

create function tasker.receive(queue text, consumer text, max_return integer default 100)
    returns setof tasker.message
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_receive';
comment on function tasker.receive(text, text, integer) is
'At most max_return messages of the consumer''s open batch, or of the next one that has any, in the order of their ids; nothing when there is none. Until ack() the same messages come again. A batch that has more is handed out in parts: after an ack() the messages that follow come, of the same batch. Errors: 42704 the consumer is not registered; 22023 max_return is not positive.';
create function tasker.ack(batch_id bigint) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_ack';
comment on function tasker.ack(bigint) is
'Confirms what receive() has handed out of a batch. When that was all, or receive() was not used, the batch is closed as by finish_batch(); else the next receive() gives the rest of it. Nothing is passed over that was not handed out. Result: 1, or 0 with a warning when the batch is not open. Errors: 22023 batch_id is null.';
create function tasker.nack(batch_id bigint, msg tasker.message, retry_after interval default '60 seconds',
        reason text default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_nack';
comment on function tasker.nack(bigint, tasker.message, interval, text) is
'Has a message of an open batch come again to its consumer after a while; when it has been retried as often as the queue allows (setting max_retries, default 5), makes it a dead letter with that reason. Of msg only msg_id counts, the rest is read from the batch. The batch is to be acknowledged all the same. Once or twice is the same. Result: 1. Errors: 42704 the batch is not open, or the message is not in it; 22023 msg is null, or a negative interval.';
create function tasker.nack(batch_id bigint, msg_id bigint, retry_after interval default '60 seconds',
        reason text default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_nack_id';
comment on function tasker.nack(bigint, bigint, interval, text) is 'The same for the message with that id.';

create function tasker.event_dead(batch_id bigint, event_id bigint, reason text default null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_dead';
comment on function tasker.event_dead(bigint, bigint, text) is
'Makes an event of an open batch a dead letter of its consumer. Result: 1, or 0 when it is one. Errors: 42704 the batch is not open, or the event is not in it.';
create function tasker.event_dead(batch_id bigint, event_id bigint, reason text, ev_time timestamptz, ev_txid bigint,
        ev_retry integer, ev_type text, ev_data text, ev_extra1 text default null, ev_extra2 text default null,
        ev_extra3 text default null, ev_extra4 text default null)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_event_dead';
comment on function tasker.event_dead(bigint, bigint, text, timestamptz, bigint, integer, text, text, text, text, text, text) is
'The same as event_dead(batch_id, event_id, reason); what the event holds is read from the batch.';
create function tasker.dlq_inspect(queue text, limit_count integer default 100) returns setof tasker.dead_letter
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_dlq_inspect';
comment on function tasker.dlq_inspect(text, integer) is
'The dead letters of a queue, the newest first. Errors: 42704 unknown queue; 22023 limit_count is not positive.';
create function tasker.dlq_replay(dead_letter_id bigint) returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_dlq_replay';
comment on function tasker.dlq_replay(bigint) is
'Inserts a dead letter into its queue anew, with all retries before it, for the consumer that gave it up and no other, and removes it. Returns the id of the new event. Errors: 42704 unknown letter; 55000 no consumer of that name is registered, or inserts are disabled.';
create function tasker.dlq_replay_all(queue text, out replayed bigint, out failed bigint, out first_error text)
    language c as 'MODULE_PATHNAME', 'tasker_dlq_replay_all';
comment on function tasker.dlq_replay_all(text) is
'Replays all dead letters of a queue that can be replayed; the others stay, with a warning each. Returns how many were and were not, and what was wrong with the first. Errors: 42704 unknown queue.';
create function tasker.dlq_purge(queue text, older_than interval default '30 days') returns integer
    language c as 'MODULE_PATHNAME', 'tasker_dlq_purge';
comment on function tasker.dlq_purge(text, interval) is
'Removes the dead letters of a queue that were given up longer ago; returns their number. Errors: 42704 unknown queue; 22023 a negative interval.';

grant execute on function tasker.receive(text, text, integer), tasker.ack(bigint),
    tasker.nack(bigint, tasker.message, interval, text), tasker.nack(bigint, bigint, interval, text),
    tasker.event_dead(bigint, bigint, text), tasker.dlq_inspect(text, integer), tasker.dlq_replay(bigint),
    tasker.dlq_replay_all(text)
    to tasker_worker, tasker_admin;
grant execute on function tasker.dlq_purge(text, interval),
    tasker.event_dead(bigint, bigint, text, timestamptz, bigint, integer, text, text, text, text, text, text)
    to tasker_admin;
grant select on tasker.dead_letter to tasker_admin;
grant execute on function tasker.event_retry(bigint, bigint, timestamptz), tasker.event_retry(bigint, bigint, integer),
    tasker.batch_retry(bigint, integer)
    to tasker_worker, tasker_admin;
grant execute on function tasker.send_at(text, text, timestamptz), tasker.send_at(text, text, text, timestamptz),
    tasker.send_at(text, jsonb, timestamptz), tasker.send_at(text, text, jsonb, timestamptz)
    to tasker_producer, tasker_admin;
grant execute on function tasker.maint_retry_events(),
    tasker.event_retry_raw(text, text, timestamptz, bigint, timestamptz, integer, text, text, text, text, text, text)
    to tasker_admin;
grant select on tasker.retry_queue to tasker_observer, tasker_admin;

-- Cooperative consumers: members that work through the batches of one consumer side by side.

create function tasker.register_subconsumer(queue text, consumer text, subconsumer text,
        convert_normal boolean default false)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_register_subconsumer';
comment on function tasker.register_subconsumer(text, text, text, boolean) is
'Registers a member of a cooperative consumer, as ''consumer.subconsumer'', and with the first one the consumer. A consumer that is registered without members becomes cooperative only with convert_normal. Result: 1, or 0 when it was registered. Errors: 22023 bad name, or one with a dot in it; 42704 unknown queue; 55000 the consumer is a normal one or has an open batch, or the member''s name is another consumer''s.';
create function tasker.subscribe_subconsumer(queue text, consumer text, subconsumer text,
        convert_normal boolean default false)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_register_subconsumer';
comment on function tasker.subscribe_subconsumer(text, text, text, boolean) is 'The same as register_subconsumer().';
create function tasker.unregister_subconsumer(queue text, consumer text, subconsumer text,
        batch_handling integer default 0)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_unregister_subconsumer';
comment on function tasker.unregister_subconsumer(text, text, text, integer) is
'Removes a member of a cooperative consumer. With batch_handling 0 it must have no open batch; with 1 what is left of its batch comes again at once, to any member, or becomes dead letters, as by nack(). A consumer without its last member is a normal one. Result: 1, or 0 when there is no such member. Errors: 42704 unknown queue; 55000 it has an open batch; 22023 bad name or batch_handling.';
create function tasker.unsubscribe_subconsumer(queue text, consumer text, subconsumer text,
        batch_handling integer default 0)
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_unregister_subconsumer';
comment on function tasker.unsubscribe_subconsumer(text, text, text, integer) is
'The same as unregister_subconsumer().';
create function tasker.touch_subconsumer(queue text, consumer text, subconsumer text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_touch_subconsumer';
comment on function tasker.touch_subconsumer(text, text, text) is
'Says that a member is at work on its batch, so that nobody takes it over; to be called, and committed, more often than the others'' dead_interval. Result: 1, or 0 when there is no such member. Errors: 42704 unknown queue; 22023 bad name.';

create function tasker.next_batch(queue text, consumer text, subconsumer text, dead_interval interval default null)
    returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_next_member_batch';
comment on function tasker.next_batch(text, text, text, interval) is
'The member''s open batch; else that of another member that has not been heard of for dead_interval (null: never), under a new id, so that the old one means nothing any more; else the consumer''s next batch. Null when there is none. A member that is not registered is. To be committed before the work on the batch begins: until then no other member gets one. Errors: as register_subconsumer(); 22023 a negative interval.';
create function tasker.next_batch_custom(queue text, consumer text, subconsumer text, min_lag interval,
        min_count integer, min_interval interval, dead_interval interval default null, out batch_id bigint,
        out cur_tick_id bigint, out prev_tick_id bigint, out cur_tick_time timestamptz, out prev_tick_time timestamptz,
        out cur_tick_event_seq bigint, out prev_tick_event_seq bigint)
    language c as 'MODULE_PATHNAME', 'tasker_next_member_batch_custom';
comment on function tasker.next_batch_custom(text, text, text, interval, integer, interval, interval) is
'The same, with limits for a new batch and with its ticks, as next_batch_custom() of a normal consumer.';
create function tasker.receive_coop(queue text, consumer text, subconsumer text, max_return integer default 100,
        dead_interval interval default null)
    returns setof tasker.message
    language c rows 100 as 'MODULE_PATHNAME', 'tasker_receive_coop';
comment on function tasker.receive_coop(text, text, text, integer, interval) is
'As receive(), for a member of a cooperative consumer; dead_interval as in next_batch(). Of a batch that is taken over, what the other member has not confirmed comes again. Errors: as next_batch() and receive().';

grant execute on function tasker.register_subconsumer(text, text, text, boolean),
    tasker.subscribe_subconsumer(text, text, text, boolean),
    tasker.unregister_subconsumer(text, text, text, integer),
    tasker.unsubscribe_subconsumer(text, text, text, integer), tasker.touch_subconsumer(text, text, text),
    tasker.next_batch(text, text, text, interval),
    tasker.next_batch_custom(text, text, text, interval, integer, interval, interval),
    tasker.receive_coop(text, text, text, integer, interval)
    to tasker_worker, tasker_admin;

-- Triggers that turn changes of tables into events.

create function tasker.jsontriga() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_jsontriga';
create function tasker.logutriga() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_logutriga';
create function tasker.sqltriga() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_sqltriga';
comment on function tasker.jsontriga() is
'Trigger that writes each change of a table into a queue, the row as JSON. Arguments: the queue''s name; then in any order SKIP, backup, deny, ignore=columns, pkey=columns, when=expression, ev_type=, ev_data=, ev_extra1= to ev_extra4=expression. Who changes the table needs no right on the queue: EXECUTE on this function is asked for when the trigger is made.';
comment on function tasker.logutriga() is
'Trigger that writes each change of a table into a queue, the row url-encoded. Arguments and rights as with jsontriga().';
comment on function tasker.sqltriga() is
'Trigger that writes each change of a table into a queue, as the part of an SQL statement that follows the table''s name. Arguments and rights as with jsontriga().';
revoke all on function tasker.jsontriga(), tasker.logutriga(), tasker.sqltriga() from public;
grant execute on function tasker.jsontriga(), tasker.logutriga(), tasker.sqltriga() to tasker_producer, tasker_admin;

-- The ticker that follows commits, and waiting for a batch.

create table tasker.ticker_config (
    config_id      boolean primary key default true check (config_id),
    tick_period_ms integer not null check (tick_period_ms between 1 and 3600000)
);
select pg_catalog.pg_extension_config_dump('tasker.ticker_config', '');
comment on table tasker.ticker_config is 'What set_tick_period_ms() was told: one row, or none';
comment on column tasker.ticker_config.config_id is 'There is one row at most';
comment on column tasker.ticker_config.tick_period_ms is 'Shortest time between two ticks of a queue, in milliseconds, for all queues of this database';
create trigger ticker_config_changed after insert or update or delete or truncate on tasker.ticker_config
    for each statement execute function tasker._queue_changed();
alter table tasker.ticker_config enable always trigger ticker_config_changed;

create procedure tasker.wait_for_batch(queue text, consumer text, timeout interval, inout batch_id bigint default null)
    language c as 'MODULE_PATHNAME', 'tasker_wait_for_batch';
comment on procedure tasker.wait_for_batch(text, text, interval, bigint) is
'Waits until the consumer has a batch, opens it as next_batch() does, commits, and returns its id; null after the timeout. A batch that is open already is returned at once. It commits first, and holds no transaction and no snapshot while it waits. Errors: 42704 the consumer is not registered, or no longer; 22023 a null or a negative timeout; 25001 inside a transaction block or a function.';

create function tasker.set_tick_period_ms(ms integer) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_set_tick_period_ms';
comment on function tasker.set_tick_period_ms(integer) is
'Sets the shortest time between two ticks of a queue for this database, and returns it; null takes it back. A queue''s own min_tick_interval and the server''s tasker.min_tick_interval hold too: the longest of them counts. Kept in tasker.ticker_config. Errors: 22023 not between 1 and 3600000.';

create function tasker._ticker_status()
    returns table (pid int, state text, started_at timestamptz, rounds bigint, ticks bigint, last_tick_at timestamptz,
        failures bigint, restarts bigint, last_error text, last_error_at timestamptz)
    language c volatile rows 1 as 'MODULE_PATHNAME', 'tasker_ticker_status';
comment on function tasker._ticker_status() is 'The row of view ticker_status.';
create view tasker.ticker_status as select * from tasker._ticker_status();
comment on view tasker.ticker_status is
'The process that makes the ticks of this database: one row. Without one, ticks are made by ticker() alone.';
comment on column tasker.ticker_status.pid is 'The process, if there is one';
comment on column tasker.ticker_status.state is 'running, connecting, starting, waiting, kept away, stopping, or none; see worker_status';
comment on column tasker.ticker_status.started_at is 'When it began its work';
comment on column tasker.ticker_status.rounds is 'Transactions with ticks since the server started; ticks of several queues share one';
comment on column tasker.ticker_status.ticks is 'Ticks that it has made since the server started';
comment on column tasker.ticker_status.last_tick_at is 'When it made the last one';
comment on column tasker.ticker_status.failures is 'Rounds that failed';
comment on column tasker.ticker_status.restarts is 'Starts after a failure of the process';
comment on column tasker.ticker_status.last_error is 'Message of the last failure; the server''s log has detail and hint';
comment on column tasker.ticker_status.last_error_at is 'When that was';

create function tasker._queue_ticks()
    returns table (queue_id int, dirty boolean, wanted boolean, waiting int, ticks bigint, last_tick_at timestamptz,
        failures_in_a_row bigint)
    language c volatile rows 100 as 'MODULE_PATHNAME', 'tasker_queue_ticks';
comment on function tasker._queue_ticks() is 'What shared memory knows of the queues of this database, for view queue_ticks.';
create view tasker.queue_ticks as
select q.queue_name, t.dirty, t.wanted, t.waiting, t.ticks, t.last_tick_at, t.failures_in_a_row
from tasker._queue_ticks() t
join tasker.queue q on q.queue_id = t.queue_id;
comment on view tasker.queue_ticks is
'What the ticker knows of each queue that has had events since the server started, or has somebody waiting.';
comment on column tasker.queue_ticks.queue_name is 'The queue';
comment on column tasker.queue_ticks.dirty is 'Events have been committed, and the tick for them is to come';
comment on column tasker.queue_ticks.wanted is 'A consumer has found no batch since the last tick: the next comes as soon as it may';
comment on column tasker.queue_ticks.waiting is 'Consumers in wait_for_batch()';
comment on column tasker.queue_ticks.ticks is 'Ticks that the ticker has made since the server started';
comment on column tasker.queue_ticks.last_tick_at is 'When it made the last one';
comment on column tasker.queue_ticks.failures_in_a_row is 'Attempts that have failed since the last that did not; the next is delayed by 1 second, doubled with each, at most 5 minutes';

grant execute on procedure tasker.wait_for_batch(text, text, interval, bigint) to tasker_worker, tasker_admin;
grant execute on function tasker.set_tick_period_ms(integer) to tasker_admin;
grant execute on function tasker._ticker_status(), tasker._queue_ticks() to tasker_observer, tasker_admin;
grant select on tasker.ticker_config, tasker.ticker_status, tasker.queue_ticks to tasker_observer, tasker_admin;

-- After a restore into another cluster.

create table tasker.stream_origin (
    origin_id    boolean primary key default true check (origin_id),
    installation text not null,
    writer       bigint not null,
    written_at   timestamptz not null default pg_catalog.now(),
    log_offset   bigint not null default 0 check (log_offset >= 0)
);
select pg_catalog.pg_extension_config_dump('tasker.stream_origin', '');
comment on table tasker.stream_origin is
'Where the transaction ids of the stream are from: one row, written with the first queue and by after_restore()';
comment on column tasker.stream_origin.origin_id is 'There is one row';
comment on column tasker.stream_origin.installation is 'System identifier, database and extension in which it was written';
comment on column tasker.stream_origin.writer is 'The (sub)transaction that wrote it: where another one has, it was restored from a dump';
comment on column tasker.stream_origin.written_at is 'When it was written';
comment on column tasker.stream_origin.log_offset is
'How much greater than the server''s the transaction ids are that log_txid() gives; after_restore() raises it';
create trigger queue_changed after insert or update or delete or truncate on tasker.stream_origin
    for each statement execute function tasker._queue_changed();
alter table tasker.stream_origin enable always trigger queue_changed;

create function tasker.after_restore(force boolean default false, out queue_name text, out consumers integer,
        out events bigint, out ticks integer)
    returns setof record
    language c rows 10 as 'MODULE_PATHNAME', 'tasker_after_restore';
comment on function tasker.after_restore(boolean) is
'To be called once a dump has been restored completely: gives ticks and events transaction ids of this cluster, so that each consumer goes on where it stood, with nothing lost and nothing twice; takes away events that everybody had read; puts grant_queue()''s grants and what belongs to the extension in order. Until then ticker(), next_batch() and finish_batch() are refused (55000), while events are taken. A row for each queue: its consumers, the events that still wait for one of them, and the ticks that were kept. No rows, and nothing done, where it is not due, unless forced; it does no harm then. Waits for all who write to a queue. Errors: 55000 an event table has no index on ev_txid (the restore has not ended), or this cluster has had fewer transactions than a queue has positions.';
create function tasker.restore_pending() returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_restore_pending';
comment on function tasker.restore_pending() is
'Is after_restore() due? The stream was restored from a dump, and makes no ticks until it has been called.';

-- Queues whose events are the rows of logs.

create table tasker.queue_log (
    queue_id      integer not null,
    log_number    integer not null,
    log_table     regclass not null,
    log_txid      name not null,
    log_mapper    text,
    log_order     text,
    log_ev_time   text,
    log_ev_type   text,
    log_ev_data   text,
    log_ev_extra1 text,
    log_ev_extra2 text,
    log_ev_extra3 text,
    log_ev_extra4 text,
    primary key (queue_id, log_number)
);
select pg_catalog.pg_extension_config_dump('tasker.queue_log', '');
comment on table tasker.queue_log is 'Logs that queues read, see create_log_queue()';
comment on column tasker.queue_log.queue_id is 'The queue''s id';
comment on column tasker.queue_log.log_number is 'Place among the logs of the queue, from 1: the order of events in a transaction';
comment on column tasker.queue_log.log_table is 'The log';
comment on column tasker.queue_log.log_txid is 'Its column of transaction ids, which log_txid() gives';
comment on column tasker.queue_log.log_mapper is 'Who makes events of its rows inside of the extension; null: the expressions that follow';
comment on column tasker.queue_log.log_order is 'Expression, a bigint: order of the events of one transaction';
comment on column tasker.queue_log.log_ev_time is 'Expression over a row: ev_time of its event';
comment on column tasker.queue_log.log_ev_type is 'Expression: ev_type';
comment on column tasker.queue_log.log_ev_data is 'Expression: ev_data';
comment on column tasker.queue_log.log_ev_extra1 is 'Expression: ev_extra1';
comment on column tasker.queue_log.log_ev_extra2 is 'Expression: ev_extra2';
comment on column tasker.queue_log.log_ev_extra3 is 'Expression: ev_extra3';
comment on column tasker.queue_log.log_ev_extra4 is 'Expression: ev_extra4';
create trigger queue_changed after insert or update or delete or truncate on tasker.queue_log
    for each statement execute function tasker._queue_changed();
alter table tasker.queue_log enable always trigger queue_changed;

create function tasker.create_log_queue(queue text, log regclass[], txid_column name default 'txid',
        mapping jsonb default '{}')
    returns integer
    language c as 'MODULE_PATHNAME', 'tasker_create_log_queue';
comment on function tasker.create_log_queue(text, regclass[], name, jsonb) is
'Creates a queue whose events are the rows of logs: tables of the caller, partitioned or not, whose rows are only inserted, with a bigint column that has the default tasker.log_txid() and an index in each partition. mapping gives SQL expressions over the columns of a row (the row itself is "log") for ev_time, ev_type, ev_data and ev_extra1 to 4, and for ev_order, by which the events of one transaction are ordered; without it ev_time is the column created_at, ev_type the name of the table, ev_data the row as JSON. They run as the owner of the log, with search_path pg_catalog. Result: 1, or 0 when there is a queue of that name. Errors: 22023 bad or reserved name, no log, one that is no table, unknown key, or a mapping without ev_time; 42501 the log is somebody else''s; 42704 no such column; 55000 its column has another type or default, or no index, or the stream was restored from a dump; those of the expressions.';
create function tasker.log_txid() returns bigint
    language c volatile as 'MODULE_PATHNAME', 'tasker_log_txid';
comment on function tasker.log_txid() is
'What a row that this transaction writes into a log has as its transaction''s id: the default of that column.';
create function tasker.log_written() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_log_written';
comment on function tasker.log_written() is
'Statement trigger of a log, after insert; its arguments are the names of the queues that read it, which get a tick soon after the commit. Queues that do not exist, or have no consumer, are passed over. Errors: 22023 no argument.';
revoke all on function tasker.log_written() from public;
grant execute on function tasker.create_log_queue(text, regclass[], name, jsonb) to tasker_admin;
grant execute on function tasker.log_txid(), tasker.log_written() to tasker_producer, tasker_admin;
grant select on tasker.queue_log to tasker_observer, tasker_admin;

-- Rights on the stream: nothing for PUBLIC; the group roles have every queue, other roles those they are granted.

create table tasker.queue_grant (
    queue_id   integer not null,
    privilege  text not null check (privilege in ('produce', 'consume')),
    role_name  name not null,
    role_oid   oid not null,
    granted_in bigint not null,
    granted_at timestamptz not null default pg_catalog.now()
);
create index queue_grant_queue_id on tasker.queue_grant (queue_id);
select pg_catalog.pg_extension_config_dump('tasker.queue_grant', '');
comment on table tasker.queue_grant is 'Which single queues roles may produce into or consume from: see grant_queue()';
comment on column tasker.queue_grant.queue_id is 'The queue''s id';
comment on column tasker.queue_grant.privilege is '''produce'' or ''consume''';
comment on column tasker.queue_grant.role_name is 'The role''s name when it was granted; it names the role in a restored row';
comment on column tasker.queue_grant.role_oid is 'The role, in the cluster that granted_in names; a dropped role''s row means nothing';
comment on column tasker.queue_grant.granted_in is 'System identifier of the cluster in which it was granted';
comment on column tasker.queue_grant.granted_at is 'When it was granted';
create trigger queue_changed after insert or update or delete or truncate on tasker.queue_grant
    for each statement execute function tasker._queue_changed();
alter table tasker.queue_grant enable always trigger queue_changed;

create function tasker.grant_queue(queue text, role text, privilege text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_grant_queue';
comment on function tasker.grant_queue(text, text, text) is
'Lets a role, and its members, ''produce'' into or ''consume'' from one queue, and gives it USAGE on the schema and EXECUTE on the functions for that. Result: 1, or 0 when it was granted before. Errors: 42704 unknown queue or role; 22023 unknown privilege, or one of the group roles, which have all queues.';
create function tasker.revoke_queue(queue text, role text, privilege text) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_revoke_queue';
comment on function tasker.revoke_queue(text, text, text) is
'Takes back what grant_queue() has given; with the last queue also USAGE and EXECUTE. Result: 1, or 0 when it was not granted. Errors: as grant_queue().';

revoke all on all functions in schema tasker from public;
revoke all on all procedures in schema tasker from public;
grant execute on function tasker.insert_event(text, text, text),
    tasker.insert_event(text, text, text, text, text, text, text),
    tasker.send(text, text), tasker.send(text, text, text), tasker.send(text, jsonb), tasker.send(text, text, jsonb),
    tasker.send_batch(text, text[]), tasker.send_batch(text, text, text[]),
    tasker.send_batch(text, jsonb[]), tasker.send_batch(text, text, jsonb[])
    to tasker_producer, tasker_admin;
grant execute on function tasker.register_consumer(text, text), tasker.unregister_consumer(text, text),
    tasker.subscribe(text, text), tasker.unsubscribe(text, text),
    tasker.next_batch(text, text), tasker.next_batch_info(text, text),
    tasker.next_batch_custom(text, text, interval, integer, interval),
    tasker.get_batch_events(bigint), tasker.finish_batch(bigint), tasker.ack(bigint)
    to tasker_worker, tasker_admin;
grant execute on function tasker.create_queue(text), tasker.drop_queue(text), tasker.drop_queue(text, boolean),
    tasker.insert_event_raw(text, bigint, timestamptz, integer, integer, text, text, text, text, text, text),
    tasker.current_event_table(text), tasker.register_consumer_at(text, text, bigint),
    tasker.ticker(), tasker.ticker(text), tasker.ticker(text, bigint, timestamptz, bigint),
    tasker.force_tick(text), tasker.force_next_tick(text),
    tasker.grant_queue(text, text, text), tasker.revoke_queue(text, text, text),
    tasker.after_restore(boolean)
    to tasker_admin;
grant execute on function tasker.version(), tasker.restore_pending() to tasker_observer, tasker_producer, tasker_worker, tasker_admin;
grant select on tasker.queue, tasker.consumer, tasker.tick, tasker.subscription, tasker.registration,
    tasker.metadata_rotation, tasker.queue_grant, tasker.stream_origin
    to tasker_observer, tasker_admin;

-- The workflow plane: tasks made of steps. Templates first, then the instances.

create table tasker.task_namespaces (
    task_namespace_uuid uuid primary key,
    name                text not null unique,
    description         text,
    created_at          timestamptz not null default pg_catalog.now()
);
select pg_catalog.pg_extension_config_dump('tasker.task_namespaces', '');
comment on table tasker.task_namespaces is 'Namespaces of named tasks; made by define_task()';
comment on column tasker.task_namespaces.task_namespace_uuid is 'Key';
comment on column tasker.task_namespaces.name is 'The name that all functions take';
comment on column tasker.task_namespaces.description is 'For people';
comment on column tasker.task_namespaces.created_at is 'When the first task was defined in it';

create table tasker.named_tasks (
    named_task_uuid     uuid primary key,
    task_namespace_uuid uuid not null,
    name                text not null,
    version             text not null,
    description         text,
    configuration       jsonb not null,
    created_at          timestamptz not null default pg_catalog.clock_timestamp(),
    unique (task_namespace_uuid, name, version)
);
select pg_catalog.pg_extension_config_dump('tasker.named_tasks', '');
comment on table tasker.named_tasks is 'Named tasks: one row for each version of a definition; made by define_task()';
comment on column tasker.named_tasks.named_task_uuid is 'Key of this version';
comment on column tasker.named_tasks.task_namespace_uuid is 'The namespace';
comment on column tasker.named_tasks.name is 'Name in the namespace';
comment on column tasker.named_tasks.version is 'Version; tasks stay on the one they began with';
comment on column tasker.named_tasks.description is 'The definition''s "description"';
comment on column tasker.named_tasks.configuration is 'The definition as it was given';
comment on column tasker.named_tasks.created_at is 'When it was defined; without a version, create_task() takes the youngest';

create table tasker.named_steps (
    named_step_uuid uuid primary key,
    named_task_uuid uuid not null,
    step_order      integer not null,
    name            text not null,
    handler         text not null,
    step_type       text not null check (step_type in ('standard', 'decision', 'deferred', 'batch')),
    flow_id         integer not null,
    unique (named_task_uuid, name)
);
select pg_catalog.pg_extension_config_dump('tasker.named_steps', '');
comment on table tasker.named_steps is 'The steps of named tasks; made by define_task()';
comment on column tasker.named_steps.named_step_uuid is 'Key';
comment on column tasker.named_steps.named_task_uuid is 'The version of the task that it belongs to';
comment on column tasker.named_steps.step_order is 'Place in topological order, from 1';
comment on column tasker.named_steps.name is 'Name in the task';
comment on column tasker.named_steps.handler is 'What the worker has to run; with the namespace it names the flow';
comment on column tasker.named_steps.step_type is 'standard, decision, deferred or batch';
comment on column tasker.named_steps.flow_id is 'The flow of its records';

create table tasker.step_flow (
    flow_id             integer primary key,
    task_namespace_uuid uuid not null,
    handler             text not null,
    unique (task_namespace_uuid, handler)
);
select pg_catalog.pg_extension_config_dump('tasker.step_flow', '');
comment on table tasker.step_flow is 'The flows of the queue that carry steps: one for each handler of a namespace';
comment on column tasker.step_flow.flow_id is 'The flow, named "namespace/handler"';
comment on column tasker.step_flow.task_namespace_uuid is 'The namespace';
comment on column tasker.step_flow.handler is 'The handler';

-- Instances. Every table is partitioned by the UUIDv7 of the task that its first column begins with, and has no key of
-- its own: the partition plane makes keys and indexes for each partition (src/workflow/sets.cpp).

create table tasker.task (
    task_uuid             uuid not null,
    named_task_uuid       uuid not null,
    state_entered_at      timestamptz not null,
    updated_at            timestamptz not null,
    current_state         "char" not null,
    priority              smallint not null,
    total_steps           integer not null,
    active_steps          integer not null,
    retry_steps           integer not null,
    failed_steps          integer not null,
    last_transition       integer not null,
    next_step_number      integer not null,
    run_at                timestamptz,
    correlation_id        uuid not null,
    parent_correlation_id uuid,
    initiator             text,
    source_system         text,
    reason                text,
    identity_key          text,
    tags                  jsonb,
    context               jsonb not null
) partition by range (task_uuid);
comment on table tasker.task is 'Tasks, as the engine keeps them; the view tasker.tasks shows them with words';
comment on column tasker.task.task_uuid is 'UUIDv7 whose last 32 bits are 0; its steps have their numbers there';
comment on column tasker.task.named_task_uuid is 'The version of the template it began with';
comment on column tasker.task.state_entered_at is 'When it came into its current state';
comment on column tasker.task.updated_at is 'When the row last changed';
comment on column tasker.task.current_state is 'See src/core/workflow_states.hpp';
comment on column tasker.task.priority is '0 to 9, higher first';
comment on column tasker.task.total_steps is 'Steps that it has by now';
comment on column tasker.task.active_steps is 'Steps that are enqueued or in progress';
comment on column tasker.task.retry_steps is 'Steps that wait for their retry';
comment on column tasker.task.failed_steps is 'Steps in error';
comment on column tasker.task.last_transition is 'sort_key of its newest transition';
comment on column tasker.task.next_step_number is 'Number of the next step that is created in it';
comment on column tasker.task.run_at is 'Its first steps are not ready before; null: at once';
comment on column tasker.task.correlation_id is 'For tracing over systems; the task''s own uuid when none was given';
comment on column tasker.task.parent_correlation_id is 'Correlation id of what has caused this task';
comment on column tasker.task.initiator is 'Who asked for it';
comment on column tasker.task.source_system is 'Where it was asked for';
comment on column tasker.task.reason is 'Why';
comment on column tasker.task.identity_key is 'What makes it the same task when it is created again';
comment on column tasker.task.tags is 'Anything to find it by; indexed';
comment on column tasker.task.context is 'What its steps work on';

create table tasker.workflow_step (
    workflow_step_uuid      uuid not null,
    named_step_uuid         uuid not null,
    record_id               bigint not null,
    state_entered_at        timestamptz not null,
    last_attempted_at       timestamptz,
    last_failure_at         timestamptz,
    next_retry_at           timestamptz,
    current_state           "char" not null,
    step_type               "char" not null,
    retryable               boolean not null,
    priority                smallint not null,
    attempts                integer not null,
    max_attempts            integer not null,
    total_parents           integer not null,
    remaining_parents       integer not null,
    last_transition         integer not null,
    backoff_request_seconds integer,
    name                    text,
    processor               text,
    inputs                  jsonb,
    results                 jsonb,
    checkpoint              jsonb,
    error                   jsonb
) partition by range (workflow_step_uuid);
comment on table tasker.workflow_step is 'Steps of tasks, as the engine keeps them; the view tasker.workflow_steps shows them with words';
comment on column tasker.workflow_step.workflow_step_uuid is 'The task''s uuid with the number of the step in its last 32 bits';
comment on column tasker.workflow_step.named_step_uuid is 'The step of the template';
comment on column tasker.workflow_step.record_id is 'Its record in the queue; 0: none. A record that no step names is stale';
comment on column tasker.workflow_step.state_entered_at is 'When it came into its current state';
comment on column tasker.workflow_step.last_attempted_at is 'When a worker last claimed it';
comment on column tasker.workflow_step.last_failure_at is 'When it last failed, whatever came after';
comment on column tasker.workflow_step.next_retry_at is 'When its record becomes due: after a failure, or at the task''s run_at';
comment on column tasker.workflow_step.current_state is 'See src/core/workflow_states.hpp';
comment on column tasker.workflow_step.step_type is 's standard, d decision, f deferred, b batch';
comment on column tasker.workflow_step.retryable is 'false: the first failure is the last; a worker''s word on a failure counts too';
comment on column tasker.workflow_step.priority is '0 to 9: the template''s, else the task''s';
comment on column tasker.workflow_step.attempts is 'Attempts begun';
comment on column tasker.workflow_step.max_attempts is 'Attempts before it is in error';
comment on column tasker.workflow_step.total_parents is 'Steps that it depends on';
comment on column tasker.workflow_step.remaining_parents is 'Those of them that are not done';
comment on column tasker.workflow_step.last_transition is 'sort_key of its newest transition';
comment on column tasker.workflow_step.backoff_request_seconds is 'Delay that the worker asked for at its last failure';
comment on column tasker.workflow_step.name is 'Its own name where it was created while the task ran; null: the template''s';
comment on column tasker.workflow_step.processor is 'The worker that holds it, or held it last';
comment on column tasker.workflow_step.inputs is 'Its own inputs where it was created while the task ran; null: the template''s';
comment on column tasker.workflow_step.results is 'What it returned';
comment on column tasker.workflow_step.checkpoint is 'How far it has come: see checkpoint_step()';
comment on column tasker.workflow_step.error is 'Its last failure';

create table tasker.workflow_step_edge (
    from_step_uuid uuid not null,
    to_step_uuid   uuid not null,
    name           text
) partition by range (from_step_uuid);
comment on table tasker.workflow_step_edge is 'Which step of a task waits for which; the view tasker.workflow_step_edges shows them';
comment on column tasker.workflow_step_edge.from_step_uuid is 'The parent';
comment on column tasker.workflow_step_edge.to_step_uuid is 'The child, which waits for it';
comment on column tasker.workflow_step_edge.name is 'What the edge provides; null: "provides"';

create table tasker.task_transition (
    task_uuid      uuid not null,
    txid           bigint not null,
    created_at     timestamptz not null,
    sort_key       integer not null,
    from_state     "char",
    to_state       "char" not null,
    processor_uuid uuid,
    processor      text,
    metadata       jsonb
) partition by range (task_uuid);
comment on table tasker.task_transition is 'Log of the states of tasks, append only; the view tasker.task_transitions shows it with words';
comment on column tasker.task_transition.task_uuid is 'The task';
comment on column tasker.task_transition.txid is 'The transaction that wrote it: the queue "tasker.transitions" reads by it';
comment on column tasker.task_transition.created_at is 'When';
comment on column tasker.task_transition.sort_key is '1, 2, … for each task';
comment on column tasker.task_transition.from_state is 'null: it was created';
comment on column tasker.task_transition.to_state is 'See src/core/workflow_states.hpp';
comment on column tasker.task_transition.processor_uuid is 'Who did it, where a uuid was given';
comment on column tasker.task_transition.processor is 'Who did it, where a name was given';
comment on column tasker.task_transition.metadata is 'More about it';

create table tasker.workflow_step_transition (
    workflow_step_uuid uuid not null,
    txid               bigint not null,
    created_at         timestamptz not null,
    sort_key           integer not null,
    from_state         "char",
    to_state           "char" not null,
    processor_uuid     uuid,
    processor          text,
    metadata           jsonb
) partition by range (workflow_step_uuid);
comment on table tasker.workflow_step_transition is 'Log of the states of steps, append only; the view tasker.workflow_step_transitions shows it with words';
comment on column tasker.workflow_step_transition.workflow_step_uuid is 'The step';
comment on column tasker.workflow_step_transition.txid is 'The transaction that wrote it: the queue "tasker.transitions" reads by it';
comment on column tasker.workflow_step_transition.created_at is 'When';
comment on column tasker.workflow_step_transition.sort_key is '1, 2, … for each step';
comment on column tasker.workflow_step_transition.from_state is 'null: it was created';
comment on column tasker.workflow_step_transition.to_state is 'See src/core/workflow_states.hpp';
comment on column tasker.workflow_step_transition.processor_uuid is 'Who did it, where a uuid was given';
comment on column tasker.workflow_step_transition.processor is 'Who did it, where a name was given';
comment on column tasker.workflow_step_transition.metadata is 'More about it';

select pg_catalog.pg_extension_config_dump('tasker.task', '');
select pg_catalog.pg_extension_config_dump('tasker.workflow_step', '');
select pg_catalog.pg_extension_config_dump('tasker.workflow_step_edge', '');
select pg_catalog.pg_extension_config_dump('tasker.task_transition', '');
select pg_catalog.pg_extension_config_dump('tasker.workflow_step_transition', '');

create table tasker.task_identity (
    named_task_uuid uuid not null,
    identity_key    text not null,
    task_uuid       uuid not null,
    primary key (named_task_uuid, identity_key)
);
select pg_catalog.pg_extension_config_dump('tasker.task_identity', '');
comment on table tasker.task_identity is 'Identity keys that are in use, and the tasks that hold them';
comment on column tasker.task_identity.named_task_uuid is 'The named task';
comment on column tasker.task_identity.identity_key is 'The key';
comment on column tasker.task_identity.task_uuid is 'The task; when it is gone, the key is free';

create function tasker.task_of(workflow_step_uuid uuid) returns uuid
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'tasker_task_of';
comment on function tasker.task_of(uuid) is
'The task that a step belongs to, computed from the step''s uuid: its last 32 bits cleared. Result: the task''s uuid, whether it exists or not.';
create function tasker.last_step_of(task_uuid uuid) returns uuid
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'tasker_last_step_of';
comment on function tasker.last_step_of(uuid) is
'The highest uuid that a step of the task can have. The steps of a task are those between task_uuid and last_step_of(task_uuid): a range of the primary key, in one partition.';

-- Templates: defining tasks and their steps.

create function tasker.account_template_change() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_template_change';
comment on function tasker.account_template_change() is
'Makes every session look again which tasks are defined, and which flows carry steps, after a change.';
create trigger account_template_change after insert or update or delete or truncate on tasker.named_tasks
    for each statement execute function tasker.account_template_change();
alter table tasker.named_tasks enable always trigger account_template_change;
create trigger account_template_change after insert or update or delete or truncate on tasker.step_flow
    for each statement execute function tasker.account_template_change();
alter table tasker.step_flow enable always trigger account_template_change;

create function tasker.keep_step_flow() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_keep_step_flow';
comment on function tasker.keep_step_flow() is
'Refuses to drop or rename a flow that carries steps: their tasks could never end.';
create trigger keep_step_flow before delete or update of flow_id, flow_name on tasker.flow
    for each row execute function tasker.keep_step_flow();

create function tasker.define_task(namespace text, name text, definition jsonb, version text default '0.1.0')
    returns uuid
    language c as 'MODULE_PATHNAME', 'tasker_define_task';
comment on function tasker.define_task(text, text, jsonb, text) is
'Defines a version of a task and returns its named_task_uuid; the same definition again returns the same. definition: {"description", "lifecycle": {"max_waiting_for_dependencies_minutes", "max_waiting_for_retry_minutes", "max_steps_in_process_minutes", "max_duration_minutes"}, "steps": [{"name", "handler" (the name), "depends_on": [names], "type" (standard; decision, deferred, batch), "retryable" (true), "max_attempts" (3), "backoff": {"base_seconds" (1), "multiplier" (2), "max_seconds" (60), "jitter" (0.1)}, "timeout_seconds" (none), "priority" (the task''s), "inputs": {}}]}. Each handler of a namespace gets a flow "namespace/handler". Errors: 22023 the definition is wrong (unknown key, duplicate or unknown name, cycle, value out of range; the message names task and step); 42710 the version has another definition, or a flow of that name exists and does not carry steps.';

create function tasker.get_task_template(namespace text, name text, version text default null) returns jsonb
    language c stable as 'MODULE_PATHNAME', 'tasker_get_task_template';
comment on function tasker.get_task_template(text, text, text) is
'The definition of a task as it was given to define_task(); without a version that which was defined last. Errors: 42704 unknown task or version.';

create view tasker.task_templates as
    select n.name as namespace, t.name, t.version,
        (select pg_catalog.count(*) from tasker.named_steps s where s.named_task_uuid = t.named_task_uuid) as steps,
        t.created_at, t.description, t.named_task_uuid
    from tasker.named_tasks t join tasker.task_namespaces n using (task_namespace_uuid);
comment on view tasker.task_templates is 'What is defined: one row for each version of each named task';
comment on column tasker.task_templates.namespace is 'The namespace';
comment on column tasker.task_templates.name is 'The name of the task';
comment on column tasker.task_templates.version is 'The version';
comment on column tasker.task_templates.steps is 'How many steps it has';
comment on column tasker.task_templates.created_at is 'When it was defined';
comment on column tasker.task_templates.description is 'The definition''s "description"';
comment on column tasker.task_templates.named_task_uuid is 'Its key; tasks have it too';

-- The engine: creating tasks, claiming and finishing steps.

create function tasker.create_task(namespace text, name text, context jsonb = '{}', version text = null,
        priority integer = 0, identity_key text = null, correlation_id uuid = null, parent_correlation_id uuid = null,
        tags jsonb = null, initiator text = null, source_system text = null, reason text = null,
        run_at timestamptz = null) returns uuid
    language c as 'MODULE_PATHNAME', 'tasker_create_task';
comment on function tasker.create_task(text, text, jsonb, text, integer, text, uuid, uuid, jsonb, text, text, text, timestamptz) is
'Creates a task of a template with its steps, and enqueues those that wait for no other. version null: the one defined last; the task stays on it. priority: 0 (default) to 9, higher first. identity_key: while a task with it exists, that one''s uuid is returned and nothing is created. correlation_id null: the task''s own uuid. run_at: its first steps are not ready before. Result: the task''s uuid. Errors: 42704 unknown template or version; 22023 bad argument.';

create function tasker.create_tasks(namespace text, name text, contexts jsonb[], version text = null,
        priority integer = 0, identity_keys text[] = null, correlation_id uuid = null, parent_correlation_id uuid = null,
        tags jsonb = null, initiator text = null, source_system text = null, reason text = null,
        run_at timestamptz = null) returns uuid[]
    language c as 'MODULE_PATHNAME', 'tasker_create_tasks';
comment on function tasker.create_tasks(text, text, jsonb[], text, integer, text[], uuid, uuid, jsonb, text, text, text, timestamptz) is
'Creates one task for each context, as create_task() does, in two thirds of the time that so many calls take. identity_keys: one for each context, or null. Result: their uuids in the order of the contexts. Errors: as create_task().';

create function tasker.claim_steps(namespace text, batch_size integer = 1, worker text = null, lease interval = null,
        handlers text[] = null,
        out workflow_step_uuid uuid, out task_uuid uuid, out task_name text, out step_name text, out handler text,
        out attempts integer, out inputs jsonb, out context jsonb, out dependency_results jsonb, out checkpoint jsonb,
        out correlation_id uuid, out lease_token bigint, out lease_expires_at timestamptz) returns setof record
    language c as 'MODULE_PATHNAME', 'tasker_claim_steps';
comment on function tasker.claim_steps(text, integer, text, interval, text[]) is
'Claims up to batch_size ready steps of a namespace, each for one worker: for all handlers, or those given. lease null: the step''s timeout, else its flow''s lease; a step''s timeout is the longest lease there is. attempts counts this one. dependency_results: results of the direct parents by step name, null where there are more than 1000 or they are larger than 64 MB together (see step_results()). Rows: the steps, empty when nothing is ready. Errors: 42704 unknown namespace or handler; 22023 batch_size < 1 or a lease that is not positive.';

create function tasker.step_results(step_uuid uuid)
        returns table (step_name text, workflow_step_uuid uuid, results jsonb)
    language c as 'MODULE_PATHNAME', 'tasker_step_results';
comment on function tasker.step_results(uuid) is
'The results of the steps that this one depends on, as far as they are done: the name, uuid and results of each direct parent. Errors: 42704 unknown step.';

create function tasker.complete_step(workflow_step_uuid uuid, results jsonb = null, create_steps jsonb = null,
        lease_token bigint = null) returns text
    language c as 'MODULE_PATHNAME', 'tasker_complete_step';
comment on function tasker.complete_step(uuid, jsonb, jsonb, bigint) is
'Says that a claimed step is done. Stores its results, enqueues the steps that waited for nothing else, and finishes the task with its last step, all in this transaction. create_steps, for decision and batch steps: an array of the names of steps to create, or of objects {"name", "as", "inputs"}. With a lease_token it counts only under that very claim. Result: the task''s state afterwards. Errors: 42704 unknown step; 55000 it is not in progress, or the lease is lost; 22023 create_steps does not fit.';

create function tasker.complete_steps(workflow_step_uuids uuid[], results jsonb[] = null,
        lease_tokens bigint[] = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_complete_steps';
comment on function tasker.complete_steps(uuid[], jsonb[], bigint[]) is
'Completes several steps, of one task or of many, all or nothing. Result: how many. Errors: as complete_step(); 22023 for arrays of different length, or a step given twice.';

create function tasker.fail_step(workflow_step_uuid uuid, error jsonb, retryable boolean = true,
        backoff_seconds integer = null, lease_token bigint = null) returns text
    language c as 'MODULE_PATHNAME', 'tasker_fail_step';
comment on function tasker.fail_step(uuid, jsonb, boolean, integer, bigint) is
'Says that a claimed step has failed. It is tried again while it is retryable and attempts are left: after backoff_seconds, or else after the template''s back-off. With retryable false, or no attempt left, it is in error, and its record a dead letter. Result: the step''s state afterwards: waiting_for_retry or error, or pending where a parent was reset meanwhile and has to be done again first. Errors: 42704 unknown step; 55000 it is not in progress, or the lease is lost; 22023 negative backoff_seconds.';

create procedure tasker.wait_for_steps(namespace text, timeout interval, handlers text[] default null, inout ready boolean default null)
    language c as 'MODULE_PATHNAME', 'tasker_wait_for_steps';
comment on procedure tasker.wait_for_steps(text, interval, text[], boolean) is
'Commits, then sleeps with no transaction and no snapshot open until a step of the namespace is ready, for all handlers or those given (ready = true), or the timeout has passed (false). Errors: 25001 inside a transaction block; 42704 unknown namespace or handler; 22023 negative timeout; 54000 more than 64 handlers at once.';

-- Steering: what a worker does with a step while it holds it, and what people do with tasks and steps.

create function tasker.checkpoint_step(workflow_step_uuid uuid, checkpoint jsonb, lease_token bigint = null) returns void
    language c as 'MODULE_PATHNAME', 'tasker_checkpoint_step';
comment on function tasker.checkpoint_step(uuid, jsonb, bigint) is
'Notes how far a claimed step has come; the next attempt gets it with its claim. null takes it back. Errors: 42704 unknown step; 55000 it is not in progress, or the lease is lost.';

create function tasker.extend_step_lease(workflow_step_uuids uuid[], lease interval, lease_tokens bigint[] = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_extend_step_lease';
comment on function tasker.extend_step_lease(uuid[], interval, bigint[]) is
'Prolongs the leases of claimed steps to lease from now, but not beyond a step''s timeout. All or nothing. Result: how many. Errors: 42704 unknown step; 55000 one is not in progress, or its lease is lost; 22023 bad argument.';

create function tasker.release_steps(workflow_step_uuids uuid[], lease_tokens bigint[] = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_release_steps';
comment on function tasker.release_steps(uuid[], bigint[]) is
'Gives claimed steps back: they are ready at once and have lost no attempt. With lease_tokens only under those very claims. All or nothing. Result: how many. Errors: 42704 unknown step; 55000 one is not in progress, or its lease is lost; 22023 a step given twice, or arrays of different length.';

create function tasker.set_step_backoff_atomic(workflow_step_uuid uuid, backoff_seconds integer) returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_set_step_backoff_atomic';
comment on function tasker.set_step_backoff_atomic(uuid, integer) is
'Asks for the delay before the next attempt: of a step in progress for when it fails, of one that waits for its retry from now. Result: false when it is neither. Errors: 42704 unknown step; 22023 a negative delay.';

create function tasker.cancel_task(task_uuid uuid, reason text = null) returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_cancel_task';
comment on function tasker.cancel_task(uuid, text) is
'Cancels a task with all steps that are not finished; who works on one of them hears of it when he completes it. Result: false when it was cancelled before. Errors: 42704 unknown task; 55000 it is finished.';

create function tasker.retry_task(task_uuid uuid) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_retry_task';
comment on function tasker.retry_task(uuid) is
'Brings a task on again: steps in error and steps that were cancelled begin anew with all of their attempts, and steps that wait for their retry are due at once. Result: how many steps. Errors: 42704 unknown task; 55000 there is no such step, or its partition is being retired.';

create function tasker.reset_step(workflow_step_uuid uuid, cascade boolean = false) returns void
    language c as 'MODULE_PATHNAME', 'tasker_reset_step';
comment on function tasker.reset_step(uuid, boolean) is
'Has a step done again from its first attempt, whatever state it is in. Steps that wait for it wait again; those that came after it and have begun stay as they are, or with cascade begin anew too. Errors: 42704 unknown step; 55000 its task was cancelled or ended in error (see retry_task()), or it is a decision or batch step that has created others.';

create function tasker.resolve_step_manually(workflow_step_uuid uuid, results jsonb, resolved_by text, reason text) returns text
    language c as 'MODULE_PATHNAME', 'tasker_resolve_step_manually';
comment on function tasker.resolve_step_manually(uuid, jsonb, text, text) is
'Says that a step is done although no worker has done it: the steps that waited for it go on with these results. resolved_by and reason go to the log. Result: the task''s state afterwards. Errors: 42704 unknown step; 55000 it is done already, or its task is finished; 22023 no name in resolved_by.';

create function tasker.transition_task_state_atomic(task_uuid uuid, from_state text, to_state text, processor_uuid uuid,
        metadata jsonb = '{}') returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_transition_task_state_atomic';
comment on function tasker.transition_task_state_atomic(uuid, text, text, uuid, jsonb) is
'Moves a task along one legal edge, if it is in from_state. To cancelled, error and resolved_manually it goes with all steps that are not finished, which are cancelled. Between other states the engine moves tasks itself, by where their steps are. processor_uuid and metadata go to the log. Result: false when it is in another state. Errors: 42704 unknown task; 55000 no task can go that way; 22023 no such state.';

-- Transitions as events of the stream.

-- Views over the instances, with tasker-core's columns. A view adds words and times to its table and joins nothing that
-- it does not need, so that a look-up by the key in it is one in the table: of one row, in one partition.

create function tasker.uuid_time(uuid uuid) returns timestamptz
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'tasker_uuid_time';
comment on function tasker.uuid_time(uuid) is
'The time that a UUIDv7 carries, to the millisecond: when a task was created, from the uuid of the task or of any of its steps.';
create function tasker.uuid_at("time" timestamptz) returns uuid
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'tasker_uuid_at';
comment on function tasker.uuid_at(timestamptz) is
'The lowest UUIDv7 of a time, to the millisecond: what was created since is "task_uuid >= tasker.uuid_at(since)", and only the partitions of that time are read.';

create function tasker._task_state_word(state "char") returns text
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'tasker_task_state_word';
comment on function tasker._task_state_word("char") is 'The word for a state of a task as the tables store it.';
create function tasker._step_state_word(state "char") returns text
    language c immutable strict parallel safe as 'MODULE_PATHNAME', 'tasker_step_state_word';
comment on function tasker._step_state_word("char") is 'The word for a state of a step as the tables store it.';
create function tasker._last_task_transition(task_uuid uuid) returns integer
    language c stable strict parallel safe as 'MODULE_PATHNAME', 'tasker_last_task_transition';
comment on function tasker._last_task_transition(uuid) is
'sort_key of the newest transition of a task: one look-up by key. Result: null when there is no such task.';
create function tasker._last_step_transition(workflow_step_uuid uuid) returns integer
    language c stable strict parallel safe as 'MODULE_PATHNAME', 'tasker_last_step_transition';
comment on function tasker._last_step_transition(uuid) is
'sort_key of the newest transition of a step: one look-up by key. Result: null when there is no such step.';

create view tasker.tasks as
select t.task_uuid, t.named_task_uuid,
       t.current_state in ('c', 'm') as complete,
       tasker.uuid_time(t.task_uuid) as requested_at,
       case when t.current_state in ('c', 'm') then t.state_entered_at end as completed_at,
       t.initiator, t.source_system, t.reason, t.tags, t.context, t.identity_key,
       tasker.uuid_time(t.task_uuid) as created_at,
       t.updated_at,
       t.priority::integer as priority,
       t.correlation_id, t.parent_correlation_id,
       tasker._task_state_word(t.current_state) as current_state,
       t.state_entered_at, t.run_at, t.total_steps,
       n.name as task_name, s.name as namespace_name, n.version
from tasker.task t
left join tasker.named_tasks n on n.named_task_uuid = t.named_task_uuid
left join tasker.task_namespaces s on s.task_namespace_uuid = n.task_namespace_uuid;
comment on view tasker.tasks is
'Tasks. By task_uuid one partition is read; by correlation_id, parent_correlation_id and tags (operators @> and @?) an index of each; "task_uuid >= tasker.uuid_at(time)" reads what was created since.';
comment on column tasker.tasks.task_uuid is 'UUIDv7';
comment on column tasker.tasks.named_task_uuid is 'The version of the template it began with';
comment on column tasker.tasks.complete is 'Is all of it done: complete or resolved_manually';
comment on column tasker.tasks.requested_at is 'The same as created_at';
comment on column tasker.tasks.completed_at is 'When it was done; null while it is not';
comment on column tasker.tasks.initiator is 'Who asked for it';
comment on column tasker.tasks.source_system is 'Where it was asked for';
comment on column tasker.tasks.reason is 'Why';
comment on column tasker.tasks.tags is 'Anything to find it by';
comment on column tasker.tasks.context is 'What its steps work on';
comment on column tasker.tasks.identity_key is 'What makes it the same task when it is created again';
comment on column tasker.tasks.created_at is 'When it was created, to the millisecond';
comment on column tasker.tasks.updated_at is 'When its row last changed';
comment on column tasker.tasks.priority is '0 to 9, higher first';
comment on column tasker.tasks.correlation_id is 'For tracing over systems';
comment on column tasker.tasks.parent_correlation_id is 'Correlation id of what has caused this task';
comment on column tasker.tasks.current_state is
'pending, initializing, enqueuing_steps, steps_in_process, evaluating_results, waiting_for_dependencies, waiting_for_retry, blocked_by_failures, complete, error, cancelled or resolved_manually';
comment on column tasker.tasks.state_entered_at is 'When it came into its current state';
comment on column tasker.tasks.run_at is 'Its first steps are not ready before; null: at once';
comment on column tasker.tasks.total_steps is 'Steps that it has by now';
comment on column tasker.tasks.task_name is 'Name of the template';
comment on column tasker.tasks.namespace_name is 'Namespace of the template';
comment on column tasker.tasks.version is 'Version of the template';

create view tasker.workflow_steps as
select s.workflow_step_uuid,
       tasker.task_of(s.workflow_step_uuid) as task_uuid,
       s.named_step_uuid, s.retryable, s.max_attempts,
       s.current_state in ('s', 'o', 'f') as in_process,
       s.current_state in ('c', 'm') as processed,
       case when s.current_state in ('c', 'm') then s.state_entered_at end as processed_at,
       s.attempts, s.last_attempted_at, s.backoff_request_seconds,
       coalesce(s.inputs, (
           select step -> 'inputs'
           from tasker.named_steps i
           join tasker.named_tasks d on d.named_task_uuid = i.named_task_uuid
           cross join lateral pg_catalog.jsonb_array_elements(d.configuration -> 'steps') as steps (step)
           where i.named_step_uuid = s.named_step_uuid and step ->> 'name' = i.name)) as inputs,
       s.results,
       tasker.uuid_time(s.workflow_step_uuid) as created_at,
       s.state_entered_at as updated_at,
       s.priority::integer as priority,
       s.checkpoint,
       coalesce(s.name, n.name) as name,
       tasker._step_state_word(s.current_state) as current_state,
       s.state_entered_at, s.last_failure_at, s.next_retry_at, s.total_parents,
       s.total_parents - s.remaining_parents as completed_parents,
       s.processor, s.error, n.handler,
       case s.step_type when 'd' then 'decision' when 'f' then 'deferred' when 'b' then 'batch' else 'standard' end as step_type,
       s.record_id
from tasker.workflow_step s
left join tasker.named_steps n on n.named_step_uuid = s.named_step_uuid;
comment on view tasker.workflow_steps is
'Steps of tasks. By workflow_step_uuid one partition is read. For the steps of a task call get_workflow_steps(task_uuid), or say "workflow_step_uuid between task_uuid and tasker.last_step_of(task_uuid)": a range of the key.';
comment on column tasker.workflow_steps.workflow_step_uuid is 'The task''s uuid with the number of the step in its last 32 bits';
comment on column tasker.workflow_steps.task_uuid is 'The task, computed from the step''s uuid';
comment on column tasker.workflow_steps.named_step_uuid is 'The step of the template';
comment on column tasker.workflow_steps.retryable is 'false: it has failed for good, or its first failure will be';
comment on column tasker.workflow_steps.max_attempts is 'Attempts before it is in error';
comment on column tasker.workflow_steps.in_process is 'Does a worker hold it';
comment on column tasker.workflow_steps.processed is 'Is it done: complete or resolved_manually';
comment on column tasker.workflow_steps.processed_at is 'When it was done; null while it is not';
comment on column tasker.workflow_steps.attempts is 'Attempts begun';
comment on column tasker.workflow_steps.last_attempted_at is 'When a worker last claimed it';
comment on column tasker.workflow_steps.backoff_request_seconds is 'Delay that the worker asked for at its last failure';
comment on column tasker.workflow_steps.inputs is 'Its inputs: its own, or those of the template';
comment on column tasker.workflow_steps.results is 'What it returned';
comment on column tasker.workflow_steps.created_at is 'When its task was created, to the millisecond';
comment on column tasker.workflow_steps.updated_at is 'When it came into its current state';
comment on column tasker.workflow_steps.priority is '0 to 9, higher first';
comment on column tasker.workflow_steps.checkpoint is 'How far it has come: see checkpoint_step()';
comment on column tasker.workflow_steps.name is 'Its name: its own where it was created while the task ran, else the template''s';
comment on column tasker.workflow_steps.current_state is
'pending, enqueued, in_progress, enqueued_for_orchestration, enqueued_as_error_for_orchestration, waiting_for_retry, complete, error, cancelled or resolved_manually';
comment on column tasker.workflow_steps.state_entered_at is 'When it came into its current state';
comment on column tasker.workflow_steps.last_failure_at is 'When it last failed, whatever came after';
comment on column tasker.workflow_steps.next_retry_at is 'When it becomes due: after a failure, or at the task''s run_at';
comment on column tasker.workflow_steps.total_parents is 'Steps that it depends on';
comment on column tasker.workflow_steps.completed_parents is 'Those of them that are done';
comment on column tasker.workflow_steps.processor is 'The worker that holds it, or held it last';
comment on column tasker.workflow_steps.error is 'Its last failure';
comment on column tasker.workflow_steps.handler is 'What the worker has to run';
comment on column tasker.workflow_steps.step_type is 'standard, decision, deferred or batch';
comment on column tasker.workflow_steps.record_id is 'Its record in the queue; 0: none';

create view tasker.workflow_step_edges as
select e.from_step_uuid, e.to_step_uuid,
       coalesce(e.name, 'provides') as name,
       tasker.uuid_time(e.from_step_uuid) as created_at,
       tasker.uuid_time(e.from_step_uuid) as updated_at,
       tasker.task_of(e.from_step_uuid) as task_uuid
from tasker.workflow_step_edge e;
comment on view tasker.workflow_step_edges is
'Which step waits for which. By from_step_uuid one partition is read; by to_step_uuid an index of each. For the edges of a task call get_workflow_step_edges(task_uuid).';
comment on column tasker.workflow_step_edges.from_step_uuid is 'The parent';
comment on column tasker.workflow_step_edges.to_step_uuid is 'The child, which waits for it';
comment on column tasker.workflow_step_edges.name is 'What the edge provides';
comment on column tasker.workflow_step_edges.created_at is 'When the task was created, to the millisecond';
comment on column tasker.workflow_step_edges.updated_at is 'The same as created_at: edges do not change';
comment on column tasker.workflow_step_edges.task_uuid is 'The task, computed from the parent''s uuid';

create view tasker.task_transitions as
select t.task_uuid,
       tasker._task_state_word(t.to_state) as to_state,
       tasker._task_state_word(t.from_state) as from_state,
       coalesce(t.metadata, '{}') as metadata,
       t.sort_key,
       t.sort_key = tasker._last_task_transition(t.task_uuid) as most_recent,
       t.created_at,
       t.created_at as updated_at,
       t.processor_uuid,
       coalesce(t.metadata, '{}') as transition_metadata,
       t.processor, t.txid
from tasker.task_transition t;
comment on view tasker.task_transitions is
'Log of the states of tasks. By task_uuid one partition is read. most_recent costs a look-up of the task for each row for which it is asked.';
comment on column tasker.task_transitions.task_uuid is 'The task';
comment on column tasker.task_transitions.to_state is 'The state that it came into';
comment on column tasker.task_transitions.from_state is 'The state before; null: it was created';
comment on column tasker.task_transitions.metadata is 'More about it';
comment on column tasker.task_transitions.sort_key is '1, 2, … for each task';
comment on column tasker.task_transitions.most_recent is 'Is this the transition into the current state';
comment on column tasker.task_transitions.created_at is 'When';
comment on column tasker.task_transitions.updated_at is 'The same as created_at: the log is only appended to';
comment on column tasker.task_transitions.processor_uuid is 'Who did it, where a uuid was given';
comment on column tasker.task_transitions.transition_metadata is 'The same as metadata';
comment on column tasker.task_transitions.processor is 'Who did it, where a name was given';
comment on column tasker.task_transitions.txid is 'The transaction that wrote it';

create view tasker.workflow_step_transitions as
select t.workflow_step_uuid,
       tasker._step_state_word(t.to_state) as to_state,
       tasker._step_state_word(t.from_state) as from_state,
       coalesce(t.metadata, '{}') as metadata,
       t.sort_key,
       t.sort_key = tasker._last_step_transition(t.workflow_step_uuid) as most_recent,
       t.created_at,
       t.created_at as updated_at,
       t.processor_uuid, t.processor, t.txid,
       tasker.task_of(t.workflow_step_uuid) as task_uuid
from tasker.workflow_step_transition t;
comment on view tasker.workflow_step_transitions is
'Log of the states of steps. By workflow_step_uuid one partition is read; for all steps of a task call get_workflow_step_transitions(task_uuid). most_recent costs a look-up of the step for each row for which it is asked.';
comment on column tasker.workflow_step_transitions.workflow_step_uuid is 'The step';
comment on column tasker.workflow_step_transitions.to_state is 'The state that it came into';
comment on column tasker.workflow_step_transitions.from_state is 'The state before; null: it was created';
comment on column tasker.workflow_step_transitions.metadata is 'More about it';
comment on column tasker.workflow_step_transitions.sort_key is '1, 2, … for each step';
comment on column tasker.workflow_step_transitions.most_recent is 'Is this the transition into the current state';
comment on column tasker.workflow_step_transitions.created_at is 'When';
comment on column tasker.workflow_step_transitions.updated_at is 'The same as created_at: the log is only appended to';
comment on column tasker.workflow_step_transitions.processor_uuid is 'Who did it, where a uuid was given';
comment on column tasker.workflow_step_transitions.processor is 'Who did it, where a name was given';
comment on column tasker.workflow_step_transitions.txid is 'The transaction that wrote it';
comment on column tasker.workflow_step_transitions.task_uuid is 'The task, computed from the step''s uuid';

-- What belongs to one task, as a range of the key. The planner puts these queries in the place of the call, so conditions
-- and columns of the caller reach the table, and one partition is read.

create function tasker.get_workflow_steps(task_uuid uuid) returns setof tasker.workflow_steps
    language sql stable parallel safe
begin atomic
    select s.* from tasker.workflow_steps s
    where s.workflow_step_uuid >= get_workflow_steps.task_uuid
      and s.workflow_step_uuid <= tasker.last_step_of(get_workflow_steps.task_uuid)
    order by s.workflow_step_uuid;
end;
comment on function tasker.get_workflow_steps(uuid) is
'The steps of a task in the order of their numbers, from its partition alone. Result: rows of workflow_steps, none for a task that does not exist.';
create function tasker.get_workflow_step_edges(task_uuid uuid) returns setof tasker.workflow_step_edges
    language sql stable parallel safe
begin atomic
    select e.* from tasker.workflow_step_edges e
    where e.from_step_uuid >= get_workflow_step_edges.task_uuid
      and e.from_step_uuid <= tasker.last_step_of(get_workflow_step_edges.task_uuid)
    order by e.from_step_uuid, e.to_step_uuid;
end;
comment on function tasker.get_workflow_step_edges(uuid) is
'The edges between the steps of a task, from its partition alone. Result: rows of workflow_step_edges, none for a task that does not exist.';
create function tasker.get_task_transitions(task_uuid uuid) returns setof tasker.task_transitions
    language sql stable parallel safe
begin atomic
    select t.* from tasker.task_transitions t
    where t.task_uuid = get_task_transitions.task_uuid
    order by t.sort_key;
end;
comment on function tasker.get_task_transitions(uuid) is
'The log of a task''s states, oldest first, from its partition alone. Result: rows of task_transitions, none for a task that does not exist.';
create function tasker.get_workflow_step_transitions(task_or_step_uuid uuid)
    returns setof tasker.workflow_step_transitions
    language sql stable parallel safe
begin atomic
    select t.* from tasker.workflow_step_transitions t
    where t.workflow_step_uuid >= get_workflow_step_transitions.task_or_step_uuid
      and t.workflow_step_uuid <= case
          when get_workflow_step_transitions.task_or_step_uuid = tasker.task_of(get_workflow_step_transitions.task_or_step_uuid)
          then tasker.last_step_of(get_workflow_step_transitions.task_or_step_uuid)
          else get_workflow_step_transitions.task_or_step_uuid end
    order by t.workflow_step_uuid, t.sort_key;
end;
comment on function tasker.get_workflow_step_transitions(uuid) is
'The log of the states of one step, or of all steps of a task, oldest first, from its partition alone. Result: rows of workflow_step_transitions, none for a uuid that does not exist.';

grant execute on function tasker.uuid_time(uuid), tasker.uuid_at(timestamptz), tasker.task_of(uuid),
    tasker.last_step_of(uuid), tasker._task_state_word("char"), tasker._step_state_word("char"),
    tasker._last_task_transition(uuid), tasker._last_step_transition(uuid), tasker.get_workflow_steps(uuid),
    tasker.get_workflow_step_edges(uuid), tasker.get_task_transitions(uuid),
    tasker.get_workflow_step_transitions(uuid)
    to tasker_observer, tasker_worker, tasker_producer, tasker_admin;
grant select on tasker.tasks, tasker.workflow_steps, tasker.workflow_step_edges, tasker.task_transitions,
    tasker.workflow_step_transitions
    to tasker_observer, tasker_admin;

-- Reading: readiness of steps, execution context of tasks, dependencies. All of it costs what the task has in steps and
-- edges, whatever else is in the tables.

create function tasker.get_step_readiness_status(input_task_uuid uuid, step_uuids uuid[] default null)
    returns table (workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, name text, current_state text,
        dependencies_satisfied boolean, retry_eligible boolean, ready_for_execution boolean,
        last_failure_at timestamptz, next_retry_at timestamptz, total_parents integer, completed_parents integer,
        attempts integer, max_attempts integer, backoff_request_seconds integer, last_attempted_at timestamptz)
    language c stable parallel restricted rows 20 as 'MODULE_PATHNAME', 'tasker_get_step_readiness_status';
comment on function tasker.get_step_readiness_status(uuid, uuid[]) is
'How ready the steps of a task are, or those of them that are given, by uuid. ready_for_execution: a worker could claim the step now: it is enqueued or waits for a retry that is due, and all its parents are done (a step is enqueued as soon as they are). retry_eligible: the first attempt always; then while it is retryable and has attempts left. last_failure_at: the last failure, whatever came after it. Result: none for a task that does not exist. Errors: 22023.';
create function tasker.get_step_readiness_status_batch(input_task_uuids uuid[], step_uuids uuid[] default null)
    returns table (workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, name text, current_state text,
        dependencies_satisfied boolean, retry_eligible boolean, ready_for_execution boolean,
        last_failure_at timestamptz, next_retry_at timestamptz, total_parents integer, completed_parents integer,
        attempts integer, max_attempts integer, backoff_request_seconds integer, last_attempted_at timestamptz)
    language c stable parallel restricted as 'MODULE_PATHNAME', 'tasker_get_step_readiness_status_batch';
comment on function tasker.get_step_readiness_status_batch(uuid[], uuid[]) is
'get_step_readiness_status() of several tasks, ordered by task and step; a task that is given twice counts once. Errors: 22023.';

create function tasker.get_task_execution_context(input_task_uuid uuid)
    returns table (task_uuid uuid, named_task_uuid uuid, status text, total_steps bigint, pending_steps bigint,
        in_progress_steps bigint, completed_steps bigint, failed_steps bigint, ready_steps bigint,
        execution_status text, recommended_action text, completion_percentage numeric, health_status text,
        enqueued_steps bigint, waiting_for_retry_steps bigint)
    language c stable parallel restricted rows 1 as 'MODULE_PATHNAME', 'tasker_get_task_execution_context';
comment on function tasker.get_task_execution_context(uuid) is
'How a task stands: its steps by state, and what is to be done. execution_status and recommended_action: blocked_by_failures, handle_failures (a step is in error); has_ready_steps, execute_ready_steps; processing, wait_for_completion; all_complete, finalize_task; waiting_for_dependencies, wait_for_dependencies. health_status: blocked (a step is in error), recovering (a step waits for its retry), healthy, unknown (a step''s state cannot be read). Result: one row, none for a task that does not exist. Errors: 22023.';
create function tasker.get_task_execution_contexts_batch(input_task_uuids uuid[])
    returns table (task_uuid uuid, named_task_uuid uuid, status text, total_steps bigint, pending_steps bigint,
        in_progress_steps bigint, completed_steps bigint, failed_steps bigint, ready_steps bigint,
        execution_status text, recommended_action text, completion_percentage numeric, health_status text,
        enqueued_steps bigint, waiting_for_retry_steps bigint)
    language c stable parallel restricted as 'MODULE_PATHNAME', 'tasker_get_task_execution_contexts_batch';
comment on function tasker.get_task_execution_contexts_batch(uuid[]) is
'get_task_execution_context() of several tasks, ordered by task; a task that is given twice counts once. Errors: 22023.';

create function tasker.get_current_task_state(p_task_uuid uuid) returns text
    language c stable parallel restricted as 'MODULE_PATHNAME', 'tasker_get_current_task_state';
comment on function tasker.get_current_task_state(uuid) is
'The state of a task. Result: null for a task that does not exist. Errors: 22023.';
create function tasker.get_current_step_state(p_step_uuid uuid) returns text
    language c stable parallel restricted as 'MODULE_PATHNAME', 'tasker_get_current_step_state';
comment on function tasker.get_current_step_state(uuid) is
'The state of a step. Result: null for a step that does not exist. Errors: 22023.';

create function tasker.get_task_ready_info(p_task_uuid uuid)
    returns table (task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint,
        computed_priority numeric, current_state text)
    language c stable parallel restricted rows 1 as 'MODULE_PATHNAME', 'tasker_get_task_ready_info';
comment on function tasker.get_task_ready_info(uuid) is
'What get_next_ready_tasks() says of a task, for any task: it counts as its best ready step; without one, by its priority and the time that it has been in its state. Result: one row, none for a task that does not exist. Errors: 22023.';

create function tasker.calculate_dependency_levels(input_task_uuid uuid)
    returns table (workflow_step_uuid uuid, dependency_level integer)
    language c stable parallel restricted rows 20 as 'MODULE_PATHNAME', 'tasker_calculate_dependency_levels';
comment on function tasker.calculate_dependency_levels(uuid) is
'The level of every step of a task, in order: 0 for a step without parents, else one more than the highest level of its parents. Result: none for a task that does not exist. Errors: 22023.';
create function tasker.get_step_transitive_dependencies(target_step_uuid uuid)
    returns table (workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, step_name text, results jsonb,
        processed boolean, distance integer)
    language c stable parallel restricted rows 20 as 'MODULE_PATHNAME', 'tasker_get_step_transitive_dependencies';
comment on function tasker.get_step_transitive_dependencies(uuid) is
'All steps that a step depends on, directly or through others, each of them once, by distance (1: a parent; the shortest way counts) and uuid. Result: none for a step without parents, or that does not exist. Errors: 22023.';
create function tasker.get_step_dag_relationships(input_task_uuid uuid)
    returns table (workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, parent_step_uuids jsonb,
        child_step_uuids jsonb, parent_count bigint, child_count bigint, is_root_step boolean, is_leaf_step boolean,
        min_depth_from_root integer)
    language c stable parallel restricted rows 20 as 'MODULE_PATHNAME', 'tasker_get_step_dag_relationships';
comment on function tasker.get_step_dag_relationships(uuid) is
'The rows of step_dag_relationships of one task, computed at once. Result: none for a task that does not exist. Errors: 22023.';

create function tasker._step_relations(workflow_step_uuid uuid)
    returns table (parent_step_uuids jsonb, child_step_uuids jsonb, parent_count bigint, child_count bigint,
        min_depth_from_root integer)
    language c stable strict parallel restricted rows 1 as 'MODULE_PATHNAME', 'tasker_step_relations';
comment on function tasker._step_relations(uuid) is
'The parents and children of a step, and its distance from the nearest root. Internal: see step_dag_relationships.';
create view tasker.step_dag_relationships as
select s.workflow_step_uuid,
       tasker.task_of(s.workflow_step_uuid) as task_uuid,
       s.named_step_uuid, r.parent_step_uuids, r.child_step_uuids, r.parent_count, r.child_count,
       r.parent_count = 0 as is_root_step,
       r.child_count = 0 as is_leaf_step,
       r.min_depth_from_root
from tasker.workflow_step s
cross join lateral tasker._step_relations(s.workflow_step_uuid) r;
comment on view tasker.step_dag_relationships is
'Parents and children of steps. By workflow_step_uuid one partition is read; for a whole task call get_step_dag_relationships(task_uuid).';
comment on column tasker.step_dag_relationships.workflow_step_uuid is 'The step';
comment on column tasker.step_dag_relationships.task_uuid is 'Its task';
comment on column tasker.step_dag_relationships.named_step_uuid is 'The step of the template';
comment on column tasker.step_dag_relationships.parent_step_uuids is 'The steps that it waits for, as an array';
comment on column tasker.step_dag_relationships.child_step_uuids is 'The steps that wait for it, as an array';
comment on column tasker.step_dag_relationships.parent_count is 'How many it waits for';
comment on column tasker.step_dag_relationships.child_count is 'How many wait for it';
comment on column tasker.step_dag_relationships.is_root_step is 'Does it wait for none';
comment on column tasker.step_dag_relationships.is_leaf_step is 'Does none wait for it';
comment on column tasker.step_dag_relationships.min_depth_from_root is 'Edges on the shortest way from a root; 0: it is one';

create view tasker.step_readiness_statuses as
select s.workflow_step_uuid,
       tasker.task_of(s.workflow_step_uuid) as task_uuid,
       s.named_step_uuid,
       coalesce(s.name, n.name) as name,
       tasker._step_state_word(s.current_state) as current_state,
       s.remaining_parents = 0 as dependencies_satisfied,
       s.attempts = 0 or s.retryable and s.attempts < s.max_attempts as retry_eligible,
       s.current_state in ('q', 'r') and s.remaining_parents = 0
           and coalesce(s.next_retry_at <= pg_catalog.clock_timestamp(), true) as ready_for_execution,
       s.last_failure_at, s.next_retry_at, s.total_parents,
       s.total_parents - s.remaining_parents as completed_parents,
       s.attempts, s.max_attempts, s.backoff_request_seconds, s.last_attempted_at
from tasker.workflow_step s
left join tasker.named_steps n on n.named_step_uuid = s.named_step_uuid;
comment on view tasker.step_readiness_statuses is
'get_step_readiness_status() for all steps. By workflow_step_uuid one partition is read; for a task call the function.';
comment on column tasker.step_readiness_statuses.workflow_step_uuid is 'The step';
comment on column tasker.step_readiness_statuses.task_uuid is 'Its task';
comment on column tasker.step_readiness_statuses.named_step_uuid is 'The step of the template';
comment on column tasker.step_readiness_statuses.name is 'Its name';
comment on column tasker.step_readiness_statuses.current_state is 'Its state: see workflow_steps';
comment on column tasker.step_readiness_statuses.dependencies_satisfied is 'Are all its parents done';
comment on column tasker.step_readiness_statuses.retry_eligible is 'The first attempt always; then while it is retryable and has attempts left';
comment on column tasker.step_readiness_statuses.ready_for_execution is 'Could a worker claim it now';
comment on column tasker.step_readiness_statuses.last_failure_at is 'When it last failed, whatever came after';
comment on column tasker.step_readiness_statuses.next_retry_at is 'When it becomes due: after a failure, or at the task''s run_at';
comment on column tasker.step_readiness_statuses.total_parents is 'Steps that it depends on';
comment on column tasker.step_readiness_statuses.completed_parents is 'Those of them that are done';
comment on column tasker.step_readiness_statuses.attempts is 'Attempts begun';
comment on column tasker.step_readiness_statuses.max_attempts is 'Attempts before it is in error';
comment on column tasker.step_readiness_statuses.backoff_request_seconds is 'Delay that the worker asked for at its last failure';
comment on column tasker.step_readiness_statuses.last_attempted_at is 'When a worker last claimed it';

create view tasker.task_execution_contexts as
select t.task_uuid, t.named_task_uuid, c.status, c.total_steps, c.pending_steps, c.in_progress_steps,
       c.completed_steps, c.failed_steps, c.ready_steps, c.execution_status, c.recommended_action,
       c.completion_percentage, c.health_status, c.enqueued_steps, c.waiting_for_retry_steps
from tasker.task t
cross join lateral tasker.get_task_execution_context(t.task_uuid) c;
comment on view tasker.task_execution_contexts is
'get_task_execution_context() for all tasks; by task_uuid one partition is read.';
comment on column tasker.task_execution_contexts.task_uuid is 'The task';
comment on column tasker.task_execution_contexts.named_task_uuid is 'The version of the template it began with';
comment on column tasker.task_execution_contexts.status is 'Its state: see tasks.current_state';
comment on column tasker.task_execution_contexts.total_steps is 'Its steps';
comment on column tasker.task_execution_contexts.pending_steps is 'Steps that wait for a parent';
comment on column tasker.task_execution_contexts.in_progress_steps is 'Steps that a worker holds';
comment on column tasker.task_execution_contexts.completed_steps is 'Steps that are done: complete or resolved_manually';
comment on column tasker.task_execution_contexts.failed_steps is 'Steps in error';
comment on column tasker.task_execution_contexts.ready_steps is 'Steps that a worker could claim now';
comment on column tasker.task_execution_contexts.execution_status is
'blocked_by_failures, has_ready_steps, processing, all_complete or waiting_for_dependencies';
comment on column tasker.task_execution_contexts.recommended_action is
'handle_failures, execute_ready_steps, wait_for_completion, finalize_task or wait_for_dependencies';
comment on column tasker.task_execution_contexts.completion_percentage is 'Steps done, in percent';
comment on column tasker.task_execution_contexts.health_status is 'healthy, recovering, blocked or unknown';
comment on column tasker.task_execution_contexts.enqueued_steps is 'Steps that stand in the queue';
comment on column tasker.task_execution_contexts.waiting_for_retry_steps is 'Steps that have failed and will be tried again';

grant execute on function tasker.get_step_readiness_status(uuid, uuid[]),
    tasker.get_step_readiness_status_batch(uuid[], uuid[]), tasker.get_task_execution_context(uuid),
    tasker.get_task_execution_contexts_batch(uuid[]), tasker.get_current_task_state(uuid),
    tasker.get_current_step_state(uuid), tasker.get_task_ready_info(uuid),
    tasker.calculate_dependency_levels(uuid), tasker.get_step_transitive_dependencies(uuid),
    tasker.get_step_dag_relationships(uuid), tasker._step_relations(uuid)
    to tasker_observer, tasker_worker, tasker_admin;
grant select on tasker.step_dag_relationships, tasker.step_readiness_statuses, tasker.task_execution_contexts
    to tasker_observer, tasker_admin;

-- Which tasks are ready, by priority.

create function tasker.get_next_ready_tasks(p_limit integer default 5)
    returns table (task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint,
                   computed_priority numeric, current_state text)
    language c volatile rows 5 as 'MODULE_PATHNAME', 'tasker_get_next_ready_tasks';
comment on function tasker.get_next_ready_tasks(integer) is
'The tasks with ready steps that count most, p_limit of them at most. A ready step counts its priority and how long it has been ready: for the first hour 0.1 more for each hour; then priority * exp(-hours/12); from 24 hours on 0.1, whatever its priority. A task counts as its best ready step. Of tasks that count the same, those come first that have been ready the longest (among the decaying ones the shortest). Left out are tasks that have been in waiting_for_dependencies for more than 60 or in waiting_for_retry for more than 30 minutes, or what their template''s lifecycle says. ready_steps_count: steps that a worker could claim now. Only a look at what is committed at this moment: two callers may get the same tasks, and their steps may be claimed in the next moment; claim_steps() is what hands out work. Without shared_preload_libraries all pending records are read. Errors: 22023 p_limit is null or less than 1.';
create function tasker.get_next_ready_task()
    returns table (task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint,
                   computed_priority numeric, current_state text)
    language c volatile rows 1 as 'MODULE_PATHNAME', 'tasker_get_next_ready_task';
comment on function tasker.get_next_ready_task() is 'The first row of get_next_ready_tasks(), or none.';
create function tasker._ready_tasks_at(p_limit integer, p_now timestamptz)
    returns table (task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint,
                   computed_priority numeric, current_state text)
    language c volatile rows 5 as 'MODULE_PATHNAME', 'tasker_ready_tasks_at';
comment on function tasker._ready_tasks_at(integer, timestamptz) is
'get_next_ready_tasks() as if it were then. Internal, for tests.';
revoke all on function tasker.get_next_ready_tasks(integer), tasker.get_next_ready_task(),
    tasker._ready_tasks_at(integer, timestamptz) from public;
grant execute on function tasker.get_next_ready_tasks(integer), tasker.get_next_ready_task()
    to tasker_worker, tasker_observer, tasker_admin;

-- Counts of tasks and steps by state.

-- Not dumped: it names tables of this cluster, and is made again by the worker.
create table tasker.sealed_workflow_partition (
    partition oid not null,
    state     "char" not null,
    row_count bigint not null,
    primary key (partition, state)
);
comment on table tasker.sealed_workflow_partition is
'Counts by state of past partitions of task and workflow_step whose tasks are all finished: counts are built from them after a restart without reading the partition. A row of state "-" marks the partition.';
comment on column tasker.sealed_workflow_partition.partition is 'The partition''s oid';
comment on column tasker.sealed_workflow_partition.state is 'The state, "-" for the mark';
comment on column tasker.sealed_workflow_partition.row_count is 'Rows in that state';

-- The functions of this plane write the tables directly, note what they change, and fire no trigger; these account for
-- everything else: INSERT, UPDATE, DELETE and COPY by an administrator, restores, logical replication (hence ALWAYS).
create function tasker.account_task_change() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_task_change';
comment on function tasker.account_task_change() is
'Keeps the counts of tasks by state right when the table is written by statements instead of this extension''s functions.';
create trigger account_task_change after insert or delete or update of current_state on tasker.task
    for each row execute function tasker.account_task_change();
alter table tasker.task enable always trigger account_task_change;
create function tasker.account_step_change() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_step_change';
comment on function tasker.account_step_change() is
'Keeps the counts of steps by state right when the table is written by statements instead of this extension''s functions.';
create trigger account_step_change after insert or delete or update of current_state on tasker.workflow_step
    for each row execute function tasker.account_step_change();
alter table tasker.workflow_step enable always trigger account_step_change;
create function tasker.account_state_truncate() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_state_truncate';
comment on function tasker.account_state_truncate() is 'Has the counts by state built anew after a TRUNCATE of the whole table.';
create trigger account_state_truncate after truncate on tasker.task
    for each statement execute function tasker.account_state_truncate();
create trigger account_state_truncate after truncate on tasker.workflow_step
    for each statement execute function tasker.account_state_truncate();

create function tasker.get_system_health_counts()
    returns table (pending_tasks bigint, initializing_tasks bigint, enqueuing_steps_tasks bigint,
                   steps_in_process_tasks bigint, evaluating_results_tasks bigint,
                   waiting_for_dependencies_tasks bigint, waiting_for_retry_tasks bigint,
                   blocked_by_failures_tasks bigint, complete_tasks bigint, error_tasks bigint,
                   cancelled_tasks bigint, resolved_manually_tasks bigint, total_tasks bigint,
                   pending_steps bigint, enqueued_steps bigint, in_progress_steps bigint,
                   enqueued_for_orchestration_steps bigint, enqueued_as_error_for_orchestration_steps bigint,
                   waiting_for_retry_steps bigint, complete_steps bigint, error_steps bigint,
                   cancelled_steps bigint, resolved_manually_steps bigint, total_steps bigint)
    language c volatile rows 1 as 'MODULE_PATHNAME', 'tasker_get_system_health_counts';
comment on function tasker.get_system_health_counts() is
'How many tasks and steps are in which state, as it is committed at this moment in any isolation level, and with what this transaction itself has changed. The counts are kept in shared memory and cost the same at any number of tasks; the first call after a restart may have to count the partitions with unfinished tasks once. Without shared_preload_libraries the tables are counted.';

create function tasker.rebuild_workflow_counts() returns void
    language c volatile as 'MODULE_PATHNAME', 'tasker_rebuild_workflow_counts';
comment on function tasker.rebuild_workflow_counts() is
'Counts tasks and steps by state anew from the tables, while everybody goes on. Nobody has to call it: it happens by itself after a restart, and where a prepared transaction''s changes are not known. Without shared_preload_libraries there is nothing to do.';

create function tasker._workflow_metrics()
    returns table (metric text, labels jsonb, value double precision, help text, type text)
    language sql volatile
begin atomic
    with counts as materialized (select pg_catalog.to_jsonb(c) as row from tasker.get_system_health_counts() c)
    select m.metric, pg_catalog.jsonb_build_object('state', pg_catalog.regexp_replace(k.key, '_(tasks|steps)$', '')),
           k.value::double precision, m.help, 'gauge'
    from counts
    cross join lateral pg_catalog.jsonb_each_text(counts.row) k
    join (values ('_tasks', 'tasker_workflow_tasks', 'Tasks by state'),
                 ('_steps', 'tasker_workflow_steps', 'Steps of tasks by state')) m (suffix, metric, help)
      on pg_catalog.right(k.key, 6) = m.suffix
    where k.key not like 'total!_%' escape '!';
end;
comment on function tasker._workflow_metrics() is 'The workflow plane''s part of metrics(). Internal.';

-- The comparison is exact only while nobody writes: it reads the tables and the counts at slightly different moments.
create function tasker._check_workflow_counts() returns table (object text, problem text)
    language sql volatile
begin atomic
    with kept as materialized (select pg_catalog.to_jsonb(c) as row from tasker.get_system_health_counts() c),
    counted as materialized (
        select s.name || '_tasks' as column_name,
               (select pg_catalog.count(*) from tasker.task t where t.current_state = s.state) as rows
        from (values ('p'::"char", 'pending'), ('i', 'initializing'), ('q', 'enqueuing_steps'),
                     ('s', 'steps_in_process'), ('v', 'evaluating_results'), ('d', 'waiting_for_dependencies'),
                     ('r', 'waiting_for_retry'), ('b', 'blocked_by_failures'), ('c', 'complete'), ('e', 'error'),
                     ('x', 'cancelled'), ('m', 'resolved_manually')) s (state, name)
        union all
        select s.name || '_steps',
               (select pg_catalog.count(*) from tasker.workflow_step t where t.current_state = s.state)
        from (values ('p'::"char", 'pending'), ('q', 'enqueued'), ('s', 'in_progress'),
                     ('o', 'enqueued_for_orchestration'), ('f', 'enqueued_as_error_for_orchestration'),
                     ('r', 'waiting_for_retry'), ('c', 'complete'), ('e', 'error'), ('x', 'cancelled'),
                     ('m', 'resolved_manually')) s (state, name)
        union all
        select 'total_tasks', pg_catalog.count(*) from tasker.task
        union all
        select 'total_steps', pg_catalog.count(*) from tasker.workflow_step)
    select 'count of ' || c.column_name,
           pg_catalog.format('there are %s, statistics say %s', c.rows, kept.row ->> c.column_name)
    from counted c
    cross join kept
    where (kept.row ->> c.column_name)::bigint <> c.rows
    union all
    select pg_catalog.format('seal of %s', coalesce(m.partition, s.partition)::regclass),
           pg_catalog.format('it does not say how many rows are in state "%s"', coalesce(t.state, s.state))
    from tasker.sealed_workflow_partition m
    cross join lateral (
        select r.current_state as state, pg_catalog.count(*) as rows from tasker.task r
        where r.tableoid = m.partition group by 1
        union all
        select r.current_state, pg_catalog.count(*) from tasker.workflow_step r
        where r.tableoid = m.partition group by 1) t
    full join (select x.partition, x.state, x.row_count from tasker.sealed_workflow_partition x where x.state <> '-') s
      on s.partition = m.partition and s.state = t.state
    where (m.state = '-' or m.partition is null) and s.row_count is distinct from t.rows;
end;
comment on function tasker._check_workflow_counts() is
'The part of check_integrity() that compares the counts of tasks and steps by state, and the seals of partitions, with the tables. Internal.';
revoke all on function tasker._workflow_metrics(), tasker._check_workflow_counts(), tasker.get_system_health_counts(),
    tasker.rebuild_workflow_counts() from public;
grant execute on function tasker.rebuild_workflow_counts() to tasker_admin;
grant execute on function tasker._workflow_metrics(), tasker._check_workflow_counts(), tasker.get_system_health_counts()
    to tasker_observer, tasker_admin;
revoke all on tasker.sealed_workflow_partition from public;

-- Stale tasks and dead letters. The book of investigations: a task that has been given up is not changed by its entry.

create table tasker.tasks_dlq (
    dlq_entry_uuid       uuid primary key,
    task_uuid            uuid not null,
    original_state       text not null,
    dlq_reason           text not null check (dlq_reason in ('staleness_timeout', 'max_retries_exceeded',
        'dependency_cycle_detected', 'worker_unavailable', 'manual_dlq')),
    dlq_timestamp        timestamptz not null,
    resolution_status    text not null default 'pending'
        check (resolution_status in ('pending', 'manually_resolved', 'permanently_failed', 'cancelled')),
    resolution_timestamp timestamptz,
    resolution_notes     text,
    resolved_by          text,
    task_snapshot        jsonb not null,
    metadata             jsonb not null default '{}',
    created_at           timestamptz not null,
    updated_at           timestamptz not null,
    assigned_to          text,
    assigned_at          timestamptz,
    check ((resolution_status = 'pending') = (resolution_timestamp is null))
);
-- One investigation of a task at a time; those that are open, oldest first; all of a task.
create unique index tasks_dlq_pending_task on tasker.tasks_dlq (task_uuid) where resolution_status = 'pending';
create index tasks_dlq_pending on tasker.tasks_dlq (dlq_timestamp) where resolution_status = 'pending';
create index tasks_dlq_resolved on tasker.tasks_dlq (resolution_timestamp) where resolution_status <> 'pending';
create index tasks_dlq_task on tasker.tasks_dlq (task_uuid, created_at);
select pg_catalog.pg_extension_config_dump('tasker.tasks_dlq', '');
comment on table tasker.tasks_dlq is
'Investigations of tasks that did not get on. A task has at most one pending entry, and keeps its resolved ones until they expire. Written by create_dlq_entry(), assign_dlq_entry(), resolve_dlq_entry() and expire_dlq_entries().';
comment on column tasker.tasks_dlq.dlq_entry_uuid is 'Key, UUIDv7';
comment on column tasker.tasks_dlq.task_uuid is 'The task; it stays in tasks';
comment on column tasker.tasks_dlq.original_state is 'The task''s state when the entry was made';
comment on column tasker.tasks_dlq.dlq_reason is 'staleness_timeout, max_retries_exceeded, dependency_cycle_detected, worker_unavailable or manual_dlq';
comment on column tasker.tasks_dlq.dlq_timestamp is 'When the entry was made';
comment on column tasker.tasks_dlq.resolution_status is 'pending, manually_resolved, permanently_failed or cancelled';
comment on column tasker.tasks_dlq.resolution_timestamp is 'When it was resolved; null while it is pending';
comment on column tasker.tasks_dlq.resolution_notes is 'What was found and done';
comment on column tasker.tasks_dlq.resolved_by is 'Who resolved it';
comment on column tasker.tasks_dlq.task_snapshot is
'The task when the entry was made: who it is, its execution context, its last 50 transitions, and up to 100 steps that were not done';
comment on column tasker.tasks_dlq.metadata is 'How it came here: detection_method, time_in_state_minutes, threshold_minutes';
comment on column tasker.tasks_dlq.created_at is 'The same as dlq_timestamp';
comment on column tasker.tasks_dlq.updated_at is 'When the entry last changed';
comment on column tasker.tasks_dlq.assigned_to is 'Who looks into it; null: nobody yet';
comment on column tasker.tasks_dlq.assigned_at is 'Since when';

create function tasker.calculate_staleness_threshold(p_task_state text, p_template_config jsonb,
        p_default_waiting_deps integer default 60, p_default_waiting_retry integer default 30,
        p_default_steps_process integer default 30)
    returns integer
    language sql immutable parallel safe
return case p_task_state
    when 'waiting_for_dependencies' then
        coalesce((p_template_config #>> '{lifecycle,max_waiting_for_dependencies_minutes}')::integer, p_default_waiting_deps)
    when 'waiting_for_retry' then
        coalesce((p_template_config #>> '{lifecycle,max_waiting_for_retry_minutes}')::integer, p_default_waiting_retry)
    when 'steps_in_process' then
        coalesce((p_template_config #>> '{lifecycle,max_steps_in_process_minutes}')::integer, p_default_steps_process)
    else 1440
end;
comment on function tasker.calculate_staleness_threshold(text, jsonb, integer, integer, integer) is
'After how many minutes in a state a task counts as stale: what the "lifecycle" of its definition says, else the default given; 1440 for states without a limit of their own.';

create function tasker.last_progress_at(task_uuid uuid) returns timestamptz
    language c stable parallel restricted as 'MODULE_PATHNAME', 'tasker_last_progress_at';
comment on function tasker.last_progress_at(uuid) is
'When a task last got on: when it came into its state, or in steps_in_process, where it stays while one step follows the other, when one of its steps last came into its own. Result: null for a task that does not exist. Errors: 22023.';

create view tasker.v_task_state_analysis as
select t.task_uuid, t.correlation_id, s.name as namespace_name, s.task_namespace_uuid as namespace_uuid,
       n.name as task_name, n.named_task_uuid, n.configuration as template_config,
       tasker._task_state_word(t.current_state) as current_state,
       t.state_entered_at,
       extract(epoch from pg_catalog.now() - t.state_entered_at) / 60 as time_in_state_minutes,
       extract(epoch from pg_catalog.now() - tasker.uuid_time(t.task_uuid)) / 60 as task_age_minutes,
       t.priority::integer as priority,
       false as complete
from tasker.task t
join tasker.named_tasks n on n.named_task_uuid = t.named_task_uuid
join tasker.task_namespaces s on s.task_namespace_uuid = n.task_namespace_uuid
where t.current_state not in ('c', 'm');
comment on view tasker.v_task_state_analysis is
'Tasks that are not complete, with their templates and for how long they are in their state.';
comment on column tasker.v_task_state_analysis.task_uuid is 'The task';
comment on column tasker.v_task_state_analysis.correlation_id is 'For tracing over systems';
comment on column tasker.v_task_state_analysis.namespace_name is 'Namespace of the template';
comment on column tasker.v_task_state_analysis.namespace_uuid is 'Its key';
comment on column tasker.v_task_state_analysis.task_name is 'Name of the template';
comment on column tasker.v_task_state_analysis.named_task_uuid is 'The version of the template';
comment on column tasker.v_task_state_analysis.template_config is 'The definition; its "lifecycle" has the thresholds';
comment on column tasker.v_task_state_analysis.current_state is 'Its state: see tasks';
comment on column tasker.v_task_state_analysis.state_entered_at is 'When it came into that state';
comment on column tasker.v_task_state_analysis.time_in_state_minutes is 'For how long it is there';
comment on column tasker.v_task_state_analysis.task_age_minutes is 'How long ago it was created';
comment on column tasker.v_task_state_analysis.priority is '0 to 9, higher first';
comment on column tasker.v_task_state_analysis.complete is 'false: what is complete is not shown';

create view tasker.v_task_staleness_monitoring as
select a.task_uuid, a.namespace_name, a.task_name, a.current_state, l.time_in_state_minutes, a.task_age_minutes,
       l.minutes as staleness_threshold_minutes,
       case
           when l.time_in_state_minutes >= l.minutes then 'stale'
           when l.time_in_state_minutes >= l.minutes * 0.8 then 'warning'
           else 'healthy'
       end as health_status,
       a.priority
from tasker.v_task_state_analysis a
cross join lateral (
    select tasker.calculate_staleness_threshold(a.current_state, a.template_config) as minutes,
           case when a.current_state = 'steps_in_process'
               then extract(epoch from pg_catalog.now() - tasker.last_progress_at(a.task_uuid)) / 60
               else a.time_in_state_minutes end as time_in_state_minutes
    offset 0) l
where a.current_state in ('waiting_for_dependencies', 'waiting_for_retry', 'steps_in_process');
comment on view tasker.v_task_staleness_monitoring is
'Tasks in states that can become stale, and how far they are from it: stale, warning (from 80 % of the threshold on) or healthy.';
comment on column tasker.v_task_staleness_monitoring.task_uuid is 'The task';
comment on column tasker.v_task_staleness_monitoring.namespace_name is 'Namespace of the template';
comment on column tasker.v_task_staleness_monitoring.task_name is 'Name of the template';
comment on column tasker.v_task_staleness_monitoring.current_state is 'waiting_for_dependencies, waiting_for_retry or steps_in_process';
comment on column tasker.v_task_staleness_monitoring.time_in_state_minutes is 'For how long it is there; with steps in process, for how long none of them has moved';
comment on column tasker.v_task_staleness_monitoring.task_age_minutes is 'How long ago it was created';
comment on column tasker.v_task_staleness_monitoring.staleness_threshold_minutes is 'For how long it may be there';
comment on column tasker.v_task_staleness_monitoring.health_status is 'stale, warning or healthy';
comment on column tasker.v_task_staleness_monitoring.priority is '0 to 9, higher first';

create view tasker.v_dlq_dashboard as
select d.dlq_reason,
       pg_catalog.count(*) as total_entries,
       pg_catalog.count(*) filter (where d.resolution_status = 'pending') as pending,
       pg_catalog.count(*) filter (where d.resolution_status = 'manually_resolved') as manually_resolved,
       pg_catalog.count(*) filter (where d.resolution_status = 'permanently_failed') as permanent_failures,
       pg_catalog.count(*) filter (where d.resolution_status = 'cancelled') as cancelled,
       pg_catalog.min(d.dlq_timestamp) as oldest_entry,
       pg_catalog.max(d.dlq_timestamp) as newest_entry,
       pg_catalog.avg(extract(epoch from coalesce(d.resolution_timestamp, pg_catalog.now()) - d.dlq_timestamp) / 60)
           as avg_resolution_time_minutes
from tasker.tasks_dlq d
group by d.dlq_reason;
comment on view tasker.v_dlq_dashboard is 'The dead letter queue by reason: how many entries in which state, from when to when, and how long they take.';
comment on column tasker.v_dlq_dashboard.dlq_reason is 'Why the tasks were given up';
comment on column tasker.v_dlq_dashboard.total_entries is 'All entries';
comment on column tasker.v_dlq_dashboard.pending is 'Under investigation';
comment on column tasker.v_dlq_dashboard.manually_resolved is 'Mended by somebody';
comment on column tasker.v_dlq_dashboard.permanent_failures is 'Could not be mended';
comment on column tasker.v_dlq_dashboard.cancelled is 'Were none: duplicates, false alarms';
comment on column tasker.v_dlq_dashboard.oldest_entry is 'When the first was made';
comment on column tasker.v_dlq_dashboard.newest_entry is 'When the last was made';
comment on column tasker.v_dlq_dashboard.avg_resolution_time_minutes is 'From entry to resolution, for pending ones up to now';

create view tasker.v_dlq_investigation_queue as
select d.dlq_entry_uuid, d.task_uuid, d.original_state, d.dlq_reason, d.dlq_timestamp, m.minutes_in_dlq,
       d.task_snapshot ->> 'namespace' as namespace_name,
       d.task_snapshot ->> 'task_name' as task_name,
       d.task_snapshot ->> 'current_state' as current_state,
       (d.metadata ->> 'time_in_state_minutes')::integer as time_in_state_minutes,
       m.minutes_in_dlq + case d.dlq_reason
           when 'dependency_cycle_detected' then 1000
           when 'max_retries_exceeded' then 500
           when 'staleness_timeout' then 100
           when 'worker_unavailable' then 50
           else 10
       end as priority_score,
       d.assigned_to, d.assigned_at
from tasker.tasks_dlq d
cross join lateral (select extract(epoch from pg_catalog.now() - d.dlq_timestamp) / 60 as minutes_in_dlq) m
where d.resolution_status = 'pending'
order by priority_score desc;
comment on view tasker.v_dlq_investigation_queue is
'Pending investigations, the most pressing first: by reason, and the longer they wait the higher.';
comment on column tasker.v_dlq_investigation_queue.dlq_entry_uuid is 'The entry';
comment on column tasker.v_dlq_investigation_queue.task_uuid is 'The task';
comment on column tasker.v_dlq_investigation_queue.original_state is 'The task''s state when the entry was made';
comment on column tasker.v_dlq_investigation_queue.dlq_reason is 'Why it was given up';
comment on column tasker.v_dlq_investigation_queue.dlq_timestamp is 'When the entry was made';
comment on column tasker.v_dlq_investigation_queue.minutes_in_dlq is 'For how long it is here';
comment on column tasker.v_dlq_investigation_queue.namespace_name is 'Namespace of the template';
comment on column tasker.v_dlq_investigation_queue.task_name is 'Name of the template';
comment on column tasker.v_dlq_investigation_queue.current_state is 'The task''s state in the snapshot';
comment on column tasker.v_dlq_investigation_queue.time_in_state_minutes is 'For how long it had been in that state';
comment on column tasker.v_dlq_investigation_queue.priority_score is 'dependency_cycle_detected 1000, max_retries_exceeded 500, staleness_timeout 100, worker_unavailable 50, else 10; and the minutes it is here';
comment on column tasker.v_dlq_investigation_queue.assigned_to is 'Who looks into it; null: nobody yet';
comment on column tasker.v_dlq_investigation_queue.assigned_at is 'Since when';

create function tasker.find_stuck_tasks(minutes integer default 10)
    returns table (task_uuid uuid, current_state text, processor_uuid uuid, stuck_duration_minutes integer)
    language c stable rows 100 as 'MODULE_PATHNAME', 'tasker_find_stuck_tasks';
comment on function tasker.find_stuck_tasks(integer) is
'Tasks that are in a state of work (initializing, enqueuing_steps, steps_in_process, evaluating_results) and have not got on for longer than that (see last_progress_at), the longest first, with the processor of the last transition. Reads the tasks of partitions in which some are unfinished. Errors: 22023.';
create function tasker.get_stale_tasks_for_dlq(p_default_waiting_deps integer default 60,
        p_default_waiting_retry integer default 30, p_default_steps_process integer default 30,
        p_max_lifetime_hours integer default 24, p_batch_size integer default 100)
    returns table (task_uuid uuid, namespace_name text, task_name text, current_state text,
        time_in_state_minutes numeric, threshold_minutes integer, task_age_minutes numeric)
    language c stable rows 100 as 'MODULE_PATHNAME', 'tasker_get_stale_tasks_for_dlq';
comment on function tasker.get_stale_tasks_for_dlq(integer, integer, integer, integer, integer) is
'Tasks that wait for dependencies or for a retry for longer than they may, have steps in process of which none has moved for longer than it may (see last_progress_at), or exist for longer than they may ("lifecycle": {"max_duration_minutes"}, else p_max_lifetime_hours), and have no pending entry in tasks_dlq; up to p_batch_size, the longest in their state first. The defaults, in minutes, hold where the "lifecycle" of the definition says nothing. Reads the tasks of partitions in which some are unfinished. Errors: 22023.';
create function tasker.detect_and_transition_stale_tasks(p_dry_run boolean default true,
        p_batch_size integer default 100, p_default_waiting_deps_threshold integer default 60,
        p_default_waiting_retry_threshold integer default 30, p_default_steps_in_process_threshold integer default 30,
        p_default_task_max_lifetime_hours integer default 24)
    returns table (task_uuid uuid, namespace_name text, task_name text, current_state text,
        time_in_state_minutes integer, staleness_threshold_minutes integer, action_taken text, moved_to_dlq boolean,
        transition_success boolean)
    language c volatile rows 100 as 'MODULE_PATHNAME', 'tasker_detect_and_transition_stale_tasks';
comment on function tasker.detect_and_transition_stale_tasks(boolean, integer, integer, integer, integer, integer) is
'Moves stale tasks (see get_stale_tasks_for_dlq) to error, with their unfinished steps cancelled, and makes an entry in tasks_dlq for each; a dry run only says what it would do. action_taken: would_transition_to_dlq_and_error; transitioned_to_dlq_and_error; transitioned_to_error_only (it got an entry from somebody else meanwhile); transition_failed (it went on meanwhile, or an error, which is a WARNING: nothing was changed). A task that fails does not stop the others. Errors: 22023.';
create function tasker.create_dlq_entry(p_task_uuid uuid, p_namespace_name text default null,
        p_task_name text default null, p_current_state text default null,
        p_time_in_state_minutes integer default null, p_threshold_minutes integer default null,
        p_dlq_reason text default 'staleness_timeout')
    returns uuid
    language c volatile as 'MODULE_PATHNAME', 'tasker_create_dlq_entry';
comment on function tasker.create_dlq_entry(uuid, text, text, text, integer, integer, text) is
'Begins the investigation of a task: an entry in tasks_dlq with a snapshot of it. The task is not changed. What is left null is taken from the task. Result: the entry''s uuid, null when the task has a pending entry. Errors: 42704 unknown task; 22023 unknown reason.';
create function tasker.assign_dlq_entry(p_dlq_entry_uuid uuid, p_assigned_to text, p_notes text default null)
    returns boolean
    language c volatile as 'MODULE_PATHNAME', 'tasker_assign_dlq_entry';
comment on function tasker.assign_dlq_entry(uuid, text, text) is
'Says who looks into a pending entry (null: nobody), and adds notes to it. Result: true. Errors: 42704 unknown entry; 55000 it is resolved.';
create function tasker.resolve_dlq_entry(p_dlq_entry_uuid uuid, p_resolution_status text,
        p_resolved_by text default null, p_resolution_notes text default null)
    returns boolean
    language c volatile as 'MODULE_PATHNAME', 'tasker_resolve_dlq_entry';
comment on function tasker.resolve_dlq_entry(uuid, text, text, text) is
'Ends an investigation as manually_resolved, permanently_failed or cancelled, and adds notes to it. The task is not changed. Result: true. Errors: 42704 unknown entry; 55000 it is resolved already; 22023 no such status.';
create function tasker.expire_dlq_entries(p_older_than interval default '90 days', p_batch_size integer default 1000)
    returns bigint
    language c volatile as 'MODULE_PATHNAME', 'tasker_expire_dlq_entries';
comment on function tasker.expire_dlq_entries(interval, integer) is
'Removes entries of tasks_dlq that were resolved before that, up to p_batch_size, the oldest first; pending ones stay. Result: how many. Errors: 22023.';

-- The upper bound in these queries says nothing about the rows; it tells the planner, which does not know the lower one,
-- that it is a range, for which it takes the index.
create function tasker.get_analytics_metrics(since_timestamp timestamptz default null)
    returns table (active_tasks_count bigint, total_namespaces_count bigint, unique_task_types_count bigint,
        system_health_score numeric, task_throughput bigint, completion_count bigint, error_count bigint,
        completion_rate numeric, error_rate numeric, avg_task_duration numeric, avg_step_duration numeric,
        step_throughput bigint, analysis_period_start timestamptz, calculated_at timestamptz)
    language sql volatile security definer set search_path = pg_catalog, pg_temp rows 1
begin atomic
    with period as materialized (
        select coalesce(get_analytics_metrics.since_timestamp, now() - interval '1 hour') as start),
    of_tasks as materialized (
        select count(*) as throughput,
               count(*) filter (where t.current_state in ('c', 'm')) as completions,
               count(*) filter (where t.current_state = 'e') as errors,
               avg(extract(epoch from t.state_entered_at - tasker.uuid_time(t.task_uuid)))
                   filter (where t.current_state in ('c', 'm')) as seconds,
               count(distinct n.task_namespace_uuid) as namespaces,
               count(distinct (n.task_namespace_uuid, n.name)) as types
        from tasker.task t
        join tasker.named_tasks n on n.named_task_uuid = t.named_task_uuid
        where t.task_uuid >= tasker.uuid_at((select start from period)) and t.task_uuid < tasker.uuid_at('infinity')),
    of_the_hour as materialized (
        select count(*) filter (where t.current_state in ('c', 'm')) as completions,
               count(*) filter (where t.current_state = 'e') as errors
        from tasker.task t
        where t.task_uuid >= tasker.uuid_at(now() - interval '1 hour') and t.task_uuid < tasker.uuid_at('infinity')),
    of_steps as materialized (
        select count(*) as throughput,
               avg(extract(epoch from s.state_entered_at - tasker.uuid_time(s.workflow_step_uuid)))
                   filter (where s.current_state in ('c', 'm')) as seconds
        from tasker.workflow_step s
        where s.workflow_step_uuid >= tasker.uuid_at((select start from period))
          and s.workflow_step_uuid < tasker.uuid_at('infinity'))
    select c.total_tasks - c.complete_tasks - c.error_tasks - c.cancelled_tasks - c.resolved_manually_tasks,
           t.namespaces, t.types,
           coalesce(round(h.completions::numeric / nullif(h.completions + h.errors, 0), 3), 1.0),
           t.throughput, t.completions, t.errors,
           coalesce(round(t.completions::numeric / nullif(t.throughput, 0) * 100, 2), 0.0),
           coalesce(round(t.errors::numeric / nullif(t.throughput, 0) * 100, 2), 0.0),
           round(coalesce(t.seconds, 0), 3), round(coalesce(s.seconds, 0), 3), s.throughput, p.start, now()
    from period p, of_tasks t, of_the_hour h, of_steps s, tasker.get_system_health_counts() c;
end;
comment on function tasker.get_analytics_metrics(timestamptz) is
'Figures of the tasks that were created since then (default: an hour ago): how many tasks and steps, how many are complete or in error (and in percent), seconds from creation to completion on average of tasks and of steps, namespaces and named tasks among them; active_tasks_count: all unfinished tasks now; system_health_score: complete / (complete + error) of the tasks of the last hour, 1.0 when there are none. Reads only what was created since.';
create function tasker.get_slowest_steps(since_timestamp timestamptz default null, limit_count integer default 10,
        namespace_filter text default null, task_name_filter text default null, version_filter text default null)
    returns table (workflow_step_uuid uuid, task_uuid uuid, step_name text, task_name text, namespace_name text,
        version text, duration_seconds numeric, attempts integer, created_at timestamptz, completed_at timestamptz,
        retryable boolean, step_status text, execution_seconds numeric)
    language sql stable security definer set search_path = pg_catalog, pg_temp rows 10
begin atomic
    with slowest as materialized (
        select s.workflow_step_uuid, s.named_step_uuid, s.name, s.attempts, s.state_entered_at, s.last_attempted_at,
               s.retryable, s.current_state, s.state_entered_at - tasker.uuid_time(s.workflow_step_uuid) as duration
        from tasker.workflow_step s
        where s.workflow_step_uuid >=
                  tasker.uuid_at(coalesce(get_slowest_steps.since_timestamp, now() - interval '24 hours'))
          and s.workflow_step_uuid < tasker.uuid_at('infinity')
          and s.current_state = 'c'
          and s.state_entered_at > tasker.uuid_time(s.workflow_step_uuid)
          and (coalesce(get_slowest_steps.namespace_filter, get_slowest_steps.task_name_filter,
                        get_slowest_steps.version_filter) is null
               or s.named_step_uuid in (
                   select n.named_step_uuid
                   from tasker.named_steps n
                   join tasker.named_tasks t on t.named_task_uuid = n.named_task_uuid
                   join tasker.task_namespaces ns on ns.task_namespace_uuid = t.task_namespace_uuid
                   where (get_slowest_steps.namespace_filter is null or ns.name = get_slowest_steps.namespace_filter)
                     and (get_slowest_steps.task_name_filter is null or t.name = get_slowest_steps.task_name_filter)
                     and (get_slowest_steps.version_filter is null or t.version = get_slowest_steps.version_filter)))
        order by duration desc, s.workflow_step_uuid
        limit get_slowest_steps.limit_count)
    select s.workflow_step_uuid, tasker.task_of(s.workflow_step_uuid), coalesce(s.name, n.name), t.name, ns.name, t.version,
           round(extract(epoch from s.duration), 3), s.attempts, tasker.uuid_time(s.workflow_step_uuid),
           s.state_entered_at, s.retryable, tasker._step_state_word(s.current_state),
           round(extract(epoch from s.state_entered_at - s.last_attempted_at), 3)
    from slowest s
    join tasker.named_steps n on n.named_step_uuid = s.named_step_uuid
    join tasker.named_tasks t on t.named_task_uuid = n.named_task_uuid
    join tasker.task_namespaces ns on ns.task_namespace_uuid = t.task_namespace_uuid
    order by s.duration desc, s.workflow_step_uuid;
end;
comment on function tasker.get_slowest_steps(timestamptz, integer, text, text, text) is
'The complete steps that took longest from the creation of their task to their completion, of tasks created since then (default: 24 hours ago), of one namespace, named task or version where that is given. execution_seconds: from the last claim to the completion. Reads only what was created since.';
create function tasker.get_slowest_tasks(since_timestamp timestamptz default null, limit_count integer default 10,
        namespace_filter text default null, task_name_filter text default null, version_filter text default null)
    returns table (task_uuid uuid, task_name text, namespace_name text, version text, duration_seconds numeric,
        step_count bigint, completed_steps bigint, error_steps bigint, created_at timestamptz, completed_at timestamptz,
        initiator text, source_system text)
    language sql stable security definer set search_path = pg_catalog, pg_temp rows 10
begin atomic
    with slowest as materialized (
        select t.task_uuid, n.name, ns.name as namespace, n.version, t.state_entered_at, t.initiator, t.source_system,
               t.state_entered_at - tasker.uuid_time(t.task_uuid) as duration
        from tasker.task t
        join tasker.named_tasks n on n.named_task_uuid = t.named_task_uuid
        join tasker.task_namespaces ns on ns.task_namespace_uuid = n.task_namespace_uuid
        where t.task_uuid >= tasker.uuid_at(coalesce(get_slowest_tasks.since_timestamp, now() - interval '24 hours'))
          and t.task_uuid < tasker.uuid_at('infinity')
          and t.current_state in ('c', 'e', 'm')
          and t.state_entered_at > tasker.uuid_time(t.task_uuid)
          and (get_slowest_tasks.namespace_filter is null or ns.name = get_slowest_tasks.namespace_filter)
          and (get_slowest_tasks.task_name_filter is null or n.name = get_slowest_tasks.task_name_filter)
          and (get_slowest_tasks.version_filter is null or n.version = get_slowest_tasks.version_filter)
        order by duration desc, t.task_uuid
        limit get_slowest_tasks.limit_count)
    select s.task_uuid, s.name, s.namespace, s.version, round(extract(epoch from s.duration), 3),
           c.total_steps, c.completed_steps, c.failed_steps, tasker.uuid_time(s.task_uuid), s.state_entered_at,
           s.initiator, s.source_system
    from slowest s
    cross join lateral tasker.get_task_execution_context(s.task_uuid) c
    order by s.duration desc, s.task_uuid;
end;
comment on function tasker.get_slowest_tasks(timestamptz, integer, text, text, text) is
'The finished tasks (complete, in error, resolved_manually) that took longest from creation to their end, of those created since then (default: 24 hours ago), of one namespace, named task or version where that is given. Reads only what was created since.';

revoke all on function tasker.get_analytics_metrics(timestamptz),
    tasker.get_slowest_steps(timestamptz, integer, text, text, text),
    tasker.get_slowest_tasks(timestamptz, integer, text, text, text) from public;
grant execute on function tasker.calculate_staleness_threshold(text, jsonb, integer, integer, integer),
    tasker.last_progress_at(uuid), tasker.find_stuck_tasks(integer), tasker.get_stale_tasks_for_dlq(integer, integer, integer, integer, integer),
    tasker.get_analytics_metrics(timestamptz),
    tasker.get_slowest_steps(timestamptz, integer, text, text, text),
    tasker.get_slowest_tasks(timestamptz, integer, text, text, text)
    to tasker_observer, tasker_admin;
grant execute on function
    tasker.detect_and_transition_stale_tasks(boolean, integer, integer, integer, integer, integer),
    tasker.create_dlq_entry(uuid, text, text, text, integer, integer, text), tasker.assign_dlq_entry(uuid, text, text),
    tasker.resolve_dlq_entry(uuid, text, text, text), tasker.expire_dlq_entries(interval, integer)
    to tasker_admin;
grant select on tasker.tasks_dlq, tasker.v_task_state_analysis, tasker.v_task_staleness_monitoring,
    tasker.v_dlq_dashboard, tasker.v_dlq_investigation_queue
    to tasker_observer, tasker_admin;

-- Drawing a task.

create function tasker.task_graph(task_uuid uuid, format text = 'mermaid', max_siblings integer = 10) returns text
    language c stable as 'MODULE_PATHNAME', 'tasker_task_graph';
comment on function tasker.task_graph(uuid, text, integer) is
'Draws a task: its steps with their states, attempts and times, and what waits for what. format: mermaid (flowchart; a class for each state, a shape for each kind of step), dot (Graphviz; the same), or text, a tree for the terminal in which each step stands once, under the last step that all ways to it pass through; the other steps that it waits for are named behind it. In the tree, of more than max_siblings steps that stand side by side that many are drawn, those in trouble first, and the others are counted by state; 0 draws all. Errors: 42704 unknown task; 22023 unknown format, null, negative max_siblings.';

-- Housekeeping: what keeps the workflow plane's tables small, and what proves that they are right.

-- What names a retired task is found by the task's time: see src/workflow/retention.hpp.
create index task_identity_task_uuid on tasker.task_identity (task_uuid);

create function tasker.check_workflow_integrity() returns table (object text, problem text)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_check_workflow_integrity';
comment on function tasker.check_workflow_integrity() is
'Checks the rules of the workflow plane against its tables: a row for each problem, none where all holds. Of each task: its steps and what it says of them, the state in which it rests; of each step: its parents and how many are not done, its record in the queue; of both: the log of their states, without a gap and of legal transitions only, up to where they are now. Reads all tasks whose partitions are there; part of check_integrity().';

-- Rights on the workflow plane: nothing for PUBLIC. Producers create and cancel tasks, workers do steps, observers read,
-- admins define, steer and do all of it. What only reads is granted where it is made.
revoke all on all functions in schema tasker from public;
revoke all on all procedures in schema tasker from public;

grant execute on function
    tasker.create_task(text, text, jsonb, text, integer, text, uuid, uuid, jsonb, text, text, text, timestamptz),
    tasker.create_tasks(text, text, jsonb[], text, integer, text[], uuid, uuid, jsonb, text, text, text, timestamptz),
    tasker.cancel_task(uuid, text), tasker.get_current_task_state(uuid), tasker.get_task_execution_context(uuid)
    to tasker_producer, tasker_admin;
grant execute on function tasker.claim_steps(text, integer, text, interval, text[]), tasker.step_results(uuid),
    tasker.complete_step(uuid, jsonb, jsonb, bigint), tasker.complete_steps(uuid[], jsonb[], bigint[]),
    tasker.fail_step(uuid, jsonb, boolean, integer, bigint), tasker.checkpoint_step(uuid, jsonb, bigint),
    tasker.extend_step_lease(uuid[], interval, bigint[]), tasker.release_steps(uuid[], bigint[]),
    tasker.set_step_backoff_atomic(uuid, integer)
    to tasker_worker, tasker_admin;
grant execute on procedure tasker.wait_for_steps(text, interval, text[], boolean) to tasker_worker, tasker_admin;
grant execute on function tasker.define_task(text, text, jsonb, text), tasker.retry_task(uuid),
    tasker.reset_step(uuid, boolean), tasker.resolve_step_manually(uuid, jsonb, text, text),
    tasker.transition_task_state_atomic(uuid, text, text, uuid, jsonb)
    to tasker_admin;
grant execute on function tasker.get_task_template(text, text, text), tasker.task_graph(uuid, text, integer),
    tasker.check_workflow_integrity()
    to tasker_observer, tasker_admin;
-- They read views, with the rights of who calls them.
revoke execute on function tasker.get_workflow_steps(uuid), tasker.get_workflow_step_edges(uuid),
    tasker.get_task_transitions(uuid), tasker.get_workflow_step_transitions(uuid)
    from tasker_worker, tasker_producer;
grant select on tasker.task_namespaces, tasker.named_tasks, tasker.named_steps, tasker.step_flow, tasker.task_templates
    to tasker_observer, tasker_admin;

-- The worker plane: what the background worker does and how it fares, and its duties as calls.

-- Starts a worker for this database, where the library is preloaded, once this transaction has committed.
create function tasker.notify_launcher() returns void
    language c as 'MODULE_PATHNAME', 'tasker_notify_launcher';
comment on function tasker.notify_launcher() is
'Tells the launcher, when the transaction commits, that this database has the extension. Run by CREATE EXTENSION; does nothing without shared_preload_libraries.';
select tasker.notify_launcher();

create procedure tasker.run_duty(name text)
    language c as 'MODULE_PATHNAME', 'tasker_run_duty';
comment on procedure tasker.run_duty(text) is
'Runs one round of a duty in this session, with or without a background worker. It commits each of its steps. Partitions are then detached without CONCURRENTLY. Errors: 42704 no such duty (see duty_status); 22023 null; 25001 inside a transaction block.';

create function tasker.request_duty(name text) returns boolean
    language c as 'MODULE_PATHNAME', 'tasker_request_duty';
comment on function tasker.request_duty(text) is
'Asks the background worker to run a duty at once, without waiting for it; false when this database has no worker. A duty that keeps failing is tried once a second at most. Errors: 42704 no such duty; 22023 null.';

create function tasker.start(database name = null) returns text
    language c as 'MODULE_PATHNAME', 'tasker_start';
comment on function tasker.start(name) is
'Sees to it that the duties of a database (null: this one) are run: by the background worker where the library is preloaded (result: worker), else by pg_cron (result: pg_cron), which gets a job for each duty; calling it again changes nothing. pg_cron lives in one database: for another one, call start(''other'') there; both need the extension tasker. Errors: 55000 there is neither, or the worker is switched off and pg_cron is not installed in this database; 3D000 no such database.';
create function tasker.stop(database name = null) returns integer
    language c as 'MODULE_PATHNAME', 'tasker_stop';
comment on function tasker.stop(name) is
'Removes the pg_cron jobs that start() made for a database (null: this one), and returns their number. Errors: 55000 there are none, and the background worker does the duties: it is governed by tasker.worker and tasker.databases; 3D000 no such database.';

create function tasker.schedule_task(name text, cron text, namespace text, task_name text, context jsonb = '{}',
        timezone text = 'UTC') returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_schedule_task';
comment on function tasker.schedule_task(text, text, text, text, jsonb, text) is
'Creates a task again and again, by a job of pg_cron: when the cron expression (minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly) fits the clocks of the time zone. Each task is of the version that was defined last, with initiator ''schedule'' and name as its reason. The same name again replaces what was scheduled. Result: the id of the job. Errors: 42704 unknown task; 22023 bad expression or time zone; 55000 pg_cron is not in this database; 0A000 a time zone that changes by a part of an hour.';
create function tasker.schedule_record(name text, cron text, flow_name text, payload jsonb, priority smallint = 0,
        timezone text = 'UTC') returns bigint
    language c as 'MODULE_PATHNAME', 'tasker_schedule_record';
comment on function tasker.schedule_record(text, text, text, jsonb, smallint, text) is
'Adds a record to a flow again and again, as schedule_task() creates tasks. Result: the id of the job of pg_cron. Errors: 22023 bad expression, time zone or priority; 55000 pg_cron is not in this database; 0A000 a time zone that changes by a part of an hour.';
create function tasker.unschedule(name text) returns void
    language c as 'MODULE_PATHNAME', 'tasker_unschedule';
comment on function tasker.unschedule(text) is
'Ends what schedule_task() or schedule_record() has begun under that name; what was created stays. Errors: 42704 nothing is scheduled under it; 55000 pg_cron is not in this database.';
create function tasker._schedule_is_due(cron text, timezone text, at timestamptz = null) returns boolean
    language c stable as 'MODULE_PATHNAME', 'tasker_schedule_is_due';
comment on function tasker._schedule_is_due(text, text, timestamptz) is
'Is the hour at that time (null: now), by the clocks of the zone, one of the cron expression''s; its minutes are not asked. Internal, for the jobs of schedule_task().';

create function tasker._duty_status()
    returns table (name text, description text, period interval, last_run timestamptz, duration interval,
        next_run timestamptz, runs bigint, failures bigint, failures_in_a_row int, last_error text,
        last_error_at timestamptz, running boolean)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_duty_status';
comment on function tasker._duty_status() is 'The rows of view duty_status.';
create view tasker.duty_status as select * from tasker._duty_status();
comment on view tasker.duty_status is
'The duties, and what the background worker of this database has done about them since the server started. Without a worker all but the first three columns are null.';
comment on column tasker.duty_status.name is 'The duty, as run_duty() takes it';
comment on column tasker.duty_status.description is 'What it does';
comment on column tasker.duty_status.period is 'Time from one run to the next; null: only when needed';
comment on column tasker.duty_status.last_run is 'Start of the last run, or of the one under way';
comment on column tasker.duty_status.duration is 'How long the last run took';
comment on column tasker.duty_status.next_run is 'When it is due again; null while it runs, or when it waits to be asked for';
comment on column tasker.duty_status.runs is 'Runs so far, failed ones included';
comment on column tasker.duty_status.failures is 'Runs that failed';
comment on column tasker.duty_status.failures_in_a_row is 'Runs that have failed since the last that did not; the next is delayed by 1 second, doubled with each, at most 5 minutes';
comment on column tasker.duty_status.last_error is 'Message of the last failure, also when a later run went well; the server''s log has detail and hint';
comment on column tasker.duty_status.last_error_at is 'When that was';
comment on column tasker.duty_status.running is 'Is it being run by the worker?';

create function tasker._worker_status()
    returns table (database text, pid int, state text, started_at timestamptz, duty text, restarts bigint,
        failures int, last_error text, last_error_at timestamptz, next_start_at timestamptz)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_worker_status';
comment on function tasker._worker_status() is 'The rows of view worker_status.';
create view tasker.worker_status as select * from tasker._worker_status();
comment on view tasker.worker_status is
'The background workers of the server: one row for the launcher (database is null), one for each database with a worker, and always one for this database.';
comment on column tasker.worker_status.database is 'The database; null for the launcher';
comment on column tasker.worker_status.pid is 'The process, if there is one';
comment on column tasker.worker_status.state is
'running, connecting, starting, stopping, waiting (until next_start_at), kept away (by a statement that needs the database to itself), launcher; for this database also none, off (by tasker.worker or tasker.databases), standby, or not loaded (without shared_preload_libraries)';
comment on column tasker.worker_status.started_at is 'When it began its work';
comment on column tasker.worker_status.duty is 'The duty that it is running';
comment on column tasker.worker_status.restarts is 'Starts after a failure, since the server started';
comment on column tasker.worker_status.failures is 'Failures in a row: the next start is delayed by 1 second, doubled with each, at most 5 minutes';
comment on column tasker.worker_status.last_error is 'Why it ended the last time it failed';
comment on column tasker.worker_status.last_error_at is 'When that was';
comment on column tasker.worker_status.next_start_at is 'When the next start is tried, after a failure';

-- Held xmin

create function tasker._xmin_holders()
    returns table (kind text, identity text, pid int, database name, username name, affects text, xmin xid,
        age_xids int, since timestamptz, held_for interval, state text, query text)
    language c volatile rows 10 as 'MODULE_PATHNAME', 'tasker_xmin_holders';
comment on function tasker._xmin_holders() is 'The rows of view xmin_holders.';
create view tasker.xmin_holders as select * from tasker._xmin_holders();
comment on view tasker.xmin_holders is
'Who holds back the oldest snapshot, so that dead rows cannot be removed: oldest first. Ending the first row''s session, transaction or slot frees what lies between its age and the next one''s.';
comment on column tasker.xmin_holders.kind is 'session, prepared transaction, replication slot or standby feedback';
comment on column tasker.xmin_holders.identity is 'application_name (or the kind of process), global transaction id, or name of the slot';
comment on column tasker.xmin_holders.pid is 'The process, for pg_terminate_backend(); null when none is attached';
comment on column tasker.xmin_holders.database is 'Its database';
comment on column tasker.xmin_holders.username is 'Its user';
comment on column tasker.xmin_holders.affects is 'Whose dead rows it keeps: this database, another database (and the shared catalogs), all databases, or catalogs';
comment on column tasker.xmin_holders.xmin is 'The oldest transaction that it still has to see';
comment on column tasker.xmin_holders.age_xids is 'How many transactions have begun since';
comment on column tasker.xmin_holders.since is 'Start of its transaction; null for a slot, which does not know it';
comment on column tasker.xmin_holders.held_for is 'How long that is ago';
comment on column tasker.xmin_holders.state is 'State of the session, or whether the slot is active';
comment on column tasker.xmin_holders.query is 'The session''s query, or its last one';

create function tasker.health_check() returns jsonb
    language c volatile as 'MODULE_PATHNAME', 'tasker_health_check';
comment on function tasker.health_check() is
'{"status": "healthy" | "degraded" | "unhealthy", "reasons": [{"check", "severity", "message", "hint"}], "figures": {…}}. Checks that the worker runs and its duties succeed, who holds back the oldest snapshot, that partitions exist ahead of time, how old the backlog is and how many records failed. Takes milliseconds, whatever the size of the tables.';

create function tasker.status() returns table (component text, status text, detail text)
    language sql volatile
begin atomic
    with report as materialized (select tasker.health_check() as health),
    reason as materialized (
        select r.value ->> 'check' as component, pg_catalog.min(r.value ->> 'severity') as status,
               pg_catalog.string_agg(r.value ->> 'message', '; ') as detail
        from report cross join lateral pg_catalog.jsonb_array_elements(report.health -> 'reasons') r
        group by 1),
    figures as materialized (select report.health -> 'figures' -> 'stream' as stream from report),
    line as (
        select 1 as place, 'server' as component, 'ok' as status,
               'PostgreSQL ' || pg_catalog.current_setting('server_version') as detail
        union all
        select 2, 'extension',
               case when tasker.version() like e.extversion || '%' then 'ok' else 'mismatch' end,
               pg_catalog.format('extension %s, library %s', e.extversion, tasker.version())
        from pg_catalog.pg_extension e
        where e.extname = 'tasker'
        union all
        select 3, 'worker', w.state, coalesce(pg_catalog.format('process %s, since %s', w.pid, w.started_at), w.last_error)
        from tasker._worker_status() w
        where w.database = pg_catalog.current_database()
        union all
        select 4, 'duties', case when pg_catalog.count(*) filter (where d.failures_in_a_row > 0) = 0 then 'ok' else 'failing' end,
               coalesce(pg_catalog.string_agg(d.name || ': ' || d.last_error, '; ' order by d.name)
                            filter (where d.failures_in_a_row > 0),
                        pg_catalog.format('%s duties', pg_catalog.count(*)))
        from tasker._duty_status() d
        union all
        select 5, 'ticker', t.state,
               pg_catalog.format('%sevents wait for a tick for %s s at most',
                                 'process ' || t.pid || ', ' || t.ticks || ' ticks; ',
                                 f.stream -> 'ticker_lag_seconds')
        from figures f, tasker._ticker_status() t
        union all
        select 6, 'queues', 'ok', pg_catalog.format('%s queues, %s paused', pg_catalog.count(*),
                                                    pg_catalog.count(*) filter (where q.queue_paused))
        from tasker.queue q
        union all
        select 7, 'consumer lag', 'ok', pg_catalog.format('%s consumers, the last one %s s behind', f.stream -> 'consumers',
                                                          f.stream -> 'consumer_lag_seconds')
        from figures f
        union all
        select 8, 'rotation', 'ok', pg_catalog.format('the last one at %s',
                                                      coalesce(pg_catalog.max(q.queue_switch_time)::text, 'no time yet'))
        from tasker.queue q
        union all
        select 9, 'metadata rotation', 'ok', pg_catalog.format('the last one at %s',
                                                      coalesce(pg_catalog.max(m.rotation_switch_time)::text, 'no time yet'))
        from tasker.metadata_rotation m
        union all
        select 10, 'restore', 'ok', 'nothing to do'
    )
    select l.component, coalesce(r.status, l.status), coalesce(r.detail, l.detail)
    from line l
    left join reason r on r.component = l.component
    order by l.place;
end;
comment on function tasker.status() is
'How the parts of the extension are, a line each, with the reasons that health_check() gives: server, extension (mismatch: another version than the library), worker (its state, see worker_status), duties, ticker (see ticker_status), queues, consumer lag, rotation, metadata rotation, restore (see after_restore()). Status is ok where it is not said otherwise.';
revoke all on function tasker.status() from public;
grant execute on function tasker.status() to tasker_observer, tasker_admin;

-- Metrics

create function tasker.metrics()
    returns table (metric text, labels jsonb, value double precision, help text, type text)
    language sql volatile
begin atomic
    with status as materialized (select * from tasker.get_queue_status())
    select 'tasker_queue_records', pg_catalog.jsonb_build_object('flow', s.flow_name, 'status', c.status),
           c.records::double precision, 'Records by flow and status', 'gauge'
    from status s
    cross join lateral (values ('pending', s.pending), ('scheduled', s.scheduled), ('processing', s.processing),
        ('completed', s.completed), ('failed', s.failed), ('cancelled', s.cancelled)) c (status, records)
    union all
    select 'tasker_queue_oldest_pending_seconds', pg_catalog.jsonb_build_object('flow', s.flow_name),
           greatest(extract(epoch from pg_catalog.clock_timestamp() - s.oldest_pending_at), 0)::double precision,
           'Age of the first due record in line', 'gauge'
    from status s
    where s.oldest_pending_at is not null
    union all
    select 'tasker_worker_up', '{}'::jsonb,
           (case when w.state = 'running' then 1 else 0 end)::double precision,
           'Whether the background worker of this database is running', 'gauge'
    from tasker._worker_status() w
    where w.database = pg_catalog.current_database()
    union all
    select 'tasker_worker_restarts_total', '{}'::jsonb, coalesce(w.restarts, 0)::double precision,
           'Starts of the background worker after a failure, since the server started', 'counter'
    from tasker._worker_status() w
    where w.database = pg_catalog.current_database()
    union all
    select m.metric, '{}'::jsonb, m.value, m.help, m.type
    from tasker._ticker_status() t
    cross join lateral (values
        ('tasker_ticker_up', (case when t.state = 'running' then 1 else 0 end)::double precision,
            'Whether the ticker of this database is running', 'gauge'),
        ('tasker_ticker_ticks_total', t.ticks::double precision, 'Ticks made by the ticker', 'counter'),
        ('tasker_ticker_rounds_total', t.rounds::double precision, 'Transactions in which the ticker made ticks', 'counter'),
        ('tasker_ticker_failures_total', t.failures::double precision, 'Rounds of the ticker that failed', 'counter'))
        m (metric, value, help, type)
    union all
    select m.metric, pg_catalog.jsonb_build_object('duty', d.name), m.value, m.help, m.type
    from tasker._duty_status() d
    cross join lateral (values
        ('tasker_duty_runs_total', d.runs::double precision, 'Runs of a duty by the background worker', 'counter'),
        ('tasker_duty_failures_total', d.failures::double precision, 'Runs of a duty that failed', 'counter'),
        ('tasker_duty_failures_in_a_row', d.failures_in_a_row::double precision,
            'Failures of a duty since it last went well', 'gauge'),
        ('tasker_duty_duration_seconds', extract(epoch from d.duration)::double precision,
            'Duration of the last run of a duty', 'gauge'),
        ('tasker_duty_last_run_timestamp_seconds', extract(epoch from d.last_run)::double precision,
            'Start of the last run of a duty', 'gauge')) m (metric, value, help, type)
    where m.value is not null
    union all
    select m.metric, pg_catalog.jsonb_build_object('set', p.parent::text), m.value, m.help, 'gauge'
    from tasker.partition_status p
    cross join lateral (values
        ('tasker_partitions', p.partitions::double precision, 'Attached partitions of a set'),
        ('tasker_partitions_ahead', p.partitions_ahead::double precision,
            'Partitions of a set that are ready for the future'),
        ('tasker_partition_retirements_overdue', p.overdue::double precision,
            'Partitions of a set that are due to go and are still there'),
        ('tasker_partition_rows_changed', p.rows_changed::double precision,
            'Rows of a set that changed since its parent was last analyzed')) m (metric, value, help)
    where m.value is not null
    union all
    select m.metric, pg_catalog.jsonb_build_object('kind', x.kind), m.value, m.help, 'gauge'
    from (select h.kind, pg_catalog.max(h.age_xids)::double precision as age,
                 pg_catalog.max(extract(epoch from h.held_for))::double precision as seconds
          from tasker._xmin_holders() h
          where h.affects in ('this database', 'all databases')
          group by h.kind) x
    cross join lateral (values
        ('tasker_xmin_age_xids', x.age, 'Transactions since the oldest snapshot of a kind of holder'),
        ('tasker_xmin_held_seconds', x.seconds, 'Age of the oldest snapshot of a kind of holder'))
        m (metric, value, help)
    where m.value is not null
    union all
    select s.metric, s.labels, s.value, s.help, s.type
    from tasker._stream_metrics() s
    union all
    select w.metric, w.labels, w.value, w.help, w.type
    from tasker._workflow_metrics() w
    union all
    select 'tasker_info', pg_catalog.jsonb_build_object('version', e.extversion), 1::double precision,
           'The installed version', 'gauge'
    from pg_catalog.pg_extension e
    where e.extname = 'tasker';
end;
comment on function tasker.metrics() is
'Figures for a monitoring system: one row for each combination of metric and labels, with what it means and its type (gauge or counter). Counters of the worker start at 0 with the server.';
create function tasker.metrics_openmetrics() returns text
    language c volatile as 'MODULE_PATHNAME', 'tasker_metrics_openmetrics';
comment on function tasker.metrics_openmetrics() is
'The rows of metrics() in the OpenMetrics text format, for Prometheus and whatever reads its format.';
revoke all on function tasker.metrics(), tasker.metrics_openmetrics() from public;
grant execute on function tasker.metrics(), tasker.metrics_openmetrics() to tasker_observer, tasker_admin;

-- Rights: nothing for PUBLIC.
revoke all on function tasker.notify_launcher(), tasker.request_duty(text), tasker.start(name), tasker.stop(name), tasker._duty_status(),
    tasker._worker_status(), tasker._xmin_holders(), tasker.health_check(),
    tasker.schedule_task(text, text, text, text, jsonb, text),
    tasker.schedule_record(text, text, text, jsonb, smallint, text), tasker.unschedule(text),
    tasker._schedule_is_due(text, text, timestamptz) from public;
revoke all on procedure tasker.run_duty(text) from public;
grant execute on procedure tasker.run_duty(text) to tasker_admin;
grant execute on function tasker.request_duty(text), tasker.start(name), tasker.stop(name),
    tasker.schedule_task(text, text, text, text, jsonb, text),
    tasker.schedule_record(text, text, text, jsonb, smallint, text), tasker.unschedule(text) to tasker_admin;
grant execute on function tasker._duty_status(), tasker._worker_status(), tasker._xmin_holders(),
    tasker.health_check() to tasker_observer, tasker_admin;
grant select on tasker.duty_status, tasker.worker_status, tasker.xmin_holders to tasker_observer, tasker_admin;

-- The proof that all planes' rules hold; each plane adds its own.
create function tasker.check_integrity() returns table (object text, problem text)
    language sql
begin atomic
    select c.object, c.problem from tasker.check_queue_integrity() c
    union all
    select c.object, c.problem from tasker.check_stream_integrity() c
    union all
    select c.object, c.problem from tasker._check_workflow_counts() c
    union all
    select c.object, c.problem from tasker.check_workflow_integrity() c;
end;
comment on function tasker.check_integrity() is
'Checks the rules of all planes against their tables and shared memory: a row for each problem, none where all holds. The comparison with shared memory is exact only while nobody writes.';
revoke all on function tasker.check_integrity() from public;
grant execute on function tasker.check_integrity() to tasker_observer, tasker_admin;
