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

// A partition without partitions of its own, and its counters: rows inserted, updated and deleted so far, and
// rows in it.
struct Leaf
{
    Oid relid;
    int64_t changes;
    int64_t live;
};

// The leaves of a parent when it was last analyzed.
struct Baseline
{
    bool holds; // nobody else has analyzed the parent since
    pg::Vector<Leaf> leaves;
};

struct Changes
{
    int64_t changed;
    int64_t live;
    bool known; // there is a baseline that holds, or there are no statistics at all yet
};

int64_t counter(PGFunction function, Oid relid)
{
    return DatumGetInt64(DirectFunctionCall1(function, ObjectIdGetDatum(relid)));
}

double rows_when_last_counted(Oid relid)
{
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(tuple))
        return 0;
    const double rows = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->reltuples;
    ReleaseSysCache(tuple);
    return Max(rows, 0);
}

// The leaves ordered by OID; `count` of them in the current memory context. No relation is locked: one that
// is dropped meanwhile just counts for nothing. Plain C inside: may ereport.
Leaf *read_leaves(Oid parent, int *count)
{
    List *members = find_all_inheritors(parent, NoLock, nullptr);
    auto *leaves = static_cast<Leaf *>(palloc(sizeof(Leaf) * static_cast<Size>(list_length(members))));
    ListCell *cell = nullptr;

    *count = 0;
    list_sort(members, list_oid_cmp);
    foreach (cell, members) {
        const Oid relid = lfirst_oid(cell);
        if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
            continue;
        const int64_t changes = counter(pg_stat_get_tuples_inserted, relid) +
                                counter(pg_stat_get_tuples_updated, relid) +
                                counter(pg_stat_get_tuples_deleted, relid);
        const auto counted = static_cast<int64_t>(rows_when_last_counted(relid));
        leaves[(*count)++] = {relid, changes, Max(counter(pg_stat_get_live_tuples, relid), counted)};
    }
    return leaves;
}

std::span<const Leaf> leaves_of(Oid parent)
{
    int count = 0;
    const Leaf *leaves = pg::pg_call([&] { return read_leaves(parent, &count); });
    return {leaves, static_cast<size_t>(count)};
}

// Has the parent statistics of its own, whoever made them?
bool has_statistics(Oid parent)
{
    static pg::Statement query(
        "select exists (select from pg_catalog.pg_statistic where starelid = $1 and stainherit)", {OIDOID});
    pg::Spi spi;
    return spi.run(query, {parent}).boolean(0, 1);
}

// Nothing when the parent has none.
std::optional<Baseline> read_baseline(Oid parent, pg::ContextResource &memory)
{
    static pg::Statement query(
        "select b.*, a.analyzed_at >= coalesce(pg_catalog.pg_stat_get_last_analyze_time($1), a.analyzed_at) "
        "from tasker.part_analyze a left join lateral rows from (pg_catalog.unnest(a.leaves), "
        "pg_catalog.unnest(a.changes), pg_catalog.unnest(a.live)) b (relid, changes, live) on true "
        "where a.parent = $1 order by b.relid",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {parent});
    if (rows.empty())
        return std::nullopt;
    Baseline baseline{rows.boolean(0, 4), pg::Vector<Leaf>(&memory)};
    for (uint64 i = 0; i < rows.count() && !rows.is_null(i, 1); i++)
        baseline.leaves.push_back({rows.oid(i, 1), rows.i64(i, 2), rows.i64(i, 3)});
    return baseline;
}

// A leaf that is new counts with all its rows; one that has gone with those it had; one whose counters were
// reset with what they show now.
int64_t count_changed(std::span<const Leaf> now, std::span<const Leaf> before)
{
    int64_t changed = 0;
    size_t b = 0;
    for (const Leaf &leaf : now) {
        for (; b < before.size() && before[b].relid < leaf.relid; b++)
            changed += before[b].live;
        if (b == before.size() || before[b].relid != leaf.relid) {
            changed += std::max(leaf.changes, leaf.live);
            continue;
        }
        const bool reset = leaf.changes < before[b].changes;
        changed += reset ? leaf.changes : leaf.changes - before[b].changes;
        b++;
    }
    for (; b < before.size(); b++)
        changed += before[b].live;
    return changed;
}

Changes changes_of(Oid parent)
{
    pg::ContextResource memory;
    const std::span<const Leaf> leaves = leaves_of(parent);
    const std::optional<Baseline> baseline = read_baseline(parent, memory);
    Changes changes{0, 0, baseline ? baseline->holds : !has_statistics(parent)};

    for (const Leaf &leaf : leaves)
        changes.live += leaf.live;
    changes.changed = baseline ? count_changed(leaves, {baseline->leaves.data(), baseline->leaves.size()})
                               : count_changed(leaves, {});
    return changes;
}

pg::Param array_param(const Datum *values, size_t count, Oid type)
{
    const bool is_oid = type == OIDOID;
    ArrayType *array = pg::pg_call([&] {
        return construct_array(const_cast<Datum *>(values), static_cast<int>(count), type,
                               is_oid ? sizeof(Oid) : sizeof(int64), is_oid || FLOAT8PASSBYVAL,
                               is_oid ? TYPALIGN_INT : TYPALIGN_DOUBLE);
    });
    return pg::Param::of_datum(PointerGetDatum(array));
}

// Takes the counters of now as those of the last analyze.
void write_baseline(Oid parent)
{
    static pg::Statement upsert(
        "insert into tasker.part_analyze (parent, analyzed_at, leaves, changes, live) "
        "values ($1, pg_catalog.clock_timestamp(), $2, $3, $4) "
        "on conflict (parent) do update set analyzed_at = excluded.analyzed_at, leaves = excluded.leaves, "
        "changes = excluded.changes, live = excluded.live",
        {OIDOID, OIDARRAYOID, INT8ARRAYOID, INT8ARRAYOID});
    pg::ContextResource memory;
    pg::Vector<Datum> relids(&memory), changes(&memory), live(&memory);
    for (const Leaf &leaf : leaves_of(parent)) {
        relids.push_back(ObjectIdGetDatum(leaf.relid));
        changes.push_back(Int64GetDatum(leaf.changes));
        live.push_back(Int64GetDatum(leaf.live));
    }
    pg::Spi().run(upsert, {parent, array_param(relids.data(), relids.size(), OIDOID),
                           array_param(changes.data(), changes.size(), INT8OID),
                           array_param(live.data(), live.size(), INT8OID)});
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
