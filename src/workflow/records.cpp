#include "workflow/records.hpp"

#include "queue/lookup.hpp"
#include "queue/record_ids.hpp"

extern "C" {
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

using core::RecordStatus;
using queue::Change;
using queue::Outcome;

struct Changes
{
    TimestampTz now;
    const RecordChange *items;
};

void require_lease(const queue::RecordHead &head, const RecordChange &wanted)
{
    if (head.status == RecordStatus::processing && (!wanted.has_token || head.lease_token == wanted.token))
        return;
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("lease on workflow step %s is lost", text_of(wanted.step)),
            errdetail("Its record " INT64_FORMAT " is %s.", head.id,
                      head.status == RecordStatus::processing ? "claimed under another lease token"
                                                              : core::status_name(head.status).data()),
            errhint("Drop this work: the step has been given to another worker, or finished."));
}

Outcome give_back(const queue::RecordHead &head, const RecordChange &wanted, TimestampTz now, Change &change)
{
    const bool retry = wanted.fate == RecordFate::retry;
    const int64_t position =
        retry ? queue::position_for(head.id, wanted.time > now ? wanted.time : now) : head.position;
    change.set_status(RecordStatus::pending);
    change.set(queue::kPosition, Int64GetDatum(position));
    change.set_null(queue::kLeaseToken);
    change.set_null(queue::kLeaseExpiresAt);
    if (retry)
        change.set(queue::kRetryCount, Int32GetDatum(head.retry_count + 1));
    return {RecordStatus::pending, position, 0};
}

Outcome postpone(const queue::RecordHead &head, const RecordChange &wanted, Change &change)
{
    if (head.status != RecordStatus::pending)
        return {head.status, 0, 0, true};
    const int64_t position = queue::position_for(head.id, wanted.time);
    change.set(queue::kPosition, Int64GetDatum(position));
    return {RecordStatus::pending, position, 0};
}

bool is_claimed_by_caller(RecordFate fate)
{
    return fate != RecordFate::dropped && fate != RecordFate::postponed;
}

Outcome drop(const queue::RecordHead &head, Change &change)
{
    if (head.status == RecordStatus::pending) {
        change.set_status(RecordStatus::cancelled);
        return {RecordStatus::cancelled, 0, 0};
    }
    if (head.status != RecordStatus::processing)
        return {head.status, 0, 0, true};
    change.set_status(RecordStatus::completed);
    return {RecordStatus::completed, 0, 0};
}

Outcome decide(const queue::RecordHead &head, const queue::Target &target, Change &change, void *argument)
{
    const auto &changes = *static_cast<const Changes *>(argument);
    const RecordChange &wanted = changes.items[target.index];
    if (is_claimed_by_caller(wanted.fate))
        require_lease(head, wanted);
    change.set(queue::kChangedAt, TimestampTzGetDatum(changes.now));
    if (wanted.error != 0)
        change.set(queue::kErrorMessage, wanted.error);
    switch (wanted.fate) {
    case RecordFate::completed:
        change.set_status(RecordStatus::completed);
        return {RecordStatus::completed, 0, 0};
    case RecordFate::failed:
        change.set_status(RecordStatus::failed);
        change.set(queue::kRetryCount, Int32GetDatum(head.retry_count + 1));
        return {RecordStatus::failed, 0, 0};
    case RecordFate::lease:
        change.set(queue::kLeaseExpiresAt, TimestampTzGetDatum(wanted.time));
        return {RecordStatus::processing, 0, wanted.time};
    case RecordFate::dropped:
        return drop(head, change);
    case RecordFate::postponed:
        return postpone(head, wanted, change);
    case RecordFate::retry:
    case RecordFate::released:
        break;
    }
    return give_back(head, wanted, changes.now, change);
}

void change_some(TimestampTz now, std::span<RecordChange> changes, queue::Reach reach)
{
    if (changes.empty())
        return;
    auto *ids = static_cast<Datum *>(palloc_extended(sizeof(Datum) * changes.size(), MCXT_ALLOC_HUGE));
    for (size_t i = 0; i < changes.size(); i++)
        ids[i] = Int64GetDatum(changes[i].id);
    Changes argument{now, changes.data()};
    queue::change_records(queue::queue_parent(), queue::sorted_targets({ids, changes.size()}), decide,
                          &argument, reach);
    pfree(ids);
}

Datum payload_of(const core::Uuid &step)
{
    JsonbValue value;
    value.type = jbvString;
    value.val.string.val = const_cast<char *>(text_of(step));
    value.val.string.len = 36;
    return JsonbPGetDatum(JsonbValueToJsonb(&value));
}

} // namespace

void change_step_records(TimestampTz now, std::span<RecordChange> changes)
{
    RecordChange *kept =
        std::partition(changes.data(), changes.data() + changes.size(),
                       [](const RecordChange &change) { return is_claimed_by_caller(change.fate); });
    const auto kept_count = static_cast<size_t>(kept - changes.data());
    change_some(now, changes.first(kept_count), queue::Reach::live);
    change_some(now, changes.subspan(kept_count), queue::Reach::free);
}

queue::PlacedRecord record_of_step(const core::Uuid &step, int32_t flow_id, int16_t priority,
                                   std::optional<TimestampTz> due)
{
    queue::PlacedRecord placed{};
    placed.id = queue::reserve_record_id(queue::queue_parent());
    placed.flow_id = flow_id;
    placed.record.payload = payload_of(step);
    placed.record.priority = priority;
    placed.record.run_at = due;
    return placed;
}

std::optional<core::Uuid> step_of_record(Datum payload)
{
    Jsonb *json = DatumGetJsonbP(payload);
    JsonbValue value;
    if (!JB_ROOT_IS_SCALAR(json) || !JsonbExtractScalar(&json->root, &value) || value.type != jbvString ||
        value.val.string.len != 36)
        return std::nullopt;
    core::Uuid uuid;
    unsigned digits = 0;
    for (int i = 0; i < 36; i++) {
        const char c = value.val.string.val[i];
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash != (c == '-'))
            return std::nullopt;
        if (dash)
            continue;
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            return std::nullopt;
        uint8_t &byte = uuid.bytes[digits / 2];
        byte = static_cast<uint8_t>(byte << 4 | digit);
        digits++;
    }
    return uuid;
}

} // namespace tasker::workflow
