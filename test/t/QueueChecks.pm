# What the tests of the queue share: is everything that it says of itself true?
#
#   queue_is_exact($node, $what)             assertions: no broken rule, and the statistics are those of the table.
#                                            While nobody writes.
#   status_of($node, $flow)                  "pending scheduled processing completed failed cancelled total"
#   fill_queue($node)                        a queue with something in every state, in two partitions
#   contents_of($node)                       a digest of all records, with every column
#   drained($node, $flow)                    claims and completes all that is due; returns the ids
#   server_did_not_crash($node)              an assertion over the whole log
#   wait_for_server($node)                   until it takes connections again
#   killed_backend($node, $condition)        SIGKILL to one backend: the server recovers from the crash by itself

package QueueChecks;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use TaskerCluster;

our @EXPORT = qw(queue_is_exact status_of fill_queue contents_of drained server_did_not_crash wait_for_server
  killed_backend);

# Where the status differs from a count over the table. A record may become due while we look: what is due lies between
# what was due before and after the status was asked for.
my $DUE = '((extract(epoch from clock_timestamp()) * 1000)::bigint << 20) | ((1 << 20) - 1)';
my $DIFFERENCES = <<~"SQL";
	select $DUE as before \\gset
	select coalesce(jsonb_agg(s), '[]') as said from tasker.get_queue_status() s \\gset
	select $DUE as after \\gset
	with said as (
	    select * from jsonb_to_recordset(:'said') as s (flow_name text, pending bigint, scheduled bigint, processing bigint,
	        completed bigint, failed bigint, cancelled bigint, total bigint)),
	counted as (
	    select flow_name, count(*) filter (where status = 'p' and position <= :before) as due_before,
	        count(*) filter (where status = 'p' and position <= :after) as due_after,
	        count(*) filter (where status = 'p') as live, count(*) filter (where status = 'r') as running,
	        count(*) filter (where status = 'c') as done, count(*) filter (where status = 'f') as dead,
	        count(*) filter (where status = 'x') as undone, count(status) as records
	    from tasker.flow left join tasker.queue_record using (flow_id) group by 1)
	select 'said: ' || said::text || ', counted: ' || counted::text from said full join counted using (flow_name)
	where (pending between due_before and due_after and pending + scheduled = live
	    and (processing, completed, failed, cancelled, total) = (running, done, dead, undone, records)) is not true
	SQL

