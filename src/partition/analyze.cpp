// Analyze: statistics of partitioned tables as a whole, which autovacuum never makes.
//
// Autovacuum analyzes partitions, so the planner knows each of them; what it knows of the parent, joins
// depend on, is from the last manual ANALYZE. So the rows changed since then are counted from the cumulative
// counters of the leaves: n_mod_since_analyze would forget what happened before autovacuum's last visit to
// the leaf. The counters at the last analyze of the parent are kept in tasker.part_analyze.
//
// Only the parent itself is analyzed. The statement ANALYZE would analyze all its partitions as well, which
// is autovacuum's work and many times the cost. Parents are found in the catalogs: every partitioned table of
// the database counts, whoever manages it.
#include "partition/locks.hpp"
#include "partition/set_failure.hpp"
#include "partition/sets.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "commands/vacuum.h"
}

namespace tasker::partition {
namespace {

constexpr const char *kDuty = "analyze";

// Rows changed in the whole database when this process last looked at every parent. No parent can be due
// before as many more have changed as the threshold asks of one.
int64_t last_look_total = -1;

int64_t database_total()
{
    return pg::pg_call([] {
        const Datum database = ObjectIdGetDatum(MyDatabaseId);
        return DatumGetInt64(DirectFunctionCall1(pg_stat_get_db_tuples_inserted, database)) +
               DatumGetInt64(DirectFunctionCall1(pg_stat_get_db_tuples_updated, database)) +
               DatumGetInt64(DirectFunctionCall1(pg_stat_get_db_tuples_deleted, database));
    });
}

bool nothing_can_be_due(int64_t total)
{
    return last_look_total >= 0 && total >= last_look_total &&
           total - last_look_total < pg::settings::analyze_threshold;
}

void add_parents(pg::Vector<Oid> &parents, Oid only)
{
    static pg::Statement query(
        "select k.oid from pg_catalog.pg_partitioned_table p "
        "join pg_catalog.pg_class k on k.oid = p.partrelid "
        "where case when $1 = 0 then k.relpersistence <> 't' "
        "else k.oid in (select relid from pg_catalog.pg_partition_tree($1)) end "
        "and exists (select from pg_catalog.pg_inherits where inhparent = k.oid) order by k.oid",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {only});
    for (uint64 i = 0; i < rows.count(); i++)
        parents.push_back(rows.oid(i, 1));
}

// What is known about a parent's rows now, and what was known when it was last analyzed.
struct Changes
{
    int64_t changed;
    int64_t live;
    bool known; // has a baseline that holds
};

// A leaf that is new counts with all its rows; one that has gone with those it had; one whose counters were
// reset with what they show now. A baseline older than an ANALYZE that somebody else ran does not hold.
Changes changes_of(Oid parent)
{
    static pg::Statement query(
        "with leaf as (select t.relid::oid as oid, "
        "pg_catalog.pg_stat_get_tuples_inserted(t.relid) + pg_catalog.pg_stat_get_tuples_updated(t.relid) + "
        "pg_catalog.pg_stat_get_tuples_deleted(t.relid) as changes, "
        "greatest(pg_catalog.pg_stat_get_live_tuples(t.relid), k.reltuples::bigint, 0) as live "
        "from pg_catalog.pg_partition_tree($1) t join pg_catalog.pg_class k on k.oid = t.relid "
        "where t.isleaf), "
        "known as (select b.* from tasker.part_analyze a, "
        "rows from (pg_catalog.unnest(a.leaves), "
        "pg_catalog.unnest(a.changes), pg_catalog.unnest(a.live)) b (oid, changes, live) where a.parent = "
        "$1) "
        "select coalesce(pg_catalog.sum(case "
        "when known.oid is null then greatest(leaf.changes, leaf.live) "
        "when leaf.oid is null then known.live "
        "when leaf.changes >= known.changes then leaf.changes - known.changes "
        "else leaf.changes end), 0)::bigint, coalesce(pg_catalog.sum(leaf.live), 0)::bigint, "
        "exists (select from tasker.part_analyze a where a.parent = $1 and "
        "a.analyzed_at >= coalesce(pg_catalog.pg_stat_get_last_analyze_time($1), a.analyzed_at)) or "
        "not exists (select from pg_catalog.pg_statistic where starelid = $1 and stainherit) "
        "from leaf full join known on known.oid = leaf.oid",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {parent});
    return {rows.i64(0, 1), rows.i64(0, 2), rows.boolean(0, 3)};
}

// Takes the counters of now as those of the last analyze.
void write_baseline(Oid parent)
{
    static pg::Statement upsert(
        "insert into tasker.part_analyze (parent, analyzed_at, leaves, changes, live) "
        "select $1, pg_catalog.clock_timestamp(), coalesce(pg_catalog.array_agg(t.relid::oid), '{}'), "
        "coalesce(pg_catalog.array_agg(pg_catalog.pg_stat_get_tuples_inserted(t.relid) + "
        "pg_catalog.pg_stat_get_tuples_updated(t.relid) + pg_catalog.pg_stat_get_tuples_deleted(t.relid)), "
        "'{}'), "
        "coalesce(pg_catalog.array_agg(greatest(pg_catalog.pg_stat_get_live_tuples(t.relid), "
        "k.reltuples::bigint, 0)), '{}') "
        "from pg_catalog.pg_partition_tree($1) t join pg_catalog.pg_class k on k.oid = t.relid "
        "where t.isleaf "
        "on conflict (parent) do update set analyzed_at = excluded.analyzed_at, leaves = excluded.leaves, "
        "changes = excluded.changes, live = excluded.live",
        {OIDOID});
    pg::Spi().run(upsert, {parent});
}

bool is_due(Oid parent, bool force)
{
    const Changes changes = changes_of(parent);
    if (force)
        return true;
    if (!changes.known) {
        write_baseline(parent);
        return false;
    }
    const double share = pg::settings::analyze_scale_factor * static_cast<double>(changes.live);
    return static_cast<double>(changes.changed) > pg::settings::analyze_threshold + share;
}

// Collects the statistics of the parent over all its partitions. Plain C inside: may ereport.
void collect_statistics(Oid parent)
{
    VacuumParams params{};
    params.options = VACOPT_ANALYZE;
    params.freeze_min_age = params.freeze_table_age = -1;
    params.multixact_freeze_min_age = params.multixact_freeze_table_age = -1;
    params.is_wraparound = false;
    params.log_min_duration = -1;
    params.index_cleanup = params.truncate = VACOPTVALUE_UNSPECIFIED;
    analyze_rel(parent, nullptr, &params, NIL, true, GetAccessStrategy(BAS_VACUUM));
    CommandCounterIncrement();
}

void analyze_parent(Oid parent)
{
    static pg::Statement stamp(
        "update tasker.part_analyze set analyzed_at = pg_catalog.clock_timestamp() where parent = $1",
        {OIDOID});
    const Oid role = pg::pg_call([&] {
        HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(parent));
        if (!HeapTupleIsValid(tuple))
            return InvalidOid;
        const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
        ReleaseSysCache(tuple);
        return owner;
    });
    if (!OidIsValid(role))
        return;             // dropped meanwhile
    write_baseline(parent); // before: what changes while rows are sampled counts for the next time
    {
        pg::AsOwner owner(role);
        pg::pg_call([&] { collect_statistics(parent); });
    }
    pg::Spi().run(stamp, {parent}); // after: the time that Postgres remembers was in between
}

// Finds those that are due; a parent that cannot be looked at is noted and left out.
void add_due(Steps &steps, pg::Vector<Oid> &due, Oid only, bool force)
{
    static pg::Statement tidy("delete from tasker.part_analyze a where not exists "
                              "(select from pg_catalog.pg_class k where k.oid = a.parent)",
                              {});
    const int64_t total = database_total();
    if (!OidIsValid(only) && !force && nothing_can_be_due(total))
        return;
    pg::ContextResource memory;
    pg::Vector<Oid> parents(&memory);
    pg::Spi().run(tidy);
    add_parents(parents, only);
    for (Oid parent : parents) {
        const auto error = pg::try_in_subtransaction([&] {
            if (is_due(parent, force))
                due.push_back(parent);
        });
        if (error)
            note_failure(parent, kDuty, *error, !steps.may_run_top_level());
    }
    if (!OidIsValid(only))
        last_look_total = total;
}

} // namespace

int64_t rows_changed_since_analyze(Oid parent)
{
    return changes_of(parent).changed;
}

void run_analyze_round(Steps &steps, Oid only, bool force)
{
    pg::ContextResource memory;
    pg::Vector<Oid> due(&memory);
    LockTimeoutScope timeout(patience_ms(0));

    steps.transaction([&] { add_due(steps, due, only, force); });
    // What is due and not done has to be found by the next look, also when an error ends this round: a cancel
    // passes through here.
    const int64_t looked_at = std::exchange(last_look_total, due.empty() ? last_look_total : -1);
    bool all_done = true;
    for (Oid parent : due) {
        SessionLock lane(parent, LockKind::lane);
        if (!lane.held()) {
            all_done = false;
            continue;
        }
        if (steps.should_stop())
            return;
        bool done = false;
        steps.transaction([&] { done = isolate(steps, parent, kDuty, [&] { analyze_parent(parent); }); });
        all_done = all_done && done;
    }
    if (all_done)
        last_look_total = looked_at;
}

} // namespace tasker::partition
