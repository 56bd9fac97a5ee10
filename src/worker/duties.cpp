#include "worker/duty.hpp"

#include "pg/settings.hpp"
#include "queue/duties.hpp"
#include "queue/seal.hpp"
#include "stream/maint.hpp"
#include "stream/restore.hpp"
#include "stream/retry.hpp"
#include "stream/ticker.hpp"
#include "stream/wake.hpp"
#include "worker/shared.hpp"
#include "workflow/counts.hpp"
#include "workflow/dlq.hpp"
#include "workflow/retention.hpp"

namespace tasker::worker {
namespace {

constexpr int kMinuteMs = 60 * 1000;
constexpr int64_t kLeastPeriodUs = 1000;
constexpr int kHourMs = 60 * kMinuteMs;

int64_t when_asked()
{
    return 0;
}

int64_t every_second()
{
    return core::kUsPerSecond;
}

// When the next one is due, as far as it is known; others may come in between, so not later than in a second.
int64_t when_an_event_is_due()
{
    const TimestampTz now = GetCurrentTimestamp();
    const TimestampTz due = std::min(stream::next_due_event(), now + core::kUsPerSecond);
    return std::max<int64_t>(due - now, kLeastPeriodUs);
}

int64_t every_minute()
{
    return core::kUsPerMinute;
}

int64_t every_sweep_interval()
{
    return pg::settings::sweep_interval * core::kUsPerSecond;
}

// Repeats a step that does a bounded piece of work, until there is nothing left of it.
template <class Step> void repeat(Steps &steps, Step &&step)
{
    int64_t done = 0;
    do {
        steps.transaction([&] { done = step(); });
    } while (done > 0 && !steps.should_stop());
}

void prepare(Steps &steps)
{
    steps.transaction([] { queue::prepare(); });
    steps.transaction([] { workflow::prepare_counts(); });
}

void sweep(Steps &steps)
{
    steps.transaction([] { queue::sweep(); });
}

void recover_leases(Steps &steps)
{
    repeat(steps, [] { return queue::recover_leases(); });
}

void retry_events(Steps &steps)
{
    repeat(steps, [] { return stream::move_due_events(false); });
}

void seal(Steps &steps)
{
    steps.transaction([] { queue::seal_partitions(); });
    steps.transaction([] { workflow::seal_counts(); });
}

void expire_dedup_keys(Steps &steps)
{
    repeat(steps, [] { return queue::expire_dedup_keys(); });
}

void forget_retired_tasks(Steps &steps)
{
    repeat(steps, [] { return workflow::forget_retired_tasks(); });
}

void expire_dead_letters(Steps &steps)
{
    repeat(steps, [] { return workflow::expire_dlq_entries(); });
}

void stale_tasks(Steps &steps)
{
    repeat(steps, [] { return workflow::transition_stale_tasks(); });
}

void premake(Steps &steps)
{
    partition::run_premake_round(steps);
}

void finalize(Steps &steps)
{
    partition::run_finalize_round(steps);
}

void retire(Steps &steps)
{
    partition::run_retire_round(steps);
}

void analyze(Steps &steps)
{
    partition::run_analyze_round(steps);
}

// Where a ticker follows commits, it only has to look now and then at what no commit has told it of: rows
// that came by replication, or by an INSERT into an event table. Where there is none, this makes the ticks.
void tick(Steps &steps)
{
    static int64_t last_look_us = 0; // of the worker
    const int64_t now = now_us();
    const bool by_worker = steps.may_run_top_level();
    const bool looked = by_worker && now >= last_look_us && now - last_look_us < core::kUsPerMinute;
    if (looked && stream::has_ticker())
        return;
    steps.transaction([] {
        if (!stream::awaits_restore() && !stream::request_look())
            stream::tick_due_queues();
    });
    last_look_us = now;
}

// Premake stands before retire, and never shares a transaction with it: what goes wrong with old partitions
// must not keep new ones from being made.
constexpr Duty kDuties[] = {
    {"prepare", "builds floors and statistics in shared memory", when_asked, kHourMs, false, true, true,
     prepare},
    {"recover_leases", "gives back records whose lease has ended", every_second, kMinuteMs, false, true,
     false, recover_leases},
    {"retry_events", "moves events that come again, or later, into their queues", when_an_event_is_due,
     kMinuteMs, false, true, false, retry_events},
    {"sweep", "looks over the queue's live window and mends floors", every_sweep_interval, kMinuteMs, false,
     false, true, sweep},
    {"premake", "makes partitions ahead of time", every_minute, kMinuteMs, false, true, false, premake},
    {"finalize", "completes detaches that were cut off", every_minute, kHourMs, true, true, false, finalize},
    {"retire", "detaches and drops partitions that may go", every_minute, kHourMs, true, false, false,
     retire},
    {"analyze", "analyzes partitioned parents whose rows have changed", every_minute, kHourMs, true, false,
     false, analyze},
    {"seal", "keeps the counts of finished partitions for the next rebuild", every_minute, kMinuteMs, false,
     false, false, seal},
    {"expire_dedup_keys", "removes deduplication keys that are no longer in use", every_minute, kMinuteMs,
     false, false, false, expire_dedup_keys},
    {"forget_retired_tasks", "removes identity keys and dead letters of tasks that are retired", every_minute,
     kMinuteMs, false, false, false, forget_retired_tasks},
    {"expire_dead_letters", "removes dead letters of tasks that were resolved 90 days ago", every_minute,
     kMinuteMs, false, false, false, expire_dead_letters},
    {"stale_tasks", "moves tasks that do not get on to error, with a dead letter each", when_asked, kMinuteMs,
     false, false, false, stale_tasks},
    {"rotate_events", "empties the next event table of a stream queue and switches to it", every_second,
     kMinuteMs, false, false, false, stream::run_event_rotation_round},
    {"rotate_events_step2", "notes that a rotation of event tables is visible to all", every_second,
     kMinuteMs, false, true, false, stream::run_event_step2_round},
    {"rotate_metadata", "empties the next tables of subscriptions and ticks and switches to them",
     every_second, kMinuteMs, false, false, false, stream::run_metadata_rotation_round},
    {"rotate_metadata_step2", "lets the next rotation of subscriptions and ticks happen", every_second,
     kMinuteMs, false, true, false, stream::run_metadata_step2_round},
    {"tick", "makes ticks of the event stream, or has the ticker look for queues it has not heard of",
     every_second, kMinuteMs, false, false, false, tick},
};
static_assert(std::size(kDuties) <= kMaxDuties);

} // namespace

std::span<const Duty> duties()
{
    return kDuties;
}

int find_duty(std::string_view name)
{
    for (size_t i = 0; i < std::size(kDuties); i++) {
        if (name == kDuties[i].name)
            return static_cast<int>(i);
    }
    return -1;
}

bool request_duty(std::string_view name) noexcept
{
    const int index = find_duty(name);
    if (index < 0 || shared() == nullptr)
        return false;
    LWLockAcquire(&shared()->lock, LW_SHARED);
    DatabaseSlot *slot = find_slot(MyDatabaseId);
    const bool runs = slot != nullptr && slot->worker.pid != 0 && slot->worker.state == WorkerState::running;
    if (runs) {
        pg_atomic_fetch_or_u32(&slot->requested, 1u << index);
        SetLatch(slot->worker.latch);
    }
    LWLockRelease(&shared()->lock);
    return runs;
}

void request_retries() noexcept
{
    request_duty("retry_events");
}

bool request_retirement()
{
    return request_duty("finalize") && request_duty("retire");
}

} // namespace tasker::worker
