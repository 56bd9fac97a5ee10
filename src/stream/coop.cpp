#include "stream/coop.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "stream/consumer.hpp"
#include "stream/receive.hpp"
#include "stream/restore.hpp"
#include "stream/retry.hpp"
#include "stream/wake.hpp"

namespace tasker::stream {
namespace {

void check_part(std::string_view name, const char *what)
{
    pg::check_name(name, what);
    if (name.find('.') != std::string_view::npos)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not contain a dot", what)
            .detail("A member is registered as \"consumer.subconsumer\".");
}

struct Registration
{
    int32_t sub_key;
    int32_t sub_id;
};

// What is registered under that name, without a lock.
std::optional<Registration> find_registration(int32_t queue_id, std::string_view name)
{
    static pg::Statement query("select r.sub_key, r.sub_id from tasker.registration r join tasker.consumer c "
                               "on c.co_id = r.sub_consumer where r.sub_queue = $1 and c.co_name = $2",
                               {INT4OID, TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue_id, name});
    return rows.empty() ? std::nullopt : std::optional(Registration{rows.i32(0, 1), rows.i32(0, 2)});
}

bool has_members(int32_t sub_key)
{
    static pg::Statement query("select from tasker.registration where sub_id = $1 and sub_key <> $1 limit 1",
                               {INT4OID});
    pg::Spi spi;
    return !spi.read_latest(query, {sub_key}).empty();
}

[[noreturn]] void incompatible(const char *format, std::string_view name)
{
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, format, static_cast<int>(name.size()),
                    name.data());
}

// May the consumer, which has no members, get some? Its key is locked.
void require_convertible(const Subscription &consumer, std::string_view name, bool convert_normal)
{
    if (consumer.is_member())
        incompatible("consumer \"%.*s\" is itself a member of a cooperative consumer", name);
    if (!convert_normal)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "consumer \"%.*s\" is registered, and has no members", static_cast<int>(name.size()),
                        name.data())
            .hint("Register the member with convert_normal = true to make it a cooperative consumer.");
    if (consumer.batch)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "consumer \"%.*s\" has an open batch",
                        static_cast<int>(name.size()), name.data())
            .hint("Finish it first: a cooperative consumer's batches are its members'.");
}

// 1 for a new member, 0 for one that was there.
int32_t register_member(std::string_view queue_name, const MemberName &name, bool convert_normal)
{
    const Queue queue = queue_named(queue_name, Right::consume);
    const bool is_new = register_consumer(queue_name, name.consumer(), std::nullopt) == 1;
    const std::optional<Subscription> consumer = lock_subscription(queue.queue_id, name.consumer());
    if (!consumer)
        unknown_subscription(queue_name, name.consumer());
    if (!is_new && !has_members(consumer->sub_key))
        require_convertible(*consumer, name.consumer(), convert_normal);
    const int32_t consumer_id = lock_or_create_consumer(name.text());
    if (const std::optional<Registration> there = find_registration(queue.queue_id, name.text())) {
        if (there->sub_id != consumer->sub_key)
            incompatible("consumer \"%.*s\" is registered on its own, and not as a member", name.text());
        return 0;
    }
    add_subscription(queue.queue_id, consumer_id, std::nullopt, consumer->sub_key);
    return 1;
}

// The member, locked; registered where it does not exist.
Subscription lock_member(std::string_view queue_name, const MemberName &name)
{
    for (;;) {
        const Queue queue = queue_named(queue_name, Right::consume);
        const std::optional<Subscription> member = lock_subscription(queue.queue_id, name.text());
        if (member && member->is_member())
            return *member;
        register_member(queue_name, name, false); // says what is wrong, if anything is
        pg::check_for_interrupts();
    }
}

struct Silent
{
    TimestampTz active;
    int32_t sub_key;
};

bool is_silent(const std::optional<Subscription> &member, TimestampTz limit)
{
    return member && member->batch && member->active < limit;
}

