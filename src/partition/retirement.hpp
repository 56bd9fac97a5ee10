// The book of partitions on their way out: tasker.part_retirement.
//
// Nothing in the catalogs ties a detached table to its parent any more. So a row is committed before the
// DETACH, and goes in the transaction of the DROP; whoever finds a row knows what a killed process had begun
// and finishes it. The row names the partition instead of holding its OID, so that it is as true in a
// restored dump.
#pragma once

#include "partition/bounds.hpp"

namespace tasker::partition {

// The columns of tasker.part_retirement, in their order.
enum RetirementColumn : AttrNumber
{
    kRetirementParent = 1,
    kRetirementPartition,
    kRetirementLower,
    kRetirementUpper,
    kRetirementState,
    kRetirementReason,
    kRetirementRefusals,
    kRetirementFailures,
    kRetirementSince,
    kRetirementNextTry,
    kRetirementLast = kRetirementNextTry
};

// Tables of the set that have been detached, but neither dropped nor attached again: `relid` is a plain
// table. They still occupy their range. Sees what is committed at this moment, whatever the transaction's
// isolation.
std::span<const DirectoryEntry> detached_tables(Oid parent);

// Attaches such a table again and drops the check constraint that DETACH CONCURRENTLY left on it. In the
// current transaction, which holds the set's creation lock.
void attach_again(const SetConfig &config, const DirectoryEntry &table);

} // namespace tasker::partition
