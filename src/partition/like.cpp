#include "partition/like.hpp"

#include "partition/shape.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "catalog/dependency.h"
#include "commands/comment.h"
#include "parser/parse_utilcmd.h"
#include "utils/ruleutils.h"
}

namespace tasker::partition {
namespace {

// What the catalogs say about the table that the new one shall be like.
struct SourceFacts
{
    Oid relid;
    Oid schema;
    Oid owner;
    NameData name;
    char kind;
    char persistence;
    bool typed;
    bool of_extension; // it is a plane's own
    char replica_identity;
    AttrNumber control;
    Oid control_type;
    bool control_filled; // NOT NULL
    bool control_generated;
};

// Both, while the new one is being made.
struct Pair
{
    SourceFacts source;
    const char *source_name; // qualified and quoted, as the next
    const char *parent_name;
    NameData name;
    NameData control;
    Oid parent;
    Oid replica_index;
};

// Plain C inside: may ereport.
SourceFacts read_source(Oid source, std::string_view control)
{
    SourceFacts facts{};
    Relation table = relation_open(source, AccessShareLock);
    facts.relid = source;
    facts.schema = RelationGetNamespace(table);
    facts.owner = table->rd_rel->relowner;
    facts.name = table->rd_rel->relname;
    facts.kind = table->rd_rel->relkind;
    facts.persistence = table->rd_rel->relpersistence;
    facts.typed = OidIsValid(table->rd_rel->reloftype);
    facts.of_extension =
        getExtensionOfObject(RelationRelationId, source) == get_extension_oid("tasker", false);
    facts.replica_identity = table->rd_rel->relreplident;
    for (int i = 0; i < RelationGetNumberOfAttributes(table); i++) {
        const Form_pg_attribute column = TupleDescAttr(RelationGetDescr(table), i);
        if (column->attisdropped || control != NameStr(column->attname))
            continue;
        facts.control = column->attnum;
        facts.control_type = column->atttypid;
        facts.control_filled = column->attnotnull;
        facts.control_generated = column->attgenerated != '\0';
    }
    relation_close(table, NoLock); // locked to the end of the transaction
    return facts;
}

[[noreturn]] void refuse(const SourceFacts &facts, const char *why, const char *names = nullptr)
{
    pg::Error error(ERRCODE_FEATURE_NOT_SUPPORTED, "no partitioned table can be like \"%s\"",
                    NameStr(facts.name));
    if (names != nullptr)
        throw error.detail("It has %s: %s.", why, names);
    throw error.detail("%s", why);
}

// What it has that a partitioned table cannot have, in words for the detail of an error.
void check_parts(const SourceFacts &facts)
{
    static pg::Statement query(
        "select what, pg_catalog.string_agg(name, ', ' order by name) from ("
        "select 'rules' as what, pg_catalog.quote_ident(rulename) as name from pg_catalog.pg_rewrite where "
        "ev_class = $1 "
        "union all select case when contype = 'x' then "
        "'exclusion constraints, which cannot span partitions' "
        "when not convalidated then 'constraints that have not been validated' "
        "when contype = 'c' then 'constraints that are not inherited' "
        "else 'foreign keys to itself, whose keys would have to be unique across partitions' end, "
        "pg_catalog.quote_ident(conname) from pg_catalog.pg_constraint where conrelid = $1 and (contype = "
        "'x' or "
        "not convalidated or contype = 'c' and connoinherit or contype = 'f' and confrelid = $1) "
        "union all select 'row triggers with transition tables', pg_catalog.quote_ident(tgname) from "
        "pg_catalog.pg_trigger "
        "where tgrelid = $1 and not tgisinternal and tgtype & 1 = 1 and "
        "(tgoldtable is not null or tgnewtable is not null) "
        "union all select 'children or parents by inheritance', "
        "(case when inhrelid = $1 then inhparent else inhrelid end)::pg_catalog.regclass::text "
        "from pg_catalog.pg_inherits where $1 in (inhrelid, inhparent)) t group by what order by what limit "
        "1",
        {OIDOID});
    const char *what = nullptr;
    const char *names = nullptr;
    const MemoryContext memory = CurrentMemoryContext;
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(query, {facts.relid});
        if (rows.empty())
            return;
        const std::string_view first = rows.text(0, 1);
        const std::string_view second = rows.text(0, 2);
        pg::pg_call([&] {
            what = MemoryContextStrdup(memory, pnstrdup(first.data(), first.size()));
            names = MemoryContextStrdup(memory, pnstrdup(second.data(), second.size()));
        });
    }
    refuse(facts, what, names);
}

void check_source(const SourceFacts &facts)
{
    if (facts.kind == RELKIND_PARTITIONED_TABLE)
        refuse(facts, "It is partitioned already; tasker.create_parent() manages it.");
    if (facts.kind != RELKIND_RELATION)
        refuse(facts, "It is not an ordinary table.");
    if (facts.of_extension || facts.schema == PG_CATALOG_NAMESPACE)
        refuse(facts, "It belongs to the system.");
    if (facts.persistence == RELPERSISTENCE_TEMP)
        refuse(facts, "It is temporary: nobody else can maintain it.");
    if (facts.typed)
        refuse(facts, "It is a table of a composite type, which partitions cannot be.");
    check_parts(facts);
}

void check_control_column(const SourceFacts &facts, std::string_view control)
{
    if (facts.control == InvalidAttrNumber)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "table \"%s\" has no column \"%.*s\"",
                        NameStr(facts.name), static_cast<int>(control.size()), control.data());
    if (facts.control_generated)
        refuse(facts, "A generated column cannot be what a table is partitioned by.");
    if (!is_control_type(facts.control_type))
        refuse(facts,
               "A set is partitioned by a smallint, integer, bigint, date, timestamp, timestamptz or uuid.");
}