// A member with a batch that was not heard of since then, the one longest silent first; locked.
std::optional<Subscription> lock_silent_member(const Subscription &own, TimestampTz limit)
{
    pg::ContextResource memory;
    pg::Vector<Silent> silent(&memory);
    for (const int32_t key : members_of(own.sub_id, memory)) {
        const std::optional<Subscription> member = key != own.sub_key ? read_subscription(key) : std::nullopt;
        if (is_silent(member, limit))
            silent.push_back({member->active, key});
        pg::check_for_interrupts();
    }
    std::sort(silent.begin(), silent.end(),
              [](const Silent &a, const Silent &b) { return a.active < b.active; });
    for (const Silent &candidate : silent) {
        if (!lock_key(candidate.sub_key, false))
            continue;
        const std::optional<Subscription> member = read_subscription(candidate.sub_key);
        if (is_silent(member, limit))
            return member;
    }
    return std::nullopt;
}

// What the old member had confirmed of the batch stays confirmed; what it was handed out comes again.
void take_over(Subscription &own, Subscription &other)
{
    own.last_tick = other.last_tick;
    own.next_tick = other.next_tick;
    own.acked = other.acked;
    own.batch = new_batch_id(own.sub_key);
    other.last_tick = std::nullopt;
    other.clear_batch();
    append_version(other);
    append_version(own);
}

Batch batch_of(const Queue &queue, const Subscription &member)
{
    return {*member.batch, tick_of(queue, member.next_tick), tick_of(queue, member.last_tick)};
}

} // namespace

MemberName::MemberName(std::string_view consumer, std::string_view subconsumer) : consumer_(consumer)
{
    check_part(consumer, "consumer");
    check_part(subconsumer, "subconsumer");
    text_ = pg::pg_call([&] {
        return psprintf("%.*s.%.*s", static_cast<int>(consumer.size()), consumer.data(),
                        static_cast<int>(subconsumer.size()), subconsumer.data());
    });
    pg::check_name(text_, "subconsumer");
}

pg::Vector<int32_t> members_of(int32_t sub_key, pg::ContextResource &memory)
{
    static pg::Statement query("select sub_key from tasker.registration where sub_id = $1 and sub_key <> $1 "
                               "order by sub_key",
                               {INT4OID});
    pg::Vector<int32_t> members(&memory);
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {sub_key});
    for (uint64 i = 0; i < rows.count(); i++)
        members.push_back(rows.i32(i, 1));
    return members;
}

void require_no_cooperation(const Subscription &subscription, std::string_view consumer)
{
    if (subscription.is_member())
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "consumer \"%.*s\" is a member of a cooperative consumer",
                        static_cast<int>(consumer.size()), consumer.data())
            .hint("It gets batches by tasker.next_batch(queue, consumer, subconsumer).");
    if (has_members(subscription.sub_key))
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "consumer \"%.*s\" is cooperative",
                        static_cast<int>(consumer.size()), consumer.data())
            .hint("Its members get the batches, by tasker.next_batch(queue, consumer, subconsumer).");
}

std::optional<Batch> next_member_batch(std::string_view queue_name, const MemberName &name,
                                       const BatchLimits &limits, std::optional<int64_t> dead_us)
{
    Subscription member = lock_member(queue_name, name);
    require_restored();
    const Queue queue = queue_named(queue_name, Right::consume);
    if (member.batch) {
        append_version(member); // it has been heard of
        return batch_of(queue, member);
    }
    lock_key(member.sub_id);
    std::optional<Subscription> consumer = read_subscription(member.sub_id);
    if (!consumer)
        unknown_subscription(queue_name, name.consumer());
    if (queue.paused)
        return std::nullopt;
    if (dead_us) {
        const TimestampTz limit = GetCurrentTimestamp() - std::min(*dead_us, END_TIMESTAMP);
        if (std::optional<Subscription> silent = lock_silent_member(member, limit)) {
            take_over(member, *silent);
            return batch_of(queue, member);
        }
    }
    const Tick previous = tick_of(queue, consumer->last_tick, true);
    const std::optional<Tick> current = end_of_batch(queue, previous, limits);
    if (!current) {
        mark_wanted(queue.queue_id);
        return std::nullopt;
    }
    consumer->last_tick = current->id;
    append_version(*consumer);
    member.batch = new_batch_id(member.sub_key);
    member.last_tick = previous.id;
    member.next_tick = current->id;
    append_version(member);
    return Batch{*member.batch, *current, previous};
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

namespace {

MemberName member_name(const pg::Args &args)
{
    return {args.text(1, "consumer"), args.text(2, "subconsumer")};
}

enum class OpenBatch : int32_t
{
    refuse,
    retry
};

OpenBatch batch_handling(const pg::Args &args)
{
    const int32_t handling = args.i32(3, "batch_handling");
    if (handling != static_cast<int32_t>(OpenBatch::refuse) &&
        handling != static_cast<int32_t>(OpenBatch::retry))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"batch_handling\" must be 0 or 1");
    return static_cast<OpenBatch>(handling);
}

// What the member has not confirmed comes again, as by nack().
void give_back_batch(const Subscription &member)
{
    const BatchPlaces places(member);
    const TimestampTz now = GetCurrentTransactionStartTimestamp();
    for (const NewEvent &event : events_of_batch(places)) {
        if (!member.acked || *event.id > *member.acked)
            retry_or_bury(member, places.plan().queue, event, now, "subconsumer unregistered");
        pg::check_for_interrupts();
    }
}

} // namespace

