// Sleeping until one of some flows has something to claim.
#pragma once

#include "queue/shared_state.hpp"
#include "queue/flow.hpp"

namespace tasker::queue {

inline constexpr int kMaxWaitedFlows = kWaitersEach;

// A flow that is waited for. Lives across transactions.
struct WaitedFlow
{
    char name[kMaxFlowNameBytes + 1];
    FlowState *seen_flow = nullptr; // whose settings were read, and how often they had changed then
    int64_t seen_changes = 0;
};

// Commits, then sleeps with no transaction and no snapshot open until one of the flows has something to
// claim; false when the time has passed. For a procedure that was not called atomically. Errors:
// undefined_object when a flow is dropped meanwhile. Plain C: may ereport.
bool wait_for_flows(std::span<WaitedFlow> flows, int64_t timeout_us);

// The result of a procedure with one inout argument, which is boolean.
Datum inout_boolean(FunctionCallInfo call, bool value);

} // namespace tasker::queue
