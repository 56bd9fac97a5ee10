// The extension as an object of this database.
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

// Makes a table or sequence of ours go with the extension. It is no member, so that a dump carries it; a dump
// does not carry the tie. Does nothing where it is tied already.
void tie_to_extension(Oid relation);

// Names this installation of the extension: cluster, database, extension. What was written in another one was
// restored from a dump, or came with pg_upgrade.
const char *installation();

} // namespace tasker::pg
