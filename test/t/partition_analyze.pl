# Analyze: partitioned tables get statistics of their own when enough rows have changed, whoever manages them, and
# only then; autovacuum's visits to the partitions do not hide changes.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

# Without a worker every round is ours. The counters of a session arrive at the latest when it ends.
my $node = tasker_cluster('analyze', preload => 0, conf =>
	"autovacuum = off\ntasker.analyze_threshold = 100\ntasker.analyze_scale_factor = 0.1\ntasker.lock_timeout = '20ms'\n");

sql($node, q{
	create table event (id bigint, kind int, task_id bigint) partition by range (id);
	create table event_1 partition of event for values from (0) to (100000);
	create table event_2 partition of event for values from (100000) to (200000) partition by list (kind);
	create table event_2_a partition of event_2 for values in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
	create table task (id bigint, name text) partition by range (id);
	create table task_1 partition of task for values from (0) to (100000);
	create table task_2 partition of task for values from (100000) to (200000);
	create table empty (id int) partition by range (id);
});

sub analyzed
{
	my ($table) = @_;
	return sql($node, "select analyze_count from pg_stat_all_tables where relid = '$table'::regclass");
}

sub round { return sql($node, 'call tasker.analyze_parents()'); }

round();
is(join(' ', map { analyzed($_) } qw(event event_2 task empty)), '0 0 0 0', 'empty tables need no analyze');

# The join of a parent with another is what its statistics are for.
sql($node, q{
	insert into task select i, 'task ' || i from generate_series(1, 2000) i;
	insert into event select i, i % 10, i % 2000 + 1 from generate_series(1, 20000) i;
	insert into event select 100000 + i, i % 10, i % 2000 + 1 from generate_series(1, 20000) i;
	analyze task_1; analyze task_2; analyze event_1; analyze event_2_a;
});
my $join = 'select from event e join task t on t.id = e.task_id where t.name is not null';

sub estimate
{
	my $plan = sql($node, "explain (format json) $join");
	return $plan =~ /"Plan Rows": (\d+)/ ? $1 : die $plan;
}

my $without = estimate();
cmp_ok($without, '>', 3 * 40000, "without statistics of the parents the planner expects $without rows of 40000");
round();
is(join(' ', map { analyzed($_) } qw(event event_2 task empty)), '1 1 1 0', 'parents of all levels are analyzed once rows have changed');
is(join(' ', map { analyzed($_) } qw(event_1 event_2_a task_1)), '1 1 1', 'their partitions are left alone');
my $with = estimate();
cmp_ok($with, '<', 3 * 40000, "with them it expects $with");
cmp_ok($with, '>', 40000 / 3, 'which is near the truth');

round();
is(join(' ', map { analyzed($_) } qw(event event_2 task empty)), '1 1 1 0', 'nothing changed, nothing is done');

# Changes add up until they pass threshold + scale factor * rows = 100 + 0.1 * 2000 for "task".
sql($node, "update task set name = 'x' where id <= 150");
round();
is(analyzed('task'), '1', 'too few rows have changed');
is(sql($node, "select tasker._partition_rows_changed('task')"), '150', 'they are counted');
sql($node, 'vacuum analyze task_1');
is(sql($node, "select n_mod_since_analyze from pg_stat_all_tables where relname = 'task_1'"), '0', 'the partition itself has been analyzed');
sql($node, "update task set name = 'y' where id <= 149");
round();
is(analyzed('task'), '1', 'still too few');
sql($node, "delete from task where id <= 3");
round();
is(analyzed('task'), '2', 'then the parent is due, although its partition was analyzed in between');
is(sql($node, "select tasker._partition_rows_changed('task')"), '0', 'the count begins anew');

# Rows that come and go with whole partitions.
sql($node, q{
	create table task_3 (like task); insert into task_3 select 200000 + i, '' from generate_series(1, 500) i;
	alter table task attach partition task_3 for values from (200000) to (300000);
});
round();
is(analyzed('task'), '3', 'a partition attached with rows in it counts');
sql($node, 'drop table task_3');
round();
is(analyzed('task'), '4', 'so does one that is dropped');

# Somebody else's ANALYZE counts as well.
sql($node, "update task set name = 'z' where id between 1000 and 1290");
sql($node, 'analyze task');
sql($node, "update task set name = 'z' where id between 1000 and 1290");
round();
is(analyzed('task'), '5', 'what was analyzed by hand is not due again so soon');

sql($node, "call tasker.analyze_parents('event', true)");
is(join(' ', map { analyzed($_) } qw(event event_2 task)), '2 2 5', 'by force one tree is analyzed, with its branches');
sql($node, 'call tasker.analyze_parents(force => true)');
is(join(' ', map { analyzed($_) } qw(event event_2 task)), '3 3 6', 'or all');

# A table that cannot be had stops no other.
my $holder = $node->background_psql('postgres', on_error_stop => 0);
$holder->query_safe('begin; lock table event_1 in access exclusive mode');
my ($status, $out, $err) = $node->psql('postgres', 'call tasker.analyze_parents(force => true)');
is($status, 0, 'a locked partition is given up in time');
like($err, qr/WARNING:  analyze of partitioned table "event" failed: canceling statement due to lock timeout/, 'and reported');
is(join(' ', map { analyzed($_) } qw(event event_2 task)), '3 4 7', 'the others are analyzed');
$holder->query_safe('rollback');
is(sql($node, "select duty, failures from tasker.part_failure where parent = 'event'::regclass"), 'analyze|1', 'the failure is noted');
sql($node, "call tasker.analyze_parents('event', true)");
is(sql($node, 'select count(*) from tasker.part_failure'), '0', 'until it succeeds');
$holder->quit;

# A table that is no parent has nothing to analyze.
sql($node, q{call tasker.analyze_parents('pg_class', true)});
is(analyzed('pg_class'), '0', 'a plain table is none of its business');
like(error_of($node, 'begin; call tasker.analyze_parents()'), qr/^25001: tasker.analyze_parents\(\) cannot be called inside/,
	'not inside a transaction block');

$node->stop;

done_testing();
