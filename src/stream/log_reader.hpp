// Reading what a batch finds in logs (log.hpp), in two steps: which rows they are, and what events they make.
//
// COST. A look at a partition is one descent of its index, with the partition locked only meanwhile, unless
// it has something for the batch. So a hundred partitions that have nothing cost some tenths of a
// millisecond, and the batch what it holds. Which partitions those are is not known beforehand: a row may
// belong to an old one.
//
// RIGHTS. Whoever may consume from the queue sees the rows, as the mapping shows them, whatever rights he has
// on the log. Expressions of the mapping run as the owner of the log.
#pragma once

#include "pg/spi.hpp"
#include "stream/batch_reader.hpp"
#include "stream/log_mapping.hpp"

namespace tasker::stream {

// A table that holds rows of a log.
struct LogRelation
{
    Oid table;
    Oid file;   // which file it was, as a VACUUM FULL moves rows
    uint16 log; // number in logs_of()
};

// For a scope.
class LogReader
{
  public:
    // Events before a time are left out by fetch().
    explicit LogReader(const Queue &queue, TimestampTz oldest = PG_INT64_MIN);
    ~LogReader();
    LogReader(const LogReader &) = delete;
    LogReader &operator=(const LogReader &) = delete;

    // The rows of a batch in the order of their ids, in the current memory context; all of them, whatever
    // their age. Their tables are counted from kTables on and are those of relations().
    std::span<EventPlace> collect(const BatchPlan &plan);
    std::span<const LogRelation> relations() const { return {relations_.data(), relations_.size()}; }
    // For places that another reader has collected.
    void set_relations(std::span<const LogRelation> relations);

    // Hands over the events at these places, until the sink wants no more.
    void fetch(std::span<const EventPlace> places, EventSink &sink);
    // One of them; false when the sink wants no more. Plain C: may ereport.
    bool fetch(const EventPlace &place, EventSink &sink);

    // For collect(). Plain C: may ereport.
    const LogTable &log(uint16 number) const { return logs_[number]; }
    LogMapping &mapping(uint16 log);
    void add_relation(const LogRelation &relation) { relations_.push_back(relation); }

  private:
    struct Open;

    Open &open(uint16 number);
    TupleTableSlot *event_slot();

    Queue queue_;
    TimestampTz oldest_;
    pg::ContextResource memory_;
    std::span<const LogTable> logs_;
    std::optional<pg::AsOwner> scope_; // pins the search_path where there are expressions
    pg::Vector<LogMapping *> mappings_;
    pg::Vector<LogRelation> relations_;
    pg::Vector<Open *> open_;
    TupleTableSlot *event_ = nullptr; // an event, laid out as in an event table
};

// The greatest log id in a table, marked ones (kAfterRestore) left out; 0 when there is none. Plain C: may
// ereport.
int64_t last_log_id(Oid table, const char *txid_column);

} // namespace tasker::stream
