// Bounds: those that a parent's partitions have, and those that a new partition shall get.
#pragma once

#include "core/bounds.hpp"
#include "partition/directory.hpp"
#include "partition/set_config.hpp"

namespace tasker::partition {

// In the current memory context.
struct BoundList
{
    DirectoryEntry *entries; // ordered by bounds
    int count;
};

// The bounds of all partitions of an open parent. A pending partition (its DETACH was cut off) takes no rows,
// but still occupies its range; the DEFAULT partition is none of them. Plain C inside: may ereport. The
// parent must be partitioned by range of one column of a control type (directory() has checked).
BoundList read_bounds(Relation parent, bool with_pending);

// The range of the set that holds `key`, from the interval and the time zone alone.
core::NumberRange aligned_range(const SetConfig &config, int64_t key);

// The key of now. A set of numbers knows no time: what is current there is its last partition with rows in
// it, else its first one. Nothing when it has none.
std::optional<int64_t> current_key(const SetConfig &config);

// What is left of `range` around `key` when no occupied range may be overlapped. Empty when `key` itself is
// occupied.
core::NumberRange fit_around(core::NumberRange range, int64_t key, std::span<const DirectoryEntry> occupied);

// Does the length of the set's partitions follow the clocks of its time zone? Only days and longer do: an
// hour begins everywhere at once, and the hour that the end of summer time repeats must not be cut in two.
bool follows_zone(const SetConfig &config);

// A name for the partition that no relation and no type of the parent's schema has. In the current memory
// context.
const char *free_partition_name(const SetConfig &config, core::NumberRange range);

// The statement that attaches a partition, whose name is quoted. In the current memory context.
const char *attach_text(const SetConfig &config, const char *partition, core::NumberRange range);

// The same from the keys alone.
const char *attach_text(const char *parent, const char *partition, const Control &control,
                        core::NumberRange range);

} // namespace tasker::partition
