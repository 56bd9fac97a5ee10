# The server is killed with SIGKILL at the worst moments of a workflow. After each of them nothing that was committed is
# lost, nothing else has happened, every task can be brought to its end, and each step takes effect exactly once.

use strict;
use warnings;

use Test::More;

use CrashSessions;
use QueueChecks;
use TaskerCluster;
use WorkflowChecks;

my $FEW = 50;
my $MANY = 5_000;

my $node = tasker_cluster('crash', conf => "autovacuum = off\nlog_statement = none\n");
sql($node, <<~'SQL');
	create schema crash;
	-- What workers do: one row for each step, in the transaction that completes it.
	create table crash.effect (uuid uuid, token bigint);
	create table crash.held (space text, name text, uuid uuid, token bigint);
	create function crash.claim(space text, batch int default 100000, lease interval default null) returns bigint language sql as
	$$
	with h as (insert into crash.held select space, step_name, workflow_step_uuid, lease_token
		from tasker.claim_steps(space, batch, null, lease) returning uuid)
	select count(*) from h
	$$;
	-- Completes the steps that were claimed under these names, or all of them.
	create function crash.complete(in_space text, names text[] default null, creates jsonb default null) returns bigint language sql as
	$$
	with h as (delete from crash.held where space = in_space and (names is null or name = any (names)) returning uuid, token),
	e as (insert into crash.effect select uuid, token from h)
	select count(tasker.complete_step(uuid, '"done"', creates, token)) from h
	$$;
	SQL

my ($space, %task);    # the namespace of a moment, and the tasks of all, by namespace

sub create { return $task{$space} = sql($node, "select tasker.create_task('$space', '$_[0]')") }
sub claim { return sql($node, "select crash.claim('$space')") }
sub complete { return "select crash.complete('$space'" . join('', map { ", $_" } @_) . ')' }
sub lose { return "select tasker.cleanup_orphaned_records('0', '$space/h')" }

# Every step has taken effect as often as it was completed.
sub effects_are_exact
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, "select name, current_state, effects from tasker.workflow_steps left join (
		select uuid as workflow_step_uuid, count(*) as effects from crash.effect group by 1) e using (workflow_step_uuid)
		where coalesce(effects, 0) <> (current_state = 'complete')::int limit 5"), '', "$what: each step that is complete took effect once, no other did");
}

# The moments of one crash: what comes before it, and what must be true after it. Each has a namespace of its own.
my ($crashes, @moments) = (0);
sub moment { push @moments, [@_]; return }

