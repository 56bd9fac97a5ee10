// suggest_interval(): how to partition a table, from its own growth.
//
// What is known of a column's values comes from a sample of the table's pages, so that it costs as much for a
// table of 10 MB as for one of 10 TB, needs no statistics and no index, and is right one minute after a bulk
// load. A small table is read as a whole. Everything is read with the rights of the caller.
//
// The growth is that of the newer half of the rows: what a table will get is what it gets now, not what it
// got in its first years. A hundredth of the rows at each end are left out where there are many, because
// there is always one row from 1970 and one from 9999.
#include <cmath>

#include "core/record_id.hpp"
#include "partition/set_config.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

using namespace tasker;
using namespace tasker::partition;

namespace {

constexpr int64_t kSamplePages = 1000;
constexpr int64_t kManyValues = 200;  // from so many on, the ends are left out
constexpr double kNoise = 0.1;        // share by which a sample of many pages may err
constexpr double kRowsForDays = 1e6;  // a day, above so many rows a day
constexpr double kRowsForWeeks = 1e5; // a week
constexpr double kRowsWanted = 1e7;   // in a partition, where the growth is not known
constexpr double kUsPerDay = static_cast<double>(core::kUsPerDay);
constexpr int64_t kFirstPlausibleUs = 946'684'800'000'000; // 2000-01-01

struct Source
{
    Oid relid;
    const char *name; // qualified and quoted
    int64_t pages;
    int64_t bytes;
};

// Which rank of the sorted sample.
enum Quantile
{
    kLowest,
    kLow,
    kMiddle,
    kHigh,
    kHighest,
    kQuantiles
};
constexpr const char *kQuantileText = "{0,0.01,0.5,0.99,1}";
constexpr double kQuantile[kQuantiles] = {0, 0.01, 0.5, 0.99, 1};

struct Sample
{
    double share;   // of the table that was read
    int64_t rows;   // read
    int64_t usable; // values among them that can be partitioned by
    int64_t nulls;
    int64_t odd; // infinite times, UUIDs of another version
    int64_t keys[kQuantiles];
};

// The growth of the newer part of a sample.
struct Growth
{
    bool known;
    double rows_per_day;
    double span_days; // of what it was told from
};

struct Suggestion
{
    std::optional<double> rows_per_day;
    const char *interval = "1 month";
    int32_t premake = 3;
    std::optional<double> rows_per_partition;
    const char *reason = "";
};

// Plain C inside: may ereport.
void read_source(Oid relid, Source *source)
{
    ListCell *cell = nullptr;
    List *tree = find_all_inheritors(relid, NoLock, nullptr);
    foreach (cell, tree) {
        const Oid member = lfirst_oid(cell);
        Relation relation = try_relation_open(member, AccessShareLock);
        if (relation == nullptr)
            continue;
        if (RELKIND_HAS_STORAGE(relation->rd_rel->relkind)) {
            source->pages += RelationGetNumberOfBlocks(relation);
            source->bytes +=
                DatumGetInt64(DirectFunctionCall1(pg_total_relation_size, ObjectIdGetDatum(member)));
        }
        relation_close(relation, AccessShareLock);
    }
}

Source find_source(Oid relid)
{
    Source source{relid, nullptr, 0, 0};
    const char kind = pg::pg_call([&] { return get_rel_relkind(relid); });
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_MATVIEW) {
        const char *name = pg::pg_call([&] { return get_rel_name(relid); });
        throw pg::Error(ERRCODE_WRONG_OBJECT_TYPE, "\"%s\" is not a table", name != nullptr ? name : "?");
    }
    source.name = quoted_partition(relid);
    pg::pg_call([&] { read_source(relid, &source); });
    return source;
}

