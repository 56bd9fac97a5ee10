// What becomes of a record whose attempt has failed, by its worker's word or because its lease ended.
#pragma once

#include "queue/lookup.hpp"

namespace tasker::queue {

struct FailurePolicy
{
    TimestampTz now;
    Datum error;                        // text
    std::optional<int64_t> retry_in_us; // else the flow's backoff
};

// Fills the change of a record in processing whose attempt failed: pending again at the backed-off position,
// or failed when no attempts are left (or its flow is gone).
Outcome fail_attempt(const RecordHead &head, const FailurePolicy &policy, Change &change);

// The end of a lease, or of a delay, that begins now; capped to the last timestamp.
TimestampTz lease_end(TimestampTz now, int64_t lease_us);

} // namespace tasker::queue
