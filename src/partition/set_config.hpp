// The settings of a partition set: its row in tasker.part_config, read and checked.
#pragma once

#include "partition/control.hpp"

namespace tasker::partition {

// What becomes of a partition that is older than the set's retention.
enum class RetentionAction
{
    drop,
    detach, // the table stays where it is
    move    // it stays, in another schema
};

struct SetConfig
{
    Oid parent;
    Oid schema;
    Oid owner;
    NameData parent_name;
    NameData control_name; // by the catalogs
    Control control;
    core::CalendarInterval interval; // of a set with time
    int64_t step;                    // of a set of numbers
    int premake;
    bool owner_set;                        // it belongs to a plane of Tasker
    std::optional<Interval> retention;     // age at which a partition goes, of a set with time
    std::optional<int64_t> retention_keys; // distance behind the current partition, of a set of numbers
    RetentionAction action;
    NameData action_schema; // of RetentionAction::move
    pg_tz *zone;            // null for UTC
    bool legal_hold;
    std::optional<TimestampTz> adopted_at; // restored from a dump then; see retire.cpp
};

// The set, or nothing while it has not been opened. Sees what is committed at this moment and what this
// transaction has done, also under REPEATABLE READ, as DDL does.
std::optional<SetConfig> read_set(Oid parent);

// Names for SQL text, qualified and quoted, in the current memory context.
const char *quoted_parent(const SetConfig &config);
const char *quoted_partition(Oid partition);

// Check the values of settings, and throw invalid_parameter_value.
core::CalendarInterval parse_partition_interval(std::string_view text);
int64_t parse_partition_step(std::string_view text);
bool is_number(std::string_view text);        // the interval of a set of numbers, be it a good one or not
bool is_retention(const Interval &retention); // not negative, and at most 4,000 years
pg_tz *parse_timezone(std::string_view text); // null for UTC

// Refuses what a column cannot tell apart: a date knows whole days only.
void check_interval(ControlKind kind, const core::CalendarInterval &interval);

// Refuses an action that the set cannot take: what a plane of Tasker owns is dropped.
void check_retention_action(const SetConfig &config, std::string_view text);

// drop, detach, or schema:NAME, whose name goes to `schema`. The schema need not exist.
RetentionAction parse_retention_action(std::string_view text, NameData *schema);

// Was the set restored less than an hour ago, so that the restore may still be running? It makes the tables
// first and their indexes last; a partition that were made between would lack the indexes, and leave those of
// the parent invalid. (Tasker's own sets have none on their parents.)
bool may_be_under_restore(const SetConfig &config);

// Which database of which cluster, and which installation of the extension in it: another text after a
// restore.
const char *here();

} // namespace tasker::partition
