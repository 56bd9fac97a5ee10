// The book of partitions that are due to go: tasker.part_retirement.
//
// Nothing in the catalogs ties a detached table to its parent any more. So a row is committed before the
// DETACH, and goes in the transaction of the DROP; whoever finds a row knows what a killed process had begun
// and finishes it. The row names the partition instead of holding its OID, so that it is as true in a
// restored dump.
#pragma once

#include "partition/bounds.hpp"
#include "pg/memory.hpp"

namespace tasker::partition {

// A partition that is due, or that is on its way out already.
struct DuePartition
{
    NameData name;
    DirectoryEntry entry;
    bool leaving;     // its detach has begun
    int failures;     // tries in a row
    bool backing_off; // not to be tried yet
};

// Adds the tables of the set that have been detached, but neither dropped nor attached again: `relid` is a
// plain table. They still occupy their range. Sees what is committed at this moment, whatever the
// transaction's isolation.
void add_detached_tables(Oid parent, pg::Vector<DirectoryEntry> &list);

// Attaches such a table again and drops the check constraint that DETACH CONCURRENTLY left on it. In the
// current transaction, which holds the set's creation lock.
void attach_again(const SetConfig &config, const DirectoryEntry &table);

// What the book says: adds partitions that are leaving, and marks those of `list` that failed before.
void read_book(const SetConfig &config, pg::Vector<DuePartition> &list);

// Entries, in the current transaction.
void book_refusal(Oid parent, const DuePartition &due, std::string_view reason);
void book_leaving(Oid parent, const DuePartition &due);
void book_failure(Oid parent, const DuePartition &due, std::string_view reason);
void strike(Oid parent, const DuePartition &due);
// Strikes the refusals of partitions that do not exist any more.
void strike_vanished();

} // namespace tasker::partition
