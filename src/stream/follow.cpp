#include "stream/follow.hpp"

#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "stream/consumer.hpp"
#include "stream/restore.hpp"
#include "stream/tick.hpp"

#include "core/duty_schedule.hpp"

extern "C" {
#include "common/hashfn.h"
}

namespace tasker::stream {
namespace {

constexpr size_t kQueuesPerRound = 64;
constexpr int64_t kLockedRetryUs = 10'000; // somebody else is making a tick
constexpr int64_t kPreparedLookUs = 3 * core::kUsPerSecond;
constexpr int64_t kLookShare = 10; // looks take up to one part in so many of the time

int64_t now_us()
{
    return pg::unix_us_of_timestamp(GetCurrentTimestamp());
}

Dirty exchange(QueueWake *queue, Dirty expected, Dirty wanted)
{
    auto old = static_cast<uint32>(expected);
    pg_atomic_compare_exchange_u32(&queue->dirty, &old, static_cast<uint32>(wanted));
    return static_cast<Dirty>(old);
}

// What has ended at this moment; `running` is in the current memory context.
core::TickSnapshot snapshot_now()
{
    const Datum snapshot = pg::pg_call([] {
        PushActiveSnapshot(GetLatestSnapshot());
        const Datum now = OidFunctionCall0(F_PG_CURRENT_SNAPSHOT);
        PopActiveSnapshot();
        return now;
    });
    return snapshot_of_datum(snapshot);
}

// May there be events that the last tick does not cover? Whoever had taken an event id before it was taken,
// had its transaction id before that: it has ended, or is among those that were running. Events that come
// again have old ids; `any_transaction` is for the look that may be the only one to find them.
bool needs_tick(const Queue &queue, const core::TickSnapshot &now, bool any_transaction)
{
    if (queue.has_log && !has_consumers(queue.queue_id))
        return false;
    const std::optional<Tick> last = last_tick(queue.queue_id);
    if (!last || sequence_value(queue.event_sequence) > last->event_seq)
        return true;
    const std::optional<core::TickSnapshot> then = find_snapshot(queue.queue_id, last->id);
    const auto offset = static_cast<uint64_t>(queue.txid_offset);
    if (any_transaction && (!then || then->xmax - offset != now.xmax))
        return true;
    return then && std::any_of(then->running.begin(), then->running.end(),
                               [&](uint64_t xid) { return now.sees(xid - offset); });
}

} // namespace

Follower::Follower(DatabaseWake &database)
    : database_(database), memory_(TopMemoryContext), states_(&memory_), pending_(&memory_), ticked_(&memory_)
{
    pg_atomic_write_u64(&database_.ticker, static_cast<uint64>(reinterpret_cast<uintptr_t>(MyLatch)));
    pg_memory_barrier(); // whoever has not seen the latch has pushed before collect() takes the list
    // What the ticker before had taken and not ticked.
    pg::Vector<int32_t> taken(&memory_);
    visit_queues([&](QueueWake &queue) {
        if (pg_atomic_read_u32(&queue.dirty) == static_cast<uint32>(Dirty::taken))
            taken.push_back(queue.key.queue_id);
    });
    for (const int32_t queue_id : taken)
        make_pending(queue_id, state_of(queue_id));
}

void stop_following() noexcept
{
    DatabaseWake *database = database_wake();
    if (database != nullptr)
        pg_atomic_write_u64(&database->ticker, 0);
}

void Follower::collect()
{
    uint64 word = pg_atomic_exchange_u64(&database_.first_dirty, 0);
    while (word != 0) {
        auto *queue = reinterpret_cast<QueueWake *>(static_cast<uintptr_t>(word)); // NOLINT: shared memory
        word = pg_atomic_read_u64(&queue->next_dirty);
        pg_atomic_write_u32(&queue->dirty, static_cast<uint32>(Dirty::taken));
        if (queue == &database_.any) {
            look_wanted_ = true;
        } else {
            State &state = state_of(queue->key.queue_id);
            state.shared = queue;
            make_pending(queue->key.queue_id, state);
        }
    }
}

Follower::State &Follower::state_of(int32_t queue_id)
{
    auto at = states_.find(queue_id);
    if (at == states_.end()) {
        State state{};
        state.shared = queue_wake(queue_id);
        at = states_.emplace(queue_id, state).first;
    }
    return at->second;
}

void Follower::make_pending(int32_t queue_id, State &state)
{
    if (state.pending)
        return;
    state.pending = true;
    state.parked = false;
    state.dirty_since_us = now_us();
    pending_.push_back(queue_id);
}

void Follower::drop_from_pending(int32_t queue_id)
{
    pending_.erase(std::remove(pending_.begin(), pending_.end(), queue_id), pending_.end());
    state_of(queue_id).pending = false;
}

// --- what is due

int64_t Follower::due_us(const State &state, int64_t now) const
{
    if (!state.known)
        return std::max(now, state.not_before_us);
    // Where there is no room to say that it is wanted, it is.
    const bool urgent = state.shared == nullptr || pg_atomic_read_u32(&state.shared->wanted) != 0 ||
                        pg_atomic_read_u64(&state.shared->events) >= static_cast<uint64>(state.max_count);
    return std::max(state.rhythm.due_us(now, state.dirty_since_us, urgent), state.not_before_us);
}

int64_t Follower::look_due_us() const
{
    return look_wanted_ ? next_look_us_ : PG_INT64_MAX;
}

int64_t Follower::due_us() const
{
    const int64_t now = now_us();
    int64_t due = std::min(look_due_us(), prepared_due_us());
    for (const int32_t queue_id : pending_)
        due = std::min(due, due_us(states_.find(queue_id)->second, now));
    return std::max(due, rest_until_us_);
}

void Follower::settings_changed()
{
    look_wanted_ = true;
}

// --- work

void Follower::work()
{
    const int64_t now = now_us();
    current_ = 0;
    ticks_ = recovered_ = 0;
    looking_ = checking_prepared_ = false;
    ticked_.clear();
    if (prepared_due_us() <= now)
        look_at_prepared();
    if (look_due_us() <= now)
        look();
    else
        round();
}

void Follower::round()
{
    const int64_t now = now_us();
    pg::Vector<int32_t> due(&memory_);
    for (const int32_t queue_id : pending_) {
        if (due_us(states_.find(queue_id)->second, now) <= now)
            due.push_back(queue_id);
        if (due.size() == kQueuesPerRound)
            break;
    }
    for (const int32_t queue_id : due) {
        current_ = queue_id;
        tick(queue_id);
        pg::check_for_interrupts();
    }
    current_ = 0;
}

// Takes over the queue's settings as they are now. False when it is to get no tick.
bool Follower::take_settings(int32_t queue_id, State &state, const Queue &queue)
{
    state.known = true;
    state.rhythm.min_interval_us =
        std::max({queue.min_tick_interval_us, database_interval_us_,
                  static_cast<int64_t>(pg::settings::min_tick_interval) * core::kUsPerMs});
    state.rhythm.max_lag_us = queue.max_lag_us;
    state.max_count = queue.max_count;
    if (state.shared != nullptr)
        pg_atomic_write_u64(&state.shared->enough, static_cast<uint64>(queue.max_count));
    if (queue.external_ticker || queue.ticker_paused) {
        drop_from_pending(queue_id);
        state.parked = true; // and stays dirty: a change of the settings brings it back
        return false;
    }
    return true;
}

void Follower::tick(int32_t queue_id)
{
    State &state = state_of(queue_id);
    const int64_t now = now_us();
    if (!try_lock_ticks(queue_id)) {
        state.not_before_us = now + kLockedRetryUs;
        return;
    }
    // Under the lock, which who drops a queue holds to the end. After a failure not from the cache: what it
    // names may have been replaced.
    const std::optional<Queue> queue =
        state.failures > 0 ? read_queue_with_id(queue_id) : queue_with_id(queue_id);
    if (!queue) { // dropped, or not yet there (its creation is prepared): the next look may remove its entry
        drop_from_pending(queue_id);
        if (state.shared != nullptr)
            exchange(state.shared, Dirty::taken, Dirty::clean);
        look_wanted_ = true;
        return;
    }
    if (!take_settings(queue_id, state, *queue) || due_us(state, now) > now)
        return;
    if (awaits_restore()) {
        state.not_before_us = now + core::kUsPerSecond;
        return;
    }
    if (queue->has_log && is_unread(*queue, state))
        return;
    // Clean first, then the snapshot: what commits in between marks it again.
    state.wanted = true;
    if (state.shared != nullptr) {
        state.wanted = pg_atomic_exchange_u32(&state.shared->wanted, 0) != 0;
        pg_atomic_exchange_u64(&state.shared->events, 0);
        pg_atomic_exchange_u32(&state.shared->dirty, static_cast<uint32>(Dirty::clean));
    }
    ticked_.push_back(queue_id);
    make_tick(*queue, sequence_value(queue->event_sequence));
}

// A log's queue without consumers gets no tick, and its writers are told so; who registers one takes that
// back when he commits (note_reader). They are told first, and the consumers looked for then: whoever has
// been registered before is found, and whoever comes later takes it back. A commit that has found the flag
// set here all the same was visible before the snapshot of the tick that follows.
bool Follower::is_unread(const Queue &queue, State &state)
{
    if (state.shared != nullptr)
        pg_atomic_exchange_u32(&state.shared->unread, 1);
    if (has_consumers(queue.queue_id)) {
        if (state.shared != nullptr)
            pg_atomic_exchange_u32(&state.shared->unread, 0);
        return false;
    }
    drop_from_pending(queue.queue_id);
    if (state.shared == nullptr)
        return true;
    exchange(state.shared, Dirty::taken, Dirty::clean);
    if (pg_atomic_read_u32(&state.shared->unread) == 0) // just now, and its mark has met one that was taken
        make_pending(queue.queue_id, state);
    return true;
}

void Follower::done()
{
    const int64_t now = now_us();
    for (const int32_t queue_id : ticked_) {
        State &state = state_of(queue_id);
        state.rhythm.ticked(now, state.wanted);
        state.not_before_us = 0;
        recovered_ += state.failures > 0;
        state.failures = 0;
        drop_from_pending(queue_id);
        if (state.shared != nullptr) {
            pg_atomic_fetch_add_u64(&state.shared->ticks, 1);
            pg_atomic_write_u64(&state.shared->last_tick_us, static_cast<uint64>(now));
            pg_atomic_write_u64(&state.shared->failures, 0);
        }
    }
    ticks_ = static_cast<int64_t>(ticked_.size());
    ticked_.clear();
    if (looking_) {
        looked_ = true;
        look_failures_ = 0;
        next_look_us_ = now + kLookShare * std::max<int64_t>(now - look_started_us_, 0);
    }
    if (checking_prepared_)
        settle_prepared();
}

// The transaction was rolled back: what it had made clean is dirty. Who has been marked by a commit meanwhile
// is on the list again, and comes by collect().
void Follower::take_back()
{
    for (const int32_t queue_id : ticked_) {
        State &state = state_of(queue_id);
        if (state.shared == nullptr)
            continue;
        if (state.wanted)
            pg_atomic_write_u32(&state.shared->wanted, 1);
        if (exchange(state.shared, Dirty::clean, Dirty::taken) != Dirty::clean)
            drop_from_pending(queue_id);
    }
    ticked_.clear();
    if (looking_)
        look_wanted_ = true;
}

TickFailure Follower::failed()
{
    const int64_t now = now_us();
    take_back();
    if (current_ == 0 || looking_) {
        const int64_t next = now + core::duty_backoff_us(++look_failures_);
        look_wanted_ = true;
        next_look_us_ = next;
        prepared_checked_us_ = now;
        if (!looking_ && !checking_prepared_) // no queue is to blame
            rest_until_us_ = next;
        return {0, look_failures_};
    }
    State &state = state_of(current_);
    state.not_before_us = now + core::duty_backoff_us(++state.failures);
    if (state.shared != nullptr)
        pg_atomic_write_u64(&state.shared->failures, static_cast<uint64>(state.failures));
    return {current_, state.failures};
}

void Follower::put_off(int64_t until_us)
{
    take_back();
    rest_until_us_ = until_us;
}

// --- prepared transactions

// Their COMMIT PREPARED marks queues too (after_commit_prepared), but may come from where it is not seen:
// from a subscription's worker, or from before the server's restart, which has forgotten the flags.
bool Follower::prepared_pending() const
{
    return settled_ != pg_atomic_read_u64(&database_.prepares);
}

int64_t Follower::prepared_due_us() const
{
    return prepared_pending() ? prepared_checked_us_ + kPreparedLookUs : PG_INT64_MAX;
}

// Where those that are prepared are not the same as before, one has ended: queues are looked at.
void Follower::look_at_prepared()
{
    checking_prepared_ = true;
    static pg::Statement query(
        "select coalesce(pg_catalog.string_agg(transaction::text, ',' order by transaction::text), '') "
        "from pg_catalog.pg_prepared_xacts where database = pg_catalog.current_database()",
        {});
    prepares_ = pg_atomic_read_u64(&database_.prepares);
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query);
    const std::string_view all = rows.text(0, 1);
    const uint64 now = hash_bytes_extended(reinterpret_cast<const unsigned char *>(all.data()),
                                           static_cast<int>(all.size()), 0);
    if (std::exchange(prepared_set_, now) != now || all.empty())
        look_wanted_ = true;
    no_prepared_ = all.empty();
}

