// What the worker plane keeps in shared memory: which database has a worker and a ticker, how its duties
// fare, who keeps workers away, and who waits for a partition.
//
// WHO WRITES     the launcher gives a database its slot, counts failures and plans the next attempt; the
// worker
//                writes everything about itself and its duties; any backend may ask for something: a stop, a
//                duty at once, a partition, another look at a database.
// LOCK           everything is under `lock`, but for the words declared atomic. It is held for a few loads
// and
//                stores, never over anything that waits; a SetLatch or a kill under it is fine.
// AFTER A CRASH  it starts empty. The launcher finds the databases in pg_database again, the duties run anew:
//                nothing is lost but the history that duty_status shows.
//
// A process' `pid` and `latch` are set by the process itself before it connects, and cleared when it has left
// the list of backends. So whoever sees pid = 0 under the lock knows that there is no such process, and
// whoever sees another pid may signal it: it cannot be recycled while the lock is held.
#pragma once

#include "core/duty_schedule.hpp"
#include "pg/shmem.hpp"

namespace tasker::worker {

inline constexpr int kMaxDuties = 24;
inline constexpr int kTextBytes = 512;
inline constexpr int kMaxHolds = 64;
inline constexpr int kMaxTold = 32;
inline constexpr int kMaxRequests = 64;

// One error's text in shared memory, in the encoding of its database.
using ErrorText = char[kTextBytes];

struct DutySlot
{
    core::DutyTimes times;
    bool running;
    int64_t last_start_us; // of the last finished or running run
    int64_t duration_us;   // of the last finished run
    int64_t runs;
    int64_t failures; // in all; times.failures counts those in a row
    int64_t last_error_us;
    ErrorText last_error;
};

enum class WorkerState : int
{
    waiting,    // no process; the launcher starts one at retry_at_us
    starting,   // asked of the postmaster
    connecting, // the process runs and opens the database
    running,
};

// Why a worker's process ended. It says so before it goes; who does not say has failed.
enum class Departure : int
{
    failed,
    asked,        // a stop was requested, or SIGTERM
    no_extension, // nothing to do in this database
    anew,         // the extension is another one now: start again at once
};

// One of the two processes that a database has.
struct ProcessSlot
{
    WorkerState state;
    Departure departure;
    pid_t pid;
    Latch *latch;
    bool stop_requested;
    bool look_again; // the extension may have been created or dropped

    int64_t starting_since_us;
    int64_t started_us; // when it was connected
    int64_t retry_at_us;
    int failures;     // starts and runs that failed in a row
    int64_t restarts; // after failures, since the server start
    int64_t last_error_us;
    ErrorText last_error;
};

struct DatabaseSlot
{
    Oid database;       // InvalidOid: the slot is free
    int encoding;       // of last_error and of the duties' errors
    ProcessSlot worker; // runs the duties
    ProcessSlot ticker; // makes the ticks of the event stream, as long as the worker runs

    int running_duty;      // index, -1 when none
    bool yields;           // the running duty is to be cancelled when somebody waits for a partition
    bool partition_wanted; // there is an open request of this database

    pg_atomic_uint32 requested; // bit i: run duty i at once
    DutySlot duties[kMaxDuties];

    // The ticker's counts since the server start.
    int64_t rounds; // transactions with ticks
    int64_t ticks;
    int64_t tick_failures;
    int64_t last_tick_us;
};

// A backend that keeps the processes of a database away, up to the end of its transaction.
struct Hold
{
    Oid database; // InvalidOid: free
    pid_t pid;
    Latch *latch; // set when one of them has gone
};

enum class RequestState : int
{
    free,
    open,    // waits for the worker
    taken,   // the worker is at it
    granted, // the partition exists
    refused, // it could not be made here
};

struct PartitionRequestSlot
{
    RequestState state;
    Oid database;
    Oid parent;
    int64_t key;
    uint64_t serial; // another one each time: a requester that gave up is not answered by mistake
    pid_t pid;
    Latch *latch;
};

struct WorkerShared
{
    LWLock lock;
    pid_t launcher_pid;
    Latch *launcher_latch;
    int64_t launcher_started_us;

    bool look_at_databases; // pg_database has changed
    bool told_all;          // `told` was too small: every database is to be tried again
    int told_count;
    Oid told[kMaxTold]; // databases that may have got the extension

    uint64_t request_serial;
    Hold holds[kMaxHolds];
    PartitionRequestSlot requests[kMaxRequests];

    int slot_count;
    DatabaseSlot slots[FLEXIBLE_ARRAY_MEMBER];
};

void declare_shared_area();

// Null without shared_preload_libraries.
WorkerShared *shared();

// The slot of a database, or null; `lock` is held.
DatabaseSlot *find_slot(Oid database);

// Is anybody keeping the processes of this database away? `lock` is held.
bool is_held(Oid database);

// Is either process there? `lock` is held.
inline bool has_process(const DatabaseSlot &slot) noexcept
{
    return slot.worker.pid != 0 || slot.ticker.pid != 0;
}

// Has the process end itself, cancelling what it is doing; `lock` is held exclusively.
void stop_process(ProcessSlot &process) noexcept;

// Copies an error's text, cut at a character's end.
void set_text(ErrorText &target, const char *text) noexcept;

// The launcher shall look at pg_database again; try_again names a database that got the extension, or lost
// it.
void wake_launcher(Oid try_again = InvalidOid) noexcept;

inline int64_t now_us() noexcept
{
    return pg::unix_us_of_timestamp(GetCurrentTimestamp());
}

} // namespace tasker::worker
