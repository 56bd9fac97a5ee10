// get_batch_events(): the events of a batch, in the order of their ids.
//
// The plan is PgQ's (core/tick_snapshot.hpp): one range of the index on ev_txid and single ids before it.
// What a transaction that was rolled back has left is not visible; what is visible is of the batch when the
// later tick sees its transaction and the earlier one does not.
#include "pg/function.hpp"
#include "stream/batch.hpp"
#include "stream/event.hpp"
#include "stream/row_sorter.hpp"

namespace tasker::stream {
namespace {

constexpr uint64_t kNear = 100; // ids that are rather read through than looked up

// The events of one batch on their way to a tuple store. Plain C inside: may ereport.
class EventReader
{
  public:
    EventReader(const BatchPlan &plan, Snapshot snapshot, RowSorter &rows)
        : plan_(plan), snapshot_(snapshot), rows_(rows)
    {
        if (plan.queue.ttl_us > 0)
            oldest_ = GetCurrentTimestamp() - plan.queue.ttl_us;
    }

    void read(Oid table, core::XidRange range, std::span<const uint64_t> single)
    {
        Relation heap = try_relation_open(table, AccessShareLock);
        if (heap == nullptr)
            ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                    errmsg("queue \"%s\" does not exist", plan_.queue.name),
                    errhint("It was dropped just now, and its batches with it."));
        List *indexes = RelationGetIndexList(heap);
        Relation index = open_txid_index(heap, indexes);
        TupleTableSlot *slot = table_slot_create(heap, nullptr);
        IndexScanDesc scan = tasker_index_beginscan(heap, index, snapshot_, 2);

        scan_ids(scan, slot, range);
        for (const uint64_t xid : single)
            scan_ids(scan, slot, {xid, xid + 1});
        index_endscan(scan);
        ExecDropSingleTupleTableSlot(slot);
        // The locks stay: rows that were returned may still be fetched from the TOAST table.
        index_close(index, NoLock);
        table_close(heap, NoLock);
        list_free(indexes);
    }

  private:
    static Relation open_txid_index(Relation heap, List *indexes)
    {
        ListCell *cell = nullptr;
        foreach (cell, indexes) {
            Relation index = index_open(lfirst_oid(cell), AccessShareLock);
            const Form_pg_index form = index->rd_index;
            if (form->indnatts == 1 && form->indkey.values[0] == kEvTxid && form->indisvalid &&
                index->rd_rel->relam == BTREE_AM_OID &&
                heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr))
                return index;
            index_close(index, AccessShareLock);
        }
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("event table \"%s\" has no index on ev_txid", RelationGetRelationName(heap)));
        pg_unreachable();
    }

    void scan_ids(IndexScanDesc scan, TupleTableSlot *slot, core::XidRange range)
    {
        ScanKeyData keys[2];
        ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE,
                    Int64GetDatum(static_cast<int64_t>(range.from)));
        ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_INT8LT,
                    Int64GetDatum(static_cast<int64_t>(range.to)));
        index_rescan(scan, keys, 2, nullptr, 0);
        while (index_getnext_slot(scan, ForwardScanDirection, slot)) {
            CHECK_FOR_INTERRUPTS();
            slot_getsomeattrs(slot, kEvOwner);
            if (is_of_batch(slot))
                add(slot);
        }
    }

    // ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1 .. ev_extra4: a row without its owner.
    void add(TupleTableSlot *slot)
    {
        Datum values[kEvColumns - 1];
        bool nulls[kEvColumns - 1];
        slot_getsomeattrs(slot, kEvColumns);
        std::copy(slot->tts_values, slot->tts_values + kEvOwner - 1, values);
        std::copy(slot->tts_isnull, slot->tts_isnull + kEvOwner - 1, nulls);
        std::copy(slot->tts_values + kEvOwner, slot->tts_values + kEvColumns, values + kEvOwner - 1);
        std::copy(slot->tts_isnull + kEvOwner, slot->tts_isnull + kEvColumns, nulls + kEvOwner - 1);
        rows_.add(DatumGetInt64(values[0]), values, nulls);
    }

    bool is_of_batch(TupleTableSlot *slot)
    {
        const auto xid = static_cast<uint64_t>(DatumGetInt64(slot->tts_values[kEvTxid - 1]));
        if (xid != last_xid_) { // events of one transaction mostly stand together
            last_xid_ = xid;
            last_is_between_ = core::is_between(plan_.previous, plan_.current, xid);
        }
        if (!last_is_between_ || DatumGetTimestampTz(slot->tts_values[kEvTime - 1]) < oldest_)
            return false;
        return slot->tts_isnull[kEvOwner - 1] ||
               DatumGetInt32(slot->tts_values[kEvOwner - 1]) == plan_.sub_id;
    }

    const BatchPlan &plan_;
    Snapshot snapshot_;
    RowSorter &rows_;
    TimestampTz oldest_ = PG_INT64_MIN;
    uint64_t last_xid_ = 0;
    bool last_is_between_ = false;
};

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// get_batch_events(x_batch_id)
TASKER_FUNCTION(get_batch_events)
{
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    const int64_t batch_id = args.i64(0, "x_batch_id");
    const BatchPlan plan = plan_of(batch_id);
    pg::Vector<uint64_t> single(&memory);
    const core::XidRange range = core::plan_batch(plan.previous, plan.current, kNear, single);
    pg::pg_call([&] {
        Oid list[kTables];
        RowSorter rows(result.descriptor());
        PushActiveSnapshot(GetLatestSnapshot());
        EventReader reader(plan, GetActiveSnapshot(), rows);
        for (Oid table : tables_of(plan, list))
            reader.read(table, range, {single.data(), single.size()});
        PopActiveSnapshot();
        rows.move_to(result);
    });
    return 0;
}
