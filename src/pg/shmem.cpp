#include "pg/shmem.hpp"

namespace tasker::pg {
namespace {

constexpr int kMaxAreas = 8;
SharedArea *areas[kMaxAreas];
int area_count = 0;
int *tranche = nullptr;

shmem_request_hook_type previous_request_hook = nullptr;
shmem_startup_hook_type previous_startup_hook = nullptr;

// ShmemAlloc rounds each piece up to whole cache lines.
void request(Size size)
{
    RequestAddinShmemSpace(add_size(size, PG_CACHE_LINE_SIZE));
}

void request_memory()
{
    if (previous_request_hook)
        previous_request_hook();
    boundary([] {
        request(sizeof(int));
        for (int i = 0; i < area_count; i++) {
            request(areas[i]->size());
            if (areas[i]->hash_size != nullptr)
                request(areas[i]->hash_size());
        }
    });
}

void set_up_area(SharedArea &area)
{
    bool found = false;
    const Size size = area.size();
    area.memory = ShmemInitStruct(area.name, size, &found);
    if (!found) {
        memset(area.memory, 0, size);
        area.initialize(area.memory);
    }
    if (area.attach != nullptr)
        area.attach(area.memory);
}

void attach_memory()
{
    if (previous_startup_hook)
        previous_startup_hook();
    boundary([] {
        LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
        bool found = false;
        tranche = static_cast<int *>(ShmemInitStruct("tasker", sizeof(int), &found));
        if (!found)
            *tranche = LWLockNewTrancheId();
        LWLockRegisterTranche(*tranche, "tasker");
        for (int i = 0; i < area_count; i++)
            set_up_area(*areas[i]);
        LWLockRelease(AddinShmemInitLock);
    });
}

} // namespace

void declare_shared_area(SharedArea &area)
{
    if (!process_shared_preload_libraries_in_progress)
        return;
    if (area_count == kMaxAreas)
        throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many areas of shared memory")
            .detail("\"%s\" would be number %d.", area.name, kMaxAreas + 1);
    if (area_count == 0) {
        previous_request_hook = std::exchange(shmem_request_hook, request_memory);
        previous_startup_hook = std::exchange(shmem_startup_hook, attach_memory);
    }
    areas[area_count++] = &area;
}

int lwlock_tranche()
{
    return *tranche;
}

} // namespace tasker::pg
