-- A worker takes records off the queue, marks their steps as begun and reads what they need.
begin;
with claimed as (
    update seed.processing_queue
    set status = 'processing', flow_instance_id = 'worker-' || :client_id::text, claimed_at = now()
    where id = any (array(
        select id from seed.processing_queue
        where flow_name = :namespace and status = 'pending'
        order by created_at asc
        limit :batch
        for update skip locked
    ))
    returning id, payload
)
select coalesce(array_agg(id), '{}') as ids, coalesce(array_agg((payload #>> '{}')::uuid), '{}') as steps, count(*) as n
from claimed \gset
update seed.workflow_steps
set in_process = true, attempts = attempts + 1, last_attempted_at = now(), updated_at = now()
where workflow_step_uuid = any (:steps::uuid[]);
select count(*) as moved from seed.move_steps(:steps::uuid[], '{enqueued}', 'in_progress') \gset
select count(t.context) as contexts, count(d.results) as dependencies
from seed.workflow_steps as s
join seed.tasks as t on t.task_uuid = s.task_uuid
left join lateral (
    select jsonb_object_agg(n.name, p.results) as results
    from seed.workflow_step_edges as e
    join seed.workflow_steps as p on p.workflow_step_uuid = e.from_step_uuid
    join seed.named_steps as n on n.named_step_uuid = p.named_step_uuid
    where e.to_step_uuid = s.workflow_step_uuid
) as d on true
where s.workflow_step_uuid = any (:steps::uuid[]) \gset
commit;
