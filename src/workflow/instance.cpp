#include "workflow/instance.hpp"

#include "partition/directory.hpp"
#include "partition/owned_set.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

int64_t key_of(const core::Uuid &uuid)
{
    return core::unix_ms_of(uuid) * 1000; // as the partition plane has it: microseconds
}

void end_scans(Instances &instances)
{
    for (const Growing<Instances::Opened> &tables : instances.opened) {
        for (const Instances::Opened &opened : tables)
            pg::end_key_scan(opened.table);
    }
}

Instances::Opened *opened_for(Instances &instances, Table table, int64_t key)
{
    for (Instances::Opened &opened : instances.opened[static_cast<int>(table)]) {
        if (opened.lower <= key && key < opened.upper)
            return &opened;
    }
    return nullptr;
}

// Opens the partition for the key; null when there is none.
pg::DirectTable *open_for(Instances &instances, Table table, int64_t key)
{
    for (const partition::DirectoryEntry &entry : partition::directory(parent_of(table))) {
        if (key < entry.lower || key >= entry.upper)
            continue;
        const partition::DirectoryEntry found = entry; // opening it may change the directory
        pg::DirectTable *opened = pg::open_direct(found.relid, instances.mode);
        if (opened == nullptr)
            return nullptr;
        instances.opened[static_cast<int>(table)].add({found.lower, found.upper, opened});
        return opened;
    }
    return nullptr;
}

pg::DirectTable *with_scan(pg::DirectTable *table)
{
    if (table->scan == nullptr)
        pg::begin_key_scan(table, GetActiveSnapshot());
    return table;
}

pg::DirectTable *find_row(Instances &instances, Table table, const core::Uuid &uuid)
{
    pg::DirectTable *opened = find_table(instances, table, uuid);
    if (opened == nullptr)
        return nullptr;
    with_scan(opened);
    return pg::find_by_key(opened, UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&uuid))) ? opened
                                                                                              : nullptr;
}

TimestampTz time_or_zero(TupleTableSlot *slot, int column)
{
    return slot->tts_isnull[column - 1] ? 0 : DatumGetTimestampTz(slot->tts_values[column - 1]);
}

int32_t i32(TupleTableSlot *slot, int column)
{
    return DatumGetInt32(slot->tts_values[column - 1]);
}

} // namespace

void begin_instances(Instances &instances, LOCKMODE mode)
{
    instances.mode = mode;
    instances.now = GetCurrentTimestamp();
    if (mode != AccessShareLock)
        CommandCounterIncrement(); // what this very statement has done before is seen
    PushActiveSnapshot(GetLatestSnapshot());
    instances.snapshots++;
}

void refresh_instances(Instances &instances)
{
    end_scans(instances);
    PopActiveSnapshot();
    if (instances.mode != AccessShareLock)
        CommandCounterIncrement();
    PushActiveSnapshot(GetLatestSnapshot());
    instances.snapshots++;
}

void end_instances(Instances &instances)
{
    for (Growing<Instances::Opened> &tables : instances.opened) {
        for (const Instances::Opened &opened : tables)
            pg::close_direct(opened.table);
        tables.clear();
    }
    PopActiveSnapshot();
    if (instances.mode != AccessShareLock)
        CommandCounterIncrement();
}

pg::DirectTable *find_table(Instances &instances, Table table, const core::Uuid &uuid)
{
    const int64_t key = key_of(uuid);
    if (Instances::Opened *opened = opened_for(instances, table, key))
        return opened->table;
    if (pg::DirectTable *opened = open_for(instances, table, key))
        return opened;
    // Others may have made the partition since this transaction last had to wait for a lock.
    AcceptInvalidationMessages();
    return open_for(instances, table, key);
}

pg::DirectTable *table_for_new(Instances &instances, Table table, const core::Uuid &uuid)
{
    for (;;) {
        if (pg::DirectTable *opened = find_table(instances, table, uuid))
            return opened;
        partition::ensure_partition(parent_of(table), key_of(uuid));
        CHECK_FOR_INTERRUPTS(); // it was dropped between the two
    }
}

