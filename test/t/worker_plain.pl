# Without shared_preload_libraries: the duties are calls, the views work, and pg_cron can do the rest.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $node = tasker_cluster('plain', preload => 0);

is(sql($node, "select count(*) from pg_stat_activity where backend_type ~ '^tasker'"), 0, 'no background process');
is(sql($node, "select database || ' ' || state from tasker.worker_status"), 'postgres not loaded', 'worker_status says why');
is( sql($node, "select count(*) from tasker.duty_status where name is not null and description is not null
	and last_run is null and duration is null and next_run is null and runs is null and failures is null
	and failures_in_a_row is null and last_error is null and last_error_at is null and running is null"),
	sql($node, 'select count(*) from tasker.duty_status'), 'duty_status lists the duties, and nothing about them');
is(sql($node, "select tasker.health_check() ->> 'status'"), 'degraded', 'health_check finds that nobody runs them');
is(sql($node, "select tasker.health_check() #>> '{reasons,0,check}'"), 'worker', 'and says so');
is(sql($node, "select tasker.request_duty('sweep')"), 'f', 'nobody to ask for a duty');

# The duties do their work in the session.
sql($node, "select tasker.create_flow('work', '{\"lease\": \"1 second\"}')");
sql($node, "select tasker.enqueue('work', '{}') from generate_series(1, 3)");
sql($node, "call tasker.run_duty('premake')");
cmp_ok(sql($node, "select count(*) from pg_inherits where inhparent = 'tasker.queue_record'::regclass"), '>=', 3,
	'premake makes partitions ahead');
is(sql($node, "select count(*) from tasker.claim_records_batch('work', 2)"), 2, 'two records are claimed');
$node->poll_query_until('postgres',
	"select count(*) = 2 from tasker.processing_queue where lease_expires_at < now()") or die 'leases do not end';
sql($node, "call tasker.run_duty('recover_leases')");
is(sql($node, "select count(*) from tasker.processing_queue where retry_count = 1 and status = 'pending'"), 2,
	'recover_leases gives back what was claimed too long ago');
sql($node, "call tasker.run_duty('$_')") foreach split /\n/, sql($node, 'select name from tasker.duty_status');
pass('every duty can be called');
like(error_of($node, "begin; call tasker.run_duty('sweep')"), qr/^25001/, 'inside a transaction block');
like(error_of($node, "do \$\$begin call tasker.run_duty('nonsense'); end\$\$"), qr/^42704/, 'an unknown duty');
is(sql($node, "select count(*) from tasker.xmin_holders where pid = pg_backend_pid()"), 0,
	'the session that asks is no holder');

# Neither a worker nor pg_cron
like(error_of($node, 'select tasker.start()'),
	qr/^55000: there is neither a background worker nor pg_cron/, 'start() without either');
is(sql($node, 'select tasker.stop()'), 0, 'stop() has nothing to stop');

# A session may load the library by itself, and nothing comes of it.
is(sql($node, "load 'tasker'; select database || ' ' || state from tasker.worker_status"), 'postgres not loaded', 'LOAD');
is(sql($node, 'drop extension tasker; create extension tasker; select count(*) from tasker.worker_status'), 1,
	'DROP and CREATE EXTENSION');

SKIP:
{
	skip 'pg_cron is not installed', 11
	  unless sql($node, "select count(*) from pg_available_extensions where name = 'pg_cron'");

	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron'\ncron.database_name = 'postgres'");
	$node->restart;
	sql($node, 'create extension pg_cron');
	is(sql($node, 'select tasker.start()'), 'pg_cron', 'start() with pg_cron');
	is( sql($node, "select string_agg(jobname, ', ' order by jobname) from cron.job where active"),
		sql($node, "select string_agg('tasker ' || name, ', ' order by name) from tasker.duty_status
			where period is not null and name <> 'sweep'"), 'a job for each duty that has a period and needs no shared memory');
	my $jobs = sql($node, 'select count(*) from cron.job');
	cmp_ok($jobs, '>=', 6, 'all of them');
	is(sql($node, "select count(*) from cron.job where schedule !~ '^(\\* \\* \\* \\* \\*|[0-9]+ seconds)\$'"), 0,
		'every minute, or second');
	is(sql($node, "select tasker.start()"), 'pg_cron', 'start() again');
	is(sql($node, 'select count(*) from cron.job'), $jobs, 'adds nothing');
	my $failed = 0;
	foreach my $command (split /\n/, sql($node, 'select command from cron.job'))
	{
		$failed++ if error_of($node, $command) ne '';
	}
	is($failed, 0, 'what the jobs call works');
	is(sql($node, "select tasker.health_check() #>> '{figures,worker}'"), 'pg_cron', 'health_check finds them');
	is(sql($node, "select tasker.health_check() ->> 'status'"), 'healthy', 'and is content');
	is(sql($node, 'select tasker.stop()'), $jobs, 'stop()');
	is(sql($node, 'select count(*) from cron.job'), 0, 'removes them');
	sql($node, 'drop extension pg_cron');
}

# Preloaded, and switched off
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'\ntasker.worker = off");
$node->restart;
like(error_of($node, 'select tasker.start()'), qr/^55000: the background worker is switched off/, 'start() when switched off');
is(sql($node, "select state from tasker.worker_status where database = 'postgres'"), 'off', 'worker_status says so');
$node->append_conf('postgresql.conf', "tasker.worker = on\ntasker.databases = 'elsewhere'");
$node->reload;
wait_until($node, "select setting = 'on' from pg_settings where name = 'tasker.worker'", 'reloaded');
like(error_of($node, 'select tasker.start()'), qr/^55000: the background worker is switched off for database "postgres"/,
	'start() where tasker.databases does not name the database');
$node->append_conf('postgresql.conf', "tasker.databases = 'postgres'");
$node->reload;
wait_until($node, "select count(*) = 1 from tasker.worker_status where database = 'postgres' and state = 'running'",
	'and a worker once it does');

# Too few processes: said once, with a hint, and made up for later.
$node->append_conf('postgresql.conf', "max_worker_processes = 1\nmax_logical_replication_workers = 0");
$node->restart;
wait_until($node, "select state = 'waiting' and last_error = 'no free background worker process'
	from tasker.worker_status where database = 'postgres'", 'no process for the worker');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
is(() = $log =~ /no free background worker process for tasker/g, 1, 'is logged once');
like($log, qr/HINT:  Raise "max_worker_processes"/, 'with a hint');

$node->stop('fast');
done_testing();
