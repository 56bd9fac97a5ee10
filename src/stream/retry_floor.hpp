// Below which place nothing of the retry queue is left.
//
// Rows leave tasker.retry_queue one by one, and while somebody keeps an old snapshot nothing of them can be
// cleaned up. A search for what is due by the index on ev_retry_after alone would begin at the oldest row
// that ever was there and walk over all the dead, longer from round to round. So the backend that moves rows
// (the worker, as a rule) remembers after a round up to which time everything is gone that its snapshot saw.
// The next round looks
//
//   - above that time: at what has become due since;
//   - below it, by the index on ev_txid: at rows of transactions that the snapshot did not see. That a
//     transaction is committed late is thus no matter; a trigger sets ev_txid also when somebody changes a
//     row.
//
// Both cost what they find. A backend that knows nothing looks from the beginning, once. With 2,000 retries a
// second behind a held snapshot, a round for 200 rows takes 2 ms however many dead rows there are, and one
// that finds nothing 0.05 ms; from the beginning it takes 130 ms after 40 seconds (80,000 dead rows), and
// ever more.
#pragma once

#include "core/tick_snapshot.hpp"
#include "pg/error.hpp"

namespace tasker::stream {

struct RetryFloor
{
    TimestampTz due; // up to there, inclusive, all is gone that `seen` sees
    core::TickSnapshot seen;
};

// What this backend remembers of that table; nothing where it knows nothing, or what it knew was rolled back.
std::optional<RetryFloor> remembered_floor(Oid table);

// What it shall remember, if this transaction is committed.
void remember_floor(Oid table, const RetryFloor &floor);

// The snapshot that is active, without this transaction: what that one still does is not seen by it.
core::TickSnapshot active_snapshot();

} // namespace tasker::stream
