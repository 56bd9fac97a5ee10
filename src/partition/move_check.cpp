// What a swap of names would break is refused before it begins.
#include "partition/move_mirror.hpp"
#include "partition/move_shape.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

// A reason against the swap: the query lists, as one text, what is in the way. $1 is the source, $2 the
// target.
struct Obstacle
{
    pg::Statement query;
    const char *what;
    const char *hint;
};

// Columns of the unique keys of both tables, by name. An index with an expression or a condition has null.
#define KEYS                                                                                                 \
    "with keys as (select i.indexrelid, i.indrelid, "                                                        \
    "case when i.indpred is null and i.indexprs is null then (select pg_catalog.array_agg(a.attname) "       \
    "from pg_catalog.unnest(i.indkey::pg_catalog.int2[]) with ordinality k (attnum, n) "                     \
    "join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum "                     \
    "where k.n <= i.indnkeyatts) end as names "                                                              \
    "from pg_catalog.pg_index i where i.indrelid in ($1, $2) and i.indisunique) "

Obstacle obstacles[] = {
    {{"select pg_catalog.string_agg(pg_catalog.format('%s (%s)', oid::pg_catalog.regclass, "
      "pg_catalog.pg_get_userbyid(relowner)), ', ' order by relname) from pg_catalog.pg_class where oid in "
      "($1, $2) "
      "having pg_catalog.count(distinct relowner) > 1",
      {OIDOID, OIDOID}},
     "they have different owners",
     "Use ALTER TABLE ... OWNER TO."},
    {{"select pg_catalog.string_agg(relnamespace::pg_catalog.regnamespace::text, ', ' order by relname) "
      "from pg_catalog.pg_class where oid in ($1, $2) having pg_catalog.count(distinct relnamespace) > 1",
      {OIDOID, OIDOID}},
     "they are in different schemas",
     "Use ALTER TABLE ... SET SCHEMA."},
    {{"select pg_catalog.string_agg(distinct pg_catalog.pg_describe_object(d.classid, d.objid, 0), ', ') "
      "from pg_catalog.pg_depend d left join pg_catalog.pg_rewrite r on d.classid = "
      "'pg_rewrite'::pg_catalog.regclass and "
      "r.oid = d.objid left join pg_catalog.pg_policy p on d.classid = 'pg_policy'::pg_catalog.regclass and "
      "p.oid = d.objid "
      "where d.deptype = 'n' and ("
      "d.refclassid = 'pg_class'::pg_catalog.regclass and d.refobjid = $1 or "
      "d.refclassid = 'pg_type'::pg_catalog.regclass and d.refobjid in (select t.oid from pg_catalog.pg_type "
      "t where "
      "t.typrelid = $1 or t.typelem in (select e.oid from pg_catalog.pg_type e where e.typrelid = $1))) and "
      "(d.classid in ('pg_rewrite'::pg_catalog.regclass, 'pg_proc'::pg_catalog.regclass) or "
      "p.polrelid <> $1 or "
      "d.classid = 'pg_class'::pg_catalog.regclass and d.objid not in ($1, $2) and d.refclassid = "
      "'pg_type'::pg_catalog.regclass) and $2 <> 0",
      {OIDOID, OIDOID}},
     "other objects depend on the first, and would go on using it under its new name",
     "Drop them, and make them again after the swap."},
    {{"select pg_catalog.string_agg(pg_catalog.quote_ident(s.tgname), ', ' order by s.tgname) "
      "from pg_catalog.pg_trigger s where s.tgrelid = $1 and not s.tgisinternal and not exists (select from "
      "pg_catalog.pg_trigger t where t.tgrelid = $2 and t.tgname = s.tgname and not t.tgisinternal)",
      {OIDOID, OIDOID}},
     "the second lacks triggers of the first",
     "Create them there too. They do not fire for rows that are copied."},
    {{"select pg_catalog.string_agg(pg_catalog.quote_ident(tgname), ', ' order by tgname) "
      "from pg_catalog.pg_trigger where tgrelid = $1 and not tgisinternal and $2 <> 0 and "
      "(tgtype & 67) = 1 and tgname::text collate \"C\" < '!tasker_mirror'",
      {OIDOID, OIDOID}},
     "triggers of the first would fire before the one that mirrors its changes",
     "Rename them: a name should not sort before \"!tasker_mirror\"."},
    {{"select pg_catalog.string_agg(what, ', ' order by what) from (select 'row security of ' || "
      "c.oid::pg_catalog.regclass "
      "from pg_catalog.pg_class c where c.oid in ($1, $2) and (c.relforcerowsecurity or c.relrowsecurity and "
      "not exists "
      "(select from pg_catalog.pg_class o where o.oid in ($1, $2) and o.oid <> c.oid and o.relrowsecurity)) "
      "union all select 'policy ' || pg_catalog.quote_ident(s.polname) from pg_catalog.pg_policy s where "
      "s.polrelid = $1 and "
      "not exists (select from pg_catalog.pg_policy t where t.polrelid = $2 and t.polname = s.polname)) o "
      "(what)",
      {OIDOID, OIDOID}},
     "row security is forced or differs",
     "Both need the same policies, enabled for both, and not forced on the owner."},
    {{KEYS
      "select pg_catalog.string_agg(t.indexrelid::pg_catalog.regclass::text, ', ' order by t.indexrelid) "
      "from keys t where "
      "t.indrelid = $2 and "
      "(t.names is null or not exists (select from keys s where s.indrelid = $1 and s.names <@ t.names))",
      {OIDOID, OIDOID}},
     "unique keys of the second are not guaranteed by the first, so writers could meet errors",
     "Add unique keys of the same columns to the first, or drop them from the second."},
    {{"select pg_catalog.string_agg(pg_catalog.quote_ident(t.attname), ', ' order by t.attnum) from "
      "pg_catalog.pg_attribute t "
      "join pg_catalog.pg_attribute s on s.attrelid = $1 and s.attname = t.attname where t.attrelid = $2 and "
      "t.attnum > 0 and "
      "not t.attisdropped and not s.attisdropped and (t.attnotnull and not s.attnotnull and t.attgenerated = "
      "'' or "
      "s.attidentity <> t.attidentity or s.atthasdef and not t.atthasdef)",
      {OIDOID, OIDOID}},
     "columns differ in NOT NULL, in identity, or in having a default",
     "Make them alike with ALTER TABLE ... ALTER COLUMN."},
    {{"select pg_catalog.string_agg(i.inhrelid::pg_catalog.regclass::text, ', ' order by c.relname) from "
      "pg_catalog.pg_inherits "
      "i "
      "join pg_catalog.pg_class c on c.oid = i.inhrelid where i.inhparent in ($1, $2) and c.relkind <> 'r'",
      {OIDOID, OIDOID}},
     "partitions are partitioned themselves, or foreign tables",
     "Move the rows without \"swap\"."},
    {{"select pg_catalog.string_agg(pg_catalog.quote_ident(p.pubname), ', ' order by p.pubname) "
      "from pg_catalog.pg_publication p join pg_catalog.pg_publication_rel r on r.prpubid = p.oid "
      "where r.prrelid = $1 and (r.prqual is not null or r.prattrs is not null) and not p.pubviaroot and "
      "exists (select from pg_catalog.pg_class where oid = $2 and relkind = 'p')",
      {OIDOID, OIDOID}},
     "publications name columns or a condition of the first, which they cannot of a partitioned table",
     "Set publish_via_partition_root of the publications."},
    {{"select pg_catalog.string_agg(oid::pg_catalog.regclass::text, ', ' order by relname) from "
      "pg_catalog.pg_class where oid "
      "in ($1, $2) and "
      "relispartition",
      {OIDOID, OIDOID}},
     "one of them is a partition",
     "Move the rows without \"swap\"."},
};

