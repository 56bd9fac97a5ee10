-- The worker stores its results; then the orchestrator takes the steps as complete, looks at their tasks, enqueues
-- what has become ready and finishes tasks of which nothing is left. Each hop of the two state machines is one
-- statement for all steps of the batch.
begin;
update seed.workflow_steps
set results = :results::jsonb, processed = true, in_process = false, processed_at = now(), updated_at = now()
where workflow_step_uuid = any (:steps::uuid[]);
select count(*) as moved from seed.move_steps(:steps::uuid[], '{in_progress}', 'enqueued_for_orchestration') \gset
update seed.processing_queue set status = 'completed', completed_at = now(), updated_at = now()
where id = any (:ids::bigint[]);
select count(*) as moved from seed.move_steps(:steps::uuid[], '{enqueued_for_orchestration}', 'complete') \gset
select coalesce(array_agg(distinct task_uuid), '{}') as touched from seed.workflow_steps
where workflow_step_uuid = any (:steps::uuid[]) \gset
select count(*) as locked
from (select from seed.tasks where task_uuid = any (:touched::uuid[]) order by task_uuid for update) as t \gset
select count(*) as moved
from seed.move_tasks(:touched::uuid[], '{steps_in_process,waiting_for_dependencies}', 'evaluating_results') \gset
select coalesce(array_agg(task_uuid) filter (where execution_status = 'all_complete'), '{}') as done,
       coalesce(array_agg(task_uuid) filter (where execution_status = 'has_ready_steps'), '{}') as going,
       coalesce(array_agg(task_uuid) filter (where execution_status not in ('all_complete', 'has_ready_steps')), '{}') as waiting
from seed.get_task_execution_contexts_batch(:touched::uuid[]) \gset
select count(*) as moved from seed.move_tasks(:waiting::uuid[], '{evaluating_results}', 'waiting_for_dependencies') \gset
select count(*) as moved from seed.move_tasks(:going::uuid[], '{evaluating_results}', 'enqueuing_steps') \gset
select coalesce(array_agg(workflow_step_uuid) filter (where ready_for_execution), '{}') as ready
from seed.get_step_readiness_status_batch(:going::uuid[]) \gset
select count(*) as moved from seed.move_steps(:ready::uuid[], '{pending,waiting_for_retry}', 'enqueued') \gset
insert into seed.processing_queue (flow_name, payload)
select :namespace, to_jsonb(step) from unnest(:ready::uuid[]) as step;
select count(*) as moved from seed.move_tasks(:going::uuid[], '{enqueuing_steps}', 'steps_in_process') \gset
select count(*) as moved from seed.move_tasks(:done::uuid[], '{evaluating_results}', 'complete') \gset
update seed.tasks set complete = true, completed_at = now(), updated_at = now() where task_uuid = any (:done::uuid[]);
commit;
