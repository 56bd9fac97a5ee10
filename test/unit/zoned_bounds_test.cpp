// Partitions whose days begin by the clocks of a time zone.
#include "core/bounds.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace tasker::core {
namespace {

constexpr CalendarInterval kDay{0, kUsPerDay};
constexpr CalendarInterval kWeek{0, kUsPerWeek};
constexpr CalendarInterval kMonth{1, 0};

/// Clocks that are `offset` ahead of UTC and are moved at some moments, in their order.
class Zone
{
  public:
    struct Change
    {
        int64_t moment;
        int64_t offset; // from then on
    };

    Zone(int64_t offset, std::vector<Change> changes) : offset_(offset), changes_(std::move(changes)) {}

    int64_t wall_of(int64_t moment) const
    {
        if (moment == kInt64Min || moment == kInt64Max)
            return moment;
        int64_t offset = offset_;
        for (const Change &change : changes_) {
            if (moment >= change.moment)
                offset = change.offset;
        }
        return saturating_add(moment, offset);
    }

    /// As Postgres reads a local time: of one that is skipped, the clocks have not been moved yet; of one
    /// that comes twice, the second is meant.
    int64_t moment_of(int64_t wall) const
    {
        if (wall == kInt64Min || wall == kInt64Max)
            return wall;
        int64_t offset = offset_;
        for (const Change &change : changes_) {
            if (wall < change.moment + std::max(change.offset, offset) &&
                (wall < change.moment + std::min(change.offset, offset) || change.offset > offset))
                return saturating_sub(wall, offset);
            offset = change.offset;
        }
        return saturating_sub(wall, offset);
    }

    TimeRange range_of(const CalendarInterval &interval, int64_t moment) const
    {
        return zoned_range_of(
            interval, moment, [&](int64_t m) { return wall_of(m); }, [&](int64_t w) { return moment_of(w); });
    }

