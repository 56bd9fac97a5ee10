# The event stream through pg_dump and pg_restore: into clusters whose transaction ids are lower, higher, and in the
# midst of those that were dumped, into another database of the same cluster, and once more from there. Each consumer
# goes on where it stood: every event comes once, an open batch has the same events, and none that was finished comes
# again. And the real pg_upgrade, which keeps transaction ids.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $conf = "autovacuum = off\nlog_statement = none\n";
my $dir = PostgreSQL::Test::Utils::tempdir;
my @CONSUMERS = qw(fast slow open never);

# Lets a cluster have so many more transactions.
sub burn
{
	my ($node, $transactions) = @_;
	sql($node, "do \$\$ begin for i in 1..$transactions loop perform pg_current_xact_id(); commit; end loop; end \$\$");
	return;
}

# What is sent, and what is seen, is noted in the same transactions.
my $setup = <<'SQL';
create table sent (queue text, ev_id bigint, data text);
create table seen (queue text, consumer text, ev_id bigint, ev_retry int, data text);
create table again (queue text, consumer text, ev_id bigint);
create function produce(queue text, data text) returns bigint language sql as
$$ insert into sent select queue, tasker.insert_event(queue, 'test', data), data returning ev_id $$;
-- At most `most` batches; null: all that there are.
create function consume(queue text, consumer text, most int default null) returns int language plpgsql as
$$
declare
	batch bigint;
	done int := 0;
begin
	while most is null or done < most loop
		batch := tasker.next_batch(queue, consumer);
		exit when batch is null;
		insert into seen select queue, consumer, e.ev_id, e.ev_retry, e.ev_data from tasker.get_batch_events(batch) e;
		perform tasker.finish_batch(batch);
		done := done + 1;
	end loop;
	return done;
end
$$;
create function tick(queue text) returns bigint language sql as
$$ select tasker.force_tick(queue); select tasker.ticker(queue); $$;
-- What a consumer has not seen as often as it should have.
create view wrong as
select queue, consumer, ev_id, coalesce(wanted, 0) as wanted, coalesce(got, 0) as got
from (select s.queue, c.co_name as consumer, s.ev_id,
		1 + (select count(*) from again a where (a.queue, a.consumer, a.ev_id) = (s.queue, c.co_name, s.ev_id)) as wanted
	from sent s join tasker.queue q on q.queue_name = s.queue join tasker.registration r on r.sub_queue = q.queue_id
	join tasker.consumer c on c.co_id = r.sub_consumer) w
full join (select queue, consumer, ev_id, count(*) as got from seen group by 1, 2, 3) g using (queue, consumer, ev_id)
where wanted is distinct from got;
SQL

