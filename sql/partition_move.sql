-- Rows moved into partition sets and back: what fits, what is refused, and what happens to what surrounds them. Moves
-- beside writers, and interrupted ones, are in test/t/partition_move*.pl.
\set SHOW_CONTEXT never
\pset null '(null)'
set client_min_messages = notice;
set timezone = 'UTC';
create schema "mo've";
set search_path = "mo've", public;

-- Another order of columns, dropped ones, generated and identity columns, one with a default that was added later, long
-- values, quotes in names.
create table "old'" (id bigint generated always as identity primary key, gone int, "at" timestamptz not null,
    "Va""lue" text, n int, twice int generated always as (n * 2) stored);
alter table "old'" drop column gone;
insert into "old'" ("at", "Va""lue", n) select timestamptz '2026-03-01' + i * interval '1 hour', repeat(md5(i::text), i), i
    from generate_series(1, 300) i;
alter table "old'" add column later text not null default 'as it was';
create table "new'" (n int, gone int, later text not null default 'now', twice int generated always as (n * 3) stored,
    "at" timestamptz not null, "Va""lue" text, id bigint generated always as identity, primary key (id, "at"))
    partition by range ("at");
alter table "new'" drop column gone;
create index on "new'" (n);
select tasker.create_parent('"new''"', 'at', '1 month', 0);
create function audit() returns trigger language plpgsql as $$ begin raise exception 'a trigger has fired'; end $$;
create trigger audit before insert on "new'" for each row execute function audit();
create trigger audit after delete on "old'" for each row execute function audit();
alter table "old'" enable always trigger audit;
create view sums as select count(*), sum(id) as id, sum(n) as n, sum(length("Va""lue")) as length, min(later) as later
    from "new'";
call tasker.partition_data_proc('"new''"', '"old''"', batch_rows => 100, max_batches => 1);
select source, target, mode, phase, rows_moved, rows_left between 100 and 400 as rows_left, rows_per_second > 0 as rate,
    time_left is not null as time_left, pid from tasker.partition_data_progress;
select (select count(*) from "old'") as old, (select count(*) from "new'") as new;
call tasker.partition_data_proc('"new''"', '"old''"');
table sums;
select sum(twice) = sum(n) * 3 as generated_anew from "new'";
select (select count(*) from "old'") as old, count(*) from tasker.part_move;
select tableoid::regclass, count(*) from "new'" group by 1 order by 1;
-- The identity goes on after the rows that came.
alter table "new'" disable trigger audit;
insert into "new'" ("at") values ('2026-03-05') returning id;
delete from "new'" where "Va""lue" is null;

-- By ranges of the control column; a second call has nothing to do.
create table ranges (like "old'" including all);
insert into ranges (id, "at", "Va""lue", n) overriding system value
    select 1000 + i, timestamptz '2026-08-01' + i * interval '1 hour', 'range', i from generate_series(1, 100) i;
call tasker.partition_data_proc('"new''"', 'ranges', batch => '1 day', max_batches => 2);
select min("at"), count(*) from ranges;
call tasker.partition_data_proc('"new''"', 'ranges', batch => '1 day');
call tasker.partition_data_proc('"new''"', 'ranges', batch => '1 day');
table sums;

-- Back: the identity keeps its values, the set is no longer managed.
create table back (like "new'" including all excluding indexes);
call tasker.undo_partition_proc('"new''"', 'back', batch_rows => 150, max_batches => 1);
select source, target, rows_moved from tasker.partition_data_progress;
call tasker.undo_partition_proc('"new''"', 'back');
select count(*), sum(id) as id, sum(n) as n, sum(length("Va""lue")) as length from back;
table sums;
select count(*) from tasker.part_config where parent = '"new''"'::regclass;

