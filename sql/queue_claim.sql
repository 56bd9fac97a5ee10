-- Claiming: what comes, in which order, to whom.
\set VERBOSITY terse
\pset null '(null)'

-- Nothing there.
select tasker.create_flow('cl') > 0 as has_id;
select * from tasker.claim_records_batch('cl');
select * from tasker.claim_records_batch('cl', 100);

-- In order of adding, each once, as many as asked for.
select qt.add('cl', 'a', 'b', 'c', 'd', 'e', 'f', 'g');
select qt.claim('cl');
select qt.claim('cl', 3);
select qt.claim('cl', 100);
select qt.claim('cl', 100);

-- What a claim returns and leaves.
select qt.add('cl_row', 'a', 'b');
select clock_timestamp() as before \gset
select id as claimed, lease_token as token from tasker.claim_records_batch('cl_row', 1, 'worker 1', '10 minutes')
where payload = '{"n": "a"}' and retry_count = 0 and created_at = tasker.record_id_time(id)
  and lease_expires_at between :'before'::timestamptz + interval '10 minutes' and clock_timestamp() + interval '10 minutes' \gset
select id = :claimed as id, status, flow_instance_id, lease_token = :token as token,
    claimed_at between :'before' and clock_timestamp() as claimed_now,
    lease_expires_at - claimed_at as lease, updated_at = claimed_at as updated
from tasker.processing_queue where flow_name = 'cl_row' and status <> 'pending';
-- The default name says which process it is; the default lease is the flow's.
select tasker.alter_flow('cl_row', 'lease', '90 minutes');
set application_name = 'claimer';
select lease_token > :token as token_is_new from tasker.claim_records_batch('cl_row');
reset application_name;
select flow_instance_id like '%/claimer/' || pg_backend_pid() as who, lease_expires_at - claimed_at as lease
from tasker.processing_queue where flow_name = 'cl_row' and payload ->> 'n' = 'b';
-- One token for a batch, another for the next.
select qt.add('cl_tokens', 'a', 'b', 'c', 'd');
select count(distinct lease_token) from (select lease_token from tasker.claim_records_batch('cl_tokens', 2)
    union all select lease_token from tasker.claim_records_batch('cl_tokens', 2)) t;

-- Higher priority first, then position; a batch takes from several priorities.
select count(tasker.enqueue('cl_priority', jsonb_build_object('n', p || '.' || i), p))
from generate_series(1, 3) i, unnest(array[0, 9, 5, 1]) p;
select qt.claim('cl_priority', 2);
select qt.claim('cl_priority', 5);
select tasker.enqueue('cl_priority', '{"n": "9.4"}', 9) > 0 as enqueued;
select qt.claim('cl_priority', 3);
select qt.claim('cl_priority', 100);

-- In order of run_at, not of adding; the future is not handed out.
select tasker.enqueue('cl_run_at', '{"n": "later"}', run_at => now() + interval '1 hour') > 0 as enqueued;
select tasker.enqueue('cl_run_at', '{"n": "now"}') > 0 as enqueued;
select tasker.enqueue('cl_run_at', '{"n": "soon"}', run_at => clock_timestamp() + interval '30 ms') > 0 as enqueued;
select tasker.enqueue('cl_run_at', '{"n": "sooner"}', run_at => clock_timestamp() + interval '10 ms') > 0 as enqueued;
select pg_sleep(0.05);
select qt.claim('cl_run_at', 10);
select qt.claim('cl_run_at', 10);
select * from qt.status('cl_run_at');
-- A flow whose every record lies in the future; high priorities there do not stand before low ones that are due.
select tasker.enqueue('cl_future', jsonb_build_object('n', 'future ' || i), 9, now() + interval '1 day' * i) > 0 as enqueued
from generate_series(1, 3) i;
select qt.claim('cl_future', 10);
select qt.add('cl_future', 'due');
select qt.claim('cl_future', 10);
select * from qt.status('cl_future');

-- Flows do not mix.
select qt.add('cl_one', '1');
select qt.add('cl_two', '2');
select qt.claim('cl_two', 10);
select qt.claim('cl_one', 10);

-- Larger than one piece of a scan; with finished records between.
select tasker.add_records_to_queue('cl_many', array_agg(jsonb_build_object('n', i) order by i)) from generate_series(1, 6000) i;
select tasker.cancel_records(array_agg(id)) from
    (select id, row_number() over (order by id) as number from tasker.processing_queue where flow_name = 'cl_many') q
where number between 500 and 5499;
select count(*), min((payload ->> 'n')::int), max((payload ->> 'n')::int) from tasker.claim_records_batch('cl_many', 400);
select count(*), min((payload ->> 'n')::int), max((payload ->> 'n')::int) from tasker.claim_records_batch('cl_many', 200);
select count(*), min((payload ->> 'n')::int), max((payload ->> 'n')::int) from tasker.claim_records_batch('cl_many', 2147483647);
select * from qt.status('cl_many');
select tasker.drop_flow('cl_many', true);

