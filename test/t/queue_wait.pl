# Waiting for records: what a waiter holds (nothing), what wakes it, and what becomes of it when it is cancelled,
# terminated, or called where it must not be.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use QueueChecks;
use TaskerCluster;

# A waiter looks again by itself after five seconds; whoever is back within this time was woken.
my $WOKEN = 2.5;

# No worker: nobody else wakes or mends anything.
my $node = tasker_cluster('wait', conf => "tasker.worker = off\nmax_connections = 60\n");
my $producer = $node->background_psql('postgres', on_error_stop => 0);

# --- waiters -----------------------------------------------------------------------------------------------------

sub session
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->{server_pid} = $session->query_safe('select pg_backend_pid()');
	return $session;
}

sub is_waiting
{
	my ($session) = @_;
	my $pid = $session->{server_pid};
	return $node->poll_query_until('postgres', "select coalesce((select wait_event in ('Extension', 'TaskerWaitForRecords')
		from pg_stat_activity where pid = $pid and state = 'active'), false)") || die 'it does not wait';
}

# Sends a statement that waits, and returns when it does.
sub start
{
	my ($session, $statement) = @_;
	$session->{stderr} = '';
	$session->query_until(qr/started/, "\\echo started\n$statement;\n"
		  . "select 'at ' || extract(epoch from clock_timestamp());\n\\echo returned\n\\warn returned\n");
	is_waiting($session);
	return $session;
}

