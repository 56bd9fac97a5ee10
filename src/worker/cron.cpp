// start() and stop(): who runs the duties of a database, the background worker or pg_cron.
//
// pg_cron lives in one database of the server (cron.database_name) and reaches the others from there. So for
// a database without it, start(database) is called where pg_cron is. The jobs run as the owner of the
// extension, and their commands are fixed, so whoever may call start() gains nothing by it.
#include "pg/function.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "worker/database_list.hpp"
#include "worker/duty.hpp"
#include "worker/schedule.hpp"
#include "worker/shared.hpp"

namespace tasker::worker {
namespace {

constexpr const char *kJobPrefix = "tasker ";
// Every so many seconds where pg_cron can, else every so many minutes.
const char *cron_schedule(const Duty &duty, int version)
{
    const int64_t seconds = std::max<int64_t>(duty.period_us() / core::kUsPerSecond, 1);
    return pg::pg_call([&]() -> const char * {
        if (seconds < 60)
            return version >= kKnowsSeconds ? psprintf("%d seconds", static_cast<int>(seconds)) : "* * * * *";
        const int minutes = static_cast<int>(std::min<int64_t>(seconds / 60, 59));
        return minutes == 1 ? "* * * * *" : psprintf("*/%d * * * *", minutes);
    });
}

// The database that a call is about.
struct Target
{
    const char *name;
    bool here;
};

Target target_of(const pg::Args &args)
{
    const char *here = pg::pg_call([] { return get_database_name(MyDatabaseId); });
    if (args.is_null(0))
        return {here, true};
    const char *name = NameStr(*DatumGetName(args.datum(0)));
    if (!OidIsValid(pg::pg_call([&] { return get_database_oid(name, true); })))
        throw pg::Error(ERRCODE_UNDEFINED_DATABASE, "database \"%s\" does not exist", name);
    return {name, strcmp(name, here) == 0};
}

bool worker_serves(const Target &target)
{
    return shared() != nullptr && pg::settings::worker && is_named_by_setting(target.name);
}

// The same name again replaces a job, so that a call changes nothing but what is out of date.
void schedule_duty(pg::Spi &spi, const Duty &duty, const Target &target, int version)
{
    static pg::Statement here("select cron.schedule($1, $2, $3)", {TEXTOID, TEXTOID, TEXTOID});
    static pg::Statement elsewhere("select cron.schedule_in_database($1, $2, $3, $4)",
                                   {TEXTOID, TEXTOID, TEXTOID, TEXTOID});
    const char *schedule = cron_schedule(duty, version);
    const char *command = pg::pg_call([&] { return psprintf("call tasker.run_duty('%s')", duty.name); });
    const char *job = pg::pg_call([&] {
        return target.here ? psprintf("%s%s", kJobPrefix, duty.name)
                           : psprintf("%s%s in %s", kJobPrefix, duty.name, target.name);
    });
    if (target.here)
        spi.run(here, {job, schedule, command});
    else
        spi.run(elsewhere, {job, schedule, command, target.name});
}

void schedule_duties(pg::Spi &spi, const Target &target, int version)
{
    if (!target.here && version < kKnowsDatabases)
        throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "pg_cron cannot run jobs in database \"%s\"",
                        target.name)
            .detail("It knows other databases than its own from version 1.4 on.")
            .hint("ALTER EXTENSION pg_cron UPDATE, if a newer version is installed.");
    for (const Duty &duty : duties()) {
        if (duty.period_us() > 0 && (!duty.needs_shared_memory || shared() != nullptr))
            schedule_duty(spi, duty, target, version);
    }
}

// Whether the extension is there, only a connection to the database could tell.
void check_connections(const Target &target)
{
    static pg::Statement query("select datallowconn from pg_catalog.pg_database where datname = $1",
                               {TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {target.name});
    if (!rows.empty() && !rows.boolean(0, 1))
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "database \"%s\" takes no connections",
                        target.name)
            .hint("ALTER DATABASE ... ALLOW_CONNECTIONS true, if its duties are to run.");
}

// Only the jobs that start() made: others may call duties from jobs of their own.
int unschedule_duties(pg::Spi &spi, const Target &target)
{
    static pg::Statement unschedule("select cron.unschedule(jobid) from cron.job "
                                    "where pg_catalog.starts_with(jobname, $2) and "
                                    "command like 'call tasker.run\\_duty(%' and database = $1",
                                    {TEXTOID, TEXTOID});
    return static_cast<int>(spi.run(unschedule, {target.name, kJobPrefix}).count());
}

[[noreturn]] void refuse_without_pg_cron(const Target &target)
{
    if (shared() != nullptr)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "the background worker is switched off for database \"%s\"", target.name)
            .hint("Set \"tasker.worker\" to on and name the database in \"tasker.databases\", or leave that "
                  "empty; then reload the configuration.");
    const pg::Error error(
        ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "there is neither a background worker nor pg_cron to run the duties in database \"%s\"", target.name);
    const char *home = pg_cron_database();
    const char *here = pg::pg_call([] { return get_database_name(MyDatabaseId); });
    if (home == nullptr)
        throw pg::Error(error).hint(
            "Add tasker to \"shared_preload_libraries\" and restart the server; or add pg_cron there and "
            "create "
            "the extension pg_cron; or call tasker.run_duty() from a scheduler of yours.");
    if (strcmp(home, here) == 0)
        throw pg::Error(error).hint("pg_cron is loaded: CREATE EXTENSION pg_cron in this database.");
    throw pg::Error(error).hint(
        "pg_cron is loaded, and its jobs are kept in database \"%s\". There, with both "
        "extensions: select tasker.start('%s').",
        home, target.name);
}

void say_that_worker_runs(const Target &target)
{
    pg::pg_call([&] {
        ereport(NOTICE, errmsg("the background worker runs the duties of database \"%s\"", target.name),
                errdetail("pg_cron is not needed for them."));
    });
}

} // namespace

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

const char *pg_cron_database()
{
    return pg::pg_call([] { return GetConfigOption("cron.database_name", true, false); });
}

bool worker_is_meant_to_run()
{
    return worker_serves({pg::pg_call([] { return get_database_name(MyDatabaseId); }), true});
}

// start(database name = null)
TASKER_FUNCTION(start)
{
    const Target target = target_of(args);
    check_connections(target);
    if (worker_serves(target)) {
        wake_launcher(pg::pg_call([&] { return get_database_oid(target.name, false); }));
        say_that_worker_runs(target);
        return args.result("worker");
    }
    pg::Spi spi;
    const std::optional<int> version = pg_cron_version(spi);
    if (!version)
        refuse_without_pg_cron(target);
    schedule_duties(spi, target, *version);
    return args.result("pg_cron");
}

// stop(database name = null)
TASKER_FUNCTION(stop)
{
    const Target target = target_of(args);
    pg::Spi spi;
    const int jobs = pg_cron_version(spi) ? unschedule_duties(spi, target) : 0;
    if (jobs == 0 && worker_serves(target))
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "the background worker of database \"%s\" is governed by settings", target.name)
            .hint("Set \"tasker.worker\" to off, or leave the database out of \"tasker.databases\", and "
                  "reload the configuration.");
    return args.result(static_cast<int32_t>(jobs));
}

} // namespace tasker::worker
