// The state machine of a queue record.
//
//                   claimed               done
//    +-> pending ------------> processing ------> completed
//    |    |    ^                |      |
//    |    |    +----------------+      +--------> failed (dead letter)
//    |    |     retry, release,    no attempts      |
//    |    |     lease ran out         left          |
//    |    +-> cancelled                             |
//    +----------------------------------------------+ retried by hand
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tasker::core {

/// Where a record is in its life. The value is what the table stores, in a column of type "char".
enum class RecordStatus : char
{
    pending = 'p',
    processing = 'r',
    completed = 'c',
    failed = 'f',
    cancelled = 'x',
};

inline constexpr int kStatusCount = 5;

namespace detail {

struct StatusEntry
{
    RecordStatus status;
    std::string_view name;
    bool terminal;
    std::array<bool, kStatusCount> may_become; // in the order of the table itself
};

/// The one table: order of the counters, words, and every legal transition. A failed record is terminal, for
/// it stays as it is (and does not hold its partition) until somebody asks for another try.
inline constexpr std::array<StatusEntry, kStatusCount> kStatusTable{{
    // clang-format off
    //                                              may become: pending processing completed failed cancelled
    {RecordStatus::pending,    "pending",    false, {            false, true,      false,    false, true}},
    {RecordStatus::processing, "processing", false, {            true,  false,     true,     true,  false}},
    {RecordStatus::completed,  "completed",  true,  {            false, false,     false,    false, false}},
    {RecordStatus::failed,     "failed",     true,  {            true,  false,     false,    false, false}},
    {RecordStatus::cancelled,  "cancelled",  true,  {            false, false,     false,    false, false}},
    // clang-format on
}};

} // namespace detail

/// Returns the index of a status for arrays of kStatusCount counters: pending 0, processing 1, completed 2,
/// failed 3, cancelled 4. Returns -1 for a value that is no status (a damaged row).
constexpr int status_index(RecordStatus status)
{
    switch (status) {
    case RecordStatus::pending:
        return 0;
    case RecordStatus::processing:
        return 1;
    case RecordStatus::completed:
        return 2;
    case RecordStatus::failed:
        return 3;
    case RecordStatus::cancelled:
        return 4;
    }
    return -1;
}

/// Returns the status with that index. The index must be in [0, kStatusCount).
constexpr RecordStatus status_at(int index)
{
    return detail::kStatusTable[static_cast<std::size_t>(index)].status;
}

/// Returns the status that the table stores as `stored`, or nothing for any other character.
constexpr std::optional<RecordStatus> status_from_char(char stored)
{
    const auto status = static_cast<RecordStatus>(stored);
    if (status_index(status) < 0)
        return std::nullopt;
    return status;
}

/// Returns the word that views and functions show, "unknown" for a value that is no status.
constexpr std::string_view status_name(RecordStatus status)
{
    const int index = status_index(status);
    return index < 0 ? std::string_view("unknown")
                     : detail::kStatusTable[static_cast<std::size_t>(index)].name;
}

/// Returns the status of that word (lower case, exact), or nothing.
constexpr std::optional<RecordStatus> status_from_name(std::string_view name)
{
    for (const detail::StatusEntry &entry : detail::kStatusTable) {
        if (entry.name == name)
            return entry.status;
    }
    return std::nullopt;
}

/// Tells whether a record rests in this status: nothing will claim, recover or wait for it, and its partition
/// may go when its time has come.
constexpr bool is_terminal(RecordStatus status)
{
    const int index = status_index(status);
    return index >= 0 && detail::kStatusTable[static_cast<std::size_t>(index)].terminal;
}

/// Tells whether a record may go from one status to the other. Staying is no transition: false.
constexpr bool is_legal_transition(RecordStatus from, RecordStatus to)
{
    const int from_index = status_index(from);
    const int to_index = status_index(to);
    return from_index >= 0 && to_index >= 0 &&
           detail::kStatusTable[static_cast<std::size_t>(from_index)]
               .may_become[static_cast<std::size_t>(to_index)];
}

/// What becomes of a record whose attempt failed: the status to store, and whether it is tried again.
struct FailureOutcome
{
    RecordStatus status;
    bool retry;
};

/// Decides after a failure. `attempts_made` counts the attempt that just failed; with `max_attempts` reached
/// the record is a dead letter, else it is pending again.
constexpr FailureOutcome outcome_of_failure(int attempts_made, int max_attempts)
{
    if (attempts_made < max_attempts)
        return {RecordStatus::pending, true};
    return {RecordStatus::failed, false};
}

} // namespace tasker::core
