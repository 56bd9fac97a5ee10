#include "queue/seal.hpp"

#include "partition/directory.hpp"
#include "pg/spi.hpp"
#include "queue/rebuild.hpp"

namespace tasker::queue {
namespace {

using core::RecordStatus;

// A partition is left alone for a while after its end: clocks differ, and retries are common then.
constexpr int64_t kRestUs = 10 * 60 * USECS_PER_SEC;

struct LaneCounts
{
    int32_t flow_id;
    int32_t priority;
    int64_t counts[core::kStatusCount];

    int64_t count(RecordStatus s) const { return counts[core::status_index(s)]; }
};

// The lanes of a partition, copied; nothing when one of them has something live.
std::optional<std::span<LaneCounts>> closed_lanes(Oid partition)
{
    SharedState *state = shared_state();
    size_t count = 0;
    size_t capacity = 64;
    bool closed = true;
    auto *lanes = static_cast<LaneCounts *>(palloc(sizeof(LaneCounts) * capacity));
    LWLockAcquire(&state->directory, LW_SHARED);
    HASH_SEQ_STATUS scan;
    begin_lane_walk(&scan);
    while (auto *lane = static_cast<Lane *>(hash_seq_search(&scan))) {
        if (lane->key.database != MyDatabaseId || lane->key.partition != partition)
            continue;
        LaneCounts copy{lane->key.flow_id, lane->key.priority, {}};
        LWLockAcquire(&lane->flow->lock, LW_SHARED);
        memcpy(copy.counts, lane->counts, sizeof copy.counts);
        LWLockRelease(&lane->flow->lock);
        closed =
            closed && copy.count(RecordStatus::pending) == 0 && copy.count(RecordStatus::processing) == 0;
        if (count == capacity)
            lanes = static_cast<LaneCounts *>(repalloc_huge(lanes, sizeof(LaneCounts) * (capacity *= 2)));
        lanes[count++] = copy;
    }
    LWLockRelease(&state->directory);
    if (!closed)
        return std::nullopt;
    return std::span<LaneCounts>{lanes, count};
}

bool is_sealed(Oid partition)
{
    static pg::Statement look("select exists (select from tasker.sealed_partition where partition = $1)",
                              {OIDOID});
    pg::Spi spi;
    return spi.read_latest(look, {partition}).boolean(0, 1);
}

// False when somebody else has sealed it at the same moment.
bool write_seal(Oid partition, std::span<const LaneCounts> lanes)
{
    static pg::Statement mark("insert into tasker.sealed_partition "
                              "(partition, flow_id, priority, completed, failed, cancelled) "
                              "values ($1, 0, $2, 0, 0, 0) on conflict do nothing returning 1",
                              {OIDOID, INT4OID});
    static pg::Statement write("insert into tasker.sealed_partition "
                               "(partition, flow_id, priority, completed, failed, cancelled) "
                               "values ($1, $2, $3, $4, $5, $6)",
                               {OIDOID, INT4OID, INT4OID, INT8OID, INT8OID, INT8OID});
    pg::Spi spi;
    if (spi.run(mark, {partition, kSealMark}).empty())
        return false;
    for (const LaneCounts &lane : lanes)
        spi.run(write, {partition, lane.flow_id, lane.priority, lane.count(RecordStatus::completed),
                        lane.count(RecordStatus::failed), lane.count(RecordStatus::cancelled)});
    return true;
}

// Seals one partition; false when it is in use or has something live.
bool try_seal(const DatabaseState *database, Oid partition)
{
    if (is_sealed(partition) || !closed_lanes(partition))
        return false;
    if (!ConditionalLockRelationOid(partition, ShareLock))
        return false;
    // Nobody changes it any more; but what a prepared transaction did before has not come to the lanes.
    auto lanes = closed_lanes(partition);
    if (!lanes || database->prepared_seen)
        return false;
    return write_seal(partition, *lanes);
}

} // namespace

int64_t seal_partitions()
{
    static pg::Statement forget("delete from tasker.sealed_partition s where not exists "
                                "(select from pg_catalog.pg_class c where c.oid = s.partition)",
                                {});
    const Oid parent = queue_parent();
    const DatabaseState *database = built_state(parent);
    if (database == nullptr || database->prepared_seen)
        return 0;
    {
        pg::Spi spi;
        spi.run(forget);
    }
    const int64_t before = pg::unix_us_of_timestamp(GetCurrentTimestamp()) - kRestUs;
    std::span<const partition::DirectoryEntry> entries = partition::directory(parent);
    auto *closed = static_cast<Oid *>(palloc(sizeof(Oid) * std::max<size_t>(entries.size(), 1)));
    size_t count = 0;
    for (const partition::DirectoryEntry &entry : entries) {
        if (core::unix_us_of(entry.upper) < before)
            closed[count++] = entry.relid;
    }
    int64_t sealed = 0;
    for (size_t i = 0; i < count; i++)
        sealed += try_seal(database, closed[i]) ? 1 : 0;
    return sealed;
}

void unseal(Oid partition)
{
    static pg::Statement remove("delete from tasker.sealed_partition where partition = $1", {OIDOID});
    static Oid last = InvalidOid;
    static LocalTransactionId last_transaction = InvalidLocalTransactionId;
    static SubTransactionId last_subtransaction = InvalidSubTransactionId;

    if (partition == last && last_transaction == tasker_local_transaction_id() &&
        last_subtransaction == GetCurrentSubTransactionId())
        return;
    {
        // The seal may be younger than the transaction's snapshot.
        pg::Spi spi;
        spi.run_latest(remove, {partition});
    }
    last = partition;
    last_transaction = tasker_local_transaction_id();
    last_subtransaction = GetCurrentSubTransactionId();
}

} // namespace tasker::queue
