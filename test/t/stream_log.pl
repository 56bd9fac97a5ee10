# Queues over logs: through dumps and restores, into clusters whose transaction ids are lower and higher than those that
# were dumped; and the retention of a log, which consumers hold up.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $conf = "autovacuum = off\nlog_statement = none\nmax_connections = 60\n";
my $dir = PostgreSQL::Test::Utils::tempdir;
my @CONSUMERS = qw(fast slow open parts never);

# Lets a cluster have so many more transactions.
sub burn
{
	my ($node, $transactions) = @_;
	sql($node, "do \$\$ begin for i in 1..$transactions loop perform pg_current_xact_id(); commit; end loop; end \$\$");
	return;
}

my $setup = <<'SQL';
create table log (id bigint generated always as identity, at timestamptz not null default clock_timestamp(), data text,
	txid bigint not null default tasker.log_txid()) partition by range (id);
create table log_1 partition of log for values from (0) to (60);
create table log_2 partition of log for values from (60) to (1000000);
create index on log (txid);
select tasker.create_log_queue('lq', '{log}', mapping => '{"ev_time": "at", "ev_data": "id", "ev_type": "data", "ev_order": "id"}');
create trigger written after insert on log for each statement execute function tasker.log_written('lq');
create table seen (consumer text, ev_id bigint, ev_retry int, data text);
create function consume(consumer text, most int default null) returns int language plpgsql as
$$
declare
	batch bigint;
	done int := 0;
begin
	while most is null or done < most loop
		batch := tasker.next_batch('lq', consumer);
		exit when batch is null;
		insert into seen select consumer, e.ev_id, e.ev_retry, e.ev_data from tasker.get_batch_events(batch) e;
		perform tasker.finish_batch(batch);
		done := done + 1;
	end loop;
	return done;
end
$$;
create function tick() returns bigint language sql as $$ select tasker.force_tick('lq'); select tasker.ticker('lq'); $$;
-- What a consumer has not seen once.
create view wrong as
select co_name, log.id, count(seen.ev_id) as got, array_agg(distinct seen.ev_id) as ids
from tasker.consumer cross join log left join seen on seen.consumer = co_name and seen.data = log.id::text and ev_retry is null
where co_name in ('fast', 'slow', 'open', 'parts', 'never')
group by 1, 2 having count(seen.ev_id) <> 1;
SQL

# Consumers at different positions, one in the middle of a batch, transactions that commit out of their order.
sub fill
{
	my ($node) = @_;
	my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
	sql($node, $setup);
	sql($node, "select tasker.register_consumer('lq', '$_')") foreach @CONSUMERS;
	foreach my $round (1 .. 6)
	{
		$_->query_safe('begin') foreach @sessions;
		$sessions[0]->query_safe("insert into log (data) values ('first of $round')");
		$sessions[1]->query_safe("insert into log (data) values ('second of $round'); savepoint a; insert into log (data) values ('undone'); rollback to a");
		sql($node, "insert into log (data) select 'of round $round' from generate_series(1, 4)");
		$sessions[1]->query_safe('commit');
		sql($node, 'select tick()');
		$sessions[0]->query_safe("insert into log (data) values ('late of $round')");
		$sessions[0]->query_safe($round == 3 ? 'rollback' : 'commit');
		sql($node, 'select tick()') if $round % 2;
		sql($node, "select consume('fast'), consume('slow', 1), consume('open', 2), consume('parts')");
	}
	$_->quit foreach @sessions;
	sql($node, "insert into log (data) select 'a part' from generate_series(1, 7)");
	sql($node, 'select tick()');
	sql($node, "select tasker.next_batch('lq', 'open') is not null");
	# Of the last batch three rows were taken, and two more handed out.
	receive_some($node, 'postgres', 3);
	sql($node, "select tasker.ack(tasker.next_batch('lq', 'parts'))");
	sql($node, "select count(*) from tasker.receive('lq', 'parts', 2)");
	# One that comes again, and one that was given up.
	sql($node, "select tasker.nack(b, min(e.ev_id), '0 seconds'), tasker.event_dead(b, max(e.ev_id), 'given up')
		from tasker.next_batch('lq', 'slow') b, tasker.get_batch_events(b) e group by b");
	sql($node, "select consume('slow', 1)");
	sql($node, "insert into log (data) values ('in no tick')");
	return;
}

sub receive_some
{
	my ($node, $database, $most) = @_;
	return sql($node, "insert into seen select 'parts', msg_id, retry_count, payload from tasker.receive('lq', 'parts', $most) returning data", $database);
}

# Where consumers stand, with the events of open batches, and their ids.
sub standing
{
	my ($node, $database) = @_;
	return sql($node, q{
		select c.co_name, s.sub_last_tick, s.sub_batch, s.sub_next_tick, v.sub_acked, v.sub_handed,
			case when s.sub_batch is not null then
				(select string_agg(e.ev_id || ' ' || e.ev_data, ',' order by e.ev_id) from tasker.get_batch_events(s.sub_batch) e) end
		from tasker.subscription s join tasker.consumer c on c.co_id = s.sub_consumer join tasker.registration r using (sub_id),
			lateral (select * from (table tasker.subscription_0 union all table tasker.subscription_1 union all table tasker.subscription_2) all_versions
				where sub_key = r.sub_key order by sub_version desc limit 1) v
		order by 1}, $database);
}

sub dump_of
{
	my ($node, $name, $database) = @_;
	$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/$name", $node->connstr($database) ], "$name is dumped");
	return;
}

sub restore_into
{
	my ($node, $name, $database, @options) = @_;
	sql($node, "create database $database");
	$node->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $node->connstr($database), "$dir/$name" ],
		"$name is restored into $database");
	is(sql($node, 'select tasker.restore_pending()', $database), 't', "$database: the need is seen");
	return;
}

