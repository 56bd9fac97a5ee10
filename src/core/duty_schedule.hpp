// When the worker's duties run.
//
// A duty runs once per period, counted from start to start, sooner when somebody asks for it, and with a
// growing back-off while it fails. The clock is an argument, so that tests can move it; it may step either
// way.
#pragma once

#include "core/arithmetic.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

namespace tasker::core {

inline constexpr int64_t kDutyBackoffMinUs = kUsPerSecond;
inline constexpr int64_t kDutyBackoffMaxUs = 5 * kUsPerMinute;

/// Returns how long a duty rests after its `failures`th failure in a row: 1 s, doubled each time, at most 5
/// minutes.
constexpr int64_t duty_backoff_us(int failures)
{
    const int shift = std::clamp(failures - 1, 0, 16);
    return std::min(kDutyBackoffMinUs << shift, kDutyBackoffMaxUs);
}

/// The times of one duty. All times are microseconds since 1970. The order of calls is: is_due(), start(),
/// the duty itself, then after_success() or after_failure(); request_now() may come at any moment. Whoever
/// shares a DutyTimes between processes calls under a lock.
struct DutyTimes
{
    int64_t period_us;     // 0 or less: runs only when asked for
    int64_t last_start_us; // 0: has never run
    int64_t next_due_us;   // 0: due at once; INT64_MAX: only when asked for
    int failures;          // in a row, up to the last run

    /// Tells whether the duty is to be run now. A due time further away than the schedule can ever put it
    /// means that the clock has stepped back; it is then brought back, so that no duty stalls for the length
    /// of the step.
    constexpr bool is_due(int64_t now_us)
    {
        next_due_us = effective_due_us(now_us);
        return next_due_us <= now_us;
    }

    /// Notes that the duty starts. Sets the next regular time, so that a duty whose process dies in the
    /// middle is not started again at once.
    constexpr void start(int64_t now_us)
    {
        last_start_us = now_us;
        next_due_us = regular_due_us(now_us, now_us);
    }

    /// Plans the next run after one that went well: a period after its start; a period from now when it took
    /// longer than that; at once when request_now() was called while it ran.
    constexpr void after_success(int64_t now_us)
    {
        const bool requested_since_start = next_due_us > last_start_us && next_due_us <= now_us &&
                                           next_due_us < saturating_add(last_start_us, period_or_never());
        failures = 0;
        if (!requested_since_start)
            next_due_us = regular_due_us(last_start_us, now_us);
    }

    /// Plans the next run after one that failed: duty_backoff_us() from now, however long or short the period
    /// is. A duty that runs only when asked for is tried again too.
    constexpr void after_failure(int64_t now_us)
    {
        if (failures < std::numeric_limits<int>::max())
            ++failures;
        next_due_us = saturating_add(now_us, duty_backoff_us(failures));
    }

    /// Makes the duty due now; never later than it was. While it fails, requests are served once a second at
    /// most, so that many of them do not turn a broken duty into a busy loop.
    constexpr void request_now(int64_t now_us)
    {
        // after_success() takes a due time past the start for a request.
        last_start_us = std::min(last_start_us, saturating_sub(now_us, 1));
        const int64_t earliest =
            failures > 0 ? std::max(saturating_add(last_start_us, kDutyBackoffMinUs), now_us) : now_us;
        next_due_us = std::min(next_due_us, earliest);
    }

    /// Returns when the duty is due: next_due_us, but not further away than the schedule can put it.
    constexpr int64_t effective_due_us(int64_t now_us) const
    {
        if (failures > 0)
            return std::min(next_due_us, saturating_add(now_us, duty_backoff_us(failures)));
        return std::min(next_due_us, saturating_add(now_us, period_or_never()));
    }

  private:
    constexpr int64_t period_or_never() const { return period_us > 0 ? period_us : kInt64Max; }

    constexpr int64_t regular_due_us(int64_t started_us, int64_t now_us) const
    {
        const int64_t period = period_or_never();
        const int64_t due = saturating_add(started_us, period);
        const int64_t latest = saturating_add(now_us, period);
        return due <= now_us ? latest : std::min(due, latest);
    }
};

static_assert(std::is_trivially_copyable_v<DutyTimes> && std::is_trivially_destructible_v<DutyTimes>);

/// Returns the time until which a worker with these duties may sleep: the earliest due time, `now_us` when
/// one is due already, INT64_MAX when there is none to wait for.
constexpr int64_t next_wakeup(std::span<const DutyTimes> duties, int64_t now_us)
{
    int64_t earliest = kInt64Max;
    for (const DutyTimes &duty : duties)
        earliest = std::min(earliest, duty.effective_due_us(now_us));
    return std::max(earliest, now_us);
}

} // namespace tasker::core
