# Floors and bounds after what moves a record backwards in its lane, step by step: what is given back lowers the
# claim floor below records that others still hold, and these must be found all the same.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use Test::More;

use QueueChecks;
use TaskerCluster;

# No worker and no sweep: nobody mends anything.
my $node = tasker_cluster('floors', conf => "tasker.worker = off\n");

# Enqueues and claims records, and returns their ids in line.
sub claimed
{
	my ($flow, $count, $lease) = @_;
	sql($node, "select tasker.add_records_to_queue('$flow', array_fill('{}'::jsonb, array[$count]))");
	return split /\n/, sql($node, "select id from tasker.claim_records_batch('$flow', $count, 'me', '$lease')");
}

sub wait_for_lease_end
{
	my ($id) = @_;
	return wait_until($node, "select clock_timestamp() > lease_expires_at from tasker.queue_record where id = $id",
		'its lease has ended');
}

sub recovered { return sql($node, "select tasker.cleanup_orphaned_records('1 hour', '$_[0]')") }

# The first of three is released; the two behind it are lost.
{
	my @ids = claimed('released', 3, '1 ms');
	sql($node, "select tasker.release_records(array[$ids[0]])");
	wait_for_lease_end($ids[2]);
	is(recovered('released'), 2, 'orphans behind a released record are found');
	queue_is_exact($node, 'orphans behind a released record');
}

# The sweep looks over the window while the floor is low, and forgets nobody whose lease ends later.
{
	my @ids = claimed('swept', 2, '1 second');
	sql($node, "select tasker.release_records(array[$ids[0]])");
	sql($node, 'select tasker.sweep_queue()');
	is(sql($node, "select id from tasker.claim_records_batch('swept', 1, 'me', '1 hour')"),
		$ids[0], 'the released record is claimed again');
	wait_for_lease_end($ids[1]);
	is(recovered('swept'), 1, 'the one that stood behind it is found when its lease ends');
	queue_is_exact($node, 'after a sweep with a lowered floor');
}

# The sweep lowers no floor to records that wait above it.
{
	sql($node, "select tasker.add_records_to_queue('waiting', array_fill('{}'::jsonb, array[3]))");
	claimed('waiting', 2, '1 hour');
	is(sql($node, 'select tasker.sweep_queue()'), 0, 'a floor that is right is left alone');
}

# An aborted claim lowers the floor in the same way.
{
	my @ids = claimed('aborted', 1, '1 hour');
	sql($node, "select tasker.release_records(array[$ids[0]])");
	my @more = claimed('aborted', 3, '1 ms');
	is($more[0], $ids[0], 'the released record comes first');
	sql($node, "select tasker.release_records(array[$ids[0]])");
	sql($node, "begin; select from tasker.claim_records_batch('aborted'); rollback");
	wait_for_lease_end($more[1]);
	is(recovered('aborted'), 2, 'orphans behind an aborted claim are found');
	queue_is_exact($node, 'orphans behind an aborted claim');
}

# A retry of the past, and a record put back by an administrator's statement.
{
	my @ids = claimed('by hand', 3, '1 ms');
	sql($node, "update tasker.queue_record set status = 'p' where id = $ids[0]");
	wait_for_lease_end($ids[2]);
	is(recovered('by hand'), 2, 'orphans behind a record put back by hand are found');
	sql($node, "update tasker.queue_record set status = 'r', position = id + (1::bigint << 40), claimed_at = now() - interval '1 hour',
		lease_expires_at = now(), lease_token = 1 where id = $ids[1]");
	is(recovered('by hand'), 1, 'an orphan that was made by hand, far ahead of the floor, is found');
	queue_is_exact($node, 'records changed by hand');
}

# Partitions that go by an administrator's hand take their records out of the statistics, at the next sweep.
{
	my $days = 2;
	foreach my $how ('drop table %s', 'alter table tasker.queue_record detach partition %s',
		'alter table tasker.queue_record detach partition %s concurrently', 'begin; drop table %s; rollback')
	{
		my $partition = sql($node, "select tasker.create_partition('tasker.queue_record', (now() - interval '$days days')::text)");
		sql($node, "select tasker.create_flow('lost $days')");
		sql($node, "insert into tasker.queue_record (id, position, flow_id, payload, status, changed_at)
			select id + i, id + i, flow_id, '1', case when i < 3 then 'p' else 'c' end, now() from tasker.flow, generate_series(1, 5) i,
			    lateral (select ((extract(epoch from now() - interval '$days days') * 1000)::bigint << 20) as id) ids
			where flow_name = 'lost $days'");
		sql($node, sprintf $how, $partition);
		sql($node, 'select tasker.sweep_queue()');
		my $done = sprintf $how, 'a partition';
		queue_is_exact($node, $done);
		is(status_of($node, "lost $days"), $how =~ /rollback/ ? '2 0 0 3 0 0 5' : '0 0 0 0 0 0 0', "$done: what is left");
		is(scalar(drained($node, "lost $days")), $how =~ /rollback/ ? 2 : 0, "$done: and is handed out");
		$days++;
	}

	# One that somebody makes at this moment, and has not committed, is not lost.
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_safe('begin');
	$session->query_safe("select tasker.create_partition('tasker.queue_record', (now() - interval '20 days')::text)");
	$session->query_safe("insert into tasker.queue_record (id, flow_id, payload)
		select (extract(epoch from now() - interval '20 days') * 1000)::bigint << 20, flow_id, '1' from tasker.flow where flow_name = 'swept'");
	sql($node, 'select tasker.sweep_queue()');
	$session->query_safe('commit');
	$session->quit;
	queue_is_exact($node, 'a partition that was made during a sweep');
}

server_did_not_crash($node);
$node->stop;
done_testing();
