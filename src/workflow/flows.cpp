#include "workflow/flows.hpp"

#include "workflow/template.hpp"

namespace tasker::workflow {

Growing<int32_t> flows_of_handlers(std::string_view space, const std::optional<std::span<Datum>> &handlers)
{
    Growing<int32_t> ids;
    const std::span<const StepFlow> flows = flows_of_namespace(space);
    if (!handlers) {
        for (const StepFlow &flow : flows)
            ids.add(flow.flow_id);
        return ids;
    }
    for (const Datum handler : *handlers) {
        const char *name = TextDatumGetCString(handler);
        const auto found = std::find_if(flows.begin(), flows.end(), [&](const StepFlow &flow) {
            return strcmp(flow.handler, name) == 0;
        });
        if (found == flows.end())
            throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "handler \"%s\" does not exist in namespace \"%.*s\"",
                            name, static_cast<int>(space.size()), space.data())
                .hint("It is made by the first tasker.define_task() with a step that names it.");
        ids.add(found->flow_id);
    }
    return ids;
}

} // namespace tasker::workflow
