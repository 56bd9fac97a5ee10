-- Tasks that do not get on, their investigation, and what the analytics say.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;
create schema dl;

-- Tasks go by the "n" of their context.
create function dl.task(n int) returns uuid language sql stable as
$$ select t.task_uuid from tasker.tasks t where t.namespace_name = 'stale' and t.context = jsonb_build_object('n', n) $$;
create function dl.n(task uuid) returns int language sql stable as
$$ select (t.context ->> 'n')::int from tasker.tasks t where t.task_uuid = task $$;
-- Puts what has moved of a task back in time.
create function dl.age(n int, since interval) returns void language sql volatile as
$$
update tasker.task set state_entered_at = now() - since where task_uuid = dl.task(n);
update tasker.workflow_step set state_entered_at = now() - since
where workflow_step_uuid between dl.task(n) and tasker.last_step_of(dl.task(n));
$$;
create function dl.masked(message text) returns text language sql immutable as
$$ select regexp_replace(message, '[0-9a-f]{8}-[0-9a-f-]{27}', '<uuid>', 'g') $$;
create function dl.candidates(deps int default 60, retry int default 30, process int default 30, hours int default 24, batch int default 100)
    returns table (n int, namespace_name text, task_name text, current_state text, minutes numeric, threshold int)
    language sql volatile as
$$
select dl.n(s.task_uuid), s.namespace_name, s.task_name, s.current_state, round(s.time_in_state_minutes), s.threshold_minutes
from tasker.get_stale_tasks_for_dlq(deps, retry, process, hours, batch) s where s.namespace_name = 'stale'
$$;

select tasker.define_task('stale', 'plain', '{"steps": [{"name": "a", "handler": "h"}, {"name": "b", "handler": "h", "depends_on": ["a"]}]}') is not null as plain,
    tasker.define_task('stale', 'hasty', '{"lifecycle": {"max_steps_in_process_minutes": 5, "max_waiting_for_retry_minutes": 7,
        "max_duration_minutes": 100000}, "steps": [{"name": "a", "handler": "h"}]}') is not null as hasty;
select count(tasker.create_task('stale', case when n in (3, 6) then 'hasty' else 'plain' end, jsonb_build_object('n', n), priority => n))
from generate_series(1, 6) n;

-- Nobody is stale who has just come; and only certain states can be.
select * from dl.candidates();
select dl.age(1, '31 minutes'), dl.age(2, '29 minutes'), dl.age(3, '6 minutes'), dl.age(4, '10 minutes');
select * from dl.candidates();
select * from dl.candidates(process => 9);
select * from dl.candidates(process => 9, batch => 1);
select dl.n(task_uuid) as n, task_name, current_state, round(time_in_state_minutes) as minutes, staleness_threshold_minutes as threshold, health_status, priority
from tasker.v_task_staleness_monitoring where namespace_name = 'stale' order by 1;
select dl.n(task_uuid) as n, namespace_name, task_name, current_state, round(task_age_minutes) as age, template_config -> 'lifecycle' as lifecycle, complete
from tasker.v_task_state_analysis where namespace_name = 'stale' order by 1;
-- Waiting for a retry has a limit of its own.
select count(tasker.fail_step(workflow_step_uuid, '{"why": "test"}', true, 7200, lease_token)) from tasker.claim_steps('stale', 2);
select dl.n(task_uuid) as n, current_state from tasker.v_task_state_analysis where namespace_name = 'stale' order by 1;
select dl.age(6, '8 minutes'), dl.age(5, '29 minutes');
select * from dl.candidates();
select * from dl.candidates(retry => 28);
select tasker.calculate_staleness_threshold(s, '{"lifecycle": {"max_waiting_for_retry_minutes": 3}}', 1, 2, 4)
from unnest('{waiting_for_dependencies,waiting_for_retry,steps_in_process,pending,blocked_by_failures}'::text[]) s;
select qt.try('select count(*) from dl.candidates(batch => 0)');
select qt.try('select count(*) from dl.candidates(deps => -1)');
select qt.try('select count(*) from dl.candidates(hours => null)');

-- Stuck: in a state of work for too long, the longest first.
select dl.n(task_uuid) as n, current_state, processor_uuid, stuck_duration_minutes from tasker.find_stuck_tasks()
where dl.n(task_uuid) is not null;
select count(*) from tasker.find_stuck_tasks(30) where dl.n(task_uuid) is not null;
select qt.try('select count(*) from tasker.find_stuck_tasks(-1)');

