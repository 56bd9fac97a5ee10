#include "core/bounds.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <ctime>
#include <limits>
#include <vector>

namespace tasker::core {
namespace {

using test::Int128;

constexpr int64_t kNow =
    us_from_civil(2026, 11, 21) + 5 * kUsPerHour + 6 * kUsPerMinute + 7 * kUsPerSecond + 8;

constexpr CalendarInterval months(int32_t n)
{
    return {n, 0};
}

constexpr CalendarInterval fixed(int64_t us)
{
    return {0, us};
}

constexpr TimeRange dates(CivilDate lower, CivilDate upper)
{
    return {us_from_civil(lower.year, lower.month, lower.day),
            us_from_civil(upper.year, upper.month, upper.day)};
}

const std::vector<CalendarInterval> &all_intervals()
{
    static const std::vector<CalendarInterval> intervals = {
        fixed(kUsPerSecond),
        fixed(15 * kUsPerSecond),
        fixed(kUsPerMinute),
        fixed(5 * kUsPerMinute),
        fixed(7 * kUsPerMinute),
        fixed(kUsPerHour),
        fixed(6 * kUsPerHour),
        fixed(7 * kUsPerHour),
        fixed(kUsPerDay),
        fixed(3 * kUsPerDay),
        fixed(36 * kUsPerHour),
        fixed(kUsPerWeek),
        fixed(2 * kUsPerWeek),
        fixed(1000 * kUsPerDay),
        months(1),
        months(2),
        months(3),
        months(5),
        months(6),
        months(12),
        months(24),
        months(36),
        months(120),
        months(1200),
    };
    return intervals;
}

TEST(ParseInterval, TakesWhatCanBeAPartition)
{
    EXPECT_EQ(parse_interval(0, 1, 0), fixed(kUsPerDay));
    EXPECT_EQ(parse_interval(0, 7, 0), fixed(kUsPerWeek));
    EXPECT_EQ(parse_interval(0, 0, kUsPerHour), fixed(kUsPerHour));
    EXPECT_EQ(parse_interval(0, 0, 24 * kUsPerHour), fixed(kUsPerDay));
    EXPECT_EQ(parse_interval(0, 1, 12 * kUsPerHour), fixed(36 * kUsPerHour));
    EXPECT_EQ(parse_interval(0, 1, -kUsPerHour), fixed(23 * kUsPerHour));
    EXPECT_EQ(parse_interval(1, 0, 0), months(1));
    EXPECT_EQ(parse_interval(12, 0, 0), months(12));
    static_assert(parse_interval(3, 0, 0)->months == 3);
}

TEST(ParseInterval, RefusesTheRest)
{
    const int32_t int32_max = std::numeric_limits<int32_t>::max();
    EXPECT_EQ(parse_interval(0, 0, 0), std::nullopt);
    EXPECT_EQ(parse_interval(0, -1, 0), std::nullopt);
    EXPECT_EQ(parse_interval(-1, 0, 0), std::nullopt);
    EXPECT_EQ(parse_interval(0, 0, -kUsPerHour), std::nullopt);
    EXPECT_EQ(parse_interval(0, 1, -kUsPerDay), std::nullopt);
    EXPECT_EQ(parse_interval(0, -1, kUsPerDay), std::nullopt);
    EXPECT_EQ(parse_interval(1, 1, 0), std::nullopt);
    EXPECT_EQ(parse_interval(1, 0, kUsPerHour), std::nullopt);
    EXPECT_EQ(parse_interval(1, 1, -kUsPerDay), std::nullopt); // mixed, even where the rest is nothing
    EXPECT_EQ(parse_interval(-1, 60, 0), std::nullopt);
    EXPECT_EQ(parse_interval(0, 0, 1), std::nullopt);
    EXPECT_EQ(parse_interval(0, 0, kUsPerSecond + 1), std::nullopt);
    EXPECT_EQ(parse_interval(0, 1, kInt64Max), std::nullopt);
    EXPECT_EQ(parse_interval(0, int32_max, kInt64Max), std::nullopt);
    EXPECT_EQ(parse_interval(0, std::numeric_limits<int32_t>::min(), kInt64Min), std::nullopt);
    EXPECT_EQ(parse_interval(int32_max, 0, 0), months(int32_max));
    EXPECT_EQ(parse_interval(0, 100'000'000, 0), fixed(100'000'000 * kUsPerDay));
    EXPECT_EQ(parse_interval(0, int32_max, 0), std::nullopt); // 5.9 million years
}

TEST(ParseInterval, MatchesWiderIntegers)
{
    test::Random random(14);
    for (int i = 0; i < 200'000; ++i) {
        const auto month_count = static_cast<int32_t>(random.one_in(3) ? random.any_int64() : 0);
        const auto days = static_cast<int32_t>(random.one_in(2) ? random.any_int64() : 0);
        const int64_t us =
            random.one_in(2) ? random.any_int64() / kUsPerSecond * kUsPerSecond : random.any_int64();
        const Int128 total = Int128{days} * kUsPerDay + us;
        std::optional<CalendarInterval> expected;
        if (month_count == 0 && total > 0 && total <= kInt64Max && total % kUsPerSecond == 0)
            expected = fixed(static_cast<int64_t>(total));
        else if (month_count > 0 && days == 0 && us == 0)
            expected = months(month_count);
        ASSERT_EQ(parse_interval(month_count, days, us), expected) << month_count << " " << days << " " << us;
    }
}

TEST(RangeOf, AlignsToTheCalendar)
{
    EXPECT_EQ(range_of(fixed(kUsPerDay), kNow), dates({2026, 11, 21}, {2026, 11, 22}));
    EXPECT_EQ(range_of(fixed(kUsPerWeek), kNow), dates({2026, 11, 16}, {2026, 11, 23}));
    EXPECT_EQ(range_of(months(1), kNow), dates({2026, 11, 1}, {2026, 12, 1}));
    EXPECT_EQ(range_of(months(2), kNow), dates({2026, 11, 1}, {2027, 1, 1}));
    EXPECT_EQ(range_of(months(3), kNow), dates({2026, 10, 1}, {2027, 1, 1}));
    EXPECT_EQ(range_of(months(6), kNow), dates({2026, 7, 1}, {2027, 1, 1}));
    EXPECT_EQ(range_of(months(12), kNow), dates({2026, 1, 1}, {2027, 1, 1}));
    EXPECT_EQ(range_of(months(120), kNow), dates({2020, 1, 1}, {2030, 1, 1}));
    EXPECT_EQ(range_of(months(1200), kNow), dates({2000, 1, 1}, {2100, 1, 1}));
    const int64_t midnight = us_from_civil(2026, 11, 21);
    EXPECT_EQ(range_of(fixed(kUsPerHour), kNow),
              (TimeRange{midnight + 5 * kUsPerHour, midnight + 6 * kUsPerHour}));
    EXPECT_EQ(range_of(fixed(5 * kUsPerMinute), kNow),
              (TimeRange{midnight + 305 * kUsPerMinute, midnight + 310 * kUsPerMinute}));
    static_assert(range_of(months(1), 0) == dates({1970, 1, 1}, {1970, 2, 1}));
}

TEST(RangeOf, KnowsLeapYearsAndMonthEnds)
{
    const auto month_of = [](int64_t year, int month, int day) {
        return range_of(months(1), us_from_civil(year, month, day));
    };
    EXPECT_EQ(month_of(2024, 2, 29), dates({2024, 2, 1}, {2024, 3, 1}));
    EXPECT_EQ(month_of(2023, 2, 28), dates({2023, 2, 1}, {2023, 3, 1}));
    EXPECT_EQ(month_of(1900, 2, 28), dates({1900, 2, 1}, {1900, 3, 1}));
    EXPECT_EQ(month_of(2026, 12, 31), dates({2026, 12, 1}, {2027, 1, 1}));
    const int64_t last_us_of_february = us_from_civil(2024, 3, 1) - 1;
    EXPECT_EQ(range_of(months(1), last_us_of_february), dates({2024, 2, 1}, {2024, 3, 1}));
    EXPECT_EQ(range_of(fixed(kUsPerDay), last_us_of_february), dates({2024, 2, 29}, {2024, 3, 1}));
}

TEST(RangeOf, WorksBefore1970)
{
    EXPECT_EQ(range_of(fixed(kUsPerDay), -1), dates({1969, 12, 31}, {1970, 1, 1}));
    EXPECT_EQ(range_of(fixed(kUsPerHour), -1), (TimeRange{-kUsPerHour, 0}));
    EXPECT_EQ(range_of(fixed(kUsPerWeek), 0), dates({1969, 12, 29}, {1970, 1, 5}));
    EXPECT_EQ(range_of(fixed(2 * kUsPerWeek), 0), dates({1969, 12, 29}, {1970, 1, 12}));
    EXPECT_EQ(range_of(months(1), -1), dates({1969, 12, 1}, {1970, 1, 1}));
    EXPECT_EQ(range_of(months(12), us_from_civil(-43, 3, 15)), dates({-43, 1, 1}, {-42, 1, 1}));
    EXPECT_EQ(range_of(months(120), us_from_civil(-1, 3, 15)), dates({-10, 1, 1}, {0, 1, 1}));
}

TEST(RangeOf, NoIntervalNoRange)
{
    EXPECT_TRUE(range_of({0, 0}, kNow).is_empty());
    EXPECT_TRUE(range_of({-1, 0}, kNow).is_empty());
    EXPECT_TRUE(range_of({0, -kUsPerDay}, kNow).is_empty());
}

/// Returns a time within the years 1 to 9999, or near the present.
int64_t some_time(test::Random &random)
{
    if (random.one_in(2))
        return kNow + random.between(-400 * kUsPerDay, 400 * kUsPerDay);
    return random.between(us_from_civil(1, 1, 1), us_from_civil(9999, 12, 31));
}

TEST(RangeOf, EveryTimeHasOneRangeAndRangesTouch)
{
    test::Random random(15);
    for (const CalendarInterval &interval : all_intervals()) {
        for (int i = 0; i < 3000; ++i) {
            const int64_t time_us = some_time(random);
            const TimeRange range = range_of(interval, time_us);
            ASSERT_TRUE(range.contains(time_us));
            ASSERT_EQ(range_of(interval, range.lower_us), range);
            ASSERT_EQ(range_of(interval, range.upper_us - 1), range);
            const TimeRange next = next_range(interval, range);
            const TimeRange previous = previous_range(interval, range);
            ASSERT_EQ(next.lower_us, range.upper_us);
            ASSERT_EQ(previous.upper_us, range.lower_us);
            ASSERT_EQ(previous_range(interval, next), range);
            ASSERT_EQ(next_range(interval, previous), range);
        }
    }
}

TEST(RangeOf, FixedLengthsMatchWiderIntegers)
{
    test::Random random(16);
    for (int i = 0; i < 200'000; ++i) {
        const int64_t length = random.one_in(2) ? std::max<int64_t>(random.any_int64() & kInt64Max, 1)
                                                : random.between(1, 60) * kUsPerWeek;
        const int64_t time_us = random.any_int64();
        const Int128 anchor = length % kUsPerWeek == 0 ? Int128{-3} * kUsPerDay : Int128{0};
        const Int128 since_anchor = Int128{time_us} - anchor;
        Int128 number = since_anchor / length;
        if (since_anchor % length < 0)
            --number;
        const TimeRange expected{test::saturate(anchor + number * length),
                                 test::saturate(anchor + (number + 1) * length)};
        ASSERT_EQ(range_of(fixed(length), time_us), expected) << length << " " << time_us;
    }
}

TEST(RangeOf, MonthsMatchTheCLibrary)
{
    test::Random random(17);
    for (int i = 0; i < 50'000; ++i) {
        const auto count = static_cast<int32_t>(random.between(1, 30));
        const int64_t time_us = some_time(random);
        const time_t seconds = floor_div(time_us, kUsPerSecond);
        std::tm tm{};
        gmtime_r(&seconds, &tm);
        const int64_t index = (int64_t{tm.tm_year} + 1900) * 12 + tm.tm_mon;
        const auto begin_of = [](int64_t month) {
            std::tm first{};
            first.tm_year = static_cast<int>(month / 12 - 1900);
            first.tm_mon = static_cast<int>(month % 12);
            first.tm_mday = 1;
            return int64_t{timegm(&first)} * kUsPerSecond;
        };
        const int64_t first = index / count * count;
        ASSERT_EQ(range_of(months(count), time_us), (TimeRange{begin_of(first), begin_of(first + count)}))
            << count << " " << time_us;
    }
}

TEST(RangeOf, SaturatesAtTheEndsOfTime)
{
    test::Random random(18);
    std::vector<CalendarInterval> intervals = all_intervals();
    intervals.push_back(months(std::numeric_limits<int32_t>::max()));
    intervals.push_back(fixed(kInt64Max));
    intervals.push_back(fixed(kInt64Max / kUsPerWeek * kUsPerWeek));
    for (const CalendarInterval &interval : intervals) {
        for (int i = 0; i < 2000; ++i) {
            const int64_t time_us = random.any_int64();
            const TimeRange range = range_of(interval, time_us);
            ASSERT_LE(range.lower_us, time_us);
            ASSERT_TRUE(range.contains(time_us) || time_us == kInt64Max);
            const TimeRange next = next_range(interval, range);
            ASSERT_TRUE(next.is_empty() == (range.upper_us == kInt64Max)) << time_us;
            ASSERT_EQ(next.lower_us, range.upper_us);
            const TimeRange previous = previous_range(interval, range);
            ASSERT_TRUE(previous.is_empty() == (range.lower_us == kInt64Min)) << time_us;
            ASSERT_EQ(previous.upper_us, range.lower_us);
        }
        EXPECT_EQ(range_of(interval, kInt64Min).lower_us, kInt64Min);
        EXPECT_EQ(range_of(interval, kInt64Max).upper_us, kInt64Max);
    }
}

TEST(RecordIdsOf, CutsAtTheBoundsOfTime)
{
    const TimeRange day = range_of(fixed(kUsPerDay), kNow);
    const NumberRange ids = record_ids_of(day);
    EXPECT_TRUE(ids.contains(record_id_floor(kNow)));
    EXPECT_TRUE(ids.contains(record_id_ceiling(day.upper_us - 1)));
    EXPECT_FALSE(ids.contains(record_id_floor(day.upper_us)));
    EXPECT_EQ(unix_us_of(ids.lower), day.lower_us);
    EXPECT_EQ(unix_us_of(ids.upper), day.upper_us);
    EXPECT_EQ(record_ids_of(next_range(fixed(kUsPerDay), day)).lower, ids.upper);
}

TEST(RecordIdsOf, EveryIdLiesInTheRangeOfItsTime)
{
    test::Random random(19);
    for (int i = 0; i < 100'000; ++i) {
        const int64_t id = random.any_int64() & kInt64Max;
        for (const CalendarInterval &interval : {fixed(kUsPerHour), fixed(kUsPerDay), months(1)}) {
            const NumberRange ids = record_ids_of(range_of(interval, unix_us_of(id)));
            ASSERT_TRUE(ids.contains(id) || (id == kInt64Max && ids.upper == kInt64Max)) << id;
        }
    }
}

TEST(RecordIdsOf, KeepsToTheIdsThereAre)
{
    EXPECT_TRUE(record_ids_of(dates({1960, 1, 1}, {1961, 1, 1})).is_empty());
    EXPECT_EQ(record_ids_of(dates({1969, 1, 1}, {1971, 1, 1})).lower, 0);
    EXPECT_EQ(record_ids_of(dates({2248, 1, 1}, {2249, 1, 1})).upper, kInt64Max);
    EXPECT_TRUE(record_ids_of(dates({2300, 1, 1}, {2301, 1, 1})).is_empty());
}

TEST(NumberRangeOf, RoundsDown)
{
    EXPECT_EQ(number_range_of(1000, 0), (NumberRange{0, 1000}));
    EXPECT_EQ(number_range_of(1000, 999), (NumberRange{0, 1000}));
    EXPECT_EQ(number_range_of(1000, 1000), (NumberRange{1000, 2000}));
    EXPECT_EQ(number_range_of(1000, -1), (NumberRange{-1000, 0}));
    EXPECT_EQ(number_range_of(1000, -1000), (NumberRange{-1000, 0}));
    EXPECT_EQ(number_range_of(1, 7), (NumberRange{7, 8}));
    EXPECT_TRUE(number_range_of(0, 7).is_empty());
    EXPECT_TRUE(number_range_of(-10, 7).is_empty());
    static_assert(number_range_of(10, -7).lower == -10);
}

TEST(NumberRangeOf, MatchesWiderIntegers)
{
    test::Random random(20);
    for (int i = 0; i < 200'000; ++i) {
        const int64_t step = std::max<int64_t>(random.any_int64() & kInt64Max, 1);
        const int64_t value = random.any_int64();
        Int128 number = Int128{value} / step;
        if (Int128{value} % step < 0)
            --number;
        const NumberRange range = number_range_of(step, value);
        ASSERT_EQ(range, (NumberRange{test::saturate(number * step), test::saturate((number + 1) * step)}))
            << step << " " << value;
        const NumberRange next = next_range(step, range);
        ASSERT_EQ(next.lower, range.upper);
        ASSERT_EQ(next.is_empty(), range.upper == kInt64Max);
        const NumberRange previous = previous_range(step, range);
        ASSERT_EQ(previous.upper, range.lower);
        ASSERT_EQ(previous.is_empty(), range.lower == kInt64Min);
    }
}

} // namespace
} // namespace tasker::core
