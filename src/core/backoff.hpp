// How long a failed record or step waits before its next attempt.
//
// Exponential with a cap, and jitter around it, so that what failed together does not come back together (M.
// Brooker, "Exponential Backoff And Jitter", 2015).
#pragma once

#include "core/arithmetic.hpp"

#include <algorithm>
#include <cstdint>

namespace tasker::core {

/// A flow's settings. Durations in microseconds; `jitter` is the fraction of the delay by which it may be
/// longer or shorter, 0 (none) to 1.
struct BackoffPolicy
{
    int64_t base_us;
    int64_t max_us;
    double jitter;
};

/// Returns the delay before jitter: base * 2^(attempt - 1), at most max. `attempt` is 1 after the first
/// failure; less counts as 1. A base or maximum below zero counts as zero.
constexpr int64_t backoff_without_jitter_us(const BackoffPolicy &policy, int attempt)
{
    const int64_t max = std::max<int64_t>(policy.max_us, 0);
    const int64_t base = std::clamp<int64_t>(policy.base_us, 0, max);
    const int shift = std::max(attempt, 1) - 1;

    if (base == 0)
        return 0;
    return shift >= 63 || base > (max >> shift) ? max : base << shift;
}

/// Returns how many microseconds to wait after failure number `attempt`: with d the delay before jitter, a
/// value in [(1 - jitter) * d, (1 + jitter) * d], evenly spread by `uniform01` (a random number in [0, 1)),
/// then capped to the maximum. Never negative and never overflows: attempts below 1 count as 1, jitter and
/// uniform01 are clamped to [0, 1], and a NaN means no jitter.
constexpr int64_t backoff_us(const BackoffPolicy &policy, int attempt, double uniform01)
{
    const int64_t delay = backoff_without_jitter_us(policy, attempt);
    const double jitter = policy.jitter > 0 ? std::min(policy.jitter, 1.0) : 0.0;
    const double uniform = uniform01 == uniform01 ? std::clamp(uniform01, 0.0, 1.0) : 0.5;
    const double shift = static_cast<double>(delay) * jitter * (2.0 * uniform - 1.0);

    // The comparisons come before the casts: 2^63 is a double that no int64_t can hold. The double of an
    // int64_t may have been rounded up, but no double lies between the two.
    if (shift >= 0) {
        const int64_t room = std::max<int64_t>(policy.max_us, 0) - delay;
        return shift >= static_cast<double>(room) ? delay + room : delay + static_cast<int64_t>(shift);
    }
    return -shift >= static_cast<double>(delay) ? 0 : delay + static_cast<int64_t>(shift);
}

} // namespace tasker::core
