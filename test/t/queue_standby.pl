# A streaming standby: it can be read, says clearly that it cannot be written, and goes on working when it is promoted.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use TaskerCluster;

my $primary = tasker_cluster('primary', init => [ allows_streaming => 1 ],
	conf => "log_statement = none\ntasker.sweep_interval = 1\nmax_prepared_transactions = 10\n");
fill_queue($primary);

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub caught_up { return $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')) }

sub session { return $_[0]->background_psql('postgres', on_error_stop => 0) }

sub start_waiting
{
	my ($session, $flow, $timeout) = @_;
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_records('$flow', '$timeout');\n\\echo returned\n");
	$standby->poll_query_until('postgres', "select wait_event in ('Extension', 'TaskerWaitForRecords') from pg_stat_activity where pid = $pid")
	  or die 'it does not wait';
	return;
}

# --- reading -----------------------------------------------------------------------------------------------------

# This session stays connected over the promotion, with all that it has cached.
my $old = session($standby);

caught_up();
is(status_of($standby, 'alpha'), '12 4 2 7 2 1 28', 'the statistics, read on the standby');
is(status_of($standby, 'beta'), '100 0 0 0 0 0 100', '... of both flows');
queue_is_exact($standby, 'on the standby');
is(contents_of($standby), contents_of($primary), 'the records');
is($old->query_safe("select count(*) from tasker.processing_queue where status = 'processing'"), '2', 'the view');
is($old->query_safe("select pending from tasker.get_queue_status('beta')"), '100', '... and the statistics, in a session that stays');
is(sql($standby, 'select count(*) from tasker.dead_letters'), 2, 'dead letters');
is(sql($standby, 'select count(*) from tasker.queue_lanes()'), 0, 'it keeps no lanes');
is(sql($standby, "select state from tasker.worker_status where database = 'postgres'"), 'standby', 'and has no worker');
like(sql($standby, 'select tasker.health_check()'), qr/"status"/, 'its health can be asked');

sql($primary, "with c as materialized (select * from tasker.claim_records_batch('beta', 10))
	select count(tasker.mark_record_completed(id, null, lease_token)) from c where payload::int <= 4");
caught_up();
is(status_of($standby, 'beta'), '90 0 6 4 0 0 100', 'it follows the primary');

my $waiter = session($standby);
sql($primary, "select tasker.create_flow('waited')");
caught_up();
is($waiter->query_safe("call tasker.wait_for_records('waited', '100 ms')"), 'f', 'one can wait on the standby');
start_waiting($waiter, 'waited', '1 minute');
sql($primary, "select tasker.enqueue('waited', '1')");
like($waiter->query_until(qr/returned/, ''), qr/^t$/m, '... for what the primary adds');

# --- writing -----------------------------------------------------------------------------------------------------

my %WRITES = (
	enqueue => "select tasker.enqueue('alpha', '1')",
	'enqueue with a key' => "select tasker.enqueue('alpha', '1', 0, null, 'key')",
	'enqueue into a new flow' => "select tasker.enqueue('new', '1')",
	add_records_to_queue => "select tasker.add_records_to_queue('alpha', '{1,2}')",
	claim_records_batch => "select * from tasker.claim_records_batch('alpha')",
	mark_record_completed => 'select tasker.mark_record_completed(1)',
	mark_records_completed => 'select tasker.mark_records_completed(array[1])',
	mark_record_failed => "select tasker.mark_record_failed(1, 'no')",
	extend_lease => "select tasker.extend_lease(array[1], '1 hour')",
	release_records => 'select tasker.release_records(array[1])',
	cancel_records => 'select tasker.cancel_records(array[1])',
	retry_records => 'select tasker.retry_records(array[1])',
	reset_failed_records => "select tasker.reset_failed_records('alpha')",
	purge_failed_records => "select tasker.purge_failed_records('alpha')",
	cleanup_orphaned_records => 'select tasker.cleanup_orphaned_records()',
	sweep_queue => 'select tasker.sweep_queue()',
	rebuild_queue_state => 'select tasker.rebuild_queue_state()',
	create_flow => "select tasker.create_flow('new')",
	alter_flow => "select tasker.alter_flow('alpha', 'lease', '1 minute')",
	pause_flow => "select tasker.pause_flow('alpha')",
	resume_flow => "select tasker.resume_flow('alpha')",
	drop_flow => "select tasker.drop_flow('alpha')",
	'insert into the view' => "insert into tasker.processing_queue (flow_name, payload) values ('alpha', '1')",
	run_maintenance => "call tasker.run_maintenance('tasker.queue_record')");
foreach my $what (sort keys %WRITES)
{
	like(error_of($standby, $WRITES{$what}), qr/^25006: cannot execute .* (during recovery|in a read-only transaction)/, "$what is refused");
}
like(error_of($primary, "set default_transaction_read_only = on;\n$WRITES{$_}"), qr/^25006: cannot execute .* in a read-only transaction/,
	"$_ is refused in a read-only transaction of the primary too") foreach sort grep { !/^run/ } keys %WRITES;
is(status_of($standby, 'beta'), '90 0 6 4 0 0 100', 'nothing has changed');

# --- promotion ---------------------------------------------------------------------------------------------------

# Writers at work, and two transactions prepared, when the primary dies.
my $scripts = PostgreSQL::Test::Utils::tempdir;
my %script = (
	add => "select tasker.add_records_to_queue('load', '{1,2,3}');\n",
	work => "begin;\nwith c as materialized (select * from tasker.claim_records_batch('load', 2)), "
	  . "d as materialized (select tasker.mark_record_completed(id, null, lease_token) from c) "
	  . "insert into done select id from c where (select count(*) from d) > 0;\ncommit;\n",
	hold => "select count(*) from tasker.claim_records_batch('load');\n",
	abort => "begin;\nselect count(*) from tasker.claim_records_batch('load', 3);\nselect tasker.enqueue('load', '0');\nrollback;\n");
append_to_file("$scripts/$_.sql", $script{$_}) foreach keys %script;
sql($primary, <<~'SQL');
	create table done (id bigint);
	select tasker.create_flow('load'), tasker.create_flow('two phase'), tasker.create_flow('paused', '{"paused": true}');
	select tasker.enqueue('paused', '1');
	select tasker.add_records_to_queue('two phase', '{1,2,3,4}');
	begin; select tasker.enqueue('two phase', '5'); select count(*) from tasker.claim_records_batch('two phase', 1); prepare transaction 'kept';
	begin; select tasker.enqueue('two phase', '6'); select count(*) from tasker.claim_records_batch('two phase', 1); prepare transaction 'undone';
	SQL
$primary->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '40', map({ ('-f', "$scripts/$_.sql") } sort keys %script), 'postgres' ], 'writers');
my $open = session($primary);
$open->query_safe('begin');
$open->query_safe("select count(*) from tasker.claim_records_batch('beta', 5)");
$open->query_safe("select tasker.enqueue('beta', '\"lost\"')");
caught_up();
my $contents = contents_of($primary);
my ($held, $token) = split /\|/, sql($primary, "select id, lease_token from tasker.processing_queue where flow_name = 'alpha' and status = 'processing' limit 1");
my $highest = sql($primary, 'select max(greatest(id, coalesce(lease_token, 0))) from tasker.queue_record');
my %status = map { $_ => status_of($primary, $_) } 'alpha', 'beta', 'load', 'two phase';
crash_server($primary);
eval { $open->quit };

