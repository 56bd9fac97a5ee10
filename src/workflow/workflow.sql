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
