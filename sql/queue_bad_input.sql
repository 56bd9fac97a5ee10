-- Bad input, all of it. Each statement fails with a SQLSTATE that fits and a message that names the argument, once
-- inside a subtransaction and once on its own; and nothing is different afterwards.
\set VERBOSITY terse
\pset null '(null)'
\pset format unaligned
\pset tuples_only on

-- Records in every status, in a flow of their own; the ids are looked up with qt.id().
select tasker.create_flow('bad', '{"max_attempts": 1}') > 0;
select qt.add('bad', 'completed', 'failed', 'processing', 'cancelled', 'pending');
select qt.claim('bad', 3);
select tasker.mark_record_completed(qt.id('bad', 'completed'));
select tasker.mark_record_failed(qt.id('bad', 'failed'), 'x');
select tasker.cancel_records(array[qt.id('bad', 'cancelled')]);
select tasker.enqueue('bad', '{"n": "keyed"}', dedup_key => 'k') > 0;

create table qt.bad (number int generated always as identity, statement text);
insert into qt.bad (statement) select 'select tasker.' || unnest(array[
-- Names and flows.
$$create_flow(null)$$,
$$create_flow('bad2', null)$$,
$$create_flow(repeat('x', 200))$$,
$$create_flow('bad')$$,
$$alter_flow(null, 'paused', 'true')$$,
$$alter_flow('', 'paused', 'true')$$,
$$alter_flow('bad', null, 'true')$$,
$$alter_flow('bad', E'pau\nsed', 'true')$$,
$$alter_flow('bad', repeat('x', 200), 'true')$$,
$$drop_flow(null)$$,
$$drop_flow('')$$,
$$drop_flow('bad', null)$$,
$$pause_flow(null)$$,
$$pause_flow(repeat('x', 129))$$,
$$resume_flow('')$$,
-- enqueue.
$$enqueue(null, '{}')$$,
$$enqueue('', '{}')$$,
$$enqueue(repeat('x', 200), '{}')$$,
$$enqueue(E'bad\n', '{}')$$,
$$enqueue(E'\x7f', '{}')$$,
$$enqueue('bad', null)$$,
$$enqueue('bad', '{}', null::int)$$,
$$enqueue('bad', '{}', null::smallint)$$,
$$enqueue('bad', '{}', -1)$$,
$$enqueue('bad', '{}', 10)$$,
$$enqueue('bad', '{}', (-1)::smallint)$$,
$$enqueue('bad', '{}', 10::smallint)$$,
$$enqueue('bad', '{}', 32767::smallint)$$,
$$enqueue('bad', '{}', 65536)$$,
$$enqueue('bad', '{}', 65545)$$,
$$enqueue('bad', '{}', 2147483647)$$,
$$enqueue('bad', '{}', -2147483648)$$,
$$enqueue('bad', '{"n":')$$,
$$enqueue('bad', '')$$,
$$enqueue('bad', '{}', run_at => 'yesterdayish')$$,
$$enqueue('bad', '{}', dedup_key => '')$$,
$$enqueue('bad', '{}', dedup_key => repeat('x', 2000))$$,
$$enqueue('bad', '{}', dedup_key => 'new', dedup_window => '-1 hour')$$,
-- Checked before the key is taken.
$$enqueue('bad', '{}', 10, dedup_key => 'k')$$,
-- add_records_to_queue.
$$add_records_to_queue(null, '{}')$$,
$$add_records_to_queue('', '{1}')$$,
$$add_records_to_queue('bad', null)$$,
$$add_records_to_queue('bad', array[null]::jsonb[])$$,
$$add_records_to_queue('bad', array['1', null, '3']::jsonb[])$$,
$$add_records_to_queue('bad', array[['1', '2'], ['3', '4']]::jsonb[])$$,
$$add_records_to_queue('bad', array[[['1']]]::jsonb[])$$,
$$add_records_to_queue('bad', '{1}', 10)$$,
$$add_records_to_queue('bad', '{1}', -1)$$,
$$add_records_to_queue('bad', '{1}', null::int)$$,
$$add_records_to_queue('bad', '{}', 10)$$,
$$add_records_to_queue(repeat('x', 200), '{}')$$,
-- claim_records_batch.
$$claim_records_batch(null)$$,
$$claim_records_batch('')$$,
$$claim_records_batch(repeat('x', 200))$$,
$$claim_records_batch('unknown')$$,
$$claim_records_batch('bad', null)$$,
$$claim_records_batch('bad', 0)$$,
$$claim_records_batch('bad', -1)$$,
$$claim_records_batch('bad', -2147483648)$$,
$$claim_records_batch('bad', 1, '')$$,
$$claim_records_batch('bad', 1, repeat('x', 200))$$,
$$claim_records_batch('bad', 1, E'a\tb')$$,
$$claim_records_batch('bad', 1, 'w', '0')$$,
$$claim_records_batch('bad', 1, 'w', '-1 second')$$,
$$claim_records_batch('bad', 1, 'w', '1 month -31 days')$$,
$$claim_records_batch('bad', 1, 'w', '1 month -30 days')$$,
-- Ids: null, unknown, negative, the greatest and the least, a position, in every wrong status.
$$mark_record_completed(null)$$,
$$mark_record_completed(0)$$,
$$mark_record_completed(1)$$,
$$mark_record_completed(-1)$$,
$$mark_record_completed(9223372036854775807)$$,
$$mark_record_completed(-9223372036854775808)$$,
$$mark_record_completed(qt.id('bad', 'pending') + 999)$$,
$$mark_record_completed(qt.id('bad', 'pending') + (1::bigint << 62))$$,
$$mark_record_completed(qt.id('bad', 'pending'))$$,
$$mark_record_completed(qt.id('bad', 'completed'))$$,
$$mark_record_completed(qt.id('bad', 'failed'))$$,
$$mark_record_completed(qt.id('bad', 'cancelled'))$$,
$$mark_record_completed(qt.id('bad', 'processing'), lease_token => 0)$$,
$$mark_record_completed(qt.id('bad', 'processing'), lease_token => -1)$$,
$$mark_record_completed(qt.id('bad', 'processing'), lease_token => qt.id('bad', 'processing'))$$,
$$mark_record_completed(qt.id('bad', 'processing'), '{"n":')$$,
$$mark_records_completed(null)$$,
$$mark_records_completed('{null}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing'), null])$$,
$$mark_records_completed(array[qt.id('bad', 'processing'), qt.id('bad', 'processing')])$$,
$$mark_records_completed(array[[qt.id('bad', 'processing')], [1]])$$,
$$mark_records_completed(array[qt.id('bad', 'processing')], '{}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing')], '{1,2}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing')], '{{1}}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing')], null, '{}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing')], null, '{1,2}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing')], null, '{{1,2}}')$$,
$$mark_records_completed('{}', '{1}')$$,
$$mark_records_completed('{}', null, '{1}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing'), -5])$$,
$$mark_records_completed(array[-5, qt.id('bad', 'processing')])$$,
$$mark_records_completed(array[qt.id('bad', 'processing'), qt.id('bad', 'pending')], '{1,2}')$$,
$$mark_records_completed(array[qt.id('bad', 'processing')], '{1}', '{1}')$$,
$$mark_record_failed(null, 'x')$$,
$$mark_record_failed(1, 'x')$$,
$$mark_record_failed(qt.id('bad', 'processing'), null)$$,
$$mark_record_failed(qt.id('bad', 'processing'), 'x', '-1 second')$$,
$$mark_record_failed(qt.id('bad', 'processing'), 'x', '1 month -31 days')$$,
$$mark_record_failed(qt.id('bad', 'processing'), 'x', null, 1)$$,
$$mark_record_failed(qt.id('bad', 'pending'), 'x')$$,
$$mark_record_failed(qt.id('bad', 'completed'), 'x')$$,
$$mark_record_failed(qt.id('bad', 'failed'), 'x')$$,
$$extend_lease(null, '1 hour')$$,
$$extend_lease(array[qt.id('bad', 'processing')], null)$$,
$$extend_lease(array[qt.id('bad', 'processing')], '0')$$,
$$extend_lease(array[qt.id('bad', 'processing')], '-1 hour')$$,
$$extend_lease(array[qt.id('bad', 'processing')], '1 hour', '{}')$$,
$$extend_lease(array[qt.id('bad', 'processing')], '1 hour', '{1,2}')$$,
$$extend_lease(array[qt.id('bad', 'processing')], '1 hour', '{1}')$$,
$$extend_lease(array[qt.id('bad', 'processing'), qt.id('bad', 'processing')], '1 hour')$$,
$$extend_lease(array[qt.id('bad', 'processing'), qt.id('bad', 'pending')], '1 hour')$$,
$$extend_lease(array[[1, 2], [3, 4]], '1 hour')$$,
$$extend_lease('{}', '0')$$,
$$extend_lease('{-1}', '1 hour')$$,
$$release_records(null)$$,
$$release_records('{null}')$$,
$$release_records('{{1,2},{3,4}}')$$,
$$release_records(array[qt.id('bad', 'processing'), qt.id('bad', 'processing')])$$,
$$release_records(array[qt.id('bad', 'processing'), qt.id('bad', 'completed')])$$,
$$release_records('{0}')$$,
$$release_records('{-9223372036854775808,9223372036854775807}')$$,
$$cancel_records(null)$$,
$$cancel_records('{null}')$$,
$$cancel_records('{{1,2},{3,4}}')$$,
$$cancel_records(array[qt.id('bad', 'pending'), qt.id('bad', 'pending')])$$,
$$cancel_records(array[qt.id('bad', 'pending'), qt.id('bad', 'processing')])$$,
$$cancel_records(array[qt.id('bad', 'pending'), qt.id('bad', 'failed')])$$,
$$cancel_records(array[qt.id('bad', 'pending'), 0])$$,
$$retry_records(null)$$,
$$retry_records('{null}')$$,
$$retry_records('{{1,2},{3,4}}')$$,
$$retry_records(array[qt.id('bad', 'failed'), qt.id('bad', 'failed')])$$,
$$retry_records(array[qt.id('bad', 'failed'), qt.id('bad', 'pending')])$$,
$$retry_records('{-1}')$$,
-- Operators.
$$get_queue_status('')$$,
$$get_queue_status(repeat('x', 200))$$,
$$get_queue_status('unknown')$$,
$$cleanup_orphaned_records(null)$$,
$$cleanup_orphaned_records('-1 second')$$,
$$cleanup_orphaned_records('-178000000 years')$$,
$$cleanup_orphaned_records('1 hour', '')$$,
$$cleanup_orphaned_records('1 hour', 'unknown')$$,
$$reset_failed_records(null)$$,
$$reset_failed_records('')$$,
$$reset_failed_records('unknown')$$,
$$reset_failed_records('bad', null)$$,
$$reset_failed_records('bad', -1)$$,
$$reset_failed_records('bad', -2147483648)$$,
$$purge_failed_records(null, '1 day')$$,
$$purge_failed_records('', '1 day')$$,
$$purge_failed_records('unknown', '1 day')$$,
$$purge_failed_records('bad', null)$$,
$$purge_failed_records('bad', '-1 day')$$,
$$partition_retention(null)$$,
$$partition_retention('pg_class')$$,
$$partition_retention(0)$$,
$$partition_retention('tasker.queue_record')$$]);