-- In one transaction: own records, again and again, with and without savepoints.
begin;
select qt.add('cl_own', 'a', 'b', 'c', 'd');
select qt.claim('cl_own', 1);
select qt.add('cl_own', 'e');
select qt.claim('cl_own', 1);
savepoint s;
select qt.claim('cl_own', 1);
select tasker.enqueue('cl_own', '{"n": "first of all"}', 1) > 0 as enqueued;
select qt.claim('cl_own', 2);
rollback to s;
select qt.claim('cl_own', 1);
select tasker.release_records(array[qt.id('cl_own', 'a')]);
select qt.claim('cl_own', 10);
select qt.claim('cl_own', 10);
select * from qt.status('cl_own');
commit;
select * from qt.status('cl_own');
select qt.claim('cl_own', 10);

-- In one statement: a claim finds what was added before it; nothing gets lost on the way.
begin;
select count(tasker.enqueue('cl_statement', jsonb_build_object('n', i))) as added,
    (select count(*) from tasker.claim_records_batch('cl_statement', 10)) as claimed from generate_series(1, 2) i;
select qt.claim('cl_statement', 10);
commit;
select qt.add('cl_statement2', 'a', 'b', 'c');
select qt.claim('cl_statement2', 2) as one, qt.claim('cl_statement2', 2) as two, qt.claim('cl_statement2', 2) as three;

-- Claim and complete in one statement.
select qt.add('cl_complete', 'a', 'b', 'c');
select sum(tasker.mark_record_completed(id, payload, lease_token)) from tasker.claim_records_batch('cl_complete', 2);
select n, status, result from qt.records('cl_complete');
select tasker.mark_records_completed(array_agg(id), array_agg(payload), array_agg(lease_token))
from tasker.claim_records_batch('cl_complete', 2);
select * from qt.status('cl_complete');

-- Rolled back: claimable again, in the same order, with nothing counted.
select qt.add('cl_back', 'a', 'b', 'c', 'd');
begin;
select qt.claim('cl_back', 2);
rollback;
begin;
select qt.claim('cl_back', 1);
savepoint s;
select qt.claim('cl_back', 2);
rollback to s;
select qt.claim('cl_back', 1);
release s;
commit;
select n, status, retry_count, by from qt.records('cl_back');
select qt.claim('cl_back', 10);
-- Savepoints in savepoints; an error caught in PL/pgSQL.
select qt.add('cl_nested', 'a', 'b', 'c', 'd', 'e');
begin;
savepoint s1;
select qt.claim('cl_nested', 1);
savepoint s2;
select qt.claim('cl_nested', 1);
savepoint s3;
select qt.claim('cl_nested', 1);
release s3;
rollback to s2;
select qt.claim('cl_nested', 1);
rollback to s1;
do $$
begin
    perform qt.claim('cl_nested', 3);
    raise division_by_zero;
exception when division_by_zero then
    raise notice 'then: %', qt.claim('cl_nested', 2);
end
$$;
commit;
select n, status from qt.records('cl_nested');
select qt.claim('cl_nested', 10);

-- A LIMIT outside does not make the batch smaller; the rows are claimed.
select qt.add('cl_limit', 'a', 'b', 'c');
select payload from tasker.claim_records_batch('cl_limit', 3) limit 1;
select * from qt.status('cl_limit');
-- Through a cursor, kept over the commit, and a prepared statement.
select qt.add('cl_cursor', 'a', 'b', 'c');
begin;
declare c cursor with hold for select payload from tasker.claim_records_batch('cl_cursor', 3);
fetch 2 from c;
commit;
fetch 2 from c;
close c;
prepare claim (text, int) as select payload from tasker.claim_records_batch($1, $2);
select qt.add('cl_cursor', 'd', 'e');
execute claim ('cl_cursor', 1);
execute claim ('cl_cursor', 5);
deallocate claim;

begin read only;
select * from tasker.claim_records_batch('cl');
rollback;

-- Thousands of records that are due at the same moment, in small and in large batches.
select tasker.create_flow('cl_same') as flow \gset
insert into tasker.queue_record (position, flow_id, payload) select 1000, :flow, to_jsonb(i) from generate_series(1, 5000) i;
select count(*) from tasker.claim_records_batch('cl_same', 3);
select count(distinct id) from (select id from tasker.claim_records_batch('cl_same', 2500) union all
    select id from tasker.claim_records_batch('cl_same', 10000)) c;
select * from qt.status('cl_same');
select tasker.release_records(array_agg(id)) from (select id from tasker.processing_queue where flow_name = 'cl_same' and status = 'processing' limit 10) r;
select count(*) from tasker.claim_records_batch('cl_same', 10000);
select tasker.drop_flow('cl_same', true);

select * from tasker.check_queue_integrity();
