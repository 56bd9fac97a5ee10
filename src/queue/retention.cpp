// Retention of records: whole partitions, when nothing in them is unfinished and every flow's time has
// passed.
//
// The lanes tell in O(lanes of the partition) whether anything is unfinished. They know what is committed;
// what a transaction open at that moment adds is seen by the second check, which the partition plane makes
// under an exclusive lock before it drops the table.
#include "queue/duties.hpp"

#include "partition/directory.hpp"
#include "partition/owned_set.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/flow.hpp"
#include "queue/rebuild.hpp"
#include "queue/record_table.hpp"

namespace tasker::queue {
namespace {

using core::RecordStatus;

// The records of one flow in a partition.
struct Tenant
{
    int32_t flow_id;
    int64_t unfinished;
    int64_t total;
};

std::span<Tenant> tenants_by_lanes(Oid partition)
{
    SharedState *state = shared_state();
    size_t count = 0;
    size_t capacity = 64;
    auto *tenants = static_cast<Tenant *>(palloc(sizeof(Tenant) * capacity));
    LWLockAcquire(&state->directory, LW_SHARED);
    HASH_SEQ_STATUS scan;
    begin_lane_walk(&scan);
    while (auto *lane = static_cast<Lane *>(hash_seq_search(&scan))) {
        if (lane->key.database != MyDatabaseId || lane->key.partition != partition)
            continue;
        Tenant tenant{lane->key.flow_id,
                      lane->count(RecordStatus::pending) + lane->count(RecordStatus::processing), 0};
        for (int64_t c : lane->counts)
            tenant.total += c;
        if (count == capacity)
            tenants = static_cast<Tenant *>(repalloc_huge(tenants, sizeof(Tenant) * (capacity *= 2)));
        tenants[count++] = tenant;
    }
    LWLockRelease(&state->directory);
    return {tenants, count};
}

// The same from the table: without shared memory, and for the last check before a drop.
std::span<Tenant> tenants_by_counting(Oid partition)
{
    MemoryContext memory = CurrentMemoryContext;
    char *sql =
        psprintf("select flow_id, count(*) filter (where status in ('p', 'r')), count(*) from %s group by 1",
                 quote_qualified_identifier(get_namespace_name(get_rel_namespace(partition)),
                                            get_rel_name(partition)));
    pg::Spi spi;
    pg::Rows rows = spi.run_text(sql);
    auto *tenants = static_cast<Tenant *>(pg::pg_call(
        [&] { return MemoryContextAllocHuge(memory, sizeof(Tenant) * std::max<uint64>(rows.count(), 1)); }));
    for (uint64 i = 0; i < rows.count(); i++)
        tenants[i] = {rows.i32(i, 1), rows.i64(i, 2), rows.i64(i, 3)};
    return {tenants, static_cast<size_t>(rows.count())};
}

const char *judge(std::span<const Tenant> tenants, int64_t upper)
{
    const int64_t now = pg::unix_us_of_timestamp(GetCurrentTimestamp());
    const int64_t age = now - core::unix_us_of(upper);
    for (const Tenant &tenant : tenants) {
        if (tenant.total <= 0)
            continue;
        std::optional<Flow> flow = flow_with_id(tenant.flow_id);
        if (!flow)
            continue; // its flow was dropped: nobody can reach these records
        if (tenant.unfinished > 0)
            return psprintf(INT64_FORMAT " unfinished records of flow \"%s\"", tenant.unfinished, flow->name);
        if (age < flow->retention_us)
            return psprintf("retention of flow \"%s\" has not passed", flow->name);
    }
    return nullptr;
}

// The hook of the partition plane. It is asked twice; while the partition is held ACCESS EXCLUSIVE nobody can
// add to it any more, and the table itself is asked.
const char *refuse_retirement(Oid partition, int64_t lower, int64_t upper)
{
    (void)lower;
    DatabaseState *state = built_state(queue_parent());
    const bool last_word = holds_exclusively(partition);
    // The last word has the table: a partition that is detached already may have lost its lanes to a restart.
    const bool by_lanes = state != nullptr && !last_word;
    const char *reason =
        judge(by_lanes ? tenants_by_lanes(partition) : tenants_by_counting(partition), upper);
    // It is attached again now; whoever has counted in between has not seen it.
    if (last_word && reason != nullptr && state != nullptr)
        state->prepared_seen = true;
    return reason;
}

void retired(Oid partition)
{
    remove_lanes_of_partition(partition);
}

constexpr const char *kKeys[] = {
    "alter table %s add primary key (id)",
    "create index on %s (flow_id, priority, position)",
};

constexpr partition::OwnedSet kQueueSet = {
    .parent = "queue_record",
    .control = "id",
    .kind = partition::ControlKind::record_id,
    .default_interval = "1 day",
    .default_premake = 4,
    // Room in each page for the versions of a record's life, so that its updates are HOT even while an old
    // snapshot keeps all of them: three, and one more for leases that are extended. At 30 it was too little
    // for rows of small payloads, which grow by a third when they are claimed.
    .storage = "fillfactor = 25",
    .keys = kKeys,
    .key_count = 2,
    .refuse_retirement = refuse_retirement,
    .retired = retired,
};

} // namespace

void declare_queue_set()
{
    partition::register_owned_set(kQueueSet);
}

TASKER_FUNCTION(partition_retention)
{
    const Oid relid = args.oid(0, "partition");
    for (const partition::DirectoryEntry &entry : partition::directory(queue_parent())) {
        if (entry.relid != relid)
            continue;
        const int64_t upper = entry.upper;
        const int64_t now = pg::unix_us_of_timestamp(GetCurrentTimestamp());
        if (core::unix_us_of(upper) > now)
            return args.result(std::string_view("it is current or ahead"));
        const char *reason = refuse_retirement(relid, entry.lower, upper);
        return reason != nullptr ? args.result(std::string_view(reason)) : args.null();
    }
    const char *name = get_rel_name(relid);
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "relation \"%s\" is not a partition of tasker.queue_record",
                    name != nullptr ? name : psprintf("%u", relid));
}

} // namespace tasker::queue
