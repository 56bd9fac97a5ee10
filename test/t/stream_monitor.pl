# What monitors see of the stream: get_queue_info(), get_consumer_info(), metrics(), health_check(), status(); that each
# kind of trouble is found, and nothing where there is none; and that looking costs what the number of queues is, not
# the number of ticks or events.

use strict;
use warnings;

use TaskerCluster;
use Test::More;

# Without a worker nobody ticks or rotates: what is late stays late.
my $node = tasker_cluster('main', conf => "tasker.worker = off\nmax_locks_per_transaction = 256");

# The reasons of health_check() that concern the stream, as "check: message".
sub reasons
{
	return sql($node, q{
		select coalesce(string_agg(format('%s (%s): %s', r ->> 'check', r ->> 'severity', r ->> 'message'), e'\n' order by r ->> 'check'), '')
		from jsonb_array_elements(tasker.health_check() -> 'reasons') r where r ->> 'check' <> 'worker'});
}

# A metric with its labels.
sub metric
{
	my ($name, $labels) = @_;
	return sql($node, "select value from tasker.metrics() where metric = '$name' and labels \@> '$labels'");
}

is(reasons(), '', 'before the first queue all is well');
is(sql($node, q{select count(*) from tasker.get_queue_info()}) . sql($node, q{select count(*) from tasker.get_consumer_info()}), '00',
	'and there is nothing to be told');
is(metric('tasker_stream_queues', '{}'), '0', 'no queues');

# A queue whose last tick is two hours old, with a consumer that stands there.
sub old_queue
{
	my ($queue) = @_;
	sql($node, "select tasker.create_queue('$queue')");
	sql($node, "select tasker.set_queue_config('$queue', 'external_ticker', 'true')");
	sql($node, "select tasker.ticker('$queue', 2, now() - interval '2 hours', 0)");
	sql($node, "select tasker.set_queue_config('$queue', 'external_ticker', null)");
	sql($node, "select tasker.register_consumer('$queue', 'c')");
	return;
}

old_queue('q');
is(reasons(), '', 'an old tick is no trouble while there are no events');
is(metric('tasker_stream_ticker_lag_seconds', '{"queue": "q"}'), '0', 'and no lag');
is(metric('tasker_stream_consumer_lag_seconds', '{"queue": "q", "consumer": "c"}'), '0', 'nor of the consumer');

# An event of this moment has not waited for two hours; nor has one that was rolled back.
sql($node, q{select tasker.send('q', 'new')});
unlike(reasons(), qr/ticker/, 'an event of a moment ago is no trouble, however old the last tick is');
cmp_ok(metric('tasker_stream_ticker_lag_seconds', '{"queue": "q"}'), '>', 7000, 'the metric tells the age of the tick');
is(sql($node, q{select pending_events from tasker.get_consumer_info('q', 'c')}), '0', 'as in PgQ, events count for consumers with their tick');
is(metric('tasker_stream_consumer_pending_events', '{"queue": "q", "consumer": "c"}'), '1', 'in metrics at once');
is(metric('tasker_stream_consumer_lag_seconds', '{"queue": "q", "consumer": "c"}'), '0', 'but the consumer is not behind: it has no batch');
is(sql($node, q{select tasker.ticker('q')}), '3', 'the tick');
like(reasons(), qr/^consumer lag \(degraded\): consumer "c" of queue "q" is 1\d\d minutes behind$/m, 'now it is');
cmp_ok(metric('tasker_stream_consumer_lag_seconds', '{"queue": "q", "consumer": "c"}'), '>', 7000, 'by so many seconds');
sql($node, q{select tasker.set_queue_config('q', 'paused', 'true')});
unlike(reasons(), qr/consumer lag/, 'but not of a paused queue');
sql($node, q{select tasker.set_queue_config('q', 'paused', null)});

