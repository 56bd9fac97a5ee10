-- Deduplication keys.
\set VERBOSITY terse
\pset null '(null)'

-- While the record lives, the key is its.
select tasker.enqueue('dd', '{"n": "a"}', dedup_key => 'k') as first \gset
select tasker.enqueue('dd', '{"n": "b"}', dedup_key => 'k') = :first as same;
select tasker.enqueue('dd', '{"n": "c"}', 9, '2099-01-01', 'k', '1 hour') = :first as same;
select tasker.enqueue('dd', '{"n": "other key"}', dedup_key => 'K') = :first as same;
select tasker.enqueue('dd', '{"n": "no key"}') = :first as same;
select tasker.enqueue('dd2', '{"n": "other flow"}', dedup_key => 'k') = :first as same;
select n, status from qt.records('dd');
select qt.claim('dd');
select tasker.enqueue('dd', '{"n": "d"}', dedup_key => 'k') = :first as same;
-- Through a retry.
select tasker.mark_record_failed(:first, 'x', '1 hour');
select tasker.enqueue('dd', '{"n": "e"}', dedup_key => 'k') = :first as same;
-- Finished: the next one takes it. So it is for each way to finish.
update tasker.queue_record set position = id where id = :first;
select qt.claim('dd');
select tasker.mark_record_completed(:first);
select tasker.enqueue('dd', '{"n": "f"}', dedup_key => 'k') as second \gset
select :second > :first as new;
select tasker.enqueue('dd', '{"n": "g"}', dedup_key => 'k') = :second as same;
select tasker.cancel_records(array[:second]);
select tasker.enqueue('dd', '{"n": "h"}', dedup_key => 'k') as third \gset
select :third > :second as new;
select tasker.alter_flow('dd', 'max_attempts', '1');
select qt.claim('dd', 10);
select tasker.mark_record_failed(:third, 'x');
select tasker.enqueue('dd', '{"n": "i"}', dedup_key => 'k') as fourth \gset
select :fourth > :third as new;
-- Deleted by hand.
delete from tasker.queue_record where id = :fourth;
select tasker.enqueue('dd', '{"n": "j"}', dedup_key => 'k') > :fourth as new;
select n, status from qt.records('dd');
select dedup_key, count(*) from tasker.dedup_key join tasker.flow using (flow_id) where flow_name = 'dd' group by 1 order by 1;

-- A window: the key stays taken when the record is finished.
select tasker.enqueue('dd_window', '{"n": "a"}', dedup_key => 'w', dedup_window => '1 hour') as first \gset
select qt.claim('dd_window'), tasker.mark_record_completed(:first);
select tasker.enqueue('dd_window', '{"n": "b"}', dedup_key => 'w') = :first as same;
select tasker.enqueue('dd_window', '{"n": "c"}', dedup_key => 'w', dedup_window => '0') = :first as same;
-- The window that the second caller asks for counts as well.
select tasker.enqueue('dd_window', '{"n": "d"}', dedup_key => 'v') as first \gset
select qt.claim('dd_window'), tasker.mark_record_completed(:first);
select tasker.enqueue('dd_window', '{"n": "e"}', dedup_key => 'v', dedup_window => '1 hour') = :first as same;
select tasker.enqueue('dd_window', '{"n": "f"}', dedup_key => 'v', dedup_window => '1 microsecond') > :first as new;
-- A window that has passed, and one without an end.
select tasker.enqueue('dd_window', '{"n": "g"}', dedup_key => 'u', dedup_window => '1 microsecond') as first \gset
select tasker.cancel_records(array[:first]);
select tasker.enqueue('dd_window', '{"n": "h"}', dedup_key => 'u') > :first as new;
select tasker.enqueue('dd_window', '{"n": "i"}', dedup_key => 't', dedup_window => '178000000 years') as first \gset
select tasker.cancel_records(array[:first]);
select tasker.enqueue('dd_window', '{"n": "j"}', dedup_key => 't') = :first as same;
select n, status from qt.records('dd_window');

-- Undone with the transaction, the savepoint, the statement.
begin;
select tasker.enqueue('dd_undone', '{"n": "a"}', dedup_key => 'k') > 0 as enqueued;
rollback;
begin;
savepoint s;
select tasker.enqueue('dd_undone', '{"n": "b"}', dedup_key => 'k') > 0 as enqueued;
rollback to s;
select tasker.enqueue('dd_undone', '{"n": "c"}', dedup_key => 'k') as first \gset
select tasker.enqueue('dd_undone', '{"n": "d"}', dedup_key => 'k') = :first as same;
commit;
select tasker.enqueue('dd_undone', '{"n": "e"}', dedup_key => 'k') = :first as same;
-- Within one statement.
select count(distinct tasker.enqueue('dd_undone', '{"n": "f"}', dedup_key => 'once')) from generate_series(1, 5);
-- Completed in the transaction that adds the next.
begin;
select qt.claim('dd_undone', 1), tasker.mark_record_completed(:first);
select tasker.enqueue('dd_undone', '{"n": "g"}', dedup_key => 'k') > :first as new;
rollback;
select tasker.enqueue('dd_undone', '{"n": "h"}', dedup_key => 'k') = :first as same;
select n, status from qt.records('dd_undone');

-- Any text is a key; its length has a limit. A window without a key is nothing.
select count(distinct tasker.enqueue('dd_keys', '{}', dedup_key => k)), count(*)
from unnest(array[' ', '''; drop table tasker.flow; --', E'a\nb', E'\x01', '%s%d', repeat('é', 512), repeat('x', 1024), 'a', 'A']) k;
select count(distinct tasker.enqueue('dd_keys', '{}', dedup_key => k)), count(*)
from unnest(array[' ', '''; drop table tasker.flow; --', E'a\nb', E'\x01', '%s%d', repeat('é', 512), repeat('x', 1024), 'a', 'A']) k;
select total from tasker.get_queue_status('dd_keys');
select tasker.enqueue('dd_keys', '{}', dedup_window => '1 hour') <> tasker.enqueue('dd_keys', '{}', dedup_window => '1 hour') as two;
select qt.fingerprint() as before \gset
select qt.try('select tasker.enqueue(''dd_keys'', ''{}'', ' || what || ')') from unnest(array[
    $$dedup_key => ''$$,
    $$dedup_key => repeat('x', 1025)$$,
    $$dedup_key => repeat('é', 513)$$,
    $$dedup_key => 'k', dedup_window => '-1 second'$$,
    $$dedup_window => '-1 second'$$,
    $$dedup_key => 'k', run_at => null, dedup_window => '1 month -31 days'$$]) what;
select qt.fingerprint() = :'before' as unchanged;

select * from tasker.check_queue_integrity();
