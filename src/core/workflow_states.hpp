// The state machines of tasks and of their steps: names, what the tables store, and every legal transition.
//
// The states and their meanings are those of tasker-core (docs/architecture/states-and-lifecycles.md of
// tasker-systems/tasker-core). One table each holds all edges, for every writer: the engine, administrators,
// and transition_task_state_atomic(). An edge that only takes place when somebody asks for work to be done
// again (retry, reset) is marked, so that nobody else walks it.
//
// The engine moves a task or a step from where it is to where it must be along the shortest path of legal
// edges, and logs every hop: what a log says has happened is always legal, and nobody has to keep a second
// table of short cuts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

namespace tasker::core {

enum class TaskState : char
{
    pending = 'p',
    initializing = 'i',
    enqueuing_steps = 'q',
    steps_in_process = 's',
    evaluating_results = 'v',
    waiting_for_dependencies = 'd',
    waiting_for_retry = 'r',
    blocked_by_failures = 'b',
    complete = 'c',
    error = 'e',
    cancelled = 'x',
    resolved_manually = 'm',
};

enum class StepState : char
{
    pending = 'p',
    enqueued = 'q',
    in_progress = 's',
    enqueued_for_orchestration = 'o',
    enqueued_as_error_for_orchestration = 'f',
    waiting_for_retry = 'r',
    complete = 'c',
    error = 'e',
    cancelled = 'x',
    resolved_manually = 'm',
};

/// Which edges may be walked.
enum class Walk
{
    forward, // in the course of the work
    again    // also those that bring finished work back: retry and reset
};

namespace detail {

template <class State> struct StateEntry
{
    State state;
    std::string_view name;
    bool terminal;            // nothing happens any more, unless somebody asks for it
    std::string_view forward; // the characters of the states that may follow
    std::string_view again;   // and of those that may follow when work is done again
};

inline constexpr std::array<StateEntry<TaskState>, 12> kTaskStates{{
    {TaskState::pending, "pending", false, "ixe", ""},
    {TaskState::initializing, "initializing", false, "qdcxe", ""},
    {TaskState::enqueuing_steps, "enqueuing_steps", false, "sxe", ""},
    {TaskState::steps_in_process, "steps_in_process", false, "vrxe", ""},
    {TaskState::evaluating_results, "evaluating_results", false, "cqdbrxe", ""},
    {TaskState::waiting_for_dependencies, "waiting_for_dependencies", false, "vxe", ""},
    {TaskState::waiting_for_retry, "waiting_for_retry", false, "qvxe", ""},
    {TaskState::blocked_by_failures, "blocked_by_failures", false, "emx", "q"},
    {TaskState::complete, "complete", true, "", "p"},
    {TaskState::error, "error", true, "m", "p"},
    {TaskState::cancelled, "cancelled", true, "", "p"},
    {TaskState::resolved_manually, "resolved_manually", true, "", "p"},
}};

inline constexpr std::array<StateEntry<StepState>, 10> kStepStates{{
    {StepState::pending, "pending", false, "qsexm", ""},
    {StepState::enqueued, "enqueued", false, "sexm", "p"},
    {StepState::in_progress, "in_progress", false, "ofcexm", "p"},
    {StepState::enqueued_for_orchestration, "enqueued_for_orchestration", false, "cexm", "p"},
    {StepState::enqueued_as_error_for_orchestration, "enqueued_as_error_for_orchestration", false, "rexm",
     "p"},
    {StepState::waiting_for_retry, "waiting_for_retry", false, "pexm", ""},
    {StepState::complete, "complete", true, "", "p"},
    {StepState::error, "error", true, "m", "p"},
    {StepState::cancelled, "cancelled", true, "m", "p"},
    {StepState::resolved_manually, "resolved_manually", true, "", "p"},
}};

template <class State> constexpr const auto &table_of()
{
    if constexpr (std::is_same_v<State, TaskState>)
        return kTaskStates;
    else
        return kStepStates;
}

} // namespace detail

inline constexpr int kTaskStateCount = detail::kTaskStates.size();
inline constexpr int kStepStateCount = detail::kStepStates.size();

/// Returns the index of a state, in the order of the table above, for arrays of counters; -1 for a value that
/// is none (a damaged row).
template <class State> constexpr int state_index(State state)
{
    const auto &table = detail::table_of<State>();
    for (std::size_t i = 0; i < table.size(); i++) {
        if (table[i].state == state)
            return static_cast<int>(i);
    }
    return -1;
}

/// Returns the state with that index, which must be one.
template <class State> constexpr State state_at(int index)
{
    return detail::table_of<State>()[static_cast<std::size_t>(index)].state;
}

/// Returns the word that views and functions show; "unknown" for a value that is no state.
template <class State> constexpr std::string_view state_name(State state)
{
    const int index = state_index(state);
    return index < 0 ? std::string_view("unknown")
                     : detail::table_of<State>()[static_cast<std::size_t>(index)].name;
}

/// Returns the state of that word (lower case, exact), or nothing.
template <class State> constexpr std::optional<State> state_named(std::string_view name)
{
    for (const auto &entry : detail::table_of<State>()) {
        if (entry.name == name)
            return entry.state;
    }
    return std::nullopt;
}

/// Does the task or step rest in this state, until somebody asks for more? A partition whose tasks are all
/// terminal may be retired.
template <class State> constexpr bool is_terminal(State state)
{
    const int index = state_index(state);
    return index >= 0 && detail::table_of<State>()[static_cast<std::size_t>(index)].terminal;
}

/// Does a step in this state let its children go on?
constexpr bool satisfies_children(StepState state)
{
    return state == StepState::complete || state == StepState::resolved_manually;
}

/// May the one state follow the other? Staying is no transition.
template <class State> constexpr bool is_legal_transition(State from, State to, Walk walk = Walk::forward)
{
    const int index = state_index(from);
    if (index < 0 || state_index(to) < 0)
        return false;
    const auto &entry = detail::table_of<State>()[static_cast<std::size_t>(index)];
    const char wanted = static_cast<char>(to);
    return entry.forward.find(wanted) != std::string_view::npos ||
           (walk == Walk::again && entry.again.find(wanted) != std::string_view::npos);
}

/// The states to go through, without the first; `count` is 0 where there is no way, or none is needed.
template <class State> struct StatePath
{
    std::array<State, detail::table_of<State>().size()> hops{};
    int count = 0;
};

/// Returns a shortest way of legal transitions from one state to another. It does not pass through a terminal
/// state on the way.
template <class State>
constexpr StatePath<State> shortest_path(State from, State to, Walk walk = Walk::forward)
{
    constexpr int kStates = static_cast<int>(detail::table_of<State>().size());
    std::array<int, static_cast<std::size_t>(kStates)> before{};
    std::array<int, static_cast<std::size_t>(kStates)> queue{};
    before.fill(-1);
    const int start = state_index(from);
    const int goal = state_index(to);
    StatePath<State> path;
    if (start < 0 || goal < 0 || start == goal)
        return path;
    int head = 0;
    int tail = 0;
    queue[static_cast<std::size_t>(tail++)] = start;
    before[static_cast<std::size_t>(start)] = start;
    while (head < tail && before[static_cast<std::size_t>(goal)] < 0) {
        const int at = queue[static_cast<std::size_t>(head++)];
        for (int next = 0; next < kStates; next++) {
            if (before[static_cast<std::size_t>(next)] >= 0 ||
                !is_legal_transition(state_at<State>(at), state_at<State>(next), walk))
                continue;
            if (next != goal && is_terminal(state_at<State>(next)))
                continue;
            before[static_cast<std::size_t>(next)] = at;
            queue[static_cast<std::size_t>(tail++)] = next;
        }
    }
    if (before[static_cast<std::size_t>(goal)] < 0)
        return path;
    for (int at = goal; at != start; at = before[static_cast<std::size_t>(at)])
        path.count++;
    int i = path.count;
    for (int at = goal; at != start; at = before[static_cast<std::size_t>(at)])
        path.hops[static_cast<std::size_t>(--i)] = state_at<State>(at);
    return path;
}

/// How the steps of a task stand, as far as the task's state depends on it.
struct StepCounts
{
    int64_t active;  // enqueued or in progress
    int64_t waiting; // for their retry
    int64_t failed;  // in error
};

/// Where a task rests whose steps stand like that. With nothing active, waiting or failed every step is done:
/// one that was not would wait for a parent that is not done either, and so on up to one without such
/// parents, which would be active.
constexpr TaskState resting_state(const StepCounts &counts)
{
    if (counts.active > 0)
        return TaskState::steps_in_process;
    if (counts.waiting > 0)
        return TaskState::waiting_for_retry;
    if (counts.failed > 0)
        return TaskState::blocked_by_failures;
    return TaskState::complete;
}

} // namespace tasker::core
