# What the worker does: duties that fail leave the others alone, a partition that somebody waits for comes first,
# settings act when they are reloaded, and the views tell the truth about all of it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;
use Time::HiRes qw(time);

my $node = tasker_cluster('duties', extension => 0,
	conf => "log_line_prefix = '%m [%p] %b '\nautovacuum = off\nwal_level = logical");

sub running_worker
{
	my ($database) = @_;
	$node->poll_query_until($database, "select exists (select from tasker.worker_status
		where database = current_database() and state = 'running')")
	  or die "no worker runs in $database";
	return sql($node, "select pid from tasker.worker_status where database = current_database()", $database);
}

# Lines of the worker in the server's log that match.
sub logged
{
	my ($pattern) = @_;
	return scalar grep { /tasker worker/ && /$pattern/ } split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile);
}

# Waits until one more run of a duty has ended than there were.
sub run_once_more
{
	my ($duty) = @_;
	my $runs = sql($node, "select runs from tasker.duty_status where name = '$duty'");
	sql($node, "select tasker.request_duty('$duty')") eq 't' or die "duty $duty was not taken";
	$node->poll_query_until('postgres', "select runs > $runs and not running from tasker.duty_status where name = '$duty'")
	  or die "duty $duty was not run";
	return;
}

sql($node, 'create extension tasker');
my $worker = running_worker('postgres');

# A partition on demand, while the worker is in the middle of something long: it waits for a lock that a session keeps.

