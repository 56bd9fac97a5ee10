# Logical replication of partition sets: partitions that are made while a subscriber is following, published through
# their root and one by one, with the replica identity of their parent; and their retirement, which stays at home.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $publisher = tasker_cluster('publisher', init => [ allows_streaming => 'logical' ]);
my $subscriber = tasker_cluster('subscriber', init => [ allows_streaming => 'logical' ]);
my $connection = $publisher->connstr . ' dbname=postgres';

sub catch_up
{
	my ($subscription) = @_;
	$publisher->wait_for_catchup($subscription);
	return;
}

# Waits until the tables that a subscription has come to know of are copied and follow.
sub synchronize
{
	my ($subscription) = @_;
	$subscriber->wait_for_subscription_sync($publisher, $subscription);
	return;
}

sub tables_followed
{
	return sql($subscriber, "select string_agg(srrelid::regclass::text, ', ' order by srrelid::regclass::text)
		from pg_subscription_rel r join pg_subscription s on s.oid = r.srsubid where subname = '$_[0]'");
}

# --- through the root: the subscriber sees one table, however it is partitioned there -------------------------------

sql($_, q{create table public.rooted (k int not null, v text, primary key (k)) partition by range (k)}) foreach $publisher, $subscriber;
sql($publisher, q{
	alter table rooted replica identity full;
	select tasker.create_parent('rooted', 'k', '100', premake => 1);
	create publication rooted for table rooted with (publish_via_partition_root = true);
	insert into rooted select i, 'before' from generate_series(1, 5) i;
});
# Other bounds than at the publisher.
sql($subscriber, q{select tasker.create_parent('rooted', 'k', '1000', premake => 1)});
sql($subscriber, "create subscription rooted connection '$connection' publication rooted");
synchronize('rooted');
is(sql($subscriber, 'select count(*) from rooted'), '5', 'what was there is copied');
is(sql($publisher, q{select tasker.create_partition('rooted', '250')}), 'rooted_p200', 'a partition is made meanwhile');
sql($publisher, q{
	insert into rooted select i, 'after' from generate_series(200, 209) i;
	update rooted set v = 'changed' where k in (1, 205);
	delete from rooted where k in (2, 206);
});
catch_up('rooted');
is(sql($subscriber, "select count(*), count(*) filter (where v = 'changed'), bool_and(tableoid = 'rooted_p0'::regclass) from rooted"),
	'13|2|t', 'inserts, updates and deletes in it are replicated at once');
is(tables_followed('rooted'), 'rooted', 'through the parent');
is(sql($publisher, q{select string_agg(distinct relreplident::text, '') from pg_class where relname like 'rooted%' and relkind in ('r', 'p')}),
	'f', 'partitions have the replica identity of their parent');

# --- each partition by itself --------------------------------------------------------------------------------------

sql($publisher, q{
	create table public.leaves (k int not null, u int not null, v text) partition by range (k);
	create unique index on leaves (u, k);
	alter table leaves replica identity using index leaves_u_k_idx;
	select tasker.create_parent('leaves', 'k', '100', premake => 0);
	create publication leaves for table leaves with (publish_via_partition_root = false);
	insert into leaves values (1, 1, 'before');
});
sql($subscriber, q{
	create table public.leaves (k int not null, u int not null, v text) partition by range (k);
	create unique index on leaves (u, k);
	alter table leaves replica identity using index leaves_u_k_idx;
	select tasker.create_parent('leaves', 'k', '100', premake => 0);
});
sql($subscriber, "create subscription leaves connection '$connection' publication leaves");
synchronize('leaves');
is(sql($_, q{select tasker.create_partition('leaves', '100')}), 'leaves_p100', 'both sides make the same partition') foreach $publisher, $subscriber;
sql($publisher, q{insert into leaves values (101, 1, 'x'), (102, 2, 'y'), (103, 3, 'z')});
sql($subscriber, 'alter subscription leaves refresh publication');
synchronize('leaves');
is(tables_followed('leaves'), 'leaves_p0, leaves_p100', 'after a refresh the subscriber follows it');
sql($publisher, q{
	update leaves set v = 'changed', u = 20 where k = 102;
	delete from leaves where k = 103;
	insert into leaves values (104, 4, 'new');
});
catch_up('leaves');
is(sql($subscriber, q{select string_agg(concat_ws(' ', k, u, v), ', ' order by k) from leaves}),
	'1 1 before, 101 1 x, 102 20 changed, 104 4 new', 'by the identity of its own index');

# --- partitions that are listed themselves -------------------------------------------------------------------------

sql($_, q{
	create table public.listed (k int primary key, v text) partition by range (k);
	select tasker.create_parent('listed', 'k', '100', premake => 0);
}) foreach $publisher, $subscriber;
sql($publisher, q{create publication listed for table listed_p0 where (k % 2 = 0)});
sql($subscriber, "create subscription listed connection '$connection' publication listed");
sql($_, q{select tasker.create_partition('listed', '100')}) foreach $publisher, $subscriber;
sql($publisher, q{insert into listed select i, 'x' from generate_series(98, 103) i});
sql($subscriber, 'alter subscription listed refresh publication');
synchronize('listed');
catch_up('listed');
is(sql($subscriber, q{select string_agg(k::text, ' ' order by k) from listed}), '98 100 102',
	'a new partition is published as the newest one is, with its row filter');

# --- retirement ----------------------------------------------------------------------------------------------------

sql($publisher, q{select tasker.alter_parent('rooted', 'retention', '50')});
$publisher->psql('postgres', q{call tasker.run_maintenance('rooted')});
wait_until($publisher, q{select to_regclass('rooted_p0') is null}, 'the publisher retires a partition');
sql($publisher, q{insert into rooted values (299, 'last')});
catch_up('rooted');
is(sql($subscriber, 'select count(*) from rooted where k < 100'), '4', 'the subscriber keeps its rows: DDL is not replicated');
is(sql($subscriber, 'select count(*) from rooted where k = 299'), '1', 'and goes on following');
is(sql($_, q{select string_agg(distinct health, ',') from tasker.partition_status where parent::text <> 'rooted'}), 'healthy',
	'the sets are healthy') foreach $publisher, $subscriber;

$_->stop foreach $subscriber, $publisher;
done_testing();
