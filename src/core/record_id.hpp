// Layout of record ids and positions, and the clock that gives ids out.
//
//     63 62                                    20 19                  0
//    +--+----------------------------------------+---------------------+
//    | 0|  milliseconds since 1970-01-01 (43)    |    sequence (20)    |
//    +--+----------------------------------------+---------------------+
//
// An id carries the time at which its record was made, so that partitions can be cut on the id itself; a
// position carries the time at which its record becomes due, so that one index serves immediate, scheduled
// and retrying records. 43 bits of milliseconds last until the year 2248. Times before 1970 count as 1970,
// times past 2248 as INT64_MAX. The idea of a time prefix in a 64-bit key is Twitter's Snowflake; there is no
// node number here, because one shared clock (or one sequence) serves all backends of a server.
#pragma once

#include "core/arithmetic.hpp"

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace tasker::core {

inline constexpr int kSequenceBits = 20;
inline constexpr int64_t kSequenceMask = (int64_t{1} << kSequenceBits) - 1;
inline constexpr int64_t kMaxRecordMs = kInt64Max >> kSequenceBits;

/// What RecordIdClock::reserve returns when no id is left. Never the id of a record.
inline constexpr int64_t kNoRecordId = -1;

/// Returns the lowest id or position of the millisecond that holds `unix_us`. Clamped to [0, INT64_MAX].
constexpr int64_t record_id_floor(int64_t unix_us)
{
    const int64_t ms = floor_div(unix_us, kUsPerMs);
    if (ms < 0)
        return 0;
    if (ms > kMaxRecordMs)
        return kInt64Max;
    return ms << kSequenceBits;
}

/// Returns the highest id or position that is due at `unix_us`: a record is due when position <= this.
constexpr int64_t record_id_ceiling(int64_t unix_us)
{
    return record_id_floor(unix_us) | kSequenceMask;
}

/// Returns the time that an id or position carries, in microseconds since 1970 (a whole millisecond).
constexpr int64_t unix_us_of(int64_t id)
{
    return (id >> kSequenceBits) * kUsPerMs;
}

/// Returns the id that follows `last` at `unix_us`: max(last + 1, record_id_floor(unix_us)). So ids strictly
/// grow also when the clock steps back or when more than 2^20 are taken in one millisecond; they then run
/// ahead of the clock until it has caught up. Past INT64_MAX nothing follows: the result stays there.
constexpr int64_t next_record_id(int64_t last, int64_t unix_us)
{
    const int64_t next = saturating_add(last, 1);
    const int64_t floor = record_id_floor(unix_us);
    return next > floor ? next : floor;
}

/// Returns an id for servers without shared memory: the millisecond, then `sequence_value` (of a sequence
/// that all sessions share) modulo 2^20. Two equal ids need the same millisecond and sequence values 2^20
/// apart, that is more than a billion ids a second or a clock set back at just that moment; the primary key
/// refuses them. Unlike RecordIdClock it does not order ids within one millisecond across the wrap of the
/// sequence.
constexpr int64_t sequence_based_id(int64_t unix_us, int64_t sequence_value)
{
    return record_id_floor(unix_us) | (sequence_value & kSequenceMask);
}

/// Gives out record ids to all backends of a server; lives in shared memory.
///
/// Who writes: any backend, without a lock. All bytes zero is a valid clock, so zeroed shared memory needs no
/// constructor. After a crash the clock starts at zero again and follows the time; whoever rebuilds shared
/// memory raises it to the highest id found, which matters only when ids had run ahead of the clock or the
/// clock was set back.
///
/// Relaxed order suffices: there is one atomic, nothing else is published through it, and its modification
/// order alone makes every run start above all runs reserved before.
class RecordIdClock
{
  public:
    /// Reserves `count` ids that follow one another (less than 1 counts as 1) and returns the first. They are
    /// above all ids reserved before, and not below the millisecond of `unix_us`. Returns kNoRecordId, and
    /// reserves nothing, when fewer than `count` are left below INT64_MAX (which is no id, but the floors'
    /// kNothing).
    int64_t reserve(int64_t count, int64_t unix_us) noexcept
    {
        const int64_t extra = count > 1 ? count - 1 : 0;
        int64_t highest = last_.load(std::memory_order_relaxed);
        for (;;) {
            const int64_t first = next_record_id(highest, unix_us);
            if (first >= kInt64Max - extra)
                return kNoRecordId;
            if (last_.compare_exchange_weak(highest, first + extra, std::memory_order_relaxed))
                return first;
        }
    }

    /// Makes all ids to come greater than `to`; never lowers. For ids that were not reserved here: found in
    /// the table after a crash, restored, or inserted by hand.
    void raise(int64_t to) noexcept
    {
        int64_t highest = last_.load(std::memory_order_relaxed);
        while (highest < to && !last_.compare_exchange_weak(highest, to, std::memory_order_relaxed)) {
        }
    }

    /// Returns the highest id reserved or raised to so far; 0 when none was.
    int64_t last() const noexcept { return last_.load(std::memory_order_relaxed); }

  private:
    std::atomic<int64_t> last_{0};
};

static_assert(std::atomic<int64_t>::is_always_lock_free, "shared memory cannot hold a lock of libatomic");
static_assert(std::is_standard_layout_v<RecordIdClock> && sizeof(RecordIdClock) == sizeof(int64_t));
static_assert(std::is_trivially_destructible_v<RecordIdClock>);

} // namespace tasker::core
