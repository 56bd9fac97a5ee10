-- Statistics and floors where tables come and go; the check of integrity, which has to find what is broken; and the NOTIFY
-- bridge. The server has the library preloaded.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
set client_min_messages = warning;
create extension if not exists pgtap;
create extension if not exists dblink;
create schema stat;

create function stat.of(flow text) returns text language sql volatile as
$$ select concat_ws(' ', pending, scheduled, processing, completed, failed, cancelled, total) from tasker.get_queue_status(flow) $$;
create function stat.problems() returns setof text language sql volatile as
$$ select format('%s: %s', object, problem) from tasker.check_queue_integrity() $$;
-- Pending records of a day long past, with the partition that they need. Both in one transaction, so that nobody takes the
-- partition for one that may go.
create function stat.past(flow text, day text, records int) returns regclass language plpgsql as
$$
declare
    partition regclass := tasker.create_partition('tasker.queue_record', day);
    base bigint := (extract(epoch from (day || ' 12:00+00')::timestamptz) * 1000)::bigint << 20;
begin
    insert into tasker.queue_record (id, position, flow_id, payload)
    select base + i, base + i, f.flow_id, to_jsonb(i) from generate_series(1, records) i, tasker.flow f where f.flow_name = flow;
    return partition;
end
$$;

select plan(42);
select tasker.create_flow('past', '{"retention": "1 day", "max_attempts": 1}') > 0 as created \gset

-- A partition that is retired takes its records out of the statistics, and nothing else.
select tasker.add_records_to_queue('past', '{1,2}') as added \gset
select stat.past('past', '2001-02-03', 10) as partition \gset
select is(stat.of('past'), '12 0 0 0 0 0 12', 'records of two partitions');
select is(kept_because, '10 unfinished records of flow "past"', 'unfinished records keep their partition, and the view says so')
from tasker.queue_retention where partition = :'partition'::regclass;
select id as first from tasker.claim_records_batch('past', 1) \gset
select ok(tasker.record_id_time(:first) < '2002-01-01', 'the oldest comes first');
select is(tasker.mark_records_completed(array_agg(id)), 7, 'most are completed') from tasker.claim_records_batch('past', 7);
select is(tasker.mark_record_failed(id, 'x'), 'failed', 'one is a dead letter') from tasker.claim_records_batch('past', 1);
select is(tasker.cancel_records(array_agg(id)), 1, 'one is cancelled') from tasker.processing_queue
where flow_name = 'past' and status = 'pending' and created_at < '2002-01-01';
select is(kept_because, '1 unfinished records of flow "past"', 'the last one in processing still keeps it')
from tasker.queue_retention where partition = :'partition'::regclass;
call tasker.run_duty('retire');
select isnt(to_regclass(:'partition'), null, 'and it is not retired');
select is(stat.of('past'), '2 0 1 7 1 1 12', 'all of it counts');
select tasker.alter_flow('past', 'retention', '100 years') as altered \gset
select is(tasker.mark_record_completed(:first), 1, 'the last one is completed');
select is(kept_because, 'retention of flow "past" has not passed', 'now the retention keeps it')
from tasker.queue_retention where partition = :'partition'::regclass;
call tasker.run_duty('retire');
select isnt(to_regclass(:'partition'), null, 'and it is not retired');
select tasker.alter_flow('past', 'retention', '1 day') as altered \gset
-- The background worker may be at it, and a retirement makes way for the making of a partition: until it is done.
do $$
begin
    for i in 1..600 loop
        call tasker.run_duty('retire');
        exit when to_regclass('tasker.queue_record_p20010203') is null;
        perform pg_sleep(0.1);
        commit;
    end loop;
end
$$;
select is(to_regclass(:'partition'), null, 'with the retention passed it is retired');
select is(stat.of('past'), '2 0 0 0 0 0 2', 'the statistics have lost its records, and only those');
select is_empty('select * from stat.problems()', 'floors and statistics agree with the table');
select throws_ok(format('select tasker.retry_records(array[%s])', :first), '42704', null, 'its records are unknown');

-- A dead letter is brought back in time.
select stat.past('past', '2001-03-04', 3) as partition \gset
select is(count(*), 3::bigint, 'three are claimed') from tasker.claim_records_batch('past', 3);
select is(count(tasker.mark_record_failed(id, 'x')), 3::bigint, 'all fail') from tasker.processing_queue
where flow_name = 'past' and status = 'processing';
begin;
select is(tasker.reset_failed_records('past') , 3, 'all are brought back');
commit;
call tasker.run_duty('retire');
select isnt(to_regclass(:'partition'), null, 'a partition with revived records stays');
select is(stat.of('past'), '5 0 0 0 0 0 5', 'and they are pending');

-- A partition that an administrator drops: undone, nothing has changed; done, a rebuild puts the statistics right.
select id as claimed from tasker.claim_records_batch('past', 1) \gset
select stat.of('past') as before \gset
begin;
select format('drop table %s', :'partition') \gexec
rollback;
select is(stat.of('past'), :'before', 'a drop that was rolled back changes nothing');
select is_empty('select * from stat.problems()', 'and leaves nothing wrong');
select format('drop table %s', :'partition') \gexec
select tasker.rebuild_queue_state() as rebuilt \gset
select is((select total from tasker.get_queue_status('past')), (select count(*) from tasker.processing_queue where flow_name = 'past'),
    'after a rebuild the statistics are those of the table');
