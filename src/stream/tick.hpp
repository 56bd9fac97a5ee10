// Ticks: stored snapshots between which the batches lie.
#pragma once

#include "core/tick_snapshot.hpp"
#include "pg/memory.hpp"
#include "stream/queue.hpp"

namespace tasker::stream {

struct Tick
{
    int64_t id;
    TimestampTz time;
    int64_t event_seq;
};

// A tick's snapshot; `running` is in the current memory context.
core::TickSnapshot snapshot_of_datum(Datum value);

// With `keep` the tick cannot be emptied away before this transaction ends (see find_row).
std::optional<Tick> find_tick(int32_t queue_id, int64_t tick_id, bool keep = false);
std::optional<Tick> last_tick(int32_t queue_id, bool keep = false);
std::optional<Tick> next_tick(int32_t queue_id, int64_t after);
std::optional<Tick> previous_tick(int32_t queue_id, int64_t before);
std::optional<core::TickSnapshot> find_snapshot(int32_t queue_id, int64_t tick_id);

// The first tick after `after` with which a batch has at least so many events, or covers at least so much
// time; whichever is given and comes first. PgQ's find_tick_helper.
std::optional<Tick> find_tick_beyond(int32_t queue_id, const Tick &after, std::optional<int64_t> min_count,
                                     std::optional<int64_t> min_interval_us);

// The last value that a sequence gave out, 0 before the first.
int64_t sequence_value(Oid sequence);

// One maker of ticks at a time, to the end of the transaction: a tick with a greater id must not have an
// older snapshot, or events between the two would be in no batch, or in two.
void lock_ticks(int32_t queue_id);
// The same without waiting: false when somebody else is making one.
bool try_lock_ticks(int32_t queue_id);

// Makes a tick now and returns its id; its snapshot is taken by this call, under the lock. An external ticker
// gives the id and the time.
struct ExternalTick
{
    int64_t id;
    TimestampTz time;
};
int64_t make_tick(const Queue &queue, int64_t event_seq, const ExternalTick *external = nullptr);

// Raises a sequence to a value; one that is beyond it stays.
void raise_sequence(Oid sequence, int64_t value);

} // namespace tasker::stream
