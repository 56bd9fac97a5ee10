// What happened between two ticks: the arithmetic of transaction snapshots on 64-bit transaction ids.
//
// A tick is a snapshot that was stored. A transaction's events belong to the batch between two ticks when the
// later tick sees the transaction and the earlier one does not. Transactions commit out of the order of their
// ids, so a batch is not a range of ids; but it is one range and a few ids before it. This is PgQ's model
// (batch_event_sql of pgq 3), and the search below is its idea of a plan.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace tasker::core {

/// A snapshot: what it sees had ended when it was taken. `running` are the ids in [xmin, xmax) that had not,
/// in ascending order without duplicates; ids from xmax on had not begun.
struct TickSnapshot
{
    uint64_t xmin;
    uint64_t xmax;
    std::span<const uint64_t> running;

    /// Had the transaction ended when the snapshot was taken?
    constexpr bool sees(uint64_t xid) const
    {
        if (xid < xmin)
            return true;
        return xid < xmax && !std::binary_search(running.begin(), running.end(), xid);
    }
};

/// Is a snapshot what it must be?
constexpr bool is_valid(const TickSnapshot &snapshot)
{
    uint64_t least = snapshot.xmin;
    for (const uint64_t xid : snapshot.running) {
        if (xid < least || xid >= snapshot.xmax)
            return false;
        least = xid + 1;
    }
    return snapshot.xmin <= snapshot.xmax;
}

/// May `later` have been taken after `earlier` on one server? What ended stays ended. Two snapshots of which
/// neither follows the other are from different servers, or from before and after a restore.
constexpr bool follows(const TickSnapshot &later, const TickSnapshot &earlier)
{
    if (later.xmin < earlier.xmin || later.xmax < earlier.xmax)
        return false;
    for (const uint64_t xid : later.running) {
        if (earlier.sees(xid))
            return false;
    }
    return true;
}

/// Does a transaction belong to the batch from `earlier` to `later`?
constexpr bool is_between(const TickSnapshot &earlier, const TickSnapshot &later, uint64_t xid)
{
    return later.sees(xid) && !earlier.sees(xid);
}

/// Ids to look through: from <= xid < to.
struct XidRange
{
    uint64_t from;
    uint64_t to;

    constexpr bool contains(uint64_t xid) const { return from <= xid && xid < to; }
};

/// Returns a range of ids, and appends to `single` others before it in descending order, which together hold
/// every transaction of the batch; not each of them is one (see is_between). A long transaction makes the
/// batch of its end cost one id and not a range back to its beginning; one that began less than `near` ids
/// before the range just widens it.
template <class Ids>
constexpr XidRange plan_batch(const TickSnapshot &earlier, const TickSnapshot &later, uint64_t near,
                              Ids &single)
{
    XidRange range{earlier.xmax, std::max(earlier.xmax, later.xmax)};
    for (auto xid = earlier.running.rbegin(); xid != earlier.running.rend(); ++xid) {
        if (!later.sees(*xid))
            continue;
        if (range.from - *xid <= near)
            range.from = *xid;
        else
            single.push_back(*xid);
    }
    return range;
}

} // namespace tasker::core