-- A task whose steps follow each other stays in its state, but it gets on.
begin;
update tasker.workflow_step set state_entered_at = now() - interval '4 minutes'
where workflow_step_uuid = (select min(workflow_step_uuid::text)::uuid from tasker.get_workflow_steps(dl.task(1)));
select * from dl.candidates();
select dl.n(task_uuid) as n from tasker.find_stuck_tasks() where dl.n(task_uuid) is not null;
select round(time_in_state_minutes), health_status from tasker.v_task_staleness_monitoring where task_uuid = dl.task(1);
select tasker.last_progress_at(dl.task(1)) = now() - interval '4 minutes' as progress, tasker.last_progress_at(gen_random_uuid());
rollback;

-- A dry run says what would be done, and does nothing.
create function dl.detect(dry boolean, batch int default 100)
    returns table (n int, task_name text, current_state text, minutes int, threshold int, action text, in_dlq boolean, moved boolean)
    language sql volatile as
$$
select dl.n(d.task_uuid), d.task_name, d.current_state, d.time_in_state_minutes, d.staleness_threshold_minutes, d.action_taken,
    d.moved_to_dlq, d.transition_success
from tasker.detect_and_transition_stale_tasks(dry, batch) d where d.namespace_name = 'stale'
$$;
select * from dl.detect(true);
select count(*) from tasker.tasks_dlq;
select count(*) from dl.candidates();
-- One at a time, then the rest; an entry that there is already stays the only one.
select * from dl.detect(false, 1);
begin;
insert into tasker.tasks_dlq (dlq_entry_uuid, task_uuid, original_state, dlq_reason, dlq_timestamp, task_snapshot, created_at, updated_at)
select gen_random_uuid(), dl.task(6), 'steps_in_process', 'manual_dlq', now(), '{}', now(), now();
select * from dl.detect(false);
rollback;
select * from dl.detect(false);
select * from dl.detect(false);
select dl.n(task_uuid) as n, original_state, dlq_reason, resolution_status, metadata, task_snapshot ->> 'task_name' as task,
    task_snapshot ->> 'current_state' as state, jsonb_array_length(task_snapshot -> 'steps') as steps,
    task_snapshot #>> '{steps,0,name}' as first, task_snapshot #>> '{steps,0,current_state}' as its_state,
    task_snapshot #>> '{execution_context,execution_status}' as status, task_snapshot #>> '{task_details,priority}' as priority,
    jsonb_array_length(task_snapshot -> 'transitions') > 3 as transitions
from tasker.tasks_dlq order by 1;
select dl.n(task_uuid) as n, s.name, s.current_state from tasker.workflow_steps s where task_uuid in (dl.task(1), dl.task(3)) order by 1, 2;
select dl.n(task_uuid) as n, from_state, to_state, metadata - 'detected_at' as metadata from tasker.task_transitions
where task_uuid in (dl.task(1), dl.task(6)) and most_recent order by 1;
select dl.n(task_uuid) as n, current_state from tasker.tasks where namespace_name = 'stale' order by 1;
-- What was given up can be taken up again.
select tasker.retry_task(dl.task(1));
select tasker.get_current_task_state(dl.task(1));

-- Investigations.
select dl.n(task_uuid) as n, original_state, dlq_reason, round(minutes_in_dlq) as minutes, namespace_name, task_name, current_state, time_in_state_minutes,
    round(priority_score) as score, assigned_to from tasker.v_dlq_investigation_queue order by 1;
select tasker.create_dlq_entry(dl.task(1)) as there_is_one;
select tasker.create_dlq_entry(dl.task(2), p_dlq_reason => 'dependency_cycle_detected') is not null as made,
    tasker.create_dlq_entry(dl.task(4), 'other', 'name', 'pending', 11, 12, 'manual_dlq') is not null as made;
