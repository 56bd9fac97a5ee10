#include "workflow/identity.hpp"

#include "pg/spi.hpp"
#include "workflow/instance.hpp"

namespace tasker::workflow {
namespace {

constexpr size_t kMaxKeyBytes = 1024; // must fit into an index entry

bool task_exists(const core::Uuid &uuid)
{
    Instances instances;
    begin_instances(instances, AccessShareLock);
    const bool found = find_task(instances, uuid) != nullptr;
    end_instances(instances);
    return found;
}

pg::Param param_of(const core::Uuid &uuid)
{
    return {pg::pg_call([&] { return datum_of(uuid); }), false, UUIDOID};
}

} // namespace

std::optional<core::Uuid> take_identity(const core::Uuid &named_task, std::string_view key,
                                        const core::Uuid &new_task)
{
    static pg::Statement insert("insert into tasker.task_identity (named_task_uuid, identity_key, task_uuid) "
                                "values ($1, $2, $3) on conflict do nothing",
                                {UUIDOID, TEXTOID, UUIDOID});
    static pg::Statement look("select task_uuid from tasker.task_identity "
                              "where named_task_uuid = $1 and identity_key = $2",
                              {UUIDOID, TEXTOID});
    static pg::Statement lock("select task_uuid from tasker.task_identity "
                              "where named_task_uuid = $1 and identity_key = $2 for update",
                              {UUIDOID, TEXTOID});
    static pg::Statement take("update tasker.task_identity set task_uuid = $3 "
                              "where named_task_uuid = $1 and identity_key = $2",
                              {UUIDOID, TEXTOID, UUIDOID});
    if (key.empty() || key.size() > kMaxKeyBytes)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "identity_key must have 1 to %zu bytes",
                        kMaxKeyBytes);
    pg::Spi spi;
    const pg::Param task = param_of(named_task);
    const pg::Param mine = param_of(new_task);
    for (;;) {
        if (spi.run(insert, {task, key, mine}).count() > 0)
            return std::nullopt;
        // Nobody takes a key away from a task that exists: as a rule there is nothing to lock.
        const pg::Rows held = spi.read_latest(look, {task, key});
        if (!held.empty()) {
            const core::Uuid holder = uuid_of(held.datum(0, 1));
            if (pg::pg_call([&] { return task_exists(holder); }))
                return holder;
        }
        pg::Rows rows = spi.run_latest(lock, {task, key});
        if (rows.empty()) { // its row went away between the two
            pg::check_for_interrupts();
            continue;
        }
        const core::Uuid holder = uuid_of(rows.datum(0, 1));
        if (pg::pg_call([&] { return task_exists(holder); }))
            return holder;
        spi.run_latest(take, {task, key, mine});
        return std::nullopt;
    }
}

} // namespace tasker::workflow
