# What docs/triga.md tells people to paste writes the events that it says.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $guide = slurp_file("$FindBin::Bin/../../docs/triga.md");
my $node = tasker_cluster('main', extension => 0);

# Each block of SQL, with the events that stand right after it.
my @examples;
push @examples, [ $1, $2 // '' ] while $guide =~ /^```sql\n(.*?)^```\n(?:```text\n(.*?)^```\n)?/msg;
cmp_ok(scalar(@examples), '>=', 12, 'the guide has examples');
cmp_ok(scalar(grep { $_->[1] ne '' } @examples), '>=', 10, 'most of them say what they write');

my ($events, $seen) = (undef, 0);
foreach my $example (@examples)
{
	my ($statements, $expected) = @$example;
	my ($status, undef, $err) = $node->psql('postgres', $statements, on_error_stop => 1);
	my ($title) = $statements =~ /^((?:create|select) [^\n]*)/m;
	is($status, 0, "runs: $title") or diag $err;
	$events //= sql($node, q{select queue_data_pfx from tasker.queue where queue_name = 'changes'});
	my $written = sql($node, qq{
		select regexp_replace(concat_ws(' | ', ev_type, ev_data, ev_extra1, coalesce(ev_extra2, 'null'), coalesce(ev_extra3, 'null'),
			coalesce(ev_extra4, 'null')), '( \\| null)+\$', '')
		from $events where ev_id > $seen order by ev_id});
	$seen = sql($node, "select coalesce(max(ev_id), $seen) from $events");
	chomp $expected;
	is($written, $expected, "writes what it says: $title");
}

$node->stop;
done_testing();
