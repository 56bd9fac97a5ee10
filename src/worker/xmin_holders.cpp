// Who holds back the oldest snapshot.
#include "worker/xmin_holders.hpp"

#include "pg/function.hpp"

namespace tasker::worker {
namespace {

// One row per holder. A session counts with its snapshot or, while it has none, with its transaction id;
// VACUUM does not count, because other vacuums ignore it; the session that asks counts only when it has been
// in its transaction for longer than this statement. A walsender's snapshot is what the standby feeds back.
pg::Statement list_holders(R"(
    select kind, identity, pid, database, username, affects, xmin, age_xids, since,
           pg_catalog.clock_timestamp() - since as held_for, state, query
    from (
        select case a.backend_type when 'walsender' then 'standby feedback' else 'session' end as kind,
               coalesce(nullif(a.application_name, ''), a.backend_type) as identity,
               a.pid,
               a.datname as database,
               a.usename as username,
               case when a.datid is null or a.datid = 0 then 'all databases'
                    when a.datname = pg_catalog.current_database() then 'this database'
                    else 'another database' end as affects,
               h.xmin,
               pg_catalog.age(h.xmin) as age_xids,
               coalesce(a.xact_start, a.query_start, a.backend_start) as since,
               a.state,
               a.query
        from pg_catalog.pg_stat_activity a
        cross join lateral (
            select case when a.backend_xmin is null then a.backend_xid
                        when a.backend_xid is null then a.backend_xmin
                        when pg_catalog.age(a.backend_xid) > pg_catalog.age(a.backend_xmin)
                            then a.backend_xid
                        else a.backend_xmin end as xmin) h
        where h.xmin is not null
          and (a.pid <> pg_catalog.pg_backend_pid() or a.xact_start < pg_catalog.statement_timestamp())
          and not exists (select from pg_catalog.pg_stat_progress_vacuum v where v.pid = a.pid)
        union all
        select 'prepared transaction', p.gid, null, p.database, p.owner,
               case when p.database = pg_catalog.current_database() then 'this database'
                    else 'another database' end,
               p.transaction, pg_catalog.age(p.transaction), p.prepared, null, null
        from pg_catalog.pg_prepared_xacts p
        union all
        select 'replication slot', s.slot_name, s.active_pid, s.database, null,
               case when s.xmin is null then 'catalogs' else 'all databases' end,
               coalesce(s.xmin, s.catalog_xmin), pg_catalog.age(coalesce(s.xmin, s.catalog_xmin)), null,
               case when s.active then 'active' else 'inactive' end, null
        from pg_catalog.pg_replication_slots s
        where coalesce(s.xmin, s.catalog_xmin) is not null
    ) holders
    order by age_xids desc, since nulls first)",
                           {});

constexpr int kColumns = 12;

enum Column : int
{
    kKind = 1,
    kIdentity,
    kPid,
    kDatabase,
    kUsername,
    kAffects,
    kXmin,
    kAge,
    kSince,
    kHeldFor,
    kState,
    kQuery
};

} // namespace

std::optional<XminHolder> oldest_xmin_holder(pg::Spi &spi)
{
    const pg::Rows rows = spi.run(list_holders);
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view affects = rows.text(i, kAffects);
        if (affects != "this database" && affects != "all databases")
            continue;
        XminHolder holder;
        holder.kind = rows.text(i, kKind);
        holder.identity = rows.text(i, kIdentity);
        holder.pid = rows.is_null(i, kPid) ? 0 : rows.i32(i, kPid);
        holder.age_xids = rows.i32(i, kAge);
        holder.held_us =
            rows.is_null(i, kHeldFor)
                ? 0
                : std::max<int64_t>(pg::interval_us(*DatumGetIntervalP(rows.datum(i, kHeldFor))), 0);
        return holder;
    }
    return std::nullopt;
}

TASKER_FUNCTION(xmin_holders)
{
    pg::ResultSet result(args.call());
    pg::Spi spi;
    const pg::Rows rows = spi.run(list_holders);
    for (uint64 i = 0; i < rows.count(); i++) {
        Datum values[kColumns];
        bool nulls[kColumns];
        for (int column = 1; column <= kColumns; column++) {
            nulls[column - 1] = rows.is_null(i, column);
            values[column - 1] = nulls[column - 1] ? 0 : rows.datum(i, column);
        }
        result.add(values, nulls);
    }
    return args.null();
}

} // namespace tasker::worker