sub queue_is_exact
{
	my ($node, $what, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $broken = is(sql($node, 'select * from tasker.check_queue_integrity()', $database), '', "$what: no rule is broken");
	return is(sql($node, $DIFFERENCES, $database), '', "$what: the statistics are those of the table") && $broken;
}

sub status_of
{
	my ($node, $flow, $database) = @_;
	return sql($node, "select concat_ws(' ', pending, scheduled, processing, completed, failed, cancelled, total)
		from tasker.get_queue_status('$flow')", $database);
}

# Flow alpha gets: pending 12 (of them 2 in a partition of the past, 1 with a deduplication key), scheduled 4 (1 of
# them a retry), processing 2, completed 7 (5 in the past, 1 of the others with a key), failed 2 (1 in the past),
# cancelled 1. Flow beta gets 100 pending.
sub fill_queue
{
	my ($node, $database) = @_;
	sql($node, <<~'SQL', $database);
		select tasker.create_flow('alpha', '{"max_attempts": 2, "backoff_base": "1 hour", "backoff_max": "1 hour",
		    "backoff_jitter": 0}');
		select tasker.create_flow('beta');
		select tasker.create_partition('tasker.queue_record', (now() - interval '3 days')::text);
		insert into tasker.queue_record (id, position, flow_id, payload, status, retry_count, changed_at)
		select id, id, flow_id, to_jsonb('past ' || i), case when i <= 2 then 'p' when i = 3 then 'f' else 'c' end,
		    (i = 3)::int * 2, case when i > 2 then now() end
		from tasker.flow, generate_series(1, 8) i,
		    lateral (select ((extract(epoch from now() - interval '3 days') * 1000)::bigint << 20) + i as id) ids
		where flow_name = 'alpha';

		select tasker.add_records_to_queue('alpha', array_agg(to_jsonb('high ' || i)), 5) from generate_series(1, 6) i;
		create temp table held as select * from tasker.claim_records_batch('alpha', 6, 'filler', '1 hour');
		select tasker.mark_record_completed(id, '"done"', lease_token) from held where payload = '"high 1"';
		select tasker.mark_record_failed(id, 'on purpose', null, lease_token) from held where payload = '"high 2"';
		select tasker.mark_record_failed(id, 'on purpose', '0', lease_token) from held where payload = '"high 3"';
		select tasker.mark_record_failed(id, 'on purpose', null, lease_token)
		    from tasker.claim_records_batch('alpha', 1, 'filler', '1 hour');
		select tasker.release_records(array_agg(id)) from held where payload = '"high 4"';

		select tasker.add_records_to_queue('alpha', array_agg(to_jsonb('low ' || i))) from generate_series(1, 9) i;
		select tasker.cancel_records(array_agg(id)) from tasker.processing_queue where payload = '"low 9"';
		select tasker.add_records_to_queue('alpha', '{1,2,3}', 0, now() + interval '1 day');
		select tasker.enqueue('alpha', '"live key"', 0, null, 'live key');
		select tasker.enqueue('alpha', '"used key"', 9, null, 'used key', '1 day');
		select tasker.mark_record_completed(id, null, lease_token) from tasker.claim_records_batch('alpha', 1);
		select tasker.add_records_to_queue('beta', array_agg(to_jsonb(i))) from generate_series(1, 100) i;
		SQL
	return;
}

sub contents_of
{
	my ($node, $database) = @_;
	return sql($node, "select count(*) || ' ' || md5(string_agg(r::text, '|' order by id)) from tasker.queue_record r",
		$database);
}

sub drained
{
	my ($node, $flow, $database) = @_;
	my @ids;
	while (1)
	{
		my @batch = split /\n/, sql($node, "with c as materialized (select * from tasker.claim_records_batch('$flow', 7)),
			d as materialized (select tasker.mark_record_completed(id, null, lease_token) from c)
			select c.id from c, (select count(*) from d) done", $database);
		return @ids if !@batch;
		push @ids, @batch;
	}
}

# A SIGKILL of our own is no crash of the server's; everything else that ends a process is.
sub server_did_not_crash
{
	my ($node) = @_;
	my @crashes = grep { /PANIC|TRAP|terminated by signal (?!9\b)|terminated by exception/ }
	  split /\n/, slurp_file($node->logfile);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("@crashes", '', 'no process crashed by itself');
}

sub wait_for_server
{
	my ($node) = @_;
	my $left = 10 * $PostgreSQL::Test::Utils::timeout_default;
	while ($left-- > 0)
	{
		return 1 if $node->psql('postgres', 'select 1') == 0;
		usleep(100_000);
	}
	die 'the server does not come back';
}

# Is the process there, and not only waiting to be collected? It may go while we look.
sub is_running
{
	my ($pid) = @_;
	open my $stat, '<', "/proc/$pid/stat" or return 0;
	my $line = <$stat>;
	close $stat;
	return defined $line && $line !~ /\) Z /;
}

# Returns false when there is no such backend.
sub killed_backend
{
	my ($node, $condition) = @_;
	my ($status, $pid) = $node->psql('postgres',
		"select pid from pg_stat_activity where $condition and pid <> pg_backend_pid() order by random() limit 1");
	return 0 if $status != 0 || $pid eq '' || !kill 'KILL', $pid;
	# Until then the postmaster may not have noticed, and still let others in.
	my $left = 10 * $PostgreSQL::Test::Utils::timeout_default;
	usleep(100_000) while $left-- > 0 && is_running($pid);
	wait_for_server($node);
	return 1;
}

1;
