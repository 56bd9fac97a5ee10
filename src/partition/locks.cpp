#include "partition/locks.hpp"

namespace tasker::partition {
namespace {

// "TA"; users' advisory locks have 1 and 2.
constexpr uint16 kClass = 0x5441;

LOCKTAG tag_of(Oid relid, LockKind kind)
{
    LOCKTAG tag;
    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, relid, static_cast<uint32>(kind), kClass);
    return tag;
}

} // namespace

void lock_for_transaction(Oid relid, LockKind kind, LOCKMODE mode)
{
    const LOCKTAG tag = tag_of(relid, kind);
    (void)LockAcquire(&tag, mode, false, false);
}

bool try_lock_for_transaction(Oid relid, LockKind kind, LOCKMODE mode)
{
    const LOCKTAG tag = tag_of(relid, kind);
    return LockAcquire(&tag, mode, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

SessionLock::SessionLock(Oid relid, LockKind kind) : tag_(tag_of(relid, kind))
{
    held_ =
        pg::pg_call([&] { return LockAcquire(&tag_, ExclusiveLock, true, true); }) != LOCKACQUIRE_NOT_AVAIL;
}

SessionLock::~SessionLock()
{
    if (held_)
        LockRelease(&tag_, ExclusiveLock, true);
}

} // namespace tasker::partition
