// What other sessions have changed: relcache invalidations, for caches of ours in this backend.
//
// A backend has room for ten relcache callbacks, PostgreSQL's own and those of other extensions included. So
// there is one of ours, and it tells everybody here.
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

// Hears of every relation that changes; InvalidOid stands for all of them. Define as a static object.
class RelcacheListener
{
  public:
    constexpr explicit RelcacheListener(void (*notify)(Oid relid)) : notify_(notify) {}

    // From now on, and to the end of the backend; calling it again does nothing.
    void listen();

  private:
    static void on_invalidation(Datum, Oid relid);

    void (*notify_)(Oid relid);
    RelcacheListener *next_ = nullptr;
    bool listening_ = false;
};

// Watches one table of the schema tasker, from which something was cached. Changes of its rows count when the
// table has a statement trigger that sends the invalidation. Define as a static object.
class TableWatch
{
  public:
    constexpr explicit TableWatch(const char *table) : table_(table) {}

    // Takes in what others have sent, and tells whether what was cached since begin() still holds.
    bool holds();
    // The same by what has been taken in already, for whoever has just asked or locked something.
    bool still_holds() const { return holds_; }
    // Called before the table is read: a change that comes from here on makes holds() false.
    void begin();
    // What was cached is not wanted any more.
    void forget() { holds_ = false; }
    // The table, as begin() found it.
    Oid oid() const { return oid_; }
    // Counts the changes.
    uint64_t generation() const { return generation_; }

  private:
    static void on_invalidation(Oid relid);

    const char *table_;
    Oid oid_ = InvalidOid;
    bool holds_ = false;
    uint64_t generation_ = 0;
    TableWatch *next_ = nullptr;
    bool watching_ = false;
};

} // namespace tasker::pg
