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
