# Analyze when the counters that it counts by are lost: a reset, a crash, a promotion, a restored dump. What changed
# shortly before is found where it can be, nothing is analyzed without a reason, and nothing again and again.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

# Without a worker every round is ours.
my $node = tasker_cluster('primary', preload => 0, init => [ allows_streaming => 1 ],
	conf => "autovacuum = off\ntasker.analyze_threshold = 100\ntasker.analyze_scale_factor = 0.1\n");

# Changes data, and has them counted when it returns.
sub change { return sql($node, "$_[0];\nselect from pg_stat_force_next_flush()"); }

sub round { return sql($node, 'call tasker.analyze_parents()'); }

# Which tables have been analyzed since the last call, by the rows that the planner thinks they have and when.
my %seen;

sub analyzed
{
	my %now = map { split /\|/ } split /\n/, sql($node, q{select p.parent::oid::regclass, p.xmin || ' ' || k.reltuples || ' ' || p.analyzed_at
		from tasker.part_analyze p join pg_class k on k.oid = p.parent});
	my @changed = sort grep { ($seen{$_} // '') =~ s/^\d+ //r ne $now{$_} =~ s/^\d+ //r } keys %now;
	%seen = %now;
	return "@changed";
}

sub books { return sql($node, q{select string_agg(parent::regclass || ' ' || xmin, ', ' order by parent) from tasker.part_analyze}); }

sub state_of
{
	my ($table) = @_;
	return sql($node, "select state || ' ' || rows_changed from tasker.analyze_status where parent = '$table'::regclass");
}

# Partitions of "counted" have been analyzed, as autovacuum does; those of "fresh" have not, those of "swift" are unlogged.
foreach my $table (qw(counted fresh swift))
{
	my $unlogged = $table eq 'swift' ? 'unlogged' : '';
	change(qq{
		create table $table (id int, v int, filler text) partition by range (id);
		create $unlogged table ${table}_1 partition of $table for values from (0) to (100000);
		create $unlogged table ${table}_2 partition of $table for values from (100000) to (200000);
		create $unlogged table ${table}_3 partition of $table for values from (200000) to (300000);
		insert into $table select i, i, 'abc' from generate_series(1, 5000) i;
		insert into $table select 100000 + i, i, 'abc' from generate_series(1, 5000) i;
	});
}
sql($node, 'analyze counted_1; analyze counted_2; analyze counted_3');
round();
is(analyzed(), 'counted fresh swift', 'all are analyzed');

# A reset of the statistics.
change('update counted set v = 0 where id <= 300');
sql($node, 'select pg_stat_reset()');
like(state_of('counted'), qr/^good \d{1,3}$/, 'after a reset little seems to have changed');
round();
is(analyzed(), '', 'and nothing is analyzed');
my $books = books();
round();
is(books(), $books, 'the books are written anew once');
change('update counted set v = 1 where id <= 500');
like(state_of('counted'), qr/^good [5-9]\d\d$/, 'counting goes on');
round();
is(analyzed(), '', 'nothing is due yet');
change('update counted set v = 2 where id <= 600');
round();
is(analyzed(), 'counted', 'until enough has changed');
is(state_of('counted'), 'good 0', 'and begins anew');

# The counters of one partition.
change(q{update counted set v = 3 where id between 1 and 400; update counted set v = 3 where id between 100001 and 100400});
sql($node, q{select pg_stat_reset_single_table_counters('counted_1'::regclass)});
like(state_of('counted'), qr/^good [4-9]\d\d$/, 'those of the other partitions still count');
round() foreach 1 .. 2;
like(state_of('counted'), qr/^good [4-9]\d\d$/, 'also after the book was written anew');
is(analyzed(), '', 'and do not make it due');

# A crash. What has come in shortly before shows in the size of the partitions.
sub crash
{
	crash_server($node);
	start_after_crash($node);
	return;
}

change('insert into counted select 200000 + i, i, \'abc\' from generate_series(1, 4000) i');
sql($node, 'checkpoint');
crash();
is(sql($node, q{select sum(n_tup_ins) from pg_stat_user_tables where relname like 'counted%'}), '0', 'the counters are lost');
like(state_of('counted'), qr/^due [2-6]\d\d\d$/, 'the rows of a filled partition are found');
like(state_of('fresh'), qr/^good \d{1,3}$/, 'others are as before');
like(state_of('swift'), qr/^due 10000$/, 'an unlogged table has lost its rows');
round();
is(analyzed(), 'counted swift', 'what has changed is analyzed');
round();
is(analyzed(), '', 'once');
foreach my $time (1 .. 2)
{
	$books = books();
	crash();
	round() foreach 1 .. 2;
	is(analyzed(), '', 'another crash makes nothing due');
}
is(books(), $books, 'nor does the last one write anything, with nothing counted in between');
change('insert into fresh select 200000 + i, i, \'abc\' from generate_series(1, 1500) i');
round();
is(analyzed(), 'fresh', 'counting goes on after crashes');
change('insert into counted select 210000 + i, i, \'abc\' from generate_series(1, 1000) i');
round();
is(analyzed(), '', 'with the rows that are there in mind: 1,000 of 14,000 are too few');

# A dump: nothing was ever analyzed where it is restored, and what was excluded still is.
sql($node, q{select tasker.alter_analyze('swift', 'enabled', 'off'); insert into swift select i, i, '' from generate_series(1, 5000) i});
sql($node, 'create database restored');
my $dump = $node->basedir . '/dump.sql';
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'restore');
wait_until($node, q{select count(*) = 3 from tasker.analyze_status where rows_changed > 0}, 'the rows are counted', 'restored');
sql($node, 'call tasker.analyze_parents()', 'restored');
is(sql($node, q{select string_agg(parent || ' ' || state, ', ' order by parent::text) from tasker.analyze_status
	where parent::text not like 'tasker.%'}, 'restored'),
	'counted good, fresh good, swift excluded', 'the parents of a restored database are analyzed but for those that are excluded');
is(sql($node, q{select reltuples from pg_class where relname = 'swift'}, 'restored'), '-1', 'these are not');

# A promoted standby has the books of the primary, and counters that have seen nothing.
round();
analyzed();
my $standby = PostgreSQL::Test::Cluster->new('standby');
$node->backup('backup');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
change('insert into counted select 220000 + i, i, \'abc\' from generate_series(1, 4000) i');
change('update fresh set v = 1 where id <= 200');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(sql($standby, q{select count(*) from tasker.analyze_status where parent::text not like 'tasker.%'}), '3', 'a standby can say how its tables are');
$node->stop;
$standby->promote;
$node = $standby;
round();
is(analyzed(), 'counted', 'promoted, it finds what had come in and analyzes nothing else');
round();
is(analyzed(), '', 'once');
change('update fresh set v = 2 where id <= 3000');
round();
is(analyzed(), 'fresh', 'and counts on its own');

$node->stop;

done_testing();
