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