# A stream in full swing: two queues (and an empty one), transactions that commit out of their order, savepoints that are
# rolled back, a rotation, consumers at different positions, one with an open batch, retries and dead letters.
sub fill
{
	my ($node) = @_;
	my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 3;
	my $number = 0;
	my $produce = sub { my ($session, $queue) = @_; $number++; $session->query_safe("select produce('$queue', '$number')"); };

	sql($node, $setup);
	sql($node, "select tasker.create_queue(q) from unnest('{alpha,beta,empty}'::text[]) q");
	sql($node, "select tasker.register_consumer(q, c) from unnest('{alpha,beta}'::text[]) q, unnest('{" . join(',', @CONSUMERS) . "}'::text[]) c");
	sql($node, "select tasker.register_consumer('empty', 'fast')");
	sql($node, "select tasker.set_queue_config('alpha', 'rotation_period', '0 seconds')");
	foreach my $round (1 .. 8)
	{
		$_->query_safe('begin') foreach @sessions;
		foreach my $queue ('alpha', 'beta')
		{
			$produce->($sessions[$_], $queue) foreach 0 .. 2;
			$sessions[0]->query_safe('savepoint a');
			$produce->($sessions[0], $queue);
			$sessions[0]->query_safe('rollback to a; savepoint b');
			$produce->($sessions[0], $queue);
			$sessions[0]->query_safe('release b');
		}
		$sessions[2]->query_safe('commit');
		sql($node, "select tick('alpha'), tick('beta')");
		$produce->($sessions[1], 'alpha');
		$sessions[1]->query_safe($round == 3 ? 'rollback' : 'commit');
		sql($node, "select tick('alpha')") if $round % 2;
		$sessions[0]->query_safe('commit');
		sql($node, "select tick('beta')") if $round % 3;
		sql($node, "select produce(q, 'of round $round ' || n) from unnest('{alpha,beta}'::text[]) q, generate_series(1, 4) n");
		sql($node, "select consume(q, 'fast'), consume(q, 'slow', 1), consume(q, 'open', 2) from unnest('{alpha,beta}'::text[]) q");
		if ($round == 4)
		{
			# So that events that are wanted are in two tables. 'never' holds the next rotation up.
			sql($node, "select tasker.maint_rotate_tables_step1('alpha')");
			sql($node, 'select tasker.maint_rotate_tables_step2()');
		}
	}
	$_->quit foreach @sessions;
	isnt(sql($node, "select queue_cur_table from tasker.queue where queue_name = 'alpha'"), '0', 'the tables were rotated');
	# A text that is stored outside of its row.
	sql($node, "select produce('alpha', (select string_agg(md5(i::text), '') from generate_series(1, 400) i))");
	sql($node, "select tick('alpha'), tick('beta'), tick('empty')");
	sql($node, "select tasker.next_batch(q, 'open') is not null from unnest('{alpha,beta}'::text[]) q");

	# The slow one wants an event of its batch again, after the restore, and gives another one up.
	sql($node, q{
		create function hold_back(queue text) returns void language plpgsql as $$
		declare
			batch bigint := tasker.next_batch(queue, 'slow');
			events bigint[] := array(select ev_id from tasker.get_batch_events(batch) order by 1);
		begin
			insert into seen select queue, 'slow', e.ev_id, e.ev_retry, e.ev_data from tasker.get_batch_events(batch) e;
			perform tasker.event_retry(batch, events[1], 0);
			insert into again values (queue, 'slow', events[1]);
			perform tasker.event_dead(batch, events[2], 'given up');
			perform tasker.finish_batch(batch);
		end $$;
		select hold_back('alpha'), hold_back('beta')});
	# What no tick has seen yet.
	sql($node, "select produce(q, 'in no tick ' || n) from unnest('{alpha,beta,empty}'::text[]) q, generate_series(1, 3) n");
	return;
}

# Where consumers stand, with the events of open batches, and what goes along with them.
sub standing
{
	my ($node, $database) = @_;
	return sql($node, q{
		select q.queue_name, c.co_name, s.sub_last_tick, s.sub_batch, s.sub_next_tick,
			case when s.sub_batch is not null then
				(select string_agg(e.ev_id || ' ' || md5(e.ev_data), ',' order by e.ev_id) from tasker.get_batch_events(s.sub_batch) e) end
		from tasker.subscription s join tasker.queue q on q.queue_id = s.sub_queue join tasker.consumer c on c.co_id = s.sub_consumer
		order by 1, 2}, $database)
	  . sql($node, 'select to_jsonb(d) from tasker.dead_letter d order by to_jsonb(d)::text', $database);
}

# A worker moves them where nothing keeps it from it.
sub retries { return sql($_[0], 'select ev_queue, ev_owner, ev_id, ev_data from tasker.retry_queue order by 1, 2, 3', $_[1]) }

sub sequences
{
	my ($node, $database) = @_;
	return sql($node, "select schemaname, sequencename, last_value from pg_sequences where schemaname = 'tasker' order by 1, 2", $database);
}

sub dump_of
{
	my ($node, $name, $database, @options) = @_;
	$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/$name", @options, $node->connstr($database) ], "$name is dumped");
	return;
}

sub restore_into
{
	my ($node, $name, $database, @options) = @_;
	sql($node, "create database $database");
	$node->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $node->connstr($database), "$dir/$name" ],
		"$name is restored into $database");
	return;
}

