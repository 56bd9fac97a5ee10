# The queue program that people are told to copy, examples/license_audit: its producer, two workers and its report.

use strict;
use warnings;

use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $example = "$FindBin::Bin/../../examples/license_audit";
my $python = $ENV{PYTHON} || 'python3';
my $tmp = PostgreSQL::Test::Utils::tempdir;
plan skip_all => 'no packages here: this is not Debian' if IPC::Run::run([ 'sh', '-c', 'command -v dpkg-query' ], '>', \my $query) == 0;

# The first thirty packages are enough.
chomp $query;
append_to_file("$tmp/dpkg-query", "#!/bin/sh\n$query \"\$@\" | head -n 30\n");
chmod 0755, "$tmp/dpkg-query";

my $node = tasker_cluster('audit');
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
local $ENV{PGDATABASE} = 'postgres';
local $ENV{PATH} = "$tmp:$ENV{PATH}";

sql($node, slurp_file("$example/schema.sql"));
sql($node, q{select tasker.create_flow('license_audit', '{"lease": "1 minute", "backoff_base": "50 milliseconds", "backoff_max": "50 milliseconds"}')});
my ($out, $err) = run_command([ $python, "$example/produce.py" ]);
like($out, qr/^\d+ packages are in the queue$/, 'the producer puts packages into the queue') or diag $err;
my ($packages) = $out =~ /^(\d+)/;
cmp_ok($packages, '>', 0, 'at least one');

my @workers = map {
	my ($name, %w) = ("worker-$_", out => '', err => '');
	$w{run} = IPC::Run::start([ $python, "$example/work.py", '--name', $name, '--batch', '3', '--until-done' ], '<', \undef, '>', \$w{out}, '2>', \$w{err});
	\%w;
} 1 .. 2;
foreach my $worker (@workers)
{
	$worker->{run}->finish;
	is($worker->{run}->full_result(0), 0, 'a worker ends when nothing is left') or diag $worker->{err};
}
is(sql($node, q{select completed + failed, pending + scheduled + processing from tasker.get_queue_status('license_audit')}), "$packages|0", 'all packages are done');
is(sql($node, q{select count(*) = count(distinct package) and count(*) = (select completed from tasker.get_queue_status('license_audit')) from audit.finding}),
	't', 'each was audited once');
my ($report, $complaint) = run_command([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$example/report.sql" ]);
like($report, qr/Licences declared by the most packages/, 'the report reads it all') or diag $complaint;

$node->stop;
done_testing();
