// Reading the counts of states, and the triggers that count what statements write.
#include "partition/directory.hpp"
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "workflow/counts.hpp"
#include "workflow/counts_changes.hpp"
#include "workflow/counts_rebuild.hpp"
#include "workflow/counts_seal.hpp"
#include "workflow/sets.hpp"

namespace tasker::workflow {
namespace {

constexpr AttrNumber kTaskState = 5;
constexpr AttrNumber kStepState = 8;

struct Totals
{
    int64_t tasks[kMostStates] = {};
    int64_t steps[kMostStates] = {};
};

using Oids = pg::Vector<Oid>;

void list_partitions(Table table, Oids &oids)
{
    for (const partition::DirectoryEntry &entry : partition::directory(parent_of(table)))
        oids.push_back(entry.relid);
}

// Only partitions that are attached count: those of the database's entries that were dropped or detached may
// not be forgotten yet.
void add_up(const Oids &partitions, int64_t (&totals)[kMostStates])
{
    for (Oid partition : partitions) {
        if (const PartitionCounts *entry = find_counts(partition); entry != nullptr) {
            for (int s = 0; s < kMostStates; s++)
                totals[s] += entry->counts[s];
        }
        add_own_changes(partition, totals);
    }
}

void totals_from_memory(CountedDatabase *database, Totals &totals)
{
    pg::ContextResource memory;
    Oids tasks{&memory};
    Oids steps{&memory};
    list_partitions(Table::task, tasks);
    list_partitions(Table::step, steps);
    pg::LockScope directory(&count_state()->directory, LW_SHARED);
    pg::LockScope apply(&database->apply, LW_SHARED); // each transaction counts as a whole or not at all
    add_up(tasks, totals.tasks);
    add_up(steps, totals.steps);
}

// Without shared memory.
void totals_from_tables(Totals &totals)
{
    static pg::Statement count(
        "select true, current_state::text, count(*) from tasker.task group by 2 "
        "union all "
        "select false, current_state::text, count(*) from tasker.workflow_step group by 2",
        {});
    pg::Spi spi;
    pg::Rows rows = spi.read_latest(count);
    for (uint64 i = 0; i < rows.count(); i++) {
        const bool tasks = rows.boolean(i, 1);
        const char state = rows.text(i, 2)[0];
        const int index = tasks ? core::state_index(static_cast<core::TaskState>(state))
                                : core::state_index(static_cast<core::StepState>(state));
        if (index >= 0)
            (tasks ? totals.tasks : totals.steps)[index] += rows.i64(i, 3);
    }
}

TriggerData *trigger_data(FunctionCallInfo fcinfo, const char *function)
{
    if (!CALLED_AS_TRIGGER(fcinfo))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function %s can only be called as a trigger", function);
    return reinterpret_cast<TriggerData *>(fcinfo->context);
}

// Index of the state of a row of either table.
int state_in(TupleTableSlot *slot, bool of_tasks)
{
    bool null = false;
    const char state = DatumGetChar(slot_getattr(slot, of_tasks ? kTaskState : kStepState, &null));
    return of_tasks ? core::state_index(static_cast<core::TaskState>(state))
                    : core::state_index(static_cast<core::StepState>(state));
}

// Accounts for one row that a statement has written.
void account(TriggerData *trigger, bool of_tasks)
{
    const Oid partition = RelationGetRelid(trigger->tg_relation);
    int from = kNoState;
    int to = kNoState;
    // tg_trigslot holds OLD and tg_newslot NEW for an update; an insert or delete has its row in tg_trigslot.
    if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
        to = state_in(trigger->tg_newslot, of_tasks);
    if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
        to = state_in(trigger->tg_trigslot, of_tasks);
    else
        from = state_in(trigger->tg_trigslot, of_tasks);
    if (from != to)
        note_in_partition(partition, from, to);
}

} // namespace

std::optional<int64_t> unfinished_tasks(int64_t lower, int64_t upper)
{
    CountedDatabase *database = built_counts();
    if (database == nullptr)
        return std::nullopt;
    pg::ContextResource memory;
    Oids partitions{&memory};
    for (const partition::DirectoryEntry &entry : partition::directory(parent_of(Table::task))) {
        if (entry.lower < upper && entry.upper > lower)
            partitions.push_back(entry.relid);
    }
    Totals totals;
    {
        pg::LockScope directory(&count_state()->directory, LW_SHARED);
        pg::LockScope apply(&database->apply, LW_SHARED);
        add_up(partitions, totals.tasks);
    }
    int64_t unfinished = 0;
    for (int s = 0; s < core::kTaskStateCount; s++)
        unfinished += core::is_terminal(core::state_at<core::TaskState>(s)) ? 0 : totals.tasks[s];
    return unfinished;
}

void forget_counts(Oid partition)
{
    CountedDatabase *database = counted_database();
    if (database == nullptr)
        return;
    LWLockAcquire(&count_state()->directory, LW_EXCLUSIVE);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    resolve_prepared(database); // none that has changed the partition is still open
    remove_counts(partition);
    LWLockRelease(&database->apply);
    LWLockRelease(&count_state()->directory);
}

TASKER_FUNCTION(get_system_health_counts)
{
    pg::ResultSet result(args.call());
    Totals totals;
    if (CountedDatabase *database = built_counts(); database != nullptr)
        totals_from_memory(database, totals);
    else
        totals_from_tables(totals);

    Datum values[core::kTaskStateCount + core::kStepStateCount + 2];
    bool nulls[core::kTaskStateCount + core::kStepStateCount + 2] = {};
    int column = 0;
    const auto add = [&](const int64_t(&counts)[kMostStates], int states) {
        int64_t total = 0;
        for (int s = 0; s < states; s++) {
            values[column++] = Int64GetDatum(counts[s]);
            total += counts[s];
        }
        values[column++] = Int64GetDatum(total);
    };
    add(totals.tasks, core::kTaskStateCount);
    add(totals.steps, core::kStepStateCount);
    result.add(values, nulls);
    return 0;
}

TASKER_FUNCTION(account_task_change)
{
    account(trigger_data(args.call(), "account_task_change"), true);
    return PointerGetDatum(nullptr);
}

TASKER_FUNCTION(account_step_change)
{
    account(trigger_data(args.call(), "account_step_change"), false);
    return PointerGetDatum(nullptr);
}

TASKER_FUNCTION(account_state_truncate)
{
    trigger_data(args.call(), "account_state_truncate");
    note_truncation();
    unseal_all_counts();
    return PointerGetDatum(nullptr);
}

} // namespace tasker::workflow