Oid type_of_column(const Source &source, const char *column)
{
    const Oid type = pg::pg_call([&] {
        const AttrNumber number = get_attnum(source.relid, column);
        return number > 0 ? getBaseType(get_atttype(source.relid, number)) : InvalidOid;
    });
    if (!OidIsValid(type))
        throw pg::Error(ERRCODE_UNDEFINED_COLUMN, "column \"%s\" of table %s does not exist", column,
                        source.name);
    return type;
}

// Values that no partition can be found for by their time.
const char *oddity(Oid type)
{
    switch (type) {
    case DATEOID:
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
        return "not isfinite(s.c)";
    case UUIDOID:
        return "substr(s.c::text, 15, 1) <> '7'";
    default:
        return "false";
    }
}

const char *sample_text(const Source &source, const char *column, Oid type, double share)
{
    return pg::pg_call([&] {
        const char *quoted = quote_identifier(column);
        const char *clause =
            share < 1 ? psprintf("tablesample system (%.8f) repeatable (1)", share * 100) : "";
        return psprintf(
            "select count(*), count(*) filter (where s.c is null), count(*) filter (where %s), "
            "percentile_disc('%s'::float8[]) within group (order by s.c) filter (where not (%s)), "
            "count(distinct s.page) from (select t.%s::%s as c, %s as page from %s t %s) s",
            oddity(type), kQuantileText, oddity(type), quoted, format_type_be(type),
            share < 1 ? "row(t.tableoid, (t.ctid::text::point)[0])" : "1", source.name, clause);
    });
}

// Chance decides how many pages a sample has. Those that were seen tell it better than what was asked for,
// but for empty ones, which show nothing.
double share_read(const Source &source, double asked, int64_t pages_seen)
{
    const double seen = static_cast<double>(pages_seen) / static_cast<double>(source.pages);
    return std::clamp(seen, 0.8 * asked, std::min(1.2 * asked, 1.0));
}

Sample take_sample(const Source &source, const char *column, Oid type)
{
    Sample sample{};
    sample.share = source.pages <= kSamplePages
                       ? 1
                       : static_cast<double>(kSamplePages) / static_cast<double>(source.pages);
    const char *sql = sample_text(source, column, type, sample.share);
    pg::AsOwner caller(GetUserId()); // with search_path pinned
    pg::Spi spi(pg::Spi::Identity::caller);
    const pg::Rows rows = spi.run_text(sql);
    sample.rows = rows.i64(0, 1);
    sample.nulls = rows.i64(0, 2);
    sample.odd = rows.i64(0, 3);
    sample.usable = sample.rows - sample.nulls - sample.odd;
    if (sample.share < 1)
        sample.share = share_read(source, sample.share, rows.i64(0, 5));
    if (sample.usable > 0) {
        const Datum array = rows.datum(0, 4);
        pg::pg_call([&] {
            int16 length = 0;
            bool by_value = false;
            char alignment = 0;
            Datum *values = nullptr;
            int count = 0;
            get_typlenbyvalalign(type, &length, &by_value, &alignment);
            deconstruct_array(DatumGetArrayTypeP(array), type, length, by_value, alignment, &values, nullptr,
                              &count);
            for (int i = 0; i < Min(count, static_cast<int>(kQuantiles)); i++)
                sample.keys[i] = key_of_datum(type, values[i]);
        });
    }
    return sample;
}

// As percentile_disc() counts.
double rank_of(const Sample &sample, Quantile quantile)
{
    return std::max(1.0, std::ceil(kQuantile[quantile] * static_cast<double>(sample.usable)));
}

Growth growth_between(ControlKind kind, const Sample &sample, Quantile from, Quantile to)
{
    const auto span =
        static_cast<double>(unix_us_of_key(kind, sample.keys[to]) - unix_us_of_key(kind, sample.keys[from]));
    const double rows = rank_of(sample, to) - rank_of(sample, from);
    if (sample.usable < 2 || span <= 0 || rows <= 0)
        return {};
    return {true, rows / sample.share / (span / kUsPerDay), span / kUsPerDay};
}

