# The triggers of the stream beside PgQ's: the same statements under pgq.jsontriga() and tasker.jsontriga(), and so for
# logutriga() and sqltriga(), in one cluster. Which statements fail, which events there are and every text of them must
# be the same. Where ours differ on purpose, as docs/triga.md says, both sides are shown to be what is said.

use strict;
use warnings;
use utf8;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('main');

if (sql($node, "select count(*) from pg_available_extensions where name = 'pgq'") eq '0')
{
	plan skip_all => 'the extension pgq is not installed';
}
sql($node, q{
	create extension pgq;
	select pgq.create_queue('q'), tasker.create_queue('q');
	create view pgq_events as select * from pgq.event_1;
	create type mood as enum ('sad', 'so "so"', 'happy');
	create type pair as (a int, b text);
	create domain small as int check (value < 1000);
	create domain label as text;
	create domain flag as boolean;
	create domain day as date;
	create domain numbers as int[];
});
sql($node, 'create view tasker_events as select * from '
	  . sql($node, q{select queue_data_pfx from tasker.queue where queue_name = 'q'}));

# Runs statements with the triggers of both extensions, each time in a transaction of its own, all in one session. In
# the text @ stands for the extension's schema and # for the function. Returns for each extension and function what psql
# printed, tags and rows, then the events of the transaction; and the errors apart. The time, ids and OIDs of a run are
# not compared.
sub outcomes
{
	my ($statements, @functions) = @_;
	my $script = "\\set ON_ERROR_ROLLBACK on\n\\set QUIET off\n\\pset null '(null)'\n";
	foreach my $function (@functions)
	{
		foreach my $extension (qw(pgq tasker))
		{
			my $text = $statements;
			$text =~ s/\@\.#\(/$extension.$function(/g;
			$text =~ s/\@/$extension/g;
			$script .= "\\echo ==$extension $function\n\\warn ==$extension $function\nbegin;\n$text\n"
			  . 'select ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4, ev_retry, ev_owner'
			  . " from public.${extension}_events where ev_txid = txid_current() and ev_time = now() order by ev_id;\nrollback;\n";
		}
	}
	my ($out, $err);
	utf8::encode($script);
	$node->psql('postgres', $script, stdout => \$out, stderr => \$err, on_error_stop => 0, extra_params => [ '-F', ' | ' ]);
	my %rows = (split /^==(\w+ \w+)\n/m, "\n$out")[ 1 .. 4 * @functions ];
	my %errors = (split /^==(\w+ \w+)\n?/m, "\n$err\n")[ 1 .. 4 * @functions ];
	s/\s+\z// foreach values %rows;
	$errors{$_} = [ $errors{$_} =~ /ERROR:\s+([^\n]*)/g ] foreach keys %errors;
	return (\%rows, \%errors);
}

my $compared = 0;

