#include "partition/shape.hpp"

#include "partition/set_config.hpp"

extern "C" {
#include "access/reloptions.h"
#include "catalog/dependency.h"
#include "commands/comment.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/tablespace.h"
#include "nodes/value.h"
}

namespace tasker::partition {
namespace {

Oid first_model = InvalidOid;

constexpr int kMostAttributes = std::max(Natts_pg_class, Natts_pg_attribute);

// A catalog row that a few attributes are changed of. Plain C, as all of this file that takes no Spi.
struct RowChange
{
    Datum values[kMostAttributes];
    bool nulls[kMostAttributes];
    bool replace[kMostAttributes];
    bool any;
};

void set_attribute(RowChange *change, AttrNumber attribute, Datum value, bool null)
{
    change->values[attribute - 1] = value;
    change->nulls[attribute - 1] = null;
    change->replace[attribute - 1] = true;
    change->any = true;
}

void write_row(Relation catalog, HeapTuple row, RowChange *change)
{
    HeapTuple changed =
        heap_modify_tuple(row, RelationGetDescr(catalog), change->values, change->nulls, change->replace);
    CatalogTupleUpdate(catalog, &row->t_self, changed);
    heap_freetuple(changed);
}

Acl *acl_of(int cache, HeapTuple row, AttrNumber attribute)
{
    bool null = false;
    Datum value = SysCacheGetAttr(cache, row, attribute, &null);
    return null ? nullptr : DatumGetAclPCopy(value);
}

Oid owner_of(Oid relid)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(row))
        elog(ERROR, "cache lookup failed for relation %u", relid);
    const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->relowner;
    ReleaseSysCache(row);
    return owner;
}

// The row of a relation or of its column gets the rights `wanted`, and who is named in them is noted.
void set_acl(RowChange *change, AttrNumber attribute, Oid relid, AttrNumber column, const Acl *old,
             const Acl *wanted)
{
    Oid *old_members = nullptr;
    Oid *members = nullptr;
    if (old == nullptr && wanted == nullptr)
        return;
    const int old_count = aclmembers(old, &old_members);
    const int count = aclmembers(wanted, &members);
    set_attribute(change, attribute, PointerGetDatum(wanted), wanted == nullptr);
    updateAclDependencies(RelationRelationId, relid, column, owner_of(relid), old_count, old_members, count,
                          members);
}

void copy_table_rights(Oid from, Oid to)
{
    Relation catalog = table_open(RelationRelationId, RowExclusiveLock);
    HeapTuple source = SearchSysCache1(RELOID, ObjectIdGetDatum(from));
    HeapTuple target = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(to));
    if (!HeapTupleIsValid(source) || !HeapTupleIsValid(target))
        elog(ERROR, "cache lookup failed for relation %u or %u", from, to);
    RowChange change{};
    set_acl(&change, Anum_pg_class_relacl, to, 0, acl_of(RELOID, target, Anum_pg_class_relacl),
            acl_of(RELOID, source, Anum_pg_class_relacl));
    if (change.any)
        write_row(catalog, target, &change);
    ReleaseSysCache(source);
    table_close(catalog, RowExclusiveLock);
}

using ColumnChange = void (*)(HeapTuple source, HeapTuple model, HeapTuple target, RowChange *change);

// Lets `decide` look at each column of `to` beside those with its name.
void change_columns(Oid from, Oid model, Oid to, ColumnChange decide)
{
    Relation catalog = table_open(AttributeRelationId, RowExclusiveLock);
    Relation table = relation_open(to, NoLock);
    for (int i = 0; i < RelationGetNumberOfAttributes(table); i++) {
        const char *name = NameStr(TupleDescAttr(RelationGetDescr(table), i)->attname);
        HeapTuple target = SearchSysCacheCopyAttName(to, name);
        HeapTuple source = SearchSysCacheAttName(from, name);
        HeapTuple example = OidIsValid(model) ? SearchSysCacheAttName(model, name) : nullptr;
        RowChange change{};
        if (HeapTupleIsValid(target) && HeapTupleIsValid(source))
            decide(source, example, target, &change);
        if (change.any)
            write_row(catalog, target, &change);
        if (HeapTupleIsValid(source))
            ReleaseSysCache(source);
        if (HeapTupleIsValid(example))
            ReleaseSysCache(example);
    }
    relation_close(table, NoLock);
    table_close(catalog, RowExclusiveLock);
    CommandCounterIncrement();
}

