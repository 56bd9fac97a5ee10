// Where partitions begin and end, and what they are called.
//
// Bounds depend on nothing but the interval and the calendar, never on when a set was made or which
// partitions it has; so everyone who computes the partition of a key comes to the same one. All arithmetic is
// in UTC; zoned_range_of() is for sets whose days begin by the clocks of another time zone.
//
// Ranges are half-open, [lower, upper). A bound out of the reach of int64_t becomes INT64_MIN or INT64_MAX:
// the range is then open on that side as far as the type goes.
#pragma once

#include "core/arithmetic.hpp"
#include "core/calendar.hpp"
#include "core/record_id.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tasker::core {

/// The length of a partition: calendar months, or a fixed number of microseconds. Exactly one of both is not
/// zero, and it is positive; make it with parse_interval().
struct CalendarInterval
{
    int32_t months;
    int64_t us;

    friend constexpr bool operator==(const CalendarInterval &, const CalendarInterval &) = default;
};

/// A range of time in microseconds since 1970: lower <= t < upper.
struct TimeRange
{
    int64_t lower_us;
    int64_t upper_us;

    constexpr bool contains(int64_t unix_us) const { return lower_us <= unix_us && unix_us < upper_us; }
    constexpr bool is_empty() const { return lower_us >= upper_us; }
    friend constexpr bool operator==(const TimeRange &, const TimeRange &) = default;
};

/// A range of integer keys: lower <= key < upper.
struct NumberRange
{
    int64_t lower;
    int64_t upper;

    constexpr bool contains(int64_t key) const { return lower <= key && key < upper; }
    constexpr bool is_empty() const { return lower >= upper; }
    friend constexpr bool operator==(const NumberRange &, const NumberRange &) = default;
};

/// Makes an interval of the three fields of a Postgres interval; days count as 24 hours (UTC has no other).
/// Returns nothing for what cannot be the length of a partition: zero or negative, months mixed with days or
/// time, too long for an int64_t of microseconds, or not a whole number of seconds (names tell partitions
/// apart by the second).
constexpr std::optional<CalendarInterval> parse_interval(int32_t months, int32_t days, int64_t us)
{
    if (months != 0)
        return months > 0 && days == 0 && us == 0 ? std::optional(CalendarInterval{months, 0}) : std::nullopt;
    if (us % kUsPerSecond != 0)
        return std::nullopt;
    const int64_t seconds =
        days * (kUsPerDay / kUsPerSecond) + us / kUsPerSecond; // always fits, as microseconds may not
    if (seconds <= 0 || seconds > kInt64Max / kUsPerSecond)
        return std::nullopt;
    return CalendarInterval{0, seconds * kUsPerSecond};
}

namespace detail {

/// Returns the time at which a month begins; months are counted from January of year 0.
constexpr int64_t us_of_month(int64_t month_index)
{
    return us_from_civil(floor_div(month_index, 12), static_cast<int>(floor_mod(month_index, 12)) + 1, 1);
}

constexpr TimeRange month_range_of(int32_t months, int64_t unix_us)
{
    const CivilDate date = civil_from_us(unix_us);
    const int64_t index = date.year * 12 + date.month - 1;
    const int64_t first = floor_div(index, months) * months;
    return {us_of_month(first), us_of_month(first + months)};
}

constexpr TimeRange fixed_range_of(int64_t length_us, int64_t unix_us)
{
    // Whole weeks begin on a Monday, the first one before 1970-01-01, which was a Thursday. The distance to
    // the lower bound is computed first: it always fits, the bound itself may not.
    const int64_t anchor_us = length_us % kUsPerWeek == 0 ? -3 * kUsPerDay : 0;
    const int64_t since_lower =
        floor_mod(floor_mod(unix_us, length_us) - floor_mod(anchor_us, length_us), length_us);
    const int64_t lower = saturating_sub(unix_us, since_lower);
    return {lower, saturating_add(unix_us, length_us - since_lower)};
}

} // namespace detail

/// Returns the range of a set with that interval which holds a time.
///
/// Days begin at midnight UTC, weeks on Monday, months on the 1st. Several months count from January of year
/// 0, so quarters begin in January, decades in years that end in 0 and centuries in years that end in 00.
/// Other lengths are multiples of the interval since 1970-01-01 (of weeks: since Monday 1969-12-29). The
/// range is empty, at the time itself, when the interval is none.
constexpr TimeRange range_of(const CalendarInterval &interval, int64_t unix_us)
{
    if (interval.months > 0)
        return detail::month_range_of(interval.months, unix_us);
    if (interval.us > 0)
        return detail::fixed_range_of(interval.us, unix_us);
    return {unix_us, unix_us};
}

