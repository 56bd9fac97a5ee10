// What counts of tasks and steps keep in shared memory.
//
// One entry for each partition of tasker.task and of tasker.workflow_step in which something was counted, and
// for each database whether its entries are built. None of it is the truth: the tables are. It is lost with a
// crash and rebuilt by one scan.
//
// INVARIANT (for a database whose counts are built)
//    counts[s] is the number of rows in state s in the partition as far as they are committed, from the
//    moment the committing backend has run its transaction callback; it runs that before it answers its
//    client. What a prepared transaction has changed counts from the moment somebody looks
//    (resolve_prepared).
//
// LOCKS, in the order in which they are taken
//    state.directory     find (shared), add or remove (exclusive) entries and databases; all prepared slots
//    database.apply      counts and `since` of the database's entries; held exclusively also for the instant
//                        in which a rebuild takes its snapshot, so that each commit is on one side of it
// Both are LWLocks, held for a bounded time and not while waiting for anything but the next one.
//
// An entry is removed only after its partition was dropped. Whoever has changes pending on it holds a lock on
// the partition until they are applied, and a prepared transaction to its end, so none ever meets a removed
// entry.
#pragma once

#include "core/workflow_states.hpp"
#include "pg/shmem.hpp"

extern "C" {
#include "storage/condition_variable.h"
}

namespace tasker::workflow {

// Room for the states of tasks or of steps.
inline constexpr int kMostStates = std::max(core::kTaskStateCount, core::kStepStateCount);

struct CountKey
{
    Oid database;
    Oid partition;
};

struct PartitionCounts
{
    CountKey key; // first: the hash table finds it here
    // A seal of the partition may exist: whoever changes it has to remove that. Set under the partition's
    // ShareLock, cleared by a commit that holds a lock against it.
    bool sealed;
    int64_t counts[kMostStates];
    int64_t since[kMostStates]; // changes that the running rebuild's snapshot does not see
};

enum class CountBuild : int
{
    unbuilt,
    building,
    built
};

// A snapshot in shared memory: which transactions does the running rebuild see?
struct SharedSnapshot
{
    TransactionId xmin, xmax;
    int count;
    TransactionId *xip; // sorted; in progress for the snapshot

    // The snapshot, with this transaction among those that it does not see.
    void publish(Snapshot snapshot);
    bool sees(TransactionId xid) const;
};

struct CountedDatabase
{
    Oid database;
    Oid parent;       // tasker.task; another one after DROP and CREATE EXTENSION: all starts anew
    CountBuild build; // under `directory`
    bool being_built; // some backend has the right to (re)build; under `directory`
    bool invalidated; // since the rebuild under way began; under `directory`
    bool recount;     // a prepared transaction has committed of which nobody knows what it did
    bool lost;        // a prepared transaction found no slot: nothing is sure until all of them have ended
    bool overflow;    // an entry found no room: the tables are counted from then on
    int prepared;     // slots of this database that are in use; under `directory`
    ConditionVariable built; // build has changed
    LWLock apply;
    bool rebuilding; // `since` is being kept; under `apply`
    SharedSnapshot snapshot;
};

// What a prepared transaction has changed, until somebody sees how it has ended.
struct PreparedChanges
{
    static constexpr int kMost = 16;

    Oid database; // invalid: the slot is free
    TransactionId xid;
    bool unknown; // it has changed more, or was prepared before the server started
    int count;
    PartitionCounts *entries[kMost];
    int64_t changes[kMost][kMostStates];
};

struct CountState
{
    LWLock directory;
    int database_count;
    CountedDatabase *databases;
    int prepared_count;
    PreparedChanges *prepared;
};

// Declares the area; from _PG_init.
void declare_count_state();

// Null without shared_preload_libraries.
CountState *count_state();

// The counts of this database, made at their first use; null without shared memory, on a standby, when there
// is no room, or after an overflow.
CountedDatabase *counted_database();

// The same without asking whether the extension is another one meanwhile: for transaction callbacks.
CountedDatabase *known_database();

// The entry of a partition, made when needed; null when there is no room.
PartitionCounts *acquire_counts(CountedDatabase *database, Oid partition);
// The entry if there is one. `directory` is held.
PartitionCounts *find_counts(Oid partition);
// Removes an entry; `directory` is held exclusively.
void remove_counts(Oid partition);

// Visits all entries of this database; `directory` is held.
template <class Visit> void for_each_counts(Visit visit);
void begin_counts_walk(HASH_SEQ_STATUS *scan);

// Adds the changes of prepared transactions that have committed, and forgets those of all that have ended.
// `directory` and `apply` are held exclusively.
void resolve_prepared(CountedDatabase *database);
// Keeps changes aside.
void keep_prepared(CountedDatabase *database, const PreparedChanges &changes);
// Is there a slot for this transaction? `directory` is held.
bool keeps_prepared(TransactionId xid);

template <class Visit> void for_each_counts(Visit visit)
{
    HASH_SEQ_STATUS scan;
    begin_counts_walk(&scan);
    while (auto *entry = static_cast<PartitionCounts *>(hash_seq_search(&scan))) {
        if (entry->key.database == MyDatabaseId)
            visit(entry);
    }
}

} // namespace tasker::workflow
