// Civil dates (proleptic Gregorian calendar, UTC) without the C library, which is slow, not constexpr, and
// ends early. The algorithms are Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms": years begin
// in March, so that the leap day is the last day of a year, and 400 years are one era of 146,097 days.
#pragma once

#include "core/arithmetic.hpp"

#include <cstdint>

namespace tasker::core {

/// A day of the calendar. Year 0 is 1 BC, year -1 is 2 BC.
struct CivilDate
{
    int64_t year;
    int month; // 1 to 12
    int day;   // 1 to 31

    friend constexpr bool operator==(const CivilDate &, const CivilDate &) = default;
};

/// Returns the number of days from 1970-01-01 to that date. Exact for all years within +/- 10^15.
constexpr int64_t days_from_civil(int64_t year, int month, int day)
{
    const int64_t y = month <= 2 ? year - 1 : year;
    const int64_t era = floor_div(y, 400);
    const int64_t year_of_era = floor_mod(y, 400);
    const int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    const int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

/// Returns the date that lies `days` after 1970-01-01. Exact for every number of days that an int64_t of
/// microseconds can hold, and far beyond.
constexpr CivilDate civil_from_days(int64_t days)
{
    const int64_t shifted = days + 719468;
    const int64_t era = floor_div(shifted, 146097);
    const int64_t day_of_era = floor_mod(shifted, 146097);
    const int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    const int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const int64_t march_month = (5 * day_of_year + 2) / 153;
    const auto day = static_cast<int>(day_of_year - (153 * march_month + 2) / 5 + 1);
    const auto month = static_cast<int>(march_month < 10 ? march_month + 3 : march_month - 9);
    return {year_of_era + era * 400 + (month <= 2 ? 1 : 0), month, day};
}

/// Returns the date in UTC at a time.
constexpr CivilDate civil_from_us(int64_t unix_us)
{
    return civil_from_days(floor_div(unix_us, kUsPerDay));
}

/// Returns the time at which that date begins in UTC; the nearest int64_t when it lies out of reach.
constexpr int64_t us_from_civil(int64_t year, int month, int day)
{
    return saturating_mul(days_from_civil(year, month, day), kUsPerDay);
}

/// Tells whether the year has a 29th of February.
constexpr bool is_leap_year(int64_t year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/// Returns the number of days of a month (1 to 12).
constexpr int days_in_month(int64_t year, int month)
{
    if (month == 2)
        return is_leap_year(year) ? 29 : 28;
    return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

/// Returns the day of the week of a day since 1970-01-01: 0 is Monday, 6 is Sunday.
constexpr int weekday_of(int64_t days)
{
    return static_cast<int>(floor_mod(days + 3, 7)); // 1970-01-01 was a Thursday
}

} // namespace tasker::core
