// Queues of the event stream: their settings and tables as rows of tasker.queue, cached in the backend.
//
// The cache is dropped by the relcache invalidation of tasker.queue, which a trigger sends at each change of
// the table. So it is as transactional as the table: others see a change when it commits, and a rollback
// drops what this backend has cached of it.
#pragma once

#include "pg/error.hpp"
#include "stream/rights.hpp"

#include <cstdint>

namespace tasker::stream {

inline constexpr int kMaxNameBytes = 128;
inline constexpr int kTables = 3;
inline constexpr int kNoLimit = -1;

struct Queue
{
    int32_t queue_id;
    char name[kMaxNameBytes + 1];
    int32_t current; // the table that takes events
    Oid parent;      // of the event tables
    Oid tables[kTables];
    Oid event_sequence;
    Oid tick_sequence;
    int64_t switch_step1;                // transaction of the last rotation
    std::optional<int64_t> switch_step2; // one from after its commit, once there has been one
    bool external_ticker;
    bool disable_insert;
    bool ticker_paused;
    bool paused;
    int32_t per_tx_limit; // or kNoLimit
    int32_t max_count;
    int64_t max_lag_us;
    int64_t idle_period_us;
    int64_t min_tick_interval_us;
    int64_t ttl_us; // 0: none
    int32_t max_retries;
    bool has_log;        // its events are the rows of logs: see log.hpp
    int64_t txid_offset; // what its transaction ids are above the server's: see log.hpp
};

// The queue of that name, as it is committed at this moment or changed by this transaction. Errors:
// undefined_object; insufficient_privilege for a caller without the right.
Queue queue_named(std::string_view name, Right right = Right::any);
// The same without a look at rights; nothing when there is none.
std::optional<Queue> find_queue(std::string_view name);
// The queue with that id, or nothing.
std::optional<Queue> queue_with_id(int32_t queue_id);

// The same, past the cache. A transaction becomes visible before its invalidations go out; whoever must not
// miss a rotation that others have already acted upon reads the row itself.
std::optional<Queue> read_queue_with_id(int32_t queue_id);

// Makes a queue; false when there is one of that name. One that is given logs reads those (log.hpp).
struct LogTable;
bool create_queue(std::string_view name, std::span<const LogTable> logs = {});

// Forgets what is cached: a table that it names has gone.
void forget_queues();

// Counts what has dropped the cache. Whoever has locked a table of a queue compares it with the count from
// before the look-up: where it has changed, the table may be another one's.
uint64_t cache_generation();

} // namespace tasker::stream