/// Returns the range after this one, empty when there is none.
constexpr TimeRange next_range(const CalendarInterval &interval, const TimeRange &range)
{
    if (range.upper_us == kInt64Max)
        return {kInt64Max, kInt64Max};
    return range_of(interval, range.upper_us);
}

/// Returns the range before this one, empty when there is none.
constexpr TimeRange previous_range(const CalendarInterval &interval, const TimeRange &range)
{
    if (range.lower_us == kInt64Min)
        return {kInt64Min, kInt64Min};
    return range_of(interval, range.lower_us - 1);
}

/// Returns the range that holds a moment when ranges begin by the clocks of a time zone: those of range_of(),
/// each bound taken to be the moment at which the clocks show it. `wall_of` says what the clocks show at a
/// moment as if they showed UTC, `moment_of` at which moment they show that; both keep INT64_MIN and
/// INT64_MAX.
///
/// Ranges touch and no moment is in two of them, whatever the clocks do. What they show is only where the
/// search begins: clocks that are set back over midnight show yesterday again although today has begun, and
/// clocks that skip a day show a bound that comes at the same moment as the one before it. Such a range is
/// empty, and holds no moment.
template <class WallOf, class MomentOf>
constexpr TimeRange zoned_range_of(const CalendarInterval &interval, int64_t unix_us, WallOf &&wall_of,
                                   MomentOf &&moment_of)
{
    constexpr int kMostSteps = 100; // clocks are never moved by more than a day or two
    TimeRange wall = range_of(interval, wall_of(unix_us));
    TimeRange range{moment_of(wall.lower_us), moment_of(wall.upper_us)};
    for (int i = 0; i < kMostSteps && unix_us < range.lower_us; ++i) {
        wall = previous_range(interval, wall);
        range = {moment_of(wall.lower_us), range.lower_us};
    }
    for (int i = 0; i < kMostSteps && unix_us >= range.upper_us && range.upper_us != kInt64Max; ++i) {
        wall = next_range(interval, wall);
        range = {range.upper_us, moment_of(wall.upper_us)};
    }
    return range;
}

/// Returns the ids of the records made in a range of time (its bounds in whole milliseconds). Time before
/// 1970 has none; where the time goes past the year 2248 the upper bound is INT64_MAX.
constexpr NumberRange record_ids_of(const TimeRange &range)
{
    return {record_id_floor(range.lower_us), record_id_floor(range.upper_us)};
}

/// Returns the range of `step` integers, counted from 0, which holds `value`; negative ones round down too. A
/// step below 1 gives an empty range.
constexpr NumberRange number_range_of(int64_t step, int64_t value)
{
    if (step < 1)
        return {value, value};
    const int64_t since_lower = floor_mod(value, step);
    return {saturating_sub(value, since_lower), saturating_add(value, step - since_lower)};
}

/// Returns the range after this one, empty when there is none.
constexpr NumberRange next_range(int64_t step, const NumberRange &range)
{
    if (range.upper == kInt64Max)
        return {kInt64Max, kInt64Max};
    return number_range_of(step, range.upper);
}

/// Returns the range before this one, empty when there is none.
constexpr NumberRange previous_range(int64_t step, const NumberRange &range)
{
    if (range.lower == kInt64Min)
        return {kInt64Min, kInt64Min};
    return number_range_of(step, range.lower - 1);
}

/// The longest name that Postgres keeps whole (NAMEDATALEN - 1).
inline constexpr std::size_t kMaxNameBytes = 63;

/// A name without an allocation: may be used where nothing needs to be destroyed.
class PartitionName
{
  public:
    /// Adds text, as much as fits.
    constexpr void append(std::string_view text)
    {
        for (const char c : text) {
            if (size_ < kMaxNameBytes)
                bytes_[size_++] = c;
        }
    }

    constexpr std::string_view view() const { return {bytes_.data(), size_}; }
    constexpr const char *c_str() const { return bytes_.data(); }

  private:
    std::array<char, kMaxNameBytes + 1> bytes_{};
    std::size_t size_ = 0;
};

namespace detail {

/// Text of a few digits and letters, on the stack.
class ShortText
{
  public:
    constexpr void add(std::string_view text)
    {
        for (const char c : text)
            add_char(c);
    }

    /// Adds a number with leading zeros up to `width` digits.
    constexpr void add_number(uint64_t number, int width)
    {
        std::array<char, 20> digits{};
        std::size_t count = 0;
        do {
            digits[count++] = static_cast<char>('0' + number % 10);
            number /= 10;
        } while (number != 0);
        for (auto missing = static_cast<std::size_t>(width); missing > count; --missing)
            add_char('0');
        while (count > 0)
            add_char(digits[--count]);
    }

    constexpr void add_hex(uint32_t number)
    {
        for (int shift = 28; shift >= 0; shift -= 4)
            add_char("0123456789abcdef"[(number >> shift) & 0xF]);
    }

