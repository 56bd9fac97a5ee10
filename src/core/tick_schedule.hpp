// When a queue that has new events gets its next tick.
//
// Ticks follow commits, and no two of one queue are nearer than its minimum interval. That is what a queue
// gets whose consumers ask for more: one that found no batch marks the queue as wanted. While nobody asks,
// each tick waits twice as long after the one before as that one did: consumers that cannot keep up, or come
// by only now and then, find a few large batches and not a thousand small ones a second. No event waits for
// longer than the longest lag all the same, nor behind more events than the queue's limit.
#pragma once

#include "core/arithmetic.hpp"

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace tasker::core {

/// The rhythm of one queue. All times are microseconds of one clock, which may step either way.
struct TickRhythm
{
    int64_t min_interval_us; // between two ticks, in any case
    int64_t max_lag_us;      // an event waits no longer, but for min_interval_us
    int64_t last_tick_us;    // 0: none yet
    int64_t gap_us;          // to the next tick while nobody asks

    /// Returns when the next tick is due: now, or later. `urgent`: somebody wants it, or enough events wait.
    constexpr int64_t due_us(int64_t now_us, int64_t dirty_since_us, bool urgent) const
    {
        // After a step back of the clock the last tick seems to lie ahead: it counts as made now.
        const int64_t last = std::min(last_tick_us, now_us);
        const int64_t since = std::min(dirty_since_us, now_us);
        const int64_t earliest = saturating_add(last, min_interval_us);
        if (urgent)
            return std::max(earliest, now_us);
        const int64_t lazy = saturating_add(last, gap_us);
        const int64_t latest = saturating_add(since, max_lag_us);
        return std::max({earliest, std::min(lazy, latest), now_us});
    }

    /// Notes a tick, and whether somebody had wanted it.
    constexpr void ticked(int64_t now_us, bool wanted)
    {
        last_tick_us = now_us;
        gap_us = wanted ? min_interval_us
                        : std::min(saturating_add(std::max(gap_us, min_interval_us),
                                                  std::max(gap_us, min_interval_us)),
                                   std::max(max_lag_us, min_interval_us));
    }
};

static_assert(std::is_trivially_copyable_v<TickRhythm> && std::is_trivially_destructible_v<TickRhythm>);

} // namespace tasker::core
