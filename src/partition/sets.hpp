// The open partition sets, as a round sees them.
#pragma once

#include "partition/directory.hpp"
#include "pg/memory.hpp"

namespace tasker::partition {

// Adds the parents of all open sets, or the one that is asked for: undefined_object when it is none.
void add_sets(pg::Vector<Oid> &sets, Oid only);

// Removes sets whose parent does not exist any more, follows renamed columns, and marks sets that were
// restored from a dump.
void tidy_sets();

// Remembers that the set has been looked after, to the hour.
void note_maintenance(Oid parent);

// The partition that holds `key`, with its bounds.
std::optional<DirectoryEntry> find_entry(Oid parent, int64_t key);

} // namespace tasker::partition
