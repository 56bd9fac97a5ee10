# Waiting for a batch: what a waiter holds (nothing), what wakes it, and what becomes of it when it is cancelled, terminated,
# its queue dropped, or called where it must not be.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TaskerCluster;

# A waiter looks again by itself after ten seconds; whoever is back within this time was woken.
my $WOKEN = 4;

my $node = tasker_cluster('wait', conf => 'max_connections = 60');
$node->poll_query_until('postgres', "select state = 'running' from tasker.ticker_status") or die 'no ticker runs';

sub make_queue
{
	my ($queue, @consumers) = @_;
	sql($node, "select tasker.create_queue('$queue')");
	sql($node, "select tasker.register_consumer('$queue', '$_')") foreach @consumers ? @consumers : ('c');
	return;
}

sub session
{
	my ($server) = @_;
	my $session = ($server // $node)->background_psql('postgres', on_error_stop => 0);
	$session->{server_pid} = $session->query_safe('select pg_backend_pid()');
	return $session;
}

sub is_waiting
{
	my ($session, $server) = @_;
	my $pid = $session->{server_pid};
	return ($server // $node)->poll_query_until('postgres', "select coalesce((select wait_event in ('Extension', 'TaskerWaitForBatch')
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
	my ($queue, $consumer, $timeout) = @_;
	$consumer //= 'c';
	$timeout //= '1 minute';
	return start(session(), "call tasker.wait_for_batch('$queue', '$consumer', '$timeout')");
}

# What the statement returned, its error, and when by the server's clock.
sub result
{
	my ($session) = @_;
	my $out = $session->query_until(qr/returned/, '');
	PostgreSQL::Test::Utils::pump_until($session->{run}, $session->{timeout}, \$session->{stderr}, qr/returned/);
	my ($batch) = $out =~ /^(\d+)$/m;
	my ($at) = $out =~ /^at ([\d.]+)$/m;
	my ($error) = $session->{stderr} =~ /ERROR:\s+([^\n]*)/;
	$session->{stderr} = '';
	return ($batch // '', $at // 0, $error // '');
}

# The waiters are waiting; the statement, run by another session, makes them return at once.
sub returns
{
	my ($what, $waiters, $statement) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $begun = sql($node, 'select extract(epoch from clock_timestamp())');
	sql($node, $statement);
	my @batches;
	foreach my $session (@$waiters)
	{
		my ($batch, $at, $error) = result($session);
		like($batch . $error, qr/^\d+$/, "$what: a batch");
		cmp_ok($at - $begun, '<', $WOKEN, '... at once');
		push @batches, $batch;
	}
	return @batches;
}

# --- what a waiter holds -----------------------------------------------------------------------------------------

sub holds_nothing
{
	make_queue('idle');
	my $session = waiter('idle', 'c', '3 seconds');
	my $pid = $session->{server_pid};
	my $begun = time();
	is(sql($node, "select xact_start is null, backend_xid is null, backend_xmin is null from pg_stat_activity
		where pid = $pid"), 't|t|t', 'a waiter has no transaction, no transaction id and no snapshot');
	is(sql($node, "select count(*) from pg_locks where pid = $pid"), '0', 'and no lock');
	is(sql($node, "select waiting from tasker.queue_ticks where queue_name = 'idle'"), 1, 'queue_ticks counts it');
	my ($batch, undef, $error) = result($session);
	is($batch . $error, '', 'after the timeout it returns null');
	cmp_ok(time() - $begun, '>', 2, '... not before');
	is($session->query_safe("call tasker.wait_for_batch('idle', 'c', '0')"), '', 'without a timeout it looks, and returns');
	is(sql($node, "select waiting from tasker.queue_ticks where queue_name = 'idle'"), 0, 'nobody waits any more');
	$session->quit;
	return;
}

# --- what wakes it -----------------------------------------------------------------------------------------------

sub wakes
{
	make_queue('q', 'c', 'd');
	make_queue('elsewhere');
	my ($c, $d, $else) = (waiter('q', 'c'), waiter('q', 'd'), waiter('elsewhere'));
	my ($batch) = returns('a commit wakes every consumer of its queue', [ $c, $d ], "select tasker.insert_event('q', 't', 'x')");
	is($c->query_safe("select ev_data from tasker.get_batch_events($batch)"), 'x', 'the event is in the batch');
	is($c->query_safe("call tasker.wait_for_batch('q', 'c', '1 minute')"), $batch, 'a batch that is open is returned at once');
	is(sql($node, "select tasker.next_batch('q', 'c')"), $batch, '... and was opened and committed');
	$c->query_safe("select tasker.finish_batch($batch)");
	sql($node, "select tasker.insert_event('q', 't', 'y')");
	isnt($c->query_safe("call tasker.wait_for_batch('q', 'c', '1 minute')"), '', 'what is there already ends it at once');
	is(sql($node, "select count(*) from pg_stat_activity where pid = $else->{server_pid} and state = 'active'"), 1,
		'who waits for another queue goes on waiting');
	returns('ticker() by SQL', [$else], "select tasker.set_queue_config('elsewhere', 'ticker_max_lag', '0');
		select tasker.insert_event('elsewhere', 't', 'x'); select tasker.ticker('elsewhere')");
	$_->quit foreach $c, $d, $else;

	make_queue('external');
	sql($node, "select tasker.set_queue_config('external', 'external_ticker', 'true')");
	returns('an external tick', [ waiter('external') ], "select tasker.insert_event('external', 't', 'x');
		select tasker.ticker('external', 100, now(), 1)");
	return;
}

sub paused
{
	make_queue('paused');
	sql($node, "select tasker.set_queue_config('paused', 'paused', 'true')");
	my $session = waiter('paused');
	sql($node, "select tasker.insert_event('paused', 't', 'x')");
	wait_until($node, "select ticks > 0 and not dirty from tasker.queue_ticks where queue_name = 'paused'",
		'a paused queue has ticks');
	is_waiting($session);
	pass('and hands out no batch');
	returns('paused taken back', [$session], "select tasker.set_queue_config('paused', 'paused', 'false')");
	$session->quit;
	return;
}

# --- what ends it ------------------------------------------------------------------------------------------------

sub ends
{
	my ($what, $session, $statement, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $begun = sql($node, 'select extract(epoch from clock_timestamp())');
	sql($node, $statement);
	my ($batch, $at, $error) = result($session);
	like($batch . $error, $expected, $what);
	cmp_ok($at - $begun, '<', $WOKEN, '... at once');
	is($session->query_safe('select 1'), 1, '... and the session goes on');
	$session->quit;
	return;
}

sub interrupted
{
	make_queue('ending', 'c', 'd', 'e');
	my $session = waiter('ending');
	ends('cancelled', $session, "select pg_cancel_backend($session->{server_pid})", qr/^canceling statement due to user request/);
	ends('unregistered', waiter('ending', 'd'), "select tasker.unregister_consumer('ending', 'd')",
		qr/^consumer "d" is not registered on queue "ending"/);
	ends('dropped', waiter('ending'), "select tasker.drop_queue('ending', true)",
		qr/^consumer "c" is not registered on queue "ending"/);

	make_queue('timed');
	$session = session();
	$session->query_safe("set statement_timeout = '500ms'");
	start($session, "call tasker.wait_for_batch('timed', 'c', '1 minute')");
	my (undef, undef, $error) = result($session);
	like($error, qr/^canceling statement due to statement timeout/, 'statement_timeout');
	$session->quit;

	$session = waiter('timed');
	sql($node, "select pg_terminate_backend($session->{server_pid})");
	wait_until($node, "select count(*) = 0 from pg_stat_activity where pid = $session->{server_pid}", 'terminated');
	wait_until($node, "select waiting = 0 from tasker.queue_ticks where queue_name = 'timed'", '... and it waits no more');
	$session->{run}->finish;
	sql($node, "select tasker.insert_event('timed', 't', 'x')");
	isnt(sql($node, "call tasker.wait_for_batch('timed', 'c', '10 seconds')"), '', 'the next one gets the batch');
	return;
}

# --- where it must not be called, and where it may ---------------------------------------------------------------

sub called
{
	make_queue('calls');
	like(error_of($node, "begin; call tasker.wait_for_batch('calls', 'c', '1 minute')"),
		qr/^25001: tasker.wait_for_batch\(\) cannot run inside a transaction block/, 'not in a transaction block');
	like(error_of($node, "do \$\$ begin begin call tasker.wait_for_batch('calls', 'c', '0', null); exception when division_by_zero
		then null; end; end \$\$"), qr/^(25001|2D000|42601)/, 'nor in a block with exceptions');
	like(error_of($node, "call tasker.wait_for_batch('none', 'c', '1 minute')"),
		qr/^42704: consumer "c" is not registered on queue "none"/, 'an unknown queue');
	like(error_of($node, "call tasker.wait_for_batch('calls', 'x', '1 minute')"),
		qr/^42704: consumer "x" is not registered on queue "calls"/, 'an unknown consumer');
	like(error_of($node, "call tasker.wait_for_batch('calls', 'c', '-1 second')"), qr/^22023: /, 'a negative timeout');
	like(error_of($node, "call tasker.wait_for_batch('calls', 'c', null)"), qr/^22023: /, 'a null timeout');
	sql($node, "create procedure work() language plpgsql as \$\$ declare b bigint; begin
		call tasker.wait_for_batch('calls', 'c', '1 minute', b); perform tasker.finish_batch(b); end \$\$");
	my $session = start(session(), 'call work()');
	is(sql($node, "select backend_xid is null, backend_xmin is null from pg_stat_activity where pid = $session->{server_pid}"),
		't|t', 'from a PL/pgSQL procedure it holds no snapshot either');
	sql($node, "select tasker.insert_event('calls', 't', 'x')");
	my (undef, undef, $error) = result($session);
	is($error, '', '... and returns');
	is(sql($node, "select sub_batch is null from tasker.subscription s join tasker.queue q on q.queue_id = s.sub_queue
		where queue_name = 'calls'"), 't', '... with a batch, which was finished');
	$session->quit;
	return;
}

# --- many --------------------------------------------------------------------------------------------------------

sub many
{
	make_queue('many', map { "c$_" } 1 .. 30);
	my @waiters = map { waiter('many', "c$_") } 1 .. 30;
	is(sql($node, "select waiting from tasker.queue_ticks where queue_name = 'many'"), 30, 'thirty wait');
	my @batches = returns('each of thirty', \@waiters, "select tasker.insert_event('many', 't', 'x')");
	my %different = map { $_ => 1 } @batches;
	is(scalar keys %different, 30, 'each has a batch of its own');
	$_->quit foreach @waiters;
	return;
}

# --- without shared memory ---------------------------------------------------------------------------------------

sub without_preload
{
	my $bare = tasker_cluster('bare', preload => 0);
	sql($bare, "select tasker.create_queue('q'), tasker.register_consumer('q', 'c'), tasker.set_queue_config('q', 'ticker_max_lag', '0')");
	my $session = session($bare);
	is($session->query_safe("call tasker.wait_for_batch('q', 'c', '100 milliseconds')"), '', 'nothing, after the timeout');
	$session->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_batch('q', 'c', '1 minute');\n\\echo returned\n");
	is_waiting($session, $bare);
	is(sql($bare, "select xact_start is null, backend_xmin is null from pg_stat_activity where pid = $session->{server_pid}"), 't|t',
		'it holds nothing');
	sql($bare, "select tasker.insert_event('q', 't', 'x'); select tasker.ticker()");
	like($session->query_until(qr/returned/, ''), qr/^\d+$/m, 'it finds the batch');
	$session->quit;
	$bare->stop;
	return;
}

holds_nothing();
wakes();
paused();
interrupted();
called();
many();
without_preload();

# The postmaster's death ends a waiter too.
my $session = waiter('idle');
$node->kill9;
ok(sub { foreach (1 .. 300) { return 1 unless kill 0, $session->{server_pid}; Time::HiRes::usleep(100_000) } return 0 }->(),
	'a waiter ends with its postmaster');
$session->{run}->finish;
$node->stop('immediate', fail_ok => 1);

done_testing();
