// Direct access to one partition of queue_record: the table and index access methods without a statement.
//
// A statement on the partitioned parent locks every partition that its plan names, each time it runs, and
// costs more than the work itself; the hot paths of the queue compute the partition from the id and write it
// here. Everything in this file may ereport and holds nothing with a destructor: call it where no C++ object
// with one is alive, or inside pg_call. Locks are kept to the end of the transaction, relations are closed by
// close_partition or by the resource owner after an error.
#pragma once

#include "core/record_state.hpp"
#include "pg/postgres.hpp"

namespace tasker::queue {

// Columns of queue_record, as attribute numbers. Partitions have them in the same order: the partition plane
// makes them LIKE the parent, and a dump restores them in order.
enum Column : AttrNumber
{
    kId = 1,
    kPosition,
    kLeaseToken,
    kClaimedAt,
    kLeaseExpiresAt,
    kChangedAt,
    kFlowId,
    kRetryCount,
    kPriority,
    kStatus,
    kFlowInstanceId,
    kErrorMessage,
    kResult,
    kPayload,
};
inline constexpr int kColumnCount = kPayload;

// The fixed-width columns of a record, and where its row stands.
struct RecordHead
{
    int64_t id;
    int64_t position;
    int64_t lease_token; // 0 when null: tokens are ids, never 0
    TimestampTz claimed_at;
    TimestampTz lease_expires_at;
    int32_t flow_id;
    int32_t retry_count;
    int16_t priority;
    core::RecordStatus status;
    bool visible;
};

// An open partition. Nearly always it has our two indexes and no other; then rows are indexed without the
// executor. `executor` exists only where users have added indexes of their own.
struct Partition
{
    Oid relid;
    Relation heap;
    Relation id_index;   // unique on (id)
    Relation lane_index; // on (flow_id, priority, position)
    ResultRelInfo *executor;
    EState *estate;
    TupleTableSlot *read_slot;  // what scans return
    TupleTableSlot *write_slot; // what is inserted or updated
};

// Opens a partition, for writing unless the mode is AccessShareLock; null when the relation is gone.
Partition *open_partition(Oid relid, LOCKMODE mode = RowExclusiveLock);
void close_partition(Partition *partition);
// Does this transaction hold the table ACCESS EXCLUSIVE? So does one that has dropped or detached it.
bool holds_exclusively(Oid relid);

// New column values for a row: what is set replaces, everything else stays.
struct Change
{
    Datum values[kColumnCount];
    bool nulls[kColumnCount];
    bool replace[kColumnCount];

    void set(Column column, Datum value)
    {
        values[column - 1] = value;
        nulls[column - 1] = false;
        replace[column - 1] = true;
    }
    void set_null(Column column)
    {
        values[column - 1] = 0;
        nulls[column - 1] = true;
        replace[column - 1] = true;
    }
    void set_status(core::RecordStatus status) { set(kStatus, CharGetDatum(static_cast<char>(status))); }
};

// Inserts a row with its index entries. Columns not set are null.
void insert_record(Partition *partition, const Change &row, CommandId command);
// The same for many rows through multi-insert: one WAL record a page.
void insert_records(Partition *partition, const Change *rows, int count, CommandId command);

// Has another transaction, which has not ended yet, locked or changed the row at `tid`? A look at the page as
// it is now; in the next moment the answer may be another.
bool is_held_by_others(Partition *partition, const ItemPointerData &tid);

// Locks the row at `tid` to the end of the transaction; false when others have it in hand, or it has changed.
bool try_lock_row(Partition *partition, ItemPointerData tid, Snapshot snapshot);

// Reads the head of the row in read_slot.
RecordHead head_of(TupleTableSlot *slot);

// A scan of one lane: the rows that `snapshot` sees, from position `from` up to `to`, in order of position.
// A bound spares reading the rest of the index page.
struct LaneScan
{
    Partition *partition;
    IndexScanDesc scan;
};
LaneScan begin_lane_scan(Partition *partition, Snapshot snapshot, int32_t flow_id, int16_t priority,
                         int64_t from, int64_t to = PG_INT64_MAX);
// Moves to the next row and leaves it in partition->read_slot; false at the end.
bool next_in_lane(LaneScan &scan);
void end_lane_scan(LaneScan &scan);

// A scan by id, to be used again for several ids of one partition.
IndexScanDesc begin_id_scan(Partition *partition, Snapshot snapshot);
// Finds the row of an id and leaves it in partition->read_slot.
bool find_id(Partition *partition, IndexScanDesc scan, int64_t id);

// Updates the row in read_slot (HOT whenever no indexed column changes); TM_Ok, or what stood in the way.
// Waits for a concurrent writer when told to; else a row that is held by others is left alone
// (TM_WouldBlock, or TM_BeingModified when somebody takes it at this very moment). In REPEATABLE READ and
// SERIALIZABLE a row that has changed since the transaction's snapshot is a serialization_failure.
TM_Result update_record(Partition *partition, const Change &change, CommandId command, Snapshot snapshot,
                        bool wait);
// The same for a row that was copied out of a scan.
TM_Result update_copied(Partition *partition, HeapTuple row, const Change &change, CommandId command,
                        Snapshot snapshot, bool wait);

} // namespace tasker::queue