bool is_set(HeapTuple row, AttrNumber attribute, Datum *value)
{
    bool null = true;
    if (HeapTupleIsValid(row))
        *value = SysCacheGetAttr(ATTNAME, row, attribute, &null);
    return !null;
}

// Cut to 16 bits, a target of -1 stays the default, whichever width the server stores.
void decide_target(HeapTuple source, HeapTuple model, HeapTuple, RowChange *change)
{
    for (HeapTuple row : {source, model}) {
        Datum value = 0;
        if (!change->any && is_set(row, Anum_pg_attribute_attstattarget, &value) && DatumGetInt16(value) >= 0)
            set_attribute(change, Anum_pg_attribute_attstattarget, value, false);
    }
}

void decide_rights(HeapTuple source, HeapTuple, HeapTuple target, RowChange *change)
{
    const Form_pg_attribute column = reinterpret_cast<Form_pg_attribute>(GETSTRUCT(target));
    set_acl(change, Anum_pg_attribute_attacl, column->attrelid, column->attnum,
            acl_of(ATTNAME, target, Anum_pg_attribute_attacl),
            acl_of(ATTNAME, source, Anum_pg_attribute_attacl));
}

void append_options(StringInfo text, Oid relid, const char *prefix)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(row))
        return;
    bool null = false;
    Datum options = SysCacheGetAttr(RELOID, row, Anum_pg_class_reloptions, &null);
    ListCell *cell = nullptr;
    foreach (cell, null ? NIL : untransformRelOptions(options)) {
        DefElem *option = lfirst_node(DefElem, cell);
        appendStringInfo(text, "%s%s%s", text->len > 0 ? ", " : "", prefix,
                         quote_identifier(option->defname));
        if (option->arg != nullptr)
            appendStringInfo(text, " = %s", quote_literal_cstr(strVal(option->arg)));
    }
    ReleaseSysCache(row);
}

// The options of a column that its user sets: the server may keep others there, which are not to be copied.
// Returns whether there are any.
bool append_column_options(StringInfo text, Oid relid, const char *column)
{
    HeapTuple row = OidIsValid(relid) ? SearchSysCacheAttName(relid, column) : nullptr;
    Datum options = 0;
    const char *separator = "(";
    ListCell *cell = nullptr;
    foreach (cell,
             is_set(row, Anum_pg_attribute_attoptions, &options) ? untransformRelOptions(options) : NIL) {
        DefElem *option = lfirst_node(DefElem, cell);
        if (strcmp(option->defname, "n_distinct") != 0 &&
            strcmp(option->defname, "n_distinct_inherited") != 0)
            continue;
        if (separator[0] == '(')
            appendStringInfo(text, " alter column %s set ", quote_identifier(column));
        appendStringInfo(text, "%s%s = %s", separator, option->defname,
                         quote_literal_cstr(strVal(option->arg)));
        separator = ", ";
    }
    if (separator[0] != '(')
        appendStringInfoString(text, "),");
    if (HeapTupleIsValid(row))
        ReleaseSysCache(row);
    return separator[0] != '(';
}

// Null when there is nothing to do.
const char *column_options_text(Oid from, Oid model, Oid to)
{
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfo(&text, "alter table %s", quoted_partition(to));
    bool any = false;
    Relation table = relation_open(to, AccessShareLock);
    for (int i = 0; i < RelationGetNumberOfAttributes(table); i++) {
        const char *column = NameStr(TupleDescAttr(RelationGetDescr(table), i)->attname);
        if (append_column_options(&text, from, column) || append_column_options(&text, model, column))
            any = true;
    }
    relation_close(table, AccessShareLock);
    text.data[text.len - 1] = '\0'; // the last comma
    return any ? text.data : nullptr;
}

// Its access method and storage parameters, as CREATE TABLE takes them.
void append_storage(StringInfo text, Oid model)
{
    Relation table = try_relation_open(model, AccessShareLock);
    if (table == nullptr)
        return; // dropped just now
    StringInfoData options;
    initStringInfo(&options);
    append_options(&options, model, "");
    if (OidIsValid(table->rd_rel->reltoastrelid))
        append_options(&options, table->rd_rel->reltoastrelid, "toast.");
    appendStringInfo(text, " using %s", quote_identifier(get_am_name(table->rd_rel->relam)));
    if (options.len > 0)
        appendStringInfo(text, " with (%s)", options.data);
    relation_close(table, AccessShareLock);
}

// What a table identifies its rows by for logical replication.
struct ReplicaIdentity
{
    char kind;
    Oid index;
};

