// The control column of a partition set, and its values as keys.
//
// A key is an int64 that orders like the values of the column. Bounds, look-ups and arithmetic are done with
// keys; only what reads and writes catalogs and text knows the column's type.
//
//   number        smallint, integer, bigint     the number
//   record_id     bigint                        the id (core/record_id.hpp), which carries milliseconds
//   uuid_v7       uuid, version 7               microseconds since 1970 of its 48-bit millisecond
//   timestamptz   timestamp with time zone      microseconds since 1970
//   timestamp     timestamp without time zone   the same, of the wall clock as if it showed UTC
//   date          date                          the same, at midnight
//
// INT64_MIN and INT64_MAX stand for MINVALUE and MAXVALUE, and for what lies beyond the reach of a key.
#pragma once

#include "core/bounds.hpp"
#include "pg/error.hpp"

extern "C" {
#include "pgtime.h"
}

namespace tasker::partition {

enum class ControlKind
{
    number,
    record_id,
    uuid_v7,
    timestamptz,
    timestamp,
    date
};

struct Control
{
    ControlKind kind;
    Oid type;
};

// The names of part_config.control_kind.
const char *name_of(ControlKind kind);
ControlKind parse_control_kind(std::string_view name);

// Can a set be partitioned by a column of this type? Domains count as what they are over.
bool is_control_type(Oid type);

// What the values of such a column are. A bigint holds numbers or record ids; the caller knows which.
ControlKind kind_of_type(Oid type, bool bigint_is_record_id);

constexpr bool has_time(ControlKind kind)
{
    return kind != ControlKind::number;
}

// Does a key mean a moment, the same everywhere, and not what the clocks show?
constexpr bool is_moment(ControlKind kind)
{
    return has_time(kind) && kind != ControlKind::timestamp && kind != ControlKind::date;
}

// Is the value an identifier that carries its time, from zero on?
constexpr bool is_id(ControlKind kind)
{
    return kind == ControlKind::record_id || kind == ControlKind::uuid_v7;
}

// The key of a value; a UUID's is that of its millisecond.
int64_t key_of_datum(Oid type, Datum value);

// The keys that values of the column have.
core::NumberRange valid_keys(const Control &control);

// The time of a key in microseconds since 1970, and the lowest key of a time. INT64_MIN and INT64_MAX stay.
int64_t unix_us_of_key(ControlKind kind, int64_t key);
int64_t key_of_unix_us(ControlKind kind, int64_t unix_us);

// Text for a bound in DDL: a literal, MINVALUE or MAXVALUE. In the current memory context, as all text here.
const char *bound_literal(const Control &control, int64_t key);

// Text for people: a number; a date; a time in ISO format, of moments in the session's time zone.
const char *key_text(const Control &control, int64_t key);

// A key from a value's text; for record ids and UUIDs also from the time that they carry. Throws
// invalid_parameter_value.
int64_t parse_key(const Control &control, std::string_view text);

// The clocks of a zone at a moment, as if they showed UTC, and the moment at which they show this.
int64_t wall_clock(int64_t unix_us, pg_tz *zone);
int64_t moment_of(int64_t wall_us, pg_tz *zone);

} // namespace tasker::partition