-- Out of the DEFAULT partition of the set itself. What no partition can hold stays.
create table d (at timestamp, n int) partition by range (at);
create table d_rest partition of d default;
insert into d select timestamp '2026-01-01' + i * interval '6 hours', i from generate_series(0, 99) i;
insert into d values (null, 1), ('infinity', 2);
set client_min_messages = error;
select tasker.create_parent('d', 'at', '10 days', 0);
set client_min_messages = notice;
call tasker.partition_data_proc('d', 'd_rest', max_batches => 1);
select tableoid::regclass, count(*), min(at), max(at) from d group by 1 order by 1;
call tasker.partition_data_proc('d', 'd_rest');
select tableoid::regclass, count(*), min(at), max(at) from d group by 1 order by 1;

-- Numbers; rows that are not unique there are reported and stay.
create table numbers (k int primary key, v text);
create table numbered (k int, v text, primary key (k)) partition by range (k);
select tasker.create_parent('numbered', 'k', '1000', 0);
insert into numbers select i, 'moved' from generate_series(-1500, 1500) i;
select tasker.create_partition('numbered', '1234');
insert into numbered values (1234, 'in the way');
call tasker.partition_data_proc('numbered', 'numbers', batch_rows => 500);
select (select count(*) from numbers) + (select count(*) from numbered) as rows, phase, rows_moved > 0 as some
    from tasker.partition_data_progress;
delete from numbered where k = 1234;
call tasker.partition_data_proc('numbered', 'numbers');
select tableoid::regclass, count(*) from numbered group by 1 order by 1;

-- Refused before anything is moved.
create table plain (k int primary key, v text);
insert into plain values (1, 'x');
begin;
call tasker.partition_data_proc('numbered', 'plain');
\echo :LAST_ERROR_SQLSTATE
rollback;
call tasker.partition_data_proc(null, 'plain');
call tasker.partition_data_proc('numbered', 'plain', batch_rows => 0);
call tasker.partition_data_proc('numbered', 'plain', max_batches => 0);
call tasker.partition_data_proc('numbered', 'plain', wait => '-1 second');
call tasker.partition_data_proc('numbered', 'plain', batch => '1 day');
call tasker.partition_data_proc('numbered', 'plain', batch => '1 day', swap => true);
call tasker.partition_data_proc('plain', 'numbers');
\echo :LAST_ERROR_SQLSTATE
call tasker.partition_data_proc('numbered', 'numbered');
call tasker.partition_data_proc('numbered', 'numbered_p0');
call tasker.partition_data_proc('numbered', 'sums');
call tasker.partition_data_proc('tasker.queue_record', 'plain');
alter table plain add extra int;
call tasker.partition_data_proc('numbered', 'plain');
\echo :LAST_ERROR_SQLSTATE
alter table plain drop extra, drop v;
call tasker.partition_data_proc('numbered', 'plain');
alter table plain add v varchar(10);
call tasker.partition_data_proc('numbered', 'plain');
\echo :LAST_ERROR_SQLSTATE
alter table plain alter v type text;
create table referencing (k int constraint "re'f" references plain);
call tasker.partition_data_proc('numbered', 'plain');
\echo :LAST_ERROR_SQLSTATE
drop table referencing;
create table referenced (v text primary key);
insert into referenced values ('moved');
alter table numbered add constraint "to" foreign key (v) references referenced;
call tasker.partition_data_proc('numbered', 'plain');
\echo :LAST_ERROR_SQLSTATE
alter table plain add foreign key (v) references referenced;
call tasker.partition_data_proc('numbered', 'plain');
alter table numbered drop constraint "to";
create table child () inherits (plain);
call tasker.partition_data_proc('numbered', 'plain');
drop table child;
create role mover in role tasker_admin;
grant usage on schema "mo've" to mover;
alter table plain owner to mover;
set role mover;
call tasker.partition_data_proc('numbered', 'plain');
\echo :LAST_ERROR_SQLSTATE
call tasker.partition_data_proc('plain', 'numbered');
\echo :LAST_ERROR_SQLSTATE
reset role;
select * from plain;
select count(*) from tasker.part_move;

-- With a swap: what would be wrong afterwards is refused.
create table orders (id bigint generated by default as identity primary key, at timestamptz not null, email text, state text);
create table orders_new (id bigint generated by default as identity, at timestamptz not null, email text, state text,
    primary key (id, at)) partition by range (at);
