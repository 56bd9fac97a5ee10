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
