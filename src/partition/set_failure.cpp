#include "partition/set_failure.hpp"

#include "pg/settings.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr int kQuietLockFailures = 5;

} // namespace

bool is_lock_failure(const pg::CaughtError &error)
{
    return error.sqlstate() == ERRCODE_LOCK_NOT_AVAILABLE ||
           error.sqlstate() == ERRCODE_T_R_DEADLOCK_DETECTED;
}

SetFailures failures_of(Oid parent, const char *duty)
{
    static pg::Statement query("select failures, next_try_at > pg_catalog.clock_timestamp() "
                               "from tasker.part_failure where parent = $1 and duty = $2",
                               {OIDOID, TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {parent, duty});
    return rows.empty() ? SetFailures{0, false} : SetFailures{rows.i32(0, 1), rows.boolean(0, 2)};
}

// News is what was not the last failure's message; a lock that was not to be had becomes news once.
void note_failure(Oid parent, const char *duty, const pg::CaughtError &error, bool interactive)
{
    static pg::Statement upsert(
        "insert into tasker.part_failure as f (parent, duty, message) values ($1, $2, $3) "
        "on conflict (parent, duty) do update set failures = f.failures + 1, message = excluded.message, "
        "changed_at = case when f.message = excluded.message then f.changed_at else excluded.changed_at end, "
        "next_try_at = pg_catalog.clock_timestamp() + "
        "least(interval '5 minutes', interval '1 second' * (1 << least(f.failures, 9))) "
        "returning failures, changed_at = pg_catalog.now()",
        {OIDOID, TEXTOID, TEXTOID});
    bool news = false;
    bool first = false;
    {
        pg::Spi spi;
        const pg::Rows rows = spi.run(upsert, {parent, duty, error.message()});
        first = rows.i32(0, 1) == 1;
        news = is_lock_failure(error) ? rows.i32(0, 1) == kQuietLockFailures : rows.boolean(0, 2);
    }
    if (news || interactive)
        report_failure(news || first ? WARNING : NOTICE, parent, duty, error);
}

void note_success(Oid parent, const char *duty)
{
    static pg::Statement remove("delete from tasker.part_failure where parent = $1 and duty = $2",
                                {OIDOID, TEXTOID});
    pg::Spi().run(remove, {parent, duty});
}

void report_failure(int level, Oid parent, const char *duty, const pg::CaughtError &error)
{
    pg::pg_call([&] {
        const char *name = get_rel_name(parent);
        ereport(level, errcode(error.sqlstate()),
                errmsg("%s of partitioned table \"%s\" failed: %s", duty, name != nullptr ? name : "?",
                       error.message()),
                error.detail() ? errdetail_internal("%s", error.detail()) : 0,
                error.hint() ? errhint("%s", error.hint()) : 0);
    });
}

int polite_patience_ms()
{
    return std::min(pg::settings::lock_timeout, kLongestPoliteWaitMs);
}

int patience_ms(int failures)
{
    const int64_t ms = static_cast<int64_t>(pg::settings::lock_timeout) << std::min(failures, 10);
    return static_cast<int>(
        std::min<int64_t>(ms, std::max<int64_t>(kLongestWaitMs, pg::settings::lock_timeout)));
}

} // namespace tasker::partition
