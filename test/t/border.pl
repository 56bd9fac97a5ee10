# The border with Postgres: errors that cross it, and what they leave behind. docs/border.md says which test here
# proves which rule. The functions are those of test/border, a module of its own that is built first.

use strict;
use warnings;

use Cwd ();
use File::Basename ();
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $here = File::Basename::dirname(Cwd::realpath(__FILE__));
my $sources = "$here/../border";
my $build = PostgreSQL::Test::Utils::tempdir;
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';

sub build_module
{
	my $output = `make -s -C '$build' -f '$sources/Makefile' PG_CONFIG='$pg_config' 2>&1`;
	is($?, 0, 'the test module is built') or BAIL_OUT($output);
	is($output, '', 'without a warning');
	return;
}

build_module();

my $node = tasker_cluster('border', preload => 0, extension => 0, conf => "log_min_messages = warning\n");
$node->command_ok(
	[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-v', "library=$build/tasker_border_test.so",
		'-d', $node->connstr('postgres'), '-f', "$sources/border.sql" ],
	'the functions are declared');

note('server ', sql($node, q{select version() || ', assertions ' || current_setting('debug_assertions')}));

# Runs statements in one session, each whatever the ones before did. Returns what they printed, and what went wrong.
sub session
{
	my ($script) = @_;
	my ($status, $out, $err) =
	  $node->psql('postgres', "\\set VERBOSITY verbose\n$script", on_error_stop => 0);
	return ($out, $err);
}

