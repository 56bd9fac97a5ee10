-- Keys, and the indexes that the seed's two documents list.

alter table seed.tasks add primary key (task_uuid);
create index idx_tasks_active_with_priority_covering on seed.tasks (complete, priority, task_uuid)
    include (named_task_uuid, requested_at) where complete = false;
create index idx_tasks_correlation_id on seed.tasks (correlation_id);
create index idx_tasks_correlation_hierarchy on seed.tasks (parent_correlation_id, correlation_id)
    where parent_correlation_id is not null;

alter table seed.workflow_steps add primary key (workflow_step_uuid);
create index idx_workflow_steps_ready_covering on seed.workflow_steps (task_uuid, processed, in_process)
    include (workflow_step_uuid, attempts, max_attempts, retryable) where processed = false;
create index idx_workflow_steps_task_covering on seed.workflow_steps (task_uuid)
    include (workflow_step_uuid, processed, in_process, attempts, max_attempts);
create index idx_workflow_steps_transitive_deps on seed.workflow_steps (workflow_step_uuid, named_step_uuid)
    include (task_uuid, results, processed);
create index idx_workflow_steps_processing_status on seed.workflow_steps (task_uuid, processed, in_process);
create index idx_workflow_steps_retry_logic on seed.workflow_steps (attempts, max_attempts, retryable);
create index idx_workflow_steps_backoff_timing on seed.workflow_steps (last_attempted_at, backoff_request_seconds)
    where backoff_request_seconds is not null;

alter table seed.workflow_step_edges add primary key (workflow_step_edge_uuid);
create index idx_workflow_step_edges_from_step on seed.workflow_step_edges (from_step_uuid);
create index idx_workflow_step_edges_to_step on seed.workflow_step_edges (to_step_uuid);

alter table seed.task_transitions add primary key (task_transition_uuid);
create unique index idx_task_transitions_most_recent on seed.task_transitions (task_uuid, most_recent)
    where most_recent = true;
create index idx_task_transitions_sort_key on seed.task_transitions (task_uuid, sort_key);
create index idx_task_transitions_state_lookup on seed.task_transitions (task_uuid, to_state, most_recent)
    where most_recent = true;
create index idx_task_transitions_processor on seed.task_transitions (processor_uuid) where processor_uuid is not null;
create index idx_task_transitions_timeout on seed.task_transitions ((transition_metadata ->> 'timeout_at'))
    where most_recent = true;

alter table seed.workflow_step_transitions add primary key (workflow_step_transition_uuid);
create unique index idx_step_transitions_current_state_optimized
    on seed.workflow_step_transitions (workflow_step_uuid, most_recent) where most_recent = true;
create index idx_workflow_step_transitions_sort_key on seed.workflow_step_transitions (workflow_step_uuid, sort_key);
create index idx_workflow_step_transitions_state_lookup
    on seed.workflow_step_transitions (workflow_step_uuid, to_state, most_recent) where most_recent = true;
create index idx_step_transitions_completed_parents on seed.workflow_step_transitions (workflow_step_uuid, most_recent)
    where to_state in ('complete', 'resolved_manually') and most_recent = true;
