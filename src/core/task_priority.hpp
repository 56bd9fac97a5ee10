// How a ready step counts against others: its priority, changed by how long it has been ready.
//
//    fresh      less than an hour        priority + 0.1 for each hour
//    decaying   less than a day          priority * exp(-hours / 12)
//    old        a day and more           0.1, whatever its priority
//
// The numbers and the shape are tasker-core's (get_next_ready_tasks). In each band the order of steps of one
// priority does not depend on the clock: fresh ones come with the oldest first, decaying ones with the
// youngest first, and of old ones, which are all alike, those that have waited longest. So an index on the
// time from which a step is ready serves every band, and only the three bands have to be merged.
//
// Ages are whole milliseconds, as the queue's positions carry them.
#pragma once

#include "core/arithmetic.hpp"

#include <cmath>
#include <cstdint>

namespace tasker::core {

enum class AgeBand : uint8_t
{
    fresh,
    decaying,
    old,
};
inline constexpr int kAgeBandCount = 3;

inline constexpr int64_t kMsPerHour = 3'600'000;
inline constexpr int64_t kDecayingFromMs = kMsPerHour;
inline constexpr int64_t kOldFromMs = 24 * kMsPerHour;
inline constexpr double kGainPerHour = 0.1;
inline constexpr double kDecayHours = 12.0;
inline constexpr double kOldPriority = 0.1;

/// Returns the band of a step that has been ready for so long; less than 0 counts as 0.
constexpr AgeBand age_band(int64_t age_ms)
{
    if (age_ms < kDecayingFromMs)
        return AgeBand::fresh;
    return age_ms < kOldFromMs ? AgeBand::decaying : AgeBand::old;
}

/// Returns what the step counts, for a priority of 0 or more.
inline double computed_priority(int priority, int64_t age_ms)
{
    const double hours = static_cast<double>(age_ms < 0 ? 0 : age_ms) / static_cast<double>(kMsPerHour);
    switch (age_band(age_ms)) {
    case AgeBand::fresh:
        return priority + kGainPerHour * hours;
    case AgeBand::decaying:
        return priority * std::exp(-hours / kDecayHours);
    case AgeBand::old:
        break;
    }
    return kOldPriority;
}

/// Does the youngest of a band come first? Without a priority nothing decays: all are 0, and come like the
/// old ones.
constexpr bool youngest_first(AgeBand band, int priority)
{
    return band == AgeBand::decaying && priority > 0;
}

/// The ages of a band, from the lowest to the highest; the old have no limit.
struct AgeRange
{
    int64_t lowest_ms;
    int64_t highest_ms;
};

/// Returns the ages that belong to a band.
constexpr AgeRange ages_of(AgeBand band)
{
    switch (band) {
    case AgeBand::fresh:
        return {0, kDecayingFromMs - 1};
    case AgeBand::decaying:
        return {kDecayingFromMs, kOldFromMs - 1};
    case AgeBand::old:
        break;
    }
    return {kOldFromMs, kInt64Max};
}

/// Returns the most that a step of the band can count whose age is in the range (which must meet the band):
/// an upper bound that is reached.
inline double highest_priority(AgeBand band, int priority, AgeRange ages)
{
    return computed_priority(priority, band == AgeBand::fresh ? ages.highest_ms : ages.lowest_ms);
}

} // namespace tasker::core
