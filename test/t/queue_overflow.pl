# Shared memory that is too small for all flows and lanes: everything goes on without it, slower, and the log says so.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use TaskerCluster;

my $FLOWS = 20;
my $node = tasker_cluster('overflow', conf => <<~CONF);
	tasker.max_flows = 16
	tasker.max_lanes = 64
	tasker.worker = off
	log_statement = none
	CONF

sub session { return $node->background_psql('postgres', on_error_stop => 0) }

sub messages
{
	my ($what) = @_;
	my @lines = slurp_file($node->logfile) =~ /no room in shared memory for another $what of the queue/g;
	return scalar @lines;
}

# --- what every flow must do, with or without shared memory ------------------------------------------------------

sub flow_works
{
	my ($flow, $what) = @_;
	sql($node, <<~SQL);
		select tasker.add_records_to_queue('$flow', '{1,2,3,4,5,6}');
		select tasker.enqueue('$flow', '7', 9);
		select tasker.enqueue('$flow', '8', 0, now() + interval '1 day');
		select tasker.enqueue('$flow', '9', 0, null, 'key of $flow');
		select tasker.enqueue('$flow', '10', 0, null, 'key of $flow');
		SQL
	is(status_of($node, $flow), '8 1 0 0 0 0 9', "$what: $flow takes records");

	# Two claimers, one of whom gives back.
	my ($one, $two) = (session(), session());
	my $claim = "select coalesce(string_agg(payload::text, ',' order by priority desc, position), '')
		from tasker.claim_records_batch('$flow', 3, 'me', '1 hour') join tasker.queue_record using (id, payload)";
	$one->query_safe('begin');
	is($one->query_safe($claim), '7,1,2', "$what: a claim goes by priority, then by age");
	is($two->query_safe($claim), '3,4,5', "$what: another one passes over what is taken");
	$one->query_safe('rollback');
	is($one->query_safe($claim), '7,1,2', "$what: what an aborted claim had taken is handed out");
	is($two->query_safe($claim), '6,9', "$what: the rest, and nothing before its time");
	is($two->query_safe($claim), '', "$what: then there is none");
	$_->quit foreach $one, $two;

	my %held = map { split /\|/ } split /\n/, sql($node, "select payload, id from tasker.processing_queue
		where flow_name = '$flow' and status = 'processing'");
	sql($node, "select tasker.mark_records_completed(array[$held{7}, $held{1}]);
		select tasker.mark_record_failed($held{2}, 'no', '1 day'); select tasker.release_records(array[$held{3}]);
		select tasker.cancel_records(array[$held{3}]); select tasker.extend_lease(array[$held{4}], '1 ms');");
	wait_until($node, "select clock_timestamp() > lease_expires_at from tasker.queue_record where id = $held{4}", 'its lease has ended');
	is(sql($node, "select tasker.cleanup_orphaned_records('1 day', '$flow')"), 1, "$what: an orphan is found");
	is(status_of($node, $flow), '0 3 3 2 0 1 9', "$what: all of it is counted");
	return;
}

sub waiting_works
{
	my ($flow, $what) = @_;
	my $session = session();
	my $pid = $session->query_safe('select pg_backend_pid()');
	is($session->query_safe("call tasker.wait_for_records('$flow', '100 ms')"), 'f', "$what: a wait for nothing times out");
	$session->query_until(qr/started/, "\\echo started\ncall tasker.wait_for_records('$flow', '1 minute');\n\\echo returned\n");
	wait_until($node, "select wait_event in ('Extension', 'TaskerWaitForRecords') from pg_stat_activity where pid = $pid",
		"$what: somebody waits");
	sql($node, "select tasker.enqueue('$flow', '\"for the waiter\"')");
	like($session->query_until(qr/returned/, ''), qr/^t$/m, "$what: and is woken");
	$session->quit;
	is(scalar(drained($node, $flow)), 1, "$what: for one record");
	return;
}

sub limits_work
{
	my ($flow, $what) = @_;
	sql($node, "select tasker.create_flow('$flow', '{\"max_in_flight\": 2}');
		select tasker.add_records_to_queue('$flow', '{1,2,3,4}')");
	is(sql($node, "select count(*) from tasker.claim_records_batch('$flow', 9)"), 2, "$what: max_in_flight holds");
	is(sql($node, "select count(*) from tasker.claim_records_batch('$flow', 9)"), 0, "$what: and goes on to hold");
	sql($node, "select tasker.alter_flow('$flow', 'max_in_flight', null), tasker.alter_flow('$flow', 'rate_limit', '1')");
	is(sql($node, "select count(*) from tasker.claim_records_batch('$flow', 9)"), 0, "$what: so does rate_limit");
	return;
}

# Clients that claim and complete, with a row of their own for each; some of them roll back.
sub each_is_handed_out_once
{
	my ($flow, $what) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir . "/work.sql";
	append_to_file($script, <<~SQL =~ s/\n\t+/ /gr);
		\\set keep random(1, 4)
		begin;
		with c as materialized (select * from tasker.claim_records_batch('$flow', 3)),
			d as materialized (select tasker.mark_record_completed(id, null, lease_token) from c)
			insert into done select id from c where (select count(*) from d) > 0;
		\\if :keep > 1
		commit;
		\\else
		rollback;
		\\endif
		SQL
	sql($node, "drop table if exists done; create table done (id bigint);
		select tasker.add_records_to_queue('$flow', array_fill('1'::jsonb, array[300]))");
	$node->command_ok([ 'pgbench', '-n', '-c', '6', '-t', '30', '-f', $script, 'postgres' ], "$what: six workers");
	drained($node, $flow);
	is(sql($node, "select count(*) - count(distinct id) from done"), 0, "$what: no record is handed out twice");
	cmp_ok(sql($node, 'select count(*) from done'), '>', 100, "$what: the workers had some");
	is(sql($node, "select count(*) from tasker.processing_queue where flow_name = '$flow' and status <> 'completed'"), 0,
		"$what: and none is left");
	return;
}

# --- too many flows ----------------------------------------------------------------------------------------------

# The read that finds no room any more tells the truth all the same.
sql($node, "select tasker.create_flow('f' || i), tasker.enqueue('f' || i, to_jsonb(i)) from generate_series(1, 12) i");
is(sql($node, "select count(*) from tasker.queue_lanes()"), 12, 'the first flows have lanes');
my $waiting = session();
my $waiting_pid = $waiting->query_safe('select pg_backend_pid()');
$waiting->query_until(qr/started/, "\\echo started\nselect tasker.create_flow('w');\ncall tasker.wait_for_records('w', '1 minute');\n\\echo returned\n");
wait_until($node, "select wait_event in ('Extension', 'TaskerWaitForRecords') from pg_stat_activity where pid = $waiting_pid", 'somebody waits');
my $open = session();
$open->query_safe('begin');
is($open->query_safe("select count(*) from tasker.claim_records_batch('f1')"), 1, 'somebody holds an uncommitted claim');
$open->query_safe("select tasker.enqueue('f2', '2')");
my $undone = session();
$undone->query_safe('begin');
is($undone->query_safe("select count(*) from tasker.claim_records_batch('f3')"), 1, 'so does another');

is(messages('flow'), 0, 'all is well so far');
sql($node, "select tasker.create_flow('f' || i) from generate_series(13, $FLOWS) i");
is(sql($node, 'select sum(pending) from tasker.get_queue_status()'), 12, 'the statistics that find no room are right');
is(messages('flow'), 1, 'the log says that there is no room for another flow');
like(slurp_file($node->logfile), qr/HINT:  Raise tasker.max_flows and restart the server./, '... and what to do');
is(sql($node, 'select count(*) from tasker.queue_lanes()'), 0, 'lanes are not used any more');

$open->query_safe('commit');
$undone->query_safe('rollback');
$_->quit foreach $open, $undone;
is(sql($node, "select string_agg(concat_ws(' ', flow_name, pending, processing), ', ' order by flow_name) from tasker.get_queue_status()
	where flow_name in ('f1', 'f2', 'f3')"), 'f1 0 1, f2 2 0, f3 1 0', 'transactions that were under way then count');
sql($node, "select tasker.enqueue('w', '1')");
like($waiting->query_until(qr/returned/, ''), qr/^t$/m, 'one who had waited then gets his record');
$waiting->quit;

flow_works("f$FLOWS", 'without room for flows');
waiting_works('f19', 'without room for flows');
limits_work('l1', 'without room for flows');
each_is_handed_out_once('f18', 'without room for flows');
queue_is_exact($node, 'without room for flows');
is(messages('flow'), 1, 'the log says it once');

# --- too many lanes ----------------------------------------------------------------------------------------------

# In the middle of one transaction, and within a millisecond: ids must not repeat where their source changes. The
# sequence stands where it does in a new database.
$node->append_conf('postgresql.conf', "tasker.max_flows = 100\n");
$node->restart;
queue_is_exact($node, 'after a restart with room for flows');
is(messages('lane'), 0, 'all is well again');
my $before = sql($node, 'select count(*) from tasker.queue_record');
sql($node, <<~'SQL');
	select setval('tasker.record_id_seq', 1, false);
	do $$ begin
	    for i in 1 .. 100 loop
	        perform tasker.enqueue('many ' || i % 9, to_jsonb(i), i % 10);
	        if i = 50 then
	            perform tasker.claim_records_batch('many 1');
	        end if;
	    end loop;
	end $$;
	SQL
is(sql($node, 'select count(*) from tasker.queue_record') - $before, 100, 'a transaction that needs too many lanes goes through');
is(messages('lane'), 1, 'the log says that there is no room for another lane');
like(slurp_file($node->logfile), qr/HINT:  Raise tasker.max_lanes and restart the server./, '... and what to do');
flow_works('f14', 'without room for lanes');
each_is_handed_out_once('f17', 'without room for lanes');
queue_is_exact($node, 'without room for lanes');

# The build after a restart finds out by itself; another database has what is left.
$node->restart;
queue_is_exact($node, 'after a restart without enough room');
is(messages('lane'), 2, 'the log says it again');
flow_works('f16', 'after a restart without enough room');
sql($node, 'create database other');
sql($node, 'create extension tasker', 'other');
sql($node, "select tasker.enqueue('f', '1')", 'other');
is(status_of($node, 'f', 'other'), '1 0 0 0 0 0 1', 'another database works too');
is(scalar(drained($node, 'f', 'other')), 1, '... and hands out what it has');
queue_is_exact($node, 'another database', 'other');

is(messages('lane'), 3, '... and says so');

# With room for all.
$node->append_conf('postgresql.conf', "tasker.max_lanes = 1000\n");
$node->restart;
cmp_ok(sql($node, 'select count(*) from tasker.queue_lanes()'), '>', 64, 'with room for all there are lanes again');
queue_is_exact($node, 'with room for all');
flow_works('f15', 'with room for all');
queue_is_exact($node, 'with room for all, in the end');
is(messages('lane'), 3, 'and the log says nothing more');

server_did_not_crash($node);
$node->stop;
done_testing();
