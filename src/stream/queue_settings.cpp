// set_queue_config(): the settings of a queue.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "stream/queue.hpp"

namespace tasker::stream {
namespace {

// A column of tasker.queue that may be set. Postgres reads the text as the column's type, and the table's
// check constraint judges it; what it demands is said here for the error's detail.
struct Setting
{
    const char *name; // the column without "queue_", which PgQ leaves out
    const char *demands;
    pg::Statement set;     // $1 queue_id, $2 the text
    pg::Statement restore; // $1 queue_id: the default
};

#define SETTING(name, type, demands)                                                                         \
    {                                                                                                        \
        name, demands,                                                                                       \
            {"update tasker.queue set queue_" name " = $2::" type " where queue_id = $1",                    \
             {INT4OID, TEXTOID}},                                                                            \
        {                                                                                                    \
            "update tasker.queue set queue_" name " = default where queue_id = $1",                          \
            {                                                                                                \
                INT4OID                                                                                      \
            }                                                                                                \
        }                                                                                                    \
    }

constexpr const char *kDuration = "It is an interval, not negative.";
constexpr const char *kLongerThanZero = "It is an interval longer than zero.";
constexpr const char *kYesOrNo = "It is true or false.";

// Sorted by name.
Setting settings_table[] = {
    SETTING("disable_insert", "boolean", kYesOrNo),
    SETTING("external_ticker", "boolean", kYesOrNo),
    SETTING("max_retries", "int", "It is a whole number, at least 0."),
    SETTING("metadata_rotation_period", "interval", kLongerThanZero),
    SETTING("min_tick_interval", "interval", kDuration),
    SETTING("paused", "boolean", kYesOrNo),
    SETTING("per_tx_limit", "int", "It is a whole number, at least 0; null for no limit."),
    SETTING("rotation_period", "interval", kDuration),
    SETTING("ticker_idle_period", "interval", kDuration),
    SETTING("ticker_max_count", "int", "It is a whole number, at least 1."),
    SETTING("ticker_max_lag", "interval", kDuration),
    SETTING("ticker_paused", "boolean", kYesOrNo),
    SETTING("ttl", "interval", "It is an interval longer than zero; null for none."),
};

Setting &setting_named(std::string_view name)
{
    constexpr std::string_view kPrefix = "queue_";
    const std::string_view column = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
    for (Setting &setting : settings_table) {
        if (column == setting.name)
            return setting;
    }
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown queue setting \"%.*s\"",
                    static_cast<int>(name.size()), name.data())
        .hint("Settings are disable_insert, external_ticker, max_retries, metadata_rotation_period, "
              "min_tick_interval, paused, per_tx_limit, rotation_period, ticker_idle_period, "
              "ticker_max_count, ticker_max_lag, ticker_paused and ttl.");
}

bool is_bad_value(int sqlstate)
{
    return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION || sqlstate == ERRCODE_CHECK_VIOLATION;
}

uint64 apply(Setting &setting, int32_t queue_id, std::optional<std::string_view> value)
{
    pg::Spi spi;
    if (!value)
        return spi.run_latest(setting.restore, {queue_id}).count();
    try {
        return spi.run_latest(setting.set, {queue_id, *value}).count();
    } catch (const pg::PgError &error) {
        if (!is_bad_value(error.sqlstate()))
            throw;
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid value for queue setting \"%s\": \"%.*s\"",
                        setting.name, static_cast<int>(value->size()), value->data())
            .detail("%s", setting.demands);
    }
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// set_queue_config(x_queue_name, x_param_name, x_param_value): 1. A null value restores the default.
TASKER_FUNCTION(set_queue_config)
{
    PreventCommandIfReadOnly("tasker.set_queue_config()");
    const std::string_view name = args.text(0, "x_queue_name");
    const std::string_view parameter = args.text(1, "x_param_name");
    const Queue queue = queue_named(name);
    if (apply(setting_named(parameter), queue.queue_id, args.optional_text(2)) == 0)
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "queue \"%s\" does not exist", queue.name)
            .hint("It has just been dropped.");
    return args.result(int32_t{1});
}
