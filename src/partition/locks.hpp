// The plane's own locks: advisory-class heavyweight locks that cannot meet a user's advisory locks.
//
// Postgres tells its users' advisory locks apart by a class number, 1 for bigint keys and 2 for pairs of int;
// ours is another. They are in pg_locks (locktype advisory, objid = kind, objsubid = kClass), the deadlock
// detector knows them, and they go with the transaction or session that holds them.
//
// LOCK ORDER (who needs several takes them in this order, or asks for the later ones without waiting)
//    move        of a table whose rows are on their way elsewhere, and of where they go: one at a time
//    lane        of a parent: one maintenance step at a time (finalize, retire, analyze)
//    retirement  of a partition: exclusive while it is being retired, shared by who revives a record in it
//    creation    of a parent: one maker of partitions at a time; also held while a detached partition is
//                dropped or attached again. Separate from the lane, so that a partition can be made on demand
//                while a retirement waits for readers.
//    the parent  SHARE UPDATE EXCLUSIVE (ATTACH, DETACH CONCURRENTLY, ANALYZE)
//    partitions
#pragma once

#include "pg/error.hpp"

namespace tasker::partition {

enum class LockKind : uint32
{
    lane = 1,
    retirement = 2,
    creation = 3,
    move = 4
};

// To the end of the transaction; waits (lock_timeout applies). Plain C inside: may ereport.
void lock_for_transaction(Oid relid, LockKind kind, LOCKMODE mode);

// To the end of the transaction; false when somebody else is in the way. Plain C inside: may ereport.
bool try_lock_for_transaction(Oid relid, LockKind kind, LOCKMODE mode);

// An exclusive lock of the session for a scope, for work that spans transactions. Tried without waiting.
class SessionLock
{
  public:
    SessionLock(Oid relid, LockKind kind);
    ~SessionLock();
    SessionLock(const SessionLock &) = delete;
    SessionLock &operator=(const SessionLock &) = delete;

    bool held() const noexcept { return held_; }

  private:
    LOCKTAG tag_;
    bool held_;
};

} // namespace tasker::partition
