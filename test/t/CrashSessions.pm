# What the tests share that kill the server in the middle of something: the sessions that are at it.
#
#   in_transaction($node, @statements)   a session with a transaction that the crash will end
#   stuck_in($node, $statement)          an assertion: a session waits for a lock in the middle of the statement
#   crash($node)                         kills the server and starts it again; these sessions are over

package CrashSessions;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

our @EXPORT = qw(in_transaction stuck_in crash);

my @open;

sub in_transaction
{
	my ($node, @statements) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 1);
	$session->query_safe($_) foreach 'begin', @statements;
	push @open, $session;
	return;
}

sub stuck_in
{
	my ($node, $statement) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $session = $node->background_psql('postgres', on_error_stop => 1);
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/begun/, "\\echo begun\n$statement;\n");
	push @open, $session;
	return ok($node->poll_query_until('postgres',
		"select coalesce((select wait_event_type = 'Lock' from pg_stat_activity where pid = $pid), false)"), "it waits in: $statement");
}

sub crash
{
	my ($node) = @_;
	crash_server($node);
	{
		local $SIG{PIPE} = 'IGNORE';
		eval { $_->quit } foreach @open;
	}
	@open = ();
	start_after_crash($node);
	return;
}

1;
