// Which step depends on which: levels, all that comes before a step, and both directions at once.
#include "workflow/edges.hpp"
#include "workflow/read_edges.hpp"

namespace tasker::workflow {
namespace {

// How far each step is from the roots: by the longest way (its level), or by the shortest.
enum class Way
{
    longest,
    shortest
};

// One walk over the edges, and one more after each that has found something new on an edge that leads back.
int32_t *distances_from_roots(const Graph &graph, Way way)
{
    constexpr int32_t kFar = PG_INT32_MAX; // so far
    auto *distances = static_cast<int32_t *>(
        palloc_extended(sizeof(int32_t) * std::max<size_t>(graph.steps.count, 1), MCXT_ALLOC_HUGE));
    std::fill(distances, distances + graph.steps.count, 0);
    for (const GraphEdge &edge : graph.edges)
        distances[edge.to] = way == Way::longest ? 0 : kFar;
    bool again = true;
    for (size_t walks = 0; again && walks <= graph.steps.count; walks++) {
        CHECK_FOR_INTERRUPTS();
        again = false;
        for (const GraphEdge &edge : graph.edges) {
            if (distances[edge.from] == kFar)
                continue;
            const int32_t through = distances[edge.from] + 1;
            int32_t &to = distances[edge.to];
            if (way == Way::longest ? through > to : through < to) {
                to = through;
                again = again || edge.to < edge.from;
            }
        }
    }
    return distances;
}

// What is found on the way up from a step.
struct Ancestor
{
    core::Uuid uuid;
    int32_t distance; // by the shortest way
};

struct Climb
{
    Growing<Ancestor> ancestors; // the nearer first
    int32_t to_root;             // the distance of the nearest root; 0 for a root itself
};

// Goes up from a step, one distance after the other: to the nearest root, or to all of them.
Climb climb(Instances &instances, const core::Uuid &step, bool to_nearest_root)
{
    Climb way{};
    HASHCTL control{};
    control.keysize = sizeof(core::Uuid);
    control.entrysize = sizeof(core::Uuid);
    control.hcxt = CurrentMemoryContext;
    HTAB *seen = hash_create("tasker ancestors", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    Growing<core::Uuid> parents;
    Ancestor at{step, 0};
    for (size_t next = 0;; at = way.ancestors[next++]) {
        parents.clear();
        find_parents(instances, at.uuid, parents);
        if (parents.count == 0 && to_nearest_root) {
            way.to_root = at.distance;
            break;
        }
        for (const core::Uuid &parent : parents) {
            bool found = false;
            hash_search(seen, &parent, HASH_ENTER, &found);
            if (!found)
                way.ancestors.add({parent, at.distance + 1});
        }
        if (next == way.ancestors.count)
            break;
    }
    hash_destroy(seen);
    return way;
}

void add_ancestor(Instances &instances, pg::ResultSet &result, const Ancestor &ancestor)
{
    pg::DirectTable *table = find_step(instances, ancestor.uuid);
    if (table == nullptr)
        return;
    TupleTableSlot *slot = table->read_slot;
    const StepHead step = step_head(slot);
    const core::Uuid task = core::task_of(step.uuid);
    const Datum name = step_name(slot);
    slot_getsomeattrs(slot, kStepResults);
    const Datum values[] = {
        key_datum(step.uuid),
        key_datum(task),
        key_datum(step.named_step_uuid),
        name,
        value_of(slot, kStepResults),
        BoolGetDatum(core::satisfies_children(step.state)),
        Int32GetDatum(ancestor.distance),
    };
    const bool nulls[std::size(values)] = {false, false, false, name == 0, is_null(slot, kStepResults)};
    result.add(values, nulls);
}

// A jsonb array of uuids as text.
Datum json_of(std::span<const core::Uuid> uuids)
{
    JsonbParseState *state = nullptr;
    pushJsonbValue(&state, WJB_BEGIN_ARRAY, nullptr);
    for (const core::Uuid &uuid : uuids) {
        const char *text = text_of(uuid);
        JsonbValue value{};
        value.type = jbvString;
        value.val.string.val = const_cast<char *>(text);
        value.val.string.len = static_cast<int>(strlen(text));
        pushJsonbValue(&state, WJB_ELEM, &value);
    }
    return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, nullptr)));
}

// The neighbours of every step, one after the other: those of step i are `ids[first[i]]` up to
// `ids[first[i + 1]]`, in the order of their numbers.
struct Neighbours
{
    core::Uuid *ids;
    size_t *first;

    std::span<const core::Uuid> of(size_t step) const
    {
        return {ids + first[step], first[step + 1] - first[step]};
    }
};

