-- max_in_flight, rate_limit, paused: what a claim hands out at most.
\set VERBOSITY terse
\pset null '(null)'

-- max_in_flight counts what is in processing, over all workers.
select tasker.create_flow('li', '{"max_in_flight": 3, "backoff_base": "0"}') > 0 as has_id;
select qt.add('li', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
select qt.claim('li', 2);
select qt.claim('li', 10);
select qt.claim('li', 10);
-- Each way out of processing makes room.
select tasker.mark_record_completed(qt.id('li', 'a'));
select qt.claim('li', 10);
select tasker.mark_record_failed(qt.id('li', 'b'), 'x', '1 hour');
select qt.claim('li', 10);
select tasker.release_records(array[qt.id('li', 'c')]);
select qt.claim('li', 1);
select tasker.cleanup_orphaned_records('0', 'li');
select qt.claim('li', 10);
select * from qt.status('li');
-- What was claimed and rolled back does not count; what is under way in the same transaction does.
select tasker.release_records(array_agg(id)) from tasker.processing_queue where flow_name = 'li' and status = 'processing';
begin;
select qt.claim('li', 2);
savepoint s;
select qt.claim('li', 2);
select qt.claim('li', 2);
rollback to s;
select qt.claim('li', 10);
select qt.claim('li', 10);
rollback;
select qt.claim('li', 10);
select qt.claim('li', 10);
-- Raised and lifted.
select tasker.alter_flow('li', 'max_in_flight', '4');
select qt.claim('li', 10);
select qt.claim('li', 10);
select tasker.alter_flow('li', 'max_in_flight', '1');
select qt.claim('li', 10);
select tasker.alter_flow('li', 'max_in_flight', null);
select qt.claim('li', 10);
select * from qt.status('li');
-- Set while records are in processing that were claimed without it.
select qt.add('li_later', 'a', 'b', 'c', 'd');
select qt.claim('li_later', 2);
select tasker.alter_flow('li_later', 'max_in_flight', '3');
select qt.claim('li_later', 10);
-- One at a time, in order.
select tasker.create_flow('li_serial', '{"max_in_flight": 1}') > 0 as has_id;
select qt.add('li_serial', 'a', 'b', 'c');
select qt.claim('li_serial', 5), qt.claim('li_serial', 5);
select tasker.mark_record_completed(qt.id('li_serial', 'a'));
select qt.claim('li_serial', 5), qt.claim('li_serial', 5);
-- Asked for more than there is: what was not found is not held back.
select tasker.create_flow('li_few', '{"max_in_flight": 5}') > 0 as has_id;
select qt.add('li_few', 'a');
begin;
select qt.claim('li_few', 5);
select qt.add('li_few', 'b', 'c', 'd', 'e', 'f');
select qt.claim('li_few', 5);
commit;
select * from qt.status('li_few');

-- rate_limit: a burst of one second's worth, at least one record; then nothing until it has filled up again.
select tasker.create_flow('li_rate', '{"rate_limit": 0.001}') > 0 as has_id;
select qt.add('li_rate', 'a', 'b', 'c');
select qt.claim('li_rate', 3);
select qt.claim('li_rate', 3);
select pg_sleep(1.1);
select qt.claim('li_rate', 3);
select tasker.alter_flow('li_rate', 'rate_limit', null);
select qt.claim('li_rate', 3);
select tasker.create_flow('li_burst', '{"rate_limit": 4}') > 0 as has_id;
select qt.add('li_burst', 'a', 'b', 'c', 'd', 'e', 'f');
select qt.claim('li_burst', 10);
-- Empty claims use nothing up.
select tasker.create_flow('li_empty', '{"rate_limit": 0.001}') > 0 as has_id;
select qt.claim('li_empty', 3), qt.claim('li_empty', 3), qt.claim('li_empty', 3);
select qt.add('li_empty', 'a');
select qt.claim('li_empty', 3);

-- paused takes records, hands out none, and lets those in processing be reported.
select qt.add('li_paused', 'a', 'b', 'c');
select qt.claim('li_paused', 1);
select tasker.pause_flow('li_paused');
select qt.add('li_paused', 'd');
select qt.claim('li_paused', 10);
select tasker.mark_record_completed(qt.id('li_paused', 'a'));
select tasker.cancel_records(array[qt.id('li_paused', 'b')]);
select * from qt.status('li_paused');
call tasker.wait_for_records('li_paused', '0');
select tasker.resume_flow('li_paused');
call tasker.wait_for_records('li_paused', '0');
select qt.claim('li_paused', 10);
select tasker.create_flow('li_born_paused', '{"paused": true}') > 0 as has_id;
select qt.add('li_born_paused', 'a');
select qt.claim('li_born_paused', 10);

select * from tasker.check_queue_integrity();
