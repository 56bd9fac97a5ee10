// The tables of a partition set as people look at it: where each one lies in the set, and how big it is.
#pragma once

#include "partition/directory.hpp"
#include "partition/set_config.hpp"
#include "pg/memory.hpp"

namespace tasker::partition {

enum class MemberState
{
    attached,
    pending,   // its detach is under way, or was cut off: takes no rows, occupies its range
    detached,  // a table of its own, about to be dropped or moved
    remainder, // the DEFAULT partition: no range, takes what no other takes
};

struct Member
{
    DirectoryEntry entry;
    MemberState state;
    bool partitioned; // it has partitions of its own
    int64_t rows;     // estimated; 0 until measured
    int64_t bytes;    // with indexes and TOAST; those of its own partitions added up
};

// The words of show_partitions().
const char *name_of(MemberState state);

// Adds what the set consists of, ordered by bounds; the DEFAULT partition comes last. Locks the parent in
// ACCESS SHARE mode for a moment, and no partition.
void add_members(Oid parent, pg::Vector<Member> &members);

// Adds rows and sizes; a member that was dropped a moment ago leaves the list. Waits for nobody: the size of
// a table that is locked against reads is the one of its last vacuum or analyze.
void measure_members(pg::Vector<Member> &members);

// Would a row with this key go there? The end of the type belongs to a partition that is open to MAXVALUE.
constexpr bool covers(const DirectoryEntry &entry, int64_t key)
{
    return entry.lower <= key && (key < entry.upper || entry.upper == core::kInt64Max);
}

// The member that takes rows with this key: an attached one, else the DEFAULT partition, else null.
const Member *member_for(const pg::Vector<Member> &members, int64_t key);

// A bound for people, which partition_of() and create_partition() read as the same key.
const char *bound_text(const Control &control, int64_t key);

// What a look at the bounds tells about the future of a set.
struct Outlook
{
    const Member *current; // takes the rows of now; null when none does
    int ahead;             // partitions that follow the one of now without a gap
    int gaps;              // ranges after now that no partition has, and a later one does
    bool complete;         // no key is left after those ahead
};

Outlook look_ahead(const SetConfig &config, const pg::Vector<Member> &members, std::optional<int64_t> now);

} // namespace tasker::partition
