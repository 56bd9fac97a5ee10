// Analyze: statistics of partitioned tables as a whole, which autovacuum never makes.
//
// Autovacuum analyzes partitions, so the planner knows each of them; what it knows of the parent, joins
// depend on, is from the last manual ANALYZE. A parent is due when more of its rows have changed since
// (changes.hpp) than its rule says. Parents are found in the catalogs: every partitioned table of the
// database counts, whoever manages it, unless tasker.part_analyze_config says otherwise.
//
// Only the parent itself is analyzed. The statement ANALYZE would analyze all its partitions as well, which
// is autovacuum's work and many times the cost.
//
// A LOOK reads the counters of every leaf, which takes milliseconds for thousands of them. It is spared while
// nothing can have become due: each look finds out how many more rows at least have to change, and until the
// whole database has changed that many, no counter was reset and no table was altered, attached or truncated
// (all of which Postgres announces), the answer stays the same.
#include "partition/changes.hpp"
#include "partition/locks.hpp"
#include "partition/set_failure.hpp"
#include "pg/invalidation.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"

#include <limits>

extern "C" {
#include "commands/vacuum.h"
}

namespace tasker::partition {
namespace {

constexpr const char *kDuty = "analyze";

// --- when to look

// The counters of the whole database. They are behind those of the tables, never ahead.
struct DatabaseCounters
{
    int64_t changes;
    TimestampTz reset_at;
};

DatabaseCounters read_database_counters()
{
    return pg::pg_call([] {
        const Datum database = ObjectIdGetDatum(MyDatabaseId);
        const int64_t changes = DatumGetInt64(DirectFunctionCall1(pg_stat_get_db_tuples_inserted, database)) +
                                DatumGetInt64(DirectFunctionCall1(pg_stat_get_db_tuples_updated, database)) +
                                DatumGetInt64(DirectFunctionCall1(pg_stat_get_db_tuples_deleted, database));
        LOCAL_FCINFO(fcinfo, 1);
        InitFunctionCallInfoData(*fcinfo, nullptr, 1, InvalidOid, nullptr, nullptr);
        fcinfo->args[0] = {database, false};
        const Datum reset_at = pg_stat_get_db_stat_reset_time(fcinfo);
        return DatabaseCounters{changes, fcinfo->isnull ? 0 : DatumGetTimestampTz(reset_at)};
    });
}

// What the last look of this process has found.
struct LastLook
{
    bool done;
    bool holds;                // and there was nothing left to do
    DatabaseCounters counters; // read before the leaves'
    double slack;              // no parent is due before that many more rows have changed
    int threshold;
    double scale_factor;
};

LastLook last_look;
bool catalogs_changed; // since last_look

pg::RelcacheListener catalogs([](Oid) { catalogs_changed = true; });

bool counters_go_on(const DatabaseCounters &now)
{
    return last_look.done && last_look.counters.reset_at == now.reset_at &&
           last_look.counters.changes <= now.changes;
}

bool nothing_can_be_due(const DatabaseCounters &now)
{
    return last_look.holds && !catalogs_changed && counters_go_on(now) &&
           static_cast<double>(now.changes - last_look.counters.changes) <= last_look.slack &&
           last_look.threshold == pg::settings::analyze_threshold &&
           last_look.scale_factor == pg::settings::analyze_scale_factor;
}

// --- a look

struct DueParent
{
    Oid relid;
    SetFailures failures;
};

class Look
{
  public:
    Look(Steps &steps, Oid only, bool force, pg::Vector<DueParent> &due)
        : steps_(steps), only_(only), force_(force), due_(due), failing_(due.get_allocator())
    {
    }
    void run();

  private:
    void judge(const AnalyzedParent &parent, const Books &books);
    void tidy(std::span<const AnalyzedParent> parents, const Books &books);

