// Memory of what a cache has replaced: kept to the end of the transaction, because somebody may still hold
// pointers into it.
#pragma once

#include "pg/error.hpp"

namespace tasker::workflow {

// A list of memory contexts. Define as a static object.
class RetiredMemory
{
  public:
    // From now on nobody gets a pointer into it any more.
    void add(MemoryContext memory);
    // Frees what was added by an earlier transaction.
    void free_earlier();

  private:
    struct Item // lives in its own memory
    {
        MemoryContext memory;
        LocalTransactionId transaction;
        Item *next;
    };

    Item *items_ = nullptr;
};

// A new memory context that goes with the current one, unless keep_memory() is called.
MemoryContext new_memory(const char *name);
void keep_memory(MemoryContext memory);

} // namespace tasker::workflow
