#include "partition/changes.hpp"

#include "pg/settings.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "optimizer/plancat.h"
}

namespace tasker::partition {
namespace {

// --- leaves

// The counters are the truth once a vacuum or analyze has told them how many rows there are. Before, a leaf
// that has been filled and indexed, or whose counters were lost, is better known to pg_class.
int64_t rows_of(const tasker_table_counters &counters, Form_pg_class form)
{
    const int64_t live = Max(counters.live, 0);
    return counters.counted ? live : Max(live, static_cast<int64_t>(form->reltuples));
}

// Leaves of a table, in the current memory context.
struct LeafList
{
    Leaf *leaves;
    int count;
    int room;
};

// Plain C inside: may ereport.
void append(LeafList *list, const Leaf &leaf)
{
    if (list->count == list->room) {
        list->room *= 2;
        list->leaves =
            static_cast<Leaf *>(repalloc(list->leaves, sizeof(Leaf) * static_cast<Size>(list->room)));
    }
    list->leaves[list->count++] = leaf;
}

// Adds the leaves below a parent, with one look at pg_class for each; one that is dropped meanwhile is left
// out. Plain C inside: may ereport.
void add_leaves(Oid parent, LeafList *list)
{
    List *children = find_inheritance_children(parent, NoLock);
    ListCell *cell = nullptr;

    check_stack_depth();
    foreach (cell, children) {
        const Oid relid = lfirst_oid(cell);
        HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
        if (!HeapTupleIsValid(tuple))
            continue;
        auto *form = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
        const bool is_leaf = form->relkind != RELKIND_PARTITIONED_TABLE;
        if (is_leaf) {
            const tasker_table_counters counters = tasker_read_counters(relid);
            append(list, {relid, form->relfilenode, counters.changes, rows_of(counters, form), -1,
                          counters.counted});
        }
        ReleaseSysCache(tuple);
        if (!is_leaf)
            add_leaves(relid, list);
    }
    list_free(children);
}

// The leaves in the order of their OIDs.
std::span<Leaf> leaves_of(Oid parent)
{
    constexpr int kRoom = 64;
    LeafList list{nullptr, 0, kRoom};
    pg::pg_call([&] {
        list.leaves = static_cast<Leaf *>(palloc(sizeof(Leaf) * kRoom));
        add_leaves(parent, &list);
    });
    const std::span<Leaf> leaves(list.leaves, static_cast<size_t>(list.count));
    const auto by_oid = [](const Leaf &a, const Leaf &b) { return a.relid < b.relid; };
    if (!std::is_sorted(leaves.begin(), leaves.end(), by_oid))
        std::sort(leaves.begin(), leaves.end(), by_oid);
    return leaves;
}

// The size of a leaf's file, and the rows that the planner would expect in it.
struct Size
{
    bool known; // not when the leaf is locked, or has no file here
    int64_t pages;
    double rows;
};

// Plain C inside: may ereport.
Size read_size(Oid relid)
{
    Size size{true, 0, 0};
    BlockNumber pages = 0;
    double all_visible = 0;

    if (!ConditionalLockRelationOid(relid, AccessShareLock))
        return {};
    Relation leaf = try_relation_open(relid, NoLock);
    if (leaf != nullptr) {
        // An unlogged table has no file on a standby. Of an empty file the planner thinks that it will not
        // stay empty.
        if (leaf->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED && RecoveryInProgress()) {
            size.known = false;
        } else if (RELKIND_HAS_TABLE_AM(leaf->rd_rel->relkind)) {
            size.pages = RelationGetNumberOfBlocks(leaf);
            estimate_rel_size(leaf, nullptr, &pages, &size.rows, &all_visible);
            size.rows = pages > 0 ? size.rows * static_cast<double>(size.pages) / pages : 0;
        }
        relation_close(leaf, NoLock);
    }
    UnlockRelationOid(relid, AccessShareLock);
    return size;
}

// --- comparing with the book

struct Comparison
{
    double density = 0; // rows in a page, when the book was written
    int64_t rows = 0;
    int64_t changed = 0;
    bool lost = false;       // counters of a leaf were lost
    bool unmeasured = false; // a leaf was locked, and its size is not known
};

// The rows in a leaf by its size; `otherwise` when that is not to be had now.
int64_t measured_rows(const Leaf &leaf, const Leaf *before, int64_t otherwise, Comparison &sum)
{
    const Size size = pg::pg_call([&] { return read_size(leaf.relid); });
    sum.unmeasured |= !size.known;
    if (!size.known)
        return otherwise;
    if (before != nullptr && before->pages == size.pages)
        return before->rows;
    const auto pages = static_cast<double>(size.pages);
    if (before != nullptr && before->pages > 0 && before->rows > 0)
        return static_cast<int64_t>(pages * static_cast<double>(before->rows) /
                                    static_cast<double>(before->pages));
    return static_cast<int64_t>(sum.density > 0 ? pages * sum.density : size.rows);
}

// Counters are lost at an upgrade of the server and in crashes, also of leaves that no book or vacuum has
// seen; and who makes a table, fills and attaches it in one transaction reports its rows a little later.
bool is_unknown(const Leaf &leaf)
{
    return !leaf.counted && leaf.changes == 0 && leaf.rows == 0;
}

// A leaf without a past.
void count_new(Leaf &leaf, Comparison &sum)
{
    if (is_unknown(leaf))
        leaf.rows = measured_rows(leaf, nullptr, 0, sum);
    sum.changed += std::max(leaf.changes, leaf.rows);
}

// A leaf whose counters begin anew, or may have begun anew more than once.
void count_lost(Leaf &now, const Leaf &before, Comparison &sum)
{
    now.rows = measured_rows(now, &before, before.rows, sum);
    sum.lost |= now.changes < before.changes || now.rows != before.rows;
    sum.changed += now.changes + std::abs(now.rows - before.rows);
}

// A leaf that was truncated or rewritten. How many rows went reaches the counters after the commit.
void count_replaced(Leaf &now, const Leaf &before, Comparison &sum)
{
    now.rows = std::min(now.rows, measured_rows(now, nullptr, now.rows, sum));
    sum.changed += std::max(now.changes - before.changes, before.rows - now.rows);
}

void count_same(Leaf &now, const Leaf &before, Comparison &sum)
{
    if (!now.counted)
        now.rows = std::max(now.rows, before.rows);
    sum.changed += now.changes - before.changes;
}

// A leaf of which the book knows. One without counters that it knew without counters is like before, unless
// they have been lost a second time.
void compare(Leaf &now, const Leaf &before, Doubt doubt, Comparison &sum)
{
    const bool no_counters = !now.counted && now.changes == 0 && before.changes == 0;
    if (is_unknown(now) && before.changes == 0 && before.rows == 0)
        count_new(now, sum);
    else if (now.changes < before.changes || (no_counters && doubt == Doubt::losses))
        count_lost(now, before, sum);
    else if (now.file != before.file)
        count_replaced(now, before, sum);
    else
        count_same(now, before, sum);
}

double density_of(std::span<const Leaf> leaves)
{
    double rows = 0;
    double pages = 0;
    for (const Leaf &leaf : leaves) {
        rows += leaf.pages > 0 ? static_cast<double>(leaf.rows) : 0;
        pages += static_cast<double>(std::max<int64_t>(leaf.pages, 0));
    }
    return pages > 0 ? rows / pages : 0;
}

Comparison compare(std::span<Leaf> now, std::span<const Leaf> before, Doubt doubt)
{
    Comparison sum;
    size_t b = 0;
    sum.density = density_of(before);
    for (Leaf &leaf : now) {
        for (; b < before.size() && before[b].relid < leaf.relid; b++)
            sum.changed += before[b].rows;
        if (b < before.size() && before[b].relid == leaf.relid)
            compare(leaf, before[b++], doubt, sum);
        else
            count_new(leaf, sum);
        sum.rows += leaf.rows;
    }
    for (; b < before.size(); b++)
        sum.changed += before[b].rows;
    return sum;
}

// When a session last analyzed the table; nothing when that is not known (any more).
std::optional<TimestampTz> last_analyze(Oid parent)
{
    return pg::pg_call([&]() -> std::optional<TimestampTz> {
        LOCAL_FCINFO(fcinfo, 1);
        InitFunctionCallInfoData(*fcinfo, nullptr, 1, InvalidOid, nullptr, nullptr);
        fcinfo->args[0] = {ObjectIdGetDatum(parent), false};
        const Datum time = pg_stat_get_last_analyze_time(fcinfo);
        return fcinfo->isnull ? std::nullopt : std::optional(DatumGetTimestampTz(time));
    });
}

// --- rules

// A row of tasker.part_analyze_config; what it leaves open is the parent's parent's, and in the end the
// setting's.
struct RuleRow
{
    Oid parent;
    std::optional<bool> enabled;
    std::optional<int32_t> threshold;
    std::optional<double> scale_factor;
};

void add_rules(pg::Vector<RuleRow> &rules)
{
    static pg::Statement query("select parent::oid, enabled, threshold, scale_factor "
                               "from tasker.part_analyze_config",
                               {});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query);
    for (uint64 i = 0; i < rows.count(); i++) {
        RuleRow rule{rows.oid(i, 1), {}, {}, {}};
        if (!rows.is_null(i, 2))
            rule.enabled = rows.boolean(i, 2);
        if (!rows.is_null(i, 3))
            rule.threshold = rows.i32(i, 3);
        if (!rows.is_null(i, 4))
            rule.scale_factor = DatumGetFloat8(rows.datum(i, 4));
        rules.push_back(rule);
    }
}

AnalyzeRule rule_of(Oid parent, std::span<const RuleRow> rules)
{
    RuleRow found{parent, {}, {}, {}};
    const auto adopt = [&](Oid table) {
        for (const RuleRow &rule : rules) {
            if (rule.parent != table)
                continue;
            found.enabled = found.enabled ? found.enabled : rule.enabled;
            found.threshold = found.threshold ? found.threshold : rule.threshold;
            found.scale_factor = found.scale_factor ? found.scale_factor : rule.scale_factor;
        }
    };
    if (!rules.empty()) {
        adopt(parent);
        const List *ancestors = pg::pg_call(
            [&] { return get_rel_relispartition(parent) ? get_partition_ancestors(parent) : NIL; });
        for (int i = 0; i < list_length(ancestors); i++)
            adopt(list_nth_oid(ancestors, i));
    }
    return {found.enabled.value_or(true),
            static_cast<double>(found.threshold.value_or(pg::settings::analyze_threshold)),
            found.scale_factor.value_or(pg::settings::analyze_scale_factor)};
}

// What pg_class says of a parent.
struct ParentClass
{
    bool exists;
    bool is_temporary;
    double rows;
};

// Plain C inside: may ereport.
ParentClass read_parent_class(Oid relid)
{
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(tuple))
        return {};
    auto *form = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
    const ParentClass known{true, form->relpersistence == RELPERSISTENCE_TEMP, form->reltuples};
    ReleaseSysCache(tuple);
    return known;
}

