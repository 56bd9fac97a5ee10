# pg_dump of workflows that are at work, and pg_restore into another cluster whose worker is running: they go on there.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use TaskerCluster;

my $conf = "log_statement = none\n";
my $node = tasker_cluster('dumped', conf => "${conf}tasker.worker = off\n");
my $target = tasker_cluster('restored', conf => $conf, extension => 0);
my $dump = PostgreSQL::Test::Utils::tempdir . '/workflow.dump';

# Does what is ready, until nothing is. Steps of type batch create three others each.
my $drain = <<'SQL';
create function drain(steps int = 1000000) returns int language plpgsql as $$
declare
	step record;
	done int := 0;
begin
	while done < steps loop
		select * into step from tasker.claim_steps('dump', 1, 'drain');
		exit when not found;
		perform tasker.complete_step(step.workflow_step_uuid, to_jsonb(step.step_name),
			case when step.step_name = 'split' then '[{"name": "part", "as": "part 1"}, {"name": "part", "as": "part 2", "inputs": {"n": 2}}, "part"]'::jsonb end,
			step.lease_token);
		done := done + 1;
	end loop;
	return done;
end $$;
SQL

# Every row of every table, with every column.
my @tables = qw(task_namespaces named_tasks named_steps step_flow task workflow_step workflow_step_edge task_transition
  workflow_step_transition task_identity tasks_dlq);

sub contents
{
	my ($server, $database) = @_;
	return join "\n", map { sql($server, "select '$_ ' || count(*) || ' ' || coalesce(md5(string_agg(r::text, '|' order by r::text)), '') from tasker.$_ r", $database) } @tables;
}

my $states = "select string_agg(concat_ws(' ', current_state, n), ', ' order by current_state)
	from (select current_state, count(*) n from tasker.tasks group by 1) s";
my $counts = 'select to_jsonb(c) from tasker.get_system_health_counts() c';

# A little of everything.
sql($node, $drain);
sql($node, <<'SQL');
select tasker.define_task('dump', 'work', '{"steps": [{"name": "first", "handler": "h"}, {"name": "second", "handler": "h", "depends_on": ["first"], "max_attempts": 1},
	{"name": "third", "handler": "k", "depends_on": ["first"]}, {"name": "last", "handler": "k", "depends_on": ["second", "third"]}]}');
select tasker.define_task('dump', 'fan', '{"steps": [{"name": "split", "handler": "split", "type": "batch"}, {"name": "part", "handler": "h", "depends_on": ["split"]},
	{"name": "gather", "handler": "k", "type": "deferred", "depends_on": ["part"]}]}');
select tasker.define_task('dump', 'work', '{"steps": [{"name": "only", "handler": "h"}]}', '0.2.0');
select tasker.create_task('dump', 'work', '{"old": true}', version => '0.1.0', identity_key => 'known', tags => '{"a": 1}', initiator => 'me');
select tasker.create_tasks('dump', 'fan', array_fill('{}'::jsonb, array[20]));
select drain(60);
select tasker.create_tasks('dump', 'work', array_fill('{"x": "y"}'::jsonb, array[30]), version => '0.1.0', priority => 3);
select tasker.create_task('dump', 'work', run_at => now() + interval '1 day');
select tasker.create_task('dump', 'work', identity_key => 'also known');
create table held as select * from tasker.claim_steps('dump', 10, 'holder', '1 hour');
select tasker.checkpoint_step(workflow_step_uuid, '{"half": "way"}', lease_token) from (table held limit 3) h;
select tasker.fail_step(workflow_step_uuid, '{"message": "for good"}', false, null, lease_token) from (table held offset 3 limit 2) h;
select tasker.fail_step(workflow_step_uuid, '{"message": "for now"}', true, 3600, lease_token) from (table held offset 5 limit 2) h;
select tasker.cancel_task(task_uuid, 'unwanted') from tasker.tasks where current_state = 'steps_in_process' order by task_uuid desc limit 2;
select tasker.create_dlq_entry(task_uuid) from tasker.tasks where current_state = 'blocked_by_failures';
select tasker.alter_parent('tasker.task', 'retention', '40 days');
SQL
is(sql($node, 'select * from tasker.check_integrity()'), '', 'the source is whole');

# A dump while somebody works: one snapshot.
my $contents = contents($node);
my $states_there = sql($node, $states);
my $counts_there = sql($node, $counts);
my $open = $node->background_psql('postgres', on_error_stop => 0);
$open->query_safe('begin');
$open->query_safe("select tasker.create_task('dump', 'fan')");
$open->query_safe('select drain(3)');
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
$open->query_safe('rollback');
$open->quit;

sub restore
{
	my ($database, @options) = @_;
	$target->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $target->connstr($database), $dump ], "pg_restore @options");
	return wait_until($target, 'select exists (select from tasker.worker_status where database = current_database() and state = \'running\')',
		"$database has a worker", $database);
}

