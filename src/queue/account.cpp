// Triggers: accounting for changes of the tables that statements make instead of our functions.
//
// The functions of the queue write queue_record through its access method and note their effects themselves;
// no trigger fires for them. COPY, INSERT, UPDATE and DELETE by an administrator, a restore and logical
// replication go through the executor, and this row trigger notes the same effects.
#include "pg/function.hpp"
#include "queue/enqueue.hpp"
#include "queue/lookup.hpp"
#include "queue/seal.hpp"

namespace tasker::queue {
namespace {

using core::RecordStatus;

TriggerData *trigger_data(FunctionCallInfo fcinfo, const char *function)
{
    if (!CALLED_AS_TRIGGER(fcinfo))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function %s can only be called as a trigger", function);
    return reinterpret_cast<TriggerData *>(fcinfo->context);
}

Effect &effect_of(Oid parent, Relation partition, const RecordHead &head)
{
    return effect_on_lane(parent, head.flow_id, head.priority, RelationGetRelid(partition));
}

void account_gone(Oid parent, Relation partition, const RecordHead &head)
{
    Effect &effect = effect_of(parent, partition, head);
    if (head.status == RecordStatus::pending)
        effect.took_pending(head.position);
    else
        effect.count(head.status, -1);
}

void account_come(Oid parent, Relation partition, const RecordHead &head)
{
    Effect &effect = effect_of(parent, partition, head);
    if (head.status == RecordStatus::pending) {
        effect.became_pending(head.position);
    } else if (head.status == RecordStatus::processing) {
        effect.became_processing(head.claimed_at, head.lease_expires_at);
        effect.lower_done(head.position);
    } else {
        effect.count(head.status, 1);
    }
    // A restored or copied record may carry an id or token ahead of our clock.
    if (SharedState *state = shared_state())
        state->ids.raise(std::max(head.id, head.lease_token));
}

// The value of a column of NEW, or nothing when it is null.
std::optional<Datum> column(HeapTuple row, TupleDesc descriptor, const char *name)
{
    bool null = false;
    const int number = SPI_fnumber(descriptor, name);
    Assert(number > 0);
    Datum value = heap_getattr(row, number, descriptor, &null);
    return null ? std::nullopt : std::optional(value);
}

} // namespace

TASKER_FUNCTION(account_record_change)
{
    TriggerData *trigger = trigger_data(args.call(), "account_record_change");
    const Oid parent = queue_parent();
    Relation partition = trigger->tg_relation;
    unseal(RelationGetRelid(partition));

    // tg_trigslot holds OLD and tg_newslot NEW for an update; an insert or delete has its row in tg_trigslot.
    if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event)) {
        account_come(parent, partition, head_of(trigger->tg_trigslot));
    } else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event)) {
        account_gone(parent, partition, head_of(trigger->tg_trigslot));
    } else {
        account_gone(parent, partition, head_of(trigger->tg_trigslot));
        account_come(parent, partition, head_of(trigger->tg_newslot));
    }
    return PointerGetDatum(nullptr);
}

// After TRUNCATE nothing is right any more; the next user of the state builds it anew, when the truncation
// has committed.
TASKER_FUNCTION(account_truncate)
{
    trigger_data(args.call(), "account_truncate");
    note_truncation(queue_parent());
    return PointerGetDatum(nullptr);
}

TASKER_FUNCTION(account_flow_change)
{
    TriggerData *trigger = trigger_data(args.call(), "account_flow_change");
    CacheInvalidateRelcache(trigger->tg_relation);
    return PointerGetDatum(nullptr);
}

TASKER_FUNCTION(insert_into_processing_queue)
{
    TriggerData *trigger = trigger_data(args.call(), "insert_into_processing_queue");
    PreventCommandIfReadOnly("INSERT into tasker.processing_queue");
    HeapTuple row = trigger->tg_trigtuple;
    TupleDesc descriptor = RelationGetDescr(trigger->tg_relation);

    auto name = column(row, descriptor, "flow_name");
    if (!name)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "column \"flow_name\" must not be null");
    std::string_view flow_name(TextDatumGetCString(*name));
    pg::check_name(flow_name, "flow_name");
    auto payload = column(row, descriptor, "payload");
    if (!payload)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "column \"payload\" must not be null")
            .hint("An empty payload is 'null'::jsonb.");
    if (auto status = column(row, descriptor, "status");
        status && std::string_view(TextDatumGetCString(*status)) != core::status_name(RecordStatus::pending))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "a record can only be inserted with status \"pending\"");

    NewRecord record{};
    record.payload = *payload;
    auto priority = column(row, descriptor, "priority");
    check_priority(priority ? DatumGetInt16(*priority) : kLowestPriority);
    record.priority = priority ? DatumGetInt16(*priority) : static_cast<int16_t>(kLowestPriority);
    auto retries = column(row, descriptor, "retry_count");
    record.retry_count = retries ? std::max(DatumGetInt32(*retries), 0) : 0;
    if (auto run_at = column(row, descriptor, "run_at"))
        record.run_at = DatumGetTimestampTz(*run_at);

    const Flow flow = flow_for_enqueue(flow_name);
    const int64_t id = enqueue_record(flow, record);

    // INSERT … RETURNING sees the id.
    int number = SPI_fnumber(descriptor, "id");
    Datum value = Int64GetDatum(id);
    bool null = false;
    return PointerGetDatum(heap_modify_tuple_by_cols(row, descriptor, 1, &number, &value, &null));
}

} // namespace tasker::queue
