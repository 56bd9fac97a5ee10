// Retirement: partitions that may go are detached and dropped, and nobody waits for it.
//
//   ask      the owner of the set may refuse; the refusal is shown in tasker.partition_status
//   book     a row in tasker.part_retirement, committed: from here on the partition leaves
//   detach   DETACH CONCURRENTLY, at top level; cut off in the middle it is pending, and is finalized
//   ask again, with the table locked against everybody: a transaction that was open all along may have
//            written to it
//   drop     or attach it again, and strike the row
//
// Each step can be the last one before a kill. The next round reads from the catalogs how far it came: still
// attached (begin anew), pending (finalize), a plain table (ask again and drop), gone (strike the row).
//
// A round holds the set's lane and the partition's retirement lock from the first question to the end, so
// that whoever brings a finished record back to life (try_hold_partition) either comes first and is seen by
// the question, or is told that the partition is leaving.
//
// A set that was restored from a dump is left alone for an hour, and a partition without its keys for as long
// as it has none: the restore makes the tables first, fills them later and makes the keys last, and until
// then an empty partition looks as if nobody needed it.
#include "partition/bounds.hpp"
#include "partition/locks.hpp"
#include "partition/retirement.hpp"
#include "partition/set_failure.hpp"
#include "partition/sets.hpp"
#include "pg/portal.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "catalog/dependency.h"
}

