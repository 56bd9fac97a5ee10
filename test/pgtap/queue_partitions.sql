-- Partitions that an administrator drops or detaches by hand: undone, nothing has changed, whatever the transaction did
-- besides; done, the sweep puts the statistics right. And such a transaction can have partitions made, without waiting for itself.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
set client_min_messages = warning;
create extension if not exists pgtap;
create extension if not exists dblink;
create schema part;

create function part.status() returns text language sql volatile as
$$ select concat_ws(' ', pending, scheduled, processing, completed, total) from tasker.get_queue_status('by hand') $$;
-- Pending records of a day long past, with the partition that they need. Both in one transaction, so that nobody takes the
-- partition for one that may go; its last record is due in a hundred years and keeps it.
create function part.past(day text, records int) returns regclass language plpgsql as
$$
declare
    partition regclass := tasker.create_partition('tasker.queue_record', day);
    base bigint := (extract(epoch from (day || ' 12:00+00')::timestamptz) * 1000)::bigint << 20;
begin
    insert into tasker.queue_record (id, position, flow_id, payload)
    select base + i, base + i + case when i = records then (3155760000000::bigint << 20) else 0 end, f.flow_id, to_jsonb(i)
    from generate_series(1, records) i, tasker.flow f where f.flow_name = 'by hand';
    return partition;
end
$$;
-- Does the session come to wait for another's making of partitions?
create function part.comes_to_wait(pid int) returns boolean language plpgsql as
$$
begin
    for i in 1..1000 loop
        if exists (select from pg_locks l where l.pid = comes_to_wait.pid and locktype = 'advisory' and not granted) then
            return true;
        end if;
        perform pg_sleep(0.01);
    end loop;
    return false;
end
$$;

select plan(34);
select tasker.create_flow('by hand') > 0 as created \gset
select tasker.add_records_to_queue('by hand', '{1,2}') as added \gset
select part.past('2001-04-05', 4) as partition \gset
select is(part.status(), '5 1 0 0 6', 'records of two partitions');

begin;
select is(count(*), 2::bigint, 'a transaction claims from a partition') from tasker.claim_records_batch('by hand', 2);
select format('drop table %s', :'partition') \gexec
select is(count(*), 2::bigint, 'drops it, and claims what is elsewhere') from tasker.claim_records_batch('by hand', 100);
select tasker.sweep_queue() as swept \gset
select tasker.enqueue('by hand', '{}', 5) as added \gset
rollback;
select is(part.status(), '5 1 0 0 6', 'rolled back, it has changed nothing');
select is_empty('select * from tasker.check_queue_integrity()', 'and has left nothing wrong');

begin;
savepoint s;
select format('drop table %s', :'partition') \gexec
select is(count(*), 2::bigint, 'after a drop the other partition is claimed from') from tasker.claim_records_batch('by hand', 100);
rollback to s;
select is(count(*), 3::bigint, 'and this one again when the drop is undone') from tasker.claim_records_batch('by hand', 3)
where created_at < '2002-01-01';
rollback;
select is_empty('select * from tasker.check_queue_integrity()', 'nothing is wrong');

begin;
select is(count(*), 1::bigint, 'a transaction claims from a partition') from tasker.claim_records_batch('by hand', 1);
select format('alter table tasker.queue_record detach partition %s', :'partition') \gexec
select tasker.sweep_queue() as swept \gset
select tasker.enqueue('by hand', '{}', 5) as added \gset
commit;
select tasker.sweep_queue() as swept \gset
select is(part.status(), '3 0 0 0 3', 'detached, its records count no more; what was added besides does');
select is_empty('select * from tasker.check_queue_integrity()', 'floors and statistics agree with the table');
select format('drop table %s', :'partition') \gexec

select part.past('2001-05-06', 5) as partition \gset
select is(tasker.mark_records_completed(array_agg(id)), 5, 'records of several partitions are completed')
from tasker.claim_records_batch('by hand', 5);
select is(part.status(), '2 1 0 5 8', 'all of it counts');
select format('drop table %s', :'partition') \gexec
select tasker.sweep_queue() as swept \gset
select is(part.status(), '2 0 0 1 3', 'dropped, its finished records count no more');
select is_empty('select * from tasker.check_queue_integrity()', 'floors and statistics agree with the table');
select is(count(*), 2::bigint, 'what is left can be claimed') from tasker.claim_records_batch('by hand', 100);