// The elements of an array without nulls that a statement of ours has written.
template <class T> std::span<const T> elements(Datum array)
{
    const ArrayType *values = pg::pg_call([&] { return DatumGetArrayTypeP(array); });
    if (ARR_NDIM(values) != 1 || ARR_HASNULL(values))
        return {};
    return {reinterpret_cast<const T *>(ARR_DATA_PTR(values)), static_cast<size_t>(ARR_DIMS(values)[0])};
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

} // namespace

Books::Books(Oid only, pg::ContextResource &memory) : books_(&memory), leaves_(&memory)
{
    static pg::Statement query("select parent, analyzed_at, carried, leaves, files, changes, live, pages "
                               "from tasker.part_analyze where $1 in (0, parent) order by parent",
                               {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {only});
    books_.reserve(rows.count());
    for (uint64 i = 0; i < rows.count(); i++) {
        const auto relids = elements<Oid>(rows.datum(i, 4));
        const auto files = elements<Oid>(rows.datum(i, 5));
        const auto changes = elements<int64>(rows.datum(i, 6));
        const auto live = elements<int64>(rows.datum(i, 7));
        const auto pages = elements<int64>(rows.datum(i, 8));
        const size_t count =
            std::min({relids.size(), files.size(), changes.size(), live.size(), pages.size()});
        const auto at = rows.is_null(i, 2) ? std::nullopt : std::optional<TimestampTz>(rows.i64(i, 2));
        books_.push_back({rows.oid(i, 1), at, rows.i64(i, 3), leaves_.size(), count});
        for (size_t k = 0; k < count; k++)
            leaves_.push_back({relids[k], files[k], changes[k], live[k], pages[k], true});
    }
}

const Book *Books::find(Oid parent) const
{
    const auto at = std::lower_bound(books_.begin(), books_.end(), parent,
                                     [](const Book &book, Oid relid) { return book.parent < relid; });
    return at != books_.end() && at->parent == parent ? &*at : nullptr;
}

bool Books::has_other_than(std::span<const AnalyzedParent> parents) const
{
    size_t found = 0;
    for (const AnalyzedParent &parent : parents)
        found += find(parent.relid) != nullptr;
    return found < books_.size();
}

void add_analyzed_parents(pg::Vector<AnalyzedParent> &parents, Oid only)
{
    // Not joined with pg_class, of which that would read every row: it has one for each partition.
    static pg::Statement all("select partrelid from pg_catalog.pg_partitioned_table order by partrelid", {});
    static pg::Statement tree(
        "with recursive tree (relid) as ("
        "select partrelid from pg_catalog.pg_partitioned_table where partrelid = $1 "
        "union all select p.partrelid from tree t join pg_catalog.pg_inherits i on i.inhparent = t.relid "
        "join pg_catalog.pg_partitioned_table p on p.partrelid = i.inhrelid) "
        "select relid from tree order by relid",
        {OIDOID});
    pg::ContextResource memory;
    pg::Vector<RuleRow> rules(&memory);
    add_rules(rules);
    pg::Spi spi;
    const pg::Rows rows = OidIsValid(only) ? spi.run(tree, {only}) : spi.run(all);
    for (uint64 i = 0; i < rows.count(); i++) {
        const Oid relid = rows.oid(i, 1);
        const ParentClass known = pg::pg_call([&] { return read_parent_class(relid); });
        if (known.exists && (OidIsValid(only) || !known.is_temporary))
            parents.push_back({relid, known.rows, rule_of(relid, {rules.data(), rules.size()})});
    }
}

Changes count_changes(const AnalyzedParent &parent, const Books &books, Doubt doubt)
{
    const std::span<Leaf> leaves = leaves_of(parent.relid);
    const Book *book = books.find(parent.relid);
    const std::optional<TimestampTz> by_hand = last_analyze(parent.relid);
    Changes changes;

    changes.leaves = leaves;
    changes.analyzed_at = book != nullptr ? book->analyzed_at : by_hand;
    const bool analyzed = parent.rows_when_analyzed >= 0;
    const bool book_holds =
        analyzed && book != nullptr && (!by_hand || (book->analyzed_at && *by_hand <= *book->analyzed_at));
    const Comparison since =
        compare(leaves, book_holds ? books.leaves(*book) : std::span<const Leaf>(), doubt);
    changes.rows = since.rows;
    changes.uncertain = since.unmeasured;
    if (book_holds) {
        changes.changed = book->carried + since.changed;
        changes.rewrite = since.lost && !since.unmeasured;
    } else if (analyzed) {
        changes.changed = std::abs(since.rows - static_cast<int64_t>(parent.rows_when_analyzed));
        changes.analyzed_at = by_hand;
        changes.rewrite = true;
    } else {
        changes.changed = since.changed;
    }
    return changes;
}

void write_book(Oid parent, std::span<const Leaf> leaves, int64_t carried,
                std::optional<TimestampTz> analyzed_at)
{
    static pg::Statement upsert(
        "insert into tasker.part_analyze (parent, analyzed_at, carried, leaves, files, changes, live, pages) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (parent) do update set "
        "analyzed_at = excluded.analyzed_at, carried = excluded.carried, leaves = excluded.leaves, "
        "files = excluded.files, changes = excluded.changes, live = excluded.live, "
        "pages = excluded.pages",
        {OIDOID, TIMESTAMPTZOID, INT8OID, OIDARRAYOID, OIDARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
         INT8ARRAYOID});
    pg::ContextResource memory;
    pg::Vector<Datum> relids(&memory), files(&memory), changes(&memory), live(&memory), pages(&memory);
    for (const Leaf &leaf : leaves) {
        relids.push_back(ObjectIdGetDatum(leaf.relid));
        files.push_back(ObjectIdGetDatum(leaf.file));
        changes.push_back(Int64GetDatum(leaf.changes));
        live.push_back(Int64GetDatum(leaf.rows));
        const Size size = pg::pg_call([&] { return read_size(leaf.relid); });
        pages.push_back(Int64GetDatum(size.known ? size.pages : -1));
    }
    pg::Spi().run(upsert, {parent, analyzed_at ? pg::Param(pg::Timestamp{*analyzed_at}) : pg::Param::none(),
                           carried, array_param(relids.data(), relids.size(), OIDOID),
                           array_param(files.data(), files.size(), OIDOID),
                           array_param(changes.data(), changes.size(), INT8OID),
                           array_param(live.data(), live.size(), INT8OID),
                           array_param(pages.data(), pages.size(), INT8OID)});
}

} // namespace tasker::partition
