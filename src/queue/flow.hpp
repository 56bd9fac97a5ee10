// Flows: their settings as rows of tasker.flow, cached in the backend.
//
// The cache is dropped by the relcache invalidation of tasker.flow, which every change of the table sends
// (account_flow_change). That makes it transactional: a change is seen by others when it commits, and a
// rollback drops what this backend has cached of it.
#pragma once

#include "core/backoff.hpp"
#include "pg/error.hpp"

#include <cstdint>

namespace tasker::queue {

inline constexpr int kMaxFlowNameBytes = 128;
inline constexpr int kLowestPriority = 0;
inline constexpr int kHighestPriority = 9;

struct Flow
{
    int32_t flow_id;
    char name[kMaxFlowNameBytes + 1];
    int32_t max_attempts;
    int64_t lease_us;
    core::BackoffPolicy backoff;
    int32_t max_in_flight; // 0: no limit
    double rate_limit;     // per second; 0: no limit
    int64_t retention_us;
    bool paused;
    bool notify;
};

// The flow of that name. Errors: undefined_object.
Flow flow_named(std::string_view name);

// Has this backend read every flow anew.
void forget_cached_flows();
// The same; an unknown flow is created when tasker.auto_create_flows is on. It cannot be dropped by others
// until the transaction ends.
Flow flow_for_enqueue(std::string_view name);
// The flow with that id, held likewise. Errors: undefined_object.
Flow flow_for_enqueue(int32_t flow_id);
// The same as flow_named(); waits for all transactions that add records to the flow, and lets nobody begin
// to.
Flow flow_for_drop(std::string_view name);
// The flow with that id, or nothing (a flow that was dropped by force).
std::optional<Flow> flow_with_id(int32_t flow_id);

} // namespace tasker::queue
