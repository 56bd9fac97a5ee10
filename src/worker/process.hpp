// What the two processes of a database have in common: their slot, their connection, and how they leave.
//
// The life of a process: attach to the slot that the launcher gave the database, connect, look for the
// extension, work. It leaves when it is told to (SIGTERM, or stop_requested in its slot), when the extension
// has gone, and on an error that nobody has caught; the launcher decides what follows.
#pragma once

#include "worker/duty_runner.hpp"
#include "worker/shared.hpp"

namespace tasker::worker {

enum class Role
{
    worker,
    ticker
};

// Attaches, connects and finds the extension; does not return when there is nothing to do here. `detached`
// runs when the process ends, under the lock, once it has left the list of backends.
void begin_process(Oid database, Role role, void (*detached)(DatabaseSlot &));

// From here on it works.
void note_running();

// The process, in its database's slot.
DatabaseSlot &own_slot();
ProcessSlot &own_process();
Role own_role();

// Has the process been told to end?
bool must_leave();

[[noreturn]] void leave(Departure departure);

// Leaves when this is no place for a process (any more).
void leave_unless_at_home(Outcome outcome);

// Asks for the extension in a transaction of its own, which also takes notice of what others have committed.
void look_for_extension(const char *activity);

// Reads the settings anew when that was asked for; true if so.
bool reload_settings();

// The name of the database, for the log.
const char *own_database_name();

// SIGTERM: whatever runs is cancelled like a query, so that everything unwinds in an orderly way; the loop
// then sees that it is to leave.
void on_sigterm(SIGNAL_ARGS);

} // namespace tasker::worker
