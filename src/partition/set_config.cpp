#include "partition/set_config.hpp"

#include "partition/relations.hpp"

namespace tasker::partition {
namespace {

struct ConfigRow
{
    Datum values[kConfigLast];
    bool nulls[kConfigLast];
};

// The row as plain C data, so that reading it can be guarded as a whole.
struct RawConfig
{
    bool found;
    Oid schema;
    NameData parent_name;
    const char *kind;
    const char *interval;
    const char *timezone;
    int32 premake;
    bool has_retention;
    Interval retention;
    bool legal_hold;
    bool adopted;
    TimestampTz adopted_at;
};

const char *text_column(const ConfigRow &row, ConfigColumn column)
{
    return TextDatumGetCString(row.values[column - 1]);
}

bool read_row(Oid parent, ConfigRow *row)
{
    RowScan rows = begin_rows(tasker_relation("part_config"), kConfigParent, parent);
    const bool found = next_row(&rows, row->values, row->nulls);
    end_rows(&rows);
    return found;
}

RawConfig read_raw(Oid parent)
{
    RawConfig raw{};
    ConfigRow row;
    if (!read_row(parent, &row))
        return raw;
    raw.schema = get_rel_namespace(parent);
    const char *name = get_rel_name(parent);
    if (name == nullptr)
        return raw; // dropped: the row is an orphan until the next round
    namestrcpy(&raw.parent_name, name);
    raw.found = true;
    raw.kind = text_column(row, kConfigControlKind);
    raw.interval = text_column(row, kConfigInterval);
    raw.timezone = text_column(row, kConfigTimezone);
    raw.premake = DatumGetInt32(row.values[kConfigPremake - 1]);
    raw.has_retention = !row.nulls[kConfigRetention - 1];
    if (raw.has_retention)
        raw.retention = *DatumGetIntervalP(row.values[kConfigRetention - 1]);
    raw.legal_hold = DatumGetBool(row.values[kConfigLegalHold - 1]);
    raw.adopted = !row.nulls[kConfigAdoptedAt - 1];
    if (raw.adopted)
        raw.adopted_at = DatumGetTimestampTz(row.values[kConfigAdoptedAt - 1]);
    return raw;
}

ControlKind parse_control_kind(const char *text)
{
    if (strcmp(text, "record_id") == 0)
        return ControlKind::record_id;
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown control kind \"%s\"", text);
}

} // namespace

std::optional<SetConfig> read_set(Oid parent)
{
    const RawConfig raw = pg::pg_call([&] { return read_raw(parent); });
    if (!raw.found)
        return std::nullopt;
    SetConfig config{};
    config.parent = parent;
    config.schema = raw.schema;
    config.parent_name = raw.parent_name;
    config.kind = parse_control_kind(raw.kind);
    config.interval = parse_partition_interval(raw.interval);
    config.premake = raw.premake;
    config.has_retention = raw.has_retention;
    config.retention = raw.retention;
    config.zone = parse_timezone(raw.timezone);
    config.legal_hold = raw.legal_hold;
    config.adopted = raw.adopted;
    config.adopted_at = raw.adopted_at;
    return config;
}

core::CalendarInterval parse_partition_interval(const char *text)
{
    const Interval *interval = pg::pg_call([&] {
        return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
                                                     ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
    });
    const std::optional<core::CalendarInterval> parsed =
        core::parse_interval(interval->month, interval->day, interval->time);
    if (!parsed)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" cannot be the interval of partitions", text)
            .detail("It must be a positive whole number of seconds, or of months without days and hours.");
    return *parsed;
}

pg_tz *parse_timezone(const char *text)
{
    pg_tz *zone = pg::pg_call([&] { return pg_tzset(text); });
    if (zone == nullptr)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "time zone \"%s\" is not recognized", text);
    return strcmp(pg_get_timezone_name(zone), "UTC") == 0 ? nullptr : zone;
}

const char *here()
{
    return pg::pg_call([] {
        return psprintf(UINT64_FORMAT "/%u/%u", GetSystemIdentifier(), MyDatabaseId,
                        get_extension_oid("tasker", true));
    });
}

} // namespace tasker::partition
