-- The triggers that write the changes of a table into a queue: every argument, and the edges. Each part runs in a
-- transaction that is rolled back; what was committed and read by a consumer stands at the end.
set client_min_messages = warning;
create extension if not exists tasker;
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset null '(null)'
\pset format unaligned
\pset footer off
set timezone = 'UTC';
set datestyle = 'ISO, MDY';
set intervalstyle = 'postgres';
create schema tt;
select tasker.create_queue('triga') > 0 as made;
select queue_data_pfx as events from tasker.queue where queue_name = 'triga' \gset
-- Events of this transaction.
create view tt.event as
    select ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from :events
    where ev_txid = pg_current_xact_id()::text::bigint order by ev_id;
create table tt.item (id int primary key, name text, price numeric, ready boolean, note text);

-- The three formats.
begin;
create trigger json after insert or update or delete on tt.item for each row execute function tasker.jsontriga('triga');
create trigger url after insert or update or delete on tt.item for each row execute function tasker.logutriga('triga');
create trigger sql after insert or update or delete on tt.item for each row execute function tasker.sqltriga('triga');
create trigger json_truncate after truncate on tt.item for each statement execute function tasker.jsontriga('triga');
create trigger url_truncate after truncate on tt.item for each statement execute function tasker.logutriga('triga');
create trigger sql_truncate after truncate on tt.item for each statement execute function tasker.sqltriga('triga');
insert into tt.item values (1, 'a & b', 1.50, true, null);
update tt.item set name = 'it''s \ "new"', ready = false;
update tt.item set name = name;
delete from tt.item;
truncate tt.item;
select * from tt.event;
rollback;

-- backup: the row as it was before an update.
begin;
create trigger json after insert or update or delete on tt.item for each row execute function tasker.jsontriga('triga', 'backup');
create trigger url after insert or update or delete on tt.item for each row execute function tasker.logutriga('triga', 'backup');
create trigger sql after insert or update or delete on tt.item for each row execute function tasker.sqltriga('triga', 'backup');
insert into tt.item values (1, 'one');
update tt.item set note = 'n';
delete from tt.item;
select ev_type, ev_data, ev_extra2 from tt.event;
rollback;

-- SKIP: the event instead of the change.
begin;
insert into tt.item values (1, 'one');
create trigger skip before insert or update or delete on tt.item for each row execute function tasker.logutriga('triga', 'SKIP');
insert into tt.item values (2, 'two');
update tt.item set name = 'eins';
delete from tt.item;
select id, name from tt.item;
select ev_type, ev_data from tt.event;
rollback;

-- A BEFORE trigger without SKIP lets the change through; SKIP makes no sense after it.
begin;
create trigger before_it before insert or update or delete on tt.item for each row execute function tasker.logutriga('triga');
insert into tt.item values (1, 'one');
update tt.item set name = 'eins';
select id, name from tt.item;
delete from tt.item;
select id, name from tt.item;
select ev_type, ev_data from tt.event;
create trigger skip after insert on tt.item for each row execute function tasker.logutriga('triga', 'SKIP');
insert into tt.item values (2);
rollback;

-- deny.
begin;
create trigger deny before insert or update or delete on tt.item for each row execute function tasker.logutriga('triga', 'deny');
create trigger deny_truncate before truncate on tt.item for each statement execute function tasker.logutriga('triga', 'deny');
savepoint a;
insert into tt.item values (1);
rollback to a;
truncate tt.item;
rollback;

-- ignore=: columns that are not written, and whose change alone makes no event.
begin;
create trigger json after insert or update or delete on tt.item for each row execute function tasker.jsontriga('triga', 'ignore=note,price');
create trigger sql after insert or update or delete on tt.item for each row execute function tasker.sqltriga('triga', 'ignore=note, price');
insert into tt.item values (1, 'one', 1, true, 'n');
update tt.item set note = 'm';
update tt.item set price = 2, note = null;
update tt.item set price = 3, name = 'eins';
update tt.item set price = price;
select ev_type, ev_data from tt.event;
rollback;

