#include "worker/shared.hpp"

#include "pg/settings.hpp"

#include <csignal>

extern "C" {
#include "mb/pg_wchar.h"
}

namespace tasker::worker {
namespace {

Size area_size()
{
    return add_size(offsetof(WorkerShared, slots),
                    mul_size(sizeof(DatabaseSlot), pg::settings::max_databases));
}

void initialize_area(void *memory)
{
    auto *state = static_cast<WorkerShared *>(memory);
    LWLockInitialize(&state->lock, pg::lwlock_tranche());
    state->slot_count = pg::settings::max_databases;
    for (int i = 0; i < state->slot_count; i++)
        pg_atomic_init_u32(&state->slots[i].requested, 0);
}

pg::SharedArea area{"tasker worker", area_size, initialize_area};

} // namespace

void declare_shared_area()
{
    pg::declare_shared_area(area);
}

WorkerShared *shared()
{
    return static_cast<WorkerShared *>(area.memory);
}

DatabaseSlot *find_slot(Oid database)
{
    WorkerShared *state = shared();
    for (int i = 0; i < state->slot_count; i++) {
        if (state->slots[i].database == database)
            return &state->slots[i];
    }
    return nullptr;
}

bool is_held(Oid database)
{
    WorkerShared *state = shared();
    return std::any_of(std::begin(state->holds), std::end(state->holds),
                       [&](const Hold &hold) { return hold.database == database; });
}

void set_text(ErrorText &target, const char *text) noexcept
{
    const int length = static_cast<int>(strlen(text));
    const int fits = length < kTextBytes ? length : pg_mbcliplen(text, length, kTextBytes - 1);
    memcpy(target, text, static_cast<size_t>(fits));
    target[fits] = '\0';
}

void stop_process(ProcessSlot &process) noexcept
{
    if (process.pid == 0)
        return;
    process.stop_requested = true;
    kill(process.pid, SIGTERM);
}

// One that is just finding out that there is no extension has to look once more.
static void have_look_again(ProcessSlot &process) noexcept
{
    if (process.pid == 0)
        return;
    process.look_again = true;
    SetLatch(process.latch);
}

void wake_launcher(Oid try_again) noexcept
{
    WorkerShared *state = shared();
    if (state == nullptr)
        return;
    LWLockAcquire(&state->lock, LW_EXCLUSIVE);
    state->look_at_databases = true;
    if (OidIsValid(try_again)) {
        if (state->told_count < kMaxTold)
            state->told[state->told_count++] = try_again;
        else
            state->told_all = true;
        if (DatabaseSlot *slot = find_slot(try_again)) {
            have_look_again(slot->worker);
            have_look_again(slot->ticker);
        }
    }
    if (state->launcher_latch != nullptr)
        SetLatch(state->launcher_latch);
    LWLockRelease(&state->lock);
}

} // namespace tasker::worker
