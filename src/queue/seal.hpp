// Counts of partitions whose history is closed, kept in a table so that a rebuild need not read them again.
//
// A partition in which everything is finished and whose time is past changes only when somebody brings a
// record back or edits the table. The worker seals it: it writes the counts of its lanes to
// tasker.sealed_partition. A rebuild then reads those rows instead of the partition, and scans the live ones
// only.
//
// INVARIANT: in every snapshot, the rows of a sealed partition are what counting its records would give, and
// none of them is pending or processing.
//  - Sealing holds a SHARE lock on the partition, so that nobody is changing it and everybody's effects have
//  been
//    applied to the lanes it copies.
//  - Whoever changes a record of the partition afterwards unseals it in the same transaction, before the
//  change:
//    both are seen or neither.
#pragma once

#include "pg/postgres.hpp"

namespace tasker::queue {

// The priority, which no record has, of the row that says that there is a seal, also for a partition without
// records.
inline constexpr int32_t kSealMark = -1;

// Seals what can be sealed and forgets seals of dropped partitions; returns how many were sealed. Inside a
// transaction.
int64_t seal_partitions();

// Removes the partition's seal, if it has one, in this transaction. Cheap when called for every row.
void unseal(Oid partition);

} // namespace tasker::queue
