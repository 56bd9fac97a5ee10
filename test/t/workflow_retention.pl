# Retention of tasks: the five tables of the instances have one configuration and retire together, tasks first, never
# with an unfinished task inside; whatever is killed in between, nothing is left that the next round does not finish.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use TaskerCluster;

my @tables = qw(task workflow_step workflow_step_edge task_transition workflow_step_transition);

# Two steps of a task, one after the other, as the engine leaves them at a time of our choice: done, or with the first
# one ready. A function of the test's own, because the engine makes tasks of now only.
my $old_task = <<'SQL';
create function old_task(at timestamptz, number int, done boolean = true) returns uuid language plpgsql as $$
declare
	uuid uuid := (select overlay(overlay(u::text placing '7000-8000' from 15) placing lpad(to_hex(number), 4, '0') || '00000000' from 25)::uuid
		from tasker.uuid_at(at) u);
	step uuid[] := array[overlay(uuid::text placing '00000001' from 29), overlay(uuid::text placing '00000002' from 29)];
	named uuid := (select named_task_uuid from tasker.named_tasks where name = 'two');
	state text := case when done then 'c' else 's' end;
	record bigint := case when done then 0 else tasker.enqueue('retention/h', to_jsonb(step[1]::text)) end;
begin
	perform tasker.create_partition(('tasker.' || t)::regclass, at::text) from unnest('{task,workflow_step,workflow_step_edge,task_transition,workflow_step_transition}'::text[]) t;
	insert into tasker.task (task_uuid, named_task_uuid, state_entered_at, updated_at, current_state, priority, total_steps,
		active_steps, retry_steps, failed_steps, last_transition, next_step_number, correlation_id, context)
	values (uuid, named, at, at, state::"char", 0, 2, (not done)::int, 0, 0, case when done then 6 else 4 end, 3, uuid, '{}');
	insert into tasker.workflow_step (workflow_step_uuid, named_step_uuid, record_id, state_entered_at, current_state,
		step_type, retryable, priority, attempts, max_attempts, total_parents, remaining_parents, last_transition)
	select step[i], named_step_uuid, case i when 1 then record else 0 end, at, case when done then 'c' when i = 1 then 'q' else 'p' end::"char",
		's', true, 0, done::int, 3, i - 1, case when done then 0 else i - 1 end, case when done then 4 when i = 1 then 2 else 1 end
	from generate_series(1, 2) i, tasker.named_steps where named_task_uuid = named and step_order = i;
	insert into tasker.workflow_step_edge (from_step_uuid, to_step_uuid) values (step[1], step[2]);
	insert into tasker.task_transition (task_uuid, txid, created_at, sort_key, from_state, to_state)
	select uuid, 0, at, i, substr('piqsvc', i - 1, 1)::"char", substr('piqsvc', i, 1)::"char"
	from generate_series(1, case when done then 6 else 4 end) i;
	update tasker.task_transition set from_state = null where task_uuid = uuid and sort_key = 1;
	insert into tasker.workflow_step_transition (workflow_step_uuid, txid, created_at, sort_key, from_state, to_state)
	select step[s], 0, at, i, substr('pqsc', i - 1, 1)::"char", substr('pqsc', i, 1)::"char"
	from generate_series(1, 2) s, lateral generate_series(1, case when done then 4 when s = 1 then 2 else 1 end) i;
	update tasker.workflow_step_transition set from_state = null where workflow_step_uuid = any (step) and sort_key = 1;
	return uuid;
end $$;
SQL

my $node;
my @sessions;

