-- What a record costs in its table: all changes of its state are HOT updates, and two index entries serve it for life,
-- also while somebody else's old snapshot keeps every former version of its row.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
set client_min_messages = warning;
create extension if not exists pgtap;
create extension if not exists pgstattuple;
create extension if not exists dblink;

-- Everything happens in today's partition (or tomorrow's, at midnight): counters are summed over all of them.
create schema storage;
create function storage.counters(out updates bigint, out hot bigint, out entries bigint) language sql volatile as
$$
select sum(n_tup_upd)::bigint, sum(n_tup_hot_upd)::bigint,
    (select sum(t.tuple_count + t.dead_tuple_count)::bigint
     from pg_inherits i join pg_index x on x.indrelid = i.inhrelid, lateral pgstattuple(x.indexrelid) t
     where i.inhparent = 'tasker.queue_record'::regclass)
from pg_stat_user_tables s join pg_inherits i on i.inhrelid = s.relid
where i.inhparent = 'tasker.queue_record'::regclass
$$;
create table storage.measured (what text, records int, updates bigint, hot bigint, entries bigint);

-- Autovacuum would change what is counted while it is counted.
create function storage.calm() returns void language plpgsql as
$$
declare
    partition regclass;
begin
    for partition in select inhrelid from pg_inherits where inhparent = 'tasker.queue_record'::regclass loop
        execute format('alter table %s set (autovacuum_enabled = off)', partition);
    end loop;
end
$$;

-- The life of so many records with payloads of so many bytes: added one by one or as an array, claimed and reported in
-- batches of ten, a lease extended in between. Each step is a transaction.
create procedure storage.live(records int, bytes int, result jsonb) language plpgsql as
$$
declare
    payload jsonb := jsonb_build_object('x', repeat('x', greatest(bytes - 9, 0)));
    ids bigint[];
begin
    for i in 1..records / 2 loop
        perform tasker.enqueue('storage', payload);
        if i % 100 = 0 then
            commit;
        end if;
    end loop;
    perform tasker.add_records_to_queue('storage', array_fill(payload, array[records - records / 2]));
    commit;
    loop
        ids := array(select id from tasker.claim_records_batch('storage', 10));
        commit;
        exit when ids = '{}';
        perform tasker.extend_lease(ids[1:1], '2 hours');
        perform tasker.mark_records_completed(ids, array_fill(result, array[cardinality(ids)]));
        commit;
    end loop;
end
$$;

-- Counters reach the statistics when a session's statement has ended, and are asked for in the next one.
create view storage.now as select c.* from pg_stat_force_next_flush(), storage.counters() c;
create function storage.measure(what text, records int, before storage.now) returns void language sql volatile as
$$
insert into storage.measured
select measure.what, measure.records, n.updates - (before).updates, n.hot - (before).hot, n.entries - (before).entries
from storage.now n
$$;

select plan(20);
select tasker.create_flow('storage') > 0 as created \gset
select tasker.enqueue('storage', '{}') > 0 as enqueued \gset
select storage.calm() as done \gset
-- Entries of rows that others have deleted would go away while ours are counted.
vacuum (index_cleanup on) tasker.queue_record;
select n as before from storage.now n \gset
call storage.live(1000, 0, null);
select pg_stat_force_next_flush() as flushed \gset
select storage.measure('no payload', 1000, :'before') as done \gset
select n as before from storage.now n \gset
call storage.live(1000, 100, null);
select pg_stat_force_next_flush() as flushed \gset
select storage.measure('100 bytes', 1000, :'before') as done \gset
select n as before from storage.now n \gset
call storage.live(1000, 250, '{"ok": true}');
select pg_stat_force_next_flush() as flushed \gset
select storage.measure('250 bytes', 1000, :'before') as done \gset
select n as before from storage.now n \gset
call storage.live(1000, 500, '{"ok": true}');
select pg_stat_force_next_flush() as flushed \gset
select storage.measure('500 bytes', 1000, :'before') as done \gset
-- A snapshot from now on: no former version can be removed.
select dblink_connect('other', format('host=%s port=%s dbname=%s user=%s',
    split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user)) as connected \gset
select dblink_exec('other', 'begin isolation level repeatable read') as began \gset
select * from dblink('other', 'select count(*) from pg_class') as t (held bigint) \gset
select n as before from storage.now n \gset
call storage.live(1000, 100, null);
select pg_stat_force_next_flush() as flushed \gset
select storage.measure('100 bytes, old snapshot', 1000, :'before') as done \gset
select n as before from storage.now n \gset
call storage.live(1000, 500, '{"ok": true}');
select pg_stat_force_next_flush() as flushed \gset
select storage.measure('500 bytes, old snapshot', 1000, :'before') as done \gset
select dblink_disconnect('other') as disconnected \gset

select cmp_ok(updates, '>=', 2 * records::bigint, format('%s: %s records, %s updates', what, records, updates))
from storage.measured;
select cmp_ok(hot::numeric / updates, '>=', 0.98, format('%s: %s of %s updates are HOT', what, hot, updates))
from storage.measured;
select is(entries, 2 * records::bigint, format('%s: two index entries a record for life', what)) from storage.measured;

-- A retry moves its record, and takes one entry more in the one index that knows positions.
select storage.calm();
select tasker.create_flow('storage_retry', '{"backoff_base": "0"}') > 0 as created \gset
select entries as before from storage.counters() \gset
select tasker.enqueue('storage_retry', '{}') as id \gset
select count(*) as claimed from tasker.claim_records_batch('storage_retry') \gset
select tasker.mark_record_failed(:id, 'x', '1 hour') as failed \gset
select is(entries - :before, 4::bigint, 'an update that is not HOT makes a new entry in both indexes') from storage.counters();
select tasker.enqueue('storage_retry', '{}') as id \gset
select entries as before from storage.counters() \gset
select count(*) as claimed from tasker.claim_records_batch('storage_retry') \gset
select tasker.release_records(array[:id]) as released \gset
select count(*) as claimed from tasker.claim_records_batch('storage_retry') \gset
select is(entries, :before::bigint, 'a release moves nothing') from storage.counters();

select * from finish();
select tasker.drop_flow('storage', true) as dropped \gset
select tasker.drop_flow('storage_retry', true) as dropped \gset
drop schema storage cascade;