pg::DirectTable *find_task(Instances &instances, const core::Uuid &uuid)
{
    return find_row(instances, Table::task, uuid);
}

pg::DirectTable *find_step(Instances &instances, const core::Uuid &uuid)
{
    return find_row(instances, Table::step, uuid);
}

TaskHead task_head(TupleTableSlot *slot)
{
    slot_getsomeattrs(slot, kTaskNextStepNumber);
    TaskHead head{};
    head.uuid = uuid_of(slot->tts_values[kTaskUuid - 1]);
    head.named_task_uuid = uuid_of(slot->tts_values[kTaskNamedTask - 1]);
    head.state_entered_at = time_or_zero(slot, kTaskStateEnteredAt);
    head.state = static_cast<core::TaskState>(DatumGetChar(slot->tts_values[kTaskCurrentState - 1]));
    head.priority = DatumGetInt16(slot->tts_values[kTaskPriority - 1]);
    head.total_steps = i32(slot, kTaskTotalSteps);
    head.counts = {i32(slot, kTaskActiveSteps), i32(slot, kTaskRetrySteps), i32(slot, kTaskFailedSteps)};
    head.last_transition = i32(slot, kTaskLastTransition);
    head.next_step_number = i32(slot, kTaskNextStepNumber);
    return head;
}

StepHead step_head(TupleTableSlot *slot)
{
    slot_getsomeattrs(slot, kStepBackoffRequestSeconds);
    StepHead head{};
    head.uuid = uuid_of(slot->tts_values[kStepUuid - 1]);
    head.named_step_uuid = uuid_of(slot->tts_values[kStepNamedStep - 1]);
    head.record_id = DatumGetInt64(slot->tts_values[kStepRecordId - 1]);
    head.state_entered_at = time_or_zero(slot, kStepStateEnteredAt);
    head.last_attempted_at = time_or_zero(slot, kStepLastAttemptedAt);
    head.last_failure_at = time_or_zero(slot, kStepLastFailureAt);
    head.next_retry_at = time_or_zero(slot, kStepNextRetryAt);
    head.state = static_cast<core::StepState>(DatumGetChar(slot->tts_values[kStepCurrentState - 1]));
    head.kind = static_cast<StepKind>(DatumGetChar(slot->tts_values[kStepType - 1]));
    head.retryable = DatumGetBool(slot->tts_values[kStepRetryable - 1]);
    head.priority = DatumGetInt16(slot->tts_values[kStepPriority - 1]);
    head.attempts = i32(slot, kStepAttempts);
    head.max_attempts = i32(slot, kStepMaxAttempts);
    head.total_parents = i32(slot, kStepTotalParents);
    head.remaining_parents = i32(slot, kStepRemainingParents);
    head.last_transition = i32(slot, kStepLastTransition);
    if (!slot->tts_isnull[kStepBackoffRequestSeconds - 1])
        head.backoff_request_seconds = i32(slot, kStepBackoffRequestSeconds);
    return head;
}

void unknown_task(const core::Uuid &uuid)
{
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("task %s does not exist", text_of(uuid)),
            errhint("Its partition may have been retired: see the retention of tasker.task."));
    pg_unreachable();
}

void unknown_step(const core::Uuid &uuid)
{
    if (core::step_number(uuid) == 0)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("workflow step %s does not exist", text_of(uuid)),
                errdetail("This is the uuid of a task."),
                errhint("The uuids of its steps are in tasker.workflow_steps."));
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("workflow step %s does not exist", text_of(uuid)),
            errhint("Its partition may have been retired: see the retention of tasker.task."));
    pg_unreachable();
}

bool write_change(Instances &instances, pg::DirectTable *table, const pg::RowValues &change)
{
    const TM_Result result = pg::update_found(table, change, GetActiveSnapshot());
    if (result == TM_Ok)
        return true;
    if (result != TM_Updated && result != TM_Deleted && result != TM_SelfModified)
        elog(ERROR, "unexpected result %d of an update of table \"%s\"", static_cast<int>(result),
             RelationGetRelationName(table->heap));
    CHECK_FOR_INTERRUPTS();
    refresh_instances(instances);
    return false;
}

} // namespace tasker::workflow
