// What must hold before a partition goes.
//
//   ask              the set's rules and its owner: retention, legal hold, unfinished records. Asked before
//   the
//                    detach and again afterwards, under the table's lock; the answer can be no at any time.
//   check_obstacles  what would make a later step fail: rights, foreign keys, views, a name that is taken.
//                    Found before the detach, so that nothing is left half gone.
//   check_destination  the same for all partitions of the set: the schema that they are moved to.
#pragma once

#include "partition/create.hpp"
#include "partition/directory.hpp"

extern "C" {
#include "utils/rls.h"
}

namespace tasker::partition {

// Partitions below this key are older than the set's retention; in an owner's set without one they only have
// to be past. The key is the same however often it is asked within a transaction.
int64_t cutoff_key(const SetConfig &config);

// Does the set let anything go at all?
bool retires(const SetConfig &config, const OwnedSet *owned);

// A set that was restored from a dump is left alone for an hour: the restore makes tables first and fills
// them later.
bool was_just_restored(const SetConfig &config);

// Why the partition must stay, palloc'd; null when it may go.
const char *ask(const SetConfig &config, const OwnedSet *owned, const DirectoryEntry &entry);

// Queries in this scope fail instead of applying policies. Those of another table, whoever wrote them, must
// not run with the rights of a set's owner: neither in our own query nor in the one that DETACH makes. As
// with LockTimeoutScope, the variable and not the setting.
class NoRowSecurityScope
{
  public:
    NoRowSecurityScope() noexcept : outer_(row_security) { row_security = false; }
    ~NoRowSecurityScope() { row_security = outer_; }
    NoRowSecurityScope(const NoRowSecurityScope &) = delete;
    NoRowSecurityScope &operator=(const NoRowSecurityScope &) = delete;

  private:
    bool outer_;
};

// Throw what is in the way. Called in a NoRowSecurityScope.
void check_obstacles(const SetConfig &config, Oid partition);
void check_destination(const SetConfig &config);

// Where a table stands according to the catalogs.
struct Standing
{
    bool exists;
    bool attached; // to this parent; true while its detach is pending
    bool pending;
    bool other_pending; // another partition's detach is: Postgres allows one at a time
    bool has_default;   // Postgres then allows no concurrent detach
    bool taken;         // detached, and then renamed, moved or attached elsewhere: it is somebody's
    bool renamed;       // not called as it was booked
    char kind;          // of relation
};

// `schema` and `name` are those that it was booked with.
Standing standing_of(Oid parent, Oid partition, const NameData &schema, const NameData &name);

// Transactions that a DETACH CONCURRENTLY would wait for, and that have lasted longer than it would: short
// ones come and go on any busy table. A prepared transaction has no age and counts.
int64_t lasting_users_of(Oid parent);

// Who keeps the parent or the partition locked, or else has the oldest snapshot: for the report of a lock
// that was not to be had. Null when nobody is found.
const char *who_is_in_the_way(Oid parent, Oid partition);

// Does attaching, detaching or dropping partitions lock tables against their readers or writers? Foreign keys
// make it lock the table on their other side, and a DEFAULT partition is locked for each new one. Waits for
// such locks are polite ones.
bool locks_others(Oid relid);

} // namespace tasker::partition
