// The launcher: one process of the server that keeps a worker and a ticker in each database with the
// extension.
//
// It connects to the shared catalogs only, so it cannot see where the extension is: it starts a worker in
// every database that takes connections and is no template, and a worker that finds no extension leaves
// again. Such a database is not tried again until a CREATE EXTENSION commits there. The launcher looks at
// pg_database once a minute and whenever its latch is set: by CREATE DATABASE, DROP DATABASE, CREATE and DROP
// EXTENSION, a reload of the settings, or a worker that came or went.
#pragma once

namespace tasker::worker {

// Registers the launcher, the plane's shared memory and the hooks; from _PG_init. Does nothing unless the
// library is loaded through shared_preload_libraries.
void declare_launcher();

} // namespace tasker::worker
