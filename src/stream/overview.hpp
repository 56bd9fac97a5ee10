// Looking at many queues and subscriptions at once, for get_queue_info() and what else shows the state of
// all.
//
// The three tables of ticks and the three of subscriptions are opened once, and each look is one or three
// descents of an index: a thousand queues cost a few milliseconds, however many ticks are kept. Nothing stays
// locked afterwards.
#pragma once

#include "stream/subscription.hpp"
#include "stream/tick.hpp"

namespace tasker::stream {

// Three tables of one kind, open for reading. Members may ereport: to be called inside pg_call.
class SlotScan
{
  public:
    void open(const Oid (&tables)[kTables]);
    void begin(Snapshot snapshot);
    void close();

    // The first row with a bigint from `from` on, the last row of all, or the row with a value; columns that
    // are passed by value.
    bool find_from(int32_t key, int64_t from, SlotRow *row);
    bool find_last(int32_t key, SlotRow *row);
    bool find_equal(int32_t key, int64_t value, SlotRow *row);

  private:
    bool find_in(int slot, ScanKeyData *keys, ScanDirection direction, SlotRow *row);

    Relation heaps_[kTables];
    Relation indexes_[kTables];
    IndexScanDesc scans_[kTables];
    TupleTableSlot *rows_[kTables];
    bool is_empty_[kTables]; // when the snapshot was taken, it had no page
};

// Where a subscription stands.
struct Standing
{
    TimestampTz active;
    std::optional<int64_t> last_tick;
    std::optional<int64_t> batch;
    std::optional<int64_t> next_tick;
};

class Overview
{
  public:
    Overview(); // errors: object_not_in_prerequisite_state before the first queue
    ~Overview();
    Overview(const Overview &) = delete;
    Overview &operator=(const Overview &) = delete;

    std::optional<Tick> last_tick(int32_t queue_id);
    std::optional<Tick> first_tick_from(int32_t queue_id, int64_t tick_id);
    std::optional<Tick> find_tick(int32_t queue_id, std::optional<int64_t> tick_id);
    std::optional<Standing> standing(int32_t sub_key);

  private:
    SlotScan ticks_;
    SlotScan subscriptions_;
    int exceptions_;
};

// The last value that a sequence gave out, 0 before the first, nothing when it has been dropped. Keeps no
// lock.
std::optional<int64_t> peek_sequence(Oid sequence);

} // namespace tasker::stream
