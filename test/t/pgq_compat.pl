# The same calls under pgq and under tasker, side by side in one cluster and in the same transactions: the same results,
# the same errors. What is meant to differ stands in a table at the end, with the reason.

use strict;
use warnings;

use TaskerCluster;
use Test::More;

my $node = tasker_cluster('main', conf => 'tasker.worker = off');
if (sql($node, q{select count(*) from pg_available_extensions where name = 'pgq' and default_version >= '3.5'}) eq '0')
{
	$node->stop;
	plan skip_all => 'the extension pgq (postgresql-15-pgq3) is not installed';
}
sql($node, 'create extension pgq');

# A statement under one of the schemas: its rows as text, with the schema's name as @; or "error". Transaction ids and
# times are those of the transaction, so they are the same under both.
sql($node, <<'END');
create schema compat;
create function compat.run(schema text, statement text) returns text language plpgsql as
$$
declare
    rows text;
    state text;
    message text;
begin
    if statement ~* '^\s*(select|table|values)' then
        execute 'select string_agg(r::text, '' '') from (' || replace(statement, '@', schema) || ') r' into rows;
    else
        execute replace(statement, '@', schema);
        rows := 'done';
    end if;
    return coalesce(replace(rows, schema, '@'), 'no rows');
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text;
    if state in ('42601', '42883', '42P01', '42703') then
        raise; -- the test is wrong
    end if;
    return 'error';
end
$$;
-- The open batch of a consumer, whose number is another one under each schema.
create function compat.batch(schema text, queue text, consumer text) returns bigint language plpgsql as
$$
declare
    batch bigint;
