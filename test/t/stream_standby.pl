# A streaming standby of a server with queues of events: what stands in them can be read, nothing can be taken from them,
# and after a promotion they go on with nothing lost.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use StreamChecks;
use TaskerCluster;

my $primary = tasker_cluster('primary', init => [ allows_streaming => 1 ], conf => "tasker.worker = off\nlog_statement = none\n");
prepare_proof($primary, events => [ 'first', 'second' ], other => ['third']);
my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub caught_up { return $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')) }

# --- reading -----------------------------------------------------------------------------------------------------

# This session stays connected over the promotion, with all that it has cached.
my $old = $standby->background_psql('postgres', on_error_stop => 0);

send_events($primary, 'events', 10);
tick($primary, 'events');
my $batch = sql($primary, "select tasker.next_batch('events', 'first')");
caught_up();
is($old->query_safe("select queue_name, queue_cur_table from tasker.get_queue_info() order by 1"), "events|0\nother|0", 'get_queue_info on the standby');
foreach my $query (
	'select * from tasker.queue order by 1',
	'select * from tasker.consumer order by 1',
	'select * from tasker.subscription order by 1',
	'select tick_queue, tick_id, tick_snapshot, tick_event_seq from tasker.tick order by 1, 2',
	'select queue_name, consumer_name, last_tick, current_batch, next_tick, pending_events from tasker.get_consumer_info() order by 1, 2',
	"select queue_name, last_tick_id, rotation_deferrals from tasker.get_queue_info('events')",
	"select last_tick, current_batch from tasker.get_consumer_info('events', 'first')",
	"select queue_name, consumer_name, prev_tick_id, tick_id from tasker.get_batch_info($batch)",
	"select ev_id, ev_data from tasker.get_batch_events($batch)")
{
	my $here = sql($primary, $query);
	isnt($here, '', "$query: something is there");
	is(sql($standby, $query), $here, '... and the standby shows the same');
}
rotate_metadata($primary);
send_events($primary, 'other', 1);
is(rotate($primary, 'other'), 1, 'a rotation on the primary');
caught_up();
is($old->query_safe("select queue_cur_table from tasker.queue where queue_name = 'other'"), '1', 'it follows a rotation');
is($old->query_safe("select current_batch = $batch from tasker.get_consumer_info('events', 'first')"), 't', '... of subscriptions, too');

# --- writing -----------------------------------------------------------------------------------------------------

my %WRITES = (
	create_queue => "select tasker.create_queue('new')",
	'create_queue of one that is there' => "select tasker.create_queue('events')",
	drop_queue => "select tasker.drop_queue('events', true)",
	set_queue_config => "select tasker.set_queue_config('events', 'ticker_max_lag', '1s')",
	insert_event => "select tasker.insert_event('events', 'type', 'data')",
	send => "select tasker.send('events', 'data')",
	send_batch => "select tasker.send_batch('events', 'type', array['a', 'b'])",
	register_consumer => "select tasker.register_consumer('events', 'new')",
	'register_consumer of one that is there' => "select tasker.register_consumer('events', 'first')",
	unregister_consumer => "select tasker.unregister_consumer('events', 'first')",
	next_batch => "select tasker.next_batch('events', 'second')",
	'next_batch of an open one' => "select tasker.next_batch('events', 'first')",
	next_batch_custom => "select tasker.next_batch_custom('events', 'second', null, 1, null)",
	finish_batch => "select tasker.finish_batch($batch)",
	'ticker of a queue' => "select tasker.ticker('events')",
	ticker => 'select tasker.ticker()',
	maint_rotate_tables_step1 => "select tasker.maint_rotate_tables_step1('events')",
	maint_rotate_tables_step2 => 'select tasker.maint_rotate_tables_step2()',
	maint_rotate_metadata => 'select tasker.maint_rotate_metadata()',
	maint_rotate_metadata_step2 => 'select tasker.maint_rotate_metadata_step2()');
# One that finds nothing to do may say so.
my %MAY_PASS = map { $_ => 1 } grep { /there$|^maint_|open one/ } keys %WRITES;
foreach my $what (sort keys %WRITES)
{
	my $refusal = qr/^25006: cannot execute .* (?:during recovery|in a read-only transaction)/;
	$refusal = qr/$refusal|^$/ if $MAY_PASS{$what};
	like(error_of($standby, $WRITES{$what}), $refusal, "$what is refused on the standby");
	like(error_of($primary, "set default_transaction_read_only = on;\n$WRITES{$what}"), $refusal,
		'... and in a read-only transaction of the primary') unless $what =~ /^ticker/;
}
is(sql($standby, "select count(*) from tasker.queue"), 2, 'nothing has changed');

# --- promotion ---------------------------------------------------------------------------------------------------

# One consumer is in the middle of a batch, the other behind; some transactions are prepared, some are lost.
drain($primary, 'events', 'second');
rotate($primary, 'events');
send_events($primary, 'events', 10);
tick($primary, 'events');
sql($primary, "begin; select proof.send('events', 'prepared ' || i) from generate_series(1, 10) i; prepare transaction 'kept'");
sql($primary, "begin; select proof.send('events', 'undone'); prepare transaction 'undone'");
sql($primary, "begin; select proof.take('events', 'second'); prepare transaction 'taken'");
send_events($primary, 'other', 10);
tick($primary, 'other');
my $open = $primary->background_psql('postgres', on_error_stop => 1);
$open->query_safe($_) foreach 'begin', "select proof.send('events', 'lost')", "select proof.take('other', 'third')";
send_events($primary, 'events', 10);
tick($primary, 'events');
caught_up();
crash_server($primary);
eval { $open->quit };
$standby->promote;
$standby->poll_query_until('postgres', 'select not pg_is_in_recovery()') or die 'it is not promoted';

is($old->query_safe("select tasker.insert_event('events', 'proof', 'by an old session') > 0"), 't', 'a session from before can write');
sql($standby, "insert into proof.journal values ('events', 'by an old session')");
is($old->query_safe("select tasker.next_batch('events', 'first')"), $batch, '... and has the batch that was open');
sql($standby, "commit prepared '$_'") foreach 'kept', 'taken';
sql($standby, "rollback prepared 'undone'");
is(keep_going($standby, 4), 'events|0 events|1 events|2 other|0 other|1 other|2', 'the tables go round');
delivered_exactly_once($standby, 'after the promotion');
stream_is_sound($standby, 'after the promotion');
is(sql($standby, "select count(*) from proof.taken where data in ('lost', 'undone')"), 0, 'what was not committed is not there');

$old->quit;
server_did_not_crash($_) foreach $primary, $standby;
$standby->stop;
done_testing();
