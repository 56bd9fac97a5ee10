// Dead letters: records that failed their last attempt. Brought back one by one or all of a flow, or purged.
//
// No index names the status (an update of it would not be HOT), so finding a flow's dead letters reads the
// flow's records through the lane index: work for an operator, not for a hot path.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/enqueue.hpp"
#include "queue/lookup.hpp"

namespace tasker::queue {
namespace {

using core::RecordStatus;

struct Revival
{
    TimestampTz now;
    bool skip_others; // pass over records that are not failed, instead of an error
};

// Back to pending at the end of the line, with all attempts before it.
Outcome decide_retried(const RecordHead &head, const Target &, Change &change, void *argument)
{
    const auto &revival = *static_cast<const Revival *>(argument);
    if (head.status != RecordStatus::failed) {
        if (revival.skip_others)
            return {head.status, 0, 0, true};
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("record " INT64_FORMAT " has not failed", head.id),
                errdetail("Its status is \"%s\".", core::status_name(head.status).data()),
                errhint("Only dead letters can be retried."));
    }
    const int64_t position = position_for(head.id, revival.now);
    change.set_status(RecordStatus::pending);
    change.set(kPosition, Int64GetDatum(position));
    change.set(kRetryCount, Int32GetDatum(0));
    change.set(kChangedAt, TimestampTzGetDatum(revival.now));
    change.set_null(kLeaseToken);
    change.set_null(kLeaseExpiresAt);
    return {RecordStatus::pending, position, 0};
}

// The ids of a flow's dead letters with at most `most` failed attempts, in this function's memory.
std::span<Datum> failed_ids(const Flow &flow, int32_t most)
{
    static pg::Statement find("select id from tasker.queue_record "
                              "where flow_id = $1 and status = 'f' and retry_count <= $2",
                              {INT4OID, INT4OID});
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    pg::Rows rows = spi.read_latest(find, {flow.flow_id, most});
    auto *ids = static_cast<Datum *>(pg::pg_call(
        [&] { return MemoryContextAllocHuge(memory, sizeof(Datum) * std::max<uint64>(rows.count(), 1)); }));
    for (uint64 i = 0; i < rows.count(); i++)
        ids[i] = Int64GetDatum(rows.i64(i, 1));
    return {ids, static_cast<size_t>(rows.count())};
}

} // namespace

TASKER_FUNCTION(retry_records)
{
    PreventCommandIfReadOnly("tasker.retry_records()");
    std::span<Datum> ids = args.array(0, "record_ids", INT8OID);
    Revival revival{GetCurrentTimestamp(), false};
    return args.result(
        change_records(queue_parent(), sorted_targets(ids), decide_retried, &revival, Reach::revived));
}

TASKER_FUNCTION(reset_failed_records)
{
    PreventCommandIfReadOnly("tasker.reset_failed_records()");
    Flow flow = flow_named(args.name(0, "flow_name"));
    const int32_t most = args.i32(1, "max_retries");
    if (most < 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"max_retries\" must not be negative");
    Revival revival{GetCurrentTimestamp(), true};
    return args.result(change_records(queue_parent(), sorted_targets(failed_ids(flow, most)), decide_retried,
                                      &revival, Reach::revived_if_there));
}

TASKER_FUNCTION(purge_failed_records)
{
    static pg::Statement purge("delete from tasker.queue_record where flow_id = $1 and status = 'f' "
                               "and changed_at <= $2",
                               {INT4OID, TIMESTAMPTZOID});
    PreventCommandIfReadOnly("tasker.purge_failed_records()");
    Flow flow = flow_named(args.name(0, "flow_name"));
    const int64_t age = args.duration_us(1, "older_than");
    const TimestampTz now = GetCurrentTimestamp();
    const TimestampTz before = age < now - MIN_TIMESTAMP ? now - age : MIN_TIMESTAMP;
    pg::Spi spi;
    const uint64 purged = spi.run(purge, {flow.flow_id, pg::Timestamp{before}}).count();
    return args.result(static_cast<int32_t>(std::min<uint64>(purged, PG_INT32_MAX)));
}

} // namespace tasker::queue
