// SPI: identity, search_path, kept plans, and all of it unwound.
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "witness.hpp"

using namespace tasker;
using namespace tasker::border;

namespace {

// Who runs, under which search_path and security context; allocated in `memory`.
const char *who(MemoryContext memory)
{
    return pg::pg_call([&] {
        pg::MemoryContextScope scope(memory);
        Oid user = InvalidOid;
        int context = 0;
        GetUserIdAndSecContext(&user, &context);
        return psprintf("%s | %s | %d", GetUserNameFromId(user, false),
                        GetConfigOptionByName("search_path", nullptr, false), context);
    });
}

constexpr const char *kFailingSql =
    "select 1 / pg_catalog.count(*) from pg_catalog.pg_class where relname is null";

void fail_under_identity(std::string_view how)
{
    Holder holder(10);
    pg::Spi spi;
    if (how == "error")
        throw pg::Error(ERRCODE_RAISE_EXCEPTION, "thrown under another identity");
    if (how == "as_owner") {
        pg::AsOwner owner;
        throw_kind("postgres");
    }
    if (how == "nested") {
        pg::Spi inner(pg::Spi::Identity::caller);
        inner.run_text(kFailingSql);
    }
    spi.run_text(kFailingSql);
}

void require_same(const char *before, const char *after)
{
    if (strcmp(before, after) != 0)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "identity was \"%s\" and is \"%s\"", before, after);
}

} // namespace

TASKER_FUNCTION(border_who)
{
    return args.result(std::string_view(who(CurrentMemoryContext)));
}

// Identity inside a scope of that kind; afterwards it must be as before.
TASKER_FUNCTION(border_who_inside)
{
    const std::string_view scope = args.text(0, "scope");
    const MemoryContext memory = CurrentMemoryContext;
    const char *before = who(memory);
    const char *inside = nullptr;
    if (scope == "spi") {
        pg::Spi spi;
        inside = who(memory);
    } else if (scope == "spi of the caller") {
        pg::Spi spi(pg::Spi::Identity::caller);
        inside = who(memory);
    } else if (scope == "as_owner") {
        pg::AsOwner owner;
        inside = who(memory);
    }
    require_same(before, who(memory));
    return args.result(std::string_view(inside));
}

TASKER_FUNCTION(border_fail_under_identity)
{
    fail_under_identity(args.text(0, "how"));
    return args.null();
}

// The same error swallowed; returns its SQLSTATE. Inside an outer Spi, which must be usable afterwards.
TASKER_FUNCTION(border_swallow_under_identity)
{
    const std::string_view how = args.text(0, "how");
    const MemoryContext memory = CurrentMemoryContext;
    const char *before = who(memory);
    char sqlstate[6] = "";
    {
        pg::Spi outer;
        const char *inside = who(memory);
        pg::Rows kept = outer.run_text("select 'kept'::text");
        auto error = pg::try_in_subtransaction([&] { fail_under_identity(how); });
        require_same(inside, who(memory));
        if (error)
            strlcpy(sqlstate, unpack_sql_state(error->sqlstate()), sizeof sqlstate);
        if (kept.text(0, 1) != "kept" || outer.run_text("select 1").count() != 1)
            throw pg::Error(ERRCODE_INTERNAL_ERROR, "the outer connection was damaged");
    }
    require_same(before, who(memory));
    return args.result(std::string_view(sqlstate));
}

// A statement kept over calls: it must survive errors, and follow the table when it is made anew.
TASKER_FUNCTION(border_kept_statement)
{
    static pg::Statement statement("select label from border.kept where id = $1 and $2", {INT8OID, BOOLOID});
    pg::Spi spi(pg::Spi::Identity::caller);
    pg::Rows rows = spi.run(statement, {args.i64(0, "id"), true});
    const std::string_view label = rows.text(0, 1);
    return pg::pg_call([&] {
        const Datum copy =
            PointerGetDatum(cstring_to_text_with_len(label.data(), static_cast<int>(label.size())));
        return SPI_datumTransfer(copy, false, -1);
    });
}

// Results are read as what they are, or not at all.
TASKER_FUNCTION(border_misread)
{
    const std::string_view how = args.text(0, "how");
    Holder holder(10);
    pg::Spi spi;
    pg::Rows rows = spi.run_text("select 1::int4, 2::int8, 'three'::text, null::text, true");
    if (how == "well")
        return args.result(static_cast<int64_t>(rows.i32(0, 1)) + rows.i64(0, 2) +
                           static_cast<int64_t>(rows.text(0, 3).size()) +
                           static_cast<int64_t>(rows.text(0, 4).size()) + rows.boolean(0, 5));
    if (how == "text as bigint")
        rows.i64(0, 3);
    if (how == "bigint as text")
        rows.text(0, 2);
    if (how == "int as bigint")
        rows.i64(0, 1);
    if (how == "row")
        rows.i32(1, 1);
    if (how == "column")
        rows.i32(0, 6);
    if (how == "no result")
        spi.run_text("set local search_path = pg_catalog").i32(0, 1);
    return args.null();
}

TASKER_FUNCTION(border_wrong_parameters)
{
    static pg::Statement statement("select $1 || 'x'", {TEXTOID});
    Holder holder(10);
    pg::Spi spi;
    if (args.boolean(0, "wrong_type"))
        spi.run(statement, {int64_t{1}});
    else
        spi.run(statement, {});
    return args.null();
}

// What a query sees with the transaction's snapshot, and with one of now.
TASKER_FUNCTION(border_read_latest)
{
    static pg::Statement statement("select count(*) from border.target where id = $1", {INT4OID});
    const int32_t id = args.i32(0, "id");
    pg::Spi spi(pg::Spi::Identity::caller);
    const int64_t mine = spi.run(statement, {id}).i64(0, 1);
    const int64_t latest = spi.read_latest(statement, {id}).i64(0, 1);
    return args.result(mine * 10 + latest);
}

// One of each kind of argument; NULL where it is not allowed must name the argument.
TASKER_FUNCTION(border_arguments)
{
    const std::string_view name = args.name(0, "flow_name");
    const int64_t number = args.i64(1, "number");
    const int64_t duration = args.duration_us(2, "lease");
    std::span<Datum> numbers = args.array(3, "numbers", INT8OID);
    const auto labels = args.optional_array(4, "labels", TEXTOID);
    int64_t sum = number;
    for (Datum value : numbers)
        sum += DatumGetInt64(value);
    size_t nulls = 0;
    for (size_t i = 0; labels && i < labels->values.size(); i++)
        nulls += labels->nulls[i];
    return args.result(std::string_view(pg::pg_call([&] {
        return psprintf("%.*s %lld %lld %zu", static_cast<int>(name.size()), name.data(),
                        static_cast<long long>(sum), static_cast<long long>(duration), nulls);
    })));
}

// Declared to take an array of integers where it asks for one of texts.
TASKER_FUNCTION(border_misdeclared)
{
    return args.result(static_cast<int64_t>(args.array(0, "labels", TEXTOID).size()));
}

// A set of `count` rows that breaks off with an error before row `fail_at`.
TASKER_FUNCTION(border_rows)
{
    const int64_t count = args.i64(0, "count");
    const int64_t fail_at = args.i64(1, "fail_at");
    Holder holder(10);
    pg::ResultSet rows(args.call());
    for (int64_t i = 1; i <= count; i++) {
        if (i == fail_at)
            throw_kind("postgres");
        const Datum values[2] = {Int64GetDatum(i), args.result(std::string_view("a label"))};
        const bool nulls[2] = {false, i % 2 == 0};
        rows.add(values, nulls);
    }
    return args.null();
}
