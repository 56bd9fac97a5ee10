#include "partition/members.hpp"

#include "partition/bounds.hpp"
#include "partition/retirement.hpp"

extern "C" {
#include "optimizer/plancat.h"
}

namespace tasker::partition {
namespace {

struct Attached
{
    BoundList all;
    BoundList taking_rows; // those whose detach is not pending
    Oid remainder;
};

// Plain C inside: may ereport.
Attached read_attached(Oid parent)
{
    Relation relation = table_open(parent, AccessShareLock);
    Attached attached{read_bounds(relation, true), {}, InvalidOid};
    PartitionDesc descriptor = RelationGetPartitionDesc(relation, false);
    attached.taking_rows = descriptor->detached_exist ? read_bounds(relation, false) : attached.all;
    attached.remainder = get_default_oid_from_partdesc(descriptor);
    table_close(relation, AccessShareLock);
    return attached;
}

bool is_among(const BoundList &list, Oid relid)
{
    return std::any_of(list.entries, list.entries + list.count,
                       [&](const DirectoryEntry &entry) { return entry.relid == relid; });
}

struct Extent
{
    bool exists;
    bool partitioned;
    int64_t rows;
    int64_t bytes;
};

// Rows of a table that neither counters nor a vacuum know anything of: as many as fit. Plain C inside: may
// ereport.
int64_t rows_by_size(Oid relid)
{
    Relation relation = table_open(relid, NoLock);
    BlockNumber pages = 0;
    double rows = 0, all_visible = 0;
    const BlockNumber filled =
        RELKIND_HAS_TABLE_AM(relation->rd_rel->relkind) ? RelationGetNumberOfBlocks(relation) : 0;
    if (filled > 0) {
        estimate_rel_size(relation, nullptr, &pages, &rows, &all_visible);
        rows *= static_cast<double>(filled) / Max(pages, 1); // it takes a small table for a larger one
    }
    table_close(relation, NoLock);
    return static_cast<int64_t>(rows);
}

// Rows are those that the counters know of, or that the last vacuum or analyze has found, whatever is more:
// counters are lost in a crash. Plain C inside: may ereport.
Extent extent_of_leaf(Oid relid)
{
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(tuple))
        return {};
    const FormData_pg_class facts = *reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
    ReleaseSysCache(tuple);
    if (facts.relkind == RELKIND_PARTITIONED_TABLE)
        return {true, true, 0, 0};
    const int64_t live = DatumGetInt64(DirectFunctionCall1(pg_stat_get_live_tuples, ObjectIdGetDatum(relid)));
    const auto counted = static_cast<int64_t>(facts.reltuples);
    Extent extent{true, false, Max(Max(live, counted), 0), int64_t{facts.relpages} * BLCKSZ};
    if (!ConditionalLockRelationOid(relid, AccessShareLock))
        return extent;
    extent.exists = SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid));
    if (extent.exists)
        extent.bytes = DatumGetInt64(DirectFunctionCall1(pg_total_relation_size, ObjectIdGetDatum(relid)));
    if (extent.exists && live == 0 && counted < 0)
        extent.rows = rows_by_size(relid);
    UnlockRelationOid(relid, AccessShareLock);
    return extent;
}

// Plain C inside: may ereport.
Extent extent_of(Oid relid)
{
    Extent extent = extent_of_leaf(relid);
    ListCell *cell = nullptr;
    if (!extent.partitioned)
        return extent;
    List *tree = find_all_inheritors(relid, NoLock, nullptr);
    foreach (cell, tree) {
        const Extent leaf = extent_of_leaf(lfirst_oid(cell));
        extent.rows += leaf.rows;
        extent.bytes += leaf.bytes;
    }
    list_free(tree);
    return extent;
}

} // namespace

const char *name_of(MemberState state)
{
    switch (state) {
    case MemberState::pending:
        return "detach pending";
    case MemberState::detached:
        return "detached";
    case MemberState::remainder:
        return "default";
    default:
        return "attached";
    }
}

void add_members(Oid parent, pg::Vector<Member> &members)
{
    (void)directory(parent); // checks that it is a parent of this kind
    const Attached attached = pg::pg_call([&] { return read_attached(parent); });
    const bool some_pending = attached.taking_rows.count < attached.all.count;

    members.reserve(static_cast<size_t>(attached.all.count) + 1);
    for (int i = 0; i < attached.all.count; i++) {
        const DirectoryEntry &entry = attached.all.entries[i];
        const bool pending = some_pending && !is_among(attached.taking_rows, entry.relid);
        members.push_back({entry, pending ? MemberState::pending : MemberState::attached, false, 0, 0});
    }
    pg::Vector<DirectoryEntry> detached(members.get_allocator());
    add_detached_tables(parent, detached);
    for (const DirectoryEntry &entry : detached)
        members.push_back({entry, MemberState::detached, false, 0, 0});
    std::stable_sort(members.begin(), members.end(),
                     [](const Member &a, const Member &b) { return a.entry.lower < b.entry.lower; });
    if (OidIsValid(attached.remainder))
        members.push_back(
            {{core::kInt64Min, core::kInt64Max, attached.remainder}, MemberState::remainder, false, 0, 0});
}

void measure_members(pg::Vector<Member> &members)
{
    size_t kept = 0;
    for (const Member &member : members) {
        pg::check_for_interrupts();
        const Extent extent = pg::pg_call([&] { return extent_of(member.entry.relid); });
        if (extent.exists)
            members[kept++] = {member.entry, member.state, extent.partitioned, extent.rows, extent.bytes};
    }
    members.resize(kept);
}

const Member *member_for(const pg::Vector<Member> &members, int64_t key)
{
    const Member *remainder = nullptr;
    for (const Member &member : members) {
        if (member.state == MemberState::attached && covers(member.entry, key))
            return &member;
        if (member.state == MemberState::remainder)
            remainder = &member;
    }
    return remainder;
}

// A record id that is not the first of its millisecond would come back as another one from its time.
const char *bound_text(const Control &control, int64_t key)
{
    const bool open = key == core::kInt64Min || key == core::kInt64Max;
    if (!open && control.kind == ControlKind::record_id &&
        key_of_unix_us(control.kind, unix_us_of_key(control.kind, key)) != key)
        return pg::pg_call([&] { return psprintf(INT64_FORMAT, key); });
    return key_text(control, key);
}

Outlook look_ahead(const SetConfig &config, const pg::Vector<Member> &members, std::optional<int64_t> now)
{
    Outlook outlook{};
    if (!now)
        return outlook;
    const int64_t end_of_type = valid_keys(config.control).upper;
    outlook.current = member_for(members, *now);
    const bool covered = outlook.current != nullptr && outlook.current->state == MemberState::attached;
    int64_t end = covered ? outlook.current->entry.upper : *now;
    for (const Member &member : members) {
        if (member.state != MemberState::attached || member.entry.lower <= *now)
            continue;
        if (member.entry.lower > end)
            ++outlook.gaps;
        else if (outlook.gaps == 0 && covered)
            ++outlook.ahead;
        end = member.entry.upper;
    }
    outlook.complete = outlook.gaps == 0 && covered && end >= end_of_type;
    return outlook;
}

} // namespace tasker::partition
