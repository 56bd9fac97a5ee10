// Subtransactions: the only place where an error may be swallowed.
//
// An error leaves behind what it interrupted: pinned buffers, locks, open relations, half-done changes. Only
// the rollback of a transaction or subtransaction cleans that up; a plain catch does not.
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

// A subtransaction for a scope: rolled back at its end unless it was committed before. Memory context and
// resource owner stay those of the surrounding code throughout, so what is allocated inside survives.
//
// Objects that hold something of the subtransaction (Spi, LockScope) must be made inside and be dead before
// its end. None may begin while a lightweight lock is held, because a rollback would release it.
class Subtransaction
{
  public:
    Subtransaction();
    ~Subtransaction() { rollback(); }
    Subtransaction(const Subtransaction &) = delete;
    Subtransaction &operator=(const Subtransaction &) = delete;

    // Throws what the commit raises; the subtransaction is then rolled back as any other.
    void commit();
    // Does nothing when it is already over. A rollback that fails ends the session: nothing could be trusted.
    void rollback() noexcept;

  private:
    const MemoryContext memory_ = CurrentMemoryContext;
    const ResourceOwner owner_ = CurrentResourceOwner;
    int level_ = 0; // of the subtransaction; 0 once it is over
};

// Runs `body` in a subtransaction. Returns the error when there was one, with everything that `body` did in
// the database undone, and nothing when it was committed. A cancelled query and a failed assertion are not
// returned but thrown on: who asks for a stop means the whole statement (as in PL/pgSQL's WHEN OTHERS).
template <class Body> std::optional<CaughtError> try_in_subtransaction(Body &&body)
{
    static_assert(std::is_void_v<std::invoke_result_t<Body>>, "hand results out by reference");
    Subtransaction subtransaction;
    std::optional<CaughtError> error;

    try {
        body();
        subtransaction.commit();
        return error;
    } catch (...) {
        error.emplace(CaughtError::current_unless_stop());
    }
    subtransaction.rollback();
    return error;
}

} // namespace tasker::pg
