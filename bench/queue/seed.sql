-- The seed's processing queue: its table, its eight indexes, in a schema of its own. The indexes stand
-- apart (seed_indexes.sql) so that a backlog can be loaded before they are built.
create schema seed;

create table seed.processing_queue (
    id               bigserial primary key,
    flow_name        varchar(100) not null,
    payload          jsonb not null,
    status           varchar(20) not null default 'pending'
                     check (status in ('pending', 'processing', 'completed', 'failed')),
    flow_instance_id varchar(100),
    claimed_at       timestamptz,
    completed_at     timestamptz,
    error_message    text,
    retry_count      integer not null default 0,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now()
);