# The error of a statement as "SQLSTATE: message"; everything that must hold after any error is checked too.
sub error_is
{
	my ($statement, $expected, $what) = @_;
	my $out = sql($node, "select e ->> 'state' || ': ' || (e ->> 'message') || ', alive ' || (e ->> 'live')
		|| ', held off ' || (e ->> 'holdoff') from border.error_of(\$x\$$statement\$x\$) e");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($out, "$expected, alive 0, held off 0", $what);
}

# A value, in a session in which nothing may be alive afterwards.
sub value_is
{
	my ($expression, $expected, $what) = @_;
	my ($out, $err) = session("select $expression;\nselect border.live(), border.holdoff();");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($out . $err, "$expected\n0|0", $what);
}

# --- every field survives ----------------------------------------------------------------------------------------

sub fields_survive
{
	# The names of the functions differ, so their part of the context is taken out.
	my $fields = sub {
		my ($call) = @_;
		return sql($node, "select replace(border.error_of(\$x\$select $call\$x\$)::text, \$x\$$call\$x\$, 'call')");
	};
	my $plain = $fields->('border.raise_plain()');
	like($plain, qr/"state": "23514"/, 'the error of plain C is what it should be');
	like($plain, qr/"$_"/, "... it has $_")
	  foreach ('a schema', 'a table', 'a column', 'a type', 'a constraint', 'detail 2', 'hint 3');
	is($fields->('border.raise_deep()'), $plain, 'raised three calls deep in C++ it has the same fields');
	is($fields->('border.raise_raw()'), $plain, 'raised straight through boundary too');
	is($fields->("border.throw('postgres')"), $plain, 'thrown as PgError too');

	my $unique = "insert into border.target values (1, 'again')";
	my $direct = sql($node, "select border.error_of(\$x\$$unique\$x\$)");
	my $deep = sql($node, "select border.error_of(\$x\$select border.run_deep(\$y\$$unique\$y\$)\$x\$)");
	foreach my $field (qw(state message detail hint schema table column type constraint live holdoff))
	{
		my $of = sub { $_[0] =~ /"$field": ("(?:[^"\\]|\\.)*"|\d+)/ ? $1 : "no $field" };
		is($of->($deep), $of->($direct), "a unique violation in SPI keeps its $field");
	}
	like($deep, qr/"constraint": "target_key"/, 'its constraint is the right one');
	like($deep, qr/"context": "SQL statement \\"insert into border.target/, 'its context names the statement');

	my $nested = sql($node, q{select border.error_of($x$select border.run_deep(
		$y$select border.run_deep($z$select border.throw('postgres')$z$)$y$)$x$)});
	my $statements = () = $nested =~ /SQL statement \\"select border/g;
	is($statements, 3, 'through three boundaries inside each other the context has each of them');
	like($nested, $_, '... and the fields are those of the innermost')
	  foreach (qr/"state": "23514"/, qr/"detail": "detail 2"/, qr/"constraint": "a constraint"/);
	return;
}

# --- each exception becomes the right error ----------------------------------------------------------------------

sub exceptions_have_sqlstates
{
	my %expected = (
		'error' => '55006: flow "a flow" is busy',
		'error with detail and hint' => '55006: flow "a flow" is busy',
		'postgres' => '23514: message 1',
		'bad_alloc' => '53200: out of memory',
		'bad_array_new_length' => '53200: out of memory',
		'length_error' => '54000: too long',
		'out_of_range' => 'XX000: out of range',
		'runtime_error' => 'XX000: 100% at run time',
		'system_error' => 'XX000: Input/output error',
		'bad_optional_access' => 'XX000: bad optional access',
		'int' => 'XX000: unexpected C++ exception of unknown type');

	foreach my $kind (sort keys %expected)
	{
		error_is("select border.throw('$kind')", $expected{$kind}, "thrown: $kind");
		my ($state, $message) = $expected{$kind} =~ /^(\w+): (.*)$/;
		like(sql($node, "select border.swallow_kind('$kind')"), qr/^$state\n\Q$message\E\n/, "swallowed: $kind");
		like(sql($node, "select border.throw_through_pg_call('$kind')"), qr/^$state\n\Q$message\E\n/,
			"through pg_call, which is whole afterwards: $kind");
	}
	my $error = sql($node, q{select border.error_of($x$select border.throw('error with detail and hint')$x$)});
	like($error, qr/"detail": "It has 3 workers."/, 'an error of ours has its detail');
	like($error, qr/"hint": "Stop them first."/, 'and its hint');
	error_is('select border.throw_past_callback()', 'P0001: past a callback',
		'boundary takes the context callbacks of dead frames off first');
	my ($out, $err) = session("select border.warn();\nselect border.live();");
	is($out, "10\n0", 'a warning unwinds nothing');
	like($err, qr/WARNING:  55006: flow "a flow" is busy\nDETAIL:  It has 3 workers.\nHINT:  Stop them first./,
		'an error can be shown at a lower level, whole');
	return;
}

# --- swallowed in a subtransaction -------------------------------------------------------------------------------

sub subtransactions_swallow
{
	my $unique = "insert into border.target values (1, 'again')";
	my ($out) = session(<<~SQL);
		begin;
		select border.swallow(\$x\$with a as (insert into border.target values (2, 'two')) $unique\$x\$);
		select border.swallow(\$x\$insert into border.target values (3, 'three')\$x\$) is null;
		select border.live(), border.holdoff();
		commit;
		select string_agg(id::text, ',' order by id) from border.target;
		delete from border.target where id > 1;
		SQL
	like($out, qr/^23505\nduplicate key value violates unique constraint "target_key"\nKey \(id\)=\(1\) already exists.\n-\nSQL statement/,
		'a swallowed error tells all it knows');
	like($out, qr/\nt\n0\|0\n1,3$/, 'what failed is undone, what did not is kept');

	($out) = session(<<~SQL);
		select border.swallow_nested('insert into border.target values (11, ''outer'')', \$x\$$unique\$x\$, false);
		select border.swallow_nested('insert into border.target values (12, ''outer'')', \$x\$$unique\$x\$, true);
		select border.swallow_nested('insert into border.target values (13, ''outer'')',
			'insert into border.target values (14, ''inner'')', true);
		select border.swallow_nested('insert into border.target values (15, ''outer'')',
			'insert into border.target values (16, ''inner'')', false);
		select string_agg(id::text, ',' order by id) from border.target where id > 1;
		select border.live(), border.holdoff();
		delete from border.target where id > 1;
		SQL
	is($out, "1\n11\n10\n0\n11,15,16\n0|0", 'nested ones are undone one by one');

	# The statement ends in an error; which one tells what was found. At top level the resource owner is the portal's.
	my (undef, $error) = session("select border.guards_after('select border.raise_deep()');");
	like($error, qr/ERROR:  P0001: all as before/, 'the guards after an error, at top level');
	error_is("select border.guards_after('select border.$_')", 'P0001: all as before', "the guards after $_")
	  foreach ('raise_raw()', 'raise_deep()', "throw(''bad_alloc'')", "run_deep(''select border.raise_raw()'')");
	error_is("select border.swallow('do \$y\$ begin assert false; end \$y\$')", 'P0004: assertion failed',
		'a failed assertion is not swallowed');

	($out) = session("select border.commit_fails(false);\nselect count(*) from border.target where id = 77;\n"
		  . "select border.live(), border.holdoff();");
	is($out, "a callback failed\n0\n0|0", 'a commit that fails is rolled back, and swallowed');
	($out, my $err) = session("select border.commit_fails(true);\nselect 'still here';");
	like($err, qr/FATAL:  P0001: could not roll back a subtransaction\nDETAIL:  a callback failed/,
		'a rollback that fails ends the session');
	unlike($out, qr/still here/, '... really');
	return;
}

# --- memory ------------------------------------------------------------------------------------------------------

sub memory_runs_out
{
	error_is("select border.allocate_too_much($_, 8)", '53200: out of memory', "MaxAllocHugeSize less $_ bytes")
	  foreach (-1, 0, 100);
	error_is("select border.allocate_too_much($_, 4096)", '53200: out of memory',
		"MaxAllocHugeSize less $_ bytes, aligned to a page")
	  foreach (-1, 0, 4097);
	error_is('select border.too_many_elements()', '54000: get_next_capacity, allocator\'s max size reached',
		'more elements than a container can count');
	error_is('select border.exhaust_container()', '53200: out of memory', 'malloc fails below a container');
	error_is('select border.exhaust_palloc()', '53200: out of memory', 'malloc fails below palloc');
	like(sql($node, q{select border.error_of('select border.exhaust_palloc()') ->> 'detail'}),
		qr/^Failed on request of size 268435456/, '... with the detail of Postgres');
	error_is('select border.exhaust_copy()', '53200: out of memory', 'malloc fails while an error is copied');
	value_is("border.swallow('select border.exhaust_copy()') like '53200%'", 't', 'the same, swallowed');
	return;
}

sub memory_is_aligned
{
	value_is("border.aligned($_)", '0', "blocks aligned to $_ bytes are, and keep what they hold")
	  foreach (1, 8, 16, 32, 64, 512, 4096, 65536);
	value_is('border.containers()', '505000', 'containers of over-aligned elements, of strings, of pairs');
	is(sql($node, "select count(*) from pg_backend_memory_contexts where name like 'border%'"),
		'0', 'no context is left');
	my ($out) = session("select border.throw('postgres');\nselect border.swallow_kind('postgres');\n"
		  . "select count(*) from pg_backend_memory_contexts where name like 'border%' or name = 'tasker error';");
	like($out, qr/\n0$/, 'nor after errors, nor one of a caught error');
	return;
}

# 100,000 caught errors. The bound is a fifth of a byte for each: some blocks of some context, and no leak.
sub nothing_leaks
{
	my $errors = 100_000;
	my $bound = $errors / 5;
	foreach my $kind ('postgres', 'error with detail and hint', 'runtime_error', 'bad_alloc')
	{
		my $growth = sql($node, "select border.growth('$kind', $errors)");
		cmp_ok($growth, '<', $bound, "$errors swallowed in one call: $kind ($growth bytes)");
	}
	foreach my $kind ('postgres', 'error with detail and hint', 'runtime_error')
	{
		my $growth = sql($node, "select border.growth_in_plpgsql('$kind', $errors)");
		cmp_ok($growth, '<', $bound, "$errors raised and caught in PL/pgSQL: $kind ($growth bytes)");
	}
	# Errors that nothing catches, each in a transaction of its own, between two runs of the same look.
	my $throws = "select border.throw('postgres');\n" x 2000;
	my $look = 'select border.memory() as memory \\gset';
	my ($out) = session("$look\n$throws$look before_\n$throws$look after_\n"
		  . "select :after_memory - :before_memory;\nselect border.live();");
	my ($growth, $live) = $out =~ /(-?\d+)\n(\d+)$/;
	cmp_ok($growth, '<', 2000, "2,000 errors that reach the client ($growth bytes)");
	is($live, 0, '... and no object alive');
	return;
}

# --- interrupts --------------------------------------------------------------------------------------------------

sub cancels_unwind
{
	my ($out, $err) = session(<<~SQL);
		set statement_timeout = '50ms';
		select border.wait();
		select border.live(), border.holdoff();
		select border.spin();
		select border.live(), border.holdoff();
		select border.wait_in_subtransaction();
		select border.live(), border.holdoff(), border.who() like 'postgres | %';
		select border.lock_and_throw('postgres');
		select border.wait();
		select border.live(), border.holdoff();
		SQL
	my $timeouts = () = $err =~ /ERROR:  57014: canceling statement due to statement timeout/g;
	is($timeouts, 4, 'statement_timeout is seen each time');
	is($out, "0|0\n0|0\n0|0|t\n0|0", 'and unwinds every object');

	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query('select pg_backend_pid()');
	foreach my $call ('border.wait()', 'border.wait_in_subtransaction()', 'border.wait()')
	{
		$session->query_until(qr/called/, "\\echo called\nselect $call;\n");
		ok(wait_for_wait_event($node, $pid, 'Extension'), "$call waits");
		is(sql($node, "select pg_cancel_backend($pid)"), 't', 'it is cancelled');
		is($session->query('select border.live(), border.holdoff()'), '0|0', 'and nothing is alive');
	}
	my $cancels = () = $session->{stderr} =~ /canceling statement due to user request/g;
	is($cancels, 3, 'three cancels, three errors');
	$session->quit;

	# PL/pgSQL does not catch a cancel in WHEN OTHERS, and neither do we.
	($out, $err) = session("set statement_timeout = '50ms';\nselect border.swallow('select border.wait()');");
	is($out, '', 'a cancel is not swallowed');
	like($err, qr/57014/, '... but reported');
	return;
}

sub locks_unwind
{
	my %state = (postgres => '23514', error => '55006', int => 'XX000: unexpected C\+\+ exception of unknown type');
	foreach my $kind (sort keys %state)
	{
		foreach my $function ('lock_and_throw', 'lock_raw_and_throw')
		{
			my ($out, $err) = session("select border.$function('$kind');\n"
				  . 'select border.lock_is_held(), border.lock_is_free(), border.live(), border.holdoff();');
			like($err, qr/ERROR:  $state{$kind}/, "$function raises: $kind");
			is($out, 'f|t|0|0', '... the lock is free, and interrupts are not held off');
		}
		foreach my $function ('lock_and_swallow', 'lock_raw_and_swallow')
		{
			value_is("border.$function('$kind')", 't', "$function: $kind");
			is(sql($node, 'select border.lock_is_free()'), 't', '... the lock is free');
		}
	}
	error_is('select border.subtransaction_under_lock()',
		'XX000: subtransaction begun while interrupts are held off', 'no subtransaction under a lock');
	return;
}

sub fatal_does_no_harm
{
	my $started = sql($node, 'select pg_postmaster_start_time()');
	my ($out, $err) = session('select border.fatal();');
	like($err, qr/FATAL:  XX000: the end/, 'a FATAL error ends the session');

	foreach my $call ('border.wait()', 'border.wait_in_subtransaction()', "border.run_deep('select border.wait()')")
	{
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		my $pid = $session->query('select pg_backend_pid()');
		$session->query_until(qr/called/, "\\echo called\nselect $call;\n");
		ok(wait_for_wait_event($node, $pid, 'Extension'), "$call waits");
		is(sql($node, "select pg_terminate_backend($pid, 60000)"), 't', 'it is terminated, and is gone');
		is(sql($node, 'select border.lock_is_free()'), 't', 'it has left no lock');
		eval { $session->{run}->finish };
		like($session->{stderr}, qr/terminating connection due to administrator command/, 'its client was told');
	}
	is(sql($node, 'select pg_postmaster_start_time()'), $started, 'the server has not been restarted');
	is(sql($node, q{select count(*) from pg_locks where pid not in (select pid from pg_stat_activity)}),
		'0', 'no lock is left');
	return;
}

# --- identity and SPI --------------------------------------------------------------------------------------------

sub identity_is_restored
{
	my $as_caller = "set role border_caller;\nset search_path = border, public;\n";
	my $mine = 'border_caller | border, public | 0';
	my %inside = (
		'spi' => 'border_owner | pg_catalog, pg_temp | 1',
		'spi of the caller' => $mine,
		'as_owner' => 'border_owner | pg_catalog, pg_temp | 1');

	foreach my $scope (sort keys %inside)
	{
		my ($out) = session("${as_caller}select who_inside('$scope');\nselect who();");
		is($out, "$inside{$scope}\n$mine", "inside $scope, and after it");
	}
	my %state = (error => 'P0001', as_owner => '23514', nested => '22012', spi => '22012');
	foreach my $how (sort keys %state)
	{
		my ($out, $err) = session("${as_caller}select fail_under_identity('$how');\nselect who(), live();");
		like($err, qr/ERROR:  $state{$how}/, "an error under another identity: $how");
		is($out, "$mine|0", '... identity and search_path are back');

		($out, $err) = session("${as_caller}begin;\nselect swallow_under_identity('$how');\nselect who(), live();\ncommit;");
		is($out, "$state{$how}\n$mine|0", "the same swallowed: $how");
		is($err, '', '... without a warning');

		($out, $err) = session("${as_caller}do \$\$ begin perform fail_under_identity('$how');
			exception when others then raise notice '%', who(); end \$\$;\nselect who(), live();");
		like($err, qr/NOTICE:  00000: \Q$mine\E/, "the same caught in PL/pgSQL: $how");
		is($out, "$mine|0", '... and after it');
	}
	return;
}

sub statements_are_kept
{
	my ($out, $err) = session(<<~SQL);
		select border.kept_statement(1);
		create table border.kept (id bigint, label text);
		insert into border.kept values (1, 'first');
		select border.kept_statement(1);
		drop table border.kept;
		select border.kept_statement(1);
		create table border.kept (label varchar, other int, id bigint);
		insert into border.kept values ('second', 0, 1);
		select border.kept_statement(1);
		alter table border.kept alter label type int using 7;
		select border.kept_statement(1);
		drop table border.kept;
		SQL
	my $missing = () = $err =~ /ERROR:  42P01: relation "border.kept" does not exist/g;
	is($missing, 2, 'a statement whose table is missing fails, and not for ever');
	like($out, qr/^first\nsecond/, 'it follows its table');
	like($err, qr/ERROR:  XX000: column 1 of the result has type 23, which has another size/,
		'a column of another type is an error, not a wild read');

	value_is("border.misread('well')", '9', 'results are read as what they are');
	error_is("select border.misread('text as bigint')",
		'XX000: column 3 of the result has type 25, which has another size', 'not text as bigint');
	error_is("select border.misread('bigint as text')",
		'XX000: column 2 of the result has type 20, which has another size', 'not bigint as text');
	error_is("select border.misread('int as bigint')",
		'XX000: column 1 of the result has type 23, which has another size', 'not int as bigint');
	error_is("select border.misread('row')", 'XX000: there is no row 1 with a column 1 in the result',
		'nor a row too far');
	error_is("select border.misread('column')", 'XX000: there is no row 0 with a column 6 in the result',
		'nor a column too far');
	error_is("select border.misread('no result')", 'XX000: there is no row 0 with a column 1 in the result',
		'nor what a statement without a result returned');

	error_is('select border.wrong_parameters(true)',
		'XX000: parameter 1 has type 20, but the statement declares 25', 'a parameter of a wrong type');
	error_is('select border.wrong_parameters(false)', 'XX000: statement got 0 parameters, but declares 1',
		'a parameter too few');

	my $session = $node->background_psql('postgres');
	$session->query_safe('begin isolation level repeatable read');
	is($session->query_safe('select border.read_latest(21)'), '0', 'a row that is not there');
	sql($node, "insert into border.target values (21, 'later')");
	is($session->query_safe('select border.read_latest(21)'), '1', 'read_latest sees it, its transaction does not');
	$session->query_safe('commit');
	is($session->query_safe('select border.read_latest(21)'), '11', 'then both do');
	$session->quit;
	return;
}

# --- arguments and results ---------------------------------------------------------------------------------------

sub arguments_are_checked
{
	my @good = ("'a flow'", '1', "'1 hour'", "'{2,3}'", "'{a,null}'");
	my $call = sub { 'border.arguments(' . join(', ', @_) . ')' };
	my $with = sub { my ($i, $value) = @_; my @values = @good; $values[$i] = $value; return $call->(@values) };

	value_is($call->(@good), 'a flow 6 3600000000 1', 'good arguments');
	value_is($with->(4, 'null'), 'a flow 6 3600000000 0', 'an optional one left out');
	value_is($with->(3, "'{}'"), 'a flow 1 3600000000 1', 'an empty array');
	value_is($with->(0, "repeat('x', 128)"), 'x' x 128 . ' 6 3600000000 1', 'the longest name');
	value_is($with->(2, "'1000 years'"), 'a flow 6 31104000000000000 1', 'a thousand years');

	my @names = qw(flow_name number lease numbers);
	error_is('select ' . $with->($_, 'null'), "22023: argument \"$names[$_]\" must not be null", "null $names[$_]")
	  foreach 0 .. 3;
	error_is('select ' . $with->(0, "''"), '22023: argument "flow_name" must not be empty', 'an empty name');
	error_is('select ' . $with->(0, "repeat('x', 129)"), '22023: argument "flow_name" is too long', 'a long name');
	error_is('select ' . $with->(0, "e'a\\nb'"), '22023: argument "flow_name" contains a control character',
		'a control character');
	error_is('select ' . $with->(2, "'-1 second'"), '22023: argument "lease" must not be negative',
		'a negative interval');
	error_is('select ' . $with->(3, "'{1,null}'"), '22023: argument "numbers" must not contain nulls',
		'a null in an array');
	error_is('select ' . $with->(3, "'{{1},{2}}'"), '22023: argument "numbers" must be a one-dimensional array',
		'a matrix');
	error_is("select border.misdeclared('{1}')", '42804: argument "labels" has elements of a wrong type',
		'an array that SQL declares otherwise');
	return;
}

sub sets_are_returned
{
	value_is('count(*) || \' \' || sum(i) || \' \' || count(label) from border.rows(10, 0)', '10 55 5',
		'a set in FROM');
	value_is('(border.rows(2, 0)).label', "a label\n", 'a set in the select list');
	my ($out) = session("set work_mem = '64kB';\nselect count(*), sum(i) from border.rows(100000, 0);\n"
		  . "select border.swallow('select * from border.rows(100000, 90000)') like '23514%';\n"
		  . "select * from border.rows(100000, 90000);\nselect border.live();");
	is($out, "100000|5000050000\nt\n0", 'a set larger than work_mem, whole and broken off');
	error_is('select * from border.rows(10, 5)', '23514: message 1', 'a set that breaks off');
	return;
}

# --- what it costs -----------------------------------------------------------------------------------------------

# sigsetjmp with the signal mask would take two system calls, and each time.
sub guards_are_cheap
{
	my %cost = map { $_ => sql($node, "select border.cost('$_', 20000)") }
	  ('pg_call', 'boundary', 'subtransaction', 'swallowed error');
	note("$_: $cost{$_} ns") foreach sort keys %cost;
	cmp_ok($cost{$_}, '<', 100, "$_ costs nanoseconds ($cost{$_})") foreach ('pg_call', 'boundary');
	return;
}

# --- the source --------------------------------------------------------------------------------------------------

# Rules that the compiler does not know.
sub sources_obey
{
	my $src = "$here/../../src";
	my @files = split /\n/, `find '$src' -name '*.cpp' -o -name '*.hpp'`;
	my $server_header = qr/(?:postgres\.h|fmgr|access\/|catalog\/|commands\/|executor\/|lib\/|nodes\/|storage\/|utils\/)/;
	cmp_ok(scalar @files, '>', 10, 'the sources are there');
	foreach my $file (sort @files)
	{
		my $name = $file =~ s{^\Q$src\E/}{}r;
		my $text = slurp_file($file) =~ s{//[^\n]*}{}gr;
		my @broken;
		push @broken, 'sigsetjmp' if $text =~ /\bsigsetjmp\b/ && $name !~ m{^pg/error\.};
		push @broken, 'PG_TRY' if $text =~ /\bPG_(?:TRY|CATCH|FINALLY)\b/;
		# Its headers are C, and come after those of C++, which pg/ includes.
		my $rest = $text =~ s/extern "C" \{.*?^\}//msgr;
		push @broken, 'a header of Postgres outside of extern "C"' if $rest =~ /#include "$server_header/;
		push @broken, 'a header of Postgres first'
		  if $text =~ /^(.*?)#include "$server_header/ms && $1 !~ /#include "[^"]+\.hpp"/ && $name ne 'pg/postgres.hpp';
		push @broken, 'Postgres in the core' if $name =~ m{^core/} && $text =~ /#include [<"]pg\//;
		push @broken, 'the version of the server'
		  if $text =~ /\bPG_VERSION_NUM\b/ && $name ne 'pg/compat.hpp';
		if ($name !~ m{^pg/(?:error|subtransaction)\.})
		{
			# The body of each catch of errors, up to the brace that stands as deep as the keyword. It throws on,
			# or throws another error, or keeps this one for code that aborts the transaction.
			my $throws = join '|', '\bthrow\b', '\bcurrent(?:_unless_stop)?\(\)',
			  map { "\\b$_\\(" } $text =~ /\[\[noreturn\]\][^;{(]*?\b(\w+)\(/g;
			while ($text =~ /^([ \t]*)(?:\} )?catch \((?:\.\.\.|[^\n]*(?:std::|Error))[^\n]*\{\n(.*?)^\1\}/msg)
			{
				my $body = $2;
				push @broken, 'an error swallowed' unless $body =~ /$throws/;
			}
		}
		is("@broken", '', "$name keeps the rules");
	}
	return;
}

fields_survive();
exceptions_have_sqlstates();
subtransactions_swallow();
memory_runs_out();
memory_is_aligned();
nothing_leaks();
cancels_unwind();
locks_unwind();
fatal_does_no_harm();
identity_is_restored();
statements_are_kept();
arguments_are_checked();
sets_are_returned();
guards_are_cheap();
sources_obey();

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'no process crashed');
# One is ours; the others are what Postgres says of the callbacks that commit_fails makes fail.
my %warnings = map { $_ => 1 } grep {
	!/^flow "a flow" is busy$|^AbortSubTransaction while in (?:COMMIT|ABORT) state$|^did not find subXID \d+ in MyProc$/
} $log =~ /WARNING:  ([^\n]*)/g;
is(join('; ', sort keys %warnings), '', 'Postgres had nothing to warn of');

$node->stop;
done_testing();
