// Taking a partitioned table under management, and letting it go.
#pragma once

#include "partition/set_config.hpp"

namespace tasker::partition {

// What create_parent() is told; text is checked by it.
struct ParentRequest
{
    Oid parent;
    std::string_view control;
    std::string_view interval;
    int premake;
    std::optional<Interval> retention;
    std::string_view retention_action;
    std::optional<std::string_view> start_at;
    std::string_view timezone;
};

// Opens the set and makes its partitions, in the current transaction. A parent that already has partitions is
// adopted: they stay as they are, whatever their names and lengths. What may surprise (gaps, a DEFAULT
// partition, another manager) is reported by warnings.
void manage_parent(const ParentRequest &request);

// Throws insufficient_privilege unless the caller owns the table, as whose owner the set's statements run.
void check_ownership(Oid relid);

} // namespace tasker::partition