# From the restore to the end: rows that are written before after_restore(), while it waits, and after it.
sub goes_on
{
	my ($node, $database, $before) = @_;
	my $writing = $node->background_psql($database, on_error_stop => 0);
	my $caller = $node->background_psql($database, on_error_stop => 0);
	my $pid = $caller->query_safe('select pg_backend_pid()');
	sql($node, "insert into log (data) values ('before after_restore')", $database);
	like(error_of($node, 'select tick()', $database), qr/^55000: the event stream was restored/, "$database: no ticks yet");
	$writing->query_safe("begin; insert into log (data) values ('open during after_restore')");
	$caller->query_until(qr/called/, "\\echo called\nselect queue_name, consumers, events > 0, ticks > 0 from tasker.after_restore() where queue_name = 'lq';\n");
	$node->poll_query_until('postgres', "select exists (select from pg_stat_activity where pid = $pid and wait_event_type = 'Lock')") or die 'it does not wait';
	$writing->query_safe('commit');
	is($caller->query_safe('select 1'), "lq|" . @CONSUMERS . "|t|t\n1", "$database: after_restore() has waited for who wrote");
	$_->quit foreach $writing, $caller;
	is(standing($node, $database), $before, "$database: consumers stand where they stood, their batches have the same events under the same ids") if defined $before;

	# The batch that was handed out in parts goes on where it was.
	my $rest = sql($node, "select count(*) - 3 from tasker.get_batch_events(tasker.next_batch('lq', 'parts'))", $database);
	is(split(/\n/, receive_some($node, $database, 100)), $rest, "$database: the rest of a batch that was taken in parts comes");
	sql($node, "select tasker.ack(tasker.next_batch('lq', 'parts'))", $database);
	sql($node, "insert into log (data) select 'after' from generate_series(1, 3)", $database);
	sql($node, 'select tasker.maint_retry_events()', $database);
	foreach my $round (1 .. 2)
	{
		sql($node, 'select tick()', $database);
		sql($node, "insert into log (data) values ('later')", $database) if $round == 1;
		sql($node, "select consume(c) from unnest('{" . join(',', @CONSUMERS) . "}'::text[]) c", $database);
	}
	is(sql($node, 'select * from wrong order by 1, 2', $database), '', "$database: every consumer has seen every row once");
	is(sql($node, "select count(*), count(distinct ev_id), count(distinct data) from seen where consumer = 'never'", $database) =~ /^(\d+)\|\1\|\1$/ ? 1 : 0, 1,
		"$database: under ids of their own");
	is(sql($node, "select count(*) from (select data from seen where ev_retry is null group by data having count(distinct ev_id) > 1) d", $database), '0',
		"$database: the same for all");
	is(sql($node, "select count(*) from seen where ev_retry = 1 and consumer = 'slow'", $database), '1', "$database: what was put off came again");
	is(sql($node, "select count(*) from log where txid >= 1::bigint << 62", $database), '0', "$database: no mark is left");
	is(sql($node, "select count(*) from log where txid >= tasker.log_txid()", $database), '0', "$database: nothing is from the time to come");
	is(sql($node, 'select * from tasker.check_stream_integrity()', $database), '', "$database: no rule is broken");
	return;
}

my $early = tasker_cluster('early', conf => "$conf\ntasker.worker = off\n");
my $late = tasker_cluster('late', conf => "$conf\ntasker.worker = off\n");
burn($late, 40_000);
fill($_) foreach $early, $late;
# The workflow's logs are restored as any other, and with them the queue over them.
sql($late, q{select tasker.define_task('ns', 'task', '{"steps": [{"name": "only"}]}'), tasker.create_task('ns', 'task'),
	tasker.register_consumer('tasker.transitions', 'observer'), tasker.create_task('ns', 'task')});
my $before_early = standing($early);
my $before_late = standing($late);
dump_of($early, 'early', 'postgres');
dump_of($late, 'late', 'postgres');

my $low = tasker_cluster('low', conf => "$conf\ntasker.worker = off\n", extension => 0);
my $high = tasker_cluster('high', conf => "$conf\ntasker.worker = off\n", extension => 0);
burn($high, 20_000);

