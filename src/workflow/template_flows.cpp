// The flows that carry steps, all of them in one sorted copy of tasker.step_flow.
#include "pg/invalidation.hpp"
#include "pg/spi.hpp"
#include "workflow/template.hpp"
#include "workflow/template_memory.hpp"

namespace tasker::workflow {
namespace {

pg::TableWatch watch("step_flow");
RetiredMemory retired;

struct Namespace
{
    const char *name;
    int32_t first; // of its flows
    int32_t count;
};

struct Flows
{
    MemoryContext memory = nullptr;
    StepFlow *flows; // those of a namespace together
    int32_t count;
    Namespace *namespaces; // ordered by name, as bytes
    int32_t namespace_count;
    int32_t *ids; // ascending
};

Flows cached;

template <class T> T *array_of(MemoryContext memory, uint64 count)
{
    return pg::pg_call([&] {
        return static_cast<T *>(MemoryContextAllocZero(memory, std::max<uint64>(count, 1) * sizeof(T)));
    });
}

const char *copy_of(MemoryContext memory, std::string_view text)
{
    char *copy = array_of<char>(memory, text.size() + 1);
    memcpy(copy, text.data(), text.size());
    return copy;
}

Flows read_flows()
{
    static pg::Statement all("select n.name, f.handler, f.flow_id from tasker.step_flow f "
                             "join tasker.task_namespaces n using (task_namespace_uuid) "
                             "order by n.name collate \"C\", f.flow_id",
                             {});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(all);
    Flows result{};
    result.memory = new_memory("tasker flows of steps");
    result.count = static_cast<int32_t>(rows.count());
    result.flows = array_of<StepFlow>(result.memory, rows.count());
    result.namespaces = array_of<Namespace>(result.memory, rows.count());
    result.ids = array_of<int32_t>(result.memory, rows.count());
    for (int32_t i = 0; i < result.count; i++) {
        const auto row = static_cast<uint64>(i);
        result.flows[i] = {rows.i32(row, 3), copy_of(result.memory, rows.text(row, 2))};
        result.ids[i] = result.flows[i].flow_id;
        const std::string_view name = rows.text(row, 1);
        if (result.namespace_count == 0 || name != result.namespaces[result.namespace_count - 1].name)
            result.namespaces[result.namespace_count++] = {copy_of(result.memory, name), i, 0};
        result.namespaces[result.namespace_count - 1].count++;
    }
    std::sort(result.ids, result.ids + result.count);
    keep_memory(result.memory);
    return result;
}

const Flows &current_flows()
{
    if (watch.holds())
        return cached;
    retired.free_earlier();
    watch.begin();
    try {
        const Flows fresh = read_flows();
        if (cached.memory != nullptr)
            retired.add(cached.memory);
        cached = fresh;
    } catch (...) {
        watch.forget();
        throw;
    }
    return cached;
}

} // namespace

std::span<const StepFlow> flows_of_namespace(std::string_view namespace_name)
{
    const Flows &flows = current_flows();
    const Namespace *end = flows.namespaces + flows.namespace_count;
    const Namespace *found = std::lower_bound(
        flows.namespaces, static_cast<Namespace *>(flows.namespaces + flows.namespace_count), namespace_name,
        [](const Namespace &each, std::string_view name) { return each.name < name; });
    if (found == end || found->name != namespace_name)
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "namespace \"%.*s\" does not exist",
                        static_cast<int>(namespace_name.size()), namespace_name.data())
            .detail("No task has been defined in it.");
    return {flows.flows + found->first, static_cast<size_t>(found->count)};
}

std::span<const int32_t> flows_with_steps()
{
    const Flows &flows = current_flows();
    return {flows.ids, static_cast<size_t>(flows.count)};
}

bool carries_steps(int32_t flow_id)
{
    const Flows &flows = current_flows();
    return std::binary_search(flows.ids, flows.ids + flows.count, flow_id);
}

} // namespace tasker::workflow
