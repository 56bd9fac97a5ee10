// Rounds that a session runs for itself, by CALL.
#pragma once

#include "partition/maintenance.hpp"
#include "pg/function.hpp"

namespace tasker::partition {

// The transactions of a procedure: each step is committed before the next begins. Made only when the call may
// commit; inside a transaction block or a function it throws active_sql_transaction.
class CallSteps final : public Steps
{
  public:
    CallSteps(const pg::Args &args, const char *procedure);
    ~CallSteps() override;

    bool may_run_top_level() const override { return false; }
    bool should_stop() const override;

  protected:
    void run(void (*call)(void *), void *object) override;

  private:
    int exceptions_;
};

} // namespace tasker::partition