void check_new_name(const SourceFacts &facts, const NameData &name)
{
    if (NameStr(name)[0] == '\0')
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"parent\" must not be empty");
    if (pg::pg_call([&] { return OidIsValid(get_relname_relid(NameStr(name), facts.schema)); }))
        throw pg::Error(ERRCODE_DUPLICATE_OBJECT, "relation \"%s\" already exists", NameStr(name));
}

// Plain C, as the next three. The columns of the parent for those of the source.
AttrMap *columns_of_parent(Relation source, Oid parent)
{
    AttrMap *map = make_attrmap(RelationGetNumberOfAttributes(source));
    for (int i = 0; i < map->maplen; i++) {
        const Form_pg_attribute column = TupleDescAttr(RelationGetDescr(source), i);
        map->attnums[i] =
            column->attisdropped ? InvalidAttrNumber : get_attnum(parent, NameStr(column->attname));
    }
    return map;
}

bool is_element(const ListCell *cell, const char *column)
{
    const IndexElem *element = lfirst_node(IndexElem, cell);
    return element->name != nullptr && strcmp(element->name, column) == 0;
}

// A key can only be unique within one partition, so the column that decides on the partition must be in it.
void add_control(IndexStmt *index, const char *column, const char *index_name)
{
    ListCell *cell = nullptr;
    foreach (cell, index->indexParams) {
        if (is_element(cell, column))
            return;
    }
    foreach (cell, index->indexIncludingParams) {
        if (is_element(cell, column))
            index->indexIncludingParams = foreach_delete_current(index->indexIncludingParams, cell);
    }
    IndexElem *element = makeNode(IndexElem);
    element->name = pstrdup(column);
    element->ordering = SORTBY_DEFAULT;
    element->nulls_ordering = SORTBY_NULLS_DEFAULT;
    index->indexParams = lappend(index->indexParams, element);
    ereport(NOTICE, errmsg("column \"%s\" is added to the unique key \"%s\"", column, index_name),
            errdetail("Of a partitioned table, keys are unique within a partition only; the other columns of "
                      "the key may repeat where \"%s\" differs.",
                      column));
}

