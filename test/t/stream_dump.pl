# pg_dump of queues of events that are at work, and pg_restore into another cluster, whose transaction ids are others: it
# is detected and said that after_restore() is due, and once it has been called, every consumer goes on where it stood in
# the dump. What it had not read it gets, once; what it had read it does not get again.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use StreamChecks;
use TaskerCluster;

my $conf = "log_statement = none\n";
my $node = tasker_cluster('dumped', conf => "${conf}tasker.worker = off\n");
my %target = (
	'of few transactions' => tasker_cluster('young', conf => $conf, extension => 0),
	'of many transactions' => tasker_cluster('old', conf => $conf, extension => 0));
my $dump = PostgreSQL::Test::Utils::tempdir . '/stream.dump';

sub dump_stream
{
	my ($server, $database) = @_;
	return $server->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $server->connstr($database) ], "pg_dump of $database");
}

sub restore_stream
{
	my ($server, $database, @options) = @_;
	sql($server, "create database $database");
	return $server->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $server->connstr($database), $dump ],
		"pg_restore @options into $database");
}

# It is due, and says so to everybody who would go wrong.
sub is_due
{
	my ($server, $database, $what) = @_;
	is(sql($server, 'select tasker.restore_pending()', $database), 't', "$what: after_restore() is due");
	foreach my $call ("ticker('events')", 'ticker()', "next_batch('events', 'third')",
		"finish_batch((select sub_batch from tasker.subscription where sub_batch is not null limit 1))")
	{
		like(error_of($server, "select tasker.$call", $database), qr/^55000: .*restore/, "$what: $call says so");
	}
	like(sql($server, 'select tasker.health_check()', $database), qr/after_restore/, "$what: so does health_check()");
	return;
}

