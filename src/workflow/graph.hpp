// The picture of a task: its steps and what waits for what, read once and drawn in several ways.
#pragma once

#include "core/task_id.hpp"
#include "core/workflow_states.hpp"
#include "pg/memory.hpp"

namespace tasker::workflow {

struct GraphStep
{
    core::Uuid uuid;
    const char *name;
    core::StepState state;
    char kind; // 's' standard, 'd' decision, 'f' deferred, 'b' batch
    int32_t attempts;
    int32_t max_attempts;
    int64_t worked_us; // in a worker's hands, all attempts together
    int64_t waited_us; // for a worker or for its retry
    int32_t first_parent;
    int32_t parent_count;
};

// Steps in the order of their numbers, as far as parents then come before their children. Strings live in the
// memory context in which it was read.
struct Graph
{
    explicit Graph(std::pmr::memory_resource *memory) : steps(memory), parents(memory) {}

    std::span<const int32_t> parents_of(const GraphStep &step) const
    {
        return {parents.data() + step.first_parent, static_cast<size_t>(step.parent_count)};
    }

    core::Uuid uuid;
    const char *name = nullptr; // namespace/name version
    core::TaskState state{};
    int64_t lasted_us = 0; // from its creation to its end, or to now
    pg::Vector<GraphStep> steps;
    pg::Vector<int32_t> parents; // indexes into steps, ascending for each step
};

// Errors: undefined_object.
void read_graph(const core::Uuid &task, Graph &graph);

// "1.5 s", "3 min 20 s", "2 d 5 h": two figures' worth of a length of time.
void append_duration(StringInfo text, int64_t us);

// "complete, attempt 2 of 3, 1.5 s, waited 2 ms"
void append_facts(StringInfo text, const GraphStep &step);

// "steps_in_process, 5 of 9 steps done, 12.3 s"
void append_task_facts(StringInfo text, const Graph &graph);

// The drawings.
void draw_mermaid(const Graph &graph, StringInfo text);
void draw_dot(const Graph &graph, StringInfo text);
// Of more than `most` steps that stand side by side `most` are drawn, and the others counted; 0 draws all.
void draw_text(const Graph &graph, int32_t most, StringInfo text);

} // namespace tasker::workflow
