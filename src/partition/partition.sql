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
