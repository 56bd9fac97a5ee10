# Table features of users' partition sets, from the making of partitions by the worker to their retirement: parents
# below a list-partitioned table, identity and generated columns, foreign keys in both directions, triggers, row
# security, names that need quotes, and owners who have no rights on Tasker.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TaskerCluster;

my $node = tasker_cluster('main', conf => "tasker.lock_timeout = '200ms'");

# The plane's clock ahead by so many days, and one round of everything.
sub after_days
{
	my ($days) = @_;
	$node->safe_psql('postgres', 'alter system set tasker.clock_offset = ' . $days * 86400);
	$node->reload;
	$node->poll_query_until('postgres', "select current_setting('tasker.clock_offset')::interval = '$days days'::interval");
	return;
}

# Asks for a round of everything at once; the worker would come by itself within a minute.
sub hurry { $node->psql('postgres', "call tasker.run_maintenance($_[0])"); return; }

# How many partitions begin after now, by the plane's clock.
sub ahead_of { return "select partitions_ahead from tasker.partition_status where parent = '$_[0]'::regclass"; }

sub partitions_of { return "select count(*) from pg_inherits where inhparent = '$_[0]'::regclass and not inhdetachpending"; }

# A statement that must not wait, beside what other sessions hold.
sub at_once { return sql($node, "set lock_timeout = '1s'; $_[0]"); }

# --- an owner without rights on Tasker, in a schema that needs quotes ----------------------------------------------

sql($node, q{
	create role owner login;
	create role tenant login;
	create schema "My ""odd"" schema" authorization owner;
	grant usage on schema "My ""odd"" schema" to tenant;
	set role owner;
	set search_path = 'My "odd" schema';
	create table region (id int primary key, name text not null);
	insert into region values (1, 'one'), (2, 'two');
	create table audit (at timestamptz default clock_timestamp(), what text);
	create function note() returns trigger language plpgsql set search_path = 'My "odd" schema' as
		$$begin insert into audit (what) values (concat_ws(' ', tg_name, tg_level, tg_op, tg_table_name));
		if tg_when = 'BEFORE' and tg_level = 'ROW' then new."Note" := coalesce(new."Note", tg_name); end if;
		return new; end$$;
	create table "Order's" (
		"Id" bigint generated always as identity,
		"At" timestamptz not null,
		"Region" int not null references region,
		"Amount" numeric not null check ("Amount" >= 0),
		"Net" numeric generated always as ("Amount" * 0.8) stored,
		"Note" text,
		"Tenant" name not null default current_user,
		primary key ("Id", "At")
	) partition by range ("At");
	create unique index on "Order's" ("At", lower("Note"));
	create trigger before_row before insert on "Order's" for each row execute function note();
	create trigger after_row after insert on "Order's" for each row execute function note();
	create trigger after_statement after insert on "Order's" for each statement execute function note();
	create trigger with_rows after insert on "Order's" referencing new table as rows for each statement
		execute function note();
	alter table "Order's" enable row level security;
	create policy of_tenant on "Order's" using ("Tenant" = current_user);
	grant select, insert on "Order's" to tenant;
	grant select, insert on audit to tenant;
	grant select on region to tenant;
});
my $schema = q{"My ""odd"" schema"};
my $orders = $schema . q{."Order's"};
(my $literal = "'$orders'") =~ s/Order's/Order''s/;
my $regclass = $literal =~ s/^'|'$//gr;

