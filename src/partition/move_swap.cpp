#include "partition/move_swap.hpp"

#include "partition/move_mirror.hpp"
#include "partition/move_source.hpp"
#include "partition/parent.hpp"
#include "partition/set_failure.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "catalog/dependency.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
}

namespace tasker::partition {
namespace {

// A writer waits for no longer than this behind us, then it is let through and we try again.
constexpr int kSwapWaitMs = 100;
constexpr int kSwapTries = 60;
constexpr int64_t kSwapPauseUs = 20'000;
constexpr int64_t kLongestSwapPauseUs = 1'000'000;

// Values whose type can be hashed are compared by hash, the others by their text.
void append_columns(StringInfo text, Oid target)
{
    Relation to = table_open(target, AccessShareLock);
    const char *separator = "";
    for (int i = 0; i < RelationGetDescr(to)->natts; i++) {
        const Form_pg_attribute column = TupleDescAttr(RelationGetDescr(to), i);
        if (column->attisdropped || column->attgenerated != '\0')
            continue;
        const bool hashable =
            OidIsValid(lookup_type_cache(column->atttypid, TYPECACHE_HASH_EXTENDED_PROC)->hash_extended_proc);
        appendStringInfo(text, "%s%s%s", separator, quote_identifier(NameStr(column->attname)),
                         hashable ? "" : "::text");
        separator = ", ";
    }
    table_close(to, AccessShareLock);
}

// Plain C inside: may ereport.
Oid owner_of(Oid table)
{
    Relation relation = table_open(table, AccessShareLock);
    const Oid owner = relation->rd_rel->relowner;
    table_close(relation, AccessShareLock);
    return owner;
}

const char *digest_text(Oid table, const char *columns)
{
    const bool partitioned = get_rel_relkind(table) == RELKIND_PARTITIONED_TABLE;
    return psprintf("(select (pg_catalog.count(*), pg_catalog.sum(pg_catalog.hash_record_extended("
                    "row(%s), 0)))::text from %s%s)",
                    columns, partitioned ? "" : "only ", quoted_partition(table));
}

// Everything below happens under ACCESS EXCLUSIVE on both tables. Plain C.

void rename_relation(Oid relid, const char *name, bool is_index)
{
    RenameRelationInternal(relid, name, false, is_index);
    CommandCounterIncrement();
}

// NAME_old, or NAME_old2 and so on.
const char *old_name(const char *name, Oid schema)
{
    const char *candidate = makeObjectName(name, "old", nullptr);
    for (int i = 2; OidIsValid(get_relname_relid(candidate, schema)); i++)
        candidate = makeObjectName(name, psprintf("old%d", i), nullptr);
    return pstrdup(candidate);
}

// What is named after a table is named after its new name, as far as that name is free and not too long.
void rename_after(Oid relid, const char *from, const char *to, bool is_index)
{
    const char *name = get_rel_name(relid);
    const Size length = strlen(from);
    if (strncmp(name, from, length) != 0 || name[length] != '_')
        return;
    const char *wanted = psprintf("%s%s", to, name + length);
    if (strlen(wanted) >= NAMEDATALEN || OidIsValid(get_relname_relid(wanted, get_rel_namespace(relid))))
        return;
    rename_relation(relid, wanted, is_index);
}

void rename_parts(Oid relid, const char *from, const char *to)
{
    Relation table = table_open(relid, NoLock);
    List *indexes = RelationGetIndexList(table);
    table_close(table, NoLock);
    ListCell *cell = nullptr;
    foreach (cell, indexes)
        rename_after(lfirst_oid(cell), from, to, true);
    List *sequences = getOwnedSequences(relid);
    foreach (cell, sequences)
        rename_after(lfirst_oid(cell), from, to, false);
}

void rename_partitions(Oid parent, const char *from, const char *to)
{
    List *partitions = find_all_inheritors(parent, AccessExclusiveLock, nullptr);
    ListCell *cell = nullptr;
    foreach (cell, partitions) {
        if (lfirst_oid(cell) != parent)
            rename_after(lfirst_oid(cell), from, to, false);
        rename_parts(lfirst_oid(cell), from, to);
    }
}

// The source's own parts make way first; partitions that an undo leaves behind keep their names.
void exchange_names(Oid source, Oid target)
{
    const char *name = pstrdup(get_rel_name(source));
    const char *other = pstrdup(get_rel_name(target));
    const char *old = old_name(name, get_rel_namespace(source));
    rename_relation(source, old, false);
    rename_parts(source, name, old);
    rename_relation(target, name, false);
    rename_partitions(target, other, name);
}

void run_text(const char *text)
{
    pg::Spi().run_text(text);
}

// Runs each text that a query makes.
void run_texts(pg::Statement &query, Oid source, Oid target)
{
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {source, target});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view text = rows.text(i, 1);
        run_text(pg::pg_call([&] { return pnstrdup(text.data(), text.size()); }));
    }
}

