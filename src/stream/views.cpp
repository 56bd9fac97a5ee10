// The INSTEAD OF triggers of tasker.subscription and tasker.tick, which make them behave as PgQ's tables.
//
// A change of a subscription is one more version, made under the subscription's lock. The statement has read
// the row before the lock was to be had, so the row is read again: one that is gone by then is skipped, as
// READ COMMITTED does, and one that has changed is a serialization failure: its WHERE clause would have to be
// asked anew, which a trigger cannot do.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "stream/rotate_events.hpp"
#include "stream/slots.hpp"
#include "stream/subscription.hpp"
#include "stream/tick.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

// A row of the view that the trigger was fired for.
class ViewRow
{
  public:
    ViewRow(HeapTuple tuple, TupleDesc descriptor) : tuple_(tuple), descriptor_(descriptor) {}

    std::optional<Datum> get(int column) const
    {
        bool null = false;
        const Datum value = heap_getattr(tuple_, column, descriptor_, &null);
        return null ? std::nullopt : std::optional(value);
    }
    Datum required(int column) const
    {
        if (const std::optional<Datum> value = get(column))
            return *value;
        throw pg::Error(ERRCODE_NOT_NULL_VIOLATION,
                        "null value in column \"%s\" violates not-null constraint",
                        NameStr(TupleDescAttr(descriptor_, column - 1)->attname));
    }
    int32_t i32(int column) const { return DatumGetInt32(required(column)); }
    int64_t i64(int column) const { return DatumGetInt64(required(column)); }
    std::optional<int64_t> optional_i64(int column) const
    {
        const std::optional<Datum> value = get(column);
        return value ? std::optional(DatumGetInt64(*value)) : std::nullopt;
    }
    HeapTuple tuple() const { return tuple_; }
    HeapTuple with(int column, Datum value) const
    {
        bool null = false;
        return pg::pg_call(
            [&] { return heap_modify_tuple_by_cols(tuple_, descriptor_, 1, &column, &value, &null); });
    }

  private:
    HeapTuple tuple_;
    TupleDesc descriptor_;
};

struct Change
{
    TriggerEvent event;
    ViewRow before; // of an insert: the new row
    ViewRow after;  // of a delete: the old row
};

Change change_of(const pg::Args &args, const char *view)
{
    const auto *trigger = reinterpret_cast<TriggerData *>(args.call()->context);
    if (!CALLED_AS_TRIGGER(args.call()) || !TRIGGER_FIRED_INSTEAD(trigger->tg_event) ||
        strcmp(RelationGetRelationName(trigger->tg_relation), view) != 0)
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "the function is for INSTEAD OF triggers of view \"%s\" only", view);
    TupleDesc descriptor = RelationGetDescr(trigger->tg_relation);
    HeapTuple after =
        TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
    return {trigger->tg_event, {trigger->tg_trigtuple, descriptor}, {after, descriptor}};
}

[[noreturn]] void changed_meanwhile(const char *view)
{
    throw pg::Error(ERRCODE_T_R_SERIALIZATION_FAILURE,
                    "could not serialize access to \"%s\" due to concurrent update", view)
        .hint("Repeat the statement.");
}

// The queue, kept from being dropped to the end of the transaction.
Queue hold_queue(int32_t queue_id)
{
    static pg::Statement hold("select from tasker.queue where queue_id = $1 for key share", {INT4OID});
    const bool exists = !pg::Spi().run_latest(hold, {queue_id}).empty();
    const std::optional<Queue> queue = exists ? queue_with_id(queue_id) : std::nullopt;
    if (!queue)
        throw pg::Error(ERRCODE_FOREIGN_KEY_VIOLATION, "queue %d does not exist", queue_id);
    return *queue;
}

// --- tasker.subscription --------------------------------------------------------------------------------

constexpr const char *kSubscription = "subscription";

enum SubscriptionColumn
{
    kSubId = 1,
    kSubQueue,
    kSubConsumer,
    kSubLastTick,
    kSubActive,
    kSubBatch,
    kSubNextTick
};

