#include "core/tick_schedule.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

namespace tasker::core {
namespace {

constexpr int64_t kNow = 1'795'237'505'123'456;

TickRhythm rhythm_of(int64_t min_interval_us, int64_t max_lag_us)
{
    return {min_interval_us, max_lag_us, 0, 0};
}

TEST(TickSchedule, TheFirstTickIsDueAtOnce)
{
    const TickRhythm rhythm = rhythm_of(kUsPerMs, 3 * kUsPerSecond);
    EXPECT_EQ(rhythm.due_us(kNow, kNow, false), kNow);
    EXPECT_EQ(rhythm.due_us(kNow, kNow, true), kNow);
}

TEST(TickSchedule, AWantedTickComesAtTheEndOfTheInterval)
{
    TickRhythm rhythm = rhythm_of(10 * kUsPerMs, 3 * kUsPerSecond);
    rhythm.ticked(kNow, true);
    EXPECT_EQ(rhythm.due_us(kNow + 1, kNow + 1, true), kNow + 10 * kUsPerMs);
    EXPECT_EQ(rhythm.due_us(kNow + kUsPerSecond, kNow + kUsPerSecond, true), kNow + kUsPerSecond);
}

TEST(TickSchedule, TicksThatNobodyWantsGrowRarer)
{
    TickRhythm rhythm = rhythm_of(kUsPerMs, 100 * kUsPerMs);
    int64_t now = kNow;
    rhythm.ticked(now, true);
    for (const int64_t gap : {1, 2, 4, 8, 16, 32, 64, 100, 100}) {
        const int64_t due = rhythm.due_us(now, now, false);
        EXPECT_EQ(due - now, gap * kUsPerMs);
        now = due;
        rhythm.ticked(now, false);
    }
    rhythm.ticked(now, true); // somebody came: it begins anew
    EXPECT_EQ(rhythm.due_us(now, now, false) - now, kUsPerMs);
}

TEST(TickSchedule, NoEventWaitsLongerThanTheLag)
{
    TickRhythm rhythm = rhythm_of(kUsPerMs, kUsPerSecond);
    rhythm.ticked(kNow, false);
    rhythm.gap_us = kUsPerHour;
    EXPECT_EQ(rhythm.due_us(kNow + 5, kNow + 5, false), kNow + 5 + kUsPerSecond);
}

TEST(TickSchedule, TheIntervalIsKeptEvenWhereTheLagIsShorter)
{
    TickRhythm rhythm = rhythm_of(kUsPerSecond, 0);
    rhythm.ticked(kNow, false);
    EXPECT_EQ(rhythm.due_us(kNow, kNow, false), kNow + kUsPerSecond);
    EXPECT_EQ(rhythm.due_us(kNow, kNow, true), kNow + kUsPerSecond);
}

TEST(TickSchedule, AStepBackOfTheClockDelaysNoTickByMoreThanItsInterval)
{
    TickRhythm rhythm = rhythm_of(kUsPerMs, kUsPerSecond);
    rhythm.ticked(kNow, true);
    const int64_t earlier = kNow - kUsPerHour;
    EXPECT_EQ(rhythm.due_us(earlier, kNow, true), earlier + kUsPerMs);
    EXPECT_LE(rhythm.due_us(earlier, kNow, false), earlier + kUsPerSecond);
}

// Whatever comes, whenever: the promises of the header hold.
TEST(TickSchedule, PromisesHoldForAnyCourse)
{
    test::Random random(17);
    for (int course = 0; course < 2000; course++) {
        const int64_t interval = random.between(1, 100) * kUsPerMs;
        const int64_t lag = random.between(0, 5000) * kUsPerMs;
        TickRhythm rhythm = rhythm_of(interval, lag);
        int64_t now = kNow;
        for (int tick = 0; tick < 50; tick++) {
            const int64_t dirty_since = now + random.between(0, 2000) * kUsPerMs;
            const bool urgent = random.one_in(3);
            const int64_t due = rhythm.due_us(dirty_since, dirty_since, urgent);
            ASSERT_GE(due, dirty_since);
            ASSERT_GE(due - rhythm.last_tick_us, interval);
            ASSERT_LE(due, std::max(dirty_since + lag, rhythm.last_tick_us + interval));
            if (urgent) {
                ASSERT_EQ(due, std::max(dirty_since, rhythm.last_tick_us + interval));
            }
            // Asked again later, before it is due, it says the same.
            const int64_t later = random.between(dirty_since, due);
            ASSERT_EQ(rhythm.due_us(later, dirty_since, urgent), due);
            now = due;
            rhythm.ticked(now, urgent);
        }
    }
}

} // namespace
} // namespace tasker::core