// Sequences of serial columns belong to the new table, which goes on drawing from them.
void hand_over_sequences(Oid source, Oid target)
{
    static pg::Statement query(
        "select pg_catalog.format('alter sequence %s owned by %s.%I', d.objid::pg_catalog.regclass, "
        "$2::pg_catalog.regclass, a.attname) from pg_catalog.pg_depend d "
        "join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S' "
        "join pg_catalog.pg_attribute a on a.attrelid = $1 and a.attnum = d.refobjsubid "
        "where d.classid = 'pg_class'::pg_catalog.regclass and d.refclassid = "
        "'pg_class'::pg_catalog.regclass and "
        "d.refobjid = $1 and d.deptype = 'a'",
        {OIDOID, OIDOID});
    run_texts(query, source, target);
}

// Rights, and the place in publications, where the old table has none any more.
void hand_over_access(Oid source, Oid target)
{
    static pg::Statement rights(
        "select pg_catalog.format('grant %s%s on %s to %s%s', r.privilege_type, "
        "case when r.attname is not null then pg_catalog.format(' (%I)', r.attname) end, "
        "$2::pg_catalog.regclass, "
        "case when r.grantee = 0 then 'public' else r.grantee::pg_catalog.regrole::text end, "
        "case when r.is_grantable then ' with grant option' end) from ("
        "select x.grantee, x.privilege_type, x.is_grantable, null::name as attname, c.relowner "
        "from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x where c.oid = $1 union all "
        "select x.grantee, x.privilege_type, x.is_grantable, a.attname, 0 "
        "from pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) x "
        "where a.attrelid = $1 and not a.attisdropped) r where r.grantee <> r.relowner",
        {OIDOID, OIDOID});
    static pg::Statement publications(
        "select pg_catalog.format('alter publication %I add table %s%s%s', p.pubname, "
        "$2::pg_catalog.regclass, (select ' (' || pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), "
        "', ' order by a.attnum) || ')' from pg_catalog.pg_attribute a where a.attrelid = r.prrelid and "
        "a.attnum = any (r.prattrs)), "
        "' where (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')') "
        "from pg_catalog.pg_publication p join pg_catalog.pg_publication_rel r on r.prpubid = p.oid "
        "where r.prrelid = $1 and not exists (select from pg_catalog.pg_publication_rel o "
        "where o.prpubid = p.oid and o.prrelid = $2)",
        {OIDOID, OIDOID});
    static pg::Statement withdrawals(
        "select pg_catalog.format('alter publication %I drop table %s', p.pubname, "
        "$1::pg_catalog.regclass) from pg_catalog.pg_publication p "
        "join pg_catalog.pg_publication_rel r on r.prpubid = p.oid where r.prrelid = $1 and $2 <> 0",
        {OIDOID, OIDOID});
    run_texts(rights, source, target);
    run_texts(publications, source, target);
    run_texts(withdrawals, source, target);
}