sql($node, 'create table public.busy (a int) partition by range (a);
	create table public.busy_1 partition of public.busy for values from (0) to (100000);');
sql($node, 'insert into public.busy select generate_series(1, 50000); select pg_stat_force_next_flush()');
$node->append_conf('postgresql.conf', "tasker.lock_timeout = '1min'");
$node->reload;
wait_until($node, "select setting::int = 60000 from pg_settings where name = 'tasker.lock_timeout'", 'reloaded');
my $locker = $node->background_psql('postgres', on_error_stop => 1);
$locker->set_query_timer_restart();
$locker->query_safe('begin; lock table public.busy in share update exclusive mode');
sql($node, "select tasker.request_duty('analyze')");
wait_until($node, "select wait_event_type = 'Lock' and query = 'duty analyze' from pg_stat_activity where pid = $worker",
	'the worker analyzes and waits for a lock');
is(sql($node, "select count(*) from pg_inherits where inhparent = 'tasker.queue_record'::regclass"), 0,
	'no partition yet');
my $start = time;
sql($node, "begin; select tasker.enqueue('work', '{}'); rollback");
cmp_ok(time - $start, '<', 4, 'the first record does not wait for the lock of the worker');
cmp_ok(sql($node, "select count(*) from pg_inherits where inhparent = 'tasker.queue_record'::regclass"), '>=', 1,
	'its partition is there although it was rolled back: the worker made it');
is(sql($node, "select count(*) from pg_stat_activity where pid = $worker"), 1, 'the same worker');
wait_until($node, "select count(*) >= 3 from pg_inherits where inhparent = 'tasker.queue_record'::regclass",
	'the next ones are made ahead');
$locker->query_safe('commit');
$locker->quit;
wait_until($node, "select count(*) = 1 from pg_stat_user_tables where relname = 'busy' and last_analyze is not null",
	'the analyze that was interrupted is made up for');
is(sql($node, "select failures from tasker.duty_status where name = 'analyze'"), 0, 'and did not count as a failure');
is(sql($node, 'select count(*) from public.busy'), 50000, 'nobody was harmed');
$node->append_conf('postgresql.conf', "tasker.lock_timeout = '100ms'");
$node->reload;
wait_until($node, "select setting::int = 100 from pg_settings where name = 'tasker.lock_timeout'", 'reloaded');

# Several at once ask for the same partition.
sql($node, 'drop extension tasker cascade; create extension tasker');
$worker = running_worker('postgres');
$node->pgbench('-n -c 8 -j 2 -t 1', 0, [qr{number of transactions actually processed: 8/8}], [qr{^$}],
	'eight producers meet an empty queue', { 'first' => "select tasker.enqueue('work', '{}');" });
is(sql($node, "select pending from tasker.get_queue_status('work')"), 8, 'each has its record');

# A duty that fails

sql($node, <<'SQL');
create function public.refuse() returns trigger language plpgsql as
$$begin raise exception 'nothing is to be deleted' using errcode = 'TA001', hint = 'Ask the auditor.'; end$$;
create trigger refuse before delete on tasker.dedup_key for each statement execute function public.refuse();
SQL
run_once_more('expire_dedup_keys');
wait_until($node, "select failures >= 3 and failures_in_a_row >= 3 and last_error = 'nothing is to be deleted'
	and last_error_at > now() - interval '1 minute' and next_run > last_error_at
	from tasker.duty_status where name = 'expire_dedup_keys'", 'the failing duty is tried again, and its failures are counted');
is(logged('WARNING:  duty "expire_dedup_keys" failed: nothing is to be deleted'), 1, 'and logged once');
is(logged('HINT:  Ask the auditor'), 1, 'with its hint');
my $sweeps = sql($node, "select runs from tasker.duty_status where name = 'recover_leases'");
wait_until($node, "select runs >= $sweeps + 2 and failures = 0 from tasker.duty_status where name = 'recover_leases'",
	'the other duties go on');
is(sql($node, "select state from tasker.worker_status where database = 'postgres' and pid = $worker"), 'running',
	'in the same process');
is(sql($node, "select tasker.health_check() ->> 'status'"), 'degraded', 'health_check notices');
is( sql($node, "select count(*) from jsonb_array_elements(tasker.health_check() -> 'reasons') r
	where r ->> 'check' = 'duty' and r ->> 'message' ~ 'expire_dedup_keys.*nothing is to be deleted'"),
	1, 'and says why');

sql($node, <<'SQL');
create or replace function public.refuse() returns trigger language plpgsql as
$$begin raise exception 'still nothing is to be deleted'; end$$;
SQL
run_once_more('expire_dedup_keys');
wait_until($node, "select last_error = 'still nothing is to be deleted' from tasker.duty_status
	where name = 'expire_dedup_keys'", 'another message');
is(logged('WARNING:  duty "expire_dedup_keys" failed: still nothing'), 1, 'is logged as well');

sql($node, 'drop trigger refuse on tasker.dedup_key');
run_once_more('expire_dedup_keys');
wait_until($node, "select failures_in_a_row = 0 and failures >= 4 from tasker.duty_status where name = 'expire_dedup_keys'",
	'once it can, it works again');
is(logged('LOG:  duty "expire_dedup_keys" works again'), 1, 'and says so');
wait_until($node, "select tasker.health_check() ->> 'status' = 'healthy'", 'all is well again');

# A lock that is not to be had is no news.
$locker = $node->background_psql('postgres', on_error_stop => 1);
$locker->set_query_timer_restart();
$locker->query_safe('begin; lock table tasker.dedup_key in access exclusive mode');
run_once_more('expire_dedup_keys');
is(sql($node, "select last_error from tasker.duty_status where name = 'expire_dedup_keys'"),
	'canceling statement due to lock timeout', 'a duty gives up a lock');
$locker->query_safe('commit');
$locker->quit;
is(logged('lock timeout'), 0, 'which is not logged the first time');
wait_until($node, "select failures_in_a_row = 0 from tasker.duty_status where name = 'expire_dedup_keys'",
	'and is tried again soon');

# Settings

$node->append_conf('postgresql.conf', "tasker.sweep_interval = '1h'\ntasker.log_duties = on");
$node->reload;
wait_until($node, "select period = '1 hour' and next_run > now() + interval '50 minutes'
	from tasker.duty_status where name = 'sweep'", 'a longer period acts after a reload');
$node->append_conf('postgresql.conf', "tasker.sweep_interval = '1s'");
$node->reload;
my $runs = sql($node, "select runs from tasker.duty_status where name = 'sweep'");
wait_until($node, "select runs >= $runs + 2 from tasker.duty_status where name = 'sweep'", 'so does a shorter one');
cmp_ok(logged('LOG:  duty "sweep" took [0-9.]+ ms'), '>=', 1, 'tasker.log_duties logs each run');
is(sql($node, "select count(*) from tasker.duty_status where last_run is null or duration < interval '0' or runs < 1"),
	sql($node, "select count(*) from tasker.duty_status where runs = 0"), 'times of all duties that have run');

# By call, beside the worker

sql($node, "call tasker.run_duty('$_')") foreach split /\n/, sql($node, 'select name from tasker.duty_status');
pass('every duty can be called');
like(error_of($node, "call tasker.run_duty('nonsense')"), qr/^42704: duty "nonsense" does not exist/, 'an unknown duty');
like(error_of($node, 'call tasker.run_duty(null)'), qr/^22023/, 'no duty');
like(error_of($node, "begin; call tasker.run_duty('sweep')"), qr/^25001/, 'inside a transaction block');
like(error_of($node, "select tasker.request_duty('nonsense')"), qr/^42704/, 'request_duty of an unknown duty');
is(sql($node, 'select tasker.start()'), 'worker', 'start() with a worker');
like(error_of($node, 'select tasker.stop()'), qr/^55000/, 'stop() with a worker');

# Who holds the oldest snapshot

sql($node, "select pg_create_logical_replication_slot('a_slot', 'test_decoding')");
sql($node, "begin; insert into public.busy values (1); prepare transaction 'a prepared one'");
my $reader = $node->background_psql('postgres', on_error_stop => 1);
$reader->set_query_timer_restart();
$reader->query_safe("set application_name = 'a reader'; begin isolation level repeatable read; select 1");
sql($node, 'insert into public.busy values (1)') for 1 .. 6;
is( sql($node, "select string_agg(kind || ': ' || identity || ' (' || affects || ')', ', ' order by n)
	from (select *, row_number() over () as n from tasker.xmin_holders) h
	where identity in ('a prepared one', 'a reader', 'a_slot')"),
	'replication slot: a_slot (catalogs), prepared transaction: a prepared one (this database), '
	  . 'session: a reader (this database)', 'xmin_holders names them, oldest first');
is( sql($node, "select count(*) from tasker.xmin_holders where identity = 'a reader' and pid is not null
	and username = 'postgres' and database = 'postgres' and age_xids >= 6 and held_for > interval '0'
	and since < now() and query ~ 'select 1' and state = 'idle in transaction'"), 1, 'with what helps to find it');
is(sql($node, "select tasker.health_check() #>> '{figures,oldest_xmin,identity}'"), 'a prepared one',
	'health_check names the first that keeps rows');
$reader->query_safe('commit');
$reader->quit;
sql($node, "rollback prepared 'a prepared one'; select pg_drop_replication_slot('a_slot')");
is(sql($node, "select count(*) from tasker.xmin_holders where identity in ('a prepared one', 'a reader', 'a_slot')"), 0,
	'none of them is left');

# Metrics

sql($node, 'select tasker.enqueue($$quotes " and \ strokes$$, $${}$$) from generate_series(1, 3)');
is( sql($node, "select string_agg(format('%s %s', labels ->> 'status', value), ', ' order by labels ->> 'status')
	from tasker.metrics() where metric = 'tasker_queue_records' and labels ->> 'flow' ~ 'quotes'"),
	'cancelled 0, completed 0, failed 0, pending 3, processing 0, scheduled 0', 'metrics() counts records');
is(sql($node, "select string_agg(value::text, ',') from tasker.metrics() where metric = 'tasker_worker_up'"), 1,
	'and knows the worker');
is( sql($node, "select count(*) from (select metric, labels from tasker.metrics() group by 1, 2
	having count(*) > 1 or count(distinct help) > 1) twice"), 0, 'no metric comes twice');
my $text = sql($node, 'select tasker.metrics_openmetrics()');
like($text, qr/^tasker_queue_records\{flow="quotes \\" and \\\\ strokes",status="pending"\} 3$/m, 'labels are escaped');
like($text, qr/^# TYPE tasker_duty_runs counter\ntasker_duty_runs_total\{duty="analyze"\} \d+$/m, 'a counter');
like($text, qr/\n# EOF\n?\z/, 'the end');
my @strange = grep { !/^(# (HELP|TYPE|EOF).*|[a-z_]+(\{[a-z]+="([^"\\]|\\.)*"(,[a-z]+="([^"\\]|\\.)*")*\})? -?[0-9.e+-]+)$/ } split /\n/, $text;
is(join('|', @strange), '', 'every line has the form that the format asks for');

# Rights

sql($node, 'create role watcher login; create role manager login; create role stranger login;
	grant tasker_observer to watcher; grant tasker_admin to manager');
cmp_ok(sql($node, "set role watcher; select count(*) from tasker.duty_status"), '>=', 8, 'an observer sees duties');
cmp_ok(sql($node, "set role watcher; select count(*) from tasker.worker_status"), '>=', 2, 'and workers');
is(sql($node, "set role watcher; select count(*) >= 0 from tasker.xmin_holders"), 't', 'and holders');
is(sql($node, "set role watcher; select tasker.health_check() ->> 'status'"), 'healthy', 'and health');
cmp_ok(sql($node, "set role watcher; select count(*) from tasker.metrics()"), '>=', 30, 'and metrics');
like(error_of($node, "set role watcher; select tasker.request_duty('sweep')"), qr/^42501/, 'but asks for nothing');
is(sql($node, "set role manager; select tasker.request_duty('sweep')"), 't', 'an administrator does');
sql($node, "set role manager; call tasker.run_duty('premake')");
like(error_of($node, "set role stranger; $_"), qr/^42501/, "a stranger may not: $_")
  foreach ('select * from tasker.duty_status', 'select * from tasker.worker_status',
	'select * from tasker.xmin_holders', 'select tasker.health_check()', 'select tasker.start()',
	'select tasker.metrics_openmetrics()', 'select tasker.stop()', "call tasker.run_duty('sweep')", 'select tasker.notify_launcher()');

# A database that the worker cannot open: tried again and again, logged once.

sql($node, 'create database broken');
sql($node, 'create extension tasker', 'broken');
my $broken = running_worker('broken');
my $folder = $node->data_dir . '/base/' . sql($node, "select oid from pg_database where datname = 'broken'");
rename $folder, "$folder.away" or die "could not rename $folder: $!";
sql($node, "select pg_terminate_backend($broken)");
wait_until($node, "select restarts >= 2 and failures >= 2 and state in ('waiting', 'starting', 'connecting')
	and last_error ~ 'broken' and last_error_at is not null
	from tasker.worker_status where database = 'broken'", 'a worker that cannot connect is started again with back-off');
is(logged('FATAL:  '), 1, 'its error is logged once');
rename "$folder.away", $folder or die "could not rename $folder.away: $!";
wait_until($node, "select state = 'running' from tasker.worker_status where database = 'broken'",
	'it runs as soon as it can');

$node->stop('fast');
done_testing();
