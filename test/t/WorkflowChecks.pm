# What the tests of the workflow share.
#
#   define_task($node, 'space', 'task', 'a', 'b < a', ...)   steps as "name < parent parent", where need be with a type
#                                             (decision, batch, deferred) and options before the "<": "b deferred *3 /5 < a"
#                                             has three attempts and five seconds for each. The handler is "h".
#   workflow_is_sound($node, $what)           an assertion: check_integrity() finds nothing. While nobody writes.
#   task_state($node, $task)                  "complete: complete 3, pending 1": the task's state and its steps by state
#   work_off($node, 'space', $batch)          claims and completes all that is ready, one transaction for each batch;
#                                             returns the number of steps
#   no_deadlock($node)                        an assertion over the whole log

package WorkflowChecks;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

our @EXPORT = qw(define_task workflow_is_sound task_state work_off no_deadlock);

sub step_of
{
	my ($line) = @_;
	my ($head, $parents) = split / < /, $line;
	my ($name, @words) = split / /, $head;
	my @keys = (qq("name": "$name"), '"handler": "h"', '"backoff": {"base_seconds": 0}');
	foreach my $word (@words)
	{
		push @keys, $word =~ /^\*(\d+)$/ ? qq("max_attempts": $1)
		  : $word =~ m{^/(\d+)$} ? qq("timeout_seconds": $1)
		  : qq("type": "$word");
	}
	push @keys, '"depends_on": [' . join(', ', map { qq("$_") } split / /, $parents) . ']' if defined $parents;
	return '{' . join(', ', @keys) . '}';
}

sub define_task
{
	my ($node, $space, $task, @steps) = @_;
	my $definition = '{"steps": [' . join(', ', map { step_of($_) } @steps) . ']}';
	return sql($node, "select tasker.define_task('$space', '$task', '$definition')");
}

sub workflow_is_sound
{
	my ($node, $what, $database) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(sql($node, 'select * from tasker.check_integrity() limit 10', $database), '', "$what: no rule is broken");
}

sub task_state
{
	my ($node, $task) = @_;
	return sql($node, "select t.current_state || ': ' || (select string_agg(state || ' ' || steps, ', ' order by state)
		from (select s.current_state as state, count(*) as steps from tasker.get_workflow_steps(t.task_uuid) s group by 1) s)
		from tasker.tasks t where t.task_uuid = '$task'");
}

sub work_off
{
	my ($node, $space, $batch) = @_;
	return sql($node, <<~SQL);
		create temp table worked_off (steps bigint);
		do \$\$
		declare
			found int := 1;
		begin
			while found > 0 loop
				insert into worked_off select tasker.complete_steps(coalesce(array_agg(workflow_step_uuid), '{}'), null,
					coalesce(array_agg(lease_token), '{}')) from tasker.claim_steps('$space', $batch) returning steps into found;
				commit;
			end loop;
		end \$\$;
		select sum(steps) from worked_off;
		SQL
}

sub no_deadlock
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return unlike(slurp_file($node->logfile), qr/deadlock detected/, 'nobody has waited in a circle');
}

1;