# All that is left in the end is done by workers who know nothing of what has been: leases are lost, steps claimed again.
sub after_one_crash
{
	foreach my $number (0 .. $#moments)
	{
		$space = "crash$crashes moment$number";
		define_task($node, $space, 'pair', 'a', 'b', 'z < a b');
		define_task($node, $space, 'fan', (map { "w$_" } 1 .. $FEW), 'last < ' . join ' ', map { "w$_" } 1 .. $FEW);
		define_task($node, $space, 'batch', 'plan batch', 'work < plan', 'end deferred < work');
		note($moments[$number][0]);
		$moments[$number][1]->();
	}
	crash($node);
	effects_are_exact('after the crash');
	workflow_is_sound($node, 'after the crash');
	foreach my $number (0 .. $#moments)
	{
		$space = "crash$crashes moment$number";
		$moments[$number][2]->($moments[$number][0]);
	}
	workflow_is_sound($node, 'when work has been taken up');

	sql($node, "truncate crash.held; select tasker.cleanup_orphaned_records('0')");
	foreach my $number (0 .. $#moments)
	{
		$space = "crash$crashes moment$number";
		my $left = "select exists (select from tasker.workflow_steps join tasker.tasks using (task_uuid)
			where namespace_name = '$space' and workflow_steps.current_state in ('enqueued', 'waiting_for_retry'))";
		while (sql($node, $left) eq 't')
		{
			sql($node, "call tasker.wait_for_records('$space/h', '10 seconds')");
			sql($node, "select crash.claim('$space', 2000); select crash.complete('$space')");
		}
	}
	is(sql($node, "select string_agg(distinct current_state, ', ') from tasker.tasks"), 'complete', 'every task comes to its end');
	is(sql($node, 'select count(*) from tasker.tasks'), scalar(keys %task), '... and there are no others');
	effects_are_exact('in the end');
	workflow_is_sound($node, 'in the end');
	@moments = ();
	$crashes++;
	return;
}

sub states { return sql($node, "select string_agg(name || ' ' || current_state, ', ' order by name) from tasker.get_workflow_steps('$task{$space}')") }

moment('created and not committed', sub {
	in_transaction($node, "select tasker.create_task('$space', 'pair')");
}, sub {
	is(claim(), 0, "$_[0]: nothing is there");
});

moment('between claim and complete', sub {
	create('pair');
	claim();
}, sub {
	is(states(), 'a in_progress, b in_progress, z pending', "$_[0]: the steps are still in their workers' hands");
	is(sql($node, complete("'{a}'")), 1, '... whose claims hold');
});

moment('claimed and not committed', sub {
	create('pair');
	in_transaction($node, "select crash.claim('$space')");
}, sub {
	is(states(), 'a enqueued, b enqueued, z pending', "$_[0]: the steps are ready");
	is(claim(), 2, '... and claimed by the next');
});

moment('completed and not committed', sub {
	create('pair');
	claim();
	sql($node, complete("'{a}'"));
	in_transaction($node, complete("'{b}'"));
}, sub {
	is(states(), 'a complete, b in_progress, z pending', "$_[0]: it is not complete");
	is(sql($node, complete("'{b}'")), 1, '... and can be completed');
	is(states(), 'a complete, b complete, z enqueued', '... which readies the child');
});

moment('in the middle of completing the last sibling', sub {
	create('fan');
	claim();
	sql($node, "select crash.complete('$space', array_agg(name)) from crash.held where space = '$space' and name <> 'w$FEW'");
	in_transaction($node, "select from tasker.workflow_step where workflow_step_uuid >= '$task{$space}' and remaining_parents = 1 for no key update");
	stuck_in($node, complete("'{w$FEW}'"));
}, sub {
	is(task_state($node, $task{$space}), 'steps_in_process: complete ' . ($FEW - 1) . ', in_progress 1, pending 1', "$_[0]: one is left");
	is(sql($node, complete("'{w$FEW}'")), 1, '... and can be completed');
	is(task_state($node, $task{$space}), "steps_in_process: complete $FEW, enqueued 1", '... which readies the child');
});

moment('in the middle of completing many', sub {
	create('fan');
	claim();
	in_transaction($node, "select from tasker.task where task_uuid = '$task{$space}' for no key update");
	stuck_in($node, complete());
}, sub {
	is(task_state($node, $task{$space}), "steps_in_process: in_progress $FEW, pending 1", "$_[0]: none of it has happened");
});

my $works = "(select jsonb_agg('work'::text) from generate_series(1, $MANY))";
moment("in the middle of an expansion of $MANY", sub {
	create('batch');
	claim();
	in_transaction($node, "select from tasker.task where task_uuid = '$task{$space}' for no key update");
	stuck_in($node, complete("'{plan}'", $works));
}, sub {
	is(task_state($node, $task{$space}), 'steps_in_process: in_progress 1', "$_[0]: none of them is there");
	is(sql($node, complete("'{plan}'", $works)), 1, '... and it can be done again');
	is(task_state($node, $task{$space}), "steps_in_process: complete 1, enqueued $MANY, pending 1", '... all of it');
});

moment("after an expansion of $MANY", sub {
	create('batch');
	claim();
	sql($node, complete("'{plan}'", $works));
}, sub {
	is(task_state($node, $task{$space}), "steps_in_process: complete 1, enqueued $MANY, pending 1", "$_[0]: all of it is there");
});

moment('while a retry waits', sub {
	create('pair');
	claim();
	sql($node, "select tasker.fail_step(uuid, '\"on purpose\"', true, case name when 'a' then 1 else 3600 end, token)
		from crash.held where space = '$space'");
}, sub {
	is(states(), 'a waiting_for_retry, b waiting_for_retry, z pending', "$_[0]: both wait");
	is(sql($node, "select string_agg(name || ' ' || (next_retry_at > now() + interval '1 minute'), ', ' order by name)
		from tasker.get_workflow_steps('$task{$space}') where next_retry_at is not null"), 'a false, b true', '... for as long as before');
	sql($node, "select tasker.set_step_backoff_atomic(workflow_step_uuid, 0) from tasker.get_workflow_steps('$task{$space}') where name = 'b'");
});

moment('leases that end while the server is down', sub {
	create('fan');
	sql($node, "select crash.claim('$space', 100000, '1 ms')");
}, sub {
	wait_until($node, "select current_state = 'waiting_for_retry' from tasker.tasks where task_uuid = '$task{$space}'", "$_[0]: the worker takes them back");
});

after_one_crash();

moment('while leases are taken back', sub {
	create('fan');
	claim();
	in_transaction($node, lose());
}, sub {
	is(task_state($node, $task{$space}), "steps_in_process: in_progress $FEW, pending 1", "$_[0]: none has lost its lease");
	is(sql($node, lose()), $FEW, '... the next look takes them all');
	is(sql($node, "select sum(attempts) from tasker.get_workflow_steps('$task{$space}')"), $FEW, '... and each has lost one attempt');
});

moment('cancelled and not committed', sub {
	create('fan');
	claim();
	in_transaction($node, "select tasker.cancel_task('$task{$space}', 'why')");
}, sub {
	is(task_state($node, $task{$space}), "steps_in_process: in_progress $FEW, pending 1", "$_[0]: nobody has been stopped");
	is(sql($node, complete()), $FEW, '... and the claims hold');
});

moment('reset and not committed', sub {
	create('pair');
	claim();
	sql($node, complete());
	in_transaction($node, "select tasker.reset_step(workflow_step_uuid) from tasker.get_workflow_steps('$task{$space}') where name = 'a'");
}, sub {
	is(states(), 'a complete, b complete, z enqueued', "$_[0]: it is as before");
});

moment('prepared', sub {
	create('pair');
	claim();
	sql($node, complete("'{a}'"));
	sql($node, 'begin; ' . complete("'{b}'") . "; prepare transaction 'crash'");
}, sub {
	is(states(), 'a complete, b in_progress, z pending', "$_[0]: the outcome is open");
	is(sql($node, lose()), 0, '... and nobody else gets the step');
	sql($node, "commit prepared 'crash'");
	is(states(), 'a complete, b complete, z enqueued', '... until it is known');
	sql($node, 'select tasker.sweep_queue()');
});

after_one_crash();

server_did_not_crash($node);
$node->stop;
done_testing();
