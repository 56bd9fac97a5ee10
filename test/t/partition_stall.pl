# Nobody waits for maintenance: while a reader, a writer of a referenced table or a prepared transaction is in the way of
# retirements and of new partitions, inserts and look-ups go on without waiting for a lock for longer than 100 ms. What
# was delayed is done afterwards.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

# The server itself reports each wait for a lock that lasts 100 ms, whatever else the machine is busy with.
my $node = tasker_cluster('stall', conf => q{
autovacuum = off
deadlock_timeout = '100ms'
log_lock_waits = on
log_line_prefix = '%m [%p] %a: '
});
my ($blocker, $writer) = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;

sql($node, q{create table kind (id int primary key); insert into kind values (1), (2);
	create procedure public.write_on(parent regclass, seconds int) language plpgsql as $$
	declare
		stop timestamptz := clock_timestamp() + seconds * interval '1 second';
		start timestamptz;
		longest interval := '0';
		n int := 0;
	begin
		while clock_timestamp() < stop loop
			start := clock_timestamp();
			execute format('insert into %s values (now(), 2)', parent);
			execute format('select count(*) from %s where ts > now() - interval ''1 minute''', parent);
			update kind set id = id where id = 2;
			commit;
			longest := greatest(longest, clock_timestamp() - start);
			n := n + 1;
			perform pg_sleep(0.002);
		end loop;
		raise log '% transactions, longest %', n, longest;
	end $$;
	select pg_reload_conf()});

my $count = 0;

# A set with a foreign key, with three partitions that are due and one row in each.
sub make_set
{
	my ($more) = @_;
	my $parent = 'stall_' . ++$count;
	sql($node, "create table $parent (ts timestamptz not null, kind int references kind) partition by range (ts);
		select tasker.create_parent('$parent', 'ts', '1 day', 2, '100 years');
		select tasker.create_partition('$parent', '2020-01-0' || i) from generate_series(1, 3) i;
		insert into $parent select ('2020-01-0' || i)::timestamptz, 1 from generate_series(1, 3) i");
	sql($node, sprintf $more, $parent) if defined $more;
	sql($node, "update tasker.part_config set retention = '1 year' where parent = '$parent'::regclass");
	return $parent;
}

sub old_partitions
{
	my ($parent) = @_;
	return "select count(*) from pg_inherits where inhparent = '$parent'::regclass and inhrelid::regclass::text like '%p2020010%'";
}

# Rounds for some seconds, while a writer works and somebody is in the way.
sub nobody_waits
{
	my ($what, $parent, $in_the_way, $round) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $log = -s $node->logfile;
	$blocker->query_safe("begin; $in_the_way");
	$writer->query_until(qr/writing/, "set application_name = 'writer';\n\\echo writing\ncall write_on('$parent', 6);\n\\echo written\n");
	my $until = time + 5;
	while (time < $until)
	{
		$round->();
		sql($node, "update tasker.part_retirement set next_try_at = null where next_try_at is not null");
		sql($node, "update tasker.part_failure set next_try_at = now() where next_try_at > now()");
	}
	$blocker->query('rollback');
	$writer->query_until(qr/written/, '');
	my $text = slurp_file($node->logfile, $log);
	is(join('', $text =~ /writer: LOG:  process \d+ still waiting[^\n]*/g), '', "$what: the writer has waited for no lock longer than 100 ms");
	unlike($text, qr/writer: ERROR/, "$what: nor met an error");
	note("$what: $1") if $text =~ /(\d+ transactions, longest \S+)/;
	foreach (1 .. 200)
	{
		last if sql($node, old_partitions($parent)) eq '0';
		$round->();
		sql($node, "update tasker.part_retirement set next_try_at = null where next_try_at is not null");
		Time::HiRes::usleep(50_000);
	}
	return is(sql($node, old_partitions($parent)), '0', "$what: afterwards the retirements are done");
}

sub becomes_ahead
{
	my ($set, $premake, $who) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach (1 .. 100)
	{
		last if sql($node, "select partitions_ahead from tasker.partition_status where parent = '$set'::regclass") >= $premake;
		by_worker();
	}
	return is(sql($node, "select partitions_ahead from tasker.partition_status where parent = '$set'::regclass"), $premake, "$who: they are made in the end");
}

sub by_worker { sql($node, 'call tasker.run_maintenance()'); Time::HiRes::usleep(100_000); return; }
# As a session without the worker does it.
sub by_session { $node->psql('postgres', "call tasker.run_duty('finalize'); call tasker.run_duty('retire')"); Time::HiRes::usleep(200_000); return; }

# What would be seen: somebody who keeps a table locked.
my $log = -s $node->logfile;
$blocker->query_safe('begin; lock table kind');
$writer->query_until(qr/asked/, "set application_name = 'writer';\n\\echo asked\nselect count(*) from kind;\n\\echo answered\n");
ok($node->wait_for_log(qr/writer: LOG:  process \d+ still waiting for AccessShareLock/, $log), 'a wait of 100 ms is seen');
$blocker->query_safe('rollback');
$writer->query_until(qr/answered/, '');

my $parent = make_set();
nobody_waits('a reader of the parent', $parent, "select count(*) from $parent", \&by_worker);

$parent = make_set();
nobody_waits('a writer of the referenced table', $parent, 'update kind set id = id where id = 1', \&by_worker);

$parent = make_set('create table %1$s_rest partition of %1$s default');
nobody_waits('a reader, beside a DEFAULT partition', $parent, "select count(*) from $parent", \&by_worker);

$parent = make_set();
nobody_waits('a reader, and maintenance without the worker', $parent, "select count(*) from $parent", \&by_session);

$parent = make_set();
nobody_waits('a writer of the referenced table, and maintenance without the worker', $parent, 'update kind set id = id where id = 1', \&by_session);

# New partitions.
foreach my $case (
	[ 'a reader', 'select count(*) from %s' ],
	[ 'a writer of the referenced table', 'update kind set id = id where id = 1' ],
	[ 'a reader, a DEFAULT partition', 'select count(*) from %s', 'create table %1$s_rest partition of %1$s default' ])
{
	my ($who, $in_the_way, $more) = @$case;
	my $premake = 2;
	$parent = make_set($more);
	nobody_waits("$who, and new partitions", $parent, $in_the_way =~ s/%s/$parent/r,
		sub { $premake++; sql($node, "select tasker.alter_parent('$parent', 'premake', '$premake')"); by_worker(); });
	becomes_ahead($parent, $premake, $who);
}

$_->quit foreach ($blocker, $writer);
$node->stop;
done_testing();
