// Reading a task's graph, and drawing it for Mermaid and Graphviz. The tree for terminals is in
// graph_text.cpp.
#include "workflow/graph.hpp"

#include "core/dag.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "workflow/ids.hpp"

namespace tasker::workflow {
namespace {

const char *copy_of(std::string_view text)
{
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

pg::Param uuid_param(const core::Uuid &uuid)
{
    return pg::Param::of_datum(pg::pg_call([&] { return datum_of(uuid); }));
}

void read_task(Graph &graph)
{
    static pg::Statement query(
        "select pg_catalog.format('%s/%s %s', coalesce(s.name, '?'), coalesce(n.name, '?'), "
        "  coalesce(n.version, '?')), t.current_state::text, "
        "(extract(epoch from case when t.current_state in ('c', 'e', 'x', 'm') then t.state_entered_at "
        "   else pg_catalog.clock_timestamp() end) * 1000000)::bigint "
        "from tasker.task t left join tasker.named_tasks n using (named_task_uuid) "
        "left join tasker.task_namespaces s using (task_namespace_uuid) where t.task_uuid = $1",
        {UUIDOID});
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_under(query, GetActiveSnapshot(), {uuid_param(graph.uuid)});
    if (rows.empty())
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "task \"%s\" does not exist",
                        pg::pg_call([&] { return text_of(graph.uuid); }));
    pg::MemoryContextScope scope(memory);
    graph.name = copy_of(rows.text(0, 1));
    graph.state = static_cast<core::TaskState>(rows.text(0, 2).front());
    graph.lasted_us = std::max<int64_t>(rows.i64(0, 3) - core::unix_ms_of(graph.uuid) * 1000, 0);
}

// How long a step was in a worker's hands, and waited for one or for its retry, stands in its log.
void read_steps(Graph &graph)
{
    static pg::Statement query(
        "with l as (select workflow_step_uuid, to_state, extract(epoch from coalesce(lead(created_at) over ("
        "    partition by workflow_step_uuid order by sort_key), pg_catalog.clock_timestamp()) - created_at) "
        "    as seconds from tasker.workflow_step_transition "
        "  where workflow_step_uuid > $1 and workflow_step_uuid <= $2), "
        "t as (select workflow_step_uuid, "
        "    (sum(seconds) filter (where to_state = 's') * 1000000)::bigint as worked, "
        "    (sum(seconds) filter (where to_state in ('q', 'r')) * 1000000)::bigint as waited "
        "  from l group by 1) "
        "select s.workflow_step_uuid, coalesce(s.name, n.name, '?'), s.current_state::text, "
        "  s.step_type::text, s.attempts, s.max_attempts, coalesce(t.worked, 0), coalesce(t.waited, 0) "
        "from tasker.workflow_step s left join tasker.named_steps n using (named_step_uuid) "
        "left join t using (workflow_step_uuid) "
        "where s.workflow_step_uuid > $1 and s.workflow_step_uuid <= $2 order by 1",
        {UUIDOID, UUIDOID});
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_under(
        query, GetActiveSnapshot(),
        {uuid_param(graph.uuid), uuid_param(core::step_uuid(graph.uuid, core::kMaxStepNumber))});
    pg::MemoryContextScope scope(memory);
    graph.steps.reserve(rows.count());
    for (uint64 i = 0; i < rows.count(); i++)
        graph.steps.push_back({uuid_of(rows.datum(i, 1)), copy_of(rows.text(i, 2)),
                               static_cast<core::StepState>(rows.text(i, 3).front()), rows.text(i, 4).front(),
                               rows.i32(i, 5), rows.i32(i, 6), rows.i64(i, 7), rows.i64(i, 8), 0, 0});
}

// -1: there is no such step.
int32_t index_of(const Graph &graph, const core::Uuid &uuid)
{
    const auto step = std::lower_bound(graph.steps.begin(), graph.steps.end(), uuid,
                                       [](const GraphStep &s, const core::Uuid &u) { return s.uuid < u; });
    return step != graph.steps.end() && step->uuid == uuid ? static_cast<int32_t>(step - graph.steps.begin())
                                                           : -1;
}

struct Edge
{
    int32_t child;
    int32_t parent;
    auto operator<=>(const Edge &) const = default;
};

// The nodes on one side of the edges, for each on the other; the edges are sorted by the latter.
core::OwnedNodeLists lists_of(const pg::Vector<Edge> &edges, size_t nodes, std::pmr::memory_resource *memory)
{
    core::OwnedNodeLists lists{core::NodeVector(nodes + 1, 0, memory), core::NodeVector(memory)};
    for (const Edge &edge : edges) {
        lists.first[static_cast<size_t>(edge.child) + 1]++;
        lists.members.push_back(edge.parent);
    }
    for (size_t i = 0; i < nodes; i++)
        lists.first[i + 1] += lists.first[i];
    return lists;
}

// A deferred step may have parents with higher numbers: puts the steps into an order in which they come
// first. Where there is a cycle, nothing changes.
void put_parents_first(Graph &graph, pg::Vector<Edge> &edges)
{
    std::pmr::memory_resource *memory = edges.get_allocator().resource();
    const core::OwnedNodeLists parents = lists_of(edges, graph.steps.size(), memory);
    const core::OwnedNodeLists children = core::inverted(parents.view(), memory);
    const core::NodeVector order = core::topological_order(parents.view(), children.view(), memory);
    if (order.size() < graph.steps.size())
        return;
    const pg::Vector<GraphStep> before(graph.steps, memory);
    core::NodeVector place(order.size(), 0, memory);
    for (size_t i = 0; i < order.size(); i++) {
        graph.steps[i] = before[static_cast<size_t>(order[i])];
        place[static_cast<size_t>(order[i])] = static_cast<int32_t>(i);
    }
    for (Edge &edge : edges)
        edge = {place[static_cast<size_t>(edge.child)], place[static_cast<size_t>(edge.parent)]};
    std::sort(edges.begin(), edges.end());
}

void read_edges(Graph &graph)
{
    static pg::Statement query("select to_step_uuid, from_step_uuid from tasker.workflow_step_edge "
                               "where from_step_uuid > $1 and from_step_uuid <= $2 order by 1, 2",
                               {UUIDOID, UUIDOID});
    pg::Vector<Edge> edges(graph.steps.get_allocator().resource());
    bool leads_back = false;
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_under(
            query, GetActiveSnapshot(),
            {uuid_param(graph.uuid), uuid_param(core::step_uuid(graph.uuid, core::kMaxStepNumber))});
        for (uint64 i = 0; i < rows.count(); i++) {
            const Edge edge{index_of(graph, uuid_of(rows.datum(i, 1))),
                            index_of(graph, uuid_of(rows.datum(i, 2)))};
            if (edge.child >= 0 && edge.parent >= 0)
                edges.push_back(edge);
            leads_back = leads_back || edge.parent > edge.child;
        }
    }
    if (leads_back)
        put_parents_first(graph, edges);
    for (const Edge &edge : edges) {
        if (edge.parent >= edge.child)
            continue; // check_integrity() reports it
        GraphStep &step = graph.steps[static_cast<size_t>(edge.child)];
        if (step.parent_count++ == 0)
            step.first_parent = static_cast<int32_t>(graph.parents.size());
        graph.parents.push_back(edge.parent);
    }
}

int32_t number_of(const GraphStep &step)
{
    return static_cast<int32_t>(core::step_number(step.uuid));
}

// What stands between double quotes in Mermaid: its entities begin with #, and what could be markup is one.
void append_mermaid(StringInfo text, const char *name)
{
    for (const char *at = name; *at != '\0'; at++) {
        switch (*at) {
        case '"':
        case '#':
        case '&':
        case '<':
        case '>':
        case '`':
        case '\\':
            appendStringInfo(text, "#%d;", *at);
            break;
        default:
            appendStringInfoChar(text, static_cast<unsigned char>(*at) < ' ' ? ' ' : *at);
        }
    }
}

void append_dot(StringInfo text, const char *name)
{
    for (const char *at = name; *at != '\0'; at++) {
        if (*at == '"' || *at == '\\')
            appendStringInfoChar(text, '\\');
        appendStringInfoChar(text, static_cast<unsigned char>(*at) < ' ' ? ' ' : *at);
    }
}

// How each state looks: fill, and line.
struct Colour
{
    const char *fill;
    const char *line;
};

Colour colour_of(core::StepState state)
{
    switch (state) {
    case core::StepState::pending:
        return {"#f3f4f6", "#9ca3af"};
    case core::StepState::enqueued:
        return {"#dbeafe", "#3b82f6"};
    case core::StepState::in_progress:
        return {"#fef9c3", "#ca8a04"};
    case core::StepState::enqueued_for_orchestration:
    case core::StepState::enqueued_as_error_for_orchestration:
        return {"#ede9fe", "#8b5cf6"};
    case core::StepState::waiting_for_retry:
        return {"#ffedd5", "#f97316"};
    case core::StepState::complete:
        return {"#dcfce7", "#16a34a"};
    case core::StepState::error:
        return {"#fee2e2", "#dc2626"};
    case core::StepState::cancelled:
        return {"#e5e7eb", "#4b5563"};
    case core::StepState::resolved_manually:
        return {"#ccfbf1", "#0d9488"};
    }
    return {"#ffffff", "#000000"};
}

// The shape of each kind of step.
struct Shape
{
    const char *open; // Mermaid's brackets
    const char *close;
    const char *dot;
};

Shape shape_of(char kind)
{
    switch (kind) {
    case 'd':
        return {"{{", "}}", "hexagon"};
    case 'b':
        return {"[[", "]]", "box3d"};
    case 'f':
        return {"([", "])", "ellipse"};
    default:
        return {"[", "]", "box"};
    }
}

template <class Visit> void for_each_edge(const Graph &graph, Visit visit)
{
    for (const GraphStep &step : graph.steps) {
        for (const int32_t parent : graph.parents_of(step))
            visit(graph.steps[static_cast<size_t>(parent)], step);
    }
}

} // namespace

