#include "stream/subscription.hpp"

#include "pg/spi.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::stream {
namespace {

// Columns of tasker.subscription_0..2, counted from 0.
enum VersionColumn
{
    kKey,
    kVersion,
    kLastTick,
    kActive,
    kBatch,
    kNextTick,
    kAcked,
    kHanded
};

#define REGISTRATION "select r.sub_key, r.sub_id, r.sub_queue, r.sub_consumer from tasker.registration r "

// A registration and its newest version; nothing when `rows` is empty.
std::optional<Subscription> subscription_of(const pg::Rows &rows, uint64 row)
{
    if (row >= rows.count())
        return std::nullopt;
    Subscription subscription{
        rows.i32(row, 1), rows.i32(row, 2), rows.i32(row, 3), rows.i32(row, 4), 0, 0, {}, {}, {}, {}, {}};
    const std::optional<SlotRow> version =
        find_row(current_slots().subscriptions, subscription.sub_key, Seek::last);
    if (!version)
        throw pg::Error(ERRCODE_DATA_CORRUPTED, "subscription %d has no version", subscription.sub_key)
            .hint("tasker.register_consumer_at() gives it a position.");
    subscription.version = version->i64(kVersion);
    subscription.active = version->i64(kActive);
    subscription.last_tick = version->optional_i64(kLastTick);
    subscription.batch = version->optional_i64(kBatch);
    subscription.next_tick = version->optional_i64(kNextTick);
    subscription.acked = version->optional_i64(kAcked);
    subscription.handed = version->optional_i64(kHanded);
    return subscription;
}

} // namespace

std::optional<Subscription> read_subscription(int32_t sub_key)
{
    static pg::Statement query(REGISTRATION "where r.sub_key = $1", {INT4OID});
    pg::Spi spi;
    return subscription_of(spi.read_latest(query, {sub_key}), 0);
}

namespace {

// Asked before anything is locked: a stranger must not hold up a consumer.
void require_right_on(Right right, int32_t queue_id)
{
    if (may(right, queue_id))
        return;
    const std::optional<Queue> queue = queue_with_id(queue_id);
    require_right(right, queue_id, queue ? queue->name : "");
}

} // namespace

// Between the look and the lock it may have been unregistered, so it is read after the lock.
std::optional<Subscription> lock_subscription(int32_t queue_id, std::string_view consumer, Right right)
{
    static pg::Statement query("select r.sub_key from tasker.registration r join tasker.consumer c "
                               "on c.co_id = r.sub_consumer where r.sub_queue = $1 and c.co_name = $2",
                               {INT4OID, TEXTOID});
    int32_t sub_key = 0;
    require_right_on(right, queue_id);
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(query, {queue_id, consumer});
        if (rows.empty())
            return std::nullopt;
        sub_key = rows.i32(0, 1);
    }
    lock_key(sub_key);
    return read_subscription(sub_key);
}

std::optional<Subscription> find_batch(int64_t batch_id, bool lock, Right right)
{
    static pg::Statement query(REGISTRATION "where r.sub_key & 1048575 = $1", {INT4OID});
    static_assert((1 << kKeyBits) - 1 == 1048575);
    const auto low_bits = static_cast<int32_t>(batch_id & ((1 << kKeyBits) - 1));
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {low_bits});
    for (uint64 i = 0; i < rows.count(); i++) {
        const bool permitted = may(right, rows.i32(i, 3));
        if (lock && permitted)
            lock_key(rows.i32(i, 1));
        const std::optional<Subscription> found =
            lock && permitted ? read_subscription(rows.i32(i, 1)) : subscription_of(rows, i);
        if (!found || found->batch != batch_id)
            continue;
        if (!permitted)
            require_right_on(right, found->queue_id);
        return found;
    }
    return std::nullopt;
}

void append_version(Subscription &subscription)
{
    const Slots slots = current_slots();
    const Oid table = slots.subscriptions[hold_subscriptions()];
    subscription.version++;
    subscription.active = GetCurrentTransactionStartTimestamp();
    append_row(
        table,
        {Int32GetDatum(subscription.sub_key), Int64GetDatum(subscription.version),
         Int64GetDatum(subscription.last_tick.value_or(0)), TimestampTzGetDatum(subscription.active),
         Int64GetDatum(subscription.batch.value_or(0)), Int64GetDatum(subscription.next_tick.value_or(0)),
         Int64GetDatum(subscription.acked.value_or(0)), Int64GetDatum(subscription.handed.value_or(0))},
        {false, false, !subscription.last_tick, false, !subscription.batch, !subscription.next_tick,
         !subscription.acked, !subscription.handed});
}

Subscription add_subscription(int32_t queue_id, int32_t consumer_id, std::optional<int64_t> last_tick,
                              std::optional<int32_t> sub_id)
{
    static pg::Statement insert(
        "with k as (select pg_catalog.nextval('tasker.registration_sub_key_seq')::integer as key) "
        "insert into tasker.registration (sub_key, sub_id, sub_queue, sub_consumer) "
        "select key, coalesce($3, key), $1, $2 from k returning sub_key, sub_id",
        {INT4OID, INT4OID, INT4OID});
    Subscription subscription{};
    {
        pg::Spi spi;
        const pg::Rows rows = spi.run_latest(insert, {queue_id, consumer_id, sub_id});
        subscription.sub_key = rows.i32(0, 1);
        subscription.sub_id = rows.i32(0, 2);
    }
    subscription.queue_id = queue_id;
    subscription.consumer_id = consumer_id;
    subscription.last_tick = last_tick;
    lock_key(subscription.sub_key);
    append_version(subscription);
    return subscription;
}

int64_t new_batch_id(int32_t sub_key)
{
    const int64_t sequence = pg::pg_call([] {
        return nextval_internal(get_relname_relid("batch_id_seq", get_namespace_oid("tasker", false)), false);
    });
    return (sequence << kKeyBits) | (sub_key & ((1 << kKeyBits) - 1));
}

} // namespace tasker::stream