select is_empty('select * from stat.problems()', 'floors and statistics agree with the table');
select pending as left from tasker.get_queue_status('past') \gset
select is(count(*), :left::bigint, 'what is left can be claimed') from tasker.claim_records_batch('past', 100);

-- What is broken is found. The table is written behind the back of the extension.
select tasker.create_flow('broken') as flow \gset
select tasker.add_records_to_queue('broken', '{1,2,3,4,5,6}') as added \gset
select id as a, tableoid::regclass as partition from tasker.queue_record where flow_id = :flow order by id limit 1 \gset
select id as b from tasker.queue_record where flow_id = :flow order by id desc limit 1 \gset
select is(count(*), 5::bigint, 'five are claimed') from tasker.claim_records_batch('broken', 5);
select is_empty('select * from stat.problems()', 'nothing is wrong yet');
create function stat.behind(statement text) returns void language plpgsql as
$$
begin
    alter table tasker.queue_record disable trigger account_record_change;
    execute statement;
    alter table tasker.queue_record enable always trigger account_record_change;
end
$$;
create function stat.found(pattern text) returns boolean language sql volatile as
$$ select exists (select from stat.problems() p where p like pattern) $$;

begin;
select stat.behind(format('update tasker.queue_record set status = ''p'' where id = %s', :a)) as done \gset
select ok(stat.found('lane (broken, 0, %): it has {2,4,0,0,0} records by status, statistics say {1,5,0,0,0}'), 'wrong counts');
select ok(stat.found('lane (broken, 0, %): its claim floor % hides the pending record at ' || :a), 'a floor that hides a pending record');
rollback;
begin;
select stat.behind(format('update tasker.queue_record set position = 1 where id = %s', :a)) as done \gset
select ok(stat.found('lane (broken, 0, %): its done floor % hides the live record at 1'), 'a done floor that hides a live record');
rollback;
begin;
select stat.behind(format('delete from tasker.queue_record where id = %s', :b)) as done \gset
select ok(stat.found('lane (broken, 0, %): it has {0,5,0,0,0} records by status, statistics say {1,5,0,0,0}'), 'a record that is gone');
rollback;
begin;
update tasker.queue_record set lease_token = null where id = :a;
select ok(stat.found(format('record %s: it is in processing without a lease', :a)), 'a lease without a token');
rollback;
begin;
update tasker.queue_record set status = 'f', retry_count = 0 where id = :a;
select ok(stat.found(format('record %s: it has failed without a failed attempt', :a)), 'a failure without an attempt');
rollback;
begin;
update tasker.queue_record set status = 'c', changed_at = null where id = :a;
select ok(stat.found(format('record %s: it is completed without a time', :a)), 'a completion without a time');
rollback;
begin;
update tasker.queue_record set retry_count = -1 where id = :a;
select ok(stat.found(format('record %s: its number of attempts is negative', :a)), 'negative attempts');
rollback;
begin;
delete from tasker.flow where flow_id = :flow;
select ok(stat.found(format('record %s: its flow does not exist', :a)), 'a record without its flow');
rollback;
begin;
insert into tasker.dedup_key select flow_id, 'k', :a from tasker.flow where flow_name = 'past';
select ok(stat.found('dedup key "k": its record belongs to another flow'), 'a key that names another flow''s record');
rollback;
-- And it is mended by counting anew.
select stat.behind(format('update tasker.queue_record set status = ''p'' where id = %s', :a)) as done \gset
select isnt_empty('select * from stat.problems()', 'broken for good');
select tasker.rebuild_queue_state() as rebuilt \gset
select is_empty('select * from stat.problems()', 'a rebuild mends counts and floors');
select is(count(*), 2::bigint, 'and the hidden record is claimed') from tasker.claim_records_batch('broken', 10);

-- A flow with notify tells those who listen, when the record has been committed.
select dblink_connect('other', format('host=%s port=%s dbname=%s user=%s',
    split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database(), current_user)) as connected \gset
select dblink_exec('other', 'listen "tasker_loud flow"') as listening \gset
select tasker.create_flow('loud flow', '{"notify": true}') > 0 as created \gset
begin;
select tasker.enqueue('loud flow', '1') as undone \gset
rollback;
select tasker.enqueue('loud flow', '2') as told \gset
select tasker.enqueue('past', '3') as silent \gset
select * from dblink('other', 'select 1') as t (roundtrip int) \gset
select results_eq($$select notify_name, extra from dblink_get_notify('other')$$,
    format($$values ('tasker_loud flow'::text, '%s'::text)$$, :told), 'one notification, with the record''s id');
select dblink_disconnect('other') as disconnected \gset

select * from finish();
select tasker.drop_flow(f, true) from unnest('{past,broken,loud flow}'::text[]) f \g /dev/null
drop schema stat cascade;
