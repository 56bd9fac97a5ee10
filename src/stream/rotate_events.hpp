// Rotation of event tables, in PgQ's two steps.
//
// STEP 1 empties the table that was current two rotations ago, and makes it the current one. Batches are read
// from the current table and the one before it only (tables_of), so the one that was before is not read any
// more: it must hold nothing that a consumer has not read. What a consumer has read is what its last tick
// sees.
//
// STEP 2, in a later transaction, notes a transaction id S (queue_switch_step2): whoever gets a greater one
// looks for the current table when step 1 is visible to all, and finds the new one. So all that was ever
// written to the former tables has an id of at most S, and a consumer whose last tick has an xmin above S has
// read all of it. S is the last id that was given out; not the id of the transaction that runs step 2, which
// may have got its id before step 1 was committed.
//
// Step 1 holds the queue's rotation lock until its caches are invalidated everywhere, and step 2 takes it. So
// no writer is left that has an id above S and an old cache.
//
// A consumer whose last tick is older than S holds the rotation up, unless the table before the current one
// has nothing that its tick does not see, and nobody who may still write to it. So one that has read
// everything holds up nothing, whether ticks are made or not.
//
// Nothing here waits: what is in the way is named in the queue's row (queue_rotation_held_by), and the
// rotation is put off.
#pragma once

#include "pg/memory.hpp"
#include "stream/queue.hpp"
#include "stream/rotation.hpp"

namespace tasker::stream {

// Step 1 for one queue. Nothing is written, and no transaction id taken, when it is not due.
Rotation rotate_events(int32_t queue_id, Counting counting);

// The queues that step 1 is due for. One that had no events when it was last looked at is left out for a
// while.
void list_due_rotations(pg::Vector<int32_t> &queues);

// Step 2 for all queues that wait for it; appends those for which it has been done. It is not when step 1 was
// this transaction's own, or is being run by another one.
void finish_event_rotations(pg::Vector<int32_t> &queues);

// The consumer that stands furthest back; its name is in the current memory context.
struct Slowest
{
    int64_t tick;
    const char *consumer;
};
std::optional<Slowest> slowest_consumer(int32_t queue_id);

// Keeps the queue from being rotated to the end of the transaction. Whoever puts a subscription to a tick
// needs that, so that its events are there when it is committed.
void hold_rotation(int32_t queue_id);

// May a subscription, that stands at `present` now, be put to this tick? Keeps the tick from being emptied
// away to the end of the transaction. To be asked after hold_rotation(). Errors: undefined_object, when there
// is no such tick or when events that come after it have been emptied away; but one may stay where it is, and
// go to the last tick, whatever has been emptied.
void require_position(const Queue &queue, int64_t tick_id, std::optional<int64_t> present);

} // namespace tasker::stream