// Makes an index of the parent after one of the source.
void clone_index(Pair *pair, Relation source_index, const AttrMap *columns)
{
    const char *name = RelationGetRelationName(source_index);
    if (!source_index->rd_index->indisvalid) {
        ereport(NOTICE, errmsg("invalid index \"%s\" is left out", name));
        return;
    }
    IndexStmt *index = generateClonedIndexStmt(nullptr, source_index, columns, nullptr);
    index->idxcomment = GetComment(RelationGetRelid(source_index), RelationRelationId, 0);
    if (index->unique)
        add_control(index, NameStr(pair->control), name);
    const Oid made = tasker_define_index(pair->parent, index);
    CommandCounterIncrement();
    copy_statistics_targets(RelationGetRelid(source_index), InvalidOid, made);
    if (source_index->rd_index->indisreplident)
        pair->replica_index = made;
}

void clone_indexes(Pair *pair)
{
    Relation source = table_open(pair->source.relid, NoLock);
    const AttrMap *columns = columns_of_parent(source, pair->parent);
    ListCell *cell = nullptr;
    foreach (cell, RelationGetIndexList(source)) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        clone_index(pair, index, columns);
        index_close(index, NoLock);
    }
    table_close(source, NoLock);
}

bool has_primary_key(Oid relid)
{
    Relation table = table_open(relid, NoLock);
    (void)RelationGetIndexList(table);
    const bool has = OidIsValid(table->rd_pkindex);
    table_close(table, NoLock);
    return has;
}

// The column becomes part of the primary key, which demands it.
void fill_control(pg::Spi &spi, const Pair &pair)
{
    if (pair.source.control_filled)
        return;
    const bool key = pg::pg_call([&] { return has_primary_key(pair.source.relid); });
    pg::pg_call([&] {
        ereport(NOTICE,
                errmsg("column \"%s\" of table \"%s\" may be null", NameStr(pair.control),
                       NameStr(pair.source.name)),
                errdetail("Rows that have no \"%s\" fit into no partition.", NameStr(pair.control)));
    });
    if (key)
        spi.run_text(pg::pg_call([&] {
            return psprintf("alter table %s alter %s set not null", pair.parent_name,
                            quote_identifier(NameStr(pair.control)));
        }));
}

// Runs what a query makes of the source's catalogs: statements in its first column.
void run_all(pg::Spi &spi, pg::Statement &query, const Pair &pair)
{
    const pg::Rows rows = spi.run(query, {pair.source.relid, pair.parent});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view text = rows.text(i, 1);
        spi.run_text(pg::pg_call([&] { return pnstrdup(text.data(), text.size()); }));
    }
}

// Definitions are deparsed with search_path pinned, so that names in them are qualified. The place of the
// table in a trigger's definition is found behind the trigger's own name.
void clone_dependents(pg::Spi &spi, const Pair &pair)
{
    static pg::Statement identity(
        "select pg_catalog.format('select pg_catalog.setval(%L, last_value, is_called) from %s', "
        "pg_catalog.pg_get_serial_sequence($2::pg_catalog.regclass::text, attname), "
        "pg_catalog.pg_get_serial_sequence($1::pg_catalog.regclass::text, attname)) "
        "from pg_catalog.pg_attribute where attrelid = $1 and attidentity <> '' and not attisdropped",
        {OIDOID, OIDOID});
    static pg::Statement foreign_keys(
        "select pg_catalog.format('alter table %s add constraint %I %s', $2::pg_catalog.regclass, conname, "
        "pg_catalog.pg_get_constraintdef(oid)) from pg_catalog.pg_constraint "
        "where conrelid = $1 and contype = 'f' order by conname",
        {OIDOID, OIDOID});
    static pg::Statement triggers(
        "select pg_catalog.left(text, head + at - 1) || pg_catalog.format(' ON %s ', "
        "$2::pg_catalog.regclass) || "
        "pg_catalog.substr(text, head + at + pg_catalog.length(place)) from ("
        "select *, pg_catalog.strpos(pg_catalog.substr(text, head + 1), place) as at from ("
        "select tgname, text, pg_catalog.strpos(text, ' TRIGGER ') + 8 + "
        "pg_catalog.length(pg_catalog.quote_ident(tgname)) as head, "
        "pg_catalog.format(' ON %s ', $1::pg_catalog.regclass) as place "
        "from pg_catalog.pg_trigger, lateral pg_catalog.pg_get_triggerdef(oid) text "
        "where tgrelid = $1 and not tgisinternal) d) e order by tgname",
        {OIDOID, OIDOID});
    static pg::Statement switches(
        "select pg_catalog.format('alter table %s %s trigger %I', $2::pg_catalog.regclass, "
        "case tgenabled when 'D' then 'disable' when 'R' then 'enable replica' else 'enable always' end, "
        "tgname) "
        "from pg_catalog.pg_trigger where tgrelid = $1 and not tgisinternal and tgenabled <> 'O'",
        {OIDOID, OIDOID});
    for (pg::Statement *query : {&identity, &foreign_keys, &triggers, &switches})
        run_all(spi, *query, pair);
}

