// Reading the rows that are to be moved, a few milliseconds at a time.
#pragma once

#include "partition/move.hpp"
#include "pg/memory.hpp"

namespace tasker::partition {

// Where to read on: a place in the table, or, by ranges of the control column, a key.
struct ReaderPosition
{
    bool by_key;
    BlockNumber block;
    OffsetNumber offset;
    int64_t key;       // the lowest that was not read yet
    int64_t range_end; // of the range that is being read, exclusive
    Interval interval; // its length
};

// Rows of one table in one transaction. But for opening it, plain C that may ereport.
struct Reader
{
    Relation table;
    TupleTableSlot *row; // the one that was read
    TableScanDesc scan;
    ReaderPosition at;
    // by_key:
    ItemPointer tids;
    int64_t *keys;
    int64_t count;
    int64_t index;
};

ReaderPosition first_position(const std::optional<Interval> &batch, int64_t block);
Reader *open_reader(Oid table, const SetConfig &config, const ReaderPosition *position);
// False when there is no more: at the end of the table, or of what one look by key has found. A row stays
// the next one until it is passed.
bool read_row(Reader *reader);
bool is_at_end(const Reader *reader);
void pass_row(Reader *reader);
void close_reader(Reader *reader, ReaderPosition *position);

// Can the target take a row?
enum class Place
{
    there,
    missing, // its partition is yet to be made
    none     // no partition can hold it
};

struct Placement
{
    bool partitioned; // else every row has its place
    bool has_default;
    Oid parent;
    Control control;
    AttrNumber column; // of the source
    core::NumberRange valid;
};

// Of the rows of `source` in a set. A default Placement is that of rows that go into a plain table.
Placement open_placement(const SetConfig &config, Oid source);
Place place_row(const Placement *placement, TupleTableSlot *row, int64_t *key);

struct PortionResult
{
    int64_t rows;
    int64_t locked;  // held by others
    int64_t changed; // by others, since the snapshot
    int64_t unplaced;
    bool lacks_partition;
    int64_t missing_key;
    bool at_end;
    bool range_ends; // of the control column
};

void list_source_tables(Oid source, pg::Vector<SourceTable> &list);

// Rows in `left` blocks, from what was found in `done` blocks or what the statistics say.
int64_t estimate_left(Oid table, int64_t found, int64_t done, int64_t left);

// Runs `body` in transactions of its own until it gets the locks it needs. Each try waits a little longer
// for them, and at last the failure is thrown.
void retry_locks(Steps &steps, void (*body)(void *), void *object);

template <class Body> void retry_locks(Steps &steps, Body &&body)
{
    retry_locks(
        steps, [](void *object) { (*static_cast<std::remove_reference_t<Body> *>(object))(); },
        const_cast<void *>(static_cast<const void *>(std::addressof(body))));
}

} // namespace tasker::partition