-- In a subtransaction, with all that the error says.
select qt.fingerprint() as before \gset
select concat_ws(' => ', statement, qt.try(statement)) from qt.bad order by number;
select qt.fingerprint() = :'before' as unchanged;

-- As transactions of their own, all in one session: SQLSTATE only.
\set VERBOSITY sqlstate
select statement from qt.bad order by number \gexec
\set VERBOSITY terse
select qt.fingerprint() = :'before' as unchanged;

-- In the middle of a transaction that goes on from its savepoint and commits.
\set VERBOSITY sqlstate
begin;
select qt.add('bad', 'more');
savepoint s;
select tasker.mark_records_completed(array[qt.id('bad', 'processing'), qt.id('bad', 'pending')]);
rollback to s;
select qt.claim('bad', 1);
savepoint s;
select tasker.extend_lease(array[qt.id('bad', 'pending'), 17], '1 hour');
rollback to s;
select tasker.release_records(array[qt.id('bad', 'pending')]);
commit;
\set VERBOSITY terse
select n, status from qt.records('bad');
select * from qt.status('bad');

-- What is unusual and no error: large batches and leases, long names, many attempts.
select qt.claim('bad', 2147483647, repeat('x', 128), '178000000 years');
select count(*) from tasker.processing_queue where flow_name = 'bad' and lease_expires_at > '290000-01-01' and length(flow_instance_id) = 128;
select tasker.cleanup_orphaned_records('178000000 years', 'bad');
select tasker.reset_failed_records('bad', 2147483647);
select tasker.purge_failed_records('bad', '178000000 years');
select tasker.record_id_time(0) = '1970-01-01+00', tasker.record_id_time(-1) <= '1970-01-01+00', tasker.record_id_time(null) is null,
    tasker.record_id_time(9223372036854775807) > '2248-01-01+00', tasker.record_id_time(-9223372036854775808) < '1970-01-01+00';

