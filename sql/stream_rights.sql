-- Who may produce into which queue, consume from it, and see it.
\set VERBOSITY terse
\pset null '(null)'
set client_min_messages = warning;
create extension if not exists tasker;
create schema sr;
create role regress_sr_admin in role tasker_admin;
create role regress_sr_producers in role tasker_producer;
create role regress_sr_workers in role tasker_worker;
create role regress_sr_observer in role tasker_observer;
create role regress_sr_nobody;
create role regress_sr_stranger;
create role regress_sr_producer;
create role regress_sr_consumer;
create role regress_sr_both;
grant usage on schema sr to public;

-- Two queues, each with a consumer, its open batch and events in it.
select tasker.create_queue(name) from unnest('{sr_mine,sr_other}'::text[]) name;
select tasker.register_consumer(name, 'sr_consumer') from unnest('{sr_mine,sr_other}'::text[]) name;
select count(tasker.send(name, n::text)) from unnest('{sr_mine,sr_other}'::text[]) name, generate_series(1, 3) n;
-- A worker may make ticks as well, also in between: the first batch that has an event.
create function sr.open_batch(queue text) returns bigint language plpgsql as
$$
declare
    batch bigint;
begin
    loop
        perform tasker.force_tick(queue), tasker.ticker(queue);
        batch := tasker.next_batch(queue, 'sr_consumer');
        if batch is not null then
            exit when exists (select from tasker.get_batch_events(batch));
            perform tasker.finish_batch(batch);
        end if;
    end loop;
    return batch;
end
$$;
create table sr.batch as
select name, sr.open_batch(name) as id from unnest('{sr_mine,sr_other}'::text[]) name;
grant select on sr.batch to public;
select tasker.event_dead(b.id, e.ev_id, 'given up') from sr.batch b, lateral (select min(ev_id) as ev_id from tasker.get_batch_events(b.id)) e;
create table sr.letter as select q.queue_name as name, d.dl_id as id from tasker.dead_letter d join tasker.queue q on q.queue_id = d.dl_queue_id;

-- The stream's routines: those that name a queue or a batch. A call is made for each, from the names and types of its
-- arguments, so that one that is added is tested as well.
create function sr.is_queue(name text) returns boolean language sql immutable as
$$ select name ~ '^([a-z]_)?(queue|queue_name|batch_id|dead_letter_id)$' $$;
create view sr.argument as
select p.oid as routine, a.number, a.name, a.type::regtype as type
from pg_proc p, rows from (unnest(p.proargnames), unnest(p.proargmodes), unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])))
    with ordinality a(name, mode, type, number)
where p.pronamespace = 'tasker'::regnamespace and coalesce(a.mode, 'i') in ('i', 'b', 'v');
create function sr.value(name text, type regtype, queue text, routine oid) returns text language sql as
$$
select case
    when sr.is_queue(name) and type = 'text'::regtype then quote_literal(queue)
    when (select prokind = 'p' from pg_proc where oid = routine) and name = 'batch_id' then 'null' -- a result
    when name = 'dead_letter_id' then (select id::text from sr.letter l where l.name = queue)
    when sr.is_queue(name) then (select id::text from sr.batch b where b.name = queue)
    when name ~ 'cursor' then '''sr_cursor'''
    when name ~ 'consumer' then '''sr_consumer'''
    when name ~ 'role' then '''regress_sr_nobody'''
    when name ~ 'privilege' then '''produce'''
    when name ~ 'setting|param_name' then '''ticker_max_count'''
    when name ~ 'param_value' then '''500'''
    when type = 'text'::regtype and name ~ 'where' then 'null'
    when type = 'text'::regtype then '''x'''
    when type in ('integer'::regtype, 'bigint'::regtype) then '1'
    when type = 'interval'::regtype then '''1 second'''
    when type = 'timestamptz'::regtype then 'now()'
    when type = 'boolean'::regtype then 'false'
    when type in ('jsonb'::regtype, 'json'::regtype) then '''{}'''
    when type in ('text[]'::regtype, 'jsonb[]'::regtype, 'bigint[]'::regtype) then '''{1}'''
    else 'null' end || '::' || type
