#include "pg/subtransaction.hpp"

namespace tasker::pg {

namespace {

// Nothing of the session's state can be trusted any more. FATAL leaves through exit, not through our frames.
[[noreturn]] void end_session(const CaughtError &error)
{
    ereport(FATAL, errcode(error.sqlstate()), errmsg("could not roll back a subtransaction"),
            errdetail_internal("%s", error.message()));
    pg_unreachable();
}

} // namespace

Subtransaction::Subtransaction()
{
    if (InterruptHoldoffCount != 0)
        throw Error(ERRCODE_INTERNAL_ERROR, "subtransaction begun while interrupts are held off");
    pg_call([&] {
        BeginInternalSubTransaction(nullptr);
        MemoryContextSwitchTo(memory_);
    });
    level_ = GetCurrentTransactionNestLevel();
}

void Subtransaction::commit()
{
    pg_call([&] {
        ReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(memory_);
    });
    level_ = 0;
    CurrentResourceOwner = owner_;
}

// The holdoff counters go to zero first, where errfinish leaves them before every other rollback: the abort
// releases the lightweight locks that are still held, and counts on that. An error may have left inner levels
// behind (code that began one itself and did not catch); they go along.
void Subtransaction::rollback() noexcept
{
    if (level_ == 0)
        return;
    const int level = std::exchange(level_, 0);
    std::optional<CaughtError> failure;

    try {
        pg_call([&] {
            InterruptHoldoffCount = 0;
            QueryCancelHoldoffCount = 0;
            while (GetCurrentTransactionNestLevel() >= level)
                RollbackAndReleaseCurrentSubTransaction();
            MemoryContextSwitchTo(memory_);
        });
    } catch (...) {
        failure.emplace(CaughtError::current());
    }
    if (failure)
        end_session(*failure);
    CurrentResourceOwner = owner_;
}

} // namespace tasker::pg