# Both print the same rows and tags, have the same events, and raise as many errors; for each of the functions, all three
# if none are named. Where patterns are given, the errors are those.
sub same
{
	my ($name, $statements, @functions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return both_fail($name, $statements, undef, undef, @functions);
}

sub both_fail
{
	my ($name, $statements, $their_error, $our_error, @functions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $equal = 1;
	@functions = qw(jsontriga logutriga sqltriga) unless @functions;
	my ($rows, $errors) = outcomes($statements, @functions);
	foreach my $function (@functions)
	{
		my ($ours, $theirs) = map { join "\n", $rows->{"$_ $function"}, scalar @{ $errors->{"$_ $function"} } . ' errors' } qw(tasker pgq);
		my ($our_errors, $their_errors) = map { join "\n", @{ $errors->{"$_ $function"} } } qw(tasker pgq);
		$compared += () = $ours =~ / \| /g;
		$equal &= is($ours, $theirs, "$name: $function") or diag("our errors:\n$our_errors\ntheir errors:\n$their_errors");
		like($their_errors, $their_error, "$name: $function: PgQ's error") if defined $their_error;
		like($our_errors, $our_error, "$name: $function: our error") if defined $our_error;
	}
	return $equal;
}

# What each side makes of it, where they differ.
sub differs
{
	my ($name, $function, $statements, $theirs, $ours) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($rows, $errors) = outcomes($statements, $function);
	my ($our_text, $their_text) = map { join "\n", $rows->{"$_ $function"}, @{ $errors->{"$_ $function"} } } qw(tasker pgq);
	like($their_text, $theirs, "$name: $function: PgQ");
	like($our_text, $ours, "$name: $function: Tasker");
	unlike($our_text, $theirs, "$name: $function: which is another");
	return;
}

# A trigger for the three changes of a row.
sub on
{
	my ($table, $arguments, $when) = @_;
	$when //= 'after';
	$arguments = defined $arguments && $arguments ne '' ? ", $arguments" : '';
	return "create trigger triga_$when $when insert or update or delete on $table for each row "
	  . "execute function \@.#('q'$arguments);\n";
}

# An argument of a trigger as an SQL literal.
sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }

my $plain = "create table t (id int primary key, name text, amount numeric, note text);\n";
my $changes = q{
	insert into t values (1, 'one', 1.50, null), (2, 'two''s', null, E'line\nbreak\ttab\\\\back');
	update t set name = 'eins' where id = 1;
	update t set amount = 2 where id = 1;
	update t set note = 'n', name = null;
	update t set name = name where id = 1;
	delete from t where id = 2;
	delete from t;
};

# --- rows and keys --------------------------------------------------------------------------------------------------

same('rows', $plain . on('t') . $changes);
same('backup', $plain . on('t', q{'backup'}) . $changes);
same('before', $plain . on('t', '', 'before') . $changes . 'select * from t;');
same('before with SKIP', $plain . on('t', q{'SKIP'}, 'before') . $changes . 'select * from t;');
same('SKIP of update and delete', $plain . "insert into t values (1, 'a'), (2, 'b');" . on('t', q{'SKIP', 'backup'}, 'before')
	  . "update t set name = 'x'; delete from t; table t;");
same('characters', $plain . on('t') . q{
	insert into t (id, name) select i, chr(i) from generate_series(1, 300) i;
	insert into t (id, name) values (1000, 'Ünïcödé €𝄞'), (1001, '{"a": "\\b"}'), (1002, ''), (1003, ' '), (1004, '%41+&='),
		(1005, E'''\\\\''"\\\\"'), (1006, 'null'), (1007, 'NULL'), (1008, E'\x7f\x01\x1f');
	update t set note = name;
});
same('key of two columns', q{create table t (b int, a text, c int, primary key (a, b));} . on('t', q{'backup'})
	  . q{insert into t values (1, 'x', 2); update t set c = 3; update t set c = null; update t set c = c; delete from t;});
same('only a key', q{create table t (id int primary key);} . on('t') . q{insert into t values (1); update t set id = 1; delete from t;});
same('no column', q{create table t ();} . on('t') . q{insert into t default values; delete from t;});
same('no key', q{create table t (a int, b int);} . on('t')
	  . q{insert into t values (1, 2); update t set b = 3; delete from t; table t;});
same('a unique index is no key', q{create table t (a int not null unique, b int);} . on('t')
	  . q{insert into t values (1, 2); update t set b = 3; delete from t;});
same('a deferrable key', q{create table t (id int primary key deferrable initially deferred, b int);} . on('t')
	  . q{insert into t values (1, 2); update t set b = 3; delete from t;});
both_fail('changed key', $plain . on('t') . q{insert into t values (1, 'a'); update t set id = 2; update t set id = 2, name = 'b'; table t;},
	qr/primary key update not allowed/, qr/primary key update not allowed/);
both_fail('changed key, one of two', q{create table t (a int, b text, c int, primary key (a, b));} . on('t')
	  . q{insert into t values (1, 'x', 2); update t set b = 'y'; update t set a = a + 0, c = 4;},
	qr/primary key update/, qr/primary key update/);
both_fail('no key at all', q{create table t (a int);} . on('t') . q{insert into t values (1); update t set a = 2;},
	qr/without pkey/, qr/which has no primary key/);

same("pkey=$_", q{create table t (a int, b text, c int);} . on('t', "'pkey=$_'")
	  . q{insert into t values (1, 'x', 2); update t set c = 3; update t set b = 'y'; update t set a = 5; update t set c = c; delete from t;})
  foreach ('a', 'a,b', 'b,a', 'a, b', ' a ,b', 'a b', 'a,c,b', 'b,nothing', '');
same('pkey= of a table with a key', $plain . on('t', q{'pkey=name'}) . $changes, qw(jsontriga logutriga));
same('pkey= of a table with a key, no null', $plain . on('t', q{'pkey=name'})
	  . q{insert into t values (1, 'a', 2); update t set id = 5; update t set amount = 3; delete from t;});
both_fail('a null in the key', q{create table t (a int, b int);} . on('t', q{'pkey=a'})
	  . q{insert into t values (null, 1); update t set b = 2; delete from t;},
	qr/Unexpected NULL key value/, qr/key column "a" of "public.t" is null/, 'sqltriga');
same('a null in the key', q{create table t (a int, b int);} . on('t', q{'pkey=a'})
	  . q{insert into t values (null, 1); update t set b = 2; update t set a = 1; update t set a = null; delete from t;},
	qw(jsontriga logutriga));
same('pkey= of no column', $plain . on('t', q{'pkey=nothing'}) . $changes, qw(jsontriga logutriga));
same('pkey= twice', q{create table t (a int, b int);} . on('t', q{'pkey=a', 'pkey=b'})
	  . q{insert into t values (1, 2); update t set a = 3; update t set b = 3;});

# --- columns that do not count --------------------------------------------------------------------------------------

foreach my $list ('note', 'note,amount', 'note, amount', 'amount note', 'nothing', '', 'id', 'id,name,amount,note', 'not', 'note,note')
{
	same("ignore=$list", $plain . on('t', "'ignore=$list'") . $changes . q{
		insert into t values (1, 'a', 1, 'n');
		update t set note = 'm'; update t set amount = 2; update t set note = 'o', amount = 3;
		update t set note = 'p', name = 'q'; update t set note = null; update t set note = null; update t set name = null;});
	same("ignore=$list with backup", $plain . on('t', "'backup', 'ignore=$list'") . $changes);
}
same('ignore= with pkey=', q{create table t (a int, b int, c int);} . on('t', q{'ignore=c', 'pkey=b'})
	  . q{insert into t values (1, 2, 3); update t set c = 4; update t set a = 4; update t set a = 5, c = 5; update t set b = 3; delete from t;});
both_fail('changed key in ignore=', $plain . on('t', q{'ignore=id'}) . q{insert into t values (1, 'a'); update t set id = 2;},
	qr/primary key update/, qr/primary key update/);
same('changed key after an ignored column', q{create table t (a int, id int primary key);} . on('t', q{'ignore=a'})
	  . q{insert into t values (1, 1); update t set a = 2, id = 2;});
same('names within names', q{create table t (id int primary key, ab int, abc int, "a b" int, b int);} . on('t', q{'ignore=abc'})
	  . q{insert into t values (1, 2, 3, 4, 5); update t set ab = 3; update t set abc = 4; update t set "a b" = 5;});
same('a name with a blank in ignore=', q{create table t (id int primary key, "a b" int, a int, b int, c int);} . on('t', q{'ignore=a b'})
	  . q{insert into t values (1, 2, 3, 4, 5); update t set a = 4; update t set "a b" = 5; update t set c = 6;});

# What is no change for the type's equality.
same('values that are equal', q{
	create table t (id int primary key, n numeric, f float8, j json, b jsonb, a int[], i interval, c pair, x text, d numbers, e "char");
} . on('t', $_) . q{
	insert into t values (1, 1.0, 0, '{"a":1}', '{"a":1}', '{1,2}', '24 hours', '(1,x)', 'a', '{1}', 'a');
	update t set n = 1.00; update t set f = '-0'; update t set j = '{"a": 1}'; update t set b = '{"a" : 1}';
	update t set a = '[0:1]={1,2}'; update t set i = '1 day'; update t set c = '(1,"x")'; update t set c = '(1,)';
	update t set a = null; update t set a = '{1,null}'; update t set x = 'A'; update t set d = '[0:0]={1}'; update t set e = '';
}) foreach ('', q{'ignore=x'}, q{'pkey=n'}, q{'pkey=a', 'ignore=id'}, q{'pkey=b'});
same('NaN and infinity', q{create table t (id int primary key, f float8, n numeric, d date);} . on('t')
	  . q{insert into t values (1, 'NaN', 'NaN', 'infinity'), (2, '-infinity', '-infinity', '-infinity');
	update t set f = f, n = n, d = d; update t set f = 'NaN', n = 1;});

# --- SKIP, deny, arguments that are wrong ---------------------------------------------------------------------------

both_fail('SKIP after', $plain . on('t', q{'SKIP'}) . q{insert into t values (1); table t;},
	qr/SKIP does not work in AFTER trigger/, qr/SKIP does not work in AFTER trigger/);
both_fail('deny', $plain . q{insert into t values (1, 'a');} . on('t', q{'deny'})
	  . q{insert into t values (2); update t set name = 'b'; update t set name = name; delete from t; table t;},
	qr/change not allowed \(INSERT\).*change not allowed \(UPDATE\).*change not allowed \(DELETE\)/s,
	qr/not allowed \(INSERT\).*not allowed \(UPDATE\).*not allowed \(DELETE\)/s);
same('deny of deletes', $plain . q{create trigger d before delete on t for each row execute function @.#('q', 'deny');
	insert into t values (1); delete from t; table t;});
same("argument $_", $plain . on('t', $_) . $changes)
  foreach (q{'nothing'}, q{'Skip'}, q{'BACKUP'}, q{'ignore'}, q{'ev_extra5=1'}, q{''}, q{'when'}, q{'ev_type'}, q{'ev_owner=1'}, q{' backup'});
same('no queue', $plain . q{create trigger d after insert on t for each row execute function @.#(); insert into t values (1); table t;});
both_fail('a queue that is not there', $plain . q{create trigger d after insert on t for each row execute function @.#('nothing');
	insert into t values (1); table t;}, qr/No such queue/, qr/queue "nothing" does not exist/);
both_fail('for each statement', $plain . q{create trigger d after insert or delete on t for each statement execute function @.#('q');
	insert into t values (1); delete from t; table t;}, qr/must be fired FOR EACH ROW/, qr/must be one FOR EACH ROW/);
same('not a trigger', 'select @.#();');

# --- TRUNCATE -------------------------------------------------------------------------------------------------------

foreach my $when (qw(before after))
{
	same("TRUNCATE $when $_", $plain . "insert into t values (1);"
		  . "create trigger r $when truncate on t for each statement execute function \@.#('q'$_); truncate t; table t;")
	  foreach ('', q{, 'SKIP'}, q{, 'deny'}, q{, 'backup'}, q{, 'ignore=note'}, q{, 'pkey=id'}, q{, 'ignore='},
		q{, 'ev_extra3=1'}, q{, 'when=true'}, q{, 'nothing'});
}
same('TRUNCATE of a table without a key', q{create table t (a int); create trigger r after truncate on t for each statement
	execute function @.#('q'); truncate t;});
same('TRUNCATE with magic columns', q{create table t (id int primary key, _pgq_ev_type text); create trigger r after truncate on t
	for each statement execute function @.#('q'); truncate t;});
same('TRUNCATE cascade', $plain . q{create table u (id int primary key references t);
	create trigger r after truncate on t for each statement execute function @.#('q');
	create trigger r after truncate on u for each statement execute function @.#('q'); truncate t cascade;});

# --- expressions ----------------------------------------------------------------------------------------------------

same("when=$_", $plain . on('t', literal("when=$_")) . $changes)
  foreach ('true', 'false', 'id = 1', 'id > 1', 'name is not null', q{id = 1 and name like 'o%'}, 'not (id = 1)', 'coalesce(amount, 0) < 2',
	'exists (select from pg_class where oid = 0)', 'null::bool', q{name = 'one'}, '1', 'amount', 'true, false', '', 'nothing',
	'(select true where false)', 'generate_series(1,2) = 1', 'nothing = 1', 'id = ', 'unnest(array[true,true])', 'id = 1 /* name */ -- amount',
	'true limit 0', 'true; select false', 'true where id = 1', 'flag from (values (true)) v(flag)', 'id=1', 'id<>1', 'name~*$$ONE$$');
foreach my $field (qw(ev_type ev_data ev_extra1 ev_extra2 ev_extra3 ev_extra4))
{
	same("$field=$_", $plain . on('t', literal("$field=$_")) . $changes)
	  foreach ('id', 'name', 'null', q{name || ' ' || id}, q{'text'}, q{''});
	same("$field= with backup", $plain . on('t', qq{'$field=coalesce(note, name)', 'backup'}) . $changes);
}
same("ev_extra3=$_", $plain . on('t', literal("ev_extra3=$_")) . $changes)
  foreach (
	'amount', 'amount + id', 'row(id, name)', 'array[id, 2]', 'id = 1', 'now() - now()', '1.50', q{'2024-02-29'::date},
	'(select max(oid) from pg_class where oid < 10)', '(select name from (select 1) x)', 'case when id = 1 then name else note end',
	'upper(name)', 'upper ( name )', 'length(name)::text', 'name::varchar(2)', 'cast(amount as int)', '$q$name id$q$', q{'name'},
	q{E'\\nname\\'name'}, q{'it''s name'}, 't.name', 'name.x', 'name, id', '*', '', ' ', '-- nothing',
	'count(*) from pg_class where relname = name', '1 from generate_series(1, 3)', '1 from generate_series(1, 0)', '1/0', '1 / (id - 1)',
	'$1', 'current_user', 'pg_typeof(id)', 'pg_typeof(name)', 'pg_typeof(amount)', q{format('%s:%s', id, name)}, 'id;', 'id; select name',
	'xmin', 'ctid', 'tableoid', 'id as name2', 'to_json(name)', q{jsonb_build_object('id', id)}, q{current_setting('datestyle')},
	'sum(id)', 'id order by name', 'distinct id', 'all id', 'md5(name)', '(note)', 'id%2', 'id<2', '-id', 'id::pair');
same('two expressions for one field', $plain . on('t', q{'ev_extra3=id', 'ev_extra3=name'}) . $changes);
same('all fields', $plain . on('t', q{'ev_type=name', 'ev_data=id', 'ev_extra1=amount', 'ev_extra2=note', 'ev_extra3=''x''', 'ev_extra4=id+1', 'when=id>0'})
	  . $changes);
same('mixed case without quotes', q{create table t (id int primary key, "Id" int, "ID" int);} . on('t', q{'ev_extra3=Id', 'ev_extra4=ID+id'})
	  . q{insert into t values (1, 2, 3); update t set "Id" = 4;});
same('words that are no columns', $plain . on('t', q{'ev_extra3=name || (select string_agg(relname::text, '','') from pg_class where oid < id)'}) . $changes);
same('values of all kinds', q{create table t (id int primary key, j jsonb, a int[], c pair, d small, e mood, ts timestamptz);}
	  . on('t', q{'ev_extra1=j->>''k''', 'ev_extra2=a[2]', 'ev_extra3=(c).b', 'ev_extra4=d + 1', 'ev_type=e', 'ev_data=extract(year from ts)'})
	  . q{insert into t values (1, '{"k": "v"}', '{1,2}', '(1,x)', 5, 'happy', '2024-02-29 12:00+00'), (2); update t set a[2] = 7 where id = 1;});
same('a function of the caller', $plain . q{
	create function public.label_of(text) returns text language plpgsql as $$begin return 'label ' || coalesce($1, '?'); end$$;
} . on('t', q{'ev_extra3=label_of(name)'}) . $changes);
same('a function that fails', $plain . q{
	create function public.picky(text) returns text language plpgsql as $$begin if $1 is null then raise 'null'; end if; return $1; end$$;
} . on('t', q{'ev_extra3=picky(name)'}) . $changes . 'table t;');
same('a replaced function', $plain . q{create function public.f(int) returns text language sql as 'select ''first''';} . on('t', q{'ev_extra3=f(id)'})
	  . q{insert into t values (1); create or replace function public.f(int) returns text language sql as 'select ''second'''; insert into t values (2);});
same('search_path at the time of the change', $plain . q{create schema one; create schema two;
	create function one.f() returns text language sql as 'select ''one'''; create function two.f() returns text language sql as 'select ''two''';
} . on('t', q{'ev_extra3=f()'}) . q{set search_path = public, one; insert into t values (1); set search_path = public, two; insert into t values (2);});
same('the row is not yet to be seen', $plain . on('t', q{'ev_extra3=count(*) from t'}) . on('t', q{'ev_extra3=count(*) from t'}, 'before') . $changes);
same('a deferred trigger', $plain . q{create constraint trigger c after insert or update or delete on t deferrable initially deferred
	for each row execute function @.#('q', 'ev_extra3=count(*) from t');} . $changes . 'set constraints all immediate;');
same('fired within itself', $plain . q{
	create function public.more(int) returns int language plpgsql as $$begin
		if $1 < 3 then insert into t values ($1 + 1, 'inner'); end if; return $1; end$$;
} . on('t', q{'ev_extra3=more(id)', 'backup'}) . q{insert into t values (1, 'outer'); table t;});

# --- magic columns --------------------------------------------------------------------------------------------------

my $magic = q{create table t (id int primary key, name text, _pgq_ev_type text, _pgq_ev_data text, _pgq_ev_extra1 text,
	_pgq_ev_extra2 int, _pgq_ev_extra3 timestamp, _pgq_ev_extra4 boolean);};
my $magic_changes = q{
	insert into t values (1, 'a', 'type', 'data', 'e1', 2, '2024-02-29', true), (2, 'b');
	update t set name = 'c'; update t set _pgq_ev_type = 'other'; update t set name = 'd', _pgq_ev_data = 'more'; update t set id = id;
	delete from t;};
same('magic columns', $magic . on('t', $_) . $magic_changes)
  foreach ('', q{'backup'}, q{'ignore=name'}, q{'ignore='}, q{'ev_type=name', 'ev_extra3=_pgq_ev_type'}, q{'when=_pgq_ev_extra4'}, q{'pkey=_pgq_ev_type'},
	q{'pkey=id,_pgq_ev_type'});
same('magic columns and SKIP', $magic . on('t', q{'SKIP'}, 'before') . $magic_changes);
both_fail('an unknown magic column', q{create table t (id int primary key, _pgq_ev_nothing text);} . on('t')
	  . q{insert into t values (1, 'x'); table t;}, qr/Unknown magic column: _pgq_ev_nothing/, qr/unknown magic column "_pgq_ev_nothing"/);
same('an unknown magic column that nobody asks for', q{create table t (id int primary key, a int, _pgq_ev_nothing text); insert into t values (1, 2);}
	  . on('t', q{'ignore=a'}) . q{update t set a = 3;});
same('almost magic', q{create table t (id int primary key, _pgq_ev text, pgq_ev_type text);} . on('t') . q{insert into t values (1, 'x', 'y');});

# --- types ----------------------------------------------------------------------------------------------------------

my @types = (
	[ 'boolean', 'true', 'false' ], [ 'smallint', -32768, 32767 ], [ 'int', -2147483648, 0 ], [ 'bigint', '-9223372036854775808', 7 ],
	[ 'numeric', '1.50', '1e30', 'NaN', '-infinity' ], [ 'numeric(5,2)', '1.5' ], [ 'real', '1.1', '1e20', '-0', 'NaN' ],
	[ 'float8', '0.1', '1e300', 'infinity' ], [ 'text', '', 'a b' ], [ 'varchar(10)', 'äöü' ], [ 'char(5)', 'ab' ], [ '"char"', 'x', '' ],
	[ 'name', 'a name' ], [ 'bytea', '\\x00ff', 'abc' ], [ 'date', '2024-02-29', 'infinity', '-infinity', '0044-03-15 BC', '12345-01-01' ],
	[ 'time', '12:34:56.789' ], [ 'timetz', '12:34:56+05:30' ],
	[ 'timestamp', '2024-02-29 12:34:56.789', 'infinity', '0044-03-15 01:02:03 BC', '2000-01-01', '294276-12-31 23:59:59.999999' ],
	[ 'timestamptz', '2024-02-29 12:34:56.789+03', '-infinity', '0044-03-15 01:02:03+00 BC', '1800-01-01 00:00+00', '2024-07-01 00:00+00' ],
	[ 'timestamp(0)', '2024-02-29 12:34:56.789' ], [ 'interval', '1 year 2 mons -3 days 04:05:06.7', '-1 second' ],
	[ 'json', '{"a": [1, "x\\ny"]}', 'null' ], [ 'jsonb', '{"b":1,"a":"\\u00e9"}', '"s"' ], [ 'xml', '<a b="c">d &amp; e</a>' ],
	[ 'uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' ], [ 'inet', '10.0.0.1/8', '::1' ], [ 'cidr', '10.0.0.0/8' ], [ 'macaddr', '08:00:2b:01:02:03' ],
	[ 'point', '(1.5,2)' ], [ 'box', '(1,2),(3,4)' ], [ 'int4range', '[1,5)', 'empty' ], [ 'tstzrange', '[2024-01-01 00:00+00,)' ],
	[ 'int4multirange', '{[1,3),[5,7)}' ], [ 'tsvector', 'a:1 b:2' ], [ 'tsquery', 'a & b' ], [ 'bit(4)', '1010' ], [ 'varbit', '101' ],
	[ 'money', '12.34', '-1' ], [ 'oid', 4294967295 ], [ 'regclass', 'pg_class' ], [ 'regtype', 'int' ], [ 'xid8', 7 ], [ 'pg_lsn', '0/10' ],
	[ 'int[]', '{1,null,3}', '{}', '{{1,2},{3,4}}', '[2:3]={1,2}' ], [ 'text[]', '{a,"b c","d\\"e",null,"null",""}' ], [ 'boolean[]', '{t,f}' ],
	[ 'timestamptz[]', '{2024-02-29 12:00+00}' ], [ 'mood', 'sad', 'so "so"' ], [ 'pair', '(1,"a b")', '(,)' ], [ 'pair[]', '{"(1,x)"}' ], [ 'mood[]', '{happy}' ],
	[ 'small', 5 ], [ 'label', 'l' ], [ 'flag', 'true' ], [ 'day', '2024-02-29' ], [ 'numbers', '{1,2}' ], [ 'jsonpath', '$.a' ], [ 'aclitem', 'postgres=r/postgres' ]);

foreach my $type (@types)
{
	my ($sql, @values) = @$type;
	my @rows = map { my $v = $values[$_]; $v =~ s/'/''/g; "($_, '$v')" } 0 .. $#values;
	my $all = "create table t (id int primary key, v $sql, w int);\n" . on('t', q{'backup', 'ev_extra3=v', 'ev_extra4=pg_typeof(v)'})
	  . 'insert into t values ' . join(', ', @rows) . ', (100, null); update t set w = 1; update t set v = null; delete from t;';
	same("type $sql", $all);
	same("type $sql as the key", "create table t (v $sql, w int);\n" . on('t', q{'pkey=v'})
		  . 'insert into t (w, v) values ' . join(', ', @rows) . '; update t set w = 100; update t set v = v; delete from t;');
}
my $dated = "create table t (id int primary key, d date, ts timestamp, tz timestamptz, i interval, f float8, b bytea, s text, tr tstzrange);\n"
  . on('t', q{'ev_extra3=tz', 'ev_extra4=s'})
  . q{insert into t values (1, '2024-02-29', '2024-02-29 12:34:56.5', '2024-02-29 12:34:56.5+00', '1 day 02:03', 1.1::real, '\\x01ff', 'a\\b''c',
	'[2024-01-01 00:00+00,2024-07-01 00:00+00)'); update t set d = d + 1;};
same("set $_", "set local $_;\n$dated")
  foreach (q{datestyle = 'SQL, DMY'}, q{datestyle = 'German'}, q{datestyle = 'Postgres'}, q{timezone = 'Europe/Berlin'}, q{timezone = 'Asia/Kolkata'},
	q{timezone = 'America/St_Johns'}, q{intervalstyle = 'iso_8601'}, q{extra_float_digits = 0}, q{bytea_output = 'escape'},
	q{standard_conforming_strings = off}, q{lc_monetary = 'C'}, q{quote_all_identifiers = on});

# --- tables of all kinds --------------------------------------------------------------------------------------------

same('generated columns', q{create table t (id int generated always as identity primary key, a int, g int generated always as (a * 2) stored, d timestamp default '2024-01-01');}
	  . on('t', $_ eq 'before' ? '' : q{'backup'}, $_) . q{insert into t (a) values (1), (2); update t set a = 3; update t set d = null; delete from t;})
  foreach (qw(before after));
same('dropped and added columns', $plain . q{insert into t values (1, 'a', 2, 'n');} . on('t', q{'backup'}) . q{
	update t set name = 'b'; alter table t drop column name; update t set amount = 3; alter table t add column extra text default 'x';
	update t set amount = 4; alter table t add column _pgq_ev_extra4 text default 'magic'; update t set amount = 5; insert into t values (2, 1, 'm', 'y');
	alter table t drop column _pgq_ev_extra4; delete from t;});
same('renamed', $plain . on('t') . q{insert into t values (1, 'a'); alter table t rename to u; insert into u values (2, 'b');
	alter table u rename column name to title; update u set title = 'c'; create schema other; alter table u set schema other; update other.u set note = 'n';});
same('another key', $plain . on('t') . q{insert into t values (1, 'a'); update t set note = 'x'; alter table t drop constraint t_pkey; update t set note = 'y';
	alter table t add primary key (name); update t set note = 'z'; update t set id = 5;});
same('another type', $plain . on('t', q{'ev_extra3=amount'}) . q{insert into t values (1, 'a', 2); alter table t alter amount type text; update t set amount = 'b';
	alter table t alter id type bigint; update t set amount = 'c';});
same('rolled back changes', $plain . on('t') . q{insert into t values (1, 'a'); savepoint s; alter table t rename to u; alter table u add column x int; insert into u values (2, 'b');
	rollback to s; insert into t values (3, 'c'); savepoint s2; alter table t drop column name; update t set note = 'x'; rollback to s2; update t set note = 'y';});
same('a replaced trigger', $plain . q{create trigger x after insert on t for each row execute function @.#('q', 'ev_extra3=1'); insert into t values (1);
	create or replace trigger x after insert on t for each row execute function @.#('q', 'ev_extra4=2'); insert into t values (2);
	create or replace trigger x after insert on t for each row execute function @.jsontriga('q'); insert into t values (3);
	drop trigger x on t; insert into t values (4); create trigger x after insert on t for each row execute function @.logutriga('q'); insert into t values (5);});
same('names that need quotes', q{create schema "S""x.y"; create table "S""x.y"."T 'a' \\ %" ("Key Col" int, "k,2" text, "a""b" text, "select" int, "ünï" int, "é" int, "UP" text, primary key ("Key Col"));}
	  . on(q{"S""x.y"."T 'a' \\ %"}, q{'backup', 'ev_extra3=UP'}) . q{insert into "S""x.y"."T 'a' \\ %" values (1, 'x', 'y', 2, 3, 4, 'U');
	update "S""x.y"."T 'a' \\ %" set "a""b" = 'z', "select" = 5, "UP" = null; delete from "S""x.y"."T 'a' \\ %";}, qw(logutriga));
same('names that need quotes', q{create schema "S""x.y"; create table "S""x.y"."T 'a' \\ %" (key_col int primary key, "k,2" text, "a""b" text, "select" int, "ünï" int, "é" int, "UP" text);}
	  . on(q{"S""x.y"."T 'a' \\ %"}, q{'backup'}) . q{insert into "S""x.y"."T 'a' \\ %" values (1, 'x', 'y', 2, 3, 4, 'U');
	update "S""x.y"."T 'a' \\ %" set "a""b" = 'z', "select" = 5, "UP" = null; delete from "S""x.y"."T 'a' \\ %";});
same('names of 63 bytes', 'create table ' . 't' x 63 . ' (' . 'k' x 63 . ' int primary key, ' . 'c' x 63 . ' int);' . on('t' x 63, q{'ev_extra3=} . 'c' x 63 . q{'})
	  . 'insert into ' . 't' x 63 . ' values (1, 2); update ' . 't' x 63 . ' set ' . 'c' x 63 . ' = 3;');
my $parted = q{create table t (id int, part int, v text, primary key (id, part)) partition by list (part);
	create table t1 partition of t for values in (1); create table t2 (v text, gone int, part int not null, id int not null); alter table t2 drop column gone;
	alter table t attach partition t2 for values in (2);};
my $parted_changes = q{insert into t values (1, 1, 'a'), (2, 2, 'b'); update t set v = 'c'; insert into t1 values (3, 1, 'd'); delete from t where id = 2;};
same('partitions', $parted . on('t', q{'backup', 'ev_extra3=v', 'when=id<100'}) . $parted_changes . q{truncate t;
	create table t3 partition of t for values in (3); insert into t values (5, 3, 'e'); alter table t detach partition t1; insert into t1 values (7, 1, 'f');});
same('a row that changes its partition', $parted . on('t', q{'backup'}) . $parted_changes . q{update t set part = 2 where id = 1; table t;});
same('partitions before', $parted . on('t', q{'SKIP'}, 'before') . $parted_changes . q{table t;});
same('TRUNCATE of partitions', $parted . q{create trigger r after truncate on t for each statement execute function @.#('q'); truncate t;
	create trigger r after truncate on t1 for each statement execute function @.#('q'); truncate t; truncate t1;});
same('inheritance', $plain . q{create table c (more int, primary key (id)) inherits (t);} . on('t') . on('c') . q{insert into c values (1, 'a', 2, 'n', 3); update t set note = 'm'; delete from t;});
same('a temporary table', q{create temp table t (id int primary key, v text);} . on('t', q{'ev_extra1=''temporary'''})
	  . q{insert into t values (1, 'a'); update t set v = 'b'; delete from t;}, qw(logutriga sqltriga));
same('an unlogged table', q{create unlogged table t (id int primary key, v text);} . on('t') . q{insert into t values (1, 'a');});
same('a view', q{create view t as select 1 as id, 'x'::text as v, 2 as w;} . on('t', $_, 'instead of') =~ s/triga_instead of/triga_view/r
	  . q{insert into t values (3, 'y', 4); update t set v = 'z'; update t set w = w; update t set id = 2; delete from t;})
  foreach (q{}, q{'pkey=id'}, q{'pkey=id', 'SKIP'}, q{'pkey=id', 'ignore=v', 'backup'});
same('COPY', $plain . on('t', q{'when=id<>3', 'ev_extra3=name'}) . "copy t from stdin;\n1\ta\t1.5\t\\N\n2\tb\\\\c\t\\N\tx\ty\n\\.\ncopy t (id, name) from stdin;\n3\tc\n4\td\n5\te\n\\.\ntable t;");
same('COPY before with SKIP', $plain . on('t', q{'SKIP'}, 'before') . "copy t from stdin;\n1\ta\t1.5\t\\N\n2\tb\t\\N\tx\n\\.\ntable t;");
same('upsert', $plain . on('t', q{'backup'}) . q{insert into t values (1, 'a') on conflict (id) do update set name = excluded.name;
	insert into t values (1, 'b'), (2, 'c') on conflict (id) do update set name = excluded.name; insert into t values (1, 'x') on conflict do nothing;});
same('MERGE', $plain . on('t') . q{insert into t values (1, 'a'), (2, 'b'); merge into t using (values (1, 'x'), (3, 'y')) v(id, name) on t.id = v.id
	when matched then update set name = v.name when not matched then insert (id, name) values (v.id, v.name);
	merge into t using (values (1)) v(id) on t.id = v.id when matched then delete;});
same('foreign key', $plain . q{create table u (id int primary key, t int references t on delete cascade on update cascade);
	insert into t values (1, 'a'), (2, 'b'); insert into u values (10, 1), (20, 2);} . on('u', q{'ev_extra3=t'}) . on('t') . q{delete from t where id = 1;});
same('WHEN and UPDATE OF', $plain . q{create trigger a after update of name on t for each row when (new.id < 3) execute function @.#('q'); insert into t values (1, 'a'), (5, 'b');
	update t set name = 'c'; update t set note = 'n';});
same('changed by another trigger', $plain . q{create function public.stamp() returns trigger language plpgsql as $$begin new.note := 'stamped'; return new; end$$;
	create trigger a_first before insert or update on t for each row execute function public.stamp();} . on('t', q{'SKIP'}, 'before') . on('t') . $changes . 'table t;');
same('two triggers', $plain . q{create trigger a after insert or update on t for each row execute function @.#('q', 'ev_extra3=''a''', 'ignore=name');
	create trigger b after insert or update on t for each row execute function @.#('q', 'ev_extra3=''b''', 'backup');
	create trigger c after insert or update on t for each row execute function @.jsontriga('q', 'when=id=2');} . $changes);
same('savepoints', $plain . on('t') . q{insert into t values (1, 'a'); savepoint a; insert into t values (2, 'b'); rollback to a; insert into t values (3, 'c');
	savepoint b; update t set name = 'd'; release b;});
same('1,600 columns', 'create table t (id int primary key, ' . join(', ', map { "c$_ " . (qw(int text boolean date)[ $_ % 4 ]) } 1 .. 1598) . ');'
	  . on('t', q{'backup', 'ev_extra3=c1597', 'ignore=c5,c6'})
	  . q{insert into t (id, c4, c5, c6, c7, c1597) values (1, 5, 'x', true, '2024-01-01', 'y'); update t set c6 = false; update t set c8 = 3; delete from t;});
same('values out of line', q{create table t (id int primary key, big text, other text, n int); alter table t alter big set storage external;}
	  . on('t', q{'backup', 'ev_extra3=length(big)', 'ev_extra4=md5(big)'}) . q{
	insert into t values (1, repeat('a\\"', 100000), repeat('b', 1000000), 1); update t set n = 2; update t set other = repeat('b', 1000000);
	update t set big = big || '!'; delete from t;});

# --- session_replication_role ---------------------------------------------------------------------------------------

foreach my $role (qw(origin local replica))
{
	same("session_replication_role $role, $_->[0]", $plain . "insert into t values (1, 'a');" . on('t', $_->[1], $_->[2]) . ($_->[3] // '')
		  . "set local session_replication_role = $role; insert into t values (2, 'b'); update t set name = 'c'; delete from t where id = 2; table t;")
	  foreach ([ 'after', '', 'after' ], [ 'before', '', 'before' ], [ 'SKIP', q{'SKIP'}, 'before' ], [ 'deny', q{'deny'}, 'before' ],
		[ 'enabled always', '', 'after', 'alter table t enable always trigger triga_after;' ],
		[ 'enabled for replicas', '', 'after', 'alter table t enable replica trigger triga_after;' ],
		[ 'disabled', '', 'after', 'alter table t disable trigger triga_after;' ], [ 'with a wrong argument', q{'nothing'}, 'after' ]);
	same("session_replication_role $role, TRUNCATE", $plain . "create trigger r before truncate on t for each statement execute function \@.#('q');"
		  . "set local session_replication_role = $role; truncate t;");
}

# --- tables, triggers and statements by chance -----------------------------------------------------------------------

my $seed = $ENV{TASKER_TEST_SEED} // 20261121;
srand($seed);
note("seed $seed");

sub one_of { return $_[ rand @_ ]; }
sub some_of { my ($share, @list) = @_; return grep { rand() < $share } @list; }

# A value of a type, now and then null.
sub any_value
{
	my ($type, $not_null) = @_;
	return 'null' if !$not_null && rand() < 0.2;
	my (undef, @values) = @$type;
	return literal(one_of(@values));
}

# No key is null: of one, PgQ's sqltriga() complains even where "when=" wants no event.
sub random_case
{
	my @keyless = qw(json xml point box);
	my %type = map { ("c$_" => one_of(@types)) } 1 .. 1 + int rand 6;
	my @columns = sort keys %type;
	my $own_key = rand() < 0.8;
	my @given = $own_key && rand() < 0.8 ? () : ('id', some_of(0.3, grep { my $t = $type{$_}[0]; !grep { $t eq $_ } @keyless } @columns));
	my @options = some_of(0.3, q{'backup'}, literal('ignore=' . join(one_of(',', ', ', ' '), some_of(0.4, @columns))),
		literal('when=' . one_of('id%2=1', 'true', "$columns[0] is null", 'id<4')), literal("ev_extra3=$columns[-1]"),
		literal("ev_type=id||coalesce($columns[0]::text,'-')"));
	push @options, literal('pkey=' . join(',', @given)) if @given;
	my $skip = rand() < 0.2;
	push @options, q{'SKIP'} if $skip;
	my %key = map { $_ => 1 } @given;
	my @free = grep { !$key{$_} } @columns;

	my $text = 'create table t (id int' . ($own_key ? ' primary key' : '') . join('', map { ", $_ $type{$_}[0]" } @columns) . ");\n";
	$text .= "insert into t values ($_" . join('', map { ', ' . any_value($type{$_}, $key{$_}) } @columns) . ");\n" foreach 1 .. 3;
	$text .= on('t', join(', ', @options), $skip || rand() < 0.3 ? 'before' : 'after');
	foreach my $id (4 .. 15)
	{
		my ($column, $other) = (one_of(@free), one_of(@free));
		my $where = rand() < 0.3 ? '' : 'where id = ' . (1 + int rand $id);
		my $kind = rand();
		if ($kind < 0.35 || !@free) { $text .= "insert into t (id, " . join(', ', @columns) . ") values ($id" . join('', map { ', ' . any_value($type{$_}, $key{$_}) } @columns) . ");\n"; }
		elsif ($kind < 0.65) { $text .= "update t set $column = " . any_value($type{$column}) . " $where;\n"; }
		elsif ($kind < 0.75 && $column ne $other) { $text .= "update t set $column = " . any_value($type{$column}) . ", $other = $other $where;\n"; }
		elsif ($kind < 0.85) { $text .= "update t set $column = $column $where;\n"; }
		elsif ($kind < 0.9) { $text .= "alter table t add column a$id text default 'added $id';\n"; }
		else { $text .= "delete from t $where;\n"; }
	}
	return $text . 'select count(*) from t;';
}

for my $n (1 .. 80)
{
	my $case = random_case();
	same("by chance, $n", $case) or diag($case);
}

# What jsontriga() writes is JSON, with every value of every type.
same('JSON', 'create table t (id serial primary key, ' . join(', ', map { "c$_ $types[$_][0]" } 0 .. $#types) . ');' . on('t', q{'backup'})
	  . join('', map { my $c = $_; map { "insert into t (c$c) values (" . literal($_) . ');' } @{ $types[$c] }[ 1 .. $#{ $types[$c] } ] } 0 .. $#types)
	  . q{update t set id = id; select count(ev_type::jsonb), count(ev_data::jsonb), count(ev_extra2::jsonb) from public.@_events where ev_txid = txid_current();},
	'jsontriga');

# --- where ours differ, see docs/triga.md ---------------------------------------------------------------------------

my $keyed = q{create table t (id int primary key, v text);} . on('t');
differs('a renamed key column', 'jsontriga', $keyed . q{insert into t values (1, 'a'); alter table t rename id to key; update t set v = 'b';},
	qr/"pkey":\["id"\]\} \| \{"key":1,"v":"b"\}/, qr/"pkey":\["key"\]\} \| \{"key":1,"v":"b"\}/);
differs('a renamed key column', 'sqltriga', $keyed . q{insert into t values (1, 'a'); alter table t rename id to key; update t set v = 'b';},
	qr/U \| v='b' where  \|/, qr/U \| v='b' where key='1' \|/);
differs('a renamed schema', 'logutriga', q{create schema one; create table one.t (id int primary key);} . on('one.t')
	  . q{insert into one.t values (1); alter schema one rename to two; insert into two.t values (2);}, qr/id=2 \| one\.t/, qr/id=2 \| two\.t/);
differs('columns that a key carries along', 'logutriga', q{create table t (id int, v text, primary key (id) include (v));} . on('t')
	  . q{insert into t values (1, 'a'); update t set v = 'b';}, qr/I:id,v .*primary key update not allowed/s, qr/I:id \| .*U:id \| id=1&v=b/s);
differs('a key named like part of another column', 'sqltriga', q{create table t ("a b" int primary key, a int);} . on('t')
	  . q{insert into t values (1, 2); update t set a = 3;}, qr/primary key update not allowed/, qr/U \| a='3' where "a b"='1'/);
differs('a changed key behind a changed column', 'jsontriga', q{create table t (a int, b int, id int primary key);} . on('t', q{'ignore=b'})
	  . q{insert into t values (1, 1, 1); update t set a = 2, id = 2;}, qr/"op":"UPDATE".*"id":2/, qr/primary key update not allowed/);
differs('no column of pkey= there', 'sqltriga', q{create table t (a int, b int);} . on('t', q{'pkey=nothing'})
	  . q{insert into t values (1, 2); update t set b = 3; delete from t;}, qr/U \| b='3' where  \|.*D \|  \|/s,
	qr/has none of the columns "nothing" of pkey=.*has none of the columns/s);
differs('quoted names in expressions', 'logutriga', q{create table t (id int primary key, "A col" int);} . on('t', q{'ev_extra3="A col"+"id"'})
	  . q{insert into t values (1, 2);}, qr/ERROR|does not exist|syntax/, qr/public\.t \| \(null\) \| 3/);
differs('a quoted collation', 'logutriga', $plain . on('t', q{'ev_extra3=name collate "C"'}) . q{insert into t values (1, 'a');},
	qr/QB: syntax error/, qr/public\.t \| \(null\) \| a/);
differs('letters beyond ASCII', 'logutriga', q{create table t (id int primary key, "ünï" int);} . on('t', q{'ev_extra3=ünï'})
	. q{insert into t values (1, 2);}, qr/QB: syntax error|does not exist/, qr/public\.t \| \(null\) \| 2/);
differs('capitals without quotes', 'logutriga', q{create table t (id int primary key);} . on('t', q{'ev_extra3=ID'})
	  . q{insert into t values (1);}, qr/does not exist/, qr/public\.t \| \(null\) \| 1/);
differs('a column named like a type or function', 'logutriga', q{create table t (id int primary key, date text, upper text);}
	  . on('t', q{'ev_extra3=date::date', 'ev_extra4=upper(upper)'}) . q{insert into t values (1, '2024-02-29', 'x');}, qr/syntax error/,
	qr/2024-02-29 \| X/);
differs('when= comes first', 'logutriga', q{create table t (id int primary key);} . on('t', q{'when=id<>0', 'ev_extra3=1/id'})
	  . q{insert into t values (0), (1);}, qr/division by zero/, qr/id=1 \| public\.t \| \(null\) \| 1 /);
differs("the column's collation", 'logutriga', q{create table t (id int primary key, v text collate "C");} . on('t', q{'ev_extra3=pg_collation_for(v)'})
	  . q{insert into t values (1, 'a');}, qr/\| "default" \|/, qr/\| "C" \|/);
differs('skip in small letters', 'logutriga', $plain . on('t', q{'skip'}, 'before') . q{insert into t values (1); select count(*) from t;},
	qr/bad param to pgq trigger/, qr/INSERT 0 0\n0\n/);

# --- PgQ's triggers replaced, as docs/triga.md says -----------------------------------------------------------------

my ($replace) = slurp_file("$FindBin::Bin/../../docs/triga.md") =~ /^```sql\n(select replace\(.*?);\n```$/msg;
sql($node, q{
	create table public."Old one" (id int primary key, part int, v text);
	create trigger "T 1" after insert or update of v on public."Old one" for each row when (new.id > 0)
		execute function pgq.jsontriga('q', 'ev_extra3=v || ''s''', 'ignore=part');
	create trigger t2 before truncate on public."Old one" for each statement execute function pgq.logutriga('q', 'deny');
	create table public.parts (id int primary key) partition by range (id);
	create table public.parts_1 partition of public.parts for values from (0) to (10);
	create trigger t3 after insert on public.parts for each row execute function pgq.sqltriga('q')});
$node->safe_psql('postgres', "$replace\\gexec");
is(sql($node, q{select count(*) from pg_trigger where tgfoid in (select oid from pg_proc where pronamespace = 'pgq'::regnamespace)}),
	'0', 'no trigger of PgQ is left');
is(sql($node, q{insert into "Old one" values (1, 2, 'x'), (0, 0, ''); insert into parts values (1);
	select ev_data || ' ' || coalesce(ev_extra3, ev_extra1) from tasker_events order by ev_id}), qq({"id":1,"v":"x"} xs\n(id) values ('1') public.parts_1),
	'and ours have taken their places');
like(error_of($node, 'truncate "Old one"'), qr/^55000: change of "public.Old one" not allowed/, 'with all their arguments');

note("$compared texts compared");
cmp_ok($compared, '>', 10_000, 'a long list of cases');

done_testing();
