#include "core/bounds.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace tasker::core {
namespace {

constexpr int64_t kNow = us_from_civil(2026, 11, 21) + 3 * kUsPerHour + 4 * kUsPerMinute + 5 * kUsPerSecond;

std::string name_at(std::string_view parent, const CalendarInterval &interval, int64_t unix_us)
{
    return partition_name(parent, range_of(interval, unix_us), interval);
}

/// Tells whether the text is well-formed as far as lengths of sequences go.
bool is_whole_utf8(std::string_view text)
{
    for (size_t i = 0; i < text.size();) {
        const auto lead = static_cast<unsigned char>(text[i]);
        const size_t length = lead < 0x80 ? 1 : lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        if (length == 0 || i + length > text.size())
            return false;
        for (size_t k = 1; k < length; ++k) {
            if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80)
                return false;
        }
        i += length;
    }
    return true;
}

TEST(PartitionName, SaysAsMuchAsTheIntervalNeeds)
{
    EXPECT_EQ(name_at("orders", {12, 0}, kNow), "orders_p2026");
    EXPECT_EQ(name_at("orders", {24, 0}, kNow), "orders_p2026");
    EXPECT_EQ(name_at("orders", {1, 0}, kNow), "orders_p2026_11");
    EXPECT_EQ(name_at("orders", {3, 0}, kNow), "orders_p2026_10");
    EXPECT_EQ(name_at("orders", {18, 0}, kNow), "orders_p2026_07");
    EXPECT_EQ(name_at("orders", {0, kUsPerDay}, kNow), "orders_p20261121");
    EXPECT_EQ(name_at("orders", {0, kUsPerWeek}, kNow), "orders_p20261116");
    EXPECT_EQ(name_at("orders", {0, kUsPerHour}, kNow), "orders_p20261121_0300");
    EXPECT_EQ(name_at("orders", {0, kUsPerMinute}, kNow), "orders_p20261121_0304");
    EXPECT_EQ(name_at("orders", {0, 5 * kUsPerSecond}, kNow), "orders_p20261121_030405");
    EXPECT_EQ(name_at("queue_record", {0, kUsPerDay}, kNow), "queue_record_p20261121");
}

TEST(PartitionName, KeepsOddYearsApart)
{
    EXPECT_EQ(name_at("t", {12, 0}, us_from_civil(7, 5, 1)), "t_p0007");
    EXPECT_EQ(name_at("t", {12, 0}, us_from_civil(12026, 5, 1)), "t_p12026");
    EXPECT_EQ(name_at("t", {12, 0}, us_from_civil(-43, 5, 1)), "t_pbc0043");
    EXPECT_EQ(name_at("t", {0, kUsPerSecond}, kInt64Min), "t_pbc2903081221_195905");
    EXPECT_EQ(name_at("t", {0, kUsPerSecond}, kInt64Max), "t_p2942470110_040054");
}

TEST(PartitionName, NamesIntegers)
{
    EXPECT_EQ(partition_name("t", number_range_of(1000, 1500)), "t_p1000");
    EXPECT_EQ(partition_name("t", number_range_of(1000, 1)), "t_p0");
    EXPECT_EQ(partition_name("t", number_range_of(1000, -1)), "t_pm1000");
    EXPECT_EQ(partition_name("t", NumberRange{kInt64Min, 0}), "t_pm9223372036854775808");
    EXPECT_EQ(partition_name("t", NumberRange{kInt64Max, kInt64Max}), "t_p9223372036854775807");
}

TEST(PartitionName, KeepsAsMuchOfTheParentAsFits)
{
    const std::string fits(63 - 10, 'x'); // "_p20261121" has 10 bytes
    EXPECT_EQ(name_at(fits, {0, kUsPerDay}, kNow), fits + "_p20261121");

    const std::string too_long(63 - 9, 'x');
    const std::string name = name_at(too_long, {0, kUsPerDay}, kNow);
    EXPECT_EQ(name.size(), 63U);
    EXPECT_EQ(name.substr(0, 44), std::string(44, 'x'));
    EXPECT_EQ(name.substr(44, 1), "_");
    EXPECT_EQ(name.substr(45, 8).find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_EQ(name.substr(53), "_p20261121");
}

TEST(PartitionName, TheHashIsFnv1a)
{
    // Published test vectors; a changed hash would make an upgraded server look for other names.
    static_assert(detail::fnv1a("") == 0x811c9dc5);
    static_assert(detail::fnv1a("a") == 0xe40c292c);
    static_assert(detail::fnv1a("foobar") == 0xbf9cf968);
}

TEST(PartitionName, ParentsThatDifferBehindTheCutKeepApart)
{
    const std::string common(58, 'x');
    std::set<std::string> names;
    for (int i = 0; i < 1000; ++i)
        names.insert(name_at(common + std::to_string(i), {0, kUsPerHour}, kNow));
    EXPECT_EQ(names.size(), 1000U);
}

TEST(PartitionName, NeverCutsACharacter)
{
    const std::vector<std::string> characters = {"a", "\u00e9", "\u20ac", "\U0001F418"};
    const std::vector<CalendarInterval> intervals = {{12, 0}, {1, 0}, {0, kUsPerDay}, {0, kUsPerHour}};
    test::Random random(21);
    for (int i = 0; i < 20'000; ++i) {
        std::string parent;
        const auto length = static_cast<size_t>(random.between(1, 63));
        while (parent.size() < length)
            parent += characters[static_cast<size_t>(random.between(0, 3))];
        const CalendarInterval interval = intervals[static_cast<size_t>(random.between(0, 3))];
        const std::string name = name_at(parent, interval, kNow);
        ASSERT_LE(name.size(), 63U);
        ASSERT_TRUE(is_whole_utf8(name)) << name;
        ASSERT_GE(name.size(), std::min<size_t>(parent.size(), 60)); // at most one character is given up
    }
}

TEST(PartitionName, CutsWhatIsNoUtf8WhereTheLimitIs)
{
    const std::string name = name_at(std::string(63, '\x80'), {0, kUsPerDay}, kNow);
    EXPECT_EQ(name.size(), 63U);
    EXPECT_EQ(name.substr(0, 44), std::string(44, '\x80'));
}

TEST(PartitionName, SortsByTimeAndIsUnique)
{
    const std::vector<CalendarInterval> intervals = {
        {12, 0},
        {60, 0},
        {1, 0},
        {3, 0},
        {5, 0},
        {0, kUsPerDay},
        {0, kUsPerWeek},
        {0, kUsPerHour},
        {0, kUsPerMinute},
        {0, 7 * kUsPerHour},
        {0, 10 * kUsPerSecond},
    };
    const std::string long_parent(70, 'p');
    test::Random random(22);
    for (const CalendarInterval &interval : intervals) {
        for (int i = 0; i < 2000; ++i) {
            const TimeRange range =
                range_of(interval, random.between(us_from_civil(100, 1, 1), us_from_civil(9900, 1, 1)));
            const TimeRange next = next_range(interval, range);
            ASSERT_LT(partition_name("orders", range, interval), partition_name("orders", next, interval));
            ASSERT_LT(partition_name(long_parent, range, interval),
                      partition_name(long_parent, next, interval));
        }
    }
}

TEST(PartitionName, NeedsNoAllocation)
{
    constexpr CalendarInterval day{0, kUsPerDay};
    constexpr PartitionName name = make_partition_name("orders", range_of(day, kNow), day);
    static_assert(name.view() == "orders_p20261121");
    static_assert(std::is_trivially_destructible_v<PartitionName>);
    EXPECT_STREQ(name.c_str(), "orders_p20261121");
}

} // namespace
} // namespace tasker::core
