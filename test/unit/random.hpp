// Random input for the property tests. Seeds are fixed, so that a failure comes back.
#pragma once

#include "core/arithmetic.hpp"

#include <cstdint>
#include <random>

namespace tasker::test {

class Random
{
  public:
    explicit Random(uint64_t seed) : engine_(seed) {}

    /// Returns an integer in [low, high].
    int64_t between(int64_t low, int64_t high)
    {
        return std::uniform_int_distribution<int64_t>(low, high)(engine_);
    }

    /// Returns true once in `n` times.
    bool one_in(int n) { return between(1, n) == 1; }

    /// Returns a number in [0, 1).
    double uniform01() { return std::uniform_real_distribution<double>(0.0, 1.0)(engine_); }

    /// Returns any int64_t: of every order of magnitude, of both signs, and often right at an end of the
    /// type.
    int64_t any_int64()
    {
        switch (between(0, 5)) {
        case 0:
            return core::kInt64Min + between(0, 3);
        case 1:
            return core::kInt64Max - between(0, 3);
        case 2:
            return between(-3, 3);
        default:
            return static_cast<int64_t>(engine_()) >> between(0, 62);
        }
    }

  private:
    std::mt19937_64 engine_;
};

/// Returns the nearest int64_t: what the saturating functions promise, written with wider integers.
__extension__ using Int128 = __int128;

inline int64_t saturate(Int128 value)
{
    if (value > core::kInt64Max)
        return core::kInt64Max;
    if (value < core::kInt64Min)
        return core::kInt64Min;
    return static_cast<int64_t>(value);
}

} // namespace tasker::test
