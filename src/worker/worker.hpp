// The worker of one database: runs the duties when they are due, makes partitions for those who wait, and
// sleeps in between.
//
// Its life: attach to the slot that the launcher gave the database, connect, look for the extension, run. It
// leaves when it is told to (SIGTERM, or stop_requested in its slot), when the extension has gone, and on an
// error outside of a duty; the launcher decides what follows.
#pragma once

#include "pg/error.hpp"

namespace tasker::worker {

// The name of the database that this worker serves, for its log.
const char *worker_database_name();

// The process' name for the postmaster.
inline constexpr const char *kWorkerMain = "tasker_worker_main";
inline constexpr const char *kWorkerType = "tasker worker";

} // namespace tasker::worker
