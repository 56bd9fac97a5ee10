-- What the seed computes, as its two documents and the public project behind them describe it, written anew. Readiness
-- is computed from edges and transitions each time that somebody asks.

-- Version 7: 48 bits of milliseconds, the rest random.
create function seed.uuid_v7() returns uuid
language sql volatile parallel safe as $$
    select encode(set_byte(overlay(uuid_send(gen_random_uuid())
                                   placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                                   from 1 for 6),
                           6, 112 + (random() * 15)::integer), 'hex')::uuid
$$;

-- Moves tasks on: those that are in one of the given states get a new transition, and their last one loses its flag.
create function seed.move_tasks(uuids uuid[], from_states text[], into_state text) returns setof uuid
language plpgsql as $$
begin
    return query
    with left_behind as (
        update seed.task_transitions as t set most_recent = false, updated_at = now()
        where t.task_uuid = any (uuids) and t.most_recent and t.to_state = any (from_states)
        returning t.task_uuid, t.to_state, t.sort_key
    )
    insert into seed.task_transitions (task_transition_uuid, task_uuid, from_state, to_state, sort_key, most_recent)
    select seed.uuid_v7(), l.task_uuid, l.to_state, into_state, l.sort_key + 1, true from left_behind as l
    returning task_transitions.task_uuid;
end $$;

-- The same for steps.
create function seed.move_steps(uuids uuid[], from_states text[], into_state text) returns setof uuid
language plpgsql as $$
begin
    return query
    with left_behind as (
        update seed.workflow_step_transitions as t set most_recent = false, updated_at = now()
        where t.workflow_step_uuid = any (uuids) and t.most_recent and t.to_state = any (from_states)
        returning t.workflow_step_uuid, t.to_state, t.sort_key
    )
    insert into seed.workflow_step_transitions (workflow_step_transition_uuid, workflow_step_uuid, from_state, to_state,
                                                sort_key, most_recent)
    select seed.uuid_v7(), l.workflow_step_uuid, l.to_state, into_state, l.sort_key + 1, true from left_behind as l
    returning workflow_step_transitions.workflow_step_uuid;
end $$;

-- When a step may be tried again: what its worker asked for, else a power of two in seconds, a minute at most.
create function seed.next_retry_at(backoff integer, attempted timestamptz, failed timestamptz, attempts integer)
returns timestamptz
language sql immutable as $$
    select case
        when backoff is not null and attempted is not null then attempted + backoff * interval '1 second'
        when failed is not null then failed + least(2.0 ^ coalesce(attempts, 1), 60.0) * interval '1 second'
    end
$$;

create function seed.get_step_readiness_status_batch(tasks uuid[], steps uuid[] default null)
returns table (workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, name text, current_state text,
               dependencies_satisfied boolean, retry_eligible boolean, ready_for_execution boolean,
               last_failure_at timestamptz, next_retry_at timestamptz, total_parents integer, completed_parents integer,
               attempts integer, max_attempts integer, backoff_request_seconds integer, last_attempted_at timestamptz)
language plpgsql stable as $$
begin
    return query
    with asked as (
        select s.* from seed.workflow_steps as s
        where s.task_uuid = any (tasks) and (steps is null or s.workflow_step_uuid = any (steps))
    ), parents as (
        select e.to_step_uuid, count(*)::integer as total, count(p.workflow_step_uuid)::integer as done
        from asked as a
        join seed.workflow_step_edges as e on e.to_step_uuid = a.workflow_step_uuid
        left join seed.workflow_step_transitions as p
            on p.workflow_step_uuid = e.from_step_uuid and p.most_recent and p.to_state in ('complete', 'resolved_manually')
        group by e.to_step_uuid
    ), failures as (
        -- Not only the newest transitions: a step that waits for its retry has failed before.
        select f.workflow_step_uuid, max(f.created_at) as at
        from asked as a join seed.workflow_step_transitions as f on f.workflow_step_uuid = a.workflow_step_uuid
        where f.to_state = 'error'
        group by f.workflow_step_uuid
    ), known as (
        select a.*, coalesce(c.to_state, 'pending')::text as state, f.at as failed_at,
               coalesce(p.total, 0) as parents_total, coalesce(p.done, 0) as parents_done,
               coalesce(a.attempts, 0) = 0
                   or (a.retryable and a.attempts < coalesce(a.max_attempts, 3)) as eligible,
               seed.next_retry_at(a.backoff_request_seconds, a.last_attempted_at, f.at, a.attempts) as retry_at
        from asked as a
        left join seed.workflow_step_transitions as c on c.workflow_step_uuid = a.workflow_step_uuid and c.most_recent
        left join parents as p on p.to_step_uuid = a.workflow_step_uuid
        left join failures as f on f.workflow_step_uuid = a.workflow_step_uuid
    )
    select k.workflow_step_uuid, k.task_uuid, k.named_step_uuid, n.name::text, k.state, k.parents_done = k.parents_total,
           k.eligible,
           k.state in ('pending', 'waiting_for_retry') and not k.processed and not k.in_process
               and k.parents_done = k.parents_total and k.eligible and coalesce(k.retry_at <= now(), true),
           k.failed_at, k.retry_at, k.parents_total, k.parents_done, coalesce(k.attempts, 0), coalesce(k.max_attempts, 3),
           k.backoff_request_seconds, k.last_attempted_at
    from known as k join seed.named_steps as n on n.named_step_uuid = k.named_step_uuid
    order by k.task_uuid, k.workflow_step_uuid;
