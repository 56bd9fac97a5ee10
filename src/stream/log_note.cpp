// Writers of logs tell their queues.
#include "stream/log.hpp"

#include "pg/function.hpp"
#include "stream/consumer.hpp"
#include "stream/wake_notes.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::stream {
namespace {

// Numbers of events are hints (get_queue_info() and its like); a great write need not be counted to the last
// row.
constexpr size_t kMostCounted = 100;

} // namespace

void LogWriter::look()
{
    queues_.begin(); // first: a change from here on must not be lost
    registrations_.begin();
    queue_id_ = 0;
    const std::optional<Queue> queue = find_queue(queue_name_);
    if (!queue || !queue->has_log)
        return;
    is_read_ = has_consumers(queue->queue_id);
    parent_ = queue->parent;
    sequence_ = queue->event_sequence;
    queue_id_ = queue->queue_id;
}

// The lock keeps the queue, and its place in shared memory, to the end of the transaction. Whether somebody
// reads the queue is asked again at the commit.
void LogWriter::note(size_t rows)
{
    if (!queues_.holds() || !registrations_.holds())
        look();
    while (queue_id_ != 0 && noted_in_ != tasker_local_transaction_id()) {
        const int32_t locked = queue_id_;
        pg::pg_call([&] { LockRelationOid(parent_, AccessShareLock); });
        if (!queues_.still_holds())
            look();
        if (queue_id_ == locked)
            noted_in_ = tasker_local_transaction_id();
    }
    if (queue_id_ == 0)
        return;
    note_log(queue_id_, rows);
    if (is_read_)
        pg::pg_call([&] {
            for (size_t i = std::min(rows, kMostCounted); i > 0; i--)
                (void)nextval_internal(sequence_, false);
        });
}

namespace {

// One for each name that a trigger has given, kept to the end of the backend: it watches tables.
struct NamedWriter
{
    char name[kMaxNameBytes + 1];
    LogWriter *writer;
};

LogWriter &writer_named(const char *name)
{
    static HTAB *writers = nullptr;
    return *pg::pg_call([&] {
        if (writers == nullptr) {
            HASHCTL control{};
            control.keysize = sizeof(NamedWriter::name);
            control.entrysize = sizeof(NamedWriter);
            writers = hash_create("tasker log writers", 16, &control, HASH_ELEM | HASH_STRINGS);
        }
        bool found = false;
        auto *entry = static_cast<NamedWriter *>(hash_search(writers, name, HASH_ENTER, &found));
        if (!found)
            entry->writer = nullptr;
        if (entry->writer == nullptr) // also where there was no memory before
            entry->writer =
                new (MemoryContextAlloc(TopMemoryContext, sizeof(LogWriter))) LogWriter(entry->name);
        return entry->writer;
    });
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// log_written('queue', ...): a statement trigger of a log.
TASKER_FUNCTION(log_written)
{
    if (!CALLED_AS_TRIGGER(args.call()))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function \"log_written\" was not called by a trigger");
    const auto *call = reinterpret_cast<TriggerData *>(args.call()->context);
    const Trigger &trigger = *call->tg_trigger;
    if (trigger.tgnargs == 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "trigger \"%s\" names no queue", trigger.tgname)
            .hint("The names of the queues that read the table are the arguments of tasker.log_written().");
    const int64 rows = call->tg_newtable != nullptr ? tuplestore_tuple_count(call->tg_newtable) : int64{1};
    for (int i = 0; i < trigger.tgnargs; i++) {
        if (strlen(trigger.tgargs[i]) <= kMaxNameBytes)
            writer_named(trigger.tgargs[i]).note(static_cast<size_t>(rows));
    }
    return 0;
}

// log_txid()
TASKER_FUNCTION(log_txid)
{
    return args.result(log_txid());
}
