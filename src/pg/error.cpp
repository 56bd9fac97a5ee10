#include "pg/error.hpp"

#include <cstdarg>

namespace tasker::pg {
namespace {

MemoryContext error_context = nullptr;

// Formats into the error context without ever raising: a message that cannot be built for lack of memory is
// replaced by its format.
const char *format_text(const char *format, va_list arguments) noexcept
{
    char buffer[1024];
    va_list again;
    va_copy(again, arguments);
    int needed = vsnprintf(buffer, sizeof buffer, format, arguments);
    MemoryContext context = error_context ? error_context : TopMemoryContext;
    auto *text = needed < 0
                     ? nullptr
                     : static_cast<char *>(MemoryContextAllocExtended(context, static_cast<Size>(needed) + 1,
                                                                      MCXT_ALLOC_NO_OOM | MCXT_ALLOC_HUGE));
    if (text != nullptr)
        vsnprintf(text, static_cast<size_t>(needed) + 1, format, again);
    va_end(again);
    return text != nullptr ? text : format;
}

// ERROR always stops at the nearest handler; what is copied here is re-raised by boundary.
ErrorData *copy_error(MemoryContext context) noexcept
{
    sigjmp_buf *const outer_stack = PG_exception_stack;
    ErrorData *volatile copy = nullptr;
    sigjmp_buf here;

    if (sigsetjmp(here, 0) == 0) {
        PG_exception_stack = &here;
        MemoryContextSwitchTo(context);
        copy = CopyErrorData();
    }
    PG_exception_stack = outer_stack;
    FlushErrorState();
    return copy;
}

} // namespace

Error::Error(int sqlstate, const char *format, ...) noexcept : sqlstate_(sqlstate)
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

namespace detail {

MemoryContext exchange_error_context(MemoryContext context) noexcept
{
    return std::exchange(error_context, context);
}

// errfinish has zeroed the holdoff counters; lock guards that unwind from here count them down again, so they
// get back the values of the guard's entry.
void throw_caught_error(MemoryContext memory, uint32 holdoff, uint32 cancel_holdoff)
{
    InterruptHoldoffCount = holdoff;
    QueryCancelHoldoffCount = cancel_holdoff;
    ErrorData *data = copy_error(error_context ? error_context : TopMemoryContext);
    MemoryContextSwitchTo(memory);
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
        sqlstate = e.sqlstate();
        message = e.what();
        detail = e.detail_text();
        hint = e.hint_text();
    } catch (const std::bad_alloc &) {
        sqlstate = ERRCODE_OUT_OF_MEMORY;
        message = "out of memory";
    } catch (const std::exception &e) {
        MemoryContext context = error_context ? error_context : TopMemoryContext;
        size_t length = strlen(e.what());
        auto *text = static_cast<char *>(
            MemoryContextAllocExtended(context, length + 1, MCXT_ALLOC_NO_OOM | MCXT_ALLOC_HUGE));
        if (text != nullptr)
            memcpy(text, e.what(), length + 1);
        sqlstate = ERRCODE_INTERNAL_ERROR;
        message = text != nullptr ? text : "unexpected C++ exception";
    } catch (...) {
        sqlstate = ERRCODE_INTERNAL_ERROR;
        message = "unexpected C++ exception of unknown type";
    }
}

void PendingReport::raise() const
{
    if (pg_error != nullptr)
        ReThrowError(pg_error);
    ereport(ERROR, errcode(sqlstate), errmsg_internal("%s", message),
            detail ? errdetail_internal("%s", detail) : 0, hint ? errhint("%s", hint) : 0);
    pg_unreachable();
}

} // namespace detail
} // namespace tasker::pg