end $$;

create function seed.get_step_readiness_status(task uuid, steps uuid[] default null)
returns table (workflow_step_uuid uuid, task_uuid uuid, named_step_uuid uuid, name text, current_state text,
               dependencies_satisfied boolean, retry_eligible boolean, ready_for_execution boolean,
               last_failure_at timestamptz, next_retry_at timestamptz, total_parents integer, completed_parents integer,
               attempts integer, max_attempts integer, backoff_request_seconds integer, last_attempted_at timestamptz)
language plpgsql stable as $$
begin
    return query select * from seed.get_step_readiness_status_batch(array[task], steps);
end $$;

create function seed.get_task_execution_contexts_batch(tasks uuid[])
returns table (task_uuid uuid, named_task_uuid uuid, status text, total_steps bigint, pending_steps bigint,
               in_progress_steps bigint, completed_steps bigint, failed_steps bigint, ready_steps bigint,
               execution_status text, recommended_action text, completion_percentage numeric, health_status text,
               enqueued_steps bigint)
language plpgsql stable as $$
begin
    return query
    with counted as (
        select r.task_uuid, count(*) as total,
               count(*) filter (where r.current_state = 'pending') as pending,
               count(*) filter (where r.current_state = 'in_progress') as in_progress,
               count(*) filter (where r.current_state in ('complete', 'resolved_manually')) as completed,
               count(*) filter (where r.current_state = 'error') as failed,
               count(*) filter (where r.ready_for_execution) as ready,
               count(*) filter (where r.current_state in ('enqueued', 'enqueued_for_orchestration',
                                                          'enqueued_as_error_for_orchestration')) as enqueued
        from seed.get_step_readiness_status_batch(tasks) as r
        group by r.task_uuid
    ), judged as (
        select t.task_uuid, t.named_task_uuid, coalesce(s.to_state, 'pending')::text as state, c.*,
               case when c.failed > 0 then 1
                    when c.ready > 0 then 2
                    when c.in_progress + c.enqueued > 0 then 3
                    when c.completed = c.total then 4
                    else 5 end as verdict
        from seed.tasks as t
        left join seed.task_transitions as s on s.task_uuid = t.task_uuid and s.most_recent
        left join counted as c on c.task_uuid = t.task_uuid
        where t.task_uuid = any (tasks)
    )
    select j.task_uuid, j.named_task_uuid, j.state, coalesce(j.total, 0), coalesce(j.pending, 0),
           coalesce(j.in_progress, 0), coalesce(j.completed, 0), coalesce(j.failed, 0), coalesce(j.ready, 0),
           (array['blocked_by_failures', 'has_ready_steps', 'processing', 'all_complete',
                  'waiting_for_dependencies'])[j.verdict],
           (array['handle_failures', 'execute_ready_steps', 'wait_for_completion', 'finalize_task',
                  'wait_for_dependencies'])[j.verdict],
           coalesce(round(j.completed * 100.0 / nullif(j.total, 0), 2), 0.0),
           case when j.failed > 0 then 'blocked' else 'healthy' end,
           coalesce(j.enqueued, 0)
    from judged as j (task_uuid, named_task_uuid, state, counted_task, total, pending, in_progress, completed, failed,
                      ready, enqueued, verdict);
end $$;

create function seed.get_task_execution_context(task uuid)
returns table (task_uuid uuid, named_task_uuid uuid, status text, total_steps bigint, pending_steps bigint,
               in_progress_steps bigint, completed_steps bigint, failed_steps bigint, ready_steps bigint,
               execution_status text, recommended_action text, completion_percentage numeric, health_status text,
               enqueued_steps bigint)
language plpgsql stable as $$
begin
    return query select * from seed.get_task_execution_contexts_batch(array[task]);
