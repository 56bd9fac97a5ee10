# Retirement of users' partitions, killed at each step, with each thing that may become of them: dropped, kept, moved.
# Whatever was cut off, the next rounds finish it, no row is lost that was to be kept, and nothing is half gone.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('kill', conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\nmax_worker_processes = 20\n");
my $other;
my $preloaded = 1;

# Ends a session that may have been killed with the server.
sub hang_up
{
	local $SIG{PIPE} = 'IGNORE';
	eval { $_->quit } foreach grep { defined } @_;
	return;
}

sub connect_again
{
	hang_up($other);
	$other = $node->background_psql('postgres', on_error_stop => 0);
	return;
}

connect_again();
sql($node, q{create schema archive});
# Stops whoever takes the last step of a retirement, inside its transaction, as long as the lock is held.
sql($node, q{create function public.stop_here() returns event_trigger language plpgsql as $$
	begin
		if tg_tag in ('DROP TABLE', 'ALTER TABLE') and current_setting('application_name') !~ 'psql|TestLib|\.pl' then
			perform set_config('lock_timeout', '0', true);
			perform pg_advisory_xact_lock_shared(20260101);
		end if;
	end $$});

my %tables = (drop => 'gone', detach => 'public', 'schema:archive' => 'archive');
my $count = 0;

