-- Leases, fencing tokens, orphans.
\set VERBOSITY terse
\pset null '(null)'

-- Fencing: a report under a lease that was lost fails, under whatever name the worker goes.
select qt.add('le', 'a', 'b');
select qt.claim('le', 2, 'worker');
select qt.token('le', 'a') as old \gset
select tasker.release_records(array[qt.id('le', 'a')]);
select qt.fingerprint() as before \gset
-- Given back, and claimed by nobody.
select qt.try(format('select tasker.mark_record_completed(qt.id(%L, %L), null, %s)', 'le', 'a', :old));
select qt.try(format('select tasker.mark_record_failed(qt.id(%L, %L), %L, null, %s)', 'le', 'a', 'x', :old));
select qt.try(format('select tasker.extend_lease(array[qt.id(%L, %L)], %L, array[%s])', 'le', 'a', '1 hour', :old));
select qt.fingerprint() = :'before' as unchanged;
-- Claimed again, by a worker of the same name.
select qt.claim('le', 1, 'worker');
select qt.fingerprint() as before \gset
select qt.try(format('select tasker.mark_record_completed(qt.id(%L, %L), null, %s)', 'le', 'a', :old));
select qt.try(format('select tasker.mark_record_failed(qt.id(%L, %L), %L, null, %s)', 'le', 'a', 'x', :old));
select qt.try(format('select tasker.extend_lease(array[qt.id(%L, %L)], %L, array[%s])', 'le', 'a', '1 hour', :old));
select qt.try(format('select tasker.mark_records_completed(array[qt.id(%1$L, %2$L), qt.id(%1$L, %3$L)], null, array[qt.token(%1$L, %2$L), %4$s])',
    'le', 'b', 'a', :old));
select qt.try(format('select tasker.mark_record_completed(qt.id(%L, %L), null, %s)', 'le', 'a', t))
from unnest(array[0, -1, 9223372036854775807, (-9223372036854775807 - 1)]) t;
\set VERBOSITY sqlstate
select tasker.mark_record_completed(qt.id('le', 'a'), null, :old);
\set VERBOSITY terse
select qt.fingerprint() = :'before' as unchanged;
-- Under the claim's own token, and without one.
select tasker.mark_record_completed(qt.id('le', 'a'), null, qt.token('le', 'a'));
select tasker.mark_record_completed(qt.id('le', 'b'));
-- Finished since: the old token says so too.
select qt.try(format('select tasker.mark_record_completed(qt.id(%L, %L), null, %s)', 'le', 'a', :old));
-- A claim that is rolled back leaves the former token nothing.
select qt.add('le_back', 'a');
begin;
select lease_token as undone from tasker.claim_records_batch('le_back') \gset
rollback;
select qt.claim('le_back');
select qt.try(format('select tasker.mark_record_completed(qt.id(%L, %L), null, %s)', 'le_back', 'a', :undone));

-- Extension: from now on, longer or shorter, for several, all or none.
select qt.add('le_extend', 'a', 'b', 'c');
select qt.claim('le_extend', 2, 'w', '5 minutes');
select tasker.extend_lease(array[qt.id('le_extend', 'a')], '3 hours');
select tasker.extend_lease(array[qt.id('le_extend', 'b')], '1 minute', array[qt.token('le_extend', 'b')]);
select payload ->> 'n' as n, lease_expires_at between now() + interval '2 h 59 min' and now() + interval '3 h 1 min' as longer,
    lease_expires_at between now() and now() + interval '1 min 1 s' as shorter, status
from tasker.processing_queue where flow_name = 'le_extend' order by id;
select tasker.extend_lease(array[qt.id('le_extend', 'a'), qt.id('le_extend', 'b')], '1 hour',
    array[null, qt.token('le_extend', 'b')]);
select tasker.extend_lease('{}', '1 hour');
select qt.fingerprint() as before \gset
select qt.try($$select tasker.extend_lease(array[qt.id('le_extend', 'a'), qt.id('le_extend', 'c')], '2 hours')$$);
select qt.try($$select tasker.extend_lease(array[qt.id('le_extend', 'a'), qt.id('le_extend', 'b')], '2 hours', array[null, 5])$$);
select qt.fingerprint() = :'before' as unchanged;
-- The ends of time.
select tasker.extend_lease(array[qt.id('le_extend', 'a')], '170000000 years');
select lease_expires_at > '290000-01-01' as far from tasker.processing_queue where id = qt.id('le_extend', 'a');

