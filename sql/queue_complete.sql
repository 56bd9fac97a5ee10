-- Completing, failing, retrying, releasing, cancelling.
\set VERBOSITY terse
\pset null '(null)'

-- One record: returns 1, and the record says when and with what.
select qt.add('co', 'a', 'b', 'c', 'd');
select qt.claim('co', 3);
select clock_timestamp() as before \gset
select tasker.mark_record_completed(qt.id('co', 'a'));
select tasker.mark_record_completed(qt.id('co', 'b'), '{"answer": 42}');
select tasker.mark_record_completed(record_id => qt.id('co', 'c'), lease_token => qt.token('co', 'c'), result => 'null');
select payload ->> 'n' as n, status, result, completed_at between :'before' and clock_timestamp() as completed_now,
    updated_at = completed_at as updated, claimed_at < completed_at as claimed, flow_instance_id, retry_count
from tasker.processing_queue where flow_name = 'co' order by id;
select * from qt.status('co');
-- Once only; and only what is in processing.
select qt.try($$select tasker.mark_record_completed(qt.id('co', 'a'))$$);
select qt.try($$select tasker.mark_record_completed(qt.id('co', 'a'), lease_token => qt.token('co', 'a'))$$);
select qt.try($$select tasker.mark_record_completed(qt.id('co', 'd'))$$);
select qt.try($$select tasker.mark_record_failed(qt.id('co', 'a'), 'too late')$$);
select qt.try($$select tasker.mark_record_failed(qt.id('co', 'd'), 'too early')$$);

-- Several: all or none, in any order, with results and tokens that may be null.
select qt.add('co_many', 'a', 'b', 'c', 'd', 'e', 'f');
select qt.claim('co_many', 5);
select tasker.mark_records_completed(array[qt.id('co_many', 'b'), qt.id('co_many', 'a')], array['"b"', '"a"']::jsonb[],
    array[qt.token('co_many', 'b'), null]);
select tasker.mark_records_completed('{}');
select tasker.mark_records_completed('{}', '{}', '{}');
select qt.fingerprint() as before \gset
select qt.try($$select tasker.mark_records_completed(array[qt.id('co_many', 'c'), qt.id('co_many', 'f')])$$);
select qt.try($$select tasker.mark_records_completed(array[qt.id('co_many', 'c'), qt.id('co_many', 'a')])$$);
select qt.try($$select tasker.mark_records_completed(array[qt.id('co_many', 'c'), 17])$$);
select qt.try($$select tasker.mark_records_completed(array[qt.id('co_many', 'c'), qt.id('co_many', 'd')], null,
    array[qt.token('co_many', 'c'), 1])$$);
-- Not in a function, not in a subtransaction: the statement itself fails.
\set VERBOSITY sqlstate
select tasker.mark_records_completed(array[qt.id('co_many', 'c'), qt.id('co_many', 'f')]);
\set VERBOSITY terse
select qt.fingerprint() = :'before' as unchanged;
select tasker.mark_records_completed(array[qt.id('co_many', 'e'), qt.id('co_many', 'c')], array['"e"', null]::jsonb[]);
select n, status, result from qt.records('co_many');
-- Records of several flows in one call.
select qt.add('co_one', 'x'), qt.add('co_two', 'x');
select qt.claim('co_one'), qt.claim('co_two');
select tasker.mark_records_completed(array[qt.id('co_two', 'x'), qt.id('co_one', 'x')]);
select flow_name, completed from tasker.get_queue_status() where flow_name in ('co_one', 'co_two') order by 1;
-- 5,000 at once.
select tasker.add_records_to_queue('co_5000', array_agg(to_jsonb(i))) from generate_series(1, 5000) i;
select tasker.mark_records_completed(array_agg(id), array_agg(payload), array_agg(lease_token))
from tasker.claim_records_batch('co_5000', 5000);
select count(*), count(*) filter (where result = payload) as right_results from tasker.processing_queue
where flow_name = 'co_5000' and status = 'completed';
select tasker.drop_flow('co_5000');

