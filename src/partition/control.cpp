#include "partition/control.hpp"

extern "C" {
#include "port/pg_bswap.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/uuid.h"
}

namespace tasker::partition {
namespace {

struct KindName
{
    ControlKind kind;
    const char *name;
};

constexpr KindName kKindNames[] = {
    {ControlKind::number, "number"},       {ControlKind::record_id, "record_id"},
    {ControlKind::uuid_v7, "uuid_v7"},     {ControlKind::timestamptz, "timestamptz"},
    {ControlKind::timestamp, "timestamp"}, {ControlKind::date, "date"},
};

constexpr int kUuidTimeBits = 48;
constexpr int64_t kUuidEndMs = int64_t{1} << kUuidTimeBits;

// The last value of a type is out of reach: as the exclusive upper bound of a partition it would need a
// greater one. Such a partition is open to MAXVALUE instead.
constexpr int64_t kFirstTimestampUs = MIN_TIMESTAMP + pg::kEpochDifferenceUs;

bool is_beyond_timestamps(int64_t unix_us)
{
    return unix_us < kFirstTimestampUs || unix_us == core::kInt64Max;
}

int64_t key_of_date(DateADT date)
{
    if (DATE_NOT_FINITE(date))
        return DATE_IS_NOBEGIN(date) ? core::kInt64Min : core::kInt64Max;
    const int64_t days = int64_t{date} + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE);
    return core::saturating_mul(days, core::kUsPerDay);
}

int64_t key_of_timestamp(int64_t timestamp)
{
    if (TIMESTAMP_NOT_FINITE(timestamp))
        return TIMESTAMP_IS_NOBEGIN(timestamp) ? core::kInt64Min : core::kInt64Max;
    return pg::unix_us_of_timestamp(timestamp);
}

int64_t key_of_uuid(const pg_uuid_t *uuid)
{
    uint64 head = 0;
    memcpy(&head, uuid->data, sizeof(head));
    return static_cast<int64_t>(pg_ntoh64(head) >> (64 - kUuidTimeBits)) * core::kUsPerMs;
}

// The lowest UUID of a millisecond; its version field is zero, which sorts before 7.
const char *uuid_text(int64_t key)
{
    const auto ms = static_cast<uint64>(core::floor_div(key, core::kUsPerMs));
    return pg::pg_call([&] {
        return psprintf("%08x-%04x-0000-0000-000000000000", static_cast<uint32>(ms >> 16),
                        static_cast<uint32>(ms & 0xFFFF));
    });
}

// A time in ISO format, whatever DateStyle is: what the clocks of `zone` show at a moment, with their offset
// from UTC; of a wall clock (null) without. Plain C inside: may ereport.
const char *time_text(int64_t unix_us, pg_tz *zone)
{
    pg_tm tm;
    fsec_t fraction = 0;
    int offset = 0;
    const char *zone_name = nullptr;
    char text[MAXDATELEN + 1];
    const int64_t time = pg::timestamp_of_unix_us(unix_us);
    if (timestamp2tm(time, zone != nullptr ? &offset : nullptr, &tm, &fraction,
                     zone != nullptr ? &zone_name : nullptr, zone) != 0)
        ereport(ERROR, errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range"));
    EncodeDateTime(&tm, fraction, zone != nullptr, offset, zone_name, USE_ISO_DATES, text);
    return pstrdup(text);
}

const char *date_text(int64_t key)
{
    char text[MAXDATELEN + 1];
    const core::CivilDate date = core::civil_from_days(core::floor_div(key, core::kUsPerDay));
    pg_tm tm{};
    tm.tm_year = static_cast<int>(date.year);
    tm.tm_mon = date.month;
    tm.tm_mday = date.day;
    EncodeDateOnly(&tm, USE_ISO_DATES, text);
    return pg::pg_call([&] { return pstrdup(text); });
}

// The value of a text of a type with a typical input function.
Datum input(PGFunction function, const char *text)
{
    return DirectFunctionCall3(function, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
                               Int32GetDatum(-1));
}

int64_t key_of_time_text(ControlKind kind, const char *text)
{
    const int64_t us = key_of_timestamp(DatumGetTimestampTz(input(timestamptz_in, text)));
    // Time before 1970 has no ids; its floor would be that of 1970.
    if (us < 0)
        return kind == ControlKind::record_id ? core::kNoRecordId : -1;
    return key_of_unix_us(kind, us);
}

// Reads what key_text() says of open ends too. The last bigint is in the partition of the one before it,
// which is open to MAXVALUE.
int64_t key_of_number_text(const char *text)
{
    if (pg_strcasecmp(text, "MINVALUE") == 0)
        return core::kInt64Min;
    if (pg_strcasecmp(text, "MAXVALUE") == 0)
        return core::kInt64Max;
    return Min(DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(text))), core::kInt64Max - 1);
}

