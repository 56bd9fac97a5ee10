# No event is skipped and none is seen twice: producers commit out of order, in long transactions, in subtransactions,
# in two phases or not at all; ticks come as fast as they can, and everything that can be rotated is rotated all the
# time; consumers lag, abort, put events off, share a name or work as a team; and every process and the server are
# killed. In the end each consumer has got, in its committed transactions, exactly what the committed producers have
# sent. See test/clients/stream_proof.py.
#
# TASKER_PROOF_SECONDS (default 16) is for how long. A third of it is a calm in which a long transaction has the time to
# end, in the rest the server is killed now and then: TASKER_PROOF_SECONDS=400 makes the long transactions two minutes
# long. TASKER_PROOF_SEED repeats what is random here, which is not the order in which the processes run.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time usleep);

use QueueChecks;
use StreamChecks;
use StressClients;
use TaskerCluster;

my $SECONDS = $ENV{TASKER_PROOF_SECONDS} || 16;
my $SEED = $ENV{TASKER_PROOF_SEED} || int(rand(1_000_000));
my $CALM = 0.4 * $SECONDS;
my @ROLES = ('producer') x 3;
push @ROLES, qw(preparer decider long ticker rotator rotator consumer other twin twin flaky lagging retrying member member receiver
  cursor steps);

my $kept = 0;
my %faults;

$ENV{PROOF_LONG} = 0.75 * $CALM;
$ENV{PROOF_LAG} = 0.05 * $SECONDS;
srand($SEED);
note("seed $SEED, $SECONDS seconds, long transactions of $ENV{PROOF_LONG} seconds");

my $node = tasker_cluster('proof', conf => <<~CONF);
	max_prepared_transactions = 20
	max_connections = 60
	restart_after_crash = on
	log_min_messages = warning
	log_min_error_statement = error
	log_statement = none
	CONF
prepare_proof($node, busy => [qw(consumer twin flaky lagging retrying receiver cursor steps)], other => ['other']);
sql($node, <<~'SQL');
	create table proof.reading (batch bigint, reading text, ev_id bigint, data text);
	create table proof.said (line jsonb);
	select tasker.register_subconsumer('busy', 'team', 'first');
	insert into proof.consumer values ('busy', 'team');
	create table proof.rotated (what text);
	create sequence proof.ticks;
	create sequence proof.rotations;
	SQL

clients_of($node, 'stream_proof.py', $SEED);

# --- faults ------------------------------------------------------------------------------------------------------

my $SESSION = "application_name ~ '^proof' and application_name <> 'proof long'";

# A transaction in two phases outlives the server, in the middle of all that.
sub kill_server
{
	my $gid = 'kept ' . ++$kept;
	sql($node, "begin; select proof.send('busy', '$gid ' || i) from generate_series(1, 20) i; prepare transaction '$gid'");
	crash_server($node);
	start_after_crash($node);
	sql($node, "commit prepared '$gid'");
	return 1;
}

my %FAULT = (
	'a client killed' => sub { kill_client(qr/^(?!long$)/) },
	'a session terminated' => sub { signal_backend('pg_terminate_backend', $SESSION) },
	'a statement cancelled' => sub { signal_backend('pg_cancel_backend', $SESSION) },
	'a producer killed' => sub { killed_backend($node, "application_name = 'proof producer'") },
	'a consumer killed' => sub { killed_backend($node, "application_name in ('proof consumer', 'proof twin', 'proof steps')") },
	'the ticker killed' => sub { killed_backend($node, "application_name = 'proof ticker'") },
	'a rotator killed' => sub { killed_backend($node, "application_name = 'proof rotator'") },
	'the worker killed' => sub { killed_backend($node, "backend_type = 'tasker worker'") },
	'the server killed' => \&kill_server,
);
my @SOFT = ('a client killed', 'a statement cancelled', 'a session terminated');
my @HARD = ('the server killed', 'a producer killed', 'a consumer killed', 'the ticker killed', 'a rotator killed',
	'the worker killed');

