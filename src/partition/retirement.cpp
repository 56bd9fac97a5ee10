#include "partition/retirement.hpp"

#include "partition/relations.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

// The detached table that a row of the book speaks of; false when it is still a partition or already gone.
bool detached_table(const Datum *values, Oid schema, DirectoryEntry *entry)
{
    Oid relid = get_relname_relid(NameStr(*DatumGetName(values[kRetirementPartition - 1])), schema);
    if (!OidIsValid(relid) || get_rel_relispartition(relid) || get_rel_relkind(relid) != RELKIND_RELATION)
        return false;
    *entry = {DatumGetInt64(values[kRetirementLower - 1]), DatumGetInt64(values[kRetirementUpper - 1]),
              relid};
    return true;
}

BoundList read_detached(Oid parent)
{
    BoundList list{nullptr, 0};
    int room = 0;
    const Oid schema = get_rel_namespace(parent);
    RowScan scan = begin_rows(tasker_relation("part_retirement"), kRetirementParent, parent);
    Datum values[kRetirementLast];
    bool nulls[kRetirementLast];

    while (next_row(&scan, values, nulls)) {
        DirectoryEntry entry;
        if (strcmp(TextDatumGetCString(values[kRetirementState - 1]), "leaving") != 0 ||
            !detached_table(values, schema, &entry))
            continue;
        if (list.count == room) {
            room = Max(8, room * 2);
            const Size bytes = sizeof(DirectoryEntry) * static_cast<Size>(room);
            list.entries = static_cast<DirectoryEntry *>(
                list.entries != nullptr ? repalloc(list.entries, bytes) : palloc(bytes));
        }
        list.entries[list.count++] = entry;
    }
    end_rows(&scan);
    return list;
}

} // namespace

std::span<const DirectoryEntry> detached_tables(Oid parent)
{
    const BoundList list = pg::pg_call([&] { return read_detached(parent); });
    return {list.entries, static_cast<size_t>(list.count)};
}

void attach_again(const SetConfig &config, const DirectoryEntry &table)
{
    static pg::Statement leftovers(
        "select conname::text from pg_catalog.pg_constraint where conrelid = $1 and contype = 'c' and "
        "coninhcount = 0 and pg_catalog.pg_get_expr(conbin, conrelid) = "
        "pg_catalog.pg_get_partition_constraintdef($1)",
        {OIDOID});
    struct Names
    {
        const char *parent;
        const char *partition;
        Oid owner;
    };
    const Names names = pg::pg_call([&] {
        const char *schema = get_namespace_name(config.schema);
        return Names{quote_qualified_identifier(schema, NameStr(config.parent_name)),
                     quote_qualified_identifier(schema, get_rel_name(table.relid)), owner_of(config.parent)};
    });
    pg::AsOwner owner(names.owner);
    pg::Spi spi(pg::Spi::Identity::caller);

    spi.run_text(pg::pg_call([&] {
        return psprintf("alter table %s attach partition %s for values from (" INT64_FORMAT
                        ") to (" INT64_FORMAT ")",
                        names.parent, names.partition, table.lower, table.upper);
    }));
    const pg::Rows found = spi.run(leftovers, {table.relid});
    for (uint64 i = 0; i < found.count(); i++) {
        const std::string_view name = found.text(i, 1);
        spi.run_text(pg::pg_call([&] {
            const char *constraint = pnstrdup(name.data(), name.size());
            return psprintf("alter table %s drop constraint %s", names.partition,
                            quote_identifier(constraint));
        }));
    }
}

} // namespace tasker::partition
