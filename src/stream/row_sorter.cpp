#include "stream/row_sorter.hpp"

#ifdef __GLIBC__
#include <malloc.h>
#endif

extern "C" {
#include "parser/parse_oper.h"
}

namespace tasker::stream {

namespace {
constexpr size_t kFirstCapacity = 256;

// A session that reads batches keeps up to 8 MB of freed memory for the next one. By default the C library
// gives it back to the system after each statement, and a third of the work on the next one is to get it
// again, page by page (bench/stream, "consume").
void keep_freed_memory()
{
#ifdef __GLIBC__
    constexpr int kKept = 8 * 1024 * 1024;
    static bool done = false;
    if (!done) {
        done = true;
        mallopt(M_MMAP_THRESHOLD, kKept);
        mallopt(M_TRIM_THRESHOLD, kKept);
    }
#endif
}
} // namespace

RowSorter::RowSorter(TupleDesc descriptor)
    : descriptor_(descriptor),
      rows_memory_(AllocSetContextCreate(CurrentMemoryContext, "tasker rows", ALLOCSET_DEFAULT_SIZES)),
      slot_(MakeSingleTupleTableSlot(descriptor, &TTSOpsMinimalTuple)),
      entries_(static_cast<Entry *>(palloc(sizeof(Entry) * kFirstCapacity))), capacity_(kFirstCapacity)
{
    keep_freed_memory();
}

void RowSorter::add(int64_t key, const Datum *values, const bool *nulls)
{
    if (tuplesort_ == nullptr && bytes_ > static_cast<Size>(work_mem) * 1024)
        begin_tuplesort();
    MemoryContext outer = MemoryContextSwitchTo(rows_memory_);
    MinimalTuple row =
        heap_form_minimal_tuple(descriptor_, const_cast<Datum *>(values), const_cast<bool *>(nulls));
    MemoryContextSwitchTo(outer);
    if (tuplesort_ != nullptr) {
        ExecStoreMinimalTuple(row, slot_, false);
        tuplesort_puttupleslot(tuplesort_, slot_);
        ExecClearTuple(slot_);
        pfree(row);
        return;
    }
    if (count_ == capacity_)
        grow();
    in_order_ = in_order_ && (count_ == 0 || entries_[count_ - 1].key <= key);
    bytes_ += row->t_len + sizeof(Entry);
    entries_[count_++] = {key, row};
}

void RowSorter::grow()
{
    capacity_ *= 2;
    entries_ = static_cast<Entry *>(repalloc_huge(entries_, sizeof(Entry) * capacity_));
}

void RowSorter::free_rows()
{
    MemoryContextReset(rows_memory_);
    count_ = 0;
}

void RowSorter::begin_tuplesort()
{
    AttrNumber column = 1;
    Oid sort_operator = InvalidOid;
    Oid collation = InvalidOid;
    bool nulls_first = false;
    get_sort_group_operators(INT8OID, true, false, false, &sort_operator, nullptr, nullptr, nullptr);
    tuplesort_ = tuplesort_begin_heap(descriptor_, 1, &column, &sort_operator, &collation, &nulls_first,
                                      work_mem, nullptr, TUPLESORT_NONE);
    for (size_t i = 0; i < count_; i++) {
        ExecStoreMinimalTuple(entries_[i].row, slot_, false);
        tuplesort_puttupleslot(tuplesort_, slot_);
    }
    ExecClearTuple(slot_);
    free_rows();
}

void RowSorter::move_to(pg::ResultSet &result)
{
    if (tuplesort_ != nullptr) {
        tuplesort_performsort(tuplesort_);
        while (tuplesort_gettupleslot(tuplesort_, true, false, slot_, nullptr)) {
            CHECK_FOR_INTERRUPTS();
            result.add_slot(slot_);
        }
        tuplesort_end(tuplesort_);
    } else {
        if (!in_order_)
            std::sort(entries_, entries_ + count_,
                      [](const Entry &a, const Entry &b) { return a.key < b.key; });
        for (size_t i = 0; i < count_; i++) {
            ExecStoreMinimalTuple(entries_[i].row, slot_, false);
            result.add_slot(slot_);
        }
    }
    ExecDropSingleTupleTableSlot(slot_);
    MemoryContextDelete(rows_memory_);
    pfree(entries_);
}

} // namespace tasker::stream