-- pkey=: another key, or one for a table that has none.
begin;
create table tt.bare (a int, b text, c int);
create trigger url after insert or update or delete on tt.bare for each row execute function tasker.logutriga('triga');
insert into tt.bare values (1, 'x', 2);
savepoint a;
update tt.bare set c = 3;
rollback to a;
delete from tt.bare;
rollback to a;
create or replace trigger url after insert or update or delete on tt.bare for each row execute function tasker.logutriga('triga', 'pkey=a,b');
create trigger json after insert or update or delete on tt.bare for each row execute function tasker.jsontriga('triga', 'pkey=a,b');
create trigger sql after insert or update or delete on tt.bare for each row execute function tasker.sqltriga('triga', 'pkey=a,b');
update tt.bare set c = 3;
delete from tt.bare;
select ev_type, ev_data from tt.event;
rollback;

-- What sqltriga() cannot name the row by.
begin;
create table tt.bare (a int, b int);
create trigger sql after insert or update or delete on tt.bare for each row execute function tasker.sqltriga('triga', 'pkey=nothing');
insert into tt.bare values (1, 2);
savepoint a;
update tt.bare set b = 3;
rollback to a;
create or replace trigger sql after insert or update or delete on tt.bare for each row execute function tasker.sqltriga('triga', 'pkey=a');
insert into tt.bare values (null, 2);
delete from tt.bare where a is null;
rollback;

-- The key must not change, whether it is looked at or not.
begin;
create table tt.pair (a int, b text, id int primary key);
create trigger json after insert or update or delete on tt.pair for each row execute function tasker.jsontriga('triga');
insert into tt.pair values (1, 'x', 1);
savepoint a;
update tt.pair set id = 2;
rollback to a;
create or replace trigger json after insert or update or delete on tt.pair for each row execute function tasker.jsontriga('triga', 'ignore=b,id');
update tt.pair set a = 2, id = 2;
rollback to a;
create or replace trigger json after insert or update or delete on tt.pair for each row execute function tasker.sqltriga('triga');
update tt.pair set id = 2;
rollback;

-- when= and the expressions, of the new row and of the deleted one.
begin;
create trigger json after insert or update or delete on tt.item for each row execute function tasker.jsontriga('triga',
    'when=coalesce(price, 0) < 10', 'ev_type=''item:'' || id', 'ev_data=jsonb_build_object(''name'', name)', 'ev_extra1=price * 2',
    'ev_extra2=null', 'ev_extra3=(select count(*) from generate_series(1, id))', 'ev_extra4=ready');
insert into tt.item values (1, 'one', 1.5, true), (2, 'two', 10, true), (3, 'three', null, null);
update tt.item set price = 9.5 where id = 2;
update tt.item set price = 11 where id = 3;
delete from tt.item;
select * from tt.event;
rollback;

-- Names in expressions: as SQL has them, or as they are spelled.
begin;
create table tt."Odd ""table""" ("Id" int primary key, "a b" text, "select" int, date text, upper text);
create trigger url after insert or update on tt."Odd ""table""" for each row execute function tasker.logutriga('triga',
    'ev_extra2=Id + "Id"', 'ev_extra3="a b" || "select"', 'ev_extra4=upper(upper) || DATE::date');
create trigger sql after insert or update on tt."Odd ""table""" for each row execute function tasker.sqltriga('triga');
create trigger json after insert or update on tt."Odd ""table""" for each row execute function tasker.jsontriga('triga');
insert into tt."Odd ""table""" values (1, 'x', 2, '2024-02-29', 'up');
update tt."Odd ""table""" set "select" = 3;
select * from tt.event;
rollback;

-- Expressions that are none.
create function tt.try(arguments text, event text = 'insert') returns text language plpgsql as
$$
declare
    state text; message text; detail text; hint text;
