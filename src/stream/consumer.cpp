// Who reads a queue: registering and unregistering consumers.
//
// Two that register, or unregister, the same consumer at once meet at the consumer's row in
// tasker.consumer, which both lock first. So the later one sees what the earlier one has done: it finds the
// subscription there, or gone, and says so by its result.
#include "stream/consumer.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "stream/coop.hpp"
#include "stream/restore.hpp"
#include "stream/rotate_events.hpp"
#include "stream/slots.hpp"
#include "stream/tick.hpp"
#include "stream/wake_notes.hpp"

namespace tasker::stream {

bool has_consumers(int32_t queue_id)
{
    static pg::Statement query("select from tasker.registration where sub_queue = $1 limit 1", {INT4OID});
    pg::Spi spi;
    return !spi.read_latest(query, {queue_id}).empty();
}

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

namespace {

void move_subscription(Subscription subscription, int64_t tick_id)
{
    subscription.last_tick = tick_id;
    subscription.clear_batch();
    append_version(subscription);
}

// Nobody ticks a log's queue while it has no consumer, so the first one has a tick made; it gets what this
// transaction writes, too.
int64_t first_position(const Queue &queue)
{
    if (queue.has_log && !queue.external_ticker && !queue.ticker_paused) {
        require_restored();
        lock_ticks(queue.queue_id);
        return make_tick(queue, sequence_value(queue.event_sequence));
    }
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

// A member of a cooperative consumer has no position of its own.
void require_position_of_own(const Subscription &subscription, std::string_view consumer)
{
    if (subscription.is_member())
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "consumer \"%.*s\" is a member of a cooperative consumer",
                        static_cast<int>(consumer.size()), consumer.data())
            .hint("Its position is that of the consumer.");
}

} // namespace

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
        if (tick_id) {
            require_position_of_own(*there, consumer);
            move_subscription(*there, *tick_id);
        }
        return 0;
    }
    add_subscription(queue.queue_id, consumer_id, tick_id ? *tick_id : first_position(queue));
    if (queue.has_log)
        note_reader(queue.queue_id);
    return 1;
}

void remove_registration(const Subscription &subscription)
{
    static pg::Statement remove("delete from tasker.registration where sub_key = $1", {INT4OID});
    // Apart from what follows, which so sees whoever has registered the consumer on another queue meanwhile.
    static pg::Statement lock("select from tasker.consumer where co_id = $1 for update", {INT4OID});
    static pg::Statement forget("delete from tasker.consumer where co_id = $1 and not exists "
                                "(select from tasker.registration where sub_consumer = $1)",
                                {INT4OID});
    pg::Spi spi;
    spi.run_latest(remove, {subscription.sub_key});
    spi.run_latest(lock, {subscription.consumer_id});
    spi.run_latest(forget, {subscription.consumer_id});
    note_unregistered(); // who waits for it finds out
}

namespace {

// A consumer goes with its members.
int32_t remove_subscription(const Subscription &subscription)
{
    static pg::Statement give_up("delete from tasker.retry_queue where ev_owner = $1", {INT4OID});
    pg::ContextResource memory;
    const pg::Vector<int32_t> members = members_of(subscription.sub_key, memory);
    pg::Spi().run_latest(give_up, {subscription.sub_id});
    for (const int32_t key : members) {
        if (const std::optional<Subscription> member = read_subscription(key))
            remove_registration(*member);
    }
    remove_registration(subscription);
    return static_cast<int32_t>(members.size()) + 1;
}

int32_t remove_member(const Subscription &member, std::string_view consumer)
{
    if (member.batch)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "consumer \"%.*s\" has an open batch",
                        static_cast<int>(consumer.size()), consumer.data())
            .detail("It is a member of a cooperative consumer, and nobody else would get the batch.")
            .hint("Finish the batch, or use tasker.unregister_subconsumer() with batch_handling = 1.");
    remove_registration(member);
    return 1;
}

// The keys of its members are locked before its own: see coop.hpp.
void lock_members_of(int32_t queue_id, int32_t consumer_id)
{
    static pg::Statement query("select sub_key from tasker.registration where sub_queue = $1 and "
                               "sub_consumer = $2 and sub_id = sub_key",
                               {INT4OID, INT4OID});
    pg::ContextResource memory;
    std::optional<int32_t> key;
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(query, {queue_id, consumer_id});
        if (!rows.empty())
            key = rows.i32(0, 1);
    }
    if (!key)
        return;
    for (const int32_t member : members_of(*key, memory))
        lock_key(member);
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

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
    const std::optional<int32_t> consumer_id = queue ? lock_consumer(consumer) : std::nullopt;
    if (!consumer_id)
        return args.result(int32_t{0});
    lock_members_of(queue->queue_id, *consumer_id);
    const std::optional<Subscription> subscription = lock_subscription(queue->queue_id, consumer);
    if (!subscription)
        return args.result(int32_t{0});
    return args.result(subscription->is_member() ? remove_member(*subscription, consumer)
                                                 : remove_subscription(*subscription));
}
