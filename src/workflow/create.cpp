// create_task(), create_tasks(): a task, its steps and edges, its first transitions, and the records of the
// steps that need not wait for others, in one call.
#include "workflow/create.hpp"

#include <numeric>

#include "pg/function.hpp"
#include "workflow/identity.hpp"

namespace tasker::workflow {
namespace {

// Steps that are collected before they are written, so that an array of any size needs memory for this many.
constexpr int32_t kStepsAtOnce = 4000;

// What all tasks of a call have in common.
struct TaskArguments
{
    const Template *definition;
    int16_t priority;
    std::optional<TimestampTz> run_at;
    Datum correlation_id; // 0: the task's own uuid
    Datum parent_correlation_id;
    Datum tags;
    Datum initiator;
    Datum source_system;
    Datum reason;
    Datum identity_key;
};

void set_unless_null(pg::RowValues &row, int column, Datum value)
{
    if (value != 0)
        row.set(column, value);
}

// The states that a new task goes through; returns the one it rests in.
core::TaskState note_new_task(TransitionLog &log, const core::Uuid &uuid, bool scheduled, int32_t *last)
{
    note_created(log, uuid, core::TaskState::pending);
    *last = 1;
    if (scheduled)
        return core::TaskState::pending;
    core::TaskState from = core::TaskState::pending;
    const auto path = core::shortest_path(from, core::TaskState::steps_in_process);
    for (int i = 0; i < path.count; i++) {
        const core::TaskState to = path.hops[static_cast<size_t>(i)];
        log.transitions.add({uuid, ++*last, static_cast<char>(from), static_cast<char>(to), {}});
        from = to;
    }
    return from;
}

HeapTuple task_row(pg::DirectTable *table, const Instances &instances, TransitionLog &log,
                   const TaskArguments &arguments, const core::Uuid &uuid, Datum context, int32_t roots)
{
    const Template &definition = *arguments.definition;
    const bool scheduled = arguments.run_at && *arguments.run_at > instances.now;
    int32_t last_transition = 0;
    const core::TaskState state = note_new_task(log, uuid, scheduled, &last_transition);
    pg::RowValues row;
    row.set(kTaskUuid, PointerGetDatum(&uuid));
    row.set(kTaskNamedTask, PointerGetDatum(&definition.named_task_uuid));
    row.set(kTaskStateEnteredAt, TimestampTzGetDatum(instances.now));
    row.set(kTaskUpdatedAt, TimestampTzGetDatum(instances.now));
    row.set(kTaskCurrentState, CharGetDatum(static_cast<char>(state)));
    row.set(kTaskPriority, Int16GetDatum(arguments.priority));
    row.set(kTaskTotalSteps, Int32GetDatum(definition.initial_count));
    row.set(kTaskActiveSteps, Int32GetDatum(roots));
    row.set(kTaskRetrySteps, Int32GetDatum(0));
    row.set(kTaskFailedSteps, Int32GetDatum(0));
    row.set(kTaskLastTransition, Int32GetDatum(last_transition));
    row.set(kTaskNextStepNumber, Int32GetDatum(definition.step_count + 1));
    if (arguments.run_at)
        row.set(kTaskRunAt, TimestampTzGetDatum(*arguments.run_at));
    row.set(kTaskCorrelationId,
            arguments.correlation_id != 0 ? arguments.correlation_id : PointerGetDatum(&uuid));
    set_unless_null(row, kTaskParentCorrelationId, arguments.parent_correlation_id);
    set_unless_null(row, kTaskInitiator, arguments.initiator);
    set_unless_null(row, kTaskSourceSystem, arguments.source_system);
    set_unless_null(row, kTaskReason, arguments.reason);
    set_unless_null(row, kTaskIdentityKey, arguments.identity_key);
    set_unless_null(row, kTaskTags, arguments.tags);
    row.set(kTaskContext, context);
    return pg::form_row(table, row);
}

// The steps that a task has from its beginning. A step has the number of its place in the template, from 1;
// those that are created later and more than once get numbers beyond.
int32_t add_steps(NewRows &rows, const Template &definition, const core::Uuid &task, int16_t priority)
{
    int32_t roots = 0;
    for (int32_t i = 0; i < definition.step_count; i++) {
        const StepTemplate &step = definition.steps[i];
        if (step.dynamic)
            continue;
        const core::Uuid uuid = core::step_uuid(task, static_cast<uint32_t>(i + 1));
        for (int32_t p = 0; p < step.parent_count; p++)
            rows.edges.add({core::step_uuid(task, static_cast<uint32_t>(step.parents[p] + 1)), uuid});
        rows.steps.add({uuid, &step, priority, step.parent_count, step.parent_count, 0, 0});
        if (step.parent_count == 0)
            roots++;
    }
    return roots;
}

void write_tasks(const TaskArguments &arguments, std::span<const Datum> contexts, core::Uuid *uuids)
{
    Instances instances;
    TransitionLog log;
    NewRows rows;
    begin_instances(instances);
    const std::optional<TimestampTz> due =
        arguments.run_at && *arguments.run_at > instances.now ? arguments.run_at : std::nullopt;
    for (size_t at = 0; at < contexts.size();) {
        CHECK_FOR_INTERRUPTS();
        Growing<HeapTuple> tasks;
        pg::DirectTable *table = nullptr;
        for (int32_t steps = 0; at < contexts.size() && steps < kStepsAtOnce; at++) {
            pg::DirectTable *next = table_for_new(instances, Table::task, uuids[at]);
            if (table != nullptr && next != table)
                break;
            table = next;
            const int32_t roots = add_steps(rows, *arguments.definition, uuids[at], arguments.priority);
            tasks.add(task_row(table, instances, log, arguments, uuids[at], contexts[at], roots));
            steps += arguments.definition->step_count;
        }
        pg::insert_rows(table, tasks.all());
        (void)write_steps(instances, log, rows, due);
        write_transitions(instances, log);
        write_records(rows);
    }
    end_instances(instances);
}

int16_t priority_argument(const pg::Args &args, int i)
{
    const int32_t priority = args.i32(i, "priority");
    queue::check_priority(priority);
    return static_cast<int16_t>(priority);
}

Datum or_zero(const pg::Args &args, int i)
{
    return args.is_null(i) ? 0 : args.datum(i);
}

// The arguments after `contexts`: version, priority, identity_key, correlation_id, parent_correlation_id,
// tags, initiator, source_system, reason, run_at.
TaskArguments task_arguments(const pg::Args &args)
{
    std::string_view space = args.name(0, "namespace");
    std::string_view name = args.name(1, "name");
    TaskArguments arguments{};
    arguments.priority = priority_argument(args, 4);
    arguments.correlation_id = or_zero(args, 6);
    arguments.parent_correlation_id = or_zero(args, 7);
    arguments.tags = or_zero(args, 8);
    arguments.initiator = or_zero(args, 9);
    arguments.source_system = or_zero(args, 10);
    arguments.reason = or_zero(args, 11);
    arguments.run_at = args.optional_timestamp(12);
    if (arguments.run_at && TIMESTAMP_NOT_FINITE(*arguments.run_at))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"run_at\" must be finite");
    arguments.definition = &template_named(space, name, args.optional_text(3));
    return arguments;
}

std::string_view text_of(Datum value)
{
    const text *words = DatumGetTextPP(value);
    return {VARDATA_ANY(words), VARSIZE_ANY_EXHDR(words)};
}

// Everybody takes keys in this order, so that nobody waits in a circle for who has taken another.
std::span<const size_t> in_order_of_keys(const pg::Args::NullableArray &keys)
{
    const size_t count = keys.values.size();
    auto *order =
        static_cast<size_t *>(palloc_extended(sizeof(size_t) * std::max<size_t>(count, 1), MCXT_ALLOC_HUGE));
    std::iota(order, order + count, size_t{0});
    const auto key_of = [&](size_t i) {
        return keys.nulls[i] ? std::string_view{} : text_of(keys.values[i]);
    };
    std::sort(order, order + count, [&](size_t a, size_t b) {
        const int by_key = key_of(a).compare(key_of(b));
        return by_key != 0 ? by_key < 0 : a < b;
    });
    return {order, count};
}

} // namespace

