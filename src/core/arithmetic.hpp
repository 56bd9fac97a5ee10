// Integer arithmetic that the rest of the core builds on: floor division, saturation, units of time.
//
// Times are microseconds since 1970-01-01 00:00 UTC in an int64_t ("unix_us"), which reaches about 292,000
// years either way. Nothing here overflows: a result that does not fit becomes the nearest value that does,
// since for bounds, floors and due times "as far away as can be said" is what an overflow means.
#pragma once

#include <cstdint>
#include <limits>

namespace tasker::core {

inline constexpr int64_t kUsPerMs = 1000;
inline constexpr int64_t kUsPerSecond = 1000 * kUsPerMs;
inline constexpr int64_t kUsPerMinute = 60 * kUsPerSecond;
inline constexpr int64_t kUsPerHour = 60 * kUsPerMinute;
inline constexpr int64_t kUsPerDay = 24 * kUsPerHour;
inline constexpr int64_t kUsPerWeek = 7 * kUsPerDay;

inline constexpr int64_t kInt64Min = std::numeric_limits<int64_t>::min();
inline constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();

/// Divides and rounds towards minus infinity. The divisor must be positive.
constexpr int64_t floor_div(int64_t dividend, int64_t divisor)
{
    return dividend / divisor - (dividend % divisor < 0 ? 1 : 0);
}

/// Returns what floor_div leaves, always in [0, divisor). The divisor must be positive.
constexpr int64_t floor_mod(int64_t dividend, int64_t divisor)
{
    const int64_t remainder = dividend % divisor;
    return remainder < 0 ? remainder + divisor : remainder;
}

/// Adds; a sum that does not fit becomes the nearest int64_t.
constexpr int64_t saturating_add(int64_t a, int64_t b)
{
    int64_t sum = 0;
    if (!__builtin_add_overflow(a, b, &sum))
        return sum;
    return b < 0 ? kInt64Min : kInt64Max;
}

/// Subtracts; a difference that does not fit becomes the nearest int64_t.
constexpr int64_t saturating_sub(int64_t a, int64_t b)
{
    int64_t difference = 0;
    if (!__builtin_sub_overflow(a, b, &difference))
        return difference;
    return b < 0 ? kInt64Max : kInt64Min;
}

/// Multiplies; a product that does not fit becomes the nearest int64_t.
constexpr int64_t saturating_mul(int64_t a, int64_t b)
{
    int64_t product = 0;
    if (!__builtin_mul_overflow(a, b, &product))
        return product;
    return (a < 0) == (b < 0) ? kInt64Max : kInt64Min;
}

} // namespace tasker::core
