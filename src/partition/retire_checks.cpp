#include "partition/retire_checks.hpp"

#include "partition/bounds.hpp"
#include "partition/set_failure.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr int64_t kAdoptionUs = USECS_PER_HOUR;

// A retention that reaches back before the calendar begins lets nothing go.
int64_t before(int64_t wall_us, Interval retention)
{
    try {
        return pg::unix_us_of_timestamp(pg::pg_call([&] {
            return DatumGetTimestamp(DirectFunctionCall2(timestamp_mi_interval,
                                                         TimestampGetDatum(pg::timestamp_of_unix_us(wall_us)),
                                                         IntervalPGetDatum(&retention)));
        }));
    } catch (const pg::PgError &error) {
        if (error.sqlstate() != ERRCODE_DATETIME_VALUE_OUT_OF_RANGE)
            throw;
        return core::kInt64Min;
    }
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

const char *copy_text(const pg::Rows &rows, uint64 row, int column, MemoryContext memory)
{
    const std::string_view text = rows.text(row, column);
    return pg::pg_call([&] {
        char *copy = static_cast<char *>(MemoryContextAllocZero(memory, text.size() + 1));
        memcpy(copy, text.data(), text.size());
        return copy;
    });
}

// The name for messages.
const char *name_of_relation(Oid relid)
{
    const char *name = pg::pg_call([&] { return get_rel_name(relid); });
    return name != nullptr ? name : "?";
}

void check_owner(const SetConfig &config, Oid partition)
{
    struct Owners
    {
        bool enough;
        const char *set_owner;
    };
    const Owners owners = pg::pg_call([&] {
        return Owners{tasker_is_owner(RelationRelationId, partition, config.owner),
                      GetUserNameFromId(config.owner, true)};
    });
    if (!owners.enough)
        throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "partition \"%s\" does not belong to role \"%s\"",
                        name_of_relation(partition), owners.set_owner != nullptr ? owners.set_owner : "?")
            .detail("That role owns \"%s\", and its partitions are retired in its name.",
                    NameStr(config.parent_name))
            .hint("Give partition and parent the same owner.");
}

// A table with a foreign key to the partition, and a query that finds whether a row of it refers there.
struct Reference
{
    const char *query;
    const char *table;
};

void add_references(Oid partition, pg::Vector<Reference> &list)
{
    static pg::Statement query(
        "select pg_catalog.format('select exists (select from %s%s f join %s p on %s)', "
        "  case r.relkind when 'r' then 'only ' end, c.conrelid::regclass, c.confrelid::regclass, "
        "  (select pg_catalog.string_agg(pg_catalog.format('p.%I operator(%I.%s) f.%I', pa.attname, "
        "     n.nspname, o.oprname, fa.attname), ' and ') "
        "     from rows from (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey), "
        "       pg_catalog.unnest(c.conpfeqop)) k (f, p, op) "
        "     join pg_catalog.pg_operator o on o.oid = k.op "
        "     join pg_catalog.pg_namespace n on n.oid = o.oprnamespace "
        "     join pg_catalog.pg_attribute fa on fa.attrelid = c.conrelid and fa.attnum = k.f "
        "     join pg_catalog.pg_attribute pa on pa.attrelid = c.confrelid and pa.attnum = k.p)), "
        "  c.conrelid::regclass::text "
        "from pg_catalog.pg_constraint c join pg_catalog.pg_class r on r.oid = c.conrelid "
        "where c.contype = 'f' and c.confrelid = $1",
        {OIDOID});
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {partition});
    for (uint64 i = 0; i < rows.count(); i++)
        list.push_back({copy_text(rows, i, 1, memory), copy_text(rows, i, 2, memory)});
}

