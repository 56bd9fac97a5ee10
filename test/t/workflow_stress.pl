# Many clients do everything to workflows at random, are killed at random, and so is the server. In the end everything
# that was committed is accounted for exactly once, by what the clients know, by what their transactions have left in
# tables of their own, and by the logs of the steps; and all tasks come to their ends. See test/clients/workflow_stress.py.
#
# After the storm comes a calm: clients whose transactions make one call each, which must not run into a deadlock.
#
# TASKER_STRESS_SECONDS (default 24) is for how long, and a third of it for the calm; TASKER_STRESS_SEED repeats what is
# random here, which is not the order in which the processes run; TASKER_STRESS_CLIENTS (default 6).

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time usleep);

use QueueChecks;
use StressClients;
use TaskerCluster;
use WorkflowChecks;

my $SECONDS = $ENV{TASKER_STRESS_SECONDS} || 24;
my $CLIENTS = $ENV{TASKER_STRESS_CLIENTS} || 6;
my $SEED = $ENV{TASKER_STRESS_SEED} || int(rand(1_000_000));

srand($SEED);
note("seed $SEED, $SECONDS seconds, $CLIENTS clients");

# The sweep, which would mend floors that are wrong, is kept away: they have to be right.
my $node = tasker_cluster('stress', conf => <<~CONF);
	synchronous_commit = on
	tasker.sweep_interval = 86400
	max_connections = 40
	restart_after_crash = on
	log_min_messages = warning
	log_statement = none
	CONF
sql($node, <<~'SQL');
	create schema stress;
	create table stress.journal (tx text);
	create table stress.claims (uuid uuid, token bigint, attempts int, tx text);
	create table stress.ledger (uuid uuid, kind text, token bigint, tx text);
	create table stress.said (line jsonb);
	create table stress.event (uuid uuid, sort_key int);
	select tasker.register_consumer('tasker.transitions', 'observer');
	create function stress.define(task text, steps jsonb) returns uuid language sql as
	$$
	select tasker.define_task('stress', task, jsonb_build_object('steps', (select jsonb_agg(
		'{"handler": "work", "backoff": {"base_seconds": 0.05}, "max_attempts": 20}'::jsonb || s order by o)
		from jsonb_array_elements(steps) with ordinality e (s, o))))
	$$;
	select stress.define('chain', '[{"name": "a", "handler": "plan"}, {"name": "b", "depends_on": ["a"]}, {"name": "c", "depends_on": ["b"]}]');
	select stress.define('diamond', '[{"name": "a"}, {"name": "b", "depends_on": ["a"]}, {"name": "c", "depends_on": ["a"]},
		{"name": "d", "depends_on": ["b", "c"]}]');
	select stress.define('fan', (select jsonb_agg(jsonb_build_object('name', 'w' || i)) from generate_series(1, 12) i)
		|| jsonb_build_array(jsonb_build_object('name', 'last', 'depends_on', (select jsonb_agg('w' || i) from generate_series(1, 12) i))));
	select stress.define('brittle', '[{"name": "a", "max_attempts": 1}, {"name": "b", "retryable": false}, {"name": "c", "depends_on": ["a", "b"]}]');
	select stress.define('choice', '[{"name": "left", "type": "decision", "handler": "plan"}, {"name": "right", "type": "decision", "handler": "plan"},
		{"name": "s"}, {"name": "t"}, {"name": "l1", "depends_on": ["left"]}, {"name": "l2", "depends_on": ["left", "s"]},
		{"name": "r", "depends_on": ["right"]}, {"name": "meet", "type": "deferred", "depends_on": ["l1", "l2", "r", "s", "t"]},
		{"name": "end", "depends_on": ["meet"]}]');
	select stress.define('batch', '[{"name": "first"}, {"name": "plan", "type": "batch", "handler": "plan", "depends_on": ["first"]},
		{"name": "s", "depends_on": ["first"]}, {"name": "part", "depends_on": ["plan"]},
		{"name": "gather", "type": "deferred", "depends_on": ["part", "s"]}]');
	SQL

