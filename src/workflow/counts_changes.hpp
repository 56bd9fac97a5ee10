// What this transaction has changed in the counts, kept until its outcome is known.
#pragma once

#include "workflow/counts_state.hpp"

namespace tasker::workflow {

// No state: a row that comes into being, or goes.
inline constexpr int kNoState = -1;

// A row of the partition has changed its state, given by index.
void note_in_partition(Oid partition, int from, int to);

// A whole table is being truncated: at commit the counts become unbuilt.
void note_truncation();

// Adds this transaction's own, still uncommitted changes in a partition to `counts`.
void add_own_changes(Oid partition, int64_t (&counts)[kMostStates]);

// Makes sure that the transaction callbacks are registered in this backend.
void register_count_callbacks();

// The build that this backend has begun (counts_rebuild.cpp); the abort callback takes it back.
extern CountedDatabase *own_count_build;

} // namespace tasker::workflow
