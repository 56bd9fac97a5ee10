# What docs/stream.md tells people to paste.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $node = tasker_cluster('main', extension => 0);
my $guide = slurp_file("$FindBin::Bin/../../docs/stream.md");

# Its blocks build on each other; each is a script of its own here, so that a failure names it. A call that waits for a
# batch must get one.
my @blocks = $guide =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar(@blocks), '>=', 17, 'the guide has examples');
my $number = 0;
my %output;
foreach my $block (@blocks)
{
	my ($first) = grep { !/^(begin;)?$/ } split /\n/, $block;
	# A transaction that ends beside create_queue(), as that of a tick does, leaves it among those that the queue's first
	# tick does not see. A tick without events may follow then, which its consumers get as a batch of their own.
	wait_until($node, 'select coalesce(sum(ev_new), 0) = 0 from tasker.get_queue_info()', 'all events are covered by ticks')
	  if $number > 0;
	my ($status, $out, $err) = $node->psql('postgres', $block, on_error_stop => 1);
	$number++;
	is($status, 0, "example $number runs: $first") or diag $err;
	is($err, '', "example $number has nothing to complain of") if $status == 0;
	$output{$first} = $out;
	# A ticker that starts makes a tick of every queue; this one is to have started before there is one.
	wait_until($node, "select exists (select from pg_stat_activity where backend_type = 'tasker ticker' and wait_event_type = 'Extension')",
		'the ticker sleeps')
	  if $number == 1;
}

# The output of the example whose first line matches.
sub output_of
{
	my ($pattern) = @_;
	my @found = grep { /$pattern/ } sort keys %output;
	is(scalar @found, 1, "one example: $pattern");
	return $output{ $found[0] // '' } // '';
}

like(output_of(qr/^call tasker.wait_for_batch\('orders', 'billing'/), qr/^17\|99\.90$/m, 'an invoice was written for the event');
like(output_of(qr/'paid'/), qr/^\d+\|(created|paid)\|\{"order": 1[789]/m, 'the next batch has the next events');
is(sql($node, 'select count(*) from invoice where order_id = 17'), '0', 'and was worked on');
like(output_of(qr/as batch/), qr/\|created$/m, 'a cursor returns events');
like(output_of(qr/create_queue\('mail'\)/), qr/\|welcome\|\{"to": "ann\@example\.org"\}\|$/m, 'a message was received');
like(output_of(qr/nobody at nowhere/), qr/\|1\|nobody at nowhere$/m, 'an event waits to come again');
like(output_of(qr/given up/), qr/\|mailer\|unreadable\|welcome\|to be given up\n1\|0\|\n/m, 'a dead letter, replayed');
like(output_of(qr/register_subconsumer/), qr/^\d+\|/m, 'a member has got an event');
like(output_of(qr/^create trigger/), qr/^\{"op":"UPDATE".*\}\|\{"id":17,"amount":"89\.90"\}\|/m, 'a change of a table is an event');
like(output_of(qr/^create table account_change/), qr/^debit\|17\|\{.*\}\ncredit\|4\|/m, 'rows of a log are events');
like(output_of(qr/get_queue_info|queue_name, ticker_lag/), qr/^orders\|/m, 'the queue is shown');
is(sql($node, q{select count(*) from tasker.queue_grant}), '0', 'what was granted was revoked');
like(sql($node, q{select health from (select tasker.health_check() ->> 'status' as health) h}), qr/^(healthy|degraded)$/, 'nothing is broken');
is(sql($node, 'select string_agg(object || problem, chr(10)) from tasker.check_integrity()'), '', 'integrity');

# The loop in Python, which consumes what the other examples have left for it.
my ($program) = $guide =~ /^```python\n(.*?)^```$/ms;
my $file = $PostgreSQL::Test::Utils::tmp_check . '/loop.py';
PostgreSQL::Test::Utils::append_to_file($file, $program);
sql($node, q{select tasker.send('orders', 'last', 'for the loop')});
my $python = $ENV{PYTHON} // 'python3';
SKIP:
{
	skip 'no psycopg', 1 if system("$python -c 'import psycopg' 2>/dev/null") != 0;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres', PYTHONUNBUFFERED => 1);
	my $output = '';
	my $run = IPC::Run::start([ $python, $file ], '>', \$output, '2>&1', IPC::Run::timeout(60));
	$run->pump until $output =~ /for the loop/ || !$run->pumpable;
	$run->kill_kill;
	like($output, qr/^\d+ paid \{"order": 17\}\n.*^\d+ last for the loop$/ms, 'the loop in Python prints the events');
}

$node->stop;
done_testing();
