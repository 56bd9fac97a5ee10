// Leases of steps that have ended.
#pragma once

namespace tasker::workflow {

// Has the queue ask the engine about the records of steps; from _PG_init.
void declare_lease_hook();

} // namespace tasker::workflow
