// What SQL asks about the analysis of partitioned tables, and what it may change of it.
#include "partition/changes.hpp"
#include "pg/function.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"

using namespace tasker;
using namespace tasker::partition;

namespace {

struct AnalyzeSetting
{
    const char *name;
    PGFunction input;
    const char *wanted;
    bool (*accepts)(Datum value);
    pg::Statement change;
};

// A new row has nulls but for the one value; a row that says nothing more goes.
AnalyzeSetting settings[] = {
    {"enabled",
     boolin,
     "It must be true or false, or null.",
     [](Datum) { return true; },
     {"insert into tasker.part_analyze_config (parent, enabled) values ($1, $2) "
      "on conflict (parent) do update set enabled = excluded.enabled",
      {OIDOID, BOOLOID}}},
    {"scale_factor",
     float8in,
     "It must be a number from 0 to 100, or null.",
     [](Datum value) { return DatumGetFloat8(value) >= 0 && DatumGetFloat8(value) <= 100; },
     {"insert into tasker.part_analyze_config (parent, scale_factor) values ($1, $2) "
      "on conflict (parent) do update set scale_factor = excluded.scale_factor",
      {OIDOID, FLOAT8OID}}},
    {"threshold",
     int4in,
     "It must be an integer that is not negative, or null.",
     [](Datum value) { return DatumGetInt32(value) >= 0; },
     {"insert into tasker.part_analyze_config (parent, threshold) values ($1, $2) "
      "on conflict (parent) do update set threshold = excluded.threshold",
      {OIDOID, INT4OID}}},
};

AnalyzeSetting &find_setting(std::string_view name)
{
    for (AnalyzeSetting &setting : settings) {
        if (name == setting.name)
            return setting;
    }
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown setting \"%.*s\" of the analysis of a table",
                    static_cast<int>(name.size()), name.data())
        .hint("Settings are enabled, scale_factor and threshold.");
}

[[noreturn]] void reject(const AnalyzeSetting &setting, std::string_view value)
{
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid value for setting \"%s\": \"%.*s\"",
                    setting.name, static_cast<int>(value.size()), value.data())
        .detail("%s", setting.wanted);
}

pg::Param parse(const AnalyzeSetting &setting, std::string_view value)
{
    Datum parsed = 0;
    try {
        parsed = pg::pg_call([&] {
            return DirectFunctionCall1(setting.input, CStringGetDatum(pnstrdup(value.data(), value.size())));
        });
    } catch (const pg::PgError &) {
        reject(setting, value);
    }
    if (!setting.accepts(parsed))
        reject(setting, value);
    return pg::Param::of_datum(parsed);
}

void check_is_partitioned(Oid relid)
{
    if (pg::pg_call([&] { return get_rel_relkind(relid); }) == RELKIND_PARTITIONED_TABLE)
        return;
    const char *name = pg::pg_call([&] { return get_rel_name(relid); });
    if (name == nullptr)
        throw pg::Error(ERRCODE_UNDEFINED_TABLE, "relation with OID %u does not exist", relid);
    throw pg::Error(ERRCODE_WRONG_OBJECT_TYPE, "\"%s\" is not a partitioned table", name)
        .hint("Tables that are not partitioned are analyzed by autovacuum; see the storage parameters "
              "autovacuum_analyze_threshold and autovacuum_analyze_scale_factor.");
}

} // namespace

// alter_analyze(parent regclass, setting text, value text)
TASKER_FUNCTION(alter_analyze)
{
    static pg::Statement remove_empty("delete from tasker.part_analyze_config where parent = $1 "
                                      "and enabled is null and threshold is null and scale_factor is null",
                                      {OIDOID});
    const Oid parent = args.oid(0, "parent");
    AnalyzeSetting &setting = find_setting(args.text(1, "setting"));
    const std::optional<std::string_view> value = args.optional_text(2);

    check_is_partitioned(parent);
    const pg::Param parameter = value ? parse(setting, *value) : pg::Param::none();
    pg::Spi spi;
    spi.run(setting.change, {parent, parameter});
    spi.run(remove_empty, {parent});
    // Who has found that nothing is due looks again.
    pg::pg_call([&] { CacheInvalidateRelcacheByRelid(parent); });
    return 0;
}

// _analyze_status(parent regclass): null for all.
TASKER_FUNCTION(analyze_status)
{
    const Oid only = args.is_null(0) ? InvalidOid : DatumGetObjectId(args.datum(0));
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    pg::Vector<AnalyzedParent> parents(&memory);
    const Books books(only, memory);

    add_analyzed_parents(parents, only);
    for (const AnalyzedParent &parent : parents) {
        pg::check_for_interrupts();
        const Changes changes = count_changes(parent, books, Doubt::losses);
        const bool known = changes.analyzed_at.has_value() && parent.rows_when_analyzed >= 0;
        const Datum values[] = {ObjectIdGetDatum(parent.relid),
                                BoolGetDatum(parent.rule.enabled),
                                Int64GetDatum(changes.rows),
                                Int64GetDatum(changes.changed),
                                Int64GetDatum(static_cast<int64_t>(changes.needed(parent.rule))),
                                known ? TimestampTzGetDatum(*changes.analyzed_at) : 0};
        const bool nulls[] = {false, false, false, false, false, !known};
        result.add(values, nulls);
    }
    return 0;
}
