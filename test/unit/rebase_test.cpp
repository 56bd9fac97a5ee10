#include "core/rebase.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

namespace tasker::core {
namespace {

// A server whose transactions each insert one event, named by its id, and may be rolled back.
class Server
{
  public:
    struct Tick
    {
        uint64_t xmin;
        uint64_t xmax;
        std::vector<uint64_t> running;

        TickSnapshot snapshot() const { return {xmin, xmax, running}; }
    };

    Server(test::Random &random, uint64_t next) : random_(random), next_(next) {}

    void step()
    {
        if (running_.empty() || random_.one_in(2)) {
            running_.insert(next_++);
            return;
        }
        auto victim = running_.begin();
        std::advance(victim, random_.between(0, static_cast<int64_t>(running_.size()) - 1));
        if (!random_.one_in(5))
            committed_.insert(*victim);
        running_.erase(victim);
    }

    Tick tick() const
    {
        return {running_.empty() ? next_ : *running_.begin(), next_, {running_.begin(), running_.end()}};
    }

    uint64_t oldest_running() const { return running_.empty() ? next_ : *running_.begin(); }
    const std::set<uint64_t> &committed() const { return committed_; }

  private:
    test::Random &random_;
    uint64_t next_;
    std::set<uint64_t> running_;
    std::set<uint64_t> committed_;
};

std::vector<TickSnapshot> snapshots_of(const std::vector<Server::Tick> &ticks)
{
    std::vector<TickSnapshot> snapshots;
    for (const Server::Tick &tick : ticks)
        snapshots.push_back(tick.snapshot());
    return snapshots;
}

// What a consumer gets between two snapshots: events by their old names.
template <class Events>
std::set<uint64_t> batch(const TickSnapshot &earlier, const TickSnapshot &later, const Events &events)
{
    std::set<uint64_t> result;
    for (const auto &[name, xid] : events) {
        if (is_between(earlier, later, xid))
            result.insert(name);
    }
    return result;
}

// Everything between any two kept ticks is the same before and after, and what was in no tick yet, and what
// is written on the new server, comes after all of them, once.
TEST(Rebase, KeepsEveryBatch)
{
    for (uint64_t seed = 0; seed < 300; ++seed) {
        test::Random random(seed);
        Server old(random, random.one_in(2) ? 3 : 1'000'000);
        std::vector<Server::Tick> ticks;
        const auto steps = random.between(1, 200);
        for (int64_t i = 0; i < steps; ++i) {
            old.step();
            if (ticks.empty() || random.one_in(5))
                ticks.push_back(old.tick());
        }
        const std::vector<TickSnapshot> snapshots = snapshots_of(ticks);
        ASSERT_TRUE(are_successive(snapshots));

        Server fresh(random, random.one_in(2) ? 5'000'000 : 300);
        for (int64_t i = random.between(0, 50); i > 0; --i)
            fresh.step();
        const uint64_t oldest = fresh.oldest_running();
        ASSERT_GE(Rebase::most_ticks(oldest), ticks.size());
        const Rebase rebase(oldest, ticks.size());

        std::map<uint64_t, uint64_t> before;
        std::map<uint64_t, uint64_t> after;
        for (const uint64_t xid : old.committed()) {
            const size_t group = first_seeing(snapshots, xid, true);
            EXPECT_EQ(group, first_seeing(snapshots, xid, false));
            before[xid] = xid;
            if (const auto id = rebase.event(group)) {
                EXPECT_LT(*id, oldest);
                EXPECT_GT(*id, rebase.before_all());
                after[xid] = *id;
            }
        }
        for (size_t i = 0; i < ticks.size(); ++i) {
            EXPECT_TRUE(is_valid(rebase.tick(i)));
            EXPECT_GT(rebase.tick(i).xmin, rebase.before_all());
            for (size_t j = i; j < ticks.size(); ++j)
                EXPECT_EQ(batch(rebase.tick(i), rebase.tick(j), after),
                          batch(snapshots[i], snapshots[j], before));
        }

        // The new server goes on. Its transactions that ran at the re-basing have not written before it.
        const std::set<uint64_t> written_before = fresh.committed();
        for (int64_t i = random.between(0, 60); i > 0; --i)
            fresh.step();
        std::set<uint64_t> expected;
        for (const auto &[name, xid] : before) {
            if (!snapshots.back().sees(xid))
                expected.insert(name);
        }
        const Server::Tick next = fresh.tick();
        for (const uint64_t xid : fresh.committed()) {
            if (written_before.contains(xid))
                continue;
            constexpr uint64_t kNew = uint64_t{1} << 40; // a name of its own
            after[kNew + xid] = xid;
            expected.insert(kNew + xid);
        }
        EXPECT_TRUE(follows(next.snapshot(), rebase.tick(ticks.size() - 1)));
        EXPECT_EQ(batch(rebase.tick(ticks.size() - 1), next.snapshot(), after), expected);
    }
}

TEST(Rebase, IdsAreValidAndEnded)
{
    EXPECT_EQ(Rebase::most_ticks(0), 0U);
    EXPECT_EQ(Rebase::most_ticks(2), 0U);
    EXPECT_EQ(Rebase::most_ticks(3), 1U);
    for (const uint64_t oldest : {uint64_t{3}, uint64_t{700}}) {
        const size_t most = Rebase::most_ticks(oldest);
        const Rebase rebase(oldest, most);
        EXPECT_GE(rebase.before_all(), 1U);
        EXPECT_EQ(rebase.event(most), oldest - 1);
        EXPECT_FALSE(rebase.tick(most - 1).sees(oldest - 1));
        EXPECT_EQ(rebase.event(0), std::nullopt);
    }
}

TEST(Rebase, TicksOfTwoServersAreAskedOneByOne)
{
    const TickSnapshot ticks[] = {{1000, 1000, {}}, {10, 10, {}}, {2000, 2000, {}}};
    EXPECT_FALSE(are_successive(ticks));
    EXPECT_EQ(first_seeing(ticks, 5, false), 0U);
    EXPECT_EQ(first_seeing(ticks, 1500, false), 2U);
    EXPECT_EQ(first_seeing(ticks, uint64_t{1} << 62, false), 3U);
}

TEST(Thinning, KeepsWhatIsInUseAndEvenlyOfTheRest)
{
    test::Random random(7);
    for (int round = 0; round < 500; ++round) {
        const auto count = static_cast<size_t>(random.between(1, 300));
        std::vector<bool> in_use(count);
        size_t used = 0;
        for (size_t i = 0; i < count; ++i) {
            in_use[i] = random.one_in(4);
            used += in_use[i] ? 1 : 0;
        }
        const auto limit = static_cast<size_t>(random.between(0, 400));
        Thinning thinning(count, used, limit);
        size_t kept = 0;
        size_t gap = 0;
        size_t longest = 0;
        for (size_t i = 0; i < count; ++i) {
            const bool keeps = thinning.keeps(in_use[i]);
            EXPECT_TRUE(keeps || !in_use[i]);
            kept += keeps ? 1 : 0;
            gap = keeps ? 0 : gap + 1;
            longest = std::max(longest, gap);
        }
        EXPECT_EQ(kept, std::max(used, std::min(count, limit)));
        if (limit > used && limit < count) {
            const size_t room = limit - used;
            EXPECT_LE(longest, (count - used + room - 1) / room);
        }
    }
}

} // namespace
} // namespace tasker::core
