#include "partition/move_shape.hpp"

#include "partition/create.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

AttrNumber column_number(TupleDesc descriptor, const char *name)
{
    for (int i = 0; i < descriptor->natts; i++) {
        const Form_pg_attribute column = TupleDescAttr(descriptor, i);
        if (!column->attisdropped && strcmp(NameStr(column->attname), name) == 0)
            return static_cast<AttrNumber>(i + 1);
    }
    return InvalidAttrNumber;
}

// Values of `from` are values of `to` as they are: a column without a length takes those of any length.
bool same_type(Form_pg_attribute from, Form_pg_attribute to)
{
    return from->atttypid == to->atttypid && (from->atttypmod == to->atttypmod || to->atttypmod < 0);
}

void require_columns_of(Relation from, Relation to)
{
    for (int i = 0; i < RelationGetDescr(from)->natts; i++) {
        const Form_pg_attribute column = TupleDescAttr(RelationGetDescr(from), i);
        if (!column->attisdropped && column_number(RelationGetDescr(to), NameStr(column->attname)) == 0)
            ereport(ERROR, errcode(ERRCODE_UNDEFINED_COLUMN),
                    errmsg("table \"%s\" has no column \"%s\", which table \"%s\" has",
                           RelationGetRelationName(to), NameStr(column->attname),
                           RelationGetRelationName(from)),
                    errhint("Add the column, or drop it where it is not needed."));
    }
}

void require_same_types(Relation source, Relation target, const AttrMap *map)
{
    for (int i = 0; i < map->maplen; i++) {
        if (map->attnums[i] == 0)
            continue;
        const Form_pg_attribute to = TupleDescAttr(RelationGetDescr(target), i);
        const Form_pg_attribute from = TupleDescAttr(RelationGetDescr(source), map->attnums[i] - 1);
        if (!same_type(from, to))
            ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("column \"%s\" has type %s in table \"%s\", but %s in table \"%s\"",
                           NameStr(to->attname), format_type_with_typemod(from->atttypid, from->atttypmod),
                           RelationGetRelationName(source),
                           format_type_with_typemod(to->atttypid, to->atttypmod),
                           RelationGetRelationName(target)));
    }
}

const char *name_of_table(Oid table)
{
    const char *name = pg::pg_call([&] { return get_rel_name(table); });
    return name != nullptr ? name : "?";
}

// The first column of the first row of a query about two tables, or null.
const char *first_text(pg::Statement &query, Oid source, Oid target)
{
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {source, target});
    if (rows.empty() || rows.is_null(0, 1))
        return nullptr;
    const std::string_view text = rows.text(0, 1);
    return pg::pg_call([&] { return MemoryContextStrdup(memory, pnstrdup(text.data(), text.size())); });
}

void check_owner(Oid table, Oid caller)
{
    if (pg::pg_call([&] { return tasker_is_owner(RelationRelationId, table, caller); }))
        return;
    throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "must be owner of table %s", name_of_table(table));
}

// One of the two is a partition set, the other an ordinary table; the DEFAULT partition of the set counts as
// one.
void check_kinds(Oid plain, Oid set)
{
    static pg::Statement children(
        "select c.inhrelid::pg_catalog.regclass::text from pg_catalog.pg_inherits c "
        "where c.inhparent = $1 and $2 <> 0 limit 1",
        {OIDOID, OIDOID});
    static pg::Statement parents(
        "select i.inhparent::pg_catalog.regclass::text from pg_catalog.pg_inherits i "
        "where i.inhrelid = $1 and not exists (select from pg_catalog.pg_partitioned_table p "
        "where p.partrelid = $2 and p.partdefid = $1) limit 1",
        {OIDOID, OIDOID});
    const char *name = name_of_table(plain);
    if (plain == set)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "table \"%s\" cannot be moved into itself", name);
    if (pg::pg_call([&] { return get_rel_relkind(plain); }) != RELKIND_RELATION)
        throw pg::Error(ERRCODE_WRONG_OBJECT_TYPE, "\"%s\" is not an ordinary table", name);
    if (const char *child = first_text(children, plain, set); child != nullptr)
        throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "table \"%s\" has children by inheritance", name)
            .detail("Table %s inherits from it.", child);
    if (const char *parent = first_text(parents, plain, set); parent != nullptr)
        throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "table \"%s\" belongs to another table", name)
            .detail("It is a partition or a child of table %s.", parent)
            .hint("Detach it first.");
    if (find_owned_set(set) != nullptr)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "partition set \"%s\" belongs to Tasker",
                        name_of_table(set));
}