ReplicaIdentity replica_identity_of(Oid relid)
{
    Relation table = try_relation_open(relid, AccessShareLock);
    if (table == nullptr)
        return {REPLICA_IDENTITY_DEFAULT, InvalidOid};
    ReplicaIdentity identity{table->rd_rel->relreplident, InvalidOid};
    ListCell *cell = nullptr;
    foreach (cell, RelationGetIndexList(table)) {
        if (identity.kind == REPLICA_IDENTITY_INDEX && get_index_isreplident(lfirst_oid(cell)))
            identity.index = lfirst_oid(cell);
    }
    relation_close(table, AccessShareLock);
    return identity;
}

// The index of a partition that belongs to an index of the parent.
Oid index_of_partition(Oid partition, Oid parent_index)
{
    if (!OidIsValid(parent_index))
        return InvalidOid;
    Relation table = table_open(partition, AccessShareLock);
    const Oid index = index_get_partition(table, parent_index);
    table_close(table, AccessShareLock);
    return index;
}

Oid parent_of_index(Oid index)
{
    return OidIsValid(index) && get_rel_relispartition(index) ? get_partition_parent(index, true)
                                                              : InvalidOid;
}

ReplicaIdentity wanted_identity(Oid parent, Oid model, Oid partition)
{
    ReplicaIdentity identity = replica_identity_of(parent);
    Oid index = identity.index;
    if (identity.kind == REPLICA_IDENTITY_DEFAULT && OidIsValid(model)) {
        identity = replica_identity_of(model);
        index = parent_of_index(identity.index);
    }
    identity.index = index_of_partition(partition, index);
    if (identity.kind == REPLICA_IDENTITY_INDEX && !OidIsValid(identity.index))
        identity.kind = REPLICA_IDENTITY_DEFAULT; // an index of the model's own, or dropped
    return identity;
}

// The partition's index that stands for the one by which the model is clustered.
Oid clustered_index(Oid model, Oid partition)
{
    Oid clustered = InvalidOid;
    Relation table = OidIsValid(model) ? try_relation_open(model, AccessShareLock) : nullptr;
    if (table == nullptr)
        return InvalidOid;
    ListCell *cell = nullptr;
    foreach (cell, RelationGetIndexList(table)) {
        if (get_index_isclustered(lfirst_oid(cell)))
            clustered = lfirst_oid(cell);
    }
    relation_close(table, AccessShareLock);
    return index_of_partition(partition, parent_of_index(clustered));
}

void copy_index_settings(Oid parent, Oid partition)
{
    Relation table = table_open(parent, AccessShareLock);
    List *indexes = RelationGetIndexList(table);
    table_close(table, AccessShareLock);
    ListCell *cell = nullptr;
    foreach (cell, indexes) {
        const Oid from = lfirst_oid(cell);
        const Oid to = index_of_partition(partition, from);
        if (!OidIsValid(to))
            continue;
        copy_comment(from, to);
        copy_statistics_targets(from, InvalidOid, to);
    }
}

const char *index_name(Oid index)
{
    return quote_identifier(get_rel_name(index));
}

} // namespace

void forget_session_defaults()
{
    (void)set_config_option("default_tablespace", "", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                            false);
}

Oid find_model(std::span<const DirectoryEntry> bounds)
{
    for (auto entry = bounds.rbegin(); entry != bounds.rend(); ++entry) {
        if (get_rel_relkind(entry->relid) == RELKIND_RELATION)
            return entry->relid;
    }
    return first_model;
}

FirstModel::FirstModel(Oid table) noexcept
{
    first_model = table;
}

FirstModel::~FirstModel()
{
    first_model = InvalidOid;
}

const char *table_text(Oid like, const char *name, const char *options, Oid model, const char *partition_by)
{
    StringInfoData text;
    initStringInfo(&text);
    Relation table = relation_open(like, AccessShareLock);
    const Oid tablespace = table->rd_rel->reltablespace;
    const bool unlogged = table->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED;
    relation_close(table, AccessShareLock);
    appendStringInfo(&text, "create %stable %s (like %s including all %s)", unlogged ? "unlogged " : "", name,
                     quoted_partition(like), options);
    if (partition_by != nullptr)
        appendStringInfo(&text, " partition by range (%s)", partition_by);
    if (OidIsValid(model))
        append_storage(&text, model);
    if (OidIsValid(tablespace))
        appendStringInfo(&text, " tablespace %s", quote_identifier(get_tablespace_name(tablespace)));
    return text.data;
}

