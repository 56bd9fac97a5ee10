#include "stream/rights.hpp"

#include "pg/function.hpp"
#include "pg/invalidation.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/queue.hpp"

extern "C" {
#include "utils/acl.h"
}

namespace tasker::stream {
namespace {

constexpr uint8_t kEverything = static_cast<uint8_t>(Right::any);

struct Key
{
    Oid user;
    int32_t queue_id;
};

struct Entry
{
    Key key;
    uint8_t rights;
};

HTAB *cache = nullptr;
Entry last{}; // the entry that was asked for last: most sessions are one user and write to one queue
pg::TableWatch grants("queue_grant");

void on_role_invalidation(Datum, int, uint32)
{
    grants.forget();
}

void begin_cache()
{
    pg::pg_call([] {
        static bool listening = false;
        if (!listening) {
            CacheRegisterSyscacheCallback(AUTHOID, on_role_invalidation, 0);
            CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, on_role_invalidation, 0);
            listening = true;
        }
        if (cache != nullptr)
            hash_destroy(std::exchange(cache, nullptr));
        HASHCTL control{};
        control.keysize = sizeof(Key);
        control.entrysize = sizeof(Entry);
        cache = hash_create("tasker rights on queues", 64, &control, HASH_ELEM | HASH_BLOBS);
    });
    last = {};
    grants.begin();
}

// A role that does not exist gives nothing.
bool is_member(Oid user, const char *role)
{
    const Oid oid = get_role_oid(role, true);
    return OidIsValid(oid) && has_privs_of_role(user, oid);
}

uint8_t rights_of_roles(Oid user)
{
    if (superuser_arg(user) || is_member(user, "tasker_admin"))
        return kEverything;
    uint8_t rights = 0;
    if (is_member(user, "tasker_producer"))
        rights |= static_cast<uint8_t>(Right::produce);
    if (is_member(user, "tasker_worker"))
        rights |= static_cast<uint8_t>(Right::consume) | static_cast<uint8_t>(Right::see);
    if (is_member(user, "tasker_observer"))
        rights |= static_cast<uint8_t>(Right::see);
    return rights;
}

// Here a grant is to the role with that OID, whatever it is called now; one that was restored from a dump of
// another cluster is to the role of that name. InvalidOid when the role was dropped.
Oid grantee_of(const pg::Rows &rows, uint64 row)
{
    const auto here = static_cast<int64_t>(GetSystemIdentifier());
    if (rows.i64(row, 3) != here) {
        const char *name = NameStr(*DatumGetName(rows.datum(row, 1)));
        return pg::pg_call([&] { return get_role_oid(name, true); });
    }
    const Oid role = rows.oid(row, 2);
    return pg::pg_call(
        [&] { return SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)) ? role : InvalidOid; });
}

uint8_t rights_granted(Oid user, int32_t queue_id)
{
    static pg::Statement query("select role_name, role_oid, granted_in, privilege = 'produce' "
                               "from tasker.queue_grant where queue_id = $1",
                               {INT4OID});
    uint8_t rights = 0;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue_id});
    for (uint64 i = 0; i < rows.count(); i++) {
        const Oid role = grantee_of(rows, i);
        if (!OidIsValid(role) || !pg::pg_call([&] { return has_privs_of_role(user, role); }))
            continue;
        rights |= rows.boolean(i, 4)
                      ? static_cast<uint8_t>(Right::produce)
                      : static_cast<uint8_t>(Right::consume) | static_cast<uint8_t>(Right::see);
    }
    return rights;
}

uint8_t find_rights(Oid user, int32_t queue_id)
{
    const Oid owner = pg::extension_owner();
    if (pg::pg_call([&] { return OidIsValid(owner) && has_privs_of_role(user, owner); }))
        return kEverything;
    const uint8_t rights = pg::pg_call([&] { return rights_of_roles(user); });
    return rights == kEverything ? rights : rights | rights_granted(user, queue_id);
}

