# examples/partition_migration: four plain tables become partition sets under an application that goes on.

use strict;
use warnings;

use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $folder = "$FindBin::Bin/../../examples/partition_migration";
my $node = tasker_cluster('main', extension => 0, conf => 'max_wal_size = 1GB');
sql($node, 'create database shop');

# Runs a script of the example as the README says, and returns what it prints.
sub run_script
{
	my ($script) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run(
		[ 'psql', '-XqAt', '-h', $node->host, '-p', $node->port, '-d', 'shop', '-v', 'ON_ERROR_STOP=1', '-v',
			'tasks=6000', '-f', "$folder/$script.sql" ],
		'<', \undef, '>', \$out, '2>', \$err);
	ok($ok, "$script.sql runs") or diag $err;
	return $out;
}

sub shop { return sql($node, "set search_path = app; $_[0]", 'shop') }

run_script('00_before');

# The application: makes tasks, works on them, and touches old ones. What it has committed stands in a journal.
shop(q{
	create table journal (task_uuid uuid primary key, workflow_step_uuid uuid not null);
	create table old_tasks as select row_number() over () as n, task_uuid, priority, 0 as bumps
	from (select * from tasks order by random() limit 200) t;
	create unique index on old_tasks (n);
});
my $script = PostgreSQL::Test::Utils::tempdir() . '/application.sql';
append_to_file($script, <<'SQL');
\set old random(1, 200)
begin;
insert into app.tasks (named_task_uuid, correlation_id) values (gen_random_uuid(), gen_random_uuid()) returning task_uuid \gset
insert into app.workflow_steps (task_uuid, named_step_uuid) values (':task_uuid', gen_random_uuid()) returning workflow_step_uuid \gset
insert into app.task_transitions (task_uuid, to_state, most_recent) values (':task_uuid', 'pending', true);
insert into app.workflow_step_transitions (workflow_step_uuid, to_state, most_recent) values (':workflow_step_uuid', 'pending', true);
insert into app.journal values (':task_uuid', ':workflow_step_uuid');
end;
update app.workflow_steps set processed = true, attempts = attempts + 1 where workflow_step_uuid = ':workflow_step_uuid';
begin;
update app.tasks set priority = priority + 1 where task_uuid = (select task_uuid from app.old_tasks where n = :old);
update app.old_tasks set bumps = bumps + 1 where n = :old;
end;
SQL
my ($bench_out, $bench_err) = ('', '');
my $application = IPC::Run::start(
	[ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 3, '-T', 500, '-R', 150, '-f', $script, 'shop' ],
	'<', \undef, '>', \$bench_out, '2>', \$bench_err);
wait_until($node, 'select count(*) > 20 from app.journal', 'the application works', 'shop') or diag $bench_err;

my $advice = run_script('01_analyze');
like($advice, qr/^tasks\|\d+\|1 month\|3\|/m, 'tasks: a month is suggested');
like($advice, qr/^workflow_step_transitions\|\d+\|1 month\|3\|/m, 'and for their steps\' transitions');
run_script('02_create');
is(shop(q{select string_agg(parent::text, ' ' order by parent::text) from tasker.part_config where not owner_set}),
	'task_transitions_new tasks_new workflow_step_transitions_new workflow_steps_new', 'four sets');
is(shop('select count(*) from (select from tasks_new union all select from workflow_steps_new) t'), 0, 'empty ones');
run_script('03_move');
my $swapped = shop('select count(*) from journal');
is(shop(q{select count(*) from pg_class where relkind = 'p' and oid in ('tasks'::regclass, 'workflow_steps'::regclass,
	'task_transitions'::regclass, 'workflow_step_transitions'::regclass)}), 4, 'the names are those of the sets');
wait_until($node, "select count(*) > $swapped + 20 from app.journal", 'the application goes on', 'shop') or diag $bench_err;
is(run_script('03_move'), '', 'once more: nothing to do');

$application->signal('TERM');
$application->finish;
unlike($bench_err, qr/error|aborted/i, 'the application saw no error') or diag $bench_err;
wait_until($node, q{select count(*) = 0 from pg_stat_activity where application_name = 'pgbench'}, 'it has ended');

# Nothing is lost, and nothing there twice.
is(shop('select count(*), count(distinct task_uuid) from tasks'), shop('select 6000 + count(*), 6000 + count(*) from journal'),
	'tasks');
is(shop('select count(*), count(distinct workflow_step_uuid) from workflow_steps'),
	shop('select 18000 + count(*), 18000 + count(*) from journal'), 'steps');
is(shop('select count(*) from task_transitions'), shop('select 18000 + count(*) from journal'), 'transitions of tasks');
is(shop('select count(*) from workflow_step_transitions'), shop('select 36000 + count(*) from journal'), 'of steps');
is(shop(q{select count(*) from journal j where not exists (select from tasks t where t.task_uuid = j.task_uuid)
	or not exists (select from workflow_steps s where s.workflow_step_uuid = j.workflow_step_uuid and s.task_uuid = j.task_uuid)
	or not exists (select from task_transitions s where s.task_uuid = j.task_uuid)
	or not exists (select from workflow_step_transitions s where s.workflow_step_uuid = j.workflow_step_uuid)}), 0,
	'everything that was committed while tables moved is there');
is(shop('select count(*) from old_tasks o join tasks t using (task_uuid) where t.priority = o.priority + o.bumps'), 200,
	'old rows have all their changes');
cmp_ok(shop('select sum(bumps) from old_tasks'), '>', 20, 'and there were some');
is(shop(q{select count(*) from pg_index i join pg_class c on c.oid = i.indrelid where c.oid = 'tasks'::regclass}), 4,
	'tasks has its indexes');

# Old months leave, the rest stays.
my $kept = q{select count(*) from tasks where created_at >= date_trunc('month', now() - interval '90 days')};
my $count = shop($kept);
run_script('04_retain');
wait_until($node, q{select min(lower_bound)::timestamptz >= date_trunc('month', now() - interval '90 days')
	from tasker.partition_sizes where parent in ('app.tasks'::regclass, 'app.workflow_steps'::regclass,
	'app.task_transitions'::regclass, 'app.workflow_step_transitions'::regclass)}, 'the worker retires old months', 'shop');
cmp_ok(shop('select count(*) from tasks'), '<=', $count, 'their rows are gone');
is(shop($kept), $count, 'no other is');
is(shop(q{select count(*) from pg_class where relname ~ '_(old|new)$'}), 0, 'nothing is left over');
wait_until($node, q{select count(*) = 0 from tasker.partition_status where parent <> 'tasker.queue_record'::regclass
	and (health <> 'healthy' or overdue > 0)}, 'all sets are healthy', 'shop');

my $seen = run_script('05_monitor');
like($seen, qr/^tasks\|healthy\|\d+\|3\|/m, 'health');
like($seen, qr/^tasks\|\d+\|1\|\{tasks_p\d{4}_\d\d\}$/m, 'a look-up by id reads one partition');
like($seen, qr/^app\.workflow_step_transitions by workflow_step_transition_uuid, 1 month each, dropped after 90 days$/m, 'picture');
like($seen, qr/^▶ \d{4}-\d\d▕.* now$/m, 'with the current partition') if sql($node, 'show server_encoding') eq 'UTF8';

run_script($_) foreach qw(01_analyze 02_create 03_move 04_retain);

$node->stop;
done_testing();
