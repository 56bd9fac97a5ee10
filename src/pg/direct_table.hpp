// Direct access to a table with a primary key: the table and index access methods without a statement.
//
// For hot paths that know the partition they work on: a statement on a partitioned parent locks every
// partition that its plan names, each time it runs, and costs more than the work itself. Triggers do not
// fire, and constraints other than unique indexes are not checked: it is for tables of ours alone. Indexes
// that users have added are kept up.
//
// Plain C: everything here may ereport and holds nothing with a destructor. Call it where no C++ object with
// one is alive, or inside pg_call. Locks are kept to the end of the transaction; relations are closed by
// close_direct(), or by the resource owner after an error.
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

inline constexpr int kMaxDirectColumns = 32;

// Values for columns, counted from 1: all of a new row's (what is not set is null), or those of a row that
// change.
struct RowValues
{
    Datum values[kMaxDirectColumns] = {};
    bool nulls[kMaxDirectColumns] = {};
    bool given[kMaxDirectColumns] = {};

    void set(int column, Datum value)
    {
        values[column - 1] = value;
        nulls[column - 1] = false;
        given[column - 1] = true;
    }
    void set_null(int column)
    {
        values[column - 1] = 0;
        nulls[column - 1] = true;
        given[column - 1] = true;
    }
};

struct DirectIndex
{
    Relation relation;
    IndexInfo *info;      // null: of plain columns
    ExprState *predicate; // of a partial index
};

struct DirectTable
{
    Oid relid;
    Relation heap;
    Relation primary_key;
    DirectIndex *indexes; // all of them
    int index_count;
    EState *estate;             // where an index has expressions or a predicate
    TupleTableSlot *read_slot;  // what look-ups and scans return
    TupleTableSlot *write_slot; // what is written
    IndexScanDesc scan;         // by primary key, while one is open
};

// Opens a table; null when it is gone. For AccessShareLock the indexes other than the key stay closed.
DirectTable *open_direct(Oid relid, LOCKMODE mode);
void close_direct(DirectTable *table);

// Scans of the primary key under one snapshot. The row found stands in read_slot until the next call.
void begin_key_scan(DirectTable *table, Snapshot snapshot);
void end_key_scan(DirectTable *table);
// Finds the row of a one-column key. Of its versions the one that was written last is tried first: a row that
// has changed ten thousand times under an old snapshot has as many versions, and all but the last few are
// nobody's.
bool find_by_key(DirectTable *table, Datum key);
// The rows whose first key column is from `from` to `to`, in ascending or descending order of their keys.
void seek_range(DirectTable *table, Datum from, Datum to);
bool next_in_range(DirectTable *table, ScanDirection direction = ForwardScanDirection);

// A row of the table, formed; unset columns, and those that users have added, are null.
HeapTuple form_row(DirectTable *table, const RowValues &row);
// Inserts rows with their index entries, through multi-insert; they are freed.
void insert_rows(DirectTable *table, std::span<HeapTuple> rows);

// Changes the row in read_slot, which was found under `snapshot`: TM_Ok, or TM_Updated/TM_Deleted when
// somebody else was faster, after waiting for the outcome. In REPEATABLE READ and SERIALIZABLE a row that has
// changed since the transaction's snapshot is a serialization_failure.
TM_Result update_found(DirectTable *table, const RowValues &change, Snapshot snapshot);
// Locks the row in read_slot without waiting: TM_Ok, or what stands in the way.
TM_Result try_lock_found(DirectTable *table, Snapshot snapshot);

} // namespace tasker::pg
