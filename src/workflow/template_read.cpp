// Reading the members of a definition: one table of keys for each kind of object.
#include "workflow/template_draft.hpp"

namespace tasker::workflow {
namespace {

constexpr int32_t kMaxAttempts = 1000;
constexpr int32_t kMaxTimeoutSeconds = 31 * 24 * 3600;
constexpr double kMaxBackoffSeconds = 31.0 * 24 * 3600;
constexpr double kMaxBackoffMultiplier = 1000.0;
constexpr double kUnset = -1.0;

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

} // namespace

void read_definition(Draft &draft, Jsonb *definition)
{
    if (!JB_ROOT_IS_OBJECT(definition))
        throw refusal(draft.place, "the definition must be an object");
    read_members(draft.place, &definition->root, definition_keys, draft);
    if (draft.steps == nullptr)
        throw refusal(draft.place, "\"steps\" is missing");
}

} // namespace tasker::workflow
