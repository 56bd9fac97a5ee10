// Creating, changing and dropping flows.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/effects.hpp"
#include "queue/flow.hpp"

namespace tasker::queue {
namespace {

// One setting of a flow: a column of tasker.flow. Postgres reads the text as the column's type, and the
// table's check constraint judges it; what it demands is said here for the error's detail.
struct Setting
{
    const char *name;
    const char *demands;
    pg::Statement set;     // $1 flow_id, $2 text, null for no limit
    pg::Statement restore; // $1 flow_id: the default
};

#define SETTING(name, type, demands)                                                                         \
    {                                                                                                        \
        name, demands,                                                                                       \
            {"update tasker.flow set " name " = $2::" type " where flow_id = $1", {INT4OID, TEXTOID}},       \
        {                                                                                                    \
            "update tasker.flow set " name " = default where flow_id = $1",                                  \
            {                                                                                                \
                INT4OID                                                                                      \
            }                                                                                                \
        }                                                                                                    \
    }

// Sorted by name.
Setting settings_table[] = {
    SETTING("backoff_base", "interval", "It is an interval, not negative."),
    SETTING("backoff_jitter", "float8", "It is a number from 0 to 1."),
    SETTING("backoff_max", "interval", "It is an interval, not negative."),
    SETTING("lease", "interval", "It is an interval longer than zero."),
    SETTING("max_attempts", "int", "It is a whole number, at least 1."),
    SETTING("max_in_flight", "int", "It is a whole number, at least 1; null for no limit."),
    SETTING("notify", "boolean", "It is true or false."),
    SETTING("paused", "boolean", "It is true or false."),
    SETTING("rate_limit", "float8", "It is a number of records per second above 0; null for no limit."),
    SETTING("retention", "interval", "It is an interval, not negative."),
};

Setting &setting_named(std::string_view name)
{
    for (Setting &setting : settings_table) {
        if (name == setting.name)
            return setting;
    }
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown flow setting \"%.*s\"",
                    static_cast<int>(name.size()), name.data())
        .hint("Settings are backoff_base, backoff_jitter, backoff_max, lease, max_attempts, max_in_flight, "
              "notify, "
              "paused, rate_limit and retention.");
}

bool is_bad_value(int sqlstate)
{
    return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION || sqlstate == ERRCODE_CHECK_VIOLATION;
}

// Writes one setting; a null value restores the default.
void apply_setting(pg::Spi &spi, int32_t flow_id, std::string_view name,
                   std::optional<std::string_view> value)
{
    Setting &setting = setting_named(name);
    if (!value) {
        spi.run(setting.restore, {flow_id});
        return;
    }
    try {
        spi.run(setting.set, {flow_id, *value});
    } catch (const pg::PgError &error) {
        if (!is_bad_value(error.sqlstate()))
            throw;
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid value for flow setting \"%s\": \"%.*s\"",
                        setting.name, static_cast<int>(value->size()), value->data())
            .detail("%s", setting.demands);
    }
}

// The members of the settings object, one by one.
void apply_settings(pg::Spi &spi, int32_t flow_id, Datum settings)
{
    static pg::Statement shape("select pg_catalog.jsonb_typeof($1)", {JSONBOID});
    static pg::Statement members("select key, value #>> '{}', pg_catalog.jsonb_typeof(value) "
                                 "from pg_catalog.jsonb_each($1)",
                                 {JSONBOID});
    const pg::Param object{settings, false, JSONBOID};
    if (spi.run(shape, {object}).text(0, 1) != "object")
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"settings\" must be a JSON object");
    pg::Rows rows = spi.run(members, {object});
    for (uint64 i = 0; i < rows.count(); i++) {
        std::string_view type = rows.text(i, 3);
        if (type == "object" || type == "array")
            throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "flow setting \"%.*s\" must be a plain value",
                            static_cast<int>(rows.text(i, 1).size()), rows.text(i, 1).data());
        std::optional<std::string_view> value;
        if (!rows.is_null(i, 2))
            value = rows.text(i, 2);
        apply_setting(spi, flow_id, rows.text(i, 1), value);
    }
}

