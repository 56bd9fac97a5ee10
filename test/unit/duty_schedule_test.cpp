#include "core/duty_schedule.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <vector>

namespace tasker::core {
namespace {

constexpr int64_t kNow = 1'795'237'505'123'456;
constexpr int64_t kSecond = kUsPerSecond;

DutyTimes duty_of(int64_t period_us)
{
    return {period_us, 0, 0, 0};
}

/// Runs a duty that takes `duration_us` and returns the time at which it ended.
int64_t run(DutyTimes &duty, int64_t now_us, int64_t duration_us = 0, bool succeeds = true)
{
    duty.start(now_us);
    if (succeeds)
        duty.after_success(now_us + duration_us);
    else
        duty.after_failure(now_us + duration_us);
    return now_us + duration_us;
}

TEST(DutySchedule, ANewDutyIsDueAtOnce)
{
    DutyTimes duty = duty_of(10 * kSecond);
    EXPECT_TRUE(duty.is_due(kNow));
}

TEST(DutySchedule, CountsThePeriodFromStartToStart)
{
    DutyTimes duty = duty_of(10 * kSecond);
    run(duty, kNow, 3 * kSecond);
    EXPECT_EQ(duty.last_start_us, kNow);
    EXPECT_EQ(duty.next_due_us, kNow + 10 * kSecond);
    EXPECT_FALSE(duty.is_due(kNow + 10 * kSecond - 1));
    EXPECT_TRUE(duty.is_due(kNow + 10 * kSecond));
}

TEST(DutySchedule, ADutyLongerThanItsPeriodRestsForOne)
{
    DutyTimes duty = duty_of(10 * kSecond);
    run(duty, kNow, 25 * kSecond);
    EXPECT_EQ(duty.next_due_us, kNow + 35 * kSecond);
}

TEST(DutySchedule, ADutyThatDiedInTheMiddleWaitsForItsPeriod)
{
    DutyTimes duty = duty_of(10 * kSecond);
    duty.start(kNow);
    EXPECT_FALSE(duty.is_due(kNow + 1));
    EXPECT_TRUE(duty.is_due(kNow + 10 * kSecond));
}

TEST(DutySchedule, WorksWithoutStart)
{
    DutyTimes duty = duty_of(10 * kSecond);
    duty.next_due_us = kNow - 5;
    duty.last_start_us = kNow;
    duty.after_success(kNow + kSecond);
    EXPECT_EQ(duty.next_due_us, kNow + 10 * kSecond);
}

TEST(DutySchedule, BacksOffFromOneSecondToFiveMinutes)
{
    DutyTimes duty = duty_of(kUsPerDay);
    int64_t now_us = kNow;
    for (const int64_t seconds : {1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300}) {
        ASSERT_TRUE(duty.is_due(now_us));
        now_us = run(duty, now_us, 7 * kSecond, false);
        EXPECT_EQ(duty.next_due_us, now_us + seconds * kSecond);
        EXPECT_FALSE(duty.is_due(duty.next_due_us - 1));
        now_us += seconds * kSecond;
    }
    EXPECT_EQ(duty.failures, 12);
    run(duty, now_us);
    EXPECT_EQ(duty.failures, 0);
    EXPECT_EQ(duty.next_due_us, now_us + kUsPerDay);
}

TEST(DutySchedule, BacksOffBeyondAShortPeriod)
{
    DutyTimes duty = duty_of(50 * kUsPerMs);
    for (int i = 0; i < 4; ++i)
        run(duty, kNow, 0, false);
    EXPECT_EQ(duty.next_due_us, kNow + 8 * kSecond);
    EXPECT_FALSE(duty.is_due(kNow + 7 * kSecond));
}

TEST(DutySchedule, CountsFailuresWithoutOverflow)
{
    DutyTimes duty = duty_of(kSecond);
    duty.failures = std::numeric_limits<int>::max();
    duty.after_failure(kNow);
    EXPECT_EQ(duty.failures, std::numeric_limits<int>::max());
    EXPECT_EQ(duty.next_due_us, kNow + 300 * kSecond);
    static_assert(duty_backoff_us(0) == kSecond && duty_backoff_us(-5) == kSecond);
}

TEST(DutySchedule, ARequestMakesItDue)
{
    DutyTimes duty = duty_of(kUsPerHour);
    run(duty, kNow);
    EXPECT_FALSE(duty.is_due(kNow + kSecond));
    duty.request_now(kNow + kSecond);
    EXPECT_TRUE(duty.is_due(kNow + kSecond));
    run(duty, kNow + kSecond);
    EXPECT_EQ(duty.next_due_us, kNow + kSecond + kUsPerHour);
}

TEST(DutySchedule, ARequestNeverDelays)
{
    DutyTimes duty = duty_of(kUsPerHour);
    duty.next_due_us = kNow - 50;
    duty.request_now(kNow);
    EXPECT_EQ(duty.next_due_us, kNow - 50);
}

TEST(DutySchedule, ARequestDuringTheRunIsServedAfterIt)
{
    DutyTimes duty = duty_of(kUsPerHour);
    duty.start(kNow);
    duty.request_now(kNow); // even in the same microsecond
    duty.after_success(kNow + kSecond);
    EXPECT_TRUE(duty.is_due(kNow + kSecond));
    run(duty, kNow + kSecond);
    EXPECT_FALSE(duty.is_due(kNow + 2 * kSecond));
}

TEST(DutySchedule, RequestsDoNotTurnABrokenDutyIntoABusyLoop)
{
    DutyTimes duty = duty_of(10 * kUsPerMs);
    int64_t now_us = kNow;
    int runs = 0;
    for (; now_us < kNow + 60 * kSecond; now_us += kUsPerMs) {
        duty.request_now(now_us);
        if (duty.is_due(now_us)) {
            run(duty, now_us, 0, false);
            ++runs;
        }
    }
    EXPECT_GE(runs, 58); // and a request is served within a second
    EXPECT_LE(runs, 61);
}

TEST(DutySchedule, ADutyOnRequestOnly)
{
    DutyTimes duty{0, 0, kInt64Max, 0};
    EXPECT_FALSE(duty.is_due(kNow));
    EXPECT_EQ(next_wakeup({&duty, 1}, kNow), kInt64Max);
    duty.request_now(kNow);
    EXPECT_TRUE(duty.is_due(kNow));
    run(duty, kNow, 0, false);
    EXPECT_EQ(duty.next_due_us, kNow + kSecond); // tried again
    run(duty, kNow + kSecond);
    EXPECT_EQ(duty.next_due_us, kInt64Max);
    EXPECT_FALSE(duty.is_due(kNow + kUsPerDay));
}

TEST(DutySchedule, AClockThatStepsBackStallsNothing)
{
    DutyTimes duty = duty_of(10 * kSecond);
    run(duty, kNow);
    const int64_t back = kNow - kUsPerHour;
    EXPECT_FALSE(duty.is_due(back));
    EXPECT_LE(duty.next_due_us, back + 10 * kSecond);
    EXPECT_TRUE(duty.is_due(back + 10 * kSecond));

    run(duty, kNow, 0, false);
    EXPECT_FALSE(duty.is_due(back));
    EXPECT_TRUE(duty.is_due(back + kSecond));

    run(duty, kNow); // and a request is served at once
    duty.request_now(back);
    EXPECT_TRUE(duty.is_due(back));
}

TEST(DutySchedule, AClockThatStepsBackDuringTheRunStallsNothing)
{
    DutyTimes duty = duty_of(10 * kSecond);
    duty.start(kNow);
    duty.after_success(kNow - kUsPerHour);
    EXPECT_EQ(duty.next_due_us, kNow - kUsPerHour + 10 * kSecond);
}

TEST(DutySchedule, WakesForTheEarliestDuty)
{
    std::array<DutyTimes, 3> duties{duty_of(kUsPerHour), duty_of(10 * kSecond), duty_of(0)};
    for (DutyTimes &duty : duties)
        run(duty, kNow);
    EXPECT_EQ(next_wakeup(duties, kNow), kNow + 10 * kSecond);
    EXPECT_EQ(next_wakeup(duties, kNow + 20 * kSecond), kNow + 20 * kSecond); // overdue: now, not before
    EXPECT_EQ(next_wakeup(duties, kNow - kUsPerDay), kNow - kUsPerDay + 10 * kSecond);
    EXPECT_EQ(next_wakeup({}, kNow), kInt64Max);
}

TEST(DutySchedule, SurvivesExtremes)
{
    test::Random random(11);
    for (int i = 0; i < 100'000; ++i) {
        DutyTimes duty{random.any_int64(), random.any_int64(), random.any_int64(),
                       static_cast<int>(random.between(0, 40))};
        const int64_t now_us = random.any_int64();
        duty.is_due(now_us);
        ASSERT_LE(duty.next_due_us, duty.effective_due_us(now_us));
        ASSERT_GE(next_wakeup({&duty, 1}, now_us), now_us);
        duty.request_now(now_us);
        duty.start(now_us);
        duty.request_now(random.any_int64());
        duty.after_success(random.any_int64());
        duty.after_failure(now_us);
        ASSERT_LE(duty.next_due_us, saturating_add(now_us, kDutyBackoffMaxUs));
    }
}

// A worker that sleeps until next_wakeup() (or until its clock says so) and runs what is due. `true time`
// goes on evenly while the clock is set about.
TEST(DutySchedule, EveryDutyRunsInTimeWhateverTheClockDoes)
{
    test::Random random(12);
    for (int round = 0; round < 50; ++round) {
        std::vector<DutyTimes> duties{duty_of(kSecond), duty_of(30 * kSecond), duty_of(10 * kUsPerMinute)};
        std::vector<int64_t> last_run(duties.size(), 0); // in true time
        std::vector<int> runs(duties.size(), 0);
        std::vector<int> steps_since(duties.size(), 0);
        int64_t clock_offset = kNow;
        for (int64_t now = 0; now < 2 * kUsPerHour;) {
            if (random.one_in(300)) {
                clock_offset += random.between(-kUsPerDay, kUsPerDay);
                for (int &steps : steps_since)
                    ++steps;
            }
            for (size_t i = 0; i < duties.size(); ++i) {
                DutyTimes &duty = duties[i];
                // Each step may cost one period at most.
                ASSERT_LE(now - last_run[i], duty.period_us * (1 + steps_since[i])) << i;
                if (!duty.is_due(now + clock_offset))
                    continue;
                run(duty, now + clock_offset);
                last_run[i] = now;
                steps_since[i] = 0;
                ++runs[i];
            }
            const int64_t sleep = next_wakeup(duties, now + clock_offset) - (now + clock_offset);
            ASSERT_GT(sleep, 0);
            now += std::min<int64_t>(sleep, kSecond); // no worker sleeps through a step for longer
        }
        EXPECT_GE(runs[0], 7000);
        EXPECT_GE(runs[1], 100);
        EXPECT_GE(runs[2], 3);
        EXPECT_LE(runs[0], 7300);
    }
}

} // namespace
} // namespace tasker::core
