#include "stream/empty_table.hpp"

#include "partition/set_failure.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"

namespace tasker::stream {
namespace {

struct Holder
{
    const char *name;
    bool stays; // has been at work for longer than anybody is waited for
};

// A prepared transaction has no process; its lock on its own id tells which one it is.
#define HOLDERS                                                                                              \
    "select case when l.pid is null then pg_catalog.format('prepared transaction \"%s\"', p.gid) "           \
    "  else pg_catalog.format('%s (pid %s)', coalesce(nullif(a.application_name, ''), a.backend_type, "      \
    "    'a session'), l.pid) end, "                                                                         \
    "coalesce(a.xact_start < pg_catalog.clock_timestamp() - interval '100 milliseconds', true) "             \
    "from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid "                   \
    "left join lateral (select p.gid from pg_catalog.pg_locks x join pg_catalog.pg_prepared_xacts p "        \
    "  on p.transaction = x.transactionid where x.pid is null and x.locktype = 'transactionid' "             \
    "  and x.virtualtransaction = l.virtualtransaction and l.pid is null limit 1) p on true "                \
    "where l.granted and l.pid is distinct from pg_catalog.pg_backend_pid() "                                \
    "and l.database = (select oid from pg_catalog.pg_database where datname = "                              \
    "  pg_catalog.current_database()) "

#define OLDEST "order by a.xact_start nulls first, l.pid limit 1"

// Who was in the way may have gone meanwhile.
Holder first_holder(pg::Statement &query, std::initializer_list<pg::Param> parameters)
{
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, parameters);
    if (rows.empty())
        return {"a transaction that has ended", false};
    const std::string_view name = rows.text(0, 1);
    return {pg::pg_call([&] { return MemoryContextStrdup(memory, pnstrdup(name.data(), name.size())); }),
            rows.boolean(0, 2)};
}

LOCKTAG tag_of_table(Oid table)
{
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
    return tag;
}

// An attempt to take an ACCESS EXCLUSIVE lock assigns a transaction id even where it fails, so it is asked
// first whether it would. Plain C: may ereport.
bool try_lock(Oid table, LOCKMODE mode)
{
    const LOCKTAG tag = tag_of_table(table);
    int conflicts = 0;
    pfree(GetLockConflicts(&tag, mode, &conflicts));
    return conflicts == 0 && ConditionalLockRelationOid(table, mode);
}

// The lock stays when the subtransaction is committed.
bool lock_within(Oid table, int timeout_ms)
{
    partition::LockTimeoutScope limit(timeout_ms);
    const std::optional<pg::CaughtError> error =
        pg::try_in_subtransaction([&] { pg::pg_call([&] { LockRelationOid(table, AccessExclusiveLock); }); });
    if (error && error->sqlstate() != ERRCODE_LOCK_NOT_AVAILABLE)
        throw pg::Error(error->sqlstate(), "%s", error->message());
    return !error;
}

} // namespace

const char *lock_to_empty(Oid table, Patience patience)
{
    static pg::Statement holders(HOLDERS "and l.locktype = 'relation' and l.relation = $1 " OLDEST, {OIDOID});
    if (pg::pg_call([&] { return try_lock(table, AccessExclusiveLock); }))
        return nullptr;
    const Holder holder = first_holder(holders, {table});
    if (patience == Patience::brief && !holder.stays && lock_within(table, partition::polite_patience_ms()))
        return nullptr;
    return holder.name;
}

bool lock_out_writers(Oid table)
{
    return pg::pg_call([&] { return try_lock(table, ShareLock); });
}

const char *holder_of_object(Oid class_id, Oid object)
{
    static pg::Statement holders(
        HOLDERS "and l.locktype = 'object' and l.classid = $1 and l.objid = $2 " OLDEST, {OIDOID, OIDOID});
    return first_holder(holders, {class_id, object}).name;
}

void empty_locked(Oid table)
{
    if (is_without_pages(table))
        return;
    const char *sql = pg::pg_call([&] {
        return psprintf(
            "truncate only %s",
            quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), get_rel_name(table)));
    });
    pg::Spi().run_text(sql);
}

bool is_without_pages(Oid table)
{
    return pg::pg_call([&] {
        Relation heap = try_relation_open(table, AccessShareLock);
        if (heap == nullptr)
            return true;
        const bool empty = RelationGetNumberOfBlocks(heap) == 0;
        relation_close(heap, AccessShareLock);
        return empty;
    });
}

} // namespace tasker::stream
