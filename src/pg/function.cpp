#include "pg/function.hpp"

#include "pg/memory.hpp"

namespace tasker::pg {
namespace {

constexpr size_t kMaxNameBytes = 128;

[[noreturn]] void reject_null(const char *name)
{
    throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not be null", name);
}

ArrayType *checked_array(Datum value, const char *name, Oid element_type)
{
    ArrayType *array = pg_call([&] { return DatumGetArrayTypeP(value); });
    if (ARR_NDIM(array) > 1)
        throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must be a one-dimensional array", name);
    // The SQL declaration promises it; taken on trust, a wrong declaration would read wild memory.
    if (ARR_ELEMTYPE(array) != element_type)
        throw Error(ERRCODE_DATATYPE_MISMATCH, "argument \"%s\" has elements of a wrong type", name)
            .detail("Their type has OID %u; %u was expected.", ARR_ELEMTYPE(array), element_type);
    return array;
}

// How the values of a type are stored.
struct ElementType
{
    int16 length;
    bool by_value;
    char alignment;
};

ElementType element_type_of(Oid type)
{
    ElementType element{};
    get_typlenbyvalalign(type, &element.length, &element.by_value, &element.alignment);
    return element;
}

} // namespace

Datum Args::required(int i, const char *name) const
{
    if (is_null(i))
        reject_null(name);
    return datum(i);
}

std::string_view Args::text(int i, const char *name) const
{
    Datum value = required(i, name);
    varlena *t =
        pg_call([&] { return pg_detoast_datum_packed(reinterpret_cast<varlena *>(DatumGetPointer(value))); });
    return {VARDATA_ANY(t), static_cast<size_t>(VARSIZE_ANY_EXHDR(t))};
}

std::string_view Args::name(int i, const char *name) const
{
    std::string_view value = text(i, name);
    check_name(value, name);
    return value;
}

void check_name(std::string_view value, const char *what)
{
    if (value.empty())
        throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not be empty", what);
    if (value.size() > kMaxNameBytes)
        throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" is too long", what)
            .detail("It has %zu bytes; the limit is %zu.", value.size(), kMaxNameBytes);
    for (char c : value) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" contains a control character",
                        what);
    }
}

int64_t interval_us(const Interval &interval) noexcept
{
    __int128 us = static_cast<__int128>(interval.month) * 30 * USECS_PER_DAY +
                  static_cast<__int128>(interval.day) * USECS_PER_DAY + interval.time;
    us = std::clamp<__int128>(us, PG_INT64_MIN, PG_INT64_MAX);
    return static_cast<int64_t>(us);
}

Interval *interval_of_us(int64_t us)
{
    auto *interval = pg_call([] { return static_cast<Interval *>(palloc0(sizeof(Interval))); });
    interval->day = static_cast<int32>(std::clamp<int64_t>(us / USECS_PER_DAY, PG_INT32_MIN, PG_INT32_MAX));
    interval->time = us - static_cast<int64_t>(interval->day) * USECS_PER_DAY;
    return interval;
}

int64_t Args::duration_us(int i, const char *name) const
{
    int64_t us = interval_us(*DatumGetIntervalP(required(i, name)));
    if (us < 0)
        throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not be negative", name);
    return us;
}

std::optional<int64_t> Args::optional_i64(int i) const
{
    return is_null(i) ? std::nullopt : std::optional(DatumGetInt64(datum(i)));
}

std::optional<int32_t> Args::optional_i32(int i) const
{
    return is_null(i) ? std::nullopt : std::optional(DatumGetInt32(datum(i)));
}

std::optional<TimestampTz> Args::optional_timestamp(int i) const
{
    return is_null(i) ? std::nullopt : std::optional(DatumGetTimestampTz(datum(i)));
}

std::optional<std::string_view> Args::optional_text(int i) const
{
    return is_null(i) ? std::nullopt : std::optional(text(i, ""));
}

std::optional<std::string_view> Args::optional_name(int i, const char *name) const
{
    return is_null(i) ? std::nullopt : std::optional(this->name(i, name));
}

std::optional<int64_t> Args::optional_duration_us(int i, const char *name) const
{
    return is_null(i) ? std::nullopt : std::optional(duration_us(i, name));
}

std::span<Datum> Args::array(int i, const char *name, Oid element_type) const
{
    ArrayType *array = checked_array(required(i, name), name, element_type);
    if (array_contains_nulls(array))
        throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not contain nulls", name);
    Datum *values = nullptr;
    int count = 0;
    pg_call([&] {
        ElementType element = element_type_of(element_type);
        deconstruct_array(array, element_type, element.length, element.by_value, element.alignment, &values,
                          nullptr, &count);
    });
    return {values, static_cast<size_t>(count)};
}

std::optional<Args::NullableArray> Args::optional_array(int i, const char *name, Oid element_type) const
{
    if (is_null(i))
        return std::nullopt;
    ArrayType *array = checked_array(datum(i), name, element_type);
    Datum *values = nullptr;
    bool *nulls = nullptr;
    int count = 0;
    pg_call([&] {
        ElementType element = element_type_of(element_type);
        deconstruct_array(array, element_type, element.length, element.by_value, element.alignment, &values,
                          &nulls, &count);
    });
    return NullableArray{{values, static_cast<size_t>(count)}, nulls};
}

Datum Args::result(std::string_view v) const
{
    if (v.size() > MaxAllocSize - VARHDRSZ)
        throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "result of %zu bytes is too long", v.size());
    return PointerGetDatum(
        pg_call([&] { return cstring_to_text_with_len(v.data(), static_cast<int>(v.size())); }));
}

ResultSet::ResultSet(FunctionCallInfo fcinfo)
{
    auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    if (info == nullptr || !IsA(info, ReturnSetInfo) || (info->allowedModes & SFRM_Materialize) == 0)
        throw Error(ERRCODE_FEATURE_NOT_SUPPORTED,
                    "set-valued function called in context that cannot accept a set");
    MemoryContextScope memory(info->econtext->ecxt_per_query_memory);
    TypeFuncClass kind = TYPEFUNC_COMPOSITE;
    pg_call([&] {
        // What the executor expects is known without the catalog look-ups of get_call_result_type.
        if (info->expectedDesc != nullptr)
            descriptor_ = CreateTupleDescCopy(info->expectedDesc);
        else
            kind = get_call_result_type(fcinfo, nullptr, &descriptor_);
    });
    if (kind != TYPEFUNC_COMPOSITE)
        throw Error(ERRCODE_DATATYPE_MISMATCH,
                    "set-valued function called in context that cannot accept a row type");
    store_ = pg_call([&] {
        return tuplestore_begin_heap((info->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
    });
    info->returnMode = SFRM_Materialize;
    info->setResult = store_;
    info->setDesc = descriptor_;
}

// Server 15 declares the arrays without const, and only reads them.
void ResultSet::add(const Datum *values, const bool *nulls)
{
    pg_call([&] {
        tuplestore_putvalues(store_, descriptor_, const_cast<Datum *>(values), const_cast<bool *>(nulls));
    });
}

} // namespace tasker::pg