Neighbours neighbours(const Graph &graph, int32_t GraphEdge::*of, int32_t GraphEdge::*which)
{
    const size_t steps = graph.steps.count;
    Neighbours all{};
    all.ids = static_cast<core::Uuid *>(
        palloc_extended(sizeof(core::Uuid) * std::max<size_t>(graph.edges.count, 1), MCXT_ALLOC_HUGE));
    all.first = static_cast<size_t *>(
        palloc_extended(sizeof(size_t) * (steps + 2), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
    // first[i + 2] counts, becomes the place to write to for step i + 1, and ends as its beginning.
    for (const GraphEdge &edge : graph.edges)
        all.first[edge.*of + 2]++;
    for (size_t i = 2; i < steps + 2; i++)
        all.first[i] += all.first[i - 1];
    for (const GraphEdge &edge : graph.edges)
        all.ids[all.first[edge.*of + 1]++] = graph.steps[static_cast<size_t>(edge.*which)].uuid;
    return all;
}

void add_relations(pg::ResultSet &result, const GraphStep &step, std::span<const core::Uuid> parents,
                   std::span<const core::Uuid> children, int32_t depth)
{
    const core::Uuid task = core::task_of(step.uuid);
    const Datum values[] = {
        key_datum(step.uuid),
        key_datum(task),
        key_datum(step.named_step_uuid),
        json_of(parents),
        json_of(children),
        Int64GetDatum(static_cast<int64_t>(parents.size())),
        Int64GetDatum(static_cast<int64_t>(children.size())),
        BoolGetDatum(parents.empty()),
        BoolGetDatum(children.empty()),
        Int32GetDatum(depth),
    };
    const bool nulls[std::size(values)] = {};
    result.add(values, nulls);
}

} // namespace

TASKER_FUNCTION(calculate_dependency_levels)
{
    const core::Uuid task = uuid_argument(args, 0, "input_task_uuid");
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    const Graph graph = read_graph(instances, task);
    const int32_t *levels = distances_from_roots(graph, Way::longest);
    Growing<Ancestor> rows;
    for (size_t i = 0; i < graph.steps.count; i++)
        rows.add({graph.steps[i].uuid, levels[i]});
    std::stable_sort(rows.begin(), rows.end(),
                     [](const Ancestor &a, const Ancestor &b) { return a.distance < b.distance; });
    for (const Ancestor &row : rows) {
        const Datum values[] = {key_datum(row.uuid), Int32GetDatum(row.distance)};
        const bool nulls[std::size(values)] = {};
        result.add(values, nulls);
    }
    end_instances(instances);
    return 0;
}

TASKER_FUNCTION(get_step_transitive_dependencies)
{
    const core::Uuid step = uuid_argument(args, 0, "target_step_uuid");
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    const Climb way = climb(instances, step, false);
    std::sort(way.ancestors.begin(), way.ancestors.end(), [](const Ancestor &a, const Ancestor &b) {
        return a.distance != b.distance ? a.distance < b.distance : a.uuid < b.uuid;
    });
    for (const Ancestor &ancestor : way.ancestors)
        add_ancestor(instances, result, ancestor);
    end_instances(instances);
    return 0;
}

TASKER_FUNCTION(get_step_dag_relationships)
{
    const core::Uuid task = uuid_argument(args, 0, "input_task_uuid");
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    const Graph graph = read_graph(instances, task);
    const Neighbours parents = neighbours(graph, &GraphEdge::to, &GraphEdge::from);
    const Neighbours children = neighbours(graph, &GraphEdge::from, &GraphEdge::to);
    const int32_t *depths = distances_from_roots(graph, Way::shortest);
    for (size_t i = 0; i < graph.steps.count; i++)
        add_relations(result, graph.steps[i], parents.of(i), children.of(i), depths[i]);
    end_instances(instances);
    return 0;
}

// The same for one step, as far as its row does not say it: for the view.
TASKER_FUNCTION(step_relations)
{
    const core::Uuid step = uuid_of(args.datum(0));
    pg::ResultSet result(args.call());
    Instances instances;
    begin_reading(instances);
    Growing<core::Uuid> parents;
    Growing<core::Uuid> children;
    find_parents(instances, step, parents);
    find_children(instances, step, children);
    const Datum values[] = {
        json_of(parents.all()),
        json_of(children.all()),
        Int64GetDatum(static_cast<int64_t>(parents.count)),
        Int64GetDatum(static_cast<int64_t>(children.count)),
        Int32GetDatum(climb(instances, step, true).to_root),
    };
    const bool nulls[std::size(values)] = {};
    result.add(values, nulls);
    end_instances(instances);
    return 0;
}

} // namespace tasker::workflow
