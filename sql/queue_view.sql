-- processing_queue takes INSERT and COPY; the table itself may be written by an administrator's statements, and
-- floors and statistics follow.
\set VERBOSITY terse
\pset null '(null)'

insert into tasker.processing_queue (flow_name, payload) values ('vi', '{"n": 1}'), ('vi', '{"n": 2}');
insert into tasker.processing_queue (flow_name, payload, priority, run_at, retry_count, status)
values ('vi', '{"n": 3}', 7, '2099-01-01', 2, 'pending');
insert into tasker.processing_queue (flow_name, payload) select 'vi', jsonb_build_object('n', i) from generate_series(4, 6) i;
insert into tasker.processing_queue (flow_name, payload) values ('vi', 'null') returning id > 0 as has_id, flow_name, payload;
insert into tasker.processing_queue (flow_name, payload) values ('vi', '{"n": 8}') returning id as returned \gset
select id = :returned as returned from tasker.processing_queue where flow_name = 'vi' and payload ->> 'n' = '8';
copy tasker.processing_queue (flow_name, payload) from stdin;
vi	{"n": 9}
vi	{"n": 10}
\.
copy tasker.processing_queue (payload, priority, flow_name) from stdin with (format csv);
"{""n"": 11}",9,vi
"{""n"": 12}",,vi
\.
select payload, status, priority, retry_count, run_at > now() + interval '1 year' as later
from tasker.processing_queue where flow_name = 'vi' order by id;
select * from qt.status('vi');
select qt.claim('vi', 100);
select * from qt.status('vi');

-- What cannot be inserted; nothing of the statement remains.
select qt.fingerprint() as before \gset
select qt.try('insert into tasker.processing_queue ' || what) from unnest(array[
    $$(payload) values ('{}')$$,
    $$(flow_name) values ('vi')$$,
    $$(flow_name, payload) values (null, '{}')$$,
    $$(flow_name, payload) values ('vi', null)$$,
    $$(flow_name, payload) values ('', '{}')$$,
    $$(flow_name, payload) values (repeat('x', 200), '{}')$$,
    $$(flow_name, payload) values (E'a\nb', '{}')$$,
    $$(flow_name, payload, priority) values ('vi', '{}', -1)$$,
    $$(flow_name, payload, priority) values ('vi', '{}', 10)$$,
    $$(flow_name, payload, priority) values ('vi', '{}', 40000)$$,
    $$(flow_name, payload, status) values ('vi', '{}', 'completed')$$,
    $$(flow_name, payload, status) values ('vi', '{}', 'processing')$$,
    $$(flow_name, payload, status) values ('vi', '{}', '')$$,
    $$(flow_name, payload) values ('vi', '{"n": "good"}'), ('vi', '{"n": "bad", "m": 1}'), (null, '{}')$$,
    $$default values$$]) what;
copy tasker.processing_queue (flow_name, payload) from stdin;
vi	{"n": "good"}
vi	{"n": 
\.
copy tasker.processing_queue (flow_name, payload, priority) from stdin;
vi	{"n": "good"}	1
vi	{"n": "bad"}	77
\.
-- The view is no way around the functions.
select qt.try(what) from unnest(array[
    $$update tasker.processing_queue set status = 'completed' where flow_name = 'vi'$$,
    $$delete from tasker.processing_queue where flow_name = 'vi'$$,
    $$truncate tasker.processing_queue$$,
    $$insert into tasker.dead_letters (flow_name, payload) values ('vi', '{}')$$]) what;
select qt.fingerprint() = :'before' as unchanged;

-- Trigger functions are triggers.
select qt.try(what) from unnest(array['select tasker.insert_into_processing_queue()', 'select tasker.account_record_change()',
    'select tasker.account_truncate()', 'select tasker.account_flow_change()']) what;

-- An administrator's statements on the table: the statistics follow each of them.
select qt.add('vt', 'a', 'b', 'c', 'd', 'e', 'f');
select flow_id from tasker.flow where flow_name = 'vt' \gset
insert into tasker.queue_record (flow_id, payload) values (:flow_id, '{"n": "g"}');
insert into tasker.queue_record (flow_id, payload, status, changed_at) values (:flow_id, '{"n": "h"}', 'c', now());
select * from qt.status('vt');
update tasker.queue_record set status = 'x', changed_at = now() where flow_id = :flow_id and payload ->> 'n' = 'a';
select * from qt.status('vt');
delete from tasker.queue_record where flow_id = :flow_id and payload ->> 'n' in ('b', 'h');
select * from qt.status('vt');
update tasker.queue_record set priority = 5 where flow_id = :flow_id and payload ->> 'n' = 'e';
update tasker.queue_record set position = (select max(position) + 1 from tasker.queue_record where flow_id = :flow_id)
where flow_id = :flow_id and payload ->> 'n' = 'c';
select qt.claim('vt', 10);
-- Back to pending by hand, far below the floor.
update tasker.queue_record set status = 'p' where flow_id = :flow_id and payload ->> 'n' = 'd';
select * from qt.status('vt');
select qt.claim('vt', 10);
-- Moved to another flow by hand, while it is pending.
select tasker.release_records(array[qt.id('vt', 'd')]);
select tasker.create_flow('vt2') as flow2 \gset
update tasker.queue_record set flow_id = :flow2 where flow_id = :flow_id and payload ->> 'n' = 'd';
select * from qt.status('vt');
select qt.claim('vt2', 10);
-- All of it undone, by savepoint and by transaction.
begin;
update tasker.queue_record set status = 'p' where flow_id = :flow_id and status = 'r';
select * from qt.status('vt');
savepoint s;
delete from tasker.queue_record where flow_id = :flow_id;
select * from qt.status('vt');
rollback to s;
select * from qt.status('vt');
rollback;
select * from qt.status('vt');
-- COPY into the table, with ids and positions of its own.
copy (select id, position, flow_id, status, payload from tasker.queue_record where flow_id = :flow_id) to '/dev/null';
select * from tasker.check_queue_integrity();
-- The table's own rules hold for everybody.
select qt.fingerprint() as before \gset
select qt.try(what) from unnest(array[
    $$insert into tasker.queue_record (flow_id, payload, status) values (1, '{}', 'z')$$,
    $$insert into tasker.queue_record (flow_id, payload, priority) values (1, '{}', 10)$$,
    $$insert into tasker.queue_record (flow_id, payload, priority) values (1, '{}', -1)$$,
    $$insert into tasker.queue_record (id, flow_id, payload) select id, flow_id, payload from tasker.queue_record limit 1$$,
    $$update tasker.queue_record set id = null$$]) what;
select qt.fingerprint() = :'before' as unchanged;

-- TRUNCATE of the whole table, undone and done.
create table qt.kept as select * from tasker.queue_record;
begin;
truncate tasker.queue_record;
rollback;
select qt.fingerprint() = :'before' as unchanged;
select * from tasker.check_queue_integrity();
truncate tasker.queue_record;
select coalesce(sum(total), 0) as total from tasker.get_queue_status();
select qt.claim('vt', 10);
select qt.add('vt', 'z');
select * from qt.status('vt');
select qt.claim('vt', 10);
truncate tasker.queue_record;
insert into tasker.queue_record select * from qt.kept;
select qt.fingerprint() = :'before' as unchanged;
select * from tasker.check_queue_integrity();
