// The cache of bounds. One entry for each parent that this backend has asked about; few, and kept for good.
//
// An entry is rebuilt in place at the next look after an invalidation. The callback only clears a flag:
// invalidations arrive in the middle of anything, also while somebody walks an entry's array.
#include "partition/directory.hpp"

#include "partition/bounds.hpp"
#include "partition/locks.hpp"
#include "pg/invalidation.hpp"

extern "C" {
#include "utils/partcache.h"
}

namespace tasker::partition {
namespace {

struct CachedParent
{
    Oid parent; // first: the hash table finds it here
    bool valid;
    int count;
    DirectoryEntry *entries; // in TopMemoryContext
};

HTAB *parents = nullptr;
CachedParent *last = nullptr; // the entry used last: most backends know one parent

void invalidate(Oid relid)
{
    if (relid != InvalidOid) {
        auto *cached = static_cast<CachedParent *>(hash_search(parents, &relid, HASH_FIND, nullptr));
        if (cached != nullptr)
            cached->valid = false;
        return;
    }
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, parents);
    while (auto *cached = static_cast<CachedParent *>(hash_seq_search(&scan)))
        cached->valid = false;
}

pg::RelcacheListener listener(invalidate);

void create_cache()
{
    HASHCTL control{};
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(CachedParent);
    control.hcxt = TopMemoryContext;
    parents = hash_create("tasker partition directory", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    listener.listen();
}

CachedParent *cached_parent(Oid parent)
{
    if (parents == nullptr)
        create_cache();
    bool found = false;
    auto *cached = static_cast<CachedParent *>(hash_search(parents, &parent, HASH_ENTER, &found));
    if (!found) {
        cached->valid = false;
        cached->count = 0;
        cached->entries = nullptr;
    }
    return cached;
}

bool has_key_ranges(Relation relation)
{
    if (relation->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
        return false;
    PartitionKey key = RelationGetPartitionKey(relation);
    return get_partition_strategy(key) == PARTITION_STRATEGY_RANGE && get_partition_natts(key) == 1 &&
           get_partition_col_attnum(key, 0) > 0 && is_control_type(get_partition_col_typid(key, 0));
}

// Plain C inside: may ereport, and leaves the entry invalid then. False when the table cannot have one.
bool rebuild(CachedParent *cached)
{
    Relation relation = table_open(cached->parent, AccessShareLock);
    if (!has_key_ranges(relation)) {
        table_close(relation, AccessShareLock);
        return false;
    }
    cached->valid = true; // first: an invalidation that comes from here on must not be lost
    const BoundList fresh = read_bounds(relation, false);
    const Size bytes = sizeof(DirectoryEntry) * static_cast<Size>(Max(fresh.count, 1));
    auto *kept = static_cast<DirectoryEntry *>(MemoryContextAlloc(TopMemoryContext, bytes));
    memcpy(kept, fresh.entries, sizeof(DirectoryEntry) * static_cast<Size>(fresh.count));
    pfree(fresh.entries);
    if (cached->entries != nullptr)
        pfree(cached->entries);
    cached->entries = kept;
    cached->count = fresh.count;
    table_close(relation, AccessShareLock);
    return true;
}

// The guard marks the entry again when reading failed in the middle.
void rebuild_guarded(CachedParent *cached)
{
    bool fits = false;
    try {
        fits = pg::pg_call([&] { return rebuild(cached); });
    } catch (...) {
        cached->valid = false;
        throw;
    }
    if (fits)
        return;
    const char *name = pg::pg_call([&] { return get_rel_name(cached->parent); });
    throw pg::Error(ERRCODE_WRONG_OBJECT_TYPE, "table \"%s\" is not partitioned by range of one column",
                    name != nullptr ? name : "?")
        .detail("The column must be a number, a date, a time or a UUID, and no expression.");
}

inline CachedParent *fresh_entry(Oid parent)
{
    CachedParent *cached = last;
    if (likely(cached != nullptr && cached->parent == parent && cached->valid))
        return cached;
    cached = cached_parent(parent);
    if (!cached->valid)
        rebuild_guarded(cached);
    last = cached;
    return cached;
}

} // namespace

std::span<const DirectoryEntry> directory(Oid parent)
{
    CachedParent *cached = fresh_entry(parent);
    return {cached->entries, static_cast<size_t>(cached->count)};
}

Oid find_partition(Oid parent, int64_t key)
{
    CachedParent *cached = fresh_entry(parent);
    const DirectoryEntry *entries = cached->entries;
    const DirectoryEntry *after =
        std::upper_bound(entries, entries + cached->count, key,
                         [](int64_t k, const DirectoryEntry &entry) { return k < entry.lower; });
    if (after == entries || key >= after[-1].upper)
        return InvalidOid;
    return after[-1].relid;
}

bool try_hold_partition(Oid relid)
{
    return pg::pg_call([&] { return try_lock_for_transaction(relid, LockKind::retirement, ShareLock); });
}

} // namespace tasker::partition
