// The floor of a lane: the position below which there is nothing to find.
//
// A claim scans its index from the floor, so that it never walks over what is dead or finished, even while an
// old snapshot keeps all of it. This is the bare logic; shared memory embeds it, once for what is claimable
// (claim floor) and once for what is in processing (done floor). "Wanted" below means pending for the one and
// processing for the other, whether due or not.
//
// INVARIANT
//    For every committed, wanted record: once the lower() of the transaction that made it wanted has been
//    made, its position >= value.
// Before that lower() the record may be missed, for as long as it takes a committing backend to reach its
// transaction callback. A floor that is too low costs time; only one that is too high loses records.
//
// The invariant holds under these rules, which are the caller's to keep:
//  1. All calls on one Floor are made under one lock.
//  2. A transaction that makes a record wanted calls lower(position) when its end has become visible to new
//     snapshots:
//     - one that inserts, gives back, or reschedules a record: after its commit;
//     - one that took a wanted record (a claim) and does not keep it: after its abort, or after ROLLBACK TO
//       SAVEPOINT has made the subtransaction's end visible.
//     Making it earlier is an error: a scan may run between the call and the end, see nothing, and raise.
//  3. A scan takes its snapshot after begin_scan(), and looks at every index entry in [value, reached).
//     With an older snapshot it would miss a record whose lower() was made between the two.
//  4. `reached` stands at or below every wanted record that the scan saw and does not take.
//     - A record that it passes over because somebody else has locked it may lie below `reached` only if that
//       somebody keeps rule 2 (a claim does; a SELECT FOR UPDATE by hand does not).
//     - A record that it notes, and takes after end_scan(), counts as taken. Where it then finds a foreign
//       lock, or does not come to take it, it has to call lower() itself.
//     - Positions are not unique: a scan that stops because it has enough hands in the position of the last
//       entry it looked at, not the next one. One that stops because all that follows lies in the future
//       hands in the first such position, and one that comes to the end of the index hands in kNothing.
//  5. One scan at a time has the right to raise. Either a lock gives that right, which goes when its holder
//     fails or exits; then begin_scan() replaces a scan that was cut off. Or `scanning` does: whoever finds
//     it set scans from `value` and calls neither begin_scan() nor end_scan(), and the owner ends its scan in
//     any case, also on an error or when its process exits. Nobody gives the Floor to another lane meanwhile.
// What breaks rule 2 from outside (a prepared transaction, logical replication) is healed by the sweep, which
// scans from below the floor and calls lower().
//
// After a crash: all bytes zero is a valid Floor. Its value 0 hides nothing and costs one long scan.
#pragma once

#include "core/arithmetic.hpp"

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace tasker::core {

/// The value of a floor above which nothing lies: there is nothing wanted at all.
inline constexpr int64_t kNothing = kInt64Max;

/// The floor of one lane. Written by claimers and by the callbacks of all transactions that touch the lane.
struct Floor
{
    int64_t value;   // nothing wanted lies below
    int64_t lowered; // lowest lower() since the running scan began
    bool scanning;   // some scan has the right to raise

    /// Sets the floor and forgets a scan under way, whose end_scan() then no longer raises. For a new lane,
    /// and for a lane that is rebuilt.
    constexpr void reset(int64_t v)
    {
        value = v;
        lowered = kNothing;
        scanning = false;
    }

    /// Begins the scan that may raise the floor, and returns where it has to start. Take the snapshot after
    /// this.
    constexpr int64_t begin_scan()
    {
        lowered = kNothing;
        scanning = true;
        return value;
    }

    /// Ends the scan: everything below `reached` was seen to hold nothing wanted, except what was lowered
    /// since begin_scan(). Never lowers by itself: a `reached` below the floor changes nothing.
    constexpr void end_scan(int64_t reached)
    {
        if (scanning)
            value = std::min(std::max(value, reached), lowered);
        scanning = false;
    }

    /// Ends a scan that was cut off: what it has seen says nothing, the floor stays where it is (lowerings
    /// since begin_scan() included).
    constexpr void abandon_scan()
    {
        value = std::min(value, lowered);
        scanning = false;
    }

    /// Makes the floor include `position`, for the running scan too.
    constexpr void lower(int64_t position)
    {
        value = std::min(value, position);
        lowered = std::min(lowered, position);
    }
};

static_assert(std::is_trivial_v<Floor> && std::is_standard_layout_v<Floor>);

} // namespace tasker::core
