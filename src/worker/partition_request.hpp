// A partition that somebody needs now, made by the worker in a transaction of its own.
//
// A backend in the middle of a transaction can make a partition only together with its own work: others who
// need it as well would wait for that transaction, and ATTACH is refused while the session itself has the
// parent open. So it asks the worker, and sleeps on its latch until the partition is committed.
//
// The requester may hold what a writer holds (ROW EXCLUSIVE on the parent and on partitions): making a
// partition needs SHARE UPDATE EXCLUSIVE on the parent only. A requester that holds more gets its refusal
// after the worker's lock_timeout and makes the partition itself.
#pragma once

#include "pg/error.hpp"

#include <cstdint>

namespace tasker::worker {

// The hook of partition/owned_set.hpp: true once the worker has made the partition, false when there is no
// worker, it could not make it, or it did not answer within five seconds.
bool request_partition(Oid parent, int64_t key);

// The worker's side: answers all open requests of its database, each in a transaction. Never throws for a
// partition that cannot be made. Returns the number of requests that were answered.
int serve_partition_requests();

} // namespace tasker::worker
