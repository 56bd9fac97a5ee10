// What the rows of a log are as events: by a mapper of a plane above, or by SQL expressions over their
// columns.
//
// An expression is what a CHECK constraint may be: no subquery, no aggregate. It is compiled once for a
// reader, against the log itself; rows of a partition whose columns stand in another order are turned into
// that order first. It runs as the owner of the log, who has defined it, with an empty search_path, and may
// do what an index expression may.
#pragma once

#include "stream/log.hpp"

extern "C" {
#include "access/tupconvert.h"
#include "executor/executor.h"
}

namespace tasker::stream {

// Plain C: all of it may ereport; what it opens is closed by close(), or by the abort of the transaction.
class LogMapping
{
  public:
    explicit LogMapping(const LogTable &log);
    void close();

    // How rows of that table become rows of the log; null where they are.
    TupleConversionMap *conversion_from(Relation table);

    // The row in a slot of that table. What is returned is valid until the next call.
    int64_t order(TupleTableSlot *row, TupleConversionMap *conversion);
    const LogEvent &map(TupleTableSlot *row, TupleConversionMap *conversion);

  private:
    TupleTableSlot *as_of_log(TupleTableSlot *row, TupleConversionMap *conversion);
    Datum evaluate(int expression, bool *null);

    const LogTable &log_;
    Relation parent_;
    EState *executor_;
    ExprContext *context_; // its memory is that of one row
    ExprState *states_[kLogExpressions] = {};
    TupleTableSlot *converted_ = nullptr;
    LogEvent event_{};
};

// Names of the expressions in a mapping: "ev_order", "ev_time", ...
const char *name_of(LogExpression expression);

} // namespace tasker::stream