// Plain C inside: may ereport.
int64_t key_of_text(ControlKind kind, const char *text)
{
    const bool only_digits = strspn(text, "0123456789") == strlen(text);
    switch (kind) {
    case ControlKind::number:
        return key_of_number_text(text);
    case ControlKind::record_id:
        return only_digits ? DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(text)))
                           : key_of_time_text(kind, text);
    case ControlKind::uuid_v7:
        // 32 digits, perhaps with hyphens or in braces. A time that is as long has a colon in it.
        return strlen(text) >= 2 * UUID_LEN && strspn(text, "0123456789abcdefABCDEF-{}") == strlen(text)
                   ? key_of_uuid(DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(text))))
                   : key_of_time_text(kind, text);
    case ControlKind::timestamptz:
        return key_of_timestamp(DatumGetTimestampTz(input(timestamptz_in, text)));
    case ControlKind::timestamp:
        return key_of_timestamp(DatumGetTimestamp(input(timestamp_in, text)));
    default:
        return key_of_date(DatumGetDateADT(DirectFunctionCall1(date_in, CStringGetDatum(text))));
    }
}

const char *wanted_text(ControlKind kind)
{
    switch (kind) {
    case ControlKind::number:
        return "is no number";
    case ControlKind::record_id:
        return "is neither a record id nor a time";
    case ControlKind::uuid_v7:
        return "is neither a UUID nor a time";
    case ControlKind::date:
        return "is no date";
    default:
        return "is no time";
    }
}

} // namespace

const char *name_of(ControlKind kind)
{
    for (const KindName &entry : kKindNames) {
        if (entry.kind == kind)
            return entry.name;
    }
    throw pg::Error(ERRCODE_INTERNAL_ERROR, "unknown control kind %d", static_cast<int>(kind));
}

ControlKind parse_control_kind(std::string_view name)
{
    for (const KindName &entry : kKindNames) {
        if (name == entry.name)
            return entry.kind;
    }
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown control kind \"%.*s\"",
                    static_cast<int>(name.size()), name.data());
}

bool is_control_type(Oid type)
{
    switch (getBaseType(type)) {
    case INT2OID:
    case INT4OID:
    case INT8OID:
    case DATEOID:
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
    case UUIDOID:
        return true;
    default:
        return false;
    }
}

ControlKind kind_of_type(Oid type, bool bigint_is_record_id)
{
    switch (getBaseType(type)) {
    case INT8OID:
        return bigint_is_record_id ? ControlKind::record_id : ControlKind::number;
    case DATEOID:
        return ControlKind::date;
    case TIMESTAMPOID:
        return ControlKind::timestamp;
    case TIMESTAMPTZOID:
        return ControlKind::timestamptz;
    case UUIDOID:
        return ControlKind::uuid_v7;
    default:
        return ControlKind::number;
    }
}

int64_t key_of_datum(Oid type, Datum value)
{
    switch (type) {
    case INT2OID:
        return DatumGetInt16(value);
    case INT4OID:
        return DatumGetInt32(value);
    case INT8OID:
        return DatumGetInt64(value);
    case DATEOID:
        return key_of_date(DatumGetDateADT(value));
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
        return key_of_timestamp(DatumGetTimestamp(value));
    case UUIDOID:
        return key_of_uuid(DatumGetUUIDP(value));
    default:
        break;
    }
    const Oid base = getBaseType(type);
    if (base == type)
        elog(ERROR, "type %u cannot control a partition set", type);
    return key_of_datum(base, value);
}

