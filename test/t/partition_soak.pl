# Three years of maintenance with the clock moved ahead: sets of hours, days and months, by times, dates, UUIDs and record
# ids, in zones whose clocks change, with every way of retention. At each step the rows of now, of a little before and of
# what is premade find their partitions, what is older than the retention has gone and nothing else, and nothing is left
# over. Then a year with a worker, which detaches concurrently.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TaskerCluster;

# The sets, and what a test must know of them. `key` turns a time into a value of the control column.
my $TABLES = q{
create schema s;
create schema kept;
create table s.hourly (at timestamptz not null, v int default 1) partition by range (at);
create table s.local_hourly (at timestamp not null, v int default 1) partition by range (at);
create table s.daily (at timestamptz not null, v int default 1) partition by range (at);
create table s.half_hour_zone (id bigint not null, v int default 1) partition by range (id);
create table s.weekly (at date not null, v int default 1) partition by range (at);
create table s.monthly (id uuid not null, v int default 1) partition by range (id);
create table s.yearly (at timestamptz not null, v int default 1) partition by range (at);
create index on s.daily (at);
create table s.sets (name text primary key, key text, time_of text, zone text, length interval, retention interval);
insert into s.sets values
	('hourly', '%s', 'at', 'Europe/Berlin', '1 hour', '30 hours'),
	('local_hourly', '%s at time zone ''Europe/Berlin''', 'at at time zone ''Europe/Berlin''', 'Europe/Berlin', '1 hour', '20 hours'),
	('daily', '%s', 'at', 'Europe/Berlin', '1 day', '30 days'),
	('half_hour_zone', '(extract(epoch from date_trunc(''milliseconds'', %s)) * 1000)::bigint << 20',
		'to_timestamp((id >> 20) / 1000.0)', 'Australia/Lord_Howe', '1 day', '3 weeks'),
	('weekly', '(%s at time zone ''America/New_York'')::date', 'at::timestamp at time zone ''America/New_York''', 'America/New_York', '1 week', '100 days'),
	('monthly', 's.uuid_of(%s)', 'to_timestamp(s.ms_of(id) / 1000.0)', 'America/New_York', '1 month', '6 months'),
	('yearly', '%s', 'at', 'UTC', '1 year', '1 year');
create function s.uuid_of(t timestamptz) returns uuid language sql immutable as $$
	select (lpad(to_hex((extract(epoch from date_trunc('milliseconds', t)) * 1000)::bigint), 12, '0') || '7abc8def0123456789ab')::uuid $$;
create function s.ms_of(id uuid) returns bigint language sql immutable as $$
	select ('x' || replace(left(id::text, 13), '-', ''))::bit(48)::bigint $$;
create table s.ledger (set_name text, at timestamptz);

-- The clock says this time from here on, more or less.
create function s.set_clock(t timestamptz) returns void language sql as $$
	select set_config('tasker.clock_offset', ceil(extract(epoch from t - clock_timestamp()))::int::text, false) $$;
create function s.now() returns timestamptz language sql as $$
	select clock_timestamp() + current_setting('tasker.clock_offset')::interval $$;

-- Rows of one set around the time: just now, some minutes before, and as far ahead as was premade. (Local hours have a
-- partition for the one that is skipped in spring, too.)
create function s.write(one s.sets, premake int) returns void language plpgsql as $$
declare
	t timestamptz;
begin
	foreach t in array array[s.now(), s.now() - interval '5 minutes', s.now() + interval '40 minutes',
		case when one.length < interval '1 day' then s.now() + (premake - (one.name = 'local_hourly')::int) * one.length
			else (date_trunc('second', s.now() at time zone one.zone) + premake * one.length) at time zone one.zone end]
	loop
		execute format('insert into s.%I select %s', one.name, format(one.key, quote_literal(t) || '::timestamptz'));
		insert into s.ledger values (one.name, t);
	end loop;
end $$;

-- What is wrong now, nothing when all is well. Bounds are those that Postgres has, read as times.
create function s.wrong() returns setof text language plpgsql as $$
declare
	one s.sets; cutoff timestamptz; counted bigint; expected bigint; r record;
begin
	for one in select * from s.sets loop
		cutoff := (s.now() at time zone one.zone - one.retention) at time zone one.zone;
		for r in select partition, lower_bound::timestamp at time zone z as lower, upper_bound::timestamp at time zone z as upper
			from tasker.show_partitions(('s.' || one.name)::regclass),
				(select case when one.name in ('local_hourly', 'weekly') then one.zone else 'UTC' end) t (z)
		loop
			if r.upper <= cutoff then
				return next format('%s: %s should have gone at %s', one.name, r.partition, r.upper);
			end if;
		end loop;
		-- Rows within the retention are all there; older ones only in the partition that reaches into it.
		execute format('select count(*) from s.%I where %s > %L', one.name, one.time_of, cutoff) into counted;
		select count(*) into expected from s.ledger where set_name = one.name and at > cutoff
			and (one.name <> 'weekly' or (at at time zone one.zone)::date::timestamp at time zone one.zone > cutoff);
		if counted <> expected then
			return next format('%s: %s rows of %s within the retention', one.name, counted, expected);
		end if;
	end loop;
	return query select format('%s %s: %s', parent, duty, message) from tasker.part_failure;
	return query select format('%s: %s %s %s', parent::regclass, partition_name, state, reason) from tasker.part_retirement;
	return query select format('%s is %s: %s', parent, health, failing) from tasker.partition_status where health <> 'healthy';
end $$;
};