// Waiting workers look again once a change of the settings has committed.
void wake_on_commit(int32_t flow_id)
{
    pg::pg_call([&] { effect_on_flow(queue_parent(), flow_id).wake_all = true; });
}

void alter_flow(std::string_view name, std::string_view setting, std::optional<std::string_view> value)
{
    PreventCommandIfReadOnly("tasker.alter_flow()");
    Flow flow = flow_named(name);
    {
        pg::Spi spi;
        apply_setting(spi, flow.flow_id, setting, value);
    }
    wake_on_commit(flow.flow_id);
}

void require_no_work(pg::Spi &spi, const Flow &flow)
{
    static pg::Statement unfinished("select count(*) from tasker.queue_record "
                                    "where flow_id = $1 and status in ('p', 'r')",
                                    {INT4OID});
    const int64_t count = spi.read_latest(unfinished, {flow.flow_id}).i64(0, 1);
    if (count > 0)
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "flow \"%s\" has unfinished records",
                        flow.name)
            .detail(INT64_FORMAT " are pending or in processing.", count)
            .hint("Drop it with force => true to delete them too.");
}

// A transaction with a snapshot of its own does not delete what was added since.
void require_no_records(pg::Spi &spi, const Flow &flow)
{
    static pg::Statement left("select exists (select from tasker.queue_record where flow_id = $1)",
                              {INT4OID});
    if (spi.read_latest(left, {flow.flow_id}).boolean(0, 1))
        throw pg::Error(ERRCODE_T_R_SERIALIZATION_FAILURE,
                        "flow \"%s\" has records that were added since this transaction took its snapshot",
                        flow.name)
            .hint("Drop it in a READ COMMITTED transaction, or try again.");
}

} // namespace

TASKER_FUNCTION(create_flow)
{
    static pg::Statement create("insert into tasker.flow (flow_name) values ($1) on conflict do nothing "
                                "returning flow_id",
                                {TEXTOID});
    PreventCommandIfReadOnly("tasker.create_flow()");
    std::string_view name = args.name(0, "flow_name");
    if (args.is_null(1))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"settings\" must not be null");
    pg::Spi spi;
    pg::Rows rows = spi.run(create, {name});
    if (rows.empty())
        throw pg::Error(ERRCODE_DUPLICATE_OBJECT, "flow \"%.*s\" already exists",
                        static_cast<int>(name.size()), name.data())
            .hint("Change its settings with tasker.alter_flow().");
    const int32_t flow_id = rows.i32(0, 1);
    apply_settings(spi, flow_id, args.datum(1));
    return args.result(flow_id);
}

TASKER_FUNCTION(alter_flow)
{
    alter_flow(args.name(0, "flow_name"), args.name(1, "setting"), args.optional_text(2));
    return 0;
}

TASKER_FUNCTION(pause_flow)
{
    alter_flow(args.name(0, "flow_name"), "paused", "true");
    return 0;
}

TASKER_FUNCTION(resume_flow)
{
    alter_flow(args.name(0, "flow_name"), "paused", "false");
    return 0;
}

// Statements, not direct access: the row trigger accounts for every deleted record.
TASKER_FUNCTION(drop_flow)
{
    static pg::Statement drop("delete from tasker.flow where flow_id = $1", {INT4OID});
    static pg::Statement drop_keys("delete from tasker.dedup_key where flow_id = $1", {INT4OID});
    static pg::Statement drop_records("delete from tasker.queue_record where flow_id = $1", {INT4OID});
    PreventCommandIfReadOnly("tasker.drop_flow()");
    std::string_view name = args.name(0, "flow_name");
    const bool force = args.boolean(1, "force");
    Flow flow = flow_for_drop(name);
    {
        pg::Spi spi;
        spi.run(drop, {flow.flow_id});
        if (!force)
            require_no_work(spi, flow);
        spi.run(drop_keys, {flow.flow_id});
        spi.run(drop_records, {flow.flow_id});
        require_no_records(spi, flow);
    }
    wake_on_commit(flow.flow_id);
    return 0;
}

} // namespace tasker::queue
