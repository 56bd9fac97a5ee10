# Many clients do everything to the queue at random, are killed at random, and so is the server. In the end every
# record that was committed is accounted for exactly once, by what the clients know and by what their transactions
# have left in tables of their own. See test/clients/queue_stress.py.
#
# TASKER_STRESS_SECONDS (default 25) is for how long; TASKER_STRESS_SEED repeats what is random here, which is not
# the order in which the processes run; TASKER_STRESS_CLIENTS (default 6).

use strict;
use warnings;

use Test::More;

use QueueChecks;
use StressClients;
use TaskerCluster;

my $SECONDS = $ENV{TASKER_STRESS_SECONDS} // 25;
my $CLIENTS = $ENV{TASKER_STRESS_CLIENTS} // 6;
my $SEED = $ENV{TASKER_STRESS_SEED} // int(rand(1_000_000));

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
	create table stress.claims (id bigint, token bigint, retry_count int, tx text);
	create table stress.ledger (id bigint, kind text, token bigint, tx text);
	create table stress.said (line jsonb);
	select tasker.create_partition('tasker.queue_record', now()::text); -- some write the table directly
	select tasker.create_flow('steady', '{"max_attempts": 1000000, "backoff_base": "20 ms", "backoff_max": "200 ms"}');
	select tasker.create_flow('limited', '{"max_attempts": 1000000, "max_in_flight": 30, "rate_limit": 500,
		"backoff_base": "0", "lease": "3 seconds"}');
	select tasker.create_flow('brittle', '{"max_attempts": 2, "backoff_base": "10 ms", "lease": "3 seconds"}');
	SQL

clients_of($node, 'queue_stress.py', $SEED);

# --- what must be true -------------------------------------------------------------------------------------------

# What clients said, against what is there.
sub every_record_is_accounted_for
{
	no_transaction_is_lost();
	none('every record that was committed is there', "select key from stress.said join stress.journal j
		on j.tx = line ->> 'tx', jsonb_array_elements_text(line -> 'made') key
		except select payload ->> 'key' from tasker.queue_record");
	none('and no other', "select payload ->> 'key' from tasker.queue_record except
		select key from stress.said join stress.journal j
		on j.tx = line ->> 'tx', jsonb_array_elements_text(line -> 'made') key");
	none('each once', "select payload ->> 'key' from tasker.queue_record group by 1 having count(*) > 1");
	none('a deduplication key has one live record', "select payload ->> 'dedup' from tasker.queue_record
		where payload ? 'dedup' and status in ('p', 'r') group by 1 having count(*) > 1");
	return;
}

# What their transactions left, against the records.
sub every_claim_is_accounted_for
{
	my ($when) = @_;
	none("$when: nothing is completed twice", "select id from stress.ledger where kind = 'completed'
		group by 1 having count(*) > 1");
	none("$when: what the users' own table calls completed is completed, under the same claim", "select id, token
		from stress.ledger where kind = 'completed' except select id, lease_token from tasker.queue_record where status = 'c'");
	none("$when: and the other way round", "select id, lease_token from tasker.queue_record where status = 'c'
		except select id, token from stress.ledger where kind = 'completed'");
	none("$when: what is cancelled is", "select id from stress.ledger where kind = 'cancelled'
		except select id from tasker.queue_record where status = 'x'");
	none("$when: no claim hands out a record twice", 'select id from stress.claims group by id, token having count(*) > 1');
	none("$when: nothing is claimed after its completion", "select c.id from stress.claims c join stress.ledger l
		on l.id = c.id and l.kind = 'completed' where c.token > l.token");
	# A record is claimed once, and once more for each time that it was given back: released, failed, or orphaned.
	none("$when: the claims of each record are as many as its fates",
		"select r.id, r.status, r.retry_count, c.claims, l.releases, l.revived from tasker.queue_record r
		left join (select id, count(*) as claims from stress.claims group by 1) c using (id)
		left join (select id, count(*) filter (where kind = 'released') as releases,
		    sum(token) filter (where kind = 'revived') as revived from stress.ledger group by 1) l using (id)
		where coalesce(claims, 0) <> coalesce(releases, 0) + coalesce(revived, 0) + retry_count
		    + (status in ('r', 'c'))::int");
	return;
}

# Finishes what is left, by claiming it: what a floor hides would stay.
sub drain
{
	sql($node, <<~'SQL');
		select tasker.alter_flow('limited', 'max_in_flight', null), tasker.alter_flow('limited', 'rate_limit', null);
		select tasker.cleanup_orphaned_records('0');
		create function stress.drain(flow text) returns bigint language sql as $$
		    with c as materialized (select * from tasker.claim_records_batch(flow, 500, 'drain')),
		        l as (insert into stress.claims select id, lease_token, retry_count, 'drain' from c),
		        d as (insert into stress.ledger select id, 'completed', lease_token, 'drain' from c),
		        m as materialized (select tasker.mark_records_completed(coalesce(array_agg(id), '{}'), null,
		            coalesce(array_agg(lease_token), '{}')) as done from c)
		    select coalesce(sum(done), 0) from m
		$$;
		SQL
	foreach my $flow (qw(steady limited brittle))
	{
		my $left = sql($node, "select count(*) from tasker.processing_queue
			where flow_name = '$flow' and status = 'pending' and run_at < now() + interval '1 hour'");
		my $done = 0;
		while (sql($node, "call tasker.wait_for_records('$flow', '2 seconds')") eq 't')
		{
			my $now = sql($node, "select stress.drain('$flow')");
			$done += $now;
		}
		is($done, $left, "$flow: all that was pending is handed out in the end");
	}
	none('nothing is left but what is scheduled for another day', "select id, status from tasker.processing_queue
		where status = 'processing' or status = 'pending' and run_at < now() + interval '1 hour'");
	return;
}

start_client("c$_") foreach 1 .. $CLIENTS;
storm($SECONDS);
stop_clients();
faults_happened();

# Until what was rescheduled for soon has become due, the statistics move by themselves.
wait_until($node, "select not exists (select from tasker.processing_queue
	where status = 'pending' and run_at between now() - interval '10 ms' and now() + interval '1 hour')", 'all settled');
read_logs('stress.said');
my ($journal, $unknown, $records, $completed) = split /\|/, sql($node, "select (select count(*) from stress.journal),
	(select count(distinct line ->> 'tx') from stress.said s where line ? 'made' and not exists
	    (select from stress.said e where e.line ->> 'tx' = s.line ->> 'tx' and e.line ? 'end')),
	count(*), count(*) filter (where status = 'c') from tasker.queue_record");
note("$journal transactions committed, the outcome of $unknown unknown to their clients, $records records, $completed completed");
cmp_ok($journal, '>', 10 * $SECONDS, 'the clients have done something');
cmp_ok($completed, '>', $SECONDS, 'and completed records');

queue_is_exact($node, 'after the storm');
every_record_is_accounted_for();
every_claim_is_accounted_for('after the storm');
drain();
queue_is_exact($node, 'after the drain');
every_claim_is_accounted_for('after the drain');
server_did_not_crash($node);

$node->stop;
done_testing();
