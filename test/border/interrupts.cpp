// Cancels, terminations, and the locks that unwind on their way.
#include "pg/function.hpp"
#include "pg/shmem.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "witness.hpp"

using namespace tasker;
using namespace tasker::border;

namespace {

// Any lock that is always there and that nothing else takes while the server runs.
LWLock *some_lock()
{
    return AddinShmemInitLock;
}

[[noreturn]] void wait_for_ever()
{
    Holder holder(100);
    for (;;) {
        pg::pg_call([] {
            WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 600 * 1000L,
                      PG_WAIT_EXTENSION);
            ResetLatch(MyLatch);
        });
        pg::check_for_interrupts();
    }
}

} // namespace

// Waits for an interrupt, three calls deep; the wait event is Extension.
TASKER_FUNCTION(border_wait)
{
    three_calls_deep([](const void *) { wait_for_ever(); }, nullptr);
    return args.null();
}

// The same with everything open that an error has to close.
TASKER_FUNCTION(border_wait_in_subtransaction)
{
    Holder holder(10);
    pg::Spi outer;
    auto error = pg::try_in_subtransaction([] {
        pg::Spi inner;
        inner.run_text("create temporary table border_waits (i int) on commit drop");
        wait_for_ever();
    });
    throw pg::Error(ERRCODE_INTERNAL_ERROR, "the cancel was swallowed");
}

// Never waits, only looks.
TASKER_FUNCTION(border_spin)
{
    Holder holder(100);
    for (;;)
        pg::check_for_interrupts();
    return args.null();
}

TASKER_FUNCTION(border_holdoff)
{
    return args.result(static_cast<int32_t>(InterruptHoldoffCount + QueryCancelHoldoffCount));
}

TASKER_FUNCTION(border_lock_is_held)
{
    return args.result(LWLockHeldByMe(some_lock()));
}

// Is the lock free? Asked by another session, after one that held it has gone.
TASKER_FUNCTION(border_lock_is_free)
{
    if (!LWLockConditionalAcquire(some_lock(), LW_EXCLUSIVE))
        return args.result(false);
    LWLockRelease(some_lock());
    return args.result(true);
}

// An error while a lock is held by a scope. When it has unwound, before any rollback, the counter must be
// right: below zero no cancel would be seen, above it neither.
TASKER_FUNCTION(border_lock_and_throw)
{
    const std::string_view kind = args.text(0, "kind");
    Holder holder(10);
    try {
        pg::LockScope lock(some_lock(), LW_EXCLUSIVE);
        throw_kind(kind);
    } catch (...) {
        if (InterruptHoldoffCount != 0)
            throw pg::Error(ERRCODE_INTERNAL_ERROR, "interrupts are held off %u times",
                            InterruptHoldoffCount);
        throw;
    }
}

// The same, swallowed: lock and counter must be right when the code goes on.
TASKER_FUNCTION(border_lock_and_swallow)
{
    const std::string_view kind = args.text(0, "kind");
    auto error = pg::try_in_subtransaction([&] {
        pg::LockScope lock(some_lock(), LW_EXCLUSIVE);
        Holder holder(10);
        throw_kind(kind);
    });
    return args.result(error && InterruptHoldoffCount == 0 && !LWLockHeldByMe(some_lock()));
}

// A lock that plain C code took and that an error leaves held: the abort releases it. The C++ frames between
// catch the error when the counter stands at one.
TASKER_FUNCTION(border_lock_raw_and_throw)
{
    Holder holder(10);
    LWLockAcquire(some_lock(), LW_EXCLUSIVE);
    throw_kind(args.text(0, "kind"));
}

TASKER_FUNCTION(border_lock_raw_and_swallow)
{
    const std::string_view kind = args.text(0, "kind");
    auto error = pg::try_in_subtransaction([&] {
        LWLockAcquire(some_lock(), LW_EXCLUSIVE);
        throw_kind(kind);
    });
    return args.result(error && InterruptHoldoffCount == 0 && !LWLockHeldByMe(some_lock()));
}

TASKER_FUNCTION(border_subtransaction_under_lock)
{
    pg::LockScope lock(some_lock(), LW_SHARED);
    auto error = pg::try_in_subtransaction([] {});
    return args.result(!error);
}

// FATAL leaves through exit: no destructor runs, and none may be needed.
TASKER_FUNCTION(border_fatal)
{
    Holder holder(10);
    pg::Spi spi;
    auto error = pg::try_in_subtransaction([] {
        Holder inner(10);
        pg::pg_call([] { ereport(FATAL, errmsg("the end")); });
    });
    return args.null();
}

// A callback of the subtransaction's end that fails, in its commit or in its rollback.
namespace {

std::optional<SubXactEvent> failing_event;

// Fails once: at the exit of the process the same event comes again.
void fail_at_event(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
    if (failing_event == event) {
        failing_event.reset();
        pg::boundary([] { throw pg::Error(ERRCODE_RAISE_EXCEPTION, "a callback failed"); });
    }
}

} // namespace

TASKER_FUNCTION(border_commit_fails)
{
    const bool at_rollback = args.boolean(0, "at_rollback");
    failing_event = at_rollback ? SUBXACT_EVENT_ABORT_SUB : SUBXACT_EVENT_PRE_COMMIT_SUB;
    pg::pg_call([] { RegisterSubXactCallback(fail_at_event, nullptr); });
    std::optional<pg::CaughtError> error;
    try {
        error = pg::try_in_subtransaction([&] {
            pg::Spi spi(pg::Spi::Identity::caller);
            spi.run_text("insert into border.target values (77, 'undone')");
            if (at_rollback)
                throw pg::Error(ERRCODE_RAISE_EXCEPTION, "the body failed");
        });
    } catch (...) {
        UnregisterSubXactCallback(fail_at_event, nullptr);
        throw;
    }
    UnregisterSubXactCallback(fail_at_event, nullptr);
    return error ? args.result(std::string_view(error->message())) : args.null();
}
