#include "queue/record_ids.hpp"

#include "core/record_id.hpp"
#include "pg/function.hpp"
#include "queue/shared_state.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::queue {
namespace {

int64_t now_us()
{
    return pg::unix_us_of_timestamp(GetCurrentTimestamp());
}

// Unique by the sequence's low bits; moved to a later millisecond where the clock has stepped back, so that
// ids still grow in this session.
int64_t id_from_sequence()
{
    static int64_t last = 0;
    Oid schema = get_namespace_oid("tasker", false);
    Oid sequence = get_relname_relid("record_id_seq", schema);
    int64_t value = nextval_internal(sequence, false);
    int64_t id = core::sequence_based_id(now_us(), value);
    if (id <= last) {
        id = core::sequence_based_id(core::unix_us_of(last), value);
        if (id <= last)
            id = core::sequence_based_id(core::unix_us_of(last) + 1000, value);
    }
    return last = id;
}

} // namespace

void reserve_record_ids(Oid parent, std::span<int64_t> ids)
{
    if (core::RecordIdClock *clock = id_clock(parent)) {
        int64_t first = clock->reserve(static_cast<int64_t>(ids.size()), now_us());
        if (first == core::kNoRecordId)
            ereport(ERROR, errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
                    errmsg("no record ids are left"),
                    errdetail("Ids end in the year 2248, and the clock or an id in the table is there."));
        for (int64_t &id : ids)
            id = first++;
        return;
    }
    for (int64_t &id : ids)
        id = id_from_sequence();
}

int64_t reserve_record_id(Oid parent)
{
    int64_t id = 0;
    reserve_record_ids(parent, {&id, 1});
    return id;
}

TASKER_FUNCTION(next_record_id)
{
    return args.result(reserve_record_id(queue_parent()));
}

TASKER_FUNCTION(record_id_time)
{
    int64_t us = core::unix_us_of(args.i64(0, "record_id"));
    // A position beyond what timestamptz can hold is one that never becomes due.
    TimestampTz time = pg::timestamp_of_unix_us(us);
    if (!IS_VALID_TIMESTAMP(time))
        time = DT_NOEND;
    return TimestampTzGetDatum(time);
}

} // namespace tasker::queue
