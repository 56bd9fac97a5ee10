// Finding records by id and changing them, one or many, under a state check.
#pragma once

#include "queue/effects.hpp"
#include "queue/record_table.hpp"

namespace tasker::queue {

// A record named by a caller; `index` is its place in the caller's array.
struct Target
{
    int64_t id;
    int32_t index;
};

// The targets of an id array, sorted by id: records are always locked in that order, so that two calls with
// overlapping arrays cannot deadlock. Errors: invalid_parameter_value for an id given twice.
std::span<Target> sorted_targets(std::span<const Datum> ids);

// The state of one record as committed now (and as this transaction has left it); nothing when there is none.
std::optional<RecordHead> read_head(Oid parent, int64_t id);

// What a change makes of a record, for floors and statistics.
struct Outcome
{
    core::RecordStatus status;
    int64_t position;       // when pending
    TimestampTz expires_at; // when processing
    bool unchanged = false; // leave the record as it is
};

// Notes the change of a record from `before` to `after` in its lane's effect.
void note_change(Effect &effect, const RecordHead &before, const Outcome &after);

// Decides about one record: fills `change` and returns the outcome, or reports an error.
using Decide = Outcome (*)(const RecordHead &head, const Target &target, Change &change, void *argument);

// Which records a call is about.
enum class Reach
{
    live,            // records that hold their partition by being unfinished
    free,            // likewise, as far as they exist and nobody else is changing them at this moment
    revived,         // finished ones that are brought back: their partitions are held against retirement
    revived_if_there // likewise; what has been deleted or is being retired meanwhile is passed over
};

// Looks up each target, has `decide` judge its current state and writes the change; all or nothing, because
// every error aborts. Returns how many were changed. Errors: undefined_object for an id that does not exist.
// A record that changes at the same moment is looked at again.
int32_t change_records(Oid parent, std::span<const Target> targets, Decide decide, void *argument,
                       Reach reach = Reach::live);

} // namespace tasker::queue
