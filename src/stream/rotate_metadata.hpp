// Rotation of the tables of subscriptions and of ticks (slots.hpp).
//
// The TARGET is the table after the active one: the oldest. It is locked against everybody, what is still
// wanted of it is kept in memory, it is emptied, gets back what was kept, and becomes the active one. The
// active table needs no lock: who still writes to it afterwards, because it looked just before, does no harm.
// Both kinds have a pointer of their own; one that is put off does not hold up the other.
//
// SUBSCRIPTIONS. Wanted is each registration's newest version, where that is in the target. It goes back into
// the same table, so whoever looks through the three tables one by one finds it, whenever he comes by. None
// of the subscriptions is locked, so the rotation waits for no consumer: versions that a transaction has not
// committed yet are not in the target (its lock on the table would be in the way), and if it commits, its
// version follows the one that was kept; if it does not, the one that was kept is the newest.
//
// What is wanted of the table that will be the target next is moved to the new active one at once, one
// rotation ahead. So mostly nothing has to be put back: rows that are put back into an emptied table are
// missing for an old snapshot, and a pg_dump takes its snapshot before it locks the tables. It misses nothing
// unless there are two rotations in between, or one and a consumer that has lagged for two goes on.
//
// TICKS. Wanted is each queue's newest tick. The others go at once, and only if no consumer needs one of
// them: for each queue that has ticks in the target, no subscription stands at the greatest of them or below;
// or right at it, where that is the queue's newest, which is kept. A lagging consumer so finds all its
// batches as they were made, and the rotation of ticks is put off, counted and shown meanwhile
// (rotation_tick_deferrals, rotation_held_by).
//   A race with consumers is not possible. A consumer at tick t opens batches that end at a tick beyond t,
//   and
// goes on to that: so what it does in a transaction that is not committed yet needs no tick below t. Who puts
// a subscription to any other tick (register_consumer_at) keeps all tables of ticks locked in ACCESS SHARE
// mode to the end of its transaction, from before it looks for the tick. The check is made with the target
// locked. External tickers write ticks as any other.
//
// STEP 2 comes in a later transaction than the rotation, and the next rotation waits for it. That is a matter
// of order: the pointers have been visible to all for at least one transaction. It is no gate against old
// snapshots, and needs none: functions of ours look with a new snapshot each time. A session that reads the
// views under an old snapshot of its own may miss rows of a table that has been emptied since, as with any
// TRUNCATE.
#pragma once

#include "stream/rotation.hpp"

namespace tasker::stream {

// Rotates what was written to since the last rotation, when the shortest metadata_rotation_period of all
// queues is over. `done` when at least one of the two was rotated; nothing is written, and no transaction id
// taken, when it is not due.
Rotation rotate_metadata(Counting counting);

bool metadata_rotation_is_due();

// Step 2: true when it has been done.
bool finish_metadata_rotation();

} // namespace tasker::stream
