#include "partition/bounds.hpp"

extern "C" {
#include "commands/defrem.h"
#include "utils/datetime.h"
}

namespace tasker::partition {
namespace {

bool has_pending(PartitionDesc descriptor, Oid relid)
{
    return descriptor->detached_exist && PartitionHasPendingDetach(relid);
}

int64_t bound_value(PartitionBoundInfo bounds, int i)
{
    switch (bounds->kind[i][0]) {
    case PARTITION_RANGE_DATUM_MINVALUE:
        return PG_INT64_MIN;
    case PARTITION_RANGE_DATUM_MAXVALUE:
        return PG_INT64_MAX;
    default:
        return DatumGetInt64(bounds->datums[i][0]);
    }
}

// The clocks of a zone at a moment, as if they showed UTC.
int64_t wall_clock(int64_t unix_us, pg_tz *zone)
{
    pg_tm tm;
    fsec_t fraction = 0;
    int offset = 0;
    Timestamp wall = 0;
    if (timestamp2tm(pg::timestamp_of_unix_us(unix_us), &offset, &tm, &fraction, nullptr, zone) != 0 ||
        tm2timestamp(&tm, fraction, nullptr, &wall) != 0)
        return unix_us;
    return pg::unix_us_of_timestamp(wall);
}

// The moment at which the clocks of a zone show this.
int64_t moment_of(int64_t wall_us, pg_tz *zone)
{
    pg_tm tm;
    fsec_t fraction = 0;
    TimestampTz moment = 0;
    if (timestamp2tm(pg::timestamp_of_unix_us(wall_us), nullptr, &tm, &fraction, nullptr, nullptr) != 0)
        return wall_us;
    int offset = DetermineTimeZoneOffset(&tm, zone);
    if (tm2timestamp(&tm, fraction, &offset, &moment) != 0)
        return wall_us;
    return pg::unix_us_of_timestamp(moment);
}

// Only days and longer follow a time zone: an hour begins everywhere at once, and the hour that the end of
// summer time repeats must not be cut in two.
bool follows_zone(const SetConfig &config)
{
    return config.zone != nullptr &&
           (config.interval.months > 0 || config.interval.us % core::kUsPerDay == 0);
}

core::TimeRange time_range_of(const SetConfig &config, int64_t unix_us)
{
    if (!follows_zone(config))
        return core::range_of(config.interval, unix_us);
    const core::TimeRange wall = core::range_of(config.interval, wall_clock(unix_us, config.zone));
    const core::TimeRange range{moment_of(wall.lower_us, config.zone), moment_of(wall.upper_us, config.zone)};
    // A zone that skipped a whole day may lead astray; any range around the key is better than none.
    return range.contains(unix_us) ? range : core::range_of(config.interval, unix_us);
}

bool is_free(const char *name, Oid schema)
{
    return pg::pg_call([&] { return !OidIsValid(get_relname_relid(name, schema)); });
}

} // namespace

// In a range-partitioned table datums[i] is the upper bound of the partition indexes[i] and the lower bound
// of what follows; an index of -1 is a gap. What is pending is filtered here and not by the partition
// descriptor, because that asks the active snapshot, and this must not depend on who looked first.
BoundList read_bounds(Relation parent, bool with_pending)
{
    PartitionDesc descriptor = RelationGetPartitionDesc(parent, false);
    const Size room = static_cast<Size>(Max(descriptor->nparts, 1));
    BoundList list{static_cast<DirectoryEntry *>(palloc(sizeof(DirectoryEntry) * room)), 0};

    if (descriptor->nparts == 0)
        return list;
    PartitionBoundInfo bounds = descriptor->boundinfo;
    for (int i = 1; i < bounds->ndatums; i++) {
        if (bounds->indexes[i] < 0)
            continue;
        Oid relid = descriptor->oids[bounds->indexes[i]];
        if (with_pending || !has_pending(descriptor, relid))
            list.entries[list.count++] = {bound_value(bounds, i - 1), bound_value(bounds, i), relid};
    }
    return list;
}

core::NumberRange aligned_range(const SetConfig &config, int64_t key)
{
    return core::record_ids_of(time_range_of(config, core::unix_us_of(key)));
}

core::NumberRange fit_around(core::NumberRange range, int64_t key, std::span<const DirectoryEntry> occupied)
{
    for (const DirectoryEntry &entry : occupied) {
        if (entry.lower <= key && key < entry.upper)
            return {key, key};
        if (entry.upper <= key)
            range.lower = std::max(range.lower, entry.upper);
        else
            range.upper = std::min(range.upper, entry.lower);
    }
    return range;
}

// The plain name says the lower bound in as much detail as the interval has. It can be taken: by a partition
// from before the interval was changed, or by a detached one that has not been dropped yet.
const char *free_partition_name(const SetConfig &config, core::NumberRange range)
{
    int64_t lower_us = core::unix_us_of(range.lower);
    if (follows_zone(config))
        lower_us = wall_clock(lower_us, config.zone);
    const std::string_view parent = NameStr(config.parent_name);
    const core::TimeRange from{lower_us, lower_us};
    core::PartitionName name = core::make_partition_name(parent, from, config.interval);
    if (!is_free(name.c_str(), config.schema))
        name = core::make_partition_name(parent, from, core::CalendarInterval{0, core::kUsPerSecond});

    const char *candidate = pg::pg_call([&] { return pstrdup(name.c_str()); });
    for (int i = 2; !is_free(candidate, config.schema); i++) {
        candidate = pg::pg_call([&] { return makeObjectName(name.c_str(), psprintf("%d", i), nullptr); });
    }
    return candidate;
}

} // namespace tasker::partition
