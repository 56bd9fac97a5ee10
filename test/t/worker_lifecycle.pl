# Where background workers come from and where they go: CREATE and DROP EXTENSION in every form, databases that come,
# go and are copied, and settings that are reloaded. No database is ever blocked by its worker, and the server's log
# has no word about any of it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;
use Time::HiRes qw(time);

my $node = tasker_cluster('lifecycle', extension => 0, conf => "log_line_prefix = '%m [%p] %b '");

sub worker_of
{
	my ($database) = @_;
	return sql($node,
		"select pid from pg_stat_activity where backend_type = 'tasker worker' and datname = '$database'");
}

# The worker that runs in a database, once it is past its start.
sub running_worker_of
{
	my ($database) = @_;
	$node->poll_query_until($database, "select exists (select from tasker.worker_status
		where database = current_database() and state = 'running')")
	  or die "no worker runs in $database";
	return worker_of($database);
}

sub has_worker
{
	my ($database, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, "select count(*) = 1 from pg_stat_activity
		where backend_type = 'tasker worker' and datname = '$database'", $what);
	return;
}

sub has_no_worker
{
	my ($database, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, "select count(*) = 0 from pg_stat_activity
		where backend_type = 'tasker worker' and datname = '$database'", $what);
	return;
}

# A process that the launcher starts has left before the launcher's next one comes; so once a database created later
# has its worker, every database the launcher knew about before has been tried.
sub let_launcher_pass
{
	my ($marker) = @_;
	sql($node, "create database $marker");
	sql($node, 'create extension tasker', $marker);
	running_worker_of($marker);
	return;
}

# Runs a statement that must neither fail nor wait long.
sub quick
{
	my ($query, $what, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my ($status, undef, $err) = $node->psql($database // 'postgres', $query, on_error_stop => 1);
	is($err, '', "$what: no message");
	is($status, 0, "$what: done");
	cmp_ok(time - $start, '<', 3, "$what: at once");
	return;
}

# Databases without the extension

has_no_worker('postgres', 'no worker before CREATE EXTENSION');
is(sql($node, "select count(*) from pg_stat_activity where backend_type = 'tasker launcher'"), 1, 'one launcher');

# CREATE EXTENSION

sql($node, 'begin; create extension tasker; rollback');
let_launcher_pass('marker1');
is(worker_of('postgres'), '', 'no worker after CREATE EXTENSION was rolled back');

sql($node, 'create extension tasker');
has_worker('postgres', 'a worker after CREATE EXTENSION');
my $first = running_worker_of('postgres');
wait_until($node, "select application_name = 'tasker' and usename = 'postgres' and state = 'idle'
	and wait_event_type = 'Extension' and query like 'duty %' from pg_stat_activity where pid = $first",
	'it sleeps, and shows what it is and what it did last');

# DROP EXTENSION

sql($node, 'begin; drop extension tasker; rollback');
has_worker('postgres', 'a worker again after DROP EXTENSION was rolled back');
isnt(running_worker_of('postgres'), $first, 'another process');

quick('drop extension tasker', 'DROP EXTENSION');
has_no_worker('postgres', 'no worker after DROP EXTENSION');
let_launcher_pass('marker2');
is(worker_of('postgres'), '', 'and none comes back');

sql($node, 'begin; savepoint s; create extension tasker; rollback to s; create extension tasker; commit');
has_worker('postgres', 'a worker after a savepoint was rolled back');
my $before = running_worker_of('postgres');
sql($node, 'begin; drop extension tasker; create extension tasker; commit');
has_worker('postgres', 'a worker for an extension that was dropped and created at once');
isnt(running_worker_of('postgres'), $before, 'another process');

# As part of something else: nothing in the statement names the extension.
sql($node, 'create role other superuser');
sql($node, 'drop extension tasker; set role other; create extension tasker');
running_worker_of('postgres');
quick('drop owned by other cascade', 'DROP OWNED BY');
has_no_worker('postgres', 'no worker after DROP OWNED BY');

# Two-phase commit: the outcome comes later, and from another session.
sql($node, "begin; create extension tasker; prepare transaction 'create'");
is(worker_of('postgres'), '', 'no worker while CREATE EXTENSION is prepared');
sql($node, "commit prepared 'create'");
has_worker('postgres', 'a worker after COMMIT PREPARED');
running_worker_of('postgres');
sql($node, "begin; drop extension tasker; prepare transaction 'drop'");
has_worker('postgres', 'the worker stays while DROP EXTENSION is prepared');
sql($node, "commit prepared 'drop'");
has_no_worker('postgres', 'no worker after COMMIT PREPARED of the drop');

# The worker gives way while a session holds the dropped extension's locks, and comes back.
sql($node, 'create extension tasker');
running_worker_of('postgres');
my $session = $node->background_psql('postgres', on_error_stop => 1);
$session->set_query_timer_restart();
$session->query_safe('begin; drop extension tasker');
is(worker_of('postgres'), '', 'no worker while the dropping transaction is open');
$session->query_safe('rollback');
$session->quit;
has_worker('postgres', 'the worker comes back');
running_worker_of('postgres');

# The session with that transaction may also end in it.
$session = $node->background_psql('postgres');
$session->set_query_timer_restart();
$session->query('begin; drop extension tasker');
is(worker_of('postgres'), '', 'no worker, again');
sql($node, "select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'");
has_worker('postgres', 'the worker comes back after the session was terminated');
$session->{run}->finish;
running_worker_of('postgres');

# Databases

quick('create database copy template postgres', 'CREATE DATABASE from one with a worker');
has_worker('copy', 'the copy has a worker');
has_worker('postgres', 'and so has the original');
is(sql($node, "select count(distinct pid) from pg_stat_activity where backend_type = 'tasker worker'
	and datname in ('copy', 'postgres')"), 2, 'one each');
running_worker_of('copy');

quick('alter database copy rename to renamed', 'ALTER DATABASE RENAME');
has_worker('renamed', 'the renamed database has a worker');
running_worker_of('renamed');

my $folder = PostgreSQL::Test::Utils::tempdir_short();
sql($node, "create tablespace elsewhere location '$folder'");
quick('alter database renamed set tablespace elsewhere', 'ALTER DATABASE SET TABLESPACE');
has_worker('renamed', 'the moved database has a worker');
running_worker_of('renamed');

quick('drop database renamed', 'DROP DATABASE');
is(sql($node, "select count(*) from pg_stat_activity where backend_type = 'tasker worker' and datname is null"), 0,
	'no worker without a database');

# A statement that fails gives the worker back.
like(error_of($node, 'create database postgres template marker1'), qr/^42P04/, 'CREATE DATABASE that fails');
has_worker('marker1', 'the worker of the template is back');
running_worker_of('marker1');

# Who may not run the statement cannot send a worker home with it.
sql($node, 'create role nobody login');
my $kept = running_worker_of('marker1');
like(error_of($node, 'set role nobody; drop database marker1'), qr/^42501/, 'DROP DATABASE by somebody else');
is(worker_of('marker1'), $kept, 'has not disturbed the worker');

# In the middle of a duty: it waits for a lock, and the statement does not wait for it.
sql($node, 'create database busy');
sql($node, 'create extension tasker', 'busy');
my $busy = running_worker_of('busy');
$node->append_conf('postgresql.conf', "tasker.lock_timeout = '5min'");
$node->reload;
wait_until($node, "select setting::int = 300000 from pg_settings where name = 'tasker.lock_timeout'",
	'tasker.lock_timeout is reloaded');
my $locker = $node->background_psql('busy', on_error_stop => 1);
$locker->set_query_timer_restart();
$locker->query_safe('begin; lock table tasker.dedup_key in access exclusive mode');
sql($node, "select tasker.request_duty('expire_dedup_keys')", 'busy');
wait_until($node, "select wait_event_type = 'Lock' and query = 'duty expire_dedup_keys'
	from pg_stat_activity where pid = $busy", 'the worker is in the middle of a duty');
is( sql($node, "select duty from tasker.worker_status where database = 'busy'", 'postgres'),
	'expire_dedup_keys', 'worker_status names the duty');
my $start = time;
like(error_of($node, 'alter database busy rename to busier'), qr/^55006/, 'RENAME fails because of the other session');
cmp_ok(time - $start, '<', 9, 'but not because of the worker');
$locker->query_safe('commit');
$locker->quit;
running_worker_of('busy');
quick('drop database busy', 'DROP DATABASE');
$node->append_conf('postgresql.conf', "tasker.lock_timeout = '200ms'");
$node->reload;

# Databases that get none

sql($node, 'create extension tasker', 'template1');
sql($node, 'create database from_template');
has_worker('from_template', 'a database made from a template1 with the extension has a worker');
is(worker_of('template1'), '', 'template1 itself has none');

running_worker_of('from_template');
sql($node, 'alter database from_template allow_connections false');
has_no_worker('from_template', 'a database that takes no connections loses its worker');
sql($node, 'alter database from_template allow_connections true');
has_worker('from_template', 'and gets it back');
running_worker_of('from_template');
sql($node, 'alter database from_template is_template true');
has_no_worker('from_template', 'a template has no worker');
sql($node, 'alter database from_template is_template false');
has_worker('from_template', 'what is no template any more has one');

# Settings

running_worker_of('from_template');
$node->append_conf('postgresql.conf', 'tasker.worker = off');
$node->reload;
wait_until($node, "select count(*) = 0 from pg_stat_activity where backend_type = 'tasker worker'",
	'tasker.worker = off ends all workers');
is(sql($node, "select state from tasker.worker_status where database = 'postgres'"), 'off', 'worker_status says so');
$node->append_conf('postgresql.conf', "tasker.worker = on\ntasker.databases = 'marker2, \"from_template\"'");
$node->reload;
has_worker('marker2', 'a database that tasker.databases names has a worker');
has_worker('from_template', 'so has one that is named in quotes');
let_launcher_settle();
is(worker_of('postgres'), '', 'one that it does not name has none');
$node->append_conf('postgresql.conf', "tasker.databases = ''");
$node->reload;
has_worker('postgres', 'an empty tasker.databases means all');
running_worker_of('postgres');

# Both named databases have theirs, and the launcher sleeps: it has seen to all.
sub let_launcher_settle
{
	running_worker_of('marker2');
	running_worker_of('from_template');
	$node->poll_query_until('postgres', "select state = 'idle' or wait_event_type = 'Extension'
		from pg_stat_activity where backend_type = 'tasker launcher'") or die 'the launcher does not rest';
	return;
}

# An administrator ends a worker: it is back a second later.
my $ended = running_worker_of('postgres');
sql($node, "select pg_terminate_backend($ended)");
wait_until($node, "select count(*) = 1 from pg_stat_activity
	where backend_type = 'tasker worker' and datname = 'postgres' and pid <> $ended", 'a terminated worker is replaced');

# A cancel that meets an idle worker means nothing.
my $idle = running_worker_of('postgres');
sql($node, "select pg_cancel_backend($idle)");
sql($node, "select tasker.request_duty('premake')");
wait_until($node, "select runs >= 2 from tasker.duty_status where name = 'premake'", 'duties go on after a cancel');
is(worker_of('postgres'), $idle, 'in the same process');

$node->stop('fast');
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
my @noise = grep { /tasker (worker|launcher) (WARNING|ERROR|FATAL|PANIC):/ } split /\n/, $log;
is(join("\n", @noise), '', 'nothing of all this is worth a line in the log');
unlike($log, qr/server process|background worker "tasker worker/, 'no worker ended in an unusual way');

done_testing();
