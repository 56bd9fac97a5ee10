#include "core/task_priority.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

namespace tasker::core {
namespace {

constexpr int64_t kHour = kMsPerHour;

TEST(TaskPriority, RisesWhileFresh)
{
    EXPECT_DOUBLE_EQ(computed_priority(3, 0), 3.0);
    EXPECT_DOUBLE_EQ(computed_priority(3, kHour / 2), 3.05);
    EXPECT_NEAR(computed_priority(3, kHour - 1), 3.1, 1e-6);
    EXPECT_DOUBLE_EQ(computed_priority(0, kHour / 4), 0.025);
}

TEST(TaskPriority, DecaysFromAnHourOn)
{
    EXPECT_DOUBLE_EQ(computed_priority(9, kHour), 9 * std::exp(-1.0 / 12));
    EXPECT_DOUBLE_EQ(computed_priority(9, 12 * kHour), 9 * std::exp(-1.0));
    EXPECT_DOUBLE_EQ(computed_priority(0, 12 * kHour), 0.0);
}

TEST(TaskPriority, IsTheSameForAllThatAreOld)
{
    for (int priority = 0; priority <= 9; priority++) {
        EXPECT_DOUBLE_EQ(computed_priority(priority, 24 * kHour), 0.1);
        EXPECT_DOUBLE_EQ(computed_priority(priority, 1000 * kHour), 0.1);
    }
}

TEST(TaskPriority, TakesWhatLiesAheadAsJustReady)
{
    EXPECT_DOUBLE_EQ(computed_priority(5, -1), 5.0);
    EXPECT_EQ(age_band(-1), AgeBand::fresh);
}

TEST(TaskPriority, BandsMeetWithoutAGap)
{
    int64_t next = 0;
    for (int i = 0; i < kAgeBandCount; i++) {
        const auto band = static_cast<AgeBand>(i);
        const AgeRange ages = ages_of(band);
        EXPECT_EQ(ages.lowest_ms, next);
        EXPECT_EQ(age_band(ages.lowest_ms), band);
        EXPECT_EQ(age_band(ages.highest_ms), band);
        next = ages.highest_ms + (ages.highest_ms < kInt64Max ? 1 : 0);
    }
    EXPECT_EQ(next, kInt64Max);
}

// What the scan relies on: within a band and a priority the order of ages is the order of what they count.
TEST(TaskPriority, KeepsTheOrderOfAgesInEachBand)
{
    test::Random random(7);
    for (int i = 0; i < 20000; i++) {
        const auto band = static_cast<AgeBand>(random.between(0, 2));
        const int priority = static_cast<int>(random.between(0, 9));
        const AgeRange ages = ages_of(band);
        const int64_t span = std::min<int64_t>(ages.highest_ms - ages.lowest_ms, 90 * 24 * kHour);
        int64_t younger = ages.lowest_ms + random.between(0, span);
        int64_t older = ages.lowest_ms + random.between(0, span);
        if (younger > older)
            std::swap(younger, older);
        if (youngest_first(band, priority))
            EXPECT_GE(computed_priority(priority, younger), computed_priority(priority, older));
        else
            EXPECT_LE(computed_priority(priority, younger), computed_priority(priority, older));
    }
}

TEST(TaskPriority, IsBoundedByTheHighestOfARange)
{
    test::Random random(11);
    for (int i = 0; i < 20000; i++) {
        const auto band = static_cast<AgeBand>(random.between(0, 2));
        const int priority = static_cast<int>(random.between(0, 9));
        AgeRange ages = ages_of(band);
        ages.highest_ms = std::min<int64_t>(ages.highest_ms, 90 * 24 * kHour);
        ages.lowest_ms += random.between(0, kHour / 2);
        const int64_t age = random.between(ages.lowest_ms, ages.highest_ms);
        EXPECT_LE(computed_priority(priority, age), highest_priority(band, priority, ages));
    }
}

} // namespace
} // namespace tasker::core