begin
    if event = 'insert' then
        execute format('create trigger t after insert on tt.item for each row execute function tasker.jsontriga(%s)', arguments);
        insert into tt.item values (1, 'one');
    else
        execute format('create trigger t after truncate on tt.item for each statement execute function tasker.sqltriga(%s)', arguments);
        truncate tt.item;
    end if;
    raise 'no error' using errcode = 'TS000'; -- rolls back
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    return concat_ws(' | ', state, message, nullif(detail, ''), nullif(hint, ''));
end
$$;
select a as arguments, tt.try(a) from unnest(array[
    $$'triga', 'when=null::boolean'$$, $$'triga', 'when=id'$$, $$'triga', 'when='$$, $$'triga', 'ev_data=1 from generate_series(1, 2)'$$,
    $$'triga', 'ev_data=1 where false'$$, $$'triga', 'ev_data=nothing'$$, $$'triga', 'ev_data=1 +'$$, $$'triga', 'ev_data=1/0'$$,
    $$'triga', 'ev_data=1; delete from tt.item'$$, $$'triga', 'ev_data=1 into tt.made'$$, $$'triga', 'ev_data=$1'$$, $$'triga', 'ev_data='$$,
    $$'triga', 'ev_data=item.name'$$, $$'triga', 'ev_data=name, nothing'$$, $$'triga', 'when=false', 'ev_data=1/0'$$]) a;
-- Arguments that are none.
select a as arguments, tt.try(a) from unnest(array[
    '', $$'nothing'$$, $$''$$, $$'triga', 'nothing'$$, $$'triga', ''$$, $$'triga', 'SKIP'$$, $$'triga', 'ev_extra5=1'$$, $$'triga', 'ignore'$$,
    $$'triga', 'backup='$$, $$'triga', 'skip'$$]) a;

-- What makes no sense for TRUNCATE, and a statement's trigger for anything else.
select a as arguments, tt.try(a, 'truncate') from unnest(array[
    $$'triga'$$, $$'triga', 'backup'$$, $$'triga', 'ignore='$$, $$'triga', 'pkey=id'$$, $$'triga', 'when=true'$$, $$'triga', 'ev_data=1'$$,
    $$'triga', 'deny'$$, $$'triga', 'SKIP'$$, $$'triga', 'nothing'$$]) a;
begin;
create trigger wrong after insert or truncate on tt.item for each statement execute function tasker.logutriga('triga');
savepoint a;
insert into tt.item values (1);
rollback to a;
truncate tt.item;
select ev_type, ev_data, ev_extra1 from tt.event;
select tasker.jsontriga();
rollback;

-- Magic columns become columns of the event; a change of them alone does not count for ignore= and for sqltriga().
begin;
create table tt.magic (id int primary key, v text, _pgq_ev_type text, _pgq_ev_data text, _pgq_ev_extra1 int, _pgq_ev_extra2 boolean,
    _pgq_ev_extra3 date, _pgq_ev_extra4 text);
create trigger url after insert or update or delete on tt.magic for each row execute function tasker.logutriga('triga', 'ev_extra4=v');
create trigger sql after insert or update or delete on tt.magic for each row execute function tasker.sqltriga('triga');
insert into tt.magic values (1, 'a', 'type', 'data', 7, true, '2024-02-29', 'four');
update tt.magic set _pgq_ev_type = 'other', _pgq_ev_data = null;
update tt.magic set v = 'b';
delete from tt.magic;
select * from tt.event;
alter table tt.magic add column _pgq_ev_extra5 text;
insert into tt.magic (id) values (2);
rollback;

