// Subscriptions: how far a consumer of a queue has come.
//
// tasker.registration says who reads what. Where somebody stands is a version in one of three tables
// (slots.hpp): the newest counts, and a change appends one more. Whoever changes a subscription holds its
// lock (lock_key) to the end of the transaction, so that versions follow one another; the primary key would
// refuse what breaks that rule.
#pragma once

#include "stream/slots.hpp"

namespace tasker::stream {

struct Subscription
{
    int32_t sub_key; // names it
    int32_t sub_id;  // owns its retried events; members of one cooperative consumer share it
    int32_t queue_id;
    int32_t consumer_id;
    int64_t version;
    TimestampTz active; // when it was last changed
    std::optional<int64_t> last_tick;
    std::optional<int64_t> batch;
    std::optional<int64_t> next_tick;
    // Of an open batch that receive() hands out in parts (receive.cpp); both are ids of events.
    std::optional<int64_t> acked;
    std::optional<int64_t> handed; // where more are to come

    bool is_member() const { return sub_id != sub_key; }
    // The batch is over, or was never: the rest of what is known of it goes with it.
    void clear_batch() { batch = next_tick = acked = handed = std::nullopt; }
};

// Locks the subscription to the end of the transaction. Nothing when there is none. Errors:
// insufficient_privilege for a caller without the right.
std::optional<Subscription> lock_subscription(int32_t queue_id, std::string_view consumer,
                                              Right right = Right::consume);

// The subscription that has this batch, with or without a lock. Errors: insufficient_privilege for a caller
// without the right on its queue.
std::optional<Subscription> find_batch(int64_t batch_id, bool lock, Right right = Right::consume);

// As it stands now; `sub_key` should be locked by who wants to change it.
std::optional<Subscription> read_subscription(int32_t sub_key);

// Appends what the subscription shall be from now on, as its next version, active at this moment unless
// another one is given. The caller holds its lock.
void append_version(Subscription &subscription, std::optional<TimestampTz> active = std::nullopt);

// Makes one that stands at a tick and returns its key; sub_id is its own unless given (a member's).
Subscription add_subscription(int32_t queue_id, int32_t consumer_id, std::optional<int64_t> last_tick,
                              std::optional<int32_t> sub_id = std::nullopt);

// A new batch of a subscription. Its id names the subscription, so that it is found without an index that
// each batch would have to change: (sequence << 20) | low bits of sub_key.
int64_t new_batch_id(int32_t sub_key);

inline constexpr int kKeyBits = 20;

} // namespace tasker::stream
