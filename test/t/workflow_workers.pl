# The workers that people are told to copy, in Python and in Node.js: they do a workflow's steps, survive their own end,
# the end of a colleague and of the server, and drop what is not theirs any more. Both run the same tests.

use strict;
use warnings;

use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $example = "$FindBin::Bin/../../examples/workflow";
my $python = $ENV{PYTHON} || 'python3';
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $node = tasker_cluster('workers');
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';

sql($node, slurp_file("$example/words.sql"));

# node-postgres is Debian's, or comes from the npm registry; without node or network its half is skipped.
sub install_pg
{
	return if eval { IPC::Run::run([ 'node', '-e', "require('pg')" ], '<', \undef, '>', \undef, '2>', \undef) };
	my $modules = "$tmp/node";
	mkdir $modules;
	my ($out, $err) = ('', '');
	local $ENV{HOME} = $modules;
	local $ENV{npm_config_update_notifier} = 'false';
	my $done = eval {
		IPC::Run::run([ 'npm', 'install', '--prefix', $modules, '--no-audit', '--no-fund', '--ignore-scripts',
				'--loglevel=error', 'pg@8.16.3' ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(120));
	};
	return "node-postgres cannot be installed: " . ($err || $@ || 'no npm') if !$done;
	$ENV{NODE_PATH} = "$modules/node_modules";
	return;
}

my %command = (
	python => sub {
		my (%p) = @_;
		return ($python, "$example/worker.py", 'words', "$example/handlers.py", '--name', $p{name},
			'--lease', $p{lease}, '--batch', $p{batch});
	},
	node => sub {
		my (%p) = @_;
		return ('node', "$example/worker.js", 'words', "$example/handlers.js", $p{name}, $p{lease}, $p{batch});
	});

my @workers;

sub start_worker
{
	my ($kind, $name, %p) = @_;
	my %worker = (kind => $kind, name => $name, log => "$tmp/$name.log");
	my @command = $command{$kind}->(name => $name, lease => $p{lease} // 30, batch => $p{batch} // 1);
	$worker{run} = IPC::Run::start(\@command, '<', \undef, '>', $worker{log}, '2>&1');
	$worker{pid} = $worker{run}->{KIDS}[0]{PID};
	push @workers, \%worker;
	return \%worker;
}

# Waits for the process; its status: "exit 0", "signal 9".
sub ending_of
{
	my ($worker) = @_;
	local $SIG{ALRM} = sub { kill 'KILL', $worker->{pid} };
	alarm $PostgreSQL::Test::Utils::timeout_default;
	$worker->{run}->finish;
	alarm 0;
	@workers = grep { $_ != $worker } @workers;
	my $status = $worker->{run}->full_result;
	return $status & 127 ? 'signal ' . ($status & 127) : 'exit ' . ($status >> 8);
}

sub end_worker
{
	my ($worker, $signal) = @_;
	kill $signal, $worker->{pid};
	return ending_of($worker);
}

sub log_of { return slurp_file($_[0]{log}); }

# A task over so many documents; document n has n words. Five make three steps "count", of two, two and one.
sub new_task
{
	my ($documents, %context) = @_;
	my $more = join ', ', map { "'$_', $context{$_}" } keys %context;
	return sql($node, "select tasker.create_task('words', 'count', jsonb_build_object('documents',
		(select jsonb_agg(repeat('word ', n)) from generate_series(1, $documents) n)" . ($more && ", $more") . '))');
}

sub task_is
{
	my ($task, $state, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "select current_state = '$state' from tasker.tasks where task_uuid = '$task'", $what)
	  || diag(sql($node, "select tasker.task_graph('$task', 'text')"), map { "$_->{name}: " . log_of($_) } @workers);
}

sub step
{
	my ($task, $columns, $name) = @_;
	return sql($node, "select $columns from tasker.workflow_steps
		where workflow_step_uuid between '$task' and tasker.last_step_of('$task') and name = '$name'");
}

sub steps_of
{
	my ($task) = @_;
	return sql($node, "select string_agg(concat_ws(' ', name, current_state, attempts), ', ' order by workflow_step_uuid) from tasker.workflow_steps
		where workflow_step_uuid between '$task' and tasker.last_step_of('$task')");
}

# The first step "count" has saved its first document, and works on the second.
sub is_in_the_middle
{
	my ($task, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "select checkpoint ->> 'next' = '1' and current_state = 'in_progress' from tasker.workflow_steps
		where workflow_step_uuid between '$task' and tasker.last_step_of('$task') and name = 'count 1 to 2'", $what);
}

sub waits
{
	my ($name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "select count(*) = 1 from pg_stat_activity where application_name = '$name'
		and query like 'call tasker.wait_for_steps%' and state = 'active' and backend_xmin is null", $what);
}

sub test_workers
{
	my ($kind) = @_;

	# A workflow from one end to the other.
	my $worker = start_worker($kind, "$kind-1");
	waits("$kind-1", "$kind: an idle worker waits, and holds no snapshot");
	my $task = new_task(5, failures => 1);
	task_is($task, 'complete', "$kind: a workflow is done");
	is(steps_of($task), 'split complete 1, count 1 to 2 complete 1, count 3 to 4 complete 1, count 5 to 5 complete 1, '
		  . 'total complete 1, publish complete 2', "$kind: step by step");
	is(sql($node, "select words from words.total where task_uuid = '$task'"), '15', "$kind: with the right result");
	is(sql($node, "select error ->> 'message', processor from tasker.workflow_steps
		where workflow_step_uuid between '$task' and tasker.last_step_of('$task') and name = 'publish'"),
		"out of paper|$kind-1", "$kind: what a handler complained of is kept, and who ran it");
	$task = new_task(0);
	task_is($task, 'blocked_by_failures', "$kind: what would fail again is given up");
	is(steps_of($task), 'split error 1', "$kind: at the first attempt");
	waits("$kind-1", "$kind: it waits again");
	is(end_worker($worker, 'TERM'), 'exit 0', "$kind: SIGTERM ends a worker that waits");

	# Killed in the middle of a step: another one goes on where it had come to.
	$worker = start_worker($kind, "$kind-2", lease => 4);
	$task = new_task(5, seconds_per_document => 1);
	is_in_the_middle($task, "$kind: a worker is in the middle of a step");
	is(end_worker($worker, 'KILL'), 'signal 9', "$kind: it is killed");
	$worker = start_worker($kind, "$kind-3");
	task_is($task, 'complete', "$kind: another one finishes its task");
	is(step($task, "attempts, results ->> 'resumed_at', processor", 'count 1 to 2'), "2|1|$kind-3", "$kind: its step from where it was saved");
	is(sql($node, "select words from words.total where task_uuid = '$task'"), '15', "$kind: nothing is lost or counted twice");
	is(end_worker($worker, 'TERM'), 'exit 0', "$kind: it ends");

	# A lease is shorter than a step, and is kept for as long as the worker lives.
	# SIGTERM in the middle of a step, with others claimed: all are given back.
	$worker = start_worker($kind, "$kind-4", lease => 3, batch => 3);
	$task = new_task(5, seconds_per_document => 2);
	is_in_the_middle($task, "$kind: a worker holds several steps, for longer than a lease");
	is(end_worker($worker, 'TERM'), 'exit 0', "$kind: SIGTERM ends a worker that has steps in its hands");
	is(steps_of($task), 'split complete 1, count 1 to 2 enqueued 0, count 3 to 4 enqueued 0, count 5 to 5 enqueued 0, total pending 0, publish pending 0',
		"$kind: it has given them back, and no attempt is lost");
	$worker = start_worker($kind, "$kind-5");
	task_is($task, 'complete', "$kind: they are done by another one");
	like(step($task, "attempts, results ->> 'resumed_at'", 'count 1 to 2'), qr/^1\|[12]$/, "$kind: from where they were saved");
	is(end_worker($worker, 'TERM'), 'exit 0', "$kind: it ends");

	# The server goes away in the middle of a step, in good order and not.
	$worker = start_worker($kind, "$kind-6");
	$task = new_task(5, seconds_per_document => 1);
	is_in_the_middle($task, "$kind: a worker is in the middle of a step");
	$node->restart;
	wait_until($node, "select exists (select from tasker.workflow_steps where workflow_step_uuid between '$task' and tasker.last_step_of('$task')
		and name = 'count 3 to 4' and current_state = 'in_progress')", "$kind: the server was restarted, the worker goes on");
	crash_server($node);
	start_after_crash($node);
	task_is($task, 'complete', "$kind: the server crashed, the worker goes on");
	is(steps_of($task), 'split complete 1, count 1 to 2 complete 1, count 3 to 4 complete 1, count 5 to 5 complete 1, '
		  . 'total complete 1, publish complete 1', "$kind: no attempt is lost");
	is(sql($node, "select words from words.total where task_uuid = '$task'"), '15', "$kind: nothing is lost or counted twice");
	like(log_of($worker), qr/connecting anew/, "$kind: it says so");
	waits("$kind-6", "$kind: it waits");
	is(end_worker($worker, 'TERM'), 'exit 0', "$kind: it ends");

	# A frozen worker loses its lease; thawed, it drops what it has done.
	my $frozen = start_worker($kind, "$kind-7", lease => 3);
	$task = new_task(2, seconds_per_document => 1);
	is_in_the_middle($task, "$kind: a worker is in the middle of a step");
	kill 'STOP', $frozen->{pid};
	$worker = start_worker($kind, "$kind-8");
	task_is($task, 'complete', "$kind: it is frozen, another one does its step");
	kill 'CONT', $frozen->{pid};
	waits("$kind-7", "$kind: thawed, it waits for other work");
	like(log_of($frozen), qr/dropping the work for step count 1 to 2/, "$kind: and has dropped what it had");
	is(step($task, 'attempts, processor', 'count 1 to 2'), "2|$kind-8", "$kind: the other one's result stands");
	is(end_worker($_, 'TERM'), 'exit 0', "$kind: it ends") foreach $frozen, $worker;
	is(sql($node, 'select * from tasker.check_integrity()'), '', "$kind: all tables are whole");
	return;
}

test_workers('python');
SKIP:
{
	my $missing = install_pg();
	skip $missing, 1 if $missing;
	test_workers('node');

	# Both at once, on the same tasks.
	my @mixed = map { start_worker($_ % 2 ? 'python' : 'node', "mixed-$_", batch => 3) } 1 .. 4;
	my @tasks = map { new_task(20, failures => 1) } 1 .. 20;
	wait_until($node, "select count(*) = 20 from tasker.tasks where task_uuid >= '$tasks[0]' and current_state = 'complete'", 'workers of both kinds do twenty tasks');
	is(sql($node, "select count(*), sum(words) from words.total where task_uuid >= '$tasks[0]'"), '20|4200', 'all of them, and right');
	is(sql($node, "select count(distinct split_part(processor, '-', 2)::int % 2) from tasker.workflow_steps where workflow_step_uuid >= '$tasks[0]'"),
		'2', 'together');
	is(end_worker($_, 'TERM'), 'exit 0', "$_->{name} ends") foreach @mixed;
	is(sql($node, 'select * from tasker.check_integrity()'), '', 'all tables are whole');
}

$_->{run}->kill_kill foreach @workers;
$node->stop;
done_testing();
