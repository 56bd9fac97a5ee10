-- Retirement of users' partitions in a session: what becomes of them, what is refused, and how long a set keeps.
-- test/t/partition_retire_user.pl has the same by the worker.
set client_min_messages = warning;
\set VERBOSITY terse
create schema pr;
create schema pr_archive;
set search_path = pr, public;

create function members(parent regclass) returns text language sql as
$$
    select coalesce(string_agg(inhrelid::regclass::text, ' ' order by inhrelid::regclass::text), '-')
    from pg_inherits where inhparent = parent
$$;

create table log_line (n bigint not null, note text) partition by range (n);
create index on log_line (note);
select tasker.create_parent('log_line', 'n', '10', 0);
insert into log_line values (1, 'a');
select tasker.create_partition('log_line', n::text) is not null as made from generate_series(10, 40, 10) n;
insert into log_line select n, 'b' from generate_series(11, 41, 10) n;

-- Nothing goes without a retention.
call tasker.run_duty('retire');
select members('log_line');

-- Kept: a table like any other afterwards.
select tasker.alter_parent('log_line', 'retention', '25');
select tasker.alter_parent('log_line', 'retention_action', 'detach');
grant select on log_line_p0 to tasker_observer;
call tasker.run_duty('retire');
select members('log_line');
insert into log_line_p0 values (-5, 'any value');
select count(*), (select relacl is not null from pg_class where oid = 'log_line_p0'::regclass) as granted from log_line_p0;
select conname from pg_constraint where conrelid = 'log_line_p0'::regclass;
select partition_name, state, reason from tasker.part_retirement where parent = 'log_line'::regclass;

-- Moved, with its indexes; a missing schema and a taken name come before the detach.
select tasker.alter_parent('log_line', 'retention', '15');
select tasker.alter_parent('log_line', 'retention_action', 'schema:pr_nowhere');
call tasker.run_duty('retire');
select members('log_line');
select failing from tasker.partition_status where parent = 'log_line'::regclass;
select tasker.alter_parent('log_line', 'retention_action', 'schema:pr_archive');
create table pr_archive.log_line_p10_note_idx ();
call tasker.run_duty('retire');
select members('log_line');
select partition_name, state, reason, failures from tasker.part_retirement where parent = 'log_line'::regclass;
select failing from tasker.partition_status where parent = 'log_line'::regclass;
drop table pr_archive.log_line_p10_note_idx;
call tasker.run_duty('retire');
select members('log_line');
select relname from pg_class where relnamespace = 'pr_archive'::regnamespace order by 1;

-- Under legal hold nothing goes; then it is dropped.
select tasker.alter_parent('log_line', 'retention', '5');
select tasker.alter_parent('log_line', 'retention_action', 'drop');
select tasker.alter_parent('log_line', 'legal_hold', 'on');
call tasker.run_duty('retire');
select partition_name, state, reason, refusals from tasker.part_retirement where parent = 'log_line'::regclass;
select tasker.alter_parent('log_line', 'legal_hold', 'off');
call tasker.run_duty('retire');
select members('log_line');
select count(*) as booked from tasker.part_retirement where parent = 'log_line'::regclass;

-- A view, and rows that refer to it, keep a partition from being dropped.
select tasker.create_partition('log_line', '50') is not null as made;
insert into log_line values (51, 'c');
create view watched as select * from log_line_p30;
call tasker.run_duty('retire');
select reason from tasker.part_retirement where parent = 'log_line'::regclass;
drop view watched;
create table target (n int primary key) partition by range (n);
create table arrow (n int references target);
select tasker.create_parent('target', 'n', '10', 0);
insert into target values (1);
select tasker.create_partition('target', '10') is not null as made;
insert into target values (11);
insert into arrow values (1);
select tasker.alter_parent('target', 'retention', '0');
call tasker.run_duty('retire');
select members('target');
select reason from tasker.part_retirement where parent = 'target'::regclass;
delete from arrow;
call tasker.run_duty('retire');
select members('target');
select members('log_line');

-- One set that cannot be read does not stop the others.
update tasker.part_config set timezone = 'Mars/Olympus' where parent = 'target'::regclass;
select tasker.create_partition('log_line', '60') is not null as made;
insert into log_line values (61, 'd');
call tasker.run_duty('retire');
select members('log_line');

select tasker.drop_partition_set('log_line');
update tasker.part_config set timezone = 'UTC' where parent = 'target'::regclass;
select tasker.drop_partition_set('target');
set client_min_messages = error;
drop schema pr, pr_archive cascade;
