// What a transaction notes about queues, to take effect when it commits: see wake.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tasker::stream {

// It inserts events into the queue, and holds a lock on its event table.
void note_events(int32_t queue_id, size_t count);
// It writes into a log that the queue reads, and holds a lock on the queue's event tables: a tick follows
// where somebody reads the queue when it commits.
void note_log(int32_t queue_id, size_t count);
// It registers a consumer of a log's queue, whose writers have to tell from now on: see QueueWake::unread.
void note_reader(int32_t queue_id);
// It makes a tick of the queue: who waits for a batch of it has to look.
void note_tick(int32_t queue_id);
// It changes settings of queues, or drops some: the ticker has to look, and all who wait for a batch.
void note_settings();
// It ends a subscription: all who wait for a batch have to look.
void note_unregistered();

// The queue gets a tick soon after this transaction has committed, with or without events.
void request_tick(int32_t queue_id);

} // namespace tasker::stream
