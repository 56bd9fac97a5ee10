#include "core/tick_snapshot.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

namespace tasker::core {
namespace {

// A server in which transactions begin and end at random, and everything that ever happened is remembered.
class Server
{
  public:
    struct Tick
    {
        uint64_t xmin;
        uint64_t xmax;
        std::vector<uint64_t> running;
        std::set<uint64_t> ended; // by definition, what the snapshot sees

        TickSnapshot snapshot() const { return {xmin, xmax, running}; }
    };

    explicit Server(uint64_t seed) : random_(seed), next_(random_.one_in(3) ? 3 : (uint64_t{1} << 32) - 50) {}

    void step()
    {
        if (running_.empty() || random_.one_in(2)) {
            running_.insert(next_++);
            return;
        }
        // Mostly the youngest end first, so that some stay for long.
        auto victim = std::prev(running_.end());
        for (auto back = random_.between(0, 3); back > 0 && victim != running_.begin(); --back)
            --victim;
        if (random_.one_in(10))
            victim = running_.begin();
        ended_.insert(*victim);
        running_.erase(victim);
    }

    Tick tick() const
    {
        // As Postgres does: the next id that will be given, and the oldest that runs.
        Tick tick{
            running_.empty() ? next_ : *running_.begin(), next_, {running_.begin(), running_.end()}, ended_};
        return tick;
    }

    uint64_t next() const { return next_; }
    uint64_t pick(uint64_t limit)
    {
        return static_cast<uint64_t>(random_.between(0, static_cast<int64_t>(limit) - 1));
    }

  private:
    test::Random random_;
    uint64_t next_;
    std::set<uint64_t> running_;
    std::set<uint64_t> ended_;
};

std::set<uint64_t> difference(const std::set<uint64_t> &a, const std::set<uint64_t> &b)
{
    std::set<uint64_t> result;
    std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::inserter(result, result.end()));
    return result;
}

std::set<uint64_t> batch_of(const Server::Tick &earlier, const Server::Tick &later, uint64_t near)
{
    std::vector<uint64_t> single;
    const XidRange range = plan_batch(earlier.snapshot(), later.snapshot(), near, single);
    std::set<uint64_t> batch;
    for (uint64_t xid = range.from; xid < range.to; ++xid) {
        if (is_between(earlier.snapshot(), later.snapshot(), xid))
            batch.insert(xid);
    }
    uint64_t above = range.from;
    for (const uint64_t xid : single) {
        EXPECT_LT(xid, above) << "descending, and none twice";
        above = xid;
        EXPECT_TRUE(is_between(earlier.snapshot(), later.snapshot(), xid));
        batch.insert(xid);
    }
    return batch;
}

TEST(TickSnapshot, SeesWhatHasEnded)
{
    const uint64_t running[] = {12, 15};
    const TickSnapshot snapshot{12, 20, running};
    EXPECT_TRUE(is_valid(snapshot));
    EXPECT_TRUE(snapshot.sees(11));
    EXPECT_FALSE(snapshot.sees(12));
    EXPECT_TRUE(snapshot.sees(13));
    EXPECT_FALSE(snapshot.sees(15));
    EXPECT_TRUE(snapshot.sees(19));
    EXPECT_FALSE(snapshot.sees(20));
    EXPECT_FALSE(snapshot.sees(UINT64_MAX));
}

TEST(TickSnapshot, TellsWhatIsNone)
{
    const uint64_t twice[] = {12, 12};
    const uint64_t falling[] = {15, 12};
    const uint64_t low[] = {11};
    const uint64_t high[] = {20};
    EXPECT_FALSE(is_valid({12, 20, twice}));
    EXPECT_FALSE(is_valid({12, 20, falling}));
    EXPECT_FALSE(is_valid({12, 20, low}));
    EXPECT_FALSE(is_valid({12, 20, high}));
    EXPECT_FALSE(is_valid({21, 20, {}}));
    EXPECT_TRUE(is_valid({20, 20, {}}));
}

TEST(TickSnapshot, ABatchHoldsWhatEndedBetweenItsTicks)
{
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        Server server(seed);
        Server::Tick earlier = server.tick();
        for (int i = 0; i < 60; ++i) {
            for (auto steps = server.pick(40); steps > 0; --steps)
                server.step();
            const Server::Tick later = server.tick();
            ASSERT_TRUE(is_valid(later.snapshot()));
            ASSERT_EQ(batch_of(earlier, later, server.pick(3) * 10), difference(later.ended, earlier.ended));
            earlier = later;
        }
    }
}

TEST(TickSnapshot, NoTransactionIsMissedOrSeenTwice)
{
    for (uint64_t seed = 1; seed <= 200; ++seed) {
        Server server(seed);
        const Server::Tick first = server.tick();
        Server::Tick earlier = first;
        std::map<uint64_t, int> seen;
        for (int i = 0; i < 40; ++i) {
            for (auto steps = server.pick(30); steps > 0; --steps)
                server.step();
            const Server::Tick later = server.tick();
            if (server.pick(3) == 0)
                continue; // a tick that the consumer leaves out
            for (const uint64_t xid : batch_of(earlier, later, 5))
                seen[xid]++;
            earlier = later;
        }
        for (const uint64_t xid : difference(earlier.ended, first.ended))
            ASSERT_EQ(seen[xid], 1) << "transaction " << xid << ", seed " << seed;
        ASSERT_EQ(seen.size(), difference(earlier.ended, first.ended).size());
    }
}

TEST(TickSnapshot, TimeHasADirection)
{
    for (uint64_t seed = 1; seed <= 200; ++seed) {
        Server server(seed);
        const Server::Tick earlier = server.tick();
        for (auto steps = server.pick(50); steps > 0; --steps)
            server.step();
        const Server::Tick later = server.tick();
        EXPECT_TRUE(follows(later.snapshot(), earlier.snapshot()));
        EXPECT_TRUE(follows(later.snapshot(), later.snapshot()));
        const bool same = later.xmax == earlier.xmax && later.running == earlier.running;
        EXPECT_EQ(follows(earlier.snapshot(), later.snapshot()), same) << "seed " << seed;
    }
}

TEST(TickSnapshot, ALongTransactionCostsOneId)
{
    const uint64_t running[] = {1000, 999'950};
    const TickSnapshot earlier{1000, 1'000'000, running};
    const TickSnapshot later{1'000'010, 1'000'010, {}};
    std::vector<uint64_t> single;
    const XidRange range = plan_batch(earlier, later, 100, single);
    EXPECT_EQ(range.from, 999'950U);
    EXPECT_EQ(range.to, 1'000'010U);
    EXPECT_EQ(single, std::vector<uint64_t>{1000});
}

} // namespace
} // namespace tasker::core
