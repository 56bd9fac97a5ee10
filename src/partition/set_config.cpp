#include "partition/set_config.hpp"

#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

ControlKind parse_control_kind(std::string_view text)
{
    if (text == "record_id")
        return ControlKind::record_id;
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown control kind \"%.*s\"",
                    static_cast<int>(text.size()), text.data());
}

const char *c_string(std::string_view text)
{
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

} // namespace

std::optional<SetConfig> read_set(Oid parent)
{
    static pg::Statement query(
        "select k.relnamespace, k.relowner, k.relname::text, c.control_kind, c.partition_interval, "
        "c.premake, c.retention, c.timezone, c.legal_hold, c.adopted_at "
        "from tasker.part_config c join pg_catalog.pg_class k on k.oid = c.parent "
        "where c.parent = $1 and k.relkind = 'p'",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {parent});
    if (rows.empty())
        return std::nullopt;
    SetConfig config{};
    config.parent = parent;
    config.schema = rows.oid(0, 1);
    config.owner = rows.oid(0, 2);
    namestrcpy(&config.parent_name, c_string(rows.text(0, 3)));
    config.kind = parse_control_kind(rows.text(0, 4));
    config.interval = parse_partition_interval(rows.text(0, 5));
    config.premake = rows.i32(0, 6);
    if (!rows.is_null(0, 7))
        config.retention = *DatumGetIntervalP(rows.datum(0, 7));
    config.zone = parse_timezone(rows.text(0, 8));
    config.legal_hold = rows.boolean(0, 9);
    if (!rows.is_null(0, 10))
        config.adopted_at = DatumGetTimestampTz(rows.datum(0, 10));
    return config;
}

const char *quoted_parent(const SetConfig &config)
{
    return pg::pg_call([&] {
        return quote_qualified_identifier(get_namespace_name(config.schema), NameStr(config.parent_name));
    });
}

const char *quoted_partition(const SetConfig &config, Oid partition)
{
    return pg::pg_call([&] {
        const char *name = get_rel_name(partition);
        if (name == nullptr)
            elog(ERROR, "cache lookup failed for relation %u", partition);
        return quote_qualified_identifier(get_namespace_name(config.schema), name);
    });
}

core::CalendarInterval parse_partition_interval(std::string_view text)
{
    const char *input = c_string(text);
    const Interval *interval = pg::pg_call([&] {
        return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(input),
                                                     ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
    });
    const std::optional<core::CalendarInterval> parsed =
        core::parse_interval(interval->month, interval->day, interval->time);
    if (!parsed)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" cannot be the interval of partitions", input)
            .detail("It must be a positive whole number of seconds, or of months without days and hours.");
    return *parsed;
}

pg_tz *parse_timezone(std::string_view text)
{
    const char *name = c_string(text);
    pg_tz *zone = pg::pg_call([&] { return pg_tzset(name); });
    if (zone == nullptr)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "time zone \"%s\" is not recognized", name);
    return strcmp(pg_get_timezone_name(zone), "UTC") == 0 ? nullptr : zone;
}

int64_t parse_key(std::string_view value)
{
    const char *text = pg::pg_call([&] { return pnstrdup(value.data(), value.size()); });
    const size_t digits = strspn(text, "0123456789");
    try {
        return pg::pg_call([&] {
            if (digits == value.size())
                return DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(text)));
            const TimestampTz time = DatumGetTimestampTz(DirectFunctionCall3(
                timestamptz_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
            // Time before 1970 has no record ids; its floor would be that of 1970.
            return time < pg::timestamp_of_unix_us(0) ? core::kNoRecordId
                                                      : core::record_id_floor(pg::unix_us_of_timestamp(time));
        });
    } catch (const pg::PgError &e) {
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" is neither a record id nor a time", text)
            .detail("%s", e.what());
    }
}

const char *here()
{
    return pg::pg_call([] {
        return psprintf(UINT64_FORMAT "/%u/%u", GetSystemIdentifier(), MyDatabaseId,
                        get_extension_oid("tasker", true));
    });
}

} // namespace tasker::partition
