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
    NameData parent_name;
    ControlKind kind;
    core::CalendarInterval interval;
    int premake;
    bool has_retention;
    Interval retention;
    pg_tz *zone; // null for UTC
    bool legal_hold;
    bool adopted; // restored from a dump; see retire.cpp
    TimestampTz adopted_at;
};

// The columns of tasker.part_config, in their order.
enum ConfigColumn : AttrNumber
{
    kConfigParent = 1,
    kConfigControl,
    kConfigControlKind,
    kConfigInterval,
    kConfigPremake,
    kConfigRetention,
    kConfigRetentionAction,
    kConfigTimezone,
    kConfigOwnerSet,
    kConfigLegalHold,
    kConfigOpenedIn,
    kConfigOpenedAt,
    kConfigAdoptedAt,
    kConfigLast = kConfigAdoptedAt
};

// The set, or nothing while it has not been opened. Sees what is committed at this moment and what this
// transaction has done, also under REPEATABLE READ, as DDL does.
std::optional<SetConfig> read_set(Oid parent);

// Checks a value of partition_interval and of timezone.
core::CalendarInterval parse_partition_interval(const char *text);
pg_tz *parse_timezone(const char *text);

// Which database of which cluster, and which installation of the extension in it: another text after a
// restore.
const char *here();

} // namespace tasker::partition