# name, control, interval, premake, retention action
my @SETS = (
	[ 'hourly', 'at', '1 hour', 3, 'drop' ],
	[ 'local_hourly', 'at', '1 hour', 4, 'drop' ],
	[ 'daily', 'at', '1 day', 4, 'drop' ],
	[ 'half_hour_zone', 'id', '1 day', 4, 'drop' ],
	[ 'weekly', 'at', '1 week', 2, 'schema:kept' ],
	[ 'monthly', 'id', '1 month', 2, 'detach' ],
	[ 'yearly', 'at', '1 year', 1, 'drop' ]);

sub create_sets
{
	my ($node) = @_;
	sql($node, $TABLES);
	sql($node, "select tasker.create_parent('s.$_->[0]', '$_->[1]', '$_->[2]', $_->[3], retention, '$_->[4]', timezone => zone)
		from s.sets where name = '$_->[0]'") foreach @SETS;
	return;
}

# What the catalogs hold, without the tables that were kept.
sub catalog_rows
{
	my ($node) = @_;
	sql($node, q{do $$ declare t text; begin
		for t in select oid::regclass from pg_class where relkind = 'r' and not relispartition
			and (relnamespace = 'kept'::regnamespace or relname like 'monthly%') loop
			execute 'drop table ' || t;
		end loop; end $$});
	return { map { $_ => sql($node, "select count(*) from pg_catalog.$_") }
		  qw(pg_class pg_attribute pg_type pg_depend pg_constraint pg_inherits pg_index pg_statistic pg_shdepend pg_attrdef) };
}

my $begun = time;
my $node = tasker_cluster('bare', preload => 0,
	conf => "fsync = off\nsynchronous_commit = off\nautovacuum = off\nclient_min_messages = warning\n");
create_sets($node);

# A day and some hours, again and again, so that every hour of the day comes up: 17 minutes past it, which is far from all bounds.
my $start = sql($node, "select date_trunc('day', now()) + interval '1 day 17 minutes'");
my @targets = map { sprintf "timestamptz '%s' + interval '%d hours'", $start, $_ * 67 } 0 .. 392;
# The nights on which clocks change, hour by hour.
my @changes = split /\n/, sql($node, q{
	with hours as (select h, lead(h) over (order by h) as next from generate_series(date_trunc('day', now()) + interval '2 days', now() + interval '400 days', '1 hour') h),
	zones (zone) as (values ('Europe/Berlin'), ('America/New_York'), ('Australia/Lord_Howe'))
	select h from hours, zones where (next at time zone zone) - (h at time zone zone) <> interval '1 hour' order by h});
is(scalar @changes, 6, 'the clocks change six times in the first year');

sub soak
{
	my ($what, @times) = @_;
	my $script = "set client_min_messages = warning;\n";
	foreach my $target (@times)
	{
		$script .= "select s.set_clock($target) \\g /dev/null\ncall tasker.run_maintenance();\n";
		$script .= "select s.write(one, premake) from s.sets one join tasker.part_config on parent = ('s.' || name)::regclass \\g /dev/null\n";
		$script .= "select s.now() || ' ' || wrong from s.wrong() wrong;\n";
	}
	my ($status, $out, $err) = $node->psql('postgres', $script, on_error_stop => 1, timeout => 600);
	is($status, 0, "$what: every statement succeeds") or diag $err;
	is($out, '', '... every row is where it belongs, and nothing else is there');
	is($err, '', '... without a warning');
	return;
}

my %first;
my $third = int(@targets / 3);
my @year = @targets[ 0 .. $third - 1 ];
# In their order: the clock cannot be set back without partitions of a future that has not come yet.
my @nights = map { my $change = $_; map { "timestamptz '$change' + interval '$_ hours 17 minutes'" } -3 .. 3 } @changes;
my @ordered = split /\n/, sql($node, 'select t from unnest(array[' . join(', ', @year, @nights) . ']) t order by 1');
soak('the first year, with the nights of the changes hour by hour', map { "timestamptz '$_'" } @ordered);
my $rows = catalog_rows($node);
my $relations = sql($node, "select count(*) from pg_class where relnamespace = 's'::regnamespace");
soak('the second year', @targets[ $third .. 2 * $third - 1 ]);
soak('the third year', @targets[ 2 * $third .. $#targets ]);
my $rows_after = catalog_rows($node);
cmp_ok(sql($node, "select count(*) from pg_class where relnamespace = 's'::regnamespace"), '<=', $relations * 1.1,
	"there are as many relations as after the first year ($relations)");
cmp_ok($rows_after->{$_}, '<=', $rows->{$_} * 1.1, "$_ has $rows->{$_} rows after the first year, and no more after the third") foreach sort keys %$rows;
is(sql($node, 'select count(*) from tasker.part_config where not owner_set'), scalar @SETS, 'every set is there');
cmp_ok(sql($node, "select pg_total_relation_size('tasker.part_config') + pg_total_relation_size('tasker.part_analyze') + pg_total_relation_size('tasker.part_retirement')"),
	'<', 4_000_000, "Tasker's own tables stay small without a vacuum");
is(sql($node, "select bool_and(partition::text ~ '^s\\.daily_p\\d{8}\$') from tasker.show_partitions('s.daily')"), 't',
	'no name had to give way to another');
is(sql($node, "select count(*) from (select lower_bound, lag(upper_bound) over (order by lower_bound) as previous
	from tasker.show_partitions('s.$_')) t where previous <> lower_bound"), '0', "$_ has no gap")
  foreach qw(daily half_hour_zone weekly monthly yearly);
note(sprintf '%d steps took %.1f s', @targets + @nights, time - $begun);
$node->stop;

# --- a year with a worker ---------------------------------------------------------------------------------------

$begun = time;
$node = tasker_cluster('worked',
	conf => "fsync = off\nsynchronous_commit = off\nautovacuum = off\nclient_min_messages = warning\ntasker.lock_timeout = '100ms'\n");
create_sets($node);
foreach my $step (1 .. 9)
{
	# The worker and all sessions to come see the new time.
	my $offset = sql($node, "select ceil(extract(epoch from date_trunc('hour', now()) + interval '17 minutes' + $step * interval '41 days' - now()))::int");
	sql($node, "alter system set tasker.clock_offset = $offset");
	sql($node, 'select pg_reload_conf()');
	$node->poll_query_until('postgres', "select current_setting('tasker.clock_offset')::interval = interval '$offset seconds'") or die 'the clock stands still';
	sql($node, 'call tasker.run_maintenance()');
	sql($node, 'select s.write(one, premake) from s.sets one join tasker.part_config on parent = (\'s.\' || name)::regclass');
	$node->poll_query_until('postgres', 'select not exists (select from s.wrong())')
	  or is(sql($node, 'select * from s.wrong()'), '', "nothing is left over after step $step");
}
is(sql($node, 'select * from s.wrong()'), '', 'after a year with a worker all is well');
unlike(slurp_file($node->logfile), qr/WARNING|PANIC|TRAP|terminated by signal/, 'the worker had nothing to complain of');
note(sprintf 'the year took %.1f s', time - $begun);
$node->stop;
done_testing();
