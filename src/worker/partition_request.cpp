#include "worker/partition_request.hpp"

#include "partition/create.hpp"
#include "partition/retire_checks.hpp"
#include "partition/set_failure.hpp"
#include "worker/duty_runner.hpp"
#include "worker/shared.hpp"

#include <csignal>

extern "C" {
#include "access/parallel.h"
}

namespace tasker::worker {
namespace {

constexpr int64_t kPatienceUs = 5 * core::kUsPerSecond;
constexpr int64_t kBeforeCancelUs = 20'000; // a duty that yields gets this long to end by itself
constexpr int kCreateTimeoutMs = 5000;
constexpr int kLockWaitMs = 300; // the requester may hold the lock itself, and others wait for their turn

// Takes a free slot, or one whose requester has died; the lock is held. Null when all are in use.
PartitionRequestSlot *free_request(WorkerShared &state)
{
    for (PartitionRequestSlot &slot : state.requests) {
        if (slot.state == RequestState::free)
            return &slot;
    }
    for (PartitionRequestSlot &slot : state.requests) {
        if (BackendPidGetProc(slot.pid) == nullptr)
            return &slot;
    }
    return nullptr;
}

// A request of this backend for the time of a scope. A backend that dies in between leaves its slot behind;
// free_request finds it.
class Request
{
  public:
    Request(Oid parent, int64_t key)
    {
        WorkerShared &state = *shared();
        pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
        DatabaseSlot *database = find_slot(MyDatabaseId);
        if (database == nullptr || database->worker.state != WorkerState::running ||
            database->worker.pid == 0 || database->worker.pid == MyProcPid || database->worker.stop_requested)
            return;
        slot_ = free_request(state);
        if (slot_ == nullptr)
            return;
        serial_ = ++state.request_serial;
        *slot_ = {RequestState::open, MyDatabaseId, parent, key, serial_, MyProcPid, MyLatch};
        database->partition_wanted = true;
        SetLatch(database->worker.latch);
    }
    ~Request()
    {
        if (slot_ == nullptr)
            return;
        pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
        if (slot_->serial == serial_)
            slot_->state = RequestState::free;
    }
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    bool accepted() const { return slot_ != nullptr; }

    // What became of it; refused when the worker has gone meanwhile.
    RequestState look() const
    {
        pg::LockScope lock(&shared()->lock, LW_SHARED);
        if (slot_->serial != serial_)
            return RequestState::refused;
        const DatabaseSlot *database = find_slot(MyDatabaseId);
        const bool over = slot_->state == RequestState::granted || slot_->state == RequestState::refused;
        if (!over && (database == nullptr || database->worker.pid == 0))
            return RequestState::refused;
        return slot_->state;
    }

  private:
    PartitionRequestSlot *slot_ = nullptr;
    uint64_t serial_ = 0;
};

// Cancels what the worker is doing when that can be continued later: a detach that waits for a long reader,
// or an analyze.
void cancel_yielding_duty()
{
    pg::LockScope lock(&shared()->lock, LW_SHARED);
    const DatabaseSlot *database = find_slot(MyDatabaseId);
    if (database != nullptr && database->worker.pid != 0 && database->yields)
        kill(database->worker.pid, SIGINT);
}

void sleep_until(int64_t deadline_us)
{
    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerPartition");
    const int64_t left = deadline_us - now_us();
    const long milliseconds = static_cast<long>(std::max<int64_t>(left / 1000 + 1, 0));
    pg::pg_call([&] {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, wait_event);
        ResetLatch(MyLatch);
    });
    pg::check_for_interrupts();
}

// Takes the next open request of this database into `copy`; false when there is none.
bool take_request(PartitionRequestSlot &copy)
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    for (PartitionRequestSlot &slot : state.requests) {
        if (slot.state == RequestState::open && slot.database == MyDatabaseId) {
            slot.state = RequestState::taken;
            copy = slot;
            return true;
        }
    }
    if (DatabaseSlot *database = find_slot(MyDatabaseId))
        database->partition_wanted = false;
    return false;
}

void answer_request(const PartitionRequestSlot &request, bool made)
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    for (PartitionRequestSlot &slot : state.requests) {
        if (slot.serial == request.serial && slot.state == RequestState::taken) {
            slot.state = made ? RequestState::granted : RequestState::refused;
            SetLatch(slot.latch);
        }
    }
}

bool make_partition(const PartitionRequestSlot &request)
{
    auto create = [&](Steps &steps) {
        steps.transaction([&] {
            partition::LockTimeoutScope timeout(
                partition::locks_others(request.parent) ? partition::polite_patience_ms() : kLockWaitMs);
            partition::create_partition_for(request.parent, request.key);
        });
    };
    RunResult result = run_guarded("partition on demand", kCreateTimeoutMs, create);
    // The cancel that made the running duty yield may have come a moment too late.
    if (result.outcome == Outcome::cancelled)
        result = run_guarded("partition on demand", kCreateTimeoutMs, create);
    if (result.outcome == Outcome::failed)
        pg::pg_call([&] {
            ereport(DEBUG1,
                    errmsg_internal("could not make a partition on demand: %s", result.error->message()));
        });
    return result.outcome == Outcome::done;
}

} // namespace

bool request_partition(Oid parent, int64_t key)
{
    if (shared() == nullptr || IsParallelWorker())
        return false;
    Request request(parent, key);
    if (!request.accepted())
        return false;

    const int64_t start = now_us();
    bool cancelled = false;
    for (;;) {
        const RequestState state = request.look();
        if (state == RequestState::granted || state == RequestState::refused)
            return state == RequestState::granted;
        const int64_t waited = now_us() - start;
        if (waited >= kPatienceUs || waited < 0)
            return false;
        if (state == RequestState::open && !cancelled && waited >= kBeforeCancelUs) {
            cancel_yielding_duty();
            cancelled = true;
        }
        sleep_until(start + (cancelled || state != RequestState::open ? kPatienceUs : kBeforeCancelUs));
    }
}

int serve_partition_requests()
{
    PartitionRequestSlot request;
    int served = 0;
    while (take_request(request)) {
        answer_request(request, make_partition(request));
        ++served;
    }
    return served;
}

} // namespace tasker::worker