void Follower::settle_prepared()
{
    prepared_checked_us_ = now_us();
    if (!no_prepared_)
        return;
    settled_ = prepares_;
    visit_queues([&](QueueWake &queue) {
        uint64 number = pg_atomic_read_u64(&queue.prepared);
        if (number != 0 && number <= prepares_)
            pg_atomic_compare_exchange_u64(&queue.prepared, &number, 0);
    });
    pg_atomic_write_u32(&database_.prepared_unknown, 0);
    pg_memory_barrier();
    if (pg_atomic_read_u64(&database_.prepares) != prepares_) // one may have set it in between
        pg_atomic_write_u32(&database_.prepared_unknown, 1);
}

// --- the look at all queues

void Follower::look()
{
    static pg::Statement list("select queue_id, queue_external_ticker or queue_ticker_paused "
                              "from tasker.queue order by queue_id",
                              {});
    static pg::Statement period("select coalesce(max(tick_period_ms), 0) from tasker.ticker_config", {});
    looking_ = true;
    look_started_us_ = now_us();
    look_wanted_ = false;
    exchange(&database_.any, Dirty::taken, Dirty::clean); // first: see tick()
    const core::TickSnapshot now = snapshot_now();
    pg::Vector<int32_t> candidates(&memory_);
    visit_queues([&](QueueWake &queue) {
        if (queue.noted_by < now.xmin)
            candidates.push_back(queue.key.queue_id);
    });
    pg::Vector<int32_t> existing(&memory_);
    pg::Vector<int32_t> own(&memory_);
    {
        pg::Spi spi;
        database_interval_us_ = spi.read_latest(period).i32(0, 1) * core::kUsPerMs;
        const pg::Rows rows = spi.read_latest(list);
        for (uint64 i = 0; i < rows.count(); i++) {
            existing.push_back(rows.i32(i, 1));
            if (!rows.boolean(i, 2))
                own.push_back(rows.i32(i, 1));
        }
    }
    for (const int32_t queue_id : own) {
        current_ = queue_id;
        look_at_queue(queue_id, now);
        pg::check_for_interrupts();
    }
    current_ = 0;
    release_parked();
    remove_dropped(candidates, existing);
}

