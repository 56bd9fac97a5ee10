# What the triggers of the stream keep of a table is never stale: a session that has written events goes on after another
# has changed the table, its trigger, its schema or the queue; between transactions, within one, and behind an old
# snapshot.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('main');
my $writer = $node->background_psql('postgres', on_error_stop => 0);

sql($node, q{
	select tasker.create_queue('q');
	create schema s;
	create table s.t (id int primary key, v text);
	create trigger triga after insert or update or delete on s.t for each row execute function tasker.logutriga('q', 'ev_extra3=v');
});
my $events = sql($node, q{select queue_data_pfx from tasker.queue where queue_name = 'q'});
my $seen = 0;

# Another session does one thing, the writer does the next; returns the events of it, as others see them.
sub after_change
{
	my ($change, $write) = @_;
	sql($node, $change) if defined $change;
	$writer->query($write);
	return new_events();
}

sub new_events
{
	my $rows = sql($node, "select ev_id, concat_ws(' ', ev_type, ev_data, ev_extra1, ev_extra3) from $events where ev_id > $seen order by ev_id");
	$seen = sql($node, "select coalesce(max(ev_id), $seen) from $events");
	$rows =~ s/^\d+\|//mg;
	return $rows;
}

is(after_change(undef, "insert into s.t values (1, 'a')"), 'I:id id=1&v=a s.t a', 'the first event');
is(after_change('alter table s.t add column w int default 7', "update s.t set v = 'b'"), 'U:id id=1&v=b&w=7 s.t b', 'a new column');
is(after_change('alter table s.t rename id to key', "update s.t set v = 'c'"), 'U:key key=1&v=c&w=7 s.t c', 'a renamed key');
is(after_change('alter table s.t drop constraint t_pkey, add primary key (key, w)', "update s.t set v = 'd'"),
	'U:key,w key=1&v=d&w=7 s.t d', 'another key');
is(after_change('alter table s.t drop column w, add primary key (key)', "update s.t set v = 'e'"), 'U:key key=1&v=e s.t e', 'a dropped column');
is(after_change('alter table s.t rename to u', "update s.u set v = 'f'"), 'U:key key=1&v=f s.u f', 'a renamed table');
is(after_change('alter schema s rename to r', "update r.u set v = 'g'"), 'U:key key=1&v=g r.u g', 'a renamed schema');
is(after_change("alter table r.u alter v type int using 5", 'update r.u set v = 6'), 'U:key key=1&v=6 r.u 6', 'another type');
is(after_change(q{create or replace trigger triga after insert or update or delete on r.u for each row
	execute function tasker.logutriga('q', 'ev_extra3=key + v', 'ignore=v')}, 'insert into r.u values (2, 2)'), 'I:key key=2 r.u 4', 'other arguments');
is(after_change(q{create or replace trigger triga after insert or update or delete on r.u for each row
	execute function tasker.jsontriga('q')}, 'update r.u set v = 3 where key = 2'),
	'{"op":"UPDATE","table":["r","u"],"pkey":["key"]} {"key":2,"v":3} r.u', 'another function');
is(after_change('alter table r.u disable trigger triga', 'update r.u set v = 4'), '', 'disabled');
is(after_change('alter table r.u enable trigger triga', 'delete from r.u where key = 2'),
	'{"op":"DELETE","table":["r","u"],"pkey":["key"]} {"key":2,"v":4} r.u', 'enabled');
is(after_change('begin; alter table r.u rename to x; alter table r.x rename v to y; rollback', 'delete from r.u'),
	'{"op":"DELETE","table":["r","u"],"pkey":["key"]} {"key":1,"v":4} r.u', 'a change that was rolled back');

# Behind a snapshot that is older than the change.
$writer->query('begin isolation level repeatable read; select 1');
is(after_change('alter table r.u add column late text', "insert into r.u values (3, 3, 'l'); commit"),
	'{"op":"INSERT","table":["r","u"],"pkey":["key"]} {"key":3,"v":3,"late":"l"} r.u', 'a column that is younger than the snapshot');

# Within a transaction that has the table locked: the schema's name is not locked with it.
$writer->query("begin; insert into r.u values (4)");
is(after_change('alter schema r rename to q', 'insert into q.u values (5); commit') =~ s/ \{"key.*?\}//gr,
	qq({"op":"INSERT","table":["r","u"],"pkey":["key"]} r.u\n{"op":"INSERT","table":["q","u"],"pkey":["key"]} q.u), 'a schema renamed meanwhile');

# The queue goes, and comes again under its name.
sql($node, q{select tasker.drop_queue('q')});
$writer->query('insert into q.u values (6)');
ok($writer->{stderr} =~ s/.*queue "q" does not exist.*//s, 'an insert without the queue fails');
is(sql($node, 'select count(*) from q.u where key = 6'), '0', 'no change of the table without the queue');
sql($node, q{select tasker.create_queue('q')});
$events = sql($node, q{select queue_data_pfx from tasker.queue where queue_name = 'q'});
$seen = 0;
is(after_change(undef, 'insert into q.u values (6)') =~ s/ \{"key.*?\}//r, '{"op":"INSERT","table":["q","u"],"pkey":["key"]} q.u', 'a queue of the same name');

# Many tables that come and go leave nothing behind, and what is used stays.
sql($node, q{create table public.kept (id int primary key);
	create trigger triga after insert on public.kept for each row execute function tasker.logutriga('q', 'ev_extra3=id')});
$writer->query(q{insert into kept values (0)});
$writer->query(q{do $$begin for i in 1..500 loop
	execute 'create table gone' || i || ' (id int primary key, v text)';
	execute 'create trigger triga after insert on gone' || i || ' for each row execute function tasker.jsontriga(''q'', ''ev_extra3=v'')';
	execute 'insert into gone' || i || ' values (1, ''x'')';
	execute 'drop table gone' || i;
	commit;
end loop; end$$});
cmp_ok($writer->query(q{select count(*) from pg_backend_memory_contexts where name = 'tasker trigger'}), '<', 150, 'tables that are gone leave no memory');
new_events();
is(after_change(undef, 'insert into kept values (1)'), 'I:id id=1 public.kept 1', 'a table that stays');

# Rows by the hundred thousand leave none either.
sql($node, q{create type two as (a int, b text); create table public.many (id int primary key, t two, a text[]);
	create trigger triga after insert or update on public.many for each row execute function tasker.jsontriga('q', 'when=id>0', 'ev_extra3=upper(a[1])', 'backup')});
$writer->query(q{insert into many select i, row(i, 'x')::two, '{a,b}' from generate_series(1, 1000) i; update many set id = id});
my $before = $writer->query(q{select sum(total_bytes) from pg_backend_memory_contexts});
$writer->query(q{insert into many select i, row(i, 'x')::two, '{a,b}' from generate_series(1001, 50000) i; update many set id = id});
cmp_ok($writer->query(q{select sum(total_bytes) from pg_backend_memory_contexts}) - $before, '<', 1_000_000, '100,000 events leave no memory');

$writer->quit;
$node->stop;
done_testing();