// Subscribers that had the one table need as many as there are partitions.
void tell_of_publications(Oid table)
{
    static pg::Statement query(
        "select pg_catalog.string_agg(pg_catalog.quote_ident(p.pubname), ', ' order by p.pubname) "
        "from pg_catalog.pg_publication p, pg_catalog.pg_class c "
        "where c.oid = $1 and c.relkind = 'p' and not p.pubviaroot and (p.puballtables or "
        "exists (select from pg_catalog.pg_publication_rel r where r.prpubid = p.oid and r.prrelid = c.oid) "
        "or "
        "exists (select from pg_catalog.pg_publication_namespace n where n.pnpubid = p.oid and "
        "n.pnnspid = c.relnamespace))",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {table});
    if (rows.empty() || rows.is_null(0, 1))
        return;
    const std::string_view names = rows.text(0, 1);
    pg::pg_call([&] {
        ereport(NOTICE,
                errmsg("changes of table \"%s\" are published as changes of its partitions from now on",
                       get_rel_name(table)),
                errdetail("Publications without publish_via_partition_root: %.*s.",
                          static_cast<int>(names.size()), names.data()),
                errhint("Set publish_via_partition_root, or create the partitions where the publications "
                        "are subscribed to."));
    });
}

void swap(Oid source, Oid target, bool undo)
{
    LockTimeoutScope limit(std::min(LockTimeout, kSwapWaitMs));
    pg::pg_call([&] {
        LockRelationOid(source, AccessExclusiveLock);
        LockRelationOid(target, AccessExclusiveLock);
    });
    drop_mirror(source);
    hand_over_sequences(source, target);
    advance_identity(source, target);
    hand_over_access(source, target);
    pg::pg_call([&] { exchange_names(source, target); });
    strike_move(source);
    if (undo)
        end_management(source);
    tell_of_publications(target);
}

} // namespace

bool have_equal_rows(Oid source, Oid target)
{
    const char *text = pg::pg_call([&] {
        StringInfoData columns;
        initStringInfo(&columns);
        append_columns(&columns, target);
        return psprintf("select %s is not distinct from %s", digest_text(source, columns.data),
                        digest_text(target, columns.data));
    });
    // A column may have a cast to text of its owner's making.
    pg::AsOwner owner(pg::pg_call([&] { return owner_of(source); }));
    pg::Spi spi(pg::Spi::Identity::caller);
    return spi.read_text_under(text, GetActiveSnapshot()).boolean(0, 1);
}

void swap_names(Steps &steps, Oid source, Oid target, bool undo)
{
    int64_t pause_us = kSwapPauseUs;
    for (int i = 0; i < kSwapTries; i++) {
        std::optional<pg::CaughtError> error;
        LockTimeoutScope limit(kSwapWaitMs);
        steps.transaction([&] {
            if (i == 0)
                book_phase(source, "swapping names");
            error = pg::try_in_subtransaction([&] { swap(source, target, undo); });
        });
        if (!error)
            return;
        if (!is_lock_failure(*error)) {
            steps.transaction([&] { swap(source, target, undo); });
            return;
        }
        pause_move(pause_us);
        pause_us = std::min(pause_us * 3 / 2, kLongestSwapPauseUs);
    }
    const char *name = pg::pg_call([&] { return get_rel_name(source); });
    throw pg::Error(ERRCODE_LOCK_NOT_AVAILABLE, "could not lock table \"%s\" to swap the names", name)
        .detail("Transactions that have used it have been open all the time.")
        .hint("The copy is complete and is kept up to date. Call again to try once more.");
}

// A sequence that is ahead already stays so.
void advance_identity(Oid source, Oid target)
{
    static pg::Statement query(
        "select pg_catalog.setval(t.seq, p.last_value) from pg_catalog.pg_attribute a "
        "join pg_catalog.pg_attribute b on b.attrelid = $2 and b.attname = a.attname "
        "cross join lateral (select pg_catalog.pg_get_serial_sequence($1::pg_catalog.regclass::text, "
        "a.attname)::pg_catalog.regclass, pg_catalog.pg_get_serial_sequence($2::pg_catalog.regclass::text, "
        "b.attname)::pg_catalog.regclass) t (old, seq) "
        "cross join lateral (select pg_catalog.pg_sequence_last_value(t.old)) p (last_value) "
        "where a.attrelid = $1 and b.attidentity <> '' and t.old <> t.seq and p.last_value is not null and "
        "p.last_value > coalesce(pg_catalog.pg_sequence_last_value(t.seq), p.last_value - 1)",
        {OIDOID, OIDOID});
    pg::Spi().run(query, {source, target});
}

} // namespace tasker::partition
