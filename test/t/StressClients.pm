# What the tests with many processes at random share: clients out of test/clients, and faults that befall them.
#
#   clients_of($node, $script, $seed)        which program of test/clients the clients run, and where they connect to
#   start_client($kind, @arguments)          one more client; its arguments follow those that all have
#   kill_client($condition)                  SIGKILL to a client whose kind fits; another takes its place
#   end_clients($kind)                       SIGKILL to all of a kind, for good
#   stop_clients()                           assertions: each ends by itself when it is told to
#   nobody_broke_off()                       dies when a client has ended that nobody has told to
#   signal_backend($function, $condition)    pg_terminate_backend or pg_cancel_backend, to one session that fits
#   read_logs($table)                        what the clients have said, into a table with one column of jsonb
#
# And those that only the stress of the queue and of workflows share, whose clients are test/clients/stress_client.py's
# with the tables stress.journal and stress.said:
#
#   storm($seconds)                          one fault after the other
#   faults_happened()                        assertions: each kind of fault has come
#   none($what, $query)                      an assertion: the query finds nothing
#   no_transaction_is_lost()                 assertions: what clients said of their transactions is what is there

package StressClients;

use strict;
use warnings;

use Cwd ();
use Exporter 'import';
use File::Basename ();
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use QueueChecks;
use TaskerCluster;

our @EXPORT = qw(clients_of start_client kill_client end_clients stop_clients nobody_broke_off signal_backend read_logs
  storm faults_happened none no_transaction_is_lost);

my $STEP = 40;    # lines of the clients' logs from one fault to the next: some 20 transactions

my $folder = File::Basename::dirname(Cwd::realpath(__FILE__)) . '/../clients';
my $python = $ENV{PYTHON} // 'python3';
my ($node, $script, $seed, $dir, $stop);
my %clients;    # pid => [kind, arguments]
my $lives = 0;
my %faults;

# --- clients -----------------------------------------------------------------------------------------------------

sub clients_of
{
	my $name;
	($node, $name, $seed) = @_;
	$script = "$folder/$name";
	$dir = PostgreSQL::Test::Utils::tempdir;
	$stop = "$dir/stop";
	return;
}

# Every life of a client has its own name, so that its log speaks of its own transactions, and what it sends is its own.
sub start_client
{
	my ($kind, @arguments) = @_;
	my $name = "$kind-" . ++$lives;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', "$dir/$name.out";
		open STDERR, '>&', \*STDOUT;
		exec $python, $script, $node->connstr('postgres'), $name, $seed + $lives, "$dir/$name.log", $stop, @arguments
		  or POSIX::_exit(127);
	}
	$clients{$pid} = [ $kind, @arguments ];
	return;
}

sub end_client
{
	my ($pid) = @_;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return @{ delete $clients{$pid} };
}

sub kill_client
{
	my ($condition) = @_;
	my @pids = grep { !$condition || $clients{$_}[0] =~ $condition } keys %clients;
	start_client(end_client($pids[ rand @pids ]));
	return 1;
}

sub end_clients
{
	my ($kind) = @_;
	end_client($_) foreach grep { $clients{$_}[0] eq $kind } keys %clients;
	return;
}

# What the clients of a kind have printed: their last words.
sub output_of
{
	my ($kind) = @_;
	return map { slurp_file($_) } glob "$dir/$kind-*.out";
}

sub stop_clients
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	open my $file, '>', $stop or die "$stop: $!";
	close $file;
	foreach my $pid (keys %clients)
	{
		my ($kind) = @{ $clients{$pid} };
		waitpid $pid, 0;
		is($?, 0, "client $kind ended by itself") or diag(output_of($kind));
		delete $clients{$pid};
	}
	unlink $stop;
	return;
}

sub nobody_broke_off
{
	my $ended = waitpid -1, POSIX::WNOHANG;
	my $client = $clients{$ended};
	die "client $client->[0] broke off: ", output_of($client->[0]) if $client;
	return;
}

sub signal_backend
{
	my ($function, $condition) = @_;
	my ($status, $out) = $node->psql('postgres',
		"select $function(pid) from pg_stat_activity where $condition order by random() limit 1");
	return $status == 0 && $out eq 't';
}

sub read_logs
{
	my ($table) = @_;
	$node->safe_psql('postgres', join "\n",
		map { "\\copy $table from '$_' with (format csv, quote e'\\x01', delimiter e'\\x02')" } glob "$dir/*.log");
	return;
}

END
{
	my $status = $?;
	kill 'KILL', keys %clients;
	waitpid $_, 0 foreach keys %clients;
	$? = $status;
}

# --- faults ------------------------------------------------------------------------------------------------------

my %FAULT = (
	'a client killed' => sub { kill_client() },
	'a session terminated' => sub { signal_backend('pg_terminate_backend', "application_name = 'stress'") },
	'a statement cancelled' => sub { signal_backend('pg_cancel_backend', "application_name = 'stress'") },
	'a backend killed' => sub { killed_backend($node, "application_name = 'stress'") },
	'the worker killed' => sub { killed_backend($node, "backend_type like 'tasker%worker%'") },
	'the server killed' => sub { crash_server($node); start_after_crash($node); 1 },
);
my @ORDER = (
	'a client killed', 'a statement cancelled', 'a session terminated', 'a client killed', 'a backend killed',
	'a statement cancelled', 'a session terminated', 'a client killed', 'the server killed',
	'a session terminated', 'a client killed', 'a statement cancelled', 'the worker killed');

sub lines_said
{
	my $bytes = 0;
	$bytes += -s $_ // 0 foreach glob "$dir/*.log";
	return $bytes / 45;    # about
}

# One fault after the other, each when the clients have got on since the last. On a slow machine it takes longer until
# each has come once.
sub storm
{
	my ($seconds) = @_;
	my $end = time() + $seconds;
	my $next = lines_said() + $STEP;
	my $missing = sub { return scalar grep { !$faults{$_} } keys %FAULT };
	for (my $i = 0; time() < $end || (time() < $end + 2 * $seconds && $missing->());)
	{
		usleep(5_000);
		nobody_broke_off();
		next if lines_said() < $next;
		my $what = $ORDER[ $i++ % @ORDER ];
		$faults{$what}++ if $FAULT{$what}->();
		$next = lines_said() + $STEP;
	}
	return;
}

sub faults_happened
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	note("$faults{$_} times $_") foreach sort keys %faults;
	cmp_ok($faults{$_} // 0, '>', 0, "it happened: $_") foreach sort keys %FAULT;
	return;
}

# --- what must be true -------------------------------------------------------------------------------------------

sub none
{
	my ($what, $query) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, "$query limit 5"), '', $what);
}

# What clients said, against what is there.
sub no_transaction_is_lost
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	none('nothing happened that must not', "select line ->> 'tx', line ->> 'bad' from stress.said where line ? 'bad'");
	none('no confirmed commit is lost', "select line ->> 'tx' from stress.said where line ->> 'end' = 'ok'
		except select tx from stress.journal");
	none('nothing rolled back is there', "select line ->> 'tx' from stress.said where line ->> 'end' = 'no'
		intersect select tx from stress.journal");
	none('every transaction spoke before its commit', "select tx from stress.journal
		except select line ->> 'tx' from stress.said where line ? 'made'");
	return;
}

1;