# An event that has waited.
old_queue('late');
sql($node, q{select tasker.insert_event_raw('late', null, now() - interval '10 minutes', null, null, 't', 'd', null, null, null, null)});
like(reasons(), qr/^ticker \(degraded\): queue "late" has events that have waited 10 minutes for a tick$/m, 'an event that waits for a tick');
like(sql($node, 'select * from tasker.status()'), qr/^ticker\|degraded\|queue "late" has events that have waited 10 minutes for a tick$/m, 'status() says so');
sql($node, q{select tasker.set_queue_config('late', 'ticker_max_lag', '1 hour')});
unlike(reasons(), qr/ticker/, 'not where it may wait for so long');
sql($node, q{select tasker.set_queue_config('late', 'ticker_max_lag', null)});
sql($node, q{select tasker.set_queue_config('late', 'ticker_paused', 'true')});
unlike(reasons(), qr/ticker/, 'nor where the ticker is paused');
sql($node, q{select tasker.set_queue_config('late', 'ticker_paused', null)});
is(sql($node, 'select tasker.ticker()'), '1', 'the tick');
unlike(reasons(), qr/ticker/, 'no event waits any more');
like(reasons(), qr/^consumer lag .* \(and 1 more\)$/m, 'one consumer is named, others are counted');
foreach my $queue ('q', 'late')
{
	sql($node, "select tasker.finish_batch(tasker.next_batch('$queue', 'c'))");
}
is(reasons(), '', 'nor is a consumer behind');

# Rotations that are put off.
sql($node, q{update tasker.queue set queue_rotation_deferrals = 1, queue_rotation_held_by = 'consumer "slow"' where queue_name = 'q'});
is(reasons(), '', 'a rotation may be put off once');
sql($node, q{update tasker.queue set queue_rotation_deferrals = 2 where queue_name = 'q'});
is(reasons(), 'rotation (degraded): the rotation of queue "q" has been put off 2 times in a row by consumer "slow"', 'twice is trouble');
is(metric('tasker_stream_rotation_deferrals', '{"queue": "q"}'), '2', 'and a metric');
is(sql($node, q{select rotation_deferrals, rotation_held_by from tasker.get_queue_info('q')}), '2|consumer "slow"', 'and in get_queue_info()');
sql($node, q{update tasker.queue set queue_rotation_deferrals = 0});
sql($node, q{update tasker.metadata_rotation set rotation_tick_deferrals = 30, rotation_subscription_deferrals = 3, rotation_held_by = 'consumer "c" of queue "q"'});
is(reasons(), 'metadata rotation (degraded): the rotation of ticks has been put off 30 times in a row by consumer "c" of queue "q"', 'rotation of ticks');
is(metric('tasker_stream_metadata_rotation_deferrals', '{"tables": "tick"}') . ' ' . metric('tasker_stream_metadata_rotation_deferrals', '{"tables": "subscription"}'),
	'30 3', 'the metrics tell both apart');
is(sql($node, q{select distinct subscription_rotation_deferrals, tick_rotation_deferrals, metadata_rotation_held_by from tasker.get_queue_info()}),
	'3|30|consumer "c" of queue "q"', 'and so does get_queue_info()');
sql($node, q{update tasker.metadata_rotation set rotation_tick_deferrals = 0, rotation_subscription_deferrals = 0});

# A restore that is not complete.
sql($node, q{create table origin as select installation from tasker.stream_origin; update tasker.stream_origin set installation = 'another'});
like(reasons(), qr/^restore \(unhealthy\): /m, 'a stream that waits for after_restore()');
like(sql($node, 'select * from tasker.status()'), qr/^restore\|unhealthy\|/m, 'in status(), too');
is(sql($node, q{select tasker.health_check() ->> 'status'}), 'unhealthy', 'is unhealthy');
sql($node, q{update tasker.stream_origin set installation = o.installation from origin o});
is(reasons(), '', 'all is well again');
is(sql($node, q{select string_agg(component || ' ' || status, ', ') from tasker.status() where component not in ('worker', 'ticker')}),
	'server ok, extension ok, duties ok, queues ok, consumer lag ok, rotation ok, metadata rotation ok, restore ok', 'status() says so');

