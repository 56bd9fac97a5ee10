#include "stream/wake_notes.hpp"

#include "stream/wake.hpp"

namespace tasker::stream {
namespace {

constexpr int kNotes = 64; // more queues in one transaction become `any`

struct Note
{
    int32_t queue_id;
    QueueWake *queue;
    uint64 events;
    bool dirty;  // there are events, or a tick is wanted without
    bool wanted; // a tick at once
    bool ticked;
    bool log;    // a log that it reads was written
    bool reader; // it has got a consumer
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
    return some_undone || pg_atomic_read_u64(&wake_area()->removals) != noted_at;
}

// Is the queue to get a tick? What the caller has committed is visible before anybody is asked who reads it:
// see Follower::is_unread(). Whoever comes as its first reader does not know what others have passed over
// meanwhile.
bool needs_tick(const Note &note, QueueWake *queue) noexcept
{
    if (note.reader && pg_atomic_exchange_u32(&queue->unread, 0) != 0) {
        pg_atomic_write_u32(&queue->wanted, 1);
        return true;
    }
    if (note.dirty || !note.log)
        return note.dirty;
    pg_memory_barrier();
    return pg_atomic_read_u32(&queue->unread) == 0;
}

// Entries that may have been removed since are looked up again, and none goes meanwhile. One that is made
// here for a queue that was dropped goes with the look that its mark leads to.
void apply_notes_anew() noexcept
{
    LWLockAcquire(&wake_area()->lock, LW_EXCLUSIVE);
    for (int i = 0; i < note_count; i++) {
        const Note &note = notes[i];
        QueueWake *queue =
            find_queue_wake(note.queue_id, note.dirty || note.log ? HASH_ENTER_NULL : HASH_FIND);
        if (queue == nullptr) {
            all_dirty = all_dirty || note.dirty || note.log;
            continue;
        }
        if (note.wanted)
            pg_atomic_write_u32(&queue->wanted, 1);
        if (needs_tick(note, queue))
            mark_dirty(known_database_wake(), queue, note.events);
        if (note.ticked)
            set_latches(queue);
    }
    LWLockRelease(&wake_area()->lock);
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
        if (needs_tick(note, note.queue))
            mark_dirty(known_database_wake(), note.queue, note.events);
        if (note.ticked)
            wake_waiters_of(note.queue);
    }
    if (all_dirty)
        mark_any_dirty();
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
        mark_any_dirty();
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
    DatabaseWake *database = known_database_wake();
    const uint64 number = pg_atomic_add_fetch_u64(&database->prepares, 1);
    for (int i = 0; i < note_count; i++) {
        if (notes[i].dirty || notes[i].log || notes[i].reader)
            pg_atomic_write_u64(&notes[i].queue->prepared, number);
    }
    if (all_dirty || look_late)
        pg_atomic_write_u32(&database->prepared_unknown, 1);
    wake_ticker(database);
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
        noted_at = pg_atomic_read_u64(&wake_area()->removals);
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
    notes[note_count] = {queue_id, queue, 0, false, false, false, false, false};
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

void note_log(int32_t queue_id, size_t count)
{
    if (Note *note = note_of(queue_id)) {
        note->log = true;
        note->events += count;
    } else {
        all_dirty = some_notes;
    }
}

void note_reader(int32_t queue_id)
{
    if (Note *note = note_of(queue_id))
        note->reader = true;
    else
        all_dirty = some_notes;
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

} // namespace tasker::stream