void check_references(Oid source, Oid target)
{
    static pg::Statement referencing(
        "select pg_catalog.string_agg(pg_catalog.format('%I of table %s', conname, "
        "conrelid::pg_catalog.regclass), ', ' order by conname) from pg_catalog.pg_constraint "
        "where confrelid = $1 and contype = 'f' and conparentid = 0 and $2 <> 0",
        {OIDOID, OIDOID});
    static pg::Statement unchecked(
        "select t.conname::text from pg_catalog.pg_constraint t where t.conrelid = $2 and t.contype = 'f' "
        "and t.convalidated and not exists (select from pg_catalog.pg_constraint s where s.conrelid = $1 "
        "and s.contype = 'f' and s.convalidated and s.confrelid = t.confrelid and s.confkey = t.confkey and "
        "(select pg_catalog.array_agg(a.attname order by k.n) from pg_catalog.unnest(s.conkey) with "
        "ordinality "
        "k (attnum, n) join pg_catalog.pg_attribute a on a.attrelid = $1 and a.attnum = k.attnum) = "
        "(select pg_catalog.array_agg(a.attname order by k.n) from pg_catalog.unnest(t.conkey) with "
        "ordinality "
        "k (attnum, n) join pg_catalog.pg_attribute a on a.attrelid = $2 and a.attnum = k.attnum)) limit 1",
        {OIDOID, OIDOID});
    if (const char *names = first_text(referencing, source, target); names != nullptr)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "rows of table \"%s\" cannot be moved while foreign keys reference it",
                        name_of_table(source))
            .detail("They are: %s.", names)
            .hint(
                "Drop the foreign keys before, and add them to the other table afterwards where it can have "
                "them.");
    if (const char *name = first_text(unchecked, source, target); name != nullptr)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "table \"%s\" lacks the foreign key \"%s\" of table \"%s\"", name_of_table(source),
                        name, name_of_table(target))
            .detail("Rows are moved without a check of foreign keys, so both tables must have the same.")
            .hint("Add the foreign key and validate it, or drop it from the other table.");
}

} // namespace

AttrMap *map_columns_by_name(TupleDesc source, TupleDesc target)
{
    AttrMap *map = make_attrmap(target->natts);
    for (int i = 0; i < target->natts; i++) {
        const Form_pg_attribute column = TupleDescAttr(target, i);
        const bool filled = !column->attisdropped && column->attgenerated == '\0';
        map->attnums[i] = filled ? column_number(source, NameStr(column->attname)) : 0;
    }
    return map;
}

AttrMap *map_columns(Relation source, Relation target)
{
    require_columns_of(source, target);
    for (int i = 0; i < RelationGetDescr(target)->natts; i++) {
        const Form_pg_attribute column = TupleDescAttr(RelationGetDescr(target), i);
        if (!column->attisdropped && column->attgenerated == '\0' &&
            column_number(RelationGetDescr(source), NameStr(column->attname)) == 0)
            require_columns_of(target, source);
    }
    AttrMap *map = map_columns_by_name(RelationGetDescr(source), RelationGetDescr(target));
    require_same_types(source, target, map);
    return map;
}

// The primary key of the target comes first, then its other unique keys. $1 is the source.
MoveKey choose_key(Oid source, Oid target)
{
    static pg::Statement query(
        "with keys as (select i.indexrelid, i.indrelid, i.indisprimary, i.indisreplident, "
        "pg_catalog.array_agg(a.attname order by a.attname) as names, "
        "pg_catalog.bool_and(a.attnotnull) as filled "
        "from pg_catalog.pg_index i, pg_catalog.unnest(i.indkey::pg_catalog.int2[]) with ordinality k "
        "(attnum, n) "
        "join pg_catalog.pg_attribute a on a.attnum = k.attnum "
        "where i.indrelid in ($1, $2) and a.attrelid = i.indrelid and k.n <= i.indnkeyatts and "
        "i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null "
        "group by 1, 2, 3, 4) "
        "select t.names, s.names from keys t join keys s on s.names <@ t.names "
        "where t.indrelid = $2 and s.indrelid = $1 and s.filled and t.filled and not exists ("
        "select from pg_catalog.unnest(t.names) n join pg_catalog.pg_attribute a on a.attname = n "
        "where a.attrelid in ($1, $2) and (not a.attnotnull or a.attgenerated <> '')) "
        "order by t.indisprimary desc, s.indisprimary desc, t.names, s.names limit 1",
        {OIDOID, OIDOID});
    MoveKey key{};
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(query, {source, target});
        for (int column = 1; !rows.empty() && column <= 2; column++) {
            Datum array = rows.datum(0, column);
            pg::pg_call([&] {
                Datum *names = nullptr;
                int *count = column == 1 ? &key.count : &key.source_count;
                deconstruct_array(DatumGetArrayTypeP(array), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
                                  &names, nullptr, count);
                for (int i = 0; i < *count; i++)
                    namestrcpy(column == 1 ? &key.columns[i] : &key.source_columns[i],
                               NameStr(*DatumGetName(names[i])));
            });
        }
    }
    if (key.count == 0)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "rows of table \"%s\" cannot be found again in table \"%s\"", name_of_table(source),
                        name_of_table(target))
            .detail(
                "A swap needs a primary key or a unique key of columns that are not null, and a unique key "
                "of the other table that has the same columns and perhaps more.")
            .hint("Add such keys, or move the rows without \"swap\".");
    return key;
}

void check_pair(Oid source, Oid target, Oid caller)
{
    check_owner(source, caller);
    check_owner(target, caller);
    const bool undo = pg::pg_call([&] { return get_rel_relkind(source) == RELKIND_PARTITIONED_TABLE; });
    check_kinds(undo ? target : source, undo ? source : target);
    (void)describe_set(undo ? source : target);
    check_references(source, target);
    pg::pg_call([&] {
        Relation from = table_open(source, AccessShareLock);
        Relation to = table_open(target, AccessShareLock);
        (void)map_columns(from, to);
        if (RELATION_IS_OTHER_TEMP(from) || RELATION_IS_OTHER_TEMP(to))
            ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot move rows of temporary tables of other sessions"));
        CheckCmdReplicaIdentity(from, CMD_DELETE);
        table_close(to, AccessShareLock);
        table_close(from, AccessShareLock);
    });
}

} // namespace tasker::partition