sub new_cluster
{
	my ($name, %param) = @_;
	$node = tasker_cluster($name, %param);
	sql($node, q{select tasker.define_task('retention', 'two', '{"steps": [{"name": "first", "handler": "h"},
		{"name": "second", "handler": "h", "depends_on": ["first"]}]}')});
	sql($node, $old_task);
	return;
}

sub session
{
	push @sessions, $node->background_psql('postgres', on_error_stop => 0);
	return $sessions[-1];
}

sub close_sessions
{
	$_->quit foreach @sessions;
	@sessions = ();
	return;
}

sub maintain { return sql($node, 'call tasker.run_maintenance()'); }

# Where the five partitions of a day stand: "attached", "pending", "detached", or "gone", in the order of the tables.
sub standing
{
	my ($day) = @_;
	my $suffix = $day =~ s/-//gr;
	return sql($node, "select string_agg(case when to_regclass(name) is null then 'gone'
		else coalesce((select case when inhdetachpending then 'pending' else 'attached' end from pg_inherits
			where inhrelid = to_regclass(name)), 'detached') end, ' ' order by i)
		from unnest('{" . join(',', @tables) . "}'::text[]) with ordinality tables (t, i),
		lateral (select 'tasker.' || t || '_p$suffix') names (name)");
}

my $all_attached = 'attached attached attached attached attached';
my $all_gone = 'gone gone gone gone gone';

sub becomes
{
	my ($day, $standing, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return pass($what) if standing($day) eq $standing;
		sql($node, 'update tasker.part_retirement set next_try_at = null where next_try_at is not null');
		maintain();
		usleep(100_000);
	}
	diag(sql($node, 'table tasker.part_retirement'), sql($node, 'table tasker.part_failure'));
	return is(standing($day), $standing, $what);
}

sub reasons
{
	my ($day) = @_;
	my $suffix = $day =~ s/-//gr;
	return sql($node, "select string_agg(regexp_replace(reason, '[0-9a-f-]{36}', 'UUID'), '; ' order by parent::oid)
		from tasker.part_retirement where partition_name like '%_p$suffix'");
}

sub is_whole
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, 'select * from tasker.check_integrity()'), '', $what);
}

# --- one configuration ----------------------------------------------------------------------------------------

