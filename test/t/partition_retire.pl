# Retirement: concurrent with readers and writers, refused while a record is unfinished, undone when a transaction
# that was open all along added one, and finished after a SIGKILL at any step.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $parent = 'tasker.queue_record';

# Waits are short here, so that a step gives up soon; a test that wants one to wait sets it long.
my $node = tasker_cluster('retire', conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\n");

sql($node, q{select tasker.create_flow('f', '{"retention": "0"}'); select tasker.enqueue('f', '{}')});
sql($node, 'call tasker.run_maintenance()');

# A past partition with one record of that status in it.
sub old_partition
{
	my ($day, $status) = @_;
	my $name = sql($node, "select tasker.create_partition('$parent', '$day')");
	add_record($day, $status);
	return $name;
}

sub insert_text
{
	my ($table, $day, $status) = @_;
	return "insert into $table (id, position, flow_id, status, payload) select i, i, flow_id, '$status', '{}'
		from tasker.flow, lateral (select (extract(epoch from timestamptz '$day') * 1000)::bigint << 20) t (i)
		where flow_name = 'f'";
}

sub add_record
{
	my ($day, $status) = @_;
	return sql($node, insert_text($parent, $day, $status));
}

# Where a partition stands: attached, pending, detached or gone; and its row in the book.
sub standing
{
	my ($partition) = @_;
	return sql($node, "select case when to_regclass('$partition') is null then 'gone'
		else coalesce((select case when inhdetachpending then 'pending' else 'attached' end from pg_inherits
			where inhrelid = to_regclass('$partition')), 'detached') end
		|| coalesce((select ', ' || state from tasker.part_retirement where partition_name = split_part('$partition', '.', 2)), '')");
}

sub maintain { return sql($node, 'call tasker.run_maintenance()'); }

sub becomes
{
	my ($partition, $standing, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return pass($what) if standing($partition) eq $standing;
		maintain();
		# Failed tries wait for the next; here they need not.
		sql($node, 'update tasker.part_retirement set next_try_at = null where next_try_at is not null');
		sql($node, 'update tasker.part_failure set next_try_at = now()');
		Time::HiRes::usleep(100_000);
	}
	diag(sql($node, 'table tasker.part_retirement'), sql($node, 'table tasker.part_failure'));
	return is(standing($partition), $standing, $what);
}

sub status { return sql($node, "select $_[0] from tasker.partition_status"); }

# A record may go only when nothing of its partition is left to do.
my $unfinished = old_partition('2020-01-01', 'p');
my $finished = old_partition('2020-01-02', 'c');
my $empty = sql($node, "select tasker.create_partition('$parent', '2020-01-03')");
becomes($finished, 'gone', 'a partition of finished records goes');
becomes($empty, 'gone', 'so does an empty one');
is(standing($unfinished), 'attached, refused', 'one with an unfinished record stays');
is(status('overdue, array_length(overdue_reasons, 1), health'), '1|1|healthy', 'and is listed');
like(status('overdue_reasons[1]'), qr/^queue_record_p20200101: 1 unfinished records of flow "f"; refused 1 times$/, 'with the reason');
is(sql($node, 'select detached_tables, pending_detaches from tasker.partition_status'), '0|0', 'nothing is half gone');
sql($node, "update $parent set status = 'c' where id < tasker.next_record_id() and id >> 20 < 1577923200000");
becomes($unfinished, 'gone', 'finished at last, it goes');
is(status('overdue'), '0', 'and is no longer listed');
is(sql($node, 'select count(*) from tasker.part_retirement'), '0', 'the book is empty');

# Legal hold, and the set's own retention on top of its owner's.
my $held = old_partition('2020-02-01', 'c');
sql($node, "select tasker.alter_parent('$parent', 'legal_hold', 'true')");
becomes($held, 'attached, refused', 'nothing goes under legal hold');
like(status('overdue_reasons[1]'), qr/the set is under legal hold/, 'which says so');
sql($node, "select tasker.alter_parent('$parent', 'legal_hold', 'false'), tasker.alter_parent('$parent', 'retention', '100 years')");
maintain();
is(standing($held), 'attached', 'nothing goes that is younger than the set\'s retention');
sql($node, "select tasker.alter_parent('$parent', 'retention', null)");
becomes($held, 'gone', 'without both it goes');

# A reader of the parent is not waited for with a detach begun, as long as it can be helped.
my $reader = $node->background_psql('postgres', on_error_stop => 0);
my $other = $node->background_psql('postgres', on_error_stop => 0);
my $old = old_partition('2020-03-01', 'c');
$reader->query_safe("begin; select count(*) from $parent");
wait_until($node, "select exists (select from pg_stat_activity where state = 'idle in transaction' and
	xact_start < clock_timestamp() - interval '20ms')", 'a reader is there for longer than tasker.lock_timeout');
maintain();
wait_until($node, "select exists (select from tasker.part_retirement where reason = '1 long transactions are using \"queue_record\"')",
	'a detach makes way for a transaction that uses the parent');
is(standing($old), 'attached, refused', 'and has not begun');

# After five tries it begins. It cannot end while the reader is there, but disturbs nobody.
sql($node, 'update tasker.part_retirement set failures = 5');
becomes($old, 'pending, leaving', 'in the end it begins');
is(sql($node, "set lock_timeout = '1s'; select count(*) > 0 from $parent"), 't', 'the parent can be read');
is(sql($node, "set lock_timeout = '1s'; select tasker.enqueue('f', '{}') > 0"), 't', 'and written');
is(sql($node, "set lock_timeout = '1s'; select tasker.create_partition('$parent', '2020-03-02')"),
	'tasker.queue_record_p20200302', 'and gets partitions');
is(sql($node, "select state from tasker.show_partitions('$parent') where partition::text = '$old'"),
	'detach pending', 'its state is shown');
is(sql($node, "select count(*) from $parent where id >> 20 < 1583107200000"), '0', 'nobody new sees its rows');
is($reader->query_safe("select count(*) from $parent where id >> 20 < 1583107200000"), '0', 'READ COMMITTED follows');
like(error_of($node, "select tasker.create_partition('$parent', '2020-03-01 12:00')"),
	qr/^55006: partition "queue_record_p20200301" of "queue_record" is being retired/,
	'its range cannot be had now');
$reader->query_safe('commit');
becomes($old, 'gone', 'finalized and dropped once the reader has ended');
becomes('tasker.queue_record_p20200302', 'gone', 'then the next one');

# A row that was uncommitted when the owner was asked. It was written to the partition itself, so the detach does not
# wait for it until it wants the partition.
my $late = old_partition('2020-04-01', 'c');
$other->query_safe('begin; ' . insert_text($late, '2020-04-01 10:00', 'p'));
becomes($late, 'pending, leaving', 'the owner sees no reason while a row is uncommitted');
$other->query_safe('commit');
becomes($late, 'attached, refused', 'but does at the second look, and the partition is attached again');
is(sql($node, "select count(*) from $parent where tableoid = '$late'::regclass"), '2', 'with its rows');
is(sql($node, "select count(*) from pg_constraint where conrelid = '$late'::regclass and contype = 'c' and coninhcount = 0"),
	'0', 'and without the check that the detach had left');
is(sql($node, "select count(*) from pg_trigger where tgrelid = '$late'::regclass and tgparentid <> 0"),
	sql($node, "select count(*) from pg_trigger where tgrelid = '$parent'::regclass and (tgtype & 1) = 1"),
	'and with the parent\'s row triggers');
sql($node, "update $parent set status = 'c' where tableoid = '$late'::regclass");
becomes($late, 'gone', 'once that row is finished it goes');

# The same where the row is finished: it goes with the partition.
$late = old_partition('2020-04-02', 'c');
$other->query_safe('begin; ' . insert_text($late, '2020-04-02 10:00', 'c'));
becomes($late, 'pending, leaving', 'another uncommitted row');
$other->query_safe('rollback');
becomes($late, 'gone', 'which is rolled back');

# A record is being brought back to life while its partition is due.
my $revived = old_partition('2020-05-01', 'f');
my $id = sql($node, "select id from $parent where tableoid = '$revived'::regclass");
$other->query_safe("begin; select tasker.retry_records(array[${id}::bigint])");
maintain();
maintain();
is(standing($revived), 'attached', 'a partition in which a record is being revived is not even asked about');
$other->query_safe('commit');
becomes($revived, 'attached, refused', 'it is unfinished then');
sql($node, "select tasker.cancel_records(array[${id}::bigint])");
becomes($revived, 'gone', 'cancelled, it goes');

# --- SIGKILL between any two steps ----------------------------------------------------------------------------

# The server comes back without a worker, so that what the kill left can be seen.
sub restart_after_kill
{
	sql($node, 'alter system set tasker.worker = off');
	crash_server($node);
	start_after_crash($node);
	$_->quit foreach ($reader, $other);
	$reader = $node->background_psql('postgres', on_error_stop => 0);
	$other = $node->background_psql('postgres', on_error_stop => 0);
	return;
}

sub set_and_reload
{
	my ($setting, $value) = @_;
	sql($node, "alter system set $setting = '$value'");
	sql($node, 'select pg_reload_conf()');
	return;
}

sub long_waits { return set_and_reload('tasker.lock_timeout', '60s'); }

sub go_on
{
	set_and_reload('tasker.lock_timeout', '20ms');
	set_and_reload('tasker.worker', 'on');
	return;
}

# The pid of the worker once it waits for such a lock.
sub wait_for_worker
{
	my ($event, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "select exists (select from pg_stat_activity where backend_type like 'tasker%' and wait_event = '$event')", $what);
}

# 1. Booked, not begun: the detach waits for the parent.
my $killed = old_partition('2020-06-01', 'c');
long_waits();
sql($node, insert_book($killed, '2020-06-01'));
$other->query_safe("begin; lock table $parent in share update exclusive mode");
maintain();
wait_for_worker('relation', 'the worker waits before it begins the detach');
is(standing($killed), 'attached, leaving', 'the partition is booked and attached');
restart_after_kill();
is(standing($killed), 'attached, leaving', 'so it is after the crash');
go_on();
becomes($killed, 'gone', 'and the next round retires it');

# 2. Pending: the detach waits for a transaction that has used the partition.
$killed = old_partition('2020-06-02', 'c');
long_waits();
sql($node, insert_book($killed, '2020-06-02'));
$other->query_safe('begin; ' . insert_text($killed, '2020-06-02 10:00', 'p'));
maintain();
wait_until($node, "select exists (select from pg_inherits where inhdetachpending)", 'the detach is pending');
wait_for_worker('virtualxid', 'the worker waits for a transaction');
restart_after_kill();
is(standing($killed), 'pending, leaving', 'so it is after the crash');
go_on();
becomes($killed, 'gone', 'and the next round finishes it: what was uncommitted is gone too');

# 3. Detached, not dropped: somebody makes partitions of the set, so the drop is put off.
$killed = old_partition('2020-06-03', 'c');
$other->query_safe("begin; select tasker.alter_parent('$parent', 'premake', '4')");
becomes($killed, 'detached, leaving', 'a detached table waits for its drop');
is(status('detached_tables'), '1', 'and is shown');
restart_after_kill();
is(standing($killed), 'detached, leaving', 'so it does after the crash');
go_on();
becomes($killed, 'gone', 'and is dropped by the next round');

# 4. The same, and legal hold comes in between.
$killed = old_partition('2020-06-04', 'c');
$other->query_safe("begin; select tasker.alter_parent('$parent', 'legal_hold', 'true')");
becomes($killed, 'detached, leaving', 'another detached table');
$other->query_safe('commit');
becomes($killed, 'attached, refused', 'legal hold brings it back');
is(sql($node, "select count(*) from $parent where tableoid = '$killed'::regclass"), '1', 'with its row');
sql($node, "select tasker.alter_parent('$parent', 'legal_hold', 'false')");
becomes($killed, 'gone', 'until it is lifted');

# 5. The same, and its range is needed in between.
$killed = old_partition('2020-06-05', 'c');
$other->query_safe("begin; select tasker.alter_parent('$parent', 'premake', '4')");
becomes($killed, 'detached, leaving', 'a third detached table');
sql($node, "update tasker.part_retirement set next_try_at = 'infinity'");
$other->query_safe('commit');
is(sql($node, "select tasker.create_partition('$parent', '2020-06-05 23:00')"), $killed, 'who needs its range gets the table itself');
is(standing($killed), 'attached, leaving', 'attached again');
add_record('2020-06-05 23:00', 'p');
becomes($killed, 'attached, refused', 'and asked about anew');
sql($node, "update $parent set status = 'x' where tableoid = '$killed'::regclass");
becomes($killed, 'gone', 'then it goes for good');

# 6. A detach that somebody else began and that was cut off is finalized; the table is theirs and stays.
my $theirs = old_partition('2020-07-01', 'p');
$reader->query_safe("begin; select count(*) from $parent");
my ($status, $out, $err) = $node->psql('postgres',
	"set lock_timeout = '10ms'; alter table $parent detach partition $theirs concurrently");
like($err, qr/lock timeout/, 'a detach of somebody else is cut off');
is(standing($theirs), 'pending', 'and stays pending');
$reader->query_safe('commit');
becomes($theirs, 'detached', 'until a round finalizes it');
is(sql($node, "select count(*) from $theirs"), '1', 'the table stays as it is');
sql($node, "drop table $theirs");

# 7. A detached table that is waiting for its drop goes with the extension.
$killed = old_partition('2020-06-06', 'c');
$other->query_safe("begin; select tasker.alter_parent('$parent', 'premake', '4')");
becomes($killed, 'detached, leaving', 'a fourth detached table');
sql($node, "update tasker.part_retirement set next_try_at = 'infinity'");
$other->query_safe('rollback');
is(sql($node, "drop extension tasker; select to_regclass('$killed') is null"), 't', 'goes with the extension');

$reader->quit;
$other->quit;
$node->stop;

# --- without a worker -----------------------------------------------------------------------------------------

$node = tasker_cluster('bare', preload => 0, conf => "tasker.lock_timeout = '20ms'\n");
sql($node, q{select tasker.create_flow('f', '{"retention": "0"}'); select tasker.enqueue('f', '{}')});
$finished = old_partition('2020-01-02', 'c');
$unfinished = old_partition('2020-01-01', 'p');
$reader = $node->background_psql('postgres', on_error_stop => 0);
$reader->query_safe("begin; select count(*) from $parent");
($status, $out, $err) = $node->psql('postgres', 'call tasker.run_maintenance()');
is($status, 0, 'maintenance ends in time behind a reader');
like($err, qr/NOTICE:  detaching partition "queue_record_p20200102" without CONCURRENTLY/, 'it says how it detaches');
like($err, qr/WARNING:  retire of partitioned table "queue_record" failed: canceling statement due to lock timeout/, 'and that it could not');
is(standing($finished), 'attached, refused', 'nothing is half done');
$reader->query_safe('commit');
sql($node, 'call tasker.run_maintenance()');
is(standing($finished), 'gone', 'without the reader it is dropped at once');
is(standing($unfinished), 'attached, refused', 'an unfinished one stays');
is(status('partitions_ahead, pending_detaches'), '4|0', 'four are made ahead, nothing is pending');
like(error_of($node, 'begin; call tasker.run_maintenance()'),
	qr/^25001: tasker.run_maintenance\(\) cannot be called inside a transaction block or a function/,
	'not inside a transaction block');
like(error_of($node, q{do 'begin perform 1; call tasker.run_maintenance(); exception when others then raise; end'}),
	qr/^25001: /, 'nor inside a block with an exception handler');
like(error_of($node, q{call tasker.run_maintenance('pg_class')}), qr/^42704: table "pg_class" is not a partition set/,
	'an unknown set is an error');
$reader->quit;
$node->stop;
done_testing();

# The row that a round writes before it begins a detach.
sub insert_book
{
	my ($partition, $day) = @_;
	return "insert into tasker.part_retirement (parent, partition_name, lower_key, upper_key, state, failures)
		select '$parent', '" . ($partition =~ s/.*\.//r) . "', a, a + (86400000::bigint << 20), 'refused', 5
		from (select (extract(epoch from timestamptz '$day') * 1000)::bigint << 20) t (a)";
}
