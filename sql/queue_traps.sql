-- What others fell into.
\set VERBOSITY terse

-- The limit that a planner ignores: 3,000 rows, a limit of 10, statistics from when the table was empty.
truncate tasker.queue_record;
analyze tasker.queue_record;
select tasker.add_records_to_queue('tr', array_agg(to_jsonb(i) order by i)) from generate_series(1, 3000) i;
select count(*) from tasker.claim_records_batch('tr', 10);
select processing from tasker.get_queue_status('tr');
prepare claim as select count(*) from tasker.claim_records_batch('tr', 10);
execute claim;
execute claim;
deallocate claim;
select processing from tasker.get_queue_status('tr');
-- In a subquery that is asked for many times it is one call each time, of ten records each.
select sum((select count(*) from tasker.claim_records_batch('tr', 10 + 0 * g))) from generate_series(1, 5) g;
select processing from tasker.get_queue_status('tr');
with c as (select id from tasker.claim_records_batch('tr', 10))
select count(*) from tasker.processing_queue where id in (select id from c);
select processing from tasker.get_queue_status('tr');

-- The rest in one call, completed in the same statement.
select tasker.mark_records_completed(array_agg(id)) from tasker.claim_records_batch('tr', 100000);
select pending, processing, completed from tasker.get_queue_status('tr');

-- One partition is opened, not all: a claim and an enqueue lock no other one.
begin;
select tasker.enqueue('tr', '{"n": "x"}') > 0 as enqueued;
select qt.claim('tr', 1);
select count(*) from pg_locks l join pg_class c on c.oid = l.relation
where l.pid = pg_backend_pid() and c.relkind = 'r' and c.relname like 'queue\_record\_p%' and l.mode = 'RowExclusiveLock';
commit;

-- Ids do not depend on a sequence's order of commits, and no gap hides a record.
begin;
savepoint s;
select count(tasker.enqueue('tr_gap', jsonb_build_object('n', 'gone'))) from generate_series(1, 100);
rollback to s;
select tasker.enqueue('tr_gap', '{"n": "kept"}') > 0 as enqueued;
commit;
select qt.claim('tr_gap', 10);

select * from tasker.check_queue_integrity();
