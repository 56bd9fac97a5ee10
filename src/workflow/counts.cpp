// Noting changes of states, and applying them when the transaction ends.
//
//    COMMIT              counts change. The callback runs when new snapshots already see the commit, and
//    before
//                        the client hears of it.
//    ABORT, ROLLBACK TO  all is forgotten.
//    PREPARE             what was noted is kept aside with the transaction's id.
//    crash               shared memory is gone, and rebuilt from the tables.
//
// Nothing in the callbacks allocates or raises an error.
#include "workflow/counts.hpp"

#include "partition/control.hpp"
#include "partition/directory.hpp"
#include "pg/function.hpp"
#include "workflow/counts_changes.hpp"
#include "workflow/counts_seal.hpp"
#include "workflow/sets.hpp"

namespace tasker::workflow {

CountedDatabase *own_count_build = nullptr;

namespace {

// The changes of one subtransaction in one partition.
struct Change
{
    PartitionCounts *entry; // null where nobody keeps counts
    Oid partition;
    SubTransactionId subtransaction;
    bool of_tasks;
    bool unseals;         // it has removed a seal of the partition
    int64_t lower, upper; // milliseconds of the uuids that belong to the partition; upper is exclusive
    int64_t by[kMostStates];
};

constexpr int kKeptCapacity = 256;
constexpr int kNone = -1;

Change *changes = nullptr; // in TopMemoryContext
int change_count = 0;
int change_capacity = 0;
int last_of_tasks = kNone; // index of the one that was used last
int last_of_steps = kNone;
bool invalidates = false; // at commit the counts become unbuilt
bool callbacks_registered = false;

// Index by character; what is no state of ours has none.
template <class State> constexpr auto make_indexes()
{
    std::array<int8_t, 256> indexes{};
    for (int c = 0; c < 256; c++)
        indexes[static_cast<size_t>(c)] = static_cast<int8_t>(core::state_index(static_cast<State>(c)));
    return indexes;
}
constexpr auto kTaskIndexes = make_indexes<core::TaskState>();
constexpr auto kStepIndexes = make_indexes<core::StepState>();

int index_of(core::TaskState state)
{
    return kTaskIndexes[static_cast<uint8_t>(state)];
}

int index_of(core::StepState state)
{
    return kStepIndexes[static_cast<uint8_t>(state)];
}

void forget_all()
{
    change_count = 0;
    last_of_tasks = kNone;
    last_of_steps = kNone;
    invalidates = false;
    if (change_capacity > kKeptCapacity) {
        pfree(changes);
        changes = nullptr;
        change_capacity = 0;
    }
}

void invalidate(CountedDatabase *database)
{
    LWLockAcquire(&count_state()->directory, LW_EXCLUSIVE);
    if (database->build == CountBuild::built)
        database->build = CountBuild::unbuilt;
    database->invalidated = true; // a build under way may count what is gone
    LWLockRelease(&count_state()->directory);
}

void apply(const Change &change, bool track)
{
    for (int s = 0; change.entry != nullptr && s < kMostStates; s++) {
        change.entry->counts[s] += change.by[s];
        if (track)
            change.entry->since[s] += change.by[s];
    }
    if (change.entry != nullptr && change.unseals)
        change.entry->sealed = false;
}

void commit_all()
{
    CountedDatabase *database = known_database();
    if (database != nullptr) {
        const TransactionId xid = GetTopTransactionIdIfAny();
        LWLockAcquire(&database->apply, LW_EXCLUSIVE);
        const bool track = database->rebuilding && !database->snapshot.sees(xid);
        for (int i = 0; i < change_count; i++)
            apply(changes[i], track);
        LWLockRelease(&database->apply);
        if (invalidates)
            invalidate(database);
    }
    forget_all();
}

// Adds one transaction's changes to those that are kept aside; false when there is no room.
bool gather(PreparedChanges &kept, const Change &change)
{
    int at = 0;
    while (at < kept.count && kept.entries[at] != change.entry)
        at++;
    if (at == PreparedChanges::kMost)
        return false;
    if (at == kept.count)
        kept.entries[kept.count++] = change.entry;
    for (int s = 0; s < kMostStates; s++)
        kept.changes[at][s] += change.by[s];
    return true;
}

void prepare_all()
{
    static PreparedChanges kept; // large for a stack, and nothing may be allocated here
    if (CountedDatabase *database = known_database(); database != nullptr) {
        kept = PreparedChanges{};
        kept.database = MyDatabaseId;
        kept.xid = GetTopTransactionIdIfAny();
        kept.unknown = invalidates;
        for (int i = 0; i < change_count && !kept.unknown; i++)
            kept.unknown = changes[i].entry != nullptr && !gather(kept, changes[i]);
        if (kept.unknown)
            kept.count = 0;
        keep_prepared(database, kept);
    }
    forget_all();
}

void abandon_build()
{
    CountedDatabase *database = std::exchange(own_count_build, nullptr);
    LWLockAcquire(&count_state()->directory, LW_EXCLUSIVE);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    database->rebuilding = false;
    database->being_built = false;
    database->build = CountBuild::unbuilt;
    LWLockRelease(&database->apply);
    LWLockRelease(&count_state()->directory);
    ConditionVariableBroadcast(&database->built);
}

void on_transaction_end(XactEvent event, void *)
{
    switch (event) {
    case XACT_EVENT_COMMIT:
        if (change_count > 0 || invalidates)
            commit_all();
        break;
    case XACT_EVENT_ABORT:
        if (own_count_build != nullptr)
            abandon_build();
        forget_all();
        break;
    case XACT_EVENT_PREPARE:
        if (change_count > 0 || invalidates)
            prepare_all();
        break;
    default:
        break;
    }
}

// The parent's change of the same partition takes the one at `i` in, or it becomes the parent's; false when
// it was taken in.
bool give_to_parent(int i, int before, SubTransactionId parent)
{
    Change &mine = changes[i];
    mine.subtransaction = parent;
    for (int j = 0; j < before; j++) {
        Change &other = changes[j];
        if (other.subtransaction != parent || other.partition != mine.partition)
            continue;
        for (int s = 0; s < kMostStates; s++)
            other.by[s] += mine.by[s];
        other.unseals = other.unseals || mine.unseals;
        return false;
    }
    return true;
}

void on_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *)
{
    if (event == SUBXACT_EVENT_ABORT_SUB && own_count_build != nullptr)
        abandon_build();
    if (change_count == 0 || (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
        return;
    int kept = 0;
    for (int i = 0; i < change_count; i++) {
        const bool ends = changes[i].subtransaction == mine;
        if (ends && (event == SUBXACT_EVENT_ABORT_SUB || !give_to_parent(i, kept, parent)))
            continue;
        changes[kept++] = changes[i];
    }
    change_count = kept;
    last_of_tasks = kNone;
    last_of_steps = kNone;
}

void make_room()
{
    register_count_callbacks();
    if (change_count < change_capacity)
        return;
    const int capacity = std::max(16, change_capacity * 2);
    const Size bytes = sizeof(Change) * static_cast<Size>(capacity);
    changes = static_cast<Change *>(changes == nullptr ? MemoryContextAlloc(TopMemoryContext, bytes)
                                                       : repalloc_huge(changes, bytes));
    change_capacity = capacity;
}

// What was noted for the tables of an extension that this very transaction has dropped means nothing; but the
// drop may still be undone.
void forget_dropped_tables(const CountedDatabase *before, const CountedDatabase *now, Oid parent_before)
{
    if (before == nullptr || change_count == 0 || (now == before && now->parent == parent_before))
        return;
    forget_all();
    invalidates = true;
}

PartitionCounts *entry_of(Oid partition)
{
    const CountedDatabase *before = known_database();
    const Oid parent_before = before != nullptr ? before->parent : InvalidOid;
    CountedDatabase *database = counted_database();
    forget_dropped_tables(before, known_database(), parent_before);
    return database != nullptr ? acquire_counts(database, partition) : nullptr;
}

// Has this transaction to look for a seal of the partition? Nothing can seal it while we hold it.
bool may_be_sealed(const PartitionCounts *entry, int64_t upper_us)
{
    if (upper_us > pg::unix_us_of_timestamp(GetCurrentTimestamp()))
        return false;
    const CountedDatabase *database = known_database();
    return entry == nullptr || database->build != CountBuild::built || entry->sealed;
}

int add_change(Oid partition, bool of_tasks, int64_t lower_us, int64_t upper_us)
{
    PartitionCounts *entry = entry_of(partition);
    const bool unseals = may_be_sealed(entry, upper_us);
    if (unseals)
        unseal_counts(partition);
    make_room();
    Change &change = changes[change_count];
    change = Change{};
    change.entry = entry;
    change.partition = partition;
    change.subtransaction = GetCurrentSubTransactionId();
    change.of_tasks = of_tasks;
    change.unseals = unseals;
    change.lower = core::floor_div(lower_us, 1000);
    change.upper = upper_us == PG_INT64_MAX ? PG_INT64_MAX : core::floor_div(upper_us, 1000);
    return change_count++;
}

int find_change(Oid partition)
{
    const SubTransactionId now = GetCurrentSubTransactionId();
    for (int i = change_count; i-- > 0;) {
        if (changes[i].partition == partition && changes[i].subtransaction == now)
            return i;
    }
    return kNone;
}

const partition::DirectoryEntry *partition_at(Oid parent, int64_t key)
{
    for (const partition::DirectoryEntry &entry : partition::directory(parent)) {
        if (key >= entry.lower && key < entry.upper)
            return &entry;
    }
    return nullptr;
}

// The change to which the uuid of that millisecond belongs, when it was not the last one.
int other_change(bool of_tasks, int64_t unix_ms)
{
    const SubTransactionId now = GetCurrentSubTransactionId();
    for (int i = 0; i < change_count; i++) {
        const Change &change = changes[i];
        if (change.of_tasks == of_tasks && change.subtransaction == now && unix_ms >= change.lower &&
            unix_ms < change.upper)
            return i;
    }
    const partition::DirectoryEntry *found =
        partition_at(parent_of(of_tasks ? Table::task : Table::step), unix_ms * core::kUsPerMs);
    if (found == nullptr)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "a state was noted for a row that no partition can hold");
    return add_change(found->relid, of_tasks, found->lower, found->upper);
}

void note(bool of_tasks, const core::Uuid &uuid, int from, int to, int64_t n)
{
    const int64_t unix_ms = core::unix_ms_of(uuid);
    int &last = of_tasks ? last_of_tasks : last_of_steps;
    if (last == kNone || unix_ms < changes[last].lower || unix_ms >= changes[last].upper ||
        changes[last].subtransaction != GetCurrentSubTransactionId())
        last = other_change(of_tasks, unix_ms);
    Change &change = changes[last];
    if (from != kNoState)
        change.by[from] -= n;
    if (to != kNoState)
        change.by[to] += n;
}

} // namespace

void declare_counts()
{
    declare_count_state();
}

void note_task_states(const core::Uuid &task, std::optional<core::TaskState> from, core::TaskState to,
                      int64_t n)
{
    note(true, task, from ? index_of(*from) : kNoState, index_of(to), n);
}

void note_step_states(const core::Uuid &step, std::optional<core::StepState> from, core::StepState to,
                      int64_t n)
{
    note(false, step, from ? index_of(*from) : kNoState, index_of(to), n);
}

void note_in_partition(Oid partition, int from, int to)
{
    int at = find_change(partition);
    // Of a partition that is written by a statement the bounds are not known: it is never the last one.
    if (at == kNone)
        at = add_change(partition, false, 0, 0);
    if (from != kNoState)
        changes[at].by[from]--;
    if (to != kNoState)
        changes[at].by[to]++;
}

void note_truncation()
{
    register_count_callbacks();
    (void)counted_database();
    invalidates = true;
}

void add_own_changes(Oid partition, int64_t (&counts)[kMostStates])
{
    for (int i = 0; i < change_count; i++) {
        if (changes[i].partition != partition)
            continue;
        for (int s = 0; s < kMostStates; s++)
            counts[s] += changes[i].by[s];
    }
}

void register_count_callbacks()
{
    if (callbacks_registered)
        return;
    RegisterXactCallback(on_transaction_end, nullptr);
    RegisterSubXactCallback(on_subtransaction_end, nullptr);
    callbacks_registered = true;
}

} // namespace tasker::workflow