Growth growth_of(ControlKind kind, const Sample &sample)
{
    const bool many = sample.usable >= kManyValues;
    const Growth recent = growth_between(kind, sample, kMiddle, many ? kHigh : kHighest);
    const Growth whole = growth_between(kind, sample, many ? kLow : kLowest, many ? kHigh : kHighest);
    if (!recent.known)
        return whole;
    // A difference that may be one of the sample only: what was told from more rows is nearer to the truth.
    const bool steady = std::abs(recent.rows_per_day - whole.rows_per_day) < kNoise * whole.rows_per_day;
    return sample.share < 1 && steady ? whole : recent;
}

// Ids carry plausible times, none of them to come.
bool are_record_ids(const Sample &sample)
{
    const int64_t latest = pg::unix_us_of_timestamp(GetCurrentTimestamp()) + core::kUsPerDay;
    return sample.usable > 0 && sample.keys[kLowest] >= core::record_id_floor(kFirstPlausibleUs) &&
           sample.keys[kHighest] <= core::record_id_floor(latest);
}

ControlKind kind_of(Oid type, const Sample &sample)
{
    return pg::pg_call([&] { return kind_of_type(type, are_record_ids(sample)); });
}

// 1234567 as 1,234,567.
const char *grouped(double number)
{
    return pg::pg_call([&] {
        StringInfoData text;
        const char *digits = psprintf("%.0f", number);
        const int length = static_cast<int>(strlen(digits));
        initStringInfo(&text);
        for (int i = 0; i < length; i++) {
            if (i > 0 && (length - i) % 3 == 0)
                appendStringInfoChar(&text, ',');
            appendStringInfoChar(&text, digits[i]);
        }
        return text.data;
    });
}

template <class... Values> const char *text(const char *format, Values... values)
{
    return pg::pg_call([&] { return psprintf(format, values...); });
}

struct Length
{
    const char *interval;
    double days;
    int32_t premake;
    const char *why;
};

Length length_for(double rows_per_day)
{
    if (rows_per_day > kRowsForDays)
        return {"1 day", 1, 7, "above 1,000,000"};
    if (rows_per_day > kRowsForWeeks)
        return {"1 week", 7, 4, "above 100,000"};
    return {"1 month", 30.4375, 3, "not above 100,000"};
}

