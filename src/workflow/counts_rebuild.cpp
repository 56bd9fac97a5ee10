// Counts from the tables: after a restart or a crash, and when nobody knows what a prepared transaction did.
//
// The count is exact although everybody goes on working. For one instant, under `apply` held exclusively,
// nobody applies changes; in it the build takes a snapshot and begins to track. A transaction that the
// snapshot sees is in the scan; one that it does not see is tracked in `since` when its changes are applied,
// whenever that is. In the end counts = scan + since.
//
// The snapshot is told not to see what this very transaction has done: that is tracked like everybody's.
#include "workflow/counts_rebuild.hpp"

#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "workflow/counts.hpp"
#include "workflow/counts_changes.hpp"
#include "workflow/sets.hpp"

namespace tasker::workflow {
namespace {

// Where the tables keep the state.
constexpr AttrNumber kTaskState = 5;
constexpr AttrNumber kStepState = 8;

// What was found in one partition.
struct Found
{
    PartitionCounts *entry;
    Oid partition;
    bool of_tasks;
    bool sealed;
    int64_t counts[kMostStates];
};

enum class Right
{
    build,
    nothing_to_do
};

// Waits for another backend's build, or takes the right to build. `again`: the counts are built and shall be
// anew.
Right take_right(CountedDatabase *database, bool again)
{
    CountState *state = count_state();
    ConditionVariablePrepareToSleep(&database->built);
    for (;;) {
        LWLockAcquire(&state->directory, LW_EXCLUSIVE);
        const bool busy = database->being_built;
        const bool built = database->build == CountBuild::built;
        if (!busy && (again || !built)) {
            own_count_build = database;
            if (!built)
                database->build = CountBuild::building;
            database->being_built = true;
            database->invalidated = false;
        }
        LWLockRelease(&state->directory);
        if (own_count_build == database || (!busy && built)) {
            ConditionVariableCancelSleep();
            return own_count_build == database ? Right::build : Right::nothing_to_do;
        }
        ConditionVariableSleep(&database->built, PG_WAIT_EXTENSION);
    }
}

// Those prepared before a restart have told nobody here what they have changed. Asked before the snapshot is
// taken: what ends in between is seen by it, or found out by resolve_prepared().
void note_unknown_prepared(CountedDatabase *database)
{
    static pg::Statement list("select transaction::text::bigint from pg_catalog.pg_prepared_xacts "
                              "where database = pg_catalog.current_database()",
                              {});
    pg::Spi spi;
    pg::Rows rows = spi.run(list);
    for (uint64 i = 0; i < rows.count(); i++) {
        PreparedChanges unknown{};
        unknown.database = MyDatabaseId;
        unknown.xid = static_cast<TransactionId>(rows.i64(i, 1));
        unknown.unknown = true;
        pg::pg_call([&] {
            LWLockAcquire(&count_state()->directory, LW_SHARED);
            const bool kept = keeps_prepared(unknown.xid);
            LWLockRelease(&count_state()->directory);
            if (!kept)
                keep_prepared(database, unknown);
        });
    }
}

// The instant: a snapshot, and tracking from exactly there on.
Snapshot begin_tracking(CountedDatabase *database)
{
    LWLockAcquire(&count_state()->directory, LW_SHARED);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    snapshot->curcid = FirstCommandId;
    database->snapshot.publish(snapshot);
    for_each_counts([](PartitionCounts *entry) { memset(entry->since, 0, sizeof entry->since); });
    database->rebuilding = true;
    LWLockRelease(&database->apply);
    LWLockRelease(&count_state()->directory);
    return snapshot;
}

// The partitions of a table, locked so that none is dropped meanwhile. False when there is no room for one.
bool list_partitions(CountedDatabase *database, bool of_tasks, pg::Vector<Found> &partitions)
{
    const Oid parent = parent_of(of_tasks ? Table::task : Table::step);
    List *children = pg::pg_call([&] { return find_inheritance_children(parent, AccessShareLock); });
    ListCell *cell = nullptr;
    foreach (cell, children) {
        const Oid partition = lfirst_oid(cell);
        PartitionCounts *entry = pg::pg_call([&] { return acquire_counts(database, partition); });
        if (entry == nullptr)
            return false;
        partitions.push_back(Found{entry, partition, of_tasks, false, {}});
    }
    return true;
}

Found *find(pg::Vector<Found> &partitions, Oid partition)
{
    for (Found &found : partitions) {
        if (found.partition == partition)
            return &found;
    }
    return nullptr;
}

int index_of(const Found &found, char state)
{
    return found.of_tasks ? core::state_index(static_cast<core::TaskState>(state))
                          : core::state_index(static_cast<core::StepState>(state));
}

// The counts of sealed partitions, which are not read.
void read_seals(pg::Vector<Found> &partitions, Snapshot snapshot)
{
    static pg::Statement seals(
        "select partition, state::text, row_count from tasker.sealed_workflow_partition", {});
    pg::Spi spi;
    pg::Rows rows = spi.read_under(seals, snapshot);
    for (uint64 i = 0; i < rows.count(); i++) {
        Found *found = find(partitions, rows.oid(i, 1));
        if (found == nullptr)
            continue;
        found->sealed = true;
        const int index = index_of(*found, rows.text(i, 2)[0]);
        if (index >= 0) // the mark is no state
            found->counts[index] = rows.i64(i, 3);
    }
}

// Counts one partition by reading it.
void count_partition(Found &found, Snapshot snapshot)
{
    const AttrNumber column = found.of_tasks ? kTaskState : kStepState;
    int64_t by_character[256] = {};
    Relation heap = table_open(found.partition, AccessShareLock);
    TupleTableSlot *slot = table_slot_create(heap, nullptr);
    TableScanDesc scan = table_beginscan(heap, snapshot, 0, nullptr);
    while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        bool null = false;
        by_character[static_cast<uint8_t>(DatumGetChar(slot_getattr(slot, column, &null)))]++;
    }
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    table_close(heap, NoLock);
    for (int c = 0; c < 256; c++) {
        const int index = index_of(found, static_cast<char>(c));
        if (index >= 0)
            found.counts[index] += by_character[c];
    }
}

void finish(CountedDatabase *database, const pg::Vector<Found> &partitions)
{
    CountState *state = count_state();
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    resolve_prepared(database); // before `since` is taken: the snapshot may have seen one that has ended
    for_each_counts(
        [](PartitionCounts *entry) { memcpy(entry->counts, entry->since, sizeof entry->counts); });
    for (const Found &found : partitions) {
        for (int s = 0; s < kMostStates; s++)
            found.entry->counts[s] += found.counts[s];
        if (found.sealed)
            found.entry->sealed = true;
    }
    database->rebuilding = false;
    database->being_built = false;
    database->build = database->invalidated ? CountBuild::unbuilt : CountBuild::built;
    LWLockRelease(&database->apply);
    LWLockRelease(&state->directory);
    own_count_build = nullptr;
    ConditionVariableBroadcast(&database->built);
}

// Runs the build whose right this backend has taken; the abort callback takes it back when this fails.
void run_build(CountedDatabase *database)
{
    pg::ContextResource memory;
    pg::Vector<Found> partitions{&memory};

    if (database->build != CountBuild::built)
        note_unknown_prepared(database);
    Snapshot snapshot = pg::pg_call([&] { return begin_tracking(database); });
    const bool room =
        list_partitions(database, true, partitions) && list_partitions(database, false, partitions);
    if (room) {
        read_seals(partitions, snapshot);
        for (Found &found : partitions) {
            if (!found.sealed)
                pg::pg_call([&] { count_partition(found, snapshot); });
        }
    }
    pg::pg_call([&] {
        UnregisterSnapshot(snapshot);
        finish(database, partitions);
    });
}

bool prepared_transactions_left()
{
    static pg::Statement left("select exists (select from pg_catalog.pg_prepared_xacts "
                              "where database = pg_catalog.current_database())",
                              {});
    pg::Spi spi;
    return spi.run(left).boolean(0, 1);
}

// Takes in how prepared transactions have ended; true when that takes another count.
bool needs_recount(CountedDatabase *database)
{
    CountState *state = count_state();
    if (database->prepared > 0) {
        LWLockAcquire(&state->directory, LW_EXCLUSIVE);
        LWLockAcquire(&database->apply, LW_EXCLUSIVE);
        resolve_prepared(database);
        LWLockRelease(&database->apply);
        LWLockRelease(&state->directory);
    }
    if (database->lost) {
        // In this order: one that is prepared from here on sets it again itself.
        database->lost = false;
        if (prepared_transactions_left())
            database->lost = true;
        return true;
    }
    return database->recount;
}

// Counts anew in a database that is built.
void build_again(CountedDatabase *database)
{
    if (pg::pg_call([&] { return take_right(database, true); }) != Right::build)
        return;
    database->recount = false; // first: what ends from here on sets it again
    run_build(database);
}

} // namespace

CountedDatabase *built_counts()
{
    CountedDatabase *database = pg::pg_call([] { return counted_database(); });
    if (database == nullptr)
        return nullptr;
    register_count_callbacks();
    while (database->build != CountBuild::built) {
        if (pg::pg_call([&] { return take_right(database, false); }) == Right::build)
            run_build(database);
        if (database->overflow)
            return nullptr;
    }
    if (needs_recount(database) && pg::pg_call([&] { return take_right(database, true); }) == Right::build) {
        database->recount = false; // first: what ends from here on sets it again
        run_build(database);
    }
    return database->overflow ? nullptr : database;
}

void prepare_counts()
{
    (void)built_counts();
}

TASKER_FUNCTION(rebuild_workflow_counts)
{
    PreventCommandIfReadOnly("tasker.rebuild_workflow_counts()");
    if (CountedDatabase *database = built_counts(); database != nullptr)
        build_again(database);
    return 0;
}

} // namespace tasker::workflow
