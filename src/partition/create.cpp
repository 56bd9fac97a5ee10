#include "partition/create.hpp"

#include "partition/bounds.hpp"
#include "partition/locks.hpp"
#include "partition/retirement.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "commands/tablespace.h"
}

namespace tasker::partition {
namespace {

// The role whose table the parent is, and where its partitions are stored.
struct ParentFacts
{
    Oid owner;
    const char *quoted_name;
    const char *tablespace; // null: the database's
};

ParentFacts facts_of(Relation parent)
{
    ParentFacts facts{};
    facts.owner = parent->rd_rel->relowner;
    facts.quoted_name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(parent)),
                                                   RelationGetRelationName(parent));
    if (OidIsValid(parent->rd_rel->reltablespace))
        facts.tablespace = get_tablespace_name(parent->rd_rel->reltablespace);
    return facts;
}

// Writes the row that makes a set known to premake and retirement. Its creation lock is held.
void open_set(Oid parent, const OwnedSet &set)
{
    static pg::Statement insert("insert into tasker.part_config (parent, control, control_kind, "
                                "partition_interval, premake, owner_set, opened_in) "
                                "values ($1, $2, 'record_id', $3, $4, true, $5)",
                                {OIDOID, TEXTOID, TEXTOID, INT4OID, TEXTOID});
    pg::Spi spi;
    spi.run(insert,
            {parent, set.control, set.default_interval, static_cast<int32_t>(set.default_premake), here()});
}

SetConfig config_of(Oid parent, const OwnedSet *owned)
{
    std::optional<SetConfig> config = read_set(parent);
    if (!config && owned != nullptr) {
        open_set(parent, *owned);
        config = read_set(parent);
    }
    if (!config)
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "table %u is not a partition set", parent)
            .hint("tasker.part_config lists the partition sets.");
    return *config;
}

// The DDL of a key with each %s replaced by the partition's name.
const char *expand(const char *ddl, const char *partition)
{
    StringInfoData text;
    initStringInfo(&text);
    for (const char *at = ddl; *at != '\0'; at++) {
        if (at[0] == '%' && at[1] == 's') {
            appendStringInfoString(&text, partition);
            at++;
        } else {
            appendStringInfoChar(&text, *at);
        }
    }
    return text.data;
}

// Like the parent in all that its rows need. Keys come from the owner's template; identity is the parent's.
const char *create_table_text(const char *partition, const ParentFacts &facts, const OwnedSet *owned)
{
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfo(&text,
                     "create table %s (like %s including all excluding identity excluding indexes "
                     "excluding comments excluding statistics)",
                     partition, facts.quoted_name);
    if (owned != nullptr)
        appendStringInfoString(&text, " using heap");
    if (owned != nullptr && owned->storage != nullptr && owned->storage[0] != '\0')
        appendStringInfo(&text, " with (%s)", owned->storage);
    if (facts.tablespace != nullptr)
        appendStringInfo(&text, " tablespace %s", quote_identifier(facts.tablespace));
    return text.data;
}

void run_ddl(const SetConfig &config, const ParentFacts &facts, const OwnedSet *owned, const char *name,
             core::NumberRange range)
{
    const char *partition =
        pg::pg_call([&] { return quote_qualified_identifier(get_namespace_name(config.schema), name); });
    pg::AsOwner owner(facts.owner);
    pg::Spi spi(pg::Spi::Identity::caller);

    spi.run_text(pg::pg_call([&] { return create_table_text(partition, facts, owned); }));
    for (int i = 0; owned != nullptr && i < owned->key_count; i++)
        spi.run_text(pg::pg_call([&] { return expand(owned->keys[i], partition); }));
    spi.run_text(pg::pg_call([&] {
        return psprintf("alter table %s attach partition %s for values from (" INT64_FORMAT
                        ") to (" INT64_FORMAT ")",
                        facts.quoted_name, partition, range.lower, range.upper);
    }));
}

// A partition that takes no rows any more but is still there; its name for the error.
[[noreturn]] void refuse_pending(const SetConfig &config, Oid partition)
{
    const char *name = pg::pg_call([&] { return get_rel_name(partition); });
    throw pg::Error(ERRCODE_OBJECT_IN_USE, "partition \"%s\" of \"%s\" is being retired",
                    name != nullptr ? name : "?", NameStr(config.parent_name))
        .detail("It is detached as soon as the transactions that may still read it have ended.")
        .hint("Try again later. The view tasker.partition_status shows pending detaches.");
}

Oid create_locked(Oid parent, int64_t key)
{
    const OwnedSet *owned = find_owned_set(parent);
    const SetConfig config = config_of(parent, owned);
    BoundList bounds{};
    ParentFacts facts{};
    pg::pg_call([&] {
        // Nobody else attaches or detaches from here on.
        Relation relation = table_open(parent, ShareUpdateExclusiveLock);
        facts = facts_of(relation);
        bounds = read_bounds(relation, true);
        table_close(relation, NoLock);
    });
    for (int i = 0; i < bounds.count; i++) {
        if (bounds.entries[i].lower <= key && key < bounds.entries[i].upper)
            refuse_pending(config, bounds.entries[i].relid);
    }
    const std::span<const DirectoryEntry> detached = detached_tables(parent);
    for (const DirectoryEntry &table : detached) {
        if (table.lower <= key && key < table.upper) {
            attach_again(config, table);
            return table.relid;
        }
    }
    core::NumberRange range =
        fit_around(aligned_range(config, key), key, {bounds.entries, static_cast<size_t>(bounds.count)});
    range = fit_around(range, key, detached);
    run_ddl(config, facts, owned, free_partition_name(config, range), range);
    return find_partition(parent, key);
}

} // namespace

Oid create_partition_for(Oid parent, int64_t key)
{
    if (key < 0 || key == PG_INT64_MAX)
        throw pg::Error(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "key " INT64_FORMAT " is no record id", key)
            .detail("Record ids are milliseconds since 1970 and a sequence number, from 0 on.");
    pg::pg_call([&] { lock_for_transaction(parent, LockKind::creation, ExclusiveLock); });
    pg::pg_call([] { AcceptInvalidationMessages(); });
    // Whoever held the lock may have made it.
    if (Oid found = find_partition(parent, key); OidIsValid(found))
        return found;
    return create_locked(parent, key);
}

} // namespace tasker::partition