new_cluster('retention', conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\n");

my $settings = "select string_agg(distinct concat_ws(' ', partition_interval, premake, retention, timezone, legal_hold), ', '), count(*)
	from tasker.part_config where parent <> 'tasker.queue_record'::regclass";
sql($node, "select tasker.create_partition('tasker.workflow_step_edge', '2020-01-01')");
is(sql($node, $settings), '1 day 4 90 days UTC f|5', 'the first use of one opens all five, with a retention of 90 days');
maintain();
wait_until($node, "select count(*) = 25 and count(distinct split_part(partition::text, '_p', -1)) = 5
	from unnest('{" . join(',', map { "tasker.$_" } @tables) . "}'::regclass[]) parent, tasker.show_partitions(parent)
	where upper_bound::timestamptz > now()", 'all five have partitions of the same bounds made ahead');
is(error_of($node, "select tasker.alter_parent('tasker.workflow_step', 'partition_interval', '1 hour')"),
	'22023: partition set "workflow_step" has the settings of "task"', 'one of them alone is not altered');
sql($node, "select tasker.alter_parent('tasker.task', 'partition_interval', '12 hours'), tasker.alter_parent('tasker.task', 'premake', '2'),
	tasker.alter_parent('tasker.task', 'timezone', 'Asia/Tokyo')");
is(sql($node, $settings), '12 hours 2 90 days Asia/Tokyo f|5', 'but all together');
sql($node, "select tasker.alter_parent('tasker.task', 'partition_interval', '1 day'), tasker.alter_parent('tasker.task', 'timezone', 'UTC')");

# --- never with an unfinished task ----------------------------------------------------------------------------

my $done = sql($node, "select old_task('2020-02-01 10:00', 1)");
my $open = sql($node, "select old_task('2020-02-02 10:00', 1, false)");
sql($node, "select old_task('2020-02-02 11:00', n) from generate_series(2, 50) n");
my $young = sql($node, "select old_task(now() - interval '30 days', 1)");
my $young_day = sql($node, "select (now() - interval '30 days')::date");
is_whole('the tasks that the test has made are whole');
becomes('2020-02-01', $all_gone, 'a day of finished tasks goes, all five partitions');
becomes('2020-02-02', $all_attached, 'a day with an unfinished one stays');
is(standing($young_day), $all_attached, 'so does what is younger than the retention');
wait_until($node, "select count(*) = 5 from tasker.part_retirement where partition_name like '%_p20200202'", 'that is noted for all five');
is(reasons('2020-02-02'), 'task UUID is not finished; ' . join('; ', ('the tasks of its time are still in "task_p20200202"') x 4), 'with the reason');
is(sql($node, "select count(*) from tasker.part_retirement where reason like '%$open%'"), '1', 'and the task');
like(error_of($node, "select tasker.task_graph('$done')"), qr/^42704: task "$done" does not exist/, 'who asks for a retired task is told');

# Identity keys of retired tasks go, others stay.
sql($node, "insert into tasker.task_identity select named_task_uuid, 'key ' || uuid, uuid::uuid from tasker.named_tasks, unnest('{$done,$open,$young}'::text[]) uuid
	where name = 'two'");
sql($node, "insert into tasker.task_identity select named_task_uuid, 'many ' || n, overlay(tasker.uuid_at('2020-02-01 12:00')::text placing '7000-8000' from 15)::uuid
	from tasker.named_tasks, generate_series(1, 2500) n where name = 'two'");
sql($node, "insert into tasker.tasks_dlq (dlq_entry_uuid, task_uuid, original_state, dlq_reason, dlq_timestamp, task_snapshot, created_at, updated_at)
	select gen_random_uuid(), uuid::uuid, 'error', 'manual_dlq', now(), '{}', now(), now() from unnest('{$done,$open}'::text[]) uuid");
sql($node, "call tasker.run_duty('forget_retired_tasks')");
is(sql($node, 'select task_uuid from tasker.tasks_dlq'), $open, 'entries of retired tasks leave the dead letter queue');
is(sql($node, "select string_agg(identity_key, ', ' order by task_uuid) from tasker.task_identity"), "key $open, key $young",
	'identity keys of retired tasks are removed, and no others');

# Legal hold, and no retention: nothing goes.
sql($node, "update tasker.task set current_state = 'x' where task_uuid = '$open'");
sql($node, "select tasker.alter_parent('tasker.task', 'legal_hold', 'true')");
maintain();
wait_until($node, "select count(*) = 5 from tasker.part_retirement where reason = 'the set is under legal hold'", 'legal hold is one for all');
sql($node, "select tasker.alter_parent('tasker.task', 'legal_hold', 'false'), tasker.alter_parent('tasker.task', 'retention', null)");
sql($node, 'call tasker.run_duty(\'retire\')');
is(standing('2020-02-02'), $all_attached, 'without a retention everything is kept');
sql($node, "select tasker.alter_parent('tasker.task', 'retention', '90 days')");
becomes('2020-02-02', $all_gone, 'cancelled at last, it goes');
is(sql($node, 'select count(*) from tasker.part_retirement'), '0', 'the book is empty');

# --- transactions beside the retirement -----------------------------------------------------------------------

# One that adds an unfinished task to a day that is due, while nobody can see it: the partition of the tasks comes back.
sql($node, "select old_task('2020-03-01 10:00', 1)");
my $writer = session();
$writer->query_safe("begin; insert into tasker.task_p20200301 select * from tasker.task_p20200301 limit 0;
	insert into tasker.task_p20200301 (task_uuid, named_task_uuid, state_entered_at, updated_at, current_state, priority, total_steps,
		active_steps, retry_steps, failed_steps, last_transition, next_step_number, correlation_id, context)
	select overlay(task_uuid::text placing '77' from 27)::uuid, named_task_uuid, now(), now(), 's', 0, 0, 0, 0, 0, 0, 1, task_uuid, '{}' from tasker.task_p20200301");
becomes('2020-03-01', 'pending attached attached attached attached', 'while a transaction has used the partition of the tasks, its detach is pending');
like(error_of($node, "select tasker.task_graph(overlay((tasker.uuid_at('2020-03-01 10:00'))::text placing '7000-8000-000100000000' from 15)::uuid)"),
	qr/^42704: task ".*" does not exist/, 'its tasks cannot be found meanwhile');
like(error_of($node, "select tasker.retry_task(task_uuid) from (select overlay(tasker.uuid_at('2020-03-01 10:00')::text placing '7000-8000-000100000000' from 15)::uuid) t (task_uuid)"),
	qr/^42704: task ".*" does not exist/, 'nor brought back to life');
is_whole('which breaks no rule');
$writer->query_safe('commit');
becomes('2020-03-01', $all_attached, 'it has added an unfinished task: all is there again');
wait_until($node, "select exists (select from tasker.part_retirement where partition_name = 'task_p20200301' and reason like 'task % is not finished')",
	'for that reason');
sql($node, "delete from tasker.task where task_uuid >= tasker.uuid_at('2020-03-01') and current_state = 's' and task_uuid < tasker.uuid_at('2020-03-02')");
becomes('2020-03-01', $all_gone, 'without it the day goes');

# One that brings a finished task back to life, before the round comes to it.
my $revived = sql($node, "select old_task('2020-03-02 10:00', 1)");
my $reviver = session();
$reviver->query_safe("begin; select tasker.reset_step(overlay('$revived' placing '00000002' from 29)::uuid)");
maintain();
sql($node, "call tasker.run_duty('retire')");
is(standing('2020-03-02'), $all_attached, 'a day of which a task is being revived is not even asked about');
is(reasons('2020-03-02'), join('; ', ('the tasks of its time are still in "task_p20200302"') x 4), 'nor are the other four let go');
$reviver->query_safe('commit');
maintain();
wait_until($node, "select exists (select from tasker.part_retirement where reason = 'task $revived is not finished')", 'it stays for its unfinished task');
is(standing('2020-03-02'), $all_attached, 'all of it');
is_whole('which is whole');
is(sql($node, "select step_name from tasker.claim_steps('retention', 10)"), 'second', 'the step is there to be done again');
sql($node, "select tasker.complete_step(overlay('$revived' placing '00000002' from 29)::uuid)");
becomes('2020-03-02', $all_gone, 'done again, the day goes');
like(error_of($node, "select tasker.reset_step(overlay('$revived' placing '00000002' from 29)::uuid)"),
	qr/^42704: task "$revived" does not exist/, 'and nobody revives it any more');

# A consumer of the transitions that has not read those of a day keeps their two partitions, and no others.
sql($node, "select tasker.register_consumer('tasker.transitions', 'reader')");
my $read = sql($node, "select old_task('2020-03-03 10:00', 1)");
sql($node, "update tasker.task_transition set txid = tasker.log_txid() where task_uuid = '$read';
	update tasker.workflow_step_transition set txid = tasker.log_txid() where workflow_step_uuid between '$read' and tasker.last_step_of('$read')");
becomes('2020-03-03', 'gone gone gone attached attached', 'what a consumer has still to read stays');
is(reasons('2020-03-03'), join('; ', ('consumer "reader" of queue "tasker.transitions" has not read it') x 2), 'for that reason');
is_whole('logs that are left alone break no rule');
sql($node, "select tasker.force_tick('tasker.transitions'), tasker.ticker('tasker.transitions')");
my $events = 0;
while ((my $batch = sql($node, "select tasker.next_batch('tasker.transitions', 'reader')")) ne '')
{
	$events += sql($node, "select count(*) from tasker.get_batch_events($batch)");
	sql($node, "select tasker.finish_batch($batch)");
}
is($events, 14, 'the consumer reads them, of a task that is gone');
becomes('2020-03-03', $all_gone, 'then they go');
sql($node, "select tasker.unregister_consumer('tasker.transitions', 'reader')");

# --- killed in between ----------------------------------------------------------------------------------------

# The server comes back without a worker, so that what the kill has left can be seen.
sub kill_server
{
	sql($node, 'alter system set tasker.worker = off');
	crash_server($node);
	close_sessions();
	start_after_crash($node);
	return;
}

sub set_and_reload
{
	my ($setting, $value) = @_;
	sql($node, "alter system set $setting = '$value'");
	sql($node, 'select pg_reload_conf()');
	return;
}

sub go_on
{
	set_and_reload('tasker.lock_timeout', '20ms');
	set_and_reload('tasker.worker', 'on');
	return;
}

sub worker_waits
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "select exists (select from pg_stat_activity where backend_type like 'tasker%' and wait_event_type = 'Lock')", $what);
}

# Each of the sets in turn is where the round is when the server is killed: those before it are gone, it and those after
# it are attached.
foreach my $i (0 .. $#tables)
{
	my $day = '2020-04-0' . ($i + 1);
	sql($node, "select old_task('$day 10:00', n) from generate_series(1, 3) n");
	set_and_reload('tasker.lock_timeout', '60s');
	my $other = session();
	$other->query_safe("begin; lock table tasker.$tables[$i] in share update exclusive mode");
	sql($node, "select tasker.request_duty('retire')");
	worker_waits("the worker waits for $tables[$i]");
	my $left = join(' ', ('gone') x $i, ('attached') x (@tables - $i));
	is(standing($day), $left, 'what comes before it is gone');
	is_whole('half a set breaks no rule');
	kill_server();
	is(standing($day), $left, 'so it is after the crash');
	is_whole('and breaks no rule either');
	go_on();
	becomes($day, $all_gone, "the next round finishes what was killed at $tables[$i]");
}

# Detached and not dropped yet: the last step wants the set's creation lock, which is held by who changes a setting.
sql($node, "select old_task('2020-05-01 10:00', n) from generate_series(1, 3) n");
my $other = session();
$other->query_safe("begin; select tasker.alter_parent('tasker.task', 'premake', '3')");
becomes('2020-05-01', 'detached attached attached attached attached', 'the tasks are detached and not dropped');
is_whole('detached tasks break no rule');
kill_server();
is(standing('2020-05-01'), 'detached attached attached attached attached', 'so it is after the crash');
sql($node, "select tasker.create_partition('tasker.task', '2020-05-01')");
is(standing('2020-05-01'), $all_attached, 'who needs the time gets the same tasks again');
is(sql($node, "select count(*) from tasker.task where task_uuid >= tasker.uuid_at('2020-05-01') and task_uuid < tasker.uuid_at('2020-05-02')"),
	'3', 'all of them');
is_whole('which are whole');
go_on();
becomes('2020-05-01', $all_gone, 'then all goes');

# --- sets that have been altered behind our back --------------------------------------------------------------

sql($node, "select tasker.alter_parent('tasker.task', 'retention', '40000 days')"); # nothing goes for now
sql($node, "update tasker.part_config set partition_interval = '12 hours' where parent = 'tasker.workflow_step'::regclass");
is(sql($node, 'select * from tasker.check_integrity()'), 'partition set tasker.workflow_step|its settings are not those of tasker.task',
	'settings that differ are a broken rule');
$open = sql($node, "select old_task('2020-06-01 18:00', 1, false)");
sql($node, "select tasker.create_partition('tasker.workflow_step', '2020-06-01 02:00')");
is(sql($node, "select string_agg(partition::text, ', ') from tasker.show_partitions('tasker.workflow_step') where lower_bound like '2020-06-01%'"),
	'tasker.workflow_step_p20200601_0000, tasker.workflow_step_p20200601_1200', 'bounds that differ');
sql($node, "select tasker.alter_parent('tasker.task', 'retention', '90 days')");
maintain();
wait_until($node, "select count(*) = 6 from tasker.part_retirement where partition_name like '%_p20200601%'", 'each is held');
is(sql($node, "select count(*) from tasker.part_retirement where reason = 'the tasks of its time are still in \"task_p20200601\"'"), '5',
	'by the tasks of its time, whatever its own bounds are');
sql($node, "update tasker.task set current_state = 'x' where task_uuid = '$open'");
becomes('2020-06-01', 'gone gone gone gone gone', 'they go after the tasks');
wait_until($node, "select not exists (select from tasker.show_partitions('tasker.workflow_step') where lower_bound like '2020-06-01%')", 'both halves');

close_sessions();
$node->stop;

# --- without a worker -----------------------------------------------------------------------------------------

new_cluster('bare', preload => 0, conf => "tasker.lock_timeout = '20ms'\n");
sql($node, "select old_task('2020-01-01 10:00', n), old_task('2020-01-02 10:00', n, n > 1) from generate_series(1, 20) n");
maintain();
is(standing('2020-01-01'), $all_gone, 'one round takes all five');
is(standing('2020-01-02'), $all_attached, 'and leaves what is unfinished');
is_whole('all is whole');
$node->stop;
done_testing();
