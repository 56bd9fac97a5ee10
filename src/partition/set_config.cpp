#include "partition/set_config.hpp"

#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

const char *c_string(std::string_view text)
{
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

} // namespace

std::optional<SetConfig> read_set(Oid parent)
{
    static pg::Statement query(
        "select k.relnamespace, k.relowner, k.relname::text, c.control_kind, c.partition_interval, "
        "c.premake, c.retention, c.timezone, c.legal_hold, c.adopted_at, c.control::text, c.retention_keys, "
        "c.retention_action, a.atttypid, c.owner_set "
        "from tasker.part_config c join pg_catalog.pg_class k on k.oid = c.parent "
        "left join pg_catalog.pg_attribute a on a.attrelid = c.parent and a.attname = c.control "
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
    namestrcpy(&config.control_name, c_string(rows.text(0, 11)));
    if (rows.is_null(0, 14))
        throw pg::Error(ERRCODE_UNDEFINED_COLUMN, "table \"%s\" has no column \"%s\", which its set names",
                        NameStr(config.parent_name), NameStr(config.control_name));
    config.control = {parse_control_kind(rows.text(0, 4)), rows.oid(0, 14)};
    if (has_time(config.control.kind))
        config.interval = parse_partition_interval(rows.text(0, 5));
    else
        config.step = parse_partition_step(rows.text(0, 5));
    config.premake = rows.i32(0, 6);
    if (!rows.is_null(0, 7))
        config.retention = *DatumGetIntervalP(rows.datum(0, 7));
    config.zone = parse_timezone(rows.text(0, 8));
    config.legal_hold = rows.boolean(0, 9);
    if (!rows.is_null(0, 10))
        config.adopted_at = DatumGetTimestampTz(rows.datum(0, 10));
    if (!rows.is_null(0, 12))
        config.retention_keys = rows.i64(0, 12);
    config.action = parse_retention_action(rows.text(0, 13), &config.action_schema);
    config.owner_set = rows.boolean(0, 15);
    return config;
}

const char *quoted_parent(const SetConfig &config)
{
    return pg::pg_call([&] {
        return quote_qualified_identifier(get_namespace_name(config.schema), NameStr(config.parent_name));
    });
}

const char *quoted_partition(Oid partition)
{
    return pg::pg_call([&] {
        const char *name = get_rel_name(partition);
        if (name == nullptr)
            elog(ERROR, "cache lookup failed for relation %u", partition);
        return quote_qualified_identifier(get_namespace_name(get_rel_namespace(partition)), name);
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

int64_t parse_partition_step(std::string_view text)
{
    const char *input = c_string(text);
    int64 step = 0;
    try {
        step =
            pg::pg_call([&] { return DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(input))); });
    } catch (const pg::PgError &) {
        step = 0;
    }
    if (step <= 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" cannot be the interval of partitions", input)
            .detail("Of a table that is partitioned by numbers, it must be a positive bigint.");
    return step;
}

RetentionAction parse_retention_action(std::string_view text, NameData *schema)
{
    constexpr std::string_view kSchema = "schema:";
    if (text == "drop")
        return RetentionAction::drop;
    if (text == "detach")
        return RetentionAction::detach;
    if (text.starts_with(kSchema) && text.size() > kSchema.size() &&
        text.size() - kSchema.size() < NAMEDATALEN) {
        namestrcpy(schema, c_string(text.substr(kSchema.size())));
        return RetentionAction::move;
    }
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                    "invalid value for setting \"retention_action\": \"%.*s\"", static_cast<int>(text.size()),
                    text.data())
        .detail("Retired partitions are dropped (drop), kept as tables (detach), or moved to another schema "
                "(schema:NAME).");
}

void check_interval(ControlKind kind, const core::CalendarInterval &interval)
{
    if (kind == ControlKind::date && interval.months == 0 && interval.us % core::kUsPerDay != 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "partitions by a date must be whole days long");
    if (interval.months == 0 && interval.us < core::kUsPerMinute)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "partitions must be at least one minute long");
}

void check_retention_action(const SetConfig &config, std::string_view text)
{
    NameData schema;
    if (parse_retention_action(text, &schema) != RetentionAction::drop && config.owner_set)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "invalid value for setting \"retention_action\": \"%.*s\"",
                        static_cast<int>(text.size()), text.data())
            .detail("The set belongs to Tasker, whose retired partitions are dropped: drop.");
}

const char *here()
{
    return pg::pg_call([] {
        return psprintf(UINT64_FORMAT "/%u/%u", GetSystemIdentifier(), MyDatabaseId,
                        get_extension_oid("tasker", true));
    });
}

} // namespace tasker::partition
