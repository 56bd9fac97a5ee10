// Duties without the worker: `call tasker.run_duty(name)`, and their schedule with pg_cron.
#include "partition/call_steps.hpp"
#include "pg/function.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "worker/database_list.hpp"
#include "worker/duty.hpp"
#include "worker/shared.hpp"

namespace tasker::worker {
namespace {

constexpr const char *kJobPrefix = "tasker ";

const Duty &duty_named(std::string_view name)
{
    const int index = find_duty(name);
    if (index < 0)
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "duty \"%.*s\" does not exist",
                        static_cast<int>(name.size()), name.data())
            .hint("View tasker.duty_status lists the duties.");
    return duties()[static_cast<size_t>(index)];
}

// pg_cron's version as 1000 * major + minor; nothing when it is not installed in this database.
std::optional<int> pg_cron_version(pg::Spi &spi)
{
    static pg::Statement find("select pg_catalog.split_part(e.extversion, '.', 1)::int * 1000 + "
                              "       pg_catalog.substring(pg_catalog.split_part(e.extversion, '.', 2), "
                              "                            '^[0-9]+')::int "
                              "from pg_catalog.pg_extension e where e.extname = 'pg_cron'",
                              {});
    const pg::Rows rows = spi.run(find);
    if (rows.empty())
        return std::nullopt;
    return rows.i32(0, 1);
}

// Every so many seconds where pg_cron can (from 1.5 on), else every so many minutes.
const char *cron_schedule(const Duty &duty, int version)
{
    const int64_t seconds = std::max<int64_t>(duty.period_us() / core::kUsPerSecond, 1);
    return pg::pg_call([&]() -> const char * {
        if (seconds < 60)
            return version >= 1005 ? psprintf("%d seconds", static_cast<int>(seconds)) : "* * * * *";
        const int minutes = static_cast<int>(std::min<int64_t>(seconds / 60, 59));
        return minutes == 1 ? "* * * * *" : psprintf("*/%d * * * *", minutes);
    });
}

int schedule_with_pg_cron(pg::Spi &spi, int version)
{
    static pg::Statement schedule("select cron.schedule($1, $2, $3)", {TEXTOID, TEXTOID, TEXTOID});
    int count = 0;
    for (const Duty &duty : duties()) {
        if (duty.period_us() == 0 || (duty.needs_shared_memory && shared() == nullptr))
            continue;
        const char *job = pg::pg_call([&] { return psprintf("%s%s", kJobPrefix, duty.name); });
        const char *command = pg::pg_call([&] { return psprintf("call tasker.run_duty('%s')", duty.name); });
        spi.run(schedule, {job, cron_schedule(duty, version), command});
        ++count;
    }
    return count;
}

int unschedule_with_pg_cron(pg::Spi &spi)
{
    static pg::Statement unschedule("select cron.unschedule(jobid) from cron.job "
                                    "where command like 'call tasker.run\\_duty(%' "
                                    "  and database = pg_catalog.current_database()",
                                    {});
    return static_cast<int>(spi.run(unschedule).count());
}

const char *database_name()
{
    return pg::pg_call([] { return get_database_name(MyDatabaseId); });
}

} // namespace

bool worker_is_meant_to_run()
{
    return shared() != nullptr && pg::settings::worker && is_named_by_setting(database_name());
}

TASKER_FUNCTION(run_duty)
{
    const Duty &duty = duty_named(args.text(0, "name"));
    partition::CallSteps steps(args, "tasker.run_duty()");
    duty.run(steps);
    return args.null();
}

TASKER_FUNCTION(request_duty)
{
    const Duty &duty = duty_named(args.text(0, "name"));
    return args.result(request_duty(duty.name));
}

TASKER_FUNCTION(start)
{
    if (worker_is_meant_to_run()) {
        wake_launcher(MyDatabaseId);
        return args.result("worker");
    }
    pg::Spi spi;
    const std::optional<int> version = pg_cron_version(spi);
    if (version) {
        schedule_with_pg_cron(spi, *version);
        return args.result("pg_cron");
    }
    if (shared() != nullptr)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "the background worker is switched off for database \"%s\"", database_name())
            .hint("Set \"tasker.worker\" to on and name the database in \"tasker.databases\", or leave that "
                  "empty; then reload the configuration.");
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "there is neither a background worker nor pg_cron to run the duties in database \"%s\"",
                    database_name())
        .hint("Add tasker to \"shared_preload_libraries\" and restart the server, or create the extension "
              "pg_cron in this database, or call tasker.run_duty() from a scheduler of yours.");
}

TASKER_FUNCTION(stop)
{
    pg::Spi spi;
    int jobs = 0;
    if (pg_cron_version(spi))
        jobs = unschedule_with_pg_cron(spi);
    if (jobs == 0 && worker_is_meant_to_run())
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "the background worker of database \"%s\" is governed by settings", database_name())
            .hint("Set \"tasker.worker\" to off, or leave the database out of \"tasker.databases\", and "
                  "reload the configuration.");
    return args.result(static_cast<int32_t>(jobs));
}

} // namespace tasker::worker
