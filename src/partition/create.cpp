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

// What the parent is like while it is locked.
struct ParentFacts
{
    BoundList bounds;
    const char *tablespace; // null: the database's
};

// Locks the parent to the end of the transaction, so that nobody else attaches or detaches from here on.
ParentFacts lock_parent(Oid parent)
{
    Relation relation = table_open(parent, ShareUpdateExclusiveLock);
    ParentFacts facts{read_bounds(relation, true), nullptr};
    if (OidIsValid(relation->rd_rel->reltablespace))
        facts.tablespace = get_tablespace_name(relation->rd_rel->reltablespace);
    table_close(relation, NoLock);
    return facts;
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
const char *create_table_text(const char *parent, const char *partition, const char *tablespace,
                              const OwnedSet *owned)
{
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfo(&text,
                     "create table %s (like %s including all excluding identity excluding indexes "
                     "excluding comments excluding statistics)",
                     partition, parent);
    if (owned != nullptr)
        appendStringInfoString(&text, " using heap");
    if (owned != nullptr && owned->storage != nullptr && owned->storage[0] != '\0')
        appendStringInfo(&text, " with (%s)", owned->storage);
    if (tablespace != nullptr)
        appendStringInfo(&text, " tablespace %s", quote_identifier(tablespace));
    return text.data;
}

void run_ddl(const SetConfig &config, const char *tablespace, const OwnedSet *owned, const char *name,
             core::NumberRange range)
{
    const char *parent = quoted_parent(config);
    const char *partition =
        pg::pg_call([&] { return quote_qualified_identifier(get_namespace_name(config.schema), name); });
    pg::AsOwner owner(config.owner);
    pg::Spi spi(pg::Spi::Identity::caller);

    spi.run_text(pg::pg_call([&] { return create_table_text(parent, partition, tablespace, owned); }));
    for (int i = 0; owned != nullptr && i < owned->key_count; i++)
        spi.run_text(pg::pg_call([&] { return expand(owned->keys[i], partition); }));
    spi.run_text(attach_text(config, partition, range));
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

// The creation lock is held.
Oid create_locked(Oid parent, int64_t key)
{
    const SetConfig config = open_set(parent);
    const ParentFacts facts = pg::pg_call([&] { return lock_parent(parent); });
    const std::span<const DirectoryEntry> bounds{facts.bounds.entries,
                                                 static_cast<size_t>(facts.bounds.count)};
    for (const DirectoryEntry &entry : bounds) {
        if (entry.lower <= key && key < entry.upper)
            refuse_pending(config, entry.relid);
    }
    pg::ContextResource memory;
    pg::Vector<DirectoryEntry> detached(&memory);
    add_detached_tables(parent, detached);
    for (const DirectoryEntry &table : detached) {
        if (table.lower <= key && key < table.upper) {
            attach_again(config, table);
            return table.relid;
        }
    }
    core::NumberRange range = fit_around(aligned_range(config, key), key, bounds);
    range = fit_around(range, key, {detached.data(), detached.size()});
    run_ddl(config, facts.tablespace, find_owned_set(parent), free_partition_name(config, range), range);
    return find_partition(parent, key);
}

} // namespace

void check_key(const SetConfig &config, int64_t key)
{
    const core::NumberRange valid = valid_keys(config.control);
    if (key >= valid.lower && key < valid.upper)
        return;
    if (config.control.kind == ControlKind::record_id)
        throw pg::Error(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "key " INT64_FORMAT " is no record id", key)
            .detail("Record ids are milliseconds since 1970 and a sequence number, from 0 on.");
    throw pg::Error(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "key %s of \"%s\" is out of range",
                    key_text(config.control, key), NameStr(config.parent_name))
        .detail("No partition can hold it.");
}

Oid create_partition_for(Oid parent, int64_t key)
{
    check_key(describe_set(parent), key);
    pg::pg_call([&] { lock_for_transaction(parent, LockKind::creation, ExclusiveLock); });
    pg::pg_call([] { AcceptInvalidationMessages(); });
    // Whoever held the lock may have made it.
    if (Oid found = find_partition(parent, key); OidIsValid(found))
        return found;
    return create_locked(parent, key);
}

} // namespace tasker::partition