$$;
create function sr.call(routine oid, queue text) returns text language sql as
$$
select format('%s tasker.%I(%s)', case p.prokind when 'p' then 'call' else 'select * from' end, p.proname,
    (select string_agg(sr.value(a.name, a.type, queue, routine), ', ' order by number) from sr.argument a where a.routine = p.oid))
from pg_proc p where p.oid = routine
$$;
create view sr.routine as
select p.oid as routine, p.oid::regprocedure::text as name, p.proname,
    exists (select from aclexplode(p.proacl) where grantee::regrole::text = 'tasker_producer') as for_producers,
    exists (select from aclexplode(p.proacl) where grantee::regrole::text = 'tasker_worker') as for_workers
from pg_proc p
where p.pronamespace = 'tasker'::regnamespace and p.prorettype <> 'trigger'::regtype and p.prokind = 'f'
    and exists (select from sr.argument a where a.routine = p.oid and sr.is_queue(a.name));
select count(*) >= 40 as many, count(*) filter (where for_producers) >= 10 as produce,
    count(*) filter (where for_workers) >= 12 as consume from sr.routine;

-- SQLSTATE of a call, which leaves nothing behind; "rows" and "no rows" where there was no error.
create function sr.outcome(role name, call text) returns text language plpgsql as
$$
declare
    found_rows bigint := 0;
begin
    execute format('set local role %I', role);
    begin
        execute call;
        get diagnostics found_rows = row_count;
        raise exception 'undone' using errcode = 'YYYYY';
    exception
        when sqlstate 'YYYYY' then
            reset role;
            return case when found_rows = 0 then 'no rows' else 'rows' end;
        when others then
            reset role;
            return sqlstate;
    end;
end
$$;
create function sr.unexpected(role name, queue text, which text) returns table (routine text, outcome text)
    language plpgsql as
$$
begin
    return query execute format('select name, outcome from (select r.name, r.proname, sr.outcome(%L, sr.call(r.routine, %L)) as outcome '
        'from sr.routine r where %s) o where outcome <> ''42501'' and (outcome <> ''no rows'' or proname !~ ''^get_(queue|consumer)_info$'') '
        'order by 1', role, queue, which);
end
$$;

-- Nobody may call anything, and even who may call everything has no right on a queue. (Maintenance is by the right to call.)
select * from sr.unexpected('regress_sr_nobody', 'sr_mine', 'true');
grant usage on schema tasker to regress_sr_stranger;
grant execute on all functions in schema tasker to regress_sr_stranger;
grant execute on all procedures in schema tasker to regress_sr_stranger;
select * from sr.unexpected('regress_sr_stranger', 'sr_mine', 'proname !~ ''^(create_queue|create_log_queue|maint_.*)$''');
revoke all on all functions in schema tasker from regress_sr_stranger;
revoke all on all procedures in schema tasker from regress_sr_stranger;

-- Who was granted one queue gets no other, and one right gives not the other one.
set role regress_sr_admin;
select tasker.grant_queue('sr_mine', 'regress_sr_producer', 'produce');
select tasker.grant_queue('sr_mine', 'regress_sr_producer', 'produce') as again;
select tasker.grant_queue('sr_mine', 'regress_sr_consumer', 'consume');
select tasker.grant_queue('sr_mine', 'regress_sr_both', 'produce'), tasker.grant_queue('sr_other', 'regress_sr_both', 'consume');
reset role;
select * from sr.unexpected('regress_sr_producer', 'sr_other', 'true');
select * from sr.unexpected('regress_sr_producer', 'sr_mine', 'not for_producers');
select * from sr.unexpected('regress_sr_consumer', 'sr_other', 'true');
select * from sr.unexpected('regress_sr_consumer', 'sr_mine', 'not for_workers');
select * from sr.unexpected('regress_sr_both', 'sr_other', 'for_producers and not for_workers');
select * from sr.unexpected('regress_sr_both', 'sr_mine', 'for_workers and not for_producers');
-- What they were granted, they have: each routine of theirs, on their queue.
select r.name, u.role, u.queue from sr.routine r,
    (values ('regress_sr_producer', 'sr_mine', true), ('regress_sr_both', 'sr_mine', true), ('regress_sr_producers', 'sr_other', true),
        ('regress_sr_consumer', 'sr_mine', false), ('regress_sr_both', 'sr_other', false), ('regress_sr_workers', 'sr_other', false)) u(role, queue, produce)
