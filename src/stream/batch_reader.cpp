#include "stream/batch_reader.hpp"

#include "pg/memory.hpp"
#include "stream/index.hpp"
#include "stream/log_reader.hpp"

namespace tasker::stream {
namespace {

// Plain C inside: may ereport.
class EventReader
{
  public:
    EventReader(const BatchPlan &plan, Snapshot snapshot, EventSink &sink)
        : plan_(plan), snapshot_(snapshot), sink_(sink), oldest_(oldest_wanted(plan.queue))
    {
    }

    // False when the sink wants no more.
    bool read(Oid table, core::XidRange range, std::span<const uint64_t> single)
    {
        Relation heap = try_relation_open(table, AccessShareLock);
        if (heap == nullptr)
            ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                    errmsg("queue \"%s\" does not exist", plan_.queue.name),
                    errhint("It was dropped just now, and its batches with it."));
        Relation index = open_index_on(heap, kEvTxid, AccessShareLock);
        TupleTableSlot *slot = table_slot_create(heap, nullptr);
        IndexScanDesc scan = tasker_index_beginscan(heap, index, snapshot_, 2);

        bool more = scan_ids(scan, slot, range);
        for (size_t i = 0; more && i < single.size(); i++)
            more = scan_ids(scan, slot, {single[i], single[i] + 1});
        index_endscan(scan);
        ExecDropSingleTupleTableSlot(slot);
        // The locks stay: rows that were returned may still be fetched from the TOAST table.
        index_close(index, NoLock);
        table_close(heap, NoLock);
        return more;
    }

  private:
    bool scan_ids(IndexScanDesc scan, TupleTableSlot *slot, core::XidRange range)
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
            if (is_of_batch(slot) && !sink_.take(slot))
                return false;
        }
        return true;
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
    EventSink &sink_;
    TimestampTz oldest_;
    uint64_t last_xid_ = 0;
    bool last_is_between_ = false;
};

} // namespace

TimestampTz oldest_wanted(const Queue &queue)
{
    return queue.ttl_us > 0 ? GetCurrentTimestamp() - queue.ttl_us : PG_INT64_MIN;
}

bool read_event_tables(const BatchPlan &plan, EventSink &sink)
{
    pg::ContextResource memory;
    pg::Vector<uint64_t> single(&memory);
    const core::XidRange range = core::plan_batch(plan.previous, plan.current, kNear, single);
    return pg::pg_call([&] {
        Oid list[kTables];
        bool more = true;
        PushActiveSnapshot(GetLatestSnapshot());
        EventReader reader(plan, GetActiveSnapshot(), sink);
        for (Oid table : tables_of(plan, list))
            more = more && reader.read(table, range, {single.data(), single.size()});
        PopActiveSnapshot();
        return more;
    });
}

void read_batch(const BatchPlan &plan, EventSink &sink)
{
    if (!read_event_tables(plan, sink) || !plan.queue.has_log)
        return;
    LogReader logs(plan.queue, oldest_wanted(plan.queue));
    logs.fetch(logs.collect(plan), sink);
}

} // namespace tasker::stream
