#include "queue/lookup.hpp"

#include "partition/directory.hpp"
#include "pg/error.hpp"
#include "queue/seal.hpp"

namespace tasker::queue {
namespace {

[[noreturn]] void unknown_record(int64_t id)
{
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("record " INT64_FORMAT " does not exist", id),
            errhint("Its partition may have been retired: see the retention of its flow."));
    pg_unreachable();
}

// The partition that holds the id. Others may have made it since this transaction last had to wait for a
// lock.
Oid partition_of(Oid parent, int64_t id)
{
    const Oid known = partition::find_partition(parent, id);
    if (OidIsValid(known))
        return known;
    AcceptInvalidationMessages();
    return partition::find_partition(parent, id);
}

// One target in an open partition, until its change is written; false when it shall stay as it is.
bool change_one(Oid parent, Partition *partition, const Target &target, Decide decide, void *argument,
                Reach reach)
{
    for (;;) {
        PushActiveSnapshot(GetLatestSnapshot());
        IndexScanDesc scan = begin_id_scan(partition, GetActiveSnapshot());
        if (!find_id(partition, scan, target.id)) {
            if (reach != Reach::revived_if_there && reach != Reach::free)
                unknown_record(target.id);
            index_endscan(scan);
            PopActiveSnapshot();
            return false;
        }
        RecordHead head = head_of(partition->read_slot);
        Change change{};
        Outcome outcome = decide(head, target, change, argument);
        Effect &effect = effect_on_lane(parent, head.flow_id, head.priority, partition->relid);
        TM_Result result = TM_Ok;
        if (!outcome.unchanged)
            result = update_record(partition, change, GetCurrentCommandId(true), GetActiveSnapshot(),
                                   reach != Reach::free);
        ExecClearTuple(partition->read_slot);
        index_endscan(scan);
        PopActiveSnapshot();
        if (outcome.unchanged || (result != TM_Ok && reach == Reach::free))
            return false;
        if (result == TM_Ok) {
            note_change(effect, head, outcome);
            return true;
        }
        if (result == TM_SelfModified)
            ereport(ERROR, errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
                    errmsg("record " INT64_FORMAT " was already changed by the current command", target.id));
        CHECK_FOR_INTERRUPTS();
    }
}

// Null when the partition is gone or going, and that is no error.
Partition *open_partition_of(Oid parent, int64_t id, Reach reach)
{
    Oid relid = partition_of(parent, id);
    const bool live = reach == Reach::live || reach == Reach::free;
    const bool held = OidIsValid(relid) && (live || partition::try_hold_partition(relid));
    Partition *opened = held ? open_partition(relid) : nullptr;
    if (opened == nullptr && (reach == Reach::revived_if_there || reach == Reach::free))
        return nullptr;
    if (OidIsValid(relid) && !held)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("record " INT64_FORMAT " is being retired with its partition", id));
    if (opened == nullptr)
        unknown_record(id);
    if (!live)
        unseal(relid);
    return opened;
}

} // namespace

std::span<Target> sorted_targets(std::span<const Datum> ids)
{
    auto *targets = static_cast<Target *>(
        palloc_extended(sizeof(Target) * std::max<size_t>(ids.size(), 1), MCXT_ALLOC_HUGE));
    for (size_t i = 0; i < ids.size(); i++)
        targets[i] = {DatumGetInt64(ids[i]), static_cast<int32_t>(i)};
    std::span<Target> span{targets, ids.size()};
    std::sort(span.begin(), span.end(), [](const Target &a, const Target &b) { return a.id < b.id; });
    for (size_t i = 1; i < span.size(); i++) {
        if (span[i].id == span[i - 1].id)
            ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("record " INT64_FORMAT " is given more than once", span[i].id));
    }
    return span;
}

std::optional<RecordHead> read_head(Oid parent, int64_t id)
{
    Oid relid = partition_of(parent, id);
    Partition *partition = OidIsValid(relid) ? open_partition(relid, AccessShareLock) : nullptr;
    if (partition == nullptr)
        return std::nullopt;
    std::optional<RecordHead> head;
    PushActiveSnapshot(GetLatestSnapshot());
    IndexScanDesc scan = begin_id_scan(partition, GetActiveSnapshot());
    if (find_id(partition, scan, id))
        head = head_of(partition->read_slot);
    ExecClearTuple(partition->read_slot);
    index_endscan(scan);
    PopActiveSnapshot();
    close_partition(partition);
    return head;
}

void note_change(Effect &effect, const RecordHead &before, const Outcome &after)
{
    if (before.status == core::RecordStatus::pending)
        effect.took_pending(before.position);
    else
        effect.count(before.status, -1);

    if (after.status == core::RecordStatus::pending)
        effect.became_pending(after.position);
    else if (after.status == core::RecordStatus::processing)
        effect.became_processing(before.claimed_at, after.expires_at);
    else
        effect.count(after.status, 1);
}

int32_t change_records(Oid parent, std::span<const Target> targets, Decide decide, void *argument,
                       Reach reach)
{
    Partition *partition = nullptr;
    int32_t changed = 0;

    CommandCounterIncrement(); // what this very statement has added is seen
    for (const Target &target : targets) {
        Oid relid = partition_of(parent, target.id);
        if (partition != nullptr && partition->relid != relid) {
            close_partition(partition);
            partition = nullptr;
        }
        if (partition == nullptr)
            partition = open_partition_of(parent, target.id, reach);
        if (partition != nullptr && change_one(parent, partition, target, decide, argument, reach))
            changed++;
    }
    if (partition != nullptr)
        close_partition(partition);
    CommandCounterIncrement();
    return changed;
}

} // namespace tasker::queue
