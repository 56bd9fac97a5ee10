#include "partition/set_config.hpp"

#include "pg/extension.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

const char *c_string(std::string_view text)
{
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

} // namespace

// The column is the one that the table is partitioned by, whatever it is called by now. A set that was opened
// elsewhere has just been restored, also before a round has noted that: what is retired cannot be brought
// back.
std::optional<SetConfig> read_set(Oid parent)
{
    static pg::Statement query(
        "select k.relnamespace, k.relowner, k.relname::text, c.control_kind, c.partition_interval, "
        "c.premake, c.retention, c.timezone, c.legal_hold, "
        "case when c.opened_in <> $2 then pg_catalog.clock_timestamp() else c.adopted_at end, "
        "a.attname::text, c.retention_keys, "
        "c.retention_action, a.atttypid, c.owner_set "
        "from tasker.part_config c join pg_catalog.pg_class k on k.oid = c.parent "
        "join pg_catalog.pg_partitioned_table p on p.partrelid = c.parent "
        "join pg_catalog.pg_attribute a on a.attrelid = c.parent and a.attnum = p.partattrs[0] "
        "where c.parent = $1 and k.relkind = 'p'",
        {OIDOID, TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {parent, here()});
    if (rows.empty())
        return std::nullopt;
    SetConfig config{};
    config.parent = parent;
    config.schema = rows.oid(0, 1);
    config.owner = rows.oid(0, 2);
    namestrcpy(&config.parent_name, c_string(rows.text(0, 3)));
    namestrcpy(&config.control_name, c_string(rows.text(0, 11)));
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

bool is_number(std::string_view text)
{
    while (!text.empty() && isspace(static_cast<unsigned char>(text.front())))
        text.remove_prefix(1);
    while (!text.empty() && isspace(static_cast<unsigned char>(text.back())))
        text.remove_suffix(1);
    if (!text.empty() && (text.front() == '-' || text.front() == '+'))
        text.remove_prefix(1);
    return !text.empty() && text.find_first_not_of("0123456789.") == std::string_view::npos;
}

core::CalendarInterval parse_partition_interval(std::string_view text)
{
    const char *input = c_string(text);
    if (is_number(text))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" cannot be the interval of partitions", input)
            .detail("Partitions by time need an interval with a unit, such as \"1 day\".");
    const Interval *interval = nullptr;
    try {
        interval = pg::pg_call([&] {
            return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(input),
                                                         ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
        });
    } catch (const pg::PgError &e) {
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" cannot be the interval of partitions", input)
            .detail("%s", e.what());
    }
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
    pg_tz *zone = name[0] != '\0' ? pg::pg_call([&] { return pg_tzset(name); }) : nullptr;
    if (zone == nullptr || !pg_tz_acceptable(zone))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "time zone \"%s\" is not recognized", name);
    return strcmp(pg_get_timezone_name(zone), "UTC") == 0 ? nullptr : zone;
}

[[noreturn]] static void reject_step(const char *input)
{
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" cannot be the interval of partitions", input)
        .detail("Of a table that is partitioned by numbers, it must be a positive bigint.");
}

int64_t parse_partition_step(std::string_view text)
{
    const char *input = c_string(text);
    try {
        const int64 step =
            pg::pg_call([&] { return DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(input))); });
        if (step > 0)
            return step;
    } catch (const pg::PgError &) {
        reject_step(input);
    }
    reject_step(input);
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
    constexpr int kMostYears = 10'000;
    if (interval.months > kMostYears * 12 || interval.us > kMostYears * 366 * core::kUsPerDay)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "partitions must be at most %d years long",
                        kMostYears);
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

// A retention that reaches back beyond the first timestamp would make each round fail.
bool is_retention(const Interval &retention)
{
    constexpr int64_t kLongestUs = int64_t{4000} * 366 * core::kUsPerDay;
    const int64_t us = pg::interval_us(retention);
    return us >= 0 && us <= kLongestUs;
}

bool may_be_under_restore(const SetConfig &config)
{
    constexpr int64_t kQuietUs = USECS_PER_HOUR;
    return !config.owner_set && config.adopted_at && GetCurrentTimestamp() - *config.adopted_at < kQuietUs;
}

const char *here()
{
    return pg::installation();
}

} // namespace tasker::partition
