#include "workflow/retention.hpp"

#include "pg/spi.hpp"

namespace tasker::workflow {

const char *refuse_retirement(Oid, int64_t lower, int64_t upper)
{
    static pg::Statement unfinished(
        "select task_uuid::text from tasker.task where current_state not in ('c', 'e', 'x', 'm') "
        "and task_uuid >= tasker._uuid_at($1) and task_uuid < tasker._uuid_at($2) limit 1",
        {INT8OID, INT8OID});
    pg::Spi spi;
    pg::Rows rows = spi.read_latest(unfinished, {lower, upper});
    return rows.empty() ? nullptr
                        : pg::pg_call([&] { return psprintf("task %s is not finished", rows.text(0, 1).data()); });
}

} // namespace tasker::workflow
