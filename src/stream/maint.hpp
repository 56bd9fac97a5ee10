// The stream's duties, in rounds (worker/duty.hpp). Each is called outside of a transaction, makes its own
// through the Steps that it is given, and is apart from the others: no step 2 waits for another one, or fails
// with it. A round that finds nothing to do writes nothing and takes no transaction id.
#pragma once

#include "partition/maintenance.hpp"

namespace tasker::stream {

// Step 1 for each queue that is due, each in a transaction of its own.
void run_event_rotation_round(partition::Steps &steps);

// Step 2 for all queues that wait for it. Then each gets a tick, so that consumers at its last one can go on.
void run_event_step2_round(partition::Steps &steps);

void run_metadata_rotation_round(partition::Steps &steps);
void run_metadata_step2_round(partition::Steps &steps);

} // namespace tasker::stream
