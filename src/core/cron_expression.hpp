// Cron expressions: five fields, minute hour day-of-month month day-of-week, as pg_cron reads them.
//
//    field     *   a   a-b   */n   a-b/n   and lists of these with commas; months and weekdays by name too
//    minute    0-59
//    hour      0-23
//    day       1-31
//    month     1-12, jan-dec
//    weekday   0-7, sun-sat; 0 and 7 are Sunday
//
// Where both days are restricted, one that fits suffices (cron's old rule). @hourly and its like are
// accepted.
//
// pg_cron fires at minutes of its own time zone. A schedule in another zone is brought there by its minutes
// alone, every hour, and the rest of the expression is asked when it fires (see worker/schedule.cpp).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tasker::core {

struct CronExpression
{
    uint64_t minutes;  // bit n: at minute n
    uint64_t hours;    // 0 to 23
    uint64_t days;     // 1 to 31
    uint64_t months;   // 1 to 12
    uint64_t weekdays; // 0 to 6, Sunday is 0
    bool every_day;    // the field is * or begins with it
    bool every_weekday;

    constexpr bool has_minute(int minute) const { return (minutes >> minute & 1) != 0; }

    /// Does it fit the hour that begins on that day? Its minutes are not asked.
    constexpr bool fits_hour(int hour, int day, int month, int weekday) const
    {
        const bool fits_day = (days >> day & 1) != 0;
        const bool fits_weekday = (weekdays >> weekday & 1) != 0;
        const bool either = !every_day && !every_weekday;
        return (hours >> hour & 1) != 0 && (months >> month & 1) != 0 &&
               (either ? fits_day || fits_weekday : fits_day && fits_weekday);
    }
};

namespace detail {

struct CronField
{
    int low;
    int high;
    std::string_view names; // three letters each, from `first_name` on
    int first_name;
};

inline constexpr std::array<CronField, 5> kCronFields{{
    {0, 59, "", 0},
    {0, 23, "", 0},
    {1, 31, "", 0},
    {1, 12, "janfebmaraprmayjunjulaugsepoctnovdec", 1},
    {0, 7, "sunmontuewedthufrisat", 0},
}};

constexpr char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

/// Takes a number or a name off the front of `text`.
constexpr std::optional<int> take_cron_value(std::string_view &text, const CronField &field)
{
    int value = 0;
    std::size_t digits = 0;
    while (digits < text.size() && digits < 3 && text[digits] >= '0' && text[digits] <= '9')
        value = value * 10 + (text[digits++] - '0');
    if (digits > 0) {
        text.remove_prefix(digits);
        return value;
    }
    for (std::size_t at = 0; at + 3 <= field.names.size() && text.size() >= 3; at += 3) {
        if (std::equal(text.begin(), text.begin() + 3, field.names.begin() + static_cast<std::ptrdiff_t>(at),
                       [](char a, char b) { return lower(a) == b; })) {
            text.remove_prefix(3);
            return static_cast<int>(at / 3) + field.first_name;
        }
    }
    return std::nullopt;
}

constexpr bool take_char(std::string_view &text, char c)
{
    if (text.empty() || text.front() != c)
        return false;
    text.remove_prefix(1);
    return true;
}

/// One element of a list: *, a, a-b, each of the ranges with /n.
constexpr std::optional<uint64_t> take_cron_range(std::string_view &text, const CronField &field)
{
    int low = field.low;
    int high = field.high;
    bool range = take_char(text, '*');
    if (!range) {
        const auto from = take_cron_value(text, field);
        if (!from)
            return std::nullopt;
        low = high = *from;
        if (take_char(text, '-')) {
            const auto to = take_cron_value(text, field);
            if (!to)
                return std::nullopt;
            high = *to;
            range = true;
        }
    }
    int step = 1;
    if (range && take_char(text, '/')) {
        const auto given = take_cron_value(text, {1, 99, "", 0});
        if (!given || *given < 1)
            return std::nullopt;
        step = *given;
    }
    if (low < field.low || high > field.high || low > high)
        return std::nullopt;
    uint64_t bits = 0;
    for (int value = low; value <= high; value += step)
        bits |= uint64_t{1} << value;
    return bits;
}

constexpr std::optional<uint64_t> parse_cron_field(std::string_view text, const CronField &field)
{
    uint64_t bits = 0;
    do {
        const auto range = take_cron_range(text, field);
        if (!range)
            return std::nullopt;
        bits |= *range;
    } while (take_char(text, ','));
    return text.empty() ? std::optional(bits) : std::nullopt;
}

constexpr std::string_view cron_word(std::string_view word)
{
    constexpr std::array<std::array<std::string_view, 2>, 7> words{{
        {"@hourly", "0 * * * *"},
        {"@daily", "0 0 * * *"},
        {"@midnight", "0 0 * * *"},
        {"@weekly", "0 0 * * 0"},
        {"@monthly", "0 0 1 * *"},
        {"@yearly", "0 0 1 1 *"},
        {"@annually", "0 0 1 1 *"},
    }};
    for (const auto &each : words) {
        if (each[0] == word)
            return each[1];
    }
    return word;
}

} // namespace detail

/// Returns the expression, or nothing where the text is none.
constexpr std::optional<CronExpression> parse_cron(std::string_view text)
{
    constexpr std::string_view kBlanks = " \t";
    text = detail::cron_word(text);
    std::array<uint64_t, 5> bits{};
    std::array<bool, 5> every{};
    for (std::size_t i = 0; i < bits.size(); i++) {
        text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
        const std::string_view field = text.substr(0, std::min(text.find_first_of(kBlanks), text.size()));
        const auto parsed = detail::parse_cron_field(field, detail::kCronFields[i]);
        if (!parsed)
            return std::nullopt;
        bits[i] = *parsed;
        every[i] = field.front() == '*';
        text.remove_prefix(field.size());
    }
    if (text.find_first_not_of(kBlanks) != std::string_view::npos)
        return std::nullopt;
    const uint64_t sunday_too = bits[4] >> 7 & 1; // 7 is 0
    return CronExpression{bits[0],  bits[1], bits[2], bits[3], (bits[4] | sunday_too) & 0x7f,
                          every[2], every[4]};
}

} // namespace tasker::core
