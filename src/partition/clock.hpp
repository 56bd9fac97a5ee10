// The plane's clock: what time it is for partitions that are due to be made or to go.
//
// Tests move it ahead by tasker.clock_offset, to watch years of maintenance in seconds. Waits and back-offs
// are real time and do not ask it.
#pragma once

#include "pg/settings.hpp"

namespace tasker::partition {

inline TimestampTz clock_now()
{
    return GetCurrentTimestamp() + static_cast<int64_t>(pg::settings::clock_offset) * USECS_PER_SEC;
}

} // namespace tasker::partition
