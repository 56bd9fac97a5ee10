#include "partition/owned_set.hpp"

#include "partition/create.hpp"
#include "partition/directory.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "utils/partcache.h"
}

namespace tasker::partition {

PartitionRequest partition_request_hook = nullptr;
const char *(*retirement_veto_hook)(Oid parent, Oid partition) = nullptr;

namespace {

OwnedSet owned_sets[kMaxOwnedSets];
int owned_set_count = 0;

} // namespace

void register_owned_set(const OwnedSet &set)
{
    if (owned_set_count == kMaxOwnedSets)
        throw pg::Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many partition sets are registered");
    owned_sets[owned_set_count++] = set;
}

const OwnedSet *find_owned_set(std::string_view parent_name)
{
    for (int i = 0; i < owned_set_count; i++) {
        if (parent_name == owned_sets[i].parent)
            return &owned_sets[i];
    }
    return nullptr;
}

const OwnedSet *find_owned_set(Oid parent)
{
    const char *name = pg::pg_call([&]() -> const char * {
        return get_rel_namespace(parent) == get_namespace_oid("tasker", true) ? get_rel_name(parent)
                                                                              : nullptr;
    });
    return name != nullptr ? find_owned_set(std::string_view(name)) : nullptr;
}

OwnedSetList followers_of(const OwnedSet &leader)
{
    OwnedSetList list;
    for (int i = 0; i < owned_set_count; i++) {
        if (owned_sets[i].follows != nullptr && strcmp(owned_sets[i].follows, leader.parent) == 0)
            list.sets[static_cast<size_t>(list.count++)] = &owned_sets[i];
    }
    return list;
}

namespace {

// Somebody else may open the same set through another one of its group.
void insert_set(Oid parent, const OwnedSet &set)
{
    static pg::Statement insert("insert into tasker.part_config (parent, control, control_kind, "
                                "partition_interval, premake, retention, owner_set, opened_in) "
                                "values ($1, $2, $6, $3, $4, $7::interval, true, $5) "
                                "on conflict (parent) do nothing",
                                {OIDOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID});
    const pg::Param retention =
        set.default_retention != nullptr ? pg::Param(set.default_retention) : pg::Param::none();
    pg::Spi().run_latest(insert,
                         {parent, set.control, set.default_interval,
                          static_cast<int32_t>(set.default_premake), here(), name_of(set.kind), retention});
}

void insert_follower(Oid parent, const OwnedSet &set, Oid leader)
{
    static pg::Statement insert(
        "insert into tasker.part_config (parent, control, control_kind, partition_interval, premake, "
        "retention, timezone, legal_hold, owner_set, opened_in, adopted_at) "
        "select $1, $2, $3, partition_interval, premake, retention, timezone, legal_hold, true, $4, "
        "adopted_at "
        "from tasker.part_config where parent = $5 on conflict (parent) do nothing",
        {OIDOID, TEXTOID, TEXTOID, TEXTOID, OIDOID});
    pg::Spi().run_latest(insert, {parent, set.control, name_of(set.kind), here(), leader});
}

Oid parent_named(const char *name)
{
    return pg::pg_call([&] { return get_relname_relid(name, get_namespace_oid("tasker", false)); });
}

// All of the group, the leader first.
void open_group(const OwnedSet &set)
{
    const OwnedSet &leader = set.follows != nullptr ? *find_owned_set(std::string_view(set.follows)) : set;
    const Oid leader_parent = parent_named(leader.parent);
    insert_set(leader_parent, leader);
    for (const OwnedSet *follower : followers_of(leader))
        insert_follower(parent_named(follower->parent), *follower, leader_parent);
}

SetConfig defaults_of(Oid parent, const OwnedSet &set)
{
    SetConfig config{};
    config.parent = parent;
    config.interval = parse_partition_interval(set.default_interval);
    config.premake = set.default_premake;
    config.control.kind = set.kind;
    config.owner_set = true;
    if (set.default_retention != nullptr)
        config.retention = *pg::pg_call([&] {
            return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(set.default_retention),
                                                         ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
        });
    namestrcpy(&config.control_name, set.control);
    pg::pg_call([&] {
        Relation relation = table_open(parent, AccessShareLock);
        config.schema = RelationGetNamespace(relation);
        config.owner = relation->rd_rel->relowner;
        config.parent_name = relation->rd_rel->relname;
        config.control.type = get_partition_col_typid(RelationGetPartitionKey(relation), 0);
        table_close(relation, AccessShareLock);
    });
    return config;
}

} // namespace

SetConfig open_set(Oid parent)
{
    const OwnedSet *owned = find_owned_set(parent);
    if (owned != nullptr && !read_set(parent))
        open_group(*owned);
    return describe_set(parent);
}

SetConfig describe_set(Oid parent)
{
    if (const std::optional<SetConfig> config = read_set(parent))
        return *config;
    if (const OwnedSet *owned = find_owned_set(parent); owned != nullptr)
        return defaults_of(parent, *owned);
    const char *name = pg::pg_call([&] { return get_rel_name(parent); });
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "table \"%s\" is not a partition set",
                    name != nullptr ? name : "?")
        .hint("tasker.part_config lists the partition sets.");
}

Oid ensure_partition(Oid parent, int64_t key)
{
    Oid found = find_partition(parent, key);
    if (OidIsValid(found))
        return found;
    if (partition_request_hook != nullptr && partition_request_hook(parent, key)) {
        pg::pg_call([] { AcceptInvalidationMessages(); });
        found = find_partition(parent, key);
        if (OidIsValid(found))
            return found;
        // The worker could not: its transaction does not see the parent, say. Whatever was in its way, the
        // attempt here succeeds or reports it to the caller.
    }
    return create_partition_for(parent, key);
}

} // namespace tasker::partition
