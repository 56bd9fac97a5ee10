# A streaming standby of a workflow: everything can be read there, nothing written; promoted in the middle of the work it
# goes on where the primary was.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use QueueChecks;
use TaskerCluster;
use WorkflowChecks;

my $primary = tasker_cluster('primary', init => [ allows_streaming => 1 ], conf => "log_statement = none\n");
define_task($primary, 'flow', 'pair', 'a', 'b', 'z < a b');
define_task($primary, 'flow', 'brittle', 'a *1', 'b < a');
define_task($primary, 'flow', 'choice', 'd decision', 'o < d', 'p < d', 'z deferred < o p');
define_task($primary, 'flow', 'fan', (map { "w$_" } 1 .. 40), 'last < ' . join ' ', map { "w$_" } 1 .. 40);
sql($primary, <<~'SQL');
	create table held (task text, step text, uuid uuid, token bigint);
	create table done (uuid uuid, token bigint);
	-- Claims all steps of a task's name.
	create function claim(task text) returns bigint language sql as
	$$
	with c as materialized (select * from tasker.claim_steps('flow', 1000)),
	h as (insert into held select task_name, step_name, workflow_step_uuid, lease_token from c returning 1)
	select count(*) from h
	$$;
	create function complete(in_task text, in_step text, creates jsonb default null) returns text language sql as
	$$
	with h as (delete from held where task = in_task and step = in_step returning uuid, token),
	d as (insert into done select uuid, token from h)
	select tasker.complete_step(uuid, to_jsonb(in_step), creates, token) from h
	$$;
	SQL

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub caught_up { return $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')) }
sub create { return sql($primary, "select tasker.create_task('flow', '$_[0]'" . ($_[1] // '') . ')') }

# A task in every stage of its life.
my %task;
$task{complete} = create('pair');
sql($primary, "select claim('pair')");
sql($primary, "select complete('pair', 'a'); select complete('pair', 'b'); select claim('pair'); select complete('pair', 'z')");
$task{blocked} = create('brittle');
sql($primary, "select claim('brittle'); select tasker.fail_step(uuid, '{\"message\": \"no\"}', true, null, token) from held where task = 'brittle'; delete from held where task = 'brittle'");
$task{cancelled} = create('pair');
sql($primary, "select tasker.cancel_task('$task{cancelled}', 'why')");
$task{half} = create('pair');
sql($primary, "select claim('pair'); select complete('pair', 'a')");
$task{held} = create('brittle', ', priority => 5');
$task{decision} = create('choice');
sql($primary, "select claim('choice')");
$task{later} = create('pair', ", run_at => now() + interval '1 day'");
$task{fan} = create('fan', ", identity_key => 'fan', tags => '{\"t\": 1}'");
sql($primary, "insert into held select 'fan', step_name, workflow_step_uuid, lease_token from tasker.claim_steps('flow', 10)");
sql($primary, "select tasker.create_dlq_entry('$task{blocked}')");
my $step = sql($primary, "select uuid from held where task = 'pair' and step = 'b'");

# --- reading -----------------------------------------------------------------------------------------------------

# This session stays connected over the promotion, with all that it has cached.
my $old = $standby->background_psql('postgres', on_error_stop => 0);
caught_up();

my @READS = (
	(map { "select * from tasker.$_" } qw(tasks workflow_steps workflow_step_edges task_transitions workflow_step_transitions
		step_dag_relationships step_readiness_statuses task_execution_contexts task_templates tasks_dlq)),
	(map { "select count(*) from tasker.$_" } qw(v_task_state_analysis v_dlq_dashboard v_dlq_investigation_queue)),
	'select task_uuid from tasker.v_task_staleness_monitoring',
	'select * from tasker.detect_and_transition_stale_tasks(true)',
	'select * from tasker.get_system_health_counts()',
	"select task_uuid, task_name, priority, ready_steps_count, current_state from tasker.get_next_ready_tasks(100)",
	"select task_uuid from tasker.get_next_ready_task()",
	'select count(*) from tasker.get_analytics_metrics()',
	'select task_uuid from tasker.find_stuck_tasks(0)',
	'select count(*) from tasker.get_slowest_steps()',
	'select count(*) from tasker.get_slowest_tasks()',
	"select * from tasker.step_results('$step')",
	"select * from tasker.get_step_transitive_dependencies('$step')",
	"select tasker.get_current_step_state('$step')",
	"select tasker.get_task_template('flow', 'choice')",
	map { my $task = $task{$_}; (
		"select * from tasker.get_step_readiness_status('$task')",
		"select * from tasker.get_step_readiness_status_batch(array['$task'::uuid])",
		"select * from tasker.get_task_execution_context('$task')",
		"select * from tasker.get_task_execution_contexts_batch(array['$task'::uuid])",
		"select * from tasker.calculate_dependency_levels('$task')",
		"select * from tasker.get_step_dag_relationships('$task')",
		"select to_jsonb(i) - 'computed_priority' from tasker.get_task_ready_info('$task') i",
		"select tasker.get_current_task_state('$task')",
		"select * from tasker.get_workflow_steps('$task')",
		"select * from tasker.get_workflow_step_edges('$task')",
		"select * from tasker.get_task_transitions('$task')",
		"select * from tasker.get_workflow_step_transitions('$task')",
		"select regexp_replace(tasker.task_graph('$task', 'dot'), '[0-9.]+ (ms|s|min)', '', 'g')") } sort keys %task);
my $digests = join ";\n", map { "select md5(string_agg(r::text, '|' order by r::text)) from ($_) r" } @READS;
my ($here, $there) = map { [ split /\n/, sql($_, $digests) ] } $primary, $standby;
my @differ = map { $READS[$_] } grep { $here->[$_] ne $there->[$_] } 0 .. $#READS;
is("@differ", '', scalar(@READS) . ' ways to read show the same on both');
workflow_is_sound($standby, 'on the standby');
is($old->query_safe("select current_state from tasker.tasks where task_uuid = '$task{half}'"), 'steps_in_process', 'a session that stays');
sql($primary, "select complete('pair', 'b')");
caught_up();
is($old->query_safe("select string_agg(name || ' ' || ready_for_execution, ', ' order by name) from tasker.get_step_readiness_status('$task{half}')"),
	'a false, b false, z true', 'it follows the primary');

# --- writing -----------------------------------------------------------------------------------------------------

my %WRITES = (
	define_task => "select tasker.define_task('flow', 'new', '{\"steps\": [{\"name\": \"a\", \"handler\": \"h\"}]}')",
	create_task => "select tasker.create_task('flow', 'pair')",
	'create_task with a key' => "select tasker.create_task('flow', 'fan', identity_key => 'fan')",
	create_tasks => "select tasker.create_tasks('flow', 'pair', array['{}']::jsonb[])",
	claim_steps => "select * from tasker.claim_steps('flow')",
	complete_step => "select tasker.complete_step('$step')",
	complete_steps => "select tasker.complete_steps(array['$step']::uuid[])",
	fail_step => "select tasker.fail_step('$step', '{}')",
	checkpoint_step => "select tasker.checkpoint_step('$step', '1')",
	extend_step_lease => "select tasker.extend_step_lease(array['$step']::uuid[], '1 hour')",
	release_steps => "select tasker.release_steps(array['$step']::uuid[])",
	set_step_backoff_atomic => "select tasker.set_step_backoff_atomic('$step', 1)",
	cancel_task => "select tasker.cancel_task('$task{fan}')",
	retry_task => "select tasker.retry_task('$task{blocked}')",
	reset_step => "select tasker.reset_step('$step')",
	resolve_step_manually => "select tasker.resolve_step_manually('$step', null, 'me', 'why')",
	transition_task_state_atomic => "select tasker.transition_task_state_atomic('$task{blocked}', 'blocked_by_failures', 'error', null)",
	'detect_and_transition_stale_tasks' => 'select * from tasker.detect_and_transition_stale_tasks(false)',
	create_dlq_entry => "select tasker.create_dlq_entry('$task{fan}')",
	'insert into the table' => "insert into tasker.task select * from tasker.task");
foreach my $what (sort keys %WRITES)
{
	like(error_of($standby, $WRITES{$what}), qr/^25006: cannot execute .* (during recovery|in a read-only transaction)/, "$what is refused");
	like(error_of($primary, "set default_transaction_read_only = on;\n$WRITES{$what}"),
		qr/^25006: cannot execute .* in a read-only transaction/, '... and in a read-only transaction of the primary');
}

# --- promotion ---------------------------------------------------------------------------------------------------

# The primary dies with transactions open, and one prepared.
my @open = map { $primary->background_psql('postgres', on_error_stop => 1) } 1 .. 3;
$open[0]->query_safe("begin; select tasker.create_task('flow', 'pair')");
$open[1]->query_safe("begin; select complete('choice', 'd', '[\"o\", \"p\"]')");
$open[2]->query_safe("begin; select count(*) from tasker.claim_steps('flow', 5)");
sql($primary, "begin; select complete('fan', step) from held where task = 'fan' order by step limit 1; prepare transaction 'kept'");
caught_up();
my $tables = 'select count(*) || md5(string_agg(t::text, \'|\' order by t::text)) from tasker.';
my @tables = qw(task workflow_step workflow_step_edge task_transition workflow_step_transition task_identity);
my %before = map { $_ => sql($primary, $tables . "$_ t") } @tables;
my $counts = sql($primary, 'select * from tasker.get_system_health_counts()');
crash_server($primary);
eval { $_->quit } foreach @open;
$standby->promote;
$standby->poll_query_until('postgres', 'select not pg_is_in_recovery()') or die 'it is not promoted';

is(sql($standby, $tables . "$_ t"), $before{$_}, "every row of $_ is there") foreach @tables;
is(sql($standby, 'select * from tasker.get_system_health_counts()'), $counts, 'the counts are those of the primary');
workflow_is_sound($standby, 'the promoted standby');
is($old->query_safe("select complete('choice', 'd', '[\"o\"]')"), 'steps_in_process', 'a session from before can write, and a claim from before holds');
like($old->query_safe("select tasker.create_task('flow', 'fan', identity_key => 'fan') = '$task{fan}'"), qr/^t$/, 'identity keys hold');
cmp_ok($old->query_safe("select tasker.create_task('flow', 'pair')"), 'gt', $task{fan}, 'new tasks come after the old ones');
sql($standby, "commit prepared 'kept'; select tasker.sweep_queue()");
is(sql($standby, "select count(*) from tasker.get_workflow_steps('$task{fan}') where current_state = 'complete'"), 1, 'a prepared completion counts when it is committed');
sql($standby, "select tasker.retry_task('$task{blocked}'); select complete('brittle', 'a')");

# All goes on to its end: with the claims from before, and with new ones.
sql($standby, "select complete('fan', step) from held where task = 'fan'");
cmp_ok(work_off($standby, 'flow', 7), '>', 30, 'everything that is ready is worked off');
is(sql($standby, "select string_agg(task_name || ' ' || current_state, ', ' order by task_uuid) from tasker.tasks where not complete"),
	'pair cancelled, pair pending', 'every task has come to its end, but for one that was cancelled, and one that is scheduled');
is(sql($standby, 'select count(*) - count(distinct uuid) from done'), 0, 'nothing was done twice');
is(sql($standby, "select count(*) from done join tasker.workflow_steps on workflow_step_uuid = uuid where current_state <> 'complete'"), 0, '... or in vain');
wait_until($standby, "select exists (select from tasker.worker_status where database = 'postgres' and state = 'running')", 'a worker runs');
sql($standby, "select tasker.create_task('flow', 'brittle'); select count(*) from tasker.claim_steps('flow', 1, null, '1 ms')");
wait_until($standby, "select current_state = 'blocked_by_failures' from tasker.tasks order by task_uuid desc limit 1", '... and takes back leases');
workflow_is_sound($standby, 'in the end');

$old->quit;
server_did_not_crash($_) foreach $primary, $standby;
$standby->stop;
done_testing();
