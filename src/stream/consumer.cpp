// Who reads a queue: registering and unregistering consumers.
//
// Two that register, or unregister, the same consumer at once meet at the consumer's row in
// tasker.consumer, which both lock first. So the later one sees what the earlier one has done: it finds the
// subscription there, or gone, and says so by its result.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "stream/rotate_events.hpp"
#include "stream/slots.hpp"
#include "stream/subscription.hpp"
#include "stream/tick.hpp"
#include "stream/wake.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

// The consumer, locked to the end of the transaction; made where it does not exist.
int32_t lock_or_create_consumer(std::string_view name)
{
    static pg::Statement lock("select co_id from tasker.consumer where co_name = $1 for no key update",
                              {TEXTOID});
    static pg::Statement create("insert into tasker.consumer (co_name) values ($1) on conflict do nothing",
                                {TEXTOID});
    for (;;) {
        pg::Spi spi;
        const pg::Rows rows = spi.run_latest(lock, {name});
        if (!rows.empty())
            return rows.i32(0, 1);
        spi.run_latest(create, {name});
    }
}

std::optional<int32_t> lock_consumer(std::string_view name)
{
    static pg::Statement lock("select co_id from tasker.consumer where co_name = $1 for update", {TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.run_latest(lock, {name});
    return rows.empty() ? std::nullopt : std::optional(rows.i32(0, 1));
}

void move_subscription(Subscription subscription, int64_t tick_id)
{
    subscription.last_tick = tick_id;
    subscription.clear_batch();
    append_version(subscription);
}

int64_t first_position(const Queue &queue)
{
    const std::optional<Tick> last = last_tick(queue.queue_id, true);
    if (!last)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "queue \"%s\" has no tick yet", queue.name)
            .hint("Its external ticker has to make one.");
    return last->id;
}

// The queue, kept from being dropped to the end of the transaction.
Queue hold_queue(std::string_view name)
{
    static pg::Statement hold("select queue_id from tasker.queue where queue_id = $1 for key share",
                              {INT4OID});
    for (;;) {
        const Queue queue = queue_named(name);
        if (!pg::Spi().run_latest(hold, {queue.queue_id}).empty())
            return queue;
        pg::check_for_interrupts();
    }
}

// 1 for a new registration, 0 for one that was there.
int32_t register_consumer(std::string_view queue_name, std::string_view consumer,
                          std::optional<int64_t> tick_id)
{
    const Queue queue = hold_queue(queue_name);
    const int32_t consumer_id = lock_or_create_consumer(consumer);
    hold_rotation(queue.queue_id);
    const std::optional<Subscription> there = lock_subscription(queue.queue_id, consumer);
    if (tick_id)
        require_position(queue, *tick_id, there ? there->last_tick : std::nullopt);
    if (there) {
        if (tick_id)
            move_subscription(*there, *tick_id);
        return 0;
    }
    add_subscription(queue.queue_id, consumer_id, tick_id ? *tick_id : first_position(queue));
    return 1;
}

// Subscriptions that go, and the consumer with its last one. The versions stay until their tables are
// emptied.
int32_t remove_subscription(const Subscription &subscription)
{
    static pg::Statement remove("delete from tasker.registration where sub_id = $1", {INT4OID});
    static pg::Statement give_up("delete from tasker.retry_queue where ev_owner = $1", {INT4OID});
    static pg::Statement forget("delete from tasker.consumer where co_id = $1 and not exists "
                                "(select from tasker.registration where sub_consumer = $1)",
                                {INT4OID});
    pg::Spi spi;
    spi.run_latest(give_up, {subscription.sub_id});
    const uint64 removed = spi.run_latest(remove, {subscription.sub_id}).count();
    spi.run_latest(forget, {subscription.consumer_id});
    note_tick(subscription.queue_id); // who waits for it finds out
    return static_cast<int32_t>(removed);
}

} // namespace

// register_consumer(x_queue_name, x_consumer_id)
TASKER_FUNCTION(register_consumer)
{
    return args.result(
        register_consumer(args.text(0, "x_queue_name"), args.name(1, "x_consumer_id"), std::nullopt));
}

// register_consumer_at(x_queue_name, x_consumer_name, x_tick_pos)
TASKER_FUNCTION(register_consumer_at)
{
    return args.result(register_consumer(args.text(0, "x_queue_name"), args.name(1, "x_consumer_name"),
                                         args.optional_i64(2)));
}

// unregister_consumer(x_queue_name, x_consumer_name): the number of subscriptions that went.
TASKER_FUNCTION(unregister_consumer)
{
    const std::optional<Queue> queue = find_queue(args.text(0, "x_queue_name"));
    const std::string_view consumer = args.text(1, "x_consumer_name");
    if (!queue || !lock_consumer(consumer))
        return args.result(int32_t{0});
    const std::optional<Subscription> subscription = lock_subscription(queue->queue_id, consumer);
    return args.result(subscription ? remove_subscription(*subscription) : int32_t{0});
}
