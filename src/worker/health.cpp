// health_check(): is everything as it should be, and if not, what is wrong and what to do about it.
//
// It reads statistics that are kept anyway (shared memory, catalogs of a few rows), so that a monitor may
// call it every few seconds on a server with ten million records. Each check adds a reason when something is
// wrong; the worst reason is the status.
#include "core/record_id.hpp"
#include "partition/bounds.hpp"
#include "partition/sets.hpp"
#include "pg/function.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "stream/problems.hpp"
#include "worker/duty.hpp"
#include "worker/json_text.hpp"
#include "worker/shared.hpp"
#include "worker/xmin_holders.hpp"

namespace tasker::worker {
namespace {

constexpr int kFailuresInARow = 3;
constexpr int64_t kDutyOverdueUs = 10 * core::kUsPerMinute;
constexpr int64_t kTickerStartUs = core::kUsPerMinute; // by then it should be there
constexpr int64_t kXminHeldUs = 60 * core::kUsPerMinute;
constexpr int32_t kXminAge = 50'000'000;             // dead rows of as many transactions are kept
constexpr int32_t kXminAgeDangerous = 1'000'000'000; // half the way to wraparound
constexpr int64_t kBacklogUs = 60 * core::kUsPerMinute;
constexpr double kFailedShare = 0.05; // of the finished records

enum class Severity : int
{
    healthy,
    degraded,
    unhealthy
};

const char *severity_name(Severity severity)
{
    switch (severity) {
    case Severity::healthy:
        return "healthy";
    case Severity::degraded:
        return "degraded";
    case Severity::unhealthy:
        return "unhealthy";
    }
    return "unknown";
}

// The result under construction.
class Report
{
  public:
    Report()
    {
        reasons_.open_array();
        figures_.open_object();
    }

    void complain(Severity severity, const char *check, const char *message, const char *hint)
    {
        worst_ = std::max(worst_, severity);
        reasons_.open_object()
            .add("check", check)
            .add("severity", severity_name(severity))
            .add("message", message)
            .add("hint", hint)
            .close_object();
    }
    // A figure for the eye, whatever the status.
    JsonText &figures() { return figures_; }

    Datum finish()
    {
        reasons_.close_array();
        figures_.close_object();
        JsonText all;
        all.open_object()
            .add("status", severity_name(worst_))
            .add_json("reasons", reasons_)
            .add_json("figures", figures_)
            .close_object();
        return all.to_jsonb();
    }

