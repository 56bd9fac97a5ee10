// Events that come again: tasker.retry_queue, and what becomes of those that are tried too often.
//
// A row waits there for its time and is then moved into its queue's event table (retry_move.cpp), where it
// lies between later ticks as any event does; its ev_owner says that only one subscription gets it.
#pragma once

#include "stream/batch_places.hpp"

namespace tasker::stream {

inline constexpr int32_t kEverybody = 0; // ev_owner of an event that comes for the first time, see send_at()

struct Retry
{
    int32_t queue_id;
    int32_t owner;
    TimestampTz after;
    std::optional<int32_t> count; // how often it has been retried then
};

// False when the event waits there already.
bool put_into_retry_queue(const NewEvent &event, const Retry &retry);

// Puts events of a batch there; returns how many were not there already.
int32_t put_all_into_retry_queue(const Subscription &batch, std::span<const NewEvent> events,
                                 TimestampTz after);

// The open batch, locked. Errors: undefined_object.
Subscription lock_batch(int64_t batch_id);

// The event of the batch that a caller names; its newest delivery where it is there more than once. Errors:
// undefined_object.
NewEvent event_of_batch(const BatchPlaces &places, int64_t batch_id, std::optional<int64_t> event_id);

// Puts an event of a batch into the retry queue, or where it has been retried as often as the queue allows,
// makes it a dead letter. What has been done before stays as it is.
void retry_or_bury(const Subscription &batch, const Queue &queue, const NewEvent &event, TimestampTz after,
                   std::optional<std::string_view> reason);

// Makes an event of a batch a dead letter; false when it is one.
bool bury(const Subscription &batch, const NewEvent &event, std::optional<std::string_view> reason);

// All events of a batch, in the order of their ids.
std::span<NewEvent> events_of_batch(const BatchPlaces &places);

// Moves events whose time has come into their queues: a bounded number of them, which is returned. Where
// another session is at it, waits for that, or returns 0.
int64_t move_due_events(bool wait);

// Set by the worker plane: has the worker look at the retry queue at once. Called when a transaction has been
// committed that put something there for the next second, which the worker's next round might be late for.
extern void (*retry_request_hook)() noexcept;

// When the next event comes, as the last round of this backend has seen it.
TimestampTz next_due_event() noexcept;

} // namespace tasker::stream