// What changes while the rights are being found out makes the cache invalid, and nothing is kept.
uint8_t rights_of(Oid user, int32_t queue_id)
{
    if (!grants.still_holds())
        begin_cache();
    const Key key{user, queue_id};
    if (const auto *entry = static_cast<Entry *>(hash_search(cache, &key, HASH_FIND, nullptr))) {
        last = *entry;
        return last.rights;
    }
    const uint8_t rights = find_rights(user, queue_id);
    pg::pg_call([&] {
        if (!grants.holds())
            return;
        bool found = false;
        auto *entry = static_cast<Entry *>(hash_search(cache, &key, HASH_ENTER, &found));
        entry->rights = rights;
        last = *entry;
    });
    return rights;
}

bool has(Oid user, int32_t queue_id, Right right)
{
    return (rights_of(user, queue_id) & static_cast<uint8_t>(right)) != 0;
}

bool may_by_now(Right right, int32_t queue_id)
{
    if (right == Right::none)
        return true;
    // In between, our own code may act as the owner; a user's code that it runs acts as somebody else.
    const Oid user = GetUserId();
    const Oid caller = pg::calling_user();
    if (last.key.user == user && last.key.queue_id == queue_id && caller == user && grants.still_holds())
        return (last.rights & static_cast<uint8_t>(right)) != 0;
    return has(user, queue_id, right) && (caller == user || has(caller, queue_id, right));
}

} // namespace

bool may(Right right, int32_t queue_id)
{
    (void)grants.holds(); // takes in what others have changed
    return may_by_now(right, queue_id);
}

void require_right(Right right, int32_t queue_id, const char *queue_name)
{
    if (may_by_now(right, queue_id))
        return;
    if (right == Right::any || right == Right::see)
        throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied for queue \"%s\"", queue_name)
            .hint("An administrator grants the right to it with tasker.grant_queue().");
    const char *what = right == Right::produce ? "produce" : "consume";
    throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied to %s %s queue \"%s\"", what,
                    right == Right::produce ? "into" : "from", queue_name)
        .hint("An administrator grants the right with tasker.grant_queue('%s', role, '%s').", queue_name,
              what);
}

