// What the stream keeps in shared memory: which queues have events that no tick covers yet, and who waits for
// a batch. What it is for is in wake.hpp.
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
    pg_atomic_uint32 unread;     // a log's queue without consumers: commits need no tick, see log.hpp
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

// --- what wake.cpp and wake_notes.cpp do it with

// A backend that waits for a batch; one slot per backend, under the lock.
struct Waiter
{
    dlist_node node;  // first; in queue->waiters while `queue` is set
    QueueWake *queue; // null: does not wait
    Latch *latch;
};

struct WakeArea
{
    LWLock lock;
    pg_atomic_uint64 removals; // entries removed so far: who remembers one has to look it up anew
    int waiter_count;
    Waiter *waiters;
    int database_count;
    DatabaseWake databases[FLEXIBLE_ARRAY_MEMBER];
};

// Null without shared memory.
WakeArea *wake_area() noexcept;

// The database's part, where database_wake() has found it before.
DatabaseWake *known_database_wake() noexcept;

// The lock is held from here on.

// The database's part, null where there is none; InvalidOid: a free one.
DatabaseWake *find_database_wake(Oid database) noexcept;

// The queue's entry. HASH_FIND: null where there is none; HASH_ENTER_NULL: made where there is none, null
// without room.
QueueWake *find_queue_wake(int32_t queue_id, HASHACTION action, uint64 noted_by = 0) noexcept;

void visit_queues_locked(void (*visit)(QueueWake &, void *), void *object);

// Wakes all who wait for the queue.
void set_latches(QueueWake *queue) noexcept;

} // namespace tasker::stream