-- A transaction that holds the parent exclusively needs a partition. The worker cannot come in; it makes it itself.
set statement_timeout = '20 s';
select q.tableoid::regclass as current, part.status() as before from tasker.queue_record q join tasker.flow using (flow_id)
where flow_name = 'by hand' order by id desc limit 1 \gset
begin;
select format('drop table %s', :'current') \gexec
select ok(tasker.enqueue('by hand', '1') > 0, 'a transaction that has dropped the current partition adds a record');
select is(tasker.add_records_to_queue('by hand', '{2,3}'), 2, 'and more');
select is(count(*), 3::bigint, 'and claims them') from tasker.claim_records_batch('by hand', 100);
select isnt(tasker.create_partition('tasker.queue_record', '2003-01-01'), null, 'it has another partition made');
select isnt(tasker.create_partition('tasker.queue_record', '2003-01-02'), null, 'and one more');
rollback;
select is(part.status(), :'before', 'rolled back, it has changed nothing');
select is_empty('select * from tasker.check_queue_integrity()', 'and has left nothing wrong');

begin;
select format('alter table tasker.queue_record detach partition %s', :'current') \gexec
select ok(tasker.enqueue('by hand', '1') > 0, 'a transaction that has detached the current partition adds a record');
insert into tasker.processing_queue (flow_name, payload) values ('by hand', '2');
commit;
select tasker.sweep_queue() as swept \gset
select is(part.status(), '2 0 0 0 2', 'only what was added counts');
select is_empty('select * from tasker.check_queue_integrity()', 'floors and statistics agree with the table');
select is(count(*), 2::bigint, 'and can be claimed') from tasker.claim_records_batch('by hand', 100);
select format('drop table %s', :'current') \gexec

-- Somebody else wants the same partition meanwhile: he gets the one that this transaction has made.
select dblink_connect('other', format('host=%s port=%s dbname=%s user=%s',
    split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user)) as connected \gset
select pid as other from dblink('other', 'select pg_backend_pid()') as t (pid int) \gset
begin;
lock table tasker.queue_record in share update exclusive mode;
select tasker.create_partition('tasker.queue_record', '2003-01-03') as made \gset
select dblink_send_query('other', $$select tasker.create_partition('tasker.queue_record', '2003-01-03')$$) as sent \gset
select ok(part.comes_to_wait(:other), 'who wants the same partition waits');
commit;
select is(name, :'made', 'and gets it') from dblink_get_result('other') as t (name text);
select dblink_disconnect('other') as disconnected \gset

-- Records of flows that do not exist, finished and written by hand: they count for nobody, and
-- their partition is sealed like any other.
select tasker.alter_flow('by hand', 'retention', '100 years') as altered \gset
begin;
select tasker.create_partition('tasker.queue_record', '2002-03-04') as partition \gset
insert into tasker.queue_record (id, position, flow_id, status, changed_at, payload)
select base + i, base + i, f, 'c', now(), '1' from (values ((extract(epoch from '2002-03-04 12:00+00'::timestamptz) * 1000)::bigint << 20)) b (base),
    unnest(array[0, -1, (select flow_id from tasker.flow where flow_name = 'by hand')]) with ordinality f (f, i);
commit;
call tasker.run_duty('seal');
select results_eq(format('select priority, completed from tasker.sealed_partition where partition = %s and flow_id <= 0 order by flow_id, priority',
    :'partition'::regclass::oid), 'values (0, 1::bigint), (-1, 0), (0, 1)', 'a partition with records of flow 0 is sealed');
select is_empty('select * from tasker.check_queue_integrity()', 'and nothing is wrong');
select tasker.rebuild_queue_state() as rebuilt \gset
select is_empty('select * from tasker.check_queue_integrity()', 'nor after a rebuild');
select is(completed, 1::bigint, 'only the record of a flow counts') from tasker.get_queue_status('by hand');
delete from tasker.queue_record where flow_id <= 0;
select tasker.drop_flow('by hand', true) as dropped \gset
select is_empty('select * from tasker.check_queue_integrity()', 'and dropped');
select * from finish();
drop schema part cascade;
