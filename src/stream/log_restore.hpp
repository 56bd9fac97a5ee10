// Log ids after a restore (log.hpp): nothing is re-based, what comes is put above what was restored.
#pragma once

#include "pg/memory.hpp"
#include "stream/tick.hpp"

namespace tasker::stream {

// The ticks of a log's queue that are kept, from the first that a consumer stands at on, as they are.
struct KeptTick
{
    Tick tick;
    const char *snapshot;
};

// Locks the logs of all queues, and the event tables that belong to them, against writers, and takes the
// marks away that have been set since the restore. Returns the offset of log ids from now on, which the
// caller sets.
int64_t settle_logs(uint64_t oldest_running);

// Appends the ticks of a queue, and returns how many events its consumers have not read.
int64_t keep_log_queue(const Queue &queue, pg::Vector<KeptTick> &ticks);

} // namespace tasker::stream