std::optional<int32_t> key_of(const ViewRow &row)
{
    static pg::Statement query("select sub_key from tasker.registration where sub_queue = $1 and "
                               "sub_consumer = $2 and sub_id = $3",
                               {INT4OID, INT4OID, INT4OID});
    pg::Spi spi;
    const pg::Rows rows =
        spi.read_latest(query, {row.i32(kSubQueue), row.i32(kSubConsumer), row.i32(kSubId)});
    return rows.empty() ? std::nullopt : std::optional(rows.i32(0, 1));
}

// The subscription that the statement has read, locked; nothing when it is gone.
std::optional<Subscription> lock_row(const ViewRow &row)
{
    const std::optional<int32_t> key = key_of(row);
    if (!key)
        return std::nullopt;
    lock_key(*key);
    const std::optional<Subscription> now = read_subscription(*key);
    if (now &&
        (now->last_tick != row.optional_i64(kSubLastTick) || now->batch != row.optional_i64(kSubBatch) ||
         now->next_tick != row.optional_i64(kSubNextTick) || now->active != row.i64(kSubActive)))
        changed_meanwhile("tasker.subscription");
    return now;
}

// A batch is found by its id without an index, because the id names its subscription (new_batch_id).
void require_batch_of(int32_t sub_key, int64_t batch_id)
{
    constexpr int64_t kMask = (1 << kKeyBits) - 1;
    if ((batch_id & kMask) == (sub_key & kMask))
        return;
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                    "batch " INT64_FORMAT " cannot be one of this subscription", batch_id)
        .detail("The id of a batch ends with the low %d bits of its subscription's key, %d.", kKeyBits,
                sub_key)
        .hint("tasker.next_batch() opens a batch.");
}

// Takes over what the new row says, and checks that all of it exists.
void take_position(const Queue &queue, const ViewRow &row, Subscription &subscription)
{
    const std::optional<int64_t> present = subscription.last_tick;
    subscription.last_tick = row.optional_i64(kSubLastTick);
    subscription.next_tick = row.optional_i64(kSubNextTick);
    if (subscription.batch != row.optional_i64(kSubBatch)) {
        subscription.acked = subscription.handed = std::nullopt;
        subscription.batch = row.optional_i64(kSubBatch);
        if (subscription.batch)
            require_batch_of(subscription.sub_key, *subscription.batch);
    }
    if (subscription.last_tick && subscription.last_tick != present) {
        hold_rotation(queue.queue_id);
        require_position(queue, *subscription.last_tick, present);
    }
    if (subscription.next_tick && !find_tick(queue.queue_id, *subscription.next_tick, true))
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "tick " INT64_FORMAT " of queue \"%s\" does not exist",
                        *subscription.next_tick, queue.name);
}

// A sub_id that is given names the consumer that the new one is a member of, if there is one; else it becomes
// its own.
Subscription insert_registration(const ViewRow &row)
{
    static pg::Statement insert(
        "with k as (select case when $3 is null or exists (select from tasker.registration where sub_key = "
        "$3) "
        "  then pg_catalog.nextval('tasker.registration_sub_key_seq')::integer else $3 end as key) "
        "insert into tasker.registration (sub_key, sub_id, sub_queue, sub_consumer) "
        "select key, coalesce($3, key), $1, $2 from k returning sub_key, sub_id",
        {INT4OID, INT4OID, INT4OID});
    const std::optional<Datum> given = row.get(kSubId);
    Subscription subscription{};
    subscription.queue_id = row.i32(kSubQueue);
    subscription.consumer_id = row.i32(kSubConsumer);
    pg::Spi spi;
    const pg::Rows rows =
        spi.run_latest(insert, {subscription.queue_id, subscription.consumer_id,
                                given ? pg::Param(DatumGetInt32(*given)) : pg::Param::none()});
    subscription.sub_key = rows.i32(0, 1);
    subscription.sub_id = rows.i32(0, 2);
    return subscription;
}