  private:
    Severity worst_ = Severity::healthy;
    JsonText reasons_;
    JsonText figures_;
};

template <class... Values> const char *text(const char *format, Values... values)
{
    return pg::pg_call([&] { return psprintf(format, values...); });
}

int minutes(int64_t us)
{
    return static_cast<int>(us / core::kUsPerMinute);
}

// Are the duties scheduled with pg_cron?
bool duties_are_scheduled(pg::Spi &spi)
{
    static pg::Statement is_there("select from pg_catalog.pg_extension where extname = 'pg_cron'", {});
    static pg::Statement jobs("select from cron.job where active and command like 'call tasker.run\\_duty(%' "
                              "and database = pg_catalog.current_database() limit 1",
                              {});
    return !spi.run(is_there).empty() && !spi.run(jobs).empty();
}

void check_missing_worker(Report &report, pg::Spi &spi)
{
    if (duties_are_scheduled(spi)) {
        report.figures().add("worker", "pg_cron");
        return;
    }
    report.figures().add("worker", "none");
    if (shared() == nullptr)
        report.complain(Severity::degraded, "worker",
                        "there is no background worker: duties run only when somebody calls them",
                        "Add tasker to shared_preload_libraries and restart the server, or schedule the "
                        "duties with pg_cron: select tasker.start().");
    else
        report.complain(Severity::degraded, "worker", "the background worker is switched off",
                        "Set tasker.worker to on and see that tasker.databases names this database.");
}

void check_duties(Report &report, const DatabaseSlot &slot)
{
    const int64_t now = now_us();
    for (size_t i = 0; i < duties().size(); i++) {
        const DutySlot &record = slot.duties[i];
        if (record.times.failures >= kFailuresInARow)
            report.complain(Severity::degraded, "duty",
                            text("duty \"%s\" has failed %d times in a row: %s", duties()[i].name,
                                 record.times.failures, record.last_error),
                            "See tasker.duty_status and the server's log.");
        else if (slot.worker.state == WorkerState::running && !record.running &&
                 record.times.next_due_us > 0 && now > record.times.next_due_us &&
                 now - record.times.next_due_us > kDutyOverdueUs)
            report.complain(Severity::degraded, "duty",
                            text("duty \"%s\" is overdue by %d minutes", duties()[i].name,
                                 minutes(now - record.times.next_due_us)),
                            "Another duty takes that long: see tasker.worker_status.");
    }
}

// The worker runs, and its ticker should.
void check_ticker(Report &report, const DatabaseSlot &slot)
{
    const bool runs = slot.ticker.pid != 0 && slot.ticker.state == WorkerState::running;
    report.figures().add("ticker", runs ? "running" : "none");
    if (!runs && now_us() - slot.worker.started_us > kTickerStartUs)
        report.complain(
            Severity::degraded, "ticker",
            text("the ticker of this database does not run: %s", slot.ticker.last_error),
            "Ticks of the event stream are made once a second meanwhile. See tasker.ticker_status "
            "and the server's log.");
}

void check_worker(Report &report, pg::Spi &spi)
{
    if (RecoveryInProgress()) {
        report.figures().add("worker", "standby");
        return;
    }
    if (!worker_is_meant_to_run()) {
        check_missing_worker(report, spi);
        return;
    }
    auto *slot = pg::pg_call([] { return static_cast<DatabaseSlot *>(palloc0(sizeof(DatabaseSlot))); });
    bool launcher = false;
    {
        pg::LockScope lock(&shared()->lock, LW_SHARED);
        launcher = shared()->launcher_pid != 0;
        if (const DatabaseSlot *found = find_slot(MyDatabaseId))
            memcpy(static_cast<void *>(slot), found, sizeof *slot);
    }
    const bool runs = slot->worker.pid != 0 && slot->worker.state == WorkerState::running;
    report.figures().add("worker", runs ? "running" : "none");
    if (runs) {
        check_duties(report, *slot);
        check_ticker(report, *slot);
        return;
    }
    if (slot->worker.failures > 0)
        report.complain(Severity::unhealthy, "worker",
                        text("the background worker does not stay up: %s", slot->worker.last_error),
                        "See tasker.worker_status and the server's log.");
    else if (!launcher)
        report.complain(Severity::unhealthy, "worker",
                        "the launcher of the background workers is not running",
                        "The postmaster starts it again within seconds; see the server's log.");
    else
        report.complain(Severity::degraded, "worker",
                        "the background worker of this database is not running yet",
                        "It starts within seconds; if it does not, see tasker.worker_status.");
}

void check_xmin(Report &report, pg::Spi &spi)
{
    const std::optional<XminHolder> holder = oldest_xmin_holder(spi);
    JsonText figures;
    if (!holder) {
        report.figures().add_null("oldest_xmin");
        return;
    }
    figures.open_object().add("kind", holder->kind).add("identity", holder->identity);
    if (holder->pid != 0)
        figures.add("pid", static_cast<int64_t>(holder->pid));
    figures.add("age_xids", static_cast<int64_t>(holder->age_xids));
    figures.add("seconds", static_cast<double>(holder->held_us) / 1e6);
    figures.close_object();
    report.figures().add_json("oldest_xmin", figures);
    if (holder->held_us < kXminHeldUs && holder->age_xids < kXminAge)
        return;
    report.complain(holder->age_xids >= kXminAgeDangerous ? Severity::unhealthy : Severity::degraded, "xmin",
                    text("a %.*s (%.*s) has held back the oldest snapshot for %d minutes and %d transactions",
                         static_cast<int>(holder->kind.size()), holder->kind.data(),
                         static_cast<int>(holder->identity.size()), holder->identity.data(),
                         minutes(holder->held_us), holder->age_xids),
                    "See tasker.xmin_holders; dead rows cannot be removed while it lasts.");
}

// How many partitions of a set follow each other from the current one on, itself included; two is all that is
// asked for. Null: nobody counts on any, in a set of numbers that has none.
std::optional<int> partitions_from_now(const partition::SetConfig &set)
{
    std::optional<int64_t> key = partition::current_key(set);
    if (!key)
        return std::nullopt;
    int count = 0;
    for (; count < 2; count++) {
        const std::optional<partition::DirectoryEntry> entry = partition::find_entry(set.parent, *key);
        if (!entry)
            break;
        if (entry->upper >= partition::valid_keys(set.control).upper)
            return 2; // the end of the type
        key = entry->upper;
    }
    return count;
}

// The partition of now and the one after it are there. Tasker's own tables get them on demand; a user's
// INSERT fails without.
void check_partitions_of(Report &report, const partition::SetConfig &set)
{
    const int wanted = set.premake > 0 ? 2 : 1;
    const int found = partitions_from_now(set).value_or(wanted);
    if (found >= wanted)
        return;
    report.complain(found == 0 && !set.owner_set ? Severity::unhealthy : Severity::degraded, "partitions",
                    text("%s has no partition for %s", NameStr(set.parent_name),
                         found == 0 ? "the rows of now" : "the near future"),
                    "Call tasker.run_maintenance() and see whether it reports an error; "
                    "tasker.partition_status shows what is in the way.");
}

// A set that cannot be read is reported with its failing duties.
void check_partitions(Report &report)
{
    pg::ContextResource memory;
    pg::Vector<Oid> sets(&memory);
    partition::add_sets(sets, InvalidOid);
    for (const Oid parent : sets) {
        std::optional<partition::SetConfig> set;
        (void)pg::try_in_subtransaction([&] {
            set = partition::read_set(parent);
            if (set)
                check_partitions_of(report, *set);
        });
    }
    report.figures().add("partition_sets", static_cast<int64_t>(sets.size()));
}

// Sets that a duty does not get along with. Such a failure is the set's own and does not count as the duty's.
void check_partition_failures(Report &report, pg::Spi &spi)
{
    static pg::Statement failures(
        "select parent::regclass::text, duty, failures, message from tasker.part_failure "
        "where failures >= $1 order by 1, 2",
        {INT4OID});
    const pg::Rows rows = spi.run(failures, {kFailuresInARow});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view set = rows.text(i, 1);
        const std::string_view duty = rows.text(i, 2);
        const std::string_view message = rows.text(i, 4);
        report.complain(Severity::degraded, "partitions",
                        text("%.*s of %.*s has failed %d times in a row: %.*s", static_cast<int>(duty.size()),
                             duty.data(), static_cast<int>(set.size()), set.data(), rows.i32(i, 3),
                             static_cast<int>(message.size()), message.data()),
                        "See tasker.partition_status and the server's log.");
    }
}

void check_queue(Report &report, pg::Spi &spi)
{
    static pg::Statement statistics(
        "select count(*)::bigint, coalesce(sum(s.pending), 0)::bigint, "
        "       coalesce(sum(s.scheduled), 0)::bigint, coalesce(sum(s.processing), 0)::bigint, "
        "       coalesce(sum(s.completed), 0)::bigint, coalesce(sum(s.failed), 0)::bigint, "
        "       (extract(epoch from pg_catalog.clock_timestamp() - "
        "                min(s.oldest_pending_at) filter (where not f.paused)) * 1e6)::bigint, "
        "       (pg_catalog.array_agg(s.flow_name order by s.oldest_pending_at) "
        "            filter (where not f.paused and s.oldest_pending_at is not null))[1], "
        "       coalesce(sum(s.pending) filter (where f.paused), 0)::bigint "
        "from tasker.get_queue_status() s join tasker.flow f using (flow_name)",
        {});
    const pg::Rows rows = spi.run(statistics);
    const int64_t failed = rows.i64(0, 6);
    const int64_t finished = rows.i64(0, 5) + failed;
    JsonText figures;
    figures.open_object()
        .add("flows", rows.i64(0, 1))
        .add("pending", rows.i64(0, 2))
        .add("scheduled", rows.i64(0, 3))
        .add("processing", rows.i64(0, 4))
        .add("completed", rows.i64(0, 5))
        .add("failed", failed)
        .add("pending_in_paused_flows", rows.i64(0, 9));
    const int64_t oldest_us = rows.is_null(0, 7) ? 0 : std::max<int64_t>(rows.i64(0, 7), 0);
    figures.add("oldest_pending_seconds", static_cast<double>(oldest_us) / 1e6).close_object();
    report.figures().add_json("queue", figures);

    if (oldest_us >= kBacklogUs) {
        const std::string_view flow = rows.text(0, 8);
        report.complain(Severity::degraded, "backlog",
                        text("flow \"%.*s\" has a due record that is %d minutes old",
                             static_cast<int>(flow.size()), flow.data(), minutes(oldest_us)),
                        "Run more workers for the flow, or look at its limits (max_in_flight, rate_limit).");
    }
    if (failed > 0 && static_cast<double>(failed) > kFailedShare * static_cast<double>(finished))
        report.complain(Severity::degraded, "dead letters",
                        text("%lld of %lld finished records have failed for good",
                             static_cast<long long>(failed), static_cast<long long>(finished)),
                        "See tasker.dead_letters; retry_records(), reset_failed_records() and "
                        "purge_failed_records() deal with them.");
}

void check_stream(Report &report)
{
    pg::ContextResource memory;
    stream::StreamState state(&memory);
    pg::Vector<stream::Problem> problems(&memory);
    stream::read_state(state);
    stream::find_problems(state, problems);
    for (const stream::Problem &problem : problems)
        report.complain(problem.serious ? Severity::unhealthy : Severity::degraded, problem.check,
                        problem.message, problem.hint);

    const TimestampTz now = GetCurrentTimestamp();
    int64_t ticker_lag = 0;
    int64_t consumer_lag = 0;
    for (const stream::QueueState &queue : state.queues)
        ticker_lag = std::max(ticker_lag, stream::ticker_lag_us(queue, now));
    for (const stream::ConsumerState &consumer : state.consumers)
        consumer_lag = std::max(consumer_lag, stream::consumer_lag_us(consumer, now));
    JsonText figures;
    figures.open_object()
        .add("queues", static_cast<int64_t>(state.queues.size()))
        .add("consumers", static_cast<int64_t>(state.consumers.size()))
        .add("ticker_lag_seconds", static_cast<double>(ticker_lag) / 1e6)
        .add("consumer_lag_seconds", static_cast<double>(consumer_lag) / 1e6)
        .close_object();
    report.figures().add_json("stream", figures);
}

} // namespace

TASKER_FUNCTION(health_check)
{
    Report report; // its texts outlive the SPI connection
    {
        pg::Spi spi;
        check_worker(report, spi);
        check_xmin(report, spi);
        check_partitions(report);
        check_partition_failures(report, spi);
        check_queue(report, spi);
    }
    check_stream(report);
    return report.finish();
}

} // namespace tasker::worker