-- Failure: pending again with one attempt less, at last a dead letter.
select tasker.create_flow('co_fail', '{"max_attempts": 3, "backoff_base": "0"}') > 0 as has_id;
select qt.add('co_fail', 'a');
select qt.claim('co_fail');
select tasker.mark_record_failed(qt.id('co_fail', 'a'), 'first');
select n, status, retry_count, by, error from qt.records('co_fail');
select claimed_at is null as unclaimed, completed_at, lease_token, lease_expires_at from tasker.processing_queue
where flow_name = 'co_fail';
select payload, retry_count from tasker.claim_records_batch('co_fail');
select tasker.mark_record_failed(qt.id('co_fail', 'a'), 'second', lease_token => qt.token('co_fail', 'a'));
select payload, retry_count from tasker.claim_records_batch('co_fail');
select tasker.mark_record_failed(qt.id('co_fail', 'a'), 'third');
select n, status, retry_count, error from qt.records('co_fail');
select qt.claim('co_fail');
select * from qt.status('co_fail');
select payload, error_message, retry_count, failed_at > created_at as failed_later from tasker.dead_letters
where flow_name = 'co_fail';
-- With one attempt it is dead at once, whatever retry_in says.
select tasker.create_flow('co_once', '{"max_attempts": 1}') > 0 as has_id;
select qt.add('co_once', 'a', 'b');
select qt.claim('co_once', 2);
select tasker.mark_record_failed(qt.id('co_once', 'a'), '');
select tasker.mark_record_failed(qt.id('co_once', 'b'), repeat('long ', 100000), '1 second');
select n, status, retry_count, length(error) from qt.records('co_once');
-- max_attempts acts when the attempt fails.
select qt.add('co_later', 'a');
select qt.claim('co_later');
select tasker.alter_flow('co_later', 'max_attempts', '1');
select tasker.mark_record_failed(qt.id('co_later', 'a'), 'x');

-- Backoff: base, doubled, capped; jitter within its share; retry_in instead of it.
select tasker.create_flow('co_backoff', '{"max_attempts": 100, "backoff_base": "10 minutes", "backoff_max": "1 hour",
    "backoff_jitter": 0}') > 0 as has_id;
create function qt.delays(flow text, times int, retry_in interval default null) returns setof interval
    language plpgsql as
$$
declare
    record bigint := tasker.enqueue(flow, '{}');
begin
    for i in 1..times loop
        update tasker.queue_record set position = id where id = record; -- time flies
        perform tasker.claim_records_batch(flow);
        perform tasker.mark_record_failed(record, 'again', retry_in);
        return query select date_trunc('second', run_at - updated_at + interval '0.5 s') from tasker.processing_queue
            where id = record;
    end loop;
    perform tasker.cancel_records(array[record]);
end
$$;
select qt.delays('co_backoff', 6);
select qt.delays('co_backoff', 2, '3 hours');
select qt.delays('co_backoff', 1, '0');
select tasker.alter_flow('co_backoff', 'backoff_jitter', '0.5');
select count(*), count(distinct d) > 5 as vary, bool_and(d between '5 minutes' and '15 minutes') as within
from generate_series(1, 20), lateral (select qt.delays('co_backoff', 1) d) delays;
select tasker.alter_flow('co_backoff', 'backoff_max', '7 minutes');
select count(*), bool_and(d between '3 minutes' and '7 minutes') as capped
from generate_series(1, 10), lateral (select qt.delays('co_backoff', 1) d) delays;
-- To the end of time, and not past it.
select bool_and(tasker.mark_record_failed(id, 'x', t) = 'pending') as retried
from (select tasker.add_records_to_queue('co_far', '{1,2,3,4}') as added) a, lateral (select id, array_agg from
    (select id, row_number() over () as i from tasker.claim_records_batch('co_far', a.added)) c,
    lateral (select (array['220 years', '1000 years', '297000 years', '178000000 years']::interval[])[c.i]) t (array_agg)) r (id, t);
