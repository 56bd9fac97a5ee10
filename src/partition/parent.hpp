// Taking a partitioned table under management, and letting it go.
#pragma once

#include "partition/set_config.hpp"
#include "pg/function.hpp"

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

// Reads what create_parent() and create_partitioned_table_like() are told in the same order, from the control
// column on, at argument `first`.
void read_request(const pg::Args &args, int first, ParentRequest *request);

// Opens the set and makes its partitions, in the current transaction. A parent that already has partitions is
// adopted: they stay as they are, whatever their names and lengths. What may surprise (gaps, a DEFAULT
// partition, another manager) is reported by warnings.
void manage_parent(const ParentRequest &request);

// The set is an ordinary partitioned table from now on; what was known of it is forgotten.
void end_management(Oid set);

// Throws insufficient_privilege unless the caller owns the table, as whose owner the set's statements run.
void check_ownership(Oid relid);

} // namespace tasker::partition
