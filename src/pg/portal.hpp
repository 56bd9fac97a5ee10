// Top-level statements from C++: for those that refuse to run inside a transaction or a function.
//
// DETACH PARTITION ... CONCURRENTLY, VACUUM and their like commit in the middle. SPI refuses them, and
// ProcessUtility without a portal crashes the server, because they expect one whose memory and snapshots
// outlive their own commits. So the statement takes the way of one that a client sends: parse, analyze, plan,
// a portal, PortalRun at top level.
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

// Runs one statement in transactions of its own and drops its result rows. Only the background worker may
// call it, and only between transactions: inside one it throws active_sql_transaction.
//
// The statement runs as `role` when one is given, else as whoever the caller is, with the caller's settings
// (search_path, lock_timeout). An error is thrown as PgError after its transaction has been aborted; what the
// statement had committed before stays (a detach that is cut off stays pending).
//
// `timeout_ms` ends it as statement_timeout does; 0 means no limit.
void run_top_level(const char *sql, Oid role = InvalidOid, int timeout_ms = 0);

} // namespace tasker::pg