sub waiter
{
	my ($flow, $timeout) = @_;
	return start(session(), "call tasker.wait_for_records('$flow', '" . ($timeout // '1 minute') . "')");
}

# What the statement returned, its error, and when by the server's clock.
sub result
{
	my ($session) = @_;
	my $out = $session->query_until(qr/returned/, '');
	PostgreSQL::Test::Utils::pump_until($session->{run}, $session->{timeout}, \$session->{stderr}, qr/returned/);
	my ($ready) = $out =~ /^([tf])$/m;
	my ($at) = $out =~ /^at ([\d.]+)$/m;
	my ($error) = $session->{stderr} =~ /ERROR:\s+([^\n]*)/;
	$session->{stderr} = '';
	return ($ready // '', $at // 0, $error // '');
}

# Runs the statements and returns the server's time before the last, whose end is the commit.
sub produce
{
	my (@statements) = @_;
	my $last = pop @statements;
	$producer->query_safe($_) foreach @statements;
	my ($at) = split /\n/, $producer->query_safe("select extract(epoch from clock_timestamp());\n$last");
	return $at;
}

# Makes a waiter of the flow wait, runs statements in another session, and expects that the last one wakes it.
sub wakes
{
	my ($what, $flow, @statements) = @_;
	my $session = waiter($flow);
	my $produced = produce(@statements);
	my ($ready, $at, $error) = result($session);
	$session->quit;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($ready . $error, 't', "$what wakes a waiter");
	cmp_ok($at - $produced, '<', $WOKEN, "... at once");
	return;
}

sub fresh_flow
{
	my ($flow, $settings) = @_;
	sql($node, "select tasker.create_flow('$flow', '" . ($settings // '{}') . "')");
	return $flow;
}

# --- what a waiter holds -----------------------------------------------------------------------------------------

sub holds_nothing
{
	my $flow = fresh_flow('idle');
	my $session = waiter($flow, '3 seconds');
	my $pid = $session->{server_pid};
	my $begun = time();
	my $ticks = sub { my @stat = split / /, slurp_file("/proc/$pid/stat") =~ s/^.*\) //r; return $stat[11] + $stat[12] };
	my $before = $ticks->();
	is(sql($node, "select xact_start is null, backend_xid is null, backend_xmin is null from pg_stat_activity
		where pid = $pid"), 't|t|t', 'a waiter has no transaction, no transaction id and no snapshot');
	is(sql($node, "select count(*) from pg_locks where pid = $pid"), '0', 'and no lock');
	my ($ready, undef, $error) = result($session);
	is($ready . $error, 'f', 'after the timeout it returns false');
	cmp_ok(time() - $begun, '>', 2.5, '... not before');
	cmp_ok($ticks->() - $before, '<=', 5, 'and has used next to no processor time');
	is($session->query_safe("call tasker.wait_for_records('idle', '0')"), 'f', 'without a timeout it looks, and returns');
	sql($node, "select tasker.enqueue('idle', '1')");
	is($session->query_safe("call tasker.wait_for_records('idle', '1 hour')"), 't', 'what is there already ends it at once');
	$session->quit;
	return;
}

# --- what wakes it -----------------------------------------------------------------------------------------------

sub commits_wake
{
	my $flow = fresh_flow('prompt');
	my $session = session();
	my @waits;
	foreach my $round (1 .. 50)
	{
		start($session, "call tasker.wait_for_records('$flow', '1 minute')");
		my $produced = produce("select tasker.enqueue('$flow', '1')");
		my ($ready, $at, $error) = result($session);
		die "round $round: $ready $error" if $ready ne 't';
		push @waits, $at - $produced;
		die 'nothing to claim' if $session->query_safe("select count(tasker.mark_record_completed(id, null, lease_token))
			from tasker.claim_records_batch('$flow')") ne '1';
	}
	@waits = sort { $a <=> $b } @waits;
	note(sprintf 'from an enqueue to the return of its waiter: p50 %.2f ms, p90 %.2f ms, longest %.2f ms',
		1000 * $waits[25], 1000 * $waits[45], 1000 * $waits[49]);
	cmp_ok($waits[25], '<', 0.02, 'half of 50 waiters are back within 20 ms of the producer\'s statement');
	$session->quit;
	return;
}

sub only_commits_wake
{
	my $flow = fresh_flow('uncommitted');
	my $session = waiter($flow);
	$producer->query_safe('begin');
	$producer->query_safe("select tasker.enqueue('$flow', '1')");
	is_waiting($session);
	ok($session->{stdout} !~ /returned/, 'an enqueue without its commit wakes nobody');
	$producer->query_safe('rollback');
	is_waiting($session);
	ok($session->{stdout} !~ /returned/, 'nor does its rollback');
	my $produced = produce('begin', "select tasker.enqueue('$flow', '1')", 'commit');
	my ($ready, $at) = result($session);
	is($ready, 't', 'the commit does');
	cmp_ok($at - $produced, '<', $WOKEN, '... at once');
	$session->quit;
	return;
}

sub all_ways_in_wake
{
	my $flow = fresh_flow('ways');
	my $finish = "select tasker.mark_record_completed(id) from tasker.claim_records_batch('$flow', 100)";
	foreach my $way (
		["an array of records", "select tasker.add_records_to_queue('$flow', '{1,2,3}')"],
		["an insert into the view", "insert into tasker.processing_queue (flow_name, payload) values ('$flow', '1')"],
		["an insert into the table", "insert into tasker.queue_record (flow_id, payload)
			select flow_id, '1' from tasker.flow where flow_name = '$flow'"],
		["COPY", "copy tasker.processing_queue (flow_name, payload) from program 'echo $flow,1' with (format csv)"],
		["another priority", "select tasker.enqueue('$flow', '1', 7)"])
	{
		wakes($way->[0], $flow, $way->[1]);
		sql($node, $finish);
	}
	my $before = "select id as id from tasker.claim_records_batch('$flow') \\gset";
	my $enqueue = "select tasker.enqueue('$flow', '1')";
	$producer->query_safe($enqueue);
	wakes('a release', $flow, "select tasker.release_records(array[id]) from tasker.processing_queue
		where status = 'processing'") if $producer->query_safe($before) eq '';
	$producer->query_safe($before);
	wakes('a retry without delay', $flow, "select tasker.mark_record_failed(:id, 'again', '0')");
	$producer->query_safe($before);
	$producer->query_safe("select tasker.mark_record_failed(:id, 'and again'); update tasker.flow set max_attempts = 1
		where flow_name = '$flow'");
	sql($node, $finish);
	$producer->query_safe($enqueue);
	$producer->query_safe($before);
	$producer->query_safe("select tasker.mark_record_failed(:id, 'the last time')");
	wakes('a dead letter that is brought back', $flow, 'select tasker.retry_records(array[:id])');
	$producer->query_safe($before);
	sql($node, "update tasker.flow set max_attempts = 10 where flow_name = '$flow'");
	sql($node, "select tasker.extend_lease(array_agg(id), '1 ms') from tasker.queue_record where status = 'r'");
	wakes('the recovery of an orphan', $flow, "select tasker.alter_flow('$flow', 'backoff_base', '0');
		select tasker.cleanup_orphaned_records('1 hour')");
	sql($node, $finish);
	return;
}

sub aborts_wake
{
	my $flow = fresh_flow('aborts');
	my $claim = "select from tasker.claim_records_batch('$flow')";
	sql($node, "select tasker.enqueue('$flow', '1')");
	$producer->query_safe("begin; $claim");
	wakes('the rollback of a claim', $flow, 'rollback');
	$producer->query_safe("begin; savepoint s; $claim");
	wakes('a rollback of a claim to a savepoint', $flow, 'rollback to savepoint s');
	$producer->query_safe('commit');

	my $claimer = session();
	$claimer->query_safe("begin; $claim");
	wakes('the end of a session with an open claim', $flow, "select pg_terminate_backend($claimer->{server_pid})");
	eval { $claimer->quit };
	return;
}

sub due_records_wake
{
	my $flow = fresh_flow('scheduled');
	my $session = waiter($flow);
	my $id = $producer->query_safe("select tasker.enqueue('$flow', '1', 0, clock_timestamp() + interval '700 ms')");
	is_waiting($session);
	my ($ready, $at) = result($session);
	is($ready, 't', 'a record that becomes due wakes a waiter that waited when it was added');
	my $late = $at - sql($node, "select extract(epoch from run_at) from tasker.processing_queue where id = $id");
	cmp_ok($late, '>=', 0, '... not before its time');
	cmp_ok($late, '<', $WOKEN, '... and then at once');
	is($session->query_safe("select id from tasker.claim_records_batch('$flow')"), $id, '... to be claimed');

	# The schedule is there first, and is overtaken by one that is due earlier.
	$producer->query_safe("select tasker.enqueue('$flow', '1', 0, clock_timestamp() + interval '1 hour')");
	start($session, "call tasker.wait_for_records('$flow', '1 minute')");
	my $produced = produce("select tasker.enqueue('$flow', '2', 0, clock_timestamp() + interval '100 ms')");
	($ready, $at) = result($session);
	is($ready, 't', 'an earlier one sets the alarm forward');
	cmp_ok($at - $produced, '<', $WOKEN, '... and wakes in time');
	$session->quit;
	return;
}

sub settings_wake
{
	my $flow = fresh_flow('paused', '{"paused": true}');
	sql($node, "select tasker.enqueue('$flow', '1')");
	wakes('resume_flow()', $flow, "select tasker.resume_flow('$flow')");
	sql($node, "select tasker.pause_flow('$flow')");
	wakes('alter_flow()', $flow, "select tasker.alter_flow('$flow', 'paused', 'false')");

	# Many times, for a waiter may be quicker than the news of the change to its session.
	my $session = session();
	my @waits;
	foreach my $round (1 .. 30)
	{
		sql($node, "select tasker.pause_flow('$flow')");
		start($session, "call tasker.wait_for_records('$flow', '1 minute')");
		my $produced = produce("select tasker.resume_flow('$flow')");
		my ($ready, $at) = result($session);
		push @waits, $at - $produced;
	}
	is(scalar(grep { $_ > $WOKEN } @waits), 0, '... each time');
	$session->quit;
	return;
}

sub limits_wake
{
	my $flow = fresh_flow('limited', '{"max_in_flight": 1, "backoff_base": "1 hour", "backoff_max": "1 hour"}');
	my $claim = "select id as id from tasker.claim_records_batch('$flow') \\gset";
	sql($node, "select tasker.add_records_to_queue('$flow', array_fill('1'::jsonb, array[20]))");

	$producer->query_safe($claim);
	wakes('a completion at max_in_flight', $flow, 'select tasker.mark_record_completed(:id)');
	$producer->query_safe($claim);
	wakes('a failure at max_in_flight', $flow, "select tasker.mark_record_failed(:id, 'no')");
	$producer->query_safe($claim);
	wakes('a release at max_in_flight', $flow, 'select tasker.release_records(array[:id])');
	$producer->query_safe("begin;\n$claim");
	wakes('the rollback of a claim at max_in_flight', $flow, 'rollback');
	$producer->query_safe("begin;\n$claim\nselect tasker.mark_record_completed(:id)");
	wakes('a claim and its completion in one transaction, at max_in_flight,', $flow, 'commit');
	$producer->query_safe("begin;\nsavepoint s;\n$claim");
	wakes('the rollback of a claim to a savepoint, at max_in_flight,', $flow, 'rollback to savepoint s');
	$producer->query_safe('commit');
	$producer->query_safe($claim);
	wakes('a higher max_in_flight', $flow, "select tasker.alter_flow('$flow', 'max_in_flight', '2')");

	$flow = fresh_flow('slow', '{"rate_limit": 1}');
	sql($node, "select tasker.add_records_to_queue('$flow', '{1,2}')");
	is(sql($node, "select count(*) from tasker.claim_records_batch('$flow', 2)"), 1, 'a rate limit gives one');
	my $begun = time();
	my $session = waiter($flow);
	is((result($session))[0], 't', 'the next token wakes a waiter');
	cmp_ok(time() - $begun, '<', $WOKEN + 1, '... when it is there');
	is($session->query_safe("select count(*) from tasker.claim_records_batch('$flow', 2)"), 1, '... for one more');
	$session->quit;
	return;
}

# Twenty waiters, and twenty records that come in two ways.
sub each_waiter_is_woken
{
	my $flow = fresh_flow('crowd');
	my @crowd = map { session() } 1 .. 20;
	foreach my $way ("select tasker.add_records_to_queue('$flow', array_fill('1'::jsonb, array[20]))",
		join '; ', ("select tasker.enqueue('$flow', '1')") x 20)
	{
		$_->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_records('$flow', '1 minute');\n"
			  . "select 'at ' || extract(epoch from clock_timestamp());\n\\echo returned\n\\warn returned\n")
		  foreach @crowd;
		is_waiting($_) foreach @crowd;
		my $produced = produce($way);
		my @results = map { [ result($_) ] } @crowd;
		is(scalar(grep { $_->[0] eq 't' } @results), 20, 'each of 20 waiters is woken');
		is(scalar(grep { $_->[1] - $produced > $WOKEN } @results), 0, '... at once');
		my %ids = map { $_->query_safe("select id from tasker.claim_records_batch('$flow')") => 1 } @crowd;
		is(scalar(grep { $_ ne '' } keys %ids), 20, '... and gets a record of its own');
	}
	$_->quit foreach @crowd;
	return;
}

# --- how it ends -------------------------------------------------------------------------------------------------

# A waiter that is gone must not be woken in another's place.
sub no_stale_waiter
{
	my $flow = fresh_flow('stale');
	foreach my $end ('pg_cancel_backend', 'pg_terminate_backend')
	{
		my $first = waiter($flow);
		sql($node, "select $end($first->{server_pid})");
		if ($end eq 'pg_cancel_backend')
		{
			my (undef, undef, $error) = result($first);
			is($error, 'canceling statement due to user request', 'a waiter can be cancelled');
			is($first->query_safe('select 1'), '1', '... and its session goes on');
		}
		else
		{
			wait_until($node, "select not exists (select from pg_stat_activity where pid = $first->{server_pid})",
				'a waiter can be terminated');
		}
		wakes("after $end of the first in line, an enqueue", $flow, "select tasker.enqueue('$flow', '1')");
		sql($node, "select tasker.mark_record_completed(id) from tasker.claim_records_batch('$flow')");
		if ($end eq 'pg_cancel_backend')
		{
			start($first, "call tasker.wait_for_records('$flow', '1 minute')");
			produce("select tasker.enqueue('$flow', '1')");
			is((result($first))[0], 't', 'the cancelled one can wait again');
			sql($node, "select tasker.mark_record_completed(id) from tasker.claim_records_batch('$flow')");
		}
		eval { $first->quit };
	}
	my ($status, undef, $err) = $node->psql('postgres',
		"set statement_timeout = '200 ms';\ncall tasker.wait_for_records('$flow', '1 minute')");
	like($err, qr/canceling statement due to statement timeout/, 'statement_timeout ends a wait');
	wakes('after a statement_timeout, an enqueue', $flow, "select tasker.enqueue('$flow', '1')");
	return;
}

sub flow_goes_away
{
	my $flow = fresh_flow('dropped');
	my $session = waiter($flow);
	my $dropped = time();
	sql($node, "select tasker.drop_flow('$flow')");
	my (undef, undef, $error) = result($session);
	is($error, 'flow "dropped" does not exist', 'a waiter hears that its flow is dropped');
	cmp_ok(time() - $dropped, '<', $WOKEN, '... at once');
	is($session->query_safe('select 1'), '1', '... and its session goes on');
	$session->quit;
	return;
}

sub errors
{
	my $call = "call tasker.wait_for_records('errors', '1 hour')";
	fresh_flow('errors');
	like(error_of($node, "begin;\n$call"), qr/^25001: tasker.wait_for_records\(\) cannot run inside a transaction block/,
		'in a transaction block');
	like(error_of($node, "select 1\\; $call"), qr/^25001/, 'in a query of several statements, which is one transaction');
	sql($node, "create function wait_in_function() returns void language plpgsql as \$\$
		declare ready boolean; begin call tasker.wait_for_records('errors', '1 hour', ready); end \$\$");
	like(error_of($node, 'select wait_in_function()'), qr/^25001/, 'in a function');
	like(error_of($node, "begin;\ndo \$\$ declare ready boolean;
		begin call tasker.wait_for_records('errors', '1 hour', ready); end \$\$"), qr/^25001/, 'in DO in a transaction block');
	like(error_of($node, "do \$\$ declare ready boolean; begin
		begin call tasker.wait_for_records('errors', '1 hour', ready); exception when division_by_zero then null; end;
		end \$\$"), qr/^(25001|2D000)/, 'in a block with an exception handler');
	like(error_of($node, "call tasker.wait_for_records('no such flow', '1 hour')"), qr/^42704: flow "no such flow"/,
		'on a flow that does not exist');
	like(error_of($node, "call tasker.wait_for_records('errors', '-1 second')"), qr/^22023/, 'with a negative timeout');
	like(error_of($node, "call tasker.wait_for_records('errors', null)"), qr/^22023/, 'without a timeout');
	return;
}

# From a procedure, and through the extended protocol.
sub other_callers
{
	my $flow = fresh_flow('procedure');
	sql($node, <<~SQL);
		create table answers (answer text);
		create procedure work(rounds int) language plpgsql as \$\$
		declare
		    ready boolean;
		    long_text text := repeat('kept ', 1000);
		begin
		    for round in 1 .. rounds loop
		        insert into answers values ('begun');
		        call tasker.wait_for_records('$flow', '1 minute', ready);
		        insert into answers select ready || ' ' || count(*) || ' ' || length(long_text)
		            from tasker.claim_records_batch('$flow');
		    end loop;
		end \$\$;
		SQL
	my $session = start(session(), 'call work(2)');
	my $pid = $session->{server_pid};
	is(sql($node, 'select string_agg(answer, \',\') from answers'), 'begun', 'a procedure that waits has committed');
	is(sql($node, "select backend_xid is null, backend_xmin is null from pg_stat_activity where pid = $pid"),
		't|t', '... and holds no transaction id and no snapshot');
	is(sql($node, "select count(*) from pg_locks where pid = $pid and locktype <> 'virtualxid'"), '0', '... and no lock');
	produce("select tasker.enqueue('$flow', '1')");
	$node->poll_query_until('postgres', "select count(*) = 3 from answers") or die 'no second round';
	produce("select tasker.enqueue('$flow', '1')");
	my (undef, undef, $error) = result($session);
	is($error, '', 'it goes on after the wait');
	is(sql($node, 'select string_agg(answer, \',\') from answers'), 'begun,true 1 5000,begun,true 1 5000',
		'... with its variables, twice');
	start($session, 'call work(1)');
	sql($node, "select pg_cancel_backend($pid)");
	(undef, undef, $error) = result($session);
	is($error, 'canceling statement due to user request', 'a procedure that waits can be cancelled');
	start($session, 'do $$ declare ready boolean; begin call tasker.wait_for_records(\'procedure\', \'1 minute\', ready); end $$');
	produce("select tasker.enqueue('$flow', '1')");
	(undef, undef, $error) = result($session);
	is($error, '', 'DO at top level can wait too');
	$session->quit;

	my $script = PostgreSQL::Test::Utils::tempdir . '/wait.sql';
	append_to_file($script, "call tasker.wait_for_records('errors', '5 ms', null);\nselect 1;\n");
	foreach my $protocol (qw(simple extended prepared))
	{
		$node->command_checks_all([ 'pgbench', '-n', '-M', $protocol, '-t', '5', '-c', '2', '-f', $script, 'postgres' ],
			0, [qr{processed: 10/10}], [qr/^(?!.*error)/s], "through the $protocol protocol");
	}
	return;
}

holds_nothing();
commits_wake();
only_commits_wake();
all_ways_in_wake();
aborts_wake();
due_records_wake();
settings_wake();
limits_wake();
each_waiter_is_woken();
no_stale_waiter();
flow_goes_away();
errors();
other_callers();
queue_is_exact($node, 'in the end');
server_did_not_crash($node);

$producer->quit;
$node->stop;
done_testing();
