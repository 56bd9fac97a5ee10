# Analyze: partitioned tables get statistics of their own when enough rows have changed, whoever manages them, and
# only then; autovacuum's visits to the partitions do not hide changes.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

# Without a worker every round is ours.
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

# Changes data, and has them counted when it returns: a session reports its counters when it goes idle, at most once a
# second unless it is told to.
sub change { return sql($node, "$_[0];\nselect from pg_stat_force_next_flush()"); }

sub analyzed
{
	my ($table) = @_;
	return sql($node, "select analyze_count from pg_stat_all_tables where relid = '$table'::regclass");
}

sub round { return sql($node, 'call tasker.analyze_parents()'); }

round();
is(join(' ', map { analyzed($_) } qw(event event_2 task empty)), '0 0 0 0', 'empty tables need no analyze');

# The join of a parent with another is what its statistics are for.
change(q{
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
change("update task set name = 'x' where id <= 150");
round();
is(analyzed('task'), '1', 'too few rows have changed');
is(sql($node, "select tasker._partition_rows_changed('task')"), '150', 'they are counted');
sql($node, 'vacuum analyze task_1');
is(sql($node, "select n_mod_since_analyze from pg_stat_all_tables where relname = 'task_1'"), '0', 'the partition itself has been analyzed');
change("update task set name = 'y' where id <= 149");
round();
is(analyzed('task'), '1', 'still too few');
change("delete from task where id <= 3");
round();
is(analyzed('task'), '2', 'then the parent is due, although its partition was analyzed in between');
is(sql($node, "select tasker._partition_rows_changed('task')"), '0', 'the count begins anew');

# Rows that come and go with whole partitions.
change(q{
	create table task_3 (like task); insert into task_3 select 200000 + i, '' from generate_series(1, 500) i;
	alter table task attach partition task_3 for values from (200000) to (300000);
});
round();
is(analyzed('task'), '3', 'a partition attached with rows in it counts');
change('drop table task_3');
round();
is(analyzed('task'), '4', 'so does one that is dropped');

# Somebody else's ANALYZE counts as well.
change("update task set name = 'z' where id between 1000 and 1290");
sql($node, 'analyze task');
change("update task set name = 'z' where id between 1000 and 1290");
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

# From here on each test has a table of its own, of 1,000 rows in one partition and none in another: 200 changes do.
sub state_of
{
	my ($table) = @_;
	return sql($node, "select state || ' ' || rows_changed from tasker.analyze_status where parent = '$table'::regclass");
}

sub make
{
	my ($table, $rows) = @_;
	$rows //= 1000;
	change(qq{
		create table $table (id int, v int) partition by range (id);
		create table ${table}_1 partition of $table for values from (0) to (100000);
		create table ${table}_2 partition of $table for values from (100000) to (200000);
		insert into $table select i, i from generate_series(1, $rows) i;
	});
	sql($node, "call tasker.analyze_parents('$table', true)");
	is(state_of($table), 'good 0', "$table is analyzed");
	return;
}

# TRUNCATE and rewriting.
make('emptied');
change('truncate emptied_1');
is(state_of('emptied'), 'due 1000', 'TRUNCATE counts with the rows that were there');
change('insert into emptied select i, i from generate_series(1, 300) i');
is(state_of('emptied'), 'due 700', 'new rows in their place are fewer');
round();
is(analyzed('emptied') . ' ' . state_of('emptied'), '2 good 0', 'it is analyzed once');
sql($node, 'vacuum full emptied_1');
is(state_of('emptied'), 'good 0', 'a table that is only rewritten has not changed');

# Updates of the same rows again and again.
make('busy');
change('update busy set v = v + 1 where id <= 60') foreach 1 .. 4;
is(state_of('busy'), 'due 240', 'each update counts');
round();
is(analyzed('busy'), '2', 'and in the end makes it due');

# Analyzed by hand, while nobody looked; then the number of rows is all that is known.
make('by_hand');
change('insert into by_hand select i, i from generate_series(1, 190) i');
sql($node, 'analyze by_hand');
change('insert into by_hand select i, i from generate_series(1, 150) i');
is(state_of('by_hand'), 'good 150', 'rows are counted from the ANALYZE by hand on');
round();
change('insert into by_hand select i, i from generate_series(1, 100) i');
is(state_of('by_hand'), 'due 250', 'what was known is carried over');
round();
is(analyzed('by_hand'), '3', 'and makes it due');

# Partitions that nobody has ever counted: they hold what their size says.
make('uncounted');
change(q{insert into uncounted select i, i from generate_series(100001, 110000) i});
sql($node, q{select pg_stat_reset_single_table_counters('uncounted_2'::regclass)});
like(state_of('uncounted'), qr/^due \d{4,5}$/, 'rows that the counters have forgotten show in the size of the partition');
round();
is(analyzed('uncounted') . ' ' . state_of('uncounted'), '2 good 0', 'that makes it due once');
round();
is(analyzed('uncounted'), '2', 'and not again');

# Whoever wants it otherwise.
sub alter { return sql($node, "select tasker.alter_analyze('$_[0]', '$_[1]', " . (defined $_[2] ? "'$_[2]'" : 'null') . ')'); }

make('excluded');
alter('excluded', 'enabled', 'off');
change('update excluded set v = 0');
is(state_of('excluded'), 'excluded 1000', 'a table can be excluded');
round();
is(analyzed('excluded'), '1', 'then it is left alone');
sql($node, q{call tasker.analyze_parents('excluded', true)});
is(analyzed('excluded'), '2', 'except by force');
change('update excluded set v = 1');
alter('excluded', 'enabled', undef);
is(sql($node, 'select count(*) from tasker.part_analyze_config'), '0', 'null takes back what was said');
round();
is(analyzed('excluded'), '3', 'and it is analyzed again');
alter('excluded', 'threshold', '5000');
alter('excluded', 'scale_factor', '0.5');
is(sql($node, q{select rows_needed from tasker.analyze_status where parent = 'excluded'::regclass}), '5500', 'thresholds of its own');
change('update excluded set v = 2');
round();
is(analyzed('excluded'), '3', 'are kept to');
sql($node, q{update tasker.part_analyze_config set enabled = false where parent = 'excluded'::regclass});
change('drop table excluded');
round();
is(sql($node, 'select count(*) from tasker.part_analyze_config'), '0', 'they go with the table');
is(sql($node, 'select count(*) from tasker.part_analyze a where not exists (select from pg_class where oid = a.parent)'), '0', 'so does the book');

alter('event', 'enabled', 'false');
is(sql($node, q{select string_agg(state, ' ') from tasker.analyze_status where parent in ('event'::regclass, 'event_2'::regclass)}),
	'excluded excluded', 'an excluded table is excluded with its branches');
alter('event_2', 'enabled', 'true');
is(sql($node, q{select string_agg(state, ' ' order by parent) from tasker.analyze_status where parent in ('event'::regclass, 'event_2'::regclass)}),
	'excluded good', 'unless a branch says otherwise');
alter($_, 'enabled', undef) foreach qw(event event_2);

like(error_of($node, q{select tasker.alter_analyze('task', 'speed', '1')}), qr/^22023: unknown setting "speed"/, 'unknown setting');
like(error_of($node, q{select tasker.alter_analyze('task', 'enabled', 'perhaps')}), qr/^22023: invalid value for setting "enabled": "perhaps"/, 'bad boolean');
like(error_of($node, q{select tasker.alter_analyze('task', 'threshold', '-1')}), qr/^22023: invalid value for setting "threshold": "-1"/, 'bad threshold');
like(error_of($node, q{select tasker.alter_analyze('task', 'threshold', '99999999999')}), qr/^22023: invalid value for setting "threshold"/, 'too large a threshold');
like(error_of($node, q{select tasker.alter_analyze('task', 'scale_factor', 'NaN')}), qr/^22023: invalid value for setting "scale_factor": "NaN"/, 'bad scale factor');
like(error_of($node, q{select tasker.alter_analyze('task_1', 'enabled', 'off')}), qr/^42809: "task_1" is not a partitioned table/, 'not a parent');
like(error_of($node, q{select tasker.alter_analyze(4294967295::oid, 'enabled', 'off')}), qr/^42P01: relation with OID 4294967295 does not exist/, 'no table');

sql($node, 'create role ana_nobody; grant usage on schema tasker to ana_nobody; create role ana_observer in role tasker_observer; create role ana_admin in role tasker_admin');
like(error_of($node, q{set role ana_nobody; select tasker.alter_analyze('task', 'enabled', 'off')}), qr/^42501: /, 'not everybody may change that');
like(error_of($node, q{set role ana_nobody; select * from tasker.analyze_status}), qr/^42501: /, '... or look');
is(sql($node, q{set role ana_observer; select state from tasker.analyze_status where parent = 'task'::regclass}), 'good', 'observers may look');
like(error_of($node, q{set role ana_observer; select tasker.alter_analyze('task', 'enabled', 'off')}), qr/^42501: /, '... but not change it');
is(sql($node, q{set role ana_admin; select tasker.alter_analyze('task', 'enabled', 'on'); select enabled from tasker.part_analyze_config}), "\nt", 'admins may');
alter('task', 'enabled', undef);

# A session that has found nothing to do hears of everything that can make a table due without a row being written.
my $session = $node->background_psql('postgres', on_error_stop => 0);
sub session_round { return $session->query_safe('call tasker.analyze_parents()'); }
make('heard');
session_round() foreach 1 .. 2;
# The one who truncates reports it later than the table's new file is seen.
sql($node, 'truncate heard_1');
session_round();
is(analyzed('heard'), '2', 'a TRUNCATE');
change(q{
	create table heard_3 (like heard); insert into heard_3 select 200000 + i, 1 from generate_series(1, 500) i;
});
session_round();
change('alter table heard attach partition heard_3 for values from (200000) to (300000)');
session_round();
is(analyzed('heard'), '3', 'an ATTACH');
sql($node, 'alter table heard detach partition heard_3');
session_round();
is(analyzed('heard'), '4', 'a DETACH');
change('alter table heard attach partition heard_3 for values from (200000) to (300000)');
session_round();
is(analyzed('heard'), '5', 'the same table again');
change('drop table heard_3');
session_round();
is(analyzed('heard'), '6', 'a DROP');
change('insert into heard select i, i from generate_series(1, 1000) i');
session_round();
is(analyzed('heard'), '7', 'rows, at once');
change('update heard set v = 0 where id <= 60');
session_round();
change('update heard set v = 0 where id <= 60') foreach 1 .. 2;
session_round();
is(analyzed('heard'), '7', 'few rows do not');
alter('heard', 'threshold', '50');
session_round();
is(analyzed('heard'), '8', 'a lower threshold does');
alter('heard', 'threshold', undef);
change('update heard set v = 0 where id <= 110');
session_round();
is(analyzed('heard'), '8', '110 of 1000 are too few again');
$node->append_conf('postgresql.conf', "tasker.analyze_threshold = 5\n");
$node->reload;
wait_until($node, q{select current_setting('tasker.analyze_threshold') = '5'}, 'the setting is lowered');
session_round();
is(analyzed('heard'), '9', 'they do with another setting');
$node->append_conf('postgresql.conf', "tasker.analyze_threshold = 100\n");
$node->reload;
wait_until($node, q{select current_setting('tasker.analyze_threshold') = '100'}, 'the setting is back');

# A round with nothing to do locks nothing and writes nothing. The table that is made and dropped lets it look in earnest.
round();
$holder = $node->background_psql('postgres', on_error_stop => 0);
$holder->query_safe(sql($node, q{select 'begin; ' || string_agg(format('lock table %s in access exclusive mode;', oid::regclass), ' ')
	from pg_class where relkind = 'p' and relnamespace = 'public'::regnamespace}));
change('create table seen (); drop table seen');
my $written = q{select pg_current_xact_id_if_assigned() is null, pg_snapshot_xmax(pg_current_snapshot()), (select count(*) from tasker.part_failure)};
my $before = sql($node, $written);
($status, $out, $err) = $node->psql('postgres', 'call tasker.analyze_parents()');
is("$status $err", '0 ', 'a round with nothing to do needs no lock on any parent');
session_round();
is(sql($node, $written), $before, 'nor does it write');
$holder->query_safe('rollback');
$holder->quit;
$session->quit;

# Owners. The parent belongs to a role that has no right on the partition and none on Tasker.
change(q{
	create role ana_owner; create role ana_other; create schema ana authorization ana_owner;
	grant create on schema ana to ana_other;
	set role ana_owner;
	create table ana."Odd ""name" (id int, v int) partition by range (id);
	create table ana.odd_1 partition of ana."Odd ""name" for values from (0) to (1000000);
	create function ana.who(v int) returns int immutable language plpgsql as $$
	begin
		if current_user <> 'ana_owner' then raise 'run by %', current_user; end if;
		return v % 7;
	end $$;
	create statistics ana.who_stat on (ana.who(v)) from ana."Odd ""name";
	reset role;
	alter table ana.odd_1 owner to ana_other;
	insert into ana.odd_1 select i, i from generate_series(1, 1000) i;
});
round();
is(analyzed('ana."Odd ""name"') . ' ' . state_of('ana."Odd ""name"'), '1 good 0', 'a parent is analyzed as its owner, partitions of others included');
is(sql($node, q{select n_distinct from pg_stats_ext_exprs where statistics_name = 'who_stat' and inherited}), '7', 'with its statistics on expressions');

# Foreign tables among the partitions, one that can be sampled and one that cannot be had.
my $file = $node->basedir . '/foreign.csv';
append_to_file($file, join '', map { "$_,1\n" } 200_000 .. 200_499);
change(qq{
	create extension file_fdw; create server files foreign data wrapper file_fdw;
	create table mixed (id int, v int) partition by range (id);
	create table mixed_1 partition of mixed for values from (0) to (100000);
	create foreign table mixed_f partition of mixed for values from (200000) to (300000) server files options (filename '$file', format 'csv');
	insert into mixed select i, i from generate_series(1, 1000) i;
});
round();
is(analyzed('mixed') . ' ' . state_of('mixed'), '1 good 0', 'a parent with a foreign partition is analyzed');
is(sql($node, q{select reltuples from pg_class where relname = 'mixed'}), '1500', 'over all its rows');
rename $file, "$file.away";
change('update mixed set v = 0 where id < 100000; update task set name = name');
($status, $out, $err) = $node->psql('postgres', 'call tasker.analyze_parents()');
is($status, 0, 'a foreign partition that cannot be read does not end the round');
like($err, qr/WARNING:  analyze of partitioned table "mixed" failed: could not stat file/, 'it is reported');
is(analyzed('mixed') . ' ' . analyzed('task'), '1 8', 'and the others are analyzed');
is(state_of('mixed'), 'failing 1000', 'what has changed is not forgotten');
change('truncate mixed_1; insert into mixed select i, i from generate_series(1, 1450) i');
sql($node, q{select tasker.alter_analyze('mixed', 'enabled', 'off')});
round();
is(sql($node, 'select count(*) from tasker.part_failure'), '0', 'a failure is not remembered of what is not to be done any more');
alter('mixed', 'enabled', undef);
rename "$file.away", $file;
round();
is(analyzed('mixed') . ' ' . state_of('mixed'), '2 good 0', 'once it can be read it is analyzed');

# Temporary tables are their session's own business; unlogged ones are like others.
sql($node, q{
	create temporary table passing (id int) partition by range (id);
	create temporary table passing_1 partition of passing for values from (0) to (1000000);
	insert into passing select generate_series(1, 1000);
	call tasker.analyze_parents();
	select 1 / (case when reltuples = -1 then 1 else 0 end) from pg_class where oid = 'passing'::regclass;
	call tasker.analyze_parents('passing', true);
	select 1 / (case when reltuples = 1000 then 1 else 0 end) from pg_class where oid = 'passing'::regclass;
});
pass('a temporary table is analyzed only when it is named');
change(q{
	create table swift (id int) partition by range (id);
	create unlogged table swift_1 partition of swift for values from (0) to (1000000);
	insert into swift select generate_series(1, 1000);
});
round();
is(analyzed('swift'), '1', 'a parent of unlogged partitions is analyzed');

# Deep trees: only the levels that have changed, each once.
change(q{
	create table deep (id int, a int, b int) partition by range (id);
	create table deep_1 partition of deep for values from (0) to (1000) partition by list (a);
	create table deep_1_1 partition of deep_1 for values in (1) partition by list (b);
	create table deep_1_1_1 partition of deep_1_1 for values in (1);
	create table deep_1_2 partition of deep_1 for values in (2);
	create table deep_2 partition of deep for values from (1000) to (20000) partition by list (a);
	create table deep_2_1 partition of deep_2 default;
	insert into deep select i, 1 + i % 2, 1 from generate_series(0, 1999) i;
});
my $deep = q{select string_agg(relname || ' ' || analyze_count, ', ' order by relname) from pg_stat_all_tables where relname like 'deep%'};
round();
is(sql($node, $deep), 'deep 1, deep_1 1, deep_1_1 1, deep_1_1_1 0, deep_1_2 0, deep_2 1, deep_2_1 0', 'every level has its own statistics');
change('update deep set b = 1 where a = 1 and id < 1000');
round();
is(sql($node, $deep), 'deep 2, deep_1 2, deep_1_1 2, deep_1_1_1 0, deep_1_2 0, deep_2 1, deep_2_1 0', 'a branch without changes is left alone');

$node->stop;

done_testing();