void read_graph(const core::Uuid &task, Graph &graph)
{
    graph.uuid = task;
    read_task(graph);
    read_steps(graph);
    read_edges(graph);
}

void append_duration(StringInfo text, int64_t us)
{
    constexpr int64_t kMinute = 60;
    constexpr int64_t kHour = 60 * kMinute;
    constexpr int64_t kDay = 24 * kHour;
    const int64_t seconds = us / 1'000'000;
    if (us < 1'000'000)
        appendStringInfo(text, us < 10'000 ? "%.1f ms" : "%.0f ms",
                         us < 10'000 ? static_cast<double>(us / 100) / 10 : static_cast<double>(us / 1000));
    else if (seconds < kMinute)
        appendStringInfo(text, "%.1f s", static_cast<double>(us / 100'000) / 10);
    else if (seconds < kHour)
        appendStringInfo(text, "%d min %d s", static_cast<int>(seconds / kMinute),
                         static_cast<int>(seconds % kMinute));
    else if (seconds < kDay)
        appendStringInfo(text, "%d h %d min", static_cast<int>(seconds / kHour),
                         static_cast<int>(seconds % kHour / kMinute));
    else
        appendStringInfo(text, INT64_FORMAT " d %d h", seconds / kDay,
                         static_cast<int>(seconds % kDay / kHour));
}

void append_facts(StringInfo text, const GraphStep &step)
{
    appendStringInfoString(text, core::state_name(step.state).data());
    if (step.attempts > 0)
        appendStringInfo(text, ", attempt %d of %d", step.attempts,
                         std::max(step.attempts, step.max_attempts));
    if (step.worked_us > 0) {
        appendStringInfoString(text, ", ");
        append_duration(text, step.worked_us);
    }
    if (step.waited_us > 0) {
        appendStringInfoString(text, ", waited ");
        append_duration(text, step.waited_us);
    }
}

void append_task_facts(StringInfo text, const Graph &graph)
{
    const auto done = std::count_if(graph.steps.begin(), graph.steps.end(), [](const GraphStep &step) {
        return core::satisfies_children(step.state);
    });
    appendStringInfo(text, "%s, %d of %d steps done, ", core::state_name(graph.state).data(),
                     static_cast<int>(done), static_cast<int>(graph.steps.size()));
    append_duration(text, graph.lasted_us);
}

void draw_mermaid(const Graph &graph, StringInfo text)
{
    appendStringInfoString(text, "flowchart TD\n    %% ");
    append_mermaid(text, graph.name);
    appendStringInfo(text, " %s: ", text_of(graph.uuid));
    append_task_facts(text, graph);
    appendStringInfoChar(text, '\n');
    for (const GraphStep &step : graph.steps) {
        const Shape shape = shape_of(step.kind);
        appendStringInfo(text, "    s%d%s\"", number_of(step), shape.open);
        append_mermaid(text, step.name);
        appendStringInfoString(text, "<br/>");
        append_facts(text, step);
        appendStringInfo(text, "\"%s:::%s\n", shape.close, core::state_name(step.state).data());
    }
    for_each_edge(graph, [&](const GraphStep &parent, const GraphStep &child) {
        appendStringInfo(text, "    s%d --> s%d\n", number_of(parent), number_of(child));
    });
    for (int i = 0; i < core::kStepStateCount; i++) {
        const auto state = core::state_at<core::StepState>(i);
        const Colour colour = colour_of(state);
        appendStringInfo(text, "    classDef %s fill:%s,stroke:%s,color:#111827\n",
                         core::state_name(state).data(), colour.fill, colour.line);
    }
}

void draw_dot(const Graph &graph, StringInfo text)
{
    appendStringInfo(text, "digraph \"%s\" {\n    label=\"", text_of(graph.uuid));
    append_dot(text, graph.name);
    appendStringInfoString(text, "\\n");
    append_task_facts(text, graph);
    appendStringInfoString(text, "\";\n    node [style=\"filled,rounded\", fontname=\"sans-serif\"];\n");
    for (const GraphStep &step : graph.steps) {
        const Colour colour = colour_of(step.state);
        appendStringInfo(text, "    s%d [label=\"", number_of(step));
        append_dot(text, step.name);
        appendStringInfoString(text, "\\n");
        append_facts(text, step);
        appendStringInfo(text, "\", class=\"%s\", shape=%s, fillcolor=\"%s\", color=\"%s\"];\n",
                         core::state_name(step.state).data(), shape_of(step.kind).dot, colour.fill,
                         colour.line);
    }
    for_each_edge(graph, [&](const GraphStep &parent, const GraphStep &child) {
        appendStringInfo(text, "    s%d -> s%d;\n", number_of(parent), number_of(child));
    });
    appendStringInfoString(text, "}\n");
}

TASKER_FUNCTION(task_graph)
{
    if (args.is_null(0))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"task_uuid\" must not be null");
    const std::string_view format = args.text(1, "format");
    const int32_t most = args.i32(2, "max_siblings");
    if (format != "mermaid" && format != "dot" && format != "text")
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown format \"%.*s\" of a graph",
                        static_cast<int>(format.size()), format.data())
            .hint("Formats are mermaid, dot and text.");
    if (most < 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_siblings must not be negative");
    pg::ContextResource memory;
    Graph graph(&memory);
    read_graph(uuid_of(args.datum(0)), graph);
    StringInfoData text;
    pg::pg_call([&] { initStringInfo(&text); });
    // These allocate and touch nothing else of the server's; what they hold is freed with its context.
    if (format == "text")
        draw_text(graph, most, &text);
    else
        pg::pg_call([&] { format == "dot" ? draw_dot(graph, &text) : draw_mermaid(graph, &text); });
    return args.result(std::string_view(text.data, static_cast<size_t>(text.len)));
}

} // namespace tasker::workflow
