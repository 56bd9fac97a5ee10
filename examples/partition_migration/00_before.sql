-- The tables of a workflow engine after four months, none of them partitioned. -v tasks=N: how many tasks.
\if :{?tasks}
\else
\set tasks 20000
\endif
create schema app;
set search_path = app;

-- UUIDs of version 7 for a time: 48 bits of milliseconds, then chance.
create function uuid_v7(at timestamptz = clock_timestamp()) returns uuid volatile language sql as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7'
            || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid
$$;

create table tasks (
    task_uuid uuid primary key default uuid_v7(),
    named_task_uuid uuid not null,
    complete boolean not null default false,
    priority integer not null default 0,
    correlation_id uuid not null,
    parent_correlation_id uuid,
    requested_at timestamp not null default now(),
    created_at timestamp not null default now()
);
create table workflow_steps (
    workflow_step_uuid uuid primary key default uuid_v7(),
    task_uuid uuid not null references tasks,
    named_step_uuid uuid not null,
    processed boolean not null default false,
    in_process boolean not null default false,
    retryable boolean not null default true,
    attempts integer not null default 0,
    max_attempts integer not null default 3,
    results jsonb,
    created_at timestamp not null default now()
);
create table task_transitions (
    task_transition_uuid uuid primary key default uuid_v7(),
    task_uuid uuid not null references tasks,
    to_state text not null,
    from_state text,
    most_recent boolean not null,
    processor_uuid uuid,
    transition_metadata jsonb not null default '{}',
    created_at timestamp not null default now()
);
create table workflow_step_transitions (
    workflow_step_transition_uuid uuid primary key default uuid_v7(),
    workflow_step_uuid uuid not null references workflow_steps,
    to_state text not null,
    from_state text,
    most_recent boolean not null,
    created_at timestamp not null default now()
);

create index idx_tasks_active_with_priority_covering on tasks (complete, priority, task_uuid)
    include (named_task_uuid, requested_at) where complete = false;
create index idx_tasks_correlation_id on tasks (correlation_id);
create index idx_tasks_correlation_hierarchy on tasks (parent_correlation_id, correlation_id)
    where parent_correlation_id is not null;
create index idx_workflow_steps_ready_covering on workflow_steps (task_uuid, processed, in_process)
    include (workflow_step_uuid, attempts, max_attempts, retryable) where processed = false;
create index idx_workflow_steps_task_covering on workflow_steps (task_uuid)
    include (workflow_step_uuid, processed, in_process, attempts, max_attempts);
create index idx_task_transitions_state_lookup on task_transitions (task_uuid, to_state, most_recent)
    where most_recent = true;
create index idx_task_transitions_processor on task_transitions (processor_uuid) where processor_uuid is not null;
create index idx_task_transitions_timeout on task_transitions ((transition_metadata->>'timeout_at'))
    where most_recent = true;
create index idx_workflow_step_transitions_state_lookup
    on workflow_step_transitions (workflow_step_uuid, to_state, most_recent) where most_recent = true;

-- Four months of tasks with three steps each, and the states that they went through.
insert into tasks
select uuid_v7(t), gen_random_uuid(), true, g % 5, gen_random_uuid(), null, t, t
from (select g, now() - interval '4 months' * (1 - g::float8 / :tasks) as t from generate_series(1, :tasks) g) s;

insert into workflow_steps
select uuid_v7(created_at + n * interval '1 second'), task_uuid, gen_random_uuid(), true, false, true, 1, 3, '{"ok": true}',
       created_at + n * interval '1 second'
from tasks, generate_series(1, 3) n;

insert into task_transitions
select uuid_v7(created_at + n * interval '1 second'), task_uuid, s[n + 1], s[n], n = 3, gen_random_uuid(), '{}',
       created_at + n * interval '1 second'
from tasks, generate_series(1, 3) n, (select array['pending', 'initializing', 'steps_in_process', 'complete']) a (s);

insert into workflow_step_transitions
select uuid_v7(created_at + n * interval '1 second'), workflow_step_uuid, s[n + 1], s[n], n = 2,
       created_at + n * interval '1 second'
from workflow_steps, generate_series(1, 2) n, (select array['pending', 'in_progress', 'complete']) a (s);

vacuum analyze;
