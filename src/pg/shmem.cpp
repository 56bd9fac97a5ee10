#include "pg/shmem.hpp"

namespace tasker::pg {
namespace {

constexpr int kMaxAreas = 8;
SharedArea *areas[kMaxAreas];
int area_count = 0;
int *tranche = nullptr;

shmem_request_hook_type previous_request_hook = nullptr;
shmem_startup_hook_type previous_startup_hook = nullptr;

void request_memory()
{
    if (previous_request_hook)
        previous_request_hook();
    RequestAddinShmemSpace(MAXALIGN(sizeof(int)));
    for (int i = 0; i < area_count; i++) {
        RequestAddinShmemSpace(add_size(areas[i]->size(), MAXIMUM_ALIGNOF));
        if (areas[i]->hash_size != nullptr)
            RequestAddinShmemSpace(areas[i]->hash_size());
    }
}

void attach_memory()
{
    if (previous_startup_hook)
        previous_startup_hook();
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    bool found = false;
    tranche = static_cast<int *>(ShmemInitStruct("tasker", sizeof(int), &found));
    if (!found)
        *tranche = LWLockNewTrancheId();
    LWLockRegisterTranche(*tranche, "tasker");
    for (int i = 0; i < area_count; i++) {
        Size size = areas[i]->size();
        areas[i]->memory = ShmemInitStruct(areas[i]->name, size, &found);
        if (!found) {
            memset(areas[i]->memory, 0, size);
            areas[i]->initialize(areas[i]->memory);
        }
        if (areas[i]->attach != nullptr)
            areas[i]->attach(areas[i]->memory);
    }
    LWLockRelease(AddinShmemInitLock);
}

} // namespace

void declare_shared_area(SharedArea &area)
{
    if (!process_shared_preload_libraries_in_progress)
        return;
    if (area_count == 0) {
        previous_request_hook = std::exchange(shmem_request_hook, request_memory);
        previous_startup_hook = std::exchange(shmem_startup_hook, attach_memory);
    }
    Assert(area_count < kMaxAreas);
    areas[area_count++] = &area;
}

int lwlock_tranche()
{
    return *tranche;
}

} // namespace tasker::pg
