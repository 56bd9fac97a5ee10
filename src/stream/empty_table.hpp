// Emptying whole tables: locking everybody else out of one, without making anybody wait for long.
//
// TRUNCATE needs an ACCESS EXCLUSIVE lock. Whoever waits for one makes all others queue up behind. So who has
// the table for long, as pg_dump does, is not waited for at all: the table is emptied later.
#pragma once

#include "pg/error.hpp"

namespace tasker::stream {

enum class Patience
{
    none,
    // Transactions that have just begun are waited for, a few dozen milliseconds at most.
    brief
};

// Locks a table in ACCESS EXCLUSIVE mode to the end of the transaction and returns null, or says who is in
// the way. As long as somebody is, no transaction id is taken.
const char *lock_to_empty(Oid table, Patience patience);

// The same for SHARE mode, which keeps writers away, and without the name of who is in the way.
bool lock_out_writers(Oid table);

// Who has locked an object, as LOCKTAG_OBJECT names it, other than this session.
const char *holder_of_object(Oid class_id, Oid object);

// Empties a table that lock_to_empty has locked; one without a page is left as it is.
void empty_locked(Oid table);

// Has it no page? One that has been emptied has none; nor has one that has been dropped.
bool is_without_pages(Oid table);

} // namespace tasker::stream
