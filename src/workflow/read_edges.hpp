// The graph of a task, read at once: its steps and edges as arrays.
//
// Steps are numbered in topological order (core/task_id.hpp): a parent has a lower number than its children,
// but for a deferred step that waits for some which came into being after it. So one walk over the edges in
// the order of their parents visits a step after all that it depends on, unless an edge leads back.
//
// Plain C, as instance.hpp.
#pragma once

#include "workflow/read.hpp"

namespace tasker::workflow {

struct GraphStep
{
    core::Uuid uuid;
    core::Uuid named_step_uuid;
};

// Indexes of steps.
struct GraphEdge
{
    int32_t from;
    int32_t to;
};

struct Graph
{
    Growing<GraphStep> steps; // in the order of their numbers
    Growing<GraphEdge> edges; // in the order of their parents, then of their children
};

Graph read_graph(Instances &instances, const core::Uuid &task);

} // namespace tasker::workflow
