// Claiming records of a flow, for whoever hands them out.
#pragma once

#include "queue/flow.hpp"

namespace tasker::queue {

// Under which a call claims: the same for all its records.
struct ClaimTerms
{
    Datum instance; // text: who claims
    TimestampTz now;
    TimestampTz expires_at;
    int64_t token;
};

struct ClaimedRecord
{
    int64_t id;
    Datum payload; // jsonb, valid during the call only
    int32_t retry_count;
};

// Takes claimed records, one by one. Plain C: may ereport.
class ClaimSink
{
  public:
    virtual void take(const ClaimedRecord &record, const ClaimTerms &terms) = 0;

  protected:
    ~ClaimSink() = default;
};

// The terms of a claim that begins now; without an instance this session's host, application and pid. Errors:
// undefined_table.
ClaimTerms claim_terms(std::optional<Datum> instance, int64_t lease_us);

// Claims up to `wanted` due records of the flow, by priority, then position, and returns how many. Plain C:
// may ereport.
int64_t claim_records(const Flow &flow, int64_t wanted, const ClaimTerms &terms, ClaimSink &sink);

} // namespace tasker::queue
