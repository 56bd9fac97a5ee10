#include "stream/wake.hpp"

#include "pg/settings.hpp"

namespace tasker::stream {
namespace {

namespace settings = pg::settings;

// A backend that waits for a batch; one slot per backend, under the lock.
struct Waiter
{
    dlist_node node;  // first; in queue->waiters while `queue` is set
    QueueWake *queue; // null: does not wait
    Latch *latch;
};

struct WakeArea
{
    LWLock lock;
    pg_atomic_uint64 removals; // entries removed so far: who remembers one has to look it up anew
    int waiter_count;
    Waiter *waiters;
    int database_count;
    DatabaseWake databases[FLEXIBLE_ARRAY_MEMBER];
};

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

WakeArea *shared()
{
    return static_cast<WakeArea *>(area.memory);
}

uint64 word_of(void *pointer)
{
    return static_cast<uint64>(reinterpret_cast<uintptr_t>(pointer));
}

template <class T> T *pointer_of(uint64 word)
{
    return reinterpret_cast<T *>(static_cast<uintptr_t>(word)); // NOLINT: a pointer of shared memory
}

// --- finding entries
// -----------------------------------------------------------------------------------------

DatabaseWake *find_database(Oid oid)
{
    WakeArea *state = shared();
    for (int i = 0; i < state->database_count; i++) {
        if (state->databases[i].database == oid)
            return &state->databases[i];
    }
    return nullptr;
}

// A new entry's maker, as far as it has written anything: see remove_queue_wake.
uint64 own_transaction()
{
    return U64FromFullTransactionId(GetTopFullTransactionIdIfAny());
}

// Forgets databases that have been dropped. Asks the catalog, so it needs a transaction; without one nothing
// is reclaimed. Plain C inside: may ereport.
bool reclaim_dropped_databases()
{
    WakeArea *state = shared();
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
    LWLockAcquire(&shared()->lock, LW_EXCLUSIVE);
    DatabaseWake *database = find_database(MyDatabaseId);
    if (database == nullptr) {
        database = find_database(InvalidOid);
        if (database != nullptr)
            begin_database(*database, MyDatabaseId);
    }
    LWLockRelease(&shared()->lock);
    return database;
}

QueueWake *place_queue(const QueueKey &key)
{
    const uint64 noted_by = own_transaction();
    bool found = false;
    LWLockAcquire(&shared()->lock, LW_EXCLUSIVE);
    auto *queue = static_cast<QueueWake *>(hash_search(queue_table, &key, HASH_ENTER_NULL, &found));
    if (queue != nullptr && !found)
        begin_queue(*queue, noted_by);
    LWLockRelease(&shared()->lock);
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

void declare_wake_area()
{
    pg::declare_shared_area(area);
}

// The entry of a database stays while a backend is connected to it.
DatabaseWake *database_wake()
{
    if (shared() == nullptr || own_database != nullptr)
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
    const uint64 removals = pg_atomic_read_u64(&shared()->removals);
    if (known_at != removals) {
        std::fill(std::begin(known), std::end(known), Known{});
        known_at = removals;
    }
    Known &seen = known[static_cast<uint32>(queue_id) % kKnown];
    if (seen.queue != nullptr && seen.queue_id == queue_id)
        return seen.queue;
    QueueWake *queue = pg::pg_call([&] {
        const QueueKey key{MyDatabaseId, queue_id};
        QueueWake *place = place_queue(key);
        if (place == nullptr && reclaim_dropped_databases())
            place = place_queue(key);
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
    if (shared() == nullptr)
        return;
    pg::LockScope lock(&shared()->lock, LW_SHARED);
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, queue_table);
    while (auto *queue = static_cast<QueueWake *>(hash_seq_search(&scan))) {
        if (queue->key.database == MyDatabaseId)
            visit(*queue, object);
    }
}

namespace {

// --- waking
// --------------------------------------------------------------------------------------------------

void wake_ticker(DatabaseWake *database) noexcept
{
    // The latch of a process that has ended belongs to nobody, or to another one, which takes a look for
    // nothing.
    if (auto *latch = pointer_of<Latch>(pg_atomic_read_u64(&database->ticker)))
        SetLatch(latch);
}

void push(DatabaseWake *database, QueueWake *queue) noexcept
{
    uint64 first = pg_atomic_read_u64(&database->first_dirty);
    do {
        pg_atomic_write_u64(&queue->next_dirty, first);
    } while (!pg_atomic_compare_exchange_u64(&database->first_dirty, &first, word_of(queue)));
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

// The lock is held.
void set_latches(QueueWake *queue) noexcept
{
    const dlist_node *end = &queue->waiters.head;
    for (dlist_node *at = end->next; at != end; at = at->next)
        SetLatch(reinterpret_cast<Waiter *>(at)->latch);
}

void wake_waiters_of(QueueWake *queue) noexcept
{
    pg_memory_barrier(); // who is not seen waiting here looks later, and sees the tick
    if (pg_atomic_read_u32(&queue->waiting) == 0)
        return;
    LWLockAcquire(&shared()->lock, LW_SHARED);
    set_latches(queue);
    LWLockRelease(&shared()->lock);
}

void wake_all_waiters() noexcept
{
    LWLockAcquire(&shared()->lock, LW_SHARED);
    for (int i = 0; i < shared()->waiter_count; i++) {
        const Waiter &waiter = shared()->waiters[i];
        if (waiter.queue != nullptr && waiter.queue->key.database == MyDatabaseId)
            SetLatch(waiter.latch);
    }
    LWLockRelease(&shared()->lock);
}

// --- what this transaction has noted
// -------------------------------------------------------------------------

constexpr int kNotes = 64; // more queues in one transaction become `any`

struct Note
{
    int32_t queue_id;
    QueueWake *queue;
    uint64 events;
    bool dirty;  // there are events, or a tick is wanted without
    bool wanted; // a tick at once
    bool ticked;
};

Note notes[kNotes];
int note_count = 0;
bool all_dirty = false; // some queue of the database
bool wake_all = false;  // all waiters of the database
bool look_late = false; // the ticker has to look, once the caches hear of the commit
bool wake_late = false; // likewise all waiters
bool some_notes = false;
bool late_notes = false;  // committed: look_late and wake_late hold
bool some_undone = false; // by a subtransaction: its locks, which kept the queues it noted, have gone
uint64 noted_at = 0;      // `removals` at the first note

void forget_notes() noexcept
{
    note_count = 0;
    all_dirty = wake_all = look_late = wake_late = some_notes = late_notes = some_undone = false;
}

bool some_may_be_removed() noexcept
{
    return some_undone || pg_atomic_read_u64(&shared()->removals) != noted_at;
}

// Entries that may have been removed since are looked up again, and none goes meanwhile. One that is made
// here for a queue that was dropped goes with the look that its mark leads to.
void apply_notes_anew() noexcept
{
    LWLockAcquire(&shared()->lock, LW_EXCLUSIVE);
    for (int i = 0; i < note_count; i++) {
        const Note &note = notes[i];
        const QueueKey key{MyDatabaseId, note.queue_id};
        bool found = false;
        auto *queue = static_cast<QueueWake *>(
            hash_search(queue_table, &key, note.dirty ? HASH_ENTER_NULL : HASH_FIND, &found));
        if (queue == nullptr) {
            all_dirty = all_dirty || note.dirty;
            continue;
        }
        if (!found)
            begin_queue(*queue, 0);
        if (note.wanted)
            pg_atomic_write_u32(&queue->wanted, 1);
        if (note.dirty)
            mark_dirty(own_database, queue, note.events);
        if (note.ticked)
            set_latches(queue);
    }
    LWLockRelease(&shared()->lock);
    note_count = 0;
}

void apply_notes() noexcept
{
    if (note_count > 0 && some_may_be_removed())
        apply_notes_anew();
    for (int i = 0; i < note_count; i++) {
        const Note &note = notes[i];
        if (note.wanted)
            pg_atomic_write_u32(&note.queue->wanted, 1);
        if (note.dirty)
            mark_dirty(own_database, note.queue, note.events);
        if (note.ticked)
            wake_waiters_of(note.queue);
    }
    if (all_dirty)
        mark_dirty(own_database, &own_database->any, 0);
    if (wake_all)
        wake_all_waiters();
    note_count = 0;
    all_dirty = wake_all = some_notes = some_undone = false;
    late_notes = look_late || wake_late;
}

// Others act on settings and registrations by what they have cached, and the message that it has changed goes
// out between the transaction callbacks and the release of the locks: whoever was woken earlier might look
// too early.
void after_locks(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *)
{
    if (!late_notes || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_commit || !is_top_level)
        return;
    if (look_late)
        mark_dirty(own_database, &own_database->any, 0);
    wake_all_waiters();
    forget_notes();
}

// The outcome comes later, from another session, which knows nothing of the notes.
void apply_prepare() noexcept
{
    if (note_count > 0 && some_may_be_removed()) {
        note_count = 0;
        all_dirty = true;
    }
    const uint64 number = pg_atomic_add_fetch_u64(&own_database->prepares, 1);
    for (int i = 0; i < note_count; i++) {
        if (notes[i].dirty)
            pg_atomic_write_u64(&notes[i].queue->prepared, number);
    }
    if (all_dirty || look_late)
        pg_atomic_write_u32(&own_database->prepared_unknown, 1);
    wake_ticker(own_database);
}

void at_transaction_end(XactEvent event, void *)
{
    if (!some_notes)
        return;
    if (event == XACT_EVENT_COMMIT) {
        apply_notes();
    } else if (event == XACT_EVENT_PREPARE) {
        apply_prepare();
        forget_notes();
    } else if (event == XACT_EVENT_ABORT) {
        forget_notes();
    }
}

void at_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
    if (event == SUBXACT_EVENT_ABORT_SUB)
        some_undone = some_notes;
}

// False where nothing is to be noted, because nobody would hear of it.
bool may_note()
{
    static bool registered = false;
    if (database_wake() == nullptr)
        return false;
    if (!registered) {
        pg::pg_call([] {
            RegisterXactCallback(at_transaction_end, nullptr);
            RegisterSubXactCallback(at_subtransaction_end, nullptr);
            RegisterResourceReleaseCallback(after_locks, nullptr);
        });
        registered = true;
    }
    if (!std::exchange(some_notes, true))
        noted_at = pg_atomic_read_u64(&shared()->removals);
    return true;
}

// The note about a queue; null where there is no room for it, and the whole database is noted instead.
Note *note_of(int32_t queue_id)
{
    if (!may_note())
        return nullptr;
    QueueWake *queue = queue_wake(queue_id);
    for (int i = note_count; i-- > 0;) {
        if (notes[i].queue_id == queue_id)
            return &notes[i];
    }
    if (queue == nullptr || note_count == kNotes)
        return nullptr;
    notes[note_count] = {queue_id, queue, 0, false, false, false};
    return &notes[note_count++];
}

} // namespace

void note_events(int32_t queue_id, size_t count)
{
    if (Note *note = note_of(queue_id)) {
        note->dirty = true;
        note->events += count;
    } else {
        all_dirty = some_notes;
    }
}

void note_tick(int32_t queue_id)
{
    if (Note *note = note_of(queue_id))
        note->ticked = true;
    else
        wake_all = some_notes;
}

void note_settings()
{
    if (may_note())
        look_late = wake_late = true;
}

void note_unregistered()
{
    if (may_note())
        wake_late = true;
}

void request_tick(int32_t queue_id)
{
    if (Note *note = note_of(queue_id))
        note->dirty = note->wanted = true;
    else
        all_dirty = some_notes;
}

void mark_wanted(int32_t queue_id)
{
    QueueWake *queue = queue_wake(queue_id);
    if (queue == nullptr || pg_atomic_read_u32(&queue->wanted) != 0)
        return;
    // First wanted, then the look at the state: the ticker looks at them in the other order.
    pg_atomic_exchange_u32(&queue->wanted, 1);
    if (pg_atomic_read_u32(&queue->dirty) != static_cast<uint32>(Dirty::clean))
        wake_ticker(own_database);
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
    mark_dirty(own_database, &own_database->any, 0);
    return true;
}

void after_commit_prepared() noexcept
{
    if (shared() == nullptr)
        return;
    LWLockAcquire(&shared()->lock, LW_SHARED);
    if (DatabaseWake *database = find_database(MyDatabaseId)) {
        HASH_SEQ_STATUS scan;
        hash_seq_init(&scan, queue_table);
        while (auto *queue = static_cast<QueueWake *>(hash_seq_search(&scan))) {
            if (queue->key.database == MyDatabaseId && pg_atomic_read_u64(&queue->prepared) != 0)
                mark_dirty(database, queue, 0);
        }
        if (pg_atomic_read_u32(&database->prepared_unknown) != 0)
            mark_dirty(database, &database->any, 0);
    }
    LWLockRelease(&shared()->lock);
    wake_all_waiters();
}

namespace {

Waiter *own_waiter()
{
    return &shared()->waiters[tasker_proc_number()];
}

void stop_waiting() noexcept
{
    Waiter *waiter = own_waiter();
    LWLockAcquire(&shared()->lock, LW_EXCLUSIVE);
    if (QueueWake *queue = std::exchange(waiter->queue, nullptr)) {
        dlist_delete(&waiter->node);
        pg_atomic_fetch_sub_u32(&queue->waiting, 1);
    }
    LWLockRelease(&shared()->lock);
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
    const QueueKey key{MyDatabaseId, queue_id};
    bool found = false;
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    auto *queue = static_cast<QueueWake *>(hash_search(queue_table, &key, HASH_ENTER_NULL, &found));
    if (queue == nullptr)
        return false;
    if (!found)
        begin_queue(*queue, 0);
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

void remove_queue_wake(int32_t queue_id)
{
    const QueueKey key{MyDatabaseId, queue_id};
    pg::LockScope lock(&shared()->lock, LW_EXCLUSIVE);
    auto *queue = static_cast<QueueWake *>(hash_search(queue_table, &key, HASH_FIND, nullptr));
    if (queue == nullptr || pg_atomic_read_u32(&queue->dirty) == static_cast<uint32>(Dirty::pushed))
        return;
    if (pg_atomic_read_u32(&queue->waiting) > 0) {
        set_latches(queue);
        return;
    }
    hash_search(queue_table, &key, HASH_REMOVE, nullptr);
    pg_atomic_fetch_add_u64(&shared()->removals, 1);
}

} // namespace tasker::stream
