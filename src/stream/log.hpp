// Queues whose events are the rows of logs: publishing costs no second write.
//
// A log is a table, mostly one that is partitioned by range, whose rows are only inserted and have a bigint
// column that says which transaction wrote them, with an index on it in every partition. A batch reads the
// rows of the transactions that lie between its two ticks (log_reader.hpp). What a retry brings again, or a
// replayed dead letter, is in the queue's own event tables, as in any queue; nobody else writes into those.
//
// TRANSACTION IDS. The rows stay as they are when a dump of them is restored into another cluster, which has
// other transaction ids. So the column holds log ids: the server's own plus an offset
// (stream_origin.log_offset), which after_restore() raises so that all that is written from then on has
// greater ids than whatever was restored. Ticks and event tables of such a queue hold log ids too, and none
// of them has to be re-based. Between a restore and after_restore() log ids have a mark (kAfterRestore),
// which after_restore() takes away.
//
// EVENT IDS. Rows have no event id, so it is made of the log id and the place of the row among those of its
// transaction: by the order that the log's mapping gives, then by the log's number, the partition's name and
// the place in the table. It is the same for every consumer and at each reading, also after a restore. Ids of
// replayed events are made in the same way, in the upper half of the places.
//
// TICKS follow commits as they do in other queues: who has written into a log says so (LogWriter). A queue
// without consumers gets none, and costs its writers no more than a look at a flag (QueueWake::unread): the
// first thing that a consumer gets when it is registered is a tick of its own.
#pragma once

#include "pg/invalidation.hpp"
#include "stream/event.hpp"

namespace tasker::stream {

inline constexpr int kPlaceBits = 22;
inline constexpr int64_t kLogPlaces = int64_t{1} << (kPlaceBits - 1); // rows that one transaction may write
constexpr int64_t log_event_id(int64_t log_txid, int64_t place)
{
    return (log_txid << kPlaceBits) | place;
}

// What the row of a log is as an event. Texts may be in any short-lived memory.
struct LogEvent
{
    TimestampTz time;
    Datum text[kTextColumns];
    bool null[kTextColumns];
};

// How a plane above makes events of a log of its own. Both are plain C: they may ereport.
struct LogMapper
{
    const char *log; // the table, in schema tasker; its column of log ids is "txid"
    int64_t (*order)(TupleTableSlot *row);
    void (*map)(TupleTableSlot *row, LogEvent &event);
};

// A queue over such logs, which comes into being when somebody asks for it by its name. Called in _PG_init;
// what is given lives on.
void register_log_queue(const char *queue, std::span<const LogMapper> logs);

// The mapper of a log; null when nobody has registered it.
const LogMapper *find_log_mapper(std::string_view log);

// Is it one of those names?
bool is_registered_queue(std::string_view name);

// Makes the queue if that is one of those names; false when it is not.
bool create_registered_queue(std::string_view name);

// What a row that this transaction writes has as its transaction's id. To be asked with the log locked for
// writing. Assigns a transaction id.
int64_t log_txid();

// Says that rows were written into a log of a queue, at the end of the work that has written them. Where the
// queue does not exist nothing happens. Define as a static object.
class LogWriter
{
  public:
    constexpr explicit LogWriter(const char *queue) : queue_name_(queue) {}

    void note(size_t rows);

  private:
    void look();

    const char *queue_name_;
    pg::TableWatch queues_{"queue"};
    pg::TableWatch registrations_{"registration"};
    int32_t queue_id_ = 0; // 0: there is none
    Oid parent_ = InvalidOid;
    Oid sequence_ = InvalidOid;
    bool is_read_ = false;
    LocalTransactionId noted_in_ = InvalidLocalTransactionId;
};

// Why a partition of a log must not go: a consumer of a queue has not read all of it. Null when it may; then
// nobody can be registered any more at a tick that it was needed for. Asked by the partition plane before it
// retires one.
const char *log_still_needed(Oid parent, Oid partition);

// Has it asked; from _PG_init.
void declare_log_retention();

enum LogExpression
{
    kLogOrder,
    kLogTime,
    kLogText,
    kLogExpressions = kLogText + kTextColumns
};

// A log of a queue, as tasker.queue_log has it; texts in the memory context that it was read in.
struct LogTable
{
    Oid table;
    const char *txid_column;
    const LogMapper *mapper;                  // or
    const char *expressions[kLogExpressions]; // null: none
};

std::span<const LogTable> logs_of(int32_t queue_id);

// The tables that hold the rows of a log: its partitions, also one that is being detached, or itself. Plain
// C: may ereport.
List *tables_of_log(Oid log);

// The column of log ids in one of them. Plain C: may ereport, where it is not there or has another type.
AttrNumber txid_column_of(Relation table, const char *name);

} // namespace tasker::stream
