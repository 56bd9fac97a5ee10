// What a worker says of a record it holds: completed, failed, still working, given back; and cancellation.
#include "core/backoff.hpp"
#include "pg/function.hpp"
#include "queue/enqueue.hpp"
#include "queue/failure.hpp"
#include "queue/lookup.hpp"

extern "C" {
#include "common/pg_prng.h"
}

namespace tasker::queue {
namespace {

using core::RecordStatus;

const char *status_word(RecordStatus status)
{
    return core::status_name(status).data();
}

// The array arguments of a call that ends or prolongs claims.
struct LeaseArguments
{
    TimestampTz now;
    int64_t lease_us;
    const Datum *tokens;
    const bool *token_nulls;
    const Datum *results;
    const bool *result_nulls;
};

// A record must be in processing, and under the token where one is given.
void require_lease(const RecordHead &head, bool has_token, int64_t token)
{
    if (head.status != RecordStatus::processing)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("record " INT64_FORMAT " is not in processing", head.id),
                errdetail("Its status is \"%s\".", status_word(head.status)),
                has_token ? errhint("The lease was lost: the record has been given back or finished since.")
                          : 0);
    if (has_token && head.lease_token != token)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("lease on record " INT64_FORMAT " is lost", head.id),
                errdetail("It was claimed again under another lease token."),
                errhint("Drop this work: another worker has the record now."));
}

void require_lease(const RecordHead &head, const LeaseArguments &arguments, int32_t index)
{
    const bool has_token = arguments.tokens != nullptr && !arguments.token_nulls[index];
    require_lease(head, has_token, has_token ? DatumGetInt64(arguments.tokens[index]) : 0);
}

Outcome decide_completed(const RecordHead &head, const Target &target, Change &change, void *argument)
{
    const auto &arguments = *static_cast<const LeaseArguments *>(argument);
    require_lease(head, arguments, target.index);
    change.set_status(RecordStatus::completed);
    change.set(kChangedAt, TimestampTzGetDatum(arguments.now));
    if (arguments.results != nullptr && !arguments.result_nulls[target.index])
        change.set(kResult, arguments.results[target.index]);
    return {RecordStatus::completed, 0, 0};
}

Outcome decide_extended(const RecordHead &head, const Target &target, Change &change, void *argument)
{
    const auto &arguments = *static_cast<const LeaseArguments *>(argument);
    require_lease(head, arguments, target.index);
    const TimestampTz expires_at = lease_end(arguments.now, arguments.lease_us);
    change.set(kLeaseExpiresAt, TimestampTzGetDatum(expires_at));
    return {RecordStatus::processing, 0, expires_at};
}

Outcome decide_released(const RecordHead &head, const Target &, Change &change, void *argument)
{
    const auto &arguments = *static_cast<const LeaseArguments *>(argument);
    require_lease(head, false, 0);
    change.set_status(RecordStatus::pending);
    change.set(kChangedAt, TimestampTzGetDatum(arguments.now));
    change.set_null(kLeaseToken);
    change.set_null(kLeaseExpiresAt);
    return {RecordStatus::pending, head.position, 0};
}

Outcome decide_cancelled(const RecordHead &head, const Target &, Change &change, void *argument)
{
    const auto &arguments = *static_cast<const LeaseArguments *>(argument);
    if (head.status != RecordStatus::pending)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("record " INT64_FORMAT " is not pending", head.id),
                errdetail("Its status is \"%s\".", status_word(head.status)),
                errhint("Only pending records can be cancelled."));
    change.set_status(RecordStatus::cancelled);
    change.set(kChangedAt, TimestampTzGetDatum(arguments.now));
    return {RecordStatus::cancelled, 0, 0};
}

struct FailureArguments
{
    FailurePolicy policy;
    bool has_token;
    int64_t token;
    bool retried;
};

Outcome decide_failed(const RecordHead &head, const Target &, Change &change, void *argument)
{
    auto &arguments = *static_cast<FailureArguments *>(argument);
    require_lease(head, arguments.has_token, arguments.token);
    Outcome outcome = fail_attempt(head, arguments.policy, change);
    arguments.retried = outcome.status == RecordStatus::pending;
    return outcome;
}

// The optional arrays beside record_ids must be as long as it.
void check_length(const std::optional<pg::Args::NullableArray> &array, size_t ids, const char *name)
{
    if (array && array->values.size() != ids)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "argument \"%s\" must have as many elements as record_ids", name)
            .detail("It has %zu, record_ids has %zu.", array->values.size(), ids);
}

LeaseArguments lease_arguments(const std::optional<pg::Args::NullableArray> &tokens,
                               const std::optional<pg::Args::NullableArray> &results)
{
    LeaseArguments arguments{};
    arguments.now = GetCurrentTimestamp();
    if (tokens) {
        arguments.tokens = tokens->values.data();
        arguments.token_nulls = tokens->nulls;
    }
    if (results) {
        arguments.results = results->values.data();
        arguments.result_nulls = results->nulls;
    }
    return arguments;
}

