// Making queues over logs, and the offset of log ids.
#pragma once

#include "stream/log.hpp"

namespace tasker::stream {

// Sees to it that whatever is written from now on has greater log ids than all that these logs hold: they may
// come from another cluster. Where something has to be done for it, the logs of all queues are locked against
// writers.
void raise_log_offset(std::span<const LogTable> logs);

// Sets the offset, and so log ids to come. Nobody writes into a log meanwhile.
void set_log_offset(int64_t offset);

// Enters the logs of a queue that was just made.
void add_logs(int32_t queue_id, std::span<const LogTable> logs);

// Waits for those who write into a log, with its partitions, or into the event tables of a queue, and keeps
// others from it to the end of the transaction.
void lock_out_writers_of(Oid table);

// The greatest log id in a log. Errors: as of last_log_id().
int64_t last_id_of_log(const LogTable &log);

} // namespace tasker::stream
