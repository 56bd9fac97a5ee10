#include "workflow/counts_state.hpp"

#include "pg/settings.hpp"
#include "workflow/sets.hpp"

namespace tasker::workflow {
namespace {

// Partitions with counts, for each database that shared memory has room for.
constexpr int kPartitionsPerDatabase = 1024;

int snapshot_slots()
{
    return MaxBackends + max_prepared_xacts + 16;
}

long entry_slots()
{
    return static_cast<long>(kPartitionsPerDatabase) * pg::settings::max_databases;
}

Size area_size()
{
    const auto databases = static_cast<Size>(pg::settings::max_databases);
    Size size = MAXALIGN(sizeof(CountState));
    size = add_size(size, MAXALIGN(mul_size(sizeof(CountedDatabase), databases)));
    size = add_size(size, MAXALIGN(mul_size(sizeof(PreparedChanges), static_cast<Size>(max_prepared_xacts))));
    return add_size(
        size, mul_size(mul_size(sizeof(TransactionId), static_cast<Size>(snapshot_slots())), databases));
}

Size hash_size()
{
    return hash_estimate_size(entry_slots(), sizeof(PartitionCounts));
}

void initialize_area(void *memory)
{
    auto *state = static_cast<CountState *>(memory);
    char *next = static_cast<char *>(memory) + MAXALIGN(sizeof(CountState));

    LWLockInitialize(&state->directory, pg::lwlock_tranche());
    state->databases = reinterpret_cast<CountedDatabase *>(next);
    state->database_count = pg::settings::max_databases;
    next += MAXALIGN(sizeof(CountedDatabase) * static_cast<Size>(state->database_count));
    state->prepared = reinterpret_cast<PreparedChanges *>(next);
    state->prepared_count = max_prepared_xacts;
    next += MAXALIGN(sizeof(PreparedChanges) * static_cast<Size>(state->prepared_count));
    for (int i = 0; i < state->database_count; i++) {
        CountedDatabase &database = state->databases[i];
        database.snapshot.xip =
            reinterpret_cast<TransactionId *>(next) + static_cast<ptrdiff_t>(i) * snapshot_slots();
        ConditionVariableInit(&database.built);
        LWLockInitialize(&database.apply, pg::lwlock_tranche());
    }
}

HTAB *entries = nullptr;

void attach_entries(void *)
{
    HASHCTL control{};
    control.keysize = sizeof(CountKey);
    control.entrysize = sizeof(PartitionCounts);
    entries = ShmemInitHash("tasker counts of states", entry_slots(), entry_slots(), &control,
                            HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

pg::SharedArea area{"tasker workflow", area_size, initialize_area, hash_size, attach_entries};

// The database that this backend has used last; slots do not move.
CountedDatabase *known = nullptr;

// Forgets all that is kept of a database; `directory` is held exclusively. No transaction can have changes
// pending on it: dropping its tables has waited for all of them.
void forget_database(CountState *state, Oid oid)
{
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, entries);
    while (auto *entry = static_cast<PartitionCounts *>(hash_seq_search(&scan))) {
        if (entry->key.database == oid)
            hash_search(entries, &entry->key, HASH_REMOVE, nullptr);
    }
    for (int i = 0; i < state->prepared_count; i++) {
        if (state->prepared[i].database == oid)
            state->prepared[i].database = InvalidOid;
    }
}

void begin_database(CountedDatabase &database, Oid oid, Oid parent)
{
    database.database = oid;
    database.parent = parent;
    database.build = CountBuild::unbuilt;
    database.being_built = false;
    database.invalidated = false;
    database.recount = false;
    database.lost = false;
    database.overflow = false;
    database.prepared = 0;
    database.rebuilding = false;
}

CountedDatabase *find_database(CountState *state, Oid oid)
{
    for (int i = 0; i < state->database_count; i++) {
        if (state->databases[i].database == oid)
            return &state->databases[i];
    }
    return nullptr;
}

CountedDatabase *place_database(CountState *state, Oid parent)
{
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    CountedDatabase *database = find_database(state, MyDatabaseId);
    if (database == nullptr)
        database = find_database(state, InvalidOid);
    if (database != nullptr && (database->database != MyDatabaseId || database->parent != parent)) {
        forget_database(state, MyDatabaseId);
        begin_database(*database, MyDatabaseId, parent);
    }
    LWLockRelease(&state->directory);
    return database;
}

// Forgets databases that have been dropped; true when there was one. Asks the catalog.
bool reclaim_dropped_databases(CountState *state)
{
    bool reclaimed = false;
    AcceptInvalidationMessages();
    for (int i = 0; i < state->database_count; i++) {
        const Oid oid = state->databases[i].database;
        if (!OidIsValid(oid) || SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(oid)))
            continue;
        LWLockAcquire(&state->directory, LW_EXCLUSIVE);
        if (state->databases[i].database == oid) {
            forget_database(state, oid);
            begin_database(state->databases[i], InvalidOid, InvalidOid);
            reclaimed = true;
        }
        LWLockRelease(&state->directory);
    }
    return reclaimed;
}

// Whoever still knows the table by an old oid, from before DROP and CREATE EXTENSION, must not take the
// counts away from those who use the new one: it is held to the end of the transaction.
CountedDatabase *make_database(CountState *state, Oid parent)
{
    LockRelationOid(parent, AccessShareLock);
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(parent)))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
                errmsg("relation with OID %u does not exist", parent),
                errdetail("The extension has been dropped meanwhile."));
    CountedDatabase *database = place_database(state, parent);
    if (database == nullptr && reclaim_dropped_databases(state))
        database = place_database(state, parent);
    return database;
}

