// The settings of a partition set: its row in tasker.part_config, read and checked.
#pragma once

#include "core/bounds.hpp"
#include "pg/error.hpp"

extern "C" {
#include "pgtime.h"
}

namespace tasker::partition {

// What the control column holds, and so how its values are turned into time and back.
enum class ControlKind
{
    record_id // core/record_id.hpp
};

struct SetConfig
{
    Oid parent;
    Oid schema;
    Oid owner;
    NameData parent_name;
    ControlKind kind;
    core::CalendarInterval interval;
    int premake;
    std::optional<Interval> retention;
    pg_tz *zone; // null for UTC
    bool legal_hold;
    std::optional<TimestampTz> adopted_at; // restored from a dump then; see retire.cpp
};

// The set, or nothing while it has not been opened. Sees what is committed at this moment and what this
// transaction has done, also under REPEATABLE READ, as DDL does.
std::optional<SetConfig> read_set(Oid parent);

// Names for SQL text, qualified and quoted, in the current memory context. `partition` is in its parent's
// schema.
const char *quoted_parent(const SetConfig &config);
const char *quoted_partition(const SetConfig &config, Oid partition);

// Checks a value of partition_interval and of timezone.
core::CalendarInterval parse_partition_interval(std::string_view text);
pg_tz *parse_timezone(std::string_view text); // null for UTC

// A key from text: a record id, or the time that it carries.
int64_t parse_key(std::string_view value);

// Which database of which cluster, and which installation of the extension in it: another text after a
// restore.
const char *here();

} // namespace tasker::partition
