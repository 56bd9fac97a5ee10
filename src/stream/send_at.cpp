// send_at(): an event that is published at a time. Until then it waits in the retry queue, for everybody.
#include "pg/function.hpp"
#include "stream/retry.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

Datum send_later(const pg::Args &args, bool is_jsonb)
{
    const int last = args.call()->nargs - 1;
    const Queue queue = queue_named(args.text(0, "queue_name"), Right::produce);
    const TimestampTz at = args.i64(last, "at");
    if (TIMESTAMP_IS_NOEND(at))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"at\" must not be infinity");
    NewEvent event{};
    event.time = std::max(at, GetCurrentTransactionStartTimestamp());
    std::fill(std::begin(event.null), std::end(event.null), true);
    event.null[0] = last == 3 && args.is_null(1);
    if (!event.null[0])
        event.text[0] = last == 3 ? args.datum(1) : args.result("default");
    event.null[1] = args.is_null(last - 1);
    if (!event.null[1])
        event.text[1] = is_jsonb ? text_of_jsonb(args.datum(last - 1)) : args.datum(last - 1);
    if (at <= GetCurrentTransactionStartTimestamp()) {
        insert_events(queue.name, {&event, 1});
        return args.result(*event.id);
    }
    event.id = accept_event(queue);
    put_into_retry_queue(event, {queue.queue_id, kEverybody, at, std::nullopt});
    return args.result(*event.id);
}

} // namespace

// send_at(queue_name, payload, at) and send_at(queue_name, type_name, payload, at): the event's id
TASKER_FUNCTION(send_at_text)
{
    return send_later(args, false);
}

TASKER_FUNCTION(send_at_jsonb)
{
    return send_later(args, true);
}
