// Errors across the border, in both directions.
//
// Postgres reports an error with longjmp, which skips C++ destructors; C++ throws an exception, which must
// not travel through Postgres' C frames. Two guards keep them apart:
//
//   boundary(lambda)  In every function that Postgres calls. A C++ exception leaves as an ereport, raised
//                     after every C++ object of the lambda is dead and outside of any catch block.
//   pg_call(lambda)   Around Postgres calls that may ereport while C++ objects with destructors are alive.
//                     The ereport becomes a PgError, so destructors run. A lambda given to pg_call holds
//                     only trivially destructible locals.
//
// A function whose locals are all trivially destructible may call Postgres without pg_call: the longjmp then
// skips nothing. Hot paths are written like that. docs/border.md has all the rules and their reasons.
#pragma once

#include "pg/postgres.hpp"

namespace tasker::pg {
namespace detail {

// What is carried out of a catch block: plain pointers, nothing to destroy.
struct PendingReport
{
    ErrorData *pg_error = nullptr; // else the fields below
    int sqlstate = 0;
    const char *message = nullptr;
    const char *detail = nullptr;
    const char *hint = nullptr;
    bool message_is_palloced = false; // as detail and hint always are

    // Fills the report from the exception that is being handled; called inside a catch block only.
    void capture_current() noexcept;
    void release() noexcept;
    [[noreturn]] void raise() const;
};

} // namespace detail

// An ereport that was caught on its way up. Owns nothing: the ErrorData lives in a memory context of its own
// below that of the entry point (see boundary), which outlives every frame that the exception passes. Who
// swallows the error makes it a CaughtError, which frees it; else it goes with the entry point's context.
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

    const char *what() const noexcept override { return message_ ? message_ : format_; }
    int sqlstate() const noexcept { return sqlstate_; }
    const char *detail_text() const noexcept { return detail_; }
    const char *hint_text() const noexcept { return hint_; }

  private:
    friend struct detail::PendingReport;

    int sqlstate_;
    const char *format_; // stands in for the message when there is no memory to build one
    char *message_;
    char *detail_ = nullptr;
    char *hint_ = nullptr;
};

// An error that was taken out of a catch block, to be looked at and then dropped: the last owner of its
// texts. An error may be dropped only where a transaction or subtransaction was rolled back: see
// Subtransaction.
class CaughtError
{
  public:
    // The exception that is being handled; inside a catch block only.
    static CaughtError current() noexcept;
    // The same, but a request to stop (cancel, statement_timeout) and a failed assertion are thrown on.
    static CaughtError current_unless_stop();

    CaughtError(CaughtError &&other) noexcept : report_(std::exchange(other.report_, {})) {}
    CaughtError &operator=(CaughtError &&other) noexcept
    {
        std::swap(report_, other.report_);
        return *this;
    }
    ~CaughtError() { report_.release(); }

    int sqlstate() const noexcept
    {
        return report_.pg_error ? report_.pg_error->sqlerrcode : report_.sqlstate;
    }
    const char *message() const noexcept;
    const char *detail() const noexcept; // null when there is none, as the next two
    const char *hint() const noexcept;
    const char *context() const noexcept;

    // Sends the error to the log, and to the client as far as it wants it, at a level below ERROR.
    void emit(int level) const;

  private:
    CaughtError() = default;

    detail::PendingReport report_;
};

namespace detail {

// The memory context in which errors are kept until they are reported; set by boundary.
extern MemoryContext error_memory;

// What an error on its way up may leave changed, as it was when a guard was entered.
struct GuardState
{
    sigjmp_buf *const exception_stack = PG_exception_stack;
    ErrorContextCallback *const context_stack = error_context_stack;

    void restore() const noexcept
    {
        PG_exception_stack = exception_stack;
        error_context_stack = context_stack;
    }
};

[[noreturn]] void throw_caught_error(MemoryContext memory, uint32 holdoff, uint32 cancel_holdoff);

} // namespace detail

// Runs `body` on behalf of Postgres and returns its result; whatever it throws is raised as an ereport. An
// ereport that leaves `body` directly passes on as it is.
template <class Body> auto boundary(Body &&body) -> std::invoke_result_t<Body>
{
    using Result = std::invoke_result_t<Body>;
    static_assert(std::is_void_v<Result> || std::is_trivially_destructible_v<Result>,
                  "an ereport would skip the destructor of what boundary returns");
    static_assert(std::is_trivially_destructible_v<std::decay_t<Body>>,
                  "an ereport would skip the destructors of what the body has captured");

    const detail::GuardState outer;
    const MemoryContext outer_error_memory = detail::error_memory;
    detail::PendingReport report;
    sigjmp_buf here;

    try {
        if (sigsetjmp(here, 0) == 0) {
            PG_exception_stack = &here;
            detail::error_memory = CurrentMemoryContext;
            if constexpr (std::is_void_v<Result>) {
                body();
                outer.restore();
                detail::error_memory = outer_error_memory;
                return;
            } else {
                Result result = body();
                outer.restore();
                detail::error_memory = outer_error_memory;
                return result;
            }
        }
        // Stopped only to put error_memory back: the context it names may be gone when the next error comes.
        outer.restore();
        detail::error_memory = outer_error_memory;
        PG_RE_THROW();
    } catch (...) {
        report.capture_current();
    }
    outer.restore();
    detail::error_memory = outer_error_memory;
    report.raise();
}

// Runs `body`, which may ereport, and turns an ereport into a PgError. A C++ exception of the body passes on
// as it is. Costs about 5 ns: sigsetjmp without the signal mask, because Postgres restores signals itself.
template <class Body> auto pg_call(Body &&body) -> std::invoke_result_t<Body>
{
    using Result = std::invoke_result_t<Body>;
    static_assert(std::is_void_v<Result> || std::is_trivially_destructible_v<Result>,
                  "a longjmp out of pg_call's body would skip the destructor of its result");

    const detail::GuardState outer;
    const MemoryContext memory = CurrentMemoryContext;
    const uint32 holdoff = InterruptHoldoffCount;
    const uint32 cancel_holdoff = QueryCancelHoldoffCount;
    sigjmp_buf here;

    if (sigsetjmp(here, 0) == 0) {
        PG_exception_stack = &here;
        try {
            if constexpr (std::is_void_v<Result>) {
                body();
                outer.restore();
                return;
            } else {
                Result result = body();
                outer.restore();
                return result;
            }
        } catch (...) {
            outer.restore();
            MemoryContextSwitchTo(memory);
            throw;
        }
    }
    outer.restore();
    detail::throw_caught_error(memory, holdoff, cancel_holdoff);
}

// CHECK_FOR_INTERRUPTS for code that holds C++ objects: a cancel or a termination request unwinds them.
inline void check_for_interrupts()
{
    if (INTERRUPTS_PENDING_CONDITION())
        pg_call([] { CHECK_FOR_INTERRUPTS(); });
}

} // namespace tasker::pg
