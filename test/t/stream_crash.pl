# The server is killed with SIGKILL at the worst moments of the stream: between finish_batch and commit, in the middle of
# a rotation, while a table is being emptied, while a queue is made or dropped. After each of them every committed event
# is delivered to every consumer exactly once, and the queue goes on.

use strict;
use warnings;

use Test::More;

use CrashSessions;
use QueueChecks;
use StreamChecks;
use TaskerCluster;

# Nobody else makes ticks or rotates.
my $node = tasker_cluster('crash', conf => "tasker.worker = off\nautovacuum = off\nlog_statement = none\n");
prepare_proof($node, events => [ 'first', 'second' ]);

sub current_table { return sql($node, "select queue_cur_table from tasker.queue where queue_name = 'events'") }
sub take { return sql($node, "select proof.take('events', '$_[0]') is not null") }

# Everything goes on: events from before and after arrive, once, over a whole round of rotations of everything.
sub goes_on
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(keep_going($node, 4), 'events|0 events|1 events|2', "$what: the event tables go round");
	delivered_exactly_once($node, $what);
	stream_is_sound($node, $what);
	return;
}

# The moments: what lies before the crash.
my @moments = (
	'events that no tick has seen' => sub { },
	'a tick that nobody has read' => sub { tick($node, 'events') },
	'a tick that was not committed' => sub { in_transaction($node, "select tasker.ticker('events')") },
	'a batch that was opened' => sub { tick($node, 'events'); sql($node, "select tasker.next_batch('events', 'first')") },
	'a batch that was opened and not committed' => sub {
		tick($node, 'events');
		in_transaction($node, "select tasker.next_batch('events', 'first')");
	},
	'between finish_batch and commit' => sub {
		tick($node, 'events');
		in_transaction($node, "select proof.take('events', 'first')");
	},
	'between finish_batch and commit of both consumers, one done' => sub {
		tick($node, 'events');
		in_transaction($node, "select proof.take('events', 'first')");
		take('second');
		send_events($node, 'events', 3);
		tick($node, 'events');
		in_transaction($node, "select proof.take('events', 'second')");
	},
	'after the commit of finish_batch' => sub { tick($node, 'events'); take('first') },
	'a finish_batch that was rolled back to a savepoint' => sub {
		tick($node, 'events');
		in_transaction($node, 'savepoint s', "select proof.take('events', 'first')", 'rollback to s', "select tasker.next_batch('events', 'first')");
	},
	'a producer that was not committed' => sub { in_transaction($node, "select proof.send('events', 'never')"); tick($node, 'events') },
	'a rotation between its steps' => sub {
		my $before = current_table();
		sql($node, "select tasker.maint_rotate_tables_step1('events')");
		isnt(current_table(), $before, 'it rotated');
		send_events($node, 'events', 5);
	},
	'a rotation whose first step was not committed' => sub {
		in_transaction($node, "select tasker.maint_rotate_tables_step1('events')");
		send_events($node, 'events', 5);
	},
	'a rotation whose first step was written to disk and not committed' => sub {
		in_transaction($node, "select tasker.maint_rotate_tables_step1('events')");
		sql($node, 'checkpoint');
		send_events($node, 'events', 5);
	},
	'a rotation that was committed, from before a checkpoint' => sub {
		sql($node, 'checkpoint');
		rotate($node, 'events');
		send_events($node, 'events', 5);
	},
	'a rotation whose second step was not committed' => sub {
		sql($node, "select tasker.maint_rotate_tables_step1('events')");
		in_transaction($node, 'select tasker.maint_rotate_tables_step2()');
		send_events($node, 'events', 5);
	},
	'a producer across a rotation' => sub {
		in_transaction($node, "select proof.send('events', 'never')");
		rotate($node, 'events');
		in_transaction($node, "select proof.send('events', 'never, too')");
		send_events($node, 'events', 5);
		tick($node, 'events');
	},
	'a batch that is being read across a rotation' => sub {
		tick($node, 'events');
		in_transaction($node, "select proof.take('events', 'first')");
		rotate($node, 'events');
		send_events($node, 'events', 5);
	},
	'a rotation of subscriptions and ticks between its steps' => sub {
		tick($node, 'events');
		take('first');
		sql($node, 'select tasker.maint_rotate_metadata()');
	},
	'a rotation of subscriptions and ticks that was not committed' => sub {
		tick($node, 'events');
		take('first');
		in_transaction($node, 'select tasker.maint_rotate_metadata()');
		sql($node, 'checkpoint');
	},
	'a rotation of subscriptions and ticks around an open batch' => sub {
		tick($node, 'events');
		sql($node, "select tasker.next_batch('events', 'first')");
		rotate_metadata($node) foreach 1 .. 3;
	},
	'a queue that is being made' => sub { in_transaction($node, "select tasker.create_queue('other')", "select proof.send('other', 'never')") },
	'a queue that is being made, half of it' => sub {
		in_transaction($node, 'lock table tasker.event_template in access exclusive mode');
		stuck_in($node, "select tasker.create_queue('other')");
	},
	'a queue that is being dropped' => sub { in_transaction($node, "select tasker.drop_queue('events', true)") },
	'a queue that is being dropped, half of it' => sub {
		in_transaction($node, "select proof.send('events', 'never')");
		stuck_in($node, "select tasker.drop_queue('events', true)");
	},
	'a consumer that is being unregistered' => sub { tick($node, 'events'); in_transaction($node, "select tasker.unregister_consumer('events', 'first')") },
);

