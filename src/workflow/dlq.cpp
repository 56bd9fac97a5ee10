// The book of investigations: entries are made with a snapshot of the task, assigned, resolved, and expire.
#include "workflow/dlq.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "workflow/control.hpp"
#include "workflow/read.hpp"
#include "workflow/template.hpp"

extern "C" {
#include "utils/json.h"
}

namespace tasker::workflow {
namespace {

constexpr std::string_view kReasons[] = {"staleness_timeout", "max_retries_exceeded",
                                         "dependency_cycle_detected", "worker_unavailable", "manual_dlq"};
constexpr std::string_view kResolutions[] = {"manually_resolved", "permanently_failed", "cancelled"};

// What is known of the task by who makes the entry; the rest is taken from the task.
struct EntryRequest
{
    core::Uuid task;
    std::optional<std::string_view> namespace_name;
    std::optional<std::string_view> task_name;
    std::optional<std::string_view> state;
    std::optional<int32_t> minutes_in_state;
    std::optional<int32_t> threshold_minutes;
    std::string_view reason;
    std::string_view method;
};

// Makes the entry and returns its uuid; nothing when the task has a pending one, or does not exist.
std::optional<core::Uuid> insert_entry(const EntryRequest &request)
{
    static pg::Statement insert(
        "insert into tasker.tasks_dlq (dlq_entry_uuid, task_uuid, original_state, dlq_reason, dlq_timestamp, "
        "task_snapshot, metadata, created_at, updated_at) "
        "select $1, t.task_uuid, f.state, $8, f.at, jsonb_build_object('task_uuid', t.task_uuid, "
        "'namespace', coalesce($3, t.namespace_name), 'task_name', coalesce($4, t.task_name), "
        "'version', t.version, 'current_state', f.state, 'time_in_state_minutes', f.minutes, "
        "'threshold_minutes', $7, 'snapshot_timestamp', f.at, 'task_details', jsonb_build_object("
        "'correlation_id', t.correlation_id, 'parent_correlation_id', t.parent_correlation_id, "
        "'priority', t.priority, 'requested_at', t.requested_at, 'created_at', t.created_at, "
        "'initiator', t.initiator, 'source_system', t.source_system, 'reason', t.reason, 'tags', t.tags), "
        "'execution_context', (select to_jsonb(c) - 'task_uuid' - 'named_task_uuid' "
        "from tasker.get_task_execution_context(t.task_uuid) c), "
        "'steps', (select jsonb_agg(to_jsonb(s)) from (select w.workflow_step_uuid, w.name, w.current_state, "
        "w.state_entered_at, w.attempts, w.max_attempts, w.last_attempted_at, w.last_failure_at, "
        "w.next_retry_at, w.total_parents, w.completed_parents, w.processor, w.error "
        "from tasker.get_workflow_steps($2) w where not w.processed limit 100) s), "
        "'transitions', (select jsonb_agg(to_jsonb(l) order by l.sort_key) from (select x.sort_key, "
        "x.from_state, x.to_state, x.created_at, x.processor from tasker.task_transitions x "
        "where x.task_uuid = $2 order by x.sort_key desc limit 50) l)), "
        "jsonb_build_object('detection_method', $9, 'time_in_state_minutes', f.minutes, "
        "'threshold_minutes', $7), f.at, f.at "
        "from tasker.tasks t cross join lateral (select clock_timestamp() as at, "
        "coalesce($5, t.current_state) as state, coalesce($6, floor(extract(epoch from "
        "clock_timestamp() - t.state_entered_at) / 60)::integer) as minutes) f where t.task_uuid = $2 "
        "on conflict (task_uuid) where resolution_status = 'pending' do nothing",
        {UUIDOID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, INT4OID, TEXTOID, TEXTOID});
    const core::Uuid entry = new_task_uuid();
    pg::Spi spi;
    pg::Rows rows =
        spi.run(insert, {pg::Param::of_datum(key_datum(entry)), pg::Param::of_datum(key_datum(request.task)),
                         request.namespace_name, request.task_name, request.state, request.minutes_in_state,
                         request.threshold_minutes, request.reason, request.method});
    return rows.count() > 0 ? std::optional(entry) : std::nullopt;
}

bool is_one_of(std::string_view word, std::span<const std::string_view> words)
{
    return std::find(words.begin(), words.end(), word) != words.end();
}

void check_task_exists(const core::Uuid &uuid)
{
    pg::pg_call([&] {
        Instances instances;
        begin_reading(instances);
        if (find_task(instances, uuid) == nullptr)
            unknown_task(uuid);
        end_instances(instances);
    });
}

// What to say when an entry could not be changed.
[[noreturn]] void reject_entry(pg::Spi &spi, const core::Uuid &entry)
{
    static pg::Statement look(
        "select resolution_status, resolved_by from tasker.tasks_dlq where dlq_entry_uuid = $1", {UUIDOID});
    pg::Rows rows = spi.run(look, {pg::Param::of_datum(key_datum(entry))});
    const char *uuid = pg::pg_call([&] { return text_of(entry); });
    if (rows.empty())
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "entry %s of the dead letter queue does not exist", uuid)
            .hint("Resolved entries expire: see expire_dlq_entries().");
    const std::string_view status = rows.text(0, 1);
    const std::string_view who = rows.is_null(0, 2) ? std::string_view("somebody") : rows.text(0, 2);
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "entry %s of the dead letter queue is resolved already", uuid)
        .detail("It is %.*s by %.*s.", static_cast<int>(status.size()), status.data(),
                static_cast<int>(who.size()), who.data())
        .hint("Make a new entry with create_dlq_entry().");
}

