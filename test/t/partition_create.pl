# Making partitions: on demand in the caller's transaction and by the worker, ahead of time, at odd times, by several
# sessions at once, and without locking anybody out.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $parent = 'tasker.queue_record';

# A record id of a time, as SQL.
sub id_of { return "((extract(epoch from timestamptz '$_[0]') * 1000)::bigint << 20)"; }

# The bounds of a partition as record ids, "lower upper".
sub bounds_of
{
	my ($node, $partition) = @_;
	return sql($node, "select (regexp_match(b, 'FROM \\(''(\\d+)''\\) TO \\(''(\\d+)''\\)'))[1] || ' ' ||
		(regexp_match(b, 'FROM \\(''(\\d+)''\\) TO \\(''(\\d+)''\\)'))[2]
		from (select pg_get_expr(relpartbound, oid) as b from pg_class where oid = '$partition'::regclass) t");
}

sub bounds_are
{
	my ($node, $partition, $from, $to, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(bounds_of($node, $partition),
		sql($node, "select " . id_of($from) . " || ' ' || " . id_of($to)), $what);
}

# --- without a worker: the caller's transaction makes the partition --------------------------------------------

my $node = tasker_cluster('bare', preload => 0);

is(sql($node, 'select count(*) from tasker.part_config'), '0', 'the script opens no set');
is(sql($node, "select count(*) from pg_inherits where inhparent = '$parent'::regclass"),
	'0', 'the script makes no partition');

sql($node, q{select tasker.enqueue('f', '{}')});
is(sql($node, "select parent, partition_interval, premake, owner_set, adopted_at is null from tasker.part_config"),
	"$parent|1 day|4|t|t", 'the first use opens the set');
is(sql($node, "select count(*) from pg_inherits where inhparent = '$parent'::regclass"),
	'1', 'and makes the partition that it needs, no other');

my $current = sql($node, "select inhrelid::regclass from pg_inherits where inhparent = '$parent'::regclass");
is(sql($node, "select reloptions::text, relowner = (select relowner from pg_class where oid = '$parent'::regclass)
	from pg_class where oid = '$current'::regclass"), '{fillfactor=25}|t',
	'it has the set\'s storage parameters and the owner of the parent');
is(sql($node, "select string_agg(indisprimary::text || ' ' || regexp_replace(pg_get_indexdef(indexrelid), '.*btree ', ''),
	', ' order by indisprimary) from pg_index where indrelid = '$current'::regclass"),
	'false (flow_id, priority, "position"), true (id)', 'and its keys');
is(sql($node, "select count(*) from pg_index where indrelid = '$parent'::regclass"), '0', 'the parent has none');
is(sql($node, "select count(*) from pg_constraint where conrelid = '$current'::regclass and contype = 'c'
	and coninhcount = 0"), '0', 'no check of its own is left on it');
is(sql($node, "select count(*) from pg_trigger where tgrelid = '$current'::regclass and tgparentid <> 0"),
	sql($node, "select count(*) from pg_trigger where tgrelid = '$parent'::regclass and (tgtype & 1) = 1"),
	'the parent\'s row triggers are on it');

# Bounds depend on the interval alone, and a key far from now gets its partition like any other.
is(sql($node, "select tasker.create_partition('$parent', '1999-12-31 23:59:59.999+00')"),
	'tasker.queue_record_p19991231', 'a key of long ago gets a partition');
bounds_are($node, 'tasker.queue_record_p19991231', '1999-12-31 00:00+00', '2000-01-01 00:00+00', 'of its day');
is(sql($node, "select tasker.create_partition('$parent', '0')"),
	'tasker.queue_record_p19700101', 'so does the first key');
is(sql($node, "select tasker.create_partition('$parent', '9223372036854775806')"),
	'tasker.queue_record_p22480926', 'and the last');
like(error_of($node, "select tasker.create_partition('$parent', '9223372036854775807')"),
	qr/^22003: key 9223372036854775807 is no record id/, 'beyond it there is none');

# The interval is changed: new bounds are aligned to it, and fitted between the partitions that are there.
sql($node, "select tasker.create_partition('$parent', '2020-02-10'), tasker.alter_parent('$parent',
	'partition_interval', '1 month')");
is(sql($node, "select tasker.create_partition('$parent', '2020-02-15')"),
	'tasker.queue_record_p2020_02', 'after the day comes the rest of the month');
bounds_are($node, 'tasker.queue_record_p2020_02', '2020-02-11 00:00+00', '2020-03-01 00:00+00', 'from its end on');
my $before = sql($node, "select tasker.create_partition('$parent', '2020-02-05')");
bounds_are($node, $before, '2020-02-01 00:00+00', '2020-02-10 00:00+00', 'before the day, its beginning');
isnt($before, 'tasker.queue_record_p2020_02', 'under a name that is free');
is(sql($node, "select tasker.create_partition('$parent', '2020-02-10 12:00')"),
	'tasker.queue_record_p20200210', 'the day itself stays');
is(sql($node, "select tasker.partition_of('$parent', '2020-03-05')"),
	'tasker.queue_record_p2020_03', 'partition_of names what would be made');
is(sql($node, "select to_regclass('tasker.queue_record_p2020_03') is null"), 't', 'without making it');

# Days follow the set's time zone, also over the change of the clocks.
sql($node, "select tasker.alter_parent('$parent', 'partition_interval', '1 day'),
	tasker.alter_parent('$parent', 'timezone', 'Europe/Berlin')");
is(sql($node, "select tasker.create_partition('$parent', '2021-03-28 12:00+00')"),
	'tasker.queue_record_p20210328', 'a day of 23 hours');
bounds_are($node, 'tasker.queue_record_p20210328', '2021-03-27 23:00+00', '2021-03-28 22:00+00',
	'from midnight to midnight in Berlin');
is(sql($node, "select tasker.create_partition('$parent', '2021-10-31 00:30+00')"),
	'tasker.queue_record_p20211031', 'a day of 25 hours');
bounds_are($node, 'tasker.queue_record_p20211031', '2021-10-30 22:00+00', '2021-10-31 23:00+00',
	'from midnight to midnight in Berlin');
sql($node, "select tasker.alter_parent('$parent', 'timezone', 'UTC')");

# Two sessions need the same partition at once: the second waits for the first, and looks again.
my $first = $node->background_psql('postgres', on_error_stop => 0);
my $second = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $second->query_safe('select pg_backend_pid()');

$first->query_safe("begin; select tasker.create_partition('$parent', '2010-01-01')");
$second->query_until(qr/asked/, "\\echo asked\nselect tasker.create_partition('$parent', '2010-01-01');\n\\echo made\n");
ok(wait_for_wait_event($node, $pid, 'advisory'), 'the second session waits');
is(sql($node, "select count(*) > 0 from $parent"), 't', 'a reader of the parent does not');
is(sql($node, "insert into $parent select * from $parent limit 0; select tasker.enqueue('f', '{}') > 0"),
	't', 'nor does a writer');
$first->query_safe('commit');
$second->query_until(qr/made/, '');
is(sql($node, "select count(*) from pg_class where relname like 'queue_record_p20100101%' and relkind = 'r'"),
	'1', 'one partition was made');

$first->query_safe("begin; select tasker.create_partition('$parent', '2010-01-02')");
$second->query_until(qr/asked/, "\\echo asked\nselect tasker.create_partition('$parent', '2010-01-02');\n\\echo made\n");
ok(wait_for_wait_event($node, $pid, 'advisory'), 'the second session waits again');
$first->query_safe('rollback');
$second->query_until(qr/made/, '');
is(sql($node, "select tasker.partition_of('$parent', '2010-01-02') = tasker.create_partition('$parent', '2010-01-02')::text"),
	't', 'the first rolls back, so the second has made it');

# What others hold on the parent does not stop it, and a snapshot from before does not hide it.
$first->query_safe("begin isolation level repeatable read; select count(*) from $parent");
$second->query_safe("begin; insert into $parent select * from $parent limit 0");
is(sql($node, "set lock_timeout = '1s'; select tasker.create_partition('$parent', '2010-01-03')"),
	'tasker.queue_record_p20100103', 'a reader and a writer in open transactions do not block it');
is($first->query_safe("select tasker.create_partition('$parent', '2010-01-03')"),
	'tasker.queue_record_p20100103', 'a REPEATABLE READ transaction from before finds it');
is($first->query_safe("select tasker.create_partition('$parent', '2010-01-04')"),
	'tasker.queue_record_p20100104', 'and makes others');
$first->query_safe('commit');
$second->query_safe('commit');

# Rolled back to a savepoint, it is gone, and is made again.
is($first->query_safe("begin; savepoint s; select tasker.create_partition('$parent', '2010-02-01') \\g /dev/null
	rollback to s; select to_regclass('tasker.queue_record_p20100201') is null, tasker.create_partition('$parent', '2010-02-01');
	commit"), 't|tasker.queue_record_p20100201', 'a savepoint takes a partition back');

# The caller's own statement may read the parent, but not write to it: Postgres refuses that in its own words.
is(sql($node, "select tasker.create_partition('$parent', '2010-02-02') from $parent limit 1"),
	'tasker.queue_record_p20100202', 'a statement that reads the parent may make partitions');
like(error_of($node, "insert into $parent select * from $parent where tasker.create_partition('$parent', '2010-03-01') is null"),
	qr/^55006: cannot ALTER TABLE "queue_record" because it is being used/, 'one that writes to it may not');
is(sql($node, "select to_regclass('tasker.queue_record_p20100301') is null"), 't', 'nothing is left of it');

$first->quit;
$second->quit;
$node->stop;

# --- with a worker ----------------------------------------------------------------------------------------------

$node = tasker_cluster('worked');
sql($node, q{select tasker.enqueue('f', '{}')});
sql($node, 'call tasker.run_maintenance()');
is(sql($node, 'select partitions, partitions_ahead, health from tasker.partition_status'),
	'5|4|healthy', 'four partitions are kept ahead');
is(sql($node, "select count(*) from tasker.show_partitions('$parent') where is_current and state = 'attached'"),
	'1', 'one is current');

# The worker's transaction is not the caller's: what it made stays, and is not waited for by others.
$first = $node->background_psql('postgres', on_error_stop => 0);
$first->query_safe("begin; select tasker.create_partition('$parent', '2010-01-01'); rollback");
is(sql($node, "select to_regclass('tasker.queue_record_p20100101') is not null"),
	't', 'a partition that the worker made outlives the caller\'s rollback');
is($first->query_safe("with i as (insert into $parent select * from $parent
	where tasker.create_partition('$parent', '2010-03-01') is null returning 1)
	select count(*), to_regclass('tasker.queue_record_p20100301') from i"),
	'0|tasker.queue_record_p20100301', 'and may be asked for by a statement that writes to the parent');
$first->query_safe("begin; lock table $parent in share mode");
is($first->query_safe("select tasker.create_partition('$parent', '2010-03-02')"),
	'tasker.queue_record_p20100302', 'a caller whose own lock keeps the worker out makes it itself');
$first->query_safe('rollback');
is(sql($node, "select to_regclass('tasker.queue_record_p20100302') is null"), 't', 'in its own transaction then');

# Many at once.
my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 6;
$_->query_until(qr/asked/, "\\echo asked
select count(tasker.create_partition('$parent', (date '2011-01-01' + i)::text)) from generate_series(0, 9) i;\n\\echo made\n")
  foreach @sessions;
$_->query_until(qr/made/, '') foreach @sessions;
$_->quit foreach @sessions;
is(sql($node, "select count(*), count(distinct lower_bound) from tasker.show_partitions('$parent')
	where lower_bound like '2011-01-%'"), '10|10', 'six sessions asked for ten partitions, and there are ten');

# Premake follows the bounds, whatever the interval was when they were made.
sql($node, "select tasker.alter_parent('$parent', 'partition_interval', '1 hour'), tasker.alter_parent('$parent', 'premake', '6')");
sql($node, 'call tasker.run_maintenance()');
is(sql($node, 'select partitions_ahead from tasker.partition_status'), '6', 'premake follows a changed setting');
is(sql($node, "select count(*) from (select lower_bound, lag(upper_bound) over (order by lower_bound::timestamptz) as previous
	from tasker.show_partitions('$parent') where upper_bound::timestamptz > now()) t where previous <> lower_bound"),
	'0', 'without a gap');

# One broken set does not keep the others from being maintained, and says what is wrong.
sql($node, "update tasker.part_config set timezone = 'Mars/Olympus'");
my ($status, $out, $err) = $node->psql('postgres', 'call tasker.run_maintenance()');
is($status, 0, 'maintenance goes on past a broken set');
like($err, qr/WARNING:  premake of partitioned table "queue_record" failed: time zone "Mars\/Olympus" is not recognized/,
	'and reports it');
like(sql($node, 'select failing from tasker.partition_status'), qr/premake: time zone "Mars\/Olympus" is not recognized/,
	'the status shows it');
is(sql($node, 'select health from tasker.partition_status'), 'unhealthy', 'and its health');
sql($node, "update tasker.part_config set timezone = 'UTC', premake = 7");
sql($node, 'call tasker.run_maintenance()');
is(sql($node, 'select health, failing is null from tasker.partition_status'), 'healthy|t', 'mended, it is healthy again');

# A table is adopted while its partition for now is half detached: the set is taken, the worker completes the detach, and
# then makes the partition that had to wait.
sql($node, "create table half (at timestamptz) partition by range (at)");
sql($node, "do \$\$ begin execute format('create table half_now partition of half for values from (%L) to (%L)',
	current_date, current_date + 1); end \$\$");
$first->query_safe('begin; select count(*) from half');
$node->psql('postgres', "set lock_timeout = '10ms'; alter table half detach partition half_now concurrently");
($status, $out, $err) = $node->psql('postgres', "select tasker.create_parent('half', 'at', '1 day', 2)");
is($status, 0, 'a table with a pending detach is adopted');
like($err, qr/WARNING:  the partition of "half" that holds .* cannot be made yet/, 'with a warning about its range');
$first->query_safe('rollback');
foreach (1 .. 500)
{
	sql($node, 'call tasker.run_maintenance()');
	last if sql($node, "select has_current from tasker._partition_summary('half')") eq 't';
	Time::HiRes::usleep(20_000);
}
is(sql($node, "select health, partitions, pending_detaches from tasker.partition_status where parent = 'half'::regclass"), 'healthy|3|0',
	'the detach is completed, and the partition made');
is(sql($node, 'select count(*) from half_now'), '0', 'what was detached stays');

# Adopted and let go again and again while the worker goes its rounds: nobody meets an error.
sql($node, 'create table busy (at timestamptz) partition by range (at)');
my ($busy_status, $busy_out, $busy_err) = $node->psql('postgres', join("\n", map {
	"select tasker.create_parent('busy', 'at', '1 day', $_) \\g /dev/null
	call tasker.run_duty('premake');\ncall tasker.run_maintenance('busy');
	insert into busy values (now()), (now() + interval '$_ days');
	select tasker.drop_partition_set('busy') \\g /dev/null" } 1 .. 20), on_error_stop => 1);
is("$busy_status$busy_err", '0', 'adopted and let go twenty times beside the worker');
is(sql($node, 'select count(*) from busy'), '40', 'with all rows');
sql($node, "drop table half, half_now, busy");

# The extension takes its partitions along.
sql($node, 'drop extension tasker');
is(sql($node, "select count(*) from pg_class where relname like 'queue_record%'"), '0', 'DROP EXTENSION leaves nothing');

$first->quit;
$node->stop;
done_testing();