[[noreturn]] void refuse_unreadable(const SetConfig &config, Oid partition, const char *table,
                                    const char *reason)
{
    const char *role = pg::pg_call([&] { return GetUserNameFromId(config.owner, true); });
    throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
                    "role \"%s\" cannot read all of table %s, which refers to partition \"%s\"",
                    role != nullptr ? role : "?", table, name_of_relation(partition))
        .detail("DETACH must see that no row refers there: %s.", reason)
        .hint("Grant that role, which owns \"%s\", USAGE on the schema and SELECT on the table; where row "
              "security applies to it, BYPASSRLS.",
              NameStr(config.parent_name));
}

// Postgres checks this in the detach itself, and locks the referring table against writers meanwhile: a table
// whose rows still refer to the partition shall not be locked every time we ask. It reads with the rights of
// the set's owner; a check that these do not allow is found here, before the partition is booked.
void check_references(const SetConfig &config, Oid partition)
{
    pg::ContextResource memory;
    pg::Vector<Reference> references(&memory);
    add_references(partition, references);
    for (const Reference &reference : references) {
        bool found = false;
        const std::optional<pg::CaughtError> error = pg::try_in_subtransaction([&] {
            pg::AsOwner owner(config.owner);
            pg::Spi spi(pg::Spi::Identity::caller);
            found = spi.run_text(reference.query).boolean(0, 1);
        });
        if (error && error->sqlstate() == ERRCODE_INSUFFICIENT_PRIVILEGE)
            refuse_unreadable(config, partition, reference.table, error->message());
        if (found)
            throw pg::Error(ERRCODE_FOREIGN_KEY_VIOLATION, "rows of table %s refer to partition \"%s\"",
                            reference.table, name_of_relation(partition))
                .hint("Delete those rows first, or retire them in the same rhythm.");
    }
}

void check_views(Oid partition)
{
    static pg::Statement query(
        "select w.ev_class::regclass::text from pg_catalog.pg_depend d "
        "join pg_catalog.pg_rewrite w on w.oid = d.objid "
        "where d.classid = 'pg_catalog.pg_rewrite'::regclass and "
        "d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = $1 and d.deptype = 'n' and "
        "w.ev_class <> $1 limit 1",
        {OIDOID});
    MemoryContext memory = CurrentMemoryContext;
    const char *view = nullptr;
    {
        pg::Spi spi;
        const pg::Rows rows = spi.run(query, {partition});
        if (rows.empty())
            return;
        view = copy_text(rows, 0, 1, memory);
    }
    throw pg::Error(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST, "view %s depends on partition \"%s\"", view,
                    name_of_relation(partition))
        .hint("Drop it, or let it read \"%s\"'s parent instead.", name_of_relation(partition));
}

// What moves along with a table has its name in the schema too: indexes, owned sequences, the row type.
void check_names(const SetConfig &config, Oid partition)
{
    static pg::Statement query(
        "select pg_catalog.format('%I', m.name) from (select relname, reltype from pg_catalog.pg_class where "
        "  oid = $1) t, "
        "lateral (select t.relname union all "
        "  select i.relname from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid = x.indexrelid "
        "    where x.indrelid = $1 union all "
        "  select s.relname from pg_catalog.pg_depend d join pg_catalog.pg_class s on s.oid = d.objid "
        "    where d.classid = 'pg_catalog.pg_class'::regclass and "
        "    d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = $1 and "
        "    d.deptype in ('a', 'i') and s.relkind = 'S') m (name) "
        "join pg_catalog.pg_namespace n on n.nspname = $2 "
        "where n.oid <> (select relnamespace from pg_catalog.pg_class where oid = $1) and "
        "(exists (select from pg_catalog.pg_class o where o.relnamespace = n.oid and o.relname = m.name) or "
        "exists (select from pg_catalog.pg_type o where o.typnamespace = n.oid and o.typname = t.relname and "
        "  m.name = t.relname)) limit 1",
        {OIDOID, TEXTOID});
    MemoryContext memory = CurrentMemoryContext;
    const char *taken = nullptr;
    {
        pg::Spi spi;
        const pg::Rows rows = spi.run(query, {partition, std::string_view(NameStr(config.action_schema))});
        if (rows.empty())
            return;
        taken = copy_text(rows, 0, 1, memory);
    }
    throw pg::Error(ERRCODE_DUPLICATE_TABLE, "partition \"%s\" cannot be moved to schema \"%s\"",
                    name_of_relation(partition), NameStr(config.action_schema))
        .detail("The name %s is taken there.", taken)
        .hint("Rename or drop one of the two.");
}

} // namespace

