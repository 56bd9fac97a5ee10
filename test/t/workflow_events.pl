# The queue "tasker.transitions": every transition of a task or a step is delivered once, and as the logs have it, while
# many work and commit out of the order in which they began, and to whoever is registered later what was committed later.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('events', conf => "max_connections = 60\nsynchronous_commit = off");
my $dir = PostgreSQL::Test::Utils::tempdir;
my $queue = 'tasker.transitions';

sql($node, <<~'SQL');
	select tasker.define_task('shop', 'order', '{"steps": [
	    {"name": "check", "backoff": {"base_seconds": 0, "jitter": 0}}, {"name": "pay", "depends_on": ["check"]},
	    {"name": "pack", "depends_on": ["check"], "max_attempts": 1}, {"name": "send", "depends_on": ["pay", "pack"]}]}');
	create table taken (consumer text, batch bigint, ev_id bigint, ev_txid bigint, ev_time timestamptz, ev_type text, data jsonb, task uuid, step uuid);
	create function take(consumer text) returns bigint language plpgsql as $$
	declare
	    batch bigint := tasker.next_batch('tasker.transitions', consumer);
	begin
	    insert into taken select consumer, batch, ev_id, ev_txid, ev_time, ev_type, ev_data::jsonb, ev_extra1::uuid, ev_extra2::uuid
	    from tasker.get_batch_events(batch) where batch is not null;
	    perform tasker.finish_batch(batch) where batch is not null;
	    return batch;
	end $$;
	-- A row of both logs.
	create view logged as
	select 'task' as kind, task_uuid as uuid, task_uuid, null::uuid as step_uuid, from_state, to_state, sort_key, processor, created_at, txid
	from tasker.task_transitions
	union all
	select 'step', workflow_step_uuid, task_uuid, workflow_step_uuid, from_state, to_state, sort_key, processor, created_at, txid
	from tasker.workflow_step_transitions;
	create view delivered as
	select *, coalesce(step, task) as uuid, (data ->> 'sort_key')::int as sort_key from taken;
	-- A transaction of a worker: new tasks, and steps that go well, fail, or are given back by a rollback.
	create function work() returns void language plpgsql as $$
	declare
	    claimed record;
	begin
	    if random() < 0.35 then
	        perform tasker.create_task('shop', 'order', initiator => 'test');
	    end if;
	    begin
	        for claimed in select * from tasker.claim_steps('shop', 1 + (3 * random())::int, 'worker ' || pg_backend_pid()) loop
	            if random() < 0.15 then
	                perform tasker.fail_step(claimed.workflow_step_uuid, '{"message": "no"}', backoff_seconds => 0);
	            else
	                perform tasker.complete_step(claimed.workflow_step_uuid, '{"ok": true}');
	            end if;
	        end loop;
	        if random() < 0.1 then
	            raise exception 'undo it' using errcode = 'P0002';
	        end if;
	    exception when no_data_found then
	    end;
	end $$;
	SQL

# The queue is there when somebody asks for it, and not before.
is(sql($node, "select count(*) from tasker.queue"), '0', 'defining a task makes no queue');
sql($node, "select tasker.create_task('shop', 'order')");
is(sql($node, "select tasker.register_consumer('$queue', 'first')"), '1', 'registering makes it');

