// Memory: what runs out, what is aligned, what leaks.
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/shmem.hpp"
#include "pg/subtransaction.hpp"
#include "witness.hpp"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

using namespace tasker;
using namespace tasker::border;

namespace {

constexpr size_t kMiB = 1024 * 1024;

// Limits the address space of this process to little more than it has, so that the next large allocation
// really fails, in malloc.
class AddressSpaceLimit
{
  public:
    AddressSpaceLimit() noexcept { getrlimit(RLIMIT_AS, &saved_); }
    ~AddressSpaceLimit() { setrlimit(RLIMIT_AS, &saved_); }
    AddressSpaceLimit(const AddressSpaceLimit &) = delete;
    AddressSpaceLimit &operator=(const AddressSpaceLimit &) = delete;

    void leave_only(size_t bytes) const noexcept
    {
        struct rlimit limit = saved_;
        limit.rlim_cur = address_space() + bytes;
        setrlimit(RLIMIT_AS, &limit);
    }

  private:
    static size_t address_space() noexcept
    {
        unsigned long pages = 0;
        FILE *statm = fopen("/proc/self/statm", "r");
        if (statm != nullptr) {
            if (fscanf(statm, "%lu", &pages) != 1)
                pages = 0;
            fclose(statm);
        }
        return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    }

    struct rlimit saved_ = {};
};

// Fills a block with a pattern of its address, or checks that it still holds it.
void fill(void *block, size_t bytes)
{
    memset(block, static_cast<int>(reinterpret_cast<uintptr_t>(block) >> 4 & 0xff), bytes);
}

bool is_intact(const void *block, size_t bytes)
{
    const auto *begin = static_cast<const unsigned char *>(block);
    const auto pattern = static_cast<unsigned char>(reinterpret_cast<uintptr_t>(block) >> 4 & 0xff);
    return std::all_of(begin, begin + bytes, [&](unsigned char byte) { return byte == pattern; });
}

size_t allocated_in_contexts()
{
    return MemoryContextMemAllocated(TopMemoryContext, true);
}

void swallow_one(std::string_view kind)
{
    auto error = pg::try_in_subtransaction([&] {
        Holder holder(10);
        throw_kind(kind);
    });
    if (!error)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "no error was thrown");
}

} // namespace

// What malloc has given out (that includes the contexts) and what the contexts have.
TASKER_FUNCTION(border_memory)
{
    return args.result(static_cast<int64_t>(mallinfo2().uordblks + mallinfo2().hblkhd));
}

TASKER_FUNCTION(border_context_memory)
{
    return args.result(static_cast<int64_t>(allocated_in_contexts()));
}

// Catches `count` errors inside one call and returns by how many bytes memory grew after the first thousand.
TASKER_FUNCTION(border_growth)
{
    const std::string_view kind = args.text(0, "kind");
    const int32_t count = args.i32(1, "count");
    for (int i = 0; i < 1000; i++)
        swallow_one(kind);
    const auto contexts = static_cast<int64_t>(allocated_in_contexts());
    const auto heap = static_cast<int64_t>(mallinfo2().uordblks);
    for (int i = 0; i < count; i++)
        swallow_one(kind);
    return args.result(std::max(static_cast<int64_t>(allocated_in_contexts()) - contexts,
                                static_cast<int64_t>(mallinfo2().uordblks) - heap));
}

// More than any memory context gives; must not reach Postgres, which would ereport.
TASKER_FUNCTION(border_allocate_too_much)
{
    Holder holder(10);
    pg::ContextResource resource;
    void *block = resource.allocate(MaxAllocHugeSize - static_cast<size_t>(args.i32(0, "less")),
                                    static_cast<size_t>(args.i32(1, "alignment")));
    return args.result(block != nullptr);
}

TASKER_FUNCTION(border_too_many_elements)
{
    Holder holder(10);
    pg::ContextResource resource;
    pg::Vector<int64_t> elements(&resource);
    elements.reserve(SIZE_MAX / 4);
    return args.null();
}

