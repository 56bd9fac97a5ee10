#include "core/calendar.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <ctime>

namespace tasker::core {
namespace {

TEST(Calendar, KnowsKnownDays)
{
    static_assert(days_from_civil(1970, 1, 1) == 0);
    static_assert(days_from_civil(2026, 11, 21) == 20778);
    static_assert(days_from_civil(2000, 2, 29) == 11016);
    static_assert(days_from_civil(1969, 12, 31) == -1);
    static_assert(civil_from_days(-1) == CivilDate{1969, 12, 31});
    EXPECT_EQ(days_from_civil(-4713, 11, 24), -2440588); // the first day of the Julian count
    EXPECT_EQ(civil_from_us(-1), (CivilDate{1969, 12, 31}));
    EXPECT_EQ(us_from_civil(1970, 1, 2), kUsPerDay);
    EXPECT_EQ(weekday_of(0), 3);     // Thursday
    EXPECT_EQ(weekday_of(20778), 5); // Saturday
    EXPECT_EQ(weekday_of(-3), 0);    // Monday
    EXPECT_EQ(weekday_of(-4), 6);    // Sunday
    EXPECT_TRUE(is_leap_year(2000) && is_leap_year(2024) && is_leap_year(0) && is_leap_year(-4));
    EXPECT_FALSE(is_leap_year(1900) || is_leap_year(2100) || is_leap_year(2026) || is_leap_year(-100));
}

TEST(Calendar, FollowsTheCalendarDayByDay)
{
    CivilDate date{-1200, 1, 1};
    int64_t day = days_from_civil(date.year, date.month, date.day);
    int weekday = weekday_of(day);
    while (date.year < 3200) {
        ASSERT_EQ(days_from_civil(date.year, date.month, date.day), day);
        ASSERT_EQ(civil_from_days(day), date);
        ASSERT_EQ(weekday_of(day), weekday);
        ++day;
        weekday = (weekday + 1) % 7;
        if (++date.day > days_in_month(date.year, date.month)) {
            date.day = 1;
            if (++date.month > 12) {
                date.month = 1;
                ++date.year;
            }
        }
    }
}

TEST(Calendar, AgreesWithTheCLibrary)
{
    test::Random random(13);
    for (int i = 0; i < 100'000; ++i) {
        const int64_t unix_us = random.any_int64();
        const time_t seconds = floor_div(unix_us, kUsPerSecond);
        std::tm tm{};
        ASSERT_NE(gmtime_r(&seconds, &tm), nullptr);
        const CivilDate expected{int64_t{tm.tm_year} + 1900, tm.tm_mon + 1, tm.tm_mday};
        ASSERT_EQ(civil_from_us(unix_us), expected) << unix_us;
        ASSERT_EQ(weekday_of(floor_div(unix_us, kUsPerDay)), (tm.tm_wday + 6) % 7) << unix_us;
    }
}

TEST(Calendar, SaturatesOutOfReach)
{
    EXPECT_EQ(us_from_civil(300'000, 1, 1), kInt64Max);
    EXPECT_EQ(us_from_civil(-300'000, 1, 1), kInt64Min);
    EXPECT_EQ(us_from_civil(1'000'000'000'000, 12, 31), kInt64Max);
    EXPECT_EQ(us_from_civil(-1'000'000'000'000, 12, 31), kInt64Min);
    EXPECT_EQ(civil_from_us(kInt64Max), (CivilDate{294247, 1, 10}));
    EXPECT_EQ(civil_from_us(kInt64Min), (CivilDate{-290308, 12, 21}));
}

} // namespace
} // namespace tasker::core
