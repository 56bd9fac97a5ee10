// Adding records.
#pragma once

#include "queue/flow.hpp"
#include "queue/record_table.hpp"

namespace tasker::queue {

// One record to add.
struct NewRecord
{
    Datum payload; // jsonb
    int16_t priority = 0;
    int32_t retry_count = 0;
    std::optional<TimestampTz> run_at;
};

// Adds a record under a new id, which it returns, and notifies listeners where the flow asks for it.
int64_t enqueue_record(const Flow &flow, const NewRecord &record);

// A record with its id (reserve_record_ids) and flow.
struct PlacedRecord
{
    int64_t id;
    int32_t flow_id;
    NewRecord record;
};

// Adds records of any flows, in ascending order of their ids, and notifies listeners where a flow asks for
// it. Each flow must be held by flow_for_enqueue(). May ereport.
void add_placed_records(Oid parent, std::span<const PlacedRecord> records);

// Adds a record under the id and returns its position. May ereport.
int64_t add_record(Oid parent, const Flow &flow, int64_t id, const NewRecord &record);

// The position of a record that becomes due at `run_at`: its id when that is past, or not given.
int64_t position_for(int64_t id, std::optional<TimestampTz> run_at);

// The partition that holds, or will hold, the id; made when it does not exist. Opened for writing.
Partition *open_partition_for_new(Oid parent, int64_t id);

// Throws invalid_parameter_value unless 0 <= priority <= 9.
void check_priority(int64_t priority);

// The id of the record that holds the deduplication key when it is live or within its window; else the key is
// given to new_id, and nothing is returned: the caller adds that record in this transaction.
std::optional<int64_t> take_dedup_key(Oid parent, const Flow &flow, std::string_view key,
                                      std::optional<int64_t> window_us, int64_t new_id);

} // namespace tasker::queue
