// schedule_task(), schedule_record(), unschedule(): what is to happen again and again, by jobs of pg_cron.
//
// A job is one statement, of literals only, and runs as the owner of the extension, as the duties do.
//
// pg_cron reads expressions in a time zone of its own (UTC, or cron.timezone since version 1.5). For that
// zone a job has the expression as it was given. For another one pg_cron fires in every hour, at the
// expression's minutes moved by the difference of the zones, and the job asks _schedule_is_due() whether this
// hour is one of the expression's. So daylight saving time is followed: an hour that the clock leaves out has
// no run, an hour that it repeats has two.
#include "worker/schedule.hpp"

#include "core/cron_expression.hpp"
#include "pg/function.hpp"

extern "C" {
#include "utils/datetime.h"
}

namespace tasker::worker {
namespace {

constexpr const char *kJobPrefix = "tasker/";

core::CronExpression cron_argument(const pg::Args &args, int i)
{
    const std::string_view text = args.text(i, "cron");
    if (const auto cron = core::parse_cron(text))
        return *cron;
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%.*s\" is no cron expression",
                    static_cast<int>(text.size()), text.data())
        .hint(
            "It has five fields: minute, hour, day of the month, month, day of the week; \"30 3 * * 1-5\" is "
            "half past three on weekdays.");
}

[[noreturn]] void refuse_without_pg_cron()
{
    const pg::Error error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                          "there is no pg_cron in this database, which runs what is scheduled");
    const char *home = pg_cron_database();
    if (home == nullptr)
        throw pg::Error(error).hint(
            "Add pg_cron to \"shared_preload_libraries\", restart the server, and CREATE "
            "EXTENSION pg_cron.");
    if (const char *here = pg::pg_call([] { return get_database_name(MyDatabaseId); });
        strcmp(home, here) != 0)
        throw pg::Error(error).hint("Its jobs are kept in database \"%s\". There, call "
                                    "cron.schedule_in_database() with a statement of yours.",
                                    home);
    throw pg::Error(error).hint("pg_cron is loaded: CREATE EXTENSION pg_cron in this database.");
}

// The minutes by which clocks of the zone differ from pg_cron's, within the hour; nothing when the zones are
// the same. Errors: invalid_parameter_value for an unknown zone.
std::optional<int> minutes_from_pg_cron(pg::Spi &spi, std::string_view zone)
{
    static pg::Statement look(
        "with cron as (select coalesce(nullif(pg_catalog.current_setting('cron.timezone', true), ''), 'UTC') "
        "as zone), "
        "half_years as (select m * interval '6 months' + pg_catalog.date_trunc('year', pg_catalog.now(), "
        "'UTC') as at "
        "  from pg_catalog.generate_series(0, 1) m), "
        "differences as (select extract(epoch from "
        "    pg_catalog.timezone($1, h.at) - pg_catalog.timezone(c.zone, h.at))::int / 60 as minutes "
        "  from cron c cross join half_years h) "
        "select pg_catalog.replace(pg_catalog.upper($1), 'GMT', 'UTC') = "
        "       (select pg_catalog.replace(pg_catalog.upper(zone), 'GMT', 'UTC') from cron), "
        "       (pg_catalog.min(minutes) % 60 + 60) % 60, (pg_catalog.max(minutes) % 60 + 60) % 60 "
        "from differences",
        {TEXTOID});
    const pg::Rows rows = spi.run(look, {zone});
    if (rows.boolean(0, 1))
        return std::nullopt;
    if (rows.i32(0, 2) != rows.i32(0, 3))
        throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "time zone \"%.*s\" changes by a part of an hour",
                        static_cast<int>(zone.size()), zone.data())
            .hint("Schedule it in UTC.");
    return rows.i32(0, 2);
}

const char *literal(std::string_view text)
{
    return pg::pg_call(
        [&] { return quote_literal_cstr(pnstrdup(text.data(), static_cast<Size>(text.size()))); });
}

// What pg_cron gets for an expression of a zone whose clocks are that many minutes ahead.
const char *every_hour_at(const core::CronExpression &cron, int ahead)
{
    return pg::pg_call([&]() -> const char * {
        StringInfoData text;
        initStringInfo(&text);
        for (int minute = 0; minute < 60; minute++) {
            if (cron.has_minute((minute + ahead) % 60))
                appendStringInfo(&text, "%s%d", text.len == 0 ? "" : ",", minute);
        }
        appendStringInfoString(&text, " * * * *");
        return text.data;
    });
}

