# What docs/workflow.md tells people to paste.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $node = tasker_cluster('main', extension => 0);
my $guide = slurp_file("$FindBin::Bin/../../docs/workflow.md");

# Its blocks build on each other; each is a script of its own here, so that a failure names it.
my @blocks = $guide =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar(@blocks), '>=', 18, 'the guide has examples');
my $number = 0;
my (%output, %errors);
foreach my $block (@blocks)
{
	my ($first) = grep { !/^(begin;|--.*)?$/ } split /\n/, $block;
	my ($status, $out, $err) = $node->psql('postgres', $block, on_error_stop => 1);
	$number++;
	is($status, 0, "example $number runs: $first") or diag $err;
	is($err, '', "example $number has nothing to complain of") if $status == 0 && $block !~ /ON_ERROR_STOP off/;
	die "example $number is given twice" if defined $output{$first};
	$output{$first} = $out;
	$errors{$first} = $err;
}

# The output of the example whose first line matches.
sub output_of
{
	my ($pattern, $of) = @_;
	$of //= \%output;
	my @found = grep { /$pattern/ } sort keys %$of;
	is(scalar @found, 1, "one example: $pattern") or diag join "\n", @found;
	return $of->{ $found[0] // '' } // '';
}

# From create to results
my $results = output_of(qr/^select \* from customer_order/);
like($results, qr/^17\|99\.90\|on its way$/m, 'the order is on its way');
like($results, qr/^check\|complete\|1\|/m, 'the check is done');
like($results, qr/^charge\|complete\|2\|.*\|\{"message": "the bank does not answer"\}$/m, 'the charge at the second attempt');
like($results, qr/^ship\|complete\|1\|\{"done": "ship", "after": \{"charge": \{"done": "charge", .*"reserve": \{"done": "reserve"/m,
	'results flow from step to step');
like($results, qr/complete, 4 of 4 steps done.*\n.*check .*\n.*reserve .*\n.*charge .*attempt 2 of 5.*\n.*ship .*after reserve, charge/, 'and it is drawn');

# Templates
my $refused = output_of(qr/^\\set ON_ERROR_STOP off/, \%errors);
foreach my $line (grep { /^ {4}(ERROR|HINT): / } split /\n/, $guide)
{
	$line =~ s/^ {4}//;
	like($refused, qr/\Q$line\E/, "as the guide says: $line");
}
like(output_of(qr/'0\.2\.0'/), qr/^shop\|order\|0\.1\.0\|4\nshop\|order\|0\.2\.0\|2$/m, 'two versions');
is(sql($node, q{select flow_name, rate_limit, max_in_flight, paused from tasker.flow where flow_name in ('shop/charge', 'shop/warehouse') order by 1}),
	"shop/charge|20||f\nshop/warehouse||4|f", 'settings of handlers');

# Creating
is(output_of(qr/cardinality/), '100', 'a hundred tasks at once');
is(sql($node, q{select count(*), count(distinct version), min(version) from tasker.tasks where tags @> '{"campaign": "autumn"}'}), '100|1|0.2.0',
	'of the version that was defined last');
my $found = output_of(qr/tags \@> '\{"customer": "ann"\}';$/);
like($found, qr/^[0-9a-f-]{36}\|steps_in_process\|/m, 'found by its tag');
like($found, qr/^gift of order 18\|steps_in_process$/m, 'found by its cause');
like($found, qr/^pending\|t$/m, 'one for later');

# Working
like(output_of(qr/"order": 22/), qr/^waiting_for_retry\n2\|\{"pages read": 40\}\n/m,
	'a second attempt begins at the checkpoint');

# Steps that are created on the way
my $batch = output_of(qr/'import', '\{$/);
my ($printed) = $guide =~ /^     merge     \| (\{.*\})$/m;
like($batch, qr/^merge\|\Q$printed\E$/m, 'a deferred step gets what the batch has brought');
my $decision = output_of(qr/'complaint', '\{$/);
like($decision, qr/assess .*complete.*\n.*inspect .*enqueued.*\n.*repair .*pending.*\n.*answer .*pending/, 'a decision creates a path');
unlike($decision, qr/refund/, 'and not the other one');

# States
my $log = output_of(qr/as hop/);
like($log, qr/^ → pending\npending → initializing\ninitializing → enqueuing_steps\nenqueuing_steps → steps_in_process\nsteps_in_process → waiting_for_retry\n/,
	'the log of a task');
like($log, qr/evaluating_results → complete$/m, 'up to its end');
like($log, qr/^charge\|in_progress\|enqueued_as_error_for_orchestration\|\|\{\}\ncharge\|enqueued_as_error_for_orchestration\|waiting_for_retry\|\|\{"message": "the bank does not answer"\}$/m,
	'the log of a step has its error');
states_are_as_documented();

# Steering
is(output_of(qr/"order": 20/), join("\n", 'error', 'blocked_by_failures', 'steps_in_process',
	'check|resolved_manually', 'reserve|enqueued', 'charge|enqueued', 'ship|pending',
	'', 'check|enqueued|0', 'reserve|pending|0', 'charge|pending|0', 'ship|pending|0',
	't', '4', 'steps_in_process'), 'failed, resolved, reset, cancelled, retried');

# Events
my $events = output_of(qr/'tasker\.transitions', 'audit'\);$/);
like($events, qr/^task\.pending\|\|t\nstep\./m, 'the creation of a task is an event');
like($events, qr/^task\.steps_in_process\|enqueuing_steps\|t$/m, 'and what it went through');

# Reading and housekeeping
like(output_of(qr/task_graph\(task_uuid\) from/), qr/^flowchart TD$/m, 'a drawing for Markdown');
like(output_of(qr/task_graph\(task_uuid\) from/), qr/^digraph /m, 'and one for Graphviz');
like(output_of(qr/'retention'/), qr/^tasker\.task\|healthy$/m, 'the sets are healthy');
is(output_of(qr/check_integrity/), '', 'integrity');

# The tables of states, against what the database itself allows: transition_task_state_atomic() says which edges there
# are, and the words that views show say which states.
sub states_are_as_documented
{
	my %rows;
	foreach my $part (split /^\*\*(?=Steps\*\*|Tasks\*\*)/m, $guide)
	{
		my ($what) = $part =~ /^(Steps|Tasks)\*\*$/m or next;
		$rows{$what}{$1} = $2 while $part =~ /^\| `(\w+)` \| [^|]* \| ([^|]*?) ?\| [^|]*\|$/mg;
	}
	my @steps = split /\n/, sql($node, q{select tasker._step_state_word(s::"char") from unnest(string_to_array('p q s o f r c e x m', ' ')) s});
	my @tasks = split /\n/, sql($node, q{select tasker._task_state_word(s::"char") from unnest(string_to_array('p i q s v d r b c e x m', ' ')) s});
	is_deeply([ sort keys %{ $rows{Steps} } ], [ sort @steps ], 'all states of steps are documented');
	is_deeply([ sort keys %{ $rows{Tasks} } ], [ sort @tasks ], 'all states of tasks are documented');
	my $task = sql($node, q{select task_uuid from tasker.tasks where task_name = 'complaint'});
	foreach my $from (@tasks)
	{
		my @legal;
		foreach my $to (@tasks)
		{
			# It is in none of the states in which it is asked to be, but for one, from which no transition is tried.
			next if $from eq 'steps_in_process';
			push @legal, $to
			  if error_of($node, "select tasker.transition_task_state_atomic('$task', '$from', '$to', null)") !~ /^55000/;
		}
		next if $from eq 'steps_in_process';
		is_deeply([ sort split /, /, $rows{Tasks}{$from} ], [ sort @legal ], "what $from may become");
	}
}

# The loop in Python works on what the other examples have left.
my ($program) = $guide =~ /^```python\n(.*?)^```$/ms;
my $file = $PostgreSQL::Test::Utils::tmp_check . '/workflow_loop.py';
PostgreSQL::Test::Utils::append_to_file($file, $program);
sql($node, q{select tasker.create_task('shop', 'order', '{"order": "for the loop"}', priority => 9)});
my $python = $ENV{PYTHON} // 'python3';
SKIP:
{
	skip 'no psycopg', 2 if system("$python -c 'import psycopg' 2>/dev/null") != 0;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres', PYTHONUNBUFFERED => 1);
	my $output = '';
	my $run = IPC::Run::start([ $python, $file ], '>', \$output, '2>&1', IPC::Run::timeout(60));
	$run->pump until $output =~ /ship .*for the loop/ || !$run->pumpable;
	wait_until($node, q{select current_state = 'complete' from tasker.tasks where context ->> 'order' = 'for the loop'}, 'the loop in Python completes a task');
	$run->kill_kill;
	like($output, qr/^check \{'order': 'for the loop'\}$/m, 'whose steps it gets');
}
is(sql($node, 'select * from tasker.check_integrity()'), '', 'integrity at the end');

$node->stop;
done_testing();
