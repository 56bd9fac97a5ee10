// Directed graphs of steps: their order, their depth, and the cycle that a definition must not have.
//
// A graph is given as the list of parents of each node, all lists one after the other:
//
//     node          0    1    2      3
//     parents       -    0    0      1 2
//     first         0    0    1      2     4      one more than there are nodes
//     members       0  0  1  2
//
// All of it is linear in nodes and edges, but for the heap that keeps the order stable (n log n).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory_resource>
#include <span>
#include <utility>
#include <vector>

namespace tasker::core {

using NodeVector = std::pmr::vector<int32_t>;

/// A list of nodes for each node.
struct NodeLists
{
    std::span<const int32_t> first;
    std::span<const int32_t> members;

    constexpr int32_t size() const { return static_cast<int32_t>(first.size()) - 1; }
    constexpr std::span<const int32_t> of(int32_t node) const
    {
        const auto at = static_cast<size_t>(first[static_cast<size_t>(node)]);
        return members.subspan(at, static_cast<size_t>(first[static_cast<size_t>(node) + 1]) - at);
    }
};

/// The same with memory of its own.
struct OwnedNodeLists
{
    NodeVector first;
    NodeVector members;

    NodeLists view() const { return {first, members}; }
};

/// Returns the children of each node from the parents of each, or the other way round; every list ascends.
inline OwnedNodeLists inverted(const NodeLists &lists, std::pmr::memory_resource *memory)
{
    const auto nodes = static_cast<size_t>(lists.size());
    OwnedNodeLists result{NodeVector(nodes + 1, 0, memory), NodeVector(lists.members.size(), 0, memory)};
    for (const int32_t member : lists.members)
        result.first[static_cast<size_t>(member) + 1]++;
    for (size_t i = 0; i < nodes; ++i)
        result.first[i + 1] += result.first[i];

    NodeVector next(result.first, memory);
    for (int32_t node = 0; node < lists.size(); ++node) {
        for (const int32_t member : lists.of(node))
            result.members[static_cast<size_t>(next[static_cast<size_t>(member)]++)] = node;
    }
    return result;
}

/// Returns the nodes so that parents come before their children; of those that may come next, the lowest
/// does, so nodes that are in such an order already stay as they are. Where there is a cycle, its nodes and
/// all that come after them are missing.
inline NodeVector topological_order(const NodeLists &parents, const NodeLists &children,
                                    std::pmr::memory_resource *memory)
{
    const auto nodes = static_cast<size_t>(parents.size());
    NodeVector waits_for(nodes, 0, memory);
    NodeVector ready(memory); // a heap with its lowest node on top
    NodeVector order(memory);
    order.reserve(nodes);
    for (int32_t node = 0; node < parents.size(); ++node) {
        waits_for[static_cast<size_t>(node)] = static_cast<int32_t>(parents.of(node).size());
        if (parents.of(node).empty())
            ready.push_back(node); // ascending: a heap already
    }
    while (!ready.empty()) {
        std::pop_heap(ready.begin(), ready.end(), std::greater<>());
        const int32_t node = ready.back();
        ready.pop_back();
        order.push_back(node);
        for (const int32_t child : children.of(node)) {
            if (--waits_for[static_cast<size_t>(child)] == 0) {
                ready.push_back(child);
                std::push_heap(ready.begin(), ready.end(), std::greater<>());
            }
        }
    }
    return order;
}

/// Returns the nodes of one cycle, each the parent of the next and the last that of the first, beginning with
/// the lowest; nothing where there is none. `order` is what topological_order returned.
inline NodeVector find_cycle(const NodeLists &parents, std::span<const int32_t> order,
                             std::pmr::memory_resource *memory)
{
    constexpr int32_t kOutside = 0; // ordered: on no cycle
    constexpr int32_t kUnseen = 1;
    constexpr int32_t kOnPath = 2;
    NodeVector mark(static_cast<size_t>(parents.size()), kUnseen, memory);
    for (const int32_t node : order)
        mark[static_cast<size_t>(node)] = kOutside;

    // Every node that is left has a parent that is left, so the way up comes back to itself.
    const auto start = std::find(mark.begin(), mark.end(), kUnseen);
    NodeVector path(memory);
    if (start == mark.end())
        return path;
    auto node = static_cast<int32_t>(start - mark.begin());
    while (mark[static_cast<size_t>(node)] != kOnPath) {
        mark[static_cast<size_t>(node)] = kOnPath;
        path.push_back(node);
        const auto up = parents.of(node);
        node = *std::find_if(up.begin(), up.end(),
                             [&](int32_t parent) { return mark[static_cast<size_t>(parent)] != kOutside; });
    }
    path.erase(path.begin(), std::find(path.begin(), path.end(), node));
    std::reverse(path.begin(), path.end()); // it was walked from child to parent
    std::rotate(path.begin(), std::min_element(path.begin(), path.end()), path.end());
    return path;
}

/// Returns the level of each node: 0 without parents, else one more than the highest of its parents. `order`
/// has all nodes, parents before children. The depth of the graph is the highest level plus one.
inline NodeVector levels(const NodeLists &parents, std::span<const int32_t> order,
                         std::pmr::memory_resource *memory)
{
    NodeVector level(static_cast<size_t>(parents.size()), 0, memory);
    for (const int32_t node : order) {
        int32_t highest = -1;
        for (const int32_t parent : parents.of(node))
            highest = std::max(highest, level[static_cast<size_t>(parent)]);
        level[static_cast<size_t>(node)] = highest + 1;
    }
    return level;
}

} // namespace tasker::core
