// What goes wrong in partitioned tables without an error: rows that went past all partitions into the DEFAULT
// one, and queries that read all partitions where a few would do.
#include "partition/set_config.hpp"
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"

using namespace tasker;
using namespace tasker::partition;

namespace {

struct DefaultPartition
{
    Oid parent;
    Oid owner;
    Oid table;
};

void add_default_partitions(pg::Vector<DefaultPartition> &list, Oid only)
{
    static pg::Statement query(
        "select p.partrelid, k.relowner, p.partdefid from pg_catalog.pg_partitioned_table p "
        "join pg_catalog.pg_class k on k.oid = p.partrelid where p.partdefid <> 0 and "
        "case when $1 = 0 then p.partrelid in (select parent from tasker.part_config) "
        "else p.partrelid = $1 end order by p.partrelid::regclass::text",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {only});
    for (uint64 i = 0; i < rows.count(); i++)
        list.push_back({rows.oid(i, 1), rows.oid(i, 2), rows.oid(i, 3)});
}

// Read as the table's owner, as all statements of a set are run.
int64_t count_rows(const DefaultPartition &fallback)
{
    const char *name = quoted_partition(fallback.table);
    pg::AsOwner owner(fallback.owner);
    pg::Spi spi(pg::Spi::Identity::caller);
    return spi.run_text(pg::pg_call([&] { return psprintf("select count(*) from %s", name); })).i64(0, 1);
}

void warn_unreadable(Oid table, const pg::CaughtError &error)
{
    pg::pg_call([&] {
        const char *name = get_rel_name(table);
        ereport(WARNING, errcode(error.sqlstate()),
                errmsg("could not count the rows of DEFAULT partition \"%s\": %s",
                       name != nullptr ? name : "?", error.message()));
    });
}

bool can_be_pruned(NodeTag tag)
{
    return tag == T_SelectStmt || tag == T_InsertStmt || tag == T_UpdateStmt || tag == T_DeleteStmt ||
           tag == T_MergeStmt;
}

// The partitioned tables in a statement, of which none is a partition of another one of them. Plain C inside:
// may ereport.
List *partitioned_tables_in(const char *sql, bool *fits)
{
    List *statements = pg_parse_query(sql);
    List *tables = NIL;
    List *tops = NIL;
    ListCell *cell = nullptr;
    ListCell *entry = nullptr;

    *fits = list_length(statements) == 1 && can_be_pruned(nodeTag(linitial_node(RawStmt, statements)->stmt));
    if (!*fits)
        return NIL;
    List *queries =
        pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt, statements), sql, nullptr, 0, nullptr);
    List *plans = pg_plan_queries(queries, sql, 0, nullptr);
    foreach (cell, plans) {
        foreach (entry, lfirst_node(PlannedStmt, cell)->rtable) {
            const auto *table = lfirst_node(RangeTblEntry, entry);
            if (table->rtekind == RTE_RELATION && get_rel_relkind(table->relid) == RELKIND_PARTITIONED_TABLE)
                tables = list_append_unique_oid(tables, table->relid);
        }
    }
    foreach (cell, tables) {
        bool inside = false;
        List *ancestors =
            get_rel_relispartition(lfirst_oid(cell)) ? get_partition_ancestors(lfirst_oid(cell)) : NIL;
        foreach (entry, ancestors)
            inside = inside || list_member_oid(tables, lfirst_oid(entry));
        if (!inside)
            tops = lappend_oid(tops, lfirst_oid(cell));
    }
    return tops;
}

// The plan as EXPLAIN shows it, after the pruning at its start; with the rights and settings of the caller.
const char *explain(const char *sql)
{
    MemoryContext memory = CurrentMemoryContext;
    const char *text =
        pg::pg_call([&] { return psprintf("explain (verbose, costs off, format json) %s", sql); });
    pg::Spi spi(pg::Spi::Identity::caller);
    const pg::Rows rows = spi.run_text(text);
    const std::string_view plan = rows.text(0, 1);
    return pg::pg_call([&] {
        char *copy = static_cast<char *>(MemoryContextAlloc(memory, plan.size() + 1));
        memcpy(copy, plan.data(), plan.size());
        copy[plan.size()] = '\0';
        return copy;
    });
}

// A row for the result, from the plan and one of the tables in it.
void add_pruning(pg::ResultSet &result, const char *plan, Oid parent)
{
    static pg::Statement query(
        "with scanned as materialized (select distinct pg_catalog.to_regclass(pg_catalog.format('%I.%I', "
        "n ->> 'Schema', n ->> 'Relation Name')) as relid from pg_catalog.jsonb_path_query($1::jsonb, "
        "'strict $.** ? (exists (@.\"Relation Name\"))') n) "
        "select pg_catalog.count(*)::int4, pg_catalog.count(s.relid)::int4, "
        "coalesce(pg_catalog.array_agg(s.relid order by s.relid::text) filter (where s.relid is not null), "
        "'{}') "
        "from pg_catalog.pg_partition_tree($2) t left join scanned s on s.relid = t.relid where t.isleaf and "
        "t.level > 0",
        {TEXTOID, REGCLASSOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {plan, pg::Param(ObjectIdGetDatum(parent), false, REGCLASSOID)});
    const Datum values[] = {ObjectIdGetDatum(parent), rows.datum(0, 1), rows.datum(0, 2), rows.datum(0, 3)};
    const bool nulls[std::size(values)] = {};
    result.add(values, nulls);
}

} // namespace

// check_default(parent_table regclass = null)
TASKER_FUNCTION(check_default)
{
    const Oid only = args.is_null(0) ? InvalidOid : args.oid(0, "parent_table");
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    pg::Vector<DefaultPartition> list(&memory);
    if (OidIsValid(only) && pg::pg_call([&] { return get_rel_relkind(only); }) != RELKIND_PARTITIONED_TABLE) {
        const char *name = pg::pg_call([&] { return get_rel_name(only); });
        throw pg::Error(ERRCODE_WRONG_OBJECT_TYPE, "table \"%s\" is not partitioned",
                        name != nullptr ? name : "?");
    }

    add_default_partitions(list, only);
    for (const DefaultPartition &fallback : list) {
        int64_t count = 0;
        const auto error = pg::try_in_subtransaction([&] { count = count_rows(fallback); });
        if (error)
            warn_unreadable(fallback.table, *error);
        if (error || count == 0)
            continue;
        const Datum values[] = {ObjectIdGetDatum(fallback.parent), ObjectIdGetDatum(fallback.table),
                                Int64GetDatum(count)};
        const bool nulls[std::size(values)] = {};
        result.add(values, nulls);
    }
    return 0;
}

// check_pruning(query text)
TASKER_FUNCTION(check_pruning)
{
    const std::string_view query = args.text(0, "query");
    const char *sql = pg::pg_call([&] { return pnstrdup(query.data(), query.size()); });
    pg::ResultSet result(args.call());
    bool fits = false;
    const List *tables = pg::pg_call([&] { return partitioned_tables_in(sql, &fits); });
    if (!fits)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "argument \"query\" must be one statement that can be planned")
            .detail("It must be a SELECT, INSERT, UPDATE, DELETE or MERGE.");
    if (tables == nullptr)
        return 0;
    const char *plan = explain(sql);
    const ListCell *cell = nullptr;
    foreach (cell, tables)
        add_pruning(result, plan, lfirst_oid(cell));
    return 0;
}
