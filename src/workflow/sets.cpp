#include "workflow/sets.hpp"

#include "partition/owned_set.hpp"
#include "workflow/counts.hpp"
#include "workflow/retention.hpp"

namespace tasker::workflow {
namespace {

// The parents have no keys of their own (a dump could not be restored); each partition gets these. States
// stand in no index, so that every change of a state is HOT; what is indexed never changes.
constexpr const char *kTaskKeys[] = {
    "alter table %s add primary key (task_uuid)",
    "create index on %s (correlation_id)",
    "create index on %s (parent_correlation_id, correlation_id) where parent_correlation_id is not null",
    "create index on %s using gin (tags jsonb_path_ops) where tags is not null",
};
constexpr const char *kStepKeys[] = {
    "alter table %s add primary key (workflow_step_uuid)",
};
constexpr const char *kEdgeKeys[] = {
    "alter table %s add primary key (from_step_uuid, to_step_uuid)",
    "create index on %s (to_step_uuid, from_step_uuid)",
};
constexpr const char *kTaskTransitionKeys[] = {
    "alter table %s add primary key (task_uuid, sort_key)",
    "create index on %s (txid)",
};
constexpr const char *kStepTransitionKeys[] = {
    "alter table %s add primary key (workflow_step_uuid, sort_key)",
    "create index on %s (txid)",
};

using Refusal = const char *(*)(Oid partition, int64_t lower, int64_t upper);

// All have the settings of the first.
constexpr partition::OwnedSet set_of(const char *parent, const char *control, const char *storage,
                                     std::span<const char *const> keys, Refusal refusal, const char *follows)
{
    return {
        .parent = parent,
        .control = control,
        .kind = partition::ControlKind::uuid_v7,
        .default_interval = "1 day",
        .default_premake = 4,
        .storage = storage,
        .keys = keys.data(),
        .key_count = static_cast<int>(keys.size()),
        .refuse_retirement = refusal,
        .retired = forget_counts,
        .default_retention = follows == nullptr ? "90 days" : nullptr,
        .kept_without_retention = true,
        .follows = follows,
    };
}

// Room in the pages of tasks and steps for the versions of their life, five of each: updates stay HOT also
// while an old snapshot keeps all of them. The others are append only.
constexpr partition::OwnedSet kSets[kTableCount] = {
    set_of("task", "task_uuid", "fillfactor = 20", kTaskKeys, refuse_retirement_of_tasks, nullptr),
    set_of("workflow_step", "workflow_step_uuid", "fillfactor = 20", kStepKeys, refuse_retirement_of_steps,
           "task"),
    set_of("workflow_step_edge", "from_step_uuid", "fillfactor = 100", kEdgeKeys, refuse_retirement_of_steps,
           "task"),
    set_of("task_transition", "task_uuid", "fillfactor = 100", kTaskTransitionKeys,
           refuse_retirement_of_steps, "task"),
    set_of("workflow_step_transition", "workflow_step_uuid", "fillfactor = 100", kStepTransitionKeys,
           refuse_retirement_of_steps, "task"),
};

} // namespace

void declare_workflow_sets()
{
    for (const partition::OwnedSet &set : kSets)
        partition::register_owned_set(set);
}

core::Uuid lowest_uuid_at(int64_t key)
{
    const int64_t ms = std::clamp<int64_t>(core::floor_div(key, 1000), 0, core::kMaxUnixMs);
    core::Uuid uuid;
    for (size_t i = 0; i < 6; i++)
        uuid.bytes[i] = static_cast<uint8_t>(ms >> (40 - 8 * i));
    return uuid;
}

const char *name_of(Table table)
{
    return kSets[static_cast<int>(table)].parent;
}

Oid parent_of(Table table)
{
    return pg::pg_call([&] {
        const Oid schema = get_namespace_oid("tasker", true);
        const Oid parent = OidIsValid(schema) ? get_relname_relid(name_of(table), schema) : InvalidOid;
        if (!OidIsValid(parent))
            ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
                    errmsg("relation \"tasker.%s\" does not exist", name_of(table)),
                    errhint("Install the extension with CREATE EXTENSION tasker."));
        return parent;
    });
}

} // namespace tasker::workflow