// The next 1, 2 or 5 with zeros, which still is a bigint.
int64_t round_up(double number)
{
    int64_t power = 1;
    while (static_cast<double>(power) * 10 <= number && power < 100'000'000'000'000'000)
        power *= 10;
    for (const int64_t factor : {1, 2, 5}) {
        if (static_cast<double>(power * factor) >= number)
            return power * factor;
    }
    return power * 10;
}

const char *percent(int64_t part, int64_t whole)
{
    const double share = 100.0 * static_cast<double>(part) / static_cast<double>(whole);
    return text(share < 9.95 ? "%.2g %%" : "%.0f %%", share);
}

// What is worth knowing about the sample besides the growth.
const char *remarks(const Source &source, const Sample &sample, ControlKind kind, const Growth &growth)
{
    const char *remark = "";
    const int64_t now = pg::unix_us_of_timestamp(GetCurrentTimestamp());
    if (sample.share < 1)
        remark = text("%s; estimated from %s of %s pages", remark, grouped(kSamplePages),
                      grouped(static_cast<double>(source.pages)));
    if (growth.known && growth.span_days < 1)
        remark = text("%s; told from %.1f hours only", remark, growth.span_days * 24);
    const auto idle = static_cast<double>(now - unix_us_of_key(kind, sample.keys[kHighest]));
    if (growth.known && has_time(kind) && idle > kUsPerDay && idle > growth.span_days * kUsPerDay / 4)
        remark = text("%s; nothing has come for %.0f days", remark, idle / kUsPerDay);
    if (sample.nulls > 0)
        remark = text("%s; %s of the rows have no value, which only a DEFAULT partition takes", remark,
                      percent(sample.nulls, sample.rows));
    if (sample.odd > 0)
        remark = text("%s; %s are infinite", remark, percent(sample.odd, sample.rows));
    return remark;
}

const char *unknown_growth(const Source &source, const Sample &sample)
{
    if (source.pages == 0 || sample.rows == 0)
        return "the table is empty, so its growth is not known: a month is where to begin";
    if (sample.usable == 0)
        return "no row has a value to tell the growth from: a month is where to begin";
    return sample.usable == 1
               ? "one row tells no growth: a month is where to begin"
               : "all rows have the same time, which tells no growth: a month is where to begin";
}

Suggestion suggest_time(const Source &source, ControlKind kind, const Sample &sample)
{
    const Growth growth = growth_of(kind, sample);
    Suggestion suggestion;
    if (!growth.known) {
        if (sample.rows == 0)
            suggestion.rows_per_day = 0;
        suggestion.reason =
            text("%s%s", unknown_growth(source, sample), remarks(source, sample, kind, growth));
        return suggestion;
    }
    const Length length = length_for(growth.rows_per_day);
    suggestion.rows_per_day = growth.rows_per_day;
    suggestion.interval = length.interval;
    suggestion.premake = length.premake;
    suggestion.rows_per_partition = growth.rows_per_day * length.days;
    suggestion.reason =
        text("%s rows a day, %s%s%s", grouped(growth.rows_per_day), length.why,
             kind == ControlKind::record_id ? "; the numbers are ids that carry their time" : "",
             remarks(source, sample, kind, growth));
    return suggestion;
}

// The column whose name, type and constraints make it the most likely time at which a row came.
const char *find_time_column(Oid relid)
{
    static pg::Statement query(
        "select a.attname::text from pg_catalog.pg_attribute a where a.attrelid = $1 and a.attnum > 0 "
        "and not a.attisdropped and a.atttypid in ('pg_catalog.timestamptz'::pg_catalog.regtype, "
        "'pg_catalog.timestamp'::pg_catalog.regtype, 'pg_catalog.date'::pg_catalog.regtype) "
        "order by a.attname in ('created_at', 'inserted_at', 'created', 'created_on', 'occurred_at', "
        "'requested_at', 'event_time', 'ts', 'time') desc, a.attnotnull desc, a.atthasdef desc, a.attnum "
        "limit 1",
        {OIDOID});
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.run(query, {relid});
    if (rows.empty())
        return nullptr;
    const std::string_view name = rows.text(0, 1);
    return pg::pg_call([&] { return MemoryContextStrdup(memory, pnstrdup(name.data(), name.size())); });
}

double keys_per_row(const Sample &sample)
{
    const bool many = sample.usable >= kManyValues;
    const Quantile from = many ? kLow : kLowest;
    const Quantile to = many ? kHigh : kHighest;
    const double rows = (rank_of(sample, to) - rank_of(sample, from)) / sample.share;
    const double keys = static_cast<double>(sample.keys[to]) - static_cast<double>(sample.keys[from]);
    return rows > 0 && keys > 0 ? std::max(keys / rows, 1.0) : 1.0;
}

Suggestion suggest_step(const Source &source, Oid type, const Sample &sample)
{
    const double per_row = keys_per_row(sample);
    const double widest = type == INT2OID ? 10'000 : type == INT4OID ? 1e9 : 1e18;
    const char *column = find_time_column(source.relid);
    Sample times{};
    Growth growth{};
    ControlKind kind = ControlKind::timestamptz;
    if (column != nullptr && sample.usable > 0) {
        const Oid time_type = type_of_column(source, column);
        times = take_sample(source, column, time_type);
        kind = kind_of(time_type, times);
        growth = growth_of(kind, times);
    }
    Suggestion suggestion;
    const Length length = length_for(growth.rows_per_day);
    const double rows = growth.known ? growth.rows_per_day * length.days : kRowsWanted;
    const int64_t step = round_up(std::min(rows * per_row, widest));
    suggestion.interval = text(INT64_FORMAT, step);
    suggestion.premake = growth.known ? length.premake : 4;
    suggestion.rows_per_partition = static_cast<double>(step) / per_row;
    if (growth.known) {
        suggestion.rows_per_day = growth.rows_per_day;
        suggestion.reason = text("%s rows a day by column \"%s\", %s: so many numbers come in %s%s",
                                 grouped(growth.rows_per_day), column, length.why, length.interval,
                                 remarks(source, times, kind, growth));
    } else {
        suggestion.reason =
            text("%s: partitions of about %s rows%s",
                 sample.usable == 0  ? "no row tells the growth"
                 : column == nullptr ? "no column of a time type tells the growth"
                                     : "the times in the table tell no growth",
                 grouped(*suggestion.rows_per_partition), remarks(source, sample, ControlKind::number, {}));
    }
    return suggestion;
}

[[noreturn]] void reject_type(const char *column, Oid type)
{
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "no partition set can be controlled by column \"%s\"",
                    column)
        .detail("It has type %s; a set is partitioned by a smallint, integer, bigint, date, timestamp, "
                "timestamptz "
                "or uuid.",
                pg::pg_call([&] { return format_type_be(type); }));
}

