# Counts of tasks and steps by state: exact after every restart and crash, whatever becomes of prepared transactions,
# while others write, and whoever breaks off the build.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $ROUND_SECONDS = 3;    # of writers and builds
my $BALLAST = 20_000;     # tasks of the past, so that a build takes its time

my $node = tasker_cluster('counts', conf => "tasker.worker = off\nmax_connections = 50\nlog_statement = none\n");

sub session { return $node->background_psql('postgres', on_error_stop => 0) }

# The counts are those of the tables. While nobody writes.
sub exact
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, 'select * from tasker._check_workflow_counts()'), '', "$what: the counts are those of the tables");
}

sub counts { return sql($node, 'select to_jsonb(c) from tasker.get_system_health_counts() c') }

# How many tasks and steps there are, as "tasks steps".
sub totals { return sql($node, "select total_tasks || ' ' || total_steps from tasker.get_system_health_counts()") }

sub define
{
	sql($node, q{select tasker.define_task('counts', 'pair', '{"steps": [{"name": "a", "handler": "h", "max_attempts": 1000,
		"backoff": {"base_seconds": 0, "jitter": 0}}, {"name": "b", "handler": "h", "depends_on": ["a"]}]}')});
	return;
}

# Finished tasks of a past day, one step each, written by statements.
sub make_past
{
	my ($date, $tasks) = @_;
	sql($node, <<~SQL);
		select tasker.create_partition('tasker.task', '$date'), tasker.create_partition('tasker.workflow_step', '$date');
		with day as (select lpad(to_hex((extract(epoch from timestamptz '$date 12:00 UTC') * 1000)::bigint), 12, '0') as ms),
		     ids as (select (ms || '70008000' || lpad(to_hex(g), 4, '0') || '00000000')::uuid as uuid, g from day, generate_series(1, $tasks) g),
		     named as (select named_task_uuid, named_step_uuid from tasker.named_steps where name = 'a' limit 1),
		     tasks as (
		insert into tasker.task (task_uuid, named_task_uuid, state_entered_at, updated_at, current_state, priority, total_steps,
			active_steps, retry_steps, failed_steps, last_transition, next_step_number, correlation_id, context)
		select uuid, named_task_uuid, now(), now(), 'c', 0, 1, 0, 0, 0, 6, 2, uuid, '{}' from ids, named)
		insert into tasker.workflow_step (workflow_step_uuid, named_step_uuid, record_id, state_entered_at, current_state, step_type,
			retryable, priority, attempts, max_attempts, total_parents, remaining_parents, last_transition)
		select overlay(uuid::text placing '00000001' from 29)::uuid, named_step_uuid, 0, now(), 'c', 's', true, 0, 1, 1, 0, 0, 4
		from ids, named;
		SQL
	return;
}

# --- restarts ----------------------------------------------------------------------------------------------------

sub restarts
{
	sql($node, "select count(tasker.create_task('counts', 'pair')) from generate_series(1, 20)");
	sql($node, "select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from tasker.claim_steps('counts', 5);
		select count(*) from tasker.claim_steps('counts', 3)");
	exact('before any restart');
	my $before = counts();
	foreach my $how ('a restart', 'an immediate shutdown', 'a crash')
	{
		# What is under way is lost, and only that.
		my $open = session();
		$open->query_safe('begin');
		$open->query_safe("select tasker.create_task('counts', 'pair')");
		$open->query_safe("select count(*) from tasker.claim_steps('counts', 2)");
		if ($how eq 'a crash') { crash_server($node); start_after_crash($node) }
		else { $node->stop($how eq 'a restart' ? 'fast' : 'immediate'); $node->start }
		eval { $open->quit };
		is(counts(), $before, "the counts after $how");
		exact("after $how");
	}
	return;
}

# --- prepared transactions ---------------------------------------------------------------------------------------

my %BETWEEN = (
	'nothing' => sub { },
	'a look' => sub { counts() },
	'a build' => sub { sql($node, 'select tasker.rebuild_workflow_counts()') },
	'a crash' => sub { crash_server($node); start_after_crash($node) },
	'a crash and a look' => sub { crash_server($node); start_after_crash($node); counts() },
	'a restart' => sub { $node->restart });

sub prepared
{
	foreach my $end ('commit', 'rollback')
	{
		foreach my $between (sort keys %BETWEEN)
		{
			my $what = "$end prepared after $between";
			my ($tasks, $steps) = split / /, totals();
			sql($node, <<~SQL);
				begin;
				select tasker.create_task('counts', 'pair');
				savepoint s;
				select tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[7]));
				rollback to s;
				select count(*) from tasker.claim_steps('counts', 1);
				prepare transaction 'p';
				SQL
			$BETWEEN{$between}->();
			is(totals(), "$tasks $steps", "$what: it does not count before");
			sql($node, "select tasker.create_task('counts', 'pair')");
			sql($node, "$end prepared 'p'");
			my $more = $end eq 'commit' ? 2 : 1;
			is(totals(), ($tasks + $more) . ' ' . ($steps + 2 * $more), "$what: it counts as it has ended");
			exact($what);
		}
	}
	# More of them than anybody has looked at since.
	foreach my $i (1 .. 25)
	{
		sql($node, "begin; select tasker.create_task('counts', 'pair'); prepare transaction 'many'; commit prepared 'many'");
	}
	exact('many prepared transactions without a look');
	# Several, ended one by one in another order, over a crash.
	sql($node, "begin; select tasker.create_task('counts', 'pair'); prepare transaction 'several$_'") foreach 1 .. 3;
	crash_server($node);
	start_after_crash($node);
	foreach my $step ("commit prepared 'several2'", "rollback prepared 'several3'", "commit prepared 'several1'")
	{
		sql($node, $step);
		exact($step);
	}
	# A build that begins before a prepared transaction ends, and ends after it.
	my $empty = sql($node, "select tasker.create_partition('tasker.task', (now() + interval '20 days')::text)");
	sql($node, "begin; select tasker.create_task('counts', 'pair'); prepare transaction 'during'");
	my ($locker, $builder) = (session(), session());
	$locker->query_safe("begin; lock table $empty in access exclusive mode");
	blocked($builder, 'select tasker.rebuild_workflow_counts()');
	sql($node, "commit prepared 'during'");
	$locker->query_safe('rollback');
	$builder->query_until(qr/returned/, '');
	exact('a prepared transaction that ended during a build');
	$_->quit foreach $locker, $builder;
	return;
}

