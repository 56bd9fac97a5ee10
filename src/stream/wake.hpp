// What the stream keeps in shared memory: which queues have events that no tick covers yet, and who waits for
// a batch. Ticks follow commits by it, and consumers follow ticks.
//
// A producer notes its queues in its own memory; the callback of its commit, which runs when the commit is
// visible to new snapshots, marks them dirty and wakes the ticker (ticker_process.hpp), if they were not
// dirty already. The ticker takes a queue off the dirty ones BEFORE it takes the tick's snapshot. So a commit
// that the snapshot does not see marks the queue again: no event is left without a tick. The events of a
// transaction that was under way when a tick was taken are no exception: their commit comes later.
//
// WHO WRITES     producers set a queue's state from clean to dirty and push it to the dirty ones of its
//                database; the ticker of the database takes them all, and makes them clean again. Counters
//                and flags are atomic, and whoever has a reason writes them.
// LOCK           `lock` guards the table of queues, the list of databases, and all that is said below to be
//                under it. Nobody waits for anything while holding it; it is taken in transaction callbacks.
//                What a commit does to a queue it knows takes no lock.
// AFTER A CRASH  it starts empty. A ticker that starts looks at every queue of its database once, and ticks
//                those whose last tick is from before any other transaction's. Later looks are for what has
//                been missed, and compare: one needs a tick if event ids were given out after its last one,
//                or if a transaction that was under way then has ended. Waiters have ended with the crash.
//
// An entry is removed when the queue was dropped, by the ticker alone. Whoever has a note about a queue holds
// a lock on its event table up to the end of the callback, so that no note meets a removed entry. Where that
// is not so, because the lock went with a subtransaction that was rolled back, or because entries have been
// removed since the first note, the callback looks them up again.
//
// Where there is no room for a queue, `any` stands for it: some queue of the database has new events, and the
// ticker looks at all of them. Where there is no room for a database, its ticks do not follow commits.
#pragma once

#include "pg/shmem.hpp"

#include <cstdint>

extern "C" {
#include "lib/ilist.h"
}

namespace tasker::stream {

struct QueueKey
{
    Oid database;
    int32_t queue_id; // 0: the entry `any`
};

enum class Dirty : uint32
{
    clean,
    pushed, // on its database's list of dirty queues, or on its way there
    taken,  // taken by the ticker, which will tick it
};

struct QueueWake
{
    QueueKey key; // first: the hash table finds it here
    pg_atomic_uint32 dirty;
    pg_atomic_uint32 wanted;     // a consumer has found no batch since the last tick
    pg_atomic_uint64 next_dirty; // QueueWake *, while pushed
    pg_atomic_uint64 events;     // committed since the ticker last took the queue off the dirty ones
    pg_atomic_uint64 enough;     // so many events call the ticker at once
    pg_atomic_uint64 prepared;   // number of the last PREPARE with events for it, see DatabaseWake; 0: none
    uint64 noted_by;             // the transaction that made the entry, 0: none; under the lock
    dlist_head waiters;          // of Waiter; under the lock
    pg_atomic_uint32 waiting;    // their number

    // The ticker's records, for ticker_status.
    pg_atomic_uint64 ticks;
    pg_atomic_uint64 last_tick_us;
    pg_atomic_uint64 failures; // in a row
};

struct DatabaseWake
{
    Oid database;                      // InvalidOid: free; under the lock
    pg_atomic_uint64 ticker;           // Latch * of its ticker, 0 while there is none
    pg_atomic_uint64 first_dirty;      // QueueWake *
    pg_atomic_uint64 prepares;         // PREPAREs with events so far
    pg_atomic_uint32 prepared_unknown; // there may be prepared transactions from before the server's start
    QueueWake any;
};

// Declares the area; from _PG_init.
void declare_wake_area();

// --- what a transaction notes, to take effect when it commits
// ------------------------------------------------

// It inserts events into the queue, and holds a lock on its event table.
void note_events(int32_t queue_id, size_t count);
// It makes a tick of the queue: who waits for a batch of it has to look.
void note_tick(int32_t queue_id);
// It changes settings of queues, or drops some: the ticker has to look, and all who wait for a batch.
void note_settings();
// It ends a subscription: all who wait for a batch have to look.
void note_unregistered();

// The queue gets a tick soon after this transaction has committed, with or without events.
void request_tick(int32_t queue_id);

// --- at once
// -------------------------------------------------------------------------------------------------

// A consumer has found no batch.
void mark_wanted(int32_t queue_id);

// Is there a ticker in this database?
bool has_ticker();
// The ticker of this database shall look at all queues. False when there is none.
bool request_look();

// A prepared transaction of this database has been committed.
void after_commit_prepared() noexcept;

// This backend among those that are woken by the notes above, for a scope.
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

// --- for the ticker, and for those who show what it does
// -----------------------------------------------------

// The database's part, null without shared memory or room.
DatabaseWake *database_wake();

// The queue's entry, made where there is none; null without shared memory or room.
QueueWake *queue_wake(int32_t queue_id);

// Calls `visit` for each queue of this database, under the lock.
void visit_queues(void (*visit)(QueueWake &, void *), void *object);
template <class Visit> void visit_queues(Visit &&visit)
{
    visit_queues([](QueueWake &queue,
                    void *object) { (*static_cast<std::remove_reference_t<Visit> *>(object))(queue); },
                 static_cast<void *>(std::addressof(visit)));
}

// Removes the entry of a queue that was dropped, and has its waiters look; who still waits keeps it.
void remove_queue_wake(int32_t queue_id);

} // namespace tasker::stream
