-- Partitions that an administrator drops or detaches by hand: undone, nothing has changed, whatever the transaction did
-- besides; done, the sweep puts the statistics right.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
set client_min_messages = warning;
create extension if not exists pgtap;
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

select plan(17);
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
select tasker.drop_flow('by hand', true) as dropped \gset
select is_empty('select * from tasker.check_queue_integrity()', 'and dropped');
select * from finish();
drop schema part cascade;
