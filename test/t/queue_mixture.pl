# Everything that can be done to the queue, at random and at once: by sessions whose transactions commit, abort, go back
# to savepoints, run in REPEATABLE READ, change the table by hand, drop flows, count anew and sweep, and are cancelled
# anywhere. Afterwards floors, statistics and table agree. The sweep, which would mend what is wrong, comes when somebody
# asks for it only.
#
# TASKER_MIXTURE_SECONDS (default 16) is for how long, half of it with statements being cancelled.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use QueueChecks;
use TaskerCluster;

my $HALF = int(($ENV{TASKER_MIXTURE_SECONDS} // 16) / 2) || 1;
my $CLIENTS = 5;

my $node = tasker_cluster('mixture', conf => <<~CONF);
	fsync = off
	tasker.sweep_interval = 86400
	deadlock_timeout = 5ms
	max_connections = 40
	CONF

# A few steps, each in a subtransaction. What is refused as it should be, and what has been cancelled, is undone.
sql($node, <<~'SQL');
	create function mixture() returns void language plpgsql as
	$$
	declare
	    f text;
	    ids bigint[];
	    tokens bigint[];
	    r float;
	begin
	    for i in 1 .. 1 + (random() * 3)::int loop
	        f := 'f' || (random() * 4)::int;
	        r := random();
	        begin
	            if r < 0.15 then
	                perform tasker.enqueue(f, to_jsonb(i), (random() * 3)::int);
	            elsif r < 0.20 then
	                perform tasker.enqueue(f, to_jsonb(i), 0, now() + random() * interval '100 ms', 'k' || (random() * 10)::int,
	                    case when random() < 0.3 then interval '50 ms' end);
	            elsif r < 0.28 then
	                perform tasker.add_records_to_queue(f, array_fill(to_jsonb(i), array[(random() * 20)::int]), (random() * 3)::int);
	            elsif r < 0.32 then
	                insert into tasker.processing_queue (flow_name, payload, priority) select f, '1', 2 from generate_series(1, 3);
	            elsif r < 0.60 then
	                select array_agg(id), array_agg(lease_token) into ids, tokens
	                from tasker.claim_records_batch(f, 1 + (random() * 12)::int, 'w', case when random() < 0.2 then interval '20 ms' end);
	                r := random();
	                if ids is null then
	                    null;
	                elsif r < 0.5 then
	                    perform tasker.mark_records_completed(ids, null, tokens);
	                elsif r < 0.65 then
	                    perform tasker.mark_record_failed(ids[1], 'x', case when random() < 0.5 then interval '0' end, tokens[1]);
	                elsif r < 0.75 then
	                    perform tasker.release_records(ids);
	                elsif r < 0.85 then
	                    perform tasker.extend_lease(ids, '1 hour', tokens);
	                end if;
	            elsif r < 0.66 then
	                perform tasker.mark_records_completed(array(select id from tasker.processing_queue
	                    where flow_name = f and status = 'processing' order by random() limit 3));
	            elsif r < 0.70 then
	                perform tasker.cancel_records(array(select id from tasker.processing_queue
	                    where flow_name = f and status = 'pending' order by random() limit 3));
	            elsif r < 0.74 then
	                perform tasker.release_records(array(select id from tasker.processing_queue
	                    where flow_name = f and status = 'processing' order by random() limit 3));
	            elsif r < 0.77 then
	                perform tasker.cleanup_orphaned_records(random() * interval '2 s', case when random() < 0.5 then f end);
	            elsif r < 0.79 then
	                perform tasker.reset_failed_records(f);
	            elsif r < 0.80 then
	                perform tasker.purge_failed_records(f);
	            elsif r < 0.81 then
	                perform tasker.drop_flow(f, true);
	            elsif r < 0.82 then
	                perform tasker.alter_flow(f, 'max_in_flight', case when random() < 0.5 then '50' end);
	            elsif r < 0.83 then
	                perform tasker.rebuild_queue_state();
	            elsif r < 0.84 then
	                perform tasker.sweep_queue();
	            elsif r < 0.88 then
	                perform tasker.get_queue_status(f);
	            elsif r < 0.90 then
	                update tasker.queue_record set status = 'p' where id in (select id from tasker.queue_record
	                    where status = 'r' order by random() limit 2 for update skip locked);
	            elsif r < 0.92 then
	                delete from tasker.queue_record where id in (select id from tasker.queue_record
	                    where status in ('c', 'p') order by random() limit 2 for update skip locked);
	            elsif r < 0.93 then
	                perform tasker.pause_flow(f);
	                perform tasker.resume_flow(f);
	            end if;
	            if random() < 0.25 then
	                raise division_by_zero;
	            end if;
	        exception
	            when query_canceled or division_by_zero or sqlstate '55000' or sqlstate '42704' then null;
	        end;
	    end loop;
	end
	$$;
	SQL

# Scripts of pgbench, with their weights.
my %scripts = (
	commit => [ 4, 'select mixture();' ],
	repeatable_read => [ 1, "begin isolation level repeatable read;\nselect mixture();\ncommit;" ],
	rollback => [ 1, "begin;\nselect mixture();\nsavepoint s;\nselect mixture();\nrollback to s;\nselect mixture();\nrollback;" ],
	savepoint => [ 2, "begin;\nselect mixture();\nsavepoint s;\nselect mixture();\nrollback to s;\nselect mixture();\n"
		  . "release s;\nselect mixture();\ncommit;" ]);
my $dir = PostgreSQL::Test::Utils::tempdir;
PostgreSQL::Test::Utils::append_to_file("$dir/$_.sql", "$scripts{$_}[1]\n") foreach keys %scripts;

# Runs the mixture for so many seconds; returns the number of transactions, and what pgbench complained of.
sub mix
{
	my ($seconds) = @_;
	my @files = map { ('-f', "$dir/$_.sql\@$scripts{$_}[0]") } sort keys %scripts;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'pgbench', '-n', '-c', $CLIENTS, '-j', 2, '-T', $seconds, '--max-tries', 20, @files, '-h', $node->host,
		'-p', $node->port, 'postgres' ], '>', \$out, '2>', \$err);
	return ($out =~ /actually processed: (\d+)/ ? $1 : 0, $err);
}

