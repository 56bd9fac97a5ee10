#include "pg/invalidation.hpp"

namespace tasker::pg {
namespace {

bool callback_registered = false;
RelcacheListener *listeners = nullptr;
TableWatch *watches = nullptr;

} // namespace

void RelcacheListener::on_invalidation(Datum, Oid relid)
{
    for (RelcacheListener *listener = listeners; listener != nullptr; listener = listener->next_)
        listener->notify_(relid);
}

void RelcacheListener::listen()
{
    if (listening_)
        return;
    pg_call([] {
        if (!callback_registered)
            CacheRegisterRelcacheCallback(on_invalidation, 0);
        callback_registered = true;
    });
    next_ = std::exchange(listeners, this);
    listening_ = true;
}

void TableWatch::on_invalidation(Oid relid)
{
    for (TableWatch *watch = watches; watch != nullptr; watch = watch->next_) {
        if (relid == InvalidOid || relid == watch->oid_) {
            watch->holds_ = false;
            watch->generation_++;
        }
    }
}

bool TableWatch::holds()
{
    // They reach this backend when it next locks a relation; a look at a cache does not lock one.
    pg_call([] { AcceptInvalidationMessages(); });
    return holds_;
}

void TableWatch::begin()
{
    static RelcacheListener listener(TableWatch::on_invalidation);
    listener.listen();
    if (!watching_)
        next_ = std::exchange(watches, this);
    watching_ = true;
    oid_ = pg_call([&] { return get_relname_relid(table_, get_namespace_oid("tasker", false)); });
    holds_ = OidIsValid(oid_); // nobody would tell us of a table that is still to come
}

} // namespace tasker::pg
