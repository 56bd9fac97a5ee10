# What the tests of the stream share: who sent what, who got what, and is it the same?
#
#   prepare_proof($node, queue => [consumers], ...)   the queues, with ticks whenever they are asked for and rotations
#                                                     whenever they are possible, and the tables of the proof
#   send_events($node, $queue, $how_many)             in one transaction, and into the journal
#   tick($node, $queue)                               returns its id
#   rotate($node, $queue)                             both steps; returns the table that takes events then
#   rotate_metadata($node)                            both steps
#   drain($node, $queue, $consumer, $member)          takes every batch there is; returns how many
#   keep_going($node)                                 some rounds of all that, with every queue and consumer;
#                                                     returns the tables that took events, "queue|number" each
#   delivered_exactly_once($node, $what)              an assertion: each consumer has got what was sent, all of it, once
#   stream_is_sound($node, $what)                     an assertion: no rule is broken
#
# A producer writes what it sends into proof.journal, in the same transaction. A consumer writes what it gets into
# proof.taken in the transaction that finishes the batch. So whatever was committed on both sides can be compared.

package StreamChecks;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

use TaskerCluster;

our @EXPORT = qw(prepare_proof send_events tick rotate rotate_metadata drain keep_going delivered_exactly_once stream_is_sound);

sub prepare_proof
{
	my ($node, %queues) = @_;
	sql($node, <<~'SQL');
		create schema proof;
		create table proof.journal (queue text not null, data text not null, ev_id bigint);
		create table proof.taken (queue text not null, consumer text not null, batch bigint not null, ev_id bigint not null,
		    data text not null, txid bigint not null default txid_current());
		create table proof.consumer (queue text, consumer text);
		create function proof.send(queue text, data text) returns bigint language sql as $$
		    insert into proof.journal values (queue, data, tasker.insert_event(queue, 'proof', data)) returning ev_id
		$$;
		-- One batch in one transaction; null when there is none. A member takes over what others have.
		create function proof.take(queue text, consumer text, member text = null) returns bigint language plpgsql as $$
		declare
		    the_batch bigint := case when member is null then tasker.next_batch(queue, consumer)
		        else tasker.next_batch(queue, consumer, member, '0') end;
		begin
		    if the_batch is not null then
		        insert into proof.taken (queue, consumer, batch, ev_id, data)
		        select take.queue, take.consumer, the_batch, ev_id, ev_data from tasker.get_batch_events(the_batch);
		        perform tasker.finish_batch(the_batch);
		    end if;
		    return the_batch;
		end
		$$;
		create procedure proof.drain(queue text, consumer text, member text = null, inout batches bigint = 0) language plpgsql as $$
		begin
		    while proof.take(queue, consumer, member) is not null loop
		        batches := batches + 1;
		        commit;
		    end loop;
		end
		$$;
		-- What one side has and the other has not.
		create function proof.differences() returns table (who text, what text, data text) language sql as $$
		    with sent as (select queue, consumer, data from proof.journal join proof.consumer using (queue)),
		    got as (select queue, consumer, data from proof.taken)
		    select consumer || ' of ' || queue, 'lost', left(data, 40)
		    from (select * from sent except all select * from got) d
		    union all
		    select consumer || ' of ' || queue, 'twice, or never sent', left(data, 40)
		    from (select * from got except all select * from sent) d
		    union all
		    select consumer || ' of ' || queue, 'under another id', left(data, 40)
		    from proof.taken t join proof.journal j using (queue, data) where j.ev_id <> t.ev_id
		    union all
		    select consumer || ' of ' || queue, 'a batch in two transactions', batch::text
		    from proof.taken group by queue, consumer, batch having count(distinct txid) > 1
		$$;
		SQL
	foreach my $queue (sort keys %queues)
	{
		sql($node, "select tasker.create_queue('$queue'); update tasker.queue set queue_ticker_max_lag = '0',
			queue_ticker_idle_period = '0', queue_rotation_period = '0',
			queue_metadata_rotation_period = '1 millisecond' where queue_name = '$queue'");
		sql($node, "select tasker.register_consumer('$queue', '$_'); insert into proof.consumer values ('$queue', '$_')")
		  foreach @{ $queues{$queue} };
	}
	return;
}

sub send_events
{
	my ($node, $queue, $how_many) = @_;
	return sql($node, "select count(proof.send('$queue', txid_current() || '.' || i)) from generate_series(1, $how_many) i");
}

sub tick
{
	my ($node, $queue) = @_;
	return sql($node, "select tasker.ticker('$queue')");
}

sub rotate
{
	my ($node, $queue) = @_;
	sql($node, "select tasker.maint_rotate_tables_step1('$queue')");
	sql($node, 'select tasker.maint_rotate_tables_step2()');
	return sql($node, "select queue_cur_table from tasker.queue where queue_name = '$queue'");
}

sub rotate_metadata
{
	my ($node) = @_;
	sql($node, 'select tasker.maint_rotate_metadata()');
	sql($node, 'select tasker.maint_rotate_metadata_step2()');
	return;
}

sub drain
{
	my ($node, $queue, $consumer, $member) = @_;
	return sql($node, "call proof.drain('$queue', '$consumer'" . ($member ? ", '$member')" : ')'));
}

# One connection, and each statement in its own transaction.
sub keep_going
{
	my ($node, $rounds, $database) = @_;
	my $script = '';
	foreach my $queue (split /\n/, sql($node, 'select distinct queue from proof.consumer order by 1', $database))
	{
		$script .= "select count(proof.send('$queue', txid_current() || '.' || i)) from generate_series(1, 5) i;\n"
		  . "select tasker.ticker('$queue');\n";
		$script .= "call proof.drain('$queue', '$_');\n"
		  foreach split /\n/, sql($node, "select consumer from proof.consumer where queue = '$queue' order by 1", $database);
		$script .= "select tasker.maint_rotate_tables_step1('$queue');\nselect tasker.maint_rotate_tables_step2();\n"
		  . "select 'now', queue_name, queue_cur_table from tasker.queue where queue_name = '$queue';\n";
	}
	$script .= "select tasker.maint_rotate_metadata();\nselect tasker.maint_rotate_metadata_step2();\n";
	my %seen = map { $_ => 1 } sql($node, $script x $rounds, $database) =~ /^now\|(.*)$/mg;
	return join ' ', sort keys %seen;
}

sub delivered_exactly_once
{
	my ($node, $what, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, 'select * from proof.differences() limit 10', $database), '', "$what: every event was delivered, once");
}

sub stream_is_sound
{
	my ($node, $what, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, 'select * from tasker.check_integrity()', $database), '', "$what: no rule is broken");
}

1;