namespace {

// One grant or revocation at a time: all of them change the same rights on the same routines.
void lock_grants()
{
    pg::Spi().run_text("lock table tasker.queue_grant in share row exclusive mode");
}

// The routines that a role needs for a privilege are those that the group role has and that name a queue or a
// batch, or show what a consumer may see. Others of that group are for other planes.
#define ROUTINES                                                                                             \
    "select pg_catalog.string_agg(p.oid::regprocedure::text, ', ') from pg_catalog.pg_proc p "               \
    "where p.pronamespace = 'tasker'::regnamespace and p.prorettype <> 'trigger'::regtype and exists "       \
    "(select from pg_catalog.aclexplode(p.proacl) a where a.privilege_type = 'EXECUTE' and a.grantee in "    \
    "(select oid from pg_catalog.pg_roles where rolname = any ($1))) and (exists (select from rows from "    \
    "(pg_catalog.unnest(p.proargnames), pg_catalog.unnest(p.proargmodes)) a(name, mode) "                    \
    "where coalesce(a.mode, 'i') in ('i', 'b', 'v') "                                                        \
    "and a.name ~ '^([a-z]_)?(queue|queue_name|batch_id|dead_letter_id)$') "                                 \
    "or p.proname ~ '^get_(queue|consumer|batch)_info$')"

Datum name_datum(const char *name)
{
    return pg::pg_call([&] { return DirectFunctionCall1(namein, CStringGetDatum(name)); });
}

constexpr Oid kNameArray = 1003; // name[]

void change_rights(const char *format, const char *role, std::initializer_list<const char *> groups)
{
    static pg::Statement query(ROUTINES, {kNameArray});
    Datum names[2];
    int count = 0;
    for (const char *group : groups)
        names[count++] = name_datum(group);
    const Datum array = pg::pg_call([&] {
        return PointerGetDatum(construct_array(names, count, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
    });
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {pg::Param::of_datum(array)});
    if (rows.is_null(0, 1))
        return;
    const std::string_view routines = rows.text(0, 1);
    spi.run_text(pg::pg_call([&] {
        return psprintf(format, static_cast<int>(routines.size()), routines.data(), quote_identifier(role));
    }));
}

struct Held
{
    bool produce;
    bool consume;
};

Held grants_of(const char *role, Oid oid)
{
    static pg::Statement query(
        "select coalesce(pg_catalog.bool_or(privilege = 'produce'), false), "
        "coalesce(pg_catalog.bool_or(privilege = 'consume'), false) from tasker.queue_grant "
        "where case when granted_in = $3 then role_oid = $2 else role_name = $1 end",
        {NAMEOID, OIDOID, INT8OID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(
        query, {pg::Param::of_datum(name_datum(role)), oid, static_cast<int64_t>(GetSystemIdentifier())});
    return {rows.boolean(0, 1), rows.boolean(0, 2)};
}

void give_routines(const char *role, const Held &held)
{
    if (!held.produce && !held.consume)
        return;
    pg::Spi().run_text(
        pg::pg_call([&] { return psprintf("grant usage on schema tasker to %s", quote_identifier(role)); }));
    if (held.produce)
        change_rights("grant execute on routine %.*s to %s", role, {"tasker_producer"});
    if (held.consume)
        change_rights("grant execute on routine %.*s to %s", role, {"tasker_worker"});
}

// What a role has left after a revocation.
void take_routines(const char *role, const Held &left)
{
    change_rights("revoke execute on routine %.*s from %s", role, {"tasker_producer", "tasker_worker"});
    if (left.produce || left.consume)
        give_routines(role, left);
    else
        pg::Spi().run_text(pg::pg_call(
            [&] { return psprintf("revoke usage on schema tasker from %s", quote_identifier(role)); }));
}

// Where a grant is to somebody who exists: his OID and present name.
struct Grantee
{
    Oid oid;
    NameData name_data;

    const char *name() const { return NameStr(name_data); }
};

// Plain C: may ereport.
Grantee grantee_with_oid(Oid oid)
{
    Grantee grantee{oid, {}};
    namestrcpy(&grantee.name_data, GetUserNameFromId(oid, false));
    return grantee;
}

Grantee grantee_named(std::string_view role)
{
    return pg::pg_call([&] {
        const Oid oid = get_role_oid(pnstrdup(role.data(), role.size()), false);
        return grantee_with_oid(oid);
    });
}

// The group roles have their rights from the script; a revocation must not take them.
void refuse_group_role(const char *role)
{
    for (const char *group : {"tasker_admin", "tasker_producer", "tasker_worker", "tasker_observer"}) {
        if (strcmp(role, group) == 0)
            throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "role \"%s\" cannot be granted single queues",
                            role)
                .detail("Its rights are on all queues.")
                .hint("Grant the queue to a role of your own.");
    }
}

std::string_view privilege_argument(const pg::Args &args)
{
    const std::string_view privilege = args.text(2, "privilege");
    if (privilege != "produce" && privilege != "consume")
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown privilege \"%.*s\"",
                        static_cast<int>(privilege.size()), privilege.data())
            .hint("It is 'produce' or 'consume'.");
    return privilege;
}

#define IS_OF_ROLE "case when granted_in = $4 then role_oid = $3 else role_name = $2 end"

uint64 remove_grant(int32_t queue_id, const Grantee &role, std::string_view privilege)
{
    static pg::Statement remove("delete from tasker.queue_grant where queue_id = $1 and privilege = $5 "
                                "and " IS_OF_ROLE,
                                {INT4OID, NAMEOID, OIDOID, INT8OID, TEXTOID});
    return pg::Spi()
        .run_latest(remove, {queue_id, pg::Param::of_datum(name_datum(role.name())), role.oid,
                             static_cast<int64_t>(GetSystemIdentifier()), privilege})
        .count();
}

void add_grant(int32_t queue_id, const Grantee &role, std::string_view privilege)
{
    static pg::Statement insert("insert into tasker.queue_grant (queue_id, privilege, role_name, role_oid, "
                                "granted_in) values ($1, $2, $3, $4, $5)",
                                {INT4OID, TEXTOID, NAMEOID, OIDOID, INT8OID});
    pg::Spi().run_latest(insert, {queue_id, privilege, pg::Param::of_datum(name_datum(role.name())), role.oid,
                                  static_cast<int64_t>(GetSystemIdentifier())});
}

// All who have been granted the queue (0: any queue) and exist.
void grantees_of(int32_t queue_id, pg::Vector<Grantee> &grantees)
{
    static pg::Statement query("select distinct role_name, role_oid, granted_in from tasker.queue_grant "
                               "where $1 in (0, queue_id)",
                               {INT4OID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue_id});
    for (uint64 i = 0; i < rows.count(); i++) {
        const Oid oid = grantee_of(rows, i);
        if (OidIsValid(oid))
            grantees.push_back(pg::pg_call([&] { return grantee_with_oid(oid); }));
    }
}

} // namespace

void drop_grants(int32_t queue_id)
{
    static pg::Statement remove("delete from tasker.queue_grant where queue_id = $1", {INT4OID});
    pg::ContextResource memory;
    pg::Vector<Grantee> grantees(&memory);
    lock_grants();
    grantees_of(queue_id, grantees);
    if (pg::Spi().run_latest(remove, {queue_id}).count() == 0)
        return;
    for (const Grantee &grantee : grantees)
        take_routines(grantee.name(), grants_of(grantee.name(), grantee.oid));
}

void renew_grants()
{
    static pg::Statement adopt(
        "update tasker.queue_grant g set role_oid = r.oid, granted_in = $1 "
        "from pg_catalog.pg_roles r where r.rolname = g.role_name and granted_in <> $1",
        {INT8OID});
    static pg::Statement forget("delete from tasker.queue_grant where granted_in <> $1 "
                                "or role_oid not in (select oid from pg_catalog.pg_roles)",
                                {INT8OID});
    const auto here = static_cast<int64_t>(GetSystemIdentifier());
    pg::ContextResource memory;
    pg::Vector<Grantee> grantees(&memory);
    lock_grants();
    pg::Spi().run_latest(adopt, {here});
    pg::Spi().run_latest(forget, {here});
    grantees_of(0, grantees);
    for (const Grantee &grantee : grantees)
        give_routines(grantee.name(), grants_of(grantee.name(), grantee.oid));
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// grant_queue(queue, role, privilege): 1 when it is new, 0 when it was there.
TASKER_FUNCTION(grant_queue)
{
    const Queue queue = queue_named(args.text(0, "queue"));
    const Grantee role = grantee_named(args.text(1, "role"));
    const std::string_view privilege = privilege_argument(args);
    refuse_group_role(role.name());
    lock_grants();
    const bool was_there = remove_grant(queue.queue_id, role, privilege) > 0;
    add_grant(queue.queue_id, role, privilege);
    give_routines(role.name(), grants_of(role.name(), role.oid));
    return args.result(int32_t{was_there ? 0 : 1});
}

// revoke_queue(queue, role, privilege): 1 when it was there, else 0.
TASKER_FUNCTION(revoke_queue)
{
    const Queue queue = queue_named(args.text(0, "queue"));
    const Grantee role = grantee_named(args.text(1, "role"));
    const std::string_view privilege = privilege_argument(args);
    refuse_group_role(role.name());
    lock_grants();
    if (remove_grant(queue.queue_id, role, privilege) == 0)
        return args.result(int32_t{0});
    take_routines(role.name(), grants_of(role.name(), role.oid));
    return args.result(int32_t{1});
}
