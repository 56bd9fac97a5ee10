# Restarts and crashes: floors and statistics are rebuilt from the table, exactly, although everybody goes on working
# meanwhile, and whatever becomes of the one who rebuilds.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use TaskerCluster;

my $ALPHA = '12 4 2 7 2 1 28';
my $ROUNDS_SECONDS = 6;    # of writers and rebuilds

my $node = tasker_cluster('restart', conf => "tasker.worker = off\nmax_connections = 50\nlog_statement = none\n");
fill_queue($node);

sub session { return $node->background_psql('postgres', on_error_stop => 0) }

# Sends statements without waiting for their end, and returns once the session waits for a lock.
sub start_blocked
{
	my ($session, $statements) = @_;
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n$statements;\n\\echo returned\n\\warn returned\n");
	$node->poll_query_until('postgres',
		"select coalesce((select wait_event_type in ('Lock', 'Extension', 'IPC') from pg_stat_activity where pid = $pid), false)")
	  or die 'it does not block';
	return $pid;
}

sub result
{
	my ($session) = @_;
	my $out = $session->query_until(qr/returned/, '');
	PostgreSQL::Test::Utils::pump_until($session->{run}, $session->{timeout}, \$session->{stderr}, qr/returned/);
	my ($error) = $session->{stderr} =~ /ERROR:\s+([^\n]*)/;
	$session->{stderr} = '';
	$out =~ s/returned\n//;
	chomp $out;
	return ($out, $error // '');
}

# A partition in which nothing is, so that its lock stops a rebuild and nobody else.
sub empty_partition
{
	return sql($node, "select tasker.create_partition('tasker.queue_record', (now() + interval '10 days')::text)");
}

# --- what survives -----------------------------------------------------------------------------------------------

sub restarts
{
	my $lanes = 'select flow_name, priority, partition, pending, processing, completed, failed, cancelled
		from tasker.queue_lanes() where pending + processing + completed + failed + cancelled > 0 order by 1, 2, 3';
	my $contents = contents_of($node);
	my $before = sql($node, $lanes);
	my ($held, $token) = split /\|/, sql($node, "select id, lease_token from tasker.queue_record where status = 'r' limit 1");
	my $highest = sql($node, 'select max(greatest(id, position)) from tasker.queue_record where position < id + (1::bigint << 40)');
	is(status_of($node, 'alpha'), $ALPHA, 'the statistics before any restart');

	foreach my $how ('a restart', 'an immediate shutdown', 'a crash')
	{
		# What is under way is lost, and only that.
		my $open = session();
		$open->query_safe('begin');
		$open->query_safe("select tasker.enqueue('alpha', '\"lost\"')");
		$open->query_safe("select count(*) from tasker.claim_records_batch('alpha', 5)");
		$open->query_safe("select tasker.mark_record_completed($held)");

		if ($how eq 'a crash') { crash_server($node); start_after_crash($node) }
		else { $node->stop($how eq 'a restart' ? 'fast' : 'immediate'); $node->start }
		eval { $open->quit };

		is(status_of($node, 'alpha'), $ALPHA, "the statistics after $how");
		is(contents_of($node), $contents, 'every record is as it was');
		is(sql($node, $lanes), $before, 'so is every lane');
		queue_is_exact($node, "after $how");
	}
	cmp_ok(sql($node, 'select tasker.next_record_id()'), '>', $highest, 'ids keep growing');
	is(sql($node, "select tasker.mark_record_completed($held, null, $token)"), 1, 'a lease from before holds');
	like(error_of($node, "select tasker.mark_record_completed($held, null, $token)"), qr/^55000/, '... for once');
	is(sql($node, "select tasker.enqueue('alpha', '0', 0, null, 'live key') = id from tasker.queue_record
		where payload = '\"live key\"'"), 't', 'a deduplication key is still held');

	my @order = map { sql($node, "select payload from tasker.claim_records_batch('alpha')") } 1 .. 4;
	is("@order", '"high 4" "past 1" "past 2" "low 1"', 'claims go on by priority, then by age across partitions');
	my @rest = drained($node, 'alpha');
	is(scalar(@rest), 8, '... and hand out the rest');
	queue_is_exact($node, 'after the rest');
	return;
}

# --- writers and rebuilds ----------------------------------------------------------------------------------------

my $scripts = PostgreSQL::Test::Utils::tempdir;
my $claim = "select id, lease_token from tasker.claim_records_batch('load', :n, 'pgbench', '1 hour')";
my %SCRIPT = (
	enqueue => "select tasker.enqueue('load', '{}', :p);\n",
	schedule => "select tasker.enqueue('load', '{}', :p, clock_timestamp() + interval '1 day');\n",
	add => "select tasker.add_records_to_queue('load', array_fill('{}'::jsonb, array[:n]), :p);\n",
	statement => "insert into tasker.queue_record (flow_id, priority, payload) select flow_id, :p, '{}' from tasker.flow
		where flow_name = 'load';\n" =~ s/\n\t+/ /r,
	work => "with c as materialized ($claim) select count(tasker.mark_record_completed(id, null, lease_token)) from c;\n",
	hold => "$claim;\n",
	give_back => "begin;\nwith c as materialized ($claim) select coalesce(array_agg(id), '{}') as ids from c \\gset\n"
	  . "select tasker.release_records(':ids');\ncommit;\n",
	fail => "with c as materialized ($claim) select tasker.mark_record_failed(id, 'no', '0', lease_token) from c;\n",
	abort => "begin;\nselect tasker.enqueue('load', '{}', :p);\n$claim;\nrollback;\n",
	savepoints => "begin;\nsavepoint a;\nselect tasker.enqueue('load', '{}', :p);\n$claim;\nrollback to a;\n$claim;\n"
	  . "savepoint b;\nselect tasker.add_records_to_queue('load', '{1,2}', :p);\nrelease b;\ncommit;\n",
	cancel => "with c as materialized (select id from tasker.queue_record where status = 'p' and id % 7 = :n and
		position > id limit 1 for update skip locked) select tasker.cancel_records(array_agg(id)) from c having count(*) > 0;\n"
		=~ s/\n\t+/ /r,
	rebuild => "select tasker.rebuild_queue_state();\n",
	look => "select min(least(pending, scheduled, processing, completed, failed, cancelled)) >= 0 as sane from tasker.get_queue_status() \\gset\n"
	  . "\\if not :sane\nselect 1/0;\n\\endif\n");

# Runs them all at random, the rebuild as often as anything else, and expects no error.
sub load_runs
{
	my ($what, $clients, $seconds) = @_;
	my @files;
	foreach my $name (sort keys %SCRIPT)
	{
		my $file = "$scripts/$name.sql";
		unlink $file;
		append_to_file($file, "\\set p random(0, 2)\n\\set n random(1, 6)\n$SCRIPT{$name}");
		push @files, '-f', "$file\@" . ($name eq 'enqueue' ? 4 : $name eq 'rebuild' ? 2 : 1);
	}
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', $clients, '-j', '2', '-T', $seconds, @files,
			'-h', $node->host, '-p', $node->port, 'postgres' ]);
	my ($transactions) = $out =~ /actually processed: (\d+)/;
	my ($rebuilds) = $out =~ m{rebuild\.sql\n(?: - [^\n]*\n)*? - (\d+) transactions};
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($err =~ /(error[^\n]*|aborted[^\n]*)/i ? $1 : '', '', "$what: no error");
	note("$what: $transactions transactions, $rebuilds of them rebuilds");
	cmp_ok($rebuilds // 0, '>', 5, '... and a number of rebuilds');
	queue_is_exact($node, $what);
	return;
}

# Enough finished records for a rebuild to take its time.
sub make_ballast
{
	sql($node, "select tasker.create_flow('load', '{\"max_attempts\": 1000}')");
	sql($node, "insert into tasker.queue_record (flow_id, payload, status, changed_at) select flow_id, '{}', 'c', now()
		from tasker.flow, generate_series(1, 30000) where flow_name = 'load'");
	return;
}

# The first build after a crash, under load from its very beginning.
sub first_build_under_load
{
	crash_server($node);
	start_after_crash($node);
	load_runs('the first build and others under load', 8, 3);
	return;
}

# --- a rebuild that does not get to its end ----------------------------------------------------------------------

# A rebuild stands still in the middle, while others write.
sub rebuild_is_broken_off
{
	my $empty = empty_partition();
	foreach my $how ('pg_cancel_backend', 'pg_terminate_backend', 'its end')
	{
		my $locker = session();
		my $rebuilder = session();
		$locker->query_safe("begin; lock table $empty in access exclusive mode");
		my $pid = start_blocked($rebuilder, 'select tasker.rebuild_queue_state()');
		# None of these needs that partition.
		sql($node, "select tasker.add_records_to_queue('load', '{1,2,3}');
			select tasker.mark_record_completed(id, null, lease_token) from tasker.claim_records_batch('load', 2);
			begin; select count(*) from tasker.claim_records_batch('load', 2); rollback;");
		my $status = status_of($node, 'load');
		sql($node, "select $how($pid)") if $how =~ /^pg/;
		$locker->query_safe('rollback') if $how !~ /^pg/;
		if ($how eq 'pg_terminate_backend')
		{
			wait_until($node, "select not exists (select from pg_stat_activity where pid = $pid)", "$how: it is gone");
			eval { $rebuilder->quit };
		}
		else
		{
			my (undef, $error) = result($rebuilder);
			is($error, $how =~ /^pg/ ? 'canceling statement due to user request' : '', "$how: as it should be");
			$rebuilder->quit;
		}
		is(status_of($node, 'load'), $status, "$how: the statistics are not disturbed");
		$locker->query_safe('rollback') if $how =~ /^pg/;
		$locker->quit;
		queue_is_exact($node, "a rebuild that stood still, until $how");
		sql($node, 'select tasker.rebuild_queue_state()');
		queue_is_exact($node, "the next rebuild after $how");
	}

	# An error in it, caught.
	my $locker = session();
	$locker->query_safe("begin; lock table $empty in access exclusive mode");
	sql($node, <<~'SQL');
		set lock_timeout = '50 ms';
		do $$ begin
		    perform tasker.enqueue('load', '1');
		    begin
		        perform tasker.rebuild_queue_state();
		        raise 'it did not fail';
		    exception when lock_not_available then null;
		    end;
		    perform tasker.enqueue('load', '2');
		end $$;
		SQL
	$locker->query_safe('rollback');
	$locker->quit;
	queue_is_exact($node, 'a rebuild that failed in a block with an exception handler');
	return;
}

# The first build stands still: whoever needs its result waits, and takes over when the builder goes.
sub first_build_is_broken_off
{
	my $empty = empty_partition();
	foreach my $how ('pg_cancel_backend', 'pg_terminate_backend')
	{
		$node->restart;
		sql($node, 'select tasker.next_record_id()');    # which looks for the highest id, once
		my ($locker, $builder, $claimer, $producer) = map { session() } 1 .. 4;
		$locker->query_safe("begin; lock table $empty in access exclusive mode");
		my $pid = start_blocked($builder, "select total from tasker.get_queue_status('load')");
		is($producer->query_safe("select tasker.add_records_to_queue('load', '{1,2,3}')"), 3,
			'producers do not wait for the first build');
		my $claimer_pid = start_blocked($claimer, "select count(*) from tasker.claim_records_batch('load', 2)");
		sql($node, "select $how($pid)");
		# Now it stands where the builder stood.
		wait_until($node, "select wait_event_type = 'Lock' from pg_stat_activity where pid = $claimer_pid",
			"after $how another one builds");
		$producer->query_safe("select tasker.enqueue('load', '4')");
		$locker->query_safe('rollback');
		my ($out, $error) = result($claimer);
		is($out . $error, '2', '... and gets its records');
		foreach my $session ($locker, $builder, $claimer, $producer) { eval { $session->quit } }
		queue_is_exact($node, "the first build, taken over after $how");
	}
	return;
}

# The server dies in the middle of a rebuild.
sub crash_while_rebuilding
{
	my $empty = empty_partition();
	my ($locker, $rebuilder) = map { session() } 1 .. 2;
	$locker->query_safe("begin; lock table $empty in access exclusive mode");
	start_blocked($rebuilder, 'select tasker.rebuild_queue_state()');
	my $status = status_of($node, 'load');
	crash_server($node);
	start_after_crash($node);
	is(status_of($node, 'load'), $status, 'a crash in the middle of a rebuild changes no statistics');
	queue_is_exact($node, 'after it');
	foreach my $session ($locker, $rebuilder) { eval { $session->quit } }
	return;
}

# The table is emptied after the rebuild has taken its snapshot, and before it has read a row.
sub truncate_while_rebuilding
{
	foreach my $first (0, 1)
	{
		my $what = $first ? 'the first build' : 'a rebuild';
		# The partition that was made first is the one that a rebuild locks first.
		my $partition = sql($node, "select partition from tasker.show_partitions('tasker.queue_record') order by partition::oid limit 1");
		my ($locker, $rebuilder) = map { session() } 1 .. 2;
		$node->restart if $first;
		($locker, $rebuilder) = map { session() } 1 .. 2 if $first;
		$rebuilder->query_safe('select tasker.next_record_id()');    # whose session has looked around before
		$locker->query_safe("begin; lock table $partition in access exclusive mode");
		start_blocked($rebuilder, $first ? 'select count(*) from tasker.get_queue_status()' : 'select tasker.rebuild_queue_state()');
		sql($node, "select tasker.add_records_to_queue('load', '{1,2,3}')");
		$locker->query_safe('truncate tasker.queue_record');
		$locker->query_safe('commit');
		my (undef, $error) = result($rebuilder);
		is($error, '', "TRUNCATE during $what: it goes through");
		$_->quit foreach $locker, $rebuilder;
		queue_is_exact($node, "TRUNCATE during $what");
		sql($node, "select tasker.add_records_to_queue('load', '{1,2}')");
		is(scalar(drained($node, 'load')), 2, '... and the queue goes on');
	}
	return;
}

# --- partitions of the past --------------------------------------------------------------------------------------

# Their counts are sealed; what is changed in them afterwards counts all the same, whatever snapshot changes it.
sub sealed_partitions
{
	my $fresh = sub {
		my ($days) = @_;
		my $partition = sql($node, "select tasker.create_partition('tasker.queue_record', (now() - interval '$days days')::text)");
		sql($node, "insert into tasker.queue_record (id, position, flow_id, payload, status, retry_count, changed_at)
			select id, id, flow_id, '1', 'f', 2, now() from tasker.flow,
			    lateral (select ((extract(epoch from now() - interval '$days days') * 1000)::bigint << 20) as id) ids
			where flow_name = 'alpha'");
		return sql($node, "select id from $partition");
	};
	my %change = (
		'brought back' => sub { "select tasker.retry_records(array[$_[0]])" },
		'changed by a statement' => sub { "update tasker.queue_record set status = 'p' where id = $_[0]" });
	my $days = 4;
	my @ids;
	foreach my $level ('read committed', 'repeatable read', 'serializable')
	{
		foreach my $how (sort keys %change)
		{
			my $id = $fresh->($days++);
			my $session = session();
			$session->query_safe("begin isolation level $level");
			$session->query_safe('select 1');
			sql($node, "call tasker.run_duty('seal')");
			is(sql($node, "select count(*) from tasker.sealed_partition s join tasker.queue_record r on r.tableoid = s.partition
				where r.id = $id and s.flow_id <> 0"), 1, 'a finished partition of the past is sealed');
			$session->query_safe($change{$how}->($id));
			$session->query_safe('commit');
			$session->quit;
			queue_is_exact($node, "a record of a sealed partition, $how ($level)");
			unshift @ids, $id;
		}
	}
	crash_server($node);
	start_after_crash($node);
	queue_is_exact($node, 'records of sealed partitions, after a crash');
	is(join(',', sort { $a <=> $b } drained($node, 'alpha')), join(',', @ids), '... are handed out');
	return;
}

restarts();
make_ballast();
load_runs('rebuilds under load', 8, $ROUNDS_SECONDS);
first_build_under_load();
rebuild_is_broken_off();
first_build_is_broken_off();
crash_while_rebuilding();
sealed_partitions();
truncate_while_rebuilding();
server_did_not_crash($node);

$node->stop;
done_testing();
