// What becomes of a step whose attempt has failed, by its worker's word or because its lease ended.
#pragma once

#include "queue/failure.hpp"
#include "workflow/task_counts.hpp"
#include "workflow/records.hpp"

namespace tasker::workflow {

struct Failure
{
    Datum error;    // jsonb
    bool retryable; // false: no more attempts, whatever the policy says
    std::optional<int64_t>
        delay_us; // before the next attempt; else what the worker asked for, else the template's back-off
};

struct FailedStep
{
    core::StepState state; // waiting_for_retry, error, or pending where a parent was reset meanwhile
    int64_t record_id;     // of the attempt
    TimestampTz due;       // of the next one, where it waits for its retry
};

// Fills the change of a step in progress whose attempt has failed. In line again is only who has no parents
// to wait for: a step whose parent was reset while it was worked on leaves the line, and its record is done
// with.
FailedStep fail_attempt(TransitionLog &log, const Instances &instances, const StepHead &head,
                        const StepTemplate &named, const Failure &failure, pg::RowValues &change);

} // namespace tasker::workflow
