# What others meet while a parent is being analyzed: readers and writers nothing, other maintenance its lane, DDL the lock
# that ANALYZE holds. The analyze itself is held up by a lock on a partition, for as long as the test wants.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('locks', preload => 0,
	conf => "autovacuum = off\ntasker.analyze_threshold = 100\ntasker.lock_timeout = '1h'\n");

sql($node, q{
	create table s (id int, v int) partition by range (id);
	create table s_1 partition of s for values from (0) to (1000);
	create table t (id int, v int) partition by range (id);
	create table t_1 partition of t for values from (0) to (1000);
	create table t_2 partition of t for values from (1000) to (2000);
	create table t_3 (like t);
	insert into t select i, i from generate_series(0, 1999) i;
});

# Changes data, and has them counted when it returns.
sub change { return sql($node, "$_[0];\nselect from pg_stat_force_next_flush()"); }

sub session { return $node->background_psql('postgres', on_error_stop => 0) }

my ($blocker, $analyzer, $user) = (session(), session(), session());
my $analyzer_pid = $analyzer->query_safe('select pg_backend_pid()');
my $user_pid = $user->query_safe('select pg_backend_pid()');

sub waits_for
{
	my ($pid, $table, $mode) = @_;
	return $node->poll_query_until('postgres', "select exists (select from pg_locks where pid = $pid and not granted
		and relation = '$table'::regclass and mode = '$mode')");
}

# Starts a round that hangs at a partition; a call that lets it go on to its end.
sub hang
{
	my ($partition) = @_;
	$blocker->query_safe("begin; lock table $partition in access exclusive mode");
	$analyzer->query_until(qr/started/, "\\echo started\ncall tasker.analyze_parents();\n\\echo returned\n");
	waits_for($analyzer_pid, $partition, 'AccessShareLock') or die 'the analyze does not wait';
	return;
}

sub let_go
{
	$blocker->query_safe('commit');
	$analyzer->query_until(qr/returned/, '');
	return;
}

sub known { return sql($node, q{select reltuples, (select count(*) from pg_stats where tablename = 't' and inherited) from pg_class where relname = 't'}); }

sub count { return sql($node, q{select analyze_count from pg_stat_all_tables where relname = 't'}); }

hang('t_2');

# Readers and writers of the other partitions, through the parent where they can be pruned.
is(sql($node, q{set lock_timeout = '5s'; select count(*) from t where id < 1000}), '1000', 'the table can be read meanwhile');
is(sql($node, q{set lock_timeout = '5s'; update t set v = 0 where id = 1; insert into t values (2, 0); select count(*) from t where id < 1000}), '1001', '... and written');

# The lane: other rounds leave the table to the first.
my ($status, $out, $err) = $node->psql('postgres', 'call tasker.analyze_parents()');
is($status, 0, 'a second round does not wait');
like($err, qr/^psql:<stdin>:1: NOTICE:  partitioned table "t" is not analyzed, because another session is maintaining it$/m, 'it says why it leaves the table out');
is(sql($node, 'select count(*) from tasker.part_failure'), '0', 'that is no failure');
is(sql($node, q{select state from tasker.analyze_status where parent = 't'::regclass}), 'due', 'the table is still due');

# A user's DDL comes after.
$user->query_until(qr/started/, "\\echo started\nalter table t attach partition t_3 for values from (2000) to (3000);\n\\echo attached\n");
ok(waits_for($user_pid, 't', 'ShareUpdateExclusiveLock'), 'an ATTACH by hand waits');
let_go();
$user->query_until(qr/attached/, '');
is(known(), '2001|2', 'the parent has been analyzed');
is(sql($node, q{select count(*) from pg_inherits where inhparent = 't'::regclass}), '3', 'and the partition is attached');
is(sql($node, 'call tasker.analyze_parents(); select 1'), '1', 'the next round');
is(count(), '1', 'finds nothing to do');

# A round that has found two tables to analyze and is still busy with the first, while another session does the second.
change('update t set v = 1; insert into s select i, i from generate_series(0, 999) i');
hang('s_1');
sql($node, q{call tasker.analyze_parents('t')});
is(count(), '2', 'another session analyzes what is still on the list');
let_go();
is(count(), '2', 'when its turn comes it is not analyzed again');
is(sql($node, q{select analyze_count from pg_stat_all_tables where relname = 's'}), '1', 'the first table is done');

# Terminated in the middle, it leaves nothing behind.
change('update t set v = 2');
hang('t_2');
sql($node, "select pg_terminate_backend($analyzer_pid)");
wait_until($node, "select not exists (select from pg_stat_activity where pid = $analyzer_pid)", 'the session is gone');
$blocker->query_safe('commit');
is(count(), '2', 'an analyze that was cut off has not happened');
is(sql($node, q{select state from tasker.analyze_status where parent = 't'::regclass}), 'due', 'the table is still due');
is(sql($node, q{select count(*) from pg_locks where locktype = 'advisory'}), '0', 'nobody holds its lane');
sql($node, 'call tasker.analyze_parents()');
is(count(), '3', 'the next round does it');

$_->quit foreach ($blocker, $user);
$node->stop;

# The background worker, killed in the middle of it. (A worker that is killed takes the server's memory along.)
$node = tasker_cluster('killed', conf => "autovacuum = off\ntasker.lock_timeout = '1h'\nrestart_after_crash = on\n");
change(q{
	create table k (id int, v int) partition by range (id);
	create table k_1 partition of k for values from (0) to (10000);
	create table k_2 partition of k for values from (10000) to (20000);
	insert into k select i, i from generate_series(0, 19999) i;
	analyze k_1; analyze k_2});

my $worker = q{select pid from tasker.worker_status where database = 'postgres' and state = 'running'};

# Has the worker begin to analyze the table, and returns its process.
sub hang_worker
{
	$blocker = session();
	$blocker->query_safe('begin; lock table k_2 in access exclusive mode');
	$node->poll_query_until('postgres', q{select tasker.request_duty('analyze')}) or die 'there is no worker';
	my $pid = sql($node, $worker);
	waits_for($pid, 'k_2', 'AccessShareLock') or die 'the worker does not wait';
	return $pid;
}

my $killed = hang_worker();
like(sql($node, "select query from pg_stat_activity where pid = $killed"), qr/analyze/, 'the worker says what it is doing');
kill 'KILL', $killed;
$blocker->quit;
wait_until($node, "select not exists (select from pg_stat_activity where pid = $killed)", 'the worker is killed, and the server up again');
$node->poll_query_until('postgres', q{select tasker.request_duty('analyze')}) or die 'there is no worker';
wait_until($node, q{select reltuples = 20000 from pg_class where relname = 'k'}, 'the next worker analyzes the table');
is(sql($node, q{select count(*) from tasker.part_failure}), '0', 'without a failure left behind');

change('update k set v = 0');
$killed = hang_worker();
sql($node, "select pg_terminate_backend($killed)");
wait_until($node, "select not exists (select from pg_stat_activity where pid = $killed)", 'a worker that is terminated');
is(sql($node, q{select state from tasker.analyze_status where parent = 'k'::regclass}), 'due', 'leaves the table due');
$blocker->query_safe('commit');
$node->poll_query_until('postgres', q{select tasker.request_duty('analyze')}) or die 'there is no worker';
wait_until($node, q{select state = 'good' from tasker.analyze_status where parent = 'k'::regclass}, 'to the next one');
$blocker->quit;

$node->stop;

done_testing();
