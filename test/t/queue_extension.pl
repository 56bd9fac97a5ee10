# The extension comes and goes while clients work: errors are fine then, hangs, crashes and wrong statistics
# afterwards are not. Several databases on one server, and copies of a database with live records.

use strict;
use warnings;

use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use QueueChecks;
use TaskerCluster;

my $CLIENTS = 5;
my $ROUNDS = 10;    # of DROP and CREATE EXTENSION
my $LONGEST = 60;   # seconds that any one of them may take

my $node = tasker_cluster('extension', conf => <<~CONF);
	tasker.max_databases = 4
	tasker.sweep_interval = 1
	deadlock_timeout = 100ms
	max_connections = 60
	log_statement = none
	log_min_messages = log
	CONF
my $dir = PostgreSQL::Test::Utils::tempdir;
my %clients;

END
{
	my $status = $?;
	kill 'KILL', keys %clients;
	waitpid $_, 0 foreach keys %clients;
	$? = $status;
}

sub session { return $node->background_psql($_[0] // 'postgres', on_error_stop => 0) }

# A session that works until its script is at its end, and then again, whatever errors there are.
sub start_client
{
	my ($number, $database) = @_;
	my $work = <<~'SQL';
		select tasker.enqueue('load', '1');
		select tasker.add_records_to_queue('load', '{1,2,3}', 1);
		with c as materialized (select * from tasker.claim_records_batch('load', 2))
		select count(tasker.mark_record_completed(id, null, lease_token)) from c;
		begin; select count(*) from tasker.claim_records_batch('load', 3); savepoint s; select tasker.enqueue('other', '1'); rollback to s; rollback;
		begin; select tasker.enqueue('other', '1'); select count(*) from tasker.claim_records_batch('load'); commit;
		select sum(total) from tasker.get_queue_status();
		insert into tasker.processing_queue (flow_name, payload) values ('load', '1');
		select count(tasker.mark_record_failed(id, 'no', '0')) from tasker.claim_records_batch('load');
		call tasker.wait_for_records('other', '20 ms');
		select tasker.alter_flow('other', 'max_in_flight', '5');
		SQL
	my $file = "$dir/work$number.sql";
	append_to_file($file, "\\set VERBOSITY verbose\n" . $work x 20);
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>>', "$dir/errors$number";
		while (!-e "$dir/stop")
		{
			system 'psql', '-qX', '-v', 'ON_ERROR_STOP=0', '-d', $node->connstr($database // 'postgres'), '-f', $file;
		}
		POSIX::_exit(0);
	}
	$clients{$pid} = $number;
	return;
}

sub stop_clients
{
	append_to_file("$dir/stop", "\n");
	foreach my $pid (keys %clients)
	{
		waitpid $pid, 0;
		delete $clients{$pid};
	}
	unlink "$dir/stop", glob "$dir/work*.sql";
	return;
}

# Runs a statement until it succeeds: behind writers it may be the victim of a deadlock. Never may it hang.
sub insist
{
	my ($statement, $database) = @_;
	my $begun = time();
	while (1)
	{
		my ($status, undef, $err) = $node->psql($database // 'postgres',
			"set statement_timeout = '${LONGEST}s';\n\\set VERBOSITY verbose\n$statement");
		return 1 if $status == 0;
		die "$statement: $err" unless $err =~ /ERROR:  (40P01|55P03)/ && time() - $begun < 3 * $LONGEST;
	}
}

# --- under load --------------------------------------------------------------------------------------------------

sub comes_and_goes
{
	# Waiters sleep through it all; their next look meets another extension.
	my @waiters = map { session() } 1 .. 3;
	sql($node, "select tasker.create_flow('waited')");
	$_->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_records('waited', '2 minutes');\n\\echo returned\n") foreach @waiters;
	start_client($_) foreach 1 .. $CLIENTS;
	foreach my $round (1 .. $ROUNDS)
	{
		# Some work in between, and the next drop comes in the middle of it.
		my $enough = 20 * $round;
		$node->poll_query_until('postgres', "select (select coalesce(sum(total), 0) from tasker.get_queue_status()) > $enough") or die 'no work is done';
		insist('drop extension tasker');
		# One commit, or two: between them clients find nothing.
		usleep(rand(20_000)) if $round % 2;
		insist('create extension tasker');
	}
	$node->poll_query_until('postgres', "select sum(total) > 100 from tasker.get_queue_status()") or die 'no work is done';
	stop_clients();
	pass("the extension came and went $ROUNDS times");
	my %errors;
	foreach my $file (glob "$dir/errors*")
	{
		$errors{$_}++ foreach slurp_file($file) =~ /(?:ERROR|FATAL|PANIC):  (\w{5}: [^\n"]*)/g;
		unlink $file;
	}
	note("$errors{$_} times $_") foreach sort keys %errors;
	cmp_ok(scalar(keys %errors), '>', 0, 'clients did notice');
	# What is missing is missing, and locks may be in the way. None of it is an internal error.
	my @strange = grep { !/^(42P01|42883|3F000|42704|40P01|55000|25P02|3B001|XX000: (could not open relation|cache lookup failed|tuple concurrently))/ } keys %errors;
	is("@strange", '', 'by errors that say so');
	queue_is_exact($node, 'after the last round');
	sql($node, "select tasker.enqueue('waited', to_jsonb(i)) from generate_series(1, 3) i");
	foreach my $waiter (@waiters)
	{
		$waiter->query_until(qr/returned/, '');
		pass('a waiter from before the first round is back');
		$waiter->quit;
	}
	drained($node, $_) foreach qw(load other);
	sql($node, "select tasker.alter_flow('other', 'max_in_flight', null)");
	drained($node, 'other');
	queue_is_exact($node, 'after the rest is handed out');
	is(sql($node, "select sum(pending) from tasker.get_queue_status() where flow_name <> 'waited'"), 0, '... all of it');
	wait_until($node, "select exists (select from tasker.worker_status where database = 'postgres' and state = 'running')", 'a worker runs again');
	return;
}

# Flows in shared memory are forgotten while waiters stand in their lines. Nobody wakes into a line that is gone.
sub waiters_of_a_dropped_extension
{
	my @old = map { session() } 1 .. 5;
	sql($node, "select tasker.create_flow('line ' || i) from generate_series(1, 5) i");
	my $wait = sub {
		my ($waiter, $flow) = @_;
		my $pid = $waiter->query_safe('select pg_backend_pid()');
		$waiter->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_records('$flow', '1 minute');\n"
			  . "select 'at ' || extract(epoch from clock_timestamp());\n\\echo returned\n\\warn returned\n");
		$node->poll_query_until('postgres', "select coalesce((select wait_event in ('Extension', 'TaskerWaitForRecords') from pg_stat_activity where pid = $pid), false)")
		  or die 'it does not wait';
	};
	$wait->($old[$_], 'line ' . ($_ % 2 + 1)) foreach 0 .. 4;
	insist('drop extension tasker');
	insist('create extension tasker');
	# New flows and new waiters take the places of the old ones.
	sql($node, "select tasker.create_flow('new ' || i) from generate_series(1, 5) i");
	my @new = map { session() } 1 .. 5;
	$wait->($new[$_], 'new ' . ($_ % 2 + 1)) foreach 0 .. 4;
	foreach my $waiter (@old)
	{
		$waiter->query_until(qr/returned/, '');
		PostgreSQL::Test::Utils::pump_until($waiter->{run}, $waiter->{timeout}, \$waiter->{stderr}, qr/returned/);
		like($waiter->{stderr}, qr/(flow "line \d"|relation "tasker\.\w+") does not exist/, 'a waiter hears that his flow is gone');
		$waiter->quit;
	}
	my $produced = sql($node, 'select extract(epoch from clock_timestamp())');
	sql($node, "select tasker.enqueue('new ' || (i % 2 + 1), to_jsonb(i)) from generate_series(0, 9) i");
	foreach my $waiter (@new)
	{
		my ($at) = $waiter->query_until(qr/returned/, '') =~ /^at ([\d.]+)$/m;
		cmp_ok($at - $produced, '<', 2.5, 'a waiter of the new extension is woken at once');
		$waiter->quit;
	}
	queue_is_exact($node, 'after waiters of a dropped extension');
	return;
}

# A session keeps what it knows of flows, partitions and plans. Here one keeps them from before.
sub old_sessions_go_on
{
	my $old = session();
	my $everything = "select tasker.enqueue('kept', '1'); select count(tasker.mark_record_completed(id, null, lease_token))
		from tasker.claim_records_batch('kept'); select pending, completed from tasker.get_queue_status('kept')";
	is($old->query_safe($everything) =~ s/\d{10,}/id/r, "id\n1\n0|1", 'a session works');
	foreach my $round (1 .. 3)
	{
		insist('drop extension tasker');
		my ($out, $failed) = $old->query("select tasker.enqueue('kept', '1')");
		ok($failed, 'without the extension it gets an error');
		$old->{stderr} = '';
		insist('create extension tasker');
		sql($node, "select tasker.create_flow('another') from generate_series(1, $round)") if $round == 1;
		is($old->query_safe($everything) =~ s/\d{10,}/id/r, "id\n1\n0|1", 'with the new one it goes on');
	}
	# An open transaction keeps the extension.
	$old->query_safe('begin');
	$old->query_safe("select tasker.enqueue('kept', '2')");
	my $dropper = session();
	my $pid = $dropper->query_safe('select pg_backend_pid()');
	$dropper->query_until(qr/started/, "\\echo started\ndrop extension tasker;\n\\echo returned\n");
	wait_until($node, "select wait_event_type = 'Lock' from pg_stat_activity where pid = $pid", 'DROP EXTENSION waits for a writer');
	$old->query_safe('commit');
	$dropper->query_until(qr/returned/, '');
	$dropper->quit;
	is(sql($node, "select count(*) from pg_extension where extname = 'tasker'"), 0, '... and then it goes');
	# Rolled back, it has never gone.
	insist('create extension tasker');
	is($old->query_safe($everything) =~ s/\d{10,}/id/r, "id\n1\n0|1", 'the session goes on');
	sql($node, "select tasker.enqueue('kept', '3')");
	sql($node, 'begin; drop extension tasker; rollback');
	sql($node, 'begin; drop extension tasker; create extension tasker; select tasker.enqueue(\'kept\', \'4\'); select count(*) from tasker.claim_records_batch(\'kept\'); rollback');
	queue_is_exact($node, 'DROP EXTENSION that is rolled back');
	is(status_of($node, 'kept'), '1 0 0 1 0 0 2', '... changes nothing');
	is(scalar(drained($node, 'kept')), 1, '... and hides nothing');
	$old->quit;
	return;
}

# --- several databases -------------------------------------------------------------------------------------------

sub databases_are_apart
{
	sql($node, "create database $_") foreach qw(one two);
	sql($node, 'create extension tasker', $_) foreach qw(one two);
	fill_queue($node, 'one');
	sql($node, "select tasker.create_flow('alpha'), tasker.add_records_to_queue('alpha', '{1,2,3}')", 'two');
	is(status_of($node, 'alpha', 'one'), '12 4 2 7 2 1 28', 'one database');
	is(status_of($node, 'alpha', 'two'), '3 0 0 0 0 0 3', '... and another, with a flow of the same name');
	start_client(1, 'two');
	insist('drop extension tasker', 'one');
	insist('create extension tasker', 'one');
	fill_queue($node, 'one');
	$node->poll_query_until('two', "select total > 50 from tasker.get_queue_status('load')") or die 'no work is done';
	stop_clients();
	is(slurp_file("$dir/errors1"), '', 'what happens in one disturbs nobody in the other');
	is(status_of($node, 'alpha', 'one'), '12 4 2 7 2 1 28', 'the one is new');
	queue_is_exact($node, "database $_", $_) foreach qw(one two);
	is(scalar(drained($node, 'alpha', 'two')), 3, 'each hands out its own');
	is(scalar(drained($node, 'alpha', 'one')), 12, '... and all of it');
	return;
}

# A copy of a database is another queue with the same records.
sub copies_work
{
	sql($node, "drop database one");
	sql($node, 'create database source');
	sql($node, 'create extension tasker', 'source');
	fill_queue($node, 'source');
	sql($node, "call tasker.run_duty('premake')", 'source');
	my $contents = contents_of($node, 'source');
	insist('create database copy template source');
	is(contents_of($node, 'copy'), $contents, 'a copy has the records');
	foreach my $database (qw(copy source))
	{
		is(status_of($node, 'alpha', $database), '12 4 2 7 2 1 28', "$database: the statistics");
		queue_is_exact($node, $database, $database);
	}
	my $highest = sql($node, 'select max(id) from tasker.queue_record', 'source');
	cmp_ok(sql($node, "select tasker.enqueue('beta', '101')", 'copy'), '>', $highest, 'ids keep growing in the copy');
	my ($held, $token) = split /\|/, sql($node, "select id, lease_token from tasker.queue_record where status = 'r' limit 1", 'source');
	is(sql($node, "select tasker.mark_record_completed($held, null, $token)", $_), 1, "$_: a claim is completed, apart from the other")
	  foreach qw(copy source);
	is(scalar(drained($node, 'beta', 'copy')), 101, 'the copy hands out all');
	is(scalar(drained($node, 'beta', 'source')), 100, '... and the source still does');
	wait_until($node, "select exists (select from tasker.worker_status where database = current_database() and state = 'running')",
		"$_: a worker runs", $_) foreach qw(copy source);
	sql($node, "call tasker.run_maintenance('tasker.queue_record')", 'copy');
	is(sql($node, "select count(*) - count(distinct lower_bound) from tasker.show_partitions('tasker.queue_record')", 'copy'), 0,
		'no partition is there twice');
	queue_is_exact($node, "$_, in the end", $_) foreach qw(copy source);
	return;
}

# Shared memory has room for four databases here; what is dropped makes room.
sub dropped_databases_make_room
{
	insist("drop database $_") foreach qw(two source copy);
	foreach my $round (1 .. 5)
	{
		sql($node, "create database passing$round");
		sql($node, 'create extension tasker', "passing$round");
		sql($node, "select tasker.enqueue('f', '1')", "passing$round");
		is(sql($node, 'select count(*) from tasker.queue_lanes()', "passing$round"), 1, "database $round that comes and goes has its lane");
		insist("drop database passing$round");
	}
	# One more than there is room for.
	sql($node, "create database full$_") foreach 1 .. 4;
	sql($node, 'create extension tasker', "full$_") foreach 1 .. 4;
	sql($node, "select tasker.add_records_to_queue('f', '{1,2,3}')", "full$_") foreach 1 .. 4;
	foreach my $number (1 .. 4)
	{
		is(status_of($node, 'f', "full$number"), '3 0 0 0 0 0 3', "database $number of more than there is room for");
		is(scalar(drained($node, 'f', "full$number")), 3, '... hands out its records');
		queue_is_exact($node, "database $number", "full$number");
	}
	return;
}

comes_and_goes();
waiters_of_a_dropped_extension();
old_sessions_go_on();
databases_are_apart();
copies_work();
dropped_databases_make_room();
server_did_not_crash($node);

$node->stop;
done_testing();