# Where a consumer stands.
sub stands
{
	my ($consumer) = @_;
	return sql($node, "select t.tick_snapshot from tasker.subscription s join tasker.consumer c on c.co_id = s.sub_consumer
		join tasker.tick t on t.tick_queue = s.sub_queue and t.tick_id = s.sub_last_tick where c.co_name = '$consumer'");
}
my $start = stands('first');
is(sql($node, "select array_agg(log_table::text order by log_number) from tasker.queue_log"),
	'{tasker.task_transition,tasker.workflow_step_transition}', '... over both logs');
is(sql($node, "select tasker.register_consumer('$queue', 'first')"), '0', '... once');
like(error_of($node, "select tasker.send('$queue', 'x')"), qr/^55000: queue "tasker.transitions" takes no events/, 'nobody else writes into it');

# Somebody who begins first and commits last, and one in two phases.
my $late = $node->background_psql('postgres');
$late->query_safe("begin; select tasker.create_task('shop', 'order', initiator => 'late'); savepoint a;
	select tasker.create_task('shop', 'order', initiator => 'undone'); rollback to a;
	select tasker.create_task('shop', 'order', initiator => 'late, too')");
sql($node, "begin; select tasker.create_task('shop', 'order', initiator => 'prepared'); prepare transaction 'late'");

PostgreSQL::Test::Utils::append_to_file("$dir/work.sql", "select work();\n");
PostgreSQL::Test::Utils::append_to_file("$dir/take.sql", "select take('first');\n");
my ($out, $err) = ('', '');
local $ENV{PGOPTIONS} = '-c client_min_messages=error';
my @common = ('-n', '-h', $node->host, '-p', $node->port, '-U', scalar(getpwuid($<)));
my $workers = IPC::Run::start([ 'pgbench', @common, '-c', 5, '-t', 200, '--max-tries', 50, '-f', "$dir/work.sql", 'postgres' ], '>', \$out, '2>', \$out);
my $taker = IPC::Run::start([ 'pgbench', @common, '-c', 1, '-T', 60, '-R', 300, '-f', "$dir/take.sql", 'postgres' ], '>', \$err, '2>', \$err);
wait_until($node, "select count(*) > 500 from taken where consumer = 'first'", 'events come while all are at work');
sql($node, "select tasker.register_consumer('$queue', 'second')");
my $began = stands('second');
$workers->finish;
like($out, qr/number of transactions actually processed: 1000\/1000/, 'all work was done') or diag($out);
ok(sql($node, "select bool_and(ev_type <> 'task.complete' or step is null) and count(*) filter (where ev_type = 'task.complete') > 20 from taken") eq 't',
	'tasks were finished');

# The late ones are in the batches of their ends, long after their transaction ids.
my $others = sql($node, "select count(*) from logged where not txid_visible_in_snapshot(txid, '$start')");
wait_until($node, "select count(*) = $others from taken where consumer = 'first'", 'all that is committed has come');
is(sql($node, "select count(*) from delivered d join logged l using (uuid, sort_key) where d.consumer = 'first'"), $others, '... and nothing else');
$late->query_safe('commit');
sql($node, "commit prepared 'late'");
$late->quit;
wait_until($node, "select count(*) = $others + 3 * 9 from taken where consumer = 'first'", 'what is committed late comes too');
$taker->kill_kill;
sql($node, "do \$\$ begin while take('second') is not null loop end loop; end \$\$");

# Each transition once, and as the log has it.
like(sql($node, "select count(*) filter (where d.n = 1), count(*) filter (where d.n is distinct from 1), count(*) from logged l
	full join (select uuid, sort_key, count(*) as n from delivered where consumer = 'first' group by 1, 2) d using (uuid, sort_key)
	where not txid_visible_in_snapshot(l.txid, '$start') or l.txid is null"), qr/^(\d+)\|0\|\1$/, 'every transition was delivered once');
like(sql($node, "select count(*), count(distinct ev_id) from taken where consumer = 'first'"), qr/^(\d+)\|\1$/, 'under an id of its own');
is(sql($node, "select count(*) from delivered d left join logged l using (uuid, sort_key)
	where (d.ev_type, d.data ->> 'to_state', d.data ->> 'from_state', d.data ->> 'processor', (d.data ->> 'created_at')::timestamptz, d.ev_time, d.ev_txid,
	       d.task, d.step, (d.data ->> 'task_uuid')::uuid, (d.data ->> 'workflow_step_uuid')::uuid)
	is distinct from (l.kind || '.' || l.to_state, l.to_state, l.from_state, l.processor, l.created_at, l.created_at, l.txid,
	       l.task_uuid, l.step_uuid, l.task_uuid, l.step_uuid)"), '0', 'with what the log says');
is(sql($node, "select string_agg(distinct kind || '.' || to_state, ' ' order by kind || '.' || to_state) from logged
	where kind || '.' || to_state not in (select ev_type from taken)"), '', 'of every kind');
is(sql($node, "select count(*) from (select sort_key - lag(sort_key) over (partition by uuid, ev_txid order by ev_id) as step from delivered
	where consumer = 'first') s where step <> 1"), '0', 'those of one transaction in their order');
is(sql($node, "select count(*) from delivered d where d.consumer = 'first' and d.ev_type = 'task.pending' and exists
	(select from delivered e where e.consumer = 'first' and e.ev_txid = d.ev_txid and e.task = d.task and e.ev_id < d.ev_id)"), '0', '... the creation of a task first');

# Whoever came later has what was committed later, under the same ids.
is(sql($node, "select count(*) from (select uuid, sort_key, ev_id from delivered where consumer = 'second'
	except select uuid, sort_key, ev_id from delivered where consumer = 'first') d"), '0', 'the second one sees the same events');
is(sql($node, "select count(*) from (select uuid, sort_key from logged where not txid_visible_in_snapshot(txid, '$began')
	except select uuid, sort_key from delivered where consumer = 'second') d"), '0', '... all from when it was registered');
is(sql($node, "select count(*) from delivered where consumer = 'second' and txid_visible_in_snapshot(ev_txid, '$began')"), '0', '... and none from before');

# What comes again.
my ($batch, $id) = split /\|/, sql($node, "select tasker.create_task('shop', 'order') \\g /dev/null
	call tasker.wait_for_batch('$queue', 'second', '10 seconds') \\g /dev/null
	select b, ev_id from tasker.next_batch('$queue', 'second') b, tasker.get_batch_events(b) where ev_type = 'step.enqueued'");
is(sql($node, "select tasker.nack($batch, $id, '0 seconds')"), '1', 'an event is put off');
sql($node, "select tasker.finish_batch($batch)");
wait_until($node, "select exists (select from tasker.receive('$queue', 'second') where retry_count = 1 and type = 'step.enqueued' and msg_id = $id)", '... and comes again');

# Made by its name, too, and by no other means.
sql($node, 'create database made');
sql($node, 'create extension tasker', 'made');
like(error_of($node, "create table log (txid bigint default tasker.log_txid()); select tasker.create_log_queue('$queue', '{log}')", 'made'),
	qr/^22023: queue name "tasker.transitions" is reserved/, 'the name is reserved');
is(sql($node, "select tasker.create_queue('$queue'), tasker.create_queue('$queue')", 'made'), '1|0', 'create_queue() makes it');
is(sql($node, 'select count(*) from tasker.queue_log', 'made'), '2', '... over its logs');

# Without a consumer nobody makes ticks.
sql($node, "select tasker.unregister_consumer('$queue', c) from unnest('{first,second}'::text[]) c");
sql($node, "select tasker.create_task('shop', 'order')");
wait_until($node, "select not dirty from tasker.queue_ticks where queue_name = '$queue'", 'the last one has gone');
my $ticks = sql($node, 'select count(*), max(tick_id) from tasker.tick');
sql($node, "select tasker.create_task('shop', 'order')") foreach 1 .. 20;
is(sql($node, 'select tasker.ticker()'), '0', 'no tick is due');
is(sql($node, 'select count(*), max(tick_id) from tasker.tick'), $ticks, '... and none was made');
is(sql($node, "select dirty from tasker.queue_ticks where queue_name = '$queue'"), 'f', '... nor asked for');
is(sql($node, 'select * from tasker.check_stream_integrity()'), '', 'no rule is broken');

# Registered, and unregistered, while others commit: what is committed afterwards comes, always.
PostgreSQL::Test::Utils::append_to_file("$dir/create.sql", "select tasker.create_task('shop', 'order');\n\\sleep 3 ms\n");
my $writer = IPC::Run::start([ 'pgbench', @common, '-c', 2, '-T', 60, '-f', "$dir/create.sql", 'postgres' ], '>', \$out, '2>', \$out);
my $lost = 0;
foreach my $round (1 .. 40)
{
	sql($node, "select tasker.register_consumer('$queue', 'quick')");
	my $came = sql($node, "call tasker.wait_for_batch('$queue', 'quick', '20 seconds')");
	$lost++ if $came eq '';
	sql($node, "select tasker.unregister_consumer('$queue', 'quick')");
}
$writer->kill_kill;
is($lost, 0, 'whoever is registered has its batch soon');

# What was committed when the server crashed comes when it is back.
sql($node, "set synchronous_commit = on; select tasker.register_consumer('$queue', 'survivor'), tasker.create_task('shop', 'order', initiator => 'crash')");
crash_server($node);
start_after_crash($node);
wait_until($node, "select take('survivor') is null and exists (select from taken where consumer = 'survivor' and ev_type = 'task.pending')", 'events survive a crash');

$node->stop;
done_testing();