select tasker.create_parent('orders_new', 'at', '1 month', 0);
insert into orders (at, email, state) select timestamptz '2001-05-01' + i * interval '10 minutes', 'e' || i, 'new'
    from generate_series(1, 10000) i;
\set swap 'call tasker.partition_data_proc(''orders_new'', ''orders'', batch_rows => 3000, max_batches => 1, swap => true);'
create view seen as select * from orders;
:swap
drop view seen;
create function of_orders(o orders) returns int language sql as 'select 1';
:swap
drop function of_orders;
create function quiet() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger stamp after insert on orders for each row execute function quiet();
:swap
drop trigger stamp on orders;
create trigger " first" after update on orders for each row execute function quiet();
create trigger " first" after update on orders_new for each row execute function quiet();
:swap
drop trigger " first" on orders;
drop trigger " first" on orders_new;
alter table orders_new add unique (email, at);
:swap
alter table orders_new drop constraint orders_new_email_at_key, alter state set not null;
:swap
alter table orders_new alter state drop not null;
alter table orders enable row level security;
:swap
alter table orders disable row level security;
alter table orders drop constraint orders_pkey;
:swap
alter table orders add primary key (id);
select tasker.create_partition('orders_new', '2001-05-01');
insert into orders_new values (1, '2001-05-01');
:swap
truncate orders_new;
alter table orders_new owner to mover;
:swap
alter table orders_new owner to current_user;
select count(*) from pg_trigger where tgrelid = 'orders'::regclass;

-- A user's trigger on the table changes other rows, and the same row again, in the middle of a statement.
create function chain() returns trigger language plpgsql as $$
begin
    if new.state = 'paid' then
        update orders set state = 'next' where id = new.id + 1;
        update orders set state = 'done', at = at + interval '1 month' where id = new.id;
    elsif new.state = 'gone' then
        delete from orders where id = new.id;
    end if;
    return null;
end $$;
create trigger chain after insert or update on orders for each row execute function chain();
create trigger chain after insert or update on orders_new for each row execute function chain();
:swap
select source, target, mode, phase, rows_moved from tasker.partition_data_progress;
update orders set state = 'paid' where id between 1 and 5;
update orders set state = 'gone' where id between 10 and 12 or id = 9990;
insert into orders (at, state) values ('2001-05-02', 'gone'), ('2001-05-02', 'paid'), ('2001-05-02', 'new');
update orders set id = id + 1000000 where id in (20, 21, 9999);
delete from orders where id between 30 and 40;
with d as (delete from orders where id = 50 returning *) insert into orders select 51000, at, email, state from d;
begin;
truncate orders;
select count(*) from orders_new;
rollback;
select count(*) from orders_new n where not exists (select from orders o where o = row(n.*)::text::orders);
-- Nothing else is moved to or from the two meanwhile.
call tasker.undo_partition_proc('orders_new', 'orders');
call tasker.partition_data_proc('orders_new', 'plain');
call tasker.partition_data_proc('orders_new', 'orders');
-- Somebody writes to the copy behind our back: the difference is seen before names are swapped.
update orders_new set email = 'changed' where id = 100;
call tasker.partition_data_proc('orders_new', 'orders', swap => true);
\echo :LAST_ERROR_SQLSTATE
create table kept as table orders;
call tasker.partition_data_proc('orders_new', 'orders', swap => true);
select count(*), count(k), bool_and(o.at = k.at and o.state = k.state and o.email is not distinct from k.email)
    from orders o full join kept k using (id);
select relname, relkind from pg_class where relnamespace = '"mo''ve"'::regnamespace and relname ~ '^orders' and relname !~ 'p20[^0]' order by 1;
select tgname from pg_trigger where tgrelid in ('orders'::regclass, 'orders_old'::regclass) and not tgisinternal order by 1;
insert into orders (at) values ('2001-05-02') returning id;
select lower_bound, upper_bound, state from tasker.show_partitions('orders')
    where lower_bound < '2002';