namespace tasker::partition {

RetireRequest retire_request_hook = nullptr;

namespace {

constexpr const char *kFinalize = "finalize";
constexpr const char *kRetire = "retire";
constexpr int kPoliteTries = 5;      // how often a detach makes way for transactions that use the parent
constexpr int kReportedFailures = 5; // when a lock that was not to be had is reported
constexpr int64_t kAdoptionUs = USECS_PER_HOUR;

// The due partitions of one set: `count` of the round's list, from `first`.
struct SetWork
{
    SetConfig config;
    const OwnedSet *owned;
    size_t first;
    size_t count;
};

enum class Step
{
    none,
    detach,
    detach_plainly,
    finalize,
    drop
};

// Partitions below this key are older than the set's retention; without one they only have to be past. The
// key is the same however often it is asked within a transaction.
int64_t cutoff_key(const SetConfig &config)
{
    const std::optional<int64_t> current = current_key(config);
    if (!current)
        return core::kInt64Min;
    if (config.retention_keys)
        return core::saturating_sub(*current, *config.retention_keys);
    if (!config.retention)
        return *current;
    Interval retention = *config.retention;
    const int64_t now = unix_us_of_key(config.control.kind, *current);
    // Months and days are those of the set's own clocks.
    const bool moment = is_moment(config.control.kind);
    const int64_t wall = moment && config.zone != nullptr ? wall_clock(now, config.zone) : now;
    const int64_t cutoff = pg::unix_us_of_timestamp(pg::pg_call([&] {
        return DatumGetTimestamp(DirectFunctionCall2(timestamp_mi_interval,
                                                     TimestampGetDatum(pg::timestamp_of_unix_us(wall)),
                                                     IntervalPGetDatum(&retention)));
    }));
    return key_of_unix_us(config.control.kind,
                          moment && config.zone != nullptr ? moment_of(cutoff, config.zone) : cutoff);
}

bool has_keys(Oid partition)
{
    return pg::pg_call([&] {
        Relation relation = table_open(partition, AccessShareLock);
        const bool has = OidIsValid(RelationGetPrimaryKeyIndex(relation));
        table_close(relation, AccessShareLock);
        return has;
    });
}

bool was_just_restored(const SetConfig &config)
{
    return config.adopted_at && GetCurrentTimestamp() - *config.adopted_at < kAdoptionUs;
}

// Why the partition must stay; null when it may go.
const char *ask(const SetConfig &config, const OwnedSet *owned, const DirectoryEntry &entry)
{
    if (config.legal_hold)
        return "the set is under legal hold";
    if (was_just_restored(config))
        return "the set was restored less than an hour ago";
    if (entry.upper > cutoff_key(config))
        return "it is younger than the set's retention";
    if (owned == nullptr)
        return nullptr;
    if (owned->key_count > 0 && !has_keys(entry.relid))
        return "it has no primary key: a restore may be running";
    return owned->refuse_retirement(entry.relid, entry.lower, entry.upper);
}

// Adds what is due in a set: those on their way out, then those that are old enough.
void collect(Oid parent, pg::Vector<SetWork> &work, pg::Vector<DuePartition> &list)
{
    const std::optional<SetConfig> config = read_set(parent);
    if (!config)
        return;
    const OwnedSet *owned = find_owned_set(parent);
    pg::ContextResource memory;
    pg::Vector<DuePartition> due(&memory);
    if (owned != nullptr || config->retention || config->retention_keys) {
        const int64_t cutoff = cutoff_key(*config);
        // Copied: what is asked below may refresh the directory.
        pg::Vector<DirectoryEntry> entries(&memory);
        for (const DirectoryEntry &entry : directory(parent))
            entries.push_back(entry);
        for (const DirectoryEntry &entry : entries) {
            const char *name =
                entry.upper <= cutoff ? pg::pg_call([&] { return get_rel_name(entry.relid); }) : nullptr;
            if (name == nullptr)
                continue;
            DuePartition partition{};
            namestrcpy(&partition.name, name);
            partition.entry = entry;
            due.push_back(partition);
        }
    }
    read_book(*config, due);
    if (due.empty())
        return;
    std::stable_partition(due.begin(), due.end(), [](const DuePartition &d) { return d.leaving; });
    work.push_back({*config, owned, list.size(), due.size()});
    for (const DuePartition &partition : due)
        list.push_back(partition);
}

// Where a partition stands according to the catalogs.
struct Standing
{
    bool exists;
    bool attached; // to this parent; true while its detach is pending
    bool pending;
    bool other_pending; // another partition's detach is: Postgres allows one at a time
    bool has_default;   // Postgres then allows no concurrent detach
};

Standing standing_of(Oid parent, Oid partition)
{
    static pg::Statement query(
        "select exists (select from pg_catalog.pg_class where oid = $2), "
        "coalesce(pg_catalog.bool_or(inhrelid = $2), false), "
        "coalesce(pg_catalog.bool_or(inhrelid = $2 and inhdetachpending), false), "
        "coalesce(pg_catalog.bool_or(inhrelid <> $2 and inhdetachpending), false), "
        "exists (select from pg_catalog.pg_partitioned_table where partrelid = $1 and partdefid <> 0) "
        "from pg_catalog.pg_inherits where inhparent = $1",
        {OIDOID, OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {parent, partition});
    return {rows.boolean(0, 1), rows.boolean(0, 2), rows.boolean(0, 3), rows.boolean(0, 4),
            rows.boolean(0, 5)};
}

// Transactions that a DETACH CONCURRENTLY would wait for, and that have lasted longer than it would: short
// ones come and go on any busy table. A prepared transaction has no age and counts.
int64_t lasting_users_of(Oid parent)
{
    static pg::Statement query(
        "select pg_catalog.count(distinct l.virtualtransaction) from pg_catalog.pg_locks l "
        "left join pg_catalog.pg_stat_activity a on a.pid = l.pid "
        "where l.locktype = 'relation' and l.relation = $1 and l.granted and "
        "l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()) "
        "and l.pid is distinct from pg_catalog.pg_backend_pid() and (a.pid is null or "
        "a.xact_start < pg_catalog.clock_timestamp() - $2 * interval '1 millisecond')",
        {OIDOID, INT4OID});
    pg::Spi spi;
    return spi.run(query, {parent, static_cast<int32_t>(patience_ms(0))}).i64(0, 1);
}

// A detach that cannot end soon becomes pending, and a pending one waits for every snapshot in the database
// instead of for the users of this parent only. So at first it is rather not begun.
bool gives_way(const SetWork &set, const DuePartition &due)
{
    if (due.failures >= kPoliteTries)
        return false;
    const int64_t users = lasting_users_of(set.config.parent);
    if (users == 0)
        return false;
    book_failure(set.config.parent, due, pg::pg_call([&] {
                     return psprintf(INT64_FORMAT " long transactions are using \"%s\"", users,
                                     NameStr(set.config.parent_name));
                 }));
    return true;
}

// Nothing else would make a detached table of ours go with the extension, and its defaults call functions of
// the extension: between DETACH and DROP, it would keep DROP EXTENSION from working. Plain C inside: may
// ereport.
void tie_to_extension(Oid partition)
{
    const Oid extension = get_extension_oid("tasker", false);
    if (list_member_oid(getAutoExtensionsOfObject(RelationRelationId, partition), extension))
        return;
    const ObjectAddress table = {RelationRelationId, partition, 0};
    const ObjectAddress target = {ExtensionRelationId, extension, 0};
    recordDependencyOn(&table, &target, DEPENDENCY_AUTO_EXTENSION);
}

Step decide_attached(Steps &steps, const SetWork &set, const DuePartition &due, const Standing &standing)
{
    if (const char *reason = ask(set.config, set.owned, due.entry); reason != nullptr) {
        book_refusal(set.config.parent, due, reason);
        return Step::none;
    }
    if (standing.other_pending)
        return Step::none;
    if (!steps.may_run_top_level() || standing.has_default)
        return Step::detach_plainly;
    if (gives_way(set, due))
        return Step::none;
    book_leaving(set.config.parent, due);
    if (set.owned != nullptr)
        pg::pg_call([&] { tie_to_extension(due.entry.relid); });
    return Step::detach;
}

Step decide(Steps &steps, const SetWork &set, const DuePartition &due)
{
    if (due.leaving && was_just_restored(set.config))
        return Step::none; // however far it was: the restore may still be filling it
    const Standing standing = standing_of(set.config.parent, due.entry.relid);
    if (!standing.exists) {
        strike(set.config.parent, due);
        return Step::none;
    }
    if (standing.pending)
        return due.leaving ? Step::finalize : Step::none;
    if (standing.attached)
        return decide_attached(steps, set, due, standing);
    return due.leaving ? Step::drop : Step::none; // somebody else has detached it, to keep it
}

void run_as_owner(const SetConfig &config, const char *sql)
{
    pg::AsOwner owner(config.owner);
    pg::Spi spi(pg::Spi::Identity::caller);
    spi.run_text(sql);
}

const char *detach_text(const SetConfig &config, Oid partition, const char *mode)
{
    const char *parent = quoted_parent(config);
    const char *name = quoted_partition(partition);
    return pg::pg_call([&] { return psprintf("alter table %s detach partition %s%s", parent, name, mode); });
}

void drop_table(const SetConfig &config, const DuePartition &due)
{
    const char *name = quoted_partition(due.entry.relid);
    run_as_owner(config, pg::pg_call([&] { return psprintf("drop table %s", name); }));
    strike(config.parent, due);
    note_maintenance(config.parent);
}

void take_creation_lock(const SetConfig &config)
{
    if (!pg::pg_call(
            [&] { return try_lock_for_transaction(config.parent, LockKind::creation, ExclusiveLock); }))
        throw pg::Error(ERRCODE_LOCK_NOT_AVAILABLE, "a partition of \"%s\" is being made",
                        NameStr(config.parent_name));
}

// Drops the detached table, or attaches it again when it must stay after all. True when it was dropped.
bool drop_detached(const SetWork &set, const DuePartition &due)
{
    const Oid relid = due.entry.relid;
    pg::pg_call([&] { LockRelationOid(relid, AccessExclusiveLock); });
    take_creation_lock(set.config);
    const Standing standing = standing_of(set.config.parent, relid);
    if (!standing.exists || standing.attached)
        return false; // somebody needed its range meanwhile; the next round sees what is to do
    const std::optional<SetConfig> config = read_set(set.config.parent);
    if (!config) {
        strike(set.config.parent, due); // no longer managed: the table stays
        return false;
    }
    if (const char *reason = ask(*config, set.owned, due.entry); reason != nullptr) {
        attach_again(*config, due.entry);
        book_refusal(config->parent, due, reason);
        return false;
    }
    drop_table(*config, due);
    return true;
}

// Detaches and drops in one transaction, with the parent locked against everybody from the middle to the
// commit. `reason` is set when the owner refuses under the lock; the error then undoes the detach.
void detach_and_drop(const SetWork &set, const DuePartition &due, const char **reason)
{
    take_creation_lock(set.config);
    run_as_owner(set.config, detach_text(set.config, due.entry.relid, ""));
    *reason = ask(set.config, set.owned, due.entry);
    if (*reason != nullptr)
        throw pg::Error(ERRCODE_OBJECT_IN_USE, "%s", *reason);
    drop_table(set.config, due);
}

// Notes a failed step in the current transaction.
void note_failed_step(Steps &steps, const SetWork &set, const DuePartition &due, const pg::CaughtError &error)
{
    const int failures = due.failures + 1;
    book_failure(set.config.parent, due, error.message());
    if (!steps.may_run_top_level() || failures == (is_lock_failure(error) ? kReportedFailures : 1))
        report_failure(set.config.parent, kRetire, error);
}

// One partition of a set whose lane is held.
class Retirement
{
  public:
    Retirement(Steps &steps, const SetWork &set, const DuePartition &due)
        : steps_(steps), set_(set), due_(due), timeout_(patience_ms(due.failures))
    {
    }

    void run()
    {
        SessionLock hold(due_.entry.relid, LockKind::retirement);
        if (!hold.held())
            return; // a record in it is being brought back to life
        Step step = Step::none;
        guarded([&] { step = decide(steps_, set_, due_); });
        if (step == Step::detach_plainly)
            return detach_plainly();
        if (step == Step::detach && !detach_concurrently())
            return;
        if (step == Step::finalize && !guarded([&] {
                run_as_owner(set_.config, detach_text(set_.config, due_.entry.relid, " finalize"));
            }))
            return;
        if (step != Step::none)
            drop();
    }

  private:
    // A transaction whose failure is noted instead of thrown. False when it failed.
    template <class Body> bool guarded(Body &&body)
    {
        bool done = false;
        steps_.transaction([&] {
            const std::optional<pg::CaughtError> error = pg::try_in_subtransaction(body);
            done = !error;
            if (error)
                note_failed_step(steps_, set_, due_, *error);
        });
        return done;
    }

    bool detach_concurrently()
    {
        std::optional<pg::CaughtError> error;
        const char *sql = nullptr;
        MemoryContext memory = CurrentMemoryContext;
        steps_.transaction([&] {
            const char *text = detach_text(set_.config, due_.entry.relid, " concurrently");
            sql = pg::pg_call([&] { return MemoryContextStrdup(memory, text); });
        });
        try {
            pg::run_top_level(sql, set_.config.owner);
        } catch (...) {
            error.emplace(pg::CaughtError::current_unless_stop());
        }
        if (error)
            steps_.transaction([&] { note_failed_step(steps_, set_, due_, *error); });
        return !error;
    }

    void detach_plainly()
    {
        const char *reason = nullptr;
        bool dropped = false;
        // Never more patient: everybody who comes to the parent queues behind this wait.
        LockTimeoutScope timeout(patience_ms(0));
        steps_.transaction([&] {
            announce_plain_detach();
            const std::optional<pg::CaughtError> error =
                pg::try_in_subtransaction([&] { detach_and_drop(set_, due_, &reason); });
            dropped = !error;
            if (reason != nullptr)
                book_refusal(set_.config.parent, due_, reason);
            else if (error)
                note_failed_step(steps_, set_, due_, *error);
        });
        if (dropped)
            tell_owner();
    }

    void announce_plain_detach() const
    {
        pg::pg_call([&] {
            ereport(steps_.may_run_top_level() ? DEBUG1 : NOTICE,
                    errmsg("detaching partition \"%s\" without CONCURRENTLY", NameStr(due_.name)),
                    errdetail("Nobody can use \"%s\" while it is detached and dropped.",
                              NameStr(set_.config.parent_name)),
                    errhint("Tasker's background worker detaches concurrently; it needs "
                            "shared_preload_libraries = 'tasker'."));
        });
    }

    void drop()
    {
        bool dropped = false;
        if (guarded([&] { dropped = drop_detached(set_, due_); }) && dropped)
            tell_owner();
    }

    void tell_owner() const
    {
        if (set_.owned != nullptr && set_.owned->retired != nullptr)
            set_.owned->retired(due_.entry.relid);
    }

    Steps &steps_;
    const SetWork &set_;
    const DuePartition &due_;
    LockTimeoutScope timeout_;
};

struct Pending
{
    Oid parent;
    Oid partition;
};

void add_pending(pg::Vector<Pending> &list, Oid only)
{
    static pg::Statement query(
        "select i.inhparent, i.inhrelid from pg_catalog.pg_inherits i "
        "join tasker.part_config c on c.parent = i.inhparent where i.inhdetachpending and "
        "$1 in (0, i.inhparent)",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {only});
    for (uint64 i = 0; i < rows.count(); i++)
        list.push_back({rows.oid(i, 1), rows.oid(i, 2)});
}

void finalize_one(Steps &steps, const Pending &pending)
{
    SetFailures failures{0, false};
    steps.transaction([&] { failures = failures_of(pending.parent, kFinalize); });
    if (failures.backing_off && steps.may_run_top_level())
        return;
    LockTimeoutScope timeout(patience_ms(failures.in_a_row));
    steps.transaction([&] {
        isolate(steps, pending.parent, kFinalize, [&] {
            const std::optional<SetConfig> config = read_set(pending.parent);
            if (!config || !standing_of(pending.parent, pending.partition).pending)
                return;
            run_as_owner(*config, detach_text(*config, pending.partition, " finalize"));
            note_maintenance(pending.parent);
        });
    });
}

} // namespace

void run_finalize_round(Steps &steps, Oid only)
{
    pg::ContextResource memory;
    pg::Vector<Pending> list(&memory);

    steps.transaction([&] { add_pending(list, only); });
    for (const Pending &pending : list) {
        if (steps.should_stop())
            return;
        SessionLock lane(pending.parent, LockKind::lane);
        if (lane.held())
            finalize_one(steps, pending);
    }
}

void run_retire_round(Steps &steps, Oid only)
{
    pg::ContextResource memory;
    pg::Vector<SetWork> work(&memory);
    pg::Vector<DuePartition> list(&memory);

    steps.transaction([&] {
        pg::ContextResource transaction_memory;
        pg::Vector<Oid> sets(&transaction_memory);
        strike_vanished();
        add_sets(sets, only);
        for (Oid parent : sets) {
            const auto error = pg::try_in_subtransaction([&] { collect(parent, work, list); });
            if (error)
                note_failure(parent, kRetire, *error, !steps.may_run_top_level());
            else
                note_success(parent, kRetire);
        }
    });
    for (const SetWork &set : work) {
        SessionLock lane(set.config.parent, LockKind::lane);
        for (size_t i = set.first; lane.held() && i < set.first + set.count; i++) {
            if (steps.should_stop())
                return;
            if (!list[i].backing_off || !steps.may_run_top_level())
                Retirement(steps, set, list[i]).run();
        }
    }
}

} // namespace tasker::partition
