// Finding single events of a batch.
//
// Event tables have no index on ev_id, so an event is found by reading its batch. But who retries one event
// of a batch often retries more of them, and receive() may hand a batch out in parts. So the first look notes
// where every event of the batch is, by id, and the backend keeps that until it looks at another batch. The
// events of a batch never change or move while it is open; what is found is fetched and checked all the same.
#pragma once

#include "stream/log_reader.hpp"

namespace tasker::stream {

class BatchPlaces
{
  public:
    // `batch` is open. Events that are too old to be handed out are left in: see oldest_wanted().
    explicit BatchPlaces(const Subscription &batch);

    const BatchPlan &plan() const { return plan_; }
    // In the order of their ids; those of one id stand together. The first with an id above `id` is at
    // after(id).
    std::span<const EventPlace> all() const { return all_; }
    size_t after(int64_t id) const;
    // Those with that id: one, but for batches that hold an event and its retries.
    std::span<const EventPlace> with_id(int64_t id) const;

    // Hands over the events at these places, until the sink wants no more.
    void fetch(std::span<const EventPlace> places, EventSink &sink) const;

  private:
    BatchPlan plan_;
    std::span<const EventPlace> all_;
    std::span<const LogRelation> logs_; // where those are that are rows of logs
};

// An event that outlives the slot it was in; in the current memory context. Plain C: may ereport.
NewEvent copy_event(TupleTableSlot *slot, AttrNumber first_column = kEvId);

} // namespace tasker::stream