where case when produce then for_producers else for_workers end
    and sr.outcome(u.role, sr.call(r.routine, u.queue)) = '42501';
select r.name, sr.outcome('regress_sr_admin', sr.call(r.routine, 'sr_mine')) from sr.routine r
where sr.outcome('regress_sr_admin', sr.call(r.routine, 'sr_mine')) = '42501';
-- Procedures, which are called on their own.
create table sr.call_of as
select sr.call(p.oid, 'sr_other') as call from pg_proc p
where p.pronamespace = 'tasker'::regnamespace and p.prokind = 'p'
    and exists (select from sr.argument a where a.routine = p.oid and sr.is_queue(a.name));
grant select on sr.call_of to public;
set role regress_sr_consumer;
select call from sr.call_of order by call \gexec
call tasker.wait_for_batch('sr_mine', 'sr_consumer', '0', null) \gset
select :batch_id = id as own_batch from sr.batch where name = 'sr_mine';
reset role;
-- The group roles: each its part.
select * from sr.unexpected('regress_sr_producers', 'sr_mine', 'not for_producers');
select * from sr.unexpected('regress_sr_workers', 'sr_mine', 'not for_workers');

-- Tables, views and sequences: nothing for producers and consumers of a queue; looking is for observers.
select c.oid::regclass, r.role from pg_class c, unnest('{nobody,producer,consumer,both,stranger}'::text[]) r(role)
where c.relnamespace = 'tasker'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S') and case when c.relkind = 'S'
    then has_sequence_privilege('regress_sr_' || r.role, c.oid, 'usage, select, update')
    else has_table_privilege('regress_sr_' || r.role, c.oid, 'select, insert, update, delete, truncate, references, trigger')
        or has_any_column_privilege('regress_sr_' || r.role, c.oid, 'select, insert, update, references') end;
select c.oid::regclass, r.role from pg_class c, unnest('{producers,workers,observer}'::text[]) r(role)
where c.relnamespace = 'tasker'::regnamespace and c.relname ~ '^event_\d' and c.relkind = 'r'
    and has_table_privilege('regress_sr_' || r.role, c.oid, 'select, insert, update, delete, truncate');

-- What is seen: one's own.
set role regress_sr_consumer;
select queue_name from tasker.get_queue_info();
select queue_name, consumer_name from tasker.get_consumer_info();
select queue_name from tasker.get_queue_info('sr_other');
select queue_name from tasker.get_consumer_info('sr_other', 'sr_consumer');
select queue_name from tasker.get_batch_info((select id from sr.batch where name = 'sr_mine'));
select queue_name from tasker.get_batch_info((select id from sr.batch where name = 'sr_other'));
set role regress_sr_observer;
select count(*) from tasker.get_queue_info() where queue_name ~ '^sr_';
select count(*) from tasker.get_consumer_info() where queue_name ~ '^sr_';
select tasker.next_batch('sr_mine', 'sr_consumer');
reset role;

-- A stranger does not hold up a consumer by asking for its batch.
begin;
set local role regress_sr_consumer;
savepoint s;
select tasker.finish_batch((select id from sr.batch where name = 'sr_other'));
rollback to s;
reset role;
select count(*) as locks from pg_locks l join tasker.registration r on l.objid = r.sub_key::oid
where locktype = 'object' and classid = 'tasker.registration'::regclass and pid = pg_backend_pid();
commit;

