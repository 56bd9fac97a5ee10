#include "workflow/retention.hpp"

#include "partition/bounds.hpp"
#include "partition/cutoff.hpp"
#include "partition/directory.hpp"
#include "partition/retire_checks.hpp"
#include "partition/retirement.hpp"
#include "core/workflow_states.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "queue/record_table.hpp"
#include "workflow/counts.hpp"
#include "workflow/ids.hpp"
#include "workflow/sets.hpp"

extern "C" {
#include "access/heapam.h"
#include "access/tableam.h"
}

namespace tasker::workflow {
namespace {

constexpr int32_t kForgottenAtOnce = 1000;

// Where in a partition an unfinished task was seen last: it is likely to be there still, and then nothing
// else is read. Of a few partitions; who comes last takes the place of who came first.
struct Seen
{
    Oid partition;
    BlockNumber block;
};
constexpr int kSeenCount = 64;
Seen seen[kSeenCount];
int next_seen = 0;

Seen *seen_in(Oid partition)
{
    for (Seen &place : seen) {
        if (place.partition == partition)
            return &place;
    }
    return nullptr;
}

void remember(Oid partition, BlockNumber block)
{
    Seen *place = seen_in(partition);
    if (place == nullptr) {
        place = &seen[next_seen];
        next_seen = (next_seen + 1) % kSeenCount;
    }
    *place = {partition, block};
}

struct Columns
{
    AttrNumber task_uuid;
    AttrNumber current_state;
};

// An unfinished task in the next blocks of a scan: its uuid, palloc'd, or null. Plain C inside: may ereport.
const char *next_unfinished(Relation relation, TableScanDesc scan, TupleTableSlot *slot,
                            const Columns &columns)
{
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        bool null = false;
        const auto state =
            static_cast<core::TaskState>(DatumGetChar(slot_getattr(slot, columns.current_state, &null)));
        if (core::is_terminal(state))
            continue;
        remember(RelationGetRelid(relation), ItemPointerGetBlockNumber(&slot->tts_tid));
        return text_of(uuid_of(slot_getattr(slot, columns.task_uuid, &null)));
    }
    return nullptr;
}

// An unfinished task in the table itself, which may be detached already. All of it is read when there is
// none: states stand in no index. Plain C inside: may ereport.
const char *find_unfinished(Oid partition)
{
    Relation relation = table_open(partition, AccessShareLock);
    const Columns columns{get_attnum(partition, "task_uuid"), get_attnum(partition, "current_state")};
    TupleTableSlot *slot = table_slot_create(relation, nullptr);
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    const char *found = nullptr;
    // Our own partitions are heaps (create.cpp); another access method has no blocks to begin with.
    const Seen *place = relation->rd_rel->relam == HEAP_TABLE_AM_OID ? seen_in(partition) : nullptr;
    if (place != nullptr && place->block < RelationGetNumberOfBlocks(relation)) {
        TableScanDesc scan = table_beginscan_strat(relation, snapshot, 0, nullptr, false, false);
        heap_setscanlimits(scan, place->block, 1);
        found = next_unfinished(relation, scan, slot, columns);
        table_endscan(scan);
    }
    if (found == nullptr) {
        TableScanDesc scan = table_beginscan_strat(relation, snapshot, 0, nullptr, true, false);
        found = next_unfinished(relation, scan, slot, columns);
        table_endscan(scan);
    }
    UnregisterSnapshot(snapshot);
    ExecDropSingleTupleTableSlot(slot);
    table_close(relation, AccessShareLock);
    return found;
}

// Every partition of the tasks that is not gone for good, ordered by bounds.
void add_task_partitions(pg::Vector<partition::DirectoryEntry> &list)
{
    const Oid parent = parent_of(Table::task);
    const partition::BoundList attached = pg::pg_call([&] {
        Relation relation = table_open(parent, AccessShareLock);
        const partition::BoundList bounds = partition::read_bounds(relation, true);
        table_close(relation, AccessShareLock);
        return bounds;
    });
    list.assign(attached.entries, attached.entries + attached.count);
    partition::add_detached_tables(parent, list);
    std::sort(list.begin(), list.end(), [](const auto &a, const auto &b) { return a.lower < b.lower; });
}

// Removes rows of tasks of that time, whose partition is gone.
int64_t forget_tasks_between(int64_t lower, int64_t upper)
{
    static pg::Statement forget_keys(
        "with gone as materialized (select named_task_uuid, identity_key from tasker.task_identity "
        "  where task_uuid >= $1 and task_uuid < $2 order by task_uuid limit $3 for update skip locked) "
        "delete from tasker.task_identity i using gone where i.named_task_uuid = gone.named_task_uuid and "
        "i.identity_key = gone.identity_key",
        {UUIDOID, UUIDOID, INT4OID});
    static pg::Statement forget_letters(
        "with gone as materialized (select dlq_entry_uuid from tasker.tasks_dlq "
        "  where task_uuid >= $1 and task_uuid < $2 order by task_uuid limit $3 for update skip locked) "
        "delete from tasker.tasks_dlq d using gone where d.dlq_entry_uuid = gone.dlq_entry_uuid",
        {UUIDOID, UUIDOID, INT4OID});
    const Datum from = pg::pg_call([&] { return datum_of(lowest_uuid_at(lower)); });
    const Datum to = pg::pg_call([&] { return datum_of(lowest_uuid_at(upper)); });
    pg::Spi spi;
    int64_t count = 0;
    for (pg::Statement *forget : {&forget_keys, &forget_letters})
        count += static_cast<int64_t>(
            spi.run_latest(*forget, {pg::Param::of_datum(from), pg::Param::of_datum(to), kForgottenAtOnce})
                .count());
    return count;
}

} // namespace

