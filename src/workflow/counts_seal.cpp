#include "workflow/counts_seal.hpp"

#include "core/arithmetic.hpp"
#include "partition/directory.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "workflow/counts.hpp"
#include "workflow/counts_changes.hpp"
#include "workflow/counts_rebuild.hpp"
#include "workflow/sets.hpp"

namespace tasker::workflow {
namespace {

// A partition is left alone for a while after its end: clocks differ, and late work is common then.
constexpr int64_t kRestUs = 10 * core::kUsPerMinute;
// The state of the row that says that a partition is sealed, whatever it holds.
constexpr char kMark[] = "-";

using Entries = pg::Vector<partition::DirectoryEntry>;

void copy_directory(Table table, Entries &entries)
{
    for (const partition::DirectoryEntry &entry : partition::directory(parent_of(table)))
        entries.push_back(entry);
}

bool is_sealed(Oid partition)
{
    static pg::Statement look(
        "select exists (select from tasker.sealed_workflow_partition where partition = $1)", {OIDOID});
    pg::Spi spi;
    return spi.read_latest(look, {partition}).boolean(0, 1);
}

// The counts of a partition that the caller has locked against changes, and that it is about to seal; false
// when a prepared transaction may still add to them.
bool take_counts(CountedDatabase *database, Oid partition, int64_t (&counts)[kMostStates])
{
    bool sure = false;
    PartitionCounts *entry = acquire_counts(database, partition);
    if (entry == nullptr)
        return false;
    LWLockAcquire(&count_state()->directory, LW_EXCLUSIVE);
    LWLockAcquire(&database->apply, LW_EXCLUSIVE);
    resolve_prepared(database);
    sure = database->build == CountBuild::built && !database->recount && !database->lost;
    memcpy(counts, entry->counts, sizeof counts);
    entry->sealed = entry->sealed || sure;
    LWLockRelease(&database->apply);
    LWLockRelease(&count_state()->directory);
    return sure;
}

// Seals one partition; false when it is in use or is sealed already.
template <class State> bool try_seal(CountedDatabase *database, Oid partition, int state_count)
{
    static pg::Statement write("insert into tasker.sealed_workflow_partition (partition, state, row_count) "
                               "values ($1, $2::\"char\", $3) on conflict do nothing returning 1",
                               {OIDOID, TEXTOID, INT8OID});
    int64_t counts[kMostStates] = {};
    if (is_sealed(partition) ||
        !pg::pg_call([&] { return ConditionalLockRelationOid(partition, ShareLock); }) ||
        !pg::pg_call([&] { return take_counts(database, partition, counts); }))
        return false;
    pg::Spi spi;
    if (spi.run_latest(write, {partition, kMark, int64_t{0}}).empty())
        return false; // somebody else has sealed it at the same moment
    for (int s = 0; s < state_count; s++) {
        const char state[2] = {static_cast<char>(core::state_at<State>(s)), '\0'};
        if (counts[s] != 0)
            spi.run_latest(write, {partition, static_cast<const char *>(state), counts[s]});
    }
    return true;
}

// Partitions that were dropped without a word to us: by hand, or by an abort of the transaction that had made
// them. One that we do not see may be new; only while nobody works with it is it sure to be gone.
void forget_lost_partitions()
{
    pg::ContextResource memory;
    pg::Vector<Oid> known{&memory};
    pg::pg_call([] { LWLockAcquire(&count_state()->directory, LW_SHARED); });
    HASH_SEQ_STATUS scan;
    begin_counts_walk(&scan);
    size_t room = 0;
    while (hash_seq_search(&scan) != nullptr)
        room++;
    LWLockRelease(&count_state()->directory);

    known.reserve(room);
    pg::pg_call([] { LWLockAcquire(&count_state()->directory, LW_SHARED); });
    begin_counts_walk(&scan);
    while (auto *entry = static_cast<PartitionCounts *>(hash_seq_search(&scan))) {
        if (entry->key.database == MyDatabaseId && known.size() < room)
            known.push_back(entry->key.partition);
    }
    LWLockRelease(&count_state()->directory);

    for (Oid partition : known) {
        const auto gone = [&] { return !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(partition)); };
        pg::pg_call([&] {
            if (!gone() || !ConditionalLockRelationOid(partition, ShareLock))
                return;
            if (gone())
                forget_counts(partition);
            UnlockRelationOid(partition, ShareLock);
        });
    }
}

void forget_old_seals()
{
    static pg::Statement forget("delete from tasker.sealed_workflow_partition s where not exists "
                                "(select from pg_catalog.pg_class c where c.oid = s.partition)",
                                {});
    pg::Spi spi;
    spi.run(forget);
}

} // namespace

int64_t seal_counts()
{
    CountedDatabase *database = built_counts();
    if (database == nullptr)
        return 0;
    forget_lost_partitions();
    forget_old_seals();
    const int64_t before = pg::unix_us_of_timestamp(GetCurrentTimestamp()) - kRestUs;
    pg::ContextResource memory;
    Entries tasks{&memory};
    Entries steps{&memory};
    copy_directory(Table::task, tasks);
    copy_directory(Table::step, steps);
    int64_t sealed = 0;
    for (const partition::DirectoryEntry &entry : tasks) {
        if (entry.upper < before && unfinished_tasks(entry.lower, entry.upper).value_or(1) == 0)
            sealed += try_seal<core::TaskState>(database, entry.relid, core::kTaskStateCount) ? 1 : 0;
    }
    for (const partition::DirectoryEntry &entry : steps) {
        if (entry.upper < before && unfinished_tasks(entry.lower, entry.upper).value_or(1) == 0)
            sealed += try_seal<core::StepState>(database, entry.relid, core::kStepStateCount) ? 1 : 0;
    }
    return sealed;
}

void unseal_all_counts()
{
    static pg::Statement remove("delete from tasker.sealed_workflow_partition", {});
    pg::Spi spi;
    spi.run_latest(remove);
}

void unseal_counts(Oid partition)
{
    static pg::Statement remove("delete from tasker.sealed_workflow_partition where partition = $1",
                                {OIDOID});
    // The seal may be younger than the transaction's snapshot.
    pg::Spi spi;
    spi.run_latest(remove, {partition});
}

} // namespace tasker::workflow
