// Inserting events, as SQL calls it.
#include "pg/function.hpp"
#include "stream/event.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

NewEvent empty_event()
{
    NewEvent event{};
    event.time = GetCurrentTransactionStartTimestamp();
    std::fill(std::begin(event.null), std::end(event.null), true);
    return event;
}

// The text arguments from `first` on become the event's columns from `column` on.
void take_texts(const pg::Args &args, int first, int count, NewEvent &event, int column = 0)
{
    for (int i = 0; i < count; i++) {
        event.null[column + i] = args.is_null(first + i);
        event.text[column + i] = args.datum(first + i);
    }
}

Datum insert_one(const pg::Args &args, NewEvent &event)
{
    insert_events(args.text(0, "queue_name"), {&event, 1});
    return args.result(*event.id);
}

Datum default_type()
{
    return pg::pg_call([] { return CStringGetTextDatum("default"); });
}

} // namespace

// insert_event(queue_name, ev_type, ev_data [, ev_extra1, ev_extra2, ev_extra3, ev_extra4])
TASKER_FUNCTION(insert_event)
{
    PreventCommandIfReadOnly("tasker.insert_event()");
    NewEvent event = empty_event();
    take_texts(args, 1, args.call()->nargs - 1, event);
    return insert_one(args, event);
}

// insert_event_raw(queue_name, ev_id, ev_time, ev_owner, ev_retry, ev_type, ev_data, ev_extra1, ...,
// ev_extra4)
TASKER_FUNCTION(insert_event_raw)
{
    PreventCommandIfReadOnly("tasker.insert_event_raw()");
    NewEvent event = empty_event();
    event.id = args.optional_i64(1);
    if (const std::optional<TimestampTz> time = args.optional_timestamp(2))
        event.time = *time;
    event.owner = args.optional_i32(3);
    event.retry = args.optional_i32(4);
    take_texts(args, 5, kTextColumns, event);
    return insert_one(args, event);
}

// send(queue_name, payload) and send(queue_name, type_name, payload), with a payload of text
TASKER_FUNCTION(send_text)
{
    PreventCommandIfReadOnly("tasker.send()");
    NewEvent event = empty_event();
    const int count = args.call()->nargs - 1;
    take_texts(args, 1, count, event, 2 - count);
    if (count == 1) {
        event.null[0] = false;
        event.text[0] = default_type();
    }
    return insert_one(args, event);
}

// The same with a payload of jsonb
TASKER_FUNCTION(send_jsonb)
{
    PreventCommandIfReadOnly("tasker.send()");
    NewEvent event = empty_event();
    const int last = args.call()->nargs - 1;
    event.null[0] = last == 2 && args.is_null(1);
    event.text[0] = last == 2 ? args.datum(1) : default_type();
    event.null[1] = args.is_null(last);
    if (!event.null[1])
        event.text[1] = text_of_jsonb(args.datum(last));
    return insert_one(args, event);
}

namespace {

Datum ids_of(std::span<const NewEvent> events)
{
    return pg::pg_call([&] {
        auto *ids = static_cast<Datum *>(palloc_extended(sizeof(Datum) * events.size(), MCXT_ALLOC_HUGE));
        for (size_t i = 0; i < events.size(); i++)
            ids[i] = Int64GetDatum(*events[i].id);
        return PointerGetDatum(construct_array(ids, static_cast<int>(events.size()), INT8OID, sizeof(int64),
                                               true, TYPALIGN_DOUBLE));
    });
}

Datum send_array(const pg::Args &args, Oid element_type)
{
    const int last = args.call()->nargs - 1;
    const auto payloads = args.optional_array(last, "payloads", element_type);
    if (!payloads)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"payloads\" must not be null");
    const size_t count = payloads->values.size();
    auto *events = static_cast<NewEvent *>(
        pg::pg_call([&] { return palloc_extended(sizeof(NewEvent) * (count + 1), MCXT_ALLOC_HUGE); }));
    const Datum type = last == 2 ? args.datum(1) : default_type();
    for (size_t i = 0; i < count; i++) {
        events[i] = empty_event();
        events[i].null[0] = last == 2 && args.is_null(1);
        events[i].text[0] = type;
        events[i].null[1] = payloads->nulls[i];
        if (!payloads->nulls[i])
            events[i].text[1] =
                element_type == JSONBOID ? text_of_jsonb(payloads->values[i]) : payloads->values[i];
    }
    insert_events(args.text(0, "queue_name"), {events, count});
    return ids_of({events, count});
}

} // namespace

// send_batch(queue_name, type_name, payloads) and send_batch(queue_name, payloads): the events' ids
TASKER_FUNCTION(send_batch_text)
{
    PreventCommandIfReadOnly("tasker.send_batch()");
    return send_array(args, TEXTOID);
}

TASKER_FUNCTION(send_batch_jsonb)
{
    PreventCommandIfReadOnly("tasker.send_batch()");
    return send_array(args, JSONBOID);
}

// current_event_table(x_queue_name): the lock that keeps it current is held to the end of the transaction.
TASKER_FUNCTION(current_event_table)
{
    const Oid table = hold_event_table(args.text(0, "x_queue_name"));
    return pg::pg_call([&] {
        return CStringGetTextDatum(
            quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), get_rel_name(table)));
    });
}

// version()
TASKER_FUNCTION(version)
{
    return args.result("1.0");
}
