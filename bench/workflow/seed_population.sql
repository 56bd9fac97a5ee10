-- Unfinished tasks of seven steps in a mixture of states, written straight into the tables: of twenty tasks, eight
-- are new, four have ready steps, four are being worked on, three wait for a retry, which is due in one of them,
-- and one is blocked by a step that failed for good. Each has the transitions behind it that lead there.
-- Wants the temporary table wanted (tasks integer, kind text).

create temporary table step_path (state text, seat integer, hop text);
insert into step_path
select state, seat::integer, hop from (values
    ('pending', array['pending']),
    ('enqueued', array['pending', 'enqueued']),
    ('in_progress', array['pending', 'enqueued', 'in_progress']),
    ('complete', array['pending', 'enqueued', 'in_progress', 'enqueued_for_orchestration', 'complete']),
    ('waiting_for_retry', array['pending', 'enqueued', 'in_progress', 'enqueued_as_error_for_orchestration',
                                'waiting_for_retry']),
    ('error', array['pending', 'enqueued', 'in_progress', 'enqueued_as_error_for_orchestration', 'error'])) as p (state, path),
    unnest(path) with ordinality as h (hop, seat);

create temporary table task_path (state text, seat integer, hop text);
insert into task_path
select state, seat::integer, hop from (values
    ('pending', array['pending']),
    ('waiting_for_dependencies', array['pending', 'initializing', 'enqueuing_steps', 'steps_in_process',
                                       'evaluating_results', 'waiting_for_dependencies']),
    ('steps_in_process', array['pending', 'initializing', 'enqueuing_steps', 'steps_in_process', 'evaluating_results',
                               'enqueuing_steps', 'steps_in_process']),
    ('waiting_for_retry', array['pending', 'initializing', 'enqueuing_steps', 'steps_in_process', 'waiting_for_retry']),
    ('blocked_by_failures', array['pending', 'initializing', 'enqueuing_steps', 'steps_in_process', 'evaluating_results',
                                  'blocked_by_failures'])) as p (state, path),
    unnest(path) with ordinality as h (hop, seat);

-- The step states of each kind of task, by the steps' names; steps that are not listed are pending.
create temporary table mixture (turn integer, task_state text, step_states jsonb, backoff integer);
insert into mixture
select turn, task_state, step_states::jsonb, backoff from (values
    (0, 7, 'pending', '{}', null::integer),
    (8, 11, 'waiting_for_dependencies', '{"collect": "complete"}', null),
    (12, 15, 'steps_in_process',
     '{"collect": "complete", "price": "in_progress", "stock": "enqueued", "address": "complete", "label": "enqueued"}', null),
    (16, 17, 'waiting_for_retry',
     '{"collect": "complete", "price": "waiting_for_retry", "stock": "complete", "address": "complete", "label": "complete"}', 1200),
    (18, 18, 'waiting_for_retry',
     '{"collect": "complete", "price": "waiting_for_retry", "stock": "complete", "address": "complete", "label": "complete"}', 1),
    (19, 19, 'blocked_by_failures',
     '{"collect": "complete", "price": "error", "stock": "complete", "address": "complete", "label": "complete"}', null)
    ) as m (first, last, task_state, step_states, backoff), generate_series(first, last) as turn;

create temporary table new_task as
select seed.uuid_v7() as task_uuid, n.named_task_uuid, i / 20 % 10 as priority, m.*
from wanted as w join seed.named_tasks as n on n.name = w.kind
cross join lateral generate_series(0, w.tasks - 1) as i
join mixture as m on m.turn = i % 20;

create temporary table new_step as
select seed.uuid_v7() as workflow_step_uuid, t.task_uuid, t.named_task_uuid, s.named_step_uuid, t.backoff,
       coalesce(t.step_states ->> s.name, 'pending') as state
from new_task as t
join seed.named_tasks_named_steps as k using (named_task_uuid)
join seed.named_steps as s using (named_step_uuid);
analyze new_step, new_task;

insert into seed.tasks (task_uuid, named_task_uuid, priority, correlation_id, context)
select task_uuid, named_task_uuid, priority, seed.uuid_v7(), '{"order": 4711, "customer": "c-000123"}' from new_task;

insert into seed.workflow_steps (workflow_step_uuid, task_uuid, named_step_uuid, in_process, processed, processed_at,
                                 attempts, last_attempted_at, backoff_request_seconds, results)
select workflow_step_uuid, task_uuid, named_step_uuid, state = 'in_progress', state = 'complete',
       case when state = 'complete' then now() end, (state not in ('pending', 'enqueued'))::integer,
       case when state not in ('pending', 'enqueued') then now() end, case when state = 'waiting_for_retry' then backoff end,
       case when state = 'complete' then '{"ok": true, "rows": 42}'::jsonb end
from new_step;

insert into seed.workflow_step_edges (workflow_step_edge_uuid, from_step_uuid, to_step_uuid, name)
select seed.uuid_v7(), parent.workflow_step_uuid, child.workflow_step_uuid, 'provides'
from new_step as child
join seed.named_tasks_edges as e on e.named_task_uuid = child.named_task_uuid and e.to_step_uuid = child.named_step_uuid
join new_step as parent on parent.task_uuid = child.task_uuid and parent.named_step_uuid = e.from_step_uuid;

insert into seed.task_transitions (task_transition_uuid, task_uuid, from_state, to_state, sort_key, most_recent)
select seed.uuid_v7(), t.task_uuid, before.hop, p.hop, p.seat, after.hop is null
from new_task as t join task_path as p on p.state = t.task_state
left join task_path as before on before.state = p.state and before.seat = p.seat - 1
left join task_path as after on after.state = p.state and after.seat = p.seat + 1;

insert into seed.workflow_step_transitions (workflow_step_transition_uuid, workflow_step_uuid, from_state, to_state,
                                            sort_key, most_recent)
select seed.uuid_v7(), s.workflow_step_uuid, before.hop, p.hop, p.seat, after.hop is null
from new_step as s join step_path as p on p.state = s.state
left join step_path as before on before.state = p.state and before.seat = p.seat - 1
left join step_path as after on after.state = p.state and after.seat = p.seat + 1;

insert into seed.processing_queue (flow_name, payload, status)
select 'bench', to_jsonb(workflow_step_uuid), case state when 'enqueued' then 'pending' else 'processing' end
from new_step where state in ('enqueued', 'in_progress');
