// Reading what a batch holds.
//
// The plan is PgQ's (core/tick_snapshot.hpp): one range of the index on ev_txid and single ids before it.
// What a transaction that was rolled back has left is not visible; what is visible is of the batch when the
// later tick sees its transaction and the earlier one does not.
#pragma once

#include "stream/batch.hpp"
#include "stream/event.hpp"

namespace tasker::stream {

// Takes events one by one, each in a slot of its event table. Plain C: may ereport.
class EventSink
{
  public:
    // False: no more, please.
    virtual bool take(TupleTableSlot *slot) = 0;

  protected:
    ~EventSink() = default;
};

// Hands over the events of a batch, in no particular order.
void read_batch(const BatchPlan &plan, EventSink &sink);

// The same without those that are rows of logs; false when the sink wants no more.
bool read_event_tables(const BatchPlan &plan, EventSink &sink);

// Where an event is.
struct EventPlace
{
    int64_t ev_id;
    ItemPointerData tid;
    uint16 table; // of Queue::tables; from kTables on a table of a log, see log_reader.hpp
};

inline constexpr uint64_t kNear = 100; // transaction ids that are rather read through than looked up

// Events of the queue before that time are left out of batches.
TimestampTz oldest_wanted(const Queue &queue);

} // namespace tasker::stream
