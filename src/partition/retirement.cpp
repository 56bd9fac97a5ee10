#include "partition/retirement.hpp"

#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

// The relation `k` of a row `r`; the text of here() is parameter $1 of each query that says so. The second
// one is for detached tables: see the header.
#define BOOKED_HERE "r.partition_id is not null and r.booked_in is not distinct from $1"
#define NAMED_SO                                                                                             \
    "k.relname = r.partition_name and "                                                                      \
    "k.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = r.partition_schema)"
#define IS_BOOKED "case when " BOOKED_HERE " then k.oid = r.partition_id else " NAMED_SO " end"
#define IS_STILL_BOOKED NAMED_SO " and (k.oid = r.partition_id or not (" BOOKED_HERE "))"

std::string_view text_of(const NameData &name)
{
    return NameStr(name);
}

// Texts that are compared or read later, perhaps by a session with other settings. The settings go back at
// the end of the scope, or by the abort while an error unwinds. Made inside a Spi's scope.
class PortableText
{
  public:
    PortableText() : exceptions_(std::uncaught_exceptions())
    {
        pg::pg_call([&] {
            level_ = NewGUCNestLevel();
            for (const auto &[name, value] : {std::pair{"datestyle", "ISO"}, std::pair{"timezone", "UTC"}})
                (void)set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                                        false);
        });
    }
    ~PortableText()
    {
        if (std::uncaught_exceptions() == exceptions_)
            AtEOXact_GUC(false, level_);
    }
    PortableText(const PortableText &) = delete;
    PortableText &operator=(const PortableText &) = delete;

  private:
    int level_ = 0;
    int exceptions_;
};

// What a row knows about the partition itself, palloc'd; null for what it does not.
struct BookedShape
{
    const char *bound;
    const char *bounds_check;
};

const char *copy_text(const pg::Rows &rows, int column)
{
    if (rows.is_null(0, column))
        return nullptr;
    const std::string_view text = rows.text(0, column);
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

BookedShape booked_shape(Oid parent, Oid partition)
{
    static pg::Statement query("select r.bound, r.bounds_check from tasker.part_retirement r "
                               "join pg_catalog.pg_class k on " IS_BOOKED
                               " where r.parent = $2 and k.oid = $3 and r.state = 'leaving'",
                               {TEXTOID, OIDOID, OIDOID});
    MemoryContext outer = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {here(), parent, partition});
    if (rows.empty())
        return {nullptr, nullptr};
    pg::MemoryContextScope memory(outer);
    return {copy_text(rows, 1), copy_text(rows, 2)};
}

const char *quoted_check_named_by(const pg::Rows &rows)
{
    const std::string_view name = rows.text(0, 1);
    return pg::pg_call([&] { return quote_identifier(pnstrdup(name.data(), name.size())); });
}

void drop_check(Oid table, const char *quoted_name, const char *definition)
{
    static pg::Statement query("select conname::text from pg_catalog.pg_constraint "
                               "where conrelid = $1 and contype = 'c' and coninhcount = 0 and "
                               "pg_catalog.pg_get_expr(conbin, conrelid) = $2 "
                               "order by oid desc limit 1",
                               {OIDOID, TEXTOID});
    pg::Spi spi(pg::Spi::Identity::caller);
    const char *check = nullptr;
    {
        PortableText portable;
        const pg::Rows rows = spi.run(query, {table, definition});
        if (rows.empty())
            return;
        check = quoted_check_named_by(rows);
    }
    spi.run_text(
        pg::pg_call([&] { return psprintf("alter table %s drop constraint %s", quoted_name, check); }));
}

} // namespace

