# A partition that is booked to leave, and that somebody attaches anew with other bounds before its detach comes through,
# is judged by the bounds that it has now.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('rebound', conf => "tasker.lock_timeout = '20ms'\nautovacuum = off\n");
sql($node, q{create table w (at timestamptz not null) partition by range (at);
	select tasker.create_parent('w', 'at', '1 day', premake => 2, start_at => (now() - interval '5 days')::text);
	insert into w select now() - i * interval '1 day' from generate_series(0, 5) i});
my $old = sql($node, q{select partition from tasker.show_partitions('w') order by lower_bound::timestamptz limit 1});

# As a VACUUM would, somebody keeps the detach from its lock.
my $holder = $node->background_psql('postgres', on_error_stop => 0);
$holder->query_safe("begin; lock table only $old in share update exclusive mode");
sql($node, q{select tasker.alter_parent('w', 'retention', '2 days')});
sql($node, q{call tasker.run_maintenance('w')});
wait_until($node, qq{select count(*) > 0 from tasker.part_retirement
	where partition_name = '$old' and state = 'leaving' and failures > 0}, 'its detach is booked, and waits for a lock');
sql($node, q{update tasker.part_retirement set next_try_at = 'infinity'});
$holder->query_safe('commit');

sql($node, qq{do \$\$
	declare p regclass;
	begin
		for p in select inhrelid from pg_inherits where inhparent = 'w'::regclass loop
			execute format('alter table w detach partition %s', p);
			if p <> '$old'::regclass then
				execute format('drop table %s', p);
			end if;
		end loop;
		alter table w attach partition $old for values from ('2020-01-01') to ('2200-01-01');
		insert into w values (now());
	end \$\$});
is(sql($node, qq{select state from tasker.part_retirement where partition_name = '$old'}), 'leaving',
	'it is still booked to leave when it is attached with bounds that reach to now');
sql($node, q{update tasker.part_retirement set next_try_at = null});
sql($node, q{call tasker.run_maintenance('w')});
wait_until($node, qq{select count(*) = 1 from tasker.part_retirement
	where partition_name = '$old' and state = 'refused' and reason ~ 'younger than the set'}, 'it is refused');
sql($node, q{call tasker.run_maintenance('w')});
is(sql($node, "select count(*), count(*) filter (where tableoid = '$old'::regclass) from w"), '2|2', 'its rows are there');
is(sql($node, "select state from tasker.show_partitions('w') where partition = '$old'::regclass"), 'attached', 'and it is attached');
$holder->quit;
$node->stop;
done_testing();