void require_consumer(int32_t consumer_id)
{
    static pg::Statement hold("select from tasker.consumer where co_id = $1 for key share", {INT4OID});
    if (pg::Spi().run_latest(hold, {consumer_id}).empty())
        throw pg::Error(ERRCODE_FOREIGN_KEY_VIOLATION, "consumer %d does not exist", consumer_id);
}

HeapTuple insert_subscription(const ViewRow &row)
{
    const Queue queue = hold_queue(row.i32(kSubQueue));
    require_consumer(row.i32(kSubConsumer));
    const TimestampTz active = row.i64(kSubActive);
    Subscription subscription = insert_registration(row);
    raise_sequence(pg::pg_call([] {
                       return get_relname_relid("registration_sub_key_seq",
                                                get_namespace_oid("tasker", false));
                   }),
                   subscription.sub_key);
    lock_key(subscription.sub_key);
    take_position(queue, row, subscription);
    append_version(subscription, active);
    return row.with(kSubId, Int32GetDatum(subscription.sub_id));
}

HeapTuple update_subscription(const Change &change)
{
    for (const int column : {kSubId, kSubQueue, kSubConsumer}) {
        if (change.before.i32(column) != change.after.i32(column))
            throw pg::Error(
                ERRCODE_FEATURE_NOT_SUPPORTED,
                "the columns \"sub_id\", \"sub_queue\" and \"sub_consumer\" of a subscription cannot "
                "be changed")
                .hint("Delete the subscription, and insert another one.");
    }
    const TimestampTz active = change.after.i64(kSubActive);
    std::optional<Subscription> subscription = lock_row(change.before);
    if (!subscription)
        return nullptr;
    take_position(hold_queue(subscription->queue_id), change.after, *subscription);
    append_version(*subscription, active);
    return change.after.tuple();
}

// The row only, as it is with a table: the consumer stays, and members of a cooperative one do. Events that
// were to come again to nobody else go with it.
HeapTuple delete_subscription(const ViewRow &row)
{
    static pg::Statement remove("delete from tasker.registration where sub_key = $1", {INT4OID});
    static pg::Statement give_up("delete from tasker.retry_queue where ev_owner = $1 and not exists "
                                 "(select from tasker.registration where sub_id = $1)",
                                 {INT4OID});
    const std::optional<Subscription> subscription = lock_row(row);
    if (!subscription)
        return nullptr;
    pg::Spi spi;
    spi.run_latest(remove, {subscription->sub_key});
    spi.run_latest(give_up, {subscription->sub_id});
    return row.tuple();
}

// --- tasker.tick ----------------------------------------------------------------------------------------

enum TickColumn
{
    kTickQueue = 1,
    kTickId,
    kTickTime,
    kTickSnapshot,
    kTickEventSeq
};

// Its queue's ticks, locked: nobody makes one meanwhile, and none is emptied away.
Queue lock_ticks_of(const ViewRow &row)
{
    const Queue queue = hold_queue(row.i32(kTickQueue));
    lock_ticks(queue.queue_id);
    pin_ticks();
    return queue;
}

void require_new_id(const Queue &queue, int64_t tick_id)
{
    if (find_tick(queue.queue_id, tick_id))
        throw pg::Error(ERRCODE_UNIQUE_VIOLATION, "tick " INT64_FORMAT " of queue \"%s\" exists already",
                        tick_id, queue.name);
}

HeapTuple insert_tick(const ViewRow &row)
{
    const Queue queue = lock_ticks_of(row);
    require_new_id(queue, row.i64(kTickId));
    Datum values[kSlotColumns] = {};
    bool nulls[kSlotColumns] = {};
    for (int column = kTickQueue; column <= kTickEventSeq; column++)
        values[column - 1] = row.required(column);
    const Slots slots = current_slots();
    append_row(slots.ticks[hold_ticks()], values, nulls);
    raise_sequence(queue.tick_sequence, row.i64(kTickId)); // ticks to come have greater ids
    return row.tuple();
}