int64_t cutoff_key(const SetConfig &config)
{
    const std::optional<int64_t> current = current_key(config);
    if (!current)
        return core::kInt64Min;
    if (config.retention_keys)
        return core::saturating_sub(*current, *config.retention_keys);
    if (!config.retention)
        return *current;
    const int64_t now = unix_us_of_key(config.control.kind, *current);
    // Months and days are those of the set's own clocks.
    const bool by_clocks = is_moment(config.control.kind) && config.zone != nullptr;
    const int64_t cutoff = before(by_clocks ? wall_clock(now, config.zone) : now, *config.retention);
    if (cutoff == core::kInt64Min)
        return cutoff;
    return key_of_unix_us(config.control.kind, by_clocks ? moment_of(cutoff, config.zone) : cutoff);
}

bool retires(const SetConfig &config, const OwnedSet *owned)
{
    const bool owner_decides = owned != nullptr && !owned->kept_without_retention;
    return owner_decides || config.retention || config.retention_keys;
}

bool was_just_restored(const SetConfig &config)
{
    return config.adopted_at && GetCurrentTimestamp() - *config.adopted_at < kAdoptionUs;
}

const char *ask(const SetConfig &config, const OwnedSet *owned, const DirectoryEntry &entry)
{
    if (config.legal_hold)
        return "the set is under legal hold";
    if (was_just_restored(config))
        return "the set was restored less than an hour ago";
    if (!retires(config, owned))
        return "the set has no retention any more";
    if (entry.upper > cutoff_key(config))
        return "it is younger than the set's retention";
    if (owned != nullptr && owned->key_count > 0 && !has_keys(entry.relid))
        return "it has no primary key: a restore may be running";
    const char *reason =
        owned != nullptr ? owned->refuse_retirement(entry.relid, entry.lower, entry.upper) : nullptr;
    if (reason == nullptr && retirement_veto_hook != nullptr)
        reason = retirement_veto_hook(config.parent, entry.relid);
    return reason;
}

void check_obstacles(const SetConfig &config, Oid partition)
{
    check_owner(config, partition);
    check_references(config, partition);
    if (config.action == RetentionAction::drop)
        check_views(partition);
    if (config.action == RetentionAction::move)
        check_names(config, partition);
}

void check_destination(const SetConfig &config)
{
    if (config.action != RetentionAction::move)
        return;
    struct Destination
    {
        Oid schema;
        bool allowed;
        bool temporary;
        const char *set_owner;
    };
    const char *name = NameStr(config.action_schema);
    const Destination to = pg::pg_call([&] {
        Destination found{get_namespace_oid(name, true), false, false, GetUserNameFromId(config.owner, true)};
        if (OidIsValid(found.schema)) {
            found.allowed = DatumGetBool(DirectFunctionCall3(
                has_schema_privilege_id_id, ObjectIdGetDatum(config.owner), ObjectIdGetDatum(found.schema),
                PointerGetDatum(cstring_to_text("CREATE"))));
            found.temporary = isAnyTempNamespace(found.schema) || found.schema == PG_TOAST_NAMESPACE;
        }
        return found;
    });
    if (!OidIsValid(to.schema))
        throw pg::Error(ERRCODE_UNDEFINED_SCHEMA, "schema \"%s\" does not exist", name)
            .hint("Retired partitions of \"%s\" are moved there: create it, or change the set's "
                  "retention_action.",
                  NameStr(config.parent_name));
    if (to.temporary)
        throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "no table can be moved to schema \"%s\"", name)
            .hint("Change the retention_action of \"%s\".", NameStr(config.parent_name));
    if (!to.allowed)
        throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "role \"%s\" may not create tables in schema \"%s\"",
                        to.set_owner != nullptr ? to.set_owner : "?", name)
            .hint("Retired partitions of \"%s\" are moved there: grant it CREATE, or change the set's "
                  "retention_action.",
                  NameStr(config.parent_name));
}

