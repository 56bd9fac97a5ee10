// Which databases are to have a worker.
#pragma once

#include "pg/memory.hpp"

namespace tasker::worker {

struct DatabaseInfo
{
    Oid oid;
    NameData name;
    bool wanted; // takes connections, is no template, is named by tasker.databases
};

// All databases, as pg_database has them now, ordered by oid. In a transaction of its own; the list is
// allocated by `resource`. A tasker.databases that cannot be parsed names no database, and is logged once.
pg::Vector<DatabaseInfo> list_databases(pg::ContextResource &resource);

// Does tasker.databases name this database, or none at all?
bool is_named_by_setting(const char *database);

} // namespace tasker::worker
