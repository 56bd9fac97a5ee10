// Events on their way into the current event table of a queue.
//
// An event is one heap row and one index entry (on ev_txid), written without the executor.
//
// WHERE AN EVENT GOES. A reader finds the tables of a batch by transaction ids: the table before the last
// rotation holds nothing of transactions that began after its second step (Queue::switch_step2). So a
// writer takes its transaction id first, and looks for the current table after it: whoever has an id above
// switch_step2 has looked after the rotation was committed. That an earlier look has left a lock on the old
// table does no harm, as it came with an earlier id.
#pragma once

#include "stream/queue.hpp"

namespace tasker::stream {

inline constexpr int kTextColumns = 6; // ev_type, ev_data, ev_extra1 to ev_extra4

struct NewEvent
{
    std::optional<int64_t> id; // of an event that comes again; else the sequence's next is set here
    TimestampTz time;
    std::optional<int32_t> owner;
    std::optional<int32_t> retry;
    Datum text[kTextColumns];
    bool null[kTextColumns];
    int64_t txid; // that it had, where it was read
};

// Columns of an event table.
enum EventColumn : AttrNumber
{
    kEvId = 1,
    kEvTime,
    kEvTxid,
    kEvOwner,
    kEvRetry,
    kEvType,
    kEvColumns = kEvType + kTextColumns - 1
};

// Inserts events and sets their ids. Errors: undefined_object for the queue, insufficient_privilege for a
// caller without the right (a trigger asks for none: who writes to its table need not know of it),
// object_not_in_prerequisite_state where inserts are disabled, program_limit_exceeded beyond the
// transaction's limit.
void insert_events(std::string_view queue_name, std::span<NewEvent> events, Right right = Right::produce);

// The same for events that have been accepted before and come again, or come later: neither rights nor what
// holds for producers counts.
void redeliver_events(std::string_view queue_name, std::span<NewEvent> events);

// The id of an event that shall be inserted later, after all checks of insert_events().
int64_t accept_event(const Queue &queue);

// The table that takes the queue's events, locked for writing to the end of the transaction.
Oid hold_event_table(std::string_view queue_name);

// The id of this transaction as ev_txid has it; assigns one.
int64_t current_txid();

// The data of an event whose payload is jsonb.
Datum text_of_jsonb(Datum jsonb);

} // namespace tasker::stream