sub goes_on
{
	my ($database) = @_;
	my $rows = sub { return sql($target, $_[0], $database) };
	is(contents($target, $database), $contents, "$database: every row is there, with every column");
	is($rows->('select * from tasker.check_integrity()'), '', "$database: all is whole");
	is($rows->($states), $states_there, "$database: the tasks' states");
	is($rows->($counts), $counts_there, "$database: and the counts");
	is($rows->("select string_agg(distinct concat_ws(' ', partition_interval, premake, retention), ', ') || ' ' || count(*) from tasker.part_config
		where parent <> 'tasker.queue_record'::regclass"), '1 day 4 40 days 5', "$database: settings of the five sets");

	# Templates, identity keys and leases are what they were.
	is($rows->("select tasker.define_task('dump', 'work', configuration, version) = named_task_uuid from tasker.named_tasks where version = '0.2.0'"), 't',
		"$database: a template is known");
	is($rows->("select tasker.create_task('dump', 'work', identity_key => 'known', version => '0.1.0') = task_uuid from tasker.tasks where identity_key = 'known'"), 't',
		"$database: an identity key is held");
	my ($step, $token) = split /\|/, $rows->("select workflow_step_uuid, lease_token from held join tasker.workflow_steps using (workflow_step_uuid)
		where current_state = 'in_progress' order by 1 limit 1");
	like(error_of($target, "select tasker.complete_step('$step', null, null, $token - 1)", $database), qr/^55000/, "$database: a lease is fenced");
	is($rows->("select tasker.complete_step('$step', null, null, $token)"), 'steps_in_process', "$database: ... and holds");

	# Everything comes to its end.
	cmp_ok($rows->('select drain()'), '>', 100, "$database: what is ready is done");
	$rows->("select tasker.release_steps(array[workflow_step_uuid]) from tasker.workflow_steps where current_state = 'in_progress'");
	$rows->("select tasker.retry_task(task_uuid) from tasker.tasks where current_state in ('blocked_by_failures', 'waiting_for_retry')");
	$rows->('select drain()');
	like($rows->($states), qr/^cancelled 2, complete \d+, pending 1$/, "$database: all is done, but for what was cancelled or waits for its time");
	my $task = $rows->("select tasker.create_task('dump', 'fan')");
	is($rows->('select drain()'), 5, "$database: new tasks are done too");
	is($rows->("select max(task_uuid::text) = '$task' from tasker.tasks"), 't', "$database: their uuids are higher");
	is($rows->('select * from tasker.check_integrity()'), '', "$database: all is whole still");

	# Partitions: none twice, each with its keys, and nothing retires in the first hour.
	$rows->('call tasker.run_maintenance()');
	is($rows->("select count(*) - count(distinct lower_bound), count(*) filter (where is_current) from tasker.show_partitions('tasker.task')"), '0|1',
		"$database: no partition is there twice");
	is($rows->("select string_agg(distinct parent || ' ' || (select count(*) from pg_index where indrelid = partition), ', ' order by parent || ' ' || (select count(*) from pg_index where indrelid = partition))
		from unnest('{task,workflow_step,workflow_step_edge,task_transition,workflow_step_transition}'::text[]) parent, tasker.show_partitions(('tasker.' || parent)::regclass)"),
		'task 4, task_transition 2, workflow_step 1, workflow_step_edge 2, workflow_step_transition 2', "$database: each has its indexes, once");
	is($rows->('select count(*) from tasker.part_failure'), 0, "$database: no duty fails");
	$rows->("select tasker.create_partition(('tasker.' || t)::regclass, '2020-01-01') from unnest('{task,workflow_step,workflow_step_edge,task_transition,workflow_step_transition}'::text[]) t");
	$rows->("call tasker.run_duty('retire')");
	is($rows->("select count(*), min(reason) from tasker.part_retirement"), '5|the set was restored less than an hour ago', "$database: nothing is retired at once");
	$rows->("update tasker.part_config set adopted_at = now() - interval '2 hours'");
	$rows->("call tasker.run_duty('retire')");
	is($rows->("select count(*) from pg_class where relname ~ '_p20200101'"), 0, "$database: but later, all five together");
	return;
}

sql($target, "create database $_") foreach qw(empty single prepared);
restore('empty', '-j', '2');
goes_on('empty');
restore('single', '--single-transaction');
goes_on('single');
sql($target, 'create extension tasker', 'prepared');
sql($target, "select tasker.define_task('before', 't', '{\"steps\": [{\"name\": \"a\", \"handler\": \"h\"}]}'), tasker.create_task('before', 't')", 'prepared');
restore('prepared', '--clean', '--if-exists');
goes_on('prepared');

is(contents($node), $contents, 'the source was not disturbed');
server_did_not_crash($_) foreach $node, $target;
$_->stop foreach $node, $target;
done_testing();
