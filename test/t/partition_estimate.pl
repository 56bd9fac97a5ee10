# What the planner expects of joins between partitioned tables whose partitions autovacuum has analyzed, and what the
# background worker makes of it: fourteen days of tasks and their events, as a durable queue keeps them. Neither table
# is managed by Tasker; the worker finds them in the catalogs.

use strict;
use warnings;

use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $days = 14;
my $tasks = 7_200;    # a day, with 21,600 events

my $node = tasker_cluster('estimate', conf => "autovacuum = off\nfsync = off\njit = off\nmax_wal_size = 4GB\n");

# Keys carry their time: milliseconds << 20 | sequence. Events are cut at the bounds of their tasks.
sub key { return ((1_767_225_600_000 + $_[0] * 86_400_000) << 20) }

my $ddl = '';
foreach my $table ('task (id bigint not null, status text not null)',
	'task_event (task_id bigint not null, kind text not null, number int not null)')
{
	my ($name, $key) = $table =~ /^(\w+) \((\w+)/;
	$ddl .= "create table $table partition by range ($key);\n";
	$ddl .= sprintf("create table %s_%02d partition of %s for values from (%d) to (%d);\n", $name, $_, $name, key($_), key($_ + 1))
	  foreach 0 .. $days;
}
sql($node, $ddl);

# Changes data, and has them counted when it returns: a session reports its counters when it goes idle, at most once a
# second unless it is told to.
sub change { return sql($node, "$_[0];\nselect from pg_stat_force_next_flush()"); }

# What autovacuum does, at once: it analyzes partitions, and never their parents.
sub analyze_partitions
{
	return sql($node, join '', map { sprintf('analyze task_%02d; analyze task_event_%02d;', $_, $_) } 0 .. $days);
}

# Tasks over the day, each a multiple of $gap after midnight; one in a hundred has failed.
my $gap = 86_400_000 / $tasks;

sub fill_day
{
	my ($day) = @_;
	my $first = key($day);
	return qq{
		insert into task select $first + i * $gap * (1 << 20)::bigint, case when i % 100 = 0 then 'FAILED' else 'DONE' end
			from generate_series(0, $tasks - 1) i;
	};
}

# Events for one task in $every of those days.
sub fill_events
{
	my ($first_day, $last_day, $every, $events) = @_;
	return sprintf q{insert into task_event select id, k, o from task, unnest(array[%s]) with ordinality e (k, o)
		where id >= %d and id < %d and (id >> 20) / %d %% %d = 0;},
	  join(', ', map { "'event $_'" } 1 .. $events), key($first_day), key($last_day + 1), $gap, $every;
}

# Queries, and how to count what they return without making it.
my $each = 'task t join task_event e on e.task_id = t.id';
my $pairs = 'task_event a join task_event b on b.task_id = a.task_id';
my $count = "select count(*) from";
my $failed = "$each where t.status = 'FAILED'";
my $last = "$each where t.id >= " . key($days - 3) . ' and e.task_id >= ' . key($days - 3);
my %queries = (
	'events with their tasks' => [ $each, "$count $each" ],
	'events of failed tasks' => [ $failed, "$count $failed" ],
	'events of the last days' => [ $last, "$count $last" ],
	'pairs of events of one task' => [ $pairs, 'select sum(n * n) from (select count(*) n from task_event group by task_id) c' ],
);

# How many times too many or too few rows the planner expects.
sub wrong_by
{
	my ($name) = @_;
	my ($query, $truth) = @{ $queries{$name} };
	my ($expected) = sql($node, "explain (format json) select from $query") =~ /"Plan Rows": (\d+)/ or die;
	my $true = sql($node, $truth);
	note("$name: $expected rows expected, $true true");
	return max($expected / $true, $true / $expected);
}

sub estimates_are_good
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $name (sort keys %queries)
	{
		my $factor = wrong_by($name);
		cmp_ok($factor, '<=', 3, sprintf('%s: %s are estimated within 3 x (%.2f x)', $when, $name, $factor));
	}
	return;
}

sub analyzed { return sql($node, "select string_agg(analyze_count::text, ' ' order by relname) from pg_stat_all_tables
	where schemaname = 'public' and relname in ('task', 'task_event')"); }

# One round of the worker that begins after this moment.
sub round_of_worker
{
	my $now = sql($node, 'select clock_timestamp()');
	$node->poll_query_until('postgres', q{select tasker.request_duty('analyze')}) or die 'there is no worker';
	wait_until($node, "select last_run > '$now' and not running from tasker.duty_status where name = 'analyze'", 'the worker has made a round');
	return;
}

round_of_worker();
change(join('', map { fill_day($_) } 0 .. $days - 1) . fill_events(0, $days - 1, 1, 3));
analyze_partitions();

# Before: every partition is known as well as can be, and yet.
foreach my $name (sort keys %queries)
{
	my $factor = wrong_by($name);
	cmp_ok($factor, '>', 100, sprintf('without the worker: %s are estimated wrong by orders of magnitude (%.0f x)', $name, $factor));
}

round_of_worker();
estimates_are_good('one round later');
is(analyzed(), '1 1', 'the worker has analyzed both parents');
is(sql($node, q{select string_agg(distinct analyze_count::text, ' ') from pg_stat_all_tables where schemaname = 'public' and relname ~ '^task.*_\d\d$'}), '1',
	'and has left the partitions alone');

# The data become something else: a day is added, and from now on only one task in thirty keeps events, but many.
# (The planner takes a key's number of values in a partitioned table from the rows that a condition leaves, and believes
# that those are the ones with partners. So it is right about failed tasks only as long as every task has events.)
delete $queries{'events of failed tasks'};
change(fill_day($days) . 'delete from task_event; ' . fill_events(0, $days, 30, 90));
analyze_partitions();
cmp_ok(wrong_by('pairs of events of one task'), '>', 10, 'what the worker knew is out of date');
round_of_worker();
estimates_are_good('one round after the rows changed again');
is(analyzed(), '1 2', 'of the parents it has analyzed the one with many changes');

# And a third time, without a single row that is written or deleted.
change('truncate ' . join(', ', map { sprintf('task_%02d, task_event_%02d', $_, $_) } 0 .. $days - 3));
analyze_partitions();
round_of_worker();
estimates_are_good('one round after partitions were emptied');
is(analyzed(), '2 3', 'both were analyzed again');
is(sql($node, q{select string_agg(state || ' ' || rows_changed, ', ') from tasker.analyze_status where parent::text in ('task', 'task_event')}),
	'good 0, good 0', 'nothing is left to do');

$node->stop;

done_testing();
