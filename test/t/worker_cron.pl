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

# pg_cron's clock has minutes.
wait_until($node, $done, "the duties are done in $_", $_) foreach qw(postgres shop);
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
