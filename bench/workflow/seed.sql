-- The seed's tables for tasks and their steps, in the schema of its queue (bench/queue/seed.sql). States are kept in
-- two logs of transitions, in which a flag marks the newest row of each task and step. There are no foreign keys,
-- which would only slow it down. Keys and indexes stand apart (seed_indexes.sql), so that a population can be loaded
-- before they are built.

create table seed.task_namespaces (
    task_namespace_uuid uuid primary key default gen_random_uuid(),
    name                varchar(64) not null unique,
    description         varchar(255),
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now()
);

create table seed.named_tasks (
    named_task_uuid     uuid primary key default gen_random_uuid(),
    task_namespace_uuid uuid not null,
    name                varchar(64) not null,
    version             varchar(16) not null default '0.1.0',
    description         varchar(255),
    configuration       jsonb default '{}',
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    unique (task_namespace_uuid, name, version)
);

create table seed.named_steps (
    named_step_uuid uuid primary key default gen_random_uuid(),
    name            varchar(128) not null unique,
    description     varchar(255),
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now()
);

-- Which steps a kind of task has, and which of them follow which: the application reads this from a file.
create table seed.named_tasks_named_steps (
    named_task_uuid uuid not null,
    named_step_uuid uuid not null,
    max_attempts    integer not null default 3,
    primary key (named_task_uuid, named_step_uuid)
);

create table seed.named_tasks_edges (
    named_task_uuid uuid not null,
    from_step_uuid  uuid not null,
    to_step_uuid    uuid not null,
    primary key (named_task_uuid, from_step_uuid, to_step_uuid)
);

create table seed.tasks (
    task_uuid             uuid not null,
    named_task_uuid       uuid not null,
    complete              boolean not null default false,
    requested_at          timestamptz not null default now(),
    completed_at          timestamptz,
    initiator             varchar(128),
    source_system         varchar(128),
    reason                varchar(128),
    identity_hash         varchar(128),
    priority              integer not null default 0,
    correlation_id        uuid not null,
    parent_correlation_id uuid,
    tags                  jsonb,
    context               jsonb,
    created_at            timestamptz not null default now(),
    updated_at            timestamptz not null default now()
);

create table seed.workflow_steps (
    workflow_step_uuid      uuid not null,
    task_uuid               uuid not null,
    named_step_uuid         uuid not null,
    retryable               boolean not null default true,
    max_attempts            integer default 3,
    in_process              boolean not null default false,
    processed               boolean not null default false,
    processed_at            timestamptz,
    attempts                integer default 0,
    last_attempted_at       timestamptz,
    backoff_request_seconds integer,
    inputs                  jsonb,
    results                 jsonb,
    checkpoint              jsonb,
    created_at              timestamptz not null default now(),
    updated_at              timestamptz not null default now()
);

create table seed.workflow_step_edges (
    workflow_step_edge_uuid uuid not null,
    from_step_uuid          uuid not null,
    to_step_uuid            uuid not null,
    name                    varchar(128) not null,
    created_at              timestamptz not null default now(),
    updated_at              timestamptz not null default now()
);

create table seed.task_transitions (
    task_transition_uuid uuid not null,
    task_uuid            uuid not null,
    to_state             varchar(64) not null,
    from_state           varchar(64),
    processor_uuid       uuid,
    transition_metadata  jsonb default '{}',
    sort_key             integer not null,
    most_recent          boolean not null default false,
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now()
);

create table seed.workflow_step_transitions (
    workflow_step_transition_uuid uuid not null,
    workflow_step_uuid            uuid not null,
    to_state                      varchar(64) not null,
    from_state                    varchar(64),
    metadata                      jsonb default '{}',
    sort_key                      integer not null,
    most_recent                   boolean not null default false,
    created_at                    timestamptz not null default now(),
    updated_at                    timestamptz not null default now()
);
