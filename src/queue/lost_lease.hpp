// What becomes of a record whose lease has ended, where a plane above has a say in it.
#pragma once

#include "queue/failure.hpp"

namespace tasker::queue {

enum class LostLease
{
    ours,  // the queue decides, by its flow's policy
    later, // leave it as it is until the next look
    retry, // it is pending again, and due at `due`
    fail,  // it is a dead letter
    drop,  // nobody needs it any more
};

struct LostLeaseVerdict
{
    LostLease fate = LostLease::ours;
    TimestampTz due = 0;
};

// Asked inside the transaction that gives the record back, before it is changed; it must not wait for anybody
// who may wait for the record. `error` is text. Registered by the plane above from _PG_init. Plain C: may
// ereport.
using LostLeaseHook = LostLeaseVerdict (*)(const RecordHead &head, Datum payload, Datum error,
                                           TimestampTz now);
extern LostLeaseHook lost_lease_hook;

} // namespace tasker::queue