my $tables = "select count(*) from pg_class where relnamespace = 'tasker'::regnamespace and relname ~ '^event_[0-9]'";
my $expected = sql($node, $tables);
while (my ($what, $moment) = splice @moments, 0, 2)
{
	send_events($node, 'events', 10);
	$moment->();
	crash($node);
	is(sql($node, $tables), $expected, "$what: there are as many tables as before");
	goes_on($what);
}

# --- transactions in two phases --------------------------------------------------------------------------------------

# They keep what they hold: a producer its events, a consumer its turn, a ticker its turn.
send_events($node, 'events', 10);
sql($node, "begin; select proof.send('events', 'prepared ' || i) from generate_series(1, 10) i; prepare transaction 'producer'");
tick($node, 'events');
sql($node, "begin; select proof.take('events', 'first'); prepare transaction 'consumer'");
crash($node);
like(error_of($node, "set lock_timeout = '50ms'; select tasker.next_batch('events', 'first')"), qr/^55P03/, 'a prepared consumer has its turn after a crash');
drain($node, 'events', 'second');
rotate($node, 'events') foreach 1 .. 3;
rotate_metadata($node) foreach 1 .. 3;
send_events($node, 'events', 10);
sql($node, "begin; select tasker.ticker('events'); prepare transaction 'ticker'");
crash($node);
like(error_of($node, "set lock_timeout = '50ms'; select tasker.ticker('events')"), qr/^55P03/, '... and a prepared ticker its own');
sql($node, "commit prepared 'ticker'");
sql($node, "commit prepared 'consumer'");
drain($node, 'events', 'second');
sql($node, "commit prepared 'producer'");
crash($node);
goes_on('two phases, committed');

send_events($node, 'events', 10);
sql($node, "begin; select proof.send('events', 'never'); prepare transaction 'producer'");
tick($node, 'events');
sql($node, "begin; select proof.take('events', 'first'); prepare transaction 'consumer'");
crash($node);
sql($node, "rollback prepared '$_'") foreach 'consumer', 'producer';
goes_on('two phases, rolled back');

# --- a restart that is none of these ---------------------------------------------------------------------------------

send_events($node, 'events', 10);
$node->restart;
goes_on('a restart');
server_did_not_crash($node);
$node->stop;
done_testing();
