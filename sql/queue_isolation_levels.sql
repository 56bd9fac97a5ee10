-- Callers in REPEATABLE READ and SERIALIZABLE transactions, alone.
\set VERBOSITY terse
\pset null '(null)'

begin isolation level repeatable read;
select qt.add('il', 'a', 'b', 'c');
select qt.claim('il', 1);
savepoint s;
select qt.claim('il', 1);
rollback to s;
select qt.claim('il', 1);
select tasker.mark_record_completed(qt.id('il', 'a'));
select pg_sleep(0.002); -- positions are milliseconds
select tasker.mark_record_failed(qt.id('il', 'b'), 'x', '0');
select pg_sleep(0.002);
select tasker.enqueue('il', '{"n": "keyed"}', dedup_key => 'k') = tasker.enqueue('il', '{"n": "keyed"}', dedup_key => 'k') as same;
select * from qt.status('il');
commit;
select n, status from qt.records('il');

begin isolation level serializable;
select qt.claim('il', 10);
select tasker.release_records(array[qt.id('il', 'b')]);
select tasker.extend_lease(array[qt.id('il', 'c')], '1 hour');
select tasker.cancel_records(array[qt.id('il', 'b')]);
select tasker.enqueue('il', '{"n": "keyed again"}', dedup_key => 'k') = qt.id('il', 'keyed') as same;
select tasker.sweep_queue() >= 0 as swept;
select * from qt.status('il');
commit;
select n, status, retry_count from qt.records('il');

begin isolation level serializable read only deferrable;
select * from qt.status('il');
select * from tasker.check_queue_integrity();
select tasker.enqueue('il', '{}');
rollback;

begin isolation level repeatable read;
select tasker.drop_flow('il', true);
rollback;
select count(*) from qt.records('il');
begin isolation level serializable;
select tasker.create_flow('il2', '{"max_in_flight": 1}') > 0 as has_id;
select qt.add('il2', 'a', 'b');
select qt.claim('il2', 5), qt.claim('il2', 5);
select tasker.drop_flow('il2', true);
commit;
select count(*) from tasker.flow where flow_name = 'il2';

select * from tasker.check_queue_integrity();
