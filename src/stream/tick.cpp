#include "stream/tick.hpp"

#include "pg/spi.hpp"
#include "stream/slots.hpp"
#include "stream/wake_notes.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace tasker::stream {
namespace {

// Columns of tasker.tick_0..2, counted from 0.
enum TickColumn
{
    kTickQueue,
    kTickId,
    kTickTime,
    kTickSnapshot,
    kTickEventSeq
};

std::optional<Tick> tick_of(const std::optional<SlotRow> &row)
{
    if (!row)
        return std::nullopt;
    return Tick{row->i64(kTickId), row->i64(kTickTime), row->i64(kTickEventSeq)};
}

// How the type txid_snapshot (pg_snapshot) is stored, in all versions that we know.
struct StoredSnapshot
{
    int32 length;
    uint32 count;
    uint64 xmin;
    uint64 xmax;
    uint64 running[FLEXIBLE_ARRAY_MEMBER];
};

} // namespace

core::TickSnapshot snapshot_of_datum(Datum value)
{
    auto *stored =
        pg::pg_call([&] { return reinterpret_cast<StoredSnapshot *>(PG_DETOAST_DATUM_COPY(value)); });
    const core::TickSnapshot snapshot{stored->xmin, stored->xmax, {stored->running, stored->count}};
    if (!core::is_valid(snapshot))
        throw pg::Error(ERRCODE_DATA_CORRUPTED, "the snapshot of a tick is none");
    return snapshot;
}

std::optional<Tick> find_tick(int32_t queue_id, int64_t tick_id, bool keep)
{
    return tick_of(find_row(current_slots().ticks, queue_id, Seek::equal, tick_id, keep));
}

std::optional<core::TickSnapshot> find_snapshot(int32_t queue_id, int64_t tick_id)
{
    const std::optional<SlotRow> row = find_row(current_slots().ticks, queue_id, Seek::equal, tick_id);
    return row ? std::optional(snapshot_of_datum(row->values[kTickSnapshot])) : std::nullopt;
}

std::optional<Tick> last_tick(int32_t queue_id, bool keep)
{
    return tick_of(find_row(current_slots().ticks, queue_id, Seek::last, 0, keep));
}

std::optional<Tick> next_tick(int32_t queue_id, int64_t after)
{
    return tick_of(find_row(current_slots().ticks, queue_id, Seek::next_after, after));
}

std::optional<Tick> previous_tick(int32_t queue_id, int64_t before)
{
    return tick_of(find_row(current_slots().ticks, queue_id, Seek::last_before, before));
}

// The last tick is looked at first: mostly it is neither too near nor too far.
std::optional<Tick> find_tick_beyond(int32_t queue_id, const Tick &after, std::optional<int64_t> min_count,
                                     std::optional<int64_t> min_interval_us)
{
    const auto is_enough = [&](const Tick &tick) {
        return (min_count && tick.event_seq - after.event_seq >= *min_count) ||
               (min_interval_us && tick.time - after.time >= *min_interval_us);
    };
    const auto is_too_far = [&](const Tick &tick) {
        return (min_count && tick.event_seq - after.event_seq - *min_count > *min_count) ||
               (min_interval_us && tick.time - after.time - *min_interval_us > *min_interval_us);
    };
    const std::optional<Tick> last = last_tick(queue_id);
    if (!last || last->id <= after.id || !(is_enough(*last) || is_too_far(*last)))
        return std::nullopt;
    if (!is_too_far(*last))
        return last;
    std::optional<Tick> tick = after;
    do {
        tick = next_tick(queue_id, tick->id);
        pg::check_for_interrupts();
    } while (tick && !is_enough(*tick));
    return tick;
}

int64_t sequence_value(Oid sequence)
{
    static pg::Statement query("select coalesce(pg_catalog.pg_sequence_last_value($1::regclass), 0)",
                               {OIDOID});
    pg::Spi spi;
    return spi.read_latest(query, {sequence}).i64(0, 1);
}

void raise_sequence(Oid sequence, int64_t value)
{
    static pg::Statement set("select pg_catalog.setval($1::regclass, $2)", {OIDOID, INT8OID});
    if (value > sequence_value(sequence))
        pg::Spi().run_latest(set, {sequence, value});
}

static bool lock_ticks(int32_t queue_id, bool wait)
{
    const Oid ticks = current_slots().ticks[0];
    return pg::pg_call([&] {
        LOCKTAG tag;
        SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ticks, static_cast<Oid>(queue_id), 0);
        return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
    });
}

void lock_ticks(int32_t queue_id)
{
    (void)lock_ticks(queue_id, true);
}

bool try_lock_ticks(int32_t queue_id)
{
    return lock_ticks(queue_id, false);
}

// The server's own snapshot leaves the transaction that takes it out, as if it had ended. It has not: its
// events come after its tick, all of them. A consumer that it registers gets what it inserts.
static Datum with_own_id(Datum snapshot)
{
    const FullTransactionId own = GetTopFullTransactionIdIfAny();
    const uint64 xid = U64FromFullTransactionId(own);
    const auto *taken = reinterpret_cast<StoredSnapshot *>(PG_DETOAST_DATUM(snapshot));
    if (!FullTransactionIdIsValid(own) || xid >= taken->xmax)
        return snapshot;
    const Size size = offsetof(StoredSnapshot, running) + sizeof(uint64) * (taken->count + 1);
    auto *stored = static_cast<StoredSnapshot *>(palloc(size));
    const uint64 *place = std::lower_bound(taken->running, taken->running + taken->count, xid);
    uint64 *end = std::copy(taken->running, place, stored->running);
    *end++ = xid;
    std::copy(place, taken->running + taken->count, end);
    SET_VARSIZE(stored, size);
    stored->count = taken->count + 1;
    stored->xmin = std::min<uint64>(taken->xmin, xid);
    stored->xmax = taken->xmax;
    return PointerGetDatum(stored);
}

// The ids of a log's queue are above the server's: see log.hpp.
static Datum raised(Datum snapshot, int64_t offset)
{
    if (offset == 0)
        return snapshot;
    auto *stored = reinterpret_cast<StoredSnapshot *>(PG_DETOAST_DATUM_COPY(snapshot));
    const auto by = static_cast<uint64>(offset);
    stored->xmin += by;
    stored->xmax += by;
    for (uint32 i = 0; i < stored->count; i++)
        stored->running[i] += by;
    return PointerGetDatum(stored);
}

// What has ended at this moment, as the type txid_snapshot has it.
static Datum snapshot_now(int64_t offset)
{
    return pg::pg_call([&] {
        PushActiveSnapshot(GetLatestSnapshot());
        const Datum snapshot = OidFunctionCall0(F_TXID_CURRENT_SNAPSHOT);
        PopActiveSnapshot();
        return raised(with_own_id(snapshot), offset);
    });
}

int64_t make_tick(const Queue &queue, int64_t event_seq, const ExternalTick *external)
{
    const Slots slots = current_slots();
    const Oid table = slots.ticks[hold_ticks()];
    const ExternalTick tick =
        external != nullptr
            ? *external
            : ExternalTick{pg::pg_call([&] { return nextval_internal(queue.tick_sequence, false); }),
                           GetCurrentTransactionStartTimestamp()};
    append_row(table,
               {Int32GetDatum(queue.queue_id), Int64GetDatum(tick.id), TimestampTzGetDatum(tick.time),
                snapshot_now(queue.txid_offset), Int64GetDatum(event_seq), 0},
               {false, false, false, false, false, true});
    note_tick(queue.queue_id);
    return tick.id;
}

} // namespace tasker::stream