core::NumberRange valid_keys(const Control &control)
{
    switch (control.kind) {
    case ControlKind::number:
        switch (getBaseType(control.type)) {
        case INT2OID:
            return {PG_INT16_MIN, int64_t{PG_INT16_MAX} + 1};
        case INT4OID:
            return {PG_INT32_MIN, int64_t{PG_INT32_MAX} + 1};
        default:
            return {core::kInt64Min, core::kInt64Max};
        }
    case ControlKind::record_id:
        return {0, core::kInt64Max};
    case ControlKind::uuid_v7:
        return {0, kUuidEndMs * core::kUsPerMs};
    default:
        return {kFirstTimestampUs, core::kInt64Max};
    }
}

int64_t unix_us_of_key(ControlKind kind, int64_t key)
{
    if (kind != ControlKind::record_id || key == core::kInt64Min || key == core::kInt64Max)
        return key;
    return core::unix_us_of(key);
}

int64_t key_of_unix_us(ControlKind kind, int64_t unix_us)
{
    if (unix_us == core::kInt64Min || unix_us == core::kInt64Max)
        return unix_us;
    if (kind == ControlKind::record_id)
        return core::record_id_floor(unix_us);
    if (kind == ControlKind::uuid_v7)
        return unix_us - core::floor_mod(unix_us, core::kUsPerMs);
    return unix_us;
}

const char *bound_literal(const Control &control, int64_t key)
{
    if (key == core::kInt64Min)
        return "MINVALUE";
    if (key == core::kInt64Max)
        return "MAXVALUE";
    switch (control.kind) {
    case ControlKind::number:
    case ControlKind::record_id:
        return pg::pg_call([&] { return psprintf("'" INT64_FORMAT "'", key); });
    case ControlKind::uuid_v7:
        return pg::pg_call([&] { return psprintf("'%s'", uuid_text(key)); });
    case ControlKind::timestamptz:
        return pg::pg_call([&] { return psprintf("'%s'", time_text(key, pg_tzset("UTC"))); });
    case ControlKind::timestamp:
        return pg::pg_call([&] { return psprintf("'%s'", time_text(key, nullptr)); });
    default:
        return pg::pg_call([&] { return psprintf("'%s'", date_text(key)); });
    }
}

const char *key_text(const Control &control, int64_t key)
{
    const bool lowest = key == core::kInt64Min;
    if (lowest || key == core::kInt64Max) {
        if (has_time(control.kind))
            return lowest ? "-infinity" : "infinity";
        return lowest ? "MINVALUE" : "MAXVALUE";
    }
    if (!has_time(control.kind))
        return pg::pg_call([&] { return psprintf(INT64_FORMAT, key); });
    if (control.kind == ControlKind::date)
        return date_text(key);
    return pg::pg_call([&] {
        return time_text(unix_us_of_key(control.kind, key),
                         is_moment(control.kind) ? session_timezone : nullptr);
    });
}

int64_t parse_key(const Control &control, std::string_view value)
{
    const char *text = pg::pg_call([&] { return pnstrdup(value.data(), value.size()); });
    try {
        return pg::pg_call([&] { return key_of_text(control.kind, text); });
    } catch (const pg::PgError &e) {
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" %s", text, wanted_text(control.kind))
            .detail("%s", e.what());
    }
}

// Beyond the times that Postgres knows, clocks show UTC.
int64_t wall_clock(int64_t unix_us, pg_tz *zone)
{
    pg_tm tm;
    fsec_t fraction = 0;
    int offset = 0;
    Timestamp wall = 0;
    if (is_beyond_timestamps(unix_us) ||
        timestamp2tm(pg::timestamp_of_unix_us(unix_us), &offset, &tm, &fraction, nullptr, zone) != 0 ||
        tm2timestamp(&tm, fraction, nullptr, &wall) != 0)
        return unix_us;
    return pg::unix_us_of_timestamp(wall);
}

int64_t moment_of(int64_t wall_us, pg_tz *zone)
{
    pg_tm tm;
    fsec_t fraction = 0;
    TimestampTz moment = 0;
    if (is_beyond_timestamps(wall_us) ||
        timestamp2tm(pg::timestamp_of_unix_us(wall_us), nullptr, &tm, &fraction, nullptr, nullptr) != 0)
        return wall_us;
    int offset = DetermineTimeZoneOffset(&tm, zone);
    if (tm2timestamp(&tm, fraction, &offset, &moment) != 0)
        return wall_us;
    return pg::unix_us_of_timestamp(moment);
}

} // namespace tasker::partition
