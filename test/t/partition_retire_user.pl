# Retirement of users' own tables: dropped, kept or moved to another schema; legal hold; what is in the way and is
# refused; tables and parents that somebody renames, moves, detaches, gives away or drops meanwhile.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('user', conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\nlog_min_messages = warning\n");
my ($reader, $other) = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;

sql($node, q{create role app; create role clerk; grant clerk to app; create schema app authorization app;
	create schema "Old Things" authorization app; create schema closed; grant usage on schema app to clerk});

# A table of the role app, partitioned by day, that keeps a week.
sub make_set
{
	my ($name, $action, $more) = @_;
	sql($node, qq{set role app; create table app.$name (ts timestamptz not null, id bigint) partition by range (ts)});
	sql($node, qq{select tasker.create_parent('app.$name', 'ts', '1 day', 1, '7 days', '$action')});
	sql($node, $more) if defined $more;
	return "app.$name";
}

# A partition of long ago with two rows in it.
sub old_partition
{
	my ($parent, $day) = @_;
	my $name = sql($node, "select tasker.create_partition('$parent', '$day')");
	sql($node, "insert into $parent select '$day', i from generate_series(1, 2) i");
	return $name;
}

sub maintain { return sql($node, 'call tasker.run_maintenance()'); }

# What a query about the catalogs says once rounds have come to it.
sub becomes
{
	my ($query, $wanted, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach (1 .. 5 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return pass($what) if sql($node, $query) eq $wanted;
		maintain();
		sql($node, 'update tasker.part_retirement set next_try_at = null where next_try_at < \'infinity\'');
		Time::HiRes::usleep(100_000);
	}
	diag(sql($node, 'table tasker.part_retirement'), sql($node, 'table tasker.part_failure'));
	return is(sql($node, $query), $wanted, $what);
}

# Where a table is: attached, pending, a table of its own, or gone.
sub standing
{
	my ($table) = @_;
	return "select case when to_regclass('$table') is null then 'gone' else coalesce((select
		case when inhdetachpending then 'pending' else 'attached' end from pg_inherits
		where inhrelid = to_regclass('$table')), 'table') end";
}

sub booked { return sql($node, "select count(*) from tasker.part_retirement where parent = '$_[0]'::regclass"); }
sub reason { return sql($node, "select string_agg(reason, ' | ') from tasker.part_retirement where parent = '$_[0]'::regclass"); }
sub failing { return sql($node, "select failing from tasker.partition_status where parent = '$_[0]'::regclass"); }

# Rounds until the worker has done two from beginning to end.
sub rounds
{
	foreach (1 .. 2)
	{
		my $runs = sql($node, "select runs from tasker.duty_status where name = 'retire'");
		sql($node, 'update tasker.part_retirement set next_try_at = null where next_try_at < \'infinity\'');
		maintain();
		$node->poll_query_until('postgres',
			"select runs > $runs from tasker.duty_status where name = 'retire'")
		  or die 'no round of retirement';
	}
	return;
}

# Holds the next table of a set between its detach and its last step, by making a partition forever.
sub hold_last_step { return $other->query_safe("begin; select tasker.alter_parent('$_[0]', 'premake', '1')"); }

# --- what becomes of a partition -----------------------------------------------------------------------------

my $parent = make_set('dropped', 'drop');
my $old = old_partition($parent, '2020-01-01');
my $last = sql($node, "select inhrelid::regclass from pg_inherits where inhparent = '$parent'::regclass and inhrelid <> '$old'::regclass order by 1 limit 1");
becomes(standing($old), 'gone', 'drop: a partition past its retention is dropped');
is(sql($node, standing($last)), 'attached', 'one within it stays');
is(booked($parent), '0', 'and the book is empty');