select count(*), count(*) filter (where run_at > '2240-01-01') as far from tasker.processing_queue where flow_name = 'co_far';
select qt.claim('co_far', 10);
-- Scheduled until then.
select qt.add('co_wait', 'a', 'b');
select qt.claim('co_wait', 2);
select tasker.mark_record_failed(qt.id('co_wait', 'a'), 'wait', '1 hour');
select tasker.mark_record_failed(qt.id('co_wait', 'b'), 'wait', '20 ms');
select pg_sleep(0.03);
select qt.claim('co_wait', 10);
select * from qt.status('co_wait');
-- A retried record does not overtake its elders, and others do not overtake a record that failed without delay.
select tasker.create_flow('co_order', '{"backoff_base": "0"}') > 0 as has_id;
select qt.add('co_order', 'a', 'b', 'c');
select qt.claim('co_order', 1);
select pg_sleep(0.002); -- positions are milliseconds
select tasker.mark_record_failed(qt.id('co_order', 'a'), 'x');
select qt.claim('co_order', 10);

-- Release: pending at once, where it stood, with all its attempts.
select qt.add('co_release', 'a', 'b', 'c', 'd');
select qt.claim('co_release', 3);
select tasker.release_records(array[qt.id('co_release', 'c'), qt.id('co_release', 'a')]);
select tasker.release_records('{}');
select n, status, retry_count from qt.records('co_release');
select claimed_at, lease_token, lease_expires_at from tasker.processing_queue
where flow_name = 'co_release' and status = 'pending';
select qt.fingerprint() as before \gset
select qt.try($$select tasker.release_records(array[qt.id('co_release', 'b'), qt.id('co_release', 'a')])$$);
select qt.try($$select tasker.release_records(array[qt.id('co_release', 'b'), 17])$$);
select qt.fingerprint() = :'before' as unchanged;
select qt.claim('co_release', 10);

-- Cancel: pending only, scheduled too; final.
select qt.add('co_cancel', 'a', 'b', 'c');
select tasker.enqueue('co_cancel', '{"n": "d"}', run_at => 'infinity') > 0 as enqueued;
select qt.claim('co_cancel', 1);
select qt.fingerprint() as before \gset
select qt.try($$select tasker.cancel_records(array[qt.id('co_cancel', 'b'), qt.id('co_cancel', 'a')])$$);
select qt.try($$select tasker.cancel_records(array[qt.id('co_cancel', 'b'), 17])$$);
select qt.fingerprint() = :'before' as unchanged;
select tasker.cancel_records(array[qt.id('co_cancel', 'd'), qt.id('co_cancel', 'b')]);
select tasker.cancel_records('{}');
select n, status from qt.records('co_cancel');
select qt.try($$select tasker.cancel_records(array[qt.id('co_cancel', 'b')])$$);
select qt.try($$select tasker.mark_record_completed(qt.id('co_cancel', 'b'))$$);
select qt.try($$select tasker.retry_records(array[qt.id('co_cancel', 'b')])$$);
select qt.claim('co_cancel', 10);
select * from qt.status('co_cancel');

-- The whole life of a record in one transaction, and of another in one that rolls back.
begin;
select qt.add('co_life', 'a');
select qt.claim('co_life');
select tasker.mark_record_failed(qt.id('co_life', 'a'), 'x', '0');
select qt.claim('co_life');
select tasker.release_records(array[qt.id('co_life', 'a')]);
select qt.claim('co_life');
select tasker.mark_record_completed(qt.id('co_life', 'a'));
commit;
select n, status, retry_count, error from qt.records('co_life');
begin;
select qt.add('co_life', 'b');
select qt.claim('co_life');
select tasker.mark_record_completed(qt.id('co_life', 'b'));
rollback;
select * from qt.status('co_life');

begin read only;
select tasker.mark_record_completed(1);
rollback;
begin read only;
select tasker.mark_records_completed('{1}');
rollback;
begin read only;
select tasker.mark_record_failed(1, 'x');
rollback;
begin read only;
select tasker.release_records('{1}');
rollback;
begin read only;
select tasker.cancel_records('{1}');
rollback;

select * from tasker.check_queue_integrity();