select pg_sleep(0.002); -- positions are milliseconds
insert into tasker.processing_queue (flow_name, payload, retry_count)
values ('bad', '{"n": "worn out"}', 2147483647), ('bad', '{"n": "fresh"}', -2147483648);
select qt.claim('bad', 9, 'w');
select tasker.mark_record_failed(qt.id('bad', 'worn out'), 'x'), tasker.mark_record_failed(qt.id('bad', 'fresh'), 'x');
select n, status, retry_count from qt.records('bad') where n in ('worn out', 'fresh');
-- Positions at both ends of the range, written by hand.
select tasker.create_flow('bad_ends') as flow \gset
insert into tasker.queue_record (position, flow_id, payload) select p, :flow, jsonb_build_object('n', p)
from unnest(array[9223372036854775807, 9223372036854775806, 0, -1, -9223372036854775808]) p;
select * from qt.status('bad_ends');
select qt.claim('bad_ends', 9);
select * from tasker.check_queue_integrity();
update tasker.queue_record set status = 'r', claimed_at = now() - interval '1 hour', lease_expires_at = '-infinity', lease_token = -5
where flow_id = :flow;
select tasker.cleanup_orphaned_records('1 hour', 'bad_ends');
select n, status, retry_count from qt.records('bad_ends');
select tasker.drop_flow('bad_ends', true);
-- Names that mean something elsewhere; a name that is cut to become a channel's.
set tasker.auto_create_flows = off;
select qt.try($$select tasker.enqueue('%s%n%d%999999s', '1')$$);
reset tasker.auto_create_flows;
select qt.try(format('select tasker.create_flow(%L, %L) > 0', repeat('é', 64), '{"notify": true}'));
select tasker.enqueue(repeat('é', 64), '1') > 0;
select tasker.drop_flow(repeat('é', 64), true);

select * from tasker.check_queue_integrity();
