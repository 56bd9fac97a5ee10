# Rows moved into a partition set and back while writers work on them: nothing is lost and nothing is there twice,
# at any moment, whoever is killed wherever.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use TaskerCluster;

my $ROWS = 60_000;

my $node = tasker_cluster('move', conf => "restart_after_crash = on\nautovacuum = off\ntasker.lock_timeout = '100ms'\n");

# The audit has every row as the writers left it, written in the same transactions.
sql($node, qq{
	create table src (id bigint primary key, created_at timestamptz not null, v text, n int not null);
	insert into src select i, timestamptz '2026-03-01' + i * interval '1 minute', repeat('x', i % 200), i
		from generate_series(1, $ROWS) i;
	create table audit as table src;
	alter table audit add primary key (id);
	create sequence ids start 1000000;
	create table parent (n int not null, v text, id bigint, created_at timestamptz not null, primary key (id, created_at))
		partition by range (created_at);
	create table back (like src including all);
	select tasker.create_parent('parent', 'created_at', '1 day', 1);
	vacuum analyze;
	create function change(from_table text, to_table text, i bigint, kind int) returns void language plpgsql as \$\$
	declare
		t text;
		found_in bigint;
	begin
		if kind = 1 then
			execute format('insert into %I (id, created_at, v, n) values (\$1, \$2, \$3, 0)', from_table)
				using i, timestamptz '2026-03-01' + (i % 50000) * interval '1 minute', 'new';
			insert into audit values (i, timestamptz '2026-03-01' + (i % 50000) * interval '1 minute', 'new', 0);
			return;
		end if;
		-- In the order in which rows travel: a row that is not there yet at the second look was at the first.
		foreach t in array array[from_table, to_table] loop
			execute format(case when kind < 6 then 'update %I set n = n + 1 where id = \$1'
				else 'delete from %I where id = \$1' end, t) using i;
			get diagnostics found_in = row_count;
			exit when found_in > 0;
		end loop;
		if found_in = 0 then
			return;
		elsif kind < 6 then
			update audit set n = n + 1 where id = i;
		else
			delete from audit where id = i;
		end if;
	end \$\$;
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

# The one table and the other hold, together, what the audit has. In one snapshot.
sub holds
{
	my ($one, $other, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, "with moved as (select id, created_at, v, n from $one union all select id, created_at, v, n from $other)
		select (select (count(*), sum(hash_record_extended(row(id, created_at, v, n), 0))) from moved) =
			(select (count(*), sum(hash_record_extended(row(id, created_at, v, n), 0))) from audit)"), 't', $what);
}

my $dir = PostgreSQL::Test::Utils::tempdir;

# Writers in the background, for so many seconds.
sub writers
{
	my ($from, $to, $seconds, $insert_into) = @_;
	append_to_file("$dir/$from$to$insert_into.change.sql",
		"\\set i random(1, $ROWS)\n\\set kind random(2, 7)\nselect change('$from', '$to', :i, :kind);\n");
	append_to_file("$dir/$from$to$insert_into.insert.sql", "select change('$insert_into', '', nextval('ids'), 1);\n");
	my %run = (out => '', err => '');
	$run{run} = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', $seconds, '--max-tries', 100, '--failures-detailed',
		'-f', "$dir/$from$to$insert_into.change.sql\@5", '-f', "$dir/$from$to$insert_into.insert.sql\@1",
		'-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$run{out}, '2>', \$run{err});
	return \%run;
}

sub writers_succeed
{
	my ($run, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	IPC::Run::finish($run->{run});
	like($run->{out}, qr/number of failed transactions: 0 /, "$what: no writer fails") or diag($run->{out}, $run->{err});
	return unlike($run->{err}, qr/error/i, "$what: nor meets another error");
}

# Calls in a session of its own.
sub start_call
{
	my ($call) = @_;
	my %run = (out => '', err => '');
	$run{run} = IPC::Run::start([ 'psql', '-X', '-h', $node->host, '-p', $node->port, '-c', $call, 'postgres' ],
		'>', \$run{out}, '2>', \$run{err});
	return \%run;
}

sub finish_call
{
	my ($run) = @_;
	IPC::Run::finish($run->{run});
	return $run->{err};
}

sub moved { return sql($node, "select coalesce(sum(rows_moved), 0) from tasker.part_move") }

# The process of the call, once it has moved that many rows more.
sub mover_after
{
	my ($rows, $end_it) = @_;
	return sql($node, 'select mover_after(' . (moved() + $rows) . ', ' . ($end_it // 'false') . ')') || die 'no rows were moved: ' . sql($node, 'table tasker.partition_data_progress');
}

# The same, ended at that point.
sub end_mover_after { return mover_after($_[0], 'true'); }

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

my $call = "call tasker.partition_data_proc('parent', 'src', batch_rows => 100, wait => '5ms')";

# Ended at many points while writers work.
my $writers = writers('src', 'parent', 5, 'src');
foreach my $i (1 .. 8)
{
	my $run = start_call($call);
	end_mover_after(200 * $i);
	like(finish_call($run), qr/terminating connection/, "round $i: the mover is terminated");
	holds('src', 'parent', "round $i: every row is there once");
}
is(sql($node, 'select phase, pid is null from tasker.partition_data_progress'), 'interrupted|t', 'it shows');
writers_succeed($writers, 'terminated movers');
holds('src', 'parent', 'every row is there once');

# Killed, which takes the writers along.
foreach my $victim ('mover', 'server')
{
	my $run = start_call($call);
	$writers = writers('src', 'parent', 60, 'src');
	my $pid = mover_after(1000);
	if ($victim eq 'mover')
	{
		kill 'KILL', $pid;
	}
	else
	{
		crash_server($node);
	}
	finish_call($run);
	IPC::Run::finish($writers->{run});
	start_after_crash($node) if $victim eq 'server';
	wait_for_server();
	holds('src', 'parent', "SIGKILL to the $victim: every row is there once");
}

# To the end, while others write to the parent already.
cmp_ok(sql($node, 'select count(*) from src'), '>', 5000, 'there is work left');
$writers = writers('src', 'parent', 4, 'parent');
my $notice = finish_call(start_call("call tasker.partition_data_proc('parent', 'src', batch_rows => 2000, wait => '10ms')"));
like($notice, qr/NOTICE:  \d+ rows of table "src" moved to table "parent"\n/, 'all rows are moved');
is(sql($node, 'select count(*) from src'), '0', 'the source is empty');
writers_succeed($writers, 'a whole move');
holds('src', 'parent', 'every row is there once');
is(sql($node, 'select count(*) from tasker.part_move'), '0', 'nothing is under way');
is(sql($node, "select count(*) from parent where tableoid::regclass::text !~ to_char(created_at, 'YYYYMMDD\$')"), '0',
	'each is in its partition');

# A row that somebody holds is left to later, and nobody waits for it.
my $holder = $node->background_psql('postgres');
sql($node, 'insert into src select 500000 + i, timestamptz \'2026-03-01\', null, i from generate_series(1, 100) i; insert into audit select * from src where id > 500000');
$holder->query_safe('begin; update src set v = \'held\' where id = 500050');
my $run = start_call($call);
wait_until($node, "select phase = 'waiting for other transactions' and rows_moved = 99 from tasker.partition_data_progress",
	'the mover goes around a row that is held');
is(sql($node, 'select count(*) from parent where id > 500000 and id < 600000'), '99', 'and has moved the others');
$holder->query_safe('rollback');
like(finish_call($run), qr/100 rows of table "src" moved/, 'then it gets that one, too');
holds('src', 'parent', 'every row is there once');

# A prepared transaction that holds a row outlasts the patience of nobody but ours.
$holder->query_safe("begin; insert into src values (600001, '2026-03-01', 'prepared', 0); insert into audit values (600001, '2026-03-01', 'prepared', 0); prepare transaction 'p'");
$run = start_call($call);
wait_until($node, "select phase = 'waiting for other transactions' from tasker.partition_data_progress", 'an insert that is prepared is waited for');
$holder->query_safe("commit prepared 'p'");
like(finish_call($run), qr/1 rows of table "src" moved/, 'and moved when it is committed');

# A cancel stops it; what was moved is moved.
sql($node, "insert into src select 700000 + i, timestamptz '2026-03-02', null, i from generate_series(1, 20000) i; insert into audit select * from src where id > 700000");
$run = start_call($call);
sql($node, 'select pg_cancel_backend(' . mover_after(400) . ')');
like(finish_call($run), qr/ERROR:  canceling statement due to user request/, 'it can be cancelled');
cmp_ok(sql($node, 'select count(*) from src'), '<', 20000, 'some rows have been moved');
holds('src', 'parent', 'every row is there once');
like(error_of($node, "call tasker.undo_partition_proc('parent', 'src')"), qr/^55000: rows of table "src" are on their way to table "parent"/,
	'a move is finished before its undo begins');
sql($node, $call);

# And back.
$writers = writers('parent', 'back', 4, 'back');
my $undo = "call tasker.undo_partition_proc('parent', 'back', batch_rows => 500, wait => '4ms')";
foreach my $i (1 .. 3)
{
	$run = start_call($undo);
	end_mover_after(300 * $i);
	finish_call($run);
	holds('parent', 'back', "undo, round $i: every row is there once");
}
like(finish_call(start_call("call tasker.undo_partition_proc('parent', 'back')")), qr/rows of table "parent" moved to table "back"\n/,
	'all rows are back');
writers_succeed($writers, 'undo');
is(sql($node, 'select count(*) from parent'), '0', 'the set is empty');
holds('parent', 'back', 'every row is there once');
is(sql($node, 'select count(*) from tasker.part_config'), '0', 'and managed no more');

$holder->quit;
$node->stop;
done_testing();