# --- a build that stands still in the middle ----------------------------------------------------------------------

# Sends a statement and returns the session's pid once it waits for a lock.
sub blocked
{
	my ($session, $statement) = @_;
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n$statement;\n\\echo returned\n");
	$node->poll_query_until('postgres', "select coalesce((select wait_event_type in ('Lock', 'Extension', 'IPC')
		from pg_stat_activity where pid = $pid), false)") or die 'it does not block';
	return $pid;
}

sub build_stands_still
{
	my $empty = sql($node, "select tasker.create_partition('tasker.task', (now() + interval '10 days')::text)");
	foreach my $how ('pg_cancel_backend', 'pg_terminate_backend', 'its end')
	{
		foreach my $first (1, 0)    # the first build, or another one
		{
			if ($first) { crash_server($node); start_after_crash($node) }
			my $what = ($first ? 'the first build' : 'another build') . ", until $how";
			my ($locker, $builder) = (session(), session());
			sql($node, 'select 1 from tasker.get_system_health_counts()') if !$first;
			my $statement = $first ? 'select count(*) from tasker.get_system_health_counts()' : 'select tasker.rebuild_workflow_counts()';
			# What began before the build's snapshot and ends after it, either way, and by whom it is not seen.
			my @open = map { session() } 1 .. 2;
			$_->query_safe("begin; select tasker.create_task('counts', 'pair')") foreach @open;
			$locker->query_safe("begin; lock table $empty in access exclusive mode");
			my $pid = blocked($builder, $statement);
			$open[0]->query_safe('commit');
			$open[1]->query_safe('rollback');
			# Nobody who writes waits for it.
			sql($node, "select tasker.create_task('counts', 'pair');
				select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from tasker.claim_steps('counts', 3);
				begin; select count(*) from tasker.claim_steps('counts', 2); rollback");
			my $waiter = session();
			blocked($waiter, 'select count(*) from tasker.get_system_health_counts()') if $first;
			if ($how =~ /^pg/)
			{
				sql($node, "select $how($pid)");
				wait_until($node, "select not exists (select from pg_stat_activity where pid = $pid and state = 'active' and wait_event_type = 'Lock'
					and query = '$statement;')", "$what: it is broken off");
			}
			$locker->query_safe('rollback');
			$waiter->query_until(qr/returned/, '') if $first;
			$builder->query_until(qr/returned/, '') if $how !~ /terminate/;
			eval { $_->quit } foreach $builder, $locker, $waiter, @open;
			exact($what);
		}
	}
	return;
}

# --- writers and builds -------------------------------------------------------------------------------------------

my $scripts = PostgreSQL::Test::Utils::tempdir;
my $claim = "select * from tasker.claim_steps('counts', :n, 'pgbench', '1 hour')";
my %SCRIPT = (
	create => "select tasker.create_task('counts', 'pair', priority => :p);\n",
	create_many => "select cardinality(tasker.create_tasks('counts', 'pair', array_fill('{}'::jsonb, array[:n])));\n",
	work => "with c as materialized ($claim) select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from c;\n",
	fail => "with c as materialized ($claim) select count(tasker.fail_step(workflow_step_uuid, '1', backoff_seconds => 0,"
	  . " lease_token => lease_token)) from c;\n",
	abort => "begin;\nselect tasker.create_task('counts', 'pair');\nselect count(*) from ($claim) c;\nrollback;\n",
	savepoints => "begin;\nsavepoint a;\nselect tasker.create_task('counts', 'pair');\nselect count(*) from ($claim) c;\nrollback to a;\n"
	  . "savepoint b;\nselect tasker.create_task('counts', 'pair');\nrelease b;\nselect tasker.create_task('counts', 'pair');\ncommit;\n",
	statement => "update tasker.task set current_state = current_state where task_uuid = tasker.uuid_at(now());\n",
	rebuild => "select tasker.rebuild_workflow_counts();\n",
	look => "select pending_tasks >= 0 and steps_in_process_tasks >= 0 and total_tasks > 0 and enqueued_steps >= 0 as sane"
	  . " from tasker.get_system_health_counts() \\gset\n\\if not :sane\nselect 1/0;\n\\endif\n");

# Runs them all at random, and expects no error.
sub load_runs
{
	my ($what, $clients) = @_;
	my @files;
	foreach my $name (sort keys %SCRIPT)
	{
		my $file = "$scripts/$name.sql";
		unlink $file;
		append_to_file($file, "\\set p random(0, 2)\n\\set n random(1, 6)\n$SCRIPT{$name}");
		push @files, '-f', "$file\@" . ($name eq 'create' || $name eq 'work' ? 4 : 1);
	}
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', $clients, '-j', '2', '-T', $ROUND_SECONDS, @files,
			'-h', $node->host, '-p', $node->port, 'postgres' ]);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($err =~ /(error[^\n]*|aborted[^\n]*)/i ? $1 : '', '', "$what: no error");
	my ($transactions) = $out =~ /actually processed: (\d+)/;
	my ($rebuilds) = $out =~ m{rebuild\.sql\n(?: - [^\n]*\n)*? - (\d+) transactions};
	note("$what: $transactions transactions, $rebuilds of them builds");
	cmp_ok($rebuilds // 0, '>', 5, '... and a number of builds');
	exact($what);
	return;
}

