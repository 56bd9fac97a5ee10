// The ticker of one database: a process that makes the ticks of the event stream as commits ask for them.
//
// It is no part of the worker, because a duty may take a minute, and a tick is to come within a millisecond.
// It runs as long as the worker does, and sleeps without a timeout when nothing is to be ticked.
#pragma once

#include "pg/error.hpp"

namespace tasker::worker {

// The process' name for the postmaster.
inline constexpr const char *kTickerMain = "tasker_ticker_main";
inline constexpr const char *kTickerType = "tasker ticker";

} // namespace tasker::worker
