// Errors that cross the border: what each becomes, and what it leaves behind.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "witness.hpp"

#include <chrono>
#include <system_error>

namespace tasker::border {

int live_witnesses = 0;

Holder::Holder(size_t elements)
    : context_("border holder"), scope_(context_.get()), resource_(context_.get()),
      elements_(elements, int64_t{1}, &resource_)
{
}

void raise_with_all_fields()
{
    ereport(ERROR, errcode(ERRCODE_CHECK_VIOLATION), errmsg("message %d", 1), errdetail("detail %d", 2),
            errhint("hint %d", 3), err_generic_string(PG_DIAG_SCHEMA_NAME, "a schema"),
            err_generic_string(PG_DIAG_TABLE_NAME, "a table"),
            err_generic_string(PG_DIAG_COLUMN_NAME, "a column"),
            err_generic_string(PG_DIAG_DATATYPE_NAME, "a type"),
            err_generic_string(PG_DIAG_CONSTRAINT_NAME, "a constraint"));
    pg_unreachable();
}

void throw_kind(std::string_view kind)
{
    if (kind == "error")
        throw pg::Error(ERRCODE_OBJECT_IN_USE, "flow \"%s\" is busy", "a flow");
    if (kind == "error with detail and hint")
        throw pg::Error(ERRCODE_OBJECT_IN_USE, "flow \"%s\" is busy", "a flow")
            .detail("It has %d workers.", 3)
            .hint("Stop %s first.", "them");
    if (kind == "postgres")
        pg::pg_call([] { raise_with_all_fields(); });
    if (kind == "bad_alloc")
        throw std::bad_alloc();
    if (kind == "bad_array_new_length")
        throw std::bad_array_new_length();
    if (kind == "length_error")
        throw std::length_error("too long");
    if (kind == "out_of_range")
        throw std::out_of_range("out of range");
    if (kind == "runtime_error")
        throw std::runtime_error("100% at run time");
    if (kind == "system_error")
        throw std::system_error(std::make_error_code(std::errc::io_error));
    if (kind == "bad_optional_access")
        throw std::bad_optional_access();
    throw 42; // no std::exception at all
}

namespace {

void third_call(void (*bottom)(const void *), const void *argument)
{
    Holder holder(100);
    bottom(argument);
    Assert(holder.size() == 100);
}

void second_call(void (*bottom)(const void *), const void *argument)
{
    Holder holder(10);
    third_call(bottom, argument);
    Assert(holder.size() == 10);
}

void run_as_caller(const void *sql)
{
    pg::Spi spi(pg::Spi::Identity::caller);
    spi.run_text(static_cast<const char *>(sql));
}

const char *to_cstring(std::string_view text)
{
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

// Everything that CaughtError tells, a line each.
Datum described(const pg::Args &args, const pg::CaughtError &error)
{
    const char *text = pg::pg_call([&] {
        return psprintf("%s\n%s\n%s\n%s\n%s", unpack_sql_state(error.sqlstate()), error.message(),
                        error.detail() ? error.detail() : "-", error.hint() ? error.hint() : "-",
                        error.context() ? error.context() : "-");
    });
    return args.result(std::string_view(text));
}

} // namespace

void three_calls_deep(void (*bottom)(const void *), const void *argument)
{
    Holder holder(1);
    second_call(bottom, argument);
    Assert(holder.size() == 1);
}

} // namespace tasker::border

using namespace tasker;
using namespace tasker::border;

TASKER_FUNCTION(border_live)
{
    return args.result(static_cast<int32_t>(live_witnesses));
}

// The same error twice: from plain C without any C++ on its way, and from three calls deep.
extern "C" {
PG_FUNCTION_INFO_V1(tasker_border_raise_plain);
PGDLLEXPORT Datum tasker_border_raise_plain(PG_FUNCTION_ARGS)
{
    (void)fcinfo;
    raise_with_all_fields();
}
}

TASKER_FUNCTION(border_raise_deep)
{
    three_calls_deep([](const void *) { pg::pg_call([] { raise_with_all_fields(); }); }, nullptr);
    return args.null();
}

// Nothing on the way has a destructor, so nobody needs to stop the longjmp: it passes boundary as it is.
TASKER_FUNCTION(border_raise_raw)
{
    (void)args;
    raise_with_all_fields();
}

TASKER_FUNCTION(border_run_deep)
{
    three_calls_deep(run_as_caller, to_cstring(args.text(0, "sql")));
    return args.result(true);
}

TASKER_FUNCTION(border_throw)
{
    const std::string_view kind = args.text(0, "kind");
    three_calls_deep([](const void *k) { throw_kind(*static_cast<const std::string_view *>(k)); }, &kind);
    return args.null();
}

TASKER_FUNCTION(border_swallow)
{
    const char *sql = to_cstring(args.text(0, "sql"));
    auto error = pg::try_in_subtransaction([&] { three_calls_deep(run_as_caller, sql); });
    return error ? described(args, *error) : args.null();
}

TASKER_FUNCTION(border_swallow_kind)
{
    const std::string_view kind = args.text(0, "kind");
    auto error = pg::try_in_subtransaction([&] {
        Holder holder(10);
        throw_kind(kind);
    });
    return error ? described(args, *error) : args.null();
}

// Runs statements in nested subtransactions: the inner one fails or not, then the outer one.
TASKER_FUNCTION(border_swallow_nested)
{
    const char *outer_sql = to_cstring(args.text(0, "outer_sql"));
    const char *inner_sql = to_cstring(args.text(1, "inner_sql"));
    const bool outer_fails = args.boolean(2, "outer_fails");
    int failures = 0;
    auto outer = pg::try_in_subtransaction([&] {
        Holder holder(10);
        run_as_caller(outer_sql);
        auto inner = pg::try_in_subtransaction([&] { three_calls_deep(run_as_caller, inner_sql); });
        failures += inner ? 1 : 0;
        if (outer_fails)
            throw pg::Error(ERRCODE_RAISE_EXCEPTION, "the outer one fails");
    });
    failures += outer ? 10 : 0;
    return args.result(static_cast<int32_t>(failures));
}

// After an error that passed an inner function's boundary was swallowed, the guards of this one must be as
// before: the error it throws now is built in this function's memory, not in that of the dead inner one.
TASKER_FUNCTION(border_guards_after)
{
    const char *sql = to_cstring(args.text(0, "sql"));
    const MemoryContext errors = pg::detail::error_memory;
    sigjmp_buf *const handler = PG_exception_stack;
    ErrorContextCallback *const callbacks = error_context_stack;
    const MemoryContext memory = CurrentMemoryContext;
    const ResourceOwner owner = CurrentResourceOwner;
    auto error = pg::try_in_subtransaction([&] { run_as_caller(sql); });
    if (!error)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "the statement did not fail");
    if (errors != pg::detail::error_memory || handler != PG_exception_stack ||
        callbacks != error_context_stack || memory != CurrentMemoryContext || owner != CurrentResourceOwner)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "a guard was not restored");
    throw pg::Error(ERRCODE_RAISE_EXCEPTION, "all as before");
}

