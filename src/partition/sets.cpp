#include "partition/sets.hpp"

#include "partition/set_config.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {

void add_sets(pg::Vector<Oid> &sets, Oid only)
{
    static pg::Statement query(
        "select parent::oid from tasker.part_config where $1 in (0, parent) order by parent::oid", {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {only});
    for (uint64 i = 0; i < rows.count(); i++)
        sets.push_back(rows.oid(i, 1));
    if (OidIsValid(only) && rows.empty()) {
        const char *name = pg::pg_call([&] { return get_rel_name(only); });
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "table \"%s\" is not a partition set",
                        name != nullptr ? name : "?")
            .hint("tasker.part_config lists the partition sets. A set of Tasker's own is opened by its first "
                  "use.");
    }
}

// Restored rows say that they were opened in another installation of the extension. A parent that is no
// partitioned table is the trace of one that was dropped; its OID may be another table's by now. What it has
// left to be dropped stays, as after drop_partition_set(). Most rounds find nothing of all this, by one look.
void tidy_sets()
{
    static pg::Statement look(
        "select from tasker.part_config c left join pg_catalog.pg_class k on k.oid = c.parent "
        "left join pg_catalog.pg_partitioned_table p on p.partrelid = c.parent "
        "left join pg_catalog.pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0] "
        "where k.relkind is distinct from 'p' or a.attname <> c.control or c.opened_in <> $1 limit 1",
        {TEXTOID});
    static pg::Statement remove(
        "with gone as (delete from tasker.part_config c where not exists "
        "(select from pg_catalog.pg_class k where k.oid = c.parent and k.relkind = 'p') returning c.parent), "
        "retired as (delete from tasker.part_retirement r using gone where r.parent = gone.parent) "
        "delete from tasker.part_failure f using gone where f.parent = gone.parent",
        {});
    static pg::Statement rename(
        "update tasker.part_config c set control = a.attname from pg_catalog.pg_partitioned_table p "
        "join pg_catalog.pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0] "
        "where p.partrelid = c.parent and a.attname <> c.control",
        {});
    static pg::Statement adopt("update tasker.part_config set opened_in = $1, "
                               "adopted_at = pg_catalog.clock_timestamp() where opened_in <> $1",
                               {TEXTOID});
    pg::Spi spi;
    if (spi.run(look, {here()}).empty())
        return;
    spi.run(remove);
    spi.run(rename);
    spi.run(adopt, {here()});
}

void note_maintenance(Oid parent)
{
    static pg::Statement update(
        "update tasker.part_config set last_maintenance = pg_catalog.clock_timestamp() where parent = $1",
        {OIDOID});
    pg::Spi().run(update, {parent});
}

std::optional<DirectoryEntry> find_entry(Oid parent, int64_t key)
{
    const std::span<const DirectoryEntry> entries = directory(parent);
    auto after = std::upper_bound(entries.begin(), entries.end(), key,
                                  [](int64_t k, const DirectoryEntry &entry) { return k < entry.lower; });
    if (after == entries.begin() || key >= std::prev(after)->upper)
        return std::nullopt;
    return *std::prev(after);
}

} // namespace tasker::partition