// Null when there is no room.
PartitionCounts *place_counts(CountState *state, const CountKey &key)
{
    bool found = false;
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    auto *entry = static_cast<PartitionCounts *>(hash_search(entries, &key, HASH_ENTER_NULL, &found));
    if (entry != nullptr && !found) {
        entry->sealed = false; // one of which a seal exists is made by the build that reads it
        memset(entry->counts, 0, sizeof entry->counts);
        memset(entry->since, 0, sizeof entry->since);
    }
    LWLockRelease(&state->directory);
    return entry;
}

void overflow(CountedDatabase *database)
{
    if (database->overflow)
        return;
    database->overflow = true;
    ereport(LOG, errmsg("no room in shared memory for the counts of another partition"),
            errdetail("Tasks and steps of this database are counted in their tables from now on, slower."),
            errhint("Raise tasker.max_databases and restart the server."));
}

void apply_prepared(CountedDatabase *database, const PreparedChanges &slot)
{
    const bool track = database->rebuilding && !database->snapshot.sees(slot.xid);
    for (int i = 0; i < slot.count; i++) {
        for (int s = 0; s < kMostStates; s++) {
            slot.entries[i]->counts[s] += slot.changes[i][s];
            if (track)
                slot.entries[i]->since[s] += slot.changes[i][s];
        }
    }
    // What the rebuild under way sees is counted by it.
    if (slot.unknown && (!database->rebuilding || track))
        database->recount = true;
}

PreparedChanges *free_slot(CountState *state)
{
    for (int i = 0; i < state->prepared_count; i++) {
        if (!OidIsValid(state->prepared[i].database))
            return &state->prepared[i];
    }
    return nullptr;
}

// There is a slot for every prepared transaction that has not ended, once those that have are looked at.
void resolve_all(CountState *state)
{
    for (int i = 0; i < state->database_count; i++) {
        CountedDatabase &database = state->databases[i];
        LWLockAcquire(&database.apply, LW_EXCLUSIVE);
        resolve_prepared(&database);
        LWLockRelease(&database.apply);
    }
}

} // namespace

