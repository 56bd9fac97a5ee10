#include "partition/retirement.hpp"

#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

std::string_view name_of(const DuePartition &due)
{
    return NameStr(due.name);
}

// Drops the check constraint by which DETACH CONCURRENTLY proves the bounds of the detached table: attached
// again, the table has them as a partition, and need not test them twice for each row.
void drop_bounds_check(Oid partition, const char *quoted_name)
{
    static pg::Statement query("select conname::text from pg_catalog.pg_constraint "
                               "where conrelid = $1 and contype = 'c' and coninhcount = 0 and "
                               "pg_catalog.pg_get_expr(conbin, conrelid) = "
                               "pg_catalog.pg_get_partition_constraintdef($1)",
                               {OIDOID});
    pg::Spi spi(pg::Spi::Identity::caller);
    const pg::Rows rows = spi.run(query, {partition});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view name = rows.text(i, 1);
        spi.run_text(pg::pg_call([&] {
            return psprintf("alter table %s drop constraint %s", quoted_name,
                            quote_identifier(pnstrdup(name.data(), name.size())));
        }));
    }
}

} // namespace

void add_detached_tables(Oid parent, pg::Vector<DirectoryEntry> &list)
{
    static pg::Statement query("select k.oid, r.lower_key, r.upper_key from tasker.part_retirement r "
                               "join pg_catalog.pg_class p on p.oid = r.parent "
                               "join pg_catalog.pg_class k on k.relnamespace = p.relnamespace and "
                               "k.relname = r.partition_name "
                               "where r.parent = $1 and r.state = 'leaving' and k.relkind = 'r' and "
                               "not k.relispartition",
                               {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {parent});
    for (uint64 i = 0; i < rows.count(); i++)
        list.push_back({rows.i64(i, 2), rows.i64(i, 3), rows.oid(i, 1)});
}

void attach_again(const SetConfig &config, const DirectoryEntry &table)
{
    const char *parent = quoted_parent(config);
    const char *partition = quoted_partition(table.relid);
    pg::AsOwner owner(config.owner);
    pg::Spi spi(pg::Spi::Identity::caller);

    spi.run_text(attach_text(parent, partition, config.control, {table.lower, table.upper}));
    drop_bounds_check(table.relid, partition);
}

void read_book(const SetConfig &config, pg::Vector<DuePartition> &list)
{
    static pg::Statement query(
        "select r.partition_name, r.lower_key, r.upper_key, r.state = 'leaving', r.failures, "
        "coalesce(r.next_try_at > pg_catalog.clock_timestamp(), false), coalesce(k.oid, 0) "
        "from tasker.part_retirement r left join pg_catalog.pg_class k on "
        "k.relname = r.partition_name and k.relnamespace = $2 "
        "where r.parent = $1 order by r.state, r.lower_key",
        {OIDOID, OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {config.parent, config.schema});
    for (uint64 i = 0; i < rows.count(); i++) {
        DuePartition booked{};
        booked.name = *DatumGetName(rows.datum(i, 1));
        booked.entry = {rows.i64(i, 2), rows.i64(i, 3), rows.oid(i, 7)};
        booked.leaving = rows.boolean(i, 4);
        booked.failures = rows.i32(i, 5);
        booked.backing_off = rows.boolean(i, 6);
        auto known = std::find_if(list.begin(), list.end(), [&](const DuePartition &due) {
            return due.entry.relid == booked.entry.relid && OidIsValid(booked.entry.relid);
        });
        if (known != list.end())
            *known = booked;
        else if (booked.leaving)
            list.push_back(booked);
    }
}

// The count of refusals goes on once in ten minutes while the reason stays: asking again each round must not
// mean a write each round.
void book_refusal(Oid parent, const DuePartition &due, std::string_view reason)
{
    static pg::Statement upsert(
        "insert into tasker.part_retirement as r (parent, partition_name, lower_key, upper_key, state, "
        "reason, refusals, last_refused_at) "
        "values ($1, $2, $3, $4, 'refused', $5, 1, pg_catalog.clock_timestamp()) "
        "on conflict (parent, partition_name) do update set state = 'refused', reason = excluded.reason, "
        "lower_key = excluded.lower_key, upper_key = excluded.upper_key, refusals = r.refusals + 1, "
        "last_refused_at = excluded.last_refused_at, failures = 0, next_try_at = null "
        "where r.state <> 'refused' or r.reason is distinct from excluded.reason or r.failures > 0 or "
        "r.last_refused_at < excluded.last_refused_at - interval '10 minutes'",
        {OIDOID, TEXTOID, INT8OID, INT8OID, TEXTOID});
    pg::Spi().run(upsert, {parent, name_of(due), due.entry.lower, due.entry.upper, reason});
}

void book_leaving(Oid parent, const DuePartition &due)
{
    static pg::Statement upsert(
        "insert into tasker.part_retirement as r (parent, partition_name, lower_key, upper_key, state) "
        "values ($1, $2, $3, $4, 'leaving') "
        "on conflict (parent, partition_name) do update set state = 'leaving', reason = null, "
        "lower_key = excluded.lower_key, upper_key = excluded.upper_key, "
        "since = pg_catalog.clock_timestamp() where r.state <> 'leaving'",
        {OIDOID, TEXTOID, INT8OID, INT8OID});
    pg::Spi().run(upsert, {parent, name_of(due), due.entry.lower, due.entry.upper});
}

void book_failure(Oid parent, const DuePartition &due, std::string_view reason)
{
    static pg::Statement upsert(
        "insert into tasker.part_retirement as r (parent, partition_name, lower_key, upper_key, state, "
        "reason, failures, next_try_at) "
        "values ($1, $2, $3, $4, 'refused', $5, 1, pg_catalog.clock_timestamp() + interval '1 second') "
        "on conflict (parent, partition_name) do update set reason = excluded.reason, "
        "failures = r.failures + 1, next_try_at = pg_catalog.clock_timestamp() + "
        "least(interval '5 minutes', interval '1 second' * (1 << least(r.failures, 9)))",
        {OIDOID, TEXTOID, INT8OID, INT8OID, TEXTOID});
    pg::Spi().run(upsert, {parent, name_of(due), due.entry.lower, due.entry.upper, reason});
}

void strike(Oid parent, const DuePartition &due)
{
    static pg::Statement remove(
        "delete from tasker.part_retirement where parent = $1 and partition_name = $2", {OIDOID, TEXTOID});
    pg::Spi().run(remove, {parent, name_of(due)});
}

void strike_vanished()
{
    static pg::Statement remove(
        "delete from tasker.part_retirement r where r.state = 'refused' and not exists "
        "(select from pg_catalog.pg_class k join pg_catalog.pg_class p on p.relnamespace = k.relnamespace "
        "where p.oid = r.parent and k.relname = r.partition_name)",
        {});
    pg::Spi().run(remove);
}

} // namespace tasker::partition
