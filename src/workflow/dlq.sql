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
