// The ticker's work: which queues get a tick now (wake.hpp has the idea, core/tick_schedule.hpp the rhythm).
//
// Ticks of a round share a transaction, which commits asynchronously. That loses nothing: what a consumer
// commits after it has used a tick comes later in the WAL, so wherever that survives, the tick does. A tick
// that is lost in a crash is made again by the look at the start, with the events that it covered; what was
// committed synchronously before, the events, is there.
//
// A tick costs about 0.1 ms of a processor and a transaction id. At the shortest interval a busy queue could
// have a thousand a second: a tenth of a core, and a thousand batches of a few events each for whoever reads
// it later. So ticks that nobody waits for grow rarer; whoever finds no batch has the next one at once. A
// queue that takes 20,000 events a second and is not read has 40 ticks a second (ticker_max_count).
//
// A queue that fails must not stop the others. There are no subtransactions, which would cost a transaction
// id each: the round is rolled back, the queue rests for a while, and the others come in the next round.
#pragma once

#include "core/tick_schedule.hpp"
#include "core/tick_snapshot.hpp"
#include "pg/memory.hpp"
#include "stream/queue.hpp"
#include "stream/wake_area.hpp"

namespace tasker::stream {

// A queue whose tick has failed.
struct TickFailure
{
    int32_t queue_id; // 0: not one queue, but the look at all of them
    int in_a_row;
};

class Follower
{
  public:
    // Becomes the ticker of this database. Null when shared memory has no room for the database.
    explicit Follower(DatabaseWake &database);

    // Takes over what commits have marked since.
    void collect();

    // When work() has something to do: now, at a time, or PG_INT64_MAX.
    int64_t due_us() const;

    // Does the next piece of work, in a transaction that the caller commits, and calls done(); or rolls back,
    // and calls failed() when there was an error, put_off() when there was none.
    void work();
    void done();
    TickFailure failed();
    void put_off(int64_t until_us);

    // Queues that ticked in the transaction that done() was told of, after failures.
    int64_t ticks() const { return ticks_; }
    int recovered() const { return recovered_; }

    // The settings were read anew.
    void settings_changed();

  private:
    struct State
    {
        QueueWake *shared; // null: no room
        core::TickRhythm rhythm;
        int64_t dirty_since_us;
        int64_t not_before_us;
        int64_t max_count;
        int failures;
        bool known;   // its settings
        bool pending; // it is to be ticked
        bool parked;  // its ticks are external or paused
        bool wanted;  // as it was when it was taken for this round
    };

    State &state_of(int32_t queue_id);
    void make_pending(int32_t queue_id, State &state);
    void drop_from_pending(int32_t queue_id);
    int64_t due_us(const State &state, int64_t now) const;

    void round();
    void tick(int32_t queue_id);
    bool take_settings(int32_t queue_id, State &state, const Queue &queue);
    bool is_unread(const Queue &queue, State &state);
    void take_back();

    bool prepared_pending() const;
    int64_t prepared_due_us() const;
    void look_at_prepared();
    void settle_prepared();

    int64_t look_due_us() const;
    void look();
    void look_at_queue(int32_t queue_id, const core::TickSnapshot &now);
    void release_parked();
    void remove_dropped(const pg::Vector<int32_t> &candidates, const pg::Vector<int32_t> &existing);

    DatabaseWake &database_;
    pg::ContextResource memory_;
    pg::Map<int32_t, State> states_;
    pg::Vector<int32_t> pending_;
    pg::Vector<int32_t> ticked_; // in the transaction that is under way: made clean
    int32_t current_ = 0;        // the queue that work() is at
    int64_t rest_until_us_ = 0;
    int64_t ticks_ = 0;
    int recovered_ = 0;
    int64_t database_interval_us_ = 0;

    bool looked_ = false; // once, since this process began
    bool looking_ = false;
    bool look_wanted_ = true;
    int look_failures_ = 0;
    int64_t look_started_us_ = 0;
    int64_t next_look_us_ = 0;

    bool checking_prepared_ = false;
    bool no_prepared_ = false;       // what the check has found
    uint64 prepares_ = 0;            // PREPAREs at the check
    uint64 settled_ = PG_UINT64_MAX; // PREPAREs up to this one have come to an end
    uint64 prepared_set_ = 0;        // stands for the prepared transactions at the last check
    int64_t prepared_checked_us_ = 0;
};

// Takes this process' latch out of the shared area; for its exit.
void stop_following() noexcept;

} // namespace tasker::stream