-- Cancelled, the table is as it was.
create table again (like orders including all) partition by range (at);
create trigger chain after insert or update on again for each row execute function chain();
select tasker.create_parent('again', 'at', '1 month', 0);
call tasker.partition_data_proc('again', 'orders_old', batch_rows => 3000, max_batches => 1, swap => true);
call tasker.cancel_partition_move('orders_old');
select tgname from pg_trigger where tgrelid = 'orders_old'::regclass and not tgisinternal order by 1;
update orders_old set state = 'alone' where id = 100;
select count(*) from again where state = 'alone';
call tasker.partition_data_proc('again', 'orders_old', swap => true);
call tasker.cancel_partition_move('orders_old');
\echo :LAST_ERROR_SQLSTATE

-- Written anew in the middle of it, the table's rows lie elsewhere than where the copy stopped.
truncate again;
call tasker.partition_data_proc('again', 'orders_old', batch_rows => 3000, max_batches => 1, swap => true);
delete from orders_old where id < 2500;
vacuum full orders_old;
call tasker.partition_data_proc('again', 'orders_old', swap => true);
select relkind, (select count(*) from orders_old) from pg_class where oid = 'orders_old'::regclass;

-- Columns that cannot be hashed are compared by their text. A cast of the owner's making runs as the owner.
create role mover_too;
grant all on schema "mo've" to mover_too;
set role mover_too;
create type pair as (name text, value json);
create table ran_as (who name);
create function pair_text(pair) returns text language plpgsql set search_path = "mo've" as $$
begin insert into ran_as values (current_user); return ($1).name || ($1).value; end $$;
create cast (pair as text) with function pair_text(pair);
create table pairs (id int primary key, p pair);
insert into pairs select i, row(i, '{}')::pair from generate_series(1, 5) i;
create table pairs_new (id int primary key, p pair) partition by range (id);
reset role;
select tasker.create_parent('pairs_new', 'id', '10', 0);
call tasker.partition_data_proc('pairs_new', 'pairs', swap => true);
select who, count(*) from ran_as group by 1;

-- What a publication leaves out stays out: by its root, or the swap is refused. What names no columns and no condition
-- publishes the partitions. The old table has no place there any more.
create table news (id int primary key, at date not null, secret text);
create table news_new (id int, at date not null, secret text, primary key (id, at)) partition by range (at);
insert into news values (1, '2026-05-01', 'a'), (2, '2026-06-01', 'b');
select tasker.create_parent('news_new', 'at', '1 month', 0);
set client_min_messages = error; -- whatever wal_level is
create publication news_some for table news (id, at) where (id > 0);
create publication news_all for table news;
create publication news_rooted for table news with (publish_via_partition_root = true);
set client_min_messages = notice;
call tasker.partition_data_proc('news_new', 'news', swap => true);
\echo :LAST_ERROR_SQLSTATE
alter publication news_some set (publish_via_partition_root = true);
call tasker.partition_data_proc('news_new', 'news', swap => true);
select p.pubname, r.prrelid::regclass, (select array_agg(a.attname order by a.attnum) from pg_attribute a
        where a.attrelid = r.prrelid and a.attnum = any (r.prattrs)) as columns, pg_get_expr(r.prqual, r.prrelid) as condition
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname ~ '^news' order by 1, 2;

-- A TRUNCATE of a partition is not mirrored. It is seen before names are swapped, and the copy begins anew.
drop publication news_some, news_all, news_rooted;
create table plain_news (like news including all);
call tasker.undo_partition_proc('news', 'plain_news', batch_rows => 1, max_batches => 1, swap => true);
select count(*) from plain_news;
select tableoid::regclass as leaf from news where id = 1 \gset
truncate :leaf;
select * from news;
call tasker.undo_partition_proc('news', 'plain_news', swap => true);
\echo :LAST_ERROR_SQLSTATE
insert into news values (3, '2026-05-03', 'c');
call tasker.undo_partition_proc('news', 'plain_news', swap => true);
select relkind from pg_class where oid = 'news'::regclass;
select * from news order by id;

set client_min_messages = error;
select tasker.drop_partition_set(parent) from tasker.part_config where not owner_set;
delete from tasker.part_move;
reset search_path;
drop schema "mo've" cascade;
drop role mover, mover_too;
