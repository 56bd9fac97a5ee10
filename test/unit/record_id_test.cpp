#include "core/record_id.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <new>
#include <set>
#include <thread>
#include <vector>

namespace tasker::core {
namespace {

constexpr int64_t kNow = 1'795'237'505'123'456; // 2026-11-21 05:05:05.123456 UTC
constexpr int64_t kNowMs = kNow / 1000;
constexpr int64_t kPerMs = int64_t{1} << kSequenceBits;

TEST(RecordId, CarriesTheMillisecond)
{
    static_assert(record_id_floor(kNow) == kNowMs << 20);
    static_assert(record_id_ceiling(kNow) == ((kNowMs << 20) | 0xFFFFF));
    static_assert(unix_us_of(record_id_floor(kNow)) == kNowMs * 1000);
    static_assert(unix_us_of(record_id_ceiling(kNow)) == kNowMs * 1000);
    EXPECT_EQ(record_id_ceiling(kNow) + 1, record_id_floor(kNow + 1000));
}

TEST(RecordId, ClampsTimesOutOfRange)
{
    EXPECT_EQ(record_id_floor(0), 0);
    EXPECT_EQ(record_id_floor(999), 0);
    EXPECT_EQ(record_id_floor(-1), 0);
    EXPECT_EQ(record_id_floor(kInt64Min), 0);
    EXPECT_EQ(record_id_ceiling(-1), kPerMs - 1);
    EXPECT_EQ(record_id_ceiling(kInt64Min), kPerMs - 1);

    const int64_t last_us = kMaxRecordMs * 1000 + 999; // in the year 2248
    EXPECT_EQ(record_id_floor(last_us), kInt64Max - (kPerMs - 1));
    EXPECT_EQ(record_id_ceiling(last_us), kInt64Max);
    EXPECT_EQ(record_id_floor(last_us + 1), kInt64Max);
    EXPECT_EQ(record_id_ceiling(last_us + 1), kInt64Max);
    EXPECT_EQ(record_id_floor(kInt64Max), kInt64Max);
    EXPECT_EQ(unix_us_of(kInt64Max), kMaxRecordMs * 1000);
}

TEST(RecordId, OrderOfIdsIsOrderOfTime)
{
    test::Random random(3);
    for (int i = 0; i < 100'000; ++i) {
        const int64_t a = random.any_int64();
        const int64_t b =
            random.one_in(2) ? random.any_int64() : saturating_add(a, random.between(-3000, 3000));
        if (a <= b) {
            ASSERT_LE(record_id_floor(a), record_id_floor(b)) << a << " " << b;
            ASSERT_LE(record_id_ceiling(a), record_id_ceiling(b)) << a << " " << b;
        }
        ASSERT_LE(record_id_floor(a), record_id_ceiling(a));
        ASSERT_GE(record_id_floor(a), 0);
    }
}

TEST(RecordId, EveryIdLiesBetweenTheFloorAndTheCeilingOfItsTime)
{
    test::Random random(4);
    for (int i = 0; i < 100'000; ++i) {
        const int64_t id = random.any_int64() & kInt64Max;
        ASSERT_LE(record_id_floor(unix_us_of(id)), id);
        ASSERT_GE(record_id_ceiling(unix_us_of(id)), id);
        ASSERT_EQ(unix_us_of(id) % 1000, 0);
    }
}

TEST(RecordId, GrowsInOneBackendWhateverTheClockDoes)
{
    test::Random random(5);
    int64_t clock_us = kNow;
    int64_t last = 0;
    int64_t highest_us = 0;
    for (int i = 0; i < 200'000; ++i) {
        if (random.one_in(1000))
            clock_us += random.between(-3'600'000'000, 3'600'000'000); // an administrator sets the clock
        else
            clock_us += random.between(-20, 2000);
        highest_us = std::max(highest_us, clock_us);
        const int64_t id = next_record_id(last, clock_us);
        ASSERT_GT(id, last);
        ASSERT_GE(id, record_id_floor(clock_us));
        ASSERT_LE(unix_us_of(id), highest_us); // no id is ahead of the latest time seen
        last = id;
    }
}

TEST(RecordId, NextStopsAtTheEnd)
{
    EXPECT_EQ(next_record_id(kInt64Max - 1, kNow), kInt64Max);
    EXPECT_EQ(next_record_id(kInt64Max, kNow), kInt64Max);
    EXPECT_EQ(next_record_id(-5, -1), 0);
    EXPECT_EQ(next_record_id(kInt64Min, kInt64Min), 0);
}

TEST(RecordId, SequenceBasedIdsAreDistinctWithinTheSequence)
{
    std::set<int64_t> seen;
    for (int64_t value = kPerMs - 1000; value < 2 * kPerMs - 1000; value += 7)
        ASSERT_TRUE(seen.insert(sequence_based_id(kNow, value)).second) << value;
    EXPECT_EQ(unix_us_of(*seen.begin()), kNowMs * 1000);
    EXPECT_EQ(unix_us_of(*seen.rbegin()), kNowMs * 1000);
    EXPECT_LT(*seen.rbegin(), sequence_based_id(kNow + 1000, 0));
}

TEST(RecordId, SequenceBasedIdsTakeTheSequenceModulo)
{
    static_assert(sequence_based_id(kNow, 5) == (kNowMs << 20) + 5);
    EXPECT_EQ(sequence_based_id(kNow, kPerMs), record_id_floor(kNow));
    EXPECT_EQ(sequence_based_id(kNow, kPerMs + 5), sequence_based_id(kNow, 5));
    EXPECT_EQ(sequence_based_id(kNow, -1), record_id_ceiling(kNow));
    EXPECT_EQ(sequence_based_id(-1, 3), 3);
    EXPECT_EQ(sequence_based_id(kInt64Max, 3), kInt64Max);
}

TEST(RecordIdClock, WorksInZeroedMemory)
{
    alignas(RecordIdClock) std::array<unsigned char, sizeof(RecordIdClock)> memory{};
    auto *clock = std::launder(reinterpret_cast<RecordIdClock *>(memory.data()));
    EXPECT_EQ(clock->last(), 0);
    EXPECT_EQ(clock->reserve(1, kNow), record_id_floor(kNow));
    EXPECT_EQ(clock->last(), record_id_floor(kNow));
}

TEST(RecordIdClock, ReservesRuns)
{
    RecordIdClock clock;
    const int64_t first = clock.reserve(100, kNow);
    EXPECT_EQ(first, record_id_floor(kNow));
    EXPECT_EQ(clock.last(), first + 99);
    EXPECT_EQ(clock.reserve(1, kNow), first + 100);
    EXPECT_EQ(clock.reserve(1, kNow + 1000), record_id_floor(kNow + 1000));
}

TEST(RecordIdClock, CountsBelowOneAsOne)
{
    RecordIdClock clock;
    const int64_t first = clock.reserve(0, kNow);
    EXPECT_EQ(clock.reserve(-7, kNow), first + 1);
    EXPECT_EQ(clock.reserve(kInt64Min, kNow), first + 2);
    EXPECT_EQ(clock.last(), first + 2);
}

TEST(RecordIdClock, RunsAheadWhenAMillisecondIsFullAndWaitsForTheTime)
{
    RecordIdClock clock;
    const int64_t first = clock.reserve(3 * kPerMs, kNow);
    EXPECT_EQ(clock.reserve(1, kNow), first + 3 * kPerMs);
    EXPECT_EQ(clock.reserve(1, kNow + 2000), first + 3 * kPerMs + 1); // still ahead
    EXPECT_EQ(clock.reserve(1, kNow + 4000), record_id_floor(kNow + 4000));
}

TEST(RecordIdClock, SurvivesAClockThatStepsBack)
{
    RecordIdClock clock;
    const int64_t before = clock.reserve(10, kNow);
    const int64_t after = clock.reserve(10, kNow - 3'600'000'000);
    EXPECT_EQ(after, before + 10);
    EXPECT_EQ(clock.reserve(1, kInt64Min), after + 10);
}

TEST(RecordIdClock, RaiseNeverLowers)
{
    RecordIdClock clock;
    const int64_t id = clock.reserve(1, kNow);
    clock.raise(id - 1);
    clock.raise(kInt64Min);
    EXPECT_EQ(clock.last(), id);
    clock.raise(id + 1'000'000'000);
    EXPECT_EQ(clock.reserve(1, kNow), id + 1'000'000'001);
}

TEST(RecordIdClock, RefusesWhatDoesNotFitAndLosesNothing)
{
    RecordIdClock clock;
    clock.raise(kInt64Max - 4); // left: -3, -2 and -1
    EXPECT_EQ(clock.reserve(4, kNow), kNoRecordId);
    EXPECT_EQ(clock.reserve(kInt64Max, kNow), kNoRecordId);
    EXPECT_EQ(clock.last(), kInt64Max - 4);
    EXPECT_EQ(clock.reserve(2, kNow), kInt64Max - 3);
    EXPECT_EQ(clock.reserve(1, kNow), kInt64Max - 1);
    EXPECT_EQ(clock.reserve(1, kNow), kNoRecordId);
    EXPECT_EQ(clock.last(), kInt64Max - 1);

    RecordIdClock far_future;
    EXPECT_EQ(far_future.reserve(1, kInt64Max), kNoRecordId);
    EXPECT_EQ(far_future.last(), 0);
}

struct Reservation
{
    int64_t started; // tickets of one shared counter: `ended` of one below `started` of another means that
    int64_t ended;   // the one was over before the other began
    int64_t first;
    int64_t last;
};

std::vector<Reservation> reserve_many(RecordIdClock &clock, std::atomic<int64_t> &ticket, uint64_t seed)
{
    test::Random random(seed);
    std::vector<Reservation> made;
    for (int64_t i = 0; i < 25'000; ++i) {
        // Every backend reads the time for itself, some late, some from before the clock was set back.
        const int64_t clock_us = kNow + i * 3 + random.between(-2000, 2000);
        const int64_t count = random.one_in(10) ? random.between(1, 1000) : 1;
        const int64_t started = ticket.fetch_add(1);
        const int64_t first = clock.reserve(count, clock_us);
        made.push_back({started, ticket.fetch_add(1), first, first + count - 1});
        if (random.one_in(50))
            clock.raise(made.back().last - random.between(0, 100));
    }
    return made;
}

TEST(RecordIdClock, OrdersByTimeAcrossThreads)
{
    RecordIdClock clock;
    std::atomic<int64_t> ticket{0};
    std::array<std::vector<Reservation>, 4> made;
    {
        std::vector<std::jthread> threads;
        for (size_t i = 0; i < made.size(); ++i)
            threads.emplace_back([&, i] { made[i] = reserve_many(clock, ticket, 100 + i); });
    }
    std::vector<Reservation> all;
    for (const std::vector<Reservation> &of_thread : made) {
        for (size_t i = 1; i < of_thread.size(); ++i)
            ASSERT_LT(of_thread[i - 1].last, of_thread[i].first); // strictly grows within one
        all.insert(all.end(), of_thread.begin(), of_thread.end());
    }
    ASSERT_EQ(all.size(), 100'000U);

    std::sort(all.begin(), all.end(), [](const auto &a, const auto &b) { return a.first < b.first; });
    for (size_t i = 1; i < all.size(); ++i)
        ASSERT_LT(all[i - 1].last, all[i].first); // no id twice

    // What was over before another began has the lower ids: in the order of ids, nothing ended before the
    // latest start so far.
    int64_t latest_start = -1;
    for (const Reservation &reservation : all) {
        ASSERT_GT(reservation.ended, latest_start);
        latest_start = std::max(latest_start, reservation.started);
    }
}

} // namespace
} // namespace tasker::core