void SharedSnapshot::publish(Snapshot snapshot)
{
    const TransactionId own = GetTopTransactionIdIfAny();
    xmin = snapshot->xmin;
    xmax = snapshot->xmax;
    count = 0;
    for (uint32 i = 0; i < snapshot->xcnt; i++)
        xip[count++] = snapshot->xip[i];
    if (TransactionIdIsValid(own)) {
        xip[count++] = own;
        if (TransactionIdPrecedes(own, xmin))
            xmin = own;
    }
    std::sort(xip, xip + count);
}

bool SharedSnapshot::sees(TransactionId xid) const
{
    if (!TransactionIdIsValid(xid) || TransactionIdPrecedes(xid, xmin))
        return true;
    if (TransactionIdFollowsOrEquals(xid, xmax))
        return false;
    return !std::binary_search(xip, xip + count, xid);
}

void declare_count_state()
{
    pg::declare_shared_area(area);
}

CountState *count_state()
{
    return static_cast<CountState *>(area.memory);
}

CountedDatabase *known_database()
{
    return known;
}

CountedDatabase *counted_database()
{
    CountState *state = count_state();
    // A standby replays what others commit; nothing here would follow it.
    if (state == nullptr || RecoveryInProgress())
        return nullptr;
    const Oid parent = parent_of(Table::task);
    if (known == nullptr || known->database != MyDatabaseId || known->parent != parent)
        known = make_database(state, parent);
    return known != nullptr && !known->overflow ? known : nullptr;
}

PartitionCounts *find_counts(Oid partition)
{
    const CountKey key{MyDatabaseId, partition};
    return static_cast<PartitionCounts *>(hash_search(entries, &key, HASH_FIND, nullptr));
}

PartitionCounts *acquire_counts(CountedDatabase *database, Oid partition)
{
    CountState *state = count_state();
    LWLockAcquire(&state->directory, LW_SHARED);
    PartitionCounts *entry = find_counts(partition);
    LWLockRelease(&state->directory);
    if (entry != nullptr)
        return entry;

    const CountKey key{MyDatabaseId, partition};
    entry = place_counts(state, key);
    if (entry == nullptr && reclaim_dropped_databases(state))
        entry = place_counts(state, key);
    if (entry == nullptr)
        overflow(database);
    return entry;
}

void remove_counts(Oid partition)
{
    const CountKey key{MyDatabaseId, partition};
    hash_search(entries, &key, HASH_REMOVE, nullptr);
}

void begin_counts_walk(HASH_SEQ_STATUS *scan)
{
    hash_seq_init(scan, entries);
}

void resolve_prepared(CountedDatabase *database)
{
    CountState *state = count_state();
    for (int i = 0; database->prepared > 0 && i < state->prepared_count; i++) {
        PreparedChanges &slot = state->prepared[i];
        if (slot.database != database->database || TransactionIdIsInProgress(slot.xid))
            continue;
        if (TransactionIdDidCommit(slot.xid))
            apply_prepared(database, slot);
        slot.database = InvalidOid;
        database->prepared--;
    }
}

void keep_prepared(CountedDatabase *database, const PreparedChanges &changes)
{
    CountState *state = count_state();
    LWLockAcquire(&state->directory, LW_EXCLUSIVE);
    PreparedChanges *slot = free_slot(state);
    if (slot == nullptr) {
        resolve_all(state);
        slot = free_slot(state);
    }
    if (slot != nullptr) {
        *slot = changes;
        database->prepared++;
    } else {
        database->lost = true;
    }
    LWLockRelease(&state->directory);
}

bool keeps_prepared(TransactionId xid)
{
    const CountState *state = count_state();
    for (int i = 0; i < state->prepared_count; i++) {
        if (state->prepared[i].database == MyDatabaseId && state->prepared[i].xid == xid)
            return true;
    }
    return false;
}

} // namespace tasker::workflow
