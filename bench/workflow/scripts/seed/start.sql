-- An orchestrator finds ready tasks, takes them and enqueues their ready steps. One at a time: two that look at once are
-- given the same tasks, and new ones would be left lying.
begin;
select pg_advisory_xact_lock(1);
select coalesce(array_agg(task_uuid), '{}') as found from seed.get_next_ready_tasks(:tasks::integer) \gset
select coalesce(array_agg(task_uuid), '{}') as taken
from (select task_uuid from seed.tasks where task_uuid = any (:found::uuid[]) order by task_uuid for update) as t \gset
select coalesce(array_agg(moved), '{}') as own from seed.move_tasks(:taken::uuid[], '{pending}', 'initializing') as moved \gset
select count(*) as n from seed.move_tasks(:own::uuid[], '{initializing}', 'enqueuing_steps') \gset
select coalesce(array_agg(workflow_step_uuid) filter (where ready_for_execution), '{}') as ready
from seed.get_step_readiness_status_batch(:own::uuid[]) \gset
select count(*) as n from seed.move_steps(:ready::uuid[], '{pending,waiting_for_retry}', 'enqueued') \gset
insert into seed.processing_queue (flow_name, payload)
select :namespace, to_jsonb(step) from unnest(:ready::uuid[]) as step;
select count(*) as n from seed.move_tasks(:own::uuid[], '{enqueuing_steps}', 'steps_in_process') \gset
commit;
