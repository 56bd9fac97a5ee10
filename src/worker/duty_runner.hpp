// Runs duties in the worker, and what the ticker does: each guarded, so that one that fails neither stops the
// others nor the worker.
#pragma once

#include "worker/duty.hpp"
#include "worker/shared.hpp"

namespace tasker::worker {

enum class Outcome
{
    done,
    failed,    // with an error: see the result's texts
    cancelled, // to be continued: it was told to end, or to make way for a partition that is wanted
    busy,      // somebody is creating, dropping or altering the extension
    gone,      // the extension does not exist any more
    replaced,  // it is another one: dropped and created again
};

// A callable that is passed down, never kept: no allocation.
class DutyBody
{
  public:
    template <class Body>
    DutyBody(Body &body) // NOLINT: implicit, so that a lambda can be passed
        : object_(&body), call_([](void *object, Steps &steps) { (*static_cast<Body *>(object))(steps); })
    {
    }
    void operator()(Steps &steps) const { call_(object_, steps); }

  private:
    void *object_;
    void (*call_)(void *, Steps &);
};

// What came of a run, and the error when it failed.
struct RunResult
{
    Outcome outcome = Outcome::done;
    std::optional<pg::CaughtError> error;
};

// Runs `body` with Steps whose transactions end after `timeout_ms`, and aborts what an error leaves open.
// `activity` is what pg_stat_activity shows meanwhile.
RunResult run_guarded(const char *activity, int timeout_ms, DutyBody body);

// Sets the times of all duties for a worker that starts.
void schedule_duties(DatabaseSlot &slot);

// Takes over changed periods.
void reschedule_duties(DatabaseSlot &slot);

// Runs the duty that has been due longest, if any is due. Returns what came of it, or nothing when none was
// due. Keeps the duty's record in `slot` and logs failures.
std::optional<Outcome> run_due_duty(DatabaseSlot &slot);

// When the next duty is due.
int64_t next_duty_us(DatabaseSlot &slot);

} // namespace tasker::worker
