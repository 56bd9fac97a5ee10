// Ticks and events of one server on another one, whose transaction ids have nothing to do with theirs.
//
// What counts of a transaction id is between which ticks it lies. So all events between two neighbouring
// ticks get one new id, and each tick a snapshot that sees the ids before it and none after it. The ids are
// the last ones that ended on the new server before the oldest transaction that still runs there: nobody will
// ever get one again, the first tick that is made there sees them all, and no tick that is brought along sees
// what is still running there.
//
//     kept ticks            0        1        2   ...   n - 1
//     events        read by  group 0  group 1  ...        group n - 1   (not in any tick yet)
//     by first tick seen    all
//     new id                 base + 1 base + 2            base + n
//
// Tick k sees ids up to base + k: that is what the events before it have got.
#pragma once

#include "core/tick_snapshot.hpp"

#include <cstddef>
#include <optional>

namespace tasker::core {

/// Did each of these come after the one before it, on one server?
constexpr bool are_successive(std::span<const TickSnapshot> ticks)
{
    for (size_t i = 1; i < ticks.size(); ++i) {
        if (!follows(ticks[i], ticks[i - 1]))
            return false;
    }
    return true;
}

/// Returns the number of the first tick that sees the transaction, or the number of ticks when none does.
/// `successive` is what are_successive() says; else each tick is asked.
constexpr size_t first_seeing(std::span<const TickSnapshot> ticks, uint64_t xid, bool successive)
{
    const auto sees = [xid](const TickSnapshot &tick) { return tick.sees(xid); };
    const auto found = successive
                           ? std::partition_point(ticks.begin(), ticks.end(),
                                                  [&](const TickSnapshot &tick) { return !sees(tick); })
                           : std::find_if(ticks.begin(), ticks.end(), sees);
    return static_cast<size_t>(found - ticks.begin());
}

/// New ids for the events and new snapshots for the ticks of a queue.
class Rebase
{
  public:
    /// `oldest_running`: no transaction with a lower id runs on the new server, or will.
    constexpr Rebase(uint64_t oldest_running, size_t ticks) : base_(oldest_running - 1 - ticks) {}

    /// How many ticks can be kept: there must be so many ids that have ended, and 0 is none.
    static constexpr size_t most_ticks(uint64_t oldest_running)
    {
        return oldest_running < 3 ? 0 : static_cast<size_t>(oldest_running - 2);
    }

    /// The new id of an event that is first seen by that tick; nothing where the first tick sees it, so that
    /// everybody has read it.
    constexpr std::optional<uint64_t> event(size_t first_seeing) const
    {
        return first_seeing == 0 ? std::nullopt : std::optional(base_ + first_seeing);
    }

    /// The new snapshot of a tick.
    constexpr TickSnapshot tick(size_t number) const { return {base_ + number + 1, base_ + number + 1, {}}; }

    /// An id that is below all of these.
    constexpr uint64_t before_all() const { return base_; }

  private:
    uint64_t base_;
};

/// Chooses which ticks are kept when there is room for `limit` only: those in use, and of the others as many
/// as there is room for, evenly. Returns whether tick `number` of `count` is. More than `limit` are kept when
/// more are in use.
class Thinning
{
  public:
    constexpr Thinning(size_t count, size_t in_use, size_t limit)
        : others_(count - in_use), room_(std::min(others_, limit > in_use ? limit - in_use : 0))
    {
    }

    /// Asked once for each, in order.
    constexpr bool keeps(bool is_in_use)
    {
        if (is_in_use)
            return true;
        ++seen_;
        if (seen_ * room_ / others_ == kept_)
            return false;
        ++kept_;
        return true;
    }

  private:
    size_t others_;
    size_t room_;
    size_t seen_ = 0;
    size_t kept_ = 0;
};

} // namespace tasker::core
