// Which partition holds a key (control.hpp): the bounds of a range-partitioned parent, cached in the backend.
//
// Hot paths address a partition directly instead of naming the parent: a statement on the parent locks every
// partition that its plan names, each time it runs. The cache is dropped by the relcache invalidation that
// ATTACH, DETACH and DROP send, so it is as fresh as any plan.
#pragma once

#include "pg/error.hpp"

#include <cstdint>

namespace tasker::partition {

struct DirectoryEntry
{
    int64_t lower; // inclusive
    int64_t upper; // exclusive
    Oid relid;
};

// The attached partitions of `parent` (detach-pending ones left out), ordered by bounds. The span is valid
// until the next call that may process invalidations (any lock on a relation): copy what is needed beyond
// that.
std::span<const DirectoryEntry> directory(Oid parent);

// The partition for `key`, or InvalidOid.
Oid find_partition(Oid parent, int64_t key);

// Guards a partition against retirement while a record in it is brought back to life (a retry of a dead
// letter): a share lock to the end of the transaction, against which the retirement holds its exclusive one
// from its check to its DROP. False when the partition is being retired right now.
bool try_hold_partition(Oid relid);

} // namespace tasker::partition
