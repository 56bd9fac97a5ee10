-- get_next_ready_tasks(): every answer against the plain rules over the tables.
\set VERBOSITY terse
set client_min_messages = warning;
create schema ready_test;

-- The rules, written down without any regard to what they cost.
create function ready_test.ready(p_now timestamptz) returns table (
    task_uuid uuid, task_name text, priority int, namespace_name text, ready_steps_count bigint,
    computed_priority float8, current_state text, place bigint)
language sql as $$
    with clock as (select floor(extract(epoch from p_now) * 1000)::bigint as now_ms),
    waits as (
        select s.workflow_step_uuid, tasker.task_of(s.workflow_step_uuid) as task_uuid, s.record_id
        from tasker.workflow_step s
        where s.current_state in ('q', 'r') and coalesce(s.next_retry_at, '-infinity') <= p_now
          and not exists (select from tasker.workflow_step_edge e
                          join tasker.workflow_step p on p.workflow_step_uuid = e.from_step_uuid
                          where e.to_step_uuid = s.workflow_step_uuid and p.current_state not in ('c', 'm'))),
    record as (
        select r.id, w.task_uuid, w.workflow_step_uuid, r.priority, r.position, now_ms - (r.position >> 20) as age
        from clock, tasker.queue_record r
        join tasker.step_flow f using (flow_id)
        join waits w on w.record_id = r.id and to_jsonb(w.workflow_step_uuid::text) = r.payload
        where r.status = 'p' and r.position >> 20 <= now_ms),
    counted as (
        select r.*, case when age < 3600000 then r.priority + 0.1::float8 * (age / 3600000.0::float8)
                         when age < 86400000 then r.priority * exp(- (age / 3600000.0::float8) / 12.0::float8)
                         else 0.1::float8 end as value,
               case when age between 3600000 and 86399999 and r.priority > 0 then - r.position else r.position end as place
        from record r),
    best as (
        select distinct on (c.task_uuid) c.task_uuid, c.value, c.place, c.workflow_step_uuid
        from counted c order by c.task_uuid, c.value desc, c.place, c.workflow_step_uuid)
    select t.task_uuid, n.name, t.priority, s.name, (select count(*) from waits w where w.task_uuid = t.task_uuid),
           b.value, v.current_state, row_number() over (order by b.value desc, b.place, b.workflow_step_uuid)
    from best b
    join tasker.task t using (task_uuid)
    join tasker.tasks v using (task_uuid)
    join tasker.named_tasks n on n.named_task_uuid = t.named_task_uuid
    join tasker.task_namespaces s on s.task_namespace_uuid = n.task_namespace_uuid
    where t.current_state not in ('c', 'e', 'x', 'm')
      and case t.current_state
              when 'd' then p_now - t.state_entered_at <= interval '1 minute' *
                  coalesce((n.configuration #>> '{lifecycle,max_waiting_for_dependencies_minutes}')::int, 60)
              when 'r' then p_now - t.state_entered_at <= interval '1 minute' *
                  coalesce((n.configuration #>> '{lifecycle,max_waiting_for_retry_minutes}')::int, 30)
              else true end
$$;

-- What differs between the two, and how many rows were compared.
create function ready_test.compare(p_limit int, p_now timestamptz, out compared bigint, out wrong bigint)
language sql as $$
    select count(*), count(*) filter (where row(f.task_uuid, f.task_name, f.priority, f.namespace_name, f.ready_steps_count,
               f.current_state) is distinct from row(r.task_uuid, r.task_name, r.priority, r.namespace_name,
               r.ready_steps_count, r.current_state)
           or abs(f.computed_priority::float8 - r.computed_priority) > 1e-6)
    from tasker._ready_tasks_at(p_limit, p_now) with ordinality f
    full join (select * from ready_test.ready(p_now) where place <= p_limit) r on r.place = f.ordinality
$$;
create view ready_test.bands as
    select case when age < interval '1 hour' then 'fresh' when age < interval '24 hours' then 'decaying' else 'old' end as band,
           count(*) as records
    from tasker.queue_record join tasker.step_flow using (flow_id),
         lateral (select now() - to_timestamp((position >> 20) / 1000.0) as age) a
    where status = 'p' and position >> 20 <= extract(epoch from now()) * 1000
    group by 1;

select * from tasker.get_next_ready_tasks(0);
select * from tasker.get_next_ready_tasks(-1);
select * from tasker.get_next_ready_tasks(null);

-- Tasks of two namespaces, narrow and wide, some of them for later.
select tasker.define_task('ready_shop', 'order', '{"steps": [{"name": "a", "handler": "ha"},
    {"name": "b", "handler": "hb", "depends_on": ["a"], "priority": 7}, {"name": "c", "handler": "hc", "depends_on": ["a"]},
    {"name": "d", "handler": "ha", "depends_on": ["b", "c"]}]}') is not null as defined;
select tasker.define_task('ready_shop', 'wide', jsonb_build_object('steps', jsonb_agg(
    jsonb_build_object('name', 's' || g, 'handler', 'hw')))) is not null as defined from generate_series(1, 40) g;
select tasker.define_task('ready_mill', 'patient', '{"lifecycle": {"max_waiting_for_retry_minutes": 120,
    "max_waiting_for_dependencies_minutes": 90}, "steps": [{"name": "grind", "handler": "ha"}]}') is not null as defined;
select count(tasker.create_task('ready_shop', 'order', priority => g % 10)) from generate_series(1, 60) g;
select count(tasker.create_task('ready_shop', 'wide', priority => g)) from generate_series(0, 9, 3) g;
select count(tasker.create_task('ready_mill', 'patient', priority => g)) from generate_series(2, 8, 2) g;
select count(tasker.create_task('ready_mill', 'patient', run_at => now() + interval '1 hour')) from generate_series(1, 3);
select * from ready_test.compare(1000, clock_timestamp());
-- An hour later those are ready too.
select * from ready_test.compare(1000, clock_timestamp() + interval '61 minutes');

-- Some steps are claimed, some done, some failed.
create table ready_test.claimed as
    select *, row_number() over (order by workflow_step_uuid) as n from tasker.claim_steps('ready_shop', 20, 'test');
select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from ready_test.claimed where n <= 10;
select count(tasker.fail_step(workflow_step_uuid, '"broken"', backoff_seconds => 7200,
                              lease_token => lease_token))
    from ready_test.claimed where n between 11 and 15;
select * from ready_test.compare(1000, clock_timestamp());

-- Every band of ages: records that became ready at any time of the last two days, no two of them at the same moment.
update tasker.queue_record r set position = r.position - ((n * 25 * 60000 % (48 * 3600000) + n) << 20)
    from (select id, row_number() over (order by id) as n from tasker.queue_record join tasker.step_flow using (flow_id)
          where status = 'p' and position >> 20 <= extract(epoch from clock_timestamp()) * 1000) o
    where o.id = r.id;
select band, records > 5 as many from ready_test.bands order by 1;
select l, (ready_test.compare(l, now())).* from unnest(array[1, 2, 7, 20, 1000]) l;
-- As the clock goes on they all move from band to band.
select sum(wrong) as wrong, min(compared) > 50 as all_compared
    from generate_series(0, 30) h, ready_test.compare(1000, now() + h * interval '53 minutes');
select count(*) as differ from (select task_uuid from tasker.get_next_ready_tasks(10) with ordinality
    except select task_uuid from ready_test.ready(clock_timestamp()) where place <= 10) x;
select count(*) = 5 as five from tasker.get_next_ready_tasks();
select (select task_uuid from tasker.get_next_ready_task()) = (select task_uuid from tasker.get_next_ready_tasks(1)) as first;

-- What a transaction has done itself, it sees; and what its steps' rows do not name is passed over.
begin;
select count(tasker.create_task('ready_shop', 'order', priority => g % 10)) from generate_series(1, 10) g;
select * from ready_test.compare(1000, clock_timestamp());
update tasker.queue_record set position = position - ((id % 90 * 1700000) << 20) where status = 'p'
    and flow_id in (select flow_id from tasker.step_flow);
select * from ready_test.compare(1000, clock_timestamp());
-- Tasks that are finished or cancelled while their records are still there, and records of steps that have another one.
update tasker.task set current_state = case priority when 1 then 'x' when 2 then 'c' when 3 then 'e' else 'm' end
    where priority between 1 and 4;
update tasker.workflow_step set record_id = record_id + 1 where current_state = 'q' and priority = 5;
update tasker.workflow_step set current_state = 'x' where current_state = 'q' and priority = 6;
select * from ready_test.compare(1000, clock_timestamp());
-- Payloads that are no steps.
update tasker.queue_record set payload = case id % 3 when 0 then '"no uuid"'::jsonb when 1 then '{"a": 1}' else '17' end
    where status = 'p' and priority = 8 and flow_id in (select flow_id from tasker.step_flow);
select count(*) as none from tasker.get_next_ready_tasks(1000) where priority = 8 and task_name <> 'wide'
    and ready_steps_count = 1;
rollback;
select * from ready_test.compare(1000, clock_timestamp());

-- Tasks that wait for too long are left out, by the rule or by what their template says.
begin;
update tasker.task set current_state = (array['r', 'd'])[1 + priority % 2]::"char",
    state_entered_at = now() - interval '1 minute' * (priority * 17)
    where current_state = 's';
select v.current_state, count(*) filter (where r.task_uuid is not null) > 0 as some_ready,
       count(*) filter (where r.task_uuid is null) > 0 as some_left_out
    from tasker.tasks v left join tasker.get_next_ready_tasks(1000) r using (task_uuid)
    where v.current_state in ('waiting_for_retry', 'waiting_for_dependencies') group by 1 order by 1;
select * from ready_test.compare(1000, now());
select sum(wrong) as wrong from generate_series(0, 20) m, ready_test.compare(1000, now() + m * interval '9 minutes');
rollback;

-- Many records of one moment, and readings that end among them.
begin;
update tasker.queue_record set position = ((extract(epoch from now()) * 1000)::bigint - 5 * 3600000) << 20
    where status = 'p' and flow_id in (select flow_id from tasker.step_flow);
select count(*) = count(distinct task_uuid) as once,
       count(*) = (select count(*) from ready_test.ready(now())) as all_of_them from tasker._ready_tasks_at(1000, now());
update tasker.queue_record set position = ((extract(epoch from now()) * 1000)::bigint - 30 * 3600000) << 20
    where status = 'p' and flow_id in (select flow_id from tasker.step_flow);
select count(*) = count(distinct task_uuid) as once,
       count(*) = (select count(*) from ready_test.ready(now())) as all_of_them from tasker._ready_tasks_at(1000, now());
rollback;

-- In one snapshot it shows what is there now.
begin isolation level repeatable read;
select count(*) > 0 as ready from tasker.get_next_ready_tasks(1000);
select * from ready_test.compare(1000, clock_timestamp());
rollback;

-- Two callers get the same: it is a look, and gives no work out.
select count(*) from (select task_uuid from tasker.get_next_ready_tasks(7)
    intersect select task_uuid from tasker.get_next_ready_tasks(7)) both_get;

-- Only roles that may.
create role ready_nobody;
set role ready_nobody;
select * from tasker.get_next_ready_tasks(1);
reset role;
drop role ready_nobody;
set role tasker_observer;
select count(*) from tasker.get_next_ready_tasks(3);
select * from tasker._ready_tasks_at(1, now());
reset role;

-- Everything is worked off.
do $$
declare
    done int;
begin
    update tasker.queue_record set position = id where status = 'p' and flow_id in (select flow_id from tasker.step_flow)
        and position > (extract(epoch from clock_timestamp()) * 1000)::bigint << 20;
    update tasker.workflow_step set next_retry_at = null where next_retry_at is not null;
    perform tasker.complete_step(workflow_step_uuid, lease_token => lease_token) from ready_test.claimed where n > 15;
    loop
        perform tasker.complete_step(c.workflow_step_uuid, lease_token => c.lease_token)
            from unnest(array['ready_shop', 'ready_mill']) n, tasker.claim_steps(n, 100, 'test') c;
        get diagnostics done = row_count;
        exit when done = 0;
    end loop;
end $$;
select count(*) from tasker.get_next_ready_tasks(1000) where namespace_name like 'ready!_%' escape '!';
select current_state, count(*) from tasker.tasks join tasker.named_tasks using (named_task_uuid)
    join tasker.task_namespaces n using (task_namespace_uuid) where n.name like 'ready!_%' escape '!' group by 1;
select * from tasker.check_integrity();
drop schema ready_test cascade;
