// The roles that rights on Tasker are granted to.
#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace tasker {
namespace {

constexpr const char *kRoles[] = {"tasker_admin", "tasker_producer", "tasker_worker", "tasker_observer"};

// CREATE EXTENSION takes over a schema that exists already. One that belongs to somebody else would let him
// put objects beside ours.
void require_own_schema()
{
    const Oid schema = get_namespace_oid("tasker", false);
    HeapTuple tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
    const Oid owner = reinterpret_cast<Form_pg_namespace>(GETSTRUCT(tuple))->nspowner;
    ReleaseSysCache(tuple);
    if (owner != GetUserId() && !superuser_arg(owner))
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("schema \"tasker\" belongs to \"%s\"", GetUserNameFromId(owner, false)),
                errhint("Drop the schema, or make the role that creates the extension its owner."));
}

// Another database of the cluster may be creating the extension at this moment: one of both makes the role.
void create_role(pg::Spi &spi, const char *name)
{
    const bool exists = pg::pg_call([&] { return OidIsValid(get_role_oid(name, true)); });
    if (!exists)
        spi.run_text(pg::pg_call([&] { return psprintf("create role %s nologin", name); }));
}

} // namespace

TASKER_FUNCTION(create_roles)
{
    pg::pg_call([] { require_own_schema(); });
    pg::pg_call([] { LockSharedObject(AuthIdRelationId, InvalidOid, 0, ShareUpdateExclusiveLock); });
    pg::Spi spi(pg::Spi::Identity::caller);
    for (const char *role : kRoles)
        create_role(spi, role);
    return 0;
}

} // namespace tasker
