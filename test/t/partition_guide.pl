# What docs/partitioning.md tells people to paste.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $node = tasker_cluster('main', extension => 0);
my $guide = slurp_file("$FindBin::Bin/../../docs/partitioning.md");

# Its blocks build on each other; each is a script of its own here, so that a failure names it.
my @blocks = $guide =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar(@blocks), '>=', 9, 'the guide has examples');
my $number = 0;
my @output;
foreach my $block (@blocks)
{
	my ($status, $out, $err) = $node->psql('postgres', $block);
	$output[ ++$number ] = $out;
	my ($first) = $block =~ /^([^\n]*)/;
	is($status, 0, "example $number runs: $first") or diag $err;
}

like($output[1], qr/^public\.event by at, 1 day each, dropped after 30 days$/m, 'the picture of the first set');
like($output[1], qr/^\d+ partitions, 7 ahead; /m, 'with seven partitions ahead');
like($output[2], qr/^4320\|1 month\|3\|/m, 'advice for a table');
like($output[3], qr/^public\.event_p20310505$/m, 'a partition that would be made');
is(() = $output[5] =~ /^measured\|measured_rest\|2$/mg, 1, 'rows in a DEFAULT partition are found, then moved out');
is(sql($node, q{select string_agg(tableoid::regclass::text, ' ' order by at) from measured}), 'measured_p2026_01 measured_p2026_02',
	'into partitions of their own');
like($output[6], qr/^reading_old\|MINVALUE\|1000\n"Reading 2"\|1000\|5000\nreading_p/m, 'partitions made by hand are adopted');
like($output[8], qr/^100000\nvisit\|\d+\|[1-9]\d*\|/m, 'a table is swapped for a partition set');
is(sql($node, "select relkind from pg_class where oid = 'visit'::regclass"), 'p', 'whose name it has');
like($output[9], qr/^event\|healthy\|/m, 'the first set is healthy');

$node->stop;
done_testing();