// The counts know what is committed; the last word, under an exclusive lock, has the table itself.
const char *refuse_retirement_of_tasks(Oid partition, int64_t lower, int64_t upper)
{
    if (!pg::pg_call([&] { return queue::holds_exclusively(partition); })) {
        const std::optional<int64_t> unfinished = unfinished_tasks(lower, upper);
        if (unfinished && *unfinished == 0)
            return nullptr;
    }
    return pg::pg_call([&]() -> const char * {
        const char *uuid = find_unfinished(partition);
        return uuid != nullptr ? psprintf("task %s is not finished", uuid) : nullptr;
    });
}

const char *refuse_retirement_of_steps(Oid, int64_t lower, int64_t upper)
{
    pg::ContextResource memory;
    pg::Vector<partition::DirectoryEntry> tasks(&memory);
    add_task_partitions(tasks);
    for (const partition::DirectoryEntry &entry : tasks) {
        if (entry.lower < upper && lower < entry.upper)
            return pg::pg_call([&] {
                const char *name = get_rel_name(entry.relid);
                return psprintf("the tasks of its time are still in \"%s\"", name != nullptr ? name : "?");
            });
    }
    return nullptr;
}

void hold_task(const core::Uuid &uuid)
{
    const Oid parent = parent_of(Table::task);
    const int64_t key = core::unix_ms_of(uuid) * core::kUsPerMs;
    const Oid partition = partition::find_partition(parent, key);
    const bool held = OidIsValid(partition) && partition::try_hold_partition(partition);
    // What the lock was waiting for is not told by taking it: a round may have retired the partition just
    // now.
    pg::pg_call([] { AcceptInvalidationMessages(); });
    const Oid now = partition::find_partition(parent, key);
    if (OidIsValid(now) && now == partition && held)
        return;
    const char *task = pg::pg_call([&] { return text_of(core::task_of(uuid)); });
    if (!OidIsValid(now))
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "task \"%s\" does not exist", task)
            .detail("There is no partition for tasks of its time: they may have been retired.");
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "task \"%s\" is being retired", task)
        .detail("The retention of tasks has passed for all tasks of its time, and all are finished.")
        .hint("Try again: when the tasks stay after all, it is there again in a moment.");
}

int64_t forget_retired_tasks()
{
    const std::optional<partition::SetConfig> config = partition::read_set(parent_of(Table::task));
    if (!config || partition::was_just_restored(*config))
        return 0;
    const std::optional<int64_t> cutoff = partition::retention_cutoff(*config);
    if (!cutoff)
        return 0;
    pg::ContextResource memory;
    pg::Vector<partition::DirectoryEntry> tasks(&memory);
    add_task_partitions(tasks);
    int64_t count = 0;
    int64_t lower = 0; // the least key that a uuid has
    for (const partition::DirectoryEntry &entry : tasks) {
        const int64_t upper = std::min(entry.lower, *cutoff);
        if (lower < upper)
            count += forget_tasks_between(lower, upper);
        if (count > 0)
            return count;
        lower = std::max(lower, entry.upper);
    }
    return lower < *cutoff ? forget_tasks_between(lower, *cutoff) : 0;
}

} // namespace tasker::workflow