    constexpr std::string_view view() const { return {bytes_.data(), size_}; }

  private:
    constexpr void add_char(char c)
    {
        if (size_ < bytes_.size())
            bytes_[size_++] = c;
    }

    std::array<char, 40> bytes_{};
    std::size_t size_ = 0;
};

/// 32-bit FNV-1a (Fowler, Noll, Vo): short, the same everywhere and for ever, which names must be.
constexpr uint32_t fnv1a(std::string_view text)
{
    uint32_t hash = 2166136261U;
    for (const char c : text)
        hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
    return hash;
}

/// Returns the longest start of `text` of at most `limit` bytes that cuts no UTF-8 sequence. A sequence has
/// at most three bytes after its first; more of them in a row are no UTF-8, and are cut where the limit is.
constexpr std::string_view utf8_prefix(std::string_view text, std::size_t limit)
{
    if (text.size() <= limit)
        return text;
    const auto continues = [text](std::size_t at) {
        return (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U;
    };
    std::size_t cut = limit;
    for (int i = 0; i < 3 && cut > 0 && continues(cut); ++i)
        --cut;
    return text.substr(0, continues(cut) ? limit : cut);
}

constexpr PartitionName name_with_suffix(std::string_view parent, std::string_view suffix)
{
    PartitionName name;
    if (parent.size() + suffix.size() <= kMaxNameBytes) {
        name.append(parent);
    } else {
        ShortText hash;
        hash.add("_");
        hash.add_hex(fnv1a(parent));
        name.append(utf8_prefix(parent, kMaxNameBytes - suffix.size() - hash.view().size()));
        name.append(hash.view());
    }
    name.append(suffix);
    return name;
}

constexpr void add_year(ShortText &text, int64_t year)
{
    if (year < 0)
        text.add("bc"); // of the astronomical count: year -1 is 2 BC
    text.add_number(static_cast<uint64_t>(year < 0 ? -year : year), 4);
}

constexpr ShortText time_suffix(const TimeRange &range, const CalendarInterval &interval)
{
    const CivilDate date = civil_from_us(range.lower_us);
    const int64_t second_of_day = floor_mod(range.lower_us, kUsPerDay) / kUsPerSecond;
    ShortText text;

    text.add("_p");
    add_year(text, date.year);
    if (interval.months > 0) {
        if (interval.months % 12 != 0) {
            text.add("_");
            text.add_number(static_cast<uint64_t>(date.month), 2);
        }
        return text;
    }
    text.add_number(static_cast<uint64_t>(date.month), 2);
    text.add_number(static_cast<uint64_t>(date.day), 2);
    if (interval.us % kUsPerDay != 0) {
        text.add("_");
        text.add_number(static_cast<uint64_t>(second_of_day / 3600), 2);
        text.add_number(static_cast<uint64_t>(second_of_day / 60 % 60), 2);
        if (interval.us % kUsPerMinute != 0)
            text.add_number(static_cast<uint64_t>(second_of_day % 60), 2);
    }
    return text;
}

} // namespace detail

/// Names the partition of a range without allocating; see partition_name().
constexpr PartitionName make_partition_name(std::string_view parent, const TimeRange &range,
                                            const CalendarInterval &interval)
{
    return detail::name_with_suffix(parent, detail::time_suffix(range, interval).view());
}

/// Names the partition of an integer range without allocating; see partition_name().
constexpr PartitionName make_partition_name(std::string_view parent, const NumberRange &range)
{
    detail::ShortText text;
    text.add(range.lower < 0 ? "_pm" : "_p");
    text.add_number(
        range.lower < 0 ? 0 - static_cast<uint64_t>(range.lower) : static_cast<uint64_t>(range.lower), 1);
    return detail::name_with_suffix(parent, text.view());
}

/// Returns the name of a partition: the parent's, then the lower bound in UTC in as much detail as the
/// interval needs: parent_p2026 (years), parent_p2026_11 (months), parent_p20261121 (days, weeks),
/// parent_p20261121_0300 (hours, minutes), parent_p20261121_030015 (seconds). Names of one set sort by time
/// from year 0 to 9999, and no two of them are equal.
///
/// A name longer than 63 bytes gets the start of the parent's name and a hash of the whole of it (8
/// hexadecimal digits) instead, so that parents which differ only behind the cut keep apart. The cut respects
/// UTF-8. The name is not quoted.
inline std::string partition_name(std::string_view parent, const TimeRange &range,
                                  const CalendarInterval &interval)
{
    return std::string(make_partition_name(parent, range, interval).view());
}

/// Returns the name of a partition of integers: parent_p1000000, parent_pm1000000 for a lower bound of
/// -1000000.
inline std::string partition_name(std::string_view parent, const NumberRange &range)
{
    return std::string(make_partition_name(parent, range).view());
}

} // namespace tasker::core
