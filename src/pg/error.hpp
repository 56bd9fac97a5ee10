// Errors across the border, in both directions.
//
// Postgres reports an error with longjmp, which skips C++ destructors; C++ throws an exception, which must
// not travel through Postgres' C frames. Two guards keep them apart:
//
//   boundary(lambda)  in every function that Postgres calls: a C++ exception leaves as an ereport, raised
//   after
//                     every C++ object of the lambda is dead and outside of any catch block.
//   pg_call(lambda)   around Postgres calls that may ereport while C++ objects with destructors are alive:
//   the
//                     ereport becomes a PgError, so destructors run. A lambda given to pg_call holds only
//                     trivially destructible locals.
//
// A function whose locals are all trivially destructible may call Postgres without pg_call: the longjmp then
// skips nothing. Hot paths are written like that. docs/border.md has all the rules and their reasons.
#pragma once

#include "pg/postgres.hpp"

namespace tasker::pg {

// An ereport that was caught on its way up. Owns nothing: the ErrorData lives in the memory context of the
// entry point (see boundary), which outlives every frame that the exception passes.
class PgError : public std::exception
{
  public:
    explicit PgError(ErrorData *data) noexcept : data_(data) {}

    const char *what() const noexcept override { return data_->message ? data_->message : "error"; }
    int sqlstate() const noexcept { return data_->sqlerrcode; }
    ErrorData *data() const noexcept { return data_; }

  private:
    ErrorData *data_;
};

// An error that our own code found: SQLSTATE, message, and where it helps a detail and a hint. The texts are
// formatted at once into the entry point's memory context, so an Error is cheap to copy and needs no
// cleaning.
class Error : public std::exception
{
  public:
    __attribute__((format(printf, 3, 4))) Error(int sqlstate, const char *format, ...) noexcept;

    __attribute__((format(printf, 2, 3))) Error &detail(const char *format, ...) noexcept;
    __attribute__((format(printf, 2, 3))) Error &hint(const char *format, ...) noexcept;

    const char *what() const noexcept override { return message_; }
    int sqlstate() const noexcept { return sqlstate_; }
    const char *detail_text() const noexcept { return detail_; }
    const char *hint_text() const noexcept { return hint_; }

  private:
    int sqlstate_;
    const char *message_;
    const char *detail_ = nullptr;
    const char *hint_ = nullptr;
};

namespace detail {

// What boundary carries out of its catch block: plain pointers, nothing to destroy.
struct PendingReport
{
    ErrorData *pg_error = nullptr;
    int sqlstate = 0;
    const char *message = nullptr;
    const char *detail = nullptr;
    const char *hint = nullptr;

    // Fills the report from the exception that is being handled; called inside a catch block only.
    void capture_current() noexcept;
    [[noreturn]] void raise() const;
};

// The memory context in which errors are kept until they are reported; swapped by boundary.
MemoryContext exchange_error_context(MemoryContext context) noexcept;

[[noreturn]] void throw_caught_error(MemoryContext context, uint32 holdoff, uint32 cancel_holdoff);

} // namespace detail

// Runs `body` on behalf of Postgres and returns its result; whatever it throws is raised as an ereport.
template <class Body> auto boundary(Body &&body) -> std::invoke_result_t<Body>
{
    detail::PendingReport report;
    MemoryContext outer = detail::exchange_error_context(CurrentMemoryContext);
    try {
        if constexpr (std::is_void_v<std::invoke_result_t<Body>>) {
            body();
            detail::exchange_error_context(outer);
            return;
        } else {
            auto result = body();
            detail::exchange_error_context(outer);
            return result;
        }
    } catch (...) {
        report.capture_current();
    }
    detail::exchange_error_context(outer);
    report.raise();
}

// Runs `body`, which may ereport, and turns an ereport into a PgError. Costs about 5 ns: sigsetjmp without
// the signal mask, because Postgres restores signals itself.
template <class Body> auto pg_call(Body &&body) -> std::invoke_result_t<Body>
{
    using Result = std::invoke_result_t<Body>;
    static_assert(std::is_void_v<Result> || std::is_trivially_destructible_v<Result>,
                  "a longjmp out of pg_call's body would skip the destructor of its result");

    sigjmp_buf *const outer_stack = PG_exception_stack;
    ErrorContextCallback *const outer_context = error_context_stack;
    const MemoryContext memory = CurrentMemoryContext;
    const uint32 holdoff = InterruptHoldoffCount;
    const uint32 cancel_holdoff = QueryCancelHoldoffCount;
    sigjmp_buf here;

    if (sigsetjmp(here, 0) == 0) {
        PG_exception_stack = &here;
        if constexpr (std::is_void_v<Result>) {
            body();
            PG_exception_stack = outer_stack;
            error_context_stack = outer_context;
            return;
        } else {
            Result result = body();
            PG_exception_stack = outer_stack;
            error_context_stack = outer_context;
            return result;
        }
    }
    PG_exception_stack = outer_stack;
    error_context_stack = outer_context;
    detail::throw_caught_error(memory, holdoff, cancel_holdoff);
}

// CHECK_FOR_INTERRUPTS for code that holds C++ objects: a cancel or a termination request unwinds them.
inline void check_for_interrupts()
{
    if (INTERRUPTS_PENDING_CONDITION())
        pg_call([] { CHECK_FOR_INTERRUPTS(); });
}

} // namespace tasker::pg