// Waits for who is at work on the task: from here on none of its steps moves. In the order of their numbers,
// as everybody locks them.
void lock_unfinished_steps(const core::Uuid &task)
{
    static pg::Statement lock(
        "select from tasker.workflow_step where workflow_step_uuid > $1 "
        "and workflow_step_uuid <= tasker.last_step_of($1) and current_state not in ('c', 'e', 'x', 'm') "
        "order by workflow_step_uuid for no key update",
        {UUIDOID});
    pg::Spi spi;
    (void)spi.run(lock, {pg::Param::of_datum(key_datum(task))});
}

// Is the task where it was when it was found to be stale?
bool is_still(const StaleTask &task)
{
    Instances instances;
    begin_instances(instances, AccessShareLock);
    bool still = false;
    if (pg::DirectTable *table = find_task(instances, task.uuid)) {
        const TaskHead head = task_head(table->read_slot);
        still = head.state == task.state && last_progress(instances, head) == task.since;
    }
    end_instances(instances);
    return still;
}

// Moves the task to error with all its steps that are not finished, unless it has gone on meanwhile.
void move_to_error(const StaleTask &task, TimestampTz now)
{
    const Template &definition = template_with_id(task.named_task_uuid);
    StringInfoData json;
    initStringInfo(&json);
    appendStringInfoString(&json, "{\"reason\": \"staleness_timeout\", \"namespace\": ");
    escape_json(&json, definition.namespace_name);
    appendStringInfoString(&json, ", \"task_name\": ");
    escape_json(&json, definition.name);
    appendStringInfo(&json, ", \"threshold_minutes\": %d, \"detected_at\": ", task.threshold_minutes);
    escape_json(&json, timestamptz_to_str(now));
    appendStringInfoChar(&json, '}');
    MoveNote note;
    note.metadata = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));

    if (is_still(task) && transition_task(task.uuid, task.state, core::TaskState::error, note))
        return;
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("task %s is not stale any more", text_of(task.uuid)),
            errdetail("It has changed its state since it was looked at."));
}

} // namespace

// The entry comes first: its snapshot is to show the task as it was, and who waits for another's entry must
// not hold steps.
std::optional<pg::CaughtError> try_give_up(const StaleTask &task, TimestampTz now, bool &entered)
{
    return pg::try_in_subtransaction([&] {
        EntryRequest request{};
        request.task = task.uuid;
        request.minutes_in_state =
            static_cast<int32_t>(std::min<int64_t>((now - task.since) / USECS_PER_MINUTE, PG_INT32_MAX));
        request.threshold_minutes = task.threshold_minutes;
        request.reason = kReasons[0];
        request.method = "automatic_staleness";
        entered = insert_entry(request).has_value();
        lock_unfinished_steps(task.uuid);
        pg::pg_call([&] { move_to_error(task, now); });
    });
}

