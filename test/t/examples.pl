# What README.md and docs/queue.md tell people to paste, and the programs that they are told to copy.

use strict;
use warnings;

use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use TaskerCluster;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $python = $ENV{PYTHON} || 'python3';
my $node = tasker_cluster('main', extension => 0);

# The SQL blocks of a page, as one script.
sub sql_of
{
	my ($page) = @_;
	my $text = slurp_file("$top/$page");
	return join "\n", $text =~ /^```sql\n(.*?)^```$/msg;
}

# README.md: everything can be pasted as it stands.
my ($status, $out, $err) = $node->psql('postgres', sql_of('README.md'));
is($status, 0, 'the first session of README.md runs') or diag $err;
is(sql($node, "select string_agg(payload->>'to' || ' ' || status, ', ' order by id) from tasker.processing_queue"),
	'ann@example.org completed, bob@example.org completed, nobody pending, eve@example.org pending',
	'and leaves the records as it says');

# A worker of one's own, as psql would run it: examples/worker.py, with a command that fails for some.
sql($node, q{select tasker.create_flow('words', '{"max_attempts": 2, "backoff_base": "50 milliseconds"}')});
sql($node, q{select tasker.add_records_to_queue('words', array['{"word": "one"}', '{"word": "bad"}']::jsonb[])});
my $script = q{grep -q bad "$1" && { echo "a bad word" >&2; exit 3; }; cat "$1"};
my ($worker_out, $worker_err) = ('', '');
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my $worker = IPC::Run::start(
	[ $python, "$top/examples/worker.py", 'words', 'sh', '-c', 'cat > w.$$; ' . $script =~ s/\$1/w.\$\$/gr ],
	'<', \undef, '>', \$worker_out, '2>', \$worker_err,
	init => sub { chdir $PostgreSQL::Test::Utils::tmp_check });

wait_until($node, q{select completed = 1 and failed = 1 from tasker.get_queue_status('words')},
	'worker.py ends with one completed record and one dead letter') or diag $worker_err;
is(sql($node, q{select result from tasker.processing_queue where flow_name = 'words' and status = 'completed'}),
	'{"word": "one"}', 'what the command printed is the result');
is(sql($node, q{select error_message, retry_count from tasker.dead_letters where flow_name = 'words'}),
	'a bad word|2', 'what it complained of is the error');

# It waits now; a new record wakes it.
wait_until($node, q{select count(*) = 1 from pg_stat_activity where query like 'call tasker.wait_for_records%'},
	'an idle worker waits in wait_for_records');
sql($node, q{select tasker.enqueue('words', '{"word": "two"}')});
wait_until($node, q{select completed = 2 from tasker.get_queue_status('words')}, 'a new record wakes it');
$worker->kill_kill;

$node->stop;
done_testing();
