// wait_for_steps(): sleeping until a step of a namespace is ready.
#include "queue/wait.hpp"

#include "pg/between_transactions.hpp"
#include "pg/function.hpp"
#include "workflow/flows.hpp"

namespace tasker::workflow {

TASKER_FUNCTION(wait_for_steps)
{
    const std::string_view space = args.name(0, "namespace");
    const int64_t timeout = args.duration_us(1, "timeout");
    std::optional<std::span<Datum>> handlers;
    if (!args.is_null(2))
        handlers = args.array(2, "handlers", TEXTOID);
    if (pg::called_atomically(args.call()))
        throw pg::Error(ERRCODE_ACTIVE_SQL_TRANSACTION,
                        "tasker.wait_for_steps() cannot run inside a transaction block")
            .hint("It commits before it sleeps. Call it on its own, outside of BEGIN … COMMIT and of "
                  "functions.");
    const Growing<int32_t> flows = flows_of_handlers(space, handlers);
    if (flows.count > queue::kMaxWaitedFlows)
        throw pg::Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "cannot wait for more than %d handlers at once",
                        queue::kMaxWaitedFlows)
            .detail("Namespace \"%.*s\" has %zu.", static_cast<int>(space.size()), space.data(), flows.count)
            .hint("Name the handlers that this worker runs.");
    queue::WaitedFlow waited[queue::kMaxWaitedFlows] = {};
    size_t count = 0;
    for (const int32_t id : flows) {
        if (const std::optional<queue::Flow> flow = queue::flow_with_id(id))
            strlcpy(waited[count++].name, flow->name, sizeof waited[0].name);
    }
    return queue::inout_boolean(args.call(), queue::wait_for_flows({waited, count}, timeout));
}

} // namespace tasker::workflow