clients_of($node, 'workflow_stress.py', $SEED);

# --- what must be true -------------------------------------------------------------------------------------------

# What clients said, against what is there.
sub every_transaction_is_accounted_for
{
	no_transaction_is_lost();
	my $said = "select task::uuid from stress.said join stress.journal j on j.tx = line ->> 'tx', jsonb_array_elements_text(line -> 'made') task";
	none('every task that was committed is there', "$said except select task_uuid from tasker.task");
	none('and no other', "select task_uuid from tasker.task except $said");
	none('an identity key has one task', 'select identity_key from tasker.task where identity_key is not null group by 1 having count(*) > 1');
	return;
}

# What their transactions left, against the logs of steps and tasks: each call that was committed has had its effect, once.
sub every_effect_is_accounted_for
{
	my ($when) = @_;
	my $compare = sub {
		my ($what, $ours, $theirs) = @_;
		none("$when: $what", "select uuid, ours, theirs from (select uuid, count(*) as ours from stress.$ours group by 1) o
			full join (select $theirs group by 1) t using (uuid) where ours is distinct from theirs");
	};
	my $steps = 'workflow_step_uuid as uuid, count(*) as theirs from tasker.workflow_step_transition where to_state =';
	$compare->('steps were claimed as often as workers know', 'claims', "$steps 's'");
	$compare->('completed', "ledger where kind = 'completed'", "$steps 'c'");
	$compare->('resolved by hand', "ledger where kind = 'resolved'", "$steps 'm'");
	$compare->('failed', "ledger where kind = 'failed'", "$steps any ('{r,e}') and metadata ->> 'message' = 'on purpose'");
	$compare->('tasks were cancelled', "ledger where kind = 'cancelled'",
		"task_uuid as uuid, count(*) as theirs from tasker.task_transition where to_state = 'x'");
	$compare->("... given up ($_->[0])", "ledger where kind = '$_->[0]'",
		"task_uuid as uuid, count(*) as theirs from tasker.task_transition where to_state = '$_->[1]'") foreach [ 'error', 'e' ], [ 'resolved_manually', 'm' ];
	none("$when: no claim hands out a step twice", 'select uuid from stress.claims group by uuid, token having count(*) > 1');
	none("$when: no claim has more than one end", "select uuid, token from stress.ledger where token is not null group by 1, 2 having count(*) > 1");
	none("$when: nothing ends under a claim that was not made", 'select uuid, token from stress.ledger where token is not null
		except select uuid, token from stress.claims');
	return;
}

# Finishes what is left, by claiming it: what a floor hides would stay.
sub drain
{
	sql($node, <<~'SQL');
		create procedure stress.drain() language plpgsql as $$
		declare
			found int := 1;
		begin
			while found > 0 loop
				with c as materialized (select * from tasker.claim_steps('stress', 200, 'drain')),
				k as (insert into stress.claims select workflow_step_uuid, lease_token, attempts, 'drain' from c),
				l as (insert into stress.ledger select workflow_step_uuid, 'completed', lease_token, 'drain' from c),
				d as materialized (select tasker.complete_steps(coalesce(array_agg(workflow_step_uuid), '{}'),
					array_fill('3'::jsonb, array[count(*)::int]), coalesce(array_agg(lease_token), '{}')) as n from c)
				select n into found from d;
				commit;
			end loop;
		end
		$$;
		SQL
	my $unfinished = "current_state not in ('complete', 'cancelled', 'error', 'resolved_manually')";
	foreach my $round (1 .. 20)
	{
		# What is in error is brought back, and what waits for its retry is due.
		sql($node, "select tasker.retry_task(task_uuid) from tasker.tasks where current_state in ('blocked_by_failures', 'waiting_for_retry') order by 1");
		sql($node, 'call stress.drain()');
		last if sql($node, "select count(*) from tasker.tasks where $unfinished") == 0;
		sql($node, "call tasker.wait_for_records('stress/work', '500 ms')"); # some are scheduled
	}
	none('every task has come to its end', "select task_uuid, task_name, current_state from tasker.tasks where $unfinished");
	none('nothing is left to be claimed', "select payload, status from tasker.processing_queue where status in ('pending', 'processing')");
	none('every step of a complete task is done', "select workflow_step_uuid from tasker.workflow_steps s join tasker.tasks t using (task_uuid)
		where t.complete and s.current_state not in ('complete', 'resolved_manually')");
	return;
}

# Every transition of a step or task that was committed is one event for a consumer that has been there from the beginning.
sub every_transition_is_an_event
{
	# Of two ticks the second begins after all that has been written, whoever makes it.
	my $last = "select coalesce(max(tick_id), 0) from tasker.tick where tick_queue =
		(select queue_id from tasker.queue where queue_name = 'tasker.transitions')";
	foreach (1 .. 2)
	{
		my $tick = sql($node, $last);
		sql($node, "select tasker.force_tick('tasker.transitions')");
		sql($node, "select tasker.ticker('tasker.transitions')");
		wait_until($node, "select ($last) > $tick", 'a tick follows the last transition');
	}
	sql($node, <<~'SQL');
		do $$
		declare
			batch bigint;
		begin
			loop
				batch := tasker.next_batch('tasker.transitions', 'observer');
				exit when batch is null;
				insert into stress.event select coalesce(ev_extra2, ev_extra1)::uuid, (ev_data::jsonb ->> 'sort_key')::int
				from tasker.get_batch_events(batch);
				perform tasker.finish_batch(batch);
				commit;
			end loop;
		end $$
		SQL
	my $log = 'select task_uuid as uuid, sort_key from tasker.task_transition union all
		select workflow_step_uuid, sort_key from tasker.workflow_step_transition';
	none('no transition is missing among the events', "$log except all select * from stress.event");
	none('no event is there twice, or without its transition', "select * from stress.event except all ($log)");
	return;
}

start_client("c$_") foreach 1 .. $CLIENTS;
storm($SECONDS);
stop_clients();
faults_happened();
# Else the worker would take back leases while we look.
sql($node, "select tasker.cleanup_orphaned_records('0')");
workflow_is_sound($node, 'after the storm');

my $until = time() + $SECONDS / 3;
start_client("c$_", 'calm') foreach 1 .. $CLIENTS;
usleep(50_000) while time() < $until;
stop_clients();

sql($node, "select tasker.cleanup_orphaned_records('0')");
# Until what was rescheduled for soon has become due, the statistics move by themselves.
wait_until($node, "select not exists (select from tasker.processing_queue
	where status = 'pending' and run_at between now() - interval '10 ms' and now() + interval '1 hour')", 'all settled');
read_logs('stress.said');
my ($journal, $unknown, $tasks, $steps, $completed) = split /\|/, sql($node, "select (select count(*) from stress.journal),
	(select count(distinct line ->> 'tx') from stress.said s where line ? 'made' and not exists
	    (select from stress.said e where e.line ->> 'tx' = s.line ->> 'tx' and e.line ? 'end')),
	(select count(*) from tasker.task), count(*), count(*) filter (where current_state = 'complete') from tasker.workflow_steps");
note("$journal transactions committed, the outcome of $unknown unknown to their clients, $tasks tasks, $steps steps, $completed complete");
note($_) foreach split /\n/, sql($node, 'select kind, count(*) from stress.ledger group by 1 order by 1');
cmp_ok($journal, '>', 10 * $SECONDS, 'the clients have done something');
cmp_ok($completed, '>', $SECONDS, 'and completed steps');

workflow_is_sound($node, 'after the calm');
queue_is_exact($node, 'after the calm');
every_transaction_is_accounted_for();
every_effect_is_accounted_for('after the calm');
drain();
workflow_is_sound($node, 'after the drain');
queue_is_exact($node, 'after the drain');
every_effect_is_accounted_for('after the drain');
every_transition_is_an_event();
server_did_not_crash($node);

$node->stop;
done_testing();
