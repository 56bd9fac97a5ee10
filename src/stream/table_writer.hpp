// Writing rows past the executor into tables that have no triggers and, unless somebody has added some, one
// index of plain columns.
#pragma once

#include "pg/error.hpp"

namespace tasker::stream {

// Plain C: everything here may ereport. Open one inside of pg_call, on a table that is open and locked for
// writing; close() keeps the lock.
class TableWriter
{
  public:
    explicit TableWriter(Relation heap);

    Relation heap() const { return heap_; }
    TupleDesc descriptor() const { return RelationGetDescr(heap_); }

    void insert(const Datum *values, const bool *nulls);
    // Rows that were formed after descriptor(); they are freed.
    void insert_many(std::span<HeapTuple> rows);
    void close();

  private:
    void insert_entry(const Datum *values, const bool *nulls, ItemPointer tid);
    void insert_entry_of(HeapTuple row, ItemPointer tid);
    void insert_entries_of_all(std::span<TupleTableSlot *> slots);

    Relation heap_;
    Relation index_; // null where the executor has to do it
    CommandId command_;
};

} // namespace tasker::stream