# A set that has one partition too many, with three rows.
sub make_set
{
	my ($action) = @_;
	my $parent = 'kill_' . ++$count;
	sql($node, "create table $parent (ts timestamptz not null, id bigint) partition by range (ts);
		select tasker.create_parent('$parent', 'ts', '1 day', 1, '100 years', '$action');
		select tasker.create_partition('$parent', '2020-01-01');
		insert into $parent select '2020-01-01', i from generate_series(1, 3) i");
	return $parent;
}

# From here on it is due. A round that finds long transactions would make way for them five times; this skips it.
sub release
{
	my ($parent) = @_;
	return sql($node, "insert into tasker.part_retirement (parent, partition_schema, partition_name, lower_key, upper_key, state, failures)
		values ('$parent', 'public', '${parent}_p20200101', extract(epoch from timestamptz '2020-01-01') * 1000000,
			extract(epoch from timestamptz '2020-01-02') * 1000000, 'refused', 5);
		update tasker.part_config set retention = '1 year' where parent = '$parent'::regclass");
}

sub standing
{
	my ($parent) = @_;
	my $name = "${parent}_p20200101";
	return sql($node, "select case when to_regclass('archive.$name') is not null then 'archive'
		when to_regclass('$name') is null then 'gone'
		else coalesce((select case when inhdetachpending then 'pending' else 'attached' end from pg_inherits
			where inhrelid = to_regclass('$name')), 'public') end
		|| coalesce((select ', ' || state from tasker.part_retirement where parent = '$parent'::regclass), '')");
}

sub set_and_reload
{
	my (@settings) = @_;
	sql($node, "alter system set $_") foreach @settings;
	return sql($node, 'select pg_reload_conf()');
}

sub maintain { return sql($node, 'call tasker.run_maintenance()'); }

# Everything is as it was meant in the end, and nothing else is left.
sub ends_well
{
	my ($parent, $action, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $wanted = $tables{$action};
	set_and_reload(q{tasker.lock_timeout = '20ms'}, q{tasker.worker = on}) if $preloaded;
	foreach (1 .. 200)
	{
		last if standing($parent) eq $wanted;
		sql($node, 'update tasker.part_retirement set next_try_at = null where next_try_at is not null');
		sql($node, 'update tasker.part_failure set next_try_at = now()');
		maintain();
		Time::HiRes::usleep(100_000);
	}
	is(standing($parent), $wanted, "$what: the next rounds finish it");
	is(sql($node, "select count(*) from $parent"), '0', "$what: its rows have left the parent");
	return if $action eq 'drop';
	is(sql($node, "select count(*) || ' ' || (select count(*) from pg_constraint where conrelid = '$wanted.${parent}_p20200101'::regclass)
		from $wanted.${parent}_p20200101"), '3 0', "$what: and are all in the table, without a check");
	return;
}

# The server without its worker, after the kill of everything.
sub restart_after_kill
{
	set_and_reload('tasker.worker = off') if $node->poll_query_until('postgres', 'select true');
	crash_server($node);
	start_after_crash($node);
	connect_again();
	return;
}

sub worker_waits
{
	my ($event, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "select exists (select from pg_stat_activity where backend_type = 'tasker worker' and wait_event = '$event')", $what);
}

# --- the worker, and the server with it, at each step ------------------------------------------------------------------

foreach my $action (sort keys %tables)
{
	# Booked: the detach waits for the parent.
	my $parent = make_set($action);
	set_and_reload(q{tasker.lock_timeout = '60s'});
	$other->query_safe("begin; lock table $parent in share update exclusive mode");
	release($parent);
	maintain();
	worker_waits('relation', "$action: the worker waits before it begins");
	is(standing($parent), 'attached, leaving', "$action: booked");
	restart_after_kill();
	is(standing($parent), 'attached, leaving', "$action: so it is after the crash");
	ends_well($parent, $action, "$action, killed after the booking");

	# Pending: the detach waits for a transaction that has used the parent.
	$parent = make_set($action);
	set_and_reload(q{tasker.lock_timeout = '60s'});
	$other->query_safe("begin; select count(*) from $parent");
	release($parent);
	maintain();
	worker_waits('virtualxid', "$action: the worker waits for a reader");
	is(standing($parent), 'pending, leaving', "$action: pending");
	restart_after_kill();
	is(standing($parent), 'pending, leaving', "$action: so it is after the crash");

	# Finalizing: that waits for whoever has an older snapshot, of anything.
	sql($node, 'create table if not exists unrelated (a int)');
	$other->query_safe('begin isolation level repeatable read; select count(*) from unrelated');
	set_and_reload(q{tasker.lock_timeout = '60s'}, q{tasker.worker = on});
	worker_waits('virtualxid', "$action: the worker waits in FINALIZE");
	restart_after_kill();
	is(standing($parent), 'pending, leaving', "$action: still pending after the crash");
	ends_well($parent, $action, "$action, killed in FINALIZE");

	# Detached: the last step is put off while a partition is being made.
	$parent = make_set($action);
	release($parent);
	$other->query_safe("begin; select tasker.alter_parent('$parent', 'premake', '1')");
	foreach (1 .. 300)
	{
		last if standing($parent) eq 'public, leaving';
		maintain();
		sql($node, 'update tasker.part_retirement set next_try_at = null where next_try_at is not null');
		Time::HiRes::usleep(50_000);
	}
	is(standing($parent), 'public, leaving', "$action: detached");
	restart_after_kill();
	is(standing($parent), 'public, leaving', "$action: so it is after the crash");

	# Inside the last step, after its change and before its commit.
	$other->query_safe('select pg_advisory_lock(20260101)');
	sql($node, 'create event trigger stopper on ddl_command_end execute function public.stop_here();
		create event trigger drop_stopper on sql_drop execute function public.stop_here()');
	sql($node, 'update tasker.part_retirement set next_try_at = null');
	set_and_reload('tasker.worker = on');
	wait_until($node, q{select tasker.request_duty('retire')}, "$action: a new worker is asked to go on");
	worker_waits('advisory', "$action: the worker is inside the last step");
	restart_after_kill();
	is(standing($parent), 'public, leaving', "$action: nothing of it is done after the crash");
	sql($node, 'drop event trigger stopper; drop event trigger drop_stopper');
	ends_well($parent, $action, "$action, killed in the last step");
}

# --- the worker alone: the server restarts by itself, and the worker goes on at once --------------------------------------

$node->append_conf('postgresql.conf', "restart_after_crash = on\n");
$node->reload;
foreach my $action (sort keys %tables)
{
	my $parent = make_set($action);
	set_and_reload(q{tasker.lock_timeout = '60s'});
	$other->query_safe("begin; select count(*) from $parent");
	release($parent);
	maintain();
	worker_waits('virtualxid', "$action: the worker waits for a reader");
	kill 'KILL', sql($node, q{select pid from pg_stat_activity where backend_type = 'tasker worker'});
	ok($node->poll_query_until('postgres', 'select true'), "$action: the server is back");
	connect_again();
	ends_well($parent, $action, "$action, the worker killed");
}
$other->quit;
undef $other;
$node->stop;

# --- without a worker: a session that calls run_maintenance() ------------------------------------------------------------

$preloaded = 0;
$node = tasker_cluster('bare', preload => 0, conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\nrestart_after_crash = on\n");
connect_again();
sql($node, q{create schema archive;
	create function public.stop_here() returns event_trigger language plpgsql as $$
	begin
		if current_setting('application_name') = 'victim' and current_setting('tasker_test.at') = tg_event || ' ' || tg_tag then
			perform set_config('lock_timeout', '0', true);
			perform pg_advisory_xact_lock_shared(20260101);
		end if;
	end $$;
	create event trigger stopper on ddl_command_end execute function public.stop_here();
	create event trigger drop_stopper on sql_drop execute function public.stop_here()});

foreach my $case ([ 'drop', 'ddl_command_end ALTER TABLE', 'detached' ], [ 'drop', 'sql_drop DROP TABLE', 'dropped' ],
	[ 'detach', 'ddl_command_end ALTER TABLE', 'detached' ], [ 'schema:archive', 'ddl_command_end ALTER TABLE', 'detached' ])
{
	my ($action, $at, $done) = @$case;
	my $parent = make_set($action);
	my $victim = $node->background_psql('postgres', on_error_stop => 0);
	$other->query_safe('select pg_advisory_lock(20260101)');
	$victim->query_safe("set application_name = 'victim'; set tasker_test.at = '$at'");
	release($parent);
	$victim->query_until(qr/called/, "\\echo called\ncall tasker.run_maintenance();\n");
	wait_until($node, "select exists (select from pg_stat_activity where application_name = 'victim' and wait_event = 'advisory')",
		"$action: a session has $done it, and not committed");
	kill 'KILL', sql($node, q{select pid from pg_stat_activity where application_name = 'victim'});
	ok($node->poll_query_until('postgres', 'select true'), "$action: killed, the server is back");
	connect_again();
	hang_up($victim);
	is(standing($parent), 'attached, refused', "$action: nothing is done");
	is(sql($node, "select count(*) from $parent"), '3', "$action: no row is missing");
	ends_well($parent, $action, "$action, a session killed when it had $done it");
}
$other->quit;
$node->stop;
done_testing();
