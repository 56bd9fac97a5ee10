#include "workflow/read_edges.hpp"

namespace tasker::workflow {
namespace {

// The index of the step with this number, or -1. As a rule no number is left out.
int32_t index_of(const Graph &graph, uint32_t number)
{
    const auto count = graph.steps.count;
    if (number >= 1 && number <= count && core::step_number(graph.steps[number - 1].uuid) == number)
        return static_cast<int32_t>(number - 1);
    const GraphStep *at =
        std::lower_bound(graph.steps.begin(), graph.steps.end(), number,
                         [](const GraphStep &step, uint32_t n) { return core::step_number(step.uuid) < n; });
    if (at == graph.steps.end() || core::step_number(at->uuid) != number)
        return -1;
    return static_cast<int32_t>(at - graph.steps.begin());
}

} // namespace

Graph read_graph(Instances &instances, const core::Uuid &task)
{
    Graph graph;
    for_each_step(instances, task, [&](TupleTableSlot *slot) {
        slot_getsomeattrs(slot, kStepNamedStep);
        graph.steps.add({uuid_of(value_of(slot, kStepUuid)), uuid_of(value_of(slot, kStepNamedStep))});
    });
    for_each_in_range(instances, Table::edge, core::step_uuid(task, 1),
                      core::step_uuid(task, core::kMaxStepNumber), [&](TupleTableSlot *slot) {
                          slot_getsomeattrs(slot, kEdgeTo);
                          const int32_t from =
                              index_of(graph, core::step_number(uuid_of(value_of(slot, kEdgeFrom))));
                          const int32_t to =
                              index_of(graph, core::step_number(uuid_of(value_of(slot, kEdgeTo))));
                          if (from >= 0 && to >= 0)
                              graph.edges.add({from, to});
                      });
    return graph;
}

} // namespace tasker::workflow