void reject_other_uuids(const char *column, Oid type, const Sample &sample)
{
    if (type != UUIDOID || sample.odd == 0)
        return;
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "column \"%s\" holds UUIDs that are not of version 7",
                    column)
        .detail("Of %s UUIDs that were read, %s are of another version, and carry no time.",
                grouped(static_cast<double>(sample.usable + sample.odd)),
                grouped(static_cast<double>(sample.odd)))
        .hint("Partition by a column with the time at which the row was made.");
}

} // namespace

// suggest_interval(source regclass, control name)
TASKER_FUNCTION(suggest_interval)
{
    const Source source = find_source(args.oid(0, "source"));
    if (args.is_null(1))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"control\" must not be null");
    const char *column = NameStr(*DatumGetName(args.datum(1)));
    const Oid type = type_of_column(source, column);
    if (!is_control_type(type))
        reject_type(column, type);
    const Sample sample = take_sample(source, column, type);
    reject_other_uuids(column, type, sample);
    const ControlKind kind = kind_of(type, sample);
    const Suggestion suggestion =
        has_time(kind) ? suggest_time(source, kind, sample) : suggest_step(source, type, sample);

    const Control control{kind, type};
    const auto text_datum = [&](const char *value) { return args.result(value); };
    const auto rounded = [](std::optional<double> value) {
        return Int64GetDatum(static_cast<int64_t>(std::llround(std::min(value.value_or(0), 9e18))));
    };
    const bool none = sample.usable == 0;
    Datum values[] = {rounded(suggestion.rows_per_day),
                      text_datum(suggestion.interval),
                      Int32GetDatum(suggestion.premake),
                      rounded(suggestion.rows_per_partition),
                      rounded(static_cast<double>(sample.rows) / sample.share),
                      Int64GetDatum(source.bytes),
                      none ? 0 : text_datum(key_text(control, sample.keys[kLowest])),
                      none ? 0 : text_datum(key_text(control, sample.keys[kHighest])),
                      text_datum(suggestion.reason)};
    bool nulls[std::size(values)] = {!suggestion.rows_per_day,
                                     false,
                                     false,
                                     !suggestion.rows_per_partition,
                                     false,
                                     false,
                                     none,
                                     none,
                                     false};
    return pg::pg_call([&] {
        TupleDesc descriptor = nullptr;
        if (get_call_result_type(args.call(), nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
            elog(ERROR, "suggest_interval() must return a row");
        return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
    });
}
