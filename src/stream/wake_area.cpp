#include "stream/wake_area.hpp"

#include "pg/settings.hpp"

namespace tasker::stream {
namespace {

namespace settings = pg::settings;

Size databases_size()
{
    return MAXALIGN(add_size(offsetof(WakeArea, databases),
                             mul_size(sizeof(DatabaseWake), static_cast<Size>(settings::max_databases))));
}

int waiter_slots()
{
    return MaxBackends + NUM_AUXILIARY_PROCS + max_prepared_xacts;
}

Size area_size()
{
    return add_size(databases_size(), mul_size(sizeof(Waiter), static_cast<Size>(waiter_slots())));
}

Size hash_size()
{
    return hash_estimate_size(settings::max_queues, sizeof(QueueWake));
}

void begin_queue(QueueWake &queue, uint64 noted_by)
{
    pg_atomic_init_u32(&queue.dirty, static_cast<uint32>(Dirty::clean));
    pg_atomic_init_u32(&queue.wanted, 0);
    pg_atomic_init_u32(&queue.unread, 0);
    pg_atomic_init_u64(&queue.next_dirty, 0);
    pg_atomic_init_u64(&queue.events, 0);
    pg_atomic_init_u64(&queue.enough, PG_UINT64_MAX);
    pg_atomic_init_u64(&queue.prepared, 0);
    pg_atomic_init_u32(&queue.waiting, 0);
    pg_atomic_init_u64(&queue.ticks, 0);
    pg_atomic_init_u64(&queue.last_tick_us, 0);
    pg_atomic_init_u64(&queue.failures, 0);
    dlist_init(&queue.waiters);
    queue.noted_by = noted_by;
}

void begin_database(DatabaseWake &database, Oid oid)
{
    pg_atomic_init_u64(&database.ticker, 0);
    pg_atomic_init_u64(&database.first_dirty, 0);
    pg_atomic_init_u64(&database.prepares, 0);
    pg_atomic_init_u32(&database.prepared_unknown, 1);
    database.any.key = {oid, 0};
    begin_queue(database.any, 0);
    database.database = oid;
}

void initialize_area(void *memory)
{
    auto *state = static_cast<WakeArea *>(memory);
    LWLockInitialize(&state->lock, pg::lwlock_tranche());
    pg_atomic_init_u64(&state->removals, 1);
    state->waiter_count = waiter_slots();
    state->waiters = reinterpret_cast<Waiter *>(static_cast<char *>(memory) + databases_size());
    state->database_count = settings::max_databases;
    for (int i = 0; i < state->database_count; i++)
        begin_database(state->databases[i], InvalidOid);
}

HTAB *queue_table = nullptr; // opened by every process; forked backends inherit it

void attach_table(void *)
{
    HASHCTL queues{};
    queues.keysize = sizeof(QueueKey);
    queues.entrysize = sizeof(QueueWake);
    queue_table = ShmemInitHash("tasker stream queues", settings::max_queues, settings::max_queues, &queues,
                                HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

pg::SharedArea area{"tasker stream", area_size, initialize_area, hash_size, attach_table};

// A new entry's maker, as far as it has written anything: see remove_queue_wake.
uint64 own_transaction()
{
    return U64FromFullTransactionId(GetTopFullTransactionIdIfAny());
}

// Forgets databases that have been dropped. Asks the catalog, so it needs a transaction; without one nothing
// is reclaimed. Plain C inside: may ereport.
bool reclaim_dropped_databases()
{
    WakeArea *state = wake_area();
    bool reclaimed = false;
    if (!IsTransactionState())
        return false;
    AcceptInvalidationMessages();
    for (int i = 0; i < state->database_count; i++) {
        const Oid oid = state->databases[i].database;
        if (!OidIsValid(oid) || SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(oid)))
            continue;
        LWLockAcquire(&state->lock, LW_EXCLUSIVE);
        if (state->databases[i].database != oid) { // somebody else was faster, and the place is in use again
            LWLockRelease(&state->lock);
            continue;
        }
        HASH_SEQ_STATUS scan;
        hash_seq_init(&scan, queue_table);
        while (auto *queue = static_cast<QueueWake *>(hash_seq_search(&scan))) {
            if (queue->key.database == oid)
                hash_search(queue_table, &queue->key, HASH_REMOVE, nullptr);
        }
        pg_atomic_fetch_add_u64(&state->removals, 1);
        begin_database(state->databases[i], InvalidOid);
        LWLockRelease(&state->lock);
        reclaimed = true;
    }
    return reclaimed;
}

DatabaseWake *place_database()
{
    LWLockAcquire(&wake_area()->lock, LW_EXCLUSIVE);
    DatabaseWake *database = find_database_wake(MyDatabaseId);
    if (database == nullptr) {
        database = find_database_wake(InvalidOid);
        if (database != nullptr)
            begin_database(*database, MyDatabaseId);
    }
    LWLockRelease(&wake_area()->lock);
    return database;
}

QueueWake *place_queue(int32_t queue_id)
{
    const uint64 noted_by = own_transaction();
    LWLockAcquire(&wake_area()->lock, LW_EXCLUSIVE);
    QueueWake *queue = find_queue_wake(queue_id, HASH_ENTER_NULL, noted_by);
    LWLockRelease(&wake_area()->lock);
    return queue;
}

void complain_of_room()
{
    static bool complained = false;
    if (!std::exchange(complained, true))
        ereport(LOG, errmsg("no room in shared memory for another queue of the event stream"),
                errdetail("Ticks of the queues beyond look at all queues of their database."),
                errhint("Raise tasker.max_queues and restart the server."));
}

// Entries that this backend remembers.
struct Known
{
    int32_t queue_id;
    QueueWake *queue;
};

constexpr uint32 kKnown = 64;
Known known[kKnown];
uint64 known_at = 0; // `removals` when they were looked up

DatabaseWake *own_database = nullptr;

} // namespace

WakeArea *wake_area() noexcept
{
    return static_cast<WakeArea *>(area.memory);
}

DatabaseWake *known_database_wake() noexcept
{
    return own_database;
}

DatabaseWake *find_database_wake(Oid database) noexcept
{
    WakeArea *state = wake_area();
    for (int i = 0; i < state->database_count; i++) {
        if (state->databases[i].database == database)
            return &state->databases[i];
    }
    return nullptr;
}

QueueWake *find_queue_wake(int32_t queue_id, HASHACTION action, uint64 noted_by) noexcept
{
    const QueueKey key{MyDatabaseId, queue_id};
    bool found = false;
    auto *queue = static_cast<QueueWake *>(hash_search(queue_table, &key, action, &found));
    if (queue != nullptr && !found)
        begin_queue(*queue, noted_by);
    return queue;
}

void declare_wake_area()
{
    pg::declare_shared_area(area);
}

// The entry of a database stays while a backend is connected to it.
DatabaseWake *database_wake()
{
    if (wake_area() == nullptr || own_database != nullptr)
        return own_database;
    own_database = pg::pg_call([] {
        DatabaseWake *database = place_database();
        if (database == nullptr && reclaim_dropped_databases())
            database = place_database();
        return database;
    });
    return own_database;
}

QueueWake *queue_wake(int32_t queue_id)
{
    if (database_wake() == nullptr)
        return nullptr;
    const uint64 removals = pg_atomic_read_u64(&wake_area()->removals);
    if (known_at != removals) {
        std::fill(std::begin(known), std::end(known), Known{});
        known_at = removals;
    }
    Known &seen = known[static_cast<uint32>(queue_id) % kKnown];
    if (seen.queue != nullptr && seen.queue_id == queue_id)
        return seen.queue;
    QueueWake *queue = pg::pg_call([&] {
        QueueWake *place = place_queue(queue_id);
        if (place == nullptr && reclaim_dropped_databases())
            place = place_queue(queue_id);
        if (place == nullptr)
            complain_of_room();
        return place;
    });
    if (queue != nullptr)
        seen = {queue_id, queue};
    return queue;
}

void visit_queues(void (*visit)(QueueWake &, void *), void *object)
{
    if (wake_area() == nullptr)
        return;
    pg::LockScope lock(&wake_area()->lock, LW_SHARED);
    visit_queues_locked(visit, object);
}

void visit_queues_locked(void (*visit)(QueueWake &, void *), void *object)
{
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, queue_table);
    while (auto *queue = static_cast<QueueWake *>(hash_seq_search(&scan))) {
        if (queue->key.database == MyDatabaseId)
            visit(*queue, object);
    }
}

void set_latches(QueueWake *queue) noexcept
{
    const dlist_node *end = &queue->waiters.head;
    for (dlist_node *at = end->next; at != end; at = at->next)
        SetLatch(reinterpret_cast<Waiter *>(at)->latch);
}

void remove_queue_wake(int32_t queue_id)
{
    pg::LockScope lock(&wake_area()->lock, LW_EXCLUSIVE);
    QueueWake *queue = find_queue_wake(queue_id, HASH_FIND);
    if (queue == nullptr || pg_atomic_read_u32(&queue->dirty) == static_cast<uint32>(Dirty::pushed))
        return;
    if (pg_atomic_read_u32(&queue->waiting) > 0) {
        set_latches(queue);
        return;
    }
    hash_search(queue_table, &queue->key, HASH_REMOVE, nullptr);
    pg_atomic_fetch_add_u64(&wake_area()->removals, 1);
}

} // namespace tasker::stream
