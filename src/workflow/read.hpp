// Reading instances: what the functions and views that only look have in common.
//
// A function that reads sees what the query that calls it sees: its snapshot, not the latest one. It goes to
// the partition of the task directly, whose steps, edges and transitions are ranges of their keys (sets.hpp),
// so its cost depends on the task and on nothing else.
//
// Plain C, as instance.hpp: may ereport; nothing has a destructor.
#pragma once

#include "pg/function.hpp"
#include "workflow/instance.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace tasker::workflow {

// Begins to read under the snapshot of the query. Ended by end_instances().
void begin_reading(Instances &instances);

// The uuid as an argument of a look-up; it must live as long as the Datum is used.
inline Datum key_datum(const core::Uuid &uuid)
{
    return UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&uuid));
}

// Argument `i`. Errors: invalid_parameter_value when it is null.
core::Uuid uuid_argument(const pg::Args &args, int i, const char *name);

// Visits the rows of a table whose first key column is from `from` to `to`, both in the range of one task, in
// the order of their keys. `visit` gets the slot, and must not look anything up in that table.
template <class Visit>
void for_each_in_range(Instances &instances, Table table, const core::Uuid &from, const core::Uuid &to,
                       Visit visit)
{
    pg::DirectTable *opened = find_table(instances, table, from);
    if (opened == nullptr)
        return;
    if (opened->scan == nullptr)
        pg::begin_key_scan(opened, GetActiveSnapshot());
    pg::seek_range(opened, key_datum(from), key_datum(to));
    while (pg::next_in_range(opened))
        visit(opened->read_slot);
}

// Visits the steps of a task, in the order of their numbers.
template <class Visit> void for_each_step(Instances &instances, const core::Uuid &task, Visit visit)
{
    for_each_in_range(instances, Table::step, core::step_uuid(task, 1),
                      core::step_uuid(task, core::kMaxStepNumber), visit);
}

// A column of the row, which has been taken apart as far as this.
inline Datum value_of(TupleTableSlot *slot, int column)
{
    return slot->tts_values[column - 1];
}
inline bool is_null(TupleTableSlot *slot, int column)
{
    return slot->tts_isnull[column - 1];
}

// The uuids of an array argument, ascending, each of them once.
std::span<core::Uuid> sorted_uuids(std::span<const Datum> values);

// What a step is called in its template, as a text Datum that is good for this call; 0 when there is no such
// step. Templates do not change, so names are kept in the backend.
Datum named_step_name(const core::Uuid &named_step_uuid);

// What the step is called: its own name, or that of the template.
Datum step_name(TupleTableSlot *slot);

// Could a worker claim the step now? In this engine a step is put into the queue as soon as its last parent
// is done, so a ready step is one that is in the queue and due.
constexpr bool is_ready(const StepHead &step, TimestampTz now)
{
    return (step.state == core::StepState::enqueued || step.state == core::StepState::waiting_for_retry) &&
           step.remaining_parents == 0 && step.next_retry_at <= now;
}

// May it be attempted, as far as attempts go? The first time always.
constexpr bool is_retry_eligible(const StepHead &step)
{
    return step.attempts == 0 || (step.retryable && step.attempts < step.max_attempts);
}

// A state's word as a text Datum.
template <class State> Datum state_word(State state)
{
    const std::string_view word = core::state_name(state);
    return PointerGetDatum(cstring_to_text_with_len(word.data(), static_cast<int>(word.size())));
}

// How the steps of a task stand.
struct StepTally
{
    int64_t total;
    int64_t by_state[core::kStepStateCount];
    int64_t unknown; // in a state that is none: a damaged row
    int64_t ready;

    int64_t in(core::StepState state) const { return by_state[core::state_index(state)]; }
};
StepTally tally_steps(Instances &instances, const core::Uuid &task);

} // namespace tasker::workflow
