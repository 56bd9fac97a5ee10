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

# --- sets of users: restored with a worker in the database, and upgraded ----------------------------------------

my $source = tasker_cluster('users', conf => "tasker.lock_timeout = '50ms'\nautovacuum = off\n");

# One of each kind, with rows, keys and owners; one with an odd name and a renamed column; one that the retention has hit.
sql($source, q{
create role keeper; create role reader;
create schema app authorization keeper;
create schema attic authorization keeper;
set role keeper;
set search_path = app;
create table events (id bigint generated always as identity, at timestamptz not null, note text default 'x', primary key (at, id)) partition by range (at);
create index events_note on events (note);
create table "Odd ""Näme" (seen date not null) partition by range (seen);
create table ids (id uuid primary key, v int) partition by range (id);
create table numbers (n int not null, unique (n)) partition by range (n);
create table records (id bigint primary key) partition by range (id);
create table past (at timestamp not null) partition by range (at);
create table with_rest (at timestamptz) partition by range (at);
create table with_rest_default partition of with_rest default;
grant select on events to reader;
reset role;
set client_min_messages = error;
select tasker.create_parent('events', 'at', '1 day', 3, retention => '3 months', timezone => 'Europe/Berlin', start_at => (now() - interval '2 days')::text);
select tasker.create_parent('"Odd ""Näme"', 'seen', '1 month', 2, retention => '5 years', retention_action => 'schema:attic');
select tasker.create_parent('ids', 'id', '1 week', 2);
select tasker.create_parent('numbers', 'n', '100', 2), tasker.alter_parent('numbers', 'retention', '1000');
select tasker.create_parent('records', 'id', '6 hours', 2, retention_action => 'detach');
select tasker.create_parent('past', 'at', '1 day', 1, retention => '1 year', retention_action => 'drop');
select tasker.alter_parent('past', 'legal_hold', 'on');
select tasker.create_parent('with_rest', 'at', '1 day', 1);
alter table "Odd ""Näme" rename seen to "seen at";
select tasker.create_partition('past', '2020-01-01'), tasker.create_partition('past', '2020-01-02');
insert into events (at) select now() + d * interval '1 day' from generate_series(-2, 2) d, generate_series(1, 20);
insert into "Odd ""Näme" values (current_date), (current_date + 31);
insert into ids select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 19))::uuid, i from generate_series(1, 50) i;
insert into numbers select generate_series(0, 150);
insert into records select ((extract(epoch from now()) * 1000)::bigint << 20) + i from generate_series(1, 50) i;
insert into past values ('2020-01-01'), ('2020-01-02'), (now());
insert into with_rest values ('2001-01-01');
});
sql($source, 'call tasker.run_maintenance()');
# A retirement that is half done: the detach is over, the drop is kept from happening.
my $changer = $source->background_psql('postgres', on_error_stop => 0);
$changer->query_safe("begin; select tasker.alter_parent('app.past', 'legal_hold', 'off'); commit;
	begin; select tasker.alter_parent('app.past', 'premake', '1')");
foreach (1 .. 500)
{
	sql($source, 'call tasker.run_maintenance()');
	last if sql($source, "select count(*) from pg_inherits where inhrelid = 'app.past_p20200101'::regclass") eq '0';
	Time::HiRes::usleep(20_000);
}
is(sql($source, "select count(*) from pg_inherits where inhrelid = 'app.past_p20200101'::regclass"), '0', 'a partition of a user is detached');
isnt(sql($source, "select to_regclass('app.past_p20200101')"), '', 'and not dropped');
sql($source, 'alter system set tasker.worker = off');
sql($source, 'select pg_reload_conf()');
wait_until($source, "select not exists (select from pg_stat_activity where backend_type = 'tasker worker')", 'the worker stops');
$changer->query_safe('rollback');
$changer->quit;

my @PARENTS = map { "app.$_" } 'events', '"Odd ""Näme"', 'ids', 'numbers', 'records', 'past', 'with_rest';

# All that can be told of the sets: settings, partitions with bounds, owner and keys, and rows.
sub users_state
{
	my ($server, $database) = @_;
	my $state = sql($server, "select parent, control_kind, partition_interval, premake, retention, retention_keys, retention_action, timezone,
		legal_hold from tasker.part_config order by parent::text", $database);
	foreach my $parent (@PARENTS)
	{
		$state .= "\n$parent\n" . sql($server, "select c.oid::regclass, pg_get_expr(relpartbound, c.oid), relowner::regrole, relacl,
			(select string_agg(pg_get_indexdef(indexrelid) || indisvalid, '; ' order by indexrelid::regclass::text) from pg_index where indrelid = c.oid)
			from pg_partition_tree('$parent') join pg_class c on c.oid = relid order by 1::text", $database);
		$state .= "\n" . sql($server, "select tableoid::regclass, t.* from $parent t order by t::text", $database);
	}
	return $state . sql($server, 'select partition_name, lower_key, upper_key, state from tasker.part_retirement order by 1', $database)
	  . sql($server, "select * from app.past_p20200101", $database);
}

# How many partitions are ahead of the time that the clock shows, and are the indexes of all parents complete?
sub ahead { return sql($_[0], "select string_agg(partitions_ahead::text, ' ' order by parent::text) from tasker.partition_status", $_[1]) }
sub invalid { return sql($_[0], "select coalesce(string_agg(indexrelid::regclass::text, ' '), '') from pg_index where not indisvalid", $_[1]) }

# Lets an hour pass, and rounds make and retire what is due.
sub goes_on
{
	my ($server, $database, $how) = @_;
	my $before = sql($server, 'select count(*) from pg_inherits', $database);
	my $left_alone = ahead($server, $database);
	sql($server, 'call tasker.run_maintenance()', $database);
	is(ahead($server, $database), $left_alone, "$how: rounds leave the sets alone");
	isnt(sql($server, "select to_regclass('app.past_p20200101')", $database), '', '... and what had begun to leave');
	sql($server, "call tasker.run_maintenance('app.ids')", $database);
	is(sql($server, "select partitions_ahead from tasker.partition_status where parent = 'app.ids'::regclass", $database), '2',
		'... but for one that is asked for');
	sql($server, "update tasker.part_config set adopted_at = now() - interval '61 minutes'", $database);
	foreach (1 .. 1000)
	{
		sql($server, 'call tasker.run_maintenance()', $database);
		last if sql($server, "select to_regclass('app.past_p20200101') is null and to_regclass('app.past_p20200102') is null", $database) eq 't';
		sql($server, 'update tasker.part_retirement set next_try_at = null', $database);
		Time::HiRes::usleep(20_000);
	}
	is(sql($server, "select to_regclass('app.past_p20200101') is null and to_regclass('app.past_p20200102') is null", $database), 't',
		'after an hour, the retirement goes on where it had stopped');
	is(sql($server, "select string_agg(parent || ': ' || health, ', ') from tasker.partition_status where partitions_ahead < premake", $database), '',
		'... partitions are premade');
	is(invalid($server, $database), '', '... with their indexes');
	is(sql($server, 'select count(*) from tasker.part_failure', $database), '0', '... and no duty fails');
	is(sql($server, "select count(distinct relowner) from pg_class where relkind = 'r' and relnamespace = 'app'::regnamespace", $database), '1',
		'all partitions are the owner\'s');
	return;
}

# Restored ten days later, into a cluster whose worker is running: everything is due at once.
my $users = $source->backup_dir . '/users.dump';
my $roles = $source->backup_dir . '/roles.sql';
mkdir $source->backup_dir;
$source->command_ok([ 'pg_dumpall', '--roles-only', '-f', $roles, '-d', $source->connstr('postgres') ], 'the roles are dumped');
$source->command_ok([ 'pg_dump', '-Fc', '-f', $users, $source->connstr('postgres') ], 'the sets are dumped');
my $state = users_state($source);
my $later = tasker_cluster('later', extension => 0,
	conf => "tasker.lock_timeout = '50ms'\nautovacuum = off\ntasker.clock_offset = '10 d'\n");
$later->psql('postgres', slurp_file($roles), on_error_stop => 0); # one role exists: the one that runs this
foreach my $jobs (1, 3)
{
	my $database = "users$jobs";
	sql($later, "create database $database");
	$later->command_ok([ 'pg_restore', '--exit-on-error', ($jobs > 1 ? ('-j', $jobs) : ()), '-d', $later->connstr($database), $users ],
		"sets of users are restored by $jobs, with a worker in the database");
	is(users_state($later, $database), $state, 'all is as it was');
	# The round that retires may come before the one that notes that the sets were restored.
	sql($later, "call tasker.run_duty('retire')", $database);
	goes_on($later, $database, "restored by $jobs");
}
$later->stop;

# The real pg_upgrade, to the same version.
$source->stop;
my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
$upgraded->init;
my $bindir = $source->config_data('--bindir');
chdir $source->basedir or die;
$source->command_ok([ 'pg_upgrade', '--no-sync', '-d', $source->data_dir, '-D', $upgraded->data_dir, '-b', $bindir, '-B', $bindir,
	'-s', $source->host, '-p', $source->port, '-P', $upgraded->port,
	'-o', "-c shared_preload_libraries=tasker", '-O', "-c shared_preload_libraries=tasker" ], 'pg_upgrade');
$upgraded->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'\ntasker.lock_timeout = '50ms'\nautovacuum = off
tasker.clock_offset = '10 d'\nmax_worker_processes = 20\ntimezone = 'UTC'\n");
$upgraded->start;
is(users_state($upgraded), $state, 'all is as it was before the upgrade');
goes_on($upgraded, 'postgres', 'upgraded');
$upgraded->stop;
done_testing();
