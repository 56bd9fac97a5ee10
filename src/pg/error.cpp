#include "pg/error.hpp"

#include <cstdarg>

namespace tasker::pg {
namespace {

constexpr const char *kOutOfMemory = "out of memory";

MemoryContext memory_for_errors() noexcept
{
    return detail::error_memory ? detail::error_memory : TopMemoryContext;
}

// Memory for an error's text, or null: nothing here may raise another error.
char *allocate_text(size_t bytes) noexcept
{
    return static_cast<char *>(
        MemoryContextAllocExtended(memory_for_errors(), bytes, MCXT_ALLOC_NO_OOM | MCXT_ALLOC_HUGE));
}

char *format_text(const char *format, va_list arguments) noexcept
{
    char start[256];
    va_list again;
    va_copy(again, arguments);
    const int length = vsnprintf(start, sizeof start, format, arguments);
    char *text = length < 0 ? nullptr : allocate_text(static_cast<size_t>(length) + 1);
    if (text != nullptr)
        vsnprintf(text, static_cast<size_t>(length) + 1, format, again);
    va_end(again);
    return text;
}

void free_text(const char *text) noexcept
{
    if (text != nullptr)
        pfree(const_cast<char *>(text));
}

// Takes the error that Postgres holds out of it, into a memory context of its own. Null when there is no
// memory for the copy: copying may fail, and must then not escape to a handler further out.
ErrorData *copy_error() noexcept
{
    const detail::GuardState outer;
    MemoryContext volatile own = nullptr;
    ErrorData *volatile copy = nullptr;
    sigjmp_buf here;

    if (sigsetjmp(here, 0) == 0) {
        PG_exception_stack = &here;
        own = AllocSetContextCreate(memory_for_errors(), "tasker error", ALLOCSET_SMALL_SIZES);
        MemoryContextSwitchTo(own);
        copy = CopyErrorData();
    }
    outer.restore();
    MemoryContextSwitchTo(memory_for_errors());
    FlushErrorState();
    if (copy == nullptr && own != nullptr)
        MemoryContextDelete(own);
    return copy;
}

} // namespace

Error::Error(int sqlstate, const char *format, ...) noexcept : sqlstate_(sqlstate), format_(format)
{
    va_list arguments;
    va_start(arguments, format);
    message_ = format_text(format, arguments);
    va_end(arguments);
}

Error &Error::detail(const char *format, ...) noexcept
{
    va_list arguments;
    va_start(arguments, format);
    detail_ = format_text(format, arguments);
    va_end(arguments);
    return *this;
}

Error &Error::hint(const char *format, ...) noexcept
{
    va_list arguments;
    va_start(arguments, format);
    hint_ = format_text(format, arguments);
    va_end(arguments);
    return *this;
}

CaughtError CaughtError::current() noexcept
{
    CaughtError error;
    error.report_.capture_current();
    return error;
}

CaughtError CaughtError::current_unless_stop()
{
    try {
        throw;
    } catch (const PgError &e) {
        if (e.sqlstate() == ERRCODE_QUERY_CANCELED || e.sqlstate() == ERRCODE_ASSERT_FAILURE)
            throw;
    } catch (...) {
    }
    return current();
}

const char *CaughtError::message() const noexcept
{
    const char *message = report_.pg_error ? report_.pg_error->message : report_.message;
    return message ? message : "missing error text";
}

const char *CaughtError::detail() const noexcept
{
    return report_.pg_error ? report_.pg_error->detail : report_.detail;
}

const char *CaughtError::hint() const noexcept
{
    return report_.pg_error ? report_.pg_error->hint : report_.hint;
}

const char *CaughtError::context() const noexcept
{
    return report_.pg_error ? report_.pg_error->context : nullptr;
}

void CaughtError::emit(int level) const
{
    Assert(level < ERROR);
    pg_call([&] {
        ereport(level, errcode(sqlstate()), errmsg_internal("%s", message()),
                detail() ? errdetail_internal("%s", detail()) : 0, hint() ? errhint("%s", hint()) : 0,
                context() ? errcontext_msg("%s", context()) : 0);
    });
}

namespace detail {

MemoryContext error_memory = nullptr;

// errfinish has zeroed the holdoff counters, and a failure to copy does so again. Lock guards that unwind
// from here count them down, so they get back the values of the guard's entry.
void throw_caught_error(MemoryContext memory, uint32 holdoff, uint32 cancel_holdoff)
{
    ErrorData *data = copy_error();
    MemoryContextSwitchTo(memory);
    InterruptHoldoffCount = holdoff;
    QueryCancelHoldoffCount = cancel_holdoff;
    if (data == nullptr)
        throw std::bad_alloc();
    throw PgError(data);
}

void PendingReport::capture_current() noexcept
{
    try {
        throw;
    } catch (const PgError &e) {
        pg_error = e.data();
    } catch (const Error &e) {
        sqlstate = e.sqlstate_;
        message = e.what();
        message_is_palloced = e.message_ != nullptr;
        detail = e.detail_;
        hint = e.hint_;
    } catch (const std::bad_alloc &) {
        sqlstate = ERRCODE_OUT_OF_MEMORY;
        message = kOutOfMemory;
    } catch (const std::exception &e) {
        // A container that was asked for more elements than it can count is as full as one without memory.
        sqlstate = dynamic_cast<const std::length_error *>(&e) != nullptr ? ERRCODE_PROGRAM_LIMIT_EXCEEDED
                                                                          : ERRCODE_INTERNAL_ERROR;
        const size_t bytes = strlen(e.what()) + 1;
        char *text = allocate_text(bytes);
        message_is_palloced = text != nullptr;
        message = text != nullptr ? static_cast<char *>(memcpy(text, e.what(), bytes)) : kOutOfMemory;
    } catch (...) {
        sqlstate = ERRCODE_INTERNAL_ERROR;
        message = "unexpected C++ exception of unknown type";
    }
}

void PendingReport::release() noexcept
{
    if (pg_error != nullptr)
        MemoryContextDelete(pg_error->assoc_context);
    if (message_is_palloced)
        free_text(message);
    free_text(detail);
    free_text(hint);
    *this = {};
}

// Leaves the counters as errfinish leaves them: ReThrowError does not touch them, and the abort of the
// transaction, which releases what is still locked, counts on zero.
void PendingReport::raise() const
{
    if (pg_error != nullptr) {
        InterruptHoldoffCount = 0;
        QueryCancelHoldoffCount = 0;
        ReThrowError(pg_error);
    }
    ereport(ERROR, errcode(sqlstate), errmsg_internal("%s", message),
            detail ? errdetail_internal("%s", detail) : 0, hint ? errhint("%s", hint) : 0);
    pg_unreachable();
}

} // namespace detail
} // namespace tasker::pg
