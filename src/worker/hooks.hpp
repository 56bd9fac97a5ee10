// What the server tells the worker plane about: statements that need a database without a worker, and the
// extension's coming and going.
//
// DROP DATABASE, ALTER DATABASE ... RENAME or SET TABLESPACE, CREATE DATABASE ... TEMPLATE and DROP EXTENSION
// end the worker and the ticker of the database before they run, and keep them away until their transaction
// has ended. They are waited for five seconds at most; the statement then says itself what it makes of a
// database in use. Only who may run the statement gets that far.
#pragma once

namespace tasker::worker {

// From _PG_init, under shared_preload_libraries.
void install_hooks();

} // namespace tasker::worker
