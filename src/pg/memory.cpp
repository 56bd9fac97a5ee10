#include "pg/memory.hpp"

namespace tasker::pg {

// palloc aligns to MAXALIGN (8); a stricter request is over-allocated and the chunk's start kept right before
// the aligned address.
void *ContextResource::do_allocate(size_t bytes, size_t alignment)
{
    const bool over_aligned = alignment > MAXIMUM_ALIGNOF;
    const size_t extra = over_aligned ? alignment + sizeof(void *) : 0;

    if (bytes > MaxAllocHugeSize - extra)
        throw std::bad_alloc();
    void *chunk = MemoryContextAllocExtended(context_, bytes + extra, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
    if (chunk == nullptr)
        throw std::bad_alloc();
    if (!over_aligned)
        return chunk;
    auto address = reinterpret_cast<uintptr_t>(chunk) + sizeof(void *);
    address = (address + alignment - 1) & ~(static_cast<uintptr_t>(alignment) - 1);
    reinterpret_cast<void **>(address)[-1] = chunk;
    return reinterpret_cast<void *>(address);
}

void ContextResource::do_deallocate(void *pointer, size_t, size_t alignment) noexcept
{
    pfree(alignment > MAXIMUM_ALIGNOF ? static_cast<void **>(pointer)[-1] : pointer);
}

OwnedContext::OwnedContext(const char *name, MemoryContext parent)
    : context_(pg_call([&] {
          return AllocSetContextCreateInternal(parent, name, ALLOCSET_DEFAULT_MINSIZE,
                                               ALLOCSET_DEFAULT_INITSIZE, ALLOCSET_DEFAULT_MAXSIZE);
      }))
{
}

} // namespace tasker::pg