// register_subconsumer(queue, consumer, subconsumer, convert_normal): 1, or 0 when it was registered.
TASKER_FUNCTION(register_subconsumer)
{
    return args.result(
        register_member(args.text(0, "queue"), member_name(args), args.boolean(3, "convert_normal")));
}

// unregister_subconsumer(queue, consumer, subconsumer, batch_handling): 1, or 0 when there is none.
TASKER_FUNCTION(unregister_subconsumer)
{
    const Queue queue = queue_named(args.text(0, "queue"), Right::consume);
    const MemberName name = member_name(args);
    const OpenBatch handling = batch_handling(args);
    if (!lock_consumer(name.text()))
        return args.result(int32_t{0});
    const std::optional<Subscription> member = lock_subscription(queue.queue_id, name.text());
    if (!member || !member->is_member())
        return args.result(int32_t{0});
    if (member->batch && handling == OpenBatch::refuse)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "subconsumer \"%.*s\" has an open batch",
                        static_cast<int>(name.text().size()), name.text().data())
            .hint("Finish it, or have its events come again with batch_handling = 1.");
    if (member->batch)
        give_back_batch(*member);
    remove_registration(*member);
    return args.result(int32_t{1});
}

// touch_subconsumer(queue, consumer, subconsumer): 1, or 0 when there is none.
TASKER_FUNCTION(touch_subconsumer)
{
    const Queue queue = queue_named(args.text(0, "queue"), Right::consume);
    const MemberName name = member_name(args);
    std::optional<Subscription> member = lock_subscription(queue.queue_id, name.text());
    if (!member || !member->is_member())
        return args.result(int32_t{0});
    append_version(*member);
    return args.result(int32_t{1});
}

// next_batch(queue, consumer, subconsumer, dead_interval)
TASKER_FUNCTION(next_member_batch)
{
    const std::optional<Batch> batch = next_member_batch(args.text(0, "queue"), member_name(args), {},
                                                         args.optional_duration_us(3, "dead_interval"));
    return batch ? args.result(batch->id) : args.null();
}

// next_batch_custom(queue, consumer, subconsumer, min_lag, min_count, min_interval, dead_interval)
TASKER_FUNCTION(next_member_batch_custom)
{
    BatchLimits limits{};
    limits.min_lag_us = args.optional_duration_us(3, "min_lag");
    if (const std::optional<int32_t> count = args.optional_i32(4))
        limits.min_count = *count;
    limits.min_interval_us = args.optional_duration_us(5, "min_interval");
    return batch_row(args, next_member_batch(args.text(0, "queue"), member_name(args), limits,
                                             args.optional_duration_us(6, "dead_interval")));
}

// receive_coop(queue, consumer, subconsumer, max_return, dead_interval)
TASKER_FUNCTION(receive_coop)
{
    const std::string_view queue = args.text(0, "queue");
    const MemberName name = member_name(args);
    const int32_t most = positive_limit(args, 3);
    const std::optional<int64_t> dead_us = args.optional_duration_us(4, "dead_interval");
    pg::ResultSet result(args.call());
    int32_t count = 0;
    while (count == 0) {
        const std::optional<Batch> batch = next_member_batch(queue, name, {}, dead_us);
        if (!batch)
            break;
        Subscription member = lock_batch(batch->id);
        count = hand_out(member, most, result);
        pg::check_for_interrupts();
    }
    return 0;
}