# Deadlocks and write conflicts are tried again by pgbench; no other error may come through.
my ($made, $said) = mix($HALF);
cmp_ok($made, '>', 100, "$made transactions");
unlike($said, qr/aborted|ERROR/, 'no statement failed but by deadlock or write conflict') or diag(substr($said, -2000));
queue_is_exact($node, 'after all of it');

# The same with statements cancelled wherever they are. One that is hit outside of a step ends its client, so that
# there are many short runs.
my $until = time() + $HALF;
my $canceller = $node->background_psql('postgres', on_error_stop => 0);
$canceller->query_until(qr/begun/, <<~SQL);
	\\echo begun
	do \$\$
	declare
	    made int;
	    all_made int := 0;
	begin
	    while clock_timestamp() < to_timestamp($until) loop
	        perform pg_stat_clear_snapshot();
	        select count(*) filter (where pg_cancel_backend(pid)) into made
	        from (select pid from pg_stat_activity
	            where query like 'select mixture%' and state = 'active' order by random() limit 1) a;
	        all_made := all_made + made;
	        perform pg_sleep(random() * 0.01);
	    end loop;
	    create table cancelled as select all_made as statements;
	end
	\$\$;
	SQL
$made = 0;
$made += (mix(1))[0] while time() < $until;
$canceller->quit;
cmp_ok($made, '>', 0, "$made transactions among cancelled ones");
my $cancelled = sql($node, 'select statements from cancelled');
cmp_ok($cancelled, '>', 10, "$cancelled statements were cancelled");
queue_is_exact($node, 'after cancelled statements');

sql($node, 'select tasker.rebuild_queue_state()');
queue_is_exact($node, 'counted anew');
sql($node, q(select tasker.drop_flow(flow_name, true) from tasker.flow));
is(sql($node, 'select count(*) from tasker.queue_record'), '0', 'nothing stays when all flows are dropped');
queue_is_exact($node, 'and nothing is counted');
server_did_not_crash($node);
$node->stop;
done_testing();
