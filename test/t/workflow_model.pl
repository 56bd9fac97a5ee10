# Workflows against a model in plain code: random tasks, random histories in several sessions, with calls and whole
# transactions that are taken back, leases that end, backends that are killed and the server restarted; after everything
# that was committed the server is asked all it can say of the tasks that were touched. See
# test/clients/workflow_model.py.
#
# TASKER_MODEL_SECONDS (default 40) is for how long: the histories of fixed seeds come first, what is left of the time is
# for a random one. TASKER_MODEL_SEED runs that seed alone, for the whole time.

use strict;
use warnings;

use Cwd ();
use File::Basename ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use QueueChecks;
use TaskerCluster;

my $SECONDS = $ENV{TASKER_MODEL_SECONDS} // 40;
my $SEED = $ENV{TASKER_MODEL_SEED};
my $LEAST = 8;    # seconds for the random seed

my $program = File::Basename::dirname(Cwd::realpath(__FILE__)) . '/../clients/workflow_model.py';
my $python = $ENV{PYTHON} // 'python3';
my $begin = time();

# No worker: what it does is called by the program, so that the seed decides when.
my $node = tasker_cluster('model', extension => 0, conf => <<~CONF);
	tasker.worker = off
	restart_after_crash = on
	log_min_messages = warning
	log_min_error_statement = panic
	log_statement = none
	CONF
$ENV{PYTHONDONTWRITEBYTECODE} = 1;

# Returns what the run has done, by its report.
sub run_seed
{
	my ($seed, @options) = @_;
	my $database = "seed$seed";
	sql($node, "create database $database");
	sql($node, 'create extension tasker', $database);
	my ($stdout, $stderr) = ('', '');
	my $ok = IPC::Run::run([ $python, $program, $node->connstr($database), '--seed', $seed, @options,
		'--data', $node->data_dir, '--log', $node->logfile, '--pg-ctl', $node->config_data('--bindir') . '/pg_ctl' ],
		'<', \undef, '>', \$stdout, '2>', \$stderr);
	$node->_update_pid(1);    # it may have restarted the server
	ok($ok, "seed $seed, @options: the server says what the model says") or diag($stdout, $stderr);
	note($stdout) if $ok;
	my %done;
	$done{$2} = $1 while $stdout =~ /(\d+) ([a-z][a-z ]*[a-z])/g;
	return \%done;
}

my @runs;
if (defined $SEED)
{
	push @runs, run_seed($SEED, '--actions', 1_000_000, '--total', 1_000_000, '--seconds', $SECONDS, '--crashes');
}
else
{
	push @runs, run_seed(1, '--sessions', 1, '--actions', 700);
	push @runs, run_seed(2, '--sessions', 4, '--actions', 600);
	push @runs, run_seed(3, '--sessions', 5, '--actions', 400, '--tasks', 3, '--total', 60);    # they meet often
	push @runs, run_seed(72, '--sessions', 4, '--actions', 400, '--crashes');
	my $left = $SECONDS - (time() - $begin);
	$left = $LEAST if $left < $LEAST;
	push @runs, run_seed(1000 + int(rand(1_000_000)), '--sessions', 5, '--actions', 1_000_000, '--total', 1_000_000,
		'--seconds', $left, '--crashes');
	# A model that is asked nothing finds nothing.
	foreach my $what ('comparisons', 'refusals', 'waits', 'crashes', 'of them created while they ran')
	{
		my $times = 0;
		$times += $_->{$what} // 0 foreach @runs;
		cmp_ok($times, '>', 0, "there were $what");
	}
}
server_did_not_crash($node);

$node->stop;
done_testing();
