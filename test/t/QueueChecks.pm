# What the tests of the queue share: is everything that it says of itself true?
#
#   queue_is_exact($node, $what)             assertions: no broken rule, and the statistics are those of the table.
#                                            While nobody writes, and nothing becomes due.
#   status_of($node, $flow)                  "pending scheduled processing completed failed cancelled total"
#   server_did_not_crash($node)              an assertion over the whole log
#   wait_for_server($node)                   until it takes connections again
#   killed_backend($node, $condition)        SIGKILL to one backend: the server recovers from the crash by itself

package QueueChecks;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use TaskerCluster;

our @EXPORT = qw(queue_is_exact status_of server_did_not_crash wait_for_server killed_backend);

# Where the status differs from a count over the table.
my $DIFFERENCES = <<~'SQL';
	with due as materialized (
	    select ((extract(epoch from clock_timestamp()) * 1000)::bigint << 20) | ((1 << 20) - 1) as due),
	said as (
	    select flow_name, pending, scheduled, processing, completed, failed, cancelled, total
	    from tasker.get_queue_status()),
	counted as (
	    select flow_name,
	        count(*) filter (where status = 'p' and position <= due), count(*) filter (where status = 'p' and position > due),
	        count(*) filter (where status = 'r'), count(*) filter (where status = 'c'),
	        count(*) filter (where status = 'f'), count(*) filter (where status = 'x'), count(status)
	    from tasker.flow left join tasker.queue_record using (flow_id), due group by 1)
	select 'said: ' || d::text from (select * from said except select * from counted) d
	union all
	select 'counted: ' || d::text from (select * from counted except select * from said) d
	SQL

sub queue_is_exact
{
	my ($node, $what, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $broken = is(sql($node, 'select * from tasker.check_queue_integrity()', $database), '', "$what: no rule is broken");
	return is(sql($node, $DIFFERENCES, $database), '', "$what: the statistics are those of the table") && $broken;
}

sub status_of
{
	my ($node, $flow, $database) = @_;
	return sql($node, "select concat_ws(' ', pending, scheduled, processing, completed, failed, cancelled, total)
		from tasker.get_queue_status('$flow')", $database);
}

# A SIGKILL of our own is no crash of the server's; everything else that ends a process is.
sub server_did_not_crash
{
	my ($node) = @_;
	my @crashes = grep { /PANIC|TRAP|terminated by signal (?!9\b)|terminated by exception/ }
	  split /\n/, slurp_file($node->logfile);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("@crashes", '', 'no process crashed by itself');
}

sub wait_for_server
{
	my ($node) = @_;
	my $left = 10 * $PostgreSQL::Test::Utils::timeout_default;
	while ($left-- > 0)
	{
		return 1 if $node->psql('postgres', 'select 1') == 0;
		usleep(100_000);
	}
	die 'the server does not come back';
}

# Returns false when there is no such backend.
sub killed_backend
{
	my ($node, $condition) = @_;
	my ($status, $pid) = $node->psql('postgres',
		"select pid from pg_stat_activity where $condition and pid <> pg_backend_pid() order by random() limit 1");
	return 0 if $status != 0 || $pid eq '' || !kill 'KILL', $pid;
	# Until then the postmaster may not have noticed, and still let others in.
	my $left = 10 * $PostgreSQL::Test::Utils::timeout_default;
	usleep(100_000) while $left-- > 0 && -e "/proc/$pid" && slurp_file("/proc/$pid/stat") !~ /\) Z /;
	wait_for_server($node);
	return 1;
}

1;
