# The whole queue without shared_preload_libraries: no shared memory, no worker; the table alone.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use TaskerCluster;

my $node = tasker_cluster('plain', preload => 0, conf => "log_statement = none\n");

sub session { return $node->background_psql('postgres', on_error_stop => 0) }

is(sql($node, 'show shared_preload_libraries'), '', 'nothing is preloaded');

# --- one of everything -------------------------------------------------------------------------------------------

fill_queue($node);
is(status_of($node, 'alpha'), '12 4 2 7 2 1 28', 'a queue with something in every state');
is(status_of($node, 'beta'), '100 0 0 0 0 0 100', '... and another');
queue_is_exact($node, 'a full queue');
is(sql($node, 'select count(*) from tasker.queue_lanes()'), 0, 'there are no lanes');
is(sql($node, 'select oldest_pending_at = (select min(created_at) from tasker.processing_queue where status = \'pending\'
	and flow_name = \'beta\') from tasker.get_queue_status(\'beta\')'), 't', 'the oldest record');
like(error_of($node, "select tasker.get_queue_status('gamma')"), qr/^42704: flow "gamma"/, 'a flow that does not exist');
is(sql($node, "select tasker.enqueue('alpha', '0', 0, null, 'live key') = id from tasker.queue_record
	where payload = '\"live key\"'"), 't', 'a deduplication key is held by its record');
my $used = "from tasker.queue_record where payload = '\"used key\"'";
is(sql($node, "select tasker.enqueue('alpha', '0', 0, null, 'used key', '1 day') = id $used"), 't', '... or within its window');
is(sql($node, "select count(*) from tasker.dead_letters"), 2, 'dead letters');
is(sql($node, "select tasker.reset_failed_records('alpha')"), 2, '... are brought back');
is(sql($node, "select tasker.sweep_queue()"), 0, 'there is nothing to sweep');
is(sql($node, "select count(*) from (select tasker.rebuild_queue_state()) r"), 1, 'nor to rebuild');
my ($held, $token) = split /\|/, sql($node, "select id, lease_token from tasker.queue_record where status = 'r' limit 1");
like(error_of($node, "select tasker.mark_record_completed($held, null, $token + 1)"), qr/^55000/, 'a lost lease');
is(sql($node, "select tasker.extend_lease(array[$held], '1 minute', array[$token])"), 1, 'a lease is extended');
is(sql($node, "select tasker.mark_record_completed($held, null, $token)"), 1, '... and used');
foreach my $statement ("insert into tasker.processing_queue (flow_name, payload, priority) values ('alpha', '\"view\"', 9)",
	"insert into tasker.queue_record (flow_id, payload, priority) select flow_id, '\"table\"', 9 from tasker.flow where flow_name = 'alpha'",
	"copy tasker.processing_queue (flow_name, payload, priority) from program 'echo alpha,7,9' with (format csv)",
	"update tasker.queue_record set priority = 9 where payload = '\"low 8\"'",
	"delete from tasker.queue_record where payload = '\"low 7\"'")
{
	sql($node, $statement);
}
is(join(' ', map { sql($node, "select payload from tasker.claim_records_batch('alpha')") } 1 .. 4),
	'"low 8" "view" "table" 7', 'changes by statements are seen');
queue_is_exact($node, 'after statements');

# Ids grow, by the millisecond at least, in all sessions.
is(sql($node, <<~'SQL'), '0', 'ids grow strictly in a session');
	create table ids as select i, tasker.next_record_id() as id from generate_series(1, 5000) i;
	select count(*) from ids a join ids b on b.i = a.i + 1 where b.id <= a.id
	SQL
is(sql($node, "select count(*) from (select id >> 20 as ms, max(i) over (order by id >> 20) - i as back from ids) b where back < 0"),
	'0', '... and by time');

# --- two claimers ------------------------------------------------------------------------------------------------

{
	sql($node, "select tasker.add_records_to_queue('two', '{1,2,3,4,5,6,7}')");
	my ($one, $two) = (session(), session());
	my $claim = "select coalesce(string_agg(payload::text, ',' order by id), '') from tasker.claim_records_batch('two', 3)";
	$one->query_safe('begin');
	is($one->query_safe($claim), '1,2,3', 'a claim');
	$two->query_safe('begin');
	is($two->query_safe($claim), '4,5,6', 'another one passes over what is taken');
	$one->query_safe('savepoint s');
	is($one->query_safe($claim), '7', 'the rest');
	is($two->query_safe($claim), '', '... and there is no more');
	$one->query_safe('rollback to s');
	is($two->query_safe($claim), '7', 'what a savepoint gives back is handed out');
	$one->query_safe('rollback');
	$two->query_safe('commit');
	is($two->query_safe($claim), '1,2,3', 'so is what an abort gives back');
	my $pid = $one->query_safe("select tasker.enqueue('two', '8'); begin; select count(*) from tasker.claim_records_batch('two'); select pg_backend_pid()") =~ s/.*\n//sr;
	sql($node, "select pg_terminate_backend($pid)");
	wait_until($node, "select not exists (select from pg_stat_activity where pid = $pid)", 'a claimer is terminated');
	is($two->query_safe($claim), '8', '... and his record is handed out');
	$two->quit;
	eval { $one->quit };
	queue_is_exact($node, 'after two claimers');
}

# --- limits ------------------------------------------------------------------------------------------------------

{
	sql($node, "select tasker.create_flow('limited', '{\"max_in_flight\": 2}'); select tasker.add_records_to_queue('limited', '{1,2,3,4}')");
	my $claim = "select count(*) from tasker.claim_records_batch('limited', 9)";
	is(sql($node, $claim) . sql($node, $claim), '20', 'max_in_flight holds');
	sql($node, "select tasker.mark_record_completed(id) from tasker.processing_queue where flow_name = 'limited' and status = 'processing' limit 1");
	is(sql($node, $claim), '1', '... and lets one in for one that is done');
	sql($node, "select tasker.create_flow('slow', '{\"rate_limit\": 3}'); select tasker.add_records_to_queue('slow', '{1,2,3,4}')");
	is(sql($node, $claim =~ s/limited/slow/r), '3', 'rate_limit holds');
	sql($node, "select tasker.pause_flow('slow')");
	is(sql($node, $claim =~ s/limited/slow/r), '0', 'a paused flow hands out nothing');
}

# --- orphans -----------------------------------------------------------------------------------------------------

{
	sql($node, "select tasker.create_flow('orphans', '{\"backoff_base\": \"0\", \"max_attempts\": 2}');
		select tasker.add_records_to_queue('orphans', '{1,2,3}')");
	sql($node, "select count(*) from tasker.claim_records_batch('orphans', 2, 'me', '1 ms')");
	sql($node, "select count(*) from tasker.claim_records_batch('orphans', 1, 'me', '1 hour')");
	wait_until($node, "select count(*) = 2 from tasker.processing_queue where flow_name = 'orphans' and lease_expires_at < clock_timestamp()",
		'leases end');
	is(sql($node, "select tasker.cleanup_orphaned_records('1 hour', 'beta')"), 0, 'orphans of another flow');
	is(sql($node, "select tasker.cleanup_orphaned_records('1 hour', 'orphans')"), 2, 'orphans are given back');
	is(sql($node, "select tasker.cleanup_orphaned_records('0', 'orphans')"), 1, '... by their age too');
	is(status_of($node, 'orphans'), '3 0 0 0 0 0 3', '... and wait again');
	sql($node, "select count(*) from tasker.claim_records_batch('orphans', 3, 'me', '1 ms')");
	wait_until($node, "select count(*) = 3 from tasker.processing_queue where flow_name = 'orphans' and lease_expires_at < clock_timestamp()",
		'leases end again');
	sql($node, "call tasker.run_duty('recover_leases')");
	is(status_of($node, 'orphans'), '0 0 0 0 3 0 3', 'the duty finds them, and after two attempts they are dead letters');
	is(sql($node, "select tasker.purge_failed_records('orphans')"), 3, '... and purged');
	queue_is_exact($node, 'after orphans');
}

# --- waiting -----------------------------------------------------------------------------------------------------

{
	my $waiter = session();
	my $pid = $waiter->query_safe('select pg_backend_pid()');
	my $wait = sub {
		my ($flow) = @_;
		$waiter->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_records('$flow', '1 minute');\n\\echo returned\n");
		$node->poll_query_until('postgres', "select wait_event in ('Extension', 'TaskerWaitForRecords') from pg_stat_activity where pid = $pid")
		  or die 'it does not wait';
	};
	sql($node, "select tasker.create_flow('waited')");
	is($waiter->query_safe("call tasker.wait_for_records('waited', '100 ms')"), 'f', 'a wait for nothing times out');
	$wait->('waited');
	is(sql($node, "select xact_start is null, backend_xmin is null from pg_stat_activity where pid = $pid"), 't|t',
		'between its looks a waiter has no transaction and no snapshot');
	sql($node, "select tasker.enqueue('waited', '1')");
	like($waiter->query_until(qr/returned/, ''), qr/^t$/m, 'a record ends a wait');
	is(scalar(drained($node, 'waited')), 1, '... and is there');
	sql($node, "select tasker.enqueue('waited', '1', 0, clock_timestamp() + interval '300 ms')");
	$wait->('waited');
	like($waiter->query_until(qr/returned/, ''), qr/^t$/m, 'so does one that becomes due');
	sql($node, "select tasker.pause_flow('waited')");
	$wait->('waited');
	sql($node, "select tasker.resume_flow('waited')");
	like($waiter->query_until(qr/returned/, ''), qr/^t$/m, 'and the end of a pause');
	drained($node, 'waited');
	$wait->('waited');
	sql($node, "select pg_cancel_backend($pid)");
	$waiter->query_until(qr/returned/, '');
	like($waiter->{stderr}, qr/canceling statement due to user request/, 'a waiter can be cancelled');
	$waiter->{stderr} = '';
	is($waiter->query_safe('select 1'), '1', '... and goes on');
	like(error_of($node, "begin;\ncall tasker.wait_for_records('waited', '1 hour')"), qr/^25001/, 'no waiting in a transaction block');
	$waiter->quit;
}

# --- many clients, and a crash -----------------------------------------------------------------------------------

{
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my %script = (
		add => "select tasker.add_records_to_queue('many', '{1,2,3}');\n",
		work => "\\set keep random(1, 4)\nbegin;\nwith c as materialized (select * from tasker.claim_records_batch('many', 3)), "
		  . "d as materialized (select tasker.mark_record_completed(id, null, lease_token) from c) "
		  . "insert into done select id from c where (select count(*) from d) > 0;\n\\if :keep > 1\ncommit;\n\\else\nrollback;\n\\endif\n");
	append_to_file("$dir/$_.sql", $script{$_}) foreach keys %script;
	sql($node, "create table done (id bigint); select tasker.create_flow('many')");
	$node->command_ok([ 'pgbench', '-n', '-c', '6', '-t', '40', map({ ('-f', "$dir/$_.sql") } sort keys %script), 'postgres' ],
		'producers and workers');
	crash_server($node);
	start_after_crash($node);
	my @rest = drained($node, 'many');
	is(sql($node, 'select count(*) - count(distinct id) from done'), 0, 'no record is handed out twice');
	cmp_ok(sql($node, 'select count(*) from done'), '>', 50, 'the workers had some');
	is(sql($node, "select total = completed and completed = (select count(*) from done) + " . scalar(@rest) . " from tasker.get_queue_status('many')"),
		't', 'and the rest was left');
	queue_is_exact($node, 'in the end');
}

# --- with the library preloaded later ----------------------------------------------------------------------------

{
	my $contents = contents_of($node);
	my $highest = sql($node, 'select max(id) from tasker.queue_record');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'\n");
	$node->restart;
	is(contents_of($node), $contents, 'preloaded later, the queue is as it was');
	cmp_ok(sql($node, "select tasker.enqueue('beta', '101')"), '>', $highest, '... ids keep growing');
	queue_is_exact($node, '... and lanes are built');
	cmp_ok(sql($node, 'select count(*) from tasker.queue_lanes()'), '>', 0, '... which are there');
	is(scalar(drained($node, 'beta')), 101, '... and hand out the rest');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
	$node->restart;
	cmp_ok(sql($node, "select tasker.enqueue('beta', '102')"), '>', $highest, 'and back again');
	is(scalar(drained($node, 'beta')), 1, '... it goes on');
	queue_is_exact($node, '... and is exact');
}

server_did_not_crash($node);
$node->stop;
done_testing();