-- A queue that does not exist is said not to exist; messages name the queue.
set role regress_sr_producer;
select tasker.send('sr_unknown', 'x');
\set VERBOSITY default
select tasker.send('sr_other', 'x');
select tasker.next_batch('sr_other', 'sr_consumer');
reset role;
grant execute on function tasker.next_batch(text, text) to regress_sr_producer;
set role regress_sr_producer;
select tasker.next_batch('sr_mine', 'sr_consumer');
reset role;
revoke execute on function tasker.next_batch(text, text) from regress_sr_producer;
\set VERBOSITY terse

-- Rights are inherited, through roles and by SET ROLE; NOINHERIT asks for SET ROLE.
create role regress_sr_member in role regress_sr_producer;
create role regress_sr_cautious noinherit in role regress_sr_producer;
set role regress_sr_member;
select tasker.send('sr_mine', 'member') > 0 as sent;
reset role;
set role regress_sr_cautious;
select tasker.send('sr_mine', 'member');
reset role;
-- Memberships that come and go count at once, cached rights or not.
grant usage on schema tasker to regress_sr_nobody;
grant execute on function tasker.send(text, text) to regress_sr_nobody;
set role regress_sr_nobody;
select tasker.send('sr_mine', 'not yet');
reset role;
grant tasker_producer to regress_sr_nobody;
set role regress_sr_nobody;
select tasker.send('sr_mine', 'now') > 0 as sent;
reset role;
revoke tasker_producer from regress_sr_nobody;
set role regress_sr_nobody;
select tasker.send('sr_mine', 'no more');
reset role;
-- A grant that is rolled back was none.
begin;
select tasker.grant_queue('sr_mine', 'regress_sr_nobody', 'produce');
set local role regress_sr_nobody;
select tasker.send('sr_mine', 'in the transaction') > 0 as sent;
rollback;
grant usage on schema tasker to regress_sr_nobody;
grant execute on function tasker.send(text, text) to regress_sr_nobody;
set role regress_sr_nobody;
select tasker.send('sr_mine', 'rolled back');
reset role;

-- A function of somebody who has the right passes it on; a trigger function as well.
create function sr.send(payload text) returns bigint language sql security definer set search_path = pg_catalog as
$$ select tasker.send('sr_mine', payload) $$;
grant create on schema sr to regress_sr_producer;
alter function sr.send(text) owner to regress_sr_producer;
revoke create on schema sr from regress_sr_producer;
set role regress_sr_nobody;
select sr.send('through a function') > 0 as sent;
reset role;

-- Who may grant: administrators.
set role regress_sr_producer;
select tasker.grant_queue('sr_mine', 'regress_sr_nobody', 'produce');
select tasker.revoke_queue('sr_mine', 'regress_sr_consumer', 'consume');
set role regress_sr_workers;
select tasker.grant_queue('sr_mine', 'regress_sr_nobody', 'consume');
reset role;
select tasker.grant_queue('sr_unknown', 'regress_sr_nobody', 'produce');
select tasker.grant_queue('sr_mine', 'regress_sr_unknown', 'produce');
select tasker.grant_queue('sr_mine', 'public', 'produce');
select tasker.grant_queue('sr_mine', 'regress_sr_nobody', 'both');
select tasker.grant_queue('sr_mine', 'tasker_worker', 'consume');
select tasker.revoke_queue('sr_mine', 'tasker_worker', 'consume');
select tasker.grant_queue(null, 'regress_sr_nobody', 'produce');
select tasker.grant_queue('sr_mine', null, 'produce');
select tasker.grant_queue('sr_mine', 'regress_sr_nobody', null);

