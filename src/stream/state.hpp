// The state of all queues and consumers at one moment, as monitors want it: see metrics.cpp and
// worker/health.cpp.
#pragma once

#include "pg/memory.hpp"
#include "stream/overview.hpp"

namespace tasker::stream {

// The texts are in the memory context that read_state was called in.
struct QueueState
{
    int32_t queue_id;
    const char *name;
    bool own_ticker; // neither external nor paused, nor a log's without consumers, which gets no ticks
    bool paused;
    int64_t max_lag_us;
    int64_t deferrals; // rotations of event tables put off in a row
    const char *held_by;
    std::optional<Tick> last_tick;
    int64_t event_seq; // the last event id given out
};

struct ConsumerState
{
    const QueueState *queue;
    const char *name;
    TimestampTz active;
    std::optional<int64_t> batch;
    std::optional<Tick> tick; // where it stands
};

struct StreamState
{
    explicit StreamState(pg::ContextResource *memory) : queues(memory), consumers(memory) {}

    pg::Vector<QueueState> queues;       // by queue_id
    pg::Vector<ConsumerState> consumers; // by queue
    int64_t subscription_deferrals = 0;  // rotations put off in a row
    int64_t tick_deferrals = 0;
    const char *metadata_held_by = "";
};

// Fills an empty state.
void read_state(StreamState &state);

// How long something has waited for the queue's next tick at least, if it has an own ticker; else 0.
int64_t ticker_lag_us(const QueueState &queue, TimestampTz now);

// How old the consumer's position is while it could have batches with events, else 0.
int64_t consumer_lag_us(const ConsumerState &consumer, TimestampTz now);
// How many events come after its position, in a tick or not, by the ids given out.
int64_t pending_events(const ConsumerState &consumer);

// The time of the first event that is in no tick yet, where there is one in the current table.
std::optional<TimestampTz> first_event_without_tick(const QueueState &queue);

} // namespace tasker::stream
