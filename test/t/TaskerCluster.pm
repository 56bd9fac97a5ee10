# Servers with Tasker for the TAP tests: PostgreSQL::Test::Cluster, and the few things that every test here needs.
#
#   my $node = tasker_cluster('main');                      preloaded, with the extension in database postgres
#   my $node = tasker_cluster('bare', preload => 0);        without shared_preload_libraries
#   my $node = tasker_cluster('hot', conf => "...", init => [ allows_streaming => 1 ], extension => 0);
#
#   crash_server($node);            SIGKILL to the whole server, as when the machine loses power (but for the disk)
#   start_after_crash($node);       the next start, once the kernel has cleaned up
#   sql($node, $query)              one query's result as text; dies on an error
#   error_of($node, $query)         SQLSTATE and message of a query that must fail
#   wait_until($node, $query, $what)  an assertion: the query returns true before the timeout
#   wait_for_wait_event($node, $pid, $event)  the session is waiting there

package TaskerCluster;

use strict;
use warnings;

use Cwd ();
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(tasker_cluster crash_server start_after_crash sql error_of wait_until wait_for_wait_event);

# Makes and starts a server with Tasker.
sub tasker_cluster
{
	my ($name, %param) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(@{ $param{init} // [] });
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'\n") if $param{preload} // 1;
	$node->append_conf('postgresql.conf',
		"max_prepared_transactions = 10\nmax_worker_processes = 20\ntimezone = 'UTC'\n");
	$node->append_conf('postgresql.conf', "$param{conf}\n") if defined $param{conf};
	$node->start;
	$node->safe_psql('postgres', 'create extension tasker') if $param{extension} // 1;
	return $node;
}

# The server's processes: all that work in its data directory.
sub server_processes
{
	my ($node) = @_;
	my $data = Cwd::realpath($node->data_dir);
	my @pids;
	foreach my $link (glob '/proc/[0-9]*/cwd')
	{
		my $cwd = readlink $link;
		push @pids, $link =~ m{/proc/(\d+)/} if defined $cwd && $cwd eq $data;
	}
	return @pids;
}

# Kills the postmaster and every other process of the server at once. None gets a chance to clean up.
sub crash_server
{
	my ($node) = @_;
	my @pids = server_processes($node);

	$node->kill9;
	kill 'KILL', @pids;
	# The postmaster may have started another process between the look and its end. One that lived on beside the next
	# server would write into the same files.
	my $tries = 1_000;
	while (my @alive = server_processes($node))
	{
		die "processes @alive of a killed server stay" if $tries-- <= 0;
		kill 'KILL', @alive;
		push @pids, @alive;
		usleep(10_000);
	}
	# A new postmaster refuses to start while the dead have not been collected by their parent. Where nobody collects
	# (a container without an init), they stay for good.
	my $left = 1_000;
	usleep(10_000) while $left-- > 0 && grep { kill 0, $_ } @pids;
	unlink $node->data_dir . '/postmaster.pid' if $left <= 0;
	return;
}

# Starts the server again after crash_server.
sub start_after_crash
{
	my ($node) = @_;
	$node->start;
	return;
}

sub sql
{
	my ($node, $query, $database) = @_;
	return $node->safe_psql($database // 'postgres', $query);
}

# Runs a query that must fail, and returns "SQLSTATE: message"; an empty string when it did not fail.
sub error_of
{
	my ($node, $query, $database) = @_;
	my ($status, $out, $err) =
	  $node->psql($database // 'postgres', "\\set VERBOSITY verbose\n$query");
	return '' if $status == 0;
	return $err =~ /ERROR:\s+(\w{5}: [^\n]*)/ ? $1 : $err;
}

sub wait_until
{
	my ($node, $query, $what, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until($database // 'postgres', $query), $what);
}

sub wait_for_wait_event
{
	my ($node, $pid, $event) = @_;
	return $node->poll_query_until('postgres',
		"select coalesce((select wait_event = '$event' from pg_stat_activity where pid = $pid), false)");
}

1;
