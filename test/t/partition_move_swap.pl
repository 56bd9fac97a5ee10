# A table that is copied into a partition set while it stays in use, under its own name to the end and after: whoever is
# killed wherever, the table is whole, and the set equal to it when the names are swapped.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use TaskerCluster;

my $ROWS = 30_000;

my $node = tasker_cluster('swap', conf => "restart_after_crash = on\nautovacuum = off\ntasker.lock_timeout = '100ms'\n");

sql($node, qq{
	create table tasks (id bigserial primary key, created_at timestamptz not null, "sta'te" text not null default 'new',
		n int not null default 0, twice int generated always as (n * 2) stored, bulk text);
	create index on tasks (created_at);
	insert into tasks (created_at, n, bulk) select timestamptz '2026-03-01' + i * interval '1 minute', i, case when i % 100 = 0
		then (select string_agg(md5(g::text || i), '') from generate_series(1, 100) g) end from generate_series(1, $ROWS) i;
	create table audit (like tasks including all);
	alter table audit alter id drop default;
	alter sequence tasks_id_seq owned by tasks.id;
	insert into audit (id, created_at, "sta'te", n, bulk) select id, created_at, "sta'te", n, bulk from tasks;
	create table tasks_new (bulk text, twice int generated always as (n * 2) stored, n int not null default 0, gone int,
		created_at timestamptz not null, "sta'te" text not null default 'new',
		id bigint not null default nextval('tasks_id_seq'), primary key (created_at, id)) partition by range (created_at);
	alter table tasks_new drop column gone;
	create index on tasks_new (created_at);
	select tasker.create_parent('tasks_new', 'created_at', '1 day', 1);
	create role reader;
	grant select on tasks to reader;
	vacuum analyze;
	create function mover_after(moved bigint, end_it boolean) returns int language plpgsql as \$\$
	begin
		for i in 1 .. 10000 loop
			perform from tasker.part_move where rows_moved >= moved;
			if found then
				return (select case when end_it then pg_terminate_backend(pid)::int else pid end
					from tasker.partition_data_progress);
			end if;
			perform pg_sleep(0.001);
		end loop;
		return null;
	end \$\$});

my $dir = PostgreSQL::Test::Utils::tempdir;

