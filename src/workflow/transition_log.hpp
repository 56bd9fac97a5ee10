// The append-only logs of states, and the moves that they record.
#pragma once

#include "workflow/instance.hpp"

namespace tasker::workflow {

// Who moved something, and what is to be said about it. Datums are 0 where there is nothing.
struct MoveNote
{
    Datum processor = 0;      // text
    Datum processor_uuid = 0; // uuid
    Datum metadata = 0;       // jsonb
};

// One hop.
struct Transition
{
    core::Uuid uuid;
    int32_t sort_key;
    char from; // 0: it was created
    char to;
    MoveNote note; // of the last hop of a move; the ones before carry none
};

// Collects the transitions of a call; they are written at its end.
struct TransitionLog
{
    Growing<Transition> transitions; // of tasks and steps, as they came
};

// The task or step was created in `to`.
void note_created(TransitionLog &log, const core::Uuid &uuid, core::TaskState to);
void note_created(TransitionLog &log, const core::Uuid &uuid, core::StepState to);

// Moves along the shortest path of legal edges, and fills in what changes in the row: state, time of entry,
// last transition. Errors: object_not_in_prerequisite_state where there is no way. Staying is no move.
void move_step(TransitionLog &log, const Instances &instances, const StepHead &head, core::StepState to,
               core::Walk walk, const MoveNote &note, pg::RowValues &change);
void move_task(TransitionLog &log, const Instances &instances, const TaskHead &head, core::TaskState to,
               core::Walk walk, const MoveNote &note, pg::RowValues &change);

// Takes back what was noted since `count` transitions: the row has to be looked at again.
inline void forget_from(TransitionLog &log, size_t count)
{
    log.transitions.count = count;
}

// Appends everything to the logs, counts it, and tells the stream.
void write_transitions(Instances &instances, TransitionLog &log);

} // namespace tasker::workflow