# One waits over the promotion.
start_waiting($waiter, 'paused', '1 minute');
$standby->promote;
$standby->poll_query_until('postgres', 'select not pg_is_in_recovery()') or die 'it is not promoted';

is(contents_of($standby), $contents, 'the promoted standby has every record');
is(status_of($standby, $_), $status{$_}, "the statistics of $_") foreach sort keys %status;
queue_is_exact($standby, 'the promoted standby');
cmp_ok($old->query_safe("select tasker.enqueue('beta', '101')"), '>', $highest, 'a session from before can write, and ids keep growing');
is($old->query_safe("select tasker.mark_record_completed($held, null, $token)"), 1, 'a lease from before holds');
like(error_of($standby, "select tasker.mark_record_completed($held, null, $token)"), qr/^55000/, '... for once');
sql($standby, "select tasker.resume_flow('paused')");
like($waiter->query_until(qr/returned/, ''), qr/^t$/m, 'who has waited over the promotion is woken');
wait_until($standby, "select exists (select from tasker.worker_status where database = 'postgres' and state = 'running')", 'a worker runs');

sql($standby, "commit prepared 'kept'");
sql($standby, "rollback prepared 'undone'");
sql($standby, 'select tasker.sweep_queue()');
is(status_of($standby, 'two phase'), '4 0 1 0 0 0 5', 'prepared transactions are counted when they end');
queue_is_exact($standby, 'after prepared transactions');

is(scalar(drained($standby, 'two phase')), 4, '... and their records handed out');
is(scalar(drained($standby, 'beta')), 91, 'so are those that an open transaction of the primary had claimed');
is(scalar(drained($standby, 'alpha')), 12, 'and the rest');
$standby->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '40', map({ ('-f', "$scripts/$_.sql") } sort keys %script), 'postgres' ], 'writers go on');
sql($standby, "insert into done select unnest(array[" . join(',', drained($standby, 'load')) . "]::bigint[])");
is(sql($standby, 'select count(*) - count(distinct id) from done'), 0, 'no record was handed out twice, before and after');
is(sql($standby, "select count(*) from tasker.processing_queue q where flow_name = 'load' and
	(status = 'completed') <> exists (select from done d where d.id = q.id)"), 0, '... and what is completed is what was done');
sql($standby, "call tasker.run_maintenance('tasker.queue_record')");
is(sql($standby, "select count(*) - count(distinct lower_bound) from tasker.show_partitions('tasker.queue_record')"), 0, 'no partition is there twice');
start_waiting($waiter, 'two phase', '1 minute');
sql($standby, "select tasker.enqueue('two phase', '7')");
like($waiter->query_until(qr/returned/, ''), qr/^t$/m, 'waiting works');
queue_is_exact($standby, 'in the end');

$_->quit foreach $old, $waiter;
server_did_not_crash($_) foreach $primary, $standby;
$standby->stop;
done_testing();