# For whom: observers see everything, and need no right on a table; names may be as odd as they like.
sql($node, q{select tasker.create_queue('odd "name"\\'), tasker.register_consumer('odd "name"\\', 'it''s "one"')});
sql($node, q{create role watcher; grant tasker_observer to watcher; create role shop; select tasker.grant_queue('q', 'shop', 'consume')});
like(sql($node, q{set role watcher; select tasker.metrics_openmetrics()}),
	qr/^tasker_stream_consumer_pending_events\{consumer="it's \\"one\\"",queue="odd \\"name\\"\\\\"\} 0$/m, 'OpenMetrics, as an observer');
is(sql($node, q{set role watcher; select count(*) from tasker.get_queue_info()}), '3', 'observers see all queues');
is(sql($node, q{set role watcher; select count(*) from tasker.get_consumer_info()}), '3', 'and all consumers');
is(sql($node, q{set role watcher; select jsonb_typeof(tasker.health_check()) || count(*) from tasker.status()}), 'object10', 'and the rest');
is(sql($node, q{set role shop; select string_agg(queue_name, ',') from tasker.get_queue_info()}), 'q', 'others see what they were granted');
is(sql($node, q{set role shop; select string_agg(queue_name, ',') from tasker.get_consumer_info()}), 'q', 'and its consumers');
is(sql($node, q{set role shop; select count(*) from tasker.get_queue_info('late')}), '0', 'and no other by its name');
like(error_of($node, q{set role shop; select tasker.metrics()}), qr/^42501/, 'and no metrics');

# What it costs: 200 queues with a consumer each, then 1,000 ticks in each, and as many versions of the consumers.
sql($node, "select tasker.create_queue('many' || n), tasker.register_consumer('many' || n, 'c' || n) from generate_series($_ * 50 + 1, $_ * 50 + 50) n")
  foreach 0 .. 3;
my @looks = ('get_queue_info()', 'get_consumer_info()', '_stream_metrics()', 'health_check()');

# Pages that a call reads, and the call's time in a session that has made it before.
sub cost
{
	my ($call) = @_;
	my $explain = "explain (analyze, buffers, costs off) select count(*) from tasker.$call";
	my $plan = sql($node, "$explain;\n$explain;\n$explain");
	my @pages = $plan =~ /Buffers: shared hit=(\d+)/g;
	my @times = $plan =~ /Execution Time: ([\d.]+)/g;
	return ($pages[-1], $times[-1]);
}

my %before = map { $_ => [ cost($_) ] } @looks;
sql($node, q{
	insert into tasker.tick_0 (tick_queue, tick_id, tick_event_seq, tick_time)
	select q.queue_id, 100 + n, 0, now() - (1001 - n) * interval '1 millisecond' from tasker.queue q, generate_series(1, 1000) n where q.queue_name like 'many%';
	insert into tasker.subscription_0 (sub_key, sub_version, sub_last_tick)
	select r.sub_key, 100 + n, 101 from tasker.registration r, tasker.queue q, generate_series(1, 1000) n where q.queue_id = r.sub_queue and q.queue_name like 'many%'});
sql($node, 'vacuum analyze tasker.tick_0, tasker.subscription_0');
foreach my $look (@looks)
{
	my ($pages, $time) = @{ $before{$look} };
	my ($pages_after, $time_after) = cost($look);
	note("$look: $pages pages, $time ms; with 200,000 ticks and versions $pages_after pages, $time_after ms");
	# Each look-up goes down one more level of an index, or two.
	cmp_ok($pages_after, '<', $pages * 3, "$look does not read all ticks");
}
is(sql($node, q{select count(*), max(last_tick_id), max(ev_per_sec) from tasker.get_queue_info() where queue_name like 'many%'}), '200|1100|0', 'and it is right');

$node->stop;
done_testing();