TASKER_FUNCTION(create_dlq_entry)
{
    EntryRequest request{};
    request.task = uuid_argument(args, 0, "p_task_uuid");
    request.namespace_name = args.optional_text(1);
    request.task_name = args.optional_text(2);
    request.state = args.optional_text(3);
    request.minutes_in_state = args.optional_i32(4);
    request.threshold_minutes = args.optional_i32(5);
    request.reason = args.text(6, "p_dlq_reason");
    request.method = "manual";
    if (!is_one_of(request.reason, kReasons))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown reason \"%.*s\" for a dead letter",
                        static_cast<int>(request.reason.size()), request.reason.data())
            .hint("Reasons are staleness_timeout, max_retries_exceeded, dependency_cycle_detected, "
                  "worker_unavailable and manual_dlq.");
    check_task_exists(request.task);
    const std::optional<core::Uuid> entry = insert_entry(request);
    return entry ? pg::pg_call([&] { return datum_of(*entry); }) : args.null();
}

TASKER_FUNCTION(assign_dlq_entry)
{
    static pg::Statement assign(
        "update tasker.tasks_dlq set assigned_to = $2, "
        "assigned_at = case when $2 is not null then clock_timestamp() end, updated_at = clock_timestamp(), "
        "resolution_notes = nullif(concat_ws(e'\\n', resolution_notes, $3), '') "
        "where dlq_entry_uuid = $1 and resolution_status = 'pending'",
        {UUIDOID, TEXTOID, TEXTOID});
    const core::Uuid entry = uuid_argument(args, 0, "p_dlq_entry_uuid");
    pg::Spi spi;
    if (spi.run(assign, {pg::Param::of_datum(key_datum(entry)), args.optional_name(1, "p_assigned_to"),
                         args.optional_text(2)})
            .count() == 0)
        reject_entry(spi, entry);
    return args.result(true);
}

TASKER_FUNCTION(resolve_dlq_entry)
{
    static pg::Statement resolve(
        "update tasker.tasks_dlq set resolution_status = $2, resolution_timestamp = clock_timestamp(), "
        "resolved_by = $3, resolution_notes = nullif(concat_ws(e'\\n', resolution_notes, $4), ''), "
        "updated_at = clock_timestamp() where dlq_entry_uuid = $1 and resolution_status = 'pending'",
        {UUIDOID, TEXTOID, TEXTOID, TEXTOID});
    const core::Uuid entry = uuid_argument(args, 0, "p_dlq_entry_uuid");
    const std::string_view status = args.text(1, "p_resolution_status");
    if (!is_one_of(status, kResolutions))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "a dead letter cannot be resolved as \"%.*s\"",
                        static_cast<int>(status.size()), status.data())
            .hint("It is resolved as manually_resolved, permanently_failed or cancelled.");
    pg::Spi spi;
    if (spi.run(resolve, {pg::Param::of_datum(key_datum(entry)), status,
                          args.optional_name(2, "p_resolved_by"), args.optional_text(3)})
            .count() == 0)
        reject_entry(spi, entry);
    return args.result(true);
}

namespace {

// Rows that somebody else is removing are left to him.
int64_t expire(int64_t older_than_us, int32_t batch)
{
    static pg::Statement remove(
        "delete from tasker.tasks_dlq where dlq_entry_uuid = any(array(select dlq_entry_uuid "
        "from tasker.tasks_dlq where resolution_status <> 'pending' and resolution_timestamp < $1 "
        "order by resolution_timestamp limit $2 for update skip locked))",
        {TIMESTAMPTZOID, INT4OID});
    const TimestampTz now = GetCurrentTimestamp();
    const TimestampTz before = now < DT_NOBEGIN + 1 + older_than_us ? DT_NOBEGIN : now - older_than_us;
    pg::Spi spi;
    return static_cast<int64_t>(spi.run(remove, {pg::Timestamp{before}, batch}).count());
}

} // namespace

TASKER_FUNCTION(expire_dlq_entries)
{
    const int64_t older_than_us = args.duration_us(0, "p_older_than");
    const int32_t batch = args.i32(1, "p_batch_size");
    if (batch <= 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"p_batch_size\" must be positive");
    return args.result(expire(older_than_us, batch));
}

int64_t expire_dlq_entries()
{
    constexpr int64_t kDays = 90;
    constexpr int32_t kBatch = 1000;
    return expire(kDays * USECS_PER_DAY, kBatch);
}

} // namespace tasker::workflow