-- Orphans by age: whatever their lease says.
select tasker.create_flow('le_orphan', '{"max_attempts": 2, "backoff_base": "0"}') > 0 as has_id;
select qt.add('le_orphan', 'a', 'b', 'c');
select tasker.create_flow('le_other', '{"backoff_base": "1 hour"}') > 0 as has_id;
select qt.add('le_other', 'a');
select qt.claim('le_orphan', 2, 'lost'), qt.claim('le_other', 1, 'lost');
select tasker.cleanup_orphaned_records('1 hour', 'le_orphan'), tasker.cleanup_orphaned_records('1 hour');
select pg_sleep(0.002); -- positions are milliseconds
select tasker.cleanup_orphaned_records('0', 'le_orphan');
select n, status, retry_count, by, error from qt.records('le_orphan');
select n, status from qt.records('le_other');
select tasker.cleanup_orphaned_records('0', 'le_orphan');
select qt.claim('le_orphan', 10, 'lost again');
-- The second loss was the last attempt of two of them.
select tasker.cleanup_orphaned_records('0', 'le_orphan');
select n, status, retry_count, error from qt.records('le_orphan');
select * from qt.status('le_orphan');
-- The other flow backs off.
select tasker.cleanup_orphaned_records(timeout => '0', flow_name => 'le_other');
select * from qt.status('le_other');
-- Whoever looks for orphans in a transaction that has itself finished or prolonged records sees those changes; when it is
-- rolled back, the records are found all the same.
select tasker.create_flow('le_undone', '{"backoff_base": "0", "max_attempts": 9}') > 0 as has_id;
select qt.add('le_undone', 'a', 'b', 'c');
select qt.claim('le_undone', 3, 'w', '1 second');
begin;
select tasker.extend_lease(array[qt.id('le_undone', 'b'), qt.id('le_undone', 'c')], '1 day');
select tasker.mark_record_completed(qt.id('le_undone', 'a'));
select tasker.sweep_queue() >= 0 as swept;
select tasker.cleanup_orphaned_records('1 day', 'le_undone');
rollback;
begin;
savepoint s;
select tasker.mark_record_completed(qt.id('le_undone', 'a'));
select tasker.mark_record_failed(qt.id('le_undone', 'b'), 'x', '1 day');
select tasker.sweep_queue() >= 0 as swept;
select tasker.cleanup_orphaned_records('1 day', 'le_undone');
rollback to s;
commit;
select * from tasker.check_queue_integrity();
select pg_sleep(1.1);
select tasker.cleanup_orphaned_records('1 day', 'le_undone') between 0 and 3 as recovered;
select n, status, retry_count, error from qt.records('le_undone');
-- Completed records are no orphans.
select qt.add('le_done', 'a', 'b');
select qt.claim('le_done', 2);
select tasker.mark_record_completed(qt.id('le_done', 'a'));
select tasker.cleanup_orphaned_records('0', 'le_done');
select n, status from qt.records('le_done');

-- Leases that have ended: given back by whoever comes first, this call or the background worker.
select tasker.create_flow('le_ended', '{"max_attempts": 2, "backoff_base": "0"}') > 0 as has_id;
select qt.add('le_ended', 'a', 'b');
select pg_sleep(0.002); -- positions are milliseconds
select qt.claim('le_ended', 1, 'slow', '1 microsecond');
select qt.token('le_ended', 'a') as old \gset
select tasker.cleanup_orphaned_records('1 day', 'le_ended') between 0 and 1 as recovered;
select n, status, retry_count, error from qt.records('le_ended');
select qt.try(format('select tasker.mark_record_completed(qt.id(%L, %L), null, %s)', 'le_ended', 'a', :old));
-- Extended into the past, so to speak.
select qt.claim('le_ended', 1, 'w');
select tasker.extend_lease(array[qt.id('le_ended', 'b')], '1 microsecond');
select tasker.cleanup_orphaned_records('1 day', 'le_ended') between 0 and 1 as recovered;
select n, status, retry_count, error from qt.records('le_ended');
-- One whose flow is gone is dead.
select qt.add('le_gone', 'a');
select flow_id from tasker.flow where flow_name = 'le_gone' \gset
select qt.claim('le_gone');
delete from tasker.flow where flow_name = 'le_gone';
select tasker.cleanup_orphaned_records('0') >= 1 as recovered;
select status from tasker.queue_record where flow_id = :flow_id;
delete from tasker.queue_record where flow_id = :flow_id;

begin read only;
select tasker.extend_lease('{1}', '1 hour');
rollback;
begin read only;
select tasker.cleanup_orphaned_records();
rollback;

select * from tasker.check_queue_integrity();
