// The worker of one database: runs the duties when they are due, makes partitions for those who wait, and
// sleeps in between.
#pragma once

#include "pg/error.hpp"

namespace tasker::worker {

// The process' name for the postmaster.
inline constexpr const char *kWorkerMain = "tasker_worker_main";
inline constexpr const char *kWorkerType = "tasker worker";

} // namespace tasker::worker
