# Two-phase commit: the outcome of a prepared transaction is decided in another session, perhaps after a crash, and
# no callback of the queue hears of it. After a sweep everything is exact again, and nothing is lost or done twice.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use Test::More;

use QueueChecks;
use TaskerCluster;

my $node = tasker_cluster('twophase', conf => "tasker.worker = off\nlog_statement = none\n");

sub sweep { return sql($node, 'select tasker.sweep_queue()') }

# What may lie between a transaction's preparation and its end, and after its end.
my %BETWEEN = (
	'nothing' => sub { },
	'a sweep' => sub { sweep() },
	'a crash' => sub { crash_server($node); start_after_crash($node) },
	'a crash and a sweep' => sub { crash_server($node); start_after_crash($node); sweep() },
	'a restart' => sub { $node->restart });

# A flow with 5 pending and 2 held records; a transaction adds 2, claims 3 of the pending, completes one of the held
# and fails the other. Then it is prepared.
sub prepare
{
	my ($flow) = @_;
	sql($node, <<~SQL);
		select tasker.create_flow('$flow', '{"max_in_flight": 10}');
		select tasker.add_records_to_queue('$flow', '{1,2,3,4,5,6,7}');
		create table if not exists held (flow text, id bigint, token bigint);
		insert into held select '$flow', id, lease_token from tasker.claim_records_batch('$flow', 2);
		begin;
		select tasker.enqueue('$flow', '8');
		savepoint s;
		select tasker.add_records_to_queue('$flow', '{0,0}');
		rollback to s;
		select tasker.enqueue('$flow', '9', 0, null, 'key of $flow');
		create table taken_$flow as select id, payload from tasker.claim_records_batch('$flow', 3);
		select tasker.mark_record_completed(min(id), null, min(token)) from held where flow = '$flow';
		select tasker.mark_record_failed(max(id), 'no', '0', max(token)) from held where flow = '$flow';
		prepare transaction '$flow';
		SQL
	return;
}

my $number = 0;
foreach my $end ('commit', 'rollback')
{
	foreach my $between (sort keys %BETWEEN)
	{
		foreach my $after ('nothing', 'a crash')
		{
			next if $after ne 'nothing' && $between =~ /crash|restart/;    # another crash tells nothing more
			my $flow = 'flow' . ++$number;
			my $what = "$end prepared after $between, then $after";
			prepare($flow);
			# Others are handed what is theirs: neither what it has taken nor what it has added.
			is(sql($node, "begin; select string_agg(payload::text, ',' order by id) from tasker.claim_records_batch('$flow', 2); rollback"),
				'6,7', "$what: others get the rest");
			$BETWEEN{$between}->();
			is(sql($node, "begin; select string_agg(payload::text, ',' order by id) from tasker.claim_records_batch('$flow', 100); rollback"),
				'6,7', "$what: and still do");
			sql($node, "$end prepared '$flow'");
			$BETWEEN{$after}->();
			sweep();
			queue_is_exact($node, $what);
			is(status_of($node, $flow), $end eq 'commit' ? '5 0 3 1 0 0 9' : '5 0 2 0 0 0 7', "$what: it has the right records");
			my @left = map { sql($node, "select payload from tasker.processing_queue where id = $_") } drained($node, $flow);
			# What it failed comes back; what it had claimed does when it is rolled back.
			is("@left", $end eq 'commit' ? '6 7 8 9 2' : '3 4 5 6 7', "$what: and they are handed out, once");
			my $taken = sql($node, "select count(*) from tasker.queue_record where status = 'r' and flow_id =
				(select flow_id from tasker.flow where flow_name = '$flow')");
			is($taken, $end eq 'commit' ? 3 : 2, "$what: claims that held are still held");
		}
	}
}

# Several, ended one by one in another order, with sweeps between.
{
	prepare("several$_") foreach 1 .. 3;
	crash_server($node);
	start_after_crash($node);
	foreach my $step ("commit prepared 'several2'", "rollback prepared 'several3'", "commit prepared 'several1'")
	{
		sql($node, $step);
		sweep();
		queue_is_exact($node, $step);
	}
}

# What a prepared transaction has claimed is in flight, once it has been committed and counted.
{
	sql($node, "select tasker.create_flow('limited', '{\"max_in_flight\": 3}');
		select tasker.add_records_to_queue('limited', array_fill('1'::jsonb, array[9]));
		begin; select count(*) from tasker.claim_records_batch('limited', 2); prepare transaction 'limited'; commit prepared 'limited'");
	sweep();
	is(sql($node, "select count(*) from tasker.claim_records_batch('limited', 9)"), 1, 'max_in_flight counts prepared claims');
	queue_is_exact($node, 'a limited flow');
}

# A deduplication key belongs to the prepared transaction until its end.
{
	sql($node, "begin; select tasker.enqueue('keys', '1', 0, null, 'one'); prepare transaction 'keys'");
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\nselect tasker.enqueue('keys', '2', 0, null, 'one');\n\\echo returned\n");
	wait_until($node, "select wait_event_type = 'Lock' from pg_stat_activity where pid = $pid", 'a second one of its key waits');
	sql($node, "commit prepared 'keys'");
	my ($id) = $session->query_until(qr/returned/, '') =~ /(\d+)/;
	is(sql($node, "select payload from tasker.queue_record where id = $id"), '1', '... and gets the record of the first');
	$session->quit;
	sweep();
	queue_is_exact($node, 'a deduplication key of a prepared transaction');
}

# A partition of the past in which a prepared transaction has brought a record back is not sealed.
{
	fill_queue($node);
	sql($node, "delete from tasker.queue_record where payload in ('\"past 1\"', '\"past 2\"');
		begin; select tasker.retry_records(array[id]) from tasker.queue_record where payload = '\"past 3\"';
		prepare transaction 'past'");
	sql($node, "call tasker.run_duty('seal')");
	crash_server($node);
	start_after_crash($node);
	sql($node, "call tasker.run_duty('seal')");
	sql($node, "commit prepared 'past'");
	sql($node, "call tasker.run_duty('seal')");
	sweep();
	sql($node, "call tasker.run_duty('seal')");
	queue_is_exact($node, 'a record brought back by a prepared transaction');
	is(scalar(grep { $_ eq sql($node, "select id from tasker.queue_record where payload = '\"past 3\"'") } drained($node, 'alpha')),
		1, '... is handed out');
}

# With the worker nobody has to call the sweep; waiters hear of it too.
{
	$node->append_conf('postgresql.conf', "tasker.worker = on\ntasker.sweep_interval = 1\n");
	$node->restart;
	wait_until($node, "select exists (select from tasker.worker_status where database = 'postgres' and state = 'running')", 'a worker runs');
	sql($node, "select tasker.create_flow('worker'); begin; select tasker.enqueue('worker', '1'); prepare transaction 'worker'");
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_records('worker', '1 minute');\n\\echo returned\n");
	wait_until($node, "select wait_event in ('Extension', 'TaskerWaitForRecords') from pg_stat_activity where pid = $pid", 'somebody waits');
	sql($node, "commit prepared 'worker'");
	like($session->query_until(qr/returned/, ''), qr/^t$/m, 'a waiter gets what a prepared transaction has added');
	$session->quit;
	queue_is_exact($node, 'after the worker\'s sweep');
	is(sql($node, 'select count(*) from pg_prepared_xacts'), 0, 'no prepared transaction is left');
}

server_did_not_crash($node);
$node->stop;
done_testing();