select dl.n(task_uuid) as n, namespace_name, task_name, current_state, time_in_state_minutes, round(priority_score) as score
from tasker.v_dlq_investigation_queue where dlq_reason <> 'staleness_timeout';
select metadata from tasker.tasks_dlq where task_uuid = dl.task(4);
-- A task under investigation is left alone.
select dl.age(2, '3 hours');
select * from dl.candidates();
create function dl.entry(n int) returns uuid language sql stable as
$$ select d.dlq_entry_uuid from tasker.tasks_dlq d where d.task_uuid = dl.task(n) order by created_at desc limit 1 $$;
select tasker.assign_dlq_entry(dl.entry(1), 'ann', 'asked the customer');
select tasker.resolve_dlq_entry(dl.entry(1), 'manually_resolved', 'ann', 'retried'),
    tasker.resolve_dlq_entry(dl.entry(2), 'permanently_failed'), tasker.resolve_dlq_entry(dl.entry(3), 'cancelled', 'bob');
select dl.n(task_uuid) as n, resolution_status, resolution_timestamp is not null as resolved, resolution_notes, resolved_by,
    assigned_to, assigned_at is not null as assigned from tasker.tasks_dlq order by 1;
select dlq_reason, total_entries, pending, manually_resolved, permanent_failures, cancelled, oldest_entry <= newest_entry as times,
    avg_resolution_time_minutes between 0 and 5 as soon from tasker.v_dlq_dashboard order by 1;
-- The same task again: a new investigation beside the old one.
select tasker.create_dlq_entry(dl.task(1), p_dlq_reason => 'worker_unavailable') is not null as made;
select count(*), count(*) filter (where resolution_status = 'pending') as pending from tasker.tasks_dlq where task_uuid = dl.task(1);
select dl.masked(qt.try(format('select tasker.resolve_dlq_entry(%L, ''cancelled'')', dl.entry(3))));
select dl.masked(qt.try(format('select tasker.assign_dlq_entry(%L, ''me'')', dl.entry(2))));
select dl.masked(qt.try('select tasker.resolve_dlq_entry(gen_random_uuid(), ''cancelled'')'));
select dl.masked(qt.try(format('select tasker.resolve_dlq_entry(%L, ''pending'')', dl.entry(4))));
select dl.masked(qt.try('select tasker.create_dlq_entry(gen_random_uuid())'));
select dl.masked(qt.try(format('select tasker.create_dlq_entry(%L, p_dlq_reason => ''boredom'')', dl.task(5))));
select dl.masked(qt.try('select tasker.create_dlq_entry(null)'));
-- Only what is resolved expires, the oldest first.
begin;
select tasker.expire_dlq_entries();
update tasker.tasks_dlq set resolution_timestamp = now() - interval '91 days' + dl.n(task_uuid) * interval '1 minute' where resolution_status <> 'pending';
select tasker.expire_dlq_entries(p_batch_size => 1);
select string_agg(dl.n(task_uuid) || ' ' || resolution_status, ', ' order by dl.n(task_uuid), resolution_status) from tasker.tasks_dlq;
select tasker.expire_dlq_entries(), tasker.expire_dlq_entries('0');
select string_agg(dl.n(task_uuid) || ' ' || resolution_status, ', ' order by dl.n(task_uuid), resolution_status) from tasker.tasks_dlq;
commit;
select qt.try('select tasker.expire_dlq_entries(''-1 day'')'), qt.try('select tasker.expire_dlq_entries(p_batch_size => 0)');

-- The same as duties: dead letters expire by themselves, stale tasks are given up when that is asked for.
update tasker.tasks_dlq set resolution_status = 'cancelled', resolution_timestamp = now() - interval '91 days' where task_uuid = dl.task(6);
call tasker.run_duty('expire_dead_letters');
select count(*) from tasker.tasks_dlq where task_uuid = dl.task(6);
select count(*) from dl.candidates();
call tasker.run_duty('stale_tasks');
select dl.n(task_uuid) as n, action from (select task_uuid, original_state || ' ' || dlq_reason as action from tasker.tasks_dlq
    where created_at > now() - interval '1 minute') d where dl.n(task_uuid) = 2;
select tasker.get_current_task_state(dl.task(2)), (select count(*) from dl.candidates());

-- Analytics: of tasks that were created since a moment.
select pg_sleep(0.002);
select clock_timestamp() as since \gset
select pg_sleep(0.002);
select tasker.define_task('figures', 'one', '{"steps": [{"name": "only", "handler": "h"}]}') is not null as defined,
    tasker.define_task('figures', 'one', '{"steps": [{"name": "only", "handler": "h"}, {"name": "last", "handler": "h", "depends_on": ["only"]}]}', '2') is not null as again;