# Until after_restore(), the stream takes events and does nothing else.
sub waits
{
	my ($node, $database) = @_;
	is(sql($node, 'select tasker.restore_pending()', $database), 't', "$database: the need is seen");
	foreach my $call ('tasker.ticker()', "tasker.ticker('alpha')", "tasker.next_batch('alpha', 'slow')",
		"tasker.finish_batch((select sub_batch from tasker.subscription where sub_batch is not null limit 1))",
		"tasker.register_consumer('alpha', 'another')", "tasker.current_event_table('alpha')")
	{
		like(error_of($node, "select $call", $database), qr/^55000: the event stream was restored from a dump/, "$database: $call is refused");
	}
	sql($node, "update tasker.queue set queue_switch_time = now() - interval '1 day'; update tasker.metadata_rotation set rotation_switch_time = now() - interval '1 day'", $database);
	my $tables = "select string_agg(queue_cur_table::text, ' ' order by queue_id) from tasker.queue";
	my $before = sql($node, $tables, $database);
	sql($node, "select tasker.maint_rotate_tables_step1('alpha')", $database);
	sql($node, 'select tasker.maint_rotate_tables_step2(), tasker.maint_rotate_metadata(), tasker.maint_rotate_metadata_step2()', $database);
	is(sql($node, $tables, $database), $before, "$database: nothing is rotated");
	is(sql($node, 'select tasker.maint_retry_events()', $database), '0', "$database: retried events wait");
	like(sql($node, 'select tasker.health_check()::text', $database), qr/after_restore/, "$database: health_check() says what to do");
	sql($node, "select produce(q, 'before after_restore') from unnest('{alpha,beta,empty}'::text[]) q", $database);
	return;
}