Datum change_array(const pg::Args &args, const char *function, Decide decide)
{
    PreventCommandIfReadOnly(function);
    std::span<Datum> ids = args.array(0, "record_ids", INT8OID);
    LeaseArguments arguments = lease_arguments(std::nullopt, std::nullopt);
    change_records(queue_parent(), sorted_targets(ids), decide, &arguments);
    return args.result(static_cast<int32_t>(ids.size()));
}

} // namespace

TimestampTz lease_end(TimestampTz now, int64_t lease_us)
{
    return lease_us < END_TIMESTAMP - 1 - now ? now + lease_us : END_TIMESTAMP - 1;
}

Outcome fail_attempt(const RecordHead &head, const FailurePolicy &policy, Change &change)
{
    const int32_t attempts = head.retry_count < PG_INT32_MAX ? head.retry_count + 1 : head.retry_count;
    std::optional<Flow> flow = flow_with_id(head.flow_id);
    const int32_t max_attempts = flow ? flow->max_attempts : attempts;
    const core::FailureOutcome verdict = core::outcome_of_failure(attempts, max_attempts);

    change.set(kRetryCount, Int32GetDatum(attempts));
    change.set(kErrorMessage, policy.error);
    change.set(kChangedAt, TimestampTzGetDatum(policy.now));
    if (!verdict.retry) {
        change.set_status(RecordStatus::failed);
        return {RecordStatus::failed, 0, 0};
    }
    const int64_t delay =
        policy.retry_in_us ? *policy.retry_in_us
                           : core::backoff_us(flow->backoff, attempts, pg_prng_double(&pg_global_prng_state));
    const TimestampTz due = lease_end(policy.now, delay);
    const int64_t position = position_for(head.id, due);
    change.set_status(RecordStatus::pending);
    change.set(kPosition, Int64GetDatum(position));
    change.set_null(kLeaseToken);
    change.set_null(kLeaseExpiresAt);
    return {RecordStatus::pending, position, 0};
}

TASKER_FUNCTION(mark_record_completed)
{
    PreventCommandIfReadOnly("tasker.mark_record_completed()");
    Datum id = Int64GetDatum(args.i64(0, "record_id"));
    Datum result = args.is_null(1) ? 0 : args.datum(1);
    Datum token = args.is_null(2) ? 0 : args.datum(2);
    bool result_null = args.is_null(1);
    bool token_null = args.is_null(2);
    LeaseArguments arguments{GetCurrentTimestamp(), 0, &token, &token_null, &result, &result_null};
    change_records(queue_parent(), sorted_targets({&id, 1}), decide_completed, &arguments);
    return args.result(int32_t{1});
}

TASKER_FUNCTION(mark_records_completed)
{
    PreventCommandIfReadOnly("tasker.mark_records_completed()");
    std::span<Datum> ids = args.array(0, "record_ids", INT8OID);
    auto results = args.optional_array(1, "results", JSONBOID);
    auto tokens = args.optional_array(2, "lease_tokens", INT8OID);
    check_length(results, ids.size(), "results");
    check_length(tokens, ids.size(), "lease_tokens");
    LeaseArguments arguments = lease_arguments(tokens, results);
    change_records(queue_parent(), sorted_targets(ids), decide_completed, &arguments);
    return args.result(static_cast<int32_t>(ids.size()));
}

TASKER_FUNCTION(mark_record_failed)
{
    PreventCommandIfReadOnly("tasker.mark_record_failed()");
    Datum id = Int64GetDatum(args.i64(0, "record_id"));
    args.text(1, "error");
    FailureArguments arguments{};
    arguments.policy = {GetCurrentTimestamp(), args.datum(1), args.optional_duration_us(2, "retry_in")};
    arguments.has_token = !args.is_null(3);
    arguments.token = args.optional_i64(3).value_or(0);
    change_records(queue_parent(), sorted_targets({&id, 1}), decide_failed, &arguments);
    return args.result(core::status_name(arguments.retried ? RecordStatus::pending : RecordStatus::failed));
}

TASKER_FUNCTION(extend_lease)
{
    PreventCommandIfReadOnly("tasker.extend_lease()");
    std::span<Datum> ids = args.array(0, "record_ids", INT8OID);
    const int64_t lease_us = args.duration_us(1, "lease");
    auto tokens = args.optional_array(2, "lease_tokens", INT8OID);
    check_length(tokens, ids.size(), "lease_tokens");
    if (lease_us == 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"lease\" must be positive");
    LeaseArguments arguments = lease_arguments(tokens, std::nullopt);
    arguments.lease_us = lease_us;
    change_records(queue_parent(), sorted_targets(ids), decide_extended, &arguments);
    return args.result(static_cast<int32_t>(ids.size()));
}

TASKER_FUNCTION(release_records)
{
    return change_array(args, "tasker.release_records()", decide_released);
}

TASKER_FUNCTION(cancel_records)
{
    return change_array(args, "tasker.cancel_records()", decide_cancelled);
}

} // namespace tasker::queue
