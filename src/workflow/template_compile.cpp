// From a definition to a template: read the steps as they were given, find who depends on whom, put them into
// order, check what the order shows, and renumber.
//
// Everything is plain C, except for the walks over the graph (core/dag.hpp), which call nothing of Postgres.
#include "workflow/template_compile.hpp"

#include "core/dag.hpp"
#include "pg/memory.hpp"
#include "workflow/template_draft.hpp"

namespace tasker::workflow {
namespace {

constexpr int kShownOfCycle = 20;

core::NodeLists parents_of(const Draft &draft)
{
    return {{draft.first_parent, static_cast<size_t>(draft.count) + 1},
            {draft.parents, static_cast<size_t>(draft.edge_count)}};
}

Place place_of_step(const Draft &draft, int32_t step)
{
    Place place = draft.place;
    place.step_number = step + 1;
    place.step_name = draft.steps[step].name;
    return place;
}

// Fills `by_name` with the numbers of the steps.
void sort_by_name(const StepTemplate *steps, int32_t count, int32_t *by_name)
{
    for (int32_t i = 0; i < count; i++)
        by_name[i] = i;
    std::sort(by_name, by_name + count, [&](int32_t a, int32_t b) {
        const int order = strcmp(steps[a].name, steps[b].name);
        return order != 0 ? order < 0 : a < b;
    });
}

// The number of the step of that name, or -1.
int32_t number_of(const StepTemplate *steps, int32_t count, const int32_t *by_name, std::string_view name)
{
    const int32_t *found =
        std::lower_bound(by_name, by_name + count, name,
                         [&](int32_t step, std::string_view wanted) { return steps[step].name < wanted; });
    return found != by_name + count && steps[*found].name == name ? *found : -1;
}

void index_names(Draft &draft)
{
    draft.by_name = array_of<int32_t>(draft.count);
    sort_by_name(draft.steps, draft.count, draft.by_name);
    for (int32_t i = 1; i < draft.count; i++) {
        const int32_t step = draft.by_name[i];
        if (strcmp(draft.steps[draft.by_name[i - 1]].name, draft.steps[step].name) == 0)
            throw refusal(draft.place, "two steps have the name \"%s\"", draft.steps[step].name);
    }
}

// The number of the step that the element of "depends_on" names.
int32_t read_parent(const Draft &draft, int32_t step, const JsonbValue &element, int32_t *last_child)
{
    const Place place = place_of_step(draft, step);
    if (element.type != jbvString)
        throw refusal(place, "\"depends_on\" must have names of steps only");
    const std::string_view name = read_string(place, "depends_on", element);
    const int32_t parent = number_of(draft.steps, draft.count, draft.by_name, name);
    if (parent < 0)
        throw refusal(place, "it depends on \"%.*s\", which is no step of the task",
                      static_cast<int>(name.size()), name.data());
    if (parent == step)
        throw refusal(place, "it depends on itself");
    if (last_child[parent] == step + 1)
        throw refusal(place, "it depends on \"%s\" twice", draft.steps[parent].name);
    last_child[parent] = step + 1;
    return parent;
}

void read_parents(Draft &draft)
{
    int64_t edges = 0;
    for (int32_t i = 0; i < draft.count; i++)
        edges += draft.depends_on[i] != nullptr ? JsonContainerSize(draft.depends_on[i]) : 0;
    if (edges > kMaxTemplateEdges)
        throw refusal(draft.place, "its steps depend on too many others")
            .detail("There are " INT64_FORMAT " dependencies; the limit is %d.", edges, kMaxTemplateEdges);

    draft.first_parent = array_of<int32_t>(draft.count + 1);
    draft.parents = array_of<int32_t>(static_cast<int32_t>(edges));
    int32_t *last_child = array_of<int32_t>(draft.count); // + 1, for duplicates
    for (int32_t i = 0; i < draft.count; i++) {
        if (draft.depends_on[i] != nullptr) {
            Elements elements(draft.depends_on[i]);
            JsonbValue element;
            while (elements.next(element))
                draft.parents[draft.edge_count++] = read_parent(draft, i, element, last_child);
        }
        draft.first_parent[i + 1] = draft.edge_count;
        CHECK_FOR_INTERRUPTS();
    }
}

// Calls nothing that may ereport: the vectors must be destroyed.
void walk_graph(Draft &draft)
{
    pg::ContextResource memory;
    const core::NodeLists parents = parents_of(draft);
    const core::OwnedNodeLists children = core::inverted(parents, &memory);
    const core::NodeVector order = core::topological_order(parents, children.view(), &memory);
    const core::NodeVector cycle = core::find_cycle(parents, order, &memory);
    std::copy(order.begin(), order.end(), draft.order);
    std::copy(cycle.begin(), cycle.end(), draft.cycle);
    draft.cycle_length = static_cast<int32_t>(cycle.size());
    if (cycle.empty()) {
        const core::NodeVector levels = core::levels(parents, order, &memory);
        draft.depth = *std::max_element(levels.begin(), levels.end()) + 1;
    }
}

const char *cycle_text(const Draft &draft)
{
    StringInfoData text;
    initStringInfo(&text);
    const int32_t shown = std::min(draft.cycle_length, kShownOfCycle);
    for (int32_t i = 0; i < shown; i++)
        appendStringInfo(&text, "%s -> ", draft.steps[draft.cycle[i]].name);
    if (shown < draft.cycle_length)
        appendStringInfo(&text, "... (%d more) -> ", draft.cycle_length - shown);
    appendStringInfoString(&text, draft.steps[draft.cycle[0]].name);
    return text.data;
}

void order_steps(Draft &draft)
{
    draft.order = array_of<int32_t>(draft.count);
    draft.cycle = array_of<int32_t>(draft.count);
    walk_graph(draft);
    if (draft.cycle_length > 0)
        throw refusal(draft.place, "its steps depend on each other in a cycle: %s", cycle_text(draft));
    if (draft.depth > kMaxTemplateDepth)
        throw refusal(draft.place, "its steps depend on each other too deeply")
            .detail("The longest chain has %d steps; the limit is %d.", draft.depth, kMaxTemplateDepth);
}

bool creates_children(const StepTemplate &step)
{
    return step.kind == StepKind::decision || step.kind == StepKind::batch;
}

// What comes after a decision or batch step is created later. Nothing that is created at once comes after
// it, so the steps that are can stand first and the order still holds.
void separate_dynamic(Draft &draft)
{
    const core::NodeLists parents = parents_of(draft);
    bool *has_children = array_of<bool>(draft.count);
    for (int32_t i = 0; i < draft.count; i++) {
        StepTemplate &step = draft.steps[draft.order[i]];
        for (const int32_t parent : parents.of(draft.order[i])) {
            has_children[parent] = true;
            step.dynamic |= draft.steps[parent].dynamic || creates_children(draft.steps[parent]);
        }
    }
    for (int32_t i = 0; i < draft.count; i++) {
        const StepTemplate &step = draft.steps[i];
        if (creates_children(step) && !has_children[i])
            throw refusal(place_of_step(draft, i), "no step depends on this %s step", word_of(step.kind))
                .hint("Its completion creates steps that depend on it: declare them, or make it a standard "
                      "step.");
        if (step.kind == StepKind::deferred && !step.dynamic)
            throw refusal(place_of_step(draft, i), "this deferred step comes after no decision or batch step")
                .hint("All that it depends on is always created: make it a standard step.");
    }
    int32_t *initial = array_of<int32_t>(draft.count);
    int32_t count = 0;
    int32_t later = 0;
    for (int32_t i = 0; i < draft.count; i++) {
        if (!draft.steps[draft.order[i]].dynamic)
            initial[count++] = draft.order[i];
        else
            draft.order[later++] = draft.order[i];
    }
    std::copy_backward(draft.order, draft.order + later, draft.order + draft.count);
    std::copy(initial, initial + count, draft.order);
    draft.result->initial_count = count;
}

// Calls nothing that may ereport.
void fill_children(core::NodeLists parents, int32_t *first, int32_t *members)
{
    pg::ContextResource memory;
    const core::OwnedNodeLists children = core::inverted(parents, &memory);
    std::copy(children.first.begin(), children.first.end(), first);
    std::copy(children.members.begin(), children.members.end(), members);
}

// Writes the steps in their order, and all numbers of steps as places in it.
void arrange(const Draft &draft)
{
    Template &result = *draft.result;
    result.step_count = draft.count;
    result.edge_count = draft.edge_count;
    result.steps = array_of<StepTemplate>(draft.count, draft.keep);
    int32_t *place = array_of<int32_t>(draft.count);
    for (int32_t i = 0; i < draft.count; i++)
        place[draft.order[i]] = i;

    const core::NodeLists given = parents_of(draft);
    int32_t *first_parent = array_of<int32_t>(draft.count + 1);
    int32_t *parents = array_of<int32_t>(draft.edge_count, draft.keep);
    int32_t *first_child = array_of<int32_t>(draft.count + 1);
    int32_t *children = array_of<int32_t>(draft.edge_count, draft.keep);
    for (int32_t i = 0; i < draft.count; i++) {
        int32_t *end = parents + first_parent[i];
        for (const int32_t parent : given.of(draft.order[i]))
            *end++ = place[parent];
        std::sort(parents + first_parent[i], end);
        first_parent[i + 1] = static_cast<int32_t>(end - parents);
    }
    fill_children({{first_parent, static_cast<size_t>(draft.count) + 1},
                   {parents, static_cast<size_t>(draft.edge_count)}},
                  first_child, children);
    for (int32_t i = 0; i < draft.count; i++) {
        StepTemplate &step = result.steps[i];
        step = draft.steps[draft.order[i]];
        step.parents = parents + first_parent[i];
        step.parent_count = first_parent[i + 1] - first_parent[i];
        step.children = children + first_child[i];
        step.child_count = first_child[i + 1] - first_child[i];
    }
    int32_t *by_name = array_of<int32_t>(draft.count, draft.keep);
    sort_by_name(result.steps, draft.count, by_name);
    result.by_name = by_name;
}

} // namespace

const char *word_of(StepKind kind)
{
    switch (kind) {
    case StepKind::standard:
        return "standard";
    case StepKind::decision:
        return "decision";
    case StepKind::deferred:
        return "deferred";
    case StepKind::batch:
        return "batch";
    }
    return "unknown";
}

Template *compile_template(Jsonb *definition, std::string_view namespace_name, std::string_view name,
                           std::string_view version, MemoryContext keep)
{
    Template *result = array_of<Template>(1, keep);
    result->namespace_name = copy_of(namespace_name, keep);
    result->name = copy_of(name, keep);
    result->version = copy_of(version, keep);

    Draft draft{};
    draft.keep = keep;
    draft.place = {namespace_name, name};
    draft.result = result;
    read_definition(draft, definition);
    index_names(draft);
    read_parents(draft);
    order_steps(draft);
    separate_dynamic(draft);
    arrange(draft);
    return result;
}

const StepTemplate *find_step(const Template &definition, std::string_view name)
{
    const int32_t step = number_of(definition.steps, definition.step_count, definition.by_name, name);
    return step >= 0 ? &definition.steps[step] : nullptr;
}

} // namespace tasker::workflow
