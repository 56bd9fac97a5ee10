// After a dump was restored into another cluster.
//
// Ticks and events hold transaction ids, which are those of the cluster that was dumped. Compared with the
// ids of this cluster they mean nothing, so no tick may be made until after_restore() has given them ids of
// this cluster (core/rebase.hpp).
//
// DETECTION. tasker.stream_origin names the installation in which its row was written: cluster, database and
// extension. A dump carries the row. Where it names another installation, the rows of the stream were
// restored, or came with pg_upgrade or CREATE DATABASE ... TEMPLATE, which keep files, and so transaction
// ids. Those have kept the row itself: its xmin is the transaction that it names, and it does not stand at
// the first place of the table, to which a restore writes it. A queue without that row is one whose restore
// has not come that far.
//
// UNTIL THEN events are taken: an application goes on after a restore, whether somebody has called
// after_restore() or not. Their ev_txid has a mark (kAfterRestore), so that they are told apart from restored
// ones, and come after all of these. What would write ticks or subscriptions is refused, nothing is rotated,
// and retried events wait. Nobody calls after_restore() by himself: that a restore is still running cannot be
// seen.
#pragma once

#include "stream/queue.hpp"

namespace tasker::stream {

inline constexpr int64_t kAfterRestore = int64_t{1} << 62;

// Is after_restore() due?
bool restore_pending();
// Errors: object_not_in_prerequisite_state when it is.
void require_restored();
// The same question from the worker, which does nothing meanwhile: says so in the log, once.
bool awaits_restore();

// What a transaction's events get as their ev_txid; to be asked with the event table locked.
int64_t event_txid(int64_t txid);

// Notes where the stream lives, before its first queue is made.
void note_origin();

// Makes the tables and sequences of a queue go with the extension.
void tie_to_extension(const Queue &queue);

} // namespace tasker::stream
