-- Statistics: exact by flow and status, in every transaction's own view.
\set VERBOSITY terse
\pset null '(null)'

create function qt.all_status(prefix text)
    returns table (flow text, pending bigint, scheduled bigint, processing bigint, completed bigint, failed bigint,
        cancelled bigint, total bigint, has_oldest boolean)
    language sql volatile as
$$
select s.flow_name, s.pending, s.scheduled, s.processing, s.completed, s.failed, s.cancelled, s.total,
    s.oldest_pending_at is not null
from tasker.get_queue_status() s where s.flow_name like prefix || '%' order by 1
$$;
-- What the table itself says.
create view qt.counted as
select flow_name, count(*) filter (where status = 'pending' and run_at <= clock_timestamp()) as pending,
    count(*) filter (where status = 'pending' and run_at > clock_timestamp()) as scheduled,
    count(*) filter (where status = 'processing') as processing, count(*) filter (where status = 'completed') as completed,
    count(*) filter (where status = 'failed') as failed, count(*) filter (where status = 'cancelled') as cancelled,
    count(*) as total
from tasker.processing_queue group by 1;

-- One of each.
select tasker.create_flow('st_each', '{"max_attempts": 1}') > 0 as has_id;
select tasker.create_flow('st_none') > 0 as has_id;
select tasker.create_flow('st_future') > 0 as has_id;
select qt.add('st_each', 'a', 'b', 'c', 'd', 'e', 'f', 'g');
select tasker.enqueue('st_each', '{"n": "h"}', run_at => now() + interval '1 day') > 0 as enqueued;
select tasker.enqueue('st_future', '{"n": "i"}', 3, now() + interval '1 day') > 0 as enqueued;
select qt.claim('st_each', 4);
select tasker.mark_record_completed(qt.id('st_each', 'a'));
select tasker.mark_record_failed(qt.id('st_each', 'b'), 'x');
select tasker.cancel_records(array[qt.id('st_each', 'e')]);
select * from qt.all_status('st_');
-- One flow, by position and name.
select flow_name, total from tasker.get_queue_status('st_each');
select flow_name, total from tasker.get_queue_status(flow_name => 'st_none');
select count(*) > 3 as all_flows from tasker.get_queue_status(null);
-- The first in line.
select oldest_pending_at = (select created_at from tasker.processing_queue where id = qt.id('st_each', 'f')) as first_due
from tasker.get_queue_status('st_each');
-- A record becomes due by time alone.
select tasker.enqueue('st_due', '{"n": "a"}', run_at => clock_timestamp() + interval '50 ms') > 0 as enqueued;
select pg_sleep(0.06);
select * from qt.status('st_due');

-- Own changes are seen, others' uncommitted ones are not; aborts and savepoints leave nothing.
select qt.add('st_tx', 'a', 'b', 'c', 'd');
begin;
select qt.add('st_tx', 'e');
select qt.claim('st_tx', 2);
select * from qt.status('st_tx');
savepoint s;
select tasker.mark_record_completed(qt.id('st_tx', 'a'));
select tasker.enqueue('st_tx', '{"n": "f"}', 4) > 0 as enqueued;
select tasker.cancel_records(array[qt.id('st_tx', 'd')]);
select * from qt.status('st_tx');
rollback to s;
select * from qt.status('st_tx');
select tasker.mark_record_failed(qt.id('st_tx', 'b'), 'x', '1 hour');
select * from qt.status('st_tx');
release s;
savepoint s2;
select tasker.mark_record_completed(qt.id('st_tx', 'a'));
select qt.try($$select 1/0$$);
rollback to s2;
commit;
select * from qt.status('st_tx');
-- An aborted transaction, by ROLLBACK, by an error, by an error at the very end.
begin;
select qt.add('st_tx', 'x', 'y');
select qt.claim('st_tx', 10);
rollback;
begin;
select qt.add('st_tx', 'x', 'y');
select 1/0;
commit;
create table qt.checked (id int unique deferrable initially deferred);
begin;
select qt.add('st_tx', 'x', 'y');
select qt.claim('st_tx', 2);
insert into qt.checked values (1), (1);
commit;
select * from qt.status('st_tx');

-- Thousands of changes in random savepoints: what the statistics say is what the table says.
create function qt.shuffle(rounds int) returns void language plpgsql as
$$
declare
    id bigint;
begin
    for i in 1..rounds loop
        begin
            perform tasker.add_records_to_queue('st_shuffle', array['1', '2', '3']::jsonb[], i % 3);
            for id in select c.id from tasker.claim_records_batch('st_shuffle', 2) c loop
                case i % 5
                    when 0 then perform tasker.mark_record_completed(id);
                    when 1 then perform tasker.mark_record_failed(id, 'x', '0');
                    when 2 then perform tasker.release_records(array[id]);
                    when 3 then perform tasker.mark_record_failed(id, 'x', '1 hour');
                    else null;
                end case;
                if i % 7 = 0 then
                    begin
                        perform tasker.cleanup_orphaned_records('0', 'st_shuffle');
                        raise division_by_zero;
                    exception when division_by_zero then
                        null;
                    end;
                end if;
            end loop;
            if i % 4 = 0 then
                raise division_by_zero;
            end if;
        exception when division_by_zero then
            null;
        end;
    end loop;
end
$$;
select qt.shuffle(500);
select s.pending = c.pending and s.scheduled = c.scheduled and s.processing = c.processing and s.completed = c.completed
    and s.failed = c.failed and s.cancelled = c.cancelled and s.total = c.total as exact, s.total
from tasker.get_queue_status('st_shuffle') s join qt.counted c using (flow_name);
select * from tasker.check_queue_integrity();

-- Statistics counted anew are the same, and nothing that is pending gets hidden.
select qt.fingerprint() as before \gset
select tasker.rebuild_queue_state();
select qt.fingerprint() = :'before' as unchanged;
select * from tasker.check_queue_integrity();
begin;
select qt.add('st_rebuild', 'a', 'b');
select tasker.rebuild_queue_state();
select qt.claim('st_rebuild', 1);
select tasker.rebuild_queue_state();
select * from qt.status('st_rebuild');
commit;
select * from qt.status('st_rebuild');
begin;
select qt.claim('st_rebuild', 1);
select tasker.rebuild_queue_state();
rollback;
select * from qt.status('st_rebuild');
select qt.claim('st_rebuild', 10);
begin;
savepoint s;
select tasker.rebuild_queue_state();
rollback to s;
select * from qt.status('st_rebuild');
commit;
begin isolation level repeatable read;
select count(*) from pg_class where false;
select tasker.rebuild_queue_state();
select tasker.sweep_queue() >= 0 as swept;
commit;
select * from tasker.check_queue_integrity();

-- Every flow of all tests so far.
select s.flow_name, s.pending + s.scheduled - c.pending - c.scheduled as pending, s.processing - c.processing as processing,
    s.completed - c.completed as completed, s.failed - c.failed as failed, s.cancelled - c.cancelled as cancelled
from tasker.get_queue_status() s left join qt.counted c using (flow_name)
where (s.pending + s.scheduled, s.processing, s.completed, s.failed, s.cancelled, s.total) is distinct from
    (coalesce(c.pending + c.scheduled, 0), coalesce(c.processing, 0), coalesce(c.completed, 0), coalesce(c.failed, 0),
     coalesce(c.cancelled, 0), coalesce(c.total, 0));
