// Tasker's settings (GUCs), in one sorted table (settings.cpp).
#pragma once

#include "pg/postgres.hpp"

namespace tasker::pg::settings {

extern double analyze_scale_factor; // share of rows changed that makes a parent due for analyze
extern int analyze_threshold;       // rows changed, added to the share
extern bool auto_create_flows;      // the first enqueue into an unknown flow creates it
extern int clock_offset;            // seconds that the partition plane's clock is ahead; for tests
extern char *databases;   // comma-separated names for the launcher; empty: every database with the extension
extern bool log_duties;   // log each run of a duty
extern int lock_timeout;  // milliseconds a duty waits for a lock
extern int max_databases; // databases that shared memory has room for
extern int max_flows;     // flows that shared memory has room for, all databases
extern int max_lanes;     // (flow, priority, partition) triples that shared memory has room for
extern int max_queues;    // queues of the stream that shared memory has room for, all databases
extern int min_tick_interval; // milliseconds
extern int sweep_interval;    // seconds between two sweeps of the live window
extern bool worker;           // run the background worker

// Defines all of them; from _PG_init only.
void define();

} // namespace tasker::pg::settings
