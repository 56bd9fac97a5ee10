// C++ containers whose memory belongs to a Postgres memory context.
//
// Request data never touches malloc: it is freed with its context, also when an error skips or unwinds the
// code that made it. `Vector` and `Map` are Boost.Container's, given a std::pmr resource over a context.
#pragma once

#include "pg/error.hpp"

#include <boost/container/flat_map.hpp>
#include <boost/container/vector.hpp>

namespace tasker::pg {

// A std::pmr resource that allocates from one memory context. Out of memory is std::bad_alloc, never an
// ereport, so that containers keep their guarantees. deallocate gives the chunk back at once.
class ContextResource final : public std::pmr::memory_resource
{
  public:
    explicit ContextResource(MemoryContext context = CurrentMemoryContext) noexcept : context_(context) {}

    MemoryContext context() const noexcept { return context_; }

  private:
    void *do_allocate(size_t bytes, size_t alignment) override;
    void do_deallocate(void *pointer, size_t bytes, size_t alignment) noexcept override;
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
    {
        return this == &other;
    }

    MemoryContext context_;
};

// An element that allocates (std::pmr::string, another Vector) gets the resource of its Vector. A Map does
// not pass its own on to keys and values: they would quietly use malloc, so it takes none that allocate.
template <class T> using Vector = boost::container::vector<T, std::pmr::polymorphic_allocator<T>>;
template <class K, class V>
requires(std::is_trivially_copyable_v<K> &&std::is_trivially_copyable_v<V>) using Map =
    boost::container::flat_map<K, V, std::less<K>, std::pmr::polymorphic_allocator<std::pair<K, V>>>;

// Switches to a memory context for a scope.
class MemoryContextScope
{
  public:
    explicit MemoryContextScope(MemoryContext context) noexcept : outer_(MemoryContextSwitchTo(context)) {}
    ~MemoryContextScope() { MemoryContextSwitchTo(outer_); }
    MemoryContextScope(const MemoryContextScope &) = delete;
    MemoryContextScope &operator=(const MemoryContextScope &) = delete;

  private:
    MemoryContext outer_;
};

// A memory context of its own, deleted at the end of the scope.
class OwnedContext
{
  public:
    explicit OwnedContext(const char *name, MemoryContext parent = CurrentMemoryContext);
    ~OwnedContext() { MemoryContextDelete(context_); }
    OwnedContext(const OwnedContext &) = delete;
    OwnedContext &operator=(const OwnedContext &) = delete;

    MemoryContext get() const noexcept { return context_; }

  private:
    MemoryContext context_;
};

} // namespace tasker::pg