#undef KEYS

const char *table_name(Oid table)
{
    const char *name = pg::pg_call([&] { return get_rel_name(table); });
    return name != nullptr ? name : "?";
}

void check_obstacle(Obstacle &obstacle, Oid source, Oid target)
{
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(obstacle.query, {source, target});
    if (rows.empty() || rows.is_null(0, 1))
        return;
    const std::string_view names = rows.text(0, 1);
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "tables \"%s\" and \"%s\" cannot be swapped: %s", table_name(source), table_name(target),
                    obstacle.what)
        .detail("Found: %.*s.", static_cast<int>(names.size()), names.data())
        .hint("%s", obstacle.hint);
}

void check_empty(Oid target)
{
    bool empty = false;
    {
        const char *text = pg::pg_call(
            [&] { return psprintf("select not exists (select from %s)", quoted_partition(target)); });
        pg::Spi spi;
        empty = spi.read_text_under(text, GetActiveSnapshot()).boolean(0, 1);
    }
    if (!empty)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "table \"%s\" is not empty",
                        table_name(target))
            .hint(
                "Rows are copied into an empty table only. TRUNCATE it if they are those of a move that was "
                "cancelled.");
}

} // namespace

void check_swap(Oid source, Oid target)
{
    for (Obstacle &obstacle : obstacles)
        check_obstacle(obstacle, source, target);
    (void)choose_key(source, target);
    check_empty(target);
}

void warn_of_order(Oid source, Oid target)
{
    static pg::Statement query(
        "select pg_catalog.string_agg(attname, ',' order by attnum) filter (where attrelid = $1) is distinct "
        "from "
        "pg_catalog.string_agg(attname, ',' order by attnum) filter (where attrelid = $2) "
        "from pg_catalog.pg_attribute where attrelid in ($1, $2) and attnum > 0 and not attisdropped",
        {OIDOID, OIDOID});
    bool differs = false;
    {
        pg::Spi spi;
        differs = spi.read_latest(query, {source, target}).boolean(0, 1);
    }
    if (differs)
        pg::pg_call([&] {
            ereport(
                WARNING,
                errmsg("columns of tables \"%s\" and \"%s\" are in different order", get_rel_name(source),
                       get_rel_name(target)),
                errdetail("After the swap, statements that do not name their columns see the new order."));
        });
}

} // namespace tasker::partition