-- Types as JSON: booleans, integers, dates and times as they are there; everything else as the text that the type writes.
begin;
create type tt.mood as enum ('sad', 'happy');
create type tt.two as (a int, b text);
create domain tt.small as int check (value < 100);
create table tt.types (id bigint primary key, b boolean, s smallint, n numeric, f float8, t text, c char(4), y bytea, d date, ts timestamp,
    tz timestamptz, i interval, j json, jb jsonb, a int[], ta text[], m tt.mood, r tt.two, ra tt.two[], dom tt.small, u uuid, g int generated always as (s * 2) stored);
create trigger json after insert on tt.types for each row execute function tasker.jsontriga('triga');
create trigger url after insert on tt.types for each row execute function tasker.logutriga('triga');
create trigger sql after insert on tt.types for each row execute function tasker.sqltriga('triga');
insert into tt.types values (9223372036854775807, false, -32768, 'NaN', 'infinity', E'tab\tquote"\\', 'ab', '\x00ff', '0044-03-15 BC', 'infinity',
    '2024-02-29 12:34:56.789+02', '1 day 02:03:04', '{"a": null}', '[1, "x"]', '{1,null}', '{a,"b \"c",null}', 'happy', '(1,"x y")', '{"(1,)"}', 5,
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
insert into tt.types (id) values (1);
select ev_data from tt.event;
rollback;

-- What is no change: equal for the type, whatever it looks like; types without an equality, and arrays, by their text.
begin;
create table tt.equal (id int primary key, n numeric, j json, jb jsonb, a int[]);
create trigger sql after update on tt.equal for each row execute function tasker.sqltriga('triga');
insert into tt.equal values (1, 1.0, '{"a":1}', '{"a":1}', '{1}');
update tt.equal set n = 1.00;
update tt.equal set jb = '{ "a" : 1 }';
update tt.equal set j = '{ "a" : 1 }';
update tt.equal set a = '[0:0]={1}';
update tt.equal set a = null, n = null;
select ev_data from tt.event;
rollback;

-- The table changes while its triggers are known: columns, key, names, arguments; and all of it is rolled back.
begin;
create schema tt2;
create trigger json after insert or update on tt.item for each row execute function tasker.jsontriga('triga', 'ev_extra3=name');
insert into tt.item values (1, 'one');
savepoint a;
alter table tt.item rename column id to "Key";
alter table tt.item rename column name to title;
create or replace trigger json after insert or update on tt.item for each row execute function tasker.jsontriga('triga', 'ev_extra3=title');
update tt.item set ready = true;
alter table tt.item drop column price, add column extra int default 7;
update tt.item set ready = false;
alter table tt.item drop constraint item_pkey;
alter table tt.item add primary key (title, extra);
update tt.item set ready = true;
alter table tt.item rename to thing;
update tt.thing set ready = false;
alter table tt.thing set schema tt2;
update tt2.thing set ready = true;
alter schema tt2 rename to tt3;
update tt3.thing set ready = false;
alter table tt3.thing alter extra type text;
update tt3.thing set ready = true;
select ev_type, ev_data, ev_extra1, ev_extra3 from tt.event;
rollback to a;
update tt.item set ready = true;
select ev_type, ev_data, ev_extra1, ev_extra3 from tt.event;
rollback;

-- A trigger that fires within itself, while what is known of its table is thrown away.
begin;
create function tt.again(integer) returns integer language plpgsql as
$$
begin
    execute format('create schema tt_%s', $1);
    if $1 < 5 then
        insert into tt.item values ($1 + 1, 'inner');
    end if;
    return $1;
end
$$;
create trigger json after insert on tt.item for each row execute function tasker.jsontriga('triga', 'ev_extra3=tt.again(id)', 'ev_extra4=name');
insert into tt.item values (1, 'outer');
select ev_data, ev_extra3, ev_extra4 from tt.event;
-- The innermost fails: nothing stays, and the trigger works as before.
savepoint a;
create function tt.fails(integer) returns integer language plpgsql as
$$begin if $1 > 12 then raise 'no more than 12'; end if; return tt.again(0) + $1; end$$;
create or replace trigger json after insert on tt.item for each row execute function tasker.jsontriga('triga', 'ev_extra3=tt.fails(id)');
insert into tt.item values (13, 'fails');
rollback to a;
insert into tt.item values (6, 'works');
select count(*) from tt.event;
rollback;

-- Partitions have the triggers of their parent, and events carry the name of the partition; a row that moves is deleted
-- and inserted.
begin;
create table tt.parted (id int, part int, v text, primary key (id, part)) partition by list (part);
create table tt.parted_1 partition of tt.parted for values in (1);
create table tt.parted_2 (v text, gone int, part int not null, id int not null);
alter table tt.parted_2 drop column gone;
alter table tt.parted attach partition tt.parted_2 for values in (2);
create trigger json after insert or update or delete on tt.parted for each row execute function tasker.jsontriga('triga', 'ev_extra3=v');
insert into tt.parted values (1, 1, 'a'), (2, 2, 'b');
update tt.parted set v = 'c' where id = 2;
update tt.parted set part = 2 where id = 1;
delete from tt.parted;
select ev_type, ev_data, ev_extra1, ev_extra3 from tt.event;
rollback;

-- COPY, MERGE, upserts and cascades.
begin;
create table tt.part (id int primary key, item int references tt.item on delete cascade);
create trigger url after insert or update or delete on tt.item for each row execute function tasker.logutriga('triga');
create trigger url after insert or update or delete on tt.part for each row execute function tasker.logutriga('triga');
copy tt.item (id, name, price) from stdin;
1	one	1.5
2	two	\N
\.
insert into tt.item values (2, 'zwei'), (3, 'three') on conflict (id) do update set name = excluded.name;
merge into tt.item using (values (3), (4)) v(id) on item.id = v.id
    when matched then delete when not matched then insert (id) values (v.id);
insert into tt.part values (10, 1), (20, 2);
delete from tt.item where id = 1;
select ev_type, ev_data, ev_extra1 from tt.event;
rollback;

-- A view with an INSTEAD OF trigger, and a table of 1,000 columns with values that are stored out of line.
begin;
create view tt.view as select 1 as id, 'x'::text as v;
create trigger sql instead of insert or update or delete on tt.view for each row execute function tasker.sqltriga('triga', 'pkey=id');
insert into tt.view values (2, 'y');
update tt.view set v = 'z';
delete from tt.view;
select ev_type, ev_data from tt.event;
do $$begin
    execute 'create table tt.wide (id int primary key, big text, ' || (select string_agg(format('c%s int', n), ', ') from generate_series(1, 998) n) || ')';
end$$;
alter table tt.wide alter big set storage external;
create trigger json after insert or update on tt.wide for each row execute function tasker.jsontriga('triga', 'backup');
create trigger sql after update on tt.wide for each row execute function tasker.sqltriga('triga');
insert into tt.wide (id, big, c998) values (1, repeat('x"', 500000), 998);
update tt.wide set c1 = 1;
select left(ev_type, 15) as ev_type, length(ev_data), ev_data::json ->> 'c998' as c998, length(ev_data::json ->> 'big') as big,
    length(ev_extra2::json ->> 'big') as old_big from tt.event where ev_extra1 = 'tt.wide' and ev_type like '{%';
select ev_data from tt.event where ev_type = 'U' and ev_extra1 = 'tt.wide';
rollback;

-- session_replication_role: "local" switches the triggers off, whatever they are; else it is ALTER TABLE ... ENABLE.
begin;
create trigger a_deny before insert or update or delete on tt.item for each row execute function tasker.jsontriga('triga', 'deny');
create trigger b_url after insert or update or delete on tt.item for each row execute function tasker.logutriga('triga');
alter table tt.item enable replica trigger b_url;
set local session_replication_role = local;
insert into tt.item values (1, 'local');
set local session_replication_role = replica;
insert into tt.item values (2, 'replica');
select id from tt.item;
select ev_data from tt.event;
set local session_replication_role = origin;
insert into tt.item values (3, 'origin');
rollback;

-- A queue that takes no events, and one with a limit.
begin;
create trigger url after insert on tt.item for each row execute function tasker.logutriga('triga');
update tasker.queue set queue_disable_insert = true where queue_name = 'triga';
savepoint a;
insert into tt.item values (1);
rollback to a;
update tasker.queue set queue_disable_insert = false, queue_per_tx_limit = 2 where queue_name = 'triga';
insert into tt.item values (1), (2);
insert into tt.item values (3);
rollback;

-- Rights. EXECUTE on the function makes a trigger; who changes the table needs no right on the queue. Expressions run as
-- who changes the table.
create role regress_triga_owner;
create role regress_triga_writer;
grant create, usage on schema tt to regress_triga_owner;
grant usage on schema tt, tasker to regress_triga_writer;
grant usage on schema tasker to regress_triga_owner;
set role regress_triga_owner;
create table tt.owned (id int primary key, v text);
grant insert, select on tt.owned to regress_triga_writer;
create trigger json after insert on tt.owned for each row execute function tasker.jsontriga('triga');
reset role;
-- Who was granted one queue makes no trigger: it could name any other.
select tasker.grant_queue('triga', 'regress_triga_owner', 'produce');
set role regress_triga_owner;
create trigger json after insert on tt.owned for each row execute function tasker.jsontriga('triga');
reset role;
select tasker.revoke_queue('triga', 'regress_triga_owner', 'produce');
grant tasker_producer to regress_triga_owner;
set role regress_triga_owner;
create trigger json after insert on tt.owned for each row execute function tasker.jsontriga('triga', 'ev_extra3=current_user',
    'ev_extra4=(select count(*) from tt.owned)');
reset role;
begin;
set local role regress_triga_writer;
insert into tt.owned values (1, 'by the writer');
reset role;
select ev_data, ev_extra3, ev_extra4 from tt.event;
set local role regress_triga_writer;
select tasker.insert_event('triga', 'directly', 'by the writer');
rollback;
-- An expression reads what the writer may read.
begin;
create table tt.secret (s text);
insert into tt.secret values ('secret');
create or replace trigger json after insert on tt.owned for each row execute function tasker.jsontriga('triga', 'ev_extra3=(select s from tt.secret)');
insert into tt.owned values (1, 'by the superuser');
set local role regress_triga_writer;
insert into tt.owned values (2, 'by the writer');
rollback;
drop table tt.owned;
revoke all on schema tt, tasker from regress_triga_owner, regress_triga_writer;
drop role regress_triga_owner, regress_triga_writer;

-- From the change to the consumer, in order, without what was rolled back.
create trigger json after insert or update or delete on tt.item for each row execute function tasker.jsontriga('triga', 'ignore=note');
select tasker.register_consumer('triga', 'reader');
insert into tt.item values (1, 'one'), (2, 'two');
begin;
update tt.item set name = 'rolled back';
rollback;
begin;
savepoint a;
delete from tt.item where id = 1;
rollback to a;
update tt.item set name = 'zwei' where id = 2;
commit;
delete from tt.item;
select tasker.force_tick('triga') > 0 as forced;
select coalesce(tasker.ticker('triga'), 1) > 0 as ticked; -- null: the worker was faster
-- All batches there are: the worker may have ticked in between.
create function tt.read() returns table (type text, data text, extra1 text) language plpgsql as
$$
declare
    batch bigint;
begin
    loop
        batch := tasker.next_batch('triga', 'reader');
        exit when batch is null;
        return query select ev_type, ev_data, ev_extra1 from tasker.get_batch_events(batch);
        perform tasker.finish_batch(batch);
    end loop;
end
$$;
select * from tt.read();
select tasker.unregister_consumer('triga', 'reader');

drop schema tt cascade;
select tasker.drop_queue('triga');
