// alter_parent(): the settings of a set, checked before they are written.
#include "partition/create.hpp"
#include "partition/locks.hpp"
#include "partition/parent.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

using namespace tasker;
using partition::SetConfig;

namespace {

[[noreturn]] void reject(const char *setting, std::string_view value, const char *wanted)
{
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid value for setting \"%s\": \"%.*s\"", setting,
                    static_cast<int>(value.size()), value.data())
        .detail("%s", wanted);
}

// What the input function of a type makes of the text; its own errors name no setting.
Datum parse(const char *setting, std::string_view value, PGFunction input, const char *wanted)
{
    try {
        return pg::pg_call([&] {
            return DirectFunctionCall3(input, CStringGetDatum(pnstrdup(value.data(), value.size())),
                                       ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
        });
    } catch (const pg::PgError &) {
        reject(setting, value, wanted);
    }
}

void set_interval(const SetConfig &set, std::optional<std::string_view> value)
{
    static pg::Statement update("update tasker.part_config set partition_interval = $2 where parent = $1",
                                {OIDOID, TEXTOID});
    if (has_time(set.control.kind)) {
        partition::check_interval(set.control.kind, partition::parse_partition_interval(*value));
    } else {
        (void)partition::parse_partition_step(*value);
    }
    pg::Spi().run(update, {set.parent, *value});
}

void set_premake(const SetConfig &set, std::optional<std::string_view> value)
{
    static pg::Statement update("update tasker.part_config set premake = $2 where parent = $1",
                                {OIDOID, INT4OID});
    const char *wanted = "It must be an integer from 0 to 1000.";
    const int32 premake = DatumGetInt32(parse("premake", *value, int4in, wanted));
    if (premake < 0 || premake > 1000)
        reject("premake", *value, wanted);
    pg::Spi().run(update, {set.parent, premake});
}

// Of a set of numbers, it is a distance behind the current partition.
std::optional<int64_t> parse_retention_keys(std::string_view value)
{
    const char *wanted =
        "Of a table that is partitioned by numbers, it must be a bigint that is not negative, or null.";
    try {
        const int64 keys = pg::pg_call([&] {
            return DatumGetInt64(
                DirectFunctionCall1(int8in, CStringGetDatum(pnstrdup(value.data(), value.size()))));
        });
        if (keys >= 0)
            return keys;
    } catch (const pg::PgError &) {
        reject("retention", value, wanted);
    }
    reject("retention", value, wanted);
}

// The book's refusals speak of the old retention; those that still hold are written again by the next round.
void set_retention(const SetConfig &set, std::optional<std::string_view> value)
{
    static pg::Statement update(
        "update tasker.part_config set retention = $2, retention_keys = $3 where parent = $1",
        {OIDOID, INTERVALOID, INT8OID});
    static pg::Statement forget("delete from tasker.part_retirement where parent = $1 and state = 'refused'",
                                {OIDOID});
    pg::Param retention = pg::Param::none();
    pg::Param keys = pg::Param::none();
    if (value && has_time(set.control.kind)) {
        const char *wanted = "It must be an interval that is not negative and at most 4,000 years, or null.";
        // A number without a unit would be seconds, and all old partitions gone.
        if (partition::is_number(*value))
            reject("retention", *value, wanted);
        const Datum parsed = parse("retention", *value, interval_in, wanted);
        if (!partition::is_retention(*DatumGetIntervalP(parsed)))
            reject("retention", *value, wanted);
        retention = pg::Param(parsed, false, INTERVALOID);
    } else if (value) {
        keys = parse_retention_keys(*value);
    }
    pg::Spi spi;
    spi.run(update, {set.parent, retention, keys});
    spi.run(forget, {set.parent});
}

void set_retention_action(const SetConfig &set, std::optional<std::string_view> value)
{
    static pg::Statement update("update tasker.part_config set retention_action = $2 where parent = $1",
                                {OIDOID, TEXTOID});
    partition::check_retention_action(set, *value);
    pg::Spi().run(update, {set.parent, *value});
}

void set_timezone(const SetConfig &set, std::optional<std::string_view> value)
{
    static pg::Statement update("update tasker.part_config set timezone = $2 where parent = $1",
                                {OIDOID, TEXTOID});
    (void)partition::parse_timezone(*value);
    pg::Spi().run(update, {set.parent, *value});
}

void set_legal_hold(const SetConfig &set, std::optional<std::string_view> value)
{
    static pg::Statement update("update tasker.part_config set legal_hold = $2 where parent = $1",
                                {OIDOID, BOOLOID});
    const bool hold = DatumGetBool(parse("legal_hold", *value, boolin, "It must be true or false."));
    pg::Spi().run(update, {set.parent, hold});
}

struct Setting
{
    const char *name;
    bool nullable;
    void (*set)(const SetConfig &set, std::optional<std::string_view> value);
};

constexpr Setting kSettings[] = {
    {"legal_hold", false, set_legal_hold},
    {"partition_interval", false, set_interval},
    {"premake", false, set_premake},
    {"retention", true, set_retention},
    {"retention_action", false, set_retention_action},
    {"timezone", false, set_timezone},
};

const Setting &find_setting(std::string_view name)
{
    for (const Setting &setting : kSettings) {
        if (name == setting.name)
            return setting;
    }
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown setting \"%.*s\" of a partition set",
                    static_cast<int>(name.size()), name.data())
        .hint("Settings are legal_hold, partition_interval, premake, retention, retention_action and "
              "timezone.");
}

} // namespace

namespace {

void alter(Oid parent, const Setting &setting, std::optional<std::string_view> value)
{
    // Changing a set is a use of it, and the first use opens it.
    pg::pg_call(
        [&] { partition::lock_for_transaction(parent, partition::LockKind::creation, ExclusiveLock); });
    const SetConfig set = partition::open_set(parent);
    if (!set.owner_set)
        partition::check_ownership(parent);
    setting.set(set, value);
}

void refuse_follower(const partition::OwnedSet &set)
{
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "partition set \"%s\" has the settings of \"%s\"",
                    set.parent, set.follows)
        .detail("Their partitions have the same bounds, and are retired together.")
        .hint("Change the setting of tasker.%s; those that follow it change too.", set.follows);
}

} // namespace

// alter_parent(parent regclass, setting text, value text)
TASKER_FUNCTION(alter_parent)
{
    const Oid parent = args.oid(0, "parent");
    const Setting &setting = find_setting(args.text(1, "setting"));
    const std::optional<std::string_view> value = args.optional_text(2);

    if (!value && !setting.nullable)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "setting \"%s\" must not be null", setting.name);
    const partition::OwnedSet *owned = partition::find_owned_set(parent);
    if (owned != nullptr && owned->follows != nullptr)
        refuse_follower(*owned);
    alter(parent, setting, value);
    if (owned != nullptr) {
        for (const partition::OwnedSet *follower : partition::followers_of(*owned))
            alter(pg::pg_call([&] {
                      return get_relname_relid(follower->parent, get_namespace_oid("tasker", false));
                  }),
                  setting, value);
    }
    return 0;
}