// The text of a policy's expression, in which the new table stands for the source also where a subquery names
// it. Plain C.
const char *policy_expression(const Pair &pair, const char *tree)
{
    List *context = deparse_context_for(NameStr(pair.name), pair.source.relid);
    return deparse_expression(static_cast<Node *>(stringToNode(tree)), context, false, false);
}

void clone_policies(pg::Spi &spi, const Pair &pair)
{
    static pg::Statement query(
        "select pg_catalog.format('create policy %I on %s as %s for %s to %s', polname, "
        "$2::pg_catalog.regclass, case when polpermissive then 'permissive' else 'restrictive' end, "
        "case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' "
        "when 'd' then 'delete' else 'all' end, (select pg_catalog.string_agg(case when r = 0 then 'public' "
        "else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(r)) end, ', ') "
        "from pg_catalog.unnest(polroles) r)), polqual::text, polwithcheck::text "
        "from pg_catalog.pg_policy where polrelid = $1 order by polname",
        {OIDOID, OIDOID});
    const pg::Rows rows = spi.run(query, {pair.source.relid, pair.parent});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view head = rows.text(i, 1);
        const std::string_view trees[] = {rows.text(i, 2), rows.text(i, 3)};
        spi.run_text(pg::pg_call([&] {
            StringInfoData text;
            initStringInfo(&text);
            appendBinaryStringInfo(&text, head.data(), static_cast<int>(head.size()));
            for (int k = 0; k < 2; k++) {
                if (!trees[k].empty())
                    appendStringInfo(&text, " %s (%s)", k == 0 ? "using" : "with check",
                                     policy_expression(pair, pnstrdup(trees[k].data(), trees[k].size())));
            }
            return text.data;
        }));
    }
}

void make_table(Pair *pair)
{
    pg::AsOwner owner(pair->source.owner);
    pg::Spi spi(pg::Spi::Identity::caller);
    spi.run_text(pg::pg_call([&] {
        forget_session_defaults();
        return table_text(pair->source.relid, pair->parent_name, "excluding indexes", InvalidOid,
                          quote_identifier(NameStr(pair->control)));
    }));
    pair->parent = pg::pg_call([&] { return get_relname_relid(NameStr(pair->name), pair->source.schema); });
    fill_control(spi, *pair);
    pg::pg_call([&] {
        clone_indexes(pair);
        copy_rights(pair->source.relid, pair->parent);
        copy_statistics_targets(pair->source.relid, InvalidOid, pair->parent);
        copy_comment(pair->source.relid, pair->parent);
        CommandCounterIncrement();
    });
    copy_column_options(spi, pair->source.relid, InvalidOid, pair->parent);
    clone_dependents(spi, *pair);
    clone_policies(spi, *pair);
    copy_row_security(spi, pair->source.relid, pair->parent);
    set_replica_identity(spi, pair->parent, pair->source.replica_identity, pair->replica_index);
}

// Plain C.
const char *value_text(Oid type, Datum value)
{
    Oid output = InvalidOid;
    bool varlena = false;
    getTypeOutputInfo(type, &output, &varlena);
    return OidOutputFunctionCall(output, value);
}

