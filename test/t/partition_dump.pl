# Partition sets through pg_dump and pg_restore, into a cluster whose worker is running: configuration, partitions and
# rows come back, a retirement that was under way is remembered, and nothing is retired while a restore may be running.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $parent = 'tasker.queue_record';
my $node = tasker_cluster('source', conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\n");
my $target = tasker_cluster('target', extension => 0, conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\n");

sub records { return sql($_[0], "select coalesce(string_agg(id || status, ' ' order by id), '') from $parent", $_[1]); }

sub partitions
{
	my ($server, $database) = @_;
	return sql($server, "select string_agg(concat_ws(' ', relname, pg_get_expr(relpartbound, c.oid), reloptions,
		(select count(*) from pg_index where indrelid = c.oid), (select count(*) from pg_trigger where tgrelid = c.oid)), E'\n' order by relname)
		from pg_inherits join pg_class c on c.oid = inhrelid where inhparent = '$parent'::regclass", $database);
}

sub config
{
	my ($server, $database) = @_;
	return sql($server, 'select parent, control, control_kind, partition_interval, premake, retention, retention_action,
		timezone, owner_set, legal_hold from tasker.part_config', $database);
}

sub add_record
{
	my ($day, $status) = @_;
	return sql($node, "select tasker.create_partition('$parent', '$day');
		insert into $parent (id, position, flow_id, status, payload) select i, i, flow_id, '$status', '{}'
		from tasker.flow, lateral (select (extract(epoch from timestamptz '$day') * 1000)::bigint << 20) t (i)");
}

# A live set: an interval that was changed, old partitions, one refused, one pending, and one that is detached already.
sql($node, q{select tasker.create_flow('f', '{"retention": "0"}'); select tasker.enqueue('f', '{}') from generate_series(1, 10)});
sql($node, "select tasker.alter_parent('$parent', 'premake', '3')");
sql($node, 'call tasker.run_maintenance()');
add_record('2020-01-01', 'p');
add_record('2020-02-01', 'c');
add_record('2020-02-02', 'c');

# Detached: the drop is put off while somebody changes the set. Only the first two days are due for now.
sql($node, "insert into tasker.part_retirement (parent, partition_name, lower_key, upper_key, state, next_try_at)
	select '$parent', 'queue_record_p20200202', 0, 0, 'refused', 'infinity'");
my $other = $node->background_psql('postgres', on_error_stop => 0);
$other->query_safe("begin; select tasker.alter_parent('$parent', 'premake', '3')");
foreach (1 .. 1000)
{
	sql($node, 'call tasker.run_maintenance()');
	last if sql($node, "select count(*) from pg_inherits where inhrelid = 'tasker.queue_record_p20200201'::regclass") eq '0';
	Time::HiRes::usleep(20_000);
}
sql($node, "update tasker.part_retirement set next_try_at = 'infinity'");
$other->query_safe('rollback');
is(sql($node, "select state from tasker.show_partitions('$parent') where partition::text = 'tasker.queue_record_p20200201'"),
	'detached', 'one table is detached');

# Pending: a detach that was cut off, and booked as ours. pg_dump takes it as attached.
my $records = records($node);
$other->query_safe("begin; select count(*) from $parent");
$node->psql('postgres', "set lock_timeout = '10ms'; alter table $parent detach partition tasker.queue_record_p20200202 concurrently");
sql($node, "update tasker.part_retirement r set state = 'leaving', lower_key = (extract(epoch from timestamptz '2020-02-02') * 1000)::bigint << 20,
	upper_key = (extract(epoch from timestamptz '2020-02-03') * 1000)::bigint << 20 where partition_name = 'queue_record_p20200202'");
# No worker must finalize it before it was dumped.
sql($node, 'alter system set tasker.worker = off');
sql($node, 'select pg_reload_conf()');
wait_until($node, "select not exists (select from pg_stat_activity where backend_type = 'tasker worker')", 'the worker stops');
is(sql($node, "select string_agg(state, ' ' order by lower_bound) from tasker.show_partitions('$parent') where lower_bound < '2021'"),
	'attached detached detach pending', 'a set in every state');

my $dump = $node->backup_dir . '/tasker.dump';
mkdir $node->backup_dir;
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'it is dumped');
my ($partitions, $config) = (partitions($node), config($node));
$other->query_safe('rollback');

foreach my $mode ('one', 'two')
{
	my @jobs = $mode eq 'two' ? ('-j', '2') : ();
	sql($target, "create database $mode");
	$target->command_ok([ 'pg_restore', '--exit-on-error', @jobs, '-d', $target->connstr($mode), $dump ],
		"restored by $mode, with a worker in the database");
	is(config($target, $mode), $config, 'the configuration is the same');
	is(records($target, $mode), $records, 'so are the records');
	is(partitions($target, $mode), $partitions, 'so are the partitions, with their keys and triggers');
	sql($target, 'call tasker.run_maintenance()', $mode);
	is(sql($target, 'select adopted_at is not null, partitions_ahead >= c.premake, health from tasker.part_config c join tasker.partition_status using (parent)', $mode),
		't|t|healthy', 'the set is open, known as restored, and maintained');
	sql($target, "update tasker.part_retirement set next_try_at = null", $mode);
	sql($target, 'call tasker.run_maintenance()', $mode);
	wait_until($target, "select exists (select from tasker.part_retirement where partition_name = 'queue_record_p20200101'
		and reason = 'the set was restored less than an hour ago')", 'nothing is retired in the first hour', $mode);
	sql($target, "update tasker.part_config set adopted_at = now() - interval '61 minutes'", $mode);
	foreach my $gone ('queue_record_p20200201', 'queue_record_p20200202')
	{
		foreach (1 .. 1000)
		{
			last if sql($target, "select to_regclass('tasker.$gone') is null", $mode) eq 't';
			sql($target, 'update tasker.part_retirement set next_try_at = null', $mode);
			sql($target, 'call tasker.run_maintenance()', $mode);
			Time::HiRes::usleep(50_000);
		}
		is(sql($target, "select to_regclass('tasker.$gone') is null", $mode), 't', "after it, $gone leaves as it had begun to");
	}
	is(records($target, $mode), $records =~ s/ \d+c//r, 'unfinished records stay');
	like(sql($target, 'select overdue_reasons from tasker.partition_status', $mode),
		qr/queue_record_p20200101: 1 unfinished records/, 'with the reason');
	like(sql($target, q{select tasker.enqueue('f', '{}')}, $mode), qr/^\d+$/, 'the queue goes on');
	sql($target, 'drop extension tasker', $mode);
	is(sql($target, "select count(*) from pg_class where relname like 'queue_record%' or relname like 'part\\_%'", $mode), '0',
		'DROP EXTENSION takes restored partitions along');
}

$other->quit;
$node->stop;
$target->stop;
done_testing();
