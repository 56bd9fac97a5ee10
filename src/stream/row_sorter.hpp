// Rows of a result in the order of their first column, a bigint.
//
// Rows mostly arrive nearly in order and fit into memory, so they are formed once and only pointers to them
// are sorted. Beyond work_mem PostgreSQL's own sort takes over.
#pragma once

#include "pg/function.hpp"

extern "C" {
#include "utils/tuplesort.h"
}

namespace tasker::stream {

// Plain C: everything here may ereport; the memory goes with the context that was current at the beginning.
class RowSorter
{
  public:
    explicit RowSorter(TupleDesc descriptor);

    // The first of the values is `key`.
    void add(int64_t key, const Datum *values, const bool *nulls);
    // Hands all rows over, in order; nothing can be added afterwards.
    void move_to(pg::ResultSet &result);

  private:
    struct Entry
    {
        int64_t key;
        MinimalTuple row;
    };

    void grow();
    void begin_tuplesort();
    void free_rows();

    TupleDesc descriptor_;
    MemoryContext rows_memory_;
    TupleTableSlot *slot_;
    Entry *entries_;
    size_t count_ = 0;
    size_t capacity_;
    Size bytes_ = 0;
    bool in_order_ = true;
    Tuplesortstate *tuplesort_ = nullptr;
};

} // namespace tasker::stream