void copy_rights(Oid from, Oid to)
{
    copy_table_rights(from, to);
    change_columns(from, InvalidOid, to, decide_rights);
}

void copy_statistics_targets(Oid from, Oid model, Oid to)
{
    change_columns(from, model, to, decide_target);
}

void copy_column_options(pg::Spi &spi, Oid from, Oid model, Oid to)
{
    const char *text = pg::pg_call([&] { return column_options_text(from, model, to); });
    if (text != nullptr)
        spi.run_text(text);
}

void copy_comment(Oid from, Oid to)
{
    if (const char *comment = GetComment(from, RelationRelationId, 0); comment != nullptr)
        CreateComments(to, RelationRelationId, 0, comment);
}

void copy_row_security(pg::Spi &spi, Oid from, Oid to)
{
    bool enabled = false;
    bool forced = false;
    pg::pg_call([&] {
        Relation table = table_open(from, AccessShareLock);
        enabled = table->rd_rel->relrowsecurity;
        forced = table->rd_rel->relforcerowsecurity;
        table_close(table, AccessShareLock);
    });
    const char *name = quoted_partition(to);
    if (enabled)
        spi.run_text(pg::pg_call([&] { return psprintf("alter table %s enable row level security", name); }));
    if (forced)
        spi.run_text(pg::pg_call([&] { return psprintf("alter table %s force row level security", name); }));
}

void set_replica_identity(pg::Spi &spi, Oid table, char identity, Oid index)
{
    if (identity == REPLICA_IDENTITY_DEFAULT)
        return;
    const char *name = quoted_partition(table);
    spi.run_text(pg::pg_call([&] {
        if (identity == REPLICA_IDENTITY_INDEX)
            return psprintf("alter table %s replica identity using index %s", name, index_name(index));
        return psprintf("alter table %s replica identity %s", name,
                        identity == REPLICA_IDENTITY_FULL ? "full" : "nothing");
    }));
}

void shape_partition(pg::Spi &spi, Oid parent, Oid model, Oid partition)
{
    pg::pg_call([&] {
        copy_rights(parent, partition);
        copy_statistics_targets(parent, model, partition);
        copy_comment(parent, partition);
        CommandCounterIncrement();
    });
    copy_column_options(spi, parent, model, partition);
    copy_row_security(spi, parent, partition);
}

void shape_attached(pg::Spi &spi, Oid parent, Oid model, Oid partition)
{
    ReplicaIdentity identity{};
    Oid clustered = InvalidOid;
    pg::pg_call([&] {
        copy_index_settings(parent, partition);
        identity = wanted_identity(parent, model, partition);
        clustered = clustered_index(model, partition);
        CommandCounterIncrement();
    });
    set_replica_identity(spi, partition, identity.kind, identity.index);
    if (OidIsValid(clustered)) {
        const char *name = quoted_partition(partition);
        spi.run_text(pg::pg_call(
            [&] { return psprintf("alter table %s cluster on %s", name, index_name(clustered)); }));
    }
}

// Row filters are deparsed with search_path pinned, and may use nothing but what is built in.
void join_publications(Oid parent, Oid model, Oid partition)
{
    static pg::Statement query(
        "select pg_catalog.format('alter publication %I add table only %s%s%s', p.pubname, "
        "$3::pg_catalog.regclass, (select ' (' || pg_catalog.string_agg("
        "pg_catalog.quote_ident(a.attname), ', ' order by a.attnum) || ')' from pg_catalog.pg_attribute a "
        "where a.attrelid = m.prrelid and a.attnum = any (m.prattrs)), "
        "' where (' || pg_catalog.pg_get_expr(m.prqual, m.prrelid) || ')') "
        "from pg_catalog.pg_publication_rel m join pg_catalog.pg_publication p on p.oid = m.prpubid "
        "where m.prrelid = $2 and exists (select from pg_catalog.pg_inherits where inhrelid = $2 and "
        "inhparent = $1) and not exists (select from pg_catalog.pg_publication_rel r "
        "where r.prpubid = m.prpubid and (r.prrelid = $3 or r.prrelid in "
        "(select relid from pg_catalog.pg_partition_ancestors($1))))",
        {OIDOID, OIDOID, OIDOID});
    if (!OidIsValid(model))
        return;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {parent, model, partition});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view text = rows.text(i, 1);
        spi.run_text(pg::pg_call([&] { return pnstrdup(text.data(), text.size()); }));
    }
}

} // namespace tasker::partition