-- A revocation takes the last grant's functions and the schema with it, no earlier.
revoke execute on function tasker.send(text, text) from regress_sr_nobody;
select tasker.grant_queue('sr_mine', 'regress_sr_nobody', 'produce'), tasker.grant_queue('sr_other', 'regress_sr_nobody', 'produce'),
    tasker.grant_queue('sr_other', 'regress_sr_nobody', 'consume');
create view sr.standing as
select has_schema_privilege('regress_sr_nobody', 'tasker', 'usage') as usage,
    has_function_privilege('regress_sr_nobody', 'tasker.send(text, text)', 'execute') as produce,
    has_function_privilege('regress_sr_nobody', 'tasker.next_batch(text, text)', 'execute') as consume;
select * from sr.standing;
select tasker.revoke_queue('sr_mine', 'regress_sr_nobody', 'produce');
select tasker.revoke_queue('sr_mine', 'regress_sr_nobody', 'produce') as again;
select * from sr.standing;
set role regress_sr_nobody;
select tasker.send('sr_mine', 'revoked');
select tasker.send('sr_other', 'not revoked') > 0 as sent;
reset role;
select tasker.revoke_queue('sr_other', 'regress_sr_nobody', 'produce');
select * from sr.standing;
select tasker.revoke_queue('sr_other', 'regress_sr_nobody', 'consume');
select * from sr.standing;

-- A role that is renamed keeps what it has; one that comes under its name has nothing.
alter role regress_sr_both rename to regress_sr_renamed;
create role regress_sr_both;
grant usage on schema tasker to regress_sr_both;
grant execute on function tasker.send(text, text) to regress_sr_both;
set role regress_sr_both;
select tasker.send('sr_mine', 'another one');
set role regress_sr_renamed;
select tasker.send('sr_mine', 'renamed') > 0 as sent;
reset role;
-- So too when it was dropped; the drop is refused while it has rights, as the server does.
drop role regress_sr_renamed;
drop owned by regress_sr_renamed;
drop role regress_sr_renamed;
create role regress_sr_renamed;
grant usage on schema tasker to regress_sr_renamed;
grant execute on function tasker.send(text, text) to regress_sr_renamed;
set role regress_sr_renamed;
select tasker.send('sr_mine', 'reborn');
reset role;
select tasker.grant_queue('sr_other', 'regress_sr_renamed', 'produce');
set role regress_sr_renamed;
select tasker.send('sr_mine', 'reborn');
select tasker.send('sr_other', 'reborn') > 0 as sent;
reset role;

-- A row of another cluster (restored) is its role's by name, and nobody's when there is none of that name.
insert into tasker.queue_grant (queue_id, privilege, role_name, role_oid, granted_in)
select queue_id, 'produce', role, 10, 1 from tasker.queue, unnest('{regress_sr_both,regress_sr_unknown}'::name[]) role where queue_name = 'sr_other';
set role regress_sr_both;
select tasker.send('sr_other', 'restored') > 0 as sent;
reset role;

-- A dropped queue takes its grants along.
select tasker.drop_queue('sr_other', true);
select q.queue_name, g.role_name, g.privilege from tasker.queue_grant g left join tasker.queue q using (queue_id) order by 1, 2, 3;
select has_schema_privilege('regress_sr_renamed', 'tasker', 'usage') as usage,
    has_function_privilege('regress_sr_renamed', 'tasker.send(text, text)', 'execute') as produce;
select tasker.create_queue('sr_other');
set role regress_sr_producer;
select tasker.send('sr_other', 'a new queue');
reset role;
select tasker.drop_queue('sr_other'), tasker.drop_queue('sr_mine', true);
select count(*) from tasker.queue_grant;

\set VERBOSITY default
drop schema sr cascade;
drop owned by regress_sr_both, regress_sr_stranger, regress_sr_nobody;
drop role regress_sr_admin, regress_sr_producers, regress_sr_workers, regress_sr_observer, regress_sr_nobody, regress_sr_stranger,
    regress_sr_producer, regress_sr_consumer, regress_sr_both, regress_sr_member, regress_sr_cautious, regress_sr_renamed;
