// What can be seen of partition sets.
#include "partition/bounds.hpp"
#include "partition/maintenance.hpp"
#include "partition/retirement.hpp"
#include "partition/sets.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"

using namespace tasker;
using namespace tasker::partition;

namespace {

Datum text_datum(std::string_view text)
{
    return PointerGetDatum(
        pg::pg_call([&] { return cstring_to_text_with_len(text.data(), static_cast<int>(text.size())); }));
}

// All tables that occupy a range of the set, ordered by bounds.
struct Member
{
    DirectoryEntry entry;
    const char *state;
};

void add_members(Oid parent, pg::Vector<Member> &members)
{
    (void)directory(parent); // checks that it is a parent of this kind
    struct Attached
    {
        BoundList all;
        bool *pending;
    };
    const Attached attached = pg::pg_call([&] {
        Relation relation = table_open(parent, AccessShareLock);
        Attached result{read_bounds(relation, true), nullptr};
        result.pending = static_cast<bool *>(palloc0(static_cast<Size>(result.all.count) + 1));
        for (int i = 0; i < result.all.count; i++)
            result.pending[i] = PartitionHasPendingDetach(result.all.entries[i].relid);
        table_close(relation, AccessShareLock);
        return result;
    });
    for (int i = 0; i < attached.all.count; i++)
        members.push_back({attached.all.entries[i], attached.pending[i] ? "detach pending" : "attached"});
    pg::Vector<DirectoryEntry> detached(members.get_allocator());
    add_detached_tables(parent, detached);
    for (const DirectoryEntry &entry : detached)
        members.push_back({entry, "detached"});
    std::sort(members.begin(), members.end(),
              [](const Member &a, const Member &b) { return a.entry.lower < b.entry.lower; });
}

// Estimated rows and size of a table; nothing when it was dropped a moment ago.
struct Extent
{
    int64_t rows;
    int64_t bytes;
};

std::optional<Extent> extent_of(Oid relid)
{
    static pg::Statement query(
        "select case when pg_catalog.pg_stat_get_live_tuples(oid) > 0 "
        "then pg_catalog.pg_stat_get_live_tuples(oid) else greatest(reltuples::bigint, 0) end, "
        "pg_catalog.pg_total_relation_size(oid) from pg_catalog.pg_class where oid = $1",
        {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {relid});
    if (rows.empty() || rows.is_null(0, 2))
        return std::nullopt;
    return Extent{rows.i64(0, 1), rows.i64(0, 2)};
}

const char *would_be_name(const SetConfig &config, int64_t key, const pg::Vector<Member> &members)
{
    core::NumberRange range = aligned_range(config, key);
    for (const Member &member : members)
        range = fit_around(range, key, {&member.entry, 1});
    const char *name = free_partition_name(config, range);
    return pg::pg_call([&] { return quote_qualified_identifier(get_namespace_name(config.schema), name); });
}

// One row of tasker.partition_status.
struct Summary
{
    int32_t partitions = 0;
    int32_t ahead = 0;
    int32_t pending = 0;
    int32_t detached = 0;
    bool has_current = false;
    const char *oldest = nullptr;
    const char *newest = nullptr;
};

Summary summarize(Oid parent)
{
    pg::ContextResource memory;
    pg::Vector<Member> members(&memory);
    const SetConfig config = describe_set(parent);
    const int64_t now = current_key(config).value_or(core::kInt64Min);
    Summary summary;

    add_members(parent, members);
    for (const Member &member : members) {
        if (member.state[0] == 'd') {
            ++(strcmp(member.state, "detached") == 0 ? summary.detached : summary.pending);
            continue;
        }
        ++summary.partitions;
        summary.ahead += member.entry.lower > now;
        summary.has_current |= member.entry.lower <= now && now < member.entry.upper;
        if (summary.oldest == nullptr)
            summary.oldest = key_text(config.control, member.entry.lower);
        summary.newest = key_text(config.control, member.entry.upper);
    }
    return summary;
}

} // namespace

// show_partitions(parent regclass)
TASKER_FUNCTION(show_partitions)
{
    const Oid parent = args.oid(0, "parent");
    const SetConfig config = describe_set(parent);
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    pg::Vector<Member> members(&memory);
    const int64_t now = current_key(config).value_or(core::kInt64Min);

    add_members(parent, members);
    for (const Member &member : members) {
        pg::check_for_interrupts();
        const std::optional<Extent> extent = extent_of(member.entry.relid);
        if (!extent)
            continue;
        const bool current = member.entry.lower <= now && now < member.entry.upper;
        const Datum values[] = {ObjectIdGetDatum(member.entry.relid),
                                text_datum(key_text(config.control, member.entry.lower)),
                                text_datum(key_text(config.control, member.entry.upper)),
                                Int64GetDatum(extent->rows),
                                Int64GetDatum(extent->bytes),
                                BoolGetDatum(current),
                                text_datum(member.state)};
        const bool nulls[std::size(values)] = {};
        result.add(values, nulls);
    }
    return 0;
}

// partition_of(parent regclass, value text)
TASKER_FUNCTION(partition_of)
{
    const Oid parent = args.oid(0, "parent");
    const SetConfig config = describe_set(parent);
    const int64_t key = parse_key(config.control, args.text(1, "value"));
    pg::ContextResource memory;
    pg::Vector<Member> members(&memory);

    check_key(config, key);
    add_members(parent, members);
    for (const Member &member : members) {
        if (member.entry.lower <= key && key < member.entry.upper)
            return args.result(std::string_view(quoted_partition(member.entry.relid)));
    }
    return args.result(std::string_view(would_be_name(config, key, members)));
}

// _partition_summary(parent regclass): the part of partition_status that comes from the bounds. Null for a
// set that cannot be read, so that one broken set does not hide the others.
TASKER_FUNCTION(partition_summary)
{
    const Oid parent = args.oid(0, "parent");
    pg::ResultSet result(args.call());
    Summary summary;
    const std::optional<pg::CaughtError> error =
        pg::try_in_subtransaction([&] { summary = summarize(parent); });

    const Datum values[] = {Int32GetDatum(summary.partitions),
                            Int32GetDatum(summary.ahead),
                            Int32GetDatum(summary.pending),
                            Int32GetDatum(summary.detached),
                            BoolGetDatum(summary.has_current),
                            summary.oldest != nullptr ? text_datum(summary.oldest) : 0,
                            summary.newest != nullptr ? text_datum(summary.newest) : 0,
                            error ? text_datum(error->message()) : 0};
    const bool nulls[std::size(values)] = {
        error.has_value(), error.has_value(),         error.has_value(),         error.has_value(),
        error.has_value(), summary.oldest == nullptr, summary.newest == nullptr, !error.has_value()};
    result.add(values, nulls);
    return 0;
}

// _partition_rows_changed(parent regclass): since the parent was last analyzed.
TASKER_FUNCTION(partition_rows_changed)
{
    return args.result(rows_changed_since_analyze(args.oid(0, "parent")));
}