$parent = make_set('kept', 'detach', 'create index on app.kept (id); grant select on app.kept to clerk');
$old = old_partition($parent, '2020-01-01');
sql($node, "grant select, insert on $old to clerk; comment on table $old is 'dear to us'");
my $definition = sql($node, "select relacl::text, relowner::regrole, obj_description('$old'::regclass, 'pg_class') from pg_class where oid = '$old'::regclass");
becomes(standing($old), 'table', 'detach: it becomes a table');
is(sql($node, "select count(*) from $old"), '2', 'with its rows');
is(sql($node, "select relacl::text, relowner::regrole, obj_description('$old'::regclass, 'pg_class') from pg_class where oid = '$old'::regclass"),
	$definition, 'its grants, owner and comment');
is(sql($node, "select count(*) from pg_index where indrelid = '$old'::regclass"), '1', 'and its index');
is(sql($node, "select count(*) from pg_constraint where conrelid = '$old'::regclass and contype = 'c'"), '0',
	'nothing is left of the check that the detach makes');
is(sql($node, "insert into $old values ('2030-01-01', 9); select count(*) from $old"), '3', 'so it takes any row');
is(booked($parent), '0', 'it is no longer in the book');
rounds();
is(sql($node, standing($old)), 'table', 'further rounds leave it alone');
is(sql($node, "select overdue, detached_tables from tasker.partition_status where parent = '$parent'::regclass"), '0|0', 'it is not overdue');
is(sql($node, "select count(*) from tasker.show_partitions('$parent') where partition = '$old'::regclass"), '0', 'nor a member of the set');
my $again = sql($node, "select tasker.create_partition('$parent', '2020-01-01')");
isnt($again, $old, 'who needs its range gets a new partition');
becomes(standing($again), 'table', 'which goes in its turn');

# A check of the user's own that says the same is not ours to drop.
$parent = make_set('checked', 'detach');
$old = old_partition($parent, '2020-01-01');
sql($node, "do \$\$ begin execute format('alter table $old add constraint mine check (%s)', pg_get_partition_constraintdef('$old'::regclass)); end \$\$");
becomes(standing($old), 'table', 'a partition with a check of its own is kept');
is(sql($node, "select string_agg(conname, ' ') from pg_constraint where conrelid = '$old'::regclass and contype = 'c'"), 'mine', 'with that check');

