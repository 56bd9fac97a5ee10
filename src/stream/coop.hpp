// Cooperative consumers: members that work through the batches of one consumer side by side.
//
// The consumer is a subscription as any other. A member is a registration named 'consumer.subconsumer' whose
// sub_id is the consumer's sub_key. When a member takes a batch, the consumer's position goes on to the
// batch's end, and the member's version holds the batch with its two ticks until it is finished; a member
// without a batch has no ticks. Both versions come with one transaction, and the ticks are kept from being
// emptied away meanwhile, so whoever looks for the oldest tick that is needed always finds one of the two.
// Retried events and dead letters belong to the consumer (its sub_id): any member may get them next.
//
// A member that is not heard of any more (sub_active) can have its batch taken over by another one. The batch
// gets a new id then, so that whatever the old member does under the old id finds no batch.
//
// LOCK ORDER: one's own member's key; then the consumer's; other members' keys after that only if they are to
// be had at once. (A transaction that finishes a batch and asks for the next one holds its member's key when
// it comes to the consumer's, so the consumer's cannot be the first.) That a member's key is not to be had
// says that the member is at work. Whoever unregisters the consumer locks its row in tasker.consumer, which
// keeps members from being registered, then the members' keys in ascending order, then the consumer's.
// The consumer's key is held from the taking of a batch to the end of the transaction: members work side by
// side when they commit between taking a batch and working on it.
#pragma once

#include "pg/memory.hpp"
#include "stream/batch.hpp"

namespace tasker::stream {

// A member by its names; text() is what it is registered under.
class MemberName
{
  public:
    // Errors: invalid_parameter_value for an empty or too long name or one with a dot in it.
    MemberName(std::string_view consumer, std::string_view subconsumer);

    std::string_view consumer() const { return consumer_; }
    std::string_view text() const { return text_; }

  private:
    std::string_view consumer_;
    std::string_view text_;
};

// The member's open batch, or that of a member that was not heard of for `dead_us`, or the consumer's next
// one. A member that does not exist is registered. Errors: undefined_object,
// object_not_in_prerequisite_state.
std::optional<Batch> next_member_batch(std::string_view queue_name, const MemberName &name,
                                       const BatchLimits &limits, std::optional<int64_t> dead_us);

// Keys of the members of the consumer with that key, in ascending order.
pg::Vector<int32_t> members_of(int32_t sub_key, pg::ContextResource &memory);

// Throws object_not_in_prerequisite_state for a member, and a consumer that has members.
void require_no_cooperation(const Subscription &subscription, std::string_view consumer);

} // namespace tasker::stream
