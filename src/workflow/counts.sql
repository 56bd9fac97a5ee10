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
