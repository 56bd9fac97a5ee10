# A detach that was cut off is finalized by the next round, unless somebody who may own the table is at it: whose words
# in a query hold it up, and whose do not.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('pending', preload => 0);
sql($node, q{create role guest login in role tasker_worker; select tasker.create_flow('empty'); create table w (at timestamptz not null) partition by range (at);
	select tasker.create_parent('w', 'at', '1 day', start_at => (now() - interval '2 days')::text)});
my $old = sql($node, q{select partition from tasker.show_partitions('w') order by lower_bound::timestamptz limit 1});
my $pending = "select count(*) from pg_inherits where inhrelid = '$old'::regclass and inhdetachpending";

my $reader = $node->background_psql('postgres', on_error_stop => 0);
$reader->query_safe('begin; lock table only w in access share mode');
$node->psql('postgres', "set lock_timeout = '10ms'; alter table w detach partition $old concurrently");
$reader->query_safe('commit');
is(sql($node, $pending), '1', 'a detach by hand is cut off half way');

# Somebody in the middle of a statement that says so, until the body has been run. One that waits for records has no
# snapshot: a pending detach would wait for that, whatever the words are.
sub saying
{
	my ($role, $words, $body) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', $role ]);
	my $pid = $session->query_safe('select pg_backend_pid()');
	$session->query_until(qr/asked/, "\\echo asked\ncall tasker.wait_for_records('empty', '10 minutes', null) /* $words */;\n\\echo through\n");
	wait_until($node, "select state = 'active' and backend_xmin is null from pg_stat_activity where pid = $pid", "$role is at it");
	$body->();
	sql($node, "select pg_cancel_backend($pid)");
	$session->query_until(qr/through/, '');
	$session->quit;
	return;
}

my $owner = sql($node, 'select current_user');
my $words = "alter table w detach partition $old concurrently";
saying($owner, $words, sub {
	sql($node, q{call tasker.run_duty('finalize')});
	is(sql($node, $pending), '1', 'a detach that its owner may be at is left to him');
});
saying('guest', $words, sub {
	sql($node, q{call tasker.run_duty('finalize')});
	is(sql($node, "select count(*) from pg_inherits where inhrelid = '$old'::regclass"), '0',
		'the same words of somebody who may not detach hold nothing up');
});
is(sql($node, "select count(*) from $old"), '0', 'the table is its owner\'s, and stays');
$reader->quit;
$node->stop;
done_testing();