  private:
    int64_t offset_;
    std::vector<Change> changes_;
};

constexpr int64_t at(int64_t year, int month, int day, int hour = 0, int minute = 0)
{
    return us_from_civil(year, month, day) + hour * kUsPerHour + minute * kUsPerMinute;
}

constexpr int64_t hours(int64_t n)
{
    return n * kUsPerHour;
}

const Zone kBerlin{hours(1), {{at(2026, 3, 29, 1), hours(2)}, {at(2026, 10, 25, 1), hours(1)}}};
const Zone kLordHowe{
    hours(11), {{at(2026, 4, 4, 15), hours(10) + 30 * kUsPerMinute}, {at(2026, 10, 3, 15, 30), hours(11)}}};
const Zone kSaoPaulo{hours(-3), {{at(2018, 11, 4, 3), hours(-2)}, {at(2019, 2, 17, 2), hours(-3)}}};
const Zone kApia{hours(-10), {{at(2011, 12, 30, 10), hours(14)}}};
/// Clocks were set back from 00:01 to 23:01.
const Zone kStJohns{-150 * kUsPerMinute, {{at(2006, 10, 29, 2, 31), -210 * kUsPerMinute}}};

TEST(ZonedRangeOf, DaysHave23Or25Hours)
{
    EXPECT_EQ(kBerlin.range_of(kDay, at(2026, 3, 29, 12)),
              (TimeRange{at(2026, 3, 28, 23), at(2026, 3, 29, 22)}));
    EXPECT_EQ(kBerlin.range_of(kDay, at(2026, 10, 25, 12)),
              (TimeRange{at(2026, 10, 24, 22), at(2026, 10, 25, 23)}));
    EXPECT_EQ(kBerlin.range_of(kMonth, at(2026, 3, 1)),
              (TimeRange{at(2026, 2, 28, 23), at(2026, 3, 31, 22)}));
    EXPECT_EQ(kBerlin.range_of(kWeek, at(2026, 10, 25)),
              (TimeRange{at(2026, 10, 18, 22), at(2026, 10, 25, 23)}));
}

TEST(ZonedRangeOf, HalfAnHour)
{
    EXPECT_EQ(kLordHowe.range_of(kDay, at(2026, 4, 4, 20)),
              (TimeRange{at(2026, 4, 4, 13), at(2026, 4, 5, 13, 30)}));
    EXPECT_EQ(kLordHowe.range_of(kDay, at(2026, 10, 3, 20)),
              (TimeRange{at(2026, 10, 3, 13, 30), at(2026, 10, 4, 13)}));
}

TEST(ZonedRangeOf, ADayThatBeginsAtOne)
{
    EXPECT_EQ(kSaoPaulo.range_of(kDay, at(2018, 11, 4, 3)),
              (TimeRange{at(2018, 11, 4, 3), at(2018, 11, 5, 2)}));
    EXPECT_EQ(kSaoPaulo.range_of(kDay, at(2018, 11, 4, 3) - 1),
              (TimeRange{at(2018, 11, 3, 3), at(2018, 11, 4, 3)}));
    // The hour from 23:00 comes twice before this day.
    EXPECT_EQ(kSaoPaulo.range_of(kDay, at(2019, 2, 17, 2, 30)),
              (TimeRange{at(2019, 2, 16, 2), at(2019, 2, 17, 3)}));
}

TEST(ZonedRangeOf, ADayThatIsSkipped)
{
    const TimeRange before = kApia.range_of(kDay, at(2011, 12, 30, 10) - 1);
    EXPECT_EQ(before, (TimeRange{at(2011, 12, 29, 10), at(2011, 12, 30, 10)}));
    EXPECT_EQ(kApia.range_of(kDay, before.upper_us), (TimeRange{at(2011, 12, 30, 10), at(2011, 12, 31, 10)}));
    EXPECT_EQ(kApia.range_of(kMonth, before.upper_us),
              (TimeRange{at(2011, 12, 1, 10), at(2011, 12, 31, 10)}));
}

TEST(ZonedRangeOf, MidnightThatComesTwice)
{
    // The second midnight is the one that counts, as when Postgres reads the date.
    const int64_t midnight = at(2006, 10, 29, 3, 30);
    EXPECT_EQ(kStJohns.range_of(kDay, at(2006, 10, 29, 2, 30)).upper_us, midnight);
    EXPECT_EQ(kStJohns.range_of(kDay, at(2006, 10, 29, 2, 31)).upper_us, midnight);
    EXPECT_EQ(kStJohns.range_of(kDay, midnight - 1).upper_us, midnight);
    EXPECT_EQ(kStJohns.range_of(kDay, midnight), (TimeRange{midnight, at(2006, 10, 30, 3, 30)}));
}

TEST(ZonedRangeOf, WithoutClocksItIsRangeOf)
{
    const Zone utc{0, {}};
    test::Random random(31);
    for (int i = 0; i < 20'000; ++i) {
        const int64_t moment = random.any_int64();
        for (const CalendarInterval &interval : {kDay, kWeek, kMonth, CalendarInterval{1200, 0}})
            ASSERT_EQ(utc.range_of(interval, moment), range_of(interval, moment)) << moment;
    }
}

/// A zone whose clocks are moved every few days, by minutes or by up to a day.
Zone some_zone(test::Random &random)
{
    std::vector<Zone::Change> changes;
    int64_t moment = at(2026, 1, 1) + random.between(0, 3000) * kUsPerMinute;
    int64_t offset = random.between(-14 * 4, 14 * 4) * 15 * kUsPerMinute;
    const int64_t first = offset;
    for (int i = 0; i < 40; ++i) {
        moment += random.between(3 * 24 * 60, 40 * 24 * 60) * kUsPerMinute;
        const int64_t most = random.one_in(4) ? 24 * 60 : 120;
        offset += random.between(-most, most) * kUsPerMinute;
        changes.push_back({moment, offset});
    }
    return Zone{first, changes};
}

TEST(ZonedRangeOf, EveryMomentHasOneRangeAndRangesTouch)
{
    test::Random random(32);
    for (int z = 0; z < 60; ++z) {
        const Zone zone = some_zone(random);
        for (const CalendarInterval &interval : {kDay, kWeek, kMonth, CalendarInterval{0, 2 * kUsPerDay}}) {
            for (int i = 0; i < 1000; ++i) {
                const int64_t moment = at(2026, 1, 1) + random.between(-10, 900 * 24 * 60) * kUsPerMinute;
                const TimeRange range = zone.range_of(interval, moment);
                ASSERT_TRUE(range.contains(moment)) << z << " " << moment;
                ASSERT_EQ(zone.range_of(interval, range.lower_us), range);
                ASSERT_EQ(zone.range_of(interval, range.upper_us - 1), range);
                ASSERT_EQ(zone.range_of(interval, range.upper_us).lower_us, range.upper_us);
                ASSERT_EQ(zone.range_of(interval, range.lower_us - 1).upper_us, range.lower_us);
            }
        }
    }
}

TEST(ZonedRangeOf, SaturatesAtTheEndsOfTime)
{
    for (const CalendarInterval &interval : {kDay, kMonth, CalendarInterval{12000, 0}}) {
        for (const Zone *zone : {&kBerlin, &kApia, &kStJohns}) {
            EXPECT_EQ(zone->range_of(interval, kInt64Min).lower_us, kInt64Min);
            EXPECT_EQ(zone->range_of(interval, kInt64Max).upper_us, kInt64Max);
        }
    }
}

} // namespace
} // namespace tasker::core
