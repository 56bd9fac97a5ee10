-- Who may do what. Roles are those of the cluster; each test user has one of them.
\set VERBOSITY terse
\pset null '(null)'
create role regress_producer in role tasker_producer;
create role regress_worker in role tasker_worker;
create role regress_observer in role tasker_observer;
create role regress_admin in role tasker_admin;
create role regress_nobody;
grant usage on schema qt to public;

-- Every call of the queue plane; the arguments do no harm, or are refused later than the right to call.
create table qt.call (number int generated always as identity, call text);
grant select on qt.call to public;
insert into qt.call (call) select unnest(array[
    $$select tasker.create_flow('ri_new')$$,
    $$select tasker.alter_flow('ri', 'max_attempts', '3')$$,
    $$select tasker.pause_flow('ri')$$,
    $$select tasker.resume_flow('ri')$$,
    $$select tasker.drop_flow('ri_new')$$,
    $$select tasker.enqueue('ri', '{}')$$,
    $$select tasker.enqueue('ri', '{}', 1)$$,
    $$select tasker.enqueue('ri', '{}', dedup_key => 'k')$$,
    $$select tasker.enqueue('ri_auto', '{}')$$,
    $$select tasker.add_records_to_queue('ri', '{1,2}')$$,
    $$select tasker.add_records_to_queue('ri', '{1,2}', 1)$$,
    $$insert into tasker.processing_queue (flow_name, payload) values ('ri', '{}')$$,
    $$select tasker.cancel_records('{}')$$,
    $$select count(*) from tasker.claim_records_batch('ri', 1)$$,
    $$select tasker.mark_record_completed(17)$$,
    $$select tasker.mark_records_completed('{}')$$,
    $$select tasker.mark_record_failed(17, 'x')$$,
    $$select tasker.extend_lease('{}', '1 hour')$$,
    $$select tasker.release_records('{}')$$,
    $$call tasker.wait_for_records('ri', '0')$$,
    $$select total >= 0 from tasker.get_queue_status('ri')$$,
    $$select count(*) >= 0 from tasker.get_queue_status()$$,
    $$select tasker.cleanup_orphaned_records('1 day')$$,
    $$select tasker.reset_failed_records('ri')$$,
    $$select tasker.retry_records('{}')$$,
    $$select tasker.purge_failed_records('ri', '1 day')$$,
    $$select tasker.sweep_queue() >= 0$$,
    $$select tasker.rebuild_queue_state()$$,
    $$select count(*) from tasker.check_queue_integrity()$$,
    $$select count(*) >= 0 from tasker.queue_lanes()$$,
    $$select tasker.partition_retention(max(inhrelid::regclass)) is null from pg_inherits where inhparent::regclass::text = 'tasker.queue_record'$$,
    $$select tasker.next_record_id() > 0$$,
    $$select tasker.record_id_time(0)$$,
    $$select count(*) > 0 from tasker.processing_queue$$,
    $$select count(*) from tasker.dead_letters$$,
    $$select count(*) > 0 from tasker.queue_retention$$,
    $$select count(*) > 0 from tasker.flow$$,
    $$select count(*) from tasker.dedup_key$$,
    $$select count(*) from tasker.queue_record$$,
    $$insert into tasker.queue_record (flow_id, payload) values (1, '{}')$$,
    $$update tasker.queue_record set status = 'c'$$,
    $$delete from tasker.queue_record$$,
    $$truncate tasker.queue_record$$,
    $$insert into tasker.flow (flow_name) values ('ri_direct')$$,
    $$update tasker.flow set paused = true$$,
    $$delete from tasker.flow$$,
    $$delete from tasker.dedup_key$$,
    $$update tasker.processing_queue set status = 'completed'$$,
    $$delete from tasker.processing_queue$$,
    $$insert into tasker.dead_letters (flow_name, payload) values ('ri', '{}')$$,
    $$select nextval('tasker.record_id_seq')$$,
    $$select nextval('tasker.flow_flow_id_seq')$$,
    $$select tasker._create_roles()$$,
    $$create table tasker.mine (i int)$$]);

-- May the role make the call? Everything but "permission denied" is a yes.
create function qt.may(role name, call text) returns text language plpgsql as
$$
begin
    execute format('set local role %I', role);
    begin
        execute call;
        raise exception 'undone' using errcode = 'YYYYY';
    exception
        when insufficient_privilege then
            return '-';
        when object_not_in_prerequisite_state then -- "cannot update view" comes before the check of rights
            return case when sqlerrm like 'cannot % view%' then '-' else 'yes' end;
        when others then
            return 'yes';
    end;
end
$$;
select tasker.create_flow('ri') > 0 as has_id;
select qt.add('ri', 'a');
select call,
    (select qt.may('regress_producer', call)) as producer, (select qt.may('regress_worker', call)) as worker,
    (select qt.may('regress_observer', call)) as observer, (select qt.may('regress_admin', call)) as admin,
    (select qt.may('regress_nobody', call)) as nobody
from qt.call order by number;