TASKER_FUNCTION(create_task)
{
    PreventCommandIfReadOnly("tasker.create_task()");
    TaskArguments arguments = task_arguments(args);
    if (args.is_null(2))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"context\" must not be null")
            .hint("An empty context is '{}'.");
    core::Uuid uuid = new_task_uuid();
    if (const std::optional<std::string_view> key = args.optional_text(5)) {
        if (const auto holder = take_identity(arguments.definition->named_task_uuid, *key, uuid))
            return datum_of(*holder);
        arguments.identity_key = args.datum(5);
    }
    const Datum context = args.datum(2);
    write_tasks(arguments, {&context, 1}, &uuid);
    return datum_of(uuid);
}

TASKER_FUNCTION(create_tasks)
{
    PreventCommandIfReadOnly("tasker.create_tasks()");
    TaskArguments arguments = task_arguments(args);
    const std::span<Datum> contexts = args.array(2, "contexts", JSONBOID);
    const auto keys = args.optional_array(5, "identity_keys", TEXTOID);
    if (keys && keys->values.size() != contexts.size())
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "argument \"identity_keys\" must have as many elements as contexts")
            .detail("It has %zu, contexts has %zu.", keys->values.size(), contexts.size());
    auto *uuids = static_cast<core::Uuid *>(
        palloc_extended(sizeof(core::Uuid) * std::max<size_t>(contexts.size(), 1), MCXT_ALLOC_HUGE));
    for (size_t i = 0; i < contexts.size(); i++)
        uuids[i] = new_task_uuid();
    if (!keys) {
        write_tasks(arguments, contexts, uuids);
    } else {
        for (const size_t i : in_order_of_keys(*keys)) {
            arguments.identity_key = keys->nulls[i] ? 0 : keys->values[i];
            if (!keys->nulls[i]) {
                if (const auto holder = take_identity(arguments.definition->named_task_uuid,
                                                      text_of(keys->values[i]), uuids[i])) {
                    uuids[i] = *holder;
                    continue;
                }
            }
            write_tasks(arguments, contexts.subspan(i, 1), &uuids[i]);
        }
    }
    auto *result = static_cast<Datum *>(
        palloc_extended(sizeof(Datum) * std::max<size_t>(contexts.size(), 1), MCXT_ALLOC_HUGE));
    for (size_t i = 0; i < contexts.size(); i++)
        result[i] = PointerGetDatum(&uuids[i]);
    return PointerGetDatum(construct_array(result, static_cast<int>(contexts.size()), UUIDOID,
                                           sizeof(core::Uuid), false, TYPALIGN_CHAR));
}

} // namespace tasker::workflow
