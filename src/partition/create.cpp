#include "partition/create.hpp"

#include "partition/bounds.hpp"
#include "partition/locks.hpp"
#include "partition/retirement.hpp"
#include "partition/shape.hpp"
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
    Oid default_partition;
    const char *tablespace; // null: the database's
};

// Locks the parent to the end of the transaction, so that nobody else attaches or detaches from here on.
// Plain C inside: may ereport.
ParentFacts lock_parent(Oid parent)
{
    Relation relation = table_open(parent, ShareUpdateExclusiveLock);
    ParentFacts facts{read_bounds(relation, true), InvalidOid, nullptr};
    facts.default_partition = get_default_oid_from_partdesc(RelationGetPartitionDesc(relation, true));
    if (OidIsValid(relation->rd_rel->reltablespace))
        facts.tablespace = get_tablespace_name(relation->rd_rel->reltablespace);
    table_close(relation, NoLock);
    return facts;
}

std::span<const DirectoryEntry> entries_of(const BoundList &bounds)
{
    return {bounds.entries, static_cast<size_t>(bounds.count)};
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
const char *owned_table_text(const char *parent, const char *partition, const char *tablespace,
                             const OwnedSet &owned)
{
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfo(&text,
                     "create table %s (like %s including all excluding identity excluding indexes "
                     "excluding comments excluding statistics) using heap",
                     partition, parent);
    if (owned.storage != nullptr && owned.storage[0] != '\0')
        appendStringInfo(&text, " with (%s)", owned.storage);
    if (tablespace != nullptr)
        appendStringInfo(&text, " tablespace %s", quote_identifier(tablespace));
    return text.data;
}

void make_owned(const SetConfig &config, const char *tablespace, const OwnedSet &owned, const char *name,
                core::NumberRange range)
{
    const char *parent = quoted_parent(config);
    const char *partition =
        pg::pg_call([&] { return quote_qualified_identifier(get_namespace_name(config.schema), name); });
    pg::AsOwner owner(config.owner);
    pg::Spi spi(pg::Spi::Identity::caller);

    spi.run_text(pg::pg_call([&] { return owned_table_text(parent, partition, tablespace, owned); }));
    for (int i = 0; i < owned.key_count; i++)
        spi.run_text(pg::pg_call([&] { return expand(owned.keys[i], partition); }));
    spi.run_text(attach_text(config, partition, range));
}

// ATTACH would find such rows too, but lock everybody out of the DEFAULT partition while it reads all of it.
void check_default_partition(const SetConfig &config, Oid default_partition, core::NumberRange range)
{
    if (!OidIsValid(default_partition))
        return;
    const char *table = quoted_partition(default_partition);
    const char *lower = bound_literal(config.control, range.lower);
    const char *upper = bound_literal(config.control, range.upper);
    const char *text = pg::pg_call([&] {
        const char *column = quote_identifier(NameStr(config.control_name));
        StringInfoData query;
        initStringInfo(&query);
        appendStringInfo(&query, "select exists (select from only %s where true", table);
        if (range.lower != core::kInt64Min)
            appendStringInfo(&query, " and %s >= %s", column, lower);
        if (range.upper != core::kInt64Max)
            appendStringInfo(&query, " and %s < %s", column, upper);
        appendStringInfoChar(&query, ')');
        return query.data;
    });
    bool found = false;
    {
        pg::AsOwner owner(config.owner);
        pg::Spi spi(pg::Spi::Identity::caller);
        found = spi.run_text(text).boolean(0, 1);
    }
    if (!found)
        return;
    const char *from = key_text(config.control, range.lower);
    const char *to = key_text(config.control, range.upper);
    const char *parent = quoted_parent(config);
    throw pg::Error(ERRCODE_CHECK_VIOLATION, "the DEFAULT partition of \"%s\" holds rows from %s to %s",
                    NameStr(config.parent_name), from, to)
        .detail("They stand in the way of the partition that is to be made for that range.")
        .hint("tasker.check_default() counts such rows; CALL tasker.partition_data_proc(%s, %s) moves them.",
              pg::pg_call([&] { return quote_literal_cstr(parent); }),
              pg::pg_call([&] { return quote_literal_cstr(table); }));
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
    const std::span<const DirectoryEntry> bounds = entries_of(facts.bounds);
    for (const DirectoryEntry &entry : bounds) {
        if (entry.lower > key || key >= entry.upper)
            continue;
        if (pg::pg_call([&] { return PartitionHasPendingDetach(entry.relid); }))
            refuse_pending(config, entry.relid);
        return entry.relid; // somebody has attached it while we waited for the parent
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
    const char *name = free_partition_name(config, range);
    if (const OwnedSet *owned = find_owned_set(parent); owned != nullptr) {
        make_owned(config, facts.tablespace, *owned, name, range);
        return find_partition(parent, key);
    }
    check_default_partition(config, facts.default_partition, range);
    const Oid partition = make_partition_table(config, name, false);
    attach_partition_table(config, partition, range);
    return partition;
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

Oid make_partition_table(const SetConfig &config, const char *name, bool with_indexes)
{
    const ParentFacts facts = pg::pg_call([&] { return lock_parent(config.parent); });
    pg::AsOwner owner(config.owner);
    pg::Spi spi(pg::Spi::Identity::caller);
    Oid model = InvalidOid;
    spi.run_text(pg::pg_call([&] {
        forget_session_defaults();
        model = find_model(entries_of(facts.bounds));
        return table_text(config.parent, quote_qualified_identifier(get_namespace_name(config.schema), name),
                          with_indexes ? "excluding identity" : "excluding identity excluding indexes", model,
                          nullptr);
    }));
    const Oid partition = pg::pg_call([&] { return get_relname_relid(name, config.schema); });
    shape_partition(spi, config.parent, model, partition);
    return partition;
}

void attach_partition_table(const SetConfig &config, Oid partition, core::NumberRange range)
{
    Oid model = InvalidOid;
    {
        const ParentFacts facts = pg::pg_call([&] { return lock_parent(config.parent); });
        pg::AsOwner owner(config.owner);
        pg::Spi spi(pg::Spi::Identity::caller);
        pg::pg_call([&] {
            forget_session_defaults();
            model = find_model(entries_of(facts.bounds));
        });
        spi.run_text(attach_text(config, quoted_partition(partition), range));
        shape_attached(spi, config.parent, model, partition);
    }
    join_publications(config.parent, model, partition);
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
