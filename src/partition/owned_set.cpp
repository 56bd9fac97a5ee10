#include "partition/owned_set.hpp"

#include "partition/create.hpp"
#include "partition/directory.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "utils/partcache.h"
}

namespace tasker::partition {

PartitionRequest partition_request_hook = nullptr;

namespace {

constexpr int kMaxOwnedSets = 32;

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

namespace {

void insert_set(Oid parent, const OwnedSet &set)
{
    static pg::Statement insert("insert into tasker.part_config (parent, control, control_kind, "
                                "partition_interval, premake, owner_set, opened_in) "
                                "values ($1, $2, $6, $3, $4, true, $5)",
                                {OIDOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID});
    pg::Spi().run(insert, {parent, set.control, set.default_interval,
                           static_cast<int32_t>(set.default_premake), here(), name_of(set.kind)});
}

SetConfig defaults_of(Oid parent, const OwnedSet &set)
{
    SetConfig config{};
    config.parent = parent;
    config.interval = parse_partition_interval(set.default_interval);
    config.premake = set.default_premake;
    config.control.kind = set.kind;
    config.owner_set = true;
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
        insert_set(parent, *owned);
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
