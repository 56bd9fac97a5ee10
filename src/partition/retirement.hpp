// The book of partitions that are due to go: tasker.part_retirement.
//
// Nothing in the catalogs ties a detached table to its parent any more. So a row is committed before the
// DETACH, and goes in the transaction of the last step (dropped, moved, kept); whoever finds a row knows what
// a killed process had begun and finishes it.
//
// A row knows the partition by its OID and by its name. In a restored dump the name counts alone. A detached
// table counts as the booked one only while both are as they were: who has renamed or moved it, or has hung
// it under another parent, has taken it, and it is left alone; and a new table under the old name is not the
// one that was to be dropped.
#pragma once

#include "partition/bounds.hpp"
#include "pg/memory.hpp"

namespace tasker::partition {

// A partition that is due, or that is on its way out already.
struct DuePartition
{
    NameData schema; // as booked, which may have changed
    NameData name;
    DirectoryEntry entry; // relid is InvalidOid when it does not exist any more
    bool leaving;         // its detach has begun
    int failures;         // tries in a row
    bool backing_off;     // not to be tried yet
};

// Adds the tables of the set that have been detached, but not gone yet nor attached again. They still occupy
// their range. Sees what is committed at this moment, whatever the transaction's isolation.
void add_detached_tables(Oid parent, pg::Vector<DirectoryEntry> &list);

// Attaches such a table again with the very bounds that it had, and takes off the check constraint that
// DETACH CONCURRENTLY has left on it. In the current transaction, which holds the set's creation lock.
void attach_again(const SetConfig &config, const DirectoryEntry &table);

// Takes off that constraint alone.
void drop_bounds_check(const SetConfig &config, Oid table);

// What the book says: adds partitions that are leaving, and marks those of `list` that failed before.
void read_book(const SetConfig &config, pg::Vector<DuePartition> &list);

// Entries, in the current transaction.
void book_refusal(Oid parent, const DuePartition &due, std::string_view reason);
void book_leaving(Oid parent, const DuePartition &due);
// True when the reason is another one than the last.
bool book_failure(Oid parent, const DuePartition &due, std::string_view reason);
void strike(Oid parent, const DuePartition &due);

// Takes over the name that a booked partition has now.
void follow_name(Oid parent, Oid partition);

// Strikes rows of parents that do not exist any more, and refusals of partitions that are none any more;
// follows partitions that were renamed or moved while they are attached.
void tidy_book();

} // namespace tasker::partition
