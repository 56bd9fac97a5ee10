#include "workflow/template_memory.hpp"

namespace tasker::workflow {

void RetiredMemory::add(MemoryContext memory)
{
    auto *item = pg::pg_call([&] { return static_cast<Item *>(MemoryContextAlloc(memory, sizeof(Item))); });
    *item = {memory, tasker_local_transaction_id(), items_};
    items_ = item;
}

void RetiredMemory::free_earlier()
{
    const LocalTransactionId now = tasker_local_transaction_id();
    for (Item **link = &items_; *link != nullptr;) {
        const Item item = **link;
        if (item.transaction == now) {
            link = &(*link)->next;
        } else {
            *link = item.next;
            MemoryContextDelete(item.memory);
        }
    }
}

MemoryContext new_memory(const char *name)
{
    return pg::pg_call([&] {
        return AllocSetContextCreateInternal(CurrentMemoryContext, name, ALLOCSET_SMALL_MINSIZE,
                                             ALLOCSET_SMALL_INITSIZE, ALLOCSET_DEFAULT_MAXSIZE);
    });
}

void keep_memory(MemoryContext memory)
{
    MemoryContextSetParent(memory, CacheMemoryContext);
}

} // namespace tasker::workflow
