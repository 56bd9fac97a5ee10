-- What can be seen of partition sets.

create function tasker.show_partitions(parent regclass, out partition regclass, out lower_bound text,
    out upper_bound text, out rows_estimate bigint, out bytes bigint, out is_current boolean, out state text)
    returns setof record stable strict
    language c as 'MODULE_PATHNAME', 'tasker_show_partitions';
comment on function tasker.show_partitions(regclass) is
'Lists the partitions of a set in the order of their bounds: lower bound (inclusive) and upper bound (exclusive) as times, estimated rows, size in bytes with indexes, whether it holds the keys of now, and state: attached, detach pending (a detach was cut off or is under way), detached (about to be dropped). Errors: 42704 not a partition set.';

create function tasker.partition_of(parent regclass, value text) returns text stable
    language c as 'MODULE_PATHNAME', 'tasker_partition_of';
comment on function tasker.partition_of(regclass, text) is
'Names the partition of a set that holds a key, or the one that would be made for it. The key is a record id or a time. Errors: 42704 not a partition set; 22023 neither id nor time; 22003 out of range.';

create function tasker._partition_summary(parent regclass, out partitions integer, out ahead integer,
    out pending integer, out detached integer, out has_current boolean, out oldest text, out newest text,
    out error text)
    returns setof record stable strict rows 1
    language c as 'MODULE_PATHNAME', 'tasker_partition_summary';
comment on function tasker._partition_summary(regclass) is
'What the bounds of a set''s partitions say; "error" alone when they cannot be read. Internal: serves tasker.partition_status.';

create function tasker._partition_rows_changed(parent regclass) returns bigint stable strict
    language c as 'MODULE_PATHNAME', 'tasker_partition_rows_changed';
comment on function tasker._partition_rows_changed(regclass) is
'Rows changed in a partitioned table since it was last analyzed. Internal: serves tasker.partition_status.';

create view tasker.partition_status as
select c.parent,
       case
           when s.error is not null or not s.has_current then 'unhealthy'
           when s.ahead < c.premake or f.failing is not null or r.stuck then 'degraded'
           else 'healthy'
       end as health,
       c.partition_interval,
       c.premake,
       s.partitions,
       s.ahead as partitions_ahead,
       s.oldest,
       s.newest,
       r.overdue,
       r.reasons as overdue_reasons,
       s.pending as pending_detaches,
       s.detached as detached_tables,
       (select pg_catalog.pg_stat_get_live_tuples(p.partdefid)
          from pg_catalog.pg_partitioned_table p
         where p.partrelid = c.parent and p.partdefid <> 0) as default_rows,
       c.legal_hold,
       c.last_maintenance,
       greatest(a.analyzed_at, pg_catalog.pg_stat_get_last_analyze_time(c.parent)) as last_analyze,
       tasker._partition_rows_changed(c.parent) as rows_changed,
       coalesce(f.failing, s.error) as failing
  from tasker.part_config c
  left join tasker.part_analyze a on a.parent = c.parent
 cross join lateral tasker._partition_summary(c.parent) s
 cross join lateral (
           select pg_catalog.count(*) as overdue,
                  pg_catalog.bool_or(failures >= 5) as stuck,
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
            where parent = c.parent) f;

comment on view tasker.partition_status is 'The health of each open partition set';
comment on column tasker.partition_status.parent is 'The partitioned table';
comment on column tasker.partition_status.health is
    'unhealthy: there is no partition for the keys of now; degraded: fewer partitions ahead than wanted, or a duty fails; else healthy';
comment on column tasker.partition_status.partition_interval is 'Length of a partition';
comment on column tasker.partition_status.premake is 'Partitions wanted ahead of now';
comment on column tasker.partition_status.partitions is 'Attached partitions';
comment on column tasker.partition_status.partitions_ahead is 'Attached partitions that begin after now';
comment on column tasker.partition_status.oldest is 'Lower bound of the first attached partition';
comment on column tasker.partition_status.newest is 'Upper bound of the last attached partition';
comment on column tasker.partition_status.overdue is
    'Partitions that are past and have not gone: refused by the set''s owner, or on their way out';
comment on column tasker.partition_status.overdue_reasons is 'Their names, and why they are still there';
comment on column tasker.partition_status.pending_detaches is
    'Partitions whose detach is under way or was cut off; the next round of maintenance completes it';
comment on column tasker.partition_status.detached_tables is 'Detached tables that are about to be dropped';
comment on column tasker.partition_status.default_rows is
    'Rows estimated in the DEFAULT partition; null when the set has none';
comment on column tasker.partition_status.legal_hold is 'While true, no partition of the set is retired';
comment on column tasker.partition_status.last_maintenance is
    'When maintenance last made, finalized or retired a partition';
comment on column tasker.partition_status.last_analyze is 'When the parent was last analyzed';
comment on column tasker.partition_status.rows_changed is 'Rows changed since the parent was last analyzed';
comment on column tasker.partition_status.failing is 'Duties that fail for this set, with their last error';

revoke all on tasker.partition_status from public;
revoke all on function tasker.show_partitions(regclass), tasker.partition_of(regclass, text),
    tasker._partition_summary(regclass), tasker._partition_rows_changed(regclass) from public;
grant select on tasker.partition_status to tasker_admin, tasker_observer;
grant execute on function tasker.show_partitions(regclass), tasker.partition_of(regclass, text),
    tasker._partition_summary(regclass), tasker._partition_rows_changed(regclass)
    to tasker_admin, tasker_observer;