select count(*) from unnest(tasker.create_tasks('figures', 'one', array_fill('{}'::jsonb, '{4}'), version => '0.1.0'));
select count(*) from unnest(tasker.create_tasks('figures', 'one', array_fill('{}'::jsonb, '{2}'), initiator => 'me'));
select count(tasker.complete_step(workflow_step_uuid)) from tasker.claim_steps('figures', 3);
select tasker.fail_step(workflow_step_uuid, '{}', false) from tasker.claim_steps('figures', 1);
select tasker.transition_task_state_atomic(task_uuid, 'blocked_by_failures', 'error', null) from tasker.tasks
where namespace_name = 'figures' and current_state = 'blocked_by_failures';
select count(tasker.complete_step(workflow_step_uuid)) from tasker.claim_steps('figures', 1);
create function dl.metrics(since timestamptz) returns table (figures text, durations boolean, period boolean) language sql volatile as
$$
select concat_ws(' ', total_namespaces_count, unique_task_types_count, task_throughput, completion_count, error_count, completion_rate,
    error_rate, step_throughput), avg_task_duration between 0 and 60 and avg_step_duration between 0 and 60, analysis_period_start = since
from tasker.get_analytics_metrics(since)
$$;
select * from dl.metrics(:'since');
select * from dl.metrics(now() + interval '1 day');
select active_tasks_count = (select count(*) from tasker.tasks where current_state not in ('complete', 'error', 'cancelled', 'resolved_manually')) as active,
    system_health_score = (select round(count(*) filter (where complete)::numeric / count(*), 3) from tasker.tasks where complete or current_state = 'error') as score,
    analysis_period_start = now() - interval '1 hour' as an_hour, calculated_at = now() as now
from tasker.get_analytics_metrics();
-- Steps and tasks in the order of their durations, by what the views say.
select s.step_name, s.version, s.attempts, s.retryable, s.step_status, s.execution_seconds <= s.duration_seconds as executed,
    s.duration_seconds = round(extract(epoch from s.completed_at - s.created_at), 3) as duration
from tasker.get_slowest_steps(:'since', namespace_filter => 'figures', version_filter => '2') s;
select count(*), bool_and(ordered) as ordered from (select duration_seconds <= coalesce(lag(duration_seconds) over (), duration_seconds) as ordered
    from tasker.get_slowest_steps(:'since', 100)) s;
select count(*) from tasker.get_slowest_steps(:'since', 2);
select count(*) from tasker.get_slowest_steps(:'since', task_name_filter => 'two');
select string_agg(concat_ws(' ', task_name, version, step_count, completed_steps, error_steps, initiator, n), ', ' order by version, completed_steps) from (
    select task_name, version, step_count, completed_steps, error_steps, initiator, count(*) as n
    from tasker.get_slowest_tasks(:'since', namespace_filter => 'figures') group by 1, 2, 3, 4, 5, 6) t;
select count(*) from tasker.get_slowest_tasks(:'since', 1, 'figures');
select count(*) from tasker.get_slowest_tasks(now() + interval '1 day');

-- Rights: an observer looks, an administrator acts.
create role regress_dl_observer in role tasker_observer;
create role regress_dl_admin in role tasker_admin;
set role regress_dl_observer;
select count(*) > 0 from tasker.tasks_dlq;
select count(*) >= 0 from tasker.get_stale_tasks_for_dlq();
select count(*) >= 0 from tasker.find_stuck_tasks();
select completion_count from tasker.get_analytics_metrics(:'since');
select count(*) from tasker.get_slowest_tasks(:'since', namespace_filter => 'figures');
select count(*) from tasker.detect_and_transition_stale_tasks();
select tasker.expire_dlq_entries();
set role regress_dl_admin;
select count(*) from tasker.detect_and_transition_stale_tasks();
select tasker.expire_dlq_entries();
reset role;
drop role regress_dl_observer, regress_dl_admin;
begin read only;
select count(*) from tasker.detect_and_transition_stale_tasks();
select qt.try('select count(*) from tasker.detect_and_transition_stale_tasks(false)');
commit;

select count(tasker.cancel_task(task_uuid, 'seen')) > 0 as cancelled from tasker.tasks
where namespace_name in ('stale', 'figures') and current_state not in ('complete', 'error', 'cancelled', 'resolved_manually');
select * from tasker.check_integrity();
drop schema dl cascade;
