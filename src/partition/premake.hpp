// Premake: the partitions of now and of the near future exist before anybody needs them.
#pragma once

#include "partition/set_config.hpp"
#include "pg/memory.hpp"

namespace tasker::partition {

// Adds a key of each range that has no partition, from the one of `now` (current_key) to `premake` after it.
// The bounds that are there are followed, whatever the interval was when they were made.
void add_missing_keys(const SetConfig &config, std::optional<int64_t> now, pg::Vector<int64_t> &keys);

} // namespace tasker::partition
