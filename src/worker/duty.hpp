// Duties: what has to be done now and then so that the planes keep their promises.
//
// A duty is a row of a table (duties.cpp) and a function that does one round of it in short transactions.
// The same function serves the background worker and `call tasker.run_duty(name)`: the Steps that it is given
// make the transactions, and know whether statements that commit by themselves (DETACH CONCURRENTLY) may be
// run.
#pragma once

#include "partition/maintenance.hpp"

namespace tasker::worker {

using partition::Steps;

struct Duty
{
    const char *name;
    const char *what;         // one line for duty_status
    int64_t (*period_us)();   // asked again after each run and reload; 0: only when asked for
    int timeout_ms;           // of each of its transactions
    bool yields;              // is cancelled when a backend waits for a partition, and continued afterwards
    bool at_start;            // due as soon as the worker starts, in the order of the table
    bool needs_shared_memory; // has nothing to do without it
    void (*run)(Steps &steps);
};

// All of them, in the order in which they are run when several are due.
std::span<const Duty> duties();

// The duty's index, or -1.
int find_duty(std::string_view name);

// Asks the worker of this database to run a duty at once. False where there is no worker, or no such duty.
// May be called from transaction callbacks.
bool request_duty(std::string_view name) noexcept;

// The hook of partition/maintenance.hpp: the worker detaches without locking the parent, a session cannot.
bool request_retirement();

// The hook of stream/retry.hpp.
void request_retries() noexcept;

// Is the library preloaded, and this database among those that the settings give a worker?
bool worker_is_meant_to_run();

} // namespace tasker::worker
