// Registering and unregistering consumers.
#pragma once

#include "stream/subscription.hpp"

namespace tasker::stream {

// 1 for a new registration, 0 for one that was there, which goes to the tick where one is given. Errors:
// undefined_object, object_not_in_prerequisite_state.
int32_t register_consumer(std::string_view queue_name, std::string_view consumer,
                          std::optional<int64_t> tick_id);

// Has the queue one?
bool has_consumers(int32_t queue_id);

// The consumer, locked to the end of the transaction; made where it does not exist. Whoever registers or
// unregisters one begins with that.
int32_t lock_or_create_consumer(std::string_view name);
std::optional<int32_t> lock_consumer(std::string_view name);

// Removes a registration, which is locked, and its consumer with its last one. The versions stay until their
// tables are emptied.
void remove_registration(const Subscription &subscription);

} // namespace tasker::stream