-- The calls work for those who may: a record's life with the least rights at each step.
set role regress_producer;
select tasker.enqueue('ri_life', '{"n": "a"}') > 0 as enqueued;
select tasker.enqueue('ri_life', '{"n": "b"}', 1, now(), 'key', '1 hour') as keyed \gset
select tasker.enqueue('ri_life', '{"n": "b"}', 1, now(), 'key', '1 hour') = :keyed as same;
select tasker.add_records_to_queue('ri_life', '{1,2}');
insert into tasker.processing_queue (flow_name, payload) values ('ri_life', '{"n": "c"}');
copy tasker.processing_queue (flow_name, payload) from stdin;
ri_life	{"n": "d"}
\.
insert into tasker.processing_queue (flow_name, payload) values ('ri_auto', '{"n": "e"}');
select tasker.cancel_records(array[:keyed]);
select total from tasker.get_queue_status('ri_life');
-- The view cannot be read by who may only insert; nor by the way of RETURNING.
select count(*) from tasker.processing_queue;
insert into tasker.processing_queue (flow_name, payload) values ('ri_life', '{}') returning id;
set role regress_worker;
select id as claimed, lease_token as token from tasker.claim_records_batch('ri_life', 1) \gset
select tasker.extend_lease(array[:claimed], '10 minutes', array[:token]);
select tasker.mark_record_completed(:claimed, '{"ok": true}', :token);
select id as claimed from tasker.claim_records_batch('ri_life', 1) \gset
select tasker.release_records(array[:claimed]);
select id as claimed from tasker.claim_records_batch('ri_life', 1) \gset
select tasker.mark_record_failed(:claimed, 'x', '0');
select id as claimed from tasker.claim_records_batch('ri_life', 1) \gset
select tasker.mark_records_completed(array[:claimed]);
call tasker.wait_for_records('ri_life', '0');
set role regress_observer;
select flow_name, pending, processing, completed, cancelled, total from tasker.get_queue_status('ri_life');
select payload, status, result from tasker.processing_queue where flow_name = 'ri_life' order by id;
select count(*) from tasker.dead_letters where flow_name = 'ri_life';
select * from tasker.check_queue_integrity();
select count(*) > 0 as partitions, count(kept_because) > 0 as kept from tasker.queue_retention;
set role regress_admin;
select tasker.create_flow('ri_admin', '{"max_attempts": 1}') > 0 as has_id;
select tasker.alter_flow('ri_admin', 'lease', '1 minute');
select tasker.pause_flow('ri_admin');
select tasker.resume_flow('ri_admin');
select tasker.enqueue('ri_admin', '{"n": 1}') as id \gset
select count(*) from tasker.claim_records_batch('ri_admin', 1);
select tasker.mark_record_failed(:id, 'x');
select tasker.retry_records(array[:id]);
select count(*) from tasker.claim_records_batch('ri_admin', 1);
select tasker.cleanup_orphaned_records('0', 'ri_admin');
select tasker.reset_failed_records('ri_admin');
select count(*) from tasker.claim_records_batch('ri_admin', 1);
select tasker.mark_record_failed(:id, 'x');
select tasker.purge_failed_records('ri_admin', '0');
select tasker.drop_flow('ri_admin');
reset role;

-- Objects of the caller do not slip in: neither by search_path nor by operators and casts of theirs.
set role regress_producer;
create temp table queue_record (id bigint, payload jsonb);
create temp table flow (flow_id int, flow_name text, paused boolean);
create temp table dedup_key (flow_id int, dedup_key text, record_id bigint, expires_at timestamptz);
set search_path = pg_temp, pg_catalog;
select tasker.enqueue('ri_path', '{"n": 1}', dedup_key => 'k') > 0 as enqueued;
select (select count(*) from pg_temp.queue_record) as records, (select count(*) from pg_temp.flow) as flows,
    (select count(*) from pg_temp.dedup_key) as keys;
reset search_path;
drop table pg_temp.queue_record, pg_temp.flow, pg_temp.dedup_key;
-- The caller is himself again after each call, and after an error.
select tasker.enqueue('ri_path', '{}', dedup_key => repeat('x', 2000));
select current_user, session_user = current_user as session, current_setting('search_path');
select tasker.alter_flow('ri', 'lease', '1 s');
set role regress_admin;
select tasker.alter_flow('ri', 'lease', 'x');
select current_user, current_setting('search_path');
begin;
savepoint s;
select tasker.alter_flow('ri', 'lease', 'x');
rollback to s;
select current_user, current_setting('search_path');
commit;
reset role;
-- A settings value is read under the owner's rights: it must not run the caller's code.
create schema regress_evil authorization regress_admin;
set role regress_admin;
create function regress_evil.interval_in(text) returns interval language sql as $$ select '1 s'::interval $$;
set search_path = regress_evil, pg_catalog;
select tasker.alter_flow('ri', 'lease', '2 minutes');
reset search_path;
reset role;
select lease from tasker.flow where flow_name = 'ri';

drop schema regress_evil cascade;
revoke usage on schema qt from public;
revoke select on qt.call from public;
drop role regress_producer, regress_worker, regress_observer, regress_admin, regress_nobody;
select * from tasker.check_queue_integrity();