    Steps &steps_;
    Oid only_;
    bool force_;
    pg::Vector<DueParent> &due_;
    pg::Vector<Datum> failing_;
    Doubt doubt_ = Doubt::losses;
    double slack_ = std::numeric_limits<double>::infinity();
};

void Look::judge(const AnalyzedParent &parent, const Books &books)
{
    if (!parent.rule.enabled && !force_)
        return;
    const Changes changes = count_changes(parent, books, doubt_);
    const bool due = changes.due(parent.rule);
    const double needed = changes.needed(parent.rule);

    slack_ = std::min(slack_, due ? needed : needed - static_cast<double>(changes.changed));
    if (changes.uncertain)
        slack_ = -1;
    if (due || (force_ && !changes.leaves.empty()))
        due_.push_back({parent.relid, failures_of(parent.relid, kDuty)});
    else if (changes.rewrite && pg::pg_call([&] {
                 return try_lock_for_transaction(parent.relid, LockKind::lane, ExclusiveLock);
             }))
        write_book(parent.relid, changes.leaves, changes.changed, changes.analyzed_at);
}

// Forgets tables that are gone, and failures to analyze what does not have to be analyzed any more.
void Look::tidy(std::span<const AnalyzedParent> parents, const Books &books)
{
    static pg::Statement forget_books("delete from tasker.part_analyze a where not exists "
                                      "(select from pg_catalog.pg_class k where k.oid = a.parent)",
                                      {});
    static pg::Statement forget_rules("delete from tasker.part_analyze_config c where not exists "
                                      "(select from pg_catalog.pg_class k where k.oid = c.parent)",
                                      {});
    static pg::Statement forget_failures(
        "delete from tasker.part_failure where duty = 'analyze' and parent <> all ($1)", {OIDARRAYOID});
    for (const DueParent &parent : due_)
        failing_.push_back(ObjectIdGetDatum(parent.relid));
    ArrayType *array = pg::pg_call([&] {
        return construct_array(failing_.data(), static_cast<int>(failing_.size()), OIDOID, sizeof(Oid), true,
                               TYPALIGN_INT);
    });
    pg::Spi spi;
    spi.run(forget_failures, {pg::Param::of_datum(PointerGetDatum(array))});
    spi.run(forget_rules);
    if (books.has_other_than(parents))
        spi.run(forget_books);
}

// Finds those that are due; a parent that cannot be looked at is noted and left out.
void Look::run()
{
    const DatabaseCounters counters = read_database_counters();
    const bool all = !OidIsValid(only_);
    catalogs.listen();
    if (all && !force_ && nothing_can_be_due(counters))
        return;
    if (counters_go_on(counters))
        doubt_ = Doubt::none;
    if (all)
        catalogs_changed = false; // before the catalogs are read
    pg::ContextResource memory;
    pg::Vector<AnalyzedParent> parents(&memory);
    const Books books(only_, memory); // before the counters are read
    add_analyzed_parents(parents, only_);
    for (const AnalyzedParent &parent : parents) {
        pg::check_for_interrupts();
        const auto error = pg::try_in_subtransaction([&] { judge(parent, books); });
        if (error) {
            note_failure(parent.relid, kDuty, *error, !steps_.may_run_top_level());
            failing_.push_back(ObjectIdGetDatum(parent.relid));
            slack_ = -1;
        }
    }
    if (!all)
        return;
    tidy({parents.data(), parents.size()}, books);
    last_look = {
        true, true, counters, slack_, pg::settings::analyze_threshold, pg::settings::analyze_scale_factor};
}

// --- analyze

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

Oid owner_of(Oid relid)
{
    return pg::pg_call([&] {
        HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
        if (!HeapTupleIsValid(tuple))
            return InvalidOid;
        const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
        ReleaseSysCache(tuple);
        return owner;
    });
}

// Counted anew with the lane held: another session may have been there since the look. The book is written
// before, so that what changes while rows are sampled counts for the next time; the time of the analyze is
// noted after, because what Postgres remembers lies in between.
void analyze_parent(Oid relid, bool force)
{
    static pg::Statement stamp(
        "update tasker.part_analyze set analyzed_at = pg_catalog.clock_timestamp() where parent = $1",
        {OIDOID});
    pg::ContextResource memory;
    pg::Vector<AnalyzedParent> tree(&memory);
    const Books books(relid, memory);
    add_analyzed_parents(tree, relid);
    const auto parent = std::find_if(tree.begin(), tree.end(),
                                     [&](const AnalyzedParent &member) { return member.relid == relid; });
    if (parent == tree.end())
        return; // dropped meanwhile
    const Changes changes = count_changes(*parent, books, Doubt::losses);
    if (!force && !changes.due(parent->rule))
        return;
    write_book(relid, changes.leaves, 0, GetCurrentTimestamp());
    {
        pg::AsOwner owner(owner_of(relid));
        pg::pg_call([&] { collect_statistics(relid); });
    }
    pg::Spi().run(stamp, {relid});
}

// Leaves the table to the next round when another session holds its lane, or while it backs off.
bool try_to_analyze(Steps &steps, const DueParent &parent, bool force)
{
    const bool asked_for = !steps.may_run_top_level();
    if (parent.failures.backing_off && !asked_for)
        return false;
    SessionLock lane(parent.relid, LockKind::lane);
    if (!lane.held()) {
        if (asked_for)
            pg::pg_call([&] {
                const char *name = get_rel_name(parent.relid);
                ereport(NOTICE, errmsg("partitioned table \"%s\" is not analyzed, because another session is "
                                       "maintaining it",
                                       name != nullptr ? name : "?"));
            });
        return false;
    }
    LockTimeoutScope timeout(patience_ms(asked_for ? 0 : parent.failures.in_a_row));
    bool done = false;
    steps.transaction(
        [&] { done = isolate(steps, parent.relid, kDuty, [&] { analyze_parent(parent.relid, force); }); });
    return done;
}

} // namespace

int64_t rows_changed_since_analyze(Oid parent)
{
    pg::ContextResource memory;
    pg::Vector<AnalyzedParent> tree(&memory);
    const Books books(parent, memory);
    add_analyzed_parents(tree, parent);
    for (const AnalyzedParent &member : tree) {
        if (member.relid == parent)
            return count_changes(member, books, Doubt::losses).changed;
    }
    return 0;
}

void run_analyze_round(Steps &steps, Oid only, bool force)
{
    pg::ContextResource memory;
    pg::Vector<DueParent> due(&memory);

    {
        LockTimeoutScope timeout(patience_ms(0));
        steps.transaction([&] { Look(steps, only, force, due).run(); });
    }
    // What is due and not done has to be found by the next look, also when an error ends this round: a cancel
    // passes through here.
    const bool held = std::exchange(last_look.holds, last_look.holds && due.empty());
    bool all_done = true;
    for (const DueParent &parent : due) {
        if (steps.should_stop())
            return;
        all_done = try_to_analyze(steps, parent, force) && all_done;
    }
    last_look.holds = held && all_done;
}

} // namespace tasker::partition
