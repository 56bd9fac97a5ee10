# What survives: a worker killed with SIGKILL, a launcher that ends, a server that loses all its processes, and a
# standby that is promoted.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $node = tasker_cluster(
	'primary',
	init => [ allows_streaming => 1 ],
	conf => "restart_after_crash = on\nlog_line_prefix = '%m [%p] %b '");

# The pid of the worker that runs in the database, once it does.
sub running_worker
{
	my ($server, $database) = @_;
	$server->poll_query_until($database, "select exists (select from tasker.worker_status
		where database = current_database() and state = 'running')")
	  or die "no worker runs in $database";
	return sql($server, "select pid from tasker.worker_status where database = current_database()", $database);
}

sub launcher_of
{
	my ($server) = @_;
	return sql($server, "select pid from pg_stat_activity where backend_type = 'tasker launcher'");
}

sql($node, 'create database other');
sql($node, 'create extension tasker', 'other');
my $worker = running_worker($node, 'postgres');
my $other = running_worker($node, 'other');
sql($node, "select tasker.enqueue('work', '{}') from generate_series(1, 100)");
sql($node, "select tasker.enqueue('work', '{}') from generate_series(1, 50)", 'other');

# SIGKILL of a worker: the server restarts, as it does for any process that dies like that. A session that is open
# meanwhile ends, and afterwards all is as before.
kill 'KILL', $worker;
wait_until($node, "select count(*) = 2 from pg_stat_activity where backend_type = 'tasker worker'
	and pid not in ($worker, $other)", 'both workers are back after one was killed with SIGKILL');
isnt(running_worker($node, 'postgres'), $worker, 'the killed one is another process now');
running_worker($node, 'other');
is(sql($node, "select pending from tasker.get_queue_status('work')"), 100, 'no record is lost');
wait_until($node, "select runs > 0 and failures = 0 from tasker.duty_status where name = 'prepare'",
	'statistics were built again');

# A launcher that ends leaves the workers alone; the next one finds them.
$worker = running_worker($node, 'postgres');
my $launcher = launcher_of($node);
sql($node, "select pg_terminate_backend($launcher)");
wait_until($node, "select count(*) = 1 from pg_stat_activity where backend_type = 'tasker launcher' and pid <> $launcher",
	'the launcher is back');
is(running_worker($node, 'postgres'), $worker, 'the worker has not noticed');
wait_until($node, "select count(*) = 1 from tasker.worker_status where state = 'launcher' and pid <> $launcher",
	'worker_status shows the new launcher');
sql($node, 'drop extension tasker', 'other');
wait_until($node, "select count(*) = 0 from pg_stat_activity where backend_type = 'tasker worker' and datname = 'other'",
	'the new launcher lets a worker go that the old one started');
sql($node, 'create extension tasker', 'other');
running_worker($node, 'other');
sql($node, "select pg_terminate_backend($worker)");
wait_until($node, "select count(*) = 1 from pg_stat_activity where backend_type = 'tasker worker'
	and datname = 'postgres' and pid <> $worker", 'and replaces one that ends');

# The whole server at once.
crash_server($node);
start_after_crash($node);
running_worker($node, 'postgres');
running_worker($node, 'other');
is(sql($node, "select pending from tasker.get_queue_status('work')"), 100, 'no record is lost with the server');

# A standby

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is(sql($standby, "select pending from tasker.get_queue_status('work')"), 100, 'the standby shows the queue');
is(sql($standby, "select count(*) from pg_stat_activity where backend_type ~ '^tasker'"), 0,
	'neither launcher nor worker on a standby');
is(sql($standby, "select state from tasker.worker_status where database = 'postgres'"), 'standby',
	'worker_status says why');
is(sql($standby, "select tasker.health_check() #>> '{figures,worker}'"), 'standby', 'so does health_check');
like(error_of($standby, "call tasker.run_duty('premake')"), qr/^25006/, 'a duty cannot be run there');

$node->stop('immediate');
$standby->promote;
wait_until($standby, "select count(*) = 2 from pg_stat_activity where backend_type = 'tasker worker'",
	'promoted, it has its workers');
running_worker($standby, 'postgres');
wait_until($standby, "select runs > 0 from tasker.duty_status where name = 'premake'", 'and they work');
is(sql($standby, "select count(*) from tasker.claim_records_batch('work', 1000)"), 100, 'the queue goes on');
is(sql($standby, "select tasker.mark_records_completed(array_agg(id)) from tasker.processing_queue"), 100,
	'to the last record');

$standby->stop('fast');
my @noise = grep { /tasker (worker|launcher) (WARNING|ERROR|PANIC):/ }
  map { split /\n/, PostgreSQL::Test::Utils::slurp_file($_->logfile) } $node, $standby;
is(join("\n", @noise), '', 'no worker has complained');

done_testing();