// The smallest value of the control column as text that create_parent() takes; null without rows. Read as the
// owner, whose functions the planner may call.
const char *smallest_value(const Pair &pair)
{
    const Oid type = pg::pg_call([&] { return getBaseType(pair.source.control_type); });
    const bool has_infinity = type == DATEOID || type == TIMESTAMPOID || type == TIMESTAMPTZOID;
    const MemoryContext memory = CurrentMemoryContext;
    pg::AsOwner owner(pair.source.owner);
    pg::Spi spi(pg::Spi::Identity::caller);
    const pg::Rows rows = spi.run_text(pg::pg_call([&] {
        const char *column = quote_identifier(NameStr(pair.control));
        return psprintf("select %s from only %s where %s is not null%s order by %s limit 1", column,
                        pair.source_name, column,
                        has_infinity ? psprintf(" and pg_catalog.isfinite(%s)", column) : "", column);
    }));
    if (rows.empty())
        return nullptr;
    Datum value = rows.datum(0, 1);
    const Control control{type == DATEOID        ? ControlKind::date
                          : type == TIMESTAMPOID ? ControlKind::timestamp
                                                 : ControlKind::timestamptz,
                          type};
    const char *text = has_infinity ? key_text(control, key_of_datum(type, value)) // whatever DateStyle is
                                    : pg::pg_call([&] { return value_text(type, value); });
    return pg::pg_call([&] { return MemoryContextStrdup(memory, text); });
}

// What still depends on the source, and is its user's to move.
void tell_what_stays(const Pair &pair)
{
    static pg::Statement query(
        "select 'foreign keys of other tables', pg_catalog.string_agg(pg_catalog.format('%I of %s', conname, "
        "conrelid::pg_catalog.regclass), ', ' order by conname, conrelid) from pg_catalog.pg_constraint "
        "where confrelid = $1 and conrelid <> $1 and contype = 'f' and conparentid = 0 having count(*) > 0 "
        "union all select 'publications', pg_catalog.string_agg(pg_catalog.quote_ident(pubname), ', ' order "
        "by "
        "pubname) from pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid "
        "where prrelid = $1 having count(*) > 0",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {pair.source.relid});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view what = rows.text(i, 1);
        const std::string_view names = rows.text(i, 2);
        pg::pg_call([&] {
            ereport(NOTICE,
                    errmsg("%.*s that name table \"%s\" are not taken over", static_cast<int>(what.size()),
                           what.data(), NameStr(pair.source.name)),
                    errdetail("They are: %.*s.", static_cast<int>(names.size()), names.data()));
        });
    }
}

} // namespace

Oid create_like(Oid source, const NameData &name, ParentRequest request)
{
    check_ownership(source);
    Pair pair{};
    pair.source = pg::pg_call([&] { return read_source(source, request.control); });
    check_source(pair.source);
    check_control_column(pair.source, request.control);
    check_new_name(pair.source, name);
    pair.name = name;
    namestrcpy(&pair.control,
               pg::pg_call([&] { return pnstrdup(request.control.data(), request.control.size()); }));
    pg::pg_call([&] {
        const char *schema = get_namespace_name(pair.source.schema);
        pair.source_name = quote_qualified_identifier(schema, NameStr(pair.source.name));
        pair.parent_name = quote_qualified_identifier(schema, NameStr(pair.name));
    });

    make_table(&pair);
    tell_what_stays(pair);
    if (!request.start_at) {
        if (const char *smallest = smallest_value(pair); smallest != nullptr)
            request.start_at = smallest;
    }
    request.parent = pair.parent;
    FirstModel model(source);
    manage_parent(request);
    return pair.parent;
}

} // namespace tasker::partition

using namespace tasker;

// create_partitioned_table_like(source regclass, parent name, control name, partition_interval text,
//     premake int = 4, retention interval = null, retention_action text = 'drop', start_at text = null,
//     timezone text = 'UTC')
TASKER_FUNCTION(create_partitioned_table_like)
{
    partition::ParentRequest request{};
    const Oid source = args.oid(0, "source");
    if (args.is_null(1))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"parent\" must not be null");
    partition::read_request(args, 2, &request);
    return ObjectIdGetDatum(partition::create_like(source, *DatumGetName(args.datum(1)), request));
}