// One that cannot be looked at fails in its round, where it is said.
void Follower::look_at_queue(int32_t queue_id, const core::TickSnapshot &now)
{
    State &state = state_of(queue_id);
    if (state.pending)
        return;
    bool needed = true;
    (void)pg::try_in_subtransaction([&] {
        const std::optional<Queue> queue = queue_with_id(queue_id);
        needed = queue && needs_tick(*queue, now, !looked_);
    });
    // One that a commit has marked meanwhile comes by collect().
    if (needed &&
        (state.shared == nullptr || exchange(state.shared, Dirty::clean, Dirty::taken) != Dirty::pushed))
        make_pending(queue_id, state);
}

// Settings may have changed: those whose ticks were somebody else's are tried again.
void Follower::release_parked()
{
    for (auto &[queue_id, state] : states_) {
        state.known = false;
        if (state.parked && !state.pending)
            make_pending(queue_id, state);
    }
}

// `candidates` had been noted before the look by transactions that had ended then: a queue among them that
// does not exist has been dropped, or its creation was rolled back.
void Follower::remove_dropped(const pg::Vector<int32_t> &candidates, const pg::Vector<int32_t> &existing)
{
    const auto exists = [&](int32_t queue_id) {
        return std::binary_search(existing.begin(), existing.end(), queue_id);
    };
    for (const int32_t queue_id : candidates) {
        if (exists(queue_id))
            continue;
        if (states_.contains(queue_id)) {
            drop_from_pending(queue_id);
            states_.erase(queue_id);
        }
        remove_queue_wake(queue_id);
    }
}

} // namespace tasker::stream
