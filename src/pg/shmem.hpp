// Shared memory: fixed areas that planes declare and that exist only under shared_preload_libraries.
//
// Shared memory accelerates, it is never the truth: an area's pointer is null without preload, and every
// reader has a path that works without it.
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

// One area. Define as a static object in its plane and hand it to declare_shared_area from _PG_init.
struct SharedArea
{
    const char *name;
    Size (*size)();                   // asked once settings are known
    void (*initialize)(void *);       // runs once per server start (and after each crash), area zeroed before
    Size (*hash_size)() = nullptr;    // room for hash tables that `attach` opens with ShmemInitHash
    void (*attach)(void *) = nullptr; // runs wherever shared memory is set up, after initialize
    void *memory = nullptr;           // set in every process
};

void declare_shared_area(SharedArea &area);

// The tranche of every LWLock of ours; valid once an area exists. pg_stat_activity shows it as "tasker".
int lwlock_tranche();

// A lightweight lock for a scope. Postgres releases it by itself when an error aborts the transaction; while
// an exception unwinds, the guard releases it only if it is still held.
class LockScope
{
  public:
    LockScope(LWLock *lock, LWLockMode mode) : lock_(lock) { LWLockAcquire(lock_, mode); }
    ~LockScope()
    {
        if (LWLockHeldByMe(lock_))
            LWLockRelease(lock_);
    }
    LockScope(const LockScope &) = delete;
    LockScope &operator=(const LockScope &) = delete;

  private:
    LWLock *lock_;
};

} // namespace tasker::pg