# Ids of the dump above those of the new cluster, and below.
restore_into($low, 'late', 'above', '--single-transaction');
goes_on($low, 'above', $before_late);
sql($low, "select tasker.create_task('ns', 'task'); select tasker.force_tick('tasker.transitions')", 'above');
sql($low, "select tasker.ticker('tasker.transitions')", 'above');
is(sql($low, "select count(*) filter (where type = 'task.pending'), count(*) filter (where type = 'step.enqueued') from tasker.receive('tasker.transitions', 'observer')", 'above'),
	'3|3', 'above: what the observer has not seen of the workflow comes, old and new');
restore_into($high, 'early', 'below', '-j', '2');
goes_on($high, 'below', $before_early);
restore_into($early, 'early', 'same');
goes_on($early, 'same', $before_early);

# Once more from there: ids are above the server's by now.
my $offset = sql($low, 'select log_offset from tasker.stream_origin', 'above');
cmp_ok($offset, '>', 40_000, 'ids go on above those that were restored');
sql($low, "insert into log (data) values ('for the second dump')", 'above');
dump_of($low, 'second', 'above');
restore_into($high, 'second', 'twice');
sql($high, "insert into log (data) values ('between')", 'twice');
sql($high, 'select tasker.after_restore()', 'twice');
cmp_ok(sql($high, 'select log_offset from tasker.stream_origin', 'twice'), '>', $offset, 'and the next time above those');
sql($high, "insert into log (data) values ('after the second')", 'twice');
sql($high, 'select tick()', 'twice');
sql($high, "select consume(c) from unnest('{" . join(',', @CONSUMERS) . "}'::text[]) c", 'twice');
is(sql($high, 'select * from wrong order by 1, 2', 'twice'), '', 'restored twice: every consumer has seen every row once');
is(sql($high, 'select * from tasker.check_stream_integrity()', 'twice'), '', '... and no rule is broken');

# Dumped before after_restore() was called: rows of two clusters have a mark.
restore_into($high, 'late', 'unsettled');
burn($high, 1000);
sql($high, "insert into log (data) values ('unsettled')", 'unsettled');
dump_of($high, 'unsettled', 'unsettled');
restore_into($low, 'unsettled', 'settled');
goes_on($low, 'settled');

# A log of another cluster that no queue has read there.
sql($late, 'create database plain');
sql($late, q{create extension tasker; create table log (created_at timestamptz default now(), txid bigint default tasker.log_txid());
	create index on log (txid); insert into log default values}, 'plain');
dump_of($late, 'plain', 'plain');
sql($low, 'create database plain');
$low->command_ok([ 'pg_restore', '--exit-on-error', '-d', $low->connstr('plain'), "$dir/plain" ], 'it is restored');
sql($low, q{insert into log default values; select tasker.create_log_queue('q', '{log}'), tasker.register_consumer('q', 'c'); insert into log default values;
	select tasker.force_tick('q')}, 'plain');
sql($low, "select tasker.ticker('q')", 'plain');
is(sql($low, "select count(*) from tasker.receive('q', 'c')", 'plain'), '1', 'its old rows are before all that comes');
cmp_ok(sql($low, 'select log_offset from tasker.stream_origin', 'plain'), '>', 40_000, '... and ids go on above them');
$_->stop foreach $late, $low, $high;

# Retention: what a consumer has not read stays.
sql($early, q{create table metric (at timestamptz not null, txid bigint not null default tasker.log_txid()) partition by range (at);
	create index on metric (txid);
	select tasker.create_parent('metric', 'at', '1 day', 1, '7 days', 'drop');
	select tasker.create_log_queue('metrics', '{metric}', mapping => '{"ev_time": "at"}');
	select tasker.register_consumer('metrics', 'reader')});
my $old = sql($early, "select tasker.create_partition('metric', (now() - interval '20 days')::text)");
sql($early, "insert into metric values (now() - interval '20 days')");
sql($early, 'call tasker.run_maintenance()');
is(sql($early, "select to_regclass('$old') is not null, (select reason from tasker.part_retirement where parent = 'metric'::regclass)"),
	't|consumer "reader" of queue "metrics" has not read it', 'a partition stays while a consumer has not read it');
my $first = sql($early, "select max(tick_id) from tasker.tick t join tasker.queue on queue_id = tick_queue where queue_name = 'metrics'");
sql($early, "select tasker.force_tick('metrics')");
sql($early, "select tasker.ticker('metrics')");
is(sql($early, "select count(*) from tasker.receive('metrics', 'reader')"), '1', 'it reads it');
sql($early, "select tasker.ack(tasker.next_batch('metrics', 'reader'))");
foreach (1 .. 20)
{
	last if sql($early, "select to_regclass('$old') is null") eq 't';
	sql($early, "update tasker.part_retirement set next_try_at = null where next_try_at < 'infinity'");
	sql($early, 'call tasker.run_maintenance()');
}
is(sql($early, "select to_regclass('$old') is null"), 't', 'and then it goes');
like(error_of($early, "select tasker.register_consumer_at('metrics', 'another', $first)"), qr/^42704: the events after tick $first of queue "metrics" are not kept/,
	'nobody can be put to a tick from before');
is(sql($early, "select tasker.register_consumer('metrics', 'another')"), '1', '... but to the last one');
$early->stop;
done_testing();
