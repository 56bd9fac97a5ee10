// The time between transactions, for procedures that wait.
#pragma once

#include "pg/error.hpp"

extern "C" {
#include "nodes/execnodes.h"
#include "nodes/parsenodes.h"
}

namespace tasker::pg {

// Was a procedure called where it must not commit: inside a transaction block, or by a function?
inline bool called_atomically(FunctionCallInfo fcinfo)
{
    auto *context = reinterpret_cast<CallContext *>(fcinfo->context);
    return context == nullptr || !IsA(context, CallContext) || context->atomic;
}

// Ends the transaction of the caller and, on return, leaves a new one begun: what a procedure may do when it
// was called outside of a transaction block.
//
// Called at top level, nobody else is connected to SPI, and the time between is spent outside of any
// transaction. From within a PL procedure SPI has to do the commit, because it keeps the procedure's own
// connection alive across it, and it begins the next transaction at once: an empty one, without snapshot, xid
// or lock.
//
// Plain C: may ereport. Nothing with a destructor may be alive around it, unless the calls stand in pg_call.
class BetweenTransactions
{
  public:
    BetweenTransactions() : top_level_(!SPI_inside_nonatomic_context()), memory_(CurrentMemoryContext) {}

    void begin()
    {
        if (top_level_) {
            HoldPinnedPortals();
            ForgetPortalSnapshots();
            CommitTransactionCommand();
            pgstat_report_stat(false);
            MemoryContextSwitchTo(memory_);
        } else {
            if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
                elog(ERROR, "could not connect to SPI");
            SPI_commit();
            SPI_finish();
        }
    }
    void end()
    {
        if (top_level_) {
            StartTransactionCommand();
            MemoryContextSwitchTo(memory_);
        }
    }
    // Runs `look` in a transaction of its own, however short.
    template <class Body> auto inside(Body body)
    {
        end();
        auto result = body();
        begin();
        return result;
    }

  private:
    bool top_level_;
    MemoryContext memory_;
};

} // namespace tasker::pg
