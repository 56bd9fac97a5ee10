#include "partition/bounds.hpp"

#include "partition/clock.hpp"
#include "pg/memory.hpp"

extern "C" {
#include "commands/defrem.h"
#include "utils/partcache.h"
#include "utils/uuid.h"
}

namespace tasker::partition {
namespace {

bool has_pending(PartitionDesc descriptor, Oid relid)
{
    return descriptor->detached_exist && PartitionHasPendingDetach(relid);
}

int64_t bound_key(PartitionBoundInfo bounds, int i, Oid type)
{
    switch (bounds->kind[i][0]) {
    case PARTITION_RANGE_DATUM_MINVALUE:
        return core::kInt64Min;
    case PARTITION_RANGE_DATUM_MAXVALUE:
        return core::kInt64Max;
    default:
        return key_of_datum(type, bounds->datums[i][0]);
    }
}

core::TimeRange time_range_of(const SetConfig &config, int64_t unix_us)
{
    if (!is_moment(config.control.kind) || !follows_zone(config))
        return core::range_of(config.interval, unix_us);
    return core::zoned_range_of(
        config.interval, unix_us, [&](int64_t moment) { return wall_clock(moment, config.zone); },
        [&](int64_t wall) { return moment_of(wall, config.zone); });
}

// A range that reaches the end of the type is open there: its exclusive upper bound would be no value.
core::NumberRange open_at_ends(const SetConfig &config, core::NumberRange range)
{
    const core::NumberRange valid = valid_keys(config.control);
    const bool starts_at_zero = is_id(config.control.kind);
    if (range.lower <= valid.lower)
        range.lower = starts_at_zero ? valid.lower : core::kInt64Min;
    if (range.upper >= valid.upper)
        range.upper = core::kInt64Max;
    return range;
}

bool has_blocks(Oid relid)
{
    return pg::pg_call([&] {
        Relation relation = try_relation_open(relid, AccessShareLock);
        if (relation == nullptr)
            return false;
        // A foreign table or a partitioned one counts as filled: it has no file of its own to tell.
        const bool has =
            !RELKIND_HAS_STORAGE(relation->rd_rel->relkind) || RelationGetNumberOfBlocks(relation) > 0;
        relation_close(relation, AccessShareLock);
        return has;
    });
}

// A table brings a type of its name with it.
bool is_free(const char *name, Oid schema)
{
    return pg::pg_call([&] {
        return !OidIsValid(get_relname_relid(name, schema)) &&
               !SearchSysCacheExists2(TYPENAMENSP, CStringGetDatum(name), ObjectIdGetDatum(schema));
    });
}

const char *uuid_literal(Datum value)
{
    return psprintf("'%s'", DatumGetCString(DirectFunctionCall1(uuid_out, value)));
}

// The bounds of partitions that a range shall touch; null where there is none.
struct TouchedBounds
{
    const char *lower;
    const char *upper;
};

// A UUID may lie between two milliseconds, and a bound that was made by hand often does; keys are whole ones.
// So that there is neither gap nor overlap, a new partition takes the very bound of its neighbour. Plain C
// inside: may ereport.
TouchedBounds touched_uuids(Oid parent, core::NumberRange range)
{
    TouchedBounds touched{nullptr, nullptr};
    Relation relation = table_open(parent, AccessShareLock);
    PartitionDesc descriptor = RelationGetPartitionDesc(relation, false);
    PartitionBoundInfo bounds = descriptor->boundinfo;
    for (int i = 0; descriptor->nparts > 0 && i < bounds->ndatums; i++) {
        if (bounds->kind[i][0] != PARTITION_RANGE_DATUM_VALUE)
            continue;
        const int64_t key = key_of_datum(UUIDOID, bounds->datums[i][0]);
        if (key == range.lower && bounds->indexes[i] >= 0)
            touched.lower = uuid_literal(bounds->datums[i][0]);
        if (key == range.upper && bounds->indexes[i + 1] >= 0 && touched.upper == nullptr)
            touched.upper = uuid_literal(bounds->datums[i][0]);
    }
    table_close(relation, AccessShareLock);
    return touched;
}

const char *attach_text(const char *parent, const char *partition, const char *lower, const char *upper)
{
    return pg::pg_call([&] {
        return psprintf("alter table %s attach partition %s for values from (%s) to (%s)", parent, partition,
                        lower, upper);
    });
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
    const Oid type = get_partition_col_typid(RelationGetPartitionKey(parent), 0);
    for (int i = 1; i < bounds->ndatums; i++) {
        if (bounds->indexes[i] < 0)
            continue;
        Oid relid = descriptor->oids[bounds->indexes[i]];
        if (with_pending || !has_pending(descriptor, relid))
            list.entries[list.count++] = {bound_key(bounds, i - 1, type), bound_key(bounds, i, type), relid};
    }
    return list;
}

bool follows_zone(const SetConfig &config)
{
    return config.zone != nullptr &&
           (config.interval.months > 0 || config.interval.us % core::kUsPerDay == 0);
}

core::NumberRange aligned_range(const SetConfig &config, int64_t key)
{
    const ControlKind kind = config.control.kind;
    if (!has_time(kind))
        return open_at_ends(config, core::number_range_of(config.step, key));
    const core::TimeRange range = time_range_of(config, unix_us_of_key(kind, key));
    return open_at_ends(config, {key_of_unix_us(kind, range.lower_us), key_of_unix_us(kind, range.upper_us)});
}

// Whether a partition has rows is asked of its file: one with nothing but dead rows counts as current too,
// which means one partition more ahead than needed, and not a scan of it each minute.
std::optional<int64_t> current_key(const SetConfig &config)
{
    const ControlKind kind = config.control.kind;
    const int64_t now = pg::unix_us_of_timestamp(clock_now());
    if (is_moment(kind))
        return key_of_unix_us(kind, now);
    if (has_time(kind))
        return config.zone != nullptr ? wall_clock(now, config.zone) : now;
    pg::ContextResource memory;
    pg::Vector<DirectoryEntry> entries(&memory);
    for (const DirectoryEntry &entry : directory(config.parent))
        entries.push_back(entry);
    for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
        if (has_blocks(entry->relid))
            return std::max(entry->lower, valid_keys(config.control).lower);
    }
    return entries.empty() ? std::nullopt
                           : std::optional(std::max(entries.front().lower, valid_keys(config.control).lower));
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
    const ControlKind kind = config.control.kind;
    const std::string_view parent = NameStr(config.parent_name);
    range.lower = std::max(range.lower, valid_keys(config.control).lower);
    core::PartitionName name;
    if (has_time(kind)) {
        int64_t lower_us = unix_us_of_key(kind, range.lower);
        if (is_moment(kind) && follows_zone(config))
            lower_us = wall_clock(lower_us, config.zone);
        const core::TimeRange from{lower_us, lower_us};
        name = core::make_partition_name(parent, from, config.interval);
        if (!is_free(name.c_str(), config.schema))
            name = core::make_partition_name(parent, from, core::CalendarInterval{0, core::kUsPerSecond});
    } else {
        name = core::make_partition_name(parent, range);
    }

    const char *candidate = pg::pg_call([&] { return pstrdup(name.c_str()); });
    for (int i = 2; !is_free(candidate, config.schema); i++) {
        candidate = pg::pg_call([&] { return makeObjectName(name.c_str(), psprintf("%d", i), nullptr); });
    }
    return candidate;
}

const char *attach_text(const SetConfig &config, const char *partition, core::NumberRange range)
{
    TouchedBounds touched{nullptr, nullptr};
    if (config.control.kind == ControlKind::uuid_v7)
        touched = pg::pg_call([&] { return touched_uuids(config.parent, range); });
    return attach_text(quoted_parent(config), partition,
                       touched.lower != nullptr ? touched.lower : bound_literal(config.control, range.lower),
                       touched.upper != nullptr ? touched.upper : bound_literal(config.control, range.upper));
}

const char *attach_text(const char *parent, const char *partition, const Control &control,
                        core::NumberRange range)
{
    return attach_text(parent, partition, bound_literal(control, range.lower),
                       bound_literal(control, range.upper));
}

} // namespace tasker::partition
