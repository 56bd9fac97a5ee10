-- The SQL contract of the workflow plane: names, arguments, defaults, results, views and their columns. What holds for
-- every object of the extension is checked by queue_surface.sql, and who may do what by workflow_rights.sql.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
begin;
set client_min_messages = warning;
create extension if not exists pgtap;

create temp table surface (name text, arguments text, result text);
insert into surface values
('define_task', 'namespace text, name text, definition jsonb, version text DEFAULT ''0.1.0''::text', 'uuid'),
('create_task', 'namespace text, name text, context jsonb DEFAULT ''{}''::jsonb, version text DEFAULT NULL::text, priority integer DEFAULT 0, identity_key text DEFAULT NULL::text, correlation_id uuid DEFAULT NULL::uuid, parent_correlation_id uuid DEFAULT NULL::uuid, tags jsonb DEFAULT NULL::jsonb, initiator text DEFAULT NULL::text, source_system text DEFAULT NULL::text, reason text DEFAULT NULL::text, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'uuid'),
('create_tasks', 'namespace text, name text, contexts jsonb[], version text DEFAULT NULL::text, priority integer DEFAULT 0, identity_keys text[] DEFAULT NULL::text[], correlation_id uuid DEFAULT NULL::uuid, parent_correlation_id uuid DEFAULT NULL::uuid, tags jsonb DEFAULT NULL::jsonb, initiator text DEFAULT NULL::text, source_system text DEFAULT NULL::text, reason text DEFAULT NULL::text, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'uuid[]'),
('claim_steps', 'namespace text, batch_size integer DEFAULT 1, worker text DEFAULT NULL::text, lease interval DEFAULT NULL::interval, handlers text[] DEFAULT NULL::text[], OUT workflow_step_uuid uuid, OUT task_uuid uuid, OUT task_name text, OUT step_name text, OUT handler text, OUT attempts integer, OUT inputs jsonb, OUT context jsonb, OUT dependency_results jsonb, OUT checkpoint jsonb, OUT correlation_id uuid, OUT lease_token bigint, OUT lease_expires_at timestamp with time zone', 'SETOF record'),
('step_results', 'step_uuid uuid', 'TABLE(step_name text, workflow_step_uuid uuid, results jsonb)'),
('complete_step', 'workflow_step_uuid uuid, results jsonb DEFAULT NULL::jsonb, create_steps jsonb DEFAULT NULL::jsonb, lease_token bigint DEFAULT NULL::bigint', 'text'),
('complete_steps', 'workflow_step_uuids uuid[], results jsonb[] DEFAULT NULL::jsonb[], lease_tokens bigint[] DEFAULT NULL::bigint[]', 'integer'),
('fail_step', 'workflow_step_uuid uuid, error jsonb, retryable boolean DEFAULT true, backoff_seconds integer DEFAULT NULL::integer, lease_token bigint DEFAULT NULL::bigint', 'text'),
('checkpoint_step', 'workflow_step_uuid uuid, checkpoint jsonb, lease_token bigint DEFAULT NULL::bigint', 'void'),
('extend_step_lease', 'workflow_step_uuids uuid[], lease interval, lease_tokens bigint[] DEFAULT NULL::bigint[]', 'integer'),
('release_steps', 'workflow_step_uuids uuid[], lease_tokens bigint[] DEFAULT NULL::bigint[]', 'integer'),
('cancel_task', 'task_uuid uuid, reason text DEFAULT NULL::text', 'boolean'),
('retry_task', 'task_uuid uuid', 'integer'),
('reset_step', 'workflow_step_uuid uuid, cascade boolean DEFAULT false', 'void'),
('resolve_step_manually', 'workflow_step_uuid uuid, results jsonb, resolved_by text, reason text', 'text'),
('transition_task_state_atomic', 'task_uuid uuid, from_state text, to_state text, processor_uuid uuid, metadata jsonb DEFAULT ''{}''::jsonb', 'boolean'),
('get_next_ready_task', '', 'TABLE(task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint, computed_priority numeric, current_state text)'),
('get_next_ready_tasks', 'p_limit integer DEFAULT 5', 'TABLE(task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint, computed_priority numeric, current_state text)'),
('get_step_readiness_status', 'input_task_uuid uuid, step_uuids uuid[] DEFAULT NULL::uuid[]', 'TABLE(workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, name text, current_state text, dependencies_satisfied boolean, retry_eligible boolean, ready_for_execution boolean, last_failure_at timestamp with time zone, next_retry_at timestamp with time zone, total_parents integer, completed_parents integer, attempts integer, max_attempts integer, backoff_request_seconds integer, last_attempted_at timestamp with time zone)'),
('get_step_readiness_status_batch', 'input_task_uuids uuid[], step_uuids uuid[] DEFAULT NULL::uuid[]', 'TABLE(workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, name text, current_state text, dependencies_satisfied boolean, retry_eligible boolean, ready_for_execution boolean, last_failure_at timestamp with time zone, next_retry_at timestamp with time zone, total_parents integer, completed_parents integer, attempts integer, max_attempts integer, backoff_request_seconds integer, last_attempted_at timestamp with time zone)'),
('get_task_execution_context', 'input_task_uuid uuid', 'TABLE(task_uuid uuid, named_task_uuid uuid, status text, total_steps bigint, pending_steps bigint, in_progress_steps bigint, completed_steps bigint, failed_steps bigint, ready_steps bigint, execution_status text, recommended_action text, completion_percentage numeric, health_status text, enqueued_steps bigint, waiting_for_retry_steps bigint)'),
('get_task_execution_contexts_batch', 'input_task_uuids uuid[]', 'TABLE(task_uuid uuid, named_task_uuid uuid, status text, total_steps bigint, pending_steps bigint, in_progress_steps bigint, completed_steps bigint, failed_steps bigint, ready_steps bigint, execution_status text, recommended_action text, completion_percentage numeric, health_status text, enqueued_steps bigint, waiting_for_retry_steps bigint)'),
('calculate_dependency_levels', 'input_task_uuid uuid', 'TABLE(workflow_step_uuid uuid, dependency_level integer)'),
('get_step_transitive_dependencies', 'target_step_uuid uuid', 'TABLE(workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, step_name text, results jsonb, processed boolean, distance integer)'),
('get_step_dag_relationships', 'input_task_uuid uuid', 'TABLE(workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, parent_step_uuids jsonb, child_step_uuids jsonb, parent_count bigint, child_count bigint, is_root_step boolean, is_leaf_step boolean, min_depth_from_root integer)'),
('find_stuck_tasks', 'minutes integer DEFAULT 10', 'TABLE(task_uuid uuid, current_state text, processor_uuid uuid, stuck_duration_minutes integer)'),
('get_stale_tasks_for_dlq', 'p_default_waiting_deps integer DEFAULT 60, p_default_waiting_retry integer DEFAULT 30, p_default_steps_process integer DEFAULT 30, p_max_lifetime_hours integer DEFAULT 24, p_batch_size integer DEFAULT 100', 'TABLE(task_uuid uuid, namespace_name text, task_name text, current_state text, time_in_state_minutes numeric, threshold_minutes integer, task_age_minutes numeric)'),
('detect_and_transition_stale_tasks', 'p_dry_run boolean DEFAULT true, p_batch_size integer DEFAULT 100, p_default_waiting_deps_threshold integer DEFAULT 60, p_default_waiting_retry_threshold integer DEFAULT 30, p_default_steps_in_process_threshold integer DEFAULT 30, p_default_task_max_lifetime_hours integer DEFAULT 24', 'TABLE(task_uuid uuid, namespace_name text, task_name text, current_state text, time_in_state_minutes integer, staleness_threshold_minutes integer, action_taken text, moved_to_dlq boolean, transition_success boolean)'),
('calculate_staleness_threshold', 'p_task_state text, p_template_config jsonb, p_default_waiting_deps integer DEFAULT 60, p_default_waiting_retry integer DEFAULT 30, p_default_steps_process integer DEFAULT 30', 'integer'),
('create_dlq_entry', 'p_task_uuid uuid, p_namespace_name text DEFAULT NULL::text, p_task_name text DEFAULT NULL::text, p_current_state text DEFAULT NULL::text, p_time_in_state_minutes integer DEFAULT NULL::integer, p_threshold_minutes integer DEFAULT NULL::integer, p_dlq_reason text DEFAULT ''staleness_timeout''::text', 'uuid'),
('assign_dlq_entry', 'p_dlq_entry_uuid uuid, p_assigned_to text, p_notes text DEFAULT NULL::text', 'boolean'),
('resolve_dlq_entry', 'p_dlq_entry_uuid uuid, p_resolution_status text, p_resolved_by text DEFAULT NULL::text, p_resolution_notes text DEFAULT NULL::text', 'boolean'),
('expire_dlq_entries', 'p_older_than interval DEFAULT ''90 days''::interval, p_batch_size integer DEFAULT 1000', 'bigint'),
('get_system_health_counts', '', 'TABLE(pending_tasks bigint, initializing_tasks bigint, enqueuing_steps_tasks bigint, steps_in_process_tasks bigint, evaluating_results_tasks bigint, waiting_for_dependencies_tasks bigint, waiting_for_retry_tasks bigint, blocked_by_failures_tasks bigint, complete_tasks bigint, error_tasks bigint, cancelled_tasks bigint, resolved_manually_tasks bigint, total_tasks bigint, pending_steps bigint, enqueued_steps bigint, in_progress_steps bigint, enqueued_for_orchestration_steps bigint, enqueued_as_error_for_orchestration_steps bigint, waiting_for_retry_steps bigint, complete_steps bigint, error_steps bigint, cancelled_steps bigint, resolved_manually_steps bigint, total_steps bigint)'),
('get_analytics_metrics', 'since_timestamp timestamp with time zone DEFAULT NULL::timestamp with time zone', 'TABLE(active_tasks_count bigint, total_namespaces_count bigint, unique_task_types_count bigint, system_health_score numeric, task_throughput bigint, completion_count bigint, error_count bigint, completion_rate numeric, error_rate numeric, avg_task_duration numeric, avg_step_duration numeric, step_throughput bigint, analysis_period_start timestamp with time zone, calculated_at timestamp with time zone)'),
('get_slowest_steps', 'since_timestamp timestamp with time zone DEFAULT NULL::timestamp with time zone, limit_count integer DEFAULT 10, namespace_filter text DEFAULT NULL::text, task_name_filter text DEFAULT NULL::text, version_filter text DEFAULT NULL::text', 'TABLE(workflow_step_uuid uuid, task_uuid uuid, step_name text, task_name text, namespace_name text, version text, duration_seconds numeric, attempts integer, created_at timestamp with time zone, completed_at timestamp with time zone, retryable boolean, step_status text, execution_seconds numeric)'),
('get_slowest_tasks', 'since_timestamp timestamp with time zone DEFAULT NULL::timestamp with time zone, limit_count integer DEFAULT 10, namespace_filter text DEFAULT NULL::text, task_name_filter text DEFAULT NULL::text, version_filter text DEFAULT NULL::text', 'TABLE(task_uuid uuid, task_name text, namespace_name text, version text, duration_seconds numeric, step_count bigint, completed_steps bigint, error_steps bigint, created_at timestamp with time zone, completed_at timestamp with time zone, initiator text, source_system text)'),
('get_task_ready_info', 'p_task_uuid uuid', 'TABLE(task_uuid uuid, task_name text, priority integer, namespace_name text, ready_steps_count bigint, computed_priority numeric, current_state text)'),
('set_step_backoff_atomic', 'workflow_step_uuid uuid, backoff_seconds integer', 'boolean'),
('get_current_task_state', 'p_task_uuid uuid', 'text'),
('get_current_step_state', 'p_step_uuid uuid', 'text'),
('task_graph', 'task_uuid uuid, format text DEFAULT ''mermaid''::text, max_siblings integer DEFAULT 10', 'text'),
('get_workflow_steps', 'task_uuid uuid', 'SETOF tasker.workflow_steps'),
('get_workflow_step_edges', 'task_uuid uuid', 'SETOF tasker.workflow_step_edges'),
('get_task_transitions', 'task_uuid uuid', 'SETOF tasker.task_transitions'),
('get_workflow_step_transitions', 'task_or_step_uuid uuid', 'SETOF tasker.workflow_step_transitions'),
('last_progress_at', 'task_uuid uuid', 'timestamp with time zone'),
('uuid_time', 'uuid uuid', 'timestamp with time zone'),
('uuid_at', '"time" timestamp with time zone', 'uuid'),
('task_of', 'workflow_step_uuid uuid', 'uuid'),
('last_step_of', 'task_uuid uuid', 'uuid');

create temp table view_columns (view name, columns text[]);
insert into view_columns values
('step_dag_relationships', '{"workflow_step_uuid uuid","task_uuid uuid","named_step_uuid uuid","parent_step_uuids jsonb","child_step_uuids jsonb","parent_count bigint","child_count bigint","is_root_step boolean","is_leaf_step boolean","min_depth_from_root integer"}'),
('step_readiness_statuses', '{"workflow_step_uuid uuid","task_uuid uuid","named_step_uuid uuid","name text","current_state text","dependencies_satisfied boolean","retry_eligible boolean","ready_for_execution boolean","last_failure_at timestamp with time zone","next_retry_at timestamp with time zone","total_parents integer","completed_parents integer","attempts integer","max_attempts integer","backoff_request_seconds integer","last_attempted_at timestamp with time zone"}'),
('task_execution_contexts', '{"task_uuid uuid","named_task_uuid uuid","status text","total_steps bigint","pending_steps bigint","in_progress_steps bigint","completed_steps bigint","failed_steps bigint","ready_steps bigint","execution_status text","recommended_action text","completion_percentage numeric","health_status text","enqueued_steps bigint","waiting_for_retry_steps bigint"}'),
('task_transitions', '{"task_uuid uuid","to_state text","from_state text","metadata jsonb","sort_key integer","most_recent boolean","created_at timestamp with time zone","updated_at timestamp with time zone","processor_uuid uuid","transition_metadata jsonb","processor text","txid bigint"}'),
('tasks', '{"task_uuid uuid","named_task_uuid uuid","complete boolean","requested_at timestamp with time zone","completed_at timestamp with time zone","initiator text","source_system text","reason text","tags jsonb","context jsonb","identity_key text","created_at timestamp with time zone","updated_at timestamp with time zone","priority integer","correlation_id uuid","parent_correlation_id uuid","current_state text","state_entered_at timestamp with time zone","run_at timestamp with time zone","total_steps integer","task_name text","namespace_name text","version text"}'),
('tasks_dlq', '{"dlq_entry_uuid uuid","task_uuid uuid","original_state text","dlq_reason text","dlq_timestamp timestamp with time zone","resolution_status text","resolution_timestamp timestamp with time zone","resolution_notes text","resolved_by text","task_snapshot jsonb","metadata jsonb","created_at timestamp with time zone","updated_at timestamp with time zone","assigned_to text","assigned_at timestamp with time zone"}'),
('v_dlq_dashboard', '{"dlq_reason text","total_entries bigint","pending bigint","manually_resolved bigint","permanent_failures bigint","cancelled bigint","oldest_entry timestamp with time zone","newest_entry timestamp with time zone","avg_resolution_time_minutes numeric"}'),
('v_dlq_investigation_queue', '{"dlq_entry_uuid uuid","task_uuid uuid","original_state text","dlq_reason text","dlq_timestamp timestamp with time zone","minutes_in_dlq numeric","namespace_name text","task_name text","current_state text","time_in_state_minutes integer","priority_score numeric","assigned_to text","assigned_at timestamp with time zone"}'),
('v_task_staleness_monitoring', '{"task_uuid uuid","namespace_name text","task_name text","current_state text","time_in_state_minutes numeric","task_age_minutes numeric","staleness_threshold_minutes integer","health_status text","priority integer"}'),
('v_task_state_analysis', '{"task_uuid uuid","correlation_id uuid","namespace_name text","namespace_uuid uuid","task_name text","named_task_uuid uuid","template_config jsonb","current_state text","state_entered_at timestamp with time zone","time_in_state_minutes numeric","task_age_minutes numeric","priority integer","complete boolean"}'),
('workflow_step_edges', '{"from_step_uuid uuid","to_step_uuid uuid","name text","created_at timestamp with time zone","updated_at timestamp with time zone","task_uuid uuid"}'),
('workflow_step_transitions', '{"workflow_step_uuid uuid","to_state text","from_state text","metadata jsonb","sort_key integer","most_recent boolean","created_at timestamp with time zone","updated_at timestamp with time zone","processor_uuid uuid","processor text","txid bigint","task_uuid uuid"}'),
('workflow_steps', '{"workflow_step_uuid uuid","task_uuid uuid","named_step_uuid uuid","retryable boolean","max_attempts integer","in_process boolean","processed boolean","processed_at timestamp with time zone","attempts integer","last_attempted_at timestamp with time zone","backoff_request_seconds integer","inputs jsonb","results jsonb","created_at timestamp with time zone","updated_at timestamp with time zone","priority integer","checkpoint jsonb","name text","current_state text","state_entered_at timestamp with time zone","last_failure_at timestamp with time zone","next_retry_at timestamp with time zone","total_parents integer","completed_parents integer","processor text","error jsonb","handler text","step_type text","record_id bigint"}');

select plan((select count(*) from surface)::int + (select count(*) from view_columns)::int + 7);

-- Functions: one of this name has just these arguments and this result.
select ok(exists (
        select from pg_proc p
        where p.pronamespace = 'tasker'::regnamespace and p.proname = s.name and pg_get_function_arguments(p.oid) = s.arguments
          and pg_get_function_result(p.oid) = s.result),
    format('%s(%s)', s.name, s.arguments))
from surface s;
-- Views: these columns in this order; more may follow.
select is(array(
        select format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)) from pg_attribute a
        where a.attrelid = format('tasker.%I', v.view)::regclass and a.attnum between 1 and cardinality(v.columns)
        order by a.attnum),
    v.columns, format('columns of %s', v.view))
