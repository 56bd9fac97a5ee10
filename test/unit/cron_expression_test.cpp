#include "core/cron_expression.hpp"

#include <gtest/gtest.h>

namespace tasker::core {
namespace {

uint64_t bits(std::initializer_list<int> values)
{
    uint64_t all = 0;
    for (const int value : values)
        all |= uint64_t{1} << value;
    return all;
}

TEST(CronExpression, ReadsValuesRangesStepsAndLists)
{
    const auto cron = parse_cron("5,10-12,*/20 1-9/4 31 feb,12 MON-wed");
    ASSERT_TRUE(cron);
    EXPECT_EQ(cron->minutes, bits({5, 10, 11, 12, 0, 20, 40}));
    EXPECT_EQ(cron->hours, bits({1, 5, 9}));
    EXPECT_EQ(cron->days, bits({31}));
    EXPECT_EQ(cron->months, bits({2, 12}));
    EXPECT_EQ(cron->weekdays, bits({1, 2, 3}));
    EXPECT_TRUE(cron->has_minute(40));
    EXPECT_FALSE(cron->has_minute(41));
}

TEST(CronExpression, AStarIsEverything)
{
    const auto cron = parse_cron("  * *\t* *  * ");
    ASSERT_TRUE(cron);
    EXPECT_EQ(cron->minutes, (uint64_t{1} << 60) - 1);
    EXPECT_EQ(cron->hours, (uint64_t{1} << 24) - 1);
    EXPECT_EQ(cron->days, ((uint64_t{1} << 31) - 1) << 1);
    EXPECT_EQ(cron->months, ((uint64_t{1} << 12) - 1) << 1);
    EXPECT_EQ(cron->weekdays, uint64_t{0x7f});
}

TEST(CronExpression, SundayHasTwoNumbers)
{
    EXPECT_EQ(parse_cron("0 0 * * 7")->weekdays, bits({0}));
    EXPECT_EQ(parse_cron("0 0 * * 0")->weekdays, bits({0}));
    EXPECT_EQ(parse_cron("0 0 * * 5-7")->weekdays, bits({0, 5, 6}));
    EXPECT_EQ(parse_cron("0 0 * * sun")->weekdays, bits({0}));
}

TEST(CronExpression, WordsStandForExpressions)
{
    EXPECT_EQ(parse_cron("@hourly")->minutes, bits({0}));
    EXPECT_EQ(parse_cron("@daily")->hours, bits({0}));
    EXPECT_EQ(parse_cron("@weekly")->weekdays, bits({0}));
    EXPECT_EQ(parse_cron("@yearly")->months, bits({1}));
    EXPECT_FALSE(parse_cron("@reboot"));
}

TEST(CronExpression, RefusesWhatIsNone)
{
    for (const char *text : {"",
                             "* * * *",
                             "* * * * * *",
                             "60 * * * *",
                             "* 24 * * *",
                             "* * 0 * *",
                             "* * 32 * *",
                             "* * * 0 *",
                             "* * * 13 *",
                             "* * * * 8",
                             "a * * * *",
                             "5- * * * *",
                             "5-1 * * * *",
                             "*/0 * * * *",
                             "*/ * * * *",
                             "5/2 * * * *",
                             "1,,2 * * * *",
                             ", * * * *",
                             "1, * * * *",
                             "-1 * * * *",
                             "1.5 * * * *",
                             "* * * ja *",
                             "* * * * monday",
                             "1000 * * * *",
                             "30 seconds",
                             "0 0 * * *;"})
        EXPECT_FALSE(parse_cron(text)) << text;
}

TEST(CronExpression, FitsHours)
{
    const auto weekdays = parse_cron("30 9-17 * * 1-5");
    EXPECT_TRUE(weekdays->fits_hour(9, 3, 6, 1));
    EXPECT_TRUE(weekdays->fits_hour(17, 3, 6, 5));
    EXPECT_FALSE(weekdays->fits_hour(8, 3, 6, 1));
    EXPECT_FALSE(weekdays->fits_hour(9, 3, 6, 0));
    const auto first = parse_cron("0 0 1 */3 *");
    EXPECT_TRUE(first->fits_hour(0, 1, 4, 2));
    EXPECT_FALSE(first->fits_hour(0, 1, 5, 2));
    EXPECT_FALSE(first->fits_hour(0, 2, 4, 2));
}

TEST(CronExpression, OfTwoDaysOneSuffices)
{
    const auto both = parse_cron("0 0 13 * 5"); // the 13th, and Fridays
    EXPECT_TRUE(both->fits_hour(0, 13, 2, 1));
    EXPECT_TRUE(both->fits_hour(0, 20, 2, 5));
    EXPECT_FALSE(both->fits_hour(0, 20, 2, 4));
    const auto every_second = parse_cron("0 0 */2 * 5"); // begins with a star: both must fit
    EXPECT_TRUE(every_second->fits_hour(0, 3, 2, 5));
    EXPECT_FALSE(every_second->fits_hour(0, 4, 2, 5));
    EXPECT_FALSE(every_second->fits_hour(0, 3, 2, 4));
}

} // namespace
} // namespace tasker::core
