// The layout of the ids of tasks and steps: UUIDv7 (RFC 9562), so that they order by time and partitions can
// be ranges of them.
//
//    48 bits  milliseconds since the Unix epoch
//     4       version 7
//    12 + 30  what makes it unique (the variant's two bits stand between)
//    32       0 for a task, 1 to 2^32 - 1 for its steps
//
// So a task's steps are one range of keys right behind its own, in the same partition, and a step's task
// needs no look-up. Steps are numbered in topological order: a parent has a lower number than its children,
// but for a deferred step that got a parent which came into being after it. Ascending keys are the order in
// which rows of several steps are locked.
#pragma once

#include <array>
#include <compare>
#include <cstdint>

namespace tasker::core {

inline constexpr int64_t kMaxUnixMs = (int64_t{1} << 48) - 1;
inline constexpr uint32_t kMaxStepNumber = UINT32_MAX;

/// The 16 bytes of a UUID in network order; compares as PostgreSQL's uuid does.
struct Uuid
{
    std::array<uint8_t, 16> bytes{};

    constexpr auto operator<=>(const Uuid &) const = default;
};

/// Returns the uuid of a task made at that millisecond (0 to kMaxUnixMs); of `unique`, 42 bits count.
constexpr Uuid make_task_uuid(int64_t unix_ms, uint64_t unique)
{
    Uuid uuid;
    for (unsigned i = 0; i < 6; i++)
        uuid.bytes[i] = static_cast<uint8_t>(unix_ms >> (40 - 8 * i));
    uuid.bytes[6] = static_cast<uint8_t>(0x70 | ((unique >> 38) & 0x0f));
    uuid.bytes[7] = static_cast<uint8_t>(unique >> 30);
    uuid.bytes[8] = static_cast<uint8_t>(0x80 | ((unique >> 24) & 0x3f));
    uuid.bytes[9] = static_cast<uint8_t>(unique >> 16);
    uuid.bytes[10] = static_cast<uint8_t>(unique >> 8);
    uuid.bytes[11] = static_cast<uint8_t>(unique);
    return uuid;
}

/// Returns the number that a step has in its task; 0 for a task.
constexpr uint32_t step_number(const Uuid &uuid)
{
    uint32_t number = 0;
    for (unsigned i = 12; i < 16; i++)
        number = number << 8 | uuid.bytes[i];
    return number;
}

/// Returns the uuid of a step of the task of `uuid` (the task's own, or any step's); number 0: the task's.
constexpr Uuid step_uuid(Uuid uuid, uint32_t number)
{
    for (unsigned i = 0; i < 4; i++)
        uuid.bytes[12 + i] = static_cast<uint8_t>(number >> (24 - 8 * i));
    return uuid;
}

/// Returns the task that a step belongs to.
constexpr Uuid task_of(const Uuid &uuid)
{
    return step_uuid(uuid, 0);
}

/// Returns the millisecond that the uuid carries.
constexpr int64_t unix_ms_of(const Uuid &uuid)
{
    int64_t ms = 0;
    for (unsigned i = 0; i < 6; i++)
        ms = ms << 8 | uuid.bytes[i];
    return ms;
}

} // namespace tasker::core
