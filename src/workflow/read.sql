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
