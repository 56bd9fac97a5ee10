-- Dead letters: inspected, retried, purged.
\set VERBOSITY terse
\pset null '(null)'

create function qt.fail(flow text, n text) returns text language sql volatile as
$$ select tasker.mark_record_failed(qt.id(flow, n), 'broken ' || n) $$;

select tasker.create_flow('de', '{"max_attempts": 1}') > 0 as has_id;
select qt.add('de', 'a', 'b', 'c', 'd', 'e');
select qt.claim('de', 4);
select qt.fail('de', 'a'), qt.fail('de', 'b'), qt.fail('de', 'c');
select payload, error_message, retry_count, priority, flow_instance_id, failed_at > created_at as failed_later
from tasker.dead_letters where flow_name = 'de' order by id;

-- One by one: at the end of the line, with all attempts before them.
select pg_sleep(0.002); -- positions are milliseconds
select tasker.retry_records(array[qt.id('de', 'b')]);
select n, status, retry_count, error from qt.records('de');
select tasker.retry_records('{}');
select qt.claim('de', 10);
select qt.fail('de', 'b');
select n, status, retry_count from qt.records('de') where n = 'b';
-- All or none, failed ones only.
select qt.fingerprint() as before \gset
select qt.try($$select tasker.retry_records(array[qt.id('de', 'a'), qt.id('de', 'd')])$$);
select qt.try($$select tasker.retry_records(array[qt.id('de', 'a'), 17])$$);
select qt.try($$select tasker.retry_records(array[qt.id('de', 'a'), qt.id('de', 'a')])$$);
select qt.fingerprint() = :'before' as unchanged;

-- All of a flow, up to so many attempts; other flows are left alone.
select tasker.create_flow('de_other', '{"max_attempts": 1}') > 0 as has_id;
select qt.add('de_other', 'x');
select qt.claim('de_other');
select qt.fail('de_other', 'x');
update tasker.queue_record set retry_count = 4 where id = qt.id('de', 'c');
select tasker.reset_failed_records('de', 0);
select tasker.reset_failed_records('de');
select n, status, retry_count from qt.records('de');
select tasker.reset_failed_records('de', max_retries => 4);
select tasker.reset_failed_records('de', 2147483647);
select n, status, retry_count from qt.records('de');
select n, status from qt.records('de_other');
select qt.claim('de', 10);

-- A revived record that was scheduled far away, or has a high priority, stands in the right line.
select tasker.create_flow('de_line', '{"max_attempts": 1}') > 0 as has_id;
select tasker.enqueue('de_line', '{"n": "high"}', 9) > 0 as enqueued;
select qt.add('de_line', 'low');
select qt.claim('de_line', 1);
select qt.fail('de_line', 'high');
select tasker.reset_failed_records('de_line');
select qt.claim('de_line', 2);

-- Undone.
select qt.fail('de_line', 'high');
select qt.fingerprint() as before \gset
begin;
select tasker.retry_records(array[qt.id('de_line', 'high')]);
select qt.claim('de_line', 1);
rollback;
begin;
select tasker.purge_failed_records('de_line');
rollback;
select qt.fingerprint() = :'before' as unchanged;

-- Purge: older ones only; one deleted is gone for every call.
select qt.claim('de', 10);
select qt.fail('de', 'a'), qt.fail('de', 'b'), qt.fail('de', 'd');
update tasker.queue_record set changed_at = changed_at - interval '40 days' where id = qt.id('de', 'b');
select tasker.purge_failed_records('de', '41 days');
select tasker.purge_failed_records('de', '30 days');
select n, status from qt.records('de');
select tasker.purge_failed_records('de', '0');
select n, status from qt.records('de');
select tasker.purge_failed_records('de');
select tasker.purge_failed_records('de', '170000000 years');
select * from qt.status('de');
select * from qt.status('de_other');

begin read only;
select tasker.retry_records('{1}');
rollback;
begin read only;
select tasker.reset_failed_records('de');
rollback;
begin read only;
select tasker.purge_failed_records('de', '0');
rollback;

select * from tasker.check_queue_integrity();
