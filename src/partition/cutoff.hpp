// Where the retention of a partition set ends.
#pragma once

#include "partition/bounds.hpp"

namespace tasker::partition {

// A partition that ends at or below this key is older than the set's retention; of an owner's set without
// one, it is past. Nothing for a set that retires nothing, or that has no current partition.
std::optional<int64_t> retention_cutoff(const SetConfig &config);

// The key so much time before another one; of numbers, which have no time, the same.
int64_t key_before(const Control &control, int64_t key, int64_t us);

} // namespace tasker::partition
