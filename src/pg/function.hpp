// Functions that SQL calls: typed arguments, checked results, result sets.
//
//   TASKER_FUNCTION(enqueue)
//   {
//       std::string_view flow = args.name(0, "flow_name");
//       ...
//       return args.result(id);
//   }
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

// The arguments of a call. Every getter of a nullable argument returns an optional; the others throw
// invalid_parameter_value that names the argument when it is NULL.
class Args
{
  public:
    explicit Args(FunctionCallInfo fcinfo) noexcept : fcinfo_(fcinfo) {}

    FunctionCallInfo call() const noexcept { return fcinfo_; }
    bool is_null(int i) const noexcept { return i >= fcinfo_->nargs || fcinfo_->args[i].isnull; }
    Datum datum(int i) const noexcept { return fcinfo_->args[i].value; }

    bool boolean(int i, const char *name) const { return DatumGetBool(required(i, name)); }
    int16_t i16(int i, const char *name) const { return DatumGetInt16(required(i, name)); }
    int32_t i32(int i, const char *name) const { return DatumGetInt32(required(i, name)); }
    int64_t i64(int i, const char *name) const { return DatumGetInt64(required(i, name)); }
    Oid oid(int i, const char *name) const { return DatumGetObjectId(required(i, name)); }
    // A text argument, possibly empty.
    std::string_view text(int i, const char *name) const;
    // A name: 1 to 128 bytes, no control characters.
    std::string_view name(int i, const char *name) const;
    // An interval in microseconds (a month counts 30 days), not negative and at most about 292,000 years.
    int64_t duration_us(int i, const char *name) const;

    std::optional<int64_t> optional_i64(int i) const;
    std::optional<int32_t> optional_i32(int i) const;
    std::optional<TimestampTz> optional_timestamp(int i) const;
    std::optional<std::string_view> optional_text(int i) const;
    std::optional<std::string_view> optional_name(int i, const char *name) const;
    std::optional<int64_t> optional_duration_us(int i, const char *name) const;

    // A one-dimensional array without NULLs; `data` points to palloc'd Datums.
    std::span<Datum> array(int i, const char *name, Oid element_type) const;
    // A one-dimensional array whose elements may be NULL.
    struct NullableArray
    {
        std::span<Datum> values;
        bool *nulls;
    };
    std::optional<NullableArray> optional_array(int i, const char *name, Oid element_type) const;

    Datum null() const noexcept
    {
        fcinfo_->isnull = true;
        return 0;
    }
    Datum result(bool v) const noexcept { return BoolGetDatum(v); }
    Datum result(int32_t v) const noexcept { return Int32GetDatum(v); }
    Datum result(int64_t v) const noexcept { return Int64GetDatum(v); }
    Datum result(std::string_view v) const;
    // A literal would else become a bool.
    Datum result(const char *v) const { return result(std::string_view(v)); }

  private:
    Datum required(int i, const char *name) const;

    FunctionCallInfo fcinfo_;
};

// Throws invalid_parameter_value unless `value` is a fitting name (see Args::name); `what` names the
// argument.
void check_name(std::string_view value, const char *what);

// Microseconds of an interval, with months of 30 days; saturates.
int64_t interval_us(const Interval &interval) noexcept;
Interval *interval_of_us(int64_t us);

// The rows of a set-returning function, materialized.
class ResultSet
{
  public:
    explicit ResultSet(FunctionCallInfo fcinfo);

    int columns() const noexcept { return descriptor_->natts; }
    TupleDesc descriptor() const noexcept { return descriptor_; }
    void add(const Datum *values, const bool *nulls);
    // The row in a slot that has the descriptor's columns. Plain C: may ereport.
    void add_slot(TupleTableSlot *slot) { tuplestore_puttupleslot(store_, slot); }

  private:
    TupleDesc descriptor_;
    Tuplestorestate *store_;
};

} // namespace tasker::pg

// Defines the C function `tasker_<name>` that SQL calls; the body gets `args`.
#define TASKER_FUNCTION(name)                                                                                \
    static Datum tasker_body_##name(const ::tasker::pg::Args &args);                                         \
    extern "C" {                                                                                             \
    PG_FUNCTION_INFO_V1(tasker_##name);                                                                      \
    PGDLLEXPORT Datum tasker_##name(PG_FUNCTION_ARGS)                                                        \
    {                                                                                                        \
        return ::tasker::pg::boundary([&] { return tasker_body_##name(::tasker::pg::Args(fcinfo)); });       \
    }                                                                                                        \
    }                                                                                                        \
    static Datum tasker_body_##name([[maybe_unused]] const ::tasker::pg::Args &args)
