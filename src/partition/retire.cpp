// The rounds of retirement: what is due, set by set. How one partition goes is in retire_one.cpp.
#include "partition/locks.hpp"
#include "partition/retire_checks.hpp"
#include "partition/retire_one.hpp"
#include "partition/set_failure.hpp"
#include "partition/sets.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {

RetireRequest retire_request_hook = nullptr;

namespace {

constexpr const char *kFinalize = "finalize";
// The due partitions of one set: `count` of the round's list, from `first`.
struct SetWork
{
    SetConfig config;
    const OwnedSet *owned;
    size_t first;
    size_t count;
};

// What is old enough, unless the set lets nothing go.
void add_due(const SetConfig &config, const OwnedSet *owned, pg::Vector<DuePartition> &due)
{
    if (!retires(config, owned))
        return;
    const int64_t cutoff = cutoff_key(config);
    for (const DirectoryEntry &entry : directory(config.parent)) {
        if (entry.upper > cutoff)
            break;
        DuePartition partition{};
        partition.entry = entry;
        due.push_back(partition);
    }
    // The names come last: looking them up may refresh the directory.
    for (DuePartition &partition : due)
        pg::pg_call([&] {
            const char *name = get_rel_name(partition.entry.relid);
            const char *schema = get_namespace_name(get_rel_namespace(partition.entry.relid));
            if (name != nullptr && schema != nullptr) {
                namestrcpy(&partition.name, name);
                namestrcpy(&partition.schema, schema);
            }
        });
    due.erase(
        std::remove_if(due.begin(), due.end(),
                       [](const DuePartition &partition) { return NameStr(partition.name)[0] == '\0'; }),
        due.end());
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
    add_due(*config, owned, due);
    read_book(*config, due);
    if (due.empty())
        return;
    std::stable_partition(due.begin(), due.end(), [](const DuePartition &d) { return d.leaving; });
    work.push_back({*config, owned, list.size(), due.size()});
    for (const DuePartition &partition : due)
        list.push_back(partition);
}

// Nothing new is begun in a set that has nowhere to put it.
std::optional<pg::CaughtError> check_set(SetWork &set, pg::Vector<DuePartition> &list)
{
    auto error = pg::try_in_subtransaction([&] { check_destination(set.config); });
    if (error) {
        while (set.count > 0 && !list.back().leaving) {
            list.pop_back();
            --set.count;
        }
    }
    return error;
}

struct Pending
{
    Oid parent;
    Oid partition;
};

// Those that are pending because somebody's DETACH CONCURRENTLY is at work right now are left to him: he
// would get an error when it is finalized under his hands. Only a role that could detach it counts, and only
// a text that names it: anybody can write the words into a comment.
void add_pending(pg::Vector<Pending> &list, Oid only)
{
    static pg::Statement query(
        "select i.inhparent, i.inhrelid from pg_catalog.pg_inherits i "
        "join tasker.part_config c on c.parent = i.inhparent "
        "join pg_catalog.pg_class p on p.oid = i.inhparent "
        "join pg_catalog.pg_class k on k.oid = i.inhrelid where i.inhdetachpending and "
        "$1 in (0, i.inhparent) and not exists (select from pg_catalog.pg_stat_activity a "
        "where a.datname = pg_catalog.current_database() and a.state = 'active' and "
        "a.pid <> pg_catalog.pg_backend_pid() and "
        "pg_catalog.pg_has_role(a.usesysid, p.relowner, 'member') and "
        "pg_catalog.strpos(pg_catalog.lower(a.query), pg_catalog.lower("
        "  pg_catalog.replace(k.relname::text, '\"', '\"\"'))) > 0 and a.query ~* "
        "'\\mdetach\\s+partition\\M.*\\mconcurrently\\M')",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {only});
    for (uint64 i = 0; i < rows.count(); i++)
        list.push_back({rows.oid(i, 1), rows.oid(i, 2)});
}

void finalize_one(Steps &steps, const Pending &pending)
{
    SetFailures failures{0, false};
    int patience = 0;
    steps.transaction([&] {
        failures = failures_of(pending.parent, kFinalize);
        patience = locks_others(pending.partition) ? polite_patience_ms() : patience_ms(failures.in_a_row);
    });
    if (failures.backing_off && steps.may_run_top_level())
        return;
    LockTimeoutScope timeout(patience);
    steps.transaction([&] {
        isolate(steps, pending.parent, kFinalize, [&] {
            const std::optional<SetConfig> config = read_set(pending.parent);
            if (!config || !standing_of(pending.parent, pending.partition, {}, {}).pending)
                return;
            finalize_detach(*config, pending.partition);
            follow_name(pending.parent, pending.partition); // it may have been renamed meanwhile
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
    LockTimeoutScope timeout(patience_ms(0));

    steps.transaction([&] {
        pg::ContextResource transaction_memory;
        pg::Vector<Oid> sets(&transaction_memory);
        tidy_book();
        add_sets(sets, only);
        for (Oid parent : sets) {
            const size_t before = work.size();
            auto error = pg::try_in_subtransaction([&] { collect(parent, work, list); });
            if (!error && work.size() > before)
                error = check_set(work.back(), list);
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
            if (list[i].backing_off && steps.may_run_top_level())
                continue;
            if (!retire_one(steps, set.config, set.owned, list[i]))
                break;
        }
    }
}

} // namespace tasker::partition