from view_columns v;

create temp view plane as
select p.*, s.arguments from surface s join pg_proc p on p.pronamespace = 'tasker'::regnamespace and p.proname = s.name;
-- What only looks is stable, so that a query asks once and sees one state of things; the rest is volatile.
select set_eq($$select proname::text from plane where provolatile = 's'$$,
    $$select name from surface where name ~ '^(get_(step|task_ex|task_re|task_tr|current|workflow|stale|slowest)|calculate_dep|find_|last_progress|task_graph)'$$,
    'what reads instances is stable');
select set_eq($$select proname::text from plane where provolatile = 'i'$$,
    $$select unnest('{task_of,last_step_of,uuid_time,uuid_at,calculate_staleness_threshold}'::text[])$$, 'what computes is immutable');
select is_empty($$select oid::regprocedure from plane where provolatile = 'v' and proparallel <> 'u'$$,
    'what writes does not run in parallel workers');
-- What can go wrong stands in the comment of what can go wrong.
select is_empty($$
    select oid::regprocedure from plane
    where arguments <> '' and provolatile <> 'i' and prolang = (select oid from pg_language where lanname = 'c')
      and obj_description(oid, 'pg_proc') !~* 'errors:'$$,
    'comments of functions with arguments name their errors');
select is_empty($$
    select oid::regprocedure, code from plane, lateral regexp_matches(obj_description(oid, 'pg_proc'), '\m[0-9A-Z]{5}\M', 'g') codes (code)
    where code[1] ~ '\d' and code[1] !~ '^(22023|42704|42710|55000|25001|42501)$'$$,
    'the SQLSTATEs they name are those of the contract');
-- The queries that stand in the place of their call must be such that the planner can put them there.
select is_empty($$select oid::regprocedure from plane where prolang = (select oid from pg_language where lanname = 'sql')
    and proname ~ '^get_(workflow|task_tr)' and (prosecdef or proisstrict or proconfig is not null or provolatile = 'v')$$,
    'nothing keeps the planner from looking into them');
-- A parent with keys could not be restored from a dump.
select is_empty($$select indexrelid::regclass from pg_index
    where indrelid = any('{tasker.task,tasker.workflow_step,tasker.workflow_step_edge,tasker.task_transition,tasker.workflow_step_transition}'::regclass[])$$, 'the partitioned tables have no index');

select * from finish();
rollback;
