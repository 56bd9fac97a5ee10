# get_next_ready_tasks() where other things happen at the same time: partitions that go, a held snapshot, writers,
# a shared memory that is full, a standby.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $LOAD_SECONDS = 4;

# What is ready, and what it counts: the rules, without any regard to what they cost.
my $RULES = <<'SQL';
create view by_the_rules as
	with record as (
		select tasker.task_of(s.workflow_step_uuid) as task_uuid, r.priority, r.position,
			(extract(epoch from clock_timestamp()) * 1000)::bigint - (r.position >> 20) as age
		from tasker.queue_record r join tasker.step_flow using (flow_id)
		join tasker.workflow_step s on s.record_id = r.id and to_jsonb(s.workflow_step_uuid::text) = r.payload
		where r.status = 'p' and s.current_state in ('q', 'r') and r.position >> 20 <= extract(epoch from clock_timestamp()) * 1000)
	select task_uuid, max(case when age < 3600000 then priority + 0.1 * (age / 3600000.0) when age < 86400000
		then priority * exp(- age / 3600000.0 / 12.0) else 0.1 end) as value
	from record group by 1
SQL

sub define
{
	my ($node, $flows) = @_;
	sql($node, $RULES);
	sql($node, qq{select count(tasker.define_task('ready', 't' || g, jsonb_build_object('steps', jsonb_build_array(
		jsonb_build_object('name', 'a', 'handler', 'h' || g, 'max_attempts', 1000, 'backoff', '{"base_seconds": 0, "jitter": 0}'::jsonb),
		jsonb_build_object('name', 'b', 'handler', 'h', 'depends_on', '["a"]'::jsonb))))) from generate_series(1, $flows) g});
	return;
}

# All that are ready are found, each once, in the right order.
sub by_the_rules
{
	my ($node, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, q{with found as materialized (select * from tasker.get_next_ready_tasks(100000) with ordinality),
			wanted as materialized (select * from by_the_rules)
		select (select count(*) from found) || ' of ' || (select count(*) from wanted) || ', ' ||
			(select count(*) from found full join wanted using (task_uuid) where abs(computed_priority - value) < 0.001) || ' right, ' ||
			(select count(*) from found a join found b on b.ordinality = a.ordinality + 1 and b.computed_priority > a.computed_priority)
			|| ' out of order'}),
		sql($node, "select n || ' of ' || n || ', ' || n || ' right, 0 out of order' from (select count(*) as n from by_the_rules) x"), $what);
}

sub session { my ($node) = @_; return $node->background_psql('postgres', on_error_stop => 0) }

# Sends a statement, and returns once it waits for a lock.
sub blocked
{
	my ($node, $session, $statement) = @_;
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n$statement;\n\\echo returned\n");
	$node->poll_query_until('postgres',
		"select coalesce((select wait_event_type = 'Lock' from pg_stat_activity where pid = $pid), false)") or die 'it does not block';
	return;
}

# --- partitions that go while they are looked for -----------------------------------------------------------------