void add_detached_tables(Oid parent, pg::Vector<DirectoryEntry> &list)
{
    static pg::Statement query(
        "select k.oid, r.lower_key, r.upper_key from tasker.part_retirement r "
        "join pg_catalog.pg_class k on " IS_STILL_BOOKED
        " where r.parent = $2 and r.state = 'leaving' and k.relkind in ('r', 'f', 'p') "
        "and not exists (select from pg_catalog.pg_inherits where inhrelid = k.oid)",
        {TEXTOID, OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {here(), parent});
    for (uint64 i = 0; i < rows.count(); i++)
        list.push_back({rows.i64(i, 2), rows.i64(i, 3), rows.oid(i, 1)});
}

void drop_bounds_check(const SetConfig &config, Oid table)
{
    const BookedShape shape = booked_shape(config.parent, table);
    if (shape.bounds_check == nullptr)
        return;
    const char *name = quoted_partition(table);
    pg::AsOwner owner(config.owner);
    drop_check(table, name, shape.bounds_check);
}

void attach_again(const SetConfig &config, const DirectoryEntry &table)
{
    const char *parent = quoted_parent(config);
    const char *partition = quoted_partition(table.relid);
    const BookedShape shape = booked_shape(config.parent, table.relid);
    // The keys do not know all bounds: a UUID's are cut to its millisecond, and infinity is none.
    const char *text =
        shape.bound != nullptr ? pg::pg_call([&] {
            return psprintf("alter table %s attach partition %s %s", parent, partition, shape.bound);
        })
                               : attach_text(parent, partition, config.control, {table.lower, table.upper});
    pg::AsOwner owner(config.owner);
    {
        pg::Spi spi(pg::Spi::Identity::caller);
        spi.run_text(text);
    }
    // Attached again, the table has the bounds as a partition, and need not test them twice for each row.
    if (shape.bounds_check != nullptr)
        drop_check(table.relid, partition, shape.bounds_check);
}

void read_book(const SetConfig &config, pg::Vector<DuePartition> &list)
{
    static pg::Statement query(
        "select r.partition_name, r.lower_key, r.upper_key, r.state = 'leaving', r.failures, "
        "coalesce(r.next_try_at > pg_catalog.clock_timestamp(), false), coalesce(k.oid, 0), "
        "r.partition_schema "
        "from tasker.part_retirement r left join pg_catalog.pg_class k on " IS_BOOKED
        " where r.parent = $2 order by r.state, r.lower_key",
        {TEXTOID, OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {here(), config.parent});
    for (uint64 i = 0; i < rows.count(); i++) {
        DuePartition booked{};
        booked.name = *DatumGetName(rows.datum(i, 1));
        booked.schema = *DatumGetName(rows.datum(i, 8));
        booked.entry = {rows.i64(i, 2), rows.i64(i, 3), rows.oid(i, 7)};
        booked.leaving = rows.boolean(i, 4);
        booked.failures = rows.i32(i, 5);
        booked.backing_off = rows.boolean(i, 6);
        auto known = std::find_if(list.begin(), list.end(), [&](const DuePartition &due) {
            return due.entry.relid == booked.entry.relid && OidIsValid(booked.entry.relid);
        });
        if (known != list.end()) {
            booked.entry = known->entry; // as it is: it may have been attached anew
            *known = booked;
        } else if (booked.leaving) {
            list.push_back(booked);
        }
    }
}

// The count of refusals goes on once in ten minutes while the reason stays: asking again each round must not
// mean a write each round.
void book_refusal(Oid parent, const DuePartition &due, std::string_view reason)
{
    static pg::Statement upsert(
        "insert into tasker.part_retirement as r (parent, partition_schema, partition_name, lower_key, "
        "upper_key, partition_id, booked_in, state, reason, refusals, last_refused_at) "
        "values ($1, $2, $3, $4, $5, $6, $7, 'refused', $8, 1, pg_catalog.clock_timestamp()) "
        "on conflict (parent, partition_schema, partition_name) do update set state = 'refused', "
        "reason = excluded.reason, lower_key = excluded.lower_key, upper_key = excluded.upper_key, "
        "partition_id = excluded.partition_id, booked_in = excluded.booked_in, bound = null, "
        "bounds_check = null, refusals = r.refusals + 1, last_refused_at = excluded.last_refused_at, "
        "failures = 0, next_try_at = null "
        "where r.state <> 'refused' or r.reason is distinct from excluded.reason or r.failures > 0 or "
        "r.last_refused_at < excluded.last_refused_at - interval '10 minutes'",
        {OIDOID, TEXTOID, TEXTOID, INT8OID, INT8OID, OIDOID, TEXTOID, TEXTOID});
    pg::Spi().run(upsert, {parent, text_of(due.schema), text_of(due.name), due.entry.lower, due.entry.upper,
                           due.entry.relid, here(), reason});
}

// A partition that had a check of its bounds before keeps it: the detach then leaves none. What was booked
// already and has come back attached may still carry the one of the first time.
void book_leaving(Oid parent, const DuePartition &due)
{
    static pg::Statement upsert(
        "insert into tasker.part_retirement as r (parent, partition_schema, partition_name, lower_key, "
        "upper_key, partition_id, booked_in, state, bound, bounds_check) "
        "select $1, $2, $3, $4, $5, k.oid, $7, 'leaving', pg_catalog.pg_get_expr(k.relpartbound, k.oid), "
        "  case when not exists (select from pg_catalog.pg_constraint c where c.conrelid = k.oid and "
        "    c.contype = 'c' and pg_catalog.pg_get_expr(c.conbin, c.conrelid) = d.definition) "
        "  then d.definition end "
        "from pg_catalog.pg_class k, pg_catalog.pg_get_partition_constraintdef(k.oid) d (definition) "
        "where k.oid = $6 "
        "on conflict (parent, partition_schema, partition_name) do update set state = 'leaving', "
        "reason = null, lower_key = excluded.lower_key, upper_key = excluded.upper_key, "
        "partition_id = excluded.partition_id, booked_in = excluded.booked_in, bound = excluded.bound, "
        "bounds_check = coalesce(excluded.bounds_check, r.bounds_check), "
        "since = pg_catalog.clock_timestamp() "
        "where r.state <> 'leaving' or r.bound is distinct from excluded.bound or "
        "r.partition_id is distinct from excluded.partition_id or "
        "r.booked_in is distinct from excluded.booked_in",
        {OIDOID, TEXTOID, TEXTOID, INT8OID, INT8OID, OIDOID, TEXTOID});
    pg::Spi spi;
    PortableText portable;
    spi.run(upsert, {parent, text_of(due.schema), text_of(due.name), due.entry.lower, due.entry.upper,
                     due.entry.relid, here()});
}

bool book_failure(Oid parent, const DuePartition &due, std::string_view reason)
{
    static pg::Statement last("select reason from tasker.part_retirement where parent = $1 and "
                              "partition_schema = $2 and partition_name = $3",
                              {OIDOID, TEXTOID, TEXTOID});
    static pg::Statement upsert(
        "insert into tasker.part_retirement as r (parent, partition_schema, partition_name, lower_key, "
        "upper_key, partition_id, booked_in, state, reason, failures, next_try_at) "
        "values ($1, $2, $3, $4, $5, $6, $7, 'refused', $8, 1, "
        "pg_catalog.clock_timestamp() + interval '1 second') "
        "on conflict (parent, partition_schema, partition_name) do update set reason = excluded.reason, "
        "failures = r.failures + 1, next_try_at = pg_catalog.clock_timestamp() + "
        "least(interval '5 minutes', interval '1 second' * (1 << least(r.failures, 9)))",
        {OIDOID, TEXTOID, TEXTOID, INT8OID, INT8OID, OIDOID, TEXTOID, TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(last, {parent, text_of(due.schema), text_of(due.name)});
    const bool news = rows.empty() || rows.text(0, 1) != reason;
    spi.run(upsert, {parent, text_of(due.schema), text_of(due.name), due.entry.lower, due.entry.upper,
                     due.entry.relid, here(), reason});
    return news;
}

void strike(Oid parent, const DuePartition &due)
{
    static pg::Statement remove("delete from tasker.part_retirement where parent = $1 and "
                                "partition_schema = $2 and partition_name = $3",
                                {OIDOID, TEXTOID, TEXTOID});
    pg::Spi().run(remove, {parent, text_of(due.schema), text_of(due.name)});
}

void follow_name(Oid parent, Oid partition)
{
    static pg::Statement follow(
        "update tasker.part_retirement r set partition_schema = n.nspname, partition_name = k.relname "
        "from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace "
        "where r.parent = $2 and k.oid = $3 and r.partition_id = k.oid and " BOOKED_HERE " and "
        "(n.nspname, k.relname) is distinct from (r.partition_schema, r.partition_name) and "
        "not exists (select from tasker.part_retirement o where o.parent = r.parent and "
        "o.partition_schema = n.nspname and o.partition_name = k.relname)",
        {TEXTOID, OIDOID, OIDOID});
    pg::Spi().run_latest(follow, {here(), parent, partition});
}

// A name that another row has is not followed: the row is found by its OID as well.
void tidy_book()
{
    static pg::Statement forget(
        "delete from tasker.part_retirement r where not exists "
        "(select from pg_catalog.pg_class where oid = r.parent and relkind = 'p') or "
        "r.state = 'refused' and not exists (select from pg_catalog.pg_inherits i "
        "join pg_catalog.pg_class k on k.oid = i.inhrelid where i.inhparent = r.parent and " IS_BOOKED ")",
        {TEXTOID});
    static pg::Statement absolve(
        "delete from tasker.part_failure f where not exists (select from pg_catalog.pg_class where oid = "
        "f.parent)",
        {});
    static pg::Statement follow(
        "update tasker.part_retirement r set partition_schema = n.nspname, partition_name = k.relname "
        "from pg_catalog.pg_inherits i join pg_catalog.pg_class k on k.oid = i.inhrelid "
        "join pg_catalog.pg_namespace n on n.oid = k.relnamespace "
        "where i.inhparent = r.parent and k.oid = r.partition_id and " BOOKED_HERE " and "
        "(n.nspname, k.relname) is distinct from (r.partition_schema, r.partition_name) and "
        "not exists (select from tasker.part_retirement o where o.parent = r.parent and "
        "o.partition_schema = n.nspname and o.partition_name = k.relname)",
        {TEXTOID});
    pg::Spi spi;
    spi.run(forget, {here()});
    spi.run(absolve);
    spi.run(follow, {here()});
}

} // namespace tasker::partition
