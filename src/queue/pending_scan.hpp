// A walk over the pending, due records of many flows, those first that count most (core/task_priority.hpp).
//
// A record is as old as the time since its position. In a lane (flow, priority, partition) the index is in
// the order of positions, and so each band of ages is in the order of what its records count, forwards or
// backwards. The walk merges the bands of all lanes through a heap. A lane that stands in shared memory is
// looked into only when its best record could come next: its claim floor and the latest position in it say
// what that could count at most. So the cost follows what is asked for, not the backlog; and below the floor,
// where an old snapshot may keep any number of finished rows, nothing is looked at.
//
// It only looks: it takes no record, moves no floor, and what it returns may be claimed by somebody in the
// next moment. What counts the same comes in the order of positions: the longest ready first, but in the
// decaying band the shortest. Records of one lane with the same position come as they stand in the index.
//
// Plain C: may ereport; nothing has a destructor.
#pragma once

#include "core/task_id.hpp"
#include "pg/postgres.hpp"

namespace tasker::queue {

struct PendingScan;

struct PendingRecord
{
    int64_t id;
    int64_t position;
    core::Uuid object; // what the payload names
    double computed_priority;
};

// What a payload names; nothing for a record to be passed over.
using PayloadReader = std::optional<core::Uuid> (*)(Datum payload);

// Begins a walk over the flows, under the active snapshot, as of `now`. Everything it needs is in the current
// memory context. Where lanes are not kept, every lane that there can be is looked into, from its beginning.
PendingScan *begin_pending_scan(Oid parent, std::span<const int32_t> flows, TimestampTz now,
                                PayloadReader reader);
// The next record; false at the end.
bool next_pending(PendingScan *scan, PendingRecord &record);
void end_pending_scan(PendingScan *scan);

} // namespace tasker::queue