// A C++ exception that leaves the body of pg_call, past a context callback of a frame that is dead then.
TASKER_FUNCTION(border_throw_through_pg_call)
{
    const std::string_view kind = args.text(0, "kind");
    sigjmp_buf *const handler = PG_exception_stack;
    ErrorContextCallback *const callbacks = error_context_stack;
    const MemoryContext memory = CurrentMemoryContext;
    bool restored = false;
    auto error = pg::try_in_subtransaction([&] {
        try {
            pg::pg_call([&] {
                ErrorContextCallback mine{error_context_stack, [](void *) {}, nullptr};
                error_context_stack = &mine;
                MemoryContextSwitchTo(TopMemoryContext);
                throw_kind(kind);
            });
        } catch (...) {
            restored = callbacks == error_context_stack && memory == CurrentMemoryContext;
            throw;
        }
    });
    if (!error || !restored || handler != PG_exception_stack)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "a guard was not restored");
    return described(args, *error);
}

// The same past boundary alone: its ereport must not call the callback of a dead frame.
TASKER_FUNCTION(border_throw_past_callback)
{
    (void)args;
    ErrorContextCallback mine{error_context_stack, [](void *) { abort(); }, nullptr};
    error_context_stack = &mine;
    throw pg::Error(ERRCODE_RAISE_EXCEPTION, "past a callback");
}

// Messages below ERROR pass the guards without unwinding anything.
TASKER_FUNCTION(border_warn)
{
    Holder holder(10);
    auto error = pg::try_in_subtransaction([] { throw_kind("error with detail and hint"); });
    error->emit(WARNING);
    return args.result(static_cast<int32_t>(holder.size()));
}

namespace {

volatile int counted;

[[gnu::noinline]] void count_one()
{
    counted = counted + 1;
}

template <class Body> double nanoseconds_each(int count, Body body)
{
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < count; i++)
        body();
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / count;
}

} // namespace

// What a guard costs, in nanoseconds, above the call that it guards; the best of five runs.
TASKER_FUNCTION(border_cost)
{
    const std::string_view guard = args.text(0, "guard");
    const int32_t count = args.i32(1, "count");
    double best = 1e12;
    for (int run = 0; run < 5; run++) {
        double cost = -nanoseconds_each(count, count_one);
        if (guard == "pg_call")
            cost += nanoseconds_each(count, [] { pg::pg_call(count_one); });
        else if (guard == "boundary")
            cost += nanoseconds_each(count, [] { pg::boundary(count_one); });
        else if (guard == "subtransaction")
            cost += nanoseconds_each(count, [] { (void)pg::try_in_subtransaction(count_one); });
        else
            cost += nanoseconds_each(count, [] {
                (void)pg::try_in_subtransaction([] { pg::pg_call([] { raise_with_all_fields(); }); });
            });
        best = std::min(best, cost);
    }
    return args.result(static_cast<int64_t>(best));
}
