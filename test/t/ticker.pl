# The ticker: ticks follow commits, are never nearer than the settings allow, and come from nowhere when nothing happens.
# What is under way when a tick is made, what is prepared, and what happens while the ticker is dead all get their tick.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = tasker_cluster(
	'primary',
	init => [ allows_streaming => 1 ],
	conf => "restart_after_crash = on\nmax_connections = 40\nlog_line_prefix = '%m [%p] %b '");

# The ticker that is at work, as its pid.
sub ticker_of
{
	my ($server, $database) = @_;
	$server->poll_query_until($database // 'postgres', "select state = 'running' from tasker.ticker_status")
	  or die 'no ticker runs';
	return sql($server, 'select pid from tasker.ticker_status', $database);
}

sub make_queue
{
	my ($queue, $server, $database) = @_;
	return sql($server // $node, "select tasker.create_queue('$queue'), tasker.register_consumer('$queue', 'c')", $database);
}

sub insert
{
	my ($queue, $data, $server) = @_;
	return sql($server // $node, "select tasker.insert_event('$queue', 't', '$data')");
}

# Reads all batches of the queue until an event with this data was among them; what came is returned in order.
sub read_until
{
	my ($queue, $data, $what, $server) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $session = ($server // $node)->background_psql('postgres', on_error_stop => 1);
	my @seen;
	foreach (1 .. 200)
	{
		my $batch = $session->query_safe("call tasker.wait_for_batch('$queue', 'c', '10 seconds')");
		last if $batch eq '';
		push @seen, split /\n/, $session->query_safe("select ev_data from tasker.get_batch_events($batch)");
		$session->query_safe("select tasker.finish_batch($batch)");
		last if grep { $_ eq $data } @seen;
	}
	$session->quit;
	ok((grep { $_ eq $data } @seen), $what);
	return @seen;
}

sub ticks_of
{
	my ($queue) = @_;
	return sql($node, "select count(*) from tasker.tick t join tasker.queue q on q.queue_id = t.tick_queue
		where queue_name = '$queue'");
}

# --- following commits -----------------------------------------------------------------------------------------

sub follows_commits
{
	make_queue('plain');
	my $ticker = ticker_of($node);
	is(sql($node, "select backend_type from pg_stat_activity where pid = $ticker"), 'tasker ticker', 'a process of its own');
	insert('plain', 'one');
	wait_until($node, "select max(tick_event_seq) = 1 from tasker.tick", 'a tick follows a commit');
	is_deeply([ read_until('plain', 'one', 'its event is in a batch') ], ['one'], '... alone');
	sql($node, "begin; select tasker.insert_event('plain', 't', 'gone'); rollback");
	sql($node, "begin; savepoint s; select tasker.insert_event('plain', 't', 'gone too'); rollback to s;
		select tasker.insert_event('plain', 't', 'two'); commit");
	is_deeply([ read_until('plain', 'two', 'an event beside a savepoint that was rolled back') ], ['two'], '... alone');
	sql($node, "begin; copy tasker.event_1_0 (ev_id, ev_time, ev_type, ev_data) from program 'printf \"%s\\\\t2026-01-01\\\\tt\\\\tcopied\\\\n\" 1000';
		select tasker.current_event_table('plain'); commit");
	read_until('plain', 'copied', 'rows that were copied into current_event_table()');
	is(sql($node, "select ticks > 0 and failures = 0 and last_tick_at is not null from tasker.ticker_status"), 't', 'ticker_status');
	is(sql($node, "select ticks > 0 and failures_in_a_row = 0 and waiting = 0 from tasker.queue_ticks where queue_name = 'plain'"),
		't', 'queue_ticks');
	return;
}

# A transaction that was under way when a tick was made, and commits when nothing else happens.
sub late_commit
{
	make_queue('late');
	my $session = $node->background_psql('postgres', on_error_stop => 1);
	$session->query_safe("begin; select tasker.insert_event('late', 't', 'slow')");
	insert('late', 'quick');
	read_until('late', 'quick', 'an event that commits while another transaction is open');
	my $before = ticks_of('late');
	$session->query_safe('commit');
	is_deeply([ read_until('late', 'slow', 'the transaction that commits after the tick') ], ['slow'], '... in a batch of its own');
	$session->quit;
	return;
}

# --- how many ticks --------------------------------------------------------------------------------------------

# A consumer asks for more all the time, and events come all the time.
sub bounded_rate
{
	make_queue('busy');
	sql($node, "select tasker.set_queue_config('busy', 'min_tick_interval', '80 milliseconds')");
	my $consumer = $node->background_psql('postgres', on_error_stop => 1);
	my $until = time() + 2;
	$consumer->query_until(qr/begun/, "\\echo begun\ndo \$\$ declare b bigint; begin
		while clock_timestamp() < to_timestamp($until) loop
			call tasker.wait_for_batch('busy', 'c', '1 second', b);
			perform tasker.finish_batch(b) where b is not null;
		end loop; end \$\$;\n");
	my $producer = $node->background_psql('postgres', on_error_stop => 1);
	my $events = 0;
	while (time() < $until)
	{
		$producer->query_safe("select tasker.insert_event('busy', 't', 'x')");
		$events++;
	}
	$producer->quit;
	$consumer->quit;
	cmp_ok($events, '>', 15, "there were events enough ($events)");
	my ($ticks, $gap) = split /\|/, sql($node, "select count(*), min(gap) from (select tick_id,
		extract(epoch from tick_time - lag(tick_time) over (order by tick_id)) * 1000 as gap
		from tasker.tick join tasker.queue on queue_id = tick_queue where queue_name = 'busy' and tick_id > 1) g");
	cmp_ok($ticks, '>', 4, "ticks as they are wanted ($ticks)");
	cmp_ok($gap, '>=', 80, "no two are nearer than the queue's interval ($gap ms)");

	# The database's own.
	is(sql($node, 'select tasker.set_tick_period_ms(200)'), 200, 'set_tick_period_ms');
	my $from = ticks_of('busy');
	my $start = time();
	while (time() < $start + 1.2)
	{
		insert('busy', 'y');
		sql($node, "select tasker.next_batch('busy', 'c')");
	}
	cmp_ok(ticks_of('busy') - $from, '<=', int((time() - $start) / 0.2) + 2, 'the interval of the database holds too');
	sql($node, 'select tasker.set_tick_period_ms(null)');
	is(sql($node, 'select count(*) from tasker.ticker_config'), 0, '... and can be taken back');
	like(error_of($node, 'select tasker.set_tick_period_ms(0)'), qr/^22023: a tick period of 0/, '... and has bounds');
	return;
}

# Nobody asks: each tick waits twice as long as the one before, and yet no event for longer than the lag.
sub rare_without_consumers
{
	make_queue('unread');
	sql($node, "select tasker.set_queue_config('unread', 'ticker_max_lag', '1 second')");
	my $session = $node->background_psql('postgres', on_error_stop => 1);
	my $start = time();
	my $events = 0;
	while (time() < $start + 1.5)
	{
		$session->query_safe("select tasker.insert_event('unread', 't', 'x')");
		$events++;
	}
	cmp_ok($events, '>', 20, "there were events enough ($events)");
	cmp_ok(ticks_of('unread'), '<=', 24, 'a queue that nobody reads has few ticks');
	wait_until($node, "select max(tick_event_seq) = $events from tasker.tick join tasker.queue on queue_id = tick_queue
		where queue_name = 'unread'", 'the last event gets its tick all the same');
	is(sql($node, "select max(tick_time) - to_timestamp($start + 1.5) < '4 seconds' from tasker.tick
		join tasker.queue on queue_id = tick_queue where queue_name = 'unread'"), 't', '... after the longest lag');
	# Many at once do not wait for it.
	sql($node, "select tasker.set_queue_config('unread', 'ticker_max_lag', '1 hour')");
	my $before = ticks_of('unread');
	$session->query_safe("select tasker.insert_event('unread', 't', 'x')") foreach 1 .. 10;
	$session->query_safe("select tasker.send_batch('unread', 't', array_fill('x'::text, array[500]))");
	wait_until($node, "select max(tick_event_seq) >= $events + 510 from tasker.tick join tasker.queue on queue_id = tick_queue
		where queue_name = 'unread'", 'ticker_max_count events get a tick at once');
	# And one who looks is served at once.
	$session->query_safe("select tasker.insert_event('unread', 't', 'x')") foreach 1 .. 3;
	sql($node, "select tasker.register_consumer('unread', 'now'), tasker.next_batch('unread', 'now')");
	wait_until($node, "select max(tick_event_seq) = $events + 513 from tasker.tick join tasker.queue on queue_id = tick_queue
		where queue_name = 'unread'", 'a consumer that finds no batch gets a tick');
	$session->quit;
	return;
}

# Nothing happens: the ticker does not even wake up.
sub idle
{
	my $ticker = ticker_of($node);
	wait_until($node, 'select not exists (select from tasker.queue_ticks where dirty)', 'all queues have their ticks');
	my $switches = sub { return slurp_file("/proc/$ticker/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die };
	# The look that the duty asks for, once a minute, may fall into one of the tries.
	my $quiet = 0;
	foreach (1 .. 3)
	{
		my ($ticks, $woken) = (sql($node, 'select ticks from tasker.ticker_status'), $switches->());
		sql($node, 'select pg_sleep(2)');
		$quiet = sql($node, 'select ticks from tasker.ticker_status') == $ticks && $switches->() == $woken;
		last if $quiet;
	}
	ok($quiet, 'an idle ticker makes no ticks, and sleeps through');
	return;
}

# --- whose ticks it does not make ------------------------------------------------------------------------------

sub settings
{
	make_queue('held');
	foreach my $setting ('ticker_paused', 'external_ticker')
	{
		sql($node, "select tasker.set_queue_config('held', '$setting', 'true')");
		my $before = ticks_of('held');
		insert('held', $setting);
		insert('plain', "after $setting");
		read_until('plain', "after $setting", "another queue beside one with $setting");
		is(ticks_of('held'), $before, "$setting: no tick");
		sql($node, "select tasker.set_queue_config('held', '$setting', 'false')");
		read_until('held', $setting, "$setting taken back: the tick comes at once");
	}
	# By hand beside the ticker, by force, and by duty.
	insert('held', 'by hand');
	sql($node, "select tasker.ticker('held'), tasker.ticker()");
	read_until('held', 'by hand', 'ticker() beside the ticker');
	my $before = ticks_of('held');
	sql($node, "select tasker.force_tick('held')");
	wait_until($node, "select count(*) > $before from tasker.tick join tasker.queue on queue_id = tick_queue
		where queue_name = 'held'", 'force_tick() gets its tick');
	# Past everything that would tell: only a look finds it.
	sql($node, "insert into tasker.event_1_0 (ev_id, ev_time, ev_type, ev_data)
		values (nextval('tasker.event_1_id_seq'), now(), 't', 'smuggled')");
	sql($node, "call tasker.run_duty('tick')");
	read_until('plain', 'smuggled', 'duty tick has the ticker look at all queues');
	return;
}

# --- prepared transactions -------------------------------------------------------------------------------------

sub prepared
{
	make_queue('twophase');
	sql($node, "begin; select tasker.insert_event('twophase', 't', 'prepared'); prepare transaction 'p1'");
	insert('twophase', 'other');
	read_until('twophase', 'other', 'an event beside a prepared one');
	sql($node, "commit prepared 'p1'");
	read_until('twophase', 'prepared', 'COMMIT PREPARED from another session gets a tick');
	sql($node, "begin; select tasker.create_queue('unborn'), tasker.register_consumer('unborn', 'c'),
		tasker.insert_event('unborn', 't', 'first'); prepare transaction 'p2'");
	sql($node, "begin; select tasker.insert_event('twophase', 't', 'second'); prepare transaction 'p3'");
	sql($node, "commit prepared 'p3'");
	read_until('twophase', 'second', 'one of two');
	sql($node, "commit prepared 'p2'");
	read_until('unborn', 'first', 'a queue whose creation was prepared');

	# The restart forgets what was noted.
	sql($node, "begin; select tasker.insert_event('twophase', 't', 'kept'); prepare transaction 'p4'");
	insert('twophase', 'last');
	read_until('twophase', 'last', 'a tick after the PREPARE');
	$node->restart;
	ticker_of($node);
	sql($node, "commit prepared 'p4'");
	read_until('twophase', 'kept', 'COMMIT PREPARED after a restart gets a tick');
	return;
}

# --- death -----------------------------------------------------------------------------------------------------

sub deaths
{
	my $ticker = ticker_of($node);
	make_queue('mortal');
	sql($node, "select pg_terminate_backend($ticker)");
	insert('mortal', 'meanwhile');
	read_until('mortal', 'meanwhile', 'an event from while the ticker was gone');
	isnt(ticker_of($node), $ticker, 'it is another process');

	$ticker = ticker_of($node);
	insert('mortal', 'before');
	kill 'KILL', $ticker;
	$node->poll_query_until('postgres', "select count(*) = 1 from pg_stat_activity where backend_type = 'tasker ticker' and pid <> $ticker")
	  or die 'no ticker after SIGKILL';
	insert('mortal', 'after');
	my @seen = read_until('mortal', 'after', 'events go on after SIGKILL of the ticker');
	is(scalar(grep { $_ eq 'before' } @seen), 1, '... and none is lost');

	# Both the ticker and the server stop with an event that has no tick.
	ticker_of($node);
	sql($node, "select tasker.set_queue_config('mortal', 'ticker_paused', 'true')");
	insert('mortal', 'asleep');
	crash_server($node);
	start_after_crash($node);
	sql($node, "select tasker.set_queue_config('mortal', 'ticker_paused', 'false')");
	read_until('mortal', 'asleep', 'an event from before a crash');

	sql($node, 'alter system set tasker.worker = off');
	$node->reload;
	wait_until($node, "select count(*) = 0 from pg_stat_activity where backend_type in ('tasker worker', 'tasker ticker')",
		'tasker.worker = off ends both processes');
	is(sql($node, 'select state from tasker.ticker_status'), 'off', 'ticker_status says so');
	insert('mortal', 'unseen');
	sql($node, "select tasker.set_queue_config('mortal', 'ticker_max_lag', '0')");
	sql($node, "call tasker.run_duty('tick')");
	read_until('mortal', 'unseen', 'the duty makes the ticks then');
	insert('mortal', 'waits');
	sql($node, 'alter system reset tasker.worker');
	$node->reload;
	read_until('mortal', 'waits', 'tasker.worker = on: the ticker finds what it has missed');
	return;
}

# A queue that cannot be ticked must not stop the others, and is not written to the log again and again.
sub broken_queue
{
	make_queue('broken');
	ticker_of($node);
	my $id = sql($node, "select queue_id from tasker.queue where queue_name = 'broken'");
	my $offset = -s $node->logfile;
	insert('broken', 'x');
	sql($node, "begin; select tasker.insert_event('broken', 't', 'y'); drop sequence tasker.event_${id}_tick_seq; commit");
	wait_until($node, "select failures_in_a_row >= 2 from tasker._queue_ticks() where queue_id = $id", 'its failures are counted');
	insert('plain', 'beside');
	read_until('plain', 'beside', 'other queues have their ticks');
	my $log = slurp_file($node->logfile, $offset);
	my @said = $log =~ /could not make a tick of queue $id/g;
	is(scalar @said, 1, 'it is said once');
	sql($node, "create sequence tasker.event_${id}_tick_seq start 1000");
	wait_until($node, "select failures_in_a_row = 0 from tasker._queue_ticks() where queue_id = $id", 'and it is tried again');
	read_until('broken', 'y', 'its events are there');
	return;
}

# --- coming and going ------------------------------------------------------------------------------------------

sub quick
{
	my ($query, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my ($status, undef, $err) = $node->psql('postgres', $query, on_error_stop => 1);
	is("$status$err", '0', $what);
	cmp_ok(time - $start, '<', 3, '... at once');
	return;
}

# What a rolled back subtransaction has written to a queue keeps nobody from dropping it. Its place in shared memory may
# be another queue's when the transaction ends, which is none of its business.
sub dropped_meanwhile
{
	make_queue('goes');
	my $id = sql($node, "select queue_id from tasker.queue where queue_name = 'goes'");
	my $session = $node->background_psql('postgres', on_error_stop => 1);
	$session->query_safe("begin; savepoint s; select tasker.current_event_table('goes'); rollback to s");
	sql($node, "select tasker.drop_queue('goes', true)");
	wait_until($node, "select count(*) = 0 from tasker._queue_ticks() where queue_id = $id", 'a dropped queue gives its place back');
	make_queue('comes');
	sql($node, "select tasker.set_queue_config('comes', 'ticker_paused', 'true')");
	make_queue('witness');
	$session->query_safe('commit');
	$session->quit;
	insert('witness', 'x');
	read_until('witness', 'x', 'the ticker goes on');
	is(sql($node, "select count(*) from tasker._queue_ticks() join tasker.queue using (queue_id)
		where queue_name = 'comes' and dirty"), 0, '... and the queue in its place has got no events');
	return;
}

sub lifecycle
{
	sql($node, 'create database other');
	sql($node, 'create extension tasker', 'other');
	my $first = ticker_of($node, 'other');
	make_queue('there', $node, 'other');
	sql($node, "select tasker.insert_event('there', 't', 'x')", 'other');
	wait_until($node, "select max(tick_event_seq) = 1 from tasker.tick", 'each database has its ticker', 'other');
	sql($node, 'drop extension tasker', 'other');
	wait_until($node, "select count(*) = 0 from pg_stat_activity where backend_type like 'tasker %' and datname = 'other'",
		'no ticker after DROP EXTENSION');
	sql($node, 'create extension tasker', 'other');
	isnt(ticker_of($node, 'other'), $first, 'another one after CREATE EXTENSION');
	sql($node, 'begin; drop extension tasker; create extension tasker; commit', 'other');
	make_queue('again', $node, 'other');
	ticker_of($node, 'other');
	sql($node, "select tasker.insert_event('again', 't', 'x')", 'other');
	wait_until($node, "select max(tick_event_seq) = 1 from tasker.tick", 'ticks in an extension that was made anew', 'other');
	quick('alter database other rename to renamed', 'ALTER DATABASE RENAME');
	quick('create database copied template renamed', 'CREATE DATABASE from it');
	ticker_of($node, 'copied');
	quick('drop database renamed', 'DROP DATABASE');
	quick('drop database copied', 'DROP DATABASE of the copy');
	return;
}

sub standby
{
	my $backup = 'b';
	$node->backup($backup);
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, $backup, has_streaming => 1);
	$standby->start;
	make_queue('moved');
	insert('moved', 'on the primary');
	$node->wait_for_catchup($standby);
	is(sql($standby, "select count(*) from pg_stat_activity where backend_type = 'tasker ticker'"), 0, 'none on a standby');
	sql($node, "begin; select tasker.insert_event('moved', 't', 'prepared'); prepare transaction 'moving'");
	$node->wait_for_catchup($standby);
	$node->stop('immediate');
	$standby->promote;
	ticker_of($standby);
	insert('moved', 'on the new one', $standby);
	my @seen = read_until('moved', 'on the new one', 'ticks go on after promotion', $standby);
	is(scalar(grep { $_ eq 'on the primary' } @seen), 1, '... with what was there before');
	sql($standby, "commit prepared 'moving'");
	read_until('moved', 'prepared', 'COMMIT PREPARED after promotion gets a tick', $standby);
	$standby->stop;
	return;
}

# --- less room, or none ----------------------------------------------------------------------------------------

sub overflow
{
	my $small = tasker_cluster('small', conf => "tasker.max_queues = 16\ntasker.max_databases = 2\nmax_connections = 40");
	make_queue("q$_", $small) foreach 1 .. 20;
	ticker_of($small);
	insert("q$_", 'x', $small) foreach 1 .. 20;
	wait_until($small, "select count(*) = 20 from tasker.tick where tick_event_seq = 1", 'queues beyond the room have ticks');
	make_queue('late', $small);
	my $session = $small->background_psql('postgres', on_error_stop => 1);
	$session->query_safe("begin; select tasker.insert_event('late', 't', 'slow')");
	insert('late', 'quick', $small);
	read_until('late', 'quick', 'one that is waited for by polling', $small);
	$session->query_safe('commit');
	read_until('late', 'slow', 'and one that commits after the tick', $small);
	$session->quit;
	sql($small, "select tasker.drop_queue('q' || n, true) from generate_series(1, 20) n");
	sql($small, "call tasker.run_duty('tick')");
	wait_until($small, 'select count(*) <= 1 from tasker._queue_ticks()', 'dropped queues give their room back');
	foreach my $database (qw(one two three))
	{
		sql($small, "create database $database");
		sql($small, 'create extension tasker', $database);
		ticker_of($small, $database);
		make_queue('there', $small, $database);
		sql($small, "select tasker.insert_event('there', 't', 'x')", $database);
		wait_until($small, 'select max(tick_event_seq) = 1 from tasker.tick', "database $database takes the room of one that was dropped",
			$database);
		sql($small, "drop database $database");
	}
	$small->stop;
	return;
}

sub without_preload
{
	my $bare = tasker_cluster('bare', preload => 0);
	make_queue('bare', $bare);
	is(sql($bare, 'select state from tasker.ticker_status'), 'not loaded', 'ticker_status without the library preloaded');
	is(sql($bare, 'select count(*) from tasker.queue_ticks'), 0, 'queue_ticks is empty');
	sql($bare, "select tasker.set_queue_config('bare', 'ticker_max_lag', '0')");
	insert('bare', 'x', $bare);
	sql($bare, "call tasker.run_duty('tick')");
	read_until('bare', 'x', 'the duty makes the ticks', $bare);
	is(sql($bare, 'select period from tasker.duty_status where name = $$tick$$'), '00:00:01', 'once a second by pg_cron');
	$bare->stop;
	return;
}

follows_commits();
late_commit();
bounded_rate();
rare_without_consumers();
idle();
settings();
prepared();
deaths();
broken_queue();
dropped_meanwhile();
lifecycle();
overflow();
without_preload();
standby();

done_testing();