sub partitions_go
{
	my $node = tasker_cluster('partitions', conf => "tasker.worker = off\n");
	define($node, 2);
	sql($node, "select count(tasker.create_task('ready', 't1', priority => 1)) from generate_series(1, 5)");
	# Some of the records stand in the partition of an older day.
	sql($node, "select tasker.create_partition('tasker.queue_record', (now() - interval '3 days')::text)");
	sql($node, "create table moved as select id, id - (3 * 86400000::bigint << 20) as new_id from tasker.queue_record order by id limit 2;
		update tasker.queue_record r set id = new_id, position = new_id from moved m where m.id = r.id;
		update tasker.workflow_step s set record_id = new_id from moved m where m.id = s.record_id");
	by_the_rules($node, 'records in two partitions');
	my $old = sql($node, 'select tableoid::regclass from tasker.queue_record order by id limit 1');
	my $tasks = sql($node, 'select tableoid::regclass from tasker.task limit 1');

	foreach my $table ($old, $tasks)
	{
		my ($dropper, $reader) = (session($node), session($node));
		$reader->query_safe('select count(*) from tasker.get_next_ready_tasks(10)');
		$dropper->query_safe("begin; lock table $table in access exclusive mode");
		blocked($node, $reader, 'select count(*) || \' tasks\' from tasker.get_next_ready_tasks(10)');
		$dropper->query_safe("drop table $table");
		$dropper->query_safe('commit');
		my ($found) = $reader->query_until(qr/returned/, '') =~ /(\d+) tasks/;
		is($found, $table eq $old ? 3 : 0, "$table is dropped while it is waited for");
		$_->quit foreach $dropper, $reader;
		by_the_rules($node, "$table is gone") if $table eq $old;
	}
	$node->stop;
	return;
}

# --- a held snapshot ----------------------------------------------------------------------------------------------

sub pages_read
{
	my ($node) = @_;
	my $plan = sql($node, "do 'begin perform from tasker.get_next_ready_tasks(5); end';
		explain (analyze, buffers, timing off, summary off) select * from tasker.get_next_ready_tasks(5)");
	my $pages = 0;
	$pages += $1 while $plan =~ /(?:hit|read)=(\d+)/g;
	return $pages;
}

sub snapshot_is_held
{
	my $node = tasker_cluster('held', conf => "tasker.worker = off\nautovacuum = off\n");
	define($node, 1);
	sql($node, "select cardinality(tasker.create_tasks('ready', 't1', array_fill('{}'::jsonb, array[200])))");
	my $before = pages_read($node);
	my $holder = session($node);
	$holder->query_safe('begin isolation level repeatable read');
	$holder->query_safe('select count(*) from tasker.task');
	# Everything that is ready is worked off and as much comes anew, ten times.
	foreach my $round (1 .. 10)
	{
		sql($node, "select cardinality(tasker.create_tasks('ready', 't1', array_fill('{}'::jsonb, array[500])));
			select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from tasker.claim_steps('ready', 1000)");
	}
	my $after = pages_read($node);
	cmp_ok($after, '<=', 2 * $before, "pages for five tasks: $before before, $after over ten thousand dead versions");
	by_the_rules($node, 'under a held snapshot');
	$holder->quit;
	$node->stop;
	return;
}

# --- writers ------------------------------------------------------------------------------------------------------

my $scripts = PostgreSQL::Test::Utils::tempdir;
my $claim = "select * from tasker.claim_steps('ready', :n, 'pgbench', '1 hour')";
my %SCRIPT = (
	create => "select tasker.create_task('ready', 't' || :n, priority => :p);\n",
	work => "with c as materialized ($claim) select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from c;\n",
	fail => "with c as materialized ($claim) select count(tasker.fail_step(workflow_step_uuid, '1', backoff_seconds => 0, lease_token => lease_token)) from c;\n",
	give_back => "with c as materialized ($claim) select tasker.release_steps(array_agg(workflow_step_uuid)) from c having count(*) > 0;\n",
	abort => "begin;\nselect tasker.create_task('ready', 't' || :n);\nselect count(*) from ($claim) c;\nselect count(*) from tasker.get_next_ready_tasks(20);\nrollback;\n",
	look => "select count(*) = count(distinct task_uuid) and coalesce(min(ready_steps_count), 1) > 0 and coalesce(bool_and(below), true) as sane from (select *,"
	  . " computed_priority <= lag(computed_priority) over (order by ordinality) as below from tasker.get_next_ready_tasks(:n * 50)"
	  . " with ordinality) x \\gset\n\\if not :sane\nselect 1/0;\n\\endif\n");

sub under_load
{
	my $node = tasker_cluster('load', conf => "max_connections = 50\nlog_statement = none\n");
	define($node, 6);
	my @files;
	foreach my $name (sort keys %SCRIPT)
	{
		append_to_file("$scripts/$name.sql", "\\set p random(0, 9)\n\\set n random(1, 6)\n$SCRIPT{$name}");
		push @files, '-f', "$scripts/$name.sql\@" . ($name =~ /create|look/ ? 3 : 1);
	}
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', 8, '-j', 2, '-T', $LOAD_SECONDS, @files, '-h', $node->host, '-p', $node->port, 'postgres' ]);
	is($err =~ /(error[^\n]*|aborted[^\n]*)/i ? $1 : '', '', 'what is found while others write makes sense');
	note($1) if $out =~ /(actually processed: \d+)/;
	by_the_rules($node, 'after the writers');
	crash_server($node);
	start_after_crash($node);
	by_the_rules($node, 'after a crash');
	$node->stop;
	return;
}

# --- no room in shared memory -------------------------------------------------------------------------------------

sub memory_is_full
{
	my $node = tasker_cluster('full', conf => "tasker.worker = off\ntasker.max_lanes = 64\n");
	define($node, 10);
	sql($node, "select count(tasker.create_task('ready', 't' || (1 + g % 10), priority => (g / 10) % 10)) from generate_series(1, 200) g");
	like(slurp_file($node->logfile), qr/no room in shared memory for another lane/, 'shared memory is full');
	by_the_rules($node, 'without lanes');
	$node->stop;
	return;
}

# --- a standby ----------------------------------------------------------------------------------------------------

sub on_a_standby
{
	my $node = tasker_cluster('primary', init => [ allows_streaming => 1 ]);
	define($node, 3);
	sql($node, "select count(tasker.create_task('ready', 't' || (1 + g % 3), priority => g % 10)) from generate_series(1, 30) g");
	$node->backup('one');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'one', has_streaming => 1);
	$standby->start;
	sql($node, "select count(tasker.complete_step(workflow_step_uuid, lease_token => lease_token)) from tasker.claim_steps('ready', 10);
		select count(*) from tasker.claim_steps('ready', 5)");
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	by_the_rules($standby, 'on a standby');
	is(sql($standby, 'select * from tasker._check_workflow_counts()'), '', 'the counts on a standby');
	is(sql($standby, 'select to_jsonb(c) from tasker.get_system_health_counts() c'),
		sql($node, 'select to_jsonb(c) from tasker.get_system_health_counts() c'), '... are those of the primary');
	$standby->promote;
	sql($standby, "select count(tasker.create_task('ready', 't1')) from generate_series(1, 10)");
	by_the_rules($standby, 'after its promotion');
	is(sql($standby, 'select * from tasker._check_workflow_counts()'), '', 'the counts after its promotion');
	$_->stop foreach $standby, $node;
	return;
}

partitions_go();
snapshot_is_held();
under_load();
memory_is_full();
on_a_standby();
done_testing();
