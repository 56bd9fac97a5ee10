// The rate limit of a flow: a bucket that fills evenly and from which each claimed record takes a token.
#pragma once

#include "core/arithmetic.hpp"

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace tasker::core {

/// Token bucket. Lives in shared memory; all calls are made under a lock that the caller holds. All bytes
/// zero is a valid bucket, and a full one: it was last filled in 1970.
///
/// Rates are tokens per second; a rate that is not above zero (or NaN) gives no token at all. The rate may
/// change from one call to the next.
struct TokenBucket
{
    double tokens;   // below zero after more was taken than there was
    int64_t last_us; // the time up to which `tokens` counts

    /// Returns how many tokens may gather while nobody takes any: what one second brings, but at least one.
    static constexpr double burst_of(double rate_per_second) { return std::max(1.0, rate_per_second); }

    /// Fills up to `now_us` and returns how many whole tokens there are, never below zero. Calling it again
    /// at the same time changes nothing. When the clock has stepped back nothing is filled in, and filling
    /// goes on from the new time.
    constexpr int64_t available(double rate_per_second, double burst, int64_t now_us)
    {
        tokens = tokens_at(rate_per_second, burst, now_us);
        last_us = now_us;
        return rate_per_second > 0 ? whole(tokens) : 0;
    }

    /// Takes `n` tokens; callers ask available() first. Taking more leaves a debt that has to fill up again.
    constexpr void take(int64_t n) { tokens -= static_cast<double>(n); }

    /// Gives back what was taken and not used (the scan found fewer records). What exceeds the burst is lost
    /// at the next available().
    constexpr void give_back(int64_t n) { tokens += static_cast<double>(n); }

    /// Returns in how many microseconds `n` tokens will be there if nobody takes any, 0 when they are there
    /// now, INT64_MAX when the rate gives none. More than the burst can never gather: a larger `n` counts as
    /// the burst.
    constexpr int64_t us_until(int64_t n, double rate_per_second, double burst, int64_t now_us) const
    {
        if (!(rate_per_second > 0))
            return kInt64Max;
        const double wanted = std::min(static_cast<double>(n), static_cast<double>(whole(burst)));
        const double missing = wanted - tokens_at(rate_per_second, burst, now_us);
        if (missing <= kTolerance)
            return 0;
        const double us = missing / rate_per_second * static_cast<double>(kUsPerSecond);
        if (us >= static_cast<double>(kInt64Max))
            return kInt64Max;
        const auto rounded_down = static_cast<int64_t>(us);
        return rounded_down + (static_cast<double>(rounded_down) < us ? 1 : 0);
    }

  private:
    // A millionth of a token: without it a token summed up of many fractions is late by one rounding error.
    static constexpr double kTolerance = 1e-6;

    static constexpr int64_t whole(double amount)
    {
        const double rounded = amount + kTolerance;
        if (!(rounded > 0))
            return 0;
        return rounded >= static_cast<double>(kInt64Max) ? kInt64Max : static_cast<int64_t>(rounded);
    }

    constexpr double tokens_at(double rate_per_second, double burst, int64_t now_us) const
    {
        const int64_t elapsed = std::max<int64_t>(saturating_sub(now_us, last_us), 0);
        if (elapsed == 0 || !(rate_per_second > 0))
            return std::min(tokens, burst);
        const double filled =
            tokens + static_cast<double>(elapsed) / static_cast<double>(kUsPerSecond) * rate_per_second;
        return std::min(filled, burst);
    }
};

static_assert(std::is_trivial_v<TokenBucket>);

} // namespace tasker::core
