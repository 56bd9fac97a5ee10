// What the worker does for the queue. Each runs inside a transaction of the caller.
#pragma once

#include "pg/postgres.hpp"

namespace tasker::queue {

// Builds floors and statistics from the table, if they are not built yet.
void prepare();

// Looks over the live window and mends floors; returns how many lanes were mended.
int64_t sweep();

// Gives back records whose lease has ended; returns their number.
int64_t recover_leases();

// Removes deduplication keys that are no longer in use; at most a few thousand each time.
int64_t expire_dedup_keys();

// Declares the queue's partition set to the partition plane; from _PG_init.
void declare_queue_set();

} // namespace tasker::queue