// The table that holds the row as the statement has read it; nothing when it is gone.
std::optional<int32_t> table_of_tick(const ViewRow &row)
{
    static pg::Statement same("select $1::text = $2::text", {TXID_SNAPSHOTOID, TXID_SNAPSHOTOID});
    const std::optional<SlotRow> found =
        find_row(current_slots().ticks, row.i32(kTickQueue), Seek::equal, row.i64(kTickId));
    if (!found)
        return std::nullopt;
    pg::Spi spi;
    const bool is_same = found->i64(kTickTime - 1) == row.i64(kTickTime) &&
                         found->i64(kTickEventSeq - 1) == row.i64(kTickEventSeq) &&
                         spi.run(same, {pg::Param::of_datum(found->values[kTickSnapshot - 1]),
                                        pg::Param::of_datum(row.required(kTickSnapshot))})
                             .boolean(0, 1);
    if (!is_same)
        changed_meanwhile("tasker.tick");
    return found->slot;
}

HeapTuple update_tick(const Change &change)
{
#define UPDATE_TICK(table)                                                                                   \
    {                                                                                                        \
        "update tasker.tick_" #table " set tick_id = $3, tick_time = $4, tick_snapshot = $5, "               \
        "tick_event_seq = $6 where tick_queue = $1 and tick_id = $2",                                        \
        {                                                                                                    \
            INT4OID, INT8OID, INT8OID, TIMESTAMPTZOID, TXID_SNAPSHOTOID, INT8OID                             \
        }                                                                                                    \
    }
    static pg::Statement update[kTables] = {UPDATE_TICK(0), UPDATE_TICK(1), UPDATE_TICK(2)};
    if (change.before.i32(kTickQueue) != change.after.i32(kTickQueue))
        throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED,
                        "the column \"tick_queue\" of a tick cannot be changed");
    const Queue queue = lock_ticks_of(change.before);
    const std::optional<int32_t> table = table_of_tick(change.before);
    if (!table)
        return nullptr;
    if (change.before.i64(kTickId) != change.after.i64(kTickId))
        require_new_id(queue, change.after.i64(kTickId));
    pg::Spi().run_latest(update[*table],
                         {queue.queue_id, change.before.i64(kTickId), change.after.i64(kTickId),
                          pg::Timestamp{change.after.i64(kTickTime)},
                          pg::Param::of_datum(change.after.required(kTickSnapshot)),
                          change.after.i64(kTickEventSeq)});
    raise_sequence(queue.tick_sequence, change.after.i64(kTickId));
    return change.after.tuple();
}

HeapTuple delete_tick(const ViewRow &row)
{
#define DELETE_TICK(table)                                                                                   \
    {                                                                                                        \
        "delete from tasker.tick_" #table " where tick_queue = $1 and tick_id = $2",                         \
        {                                                                                                    \
            INT4OID, INT8OID                                                                                 \
        }                                                                                                    \
    }
    static pg::Statement remove[kTables] = {DELETE_TICK(0), DELETE_TICK(1), DELETE_TICK(2)};
    const Queue queue = lock_ticks_of(row);
    const std::optional<int32_t> table = table_of_tick(row);
    if (!table)
        return nullptr;
    pg::Spi().run_latest(remove[*table], {queue.queue_id, row.i64(kTickId)});
    return row.tuple();
}

} // namespace

TASKER_FUNCTION(change_subscription)
{
    const Change change = change_of(args, kSubscription);
    HeapTuple result = TRIGGER_FIRED_BY_INSERT(change.event)   ? insert_subscription(change.after)
                       : TRIGGER_FIRED_BY_UPDATE(change.event) ? update_subscription(change)
                                                               : delete_subscription(change.before);
    return PointerGetDatum(result);
}

TASKER_FUNCTION(change_tick)
{
    const Change change = change_of(args, "tick");
    HeapTuple result = TRIGGER_FIRED_BY_INSERT(change.event)   ? insert_tick(change.after)
                       : TRIGGER_FIRED_BY_UPDATE(change.event) ? update_tick(change)
                                                               : delete_tick(change.before);
    return PointerGetDatum(result);
}
