#include "core/dag.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

namespace tasker::core {
namespace {

using Parents = std::vector<std::vector<int32_t>>;

std::pmr::memory_resource *memory()
{
    return std::pmr::new_delete_resource();
}

std::vector<int32_t> plain(const NodeVector &nodes)
{
    return {nodes.begin(), nodes.end()};
}

// The graph with those parents.
OwnedNodeLists lists_of(const Parents &parents)
{
    OwnedNodeLists lists{NodeVector(1, 0, memory()), NodeVector(memory())};
    for (const auto &each : parents) {
        lists.members.insert(lists.members.end(), each.begin(), each.end());
        lists.first.push_back(static_cast<int32_t>(lists.members.size()));
    }
    return lists;
}

std::vector<int32_t> order_of(const Parents &parents)
{
    const OwnedNodeLists lists = lists_of(parents);
    const OwnedNodeLists children = inverted(lists.view(), memory());
    return plain(topological_order(lists.view(), children.view(), memory()));
}

std::vector<int32_t> cycle_of(const Parents &parents)
{
    const OwnedNodeLists lists = lists_of(parents);
    return plain(find_cycle(lists.view(), order_of(parents), memory()));
}

std::vector<int32_t> levels_of(const Parents &parents)
{
    const OwnedNodeLists lists = lists_of(parents);
    return plain(levels(lists.view(), order_of(parents), memory()));
}

// The same the slow way: again and again the lowest node that is not there yet and whose parents all are.
std::vector<int32_t> simple_order(const Parents &parents)
{
    std::vector<int32_t> order;
    std::set<int32_t> done;
    for (bool found = true; found;) {
        found = false;
        for (size_t node = 0; node < parents.size() && !found; ++node) {
            const bool ready = std::all_of(parents[node].begin(), parents[node].end(),
                                           [&](int32_t parent) { return done.contains(parent); });
            if (ready && done.insert(static_cast<int32_t>(node)).second) {
                order.push_back(static_cast<int32_t>(node));
                found = true;
            }
        }
    }
    return order;
}

Parents random_graph(test::Random &random, bool acyclic)
{
    const auto nodes = static_cast<int32_t>(random.between(1, 12));
    std::vector<int32_t> rank(static_cast<size_t>(nodes));
    std::iota(rank.begin(), rank.end(), 0);
    for (size_t i = rank.size(); i > 1; --i)
        std::swap(rank[i - 1], rank[static_cast<size_t>(random.between(0, static_cast<int64_t>(i) - 1))]);
    const auto sparse = static_cast<int>(random.between(1, 6));
    Parents parents(rank.size());
    for (size_t child = 0; child < rank.size(); ++child) {
        for (size_t parent = 0; parent < rank.size(); ++parent) {
            if (child != parent && (!acyclic || rank[parent] < rank[child]) && random.one_in(sparse))
                parents[child].push_back(static_cast<int32_t>(parent));
        }
    }
    return parents;
}

bool has_edge(const Parents &parents, int32_t from, int32_t to)
{
    const auto &all = parents[static_cast<size_t>(to)];
    return std::find(all.begin(), all.end(), from) != all.end();
}

TEST(Dag, InvertsLists)
{
    const OwnedNodeLists lists = lists_of({{}, {0}, {1, 0}, {}});
    const OwnedNodeLists children = inverted(lists.view(), memory());
    EXPECT_EQ(plain(children.first), (std::vector<int32_t>{0, 2, 3, 3, 3}));
    EXPECT_EQ(plain(children.members), (std::vector<int32_t>{1, 2, 2}));
    EXPECT_EQ(children.view().size(), 4);
    EXPECT_TRUE(children.view().of(3).empty());

    const OwnedNodeLists back = inverted(children.view(), memory());
    EXPECT_EQ(plain(back.members), (std::vector<int32_t>{0, 0, 1})); // sorted
}

TEST(Dag, NothingIsAGraphToo)
{
    EXPECT_TRUE(order_of({}).empty());
    EXPECT_TRUE(cycle_of({}).empty());
    EXPECT_TRUE(levels_of({}).empty());
}

TEST(Dag, KeepsAnOrderThatHolds)
{
    EXPECT_EQ(order_of({{}, {}, {0}, {0, 1}, {3}}), (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(Dag, TakesTheLowestThatMayComeNext)
{
    EXPECT_EQ(order_of({{3}, {}, {1}, {}, {2}}), (std::vector<int32_t>{1, 2, 3, 0, 4}));
}

TEST(Dag, LeavesOutWhatComesAfterACycle)
{
    const Parents parents{{}, {3}, {1}, {2}, {3}, {0}};
    EXPECT_EQ(order_of(parents), (std::vector<int32_t>{0, 5}));
    EXPECT_EQ(cycle_of(parents), (std::vector<int32_t>{1, 2, 3}));
}

TEST(Dag, FindsACycleBehindTheFirstThatIsLeft)
{
    EXPECT_EQ(cycle_of({{2}, {2}, {1}}), (std::vector<int32_t>{1, 2}));
    EXPECT_EQ(cycle_of({{}, {1}}), (std::vector<int32_t>{1}));
}

TEST(Dag, CountsLevels)
{
    EXPECT_EQ(levels_of({{}, {0}, {1, 0}, {}, {2, 3}}), (std::vector<int32_t>{0, 1, 2, 0, 3}));
    EXPECT_EQ(levels_of({{1}, {2}, {}}), (std::vector<int32_t>{2, 1, 0}));
}

TEST(Dag, OrdersAsTheSlowWayDoes)
{
    test::Random random(1);
    for (int i = 0; i < 20'000; ++i) {
        const Parents parents = random_graph(random, random.one_in(2));
        EXPECT_EQ(order_of(parents), simple_order(parents));
    }
}

TEST(Dag, FindsACycleExactlyWhereThereIsOne)
{
    test::Random random(2);
    int cyclic = 0;
    for (int i = 0; i < 20'000; ++i) {
        const Parents parents = random_graph(random, random.one_in(2));
        const std::vector<int32_t> cycle = cycle_of(parents);
        ASSERT_EQ(cycle.empty(), order_of(parents).size() == parents.size());
        if (cycle.empty())
            continue;
        cyclic++;
        EXPECT_EQ(std::set<int32_t>(cycle.begin(), cycle.end()).size(), cycle.size());
        EXPECT_EQ(cycle.front(), *std::min_element(cycle.begin(), cycle.end()));
        for (size_t at = 0; at < cycle.size(); ++at)
            EXPECT_TRUE(has_edge(parents, cycle[at], cycle[(at + 1) % cycle.size()]));
    }
    EXPECT_GT(cyclic, 1'000);
}

TEST(Dag, LevelsAreOneAboveTheHighestParent)
{
    test::Random random(3);
    for (int i = 0; i < 5'000; ++i) {
        const Parents parents = random_graph(random, true);
        const std::vector<int32_t> level = levels_of(parents);
        for (size_t node = 0; node < parents.size(); ++node) {
            int32_t highest = -1;
            for (const int32_t parent : parents[node])
                highest = std::max(highest, level[static_cast<size_t>(parent)]);
            EXPECT_EQ(level[node], highest + 1);
        }
    }
}

TEST(Dag, ALongChainNeedsNoStack)
{
    constexpr int32_t kNodes = 1'000'000;
    Parents parents(kNodes);
    for (int32_t node = 0; node + 1 < kNodes; ++node)
        parents[static_cast<size_t>(node)] = {node + 1};
    EXPECT_EQ(levels_of(parents).front(), kNodes - 1);
    parents.back() = {0};
    EXPECT_EQ(cycle_of(parents).size(), static_cast<size_t>(kNodes));
}

} // namespace
} // namespace tasker::core