# From there on it goes on, and everything arrives that the dump has and that has come since.
sub goes_on
{
	my ($server, $database, $what) = @_;
	is_due($server, $database, $what);
	sql($server, "select count(proof.send(q, '$what, before it was called ' || i)) from unnest(array['events', 'other', 'idle']) q,
		generate_series(1, 5) i", $database);
	is(sql($server, "select string_agg(queue_name || ' ' || consumers, ', ' order by queue_name) from tasker.after_restore()", $database),
		'events 3, idle 1, other 1', "$what: after_restore() names the queues");
	is(sql($server, 'select tasker.restore_pending()', $database), 'f', "$what: it is not due any more");
	is(sql($server, 'select count(*) from tasker.after_restore()', $database), 0, "$what: nor is there anything to do");
	wait_until($server, 'select tasker.maint_retry_events() >= 0 and not exists (select from tasker.retry_queue)', "$what: what was put off is back", $database);
	keep_going($server, 5, $database);
	delivered_exactly_once($server, $what, $database);
	stream_is_sound($server, $what, $database);
	is(sql($server, "select count(*) from proof.taken where data = 'lost'", $database), 0, "$what: what was not committed is not there");
	return;
}

# --- queues in every state -----------------------------------------------------------------------------------------

prepare_proof($node, events => [ 'first', 'second', 'third' ], other => ['fourth'], idle => ['fifth']);
sql($node, 'do $$ begin for i in 1 .. 3000 loop perform txid_current(); commit; end loop; end $$');
sql($target{'of many transactions'}, 'do $$ begin for i in 1 .. 30000 loop perform txid_current(); commit; end loop; end $$');
keep_going($node, 2);

# The third one stands still; events lie in two tables, some of them committed out of order.
my $open = $node->background_psql('postgres', on_error_stop => 1);
$open->query_safe($_) foreach 'begin', "select proof.send('events', 'long ' || i) from generate_series(1, 5) i";
send_events($node, 'events', 5);
tick($node, 'events');
is(rotate($node, 'events'), 0, 'a rotation that nobody holds up');
$open->query_safe($_) foreach "select proof.send('events', 'long, too ' || i) from generate_series(1, 5) i", 'commit';
send_events($node, 'events', 5);
tick($node, 'events');
drain($node, 'events', 'second');
send_events($node, 'events', 5);
tick($node, 'events');
# The first one has a batch, the second one has put an event off.
sql($node, "select tasker.next_batch('events', 'first')");
sql($node, "begin; select tasker.next_batch('events', 'second') as batch \\gset
	select ev_id from tasker.get_batch_events(:batch) limit 1 \\gset
	insert into proof.taken (queue, consumer, batch, ev_id, data)
	select 'events', 'second', :batch, ev_id, ev_data from tasker.get_batch_events(:batch) where ev_id <> :ev_id;
	select tasker.event_retry(:batch, :ev_id, 0); select tasker.finish_batch(:batch); commit");
rotate_metadata($node);
send_events($node, 'events', 5);
send_events($node, 'other', 5);
tick($node, 'other');
send_events($node, 'other', 5);
$open->query_safe($_) foreach 'begin', "select proof.send('events', 'lost')", "select proof.take('other', 'fourth')";
sql($node, "begin; select proof.send('other', 'lost'); prepare transaction 'not in the dump'");
dump_stream($node, 'postgres');
$open->query_safe('commit');
$open->quit;

# --- into another cluster ------------------------------------------------------------------------------------------

foreach my $what (sort keys %target)
{
	my $server = $target{$what};
	restore_stream($server, 'plain', '-j', '2');
	goes_on($server, 'plain', "a cluster $what");
}
my $young = $target{'of few transactions'};
restore_stream($young, 'single', '--single-transaction');
goes_on($young, 'single', 'in one transaction');

# Restored, dumped again before anybody has noticed, and restored once more.
restore_stream($young, 'again');
dump_stream($young, 'again');
restore_stream($target{'of many transactions'}, 'again');
goes_on($target{'of many transactions'}, 'again', 'the dump of a restored one');

# --- within a cluster ----------------------------------------------------------------------------------------------

# A dump of one that has gone on after its restore, into the cluster where it came from.
sql($young, "select proof.send('events', 'of a queue that goes on')", 'plain');
sql($young, "select tasker.ticker('events')", 'plain');
sql($young, "select tasker.next_batch('events', 'first')", 'plain');
dump_stream($young, 'plain');
restore_stream($node, 'back');
goes_on($node, 'back', 'back in the first cluster');

# A copy of the files keeps its transaction ids: nothing is due.
sql($node, "rollback prepared 'not in the dump'");
sql($node, 'create database copied template postgres', 'template1');
is(sql($node, 'select tasker.restore_pending()', 'copied'), 'f', 'a copy of the database: nothing is due');
wait_until($node, 'select tasker.maint_retry_events() >= 0 and not exists (select from tasker.retry_queue)', 'what was put off is back in the copy', 'copied');
keep_going($node, 5, 'copied');
sql($node, "delete from proof.journal where data = 'lost'; delete from proof.taken where data = 'lost'", 'copied');
delivered_exactly_once($node, 'a copy of the database', 'copied');
stream_is_sound($node, 'a copy of the database', 'copied');

# The source was not disturbed.
wait_until($node, 'select tasker.maint_retry_events() >= 0 and not exists (select from tasker.retry_queue)', 'what was put off is back');
keep_going($node, 5);
delivered_exactly_once($node, 'the source');
stream_is_sound($node, 'the source');
# --- a rotation in the middle of a dump ------------------------------------------------------------------------------

# A dump takes its snapshot first and locks the tables then. What nobody has moved for long is in the table that the
# rotation in between empties; three times, as there are three tables.
foreach my $time (1 .. 3)
{
	my $dumper = $node->background_psql('postgres', on_error_stop => 1);
	$dumper->query_safe('begin isolation level repeatable read');
	my $snapshot = $dumper->query_safe('select pg_export_snapshot()');
	my $state = 'select rotation_subscription_table, rotation_tick_table from tasker.metadata_rotation';
	my $before = sql($node, $state);
	send_events($node, 'events', 3);
	tick($node, 'events');
	drain($node, 'events', $_) foreach qw(first second third);
	sql($node, "select tasker.ticker('events')");
	rotate_metadata($node);
	my $after = sql($node, $state);
	is(join(' ', map { (substr($after, $_, 1) - substr($before, $_, 1)) % 3 } 0, 2), '1 1', "time $time: both are rotated");
	$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, "--snapshot=$snapshot", $node->connstr('postgres') ], '... within a dump');
	$dumper->quit;
	restore_stream($young, "rotated$time");
	is(sql($young, 'select count(*) from tasker.after_restore()', "rotated$time"), 3, '... which is re-based');
	is(sql($young, 'select count(last_tick) from tasker.get_consumer_info()', "rotated$time"), 5, '... with every consumer at its place')
	  or next;
	keep_going($young, 4, "rotated$time");
	delivered_exactly_once($young, "restored from it, time $time", "rotated$time");
	stream_is_sound($young, "restored from it, time $time", "rotated$time");
}

foreach my $server ($node, values %target)
{
	server_did_not_crash($server);
	$server->stop;
}
done_testing();