# Every change is made to the table and to the audit, in one transaction.
my %script = (
	insert => [ 2, q{with i as (insert into tasks (created_at, n) values (timestamptz '2026-03-01' + :i * interval '2 minutes', :i) returning *) insert into audit (id, created_at, "sta'te", n, bulk) select id, created_at, "sta'te", n, bulk from i;} ],
	update => [ 4, q{with u as (update tasks set n = n + 1, "sta'te" = 'changed' where id = :i returning id) update audit set n = n + 1, "sta'te" = 'changed' where id in (table u);} ],
	# moves the row to another partition, and now and then to one that is not there yet
	key => [ 2, q{with u as (update tasks set created_at = created_at + interval '5 days' where id = :i returning id) update audit set created_at = created_at + interval '5 days' where id in (table u);} ],
	delete => [ 2, q{with d as (delete from tasks where id = :i returning id) delete from audit where id in (table d);} ],
	bulk => [ 1, q{with u as (update tasks set bulk = repeat('b', 3000) where id between :i and :i + 5 returning id) update audit set bulk = repeat('b', 3000) where id in (table u);} ],
	mixed => [ 2, q{begin;
with u as (update tasks set n = -1 where id = :i returning id) update audit set n = -1 where id in (table u);
savepoint s;
delete from tasks where id = :i;
rollback to s;
with u as (update tasks set n = n - 1 where id = :i returning id) update audit set n = n - 1 where id in (table u);
end;} ],
	rollback => [ 1, q{begin;
update tasks set n = n + 100, created_at = created_at + interval '1 day' where id between :i and :i + 20;
rollback;} ]);
$script{$_}[1] = "\\set i random(1, $ROWS)\n$script{$_}[1]\n" foreach keys %script;
append_to_file("$dir/$_.sql", $script{$_}[1]) foreach keys %script;
append_to_file("$dir/prepared.sql", "\\set i random(1, $ROWS)\n\\set g random(1, 1000000000)\nbegin;
with u as (update tasks set n = n + 7 where id = :i returning id) update audit set n = n + 7 where id in (table u);
prepare transaction 'g:g';\n\\sleep 2 ms\ncommit prepared 'g:g';\n");

sub start_command
{
	my (@command) = @_;
	my %run = (out => '', err => '');
	$run{run} = IPC::Run::start([ @command, '-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$run{out}, '2>', \$run{err});
	return \%run;
}

# So many a second that most rows are still there to be copied: what writers have changed is there already.
sub writers
{
	my ($seconds) = @_;
	return (
		start_command('pgbench', '-n', '-M', 'prepared', '-c', 3, '-R', 400, '-T', $seconds, '--max-tries', 200,
			map { ('-f', "$dir/$_.sql\@$script{$_}[0]") } sort keys %script),
		start_command('pgbench', '-n', '-c', 1, '-R', 50, '-T', $seconds, '--max-tries', 200, '-f', "$dir/prepared.sql"));
}

# A row that a statement waits for may go to another partition (40001) once the table has some: tried again by pgbench.
sub writers_succeed
{
	my ($what, @runs) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $run (@runs)
	{
		IPC::Run::finish($run->{run});
		like($run->{out}, qr/number of failed transactions: 0 /, "$what: no writer fails") or diag($run->{out}, $run->{err});
		unlike($run->{err}, qr/error/i, "$what: nor meets another error");
	}
	return;
}

sub call { return start_command('psql', '-X', '-c', $_[0]) }

sub finish_call
{
	my ($run) = @_;
	IPC::Run::finish($run->{run});
	return $run->{err};
}

# Until the server accepts connections again.
sub wait_for_server
{
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if IPC::Run::run([ 'pg_isready', '-q', '-h', $node->host, '-p', $node->port ]);
		Time::HiRes::usleep(100_000);
	}
	die 'the server is not back';
}

my $columns = q{id, created_at, "sta'te", n, twice, bulk};

sub equal
{
	my ($one, $other, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $digest = "count(*), sum(hash_record_extended(row($columns), 0))";
	return is(sql($node, "select (select ($digest) from $one) = (select ($digest) from $other)"), 't', $what);
}

sub moved { return sql($node, 'select coalesce(sum(rows_moved), 0) from tasker.part_move') }

# The process of the call, once it has copied that many rows more.
sub mover_after
{
	my ($rows, $end_it) = @_;
	return sql($node, 'select mover_after(' . (moved() + $rows) . ', ' . ($end_it // 'false') . ')') || die 'no rows were copied: ' . sql($node, 'table tasker.partition_data_progress');
}

# The same, ended at that point.
sub end_mover_after { return mover_after($_[0], 'true'); }

my $slowly = "call tasker.partition_data_proc('tasks_new', 'tasks', batch_rows => 100, wait => '4ms', swap => true)";

# Ended at many points while writers work.
my @writers = writers(5);
foreach my $i (1 .. 8)
{
	my $run = call($slowly);
	end_mover_after(30 * $i);
	like(finish_call($run), qr/terminating connection/, "round $i: the copy is ended");
	equal('tasks', 'audit', "round $i: the table is whole");
}
writers_succeed('an interrupted copy', @writers);
is(sql($node, "select count(*) from tasks_new c where not exists (select from tasks t where t.id = c.id and t.n = c.n and
	t.created_at = c.created_at and t.\"sta'te\" = c.\"sta'te\" and t.bulk is not distinct from c.bulk)"), '0',
	'every row that was copied is as in the table');

# Killed, with the writers and with the server. What is prepared stays prepared.
foreach my $victim ('mover', 'server')
{
	my $run = call($slowly);
	@writers = writers(60);
	my $pid = mover_after(300);
	$victim eq 'mover' ? kill('KILL', $pid) : crash_server($node);
	finish_call($run);
	IPC::Run::finish($_->{run}) foreach @writers;
	start_after_crash($node) if $victim eq 'server';
	wait_for_server();
	sql($node, "rollback prepared '$_'") foreach split /\n/, sql($node, 'select gid from pg_prepared_xacts');
	equal('tasks', 'audit', "SIGKILL to the $victim: the table is whole");
}

# To the end, with writers all the time. They never notice that their table becomes another.
@writers = writers(8);
my $notice = finish_call(call("call tasker.partition_data_proc('tasks_new', 'tasks', batch_rows => 1000, wait => '5ms', swap => true)"));
like($notice, qr/NOTICE:  \d+ rows of table "tasks" copied to table "tasks_new", names swapped/, 'copied and swapped');
is(sql($node, "select relkind from pg_class where oid = 'tasks'::regclass"), 'p', 'the table is partitioned now');
my $swapped = sql($node, "select count(*) from tasks where \"sta'te\" = 'changed'");
writers_succeed('copy and swap', @writers);
cmp_ok(sql($node, "select count(*) from tasks where \"sta'te\" = 'changed'"), '>', $swapped, 'writers have gone on after the swap');
equal('tasks', 'audit', 'the new table is whole');
is(sql($node, "select count(*) from pg_trigger where tgname like '%mirror%'"), '0', 'nothing is mirrored any more');
is(sql($node, 'select count(*) from tasker.part_move'), '0', 'nothing is under way');
is(sql($node, "select parent from tasker.part_config where parent = 'tasks'::regclass"), 'tasks', 'the set is managed');
is(sql($node, "select string_agg(distinct conname, ',' order by conname) from pg_constraint where conrelid in ('tasks'::regclass, 'tasks_old'::regclass)"),
	'tasks_old_pkey,tasks_pkey', 'keys are named after their tables');
is(sql($node, "select count(*) from pg_inherits where inhparent = 'tasks'::regclass and inhrelid::regclass::text !~ '^tasks_p2026'"), '0',
	'so are partitions');
is(sql($node, "select pg_get_serial_sequence('tasks', 'id')"), 'public.tasks_id_seq', 'the sequence belongs to the new table');
is(sql($node, "select has_table_privilege('reader', 'tasks', 'select')"), 't', 'rights are handed over');
sql($node, 'drop table tasks_old');
is(sql($node, "insert into tasks (created_at) values ('2026-03-01') returning id > $ROWS"), 't', 'the sequence goes on');
sql($node, "insert into audit (id, created_at) select max(id), '2026-03-01' from tasks");

# And back.
sql($node, 'create table plain (like tasks including all)');
my $undo = "call tasker.undo_partition_proc('tasks', 'plain', batch_rows => 300, wait => '4ms', swap => true)";
@writers = writers(6);
foreach my $i (1 .. 3)
{
	my $run = call($undo);
	end_mover_after(100 * $i);
	finish_call($run);
}
is(sql($node, 'select legal_hold from tasker.part_config'), 't', 'nothing is retired from under it');
like(finish_call(call("call tasker.undo_partition_proc('tasks', 'plain', swap => true)")), qr/names swapped/, 'copied back and swapped');
writers_succeed('undo', @writers);
is(sql($node, "select relkind from pg_class where oid = 'tasks'::regclass"), 'r', 'the table is plain again');
equal('tasks', 'audit', 'and whole');
is(sql($node, 'select count(*) from tasker.part_config'), '0', 'the set is managed no more');

$node->stop;
done_testing();
