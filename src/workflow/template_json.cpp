#include "workflow/template_json.hpp"

#include "workflow/template.hpp"

#include <cmath>

namespace tasker::workflow {
namespace {

constexpr int kShownBytes = 60;

int shown(std::string_view text)
{
    return static_cast<int>(text.size());
}

// The value as JSON, cut where it is long.
const char *json_text(const JsonbValue &value)
{
    JsonbValue copy = value;
    Jsonb *json = JsonbValueToJsonb(&copy);
    const char *text = JsonbToCString(nullptr, &json->root, static_cast<int>(VARSIZE_ANY_EXHDR(json)));
    const auto bytes = static_cast<int>(strlen(text));
    if (bytes <= kShownBytes)
        return text;
    return psprintf("%.*s...", pg_mbcliplen(text, bytes, kShownBytes), text);
}

pg::Error wrong_value(const Place &place, const char *key, const JsonbValue &value, const char *wanted)
{
    return refusal(place, "\"%s\" must be %s", key, wanted).detail("It is %s.", json_text(value));
}

JsonbContainer *container_of(const JsonbValue &value)
{
    return value.type == jbvBinary ? value.val.binary.data : nullptr;
}

double number_of(const JsonbValue &value)
{
    return DatumGetFloat8(
        DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value.val.numeric)));
}

} // namespace

const char *describe(const Place &place)
{
    const char *text = psprintf("task \"%.*s/%.*s\"", shown(place.namespace_name),
                                place.namespace_name.data(), shown(place.task_name), place.task_name.data());
    if (!place.step_name.empty())
        text = psprintf("step \"%.*s\" of %s", shown(place.step_name), place.step_name.data(), text);
    else if (place.step_number > 0)
        text = psprintf("step number %d of %s", place.step_number, text);
    return place.section != nullptr ? psprintf("\"%s\" of %s", place.section, text) : text;
}

pg::Error refusal(const Place &place, const char *format, ...)
{
    StringInfoData text;
    initStringInfo(&text);
    for (;;) {
        va_list arguments;
        va_start(arguments, format);
        const int missing = appendStringInfoVA(&text, format, arguments);
        va_end(arguments);
        if (missing == 0)
            break;
        enlargeStringInfo(&text, missing);
    }
    return pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "%s: %s", describe(place), text.data);
}

void refuse_key(const Place &place, std::string_view key, const char *known)
{
    throw refusal(place, "unknown key \"%.*s\"", shown(key), key.data()).hint("Known keys are %s.", known);
}

std::string_view read_string(const Place &place, const char *key, const JsonbValue &value)
{
    if (value.type != jbvString)
        throw wrong_value(place, key, value, "a string");
    return {value.val.string.val, static_cast<size_t>(value.val.string.len)};
}

std::string_view read_name(const Place &place, const char *key, const JsonbValue &value)
{
    const std::string_view name = read_string(place, key, value);
    if (name.empty())
        throw refusal(place, "\"%s\" must not be empty", key);
    if (name.size() > kMaxNameBytes)
        throw refusal(place, "\"%s\" is too long", key)
            .detail("It has %zu bytes; the limit is %d.", name.size(), kMaxNameBytes);
    if (std::any_of(name.begin(), name.end(),
                    [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
        throw refusal(place, "\"%s\" contains a control character", key);
    return name;
}

bool read_boolean(const Place &place, const char *key, const JsonbValue &value)
{
    if (value.type != jbvBool)
        throw wrong_value(place, key, value, "true or false");
    return value.val.boolean;
}

int32_t read_integer(const Place &place, const char *key, const JsonbValue &value, int32_t low, int32_t high)
{
    const double number = value.type == jbvNumeric ? number_of(value) : -1.0;
    if (value.type != jbvNumeric || number != std::floor(number) || number < low || number > high)
        throw wrong_value(place, key, value, psprintf("a whole number from %d to %d", low, high));
    return static_cast<int32_t>(number);
}

double read_number(const Place &place, const char *key, const JsonbValue &value, double low, double high)
{
    const double number = value.type == jbvNumeric ? number_of(value) : -1.0;
    if (value.type != jbvNumeric || number < low || number > high)
        throw wrong_value(place, key, value, psprintf("a number from %.0f to %.0f", low, high));
    return number;
}

bool is_object(const JsonbValue &value)
{
    const JsonbContainer *container = container_of(value);
    return container != nullptr && JsonContainerIsObject(container);
}

JsonbContainer *read_object(const Place &place, const char *key, const JsonbValue &value)
{
    if (!is_object(value))
        throw wrong_value(place, key, value, "an object");
    return container_of(value);
}

JsonbContainer *read_array(const Place &place, const char *key, const JsonbValue &value)
{
    JsonbContainer *container = container_of(value);
    if (container == nullptr || !JsonContainerIsArray(container))
        throw wrong_value(place, key, value, "an array");
    return container;
}

Elements::Elements(JsonbContainer *array) : iterator_(JsonbIteratorInit(array))
{
    JsonbValue begin;
    (void)JsonbIteratorNext(&iterator_, &begin, true);
}

bool Elements::next(JsonbValue &value)
{
    return JsonbIteratorNext(&iterator_, &value, true) == WJB_ELEM;
}

Members::Members(JsonbContainer *object) : iterator_(JsonbIteratorInit(object))
{
    JsonbValue begin;
    (void)JsonbIteratorNext(&iterator_, &begin, true);
}

bool Members::next(std::string_view &key, JsonbValue &value)
{
    if (JsonbIteratorNext(&iterator_, &value, true) != WJB_KEY)
        return false;
    key = {value.val.string.val, static_cast<size_t>(value.val.string.len)};
    (void)JsonbIteratorNext(&iterator_, &value, true);
    return true;
}

} // namespace tasker::workflow
