// Templates: what a named task consists of, compiled from its definition and cached in the backend.
//
// A definition never changes under its version, so a compiled template is good for as long as its named task
// exists. A relcache invalidation of tasker.named_tasks, which every change of that table sends, makes the
// next look-up of each template ask whether its row is still the same; only then it is compiled anew. What a
// look-up has returned stays valid to the end of the transaction.
#pragma once

#include "core/task_id.hpp"
#include "pg/error.hpp"

namespace tasker::workflow {

inline constexpr int kMaxNameBytes = 128;
inline constexpr int kMaxTemplateSteps = 100'000;
inline constexpr int kNoPriority = -1;

enum class StepKind : char
{
    standard = 's',
    decision = 'd', // its completion names the children to create
    deferred = 'f', // waits for those of its declared parents that were created
    batch = 'b',    // its completion creates children with inputs (cursors) of their own
};
inline constexpr StepKind kStepKinds[] = {StepKind::standard, StepKind::decision, StepKind::deferred,
                                          StepKind::batch};

// As definitions and tasker.named_steps have it.
const char *word_of(StepKind kind);

struct StepTemplate
{
    core::Uuid named_step_uuid;
    const char *name;
    const char *handler;
    int32_t flow_id; // of "namespace/handler"
    StepKind kind;
    bool retryable;
    int32_t max_attempts;
    double backoff_base_s;
    double backoff_multiplier;
    double backoff_max_s;
    double backoff_jitter;   // 0 to 1
    int32_t timeout_seconds; // 0: the flow's lease alone counts
    int32_t priority;        // kNoPriority: the task's
    Jsonb *inputs;           // null: none
    int32_t *parents;        // indexes into Template::steps, ascending
    int32_t parent_count;
    int32_t *children; // likewise
    int32_t child_count;
    // Is it left out when the task is created? A child of a decision or batch step is created by that one's
    // completion, and what comes after it with it.
    bool dynamic;
};

struct Template
{
    core::Uuid named_task_uuid;
    const char *namespace_name;
    const char *name;
    const char *version;
    const char *description; // null: none
    StepTemplate *steps; // parents come before their children, those that are not dynamic before the others
    int32_t step_count;
    int32_t initial_count;  // those that are not dynamic: the first ones
    int32_t edge_count;     // all parents of all steps
    const int32_t *by_name; // indexes into steps, ordered by name
    // From the definition's "lifecycle"; 0 where it says nothing.
    int32_t max_waiting_for_dependencies_minutes;
    int32_t max_waiting_for_retry_minutes;
    int32_t max_steps_in_process_minutes;
    int32_t max_duration_minutes;
};

// The template of a task. Errors: undefined_object.
const Template &template_with_id(const core::Uuid &named_task_uuid);

// The template of that name and version; without one that which was defined last. Errors: undefined_object.
const Template &template_named(std::string_view namespace_name, std::string_view name,
                               std::optional<std::string_view> version);

// The step of that name or uuid, or null. A step's uuid has its number (its index plus one) in the last 32
// bits.
const StepTemplate *find_step(const Template &definition, std::string_view name);
const StepTemplate *find_step(const Template &definition, const core::Uuid &named_step_uuid);

// A flow that carries steps: those of one handler in one namespace.
struct StepFlow
{
    int32_t flow_id;
    const char *handler;
};

// The flows of a namespace. Errors: undefined_object for a namespace that does not exist. Valid to the end of
// the transaction.
std::span<const StepFlow> flows_of_namespace(std::string_view namespace_name);

// All flows that carry steps, in ascending order. Valid to the end of the transaction.
std::span<const int32_t> flows_with_steps();

// Does the flow carry steps?
bool carries_steps(int32_t flow_id);

} // namespace tasker::workflow