sub under_load
{
	load_runs('writers and builds', 8);
	# The first build after a crash, under load from its very beginning.
	crash_server($node);
	start_after_crash($node);
	load_runs('the first build and others under load', 8);
	return;
}

# --- partitions that come and go, and seals -----------------------------------------------------------------------

sub scans_of
{
	my ($table) = @_;
	sql($node, 'select pg_stat_force_next_flush()');
	return sql($node, "select seq_scan from pg_stat_user_tables where relid = '$table'::regclass");
}

sub seals
{
	make_past('2024-02-01', 10);
	make_past('2024-02-02', 10);
	exact('tasks of the past');
	sql($node, "update tasker.task set current_state = 's' where task_uuid = (select task_uuid from tasker.task_p20240202 order by 1 limit 1)");
	sql($node, "call tasker.run_duty('seal')");
	is(sql($node, "select string_agg(format('%s %s %s', partition::regclass, state, row_count), ', ' order by c.relname, state)
		from tasker.sealed_workflow_partition join pg_class c on c.oid = partition where c.relname like '%202402%' group by ()"),
		'tasker.task_p20240201 - 0, tasker.task_p20240201 c 10, tasker.workflow_step_p20240201 - 0, tasker.workflow_step_p20240201 c 10',
		'partitions are sealed when all their tasks are finished');
	exact('sealed partitions');

	my $counts = counts();
	crash_server($node);
	start_after_crash($node);
	my ($sealed, $open) = (scans_of('tasker.task_p20240201'), scans_of('tasker.task_p20240202'));
	is(counts(), $counts, 'the counts after a crash');
	is(scans_of('tasker.task_p20240201'), $sealed, '... without a look into the sealed partition');
	cmp_ok(scans_of('tasker.task_p20240202'), '>', $open, '... and with one into the other');

	# A change takes the seal away, for good or not.
	my $change = "update tasker.task set current_state = 'e' where task_uuid = (select task_uuid from tasker.task_p20240201 order by 1 limit 1)";
	my $seals = "select count(*) from tasker.sealed_workflow_partition where partition = 'tasker.task_p20240201'::regclass";
	sql($node, "begin; $change; rollback");
	is(sql($node, $seals), 2, 'a change that is undone leaves the seal');
	sql($node, "begin; savepoint a; $change; rollback to a; update tasker.task set priority = 1
		where task_uuid = (select task_uuid from tasker.task_p20240201 order by 1 limit 1); commit");
	is(sql($node, $seals), 2, '... so does one that changes no state');
	sql($node, $change);
	is(sql($node, $seals), 0, 'a change of a state removes it');
	exact('a seal that was removed');
	crash_server($node);
	start_after_crash($node);
	exact('a seal that was removed, after a crash');

	# A prepared transaction holds the partition: it is not sealed until that has ended.
	sql($node, "begin; update tasker.task set current_state = 'c' where task_uuid = (select task_uuid from tasker.task_p20240201 order by 1 limit 1);
		prepare transaction 'past'");
	sql($node, "call tasker.run_duty('seal')");
	is(sql($node, $seals), 0, 'a prepared transaction stands against the seal');
	sql($node, "commit prepared 'past'");
	sql($node, "call tasker.run_duty('seal')");
	is(sql($node, $seals), 2, '... until its end');
	exact('sealed again');
	crash_server($node);
	start_after_crash($node);
	exact('sealed again, after a crash');

	# A seal that lies is found.
	sql($node, "update tasker.sealed_workflow_partition set row_count = 11 where state = 'c' and partition = 'tasker.task_p20240201'::regclass");
	like(sql($node, 'select * from tasker.check_integrity()'), qr/^seal of tasker.task_p20240201\|it does not say how many rows are in state "c"$/m,
		'a seal that lies is found');
	crash_server($node);
	start_after_crash($node);
	like(sql($node, 'select * from tasker.check_integrity()'), qr/^count of complete_tasks\|there are \d+, statistics say \d+$/m, '... and counts that do');
	sql($node, "delete from tasker.sealed_workflow_partition; select tasker.rebuild_workflow_counts()");
	exact('after another count');

	# Partitions that are dropped, by hand and by an abort of who has made them.
	sql($node, 'drop table tasker.task_p20240201; drop table tasker.workflow_step_p20240201');
	exact('a partition dropped by hand');
	sql($node, "begin; drop table tasker.task_p20240202; rollback");
	exact('a drop that was undone');
	sql($node, "alter table tasker.task detach partition tasker.task_p20240202");
	exact('a detached partition');
	sql($node, "drop table tasker.task_p20240202; drop table tasker.workflow_step_p20240202;
		call tasker.run_duty('seal')");
	is(sql($node, "select count(*) from tasker.sealed_workflow_partition s where not exists (select from pg_class where oid = s.partition)"), 0,
		'seals of dropped tables are forgotten');
	sql($node, "begin; select tasker.create_partition('tasker.task', '2024-03-01'), tasker.create_partition('tasker.workflow_step', '2024-03-01');
		rollback");
	make_past('2024-03-01', 3);
	exact('a partition that was made again');
	return;
}

# --- another extension, another database --------------------------------------------------------------------------

sub others
{
	sql($node, 'create database other');
	sql($node, 'create extension tasker', 'other');
	is(sql($node, 'select total_tasks from tasker.get_system_health_counts()', 'other'), 0, 'another database has its own counts');

	sql($node, "call tasker.run_duty('seal')");
	cmp_ok(sql($node, 'select count(*) from tasker.sealed_workflow_partition'), '>', 0, 'there are seals');
	sql($node, 'truncate tasker.task, tasker.workflow_step');
	exact('after a truncation');
	sql($node, 'drop extension tasker cascade');
	sql($node, 'create extension tasker');
	is(totals(), '0 0', 'another extension begins with nothing');
	define();
	sql($node, "select tasker.create_task('counts', 'pair')");
	is(totals(), '1 2', '... and counts');
	exact('another extension');
	# Within one transaction, undone.
	sql($node, "begin; select tasker.create_task('counts', 'pair'); drop extension tasker cascade; create extension tasker;
		select total_tasks from tasker.get_system_health_counts(); rollback");
	is(totals(), '1 2', 'a change of the extension that was undone');
	exact('a change of the extension that was undone');
	# And made.
	sql($node, "begin; select tasker.create_task('counts', 'pair'); drop extension tasker cascade; create extension tasker; commit");
	is(totals(), '0 0', 'a change of the extension within a transaction');
	exact('a change of the extension within a transaction');
	sql($node, 'drop database other');
	return;
}

define();
restarts();
prepared();
make_past('2024-01-01', $BALLAST);
build_stands_still();
under_load();
seals();
others();

# The worker builds the counts by itself.
$node->append_conf('postgresql.conf', "tasker.worker = on\n");
$node->restart;
define();
wait_until($node, "select runs > 0 from tasker.duty_status where name = 'prepare'", 'the worker has prepared');
exact('built by the worker');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC:|TRAP:|terminated by signal (?!9)/, 'nothing crashed but what was killed');
$node->stop;
done_testing();
