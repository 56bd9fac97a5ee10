// From a definition (JSON) to a template: read the steps as they were given, find who depends on whom, put
// them into order, check what the order shows, and renumber.
//
// Everything is plain C, except for the walks over the graph (core/dag.hpp), which call nothing of Postgres.
// What the template is made of lies in the memory context `keep`, all else in the current one.
#include "workflow/template_compile.hpp"

#include "core/dag.hpp"
#include "pg/memory.hpp"
#include "workflow/template_json.hpp"

namespace tasker::workflow {
namespace {

constexpr int32_t kMaxAttempts = 1000;
constexpr int32_t kMaxTimeoutSeconds = 31 * 24 * 3600;
constexpr double kMaxBackoffSeconds = 31.0 * 24 * 3600;
constexpr double kMaxBackoffMultiplier = 1000.0;
constexpr double kUnset = -1.0;
constexpr int kShownOfCycle = 20;

// The steps as they were given, and what is known of them by and by.
struct Draft
{
    Place place;
    MemoryContext keep;
    Template *result;
    StepTemplate *steps;
    JsonbContainer **depends_on; // null: on nothing
    int32_t count;
    int32_t *by_name;      // numbers of the steps, ordered by name
    int32_t *first_parent; // core::NodeLists
    int32_t *parents;
    int32_t edge_count;
    int32_t *order; // the steps so that parents come before their children
    int32_t ordered;
    int32_t depth;
    int32_t *cycle;
    int32_t cycle_length;
};

template <class T> T *array_of(int32_t count, MemoryContext memory = CurrentMemoryContext)
{
    return static_cast<T *>(
        MemoryContextAllocZero(memory, static_cast<size_t>(std::max(count, 1)) * sizeof(T)));
}

const char *copy_of(std::string_view text, MemoryContext memory)
{
    auto *copy = static_cast<char *>(MemoryContextAlloc(memory, text.size() + 1));
    memcpy(copy, text.data(), text.size());
    copy[text.size()] = '\0';
    return copy;
}

Jsonb *copy_of(const Jsonb *json, MemoryContext memory)
{
    auto *copy = static_cast<Jsonb *>(MemoryContextAlloc(memory, VARSIZE(json)));
    memcpy(copy, json, VARSIZE(json));
    return copy;
}

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

// --- reading
// -------------------------------------------------------------------------------------------------

template <int32_t Template::*minutes>
void read_minutes(const Place &place, const char *key, JsonbValue &value, Template &target)
{
    target.*minutes = read_integer(place, key, value, 1, PG_INT32_MAX);
}

const Key<Template> lifecycle_keys[] = {
    {"max_waiting_for_dependencies_minutes", read_minutes<&Template::max_waiting_for_dependencies_minutes>},
    {"max_waiting_for_retry_minutes", read_minutes<&Template::max_waiting_for_retry_minutes>},
    {"max_steps_in_process_minutes", read_minutes<&Template::max_steps_in_process_minutes>},
    {"max_duration_minutes", read_minutes<&Template::max_duration_minutes>},
};

template <double StepTemplate::*seconds>
void read_seconds(const Place &place, const char *key, JsonbValue &value, StepTemplate &step)
{
    step.*seconds = read_number(place, key, value, 0, kMaxBackoffSeconds);
}

const Key<StepTemplate> backoff_keys[] = {
    {"base_seconds", read_seconds<&StepTemplate::backoff_base_s>},
    {"multiplier",
     [](const Place &place, const char *key, JsonbValue &value, StepTemplate &step) {
         step.backoff_multiplier = read_number(place, key, value, 1, kMaxBackoffMultiplier);
     }},
    {"max_seconds", read_seconds<&StepTemplate::backoff_max_s>},
    {"jitter", [](const Place &place, const char *key, JsonbValue &value,
                  StepTemplate &step) { step.backoff_jitter = read_number(place, key, value, 0, 1); }},
};

StepKind read_kind(const Place &place, const char *key, const JsonbValue &value)
{
    const std::string_view word = read_string(place, key, value);
    for (const StepKind kind : kStepKinds) {
        if (word == word_of(kind))
            return kind;
    }
    throw refusal(place, "unknown type \"%.*s\"", static_cast<int>(word.size()), word.data())
        .hint("Types are standard, decision, deferred and batch.");
}

struct StepReading
{
    StepTemplate &step;
    JsonbContainer *&depends_on;
    MemoryContext keep;
};

const Key<StepReading> step_keys[] = {
    {"name",
     [](const Place &place, const char *key, JsonbValue &value, StepReading &reading) {
         reading.step.name = copy_of(read_name(place, key, value), reading.keep);
     }},
    {"handler",
     [](const Place &place, const char *key, JsonbValue &value, StepReading &reading) {
         reading.step.handler = copy_of(read_name(place, key, value), reading.keep);
     }},
    {"depends_on", [](const Place &place, const char *key, JsonbValue &value,
                      StepReading &reading) { reading.depends_on = read_array(place, key, value); }},
    {"type", [](const Place &place, const char *key, JsonbValue &value,
                StepReading &reading) { reading.step.kind = read_kind(place, key, value); }},
    {"retryable", [](const Place &place, const char *key, JsonbValue &value,
                     StepReading &reading) { reading.step.retryable = read_boolean(place, key, value); }},
    {"max_attempts",
     [](const Place &place, const char *key, JsonbValue &value, StepReading &reading) {
         reading.step.max_attempts = read_integer(place, key, value, 1, kMaxAttempts);
     }},
    {"backoff",
     [](const Place &place, const char *key, JsonbValue &value, StepReading &reading) {
         Place inside = place;
         inside.section = key;
         read_members(inside, read_object(place, key, value), backoff_keys, reading.step);
     }},
    {"timeout_seconds",
     [](const Place &place, const char *key, JsonbValue &value, StepReading &reading) {
         reading.step.timeout_seconds = read_integer(place, key, value, 1, kMaxTimeoutSeconds);
     }},
    {"priority", [](const Place &place, const char *key, JsonbValue &value,
                    StepReading &reading) { reading.step.priority = read_integer(place, key, value, 0, 9); }},
    {"inputs",
     [](const Place &place, const char *key, JsonbValue &value, StepReading &reading) {
         (void)read_object(place, key, value);
         reading.step.inputs = copy_of(JsonbValueToJsonb(&value), reading.keep);
     }},
};

StepTemplate step_with_defaults()
{
    StepTemplate step{};
    step.kind = StepKind::standard;
    step.retryable = true;
    step.max_attempts = 3;
    step.backoff_base_s = 1;
    step.backoff_multiplier = 2;
    step.backoff_max_s = kUnset;
    step.backoff_jitter = 0.1;
    step.priority = kNoPriority;
    return step;
}

// The flow has a name, too.
void check_flow_name(const Place &place, const StepTemplate &step)
{
    const size_t bytes = place.namespace_name.size() + 1 + strlen(step.handler);
    if (bytes > kMaxNameBytes)
        throw refusal(place, "namespace and handler are too long together")
            .detail("The flow \"%.*s/%s\" would have a name of %zu bytes; the limit is %d.",
                    static_cast<int>(place.namespace_name.size()), place.namespace_name.data(), step.handler,
                    bytes, kMaxNameBytes);
}

void check_backoff(const Place &place, StepTemplate &step)
{
    constexpr double kDefaultMax = 60;
    if (step.backoff_max_s == kUnset)
        step.backoff_max_s = std::max(step.backoff_base_s, kDefaultMax);
    if (step.backoff_max_s < step.backoff_base_s)
        throw refusal(place, "backoff: \"max_seconds\" must not be less than \"base_seconds\"")
            .detail("They are %g and %g.", step.backoff_max_s, step.backoff_base_s);
}

void read_step(Draft &draft, int32_t number, const JsonbValue &value)
{
    Place place = draft.place;
    place.step_number = number + 1;
    if (!is_object(value))
        throw refusal(place, "a step must be an object");
    // The name first: it stands in all other errors.
    JsonbContainer *object = value.val.binary.data;
    JsonbValue name;
    if (getKeyJsonValueFromContainer(object, "name", 4, &name) == nullptr || name.type == jbvNull)
        throw refusal(place, "\"name\" is missing");
    place.step_name = read_name(place, "name", name);

    StepTemplate &step = draft.steps[number];
    step = step_with_defaults();
    StepReading reading{step, draft.depends_on[number], draft.keep};
    read_members(place, object, step_keys, reading);
    if (step.handler == nullptr)
        step.handler = step.name;
    check_flow_name(place, step);
    check_backoff(place, step);
}

void read_steps(Draft &draft, const Place &place, const char *key, const JsonbValue &value)
{
    JsonbContainer *array = read_array(place, key, value);
    const auto count = static_cast<int64_t>(JsonContainerSize(array));
    if (count == 0)
        throw refusal(place, "there are no steps");
    if (count > kMaxTemplateSteps)
        throw refusal(place, "there are too many steps")
            .detail("There are " INT64_FORMAT "; the limit is %d.", count, kMaxTemplateSteps);
    draft.count = static_cast<int32_t>(count);
    draft.steps = array_of<StepTemplate>(draft.count);
    draft.depends_on = array_of<JsonbContainer *>(draft.count);
    Elements elements(array);
    JsonbValue element;
    for (int32_t i = 0; elements.next(element); i++) {
        CHECK_FOR_INTERRUPTS();
        read_step(draft, i, element);
    }
}

const Key<Draft> definition_keys[] = {
    {"description",
     [](const Place &place, const char *key, JsonbValue &value, Draft &draft) {
         draft.result->description = copy_of(read_string(place, key, value), draft.keep);
     }},
    {"lifecycle",
     [](const Place &place, const char *key, JsonbValue &value, Draft &draft) {
         Place inside = place;
         inside.section = key;
         read_members(inside, read_object(place, key, value), lifecycle_keys, *draft.result);
     }},
    {"steps", [](const Place &place, const char *key, JsonbValue &value,
                 Draft &draft) { read_steps(draft, place, key, value); }},
};

// --- the graph
// -----------------------------------------------------------------------------------------------

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
    draft.ordered = static_cast<int32_t>(order.size());
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
        appendStringInfo(&text, "… (%d more) -> ", draft.cycle_length - shown);
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

// --- the template
// --------------------------------------------------------------------------------------------

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
    if (!JB_ROOT_IS_OBJECT(definition))
        throw refusal(draft.place, "the definition must be an object");
    read_members(draft.place, &definition->root, definition_keys, draft);
    if (draft.steps == nullptr)
        throw refusal(draft.place, "\"steps\" is missing");
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