begin
    execute format('select s.sub_batch from %1$I.subscription s join %1$I.queue q on q.queue_id = s.sub_queue
        join %1$I.consumer c on c.co_id = s.sub_consumer where q.queue_name = $1 and c.co_name = $2', schema)
        into batch using queue, consumer;
    return batch;
end
$$;
create table compat.outcome (number int generated always as identity, label text, pgq text, tasker text);
END

# --- Signatures --------------------------------------------------------------------------------------------------

# PgQ's functions for users are there: the same names of functions and arguments, the same types, and the same columns
# first. Left out is what PgQ has for itself.
my $internal = q{'_grant_perms_from', 'batch_event_sql', 'batch_event_tables', 'find_tick_helper', 'grant_perms', 'quote_fqname',
	'seq_getval', 'seq_setval', 'tune_storage', 'upgrade_schema'};
is(sql($node, <<END), '', 'every function of PgQ is there');
select p.oid::regprocedure from pg_proc p
where p.pronamespace = 'pgq'::regnamespace and p.proname not in ($internal)
  and not exists (select from pg_proc t where t.pronamespace = 'tasker'::regnamespace and t.proname = p.proname
      and t.proargtypes = p.proargtypes and t.proretset = p.proretset and t.prorettype = p.prorettype
      and coalesce(t.proargnames[1:cardinality(p.proargnames)], '{}') = coalesce(p.proargnames, '{}')
      and coalesce(t.proallargtypes[1:cardinality(p.proallargtypes)], '{}') = coalesce(p.proallargtypes, '{}'))
END
foreach my $relation (qw(queue consumer tick subscription event_template retry_queue))
{
	is(sql($node, <<END), '', "the columns of $relation");
select a.attname from pg_attribute a where a.attrelid = 'pgq.$relation'::regclass and a.attnum > 0 and not exists (
    select from pg_attribute b where b.attrelid = 'tasker.$relation'::regclass and b.attname = a.attname and b.atttypid = a.atttypid)
END
}

# --- Calls --------------------------------------------------------------------------------------------------------

# @ is the schema, ~q.c~ the open batch of consumer c of queue q. Each is a transaction of its own. A line with ! in front
# is for PgQ alone: it takes back what PgQ does otherwise with ids, so that the numbers stay the same afterwards.
my @calls = split /\n/, <<'END';
select @.create_queue('q')
select @.create_queue('q')
select @.create_queue('')
select @.create_queue(null)
select @.create_queue('other'), @.create_queue('odd "name"'), @.create_queue('it''s')
select queue_name, queue_ntables, queue_cur_table, queue_rotation_period, queue_external_ticker, queue_disable_insert, queue_ticker_paused, queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period, queue_per_tx_limit, queue_extra_maint from @.queue where queue_name <> '' order by queue_name
select tick_id, tick_time, tick_snapshot from @.tick t join @.queue q on q.queue_id = t.tick_queue where queue_name = 'q'
select tick_id, tick_event_seq from @.tick t join @.queue q on q.queue_id = t.tick_queue where queue_name = 'other'
select queue_name, ticker_lag, round(ev_per_sec::numeric, 9), ev_new, last_tick_id from @.get_queue_info('q')
select queue_name, queue_ntables, queue_cur_table, queue_rotation_period, queue_external_ticker, queue_ticker_paused, queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period from @.get_queue_info() where queue_name <> ''
!delete from pgq.tick where tick_queue = (select queue_id from pgq.queue where queue_name = ''); delete from pgq.queue where queue_name = ''
!update pgq.tick set tick_event_seq = 0 where tick_queue = (select queue_id from pgq.queue where queue_name = 'q')
select * from @.get_queue_info('none')
select count(*) from @.get_queue_info(null) where queue_name <> ''
select @.drop_queue('it''s')
select @.drop_queue('it''s')
select @.drop_queue('none')
select @.drop_queue(null)
select @.drop_queue('none', true)
select @.register_consumer('q', 'c')
select @.register_consumer('q', 'c')
select @.register_consumer('q', 'odd "consumer"')
select @.register_consumer('none', 'c')
select @.register_consumer(null, 'c')
select @.register_consumer('q', null)
select @.register_consumer_at('q', 'late', null)
select @.register_consumer_at('q', 'late', 1)
select @.register_consumer_at('q', 'late', 2)
select @.register_consumer_at('q', 'new', 4711)
select @.register_consumer_at('none', 'new', null)
select queue_name, consumer_name, lag, last_seen, last_tick, current_batch, next_tick, pending_events from @.get_consumer_info()
select * from @.get_consumer_info('q', 'late')
select * from @.get_consumer_info('q', 'none')
select * from @.get_consumer_info('none')
select count(*) from @.get_consumer_info(null, 'late')
select @.drop_queue('q')
select @.drop_queue('q', false)
select @.next_batch('q', 'c')
select @.next_batch_info('q', 'c')
select @.next_batch('q', 'none')
select @.next_batch('none', 'c')
select @.next_batch(null, null)
select @.insert_event('q', 't1', 'first')
select @.insert_event('q', 't2', 'second', '1', '2', '3', '4')
select @.insert_event('q', null, null)
select @.insert_event('q', '', '', '', null, null, null)
select @.insert_event('none', 't', 'd')
select @.insert_event_raw('q', null, null, null, null, 'raw', 'd', null, null, null, null)
select @.insert_event_raw('q', 3, '2020-01-01 00:00Z', null, 2, 'raw', 'again', null, null, null, 'x')
select @.insert_event_raw('q', 4, null, 999999, 2, 'raw', 'of somebody else', null, null, null, 'x')
select queue_name, ev_new, last_tick_id from @.get_queue_info('q')
select @.ticker('q')
update @.queue set queue_ticker_max_lag = '0' where queue_name = 'q'
select @.ticker('q')
select @.ticker('q')
select queue_name, ticker_lag, round(ev_per_sec::numeric, 9), ev_new, last_tick_id from @.get_queue_info('q')
select consumer_name, lag, last_seen, last_tick, current_batch, next_tick, pending_events from @.get_consumer_info('q')
select @.next_batch('q', 'c') is not null
select @.next_batch('q', 'c') = ~q.c~
select cur_tick_id, prev_tick_id, cur_tick_time, prev_tick_time, cur_tick_event_seq, prev_tick_event_seq from @.next_batch_info('q', 'c')
select cur_tick_id, prev_tick_id from @.next_batch_custom('q', 'c', '1 day', 1000, '1 day')
select consumer_name, lag, last_seen, last_tick, current_batch = ~q.c~, next_tick, pending_events from @.get_consumer_info('q', 'c')
select * from @.get_batch_info(~q.c~)
select * from @.get_batch_info(-1)
select * from @.get_batch_info(null)
select * from @.get_batch_events(~q.c~)
select * from @.get_batch_cursor(~q.c~, 'cursor of @', 2)
select * from @.get_batch_cursor(~q.c~, 'cursor @', 0)
select * from @.get_batch_cursor(~q.c~, 'cursor @', -5)
select * from @.get_batch_cursor(~q.c~, 'cursor @', 100, null)
select * from @.get_batch_cursor(~q.c~, 'cursor @', 100, 'ev_type like ''t%'' or ev_id = 3')
select * from @.get_batch_cursor(~q.c~, 'cursor @', 100, 'false')
select * from @.get_batch_cursor(~q.c~, 'cursor @', 1, 'ev_retry is not null')
select * from @.get_batch_cursor(null, 'cursor @', 1)
select * from @.get_batch_cursor(~q.c~, null, 1, null)
select * from @.get_batch_cursor(~q.c~, 'cursor @', null)
select * from @.get_batch_cursor(-1, 'cursor @', 1)
select * from @.get_batch_events(-1)
select * from @.get_batch_events(null)
select @.finish_batch(~q.c~)
select @.finish_batch(-1)
select @.finish_batch(null)
select @.next_batch('q', 'c')
select sub_last_tick, sub_next_tick, sub_batch from @.subscription s join @.consumer c on c.co_id = s.sub_consumer where co_name = 'c'
select @.ticker('q')
select @.ticker()
select @.ticker('none')
select @.ticker(null)
select @.insert_event('odd "name"', 't', 'd')
select @.force_tick('q')
select @.force_tick('none')
select ev_new from @.get_queue_info('q')
!select setval('pgq.event_1_id_seq', (select last_value - 1 from pgq.event_1_id_seq))
select @.ticker('q')
select @.insert_event('q', 't', 'after the force')
select @.next_batch('q', 'late') is not null
select * from @.get_batch_events(~q.late~)
select @.register_consumer_at('q', 'late', 1)
select current_batch, last_tick from @.get_consumer_info('q', 'late')
select @.next_batch('q', 'late') is not null
select @.event_retry(~q.late~, 1, 0)
select @.event_retry(~q.late~, 1, 0)
select @.event_retry(~q.late~, 2, now() - interval '1 hour')
select @.event_retry(~q.late~, 4711, 0)
select @.event_retry(-1, 1, 0)
select @.event_retry(~q.late~, null, 0)
select ev_retry_after, ev_id, ev_time, ev_retry, ev_type, ev_data, ev_extra1 from @.retry_queue order by ev_id
select @.finish_batch(~q.late~)
select @.maint_retry_events()
select @.maint_retry_events()
select count(*) from @.retry_queue
select @.ticker('q')
select @.next_batch('q', 'late') is not null
select @.finish_batch(~q.late~)
select @.next_batch('q', 'late') is not null
select * from @.get_batch_events(~q.late~)
select @.batch_retry(~q.late~, 0)
select @.batch_retry(-1, 0)
select ev_id, ev_retry, ev_type, ev_data from @.retry_queue order by ev_id
select @.finish_batch(~q.late~)
select @.maint_retry_events()
select @.ticker('q')
select @.next_batch('q', 'late') is not null
select ev_id, ev_retry, ev_type, ev_data from @.get_batch_events(~q.late~)
select @.finish_batch(~q.late~)
select @.next_batch('q', 'c') is not null
select ev_id, ev_retry, ev_data from @.get_batch_events(~q.c~)
select @.finish_batch(~q.c~)
select @.set_queue_config('q', 'ticker_max_lag', '3 seconds')
select @.set_queue_config('q', 'ticker_max_count', '2')
select @.set_queue_config('q', 'ticker_idle_period', '10 seconds')
select @.set_queue_config('q', 'rotation_period', '1 hour')
select @.set_queue_config('q', 'ticker_max_count', 'many')
select @.set_queue_config('q', 'ticker_max_count', null)
select @.set_queue_config('q', 'ticker_max_count', '2')
select @.set_queue_config('q', 'no_such_thing', '1')
select @.set_queue_config('none', 'ticker_max_count', '2')
select @.set_queue_config(null, 'ticker_max_count', '2')
select @.set_queue_config('q', null, '2')
select @.set_queue_config('q', 'queue_ticker_max_count', '2')
select queue_rotation_period, queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period from @.get_queue_info('q')
select @.insert_event('q', 't', '1')
select @.ticker('q')
select @.insert_event('q', 't', '2')
select @.ticker('q')
select @.insert_event('q', 't', '3')
select @.ticker('q')
select @.insert_event('q', 't', '4')
select @.ticker('q')
select cur_tick_id - prev_tick_id from @.next_batch_custom('q', 'c', null, 3, null)
select @.finish_batch(~q.c~)
select @.insert_event('q', 't', n::text) from generate_series(5, 6) n
select @.ticker('q')
select @.insert_event('q', 't', n::text) from generate_series(7, 8) n
select @.ticker('q')
select @.insert_event('q', 't', n::text) from generate_series(9, 16) n
select @.ticker('q')
select batch_id from @.next_batch_custom('q', 'c', null, 1000, null)
select batch_id from @.next_batch_custom('q', 'c', null, null, '1 hour')
select batch_id from @.next_batch_custom('q', 'c', '1 hour', null, null)
select batch_id is null, cur_tick_id - prev_tick_id from @.next_batch_custom('q', 'c', null, 3, null)
select array_agg(ev_data) from @.get_batch_events(~q.c~)
select @.finish_batch(~q.c~)
select cur_tick_id - prev_tick_id from @.next_batch_custom('q', 'c', null, 8, '1 hour')
select array_agg(ev_data) from @.get_batch_events(~q.c~)
select @.finish_batch(~q.c~)
select batch_id from @.next_batch_custom('q', 'c', null, 0, null)
select batch_id from @.next_batch_custom('none', 'c', null, null, null)
update @.queue set queue_disable_insert = true where queue_name = 'q'
select @.insert_event('q', 't', 'refused')
select @.current_event_table('q')
update @.queue set queue_disable_insert = false where queue_name = 'q'
select @.current_event_table('q') ~ '^@\.event_\d+_0$'
select @.current_event_table('none')
update @.queue set queue_per_tx_limit = 2 where queue_name = 'q'
select count(@.insert_event('q', 't', n::text)) from generate_series(1, 2) n
select @.insert_event('q', 't', n::text) from generate_series(1, 3) n
update @.queue set queue_per_tx_limit = null where queue_name = 'q'
select @.set_queue_config('q', 'ticker_paused', 'true')
select @.ticker('q')
select @.ticker('q', 1000, now(), 1000)
select @.force_tick('q')
select @.set_queue_config('q', 'ticker_paused', 'false')
select @.ticker('q', 1000, now(), 1000)
select @.set_queue_config('q', 'external_ticker', 'true')
select @.ticker('q')
select @.ticker('q', 1000, '2030-01-01 00:00Z', 100000)
select @.ticker('q', 1000, '2030-01-01 00:00Z', 100000)
select @.force_tick('q')
select last_tick_id, ev_new, ticker_lag from @.get_queue_info('q')
select @.insert_event('q', 't', 'its id follows')
select @.set_queue_config('q', 'external_ticker', 'false')
select @.ticker('q')
select tick_id, tick_event_seq from @.tick t join @.queue q on q.queue_id = t.tick_queue where queue_name = 'q' order by 1
select @.unregister_consumer('q', 'odd "consumer"')
select @.unregister_consumer('q', 'odd "consumer"')
select @.unregister_consumer('none', 'c')
select co_name from @.consumer order by 1
select func_name, func_arg from @.maint_operations() where func_arg = 'q'
select func_name, func_arg from @.maint_operations() where func_name like '%step2%'
select @.set_queue_config('q', 'rotation_period', '0')
select @.maint_rotate_tables_step1('q')
select queue_cur_table, queue_switch_step2 from @.queue where queue_name = 'q'
select @.maint_rotate_tables_step2()
select @.insert_event('q', 't', 'after a rotation')
select @.maint_rotate_tables_step1('q')
select queue_cur_table from @.queue where queue_name = 'q'
select @.maint_rotate_tables_step2()
select @.maint_rotate_tables_step1('q')
select queue_cur_table from @.queue where queue_name = 'q'
select @.maint_rotate_tables_step1('none')
select cur_tick_id - prev_tick_id from @.next_batch_custom('q', 'c', null, 1, null)
select array_agg(ev_data order by ev_id) from @.get_batch_events(~q.c~)
select @.finish_batch(~q.c~)
select @.set_queue_config('q', 'ticker_max_lag', '0')
select @.ticker('q')
select cur_tick_id - prev_tick_id from @.next_batch_info('q', 'c')
select array_agg(ev_data order by ev_id) from @.get_batch_events(~q.c~)
select @.finish_batch(~q.c~)
create table compat.t_@ (id int primary key, a text, b int)
create trigger j after insert or update or delete on compat.t_@ for each row execute function @.jsontriga('other')
create trigger l after insert or update or delete on compat.t_@ for each row execute function @.logutriga('other')
create trigger s after insert or update or delete on compat.t_@ for each row execute function @.sqltriga('other')
select @.register_consumer('other', 'c')
insert into compat.t_@ values (1, 'x', null), (2, 'it''s', 7)
update compat.t_@ set a = 'y\z' where id = 1
update compat.t_@ set id = 3 where id = 2
delete from compat.t_@ where id = 1
update @.queue set queue_ticker_max_lag = '0' where queue_name = 'other'
select @.ticker('other')
select @.next_batch('other', 'c') is not null
select ev_type, ev_data, ev_extra1, ev_extra2 from @.get_batch_events(~other.c~)
select @.create_queue('v'), @.register_consumer('v', 'reader')
insert into @.tick (tick_queue, tick_id, tick_event_seq) select queue_id, n, n * 10 from @.queue, generate_series(5, 7) n where queue_name = 'v'
select tick_id, tick_time, tick_snapshot, tick_event_seq from @.tick t join @.queue q on q.queue_id = t.tick_queue where queue_name = 'v' and tick_id > 1 order by tick_id
insert into @.tick (tick_queue, tick_id, tick_event_seq) select queue_id, 5, 50 from @.queue where queue_name = 'v'
insert into @.tick (tick_queue, tick_id, tick_event_seq) values (4711, 1, 1)
update @.tick set tick_event_seq = 61, tick_time = '2030-01-01 00:00Z' where tick_id = 6 and tick_queue = (select queue_id from @.queue where queue_name = 'v')
delete from @.tick where tick_id = 7 and tick_queue = (select queue_id from @.queue where queue_name = 'v')
select tick_id, tick_time, tick_event_seq from @.tick t join @.queue q on q.queue_id = t.tick_queue where queue_name = 'v' and tick_id > 1 order by tick_id
update @.subscription set sub_last_tick = 5 where sub_queue = (select queue_id from @.queue where queue_name = 'v')
select last_tick, current_batch, next_tick, pending_events from @.get_consumer_info('v')
select cur_tick_id, prev_tick_id from @.next_batch_info('v', 'reader')
update @.subscription set sub_batch = null, sub_next_tick = null where sub_queue = (select queue_id from @.queue where queue_name = 'v')
select last_tick, current_batch, next_tick from @.get_consumer_info('v')
update @.subscription set sub_last_tick = 4711 where sub_queue = (select queue_id from @.queue where queue_name = 'v')
insert into @.consumer (co_name) values ('by hand')
insert into @.subscription (sub_queue, sub_consumer, sub_last_tick) select queue_id, co_id, 6 from @.queue, @.consumer where queue_name = 'v' and co_name = 'by hand'
insert into @.subscription (sub_queue, sub_consumer, sub_last_tick) select queue_id, co_id, 6 from @.queue, @.consumer where queue_name = 'v' and co_name = 'by hand'
select consumer_name, last_tick, last_seen from @.get_consumer_info('v', 'by hand')
delete from @.subscription where sub_consumer = (select co_id from @.consumer where co_name = 'by hand')
select count(*) from @.get_consumer_info('v', 'by hand')
delete from @.consumer where co_name = 'by hand'
select @.drop_queue('v', true)
select @.drop_queue('other', true)
select @.unregister_consumer('q', 'c'), @.unregister_consumer('q', 'late')
select count(*) from @.consumer
select @.drop_queue('q')
select count(*) from @.tick t join @.queue q on q.queue_id = t.tick_queue where queue_name = 'q'
END

sub statement
{
	my ($schema, $call) = @_;
	$call =~ s/~(\w+)\.(\w+)~/compat.batch('$schema', '$1', '$2')/g;
	$call =~ s/'/''/g;
	return "compat.run('$schema', '$call')";
}

# Warnings (finish_batch) are of no interest.
my $script = "set client_min_messages = error;\n";
foreach my $call (@calls)
{
	if ($call =~ /^!(.*)/)
	{
		$script .= "$1;\n";
		next;
	}
	(my $label = $call) =~ s/'/''/g;
	$script .= "insert into compat.outcome (label, pgq, tasker) values ('$label', " . statement('pgq', $call) . ', '
	  . statement('tasker', $call) . ");\n";
}
my ($status, $out, $err) = $node->psql('postgres', $script);
is($err, '', 'the calls run');
is(sql($node, 'select count(*) from compat.outcome'), scalar(grep { !/^!/ } @calls), 'all of them');
cmp_ok(sql($node, q{select count(*) from compat.outcome where pgq <> 'error' and tasker <> 'error'}), '>', 150, 'most of them succeed');

# --- What is meant to differ --------------------------------------------------------------------------------------

# The call, what PgQ does, what Tasker does. docs/stream.md tells why.
my %meant = (
	q{select @.create_queue('')} => [ '(1)', 'error' ],
	# PgQ counts from 1 before the first event, and so does not see it as new.
	q{select tick_id, tick_event_seq from @.tick t join @.queue q on q.queue_id = t.tick_queue where queue_name = 'other'} =>
	  [ '(1,1)', '(1,0)' ],
	# A null where a name must be is an error.
	q{select @.drop_queue(null)} => [ '()', 'error' ],
	q{select @.finish_batch(null)} => [ '(0)', 'error' ],
	q{select @.force_tick('none')} => [ '()', 'error' ],
	# force_tick() skips ids; PgQ uses up one more.
	q{select ev_new from @.get_queue_info('q')} => [ '(2001)', '(2000)' ],
	# A consumer cannot be put where there is no tick: PgQ finds that out when it asks for its next batch.
	q{update @.subscription set sub_last_tick = 4711 where sub_queue = (select queue_id from @.queue where queue_name = 'v')} =>
	  [ 'done', 'error' ],
	# Null restores the default.
	q{select @.set_queue_config('q', 'ticker_max_count', null)} => [ 'error', '(1)' ],
	q{select @.set_queue_config('q', 'queue_ticker_max_count', '2')} => [ 'error', '(1)' ],
);

my @outcome = map { [ split /\x01/, $_ ] } split /\x02/,
  sql($node, q{select string_agg(concat_ws(e'\x01', label, pgq, tasker), e'\x02' order by number) from compat.outcome});
my %seen;
foreach my $outcome (@outcome)
{
	my ($label, $pgq, $tasker) = @$outcome;
	if (my $difference = $meant{$label})
	{
		$seen{$label} = 1;
		is_deeply([ $pgq, $tasker ], $difference, "$label (differs)");
		next;
	}
	is($tasker, $pgq, $label);
}
is_deeply([ grep { !$seen{$_} } sort keys %meant ], [], 'every difference in the table was looked at');

$node->stop;
done_testing();