// A container that grows until malloc fails; then what it had is still there.
TASKER_FUNCTION(border_exhaust_container)
{
    Holder holder(10);
    AddressSpaceLimit limit;
    pg::ContextResource resource;
    pg::Vector<int64_t> elements(&resource);
    limit.leave_only(64 * kMiB);
    try {
        for (;;)
            elements.push_back(static_cast<int64_t>(elements.size()));
    } catch (const std::bad_alloc &) {
        for (size_t i = 0; i < elements.size(); i++)
            Assert(elements[i] == static_cast<int64_t>(i));
        if (elements.empty() || elements.back() + 1 != static_cast<int64_t>(elements.size()))
            throw pg::Error(ERRCODE_DATA_CORRUPTED, "the container lost elements");
        throw;
    }
}

// An allocation that fails inside Postgres: an ereport of its own.
TASKER_FUNCTION(border_exhaust_palloc)
{
    Holder holder(10);
    AddressSpaceLimit limit;
    limit.leave_only(kMiB);
    pg::pg_call([] { return palloc_extended(256 * kMiB, MCXT_ALLOC_HUGE); });
    return args.null();
}

// An error whose copy needs more memory than there is. Its last context callback, which runs when the error
// is complete, takes the memory away.
TASKER_FUNCTION(border_exhaust_copy)
{
    Holder holder(10);
    AddressSpaceLimit limit;
    uint32 holdoff_seen = 0;
    try {
        pg::LockScope lock(AddinShmemInitLock, LW_SHARED);
        pg::pg_call([&] {
            ErrorContextCallback callback{
                error_context_stack, [](void *l) { static_cast<AddressSpaceLimit *>(l)->leave_only(kMiB); },
                &limit};
            error_context_stack = &callback;
            char *detail = static_cast<char *>(palloc(64 * kMiB));
            memset(detail, 'x', 64 * kMiB - 1);
            detail[64 * kMiB - 1] = '\0';
            ereport(ERROR, errcode(ERRCODE_CHECK_VIOLATION), errmsg("an error with a very long detail"),
                    errdetail_internal("%s", detail));
        });
    } catch (const std::bad_alloc &) {
        holdoff_seen = InterruptHoldoffCount;
        if (holdoff_seen != 0)
            throw pg::Error(ERRCODE_INTERNAL_ERROR, "interrupts are held off %u times", holdoff_seen);
        throw;
    }
    return args.null();
}

// Allocates, checks and frees blocks of one alignment; returns how many were misaligned or overwritten.
TASKER_FUNCTION(border_aligned)
{
    const auto alignment = static_cast<size_t>(args.i32(0, "alignment"));
    constexpr size_t kBlocks = 500;
    pg::OwnedContext context("border aligned");
    pg::ContextResource resource(context.get());
    std::array<void *, kBlocks> blocks{};
    int32_t wrong = 0;
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < kBlocks; i++) {
            blocks[i] = resource.allocate(i * 7, alignment);
            fill(blocks[i], i * 7);
            wrong += reinterpret_cast<uintptr_t>(blocks[i]) % alignment != 0;
        }
        for (size_t i = 0; i < kBlocks; i++)
            wrong += !is_intact(blocks[i], i * 7);
        // Every other one first, so that later rounds meet holes.
        for (size_t i = 0; i < kBlocks; i += 2)
            resource.deallocate(blocks[i], i * 7, alignment);
        for (size_t i = 1; i < kBlocks; i += 2)
            resource.deallocate(blocks[i], i * 7, alignment);
    }
    return args.result(wrong);
}

// Containers of over-aligned elements, of strings and of pairs. Each string must have its Vector's resource.
TASKER_FUNCTION(border_containers)
{
    struct alignas(64) Line
    {
        int64_t value;
    };
    pg::OwnedContext context("border containers");
    pg::ContextResource resource(context.get());
    int64_t sum = 0;
    for (int round = 0; round < 100; round++) {
        pg::Vector<Line> lines(&resource);
        pg::Vector<std::pmr::string> strings(&resource);
        pg::Map<int64_t, int64_t> numbers(&resource);
        for (int64_t i = 0; i < 100; i++) {
            lines.push_back({i});
            strings.emplace_back("a string that is too long to be kept in place");
            numbers.emplace(-i, i);
        }
        for (const Line &line : lines)
            sum += reinterpret_cast<uintptr_t>(&line) % alignof(Line) == 0 ? line.value : -1000000;
        for (const std::pmr::string &string : strings)
            sum += string.get_allocator().resource() == &resource ? 1 : -1000000;
        for (const auto &[key, number] : numbers)
            sum += key + number;
    }
    return args.result(sum);
}