$parent = make_set('moved', 'schema:Old Things', 'create index on app.moved (id)');
$old = old_partition($parent, '2020-01-01');
my $there = '"Old Things".' . ($old =~ s/.*\.//r);
becomes(standing($there), 'table', 'schema: it is a table in that schema');
is(sql($node, standing($old)), 'gone', 'and not in the one that it was in');
is(sql($node, "select count(*) from $there"), '2', 'with its rows');
is(sql($node, "select count(*) from pg_constraint where conrelid = '$there'::regclass and contype = 'c'"), '0', 'and without a check');
is(booked($parent), '0', 'no longer in the book');

# The name is taken: found before anything is begun, and logged once.
$old = old_partition($parent, '2020-01-01');
my $log = -s $node->logfile;
rounds();
is(sql($node, standing($old)), 'attached', 'a name that is taken there is found before the detach');
like(reason($parent), qr/cannot be moved to schema "Old Things"\. The name moved_p20200101 is taken there\. Rename or drop one of the two/, 'and said');
like(sql($node, "select overdue_reasons[1] from tasker.partition_status where parent = '$parent'::regclass"), qr/is taken there/, 'in the status');
rounds();
is(scalar(() = slurp_file($node->logfile, $log) =~ /WARNING:.*retire of partitioned table "moved" failed/g), 1, 'and logged once, not each round');
sql($node, qq{alter table $there set schema closed});
becomes(standing($there), 'table', 'free again, it is moved');

# The schema is missing, or closed to the set's owner.
$parent = make_set('stuck', 'schema:nowhere');
$old = old_partition($parent, '2020-01-01');
$log = -s $node->logfile;
rounds();
is(sql($node, standing($old)), 'attached', 'nothing is begun when the schema does not exist');
like(failing($parent), qr/^retire: schema "nowhere" does not exist/, 'the set says why');
is(sql($node, "select health from tasker.partition_status where parent = '$parent'::regclass"), 'degraded', 'and is degraded');
rounds();
is(scalar(() = slurp_file($node->logfile, $log) =~ /schema "nowhere" does not exist/g), 1, 'it is logged once');
sql($node, "select tasker.alter_parent('$parent', 'retention_action', 'schema:closed')");
rounds();
like(failing($parent), qr/role "app" may not create tables in schema "closed"/, 'a schema that the owner of the set may not use is refused');
sql($node, "select tasker.alter_parent('$parent', 'retention_action', 'schema:pg_catalog')");
rounds();
like(failing($parent), qr/role "app" may not create tables in schema "pg_catalog"/, 'so is the system\'s');
is(sql($node, standing($old)), 'attached', 'the partition stays all the while');
# It is lost between detach and move.
sql($node, "create schema nowhere authorization app; select tasker.alter_parent('$parent', 'retention_action', 'schema:nowhere')");
hold_last_step($parent);
becomes(standing($old), 'table', 'with the schema there, it is detached');
sql($node, 'drop schema nowhere');
$other->query_safe('rollback');
rounds();
is(sql($node, standing($old)), 'table', 'the schema is gone before the move: the table waits');
like(reason($parent), qr/schema "nowhere" does not exist/, 'and it is said why');
sql($node, 'create schema nowhere authorization app');
becomes(standing($old =~ s/app\./nowhere./r), 'table', 'then it is moved');
is(failing($parent), '', 'nothing fails any more');
is(sql($node, "select count(*) from pg_constraint where conrelid = 'nowhere.stuck_p20200101'::regclass and contype = 'c'"), '0', 'without a check');

# --- legal hold, and other changes of mind ---------------------------------------------------------------------

sub change_of_mind
{
	my ($name, $action, $change, $undo, $reason) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $set = make_set($name, $action);
	my $table = old_partition($set, '2020-01-01');
	my $bound = sql($node, "select pg_get_expr(relpartbound, oid) from pg_class where oid = '$table'::regclass");
	$other->query_safe("begin; select tasker.alter_parent('$set', $change)");
	becomes(standing($table), 'table', "$name: detached");
	$other->query_safe('commit');
	becomes(standing($table), 'attached', "$name: attached again");
	becomes("select string_agg(reason, ' ') from tasker.part_retirement where parent = '$set'::regclass", $reason, "$name: because $reason");
	is(sql($node, "select pg_get_expr(relpartbound, oid) from pg_class where oid = '$table'::regclass"), $bound, "$name: as it was");
	is(sql($node, "select count(*) from pg_constraint where conrelid = '$table'::regclass and contype = 'c'"), '0', "$name: without a check");
	is(sql($node, "select count(*) from $set where ts < '2021-01-01'"), '2', "$name: with its rows");
	sql($node, "select tasker.alter_parent('$set', $undo)");
	return becomes("select count(*) from pg_inherits where inhrelid = to_regclass('$table')", '0', "$name: in the end it goes");
}

foreach my $action ('drop', 'detach', 'schema:Old Things')
{
	my $name = 'held_' . ($action =~ s/\W.*//r);
	change_of_mind($name, $action, "'legal_hold', 'true'", "'legal_hold', 'false'", 'the set is under legal hold');
}
change_of_mind('longer', 'drop', "'retention', '100 years'", "'retention', '1 day'", 'it is younger than the set\'s retention');
change_of_mind('no_retention', 'drop', "'retention', null", "'retention', '1 day'", 'the set has no retention any more');

# Bounds that keys do not know exactly, in another schema than the parent's, by hand and with an odd name.
sql($node, q{set role app; create table app.ids (id uuid not null) partition by range (id);
	create table "Old Things"."by ""hand""" partition of app.ids
		for values from (minvalue) to ('016f6000-0001-7abc-8000-000000000001')});
sql($node, q{select tasker.create_parent('app.ids', 'id', '1 day', 1, '7 days')});
$old = '"Old Things"."by ""hand"""';
my $bound = sql($node, "select pg_get_expr(relpartbound, oid) from pg_class where oid = '$old'::regclass");
$other->query_safe("begin; select tasker.alter_parent('app.ids', 'legal_hold', 'true')");
becomes(standing($old), 'table', 'a partition in another schema is detached');
is(sql($node, "select state from tasker.show_partitions('app.ids') where partition = '$old'::regclass"), 'detached', 'and shown as that');
$other->query_safe('commit');
becomes(standing($old), 'attached', 'and attached again under legal hold');
is(sql($node, "select pg_get_expr(relpartbound, oid) from pg_class where oid = '$old'::regclass"), $bound, 'with the very bounds that it had');
sql($node, "select tasker.alter_parent('app.ids', 'legal_hold', 'false')");
becomes(standing($old), 'gone', 'then it is dropped');
is(booked('app.ids'), '0', 'and the book is empty');

# --- what is in the way ---------------------------------------------------------------------------------------------

# Rows of another table refer to the partition.
sql($node, q{set role app; create table app.referred (id bigint primary key) partition by range (id);
	create table app.referring (id bigint references app.referred)});
sql($node, q{select tasker.create_parent('app.referred', 'id', '100', 1); select tasker.alter_parent('app.referred', 'retention', '50');
	select tasker.create_partition('app.referred', '500'); insert into app.referred values (1), (501); insert into app.referring values (1)});
$old = sql($node, q{select tasker.partition_of('app.referred', '1')});
$log = -s $node->logfile;
rounds();
is(sql($node, standing($old)), 'attached', 'a partition that rows refer to stays');
like(reason('app.referred'), qr/^rows of table app.referring refer to partition "\w+"\. Delete those rows first/, 'with the reason and a hint');
rounds();
is(scalar(() = slurp_file($node->logfile, $log) =~ /WARNING:.*rows of table app.referring/g), 1, 'logged once');
is(sql($node, "select bool_and(next_try_at > clock_timestamp()) from (select next_try_at from tasker.part_retirement where parent = 'app.referred'::regclass) t"), 't', 'and tried again later');
sql($node, 'delete from app.referring');
becomes(standing($old), 'gone', 'without them it goes');

# The owner of the set may not read them all: found before anything is begun, and no policy runs in the owner's name.
sql($node, q{create role guest login; create schema guest authorization guest; set role app;
	create table app.visited (id bigint primary key) partition by range (id);
	grant references on app.visited to guest; grant usage on schema app to guest;
	create table app.spied (who name); create function app.note() returns boolean language plpgsql as
		$f$ begin insert into app.spied values (current_user); return true; end $f$});
sql($node, q{set role guest; create table guest.visitor (id bigint references app.visited)});
sql($node, q{select tasker.create_parent('app.visited', 'id', '100', 1); select tasker.alter_parent('app.visited', 'retention', '50');
	select tasker.create_partition('app.visited', '500'); insert into app.visited values (1), (501)});
$old = sql($node, q{select tasker.partition_of('app.visited', '1')});
rounds();
is(sql($node, standing($old)), 'attached', 'a partition that a table of somebody else refers to stays');
like(reason('app.visited'), qr/^role "app" cannot read all of table guest.visitor, which refers to partition "\w+"\. .*permission denied for schema guest.* Grant that role/, 'with the reason and a hint');
is(sql($node, "select count(*) from tasker.part_retirement where parent = 'app.visited'::regclass and state = 'leaving'"), '0', 'and is not booked as leaving');
sql($node, q{grant usage on schema guest to app; set role guest; grant select on guest.visitor to app;
	insert into guest.visitor values (501); alter table guest.visitor enable row level security;
	create policy spy on guest.visitor using (app.note())});
is(sql($node, 'set role app; select count(*) from guest.visitor; select count(*) from app.spied'), "1\n1", 'a policy that the owner of the set would run');
rounds();
is(sql($node, standing($old)), 'attached', 'under a policy it stays too');
like(reason('app.visited'), qr/affected by row-level security policy for table "visitor"/, 'which is said');
is(sql($node, 'select count(*) from app.spied'), '1', 'and the policy has not run again');
sql($node, 'drop policy spy on guest.visitor; alter table guest.visitor disable row level security');
becomes(standing($old), 'gone', 'readable at last, it goes');

# A view reads it.
$parent = make_set('seen', 'drop');
$old = old_partition($parent, '2020-01-01');
sql($node, "create view app.sight as select * from $old");
rounds();
is(sql($node, standing($old)), 'attached', 'a partition that a view reads is not detached to be dropped');
like(reason($parent), qr/view app.sight depends on partition "seen_p20200101"/, 'which is said');
sql($node, "select tasker.alter_parent('$parent', 'retention_action', 'detach')");
becomes(standing($old), 'table', 'to be kept it is');

# It belongs to somebody else than the set.
$parent = make_set('foreign_owner', 'drop');
$old = old_partition($parent, '2020-01-01');
sql($node, "alter table $old owner to postgres");
rounds();
is(sql($node, standing($old)), 'attached', 'a partition of another owner stays');
like(reason($parent), qr/partition "\w+" does not belong to role "app"/, 'which is said');
sql($node, "alter table $old owner to clerk");
becomes(standing($old), 'gone', 'of a role that the owner is a member of, it goes');
$old = old_partition($parent, '2020-01-02');
sql($node, "alter table $parent owner to clerk; alter table $old owner to clerk");
becomes(standing($old), 'gone', 'the parent has changed hands and its partitions with it');

# The set has a DEFAULT partition.
$parent = make_set('catchall', 'detach', 'set role app; create table app.rest partition of app.catchall default');
$old = old_partition($parent, '2020-01-01');
sql($node, "insert into $parent values ('1999-01-01', 0)");
$log = -s $node->logfile;
becomes(standing($old), 'table', 'beside a DEFAULT partition it is detached without CONCURRENTLY');
like(slurp_file($node->logfile, $log), qr/LOG:  detaching partition "catchall_p20200101" without CONCURRENTLY.*DEFAULT partition excludes/s, 'which is said');
is(sql($node, "select count(*) from pg_constraint where conrelid = '$old'::regclass"), '0', 'no check is left');
$old = old_partition($parent, '2020-01-02');
$reader->query_safe("begin; select count(*) from $parent");
$log = -s $node->logfile;
rounds();
is(sql($node, standing($old)), 'attached', 'behind a reader it is put off');
my $pid = $reader->query_safe('select pg_backend_pid()');
like(reason($parent), qr/lock timeout: in use by process $pid, in a transaction since/, 'and it is said whom it waits for');
$reader->query_safe('commit');
becomes(standing($old), 'table', 'and done afterwards');

# A foreign table.
sql($node, 'create foreign data wrapper nothing; create server nothing foreign data wrapper nothing; grant usage on foreign server nothing to app');
foreach my $action ('drop', 'detach', 'schema:Old Things')
{
	my $name = 'remote_' . ($action =~ s/\W.*//r);
	$parent = make_set($name, $action, "set role app; create foreign table app.${name}_old partition of app.$name for values from ('2020-01-01') to ('2020-01-02') server nothing");
	my $result = $action eq 'schema:Old Things' ? "\"Old Things\".${name}_old" : "app.${name}_old";
	becomes("select count(*) from pg_inherits where inhrelid = to_regclass('app.${name}_old')", '0', "$action: a foreign table leaves");
	becomes(standing($result), $action eq 'drop' ? 'gone' : 'table', "$action: it is dropped, kept or moved like any other");
	is(booked($parent), '0', "$action: and is no longer in the book");
}

# A partition that is partitioned itself.
$parent = make_set('deep', 'drop', q{set role app; create table app.deeper partition of app.deep for values from ('2020-01-01') to ('2020-02-01') partition by range (id);
	create table app.deepest partition of app.deeper for values from (0) to (10)});
becomes(standing('app.deeper'), 'gone', 'a partition that is partitioned itself goes');
is(sql($node, standing('app.deepest')), 'gone', 'with its own');

# A prepared transaction has it.
$parent = make_set('prepared', 'drop');
$old = old_partition($parent, '2020-01-01');
$other->query_safe("begin; insert into $parent values ('2020-01-01 12:00', 3); prepare transaction 'in the way'");
rounds();
is(sql($node, standing($old)), 'attached', 'a prepared transaction has it: it makes way');
like(reason($parent), qr/1 long transactions are using "prepared"/, 'and says so');
sql($node, "update tasker.part_retirement set failures = 5 where parent = '$parent'::regclass");
becomes(standing($old), 'pending', 'in the end the detach begins');
becomes("select coalesce(bool_or(reason ~ 'in use by prepared transaction \"in the way\"'), false) from tasker.part_retirement where parent = '$parent'::regclass",
	't', 'and it is said whom it waits for');
is(sql($node, "set lock_timeout = '1s'; insert into $parent values (now(), 1); select count(*) from $parent"), '1', 'nobody else has to wait');
sql($node, "commit prepared 'in the way'");
becomes(standing($old), 'gone', 'then it goes');

# --- what others do meanwhile ------------------------------------------------------------------------------------

# Renamed and moved while it is attached, or while its detach is pending: it goes all the same.
$parent = make_set('renamed', 'detach');
$old = old_partition($parent, '2020-01-01');
sql($node, "select tasker.alter_parent('$parent', 'legal_hold', 'true')");
becomes("select count(*) from tasker.part_retirement where partition_name = 'renamed_p20200101'", '1', 'a refused partition');
sql($node, "alter table $old rename to now_so; alter table app.now_so set schema \"Old Things\"");
becomes("select string_agg(partition_schema || '.' || partition_name, ' ') from tasker.part_retirement where parent = '$parent'::regclass", 'Old Things.now_so', 'the book follows its name');
sql($node, "select tasker.alter_parent('$parent', 'legal_hold', 'false')");
# The lock makes it wait in the detach, the snapshot in FINALIZE.
sql($node, 'create table unrelated (a int)');
$reader->query_safe("begin isolation level repeatable read; lock table only $parent in access share mode; select count(*) from unrelated");
sql($node, "update tasker.part_retirement set failures = 5 where parent = '$parent'::regclass");
becomes(standing('"Old Things".now_so'), 'pending', 'its detach is pending');
sql($node, "alter table \"Old Things\".now_so rename to still_so");
$reader->query_safe('commit');
becomes(standing('"Old Things".still_so'), 'table', 'renamed once more, it goes all the same');
becomes("select count(*) from tasker.part_retirement where parent = '$parent'::regclass", '0', 'and out of the book');
is(sql($node, "select count(*) from pg_constraint where conrelid = '\"Old Things\".still_so'::regclass"), '0', 'without a check');

# Taken while it waits for its drop: renamed, moved, attached elsewhere, dropped and made anew. None is ours any more.
my %taken = (
	'was renamed' => [ 'alter table %s rename to "taken %d"', 'app."taken %d"' ],
	'was moved' => [ 'alter table %s set schema "Old Things"', '"Old Things".taker_p202001%02d' ],
	'is an heir' => [ 'create table app.ancestor_%2$d (ts timestamptz not null, id bigint); alter table %1$s inherit app.ancestor_%2$d', 'app.taker_p202001%02d' ],
	'is a new one' => [ 'drop table %1$s; create table %1$s (mine int)', 'app.taker_p202001%02d' ]);
$parent = make_set('taker', 'drop');
my $day = 0;
foreach my $how (sort keys %taken)
{
	$day++;
	$old = old_partition($parent, sprintf '2020-01-%02d', $day);
	hold_last_step($parent);
	becomes("select count(*) from pg_inherits where inhrelid = '$old'::regclass", '0', "$how: detached");
	{ no warnings 'redundant'; sql($node, sprintf $taken{$how}[0], $old, $day); }
	$other->query_safe('commit');
	becomes("select count(*) from tasker.part_retirement where parent = '$parent'::regclass", '0', "$how: forgotten");
	isnt(sql($node, standing(sprintf $taken{$how}[1], $day)), 'gone', "$how: the table stays");
}

# The parent is renamed and moved, then dropped, then its name is somebody else's.
$parent = make_set('wandering', 'drop');
$old = old_partition($parent, '2020-01-01');
sql($node, "alter table $parent rename to wandered; alter table app.wandered set schema \"Old Things\"");
becomes(standing($old), 'gone', 'a parent that was renamed and moved is looked after');
$parent = '"Old Things".wandered';
$old = old_partition($parent, '2020-01-02');
hold_last_step($parent);
becomes(standing($old), 'table', 'another is detached');
$other->query_safe('rollback') if 0;
sql($node, "update tasker.part_retirement set next_try_at = 'infinity'");
$other->query_safe('rollback');
sql($node, "drop table $parent");
becomes("select count(*) from tasker.part_retirement", '0', 'the parent is dropped, and the book has forgotten the set') or diag(sql($node, 'table tasker.part_retirement'));
is(sql($node, standing($old)), 'table', 'the table that it had let go stays');

# No longer a set.
$parent = make_set('released', 'drop');
$old = old_partition($parent, '2020-01-01');
hold_last_step($parent);
becomes(standing($old), 'table', 'detached');
sql($node, "update tasker.part_retirement set next_try_at = 'infinity'");
$other->query_safe('rollback');
sql($node, "select tasker.drop_partition_set('$parent')");
rounds();
is(sql($node, standing($old)), 'table', 'the set is released before the drop: the table stays');

# Detached by hand, while it is refused and while somebody else's detach is pending.
$parent = make_set('by_hand', 'drop');
$old = old_partition($parent, '2020-01-01');
sql($node, "select tasker.alter_parent('$parent', 'legal_hold', 'true')");
becomes("select count(*) from tasker.part_retirement where parent = '$parent'::regclass", '1', 'refused');
sql($node, "alter table $parent detach partition $old");
becomes("select count(*) from tasker.part_retirement where parent = '$parent'::regclass", '0', 'detached by hand, it is no longer counted as refused');
sql($node, "select tasker.alter_parent('$parent', 'legal_hold', 'false')");
rounds();
is(sql($node, standing($old)), 'table', 'nor dropped');
sql($node, "select tasker.alter_parent('$parent', 'retention', null)");
$old = old_partition($parent, '2020-01-02');
$reader->query_safe("begin; select count(*) from $parent");
$other->query_until(qr/asked/, "\\echo asked\nalter table $parent detach partition $old concurrently;\n\\echo detached\n");
wait_until($node, standing($old) =~ s/^select (.*)$/select ($1) = 'pending'/rs, 'somebody\'s own DETACH CONCURRENTLY waits');
rounds();
$reader->query_safe('commit');
$other->query_until(qr/detached/, '');
is($other->{stderr} // '', '', 'it is not finalized under his hands');
is(sql($node, standing($old)), 'table', 'and ends as he meant it');

# --- how long a set keeps -------------------------------------------------------------------------------------------

sub cut
{
	my ($table) = @_;
	return sql($node, "select coalesce(string_agg(inhrelid::regclass::text, ' ' order by inhrelid::regclass::text), '') from pg_inherits where inhparent = '$table'::regclass");
}

# Numbers: so many behind the last partition with rows in it.
sql($node, q{set role app; create table app.numbers (n int not null) partition by range (n)});
sql($node, q{select tasker.create_parent('app.numbers', 'n', '100', 0); insert into app.numbers values (1);
	select tasker.create_partition('app.numbers', n::text) from generate_series(100, 500, 100) n; insert into app.numbers values (250), (450)});
my $all = cut('app.numbers');
rounds();
is(cut('app.numbers'), $all, 'numbers: nothing goes without a retention');
sql($node, q{select tasker.alter_parent('app.numbers', 'retention', '1000')});
rounds();
is(cut('app.numbers'), $all, 'numbers: nor with one longer than the data');
sql($node, q{select tasker.alter_parent('app.numbers', 'retention', '9223372036854775807')});
rounds();
is(cut('app.numbers'), $all, 'numbers: nor with the longest');
sql($node, q{select tasker.alter_parent('app.numbers', 'retention', '150')});
becomes("select min(n) from app.numbers", '250', 'numbers: those that end 150 below the current partition go');
becomes("select count(*) from pg_inherits where inhparent = 'app.numbers'::regclass", '4', 'numbers: two of six');
sql($node, q{select tasker.alter_parent('app.numbers', 'retention', '0')});
becomes("select count(*) from pg_inherits where inhparent = 'app.numbers'::regclass", '2', 'numbers: retention zero keeps the current one and what is ahead');
is(sql($node, 'select string_agg(n::text, \' \') from app.numbers'), '450', 'numbers: with its row');

# Zero: whatever is past.
$parent = make_set('zero', 'drop');
sql($node, "select tasker.alter_parent('$parent', 'retention', '0 days'); select tasker.create_partition('$parent', (now() - interval '1 day')::text), tasker.create_partition('$parent', (now() - interval '2 days')::text)");
becomes("select count(*) from tasker.show_partitions('$parent') where upper_bound::timestamptz <= now()", '0', 'retention zero: what is past goes');
is(sql($node, "select count(*) from tasker.show_partitions('$parent')"), '2', 'the current one and those ahead stay');

# The longest.
$parent = make_set('forever', 'drop');
sql($node, "select tasker.alter_parent('$parent', 'retention', '4000 years')");
$old = old_partition($parent, '1999-01-01');
rounds();
is(sql($node, standing($old)), 'attached', 'the longest retention keeps everything');
is(failing($parent), '', 'and is no error');

# Months are those of the set's own clocks: one month before 1 March 00:30 in Auckland is 1 February there, and in UTC
# it is the day before.
my $offset = sql($node, "select ceil(extract(epoch from timestamptz '2031-03-01 00:30 Pacific/Auckland' - now()))::int");
foreach my $zone ('Pacific/Auckland', 'UTC')
{
	my $name = $zone eq 'UTC' ? 'months_utc' : 'months_there';
	sql($node, "set role app; create table app.$name (ts timestamptz not null) partition by range (ts)");
	sql($node, "set tasker.clock_offset = $offset; select tasker.create_parent('app.$name', 'ts', '1 day', 0, '1 month', 'drop', '2031-01-25', '$zone')");
}
$node->append_conf('postgresql.conf', "tasker.clock_offset = $offset\n");
$node->reload;
becomes("select min(lower_bound::timestamptz) at time zone 'Pacific/Auckland' from tasker.show_partitions('app.months_there')",
	'2031-02-01 00:00:00', 'a month of the clocks there: January is gone, February stays');
becomes("select min(lower_bound::timestamptz) at time zone 'UTC' from tasker.show_partitions('app.months_utc')",
	'2031-01-28 00:00:00', 'of UTC\'s, where it is the 28th still: from 28 January on');

$_->quit foreach ($reader, $other);
$node->stop;
done_testing();
