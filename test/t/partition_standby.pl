# A standby of a server with partition sets: what can be seen on it, what is refused, and that it takes over when it is
# promoted: it premakes what has become due, completes a detach that was cut off on the primary, and retires.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $primary = tasker_cluster('primary', init => [ allows_streaming => 1 ],
	conf => "autovacuum = off\ntasker.lock_timeout = '50ms'\n");
my $standby = PostgreSQL::Test::Cluster->new('standby');

sub caught_up { return $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')) }

sql($primary, q{
create table events (at timestamptz not null, v int, primary key (at)) partition by range (at);
select tasker.create_parent('events', 'at', '1 day', 3, retention => '1 year');
select tasker.alter_parent('events', 'legal_hold', 'on');
select tasker.create_partition('events', '2020-01-01'), tasker.create_partition('events', '2020-01-02');
insert into events values ('2020-01-01'), ('2020-01-02'), (now());
create table readings (n bigint not null) partition by range (n);
select tasker.create_parent('readings', 'n', '10', 2);
});

$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
# On the standby it is five days later.
$standby->append_conf('postgresql.conf', "tasker.clock_offset = '5 d'\n");
$standby->start;
caught_up();

# --- reading -----------------------------------------------------------------------------------------------------

is(sql($standby, "select count(*) from tasker.show_partitions('events')"), '6', 'the partitions are listed on the standby');
is(sql($standby, "select tasker.partition_of('events', '2020-01-02')"), 'public.events_p20200102', '... and found');
is(sql($standby, "select health, partitions from tasker.partition_status where parent = 'readings'::regclass"), 'healthy|3', '... with their health');
is(sql($standby, "select health from tasker.partition_status where parent = 'events'::regclass"), 'unhealthy', '... as of its own clock');
foreach my $write ("select tasker.create_partition('events', '2020-01-03')", "select tasker.alter_parent('events', 'premake', '5')",
	"select tasker.drop_partition_set('events')", 'call tasker.run_maintenance()', "call tasker.run_maintenance('events')",
	"select tasker.create_parent('events', 'at', '1 day')", 'call tasker.analyze_parents()')
{
	like(error_of($standby, $write), qr/^(?:25006|55000): /, "refused on the standby: $write");
}
is(sql($standby, "select count(*) from pg_stat_activity where backend_type = 'tasker worker'"), '0', 'it has no worker');

# --- promotion -----------------------------------------------------------------------------------------------------

# The primary dies with a detach that was cut off, and its worker never came to it.
sql($primary, 'alter system set tasker.worker = off');
sql($primary, 'select pg_reload_conf()');
wait_until($primary, "select not exists (select from pg_stat_activity where backend_type = 'tasker worker')", 'the primary\'s worker stops');
my $reader = $primary->background_psql('postgres', on_error_stop => 0);
$reader->query_safe('begin; select count(*) from events');
$primary->psql('postgres', "set lock_timeout = '10ms'; alter table events detach partition events_p20200101 concurrently");
is(sql($primary, "select inhdetachpending from pg_inherits where inhrelid = 'events_p20200101'::regclass"), 't', 'a detach is pending on the primary');
sql($primary, "insert into readings values (25)");
caught_up();
is(sql($standby, "select pending_detaches from tasker.partition_status where parent = 'events'::regclass"), '1', 'the standby shows it');
$reader->quit;
crash_server($primary);

my $old = $standby->background_psql('postgres', on_error_stop => 0);
is($old->query_safe("select count(*) from tasker.show_partitions('events')"), '6', 'a session that stays over the promotion');
$standby->promote;
wait_until($standby, "select exists (select from tasker.worker_status where database = 'postgres' and state in ('running', 'working', 'idle', 'sleeping'))
	or exists (select from pg_stat_activity where backend_type = 'tasker worker')", 'the promoted standby gets a worker');
wait_until($standby, "select partitions_ahead = 3 from tasker.partition_status where parent = 'events'::regclass", 'which premakes what has become due');
wait_until($standby, "select partitions_ahead = 2 from tasker.partition_status where parent = 'readings'::regclass", '... in each set');
sql($standby, "insert into events select now() + interval '5 days' + d * interval '1 day' from generate_series(0, 3) d");
is($old->query_safe("select count(*) from tasker.show_partitions('readings')"), '5', 'the old session sees it');
wait_until($standby, "select not exists (select from pg_inherits where inhdetachpending)", 'completes the detach');
is(sql($standby, 'select count(*) from events_p20200101'), '1', '... of a partition that somebody else has detached, and keeps it');
is(sql($standby, 'select count(*) from events'), '6', 'the set has the other rows');
is(sql($standby, 'select adopted_at is null from tasker.part_config where parent = \'events\'::regclass'), 't', 'it is no restored set: nothing waits');
sql($standby, "select tasker.alter_parent('events', 'legal_hold', 'off')");
sql($standby, 'call tasker.run_maintenance()');
wait_until($standby, "select to_regclass('events_p20200102') is null and not exists (select from tasker.part_retirement)", 'and what is due is retired');
is(sql($standby, 'select string_agg(health, \' \') from tasker.partition_status'), 'healthy healthy', 'all is well');
$old->quit;
unlike(slurp_file($standby->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
$standby->stop;
done_testing();
