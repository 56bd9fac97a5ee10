-- Tasks, their steps, edges and first transitions: one statement for all of them.
with new_tasks as (
    insert into seed.tasks (task_uuid, named_task_uuid, priority, correlation_id, context)
    select seed.uuid_v7(), n.named_task_uuid, :priority::integer, seed.uuid_v7(), :context::jsonb
    from seed.named_tasks as n, generate_series(1, :tasks::integer)
    where n.name = :task
    returning task_uuid, named_task_uuid
), new_steps as (
    insert into seed.workflow_steps (workflow_step_uuid, task_uuid, named_step_uuid, max_attempts)
    select seed.uuid_v7(), t.task_uuid, s.named_step_uuid, s.max_attempts
    from new_tasks as t join seed.named_tasks_named_steps as s using (named_task_uuid)
    returning workflow_step_uuid, task_uuid, named_step_uuid
), new_edges as (
    insert into seed.workflow_step_edges (workflow_step_edge_uuid, from_step_uuid, to_step_uuid, name)
    select seed.uuid_v7(), parent.workflow_step_uuid, child.workflow_step_uuid, 'provides'
    from new_tasks as t
    join seed.named_tasks_edges as e using (named_task_uuid)
    join new_steps as parent on parent.task_uuid = t.task_uuid and parent.named_step_uuid = e.from_step_uuid
    join new_steps as child on child.task_uuid = t.task_uuid and child.named_step_uuid = e.to_step_uuid
), task_log as (
    insert into seed.task_transitions (task_transition_uuid, task_uuid, to_state, sort_key, most_recent)
    select seed.uuid_v7(), task_uuid, 'pending', 1, true from new_tasks
)
insert into seed.workflow_step_transitions (workflow_step_transition_uuid, workflow_step_uuid, to_state, sort_key,
                                            most_recent)
select seed.uuid_v7(), workflow_step_uuid, 'pending', 1, true from new_steps;
