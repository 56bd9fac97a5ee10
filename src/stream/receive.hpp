// receive(), for a consumer and for a member of a cooperative one.
//
// A batch is as large as what happened between two ticks; a caller takes at most so many messages at a time.
// So a batch may be handed out in parts, and none of it is lost by that: ack() confirms what was handed out
// last, and closes the batch only when that was the rest. Until then receive() gives the same messages again,
// as it does after a crash; after it, those that follow. What was confirmed (sub_acked) and up to where was
// handed out (sub_handed) is part of where the subscription stands. Parts end between ids of events.
//
// A batch without events is closed on the way: nobody would know its id.
#pragma once

#include "pg/function.hpp"
#include "stream/batch_places.hpp"

namespace tasker::stream {

// Adds up to `most` messages of the open batch, which is locked, to the result; more when events of one id do
// not fit. Returns their number; with 0 the batch has no more, and it is closed.
int32_t hand_out(Subscription &batch, int32_t most, pg::ResultSet &result);

// max_return of a caller. Errors: invalid_parameter_value.
int32_t positive_limit(const pg::Args &args, int argument);

} // namespace tasker::stream