end $$;

-- Tasks for an orchestrator to look at: of all candidates, ordered by a priority that is computed from the clock, ten
-- times as many as are wanted, and of those the first that are new or have something ready.
create function seed.get_next_ready_tasks(wanted integer default 5)
returns table (task_uuid uuid, task_name varchar, priority integer, namespace_name varchar, ready_steps_count bigint,
               computed_priority numeric, current_state varchar)
language plpgsql as $$
begin
    return query
    with candidates as (
        select t.task_uuid, n.name as task_name, t.priority, s.name as namespace_name, c.to_state,
               case
                   when now() - c.created_at < interval '1 hour'
                       then t.priority + extract(epoch from now() - t.created_at) / 3600 * 0.1
                   when now() - c.created_at < interval '24 hours'
                       then t.priority * exp(-extract(epoch from now() - c.created_at) / (12 * 3600))
                   else 0.1
               end as score
        from seed.tasks as t
        join seed.task_transitions as c on c.task_uuid = t.task_uuid and c.most_recent
        join seed.named_tasks as n on n.named_task_uuid = t.named_task_uuid
        join seed.task_namespaces as s on s.task_namespace_uuid = n.task_namespace_uuid
        where c.to_state = 'pending'
           or (c.to_state = 'waiting_for_dependencies' and now() - c.created_at <= interval '60 minutes')
           or (c.to_state = 'waiting_for_retry' and now() - c.created_at <= interval '30 minutes')
        order by score desc, t.created_at
        limit wanted * 10
    )
    select c.task_uuid, c.task_name, c.priority, c.namespace_name, coalesce(x.ready_steps, 0), c.score::numeric, c.to_state
    from candidates as c cross join lateral seed.get_task_execution_context(c.task_uuid) as x
    where c.to_state = 'pending' or x.execution_status = 'has_ready_steps'
    order by c.score desc
    limit wanted;
end $$;

create function seed.get_system_health_counts()
returns table (pending_tasks bigint, initializing_tasks bigint, enqueuing_steps_tasks bigint,
               steps_in_process_tasks bigint, evaluating_results_tasks bigint, waiting_for_dependencies_tasks bigint,
               waiting_for_retry_tasks bigint, blocked_by_failures_tasks bigint, complete_tasks bigint,
               error_tasks bigint, cancelled_tasks bigint, resolved_manually_tasks bigint, total_tasks bigint,
               pending_steps bigint, enqueued_steps bigint, in_progress_steps bigint,
               enqueued_for_orchestration_steps bigint, enqueued_as_error_for_orchestration_steps bigint,
               waiting_for_retry_steps bigint, complete_steps bigint, error_steps bigint, cancelled_steps bigint,
               resolved_manually_steps bigint, total_steps bigint)
language plpgsql as $$
begin
    return query
    select tasks.*, steps.* from (
        select count(*) filter (where c.to_state = 'pending'), count(*) filter (where c.to_state = 'initializing'),
               count(*) filter (where c.to_state = 'enqueuing_steps'),
               count(*) filter (where c.to_state = 'steps_in_process'),
               count(*) filter (where c.to_state = 'evaluating_results'),
               count(*) filter (where c.to_state = 'waiting_for_dependencies'),
               count(*) filter (where c.to_state = 'waiting_for_retry'),
               count(*) filter (where c.to_state = 'blocked_by_failures'),
               count(*) filter (where c.to_state = 'complete'), count(*) filter (where c.to_state = 'error'),
               count(*) filter (where c.to_state = 'cancelled'),
               count(*) filter (where c.to_state = 'resolved_manually'), count(*)
        from seed.tasks as t left join seed.task_transitions as c on c.task_uuid = t.task_uuid and c.most_recent) as tasks,
       (select count(*) filter (where c.to_state = 'pending'), count(*) filter (where c.to_state = 'enqueued'),
               count(*) filter (where c.to_state = 'in_progress'),
               count(*) filter (where c.to_state = 'enqueued_for_orchestration'),
               count(*) filter (where c.to_state = 'enqueued_as_error_for_orchestration'),
               count(*) filter (where c.to_state = 'waiting_for_retry'),
               count(*) filter (where c.to_state = 'complete'), count(*) filter (where c.to_state = 'error'),
               count(*) filter (where c.to_state = 'cancelled'),
               count(*) filter (where c.to_state = 'resolved_manually'), count(*)
        from seed.workflow_steps as w
        left join seed.workflow_step_transitions as c on c.workflow_step_uuid = w.workflow_step_uuid and c.most_recent) as steps;
end $$;
