#include "stream/subscription.hpp"

#include "pg/named_rows.hpp"
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

// A row of tasker.registration, under a name that is unique: "queue id/consumer".
struct Registration
{
    int32_t sub_key;
    int32_t sub_id;
    int32_t queue_id;
    int32_t consumer_id;
    char name[12 + kMaxNameBytes + 1];
};

pg::NamedRows<Registration, &Registration::sub_key> registrations("registration");
pg::TableWatch consumers("consumer"); // a name may change

struct RegisteredName
{
    char text[sizeof(Registration::name)] = {};

    RegisteredName(int32_t queue_id, std::string_view consumer)
    {
        snprintf(text, sizeof(text), "%d/%.*s", queue_id, static_cast<int>(consumer.size()), consumer.data());
    }
};

void prepare_cache()
{
    if (!consumers.holds()) {
        registrations.watch().forget();
        consumers.begin();
    }
    registrations.begin();
}

#define SELECT_REGISTRATION                                                                                  \
    "select r.sub_key, r.sub_id, r.sub_queue, r.sub_consumer, c.co_name from tasker.registration r "         \
    "join tasker.consumer c on c.co_id = r.sub_consumer where "

Registration registration_of(const pg::Rows &rows, uint64 row)
{
    Registration found{rows.i32(row, 1), rows.i32(row, 2), rows.i32(row, 3), rows.i32(row, 4), {}};
    const RegisteredName name(found.queue_id, rows.text(row, 5));
    std::copy(std::begin(name.text), std::end(name.text), found.name);
    registrations.keep(found);
    return found;
}

std::optional<Registration> read_registration(pg::Statement &query, std::initializer_list<pg::Param> key)
{
    prepare_cache();
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, key);
    return rows.empty() ? std::nullopt : std::optional(registration_of(rows, 0));
}

std::optional<Registration> find_registration(int32_t sub_key)
{
    static pg::Statement query(SELECT_REGISTRATION "r.sub_key = $1", {INT4OID});
    if (const Registration *known = consumers.holds() ? registrations.find(sub_key) : nullptr)
        return *known;
    return read_registration(query, {sub_key});
}

std::optional<Registration> find_registration(int32_t queue_id, std::string_view consumer)
{
    static pg::Statement query(SELECT_REGISTRATION "r.sub_queue = $1 and c.co_name = $2", {INT4OID, TEXTOID});
    if (consumer.size() > kMaxNameBytes)
        return std::nullopt;
    const RegisteredName name(queue_id, consumer);
    if (const Registration *known =
            consumers.holds() ? registrations.find(std::string_view(name.text)) : nullptr)
        return *known;
    return read_registration(query, {queue_id, consumer});
}

// Its newest version.
Subscription subscription_of(const Registration &registration)
{
    Subscription subscription{registration.sub_key,
                              registration.sub_id,
                              registration.queue_id,
                              registration.consumer_id,
                              0,
                              0,
                              {},
                              {},
                              {},
                              {},
                              {}};
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
    const std::optional<Registration> registration = find_registration(sub_key);
    return registration ? std::optional(subscription_of(*registration)) : std::nullopt;
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
    require_right_on(right, queue_id);
    const std::optional<Registration> registration = find_registration(queue_id, consumer);
    if (!registration)
        return std::nullopt;
    lock_key(registration->sub_key);
    return read_subscription(registration->sub_key);
}

namespace {

// Whose batch is it? The caller's right is asked for once it is known whose.
std::optional<Subscription> find_batch_of(const Registration &registration, int64_t batch_id, bool lock,
                                          Right right)
{
    const bool permitted = may(right, registration.queue_id);
    if (lock && permitted)
        lock_key(registration.sub_key);
    const std::optional<Subscription> found =
        lock && permitted ? read_subscription(registration.sub_key) : subscription_of(registration);
    if (!found || found->batch != batch_id)
        return std::nullopt;
    if (!permitted)
        require_right_on(right, found->queue_id);
    return found;
}

} // namespace

std::optional<Subscription> find_batch(int64_t batch_id, bool lock, Right right)
{
    static pg::Statement query(SELECT_REGISTRATION "r.sub_key & 1048575 = $1 and r.sub_key > $1", {INT4OID});
    static_assert((1 << kKeyBits) - 1 == 1048575);
    const auto low_bits = static_cast<int32_t>(batch_id & ((1 << kKeyBits) - 1));
    if (const std::optional<Registration> first = find_registration(low_bits)) {
        if (std::optional<Subscription> found = find_batch_of(*first, batch_id, lock, right))
            return found;
    }
    prepare_cache();
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {low_bits});
    for (uint64 i = 0; i < rows.count(); i++) {
        if (std::optional<Subscription> found =
                find_batch_of(registration_of(rows, i), batch_id, lock, right))
            return found;
    }
    return std::nullopt;
}

void append_version(Subscription &subscription, std::optional<TimestampTz> active)
{
    const Slots slots = current_slots();
    const Oid table = slots.subscriptions[hold_subscriptions()];
    subscription.version++;
    subscription.active = active.value_or(GetCurrentTransactionStartTimestamp());
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