Standing standing_of(Oid parent, Oid partition, const NameData &schema, const NameData &name)
{
    static pg::Statement query(
        "select k.oid is not null, i.attached, i.pending, i.other_pending, "
        "exists (select from pg_catalog.pg_partitioned_table where partrelid = $1 and partdefid <> 0), "
        "not i.attached and k.oid is not null and ((n.nspname, k.relname) is distinct from ($3, $4) or "
        "exists (select from pg_catalog.pg_inherits where inhrelid = $2)), "
        "k.oid is not null and (n.nspname, k.relname) is distinct from ($3, $4), "
        "coalesce(k.relkind, 'r') "
        "from (select coalesce(pg_catalog.bool_or(inhrelid = $2), false), "
        "  coalesce(pg_catalog.bool_or(inhrelid = $2 and inhdetachpending), false), "
        "  coalesce(pg_catalog.bool_or(inhrelid <> $2 and inhdetachpending), false) "
        "  from pg_catalog.pg_inherits where inhparent = $1) i (attached, pending, other_pending) "
        "left join (pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace) "
        "on k.oid = $2",
        {OIDOID, OIDOID, NAMEOID, NAMEOID});
    pg::Spi spi;
    const pg::Rows rows =
        spi.read_latest(query, {parent, partition, pg::Param::of_datum(NameGetDatum(&schema)),
                                pg::Param::of_datum(NameGetDatum(&name))});
    return {rows.boolean(0, 1), rows.boolean(0, 2), rows.boolean(0, 3), rows.boolean(0, 4),
            rows.boolean(0, 5), rows.boolean(0, 6), rows.boolean(0, 7), DatumGetChar(rows.datum(0, 8))};
}

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

const char *who_is_in_the_way(Oid parent, Oid partition)
{
    static pg::Statement query(
        "select who from ("
        "select case when l.pid is null "
        "  then coalesce((select pg_catalog.format('prepared transaction \"%s\"', x.gid) "
        "    from pg_catalog.pg_prepared_xacts x join pg_catalog.pg_locks t on "
        "    t.locktype = 'transactionid' and t.transactionid = x.transaction and t.pid is null and "
        "    t.virtualtransaction = l.virtualtransaction limit 1), "
        "    'a prepared transaction') "
        "  else pg_catalog.format('process %s, in a transaction since %s', l.pid, "
        "    pg_catalog.to_char(a.xact_start, 'YYYY-MM-DD HH24:MI:SS')) end, 1, a.xact_start "
        "from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid "
        "where l.locktype = 'relation' and l.relation in ($1, $2) and l.granted and "
        "l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()) "
        "and l.pid is distinct from pg_catalog.pg_backend_pid() "
        "union all "
        "select pg_catalog.format('process %s, with a snapshot since %s', pid, "
        "  pg_catalog.to_char(xact_start, 'YYYY-MM-DD HH24:MI:SS')), 2, xact_start "
        "from pg_catalog.pg_stat_activity where datname = pg_catalog.current_database() and "
        "backend_xmin is not null and pid <> pg_catalog.pg_backend_pid()) w (who, near, since) "
        "order by near, since limit 1",
        {OIDOID, OIDOID});
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {parent, partition});
    return rows.empty() || rows.is_null(0, 1) ? nullptr : copy_text(rows, 0, 1, memory);
}

bool locks_others(Oid relid)
{
    static pg::Statement query("select exists (select from pg_catalog.pg_constraint where contype = 'f' and "
                               "(conrelid = $1 or confrelid = $1)) or exists (select from "
                               "pg_catalog.pg_partitioned_table where partrelid = $1 and partdefid <> 0)",
                               {OIDOID});
    pg::Spi spi;
    return spi.run(query, {relid}).boolean(0, 1);
}

} // namespace tasker::partition
