// Building floors and statistics from the table.
#pragma once

#include "queue/shared_state.hpp"

namespace tasker::queue {

// Makes sure that the state of this database is built, by building it or by waiting for whoever does. Null
// when there is no shared state to build.
DatabaseState *built_state(Oid parent);

// Counts all records anew, in a database that is built already: after prepared transactions, and on request.
void rebuild(Oid parent);

// Has any prepared transaction of this database not ended yet?
bool prepared_transactions_left();

} // namespace tasker::queue