# after_restore(), while others write: one has begun to, one has a transaction id only.
sub settles
{
	my ($node, $database, $before) = @_;
	my $writing = $node->background_psql($database, on_error_stop => 0);
	my $begun = $node->background_psql($database, on_error_stop => 0);
	my $caller = $node->background_psql($database, on_error_stop => 0);
	my $pid = $caller->query_safe('select pg_backend_pid()');
	$writing->query_safe("begin; select produce('alpha', 'open during after_restore')");
	$begun->query_safe('begin; select pg_current_xact_id()');
	$caller->query_until(qr/called/, "\\echo called\nselect queue_name, consumers, events > 0, ticks > 0 from tasker.after_restore();\n");
	$node->poll_query_until('postgres', "select exists (select from pg_stat_activity where pid = $pid and wait_event_type = 'Lock')")
	  or die 'it does not wait';
	$begun->query_safe("savepoint s");
	$writing->query_safe('commit');
	is($caller->query_safe('select 1'), "alpha|4|t|t\nbeta|4|t|t\nempty|1|t|t\n1", "$database: after_restore() has waited for who wrote, and tells of each queue");
	$begun->query_safe("select produce('alpha', 'begun before, written after'), produce('beta', 'begun before, written after'); commit");
	$_->quit foreach $writing, $begun, $caller;
	is(sql($node, 'select tasker.restore_pending(), (select count(*) from tasker.after_restore())', $database), 'f|0', "$database: it is not due again");
	is(sql($node, "select count(*) from tasker.queue q, lateral unnest(array['', '_0', '_1', '_2', '_id_seq', '_tick_seq']) s
		where not exists (select from pg_depend where objid = (queue_data_pfx || s)::regclass and refclassid = 'pg_extension'::regclass and deptype = 'x')", $database),
		'0', "$database: all belongs to the extension again");
	is(standing($node, $database), $before, "$database: consumers stand where they stood, with the same open batches") if defined $before;
	return;
}

# Everything comes once, and once more what is wanted again.
sub goes_on
{
	my ($node, $database, $what) = @_;
	sql($node, "select produce(q, 'after') from unnest('{alpha,beta,empty}'::text[]) q", $database);
	sql($node, "select tasker.maint_retry_events()", $database);
	sql($node, "select tick(q) from unnest('{alpha,beta,empty}'::text[]) q", $database);
	sql($node, "select consume(queue_name, co_name) from tasker.registration join tasker.queue on sub_queue = queue_id join tasker.consumer on sub_consumer = co_id", $database);
	is(sql($node, 'select * from wrong order by 1, 2, 3', $database), '', "$what: every consumer has seen every event once");
	is(sql($node, "select count(*) from seen where ev_retry = 1", $database), '2', "$what: and again what it wanted again");
	isnt(sql($node, "select count(*) from seen where data = 'before after_restore'", $database), '0', "$what: what came in between too")
	  unless $what =~ /upgraded|source/;
	is(sql($node, "select count(*) from tasker.get_consumer_info() where pending_events > 0", $database), '0', "$what: nobody is behind");
	# Rotation goes on too: each table is emptied once.
	foreach my $turn (1 .. 4)
	{
		sql($node, "update tasker.queue set queue_switch_time = now() - interval '1 day'", $database);
		sql($node, "select produce(q, 'turn $turn') from unnest('{alpha,beta,empty}'::text[]) q", $database);
		sql($node, "select tasker.maint_rotate_tables_step1(queue_name) from tasker.queue", $database);
		sql($node, 'select tasker.maint_rotate_tables_step2()', $database);
		sql($node, "select tick(q) from unnest('{alpha,beta,empty}'::text[]) q", $database);
		sql($node, "select consume(queue_name, co_name) from tasker.registration join tasker.queue on sub_queue = queue_id join tasker.consumer on sub_consumer = co_id", $database);
	}
	is(sql($node, 'select * from wrong order by 1, 2, 3', $database), '', "$what: and with rotations");
	cmp_ok(sql($node, "select count(*) from tasker.event_1", $database), '<', 10, "$what: which empty the tables");
	return;
}

# The worker does nothing to the sources, so that what is dumped stays as it is.
my $early = tasker_cluster('early', conf => "$conf\ntasker.worker = off\n");
my $late = tasker_cluster('late', conf => "$conf\ntasker.worker = off\n");
burn($late, 60_000);
foreach my $node ($early, $late)
{
	sql($node, 'create role tenant login; create role tenant_admin login in role tasker_admin');
	fill($node);
	sql($node, "select tasker.grant_queue('beta', 'tenant', 'produce'), tasker.grant_queue('beta', 'tenant', 'consume')");
}

# Somebody is at work while it is dumped; what he has not committed is in no dump.
my $open = $early->background_psql('postgres', on_error_stop => 0);
$open->query_safe("begin; select produce('alpha', 'never committed')");
my %before = (early => standing($early), late => standing($late));
my %retries = (early => retries($early), late => retries($late));
my %sequences = (early => sequences($early), late => sequences($late));
dump_of($early, 'early', 'postgres');
dump_of($late, 'late', 'postgres');
dump_of($early, "early_$_", 'postgres', "--section=$_") foreach 'pre-data', 'data', 'post-data';
dump_of($early, 'early_schema', 'postgres', '--schema-only');
$open->query_safe('rollback');
$open->quit;

my $low = tasker_cluster('low', conf => $conf, extension => 0);
my $high = tasker_cluster('high', conf => $conf, extension => 0);
burn($high, 30_000);
sql($_, 'create role tenant login; create role tenant_admin login') foreach $low, $high;

# Ids of the dump among those of the new cluster, far above them, and far below.
foreach my $case ([ $low, 'early', 'among', '-j', '2' ], [ $low, 'late', 'above', '--single-transaction' ], [ $high, 'early', 'below' ])
{
	my ($node, $name, $database, @options) = @$case;
	restore_into($node, $name, $database, @options);
	is(sequences($node, $database), $sequences{$name}, "$database: sequences go on where they were");
	wait_until($node, "select exists (select from tasker.worker_status where database = '$database' and state = 'running')", "$database has a worker", $database);
	waits($node, $database);
	is(retries($node, $database), $retries{$name}, "$database: retried events are there");
	settles($node, $database, $before{$name});
	is(sql($node, "set role tenant; select count(tasker.send('beta', 'x')) from generate_series(1, 0)", $database), '0', "$database: a role has what it was granted");
	like(error_of($node, "set role tenant; select tasker.send('alpha', 'x')", $database), qr/^42501/, '... and no more');
	goes_on($node, $database, "$name restored into $database");
}

# A dump of a restored stream, in which one is in a batch again.
sql($low, "select tasker.register_consumer('alpha', 'reader')", 'among');
sql($low, "select tasker.send('alpha', '$_')", 'among'), sql($low, "select tick('alpha')", 'among') foreach 1 .. 3;
# The worker may have made ticks in between: the first batch with an event.
sql($low, q{do $$ begin
	while not exists (select from tasker.get_batch_events(tasker.next_batch('alpha', 'reader'))) loop
		perform tasker.finish_batch(tasker.next_batch('alpha', 'reader'));
	end loop;
end $$}, 'among');
my $batch = sql($low, "select array_agg(ev_data) from tasker.get_batch_events(tasker.next_batch('alpha', 'reader'))", 'among');
dump_of($low, 'second', 'among');
restore_into($high, 'second', 'twice', '-j', '2');
is(sql($high, 'select tasker.restore_pending()', 'twice'), 't', 'restored twice: it is due again');
is(sql($high, 'select count(*) from tasker.after_restore()', 'twice'), '3', '... and done again');
is(sql($high, "select array_agg(ev_data) from tasker.get_batch_events(tasker.next_batch('alpha', 'reader'))", 'twice'), $batch, '... and the batch has its events');
sql($high, "delete from seen where consumer = 'reader'; delete from sent; delete from seen; delete from again", 'twice');
sql($high, "select tasker.finish_batch(tasker.next_batch('alpha', 'reader'))", 'twice');
sql($high, "select consume(queue_name, co_name) from tasker.registration join tasker.queue on sub_queue = queue_id join tasker.consumer on sub_consumer = co_id", 'twice');
is($batch, '{1}', '... which is the first one');
is(sql($high, "select string_agg(data, ' ' order by ev_id) from seen where consumer = 'reader'", 'twice'), '2 3', '... and goes on after it');

# Dumped before after_restore() was called: events of two clusters.
restore_into($low, 'late', 'unsettled');
waits($low, 'unsettled');
dump_of($low, 'unsettled', 'unsettled');
restore_into($high, 'unsettled', 'settled');
waits($high, 'settled');
settles($high, 'settled');
goes_on($high, 'settled', 'restored twice before it was called');

# Into the cluster that it came from, and section by section, with a look in between.
restore_into($early, 'early', 'same');
waits($early, 'same');
settles($early, 'same', $before{early});
goes_on($early, 'same', 'restored into the same cluster');
sql($low, 'create database sections');
foreach my $section ('pre-data', 'data', 'post-data')
{
	$low->command_ok([ 'pg_restore', '--exit-on-error', '-d', $low->connstr('sections'), "$dir/early_$section" ], "$section is restored");
	like(error_of($low, 'select * from tasker.after_restore()', 'sections'), qr/^55000: event table "event_\d_0" has no index on ev_txid/,
		'a restore that has not ended is not taken for one that has')
	  if $section eq 'data';
}
settles($low, 'sections', $before{early});
goes_on($low, 'sections', 'restored by sections') if sql($low, "select produce('alpha', 'before after_restore') > 0", 'sections');

# A copy of a database's files keeps transaction ids, also where the first queue was made in a subtransaction.
sql($early, 'create database source');
sql($early, "create extension tasker; begin; savepoint a; select tasker.create_queue('q'); release a; commit; select tasker.register_consumer('q', 'c')", 'source');
sql($early, "select tasker.send('q', 'x')", 'source');
foreach my $source ('same', 'source')
{
	sql($early, "create database copy_of_$source template $source");
	is(sql($early, 'select tasker.restore_pending()', "copy_of_$source"), 'f', "copy of $source: nothing is due");
}
sql($early, "select tasker.force_tick('q')", 'copy_of_source');
sql($early, "select tasker.ticker('q')", 'copy_of_source');
is(sql($early, "select ev_data from tasker.get_batch_events(tasker.next_batch('q', 'c'))", 'copy_of_source'), 'x', '... and consumers go on');

# Without data there is nothing to go on with, but queues can be made.
restore_into($low, 'early_schema', 'bare');
is(sql($low, "select tasker.restore_pending(), tasker.create_queue('first'), tasker.create_queue('second')", 'bare'), 'f|1|1', 'a schema without data takes new queues');
is(sql($low, "select tasker.register_consumer('first', 'c'), tasker.send('first', 'x') is not null", 'bare'), '1|t', '... that work');

# A failure in the middle undoes all of it; and a call by force does no harm.
restore_into($low, 'early', 'failing');
sql($low, 'create function refuse() returns trigger language plpgsql as $$ begin raise exception \'refused\'; end $$;
	create trigger refuse before insert on tasker.tick_0 for each row execute function refuse();
	create trigger refuse before insert on tasker.tick_1 for each row execute function refuse();
	create trigger refuse before insert on tasker.tick_2 for each row execute function refuse()', 'failing');
my $contents = 'select md5(string_agg(e::text, \',\' order by e::text)) from (select tableoid, * from tasker.event_1 union all select tableoid, * from tasker.event_2) e';
my $events = sql($low, $contents, 'failing');
like(error_of($low, 'select * from tasker.after_restore()', 'failing'), qr/refused/, 'an error in the middle');
is(sql($low, $contents, 'failing'), $events, '... undoes what was done');
is(sql($low, 'select tasker.restore_pending()', 'failing'), 't', '... and it is still due');
sql($low, "drop trigger refuse on tasker.tick_$_", 'failing') foreach 0 .. 2;
settles($low, 'failing', $before{early});
is(sql($low, 'select count(*) from tasker.after_restore(true)', 'failing'), '3', 'called by force');
is(standing($low, 'failing'), $before{early}, '... it changes nothing for consumers');
sql($low, "select produce('alpha', 'before after_restore')", 'failing');
goes_on($low, 'failing', 'called again by force');

# More consumers at different ticks than one would think of, and ticks without a consumer in between.
sql($early, 'create database many');
sql($early, 'create extension tasker', 'many');
sql($early, $setup, 'many');
sql($early, "select tasker.create_queue('alpha'), tasker.create_queue('beta'), tasker.create_queue('empty')", 'many');
sql($early, "select tasker.register_consumer('alpha', 'c' || n) from generate_series(1, 60) n", 'many');
sql($early, 'do $$ begin for i in 1..150 loop perform produce(\'alpha\', i::text); commit; perform tick(\'alpha\'); commit; end loop; end $$', 'many');
sql($early, "select consume('alpha', 'c' || n, 2 * n) from generate_series(1, 60) n", 'many');
dump_of($early, 'many', 'many');
my $fresh = tasker_cluster('fresh', conf => "$conf\ntasker.worker = off\n", extension => 0);
restore_into($fresh, 'many', 'many');
is(sql($fresh, "select consumers, events, ticks from tasker.after_restore() where queue_name = 'alpha'", 'many'), '60|148|149', 'every tick from the slowest consumer on is kept');
sql($fresh, "select consume('alpha', 'c' || n) from generate_series(1, 60) n", 'many');
is(sql($fresh, 'select * from wrong', 'many'), '', 'with many positions, everything comes once');

# DROP EXTENSION takes along what was restored.
foreach my $case ([ $low, 'above' ], [ $high, 'twice' ])
{
	my ($node, $database) = @$case;
	sql($node, 'drop view wrong; drop extension tasker', $database);
	is(sql($node, "select count(*) from pg_class where relname ~ '^event_\\d'", $database), '0', "$database: DROP EXTENSION takes the event tables along");
	sql($node, 'create extension tasker', $database);
	is(sql($node, "select tasker.create_queue('new'), tasker.restore_pending()", $database), '1|f', '... and one can begin anew');
}

# pg_upgrade keeps files and transaction ids: nothing is due.
$late->stop;
my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
$upgraded->init;
my $bindir = $late->config_data('--bindir');
chdir $late->basedir or die;
$late->command_ok([ 'pg_upgrade', '--no-sync', '-d', $late->data_dir, '-D', $upgraded->data_dir, '-b', $bindir, '-B', $bindir,
	'-s', $late->host, '-p', $late->port, '-P', $upgraded->port,
	'-o', '-c shared_preload_libraries=tasker', '-O', '-c shared_preload_libraries=tasker' ], 'pg_upgrade');
$upgraded->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'\nmax_worker_processes = 20\ntimezone = 'UTC'\n$conf");
$upgraded->start;
is(sql($upgraded, 'select tasker.restore_pending()'), 'f', 'upgraded: nothing is due');
is(standing($upgraded), $before{late}, 'upgraded: consumers stand where they stood');
goes_on($upgraded, 'postgres', 'upgraded');
dump_of($upgraded, 'upgraded', 'postgres');
restore_into($low, 'upgraded', 'from_upgraded');
is(sql($low, 'select tasker.restore_pending()', 'from_upgraded'), 't', 'a dump of what was upgraded is a dump');

foreach my $node ($low, $high)
{
	my @said = slurp_file($node->logfile) =~ /LOG:  the event stream was restored from a dump/g;
	cmp_ok(scalar(@said), '>', 0, 'the worker has said what it waits for');
}
server_did_not_crash($_) foreach $early, $low, $high, $fresh, $upgraded;
$_->stop foreach $early, $low, $high, $fresh, $upgraded;
done_testing();

sub server_did_not_crash
{
	my ($node) = @_;
	unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|was terminated by signal|was terminated by exception/, $node->name . ' did not crash');
	return;
}
