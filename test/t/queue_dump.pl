# pg_dump of a live queue and pg_restore into a new cluster whose worker is running: the queue goes on there.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use TaskerCluster;

my $conf = "log_statement = none\ntasker.sweep_interval = 1\n";
my $node = tasker_cluster('dumped', conf => $conf);
my $target = tasker_cluster('restored', conf => $conf, extension => 0);
my $dump = PostgreSQL::Test::Utils::tempdir . '/queue.dump';

sub has_worker
{
	my ($server, $database) = @_;
	return wait_until($server, 'select exists (select from tasker.worker_status where database = current_database()
		and state = \'running\')', "$database has a worker", $database);
}

sub dump_queue
{
	my (@options) = @_;
	$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, @options, $node->connstr('postgres') ], "pg_dump @options");
	return;
}

sub restore_queue
{
	my ($database, @options) = @_;
	$target->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $target->connstr($database), $dump ],
		"pg_restore @options");
	return;
}

# What goes on where the dump was restored.
sub restored_queue_works
{
	my ($database, $contents) = @_;
	my $rows = sub { return sql($target, $_[0], $database) };
	is(contents_of($target, $database), $contents, "$database: every record is there, with every column");
	is(status_of($target, 'alpha', $database), '12 4 2 7 2 1 28', "$database: the statistics");
	is(status_of($target, 'beta', $database), '100 0 0 0 0 0 100', "$database: ... of both flows");
	queue_is_exact($target, "$database, restored", $database);
	is($rows->("select concat_ws(' ', max_attempts, backoff_base, lease, max_in_flight) from tasker.flow where flow_name = 'alpha'"),
		'2 01:00:00 01:00:00', "$database: settings of a flow");
	my $highest = $rows->('select max(greatest(id, coalesce(lease_token, 0))) from tasker.queue_record');
	my $id = $rows->("select tasker.enqueue('beta', '101')");
	cmp_ok($id, '>', $highest, "$database: ids keep growing");
	is($rows->("select tasker.create_flow('gamma') > max(flow_id) from tasker.flow where flow_name <> 'gamma'"), 't',
		"$database: so do those of flows");

	# Keys, leases and dead letters are what they were.
	is($rows->("select tasker.enqueue('alpha', '0', 0, null, 'live key') = id from tasker.queue_record where payload = '\"live key\"'"),
		't', "$database: a deduplication key is held");
	is($rows->("select tasker.enqueue('alpha', '0', 0, null, 'used key', '1 day') = id from tasker.queue_record where payload = '\"used key\"'"),
		't', "$database: ... and one within its window");
	my ($held, $token) = split /\|/, $rows->("select id, lease_token from tasker.queue_record where status = 'r' order by id limit 1");
	like(error_of($target, "select tasker.mark_record_completed($held, null, $token - 1)", $database), qr/^55000/, "$database: a lease is fenced");
	is($rows->("select tasker.mark_record_completed($held, null, $token)"), 1, "$database: ... and holds");
	is($rows->("select tasker.reset_failed_records('alpha', 2)"), 2, "$database: dead letters come back, also in the past");

	# Each of the rest is handed out once, to several workers.
	my $script = PostgreSQL::Test::Utils::tempdir . '/work.sql';
	append_to_file($script, "with c as materialized (select * from tasker.claim_records_batch('beta', 4)), "
		  . "d as materialized (select tasker.mark_record_completed(id, null, lease_token) from c) "
		  . "insert into done select id from c where (select count(*) from d) > 0;\n");
	sql($target, 'create table done (id bigint)', $database);
	$target->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '8', '-f', $script, $database ], "$database: workers");
	is($rows->('select count(*) || \' \' || count(distinct id) from done'), '101 101', "$database: each got its records, once");
	is(scalar(drained($target, 'alpha', $database)), 14, "$database: the rest of the other flow too");
	queue_is_exact($target, "$database, after some work", $database);

	# Partitions: none twice, and more are made.
	sql($target, "call tasker.run_maintenance('tasker.queue_record')", $database);
	is($rows->("select count(*) - count(distinct lower_bound), count(*) filter (where is_current)
		from tasker.show_partitions('tasker.queue_record')"), '0|1', "$database: no partition is there twice");
	is($rows->('select count(*) from tasker.part_config'), 1, "$database: nor its set");
	is($rows->("select count(*) from tasker.part_failure"), 0, "$database: and no duty fails");
	is($rows->("select count(*) from tasker.show_partitions('tasker.queue_record') p
		where (select count(*) from pg_index where indrelid = p.partition) <> 2"), 0, "$database: each has its two indexes, once");
	is($rows->("select string_agg(distinct t.tgname || ' ' || t.tgenabled::text, ', ') from tasker.show_partitions('tasker.queue_record') p
		join pg_trigger t on t.tgrelid = p.partition"), 'account_record_change A', "$database: and the trigger, always enabled");
	is($rows->('select status from jsonb_to_record(tasker.health_check()) r (status text)'), 'healthy', "$database: all is healthy");
	return;
}

fill_queue($node);
sql($node, "call tasker.run_maintenance('tasker.queue_record')");

# A dump while everybody works: one snapshot. Here one session has claimed and added, and not committed.
my $open = $node->background_psql('postgres', on_error_stop => 0);
my $contents = contents_of($node);
$open->query_safe('begin');
$open->query_safe("select tasker.enqueue('alpha', '\"uncommitted\"')");
$open->query_safe("select count(*) from tasker.claim_records_batch('beta', 10)");
dump_queue();
$open->query_safe('commit');
$open->quit;

# Into an empty database by several jobs, in one transaction, and over a queue that is at work.
sql($target, "create database $_") foreach qw(empty prepared single data_only);
restore_queue('empty', '-j', '2');
has_worker($target, 'empty');
restored_queue_works('empty', $contents);

restore_queue('single', '--single-transaction');
has_worker($target, 'single');
restored_queue_works('single', $contents);

sql($target, 'create extension tasker', 'prepared');
sql($target, "select tasker.add_records_to_queue('before', '{1,2,3}')", 'prepared');
has_worker($target, 'prepared');
restore_queue('prepared', '--clean', '--if-exists');
restored_queue_works('prepared', $contents);

# Records alone, into a queue that is at work: the triggers account for what COPY brings.
{
	sql($target, "create extension tasker", 'data_only');
	has_worker($target, 'data_only');
	my $old = $target->background_psql('data_only', on_error_stop => 0);
	sql($target, "select tasker.create_flow('first'), tasker.create_flow('second'), tasker.create_flow('third')", 'data_only');
	sql($target, "select tasker.add_records_to_queue('third', '{1,2,3}')", 'data_only');
	my $source = "select r.id, r.position, r.lease_token, r.claimed_at, r.lease_expires_at, r.changed_at, 1, r.retry_count,
		r.priority, r.status, r.flow_instance_id, r.error_message, r.result, r.payload
		from tasker.queue_record r join tasker.flow using (flow_id) where flow_name = 'alpha'" =~ s/\n\t+/ /gr;
	my $file = PostgreSQL::Test::Utils::tempdir . '/alpha';
	$node->safe_psql('postgres', "\\copy ($source) to '$file'");
	sql($target, "select tasker.create_partition('tasker.queue_record', (now() - interval '3 days')::text)", 'data_only');
	$target->safe_psql('data_only', "\\copy tasker.queue_record from '$file'");
	is(status_of($target, 'first', 'data_only'), '13 4 2 7 2 1 29', 'copied records are counted');
	queue_is_exact($target, 'records copied into a live queue', 'data_only');
	is(scalar(drained($target, 'first', 'data_only')), 13, '... and handed out');
	is(scalar(drained($target, 'third', 'data_only')), 3, '... beside the others');
	$old->quit;
}

# The source was not disturbed.
queue_is_exact($node, 'the source');
server_did_not_crash($_) foreach $node, $target;
foreach my $server ($node, $target)
{
	is(join('; ', grep { !/permission|does not exist|terminating|lease|is not in processing/ } slurp_file($server->logfile) =~ /(?:WARNING|ERROR):  ([^\n]*)/g),
		'', 'and no server had anything to warn of');
	$server->stop;
}
done_testing();
