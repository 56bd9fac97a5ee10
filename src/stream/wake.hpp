// Ticks follow commits, and consumers follow ticks: by what the stream keeps in shared memory (wake_area.hpp)
// and what transactions note for their commit (wake_notes.hpp).
//
// A producer notes its queues in its own memory; the callback of its commit, which runs when the commit is
// visible to new snapshots, marks them dirty and wakes the ticker (ticker_process.hpp), if they were not
// dirty already. The ticker takes a queue off the dirty ones BEFORE it takes the tick's snapshot. So a commit
// that the snapshot does not see marks the queue again: no event is left without a tick. The events of a
// transaction that was under way when a tick was taken are no exception: their commit comes later.
#pragma once

#include "stream/wake_area.hpp"

namespace tasker::stream {

// A consumer has found no batch.
void mark_wanted(int32_t queue_id);

// Is there a ticker in this database?
bool has_ticker();
// The ticker of this database shall look at all queues. False when there is none.
bool request_look();

// A prepared transaction of this database has been committed.
void after_commit_prepared() noexcept;

// This backend among those that are woken when the queue gets a tick, or has to be looked at, for a scope.
class WaitingForTick
{
  public:
    explicit WaitingForTick(int32_t queue_id);
    ~WaitingForTick();
    WaitingForTick(const WaitingForTick &) = delete;
    WaitingForTick &operator=(const WaitingForTick &) = delete;

    // False where there is no room: it has to look by itself.
    bool accepted() const { return accepted_; }

  private:
    bool accepted_;
};

// --- what the notes of transactions (wake_notes.hpp) do when they take effect

// The queue has so many more events, or is to get a tick without any.
void mark_dirty(DatabaseWake *database, QueueWake *queue, uint64 events) noexcept;
// Some queue of this database, nobody knows which.
void mark_any_dirty() noexcept;
void wake_ticker(DatabaseWake *database) noexcept;
void wake_waiters_of(QueueWake *queue) noexcept;
// All of this database.
void wake_all_waiters() noexcept;

} // namespace tasker::stream
