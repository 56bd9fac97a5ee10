# Moves of rows beside those who are in their way: rows that are held, readers that stay, rights, and rows that are moved
# out of a DEFAULT partition while writers add to it.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use TaskerCluster;

my $node = tasker_cluster('locks', conf => "restart_after_crash = on\nautovacuum = off\ntasker.lock_timeout = '100ms'\n");

sub call
{
	my ($call, $role) = @_;
	my %run = (out => '', err => '');
	$run{run} = IPC::Run::start([ 'psql', '-X', '-h', $node->host, '-p', $node->port, '-U', $role // 'postgres', '-c', $call, 'postgres' ],
		'>', \$run{out}, '2>', \$run{err});
	return \%run;
}

sub finish_call
{
	my ($run) = @_;
	IPC::Run::finish($run->{run});
	return $run->{err};
}

sub in_phase
{
	my ($phase) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "select phase = '$phase' from tasker.partition_data_progress", "it is $phase");
}

# By an owner who is no superuser, with a writer who may only insert and sees only the table.
sql($node, q{
	create role owner login in role tasker_admin;
	create role writer login;
	create schema owned authorization owner;
	grant usage on schema owned to writer;
	set role owner;
	create table owned.t (id bigint primary key, at timestamptz not null, v text);
	insert into owned.t select i, timestamptz '2026-03-01' + i * interval '1 minute', 'old' from generate_series(1, 20000) i;
	grant insert on owned.t to writer;
	create table owned.t_new (id bigint, at timestamptz not null, v text, primary key (id, at)) partition by range (at);
	select tasker.create_parent('owned.t_new', 'at', '1 day', 1);
});

my $swap = "call tasker.partition_data_proc('owned.t_new', 'owned.t', swap => true)";
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{begin; update owned.t set v = 'held' where id in (5, 15000); delete from owned.t where id = 77});
# The triggers cannot be made while somebody has written; that is tried again and again.
my $run = call($swap, 'owner');
ok($node->poll_query_until('postgres', q{select exists (select from pg_stat_activity where usename = 'owner' and state = 'active')}), 'the call has begun');
is(sql($node, 'select count(*) from tasker.part_move'), '0', 'nothing begins while a writer is there');
$holder->query_safe('rollback');
like(finish_call($run), qr/20000 rows of table "t" copied to table "t_new", names swapped/, 'it begins, and ends, when the writer has gone');
is(sql($node, q{select string_agg(distinct tableowner, ',') from pg_tables where schemaname = 'owned'}), 'owner', 'all belongs to its owner');
is(sql($node, q{set role writer; insert into owned.t values (20001, '2026-03-02', 'written')}), '', 'the writer has its right on the new table');

# Back, with rows held by others in the middle of the copy, and a reader that stays.
sql($node, 'set role owner; create table owned.plain (like owned.t including all); grant insert on owned.plain to writer');
my $undo = "call tasker.undo_partition_proc('owned.t', 'owned.plain', batch_rows => 5000, %s swap => true)";
finish_call(call(sprintf($undo, 'max_batches => 1,'), 'owner'));
$holder->query_safe(q{begin; update owned.t set v = 'held' where id in (17000, 18000); delete from owned.t where id = 19000});
$run = call(sprintf($undo, ''), 'owner');
in_phase('waiting for other transactions');
is(sql($node, q{select count(*) from owned.plain where id between 16990 and 17010}), '20', 'the copy goes around rows that are held');
is(sql($node, q{set role writer; insert into owned.t values (30001, '2026-03-02', 'written')}), '', 'a writer goes on');
$holder->query_safe('rollback');
$holder->query_safe('begin; select count(*) from owned.t');
in_phase('swapping names');
my $slowest = 0;
foreach my $i (1 .. 30)
{
	my $began = Time::HiRes::time();
	sql($node, "insert into owned.t values (40000 + $i, '2026-03-03', 'beside a reader')");
	$slowest = Time::HiRes::time() - $began if Time::HiRes::time() - $began > $slowest;
}
cmp_ok($slowest, '<', 2, 'no writer waits for long behind the swap that waits for a reader');
is(sql($node, 'select count(*) from pg_trigger where tgname = \'!tasker_mirror\' and tgrelid = \'owned.t\'::regclass'), '1', 'it has not come to it yet');
$holder->query_safe('commit');
like(finish_call($run), qr/names swapped/, 'the reader gone, names are swapped');
is(sql($node, q{select relkind, (select count(*) from owned.t), (select count(*) from owned.t where v in ('written', 'beside a reader'))
	from pg_class where oid = 'owned.t'::regclass}), 'r|20032|32', 'with all that was written');

# Out of the DEFAULT partition, with writers and a killed mover.
sql($node, q{
	create table d (id bigint not null, at timestamptz not null, n int not null, primary key (id, at)) partition by range (at);
	create table d_rest partition of d default;
	insert into d select i, timestamptz '2026-03-01' + i * interval '5 minutes', 0 from generate_series(1, 20000) i;
	create table audit as table d;
	alter table audit add primary key (id);
	create sequence ids start 100000;
	set client_min_messages = error;
	select tasker.create_parent('d', 'at', '3 days', 1);
});
my $dir = PostgreSQL::Test::Utils::tempdir;
append_to_file("$dir/update.sql", "\\set i random(1, 20000)\nwith u as (update d set n = n + 1 where id = :i returning id) update audit set n = n + 1 where id in (table u);\n");
append_to_file("$dir/insert.sql", "\\set i random(1, 20000)\nwith i as (insert into d values (nextval('ids'), timestamptz '2026-03-01' + :i * interval '5 minutes', 0) returning *) insert into audit select * from i;\n");

sub writers
{
	my ($seconds) = @_;
	my %load = (out => '', err => '');
	$load{run} = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', $seconds, '--max-tries', 100, '-f', "$dir/update.sql", '-f', "$dir/insert.sql",
		'-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$load{out}, '2>', \$load{err});
	return \%load;
}

sub whole
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, q{select (select (count(*), sum(hash_record_extended(row(id, at, n), 0))) from d) =
		(select (count(*), sum(hash_record_extended(row(id, at, n), 0))) from audit)}), 't', $what);
}

my $load = writers(5);
my $out = "call tasker.partition_data_proc('d', 'd_rest', batch_rows => 1, wait => '30ms')";
foreach my $i (1 .. 4)
{
	$run = call($out);
	my $count = "select count(*) from pg_inherits where inhparent = 'd'::regclass";
	my $before = sql($node, $count);
	$node->poll_query_until('postgres', "select ($count) > $before + 1");
	sql($node, "select pg_terminate_backend(pid) from tasker.partition_data_progress where pid is not null");
	finish_call($run);
	whole("DEFAULT, round $i: every row is there once");
}
like(finish_call(call($out)), qr/rows of table "d_rest" moved to table "d"/, 'all are moved');
IPC::Run::finish($load->{run});
like($load->{out}, qr/number of failed transactions: 0 /, 'no writer fails') or diag($load->{out}, $load->{err});
unlike($load->{err}, qr/error/i, 'nor meets another error');
whole('every row is there once');
is(sql($node, 'select count(*) from d_rest'), '0', 'none is left in the DEFAULT partition');

$holder->quit;
$node->stop;
done_testing();
