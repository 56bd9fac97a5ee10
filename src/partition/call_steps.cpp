#include "partition/call_steps.hpp"

#include "pg/spi.hpp"

namespace tasker::partition {

CallSteps::CallSteps(const pg::Args &args, const char *procedure) : exceptions_(std::uncaught_exceptions())
{
    const Node *context = args.call()->context;
    if (context == nullptr || !IsA(context, CallContext) ||
        reinterpret_cast<const CallContext *>(context)->atomic)
        throw pg::Error(ERRCODE_ACTIVE_SQL_TRANSACTION,
                        "%s cannot be called inside a transaction block or a function", procedure)
            .hint("It commits each of its steps. Call it as a statement of its own.");
    // A round that finds nothing to do writes nothing, and would seem to work on a standby.
    pg::pg_call([&] { PreventCommandDuringRecovery(procedure); });
    pg::pg_call([] {
        if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
            elog(ERROR, "could not connect to SPI");
    });
}

// While an error unwinds, the abort of the transaction closes the connection.
CallSteps::~CallSteps()
{
    if (std::uncaught_exceptions() == exceptions_)
        SPI_finish();
}

bool CallSteps::should_stop() const
{
    pg::check_for_interrupts();
    return false;
}

void CallSteps::run(void (*call)(void *), void *object)
{
    pg::pg_call([] { EnsurePortalSnapshotExists(); });
    {
        pg::AsOwner owner;
        call(object);
    }
    pg::pg_call([] { SPI_commit(); });
}

} // namespace tasker::partition
