// Seals: the counts of partitions whose tasks are all finished, kept in tasker.sealed_workflow_partition.
//
// After a restart counts are built by reading the tables. Months of finished tasks would be most of it, and
// they do not change any more; a seal says what they are. It is written under a ShareLock on the partition,
// when nobody works there, and removed by the first transaction that changes anything there again.
#pragma once

#include "pg/error.hpp"

namespace tasker::workflow {

// Removes the seal of a partition that is about to change. The caller holds a lock on it that conflicts with
// ShareLock, to the end of the transaction.
void unseal_counts(Oid partition);
// Removes all seals; the whole table is being truncated, under such a lock on each of its partitions.
void unseal_all_counts();

} // namespace tasker::workflow