// The arguments that both functions have: 0 name, 1 cron, 5 timezone. `command` is a call.
int64_t schedule(const pg::Args &args, const char *command)
{
    static pg::Statement make("select cron.schedule($1, $2, $3)", {TEXTOID, TEXTOID, TEXTOID});
    const std::string_view name = args.name(0, "name");
    const core::CronExpression cron = cron_argument(args, 1);
    const std::string_view zone = args.name(5, "timezone");
    pg::Spi spi;
    if (!pg_cron_version(spi))
        refuse_without_pg_cron();
    const std::optional<int> ahead = minutes_from_pg_cron(spi, zone);
    const char *job = pg::pg_call(
        [&] { return psprintf("%s%.*s", kJobPrefix, static_cast<int>(name.size()), name.data()); });
    if (!ahead) {
        const char *plain = pg::pg_call([&] { return psprintf("select %s", command); });
        return spi.run(make, {job, args.text(1, "cron"), plain}).i64(0, 1);
    }
    const char *expression = literal(args.text(1, "cron"));
    const char *in_zone = literal(zone);
    const char *condition = pg::pg_call([&] {
        return psprintf("select %s where tasker._schedule_is_due(%s, %s)", command, expression, in_zone);
    });
    return spi.run(make, {job, every_hour_at(cron, *ahead), condition}).i64(0, 1);
}

const char *json_text(Datum value)
{
    return pg::pg_call([&] {
        Jsonb *json = DatumGetJsonbP(value);
        return JsonbToCString(nullptr, &json->root, static_cast<int>(VARSIZE_ANY_EXHDR(json)));
    });
}

void require_not_null(const pg::Args &args, int i, const char *name)
{
    if (args.is_null(i))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not be null", name);
}

} // namespace

// schedule_task(name, cron, namespace, task_name, context, timezone)
TASKER_FUNCTION(schedule_task)
{
    static pg::Statement check("select tasker.get_task_template($1, $2)", {TEXTOID, TEXTOID});
    const std::string_view space = args.name(2, "namespace");
    const std::string_view task = args.name(3, "task_name");
    require_not_null(args, 4, "context");
    const char *name = literal(args.name(0, "name"));
    {
        pg::Spi spi;
        (void)spi.run(check, {space, task});
    }
    const char *context = literal(json_text(args.datum(4)));
    const char *space_literal = literal(space);
    const char *task_literal = literal(task);
    const char *command = pg::pg_call([&] {
        return psprintf("tasker.create_task(%s, %s, %s, initiator => 'schedule', reason => %s)",
                        space_literal, task_literal, context, name);
    });
    return args.result(schedule(args, command));
}

// schedule_record(name, cron, flow_name, payload, priority, timezone)
TASKER_FUNCTION(schedule_record)
{
    const std::string_view flow = args.name(2, "flow_name");
    require_not_null(args, 3, "payload");
    const int priority = args.i16(4, "priority");
    if (priority < 0 || priority > 9)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "priority must be from 0 to 9");
    const char *flow_literal = literal(flow);
    const char *payload = literal(json_text(args.datum(3)));
    const char *command = pg::pg_call(
        [&] { return psprintf("tasker.enqueue(%s, %s, %d::smallint)", flow_literal, payload, priority); });
    return args.result(schedule(args, command));
}

// unschedule(name)
TASKER_FUNCTION(unschedule)
{
    static pg::Statement remove("select cron.unschedule(jobid) from cron.job where jobname = $2 || $1 "
                                "and database = pg_catalog.current_database()",
                                {TEXTOID, TEXTOID});
    const std::string_view name = args.name(0, "name");
    pg::Spi spi;
    if (!pg_cron_version(spi))
        refuse_without_pg_cron();
    if (spi.run(remove, {name, kJobPrefix}).empty())
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "nothing is scheduled as \"%.*s\"",
                        static_cast<int>(name.size()), name.data())
            .hint("What is scheduled is in cron.job, as \"tasker/NAME\".");
    return 0;
}

// _schedule_is_due(cron, timezone, at): is the hour of the zone's clocks one of the expression's?
TASKER_FUNCTION(schedule_is_due)
{
    const core::CronExpression cron = cron_argument(args, 0);
    const std::string_view zone = args.name(1, "timezone");
    const TimestampTz at = args.optional_timestamp(2).value_or(GetCurrentTimestamp());
    struct pg_tm local = {};
    const bool known = pg::pg_call([&] {
        fsec_t fraction = 0;
        const Datum name =
            PointerGetDatum(cstring_to_text_with_len(zone.data(), static_cast<int>(zone.size())));
        const Timestamp there =
            DatumGetTimestamp(DirectFunctionCall2(timestamptz_zone, name, TimestampTzGetDatum(at)));
        return timestamp2tm(there, nullptr, &local, &fraction, nullptr, nullptr) == 0;
    });
    if (!known)
        throw pg::Error(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, "timestamp out of range");
    const int weekday = j2day(date2j(local.tm_year, local.tm_mon, local.tm_mday));
    return args.result(cron.fits_hour(local.tm_hour, local.tm_mday, local.tm_mon, weekday));
}

} // namespace tasker::worker