is(sql($node, "select has_schema_privilege('owner', 'tasker', 'usage')"), 'f', 'the owner has no rights on Tasker');
sql($node, "select tasker.create_parent($literal, 'At', '1 day', premake => 2, retention => '3 days')");
is(sql($node, "select count(*), count(distinct relowner), min(relowner::regrole::text) from pg_class
	where relnamespace = '$schema'::regnamespace and relispartition and relkind = 'r'"), '3|1|owner',
	'partitions are made as the owner, who has no rights on Tasker');

sql($node, "set role tenant; insert into $orders (\"At\", \"Region\", \"Amount\") select now(), 1, 10");
is(sql($node, "select \"Id\", \"Net\", \"Note\", \"Tenant\" from $orders"), '1|8.0|before_row|tenant',
	'identity and generated columns and BEFORE ROW triggers work in a partition');
is(sql($node, "select string_agg(regexp_replace(what, '_p\\d+', '_p'), ', ' order by what) from $schema.audit"),
	"after_row ROW INSERT Order's_p, after_statement STATEMENT INSERT Order's, " .
	"before_row ROW INSERT Order's_p, with_rows STATEMENT INSERT Order's",
	'row triggers fire in the partition, statement triggers and those with transition tables on the parent');
sql($node, "insert into $orders (\"At\", \"Region\", \"Amount\", \"Tenant\") select now() + interval '1 second', 1, 10, 'x'");
is(sql($node, "set role tenant; select count(*) from $orders"), '1', 'the policy shows a tenant its own rows');
my $current = sql($node, "select partition from tasker.show_partitions($literal) where is_current");
like($current, qr/^"My ""odd"" schema"\."Order's_p\d{8}"$/, 'the partition is named after its parent, in its schema');
is(sql($node, "set role tenant; select count(*) from $current"), '0', 'and its partition shows none');

# The worker makes partitions as time goes on, and retires old ones.
after_days(2);
hurry($literal);
wait_until($node, "select (" . ahead_of($regclass) . ") >= 2 and exists (select from pg_class where relname =
	'Order''s_p' || to_char(now() at time zone 'UTC' + interval '4 days', 'YYYYMMDD'))", 'the worker has made partitions ahead');
is(sql($node, "select count(*) from pg_class c where relnamespace = '$schema'::regnamespace and relispartition and
	relkind = 'r' and not (relrowsecurity and array_to_string(relacl, ',') like '%tenant=ar/owner%')"), '0',
	'all with the rights and the row security of their parent');
is(sql($node, "insert into $orders (\"At\", \"Region\", \"Amount\") select now() + interval '4 days', 2, 10
	returning \"Id\", \"Note\""), '3|before_row', 'they take rows');

# A reader and a writer with open transactions do not keep partitions from being made; and nobody waits for it.
my $reader = $node->background_psql('postgres', on_error_stop => 0);
my $writer = $node->background_psql('postgres', on_error_stop => 0);
my $maker = $node->background_psql('postgres', on_error_stop => 0);
$reader->query_safe("begin; select count(*) from $orders");
$writer->query_safe("begin; insert into $orders (\"At\", \"Region\", \"Amount\") select now() + interval '1 day', 1, 7");
ok(at_once("select tasker.create_partition($literal, (now() + interval '40 days')::text) is not null"),
	'beside a reader and a writer of the parent a partition is made');
# The foreign key needs a short lock on what it references, against its writers only.
$writer->query_safe('commit');
$maker->query_safe("begin; create table $schema.other (like $orders including all); lock table $orders in share update exclusive mode");
is(at_once("insert into $orders (\"At\", \"Region\", \"Amount\") select now() + interval '2 days', 1, 1 returning \"Region\""),
	'1', 'who makes a partition holds a lock that no writer minds');
$maker->query_safe('rollback');
$writer->query_safe("begin; update $schema.region set name = 'uno' where id = 1");
like(error_of($node, "set lock_timeout = '100ms'; select tasker.create_partition($literal, (now() + interval '50 days')::text)"),
	qr/^55P03: canceling statement due to lock timeout/, 'a writer of the referenced table is not waited for beyond lock_timeout');
$writer->query_safe('commit');
$reader->query_safe('commit');
ok(at_once("select tasker.create_partition($literal, (now() + interval '50 days')::text) is not null"), 'afterwards it is made');

# Retirement: a partition to which rows of another table refer stays, and says why.
after_days(0);
sql($node, "set role owner; create table $schema.invoice (order_id bigint, order_at timestamptz,
	constraint of_order foreign key (order_id, order_at) references $orders)");
sql($node, "insert into $schema.invoice select \"Id\", \"At\" from $current order by 1 limit 1");
my $oldest = sql($node, "select partition from tasker.show_partitions($literal) order by lower_bound limit 1");
after_days(10);
hurry($literal);
wait_until($node, "select coalesce((select overdue_reasons::text like '%of_order%' or overdue_reasons::text like '%invoice%'
	from tasker.partition_status where parent = $literal\:\:regclass), false)", 'a referenced partition is not retired, and the status says why');
is(sql($node, "select to_regclass('" . $oldest =~ s/'/''/gr . "') is not null"), 't', 'it is still there');
wait_until($node, "select (" . partitions_of($regclass) . ") >= 3", 'others go on');
hurry($literal) foreach 1 .. 3;
sql($node, "truncate $schema.invoice");
hurry($literal);
wait_until($node, "select to_regclass('" . $oldest =~ s/'/''/gr . "') is null", 'once nothing refers to it, it is retired');
my $warnings = () = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /WARNING:  retire of partitioned table "Order's" failed/g;
ok($warnings <= 2, "the refusal was reported once, not in each round ($warnings times)");
sql($node, "drop table $schema.invoice");
after_days(0);

# Objects that others put in the way of search_path are not used with the owner's rights, nor with anybody's.
sql($node, q{
	grant create on schema public to tenant;
	set role tenant;
	create function public.trap(timestamptz, timestamptz) returns boolean language plpgsql as
		$$begin raise exception 'trapped as %', current_user; end$$;
	create operator public.>= (leftarg = timestamptz, rightarg = timestamptz, function = public.trap);
	create operator public.< (leftarg = timestamptz, rightarg = timestamptz, function = public.trap);
	create function public.lower(text) returns text language plpgsql immutable as
		$$begin raise exception 'trapped as %', current_user; end$$;
});
ok(sql($node, "alter database postgres set search_path = public, pg_catalog; select 1"), 'traps in the search_path');
ok(sql($node, "select tasker.create_partition($literal, (now() + interval '60 days')::text) is not null"), 'a partition is made beside them');
sql($node, "insert into $orders (\"At\", \"Region\", \"Amount\") values (now(), 1, 1)");
sql($node, "alter database postgres reset search_path");

# --- parents below a parent --------------------------------------------------------------------------------------

sql($node, q{
	create schema world;
	create table world.event (country text not null, at date not null, id bigint generated by default as identity, v text,
		primary key (country, at, id)) partition by list (country);
	create table world.event_de partition of world.event for values in ('de') partition by range (at);
	create table world.event_fr partition of world.event for values in ('fr') partition by range (at);
	create table world.event_rest partition of world.event default;
	create publication world for table world.event with (publish_via_partition_root = true);
});
like(error_of($node, "select tasker.create_parent('world.event', 'country', '1 day')"), qr/^0A000: table "event" cannot be a partition set/,
	'a table partitioned by list is no set');
sql($node, "select tasker.create_parent('world.event_de', 'at', '1 day', premake => 1, retention => '2 days')");
sql($node, "select tasker.create_parent('world.event_fr', 'at', '1 month', premake => 1)");
sql($node, "insert into world.event (country, at, v) select c, current_date, c from unnest(array['de', 'fr', 'it']) c");
is(sql($node, "select string_agg(distinct regexp_replace(tableoid::regclass::text, '_p.*', ''), ', ') from world.event"),
	'world.event_de, world.event_fr, world.event_rest', 'each of its partitions that is partitioned by range can be one');
is(sql($node, "select count(*) from pg_publication_rel"), '1', 'what is published through an ancestor is not listed by itself');
my $first = sql($node, "select partition from tasker.show_partitions('world.event_de') where is_current");
after_days(6);
hurry("'world.event_$_'") foreach qw(de fr);
wait_until($node, "select to_regclass('$first') is null", 'their partitions are retired');
is(sql($node, "select count(*) from world.event where country = 'fr'"), '1', 'each by its own set\'s rules');
wait_until($node, "select (" . ahead_of('world.event_de') . ") >= 1 and (" . ahead_of('world.event_fr') . ") >= 1", 'and made ahead');
after_days(0);

# --- a DEFAULT partition that is in the way ------------------------------------------------------------------------

sql($node, q{
	create table world.spill (at timestamptz not null, v text) partition by range (at);
	create table world.spill_rest partition of world.spill default;
	insert into world.spill select now() + i * interval '1 day', 'x' from unnest(array[1, 30]) i;
});
sql($node, "select tasker.create_parent('world.spill', 'at', '1 day', premake => 3)");
is(sql($node, "select count(*), max(upper_bound::timestamptz) > now() + interval '3 days'
	from tasker.show_partitions('world.spill') where lower_bound is not null"), '3|t', 'the range of rows in the DEFAULT partition is passed over');
like(sql($node, "select failing from tasker.partition_status where parent = 'world.spill'::regclass") .
	error_of($node, "select tasker.create_partition('world.spill', (now() + interval '1 day')::text)"),
	qr/23514: the DEFAULT partition of "spill" holds rows from/, 'and the error says so');
$reader->query_safe("begin; select count(*) from world.spill_rest");
like(error_of($node, "set lock_timeout = '100ms'; select tasker.create_partition('world.spill', (now() + interval '1 day')::text)"),
	qr/^23514: the DEFAULT partition/, 'without a lock on the DEFAULT partition');
$reader->query_safe('commit');
sql($node, "delete from world.spill where at < now() + interval '20 days'");
hurry("'world.spill'");
wait_until($node, "select (" . ahead_of('world.spill') . ") >= 3", 'without the rows it is made');

# --- triggers that no partition can have ---------------------------------------------------------------------------

sql($node, "create function world.f() returns trigger language plpgsql as 'begin return null; end'");
like(error_of($node, "create trigger t after insert on world.spill referencing new table as n for each row execute function world.f()"),
	qr/"spill" is a partitioned table/, 'PostgreSQL refuses a row trigger with a transition table on a parent');
my $leaf = sql($node, "select partition from tasker.show_partitions('world.spill') where lower_bound is not null limit 1");
like(error_of($node, "create trigger t after insert on $leaf referencing new table as n for each row execute function world.f()"),
	qr/ROW triggers with transition tables are not supported on partitions/, 'and on its partitions, so none can be in the way');

$_->quit foreach $reader, $writer, $maker;
$node->stop;
done_testing();
