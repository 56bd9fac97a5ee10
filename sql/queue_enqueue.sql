-- Adding records.
\set VERBOSITY terse
\pset null '(null)'

-- One at a time: the id is the record's, grows, and carries the time.
select clock_timestamp() as before \gset
select tasker.enqueue('en', '{"n": "first"}') as first \gset
select tasker.enqueue('en', '{"n": "second"}') as second \gset
select :first < :second as grows,
    tasker.record_id_time(:first) between :'before'::timestamptz - interval '1 ms' and clock_timestamp() as carries_time;
select id = :first as id, flow_name, payload, status, flow_instance_id, claimed_at, completed_at, error_message,
    retry_count, created_at = tasker.record_id_time(id) as created, updated_at = created_at as updated, priority,
    run_at = created_at as due_at_once, result, lease_token, lease_expires_at
from tasker.processing_queue where id = :first \gx

-- Positional and named arguments, smallint and int priorities.
select count(tasker.enqueue('en_args', '1', p::smallint)) from generate_series(0, 9) p;
select count(tasker.enqueue('en_args', '2', p)) from generate_series(0, 9) p;
select tasker.enqueue('en_args', payload => '3', priority => 4) > 0 as enqueued;
select tasker.enqueue(flow_name => 'en_args', payload => '4', run_at => now()) > 0 as enqueued;
select payload, array_agg(priority order by id) from tasker.processing_queue where flow_name = 'en_args'
group by payload order by payload;

-- Any JSON is a payload, and comes back as it was.
create table qt.payload (payload jsonb);
insert into qt.payload values ('null'), ('true'), ('0'), ('-1.50e10'), ('""'), ('"\u00e9 \" \\ \n \t"'), ('[]'), ('{}'),
    ('[1, [2, [3, {"a": []}]]]'), ('{"a": {"b": null}, "": ""}'),
    (jsonb_build_object('long', repeat('x', 100))), (jsonb_build_object('long', repeat('x', 3000))),
    (jsonb_build_object('random', (select string_agg(md5(i::text), '') from generate_series(1, 1000) i)));
select count(tasker.enqueue('en_payload', payload)) from qt.payload;
select count(*) as same from tasker.processing_queue q join qt.payload p using (payload) where q.flow_name = 'en_payload';
select count(*) as same from tasker.claim_records_batch('en_payload', 100) c join qt.payload p using (payload);

-- 10 MB, alone and in an array; claimed and completed with a result as large.
select jsonb_build_object('n', 'large', 'data', (select string_agg(md5(i::text), '') from generate_series(1, 320000) i))
    as payload into qt.large;
select tasker.enqueue('en_large', payload) > 0 as enqueued from qt.large;
select tasker.add_records_to_queue('en_large', array[payload, '{"n": "small"}', payload]) from qt.large;
select length(c.payload::text) as length, c.payload = l.payload as same
from tasker.claim_records_batch('en_large', 3) c, qt.large l;
select tasker.mark_record_completed(max(q.id), (select payload from qt.large)) from tasker.processing_queue q
where flow_name = 'en_large' and status = 'processing';
select q.status, q.payload = l.payload as payload, q.result = l.payload as result
from tasker.processing_queue q, qt.large l where flow_name = 'en_large' order by q.id;
-- They are copies: the table that they came from may go.
select md5(payload::text) as digest from qt.large \gset
drop table qt.large;
vacuum tasker.queue_record;
select count(*) filter (where md5(payload::text) = :'digest') as payloads, count(*) filter (where md5(result::text) = :'digest') as results
from tasker.processing_queue where flow_name = 'en_large';
select tasker.drop_flow('en_large', true);

-- Arrays: one record for each element, in their order, also when they are many, and when the lower bound is not 1.
select tasker.add_records_to_queue('en_many', array_agg(jsonb_build_object('n', i) order by i))
from generate_series(1, 2345) i;
select count(*), count(*) filter (where (payload ->> 'n')::int = number) as in_order
from (select payload, row_number() over (order by id) as number from tasker.processing_queue
      where flow_name = 'en_many') q;
select tasker.drop_flow('en_many', true);
select tasker.add_records_to_queue('en_bounds', '[5:7]={1,2,3}'::jsonb[]);
select tasker.add_records_to_queue('en_bounds', array['4', '5']::jsonb[], 3);
select tasker.add_records_to_queue('en_bounds', array['6']::jsonb[], 3::smallint);
select tasker.add_records_to_queue('en_bounds', array['7']::jsonb[], 3, now() + interval '1 hour');
select tasker.add_records_to_queue('en_bounds', array['8']::jsonb[], run_at => now() + interval '1 hour');
select payload, priority, run_at > created_at + interval '59 minutes' as later
from tasker.processing_queue where flow_name = 'en_bounds' order by id;

-- run_at: the past is now; the future keeps the order of adding within a millisecond; the ends of time.
set timezone = 'UTC';
select count(tasker.enqueue('en_run_at', jsonb_build_object('n', t), run_at => t::timestamptz))
from unnest(array['-infinity', '4713-01-01 BC', '1969-12-31 23:59:59.999', '1970-01-01', '2020-02-29 12:00', '2099-01-01',
    '2248-09-25', '2300-01-01', '294276-12-31 23:59:59.999999', 'infinity']) t;
select payload ->> 'n' as given, run_at = created_at as at_once, case when run_at > '2090-01-01' then run_at end as run_at
from tasker.processing_queue where flow_name = 'en_run_at' order by id;
select * from qt.status('en_run_at');
select qt.claim('en_run_at', 100);
select tasker.add_records_to_queue('en_same_time', array_agg(jsonb_build_object('n', i) order by i), run_at => '2099-01-01')
from generate_series(1, 1000) i;
select count(*), count(*) filter (where (payload ->> 'n')::int = number) as in_order
from (select payload, row_number() over (order by position) as number
      from tasker.queue_record join tasker.flow using (flow_id) where flow_name = 'en_same_time') q;
select tasker.drop_flow('en_same_time', true);
-- Those that were added one by one stand side by side, too, and not all at the same position.
do $$ begin for i in 1..50 loop perform tasker.enqueue('en_same_time', '{}', run_at => '2099-01-01'), pg_sleep(0.001); end loop; end $$;
select count(*), count(distinct position) as positions, max(position) - min(position) < 1 << 20 as within_a_millisecond
from tasker.queue_record join tasker.flow using (flow_id) where flow_name = 'en_same_time';
select tasker.drop_flow('en_same_time', true);

-- From within other statements: a modifying CTE, a trigger, a function, DO.
create table qt.photo (id int primary key);
create function qt.on_photo() returns trigger language plpgsql as
$$ begin perform tasker.enqueue('en_trigger', jsonb_build_object('n', new.id)); return null; end $$;
create trigger on_photo after insert on qt.photo for each row execute function qt.on_photo();
with new as (insert into qt.photo select generate_series(1, 5) returning id)
select count(tasker.enqueue('en_cte', jsonb_build_object('n', id))) from new;
do $$ begin for i in 1..3 loop perform tasker.enqueue('en_do', jsonb_build_object('n', i)); end loop; end $$;
select flow_name, total from tasker.get_queue_status() where flow_name in ('en_trigger', 'en_cte', 'en_do') order by 1;

-- A read-only transaction adds nothing, and says so.
begin read only;
select tasker.enqueue('en', '{}');
rollback;
begin read only;
select tasker.add_records_to_queue('en', array['{}']::jsonb[]);
rollback;

select * from tasker.check_queue_integrity();