# One fault after the other, spread over the time that is left; each kind of them comes.
sub faults
{
	my ($seconds, $pause, @order) = @_;
	my $end = time() + $seconds;
	for (my $i = 0; time() < $end || $i < @order; $i++)
	{
		usleep($pause * 1_000_000);
		nobody_broke_off();
		my $what = $order[ $i % @order ];
		# After a crash some are not back yet.
		for (my $tries = 0; $tries < 50; $tries++)
		{
			last if $FAULT{$what}->() && ++$faults{$what};
			usleep(100_000);
		}
	}
	return;
}

# --- the run -----------------------------------------------------------------------------------------------------

my $began = time();
start_client($_, $_) foreach @ROLES;
wait_until($node, "select count(distinct consumer) = 10 from proof.taken", 'every consumer has got something');
faults($CALM, $CALM / 12, @SOFT);
faults($SECONDS - $CALM, ($SECONDS - $CALM) / 24, map { ($_, $SOFT[ rand @SOFT ]) } @HARD);
# Without long transactions everything goes round at least once.
end_clients('long');
wait_until($node, "select count(*) >= 3 from proof.rotated where what = '$_'", "all around: $_")
  foreach 'rotation', 'rotation of subscriptions', 'rotation of ticks';
stop_clients();
note(sprintf '%.1f seconds', time() - $began);
cmp_ok($faults{$_} // 0, '>', 0, "it happened: $_") foreach sort keys %FAULT;

# What is still prepared is decided now; then whatever is left is taken.
my @prepared = split /\n/, sql($node, 'select gid from pg_prepared_xacts order by prepared');
sql($node, ($_ % 3 ? 'commit' : 'rollback') . " prepared '$prepared[$_]'") foreach 0 .. $#prepared;
wait_until($node, 'select tasker.maint_retry_events() = 0 and not exists (select from tasker.retry_queue)', 'what was put off is back');
foreach my $queue (qw(busy other))
{
	cmp_ok(tick($node, $queue), '>', 0, "$queue: a last tick");
	drain($node, $queue, $_)
	  foreach split /\n/, sql($node, "select consumer from proof.consumer where queue = '$queue' and consumer not in ('receiver', 'team')");
}
drain($node, 'busy', 'team', 'last');
sql($node, <<~'SQL');
	do $$
	declare
	    part bigint;
	begin
	    loop
	        with m as (select * from tasker.receive('busy', 'receiver', 1000)),
	        t as (insert into proof.taken (queue, consumer, batch, ev_id, data) select 'busy', 'receiver', -txid_current(), msg_id, payload from m)
	        select max(batch_id) into part from m;
	        exit when part is null;
	        perform tasker.ack(part);
	        commit;
	    end loop;
	end
	$$
	SQL

# --- what must be true -------------------------------------------------------------------------------------------

read_logs('proof.said');
is(sql($node, "select line ->> 'bad' from proof.said where line ? 'bad' limit 10"), '', 'nothing happened that must not');
delivered_exactly_once($node, 'after all that');
is(sql($node, 'select batch from (select batch, reading, array_agg(data order by ev_id) as contents
	from proof.reading group by 1, 2) r group by 1 having count(distinct contents) > 1 limit 10'), '',
	'a batch that is read again is the same');
stream_is_sound($node, 'after all that');

# That it was worth the trouble.
my %done = map { split /\|/ } split /\n/, sql($node, "select line ->> 'did', count(*) from proof.said where line ? 'did' group by 1");
my ($sent, $batches, $ticks, $tries) = split /\|/, sql($node, 'select (select count(*) from proof.journal),
	(select count(distinct batch) from proof.taken), (select last_value from proof.ticks), (select last_value from proof.rotations)');
note("$sent events, $batches batches with events, $ticks ticks, $tries attempts to rotate");
note("$done{$_} times $_") foreach sort keys %done;
note("$faults{$_} times $_") foreach sort keys %faults;
cmp_ok($sent, '>', 10 * $SECONDS, 'events were sent');
cmp_ok($ticks, '>', 10 * $SECONDS, 'ticks were made');
cmp_ok($done{$_} // 0, '>', 0, "it happened: $_")
  foreach 'commit prepared', 'rollback prepared';
is(sql($node, "select count(*) > 0 from proof.said where line ->> 'did' = 'long transaction'
	and (line -> 'ticks')::int >= 24 and (line -> 'tries')::int >= 2"), 't', 'a long transaction was passed by ticks and rotations');
server_did_not_crash($node);

$node->stop;
done_testing();
