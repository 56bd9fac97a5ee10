// Partition sets that a plane above owns: how they are shaped, and what the owner must be asked.
//
// No plane reaches up: the partition plane knows the sets of the queue, the stream and the workflow engine
// only through what they register here in _PG_init.
#pragma once

#include "partition/control.hpp"

namespace tasker::partition {

struct OwnedSet
{
    const char *parent;           // name of the partitioned parent in schema tasker
    const char *control;          // its control column
    ControlKind kind;             // what that holds
    const char *default_interval; // written to part_config when the set is opened, e.g. '1 day'
    int default_premake;
    const char *storage; // storage parameters of each partition, e.g. "fillfactor = 30"
    const char *const
        *keys; // DDL run for each new partition before ATTACH; %s is the partition's quoted name
    int key_count;

    // May this partition go? Null when it may, else the reason, palloc'd, shown in partition_status. Asked
    // before DETACH, and again under ACCESS EXCLUSIVE before DROP: a transaction that was open all along may
    // have added to it. `lower` and `upper` are the partition's bounds.
    const char *(*refuse_retirement)(Oid partition, int64_t lower, int64_t upper);
    // The partition has been dropped and its transaction has committed; called in another one.
    void (*retired)(Oid partition);

    // Written to part_config when the set is opened; null: none.
    const char *default_retention = nullptr;
    // Does a set without a retention keep everything, as a user's does? Else its owner alone decides.
    bool kept_without_retention = false;
    // The set whose settings this one has, always; null: its own. Such sets are opened together, altered
    // together, and so have partitions of the same bounds.
    const char *follows = nullptr;
};

void register_owned_set(const OwnedSet &set);
const OwnedSet *find_owned_set(std::string_view parent_name);

inline constexpr int kMaxOwnedSets = 32;

struct OwnedSetList
{
    std::array<const OwnedSet *, kMaxOwnedSets> sets{};
    int count = 0;

    const OwnedSet *const *begin() const { return sets.data(); }
    const OwnedSet *const *end() const { return sets.data() + count; }
};

// The sets that follow this one, in the order in which they were registered.
OwnedSetList followers_of(const OwnedSet &leader);

// Set by a plane above: asked after the set's owner, of every set, also of those that no plane owns. Why this
// partition of `parent` must stay, palloc'd, or null.
extern const char *(*retirement_veto_hook)(Oid parent, Oid partition);

// Makes sure that the partition for `key` exists, opening the set (its row in part_config) at its first use,
// and returns it. The worker makes it in a transaction of its own while the caller waits; where there is no
// worker, the caller's transaction does.
Oid ensure_partition(Oid parent, int64_t key);

// The worker's way to make a partition for somebody who waits; set by the worker plane. Returns false when no
// worker could be asked, so that the caller makes the partition itself.
using PartitionRequest = bool (*)(Oid parent, int64_t key);
extern PartitionRequest partition_request_hook;

} // namespace tasker::partition
