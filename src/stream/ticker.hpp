// PgQ's ticker: makes the ticks that are due by the ticker settings of the queues.
#pragma once

#include <cstdint>

namespace tasker::stream {

// For all queues but those whose ticker is external or paused. Returns the number of ticks.
int64_t tick_due_queues();

} // namespace tasker::stream
