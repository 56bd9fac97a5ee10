// Failures of one set, kept away from the others.
#pragma once

#include "partition/maintenance.hpp"
#include "pg/subtransaction.hpp"

namespace tasker::partition {

struct SetFailures
{
    int in_a_row;
    bool backing_off; // not to be tried yet
};

// How often this duty has failed for the set since it last succeeded.
SetFailures failures_of(Oid parent, const char *duty);

// Write the outcome to tasker.part_failure. A failure is logged when it is news; a client is told always, but
// of the same failure again by a notice only, which is not logged by default: maintenance may be called once
// a minute.
void note_failure(Oid parent, const char *duty, const pg::CaughtError &error, bool interactive);
void note_success(Oid parent, const char *duty);

// Reports a failure of a set at a level below ERROR. A lock that was not to be had is no news until it
// happens again and again.
void report_failure(int level, Oid parent, const char *duty, const pg::CaughtError &error);
bool is_lock_failure(const pg::CaughtError &error);

// Runs `body` in a subtransaction of the current transaction, and notes what came of it. False when it
// failed.
template <class Body> bool isolate(Steps &steps, Oid parent, const char *duty, Body &&body)
{
    std::optional<pg::CaughtError> error = pg::try_in_subtransaction(body);
    if (error)
        note_failure(parent, duty, *error, !steps.may_run_top_level());
    else
        note_success(parent, duty);
    return !error;
}

// How long a step that has failed `failures` times in a row may wait for a lock.
int patience_ms(int failures);

// How long a step may wait that makes others queue behind it: for a table that other transactions write to,
// in a mode that locks them out. Short enough for nobody to notice, however often it is tried.
int polite_patience_ms();

// Limits each wait for a lock in a scope, across transactions. It sets the variable behind lock_timeout and
// not the setting: a setting cannot be put back without the chance of an error, and nobody looks at it
// meanwhile.
class LockTimeoutScope
{
  public:
    explicit LockTimeoutScope(int ms) noexcept : outer_(LockTimeout) { LockTimeout = ms; }
    ~LockTimeoutScope() { LockTimeout = outer_; }
    LockTimeoutScope(const LockTimeoutScope &) = delete;
    LockTimeoutScope &operator=(const LockTimeoutScope &) = delete;

  private:
    int outer_;
};

} // namespace tasker::partition
