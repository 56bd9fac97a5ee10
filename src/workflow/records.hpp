// The records that stand for ready steps in the queue.
#pragma once

#include "queue/enqueue.hpp"
#include "workflow/instance.hpp"

namespace tasker::workflow {

enum class RecordFate
{
    completed, // the step is done
    retry,     // it is pending again, and due at `time`
    failed,    // it is a dead letter
    released,  // it is pending again, as if it had not been claimed
    lease,     // it stays claimed, up to `time`
    postponed, // it is pending, and becomes due at `time`; as far as nobody else has it in hand
    dropped,   // nobody needs it any more; as far as nobody else has it in hand
};

// What shall become of the record of a step.
struct RecordChange
{
    int64_t id;
    core::Uuid step;
    RecordFate fate;
    bool has_token;
    int64_t token;
    TimestampTz time;
    Datum error; // text, for retry and failed; 0: none
};

// Changes records, all or nothing. Errors: object_not_in_prerequisite_state where a record is not claimed, or
// under another token.
void change_step_records(TimestampTz now, std::span<RecordChange> changes);

// A record for the step, under an id that is reserved here. Its flow must be held by flow_for_enqueue().
queue::PlacedRecord record_of_step(const core::Uuid &step, int32_t flow_id, int16_t priority,
                                   std::optional<TimestampTz> due);

// The step that a record stands for; nothing where its payload says something else.
std::optional<core::Uuid> step_of_record(Datum payload);

} // namespace tasker::workflow
