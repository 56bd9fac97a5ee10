#include "stream/wake.hpp"

namespace tasker::stream {
namespace {

uint64 word_of(void *pointer)
{
    return static_cast<uint64>(reinterpret_cast<uintptr_t>(pointer));
}

template <class T> T *pointer_of(uint64 word)
{
    return reinterpret_cast<T *>(static_cast<uintptr_t>(word)); // NOLINT: a pointer of shared memory
}

void push(DatabaseWake *database, QueueWake *queue) noexcept
{
    uint64 first = pg_atomic_read_u64(&database->first_dirty);
    do {
        pg_atomic_write_u64(&queue->next_dirty, first);
    } while (!pg_atomic_compare_exchange_u64(&database->first_dirty, &first, word_of(queue)));
}

} // namespace

void wake_ticker(DatabaseWake *database) noexcept
{
    // The latch of a process that has ended belongs to nobody, or to another one, which takes a look for
    // nothing.
    if (auto *latch = pointer_of<Latch>(pg_atomic_read_u64(&database->ticker)))
        SetLatch(latch);
}

// What the caller has committed is visible before it gets here; the barrier keeps that order, see wake.hpp.
void mark_dirty(DatabaseWake *database, QueueWake *queue, uint64 events) noexcept
{
    const uint64 before = pg_atomic_fetch_add_u64(&queue->events, static_cast<int64>(events));
    const uint64 enough = pg_atomic_read_u64(&queue->enough);
    uint32 clean = static_cast<uint32>(Dirty::clean);
    pg_memory_barrier();
    if (pg_atomic_read_u32(&queue->dirty) == clean &&
        pg_atomic_compare_exchange_u32(&queue->dirty, &clean, static_cast<uint32>(Dirty::pushed))) {
        push(database, queue);
        wake_ticker(database);
    } else if (before < enough && before + events >= enough) {
        wake_ticker(database);
    }
}

void mark_any_dirty() noexcept
{
    DatabaseWake *database = known_database_wake();
    mark_dirty(database, &database->any, 0);
}

void wake_waiters_of(QueueWake *queue) noexcept
{
    pg_memory_barrier(); // who is not seen waiting here looks later, and sees the tick
    if (pg_atomic_read_u32(&queue->waiting) == 0)
        return;
    LWLockAcquire(&wake_area()->lock, LW_SHARED);
    set_latches(queue);
    LWLockRelease(&wake_area()->lock);
}

void wake_all_waiters() noexcept
{
    LWLockAcquire(&wake_area()->lock, LW_SHARED);
    for (int i = 0; i < wake_area()->waiter_count; i++) {
        const Waiter &waiter = wake_area()->waiters[i];
        if (waiter.queue != nullptr && waiter.queue->key.database == MyDatabaseId)
            SetLatch(waiter.latch);
    }
    LWLockRelease(&wake_area()->lock);
}

void mark_wanted(int32_t queue_id)
{
    QueueWake *queue = queue_wake(queue_id);
    if (queue == nullptr || pg_atomic_read_u32(&queue->wanted) != 0)
        return;
    // First wanted, then the look at the state: the ticker looks at them in the other order.
    pg_atomic_exchange_u32(&queue->wanted, 1);
    if (pg_atomic_read_u32(&queue->dirty) != static_cast<uint32>(Dirty::clean))
        wake_ticker(known_database_wake());
}

bool has_ticker()
{
    DatabaseWake *database = database_wake();
    return database != nullptr && pg_atomic_read_u64(&database->ticker) != 0;
}

bool request_look()
{
    if (!has_ticker())
        return false;
    mark_any_dirty();
    return true;
}

namespace {

void mark_if_prepared(QueueWake &queue, void *database)
{
    if (pg_atomic_read_u64(&queue.prepared) != 0)
        mark_dirty(static_cast<DatabaseWake *>(database), &queue, 0);
}

} // namespace

void after_commit_prepared() noexcept
{
    if (wake_area() == nullptr)
        return;
    LWLockAcquire(&wake_area()->lock, LW_SHARED);
    if (DatabaseWake *database = find_database_wake(MyDatabaseId)) {
        visit_queues_locked(mark_if_prepared, database);
        if (pg_atomic_read_u32(&database->prepared_unknown) != 0)
            mark_dirty(database, &database->any, 0);
    }
    LWLockRelease(&wake_area()->lock);
    wake_all_waiters();
}

namespace {

Waiter *own_waiter()
{
    return &wake_area()->waiters[tasker_proc_number()];
}

void stop_waiting() noexcept
{
    Waiter *waiter = own_waiter();
    LWLockAcquire(&wake_area()->lock, LW_EXCLUSIVE);
    if (QueueWake *queue = std::exchange(waiter->queue, nullptr)) {
        dlist_delete(&waiter->node);
        pg_atomic_fetch_sub_u32(&queue->waiting, 1);
    }
    LWLockRelease(&wake_area()->lock);
}

void stop_waiting_at_exit(int, Datum)
{
    stop_waiting();
}

// Looks the entry up under the same lock: the queue may have been dropped, and its entry removed, since the
// caller last saw it. It is then made again, and stays until a look of the ticker finds nobody waiting.
bool start_waiting(int32_t queue_id)
{
    static bool registered = false;
    if (!registered)
        pg::pg_call([] { before_shmem_exit(stop_waiting_at_exit, 0); });
    registered = true;
    pg::LockScope lock(&wake_area()->lock, LW_EXCLUSIVE);
    QueueWake *queue = find_queue_wake(queue_id, HASH_ENTER_NULL);
    if (queue == nullptr)
        return false;
    Waiter *waiter = own_waiter();
    waiter->queue = queue;
    waiter->latch = MyLatch;
    dlist_push_tail(&queue->waiters, &waiter->node);
    pg_atomic_fetch_add_u32(&queue->waiting, 1);
    return true;
}

} // namespace

WaitingForTick::WaitingForTick(int32_t queue_id)
    : accepted_(database_wake() != nullptr && start_waiting(queue_id))
{
}

WaitingForTick::~WaitingForTick()
{
    if (accepted_)
        stop_waiting();
}

} // namespace tasker::stream
