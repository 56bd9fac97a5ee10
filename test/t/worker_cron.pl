# Without Tasker's background worker: pg_cron runs the duties, in its own database and in another one.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $node = tasker_cluster('cron', preload => 0);

plan skip_all => 'pg_cron is not installed'
  unless sql($node, "select count(*) from pg_available_extensions where name = 'pg_cron'");

# What is missing is said, with a way out.
sub hint_of
{
	my ($query, $database) = @_;
	my ($status, $out, $err) = $node->psql($database // 'postgres', $query);
	return $err =~ /HINT:\s+([^\n]*)/ ? $1 : '';
}

like(hint_of('select tasker.start()'), qr/shared_preload_libraries.*or add pg_cron there/, 'pg_cron is not loaded');

# It connects as a client does: here through the Unix socket.
my $host = $node->host;
$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'pg_cron'
cron.database_name = 'postgres'
cron.host = '$host'
cron.log_statement = off
CONF
$node->restart;
like(hint_of('select tasker.start()'), qr/^pg_cron is loaded: CREATE EXTENSION pg_cron/, 'its extension does not exist');
sql($node, 'create extension pg_cron');
sql($node, 'create database shop');
sql($node, 'create extension tasker', 'shop');
is(hint_of('select tasker.start()', 'shop'),
	qq{pg_cron is loaded, and its jobs are kept in database "postgres". There, with both extensions: select tasker.start('shop').},
	'in another database');

# A set whose partitions are neither ready nor gone.
my $set = q{
	create table visits (at timestamptz not null, page text) partition by range (at);
	create table visits_old partition of visits for values from ('2001-01-01') to ('2001-02-01');
	insert into visits values ('2001-01-05', 'home');
	set client_min_messages = error;
	select tasker.create_parent('visits', 'at', '1 day', premake => 1, retention => '1 month');
	select tasker.alter_parent('visits', 'premake', '6');
};
sql($node, $set, $_) foreach qw(postgres shop);
my $done = q{select partitions_ahead = 6 and to_regclass('visits_old') is null and health = 'healthy'
	from tasker.partition_status where parent = 'visits'::regclass};
is(sql($node, $done, $_), 'f', "nothing is done yet in $_") foreach qw(postgres shop);

# Rights
sql($node, 'create role clerk login; create role boss login; grant tasker_observer to clerk; grant tasker_admin to boss');
like(error_of($node, 'set role clerk; select tasker.start()'), qr/^42501/, 'an observer may not start');
like(error_of($node, 'set role clerk; select tasker.stop()'), qr/^42501/, 'nor stop');
is(sql($node, 'set role boss; select tasker.start()'), 'pg_cron', 'an admin may');
is(sql($node, "set role boss; select tasker.start('shop')"), 'pg_cron', 'for another database too');
is(sql($node, "select count(*), count(distinct jobname) from cron.job where username <> 'postgres'"), '0|0',
	'the jobs run as the owner of the extension');
like(error_of($node, "select tasker.start('nowhere')"), qr/^3D000: database "nowhere" does not exist/, 'no such database');

like(error_of($node, "select tasker.start('template0')"), qr/^55000: database "template0" takes no connections/, 'nor one that nobody can enter');

my $jobs = sql($node, 'select database, jobname, schedule, command from cron.job order by 1, 2');
is(sql($node, 'select tasker.start()') . sql($node, "select tasker.start('shop')"), 'pg_cronpg_cron', 'start again');
is(sql($node, 'select database, jobname, schedule, command from cron.job order by 1, 2'), $jobs, 'changes nothing');
is(sql($node, "select count(distinct n) from (select count(*) n from cron.job group by database) j"), 1,
	'both databases have the same duties');

# Tasks and records that come again and again.
sql($node, q{select tasker.define_task('shop', 'report', '{"steps": [{"name": "count"}]}')});
my $scheduled = sql($node, q{select tasker.schedule_task('every minute', '* * * * *', 'shop', 'report', '{"it''s": "a \\\\ b"}')});
is(sql($node, q{set role boss; select tasker.schedule_task('every minute', '*/1 * * * *', 'shop', 'report', '{"it''s": "a \\\\ b"}')}),
	$scheduled, 'the same name again replaces what was scheduled');
sql($node, q{select tasker.schedule_task('in India', '* * * * *', 'shop', 'report', timezone => 'Asia/Kolkata')});
sql($node, q{select tasker.schedule_task('never', '* ' || extract(hour from now() + interval '7 hours') || ' * * *', 'shop', 'report', timezone => 'Asia/Tokyo')});
sql($node, q{select tasker.schedule_record('ping', '* * * * *', 'pings', '{"n": 1}', 3::smallint)});
sql($node, q{select tasker.schedule_task('berlin', '30 3 * * mon-fri', 'shop', 'report', timezone => 'Europe/Berlin'),
	tasker.schedule_task('kolkata', '5,15 9 * * *', 'shop', 'report', timezone => 'Asia/Kolkata'),
	tasker.schedule_task('utc', '@daily', 'shop', 'report', timezone => 'utc')});
is(sql($node, q{select jobname, schedule, command like '%_schedule_is_due(%' from cron.job
	where jobname in ('tasker/berlin', 'tasker/kolkata', 'tasker/utc') order by 1}),
	"tasker/berlin|30 * * * *|t\ntasker/kolkata|35,45 * * * *|t\ntasker/utc|\@daily|f",
	'other time zones: pg_cron has the minutes, the job asks for the hour');
is(sql($node, q{select string_agg(tasker._schedule_is_due('30 3 * * mon-fri', 'Europe/Berlin', at)::text, ' ' order by at)
	from unnest('{2026-06-30 01:30Z,2026-06-30 02:30Z,2026-07-04 01:30Z,2026-12-01 01:30Z,2026-12-01 02:30Z}'::timestamptz[]) at}),
	'true false false false true', 'whose clocks change twice a year');
foreach (
	[ q{schedule_task('x', '* * * *', 'shop', 'report')}, qr/^22023: "\* \* \* \*" is no cron expression/ ],
	[ q{schedule_task('x', '61 * * * *', 'shop', 'report')}, qr/^22023: "61/ ],
	[ q{schedule_task('x', '* * * * *', 'shop', 'nothing')}, qr/^42704: task "shop\/nothing" does not exist/ ],
	[ q{schedule_task('x', '* * * * *', 'shop', 'report', null)}, qr/^22023: argument "context" must not be null/ ],
	[ q{schedule_task('', '* * * * *', 'shop', 'report')}, qr/^22023: / ],
	[ q{schedule_task('x', '* * * * *', 'shop', 'report', timezone => 'Mars/Base')}, qr/^22023: time zone "Mars\/Base" not recognized/ ],
	[ q{schedule_task('x', '* * * * *', 'shop', 'report', timezone => 'Australia/Lord_Howe')}, qr/^0A000: time zone "Australia\/Lord_Howe" changes by/ ],
	[ q{schedule_record('x', '* * * * *', 'pings', '{}', 10::smallint)}, qr/^22023: priority must be from 0 to 9/ ],
	[ q{unschedule('x')}, qr/^42704: nothing is scheduled as "x"/ ],
	[ q{unschedule('retire')}, qr/^42704: / ])
{
	my ($call, $error) = @$_;
	like(error_of($node, "select tasker.$call"), $error, $call);
}
like(error_of($node, q{select tasker.unschedule('x')}, 'shop'), qr/^55000: there is no pg_cron in this database/, 'where pg_cron is not');
like(error_of($node, q{set role clerk; select tasker.unschedule('ping')}), qr/^42501/, 'an observer may not unschedule');

# pg_cron's clock has minutes.
wait_until($node, $done, "the duties are done in $_", $_) foreach qw(postgres shop);
wait_until($node, q{select count(distinct reason) = 2 from tasker.tasks where initiator = 'schedule'}, 'tasks are created on schedule');
is(sql($node, q{select distinct reason, context from tasker.tasks where initiator = 'schedule' order by 1}),
	qq{every minute|{"it's": "a \\\\ b"}\nin India|{}}, 'with their contexts, and none in the wrong hour');
wait_until($node, q{select count(*) > 0 from tasker.processing_queue where flow_name = 'pings' and priority = 3 and payload = '{"n": 1}'},
	'records are added on schedule');
sql($node, q{set role boss; select tasker.unschedule(name)
	from unnest('{every minute,in India,never,ping,berlin,kolkata,utc}'::text[]) name});
is(sql($node, q{select count(*) from cron.job where jobname like 'tasker/%'}), 0, 'all are unscheduled');
is(sql($node, "select count(*) from cron.job_run_details where status = 'failed'"), 0, 'no job has failed');

# Jobs as background workers, which need no connection.
$node->append_conf('postgresql.conf', "cron.use_background_workers = on\ncron.host = '/nowhere'");
$node->restart;
sql($node, "select tasker.alter_parent('visits', 'premake', '8')", $_) foreach qw(postgres shop);
$done =~ s/= 6/= 8/;
wait_until($node, $done, "the duties are done in $_ by background workers", $_) foreach qw(postgres shop);

is(sql($node, "select tasker.stop('shop')"), sql($node, 'select count(*) from cron.job'), 'stop() for one database');
is(sql($node, "select count(*) from cron.job where database = 'shop'"), 0, 'removes its jobs');
sql($node, q{select cron.schedule('mine', '0 0 1 1 *', $$call tasker.run_duty('retire')$$)});
is(sql($node, 'select tasker.stop() > 5'), 't', 'stop() here');
is(sql($node, 'select jobname from cron.job'), 'mine', 'removes the others, but no job that somebody else made');
sql($node, q{select cron.unschedule('mine')});
is(sql($node, 'select tasker.stop()'), 0, 'and has nothing left to do');

# With the worker there is nothing to schedule.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron, tasker'");
$node->restart;
my ($status, $out, $err) = $node->psql('postgres', 'select tasker.start()');
is($out, 'worker', 'start() with the background worker');
like($err, qr/NOTICE:  the background worker runs the duties of database "postgres"\nDETAIL:  pg_cron is not needed/,
	'says that pg_cron is not needed');
is(sql($node, 'select count(*) from cron.job'), 0, 'and schedules nothing');

$node->stop;
done_testing();
