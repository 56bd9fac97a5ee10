#include "workflow/notes.hpp"

namespace tasker::workflow {
namespace {

Datum object_of(const char *key, std::string_view value)
{
    JsonbParseState *state = nullptr;
    JsonbValue item;
    (void)pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    item.type = jbvString;
    item.val.string.val = const_cast<char *>(key);
    item.val.string.len = static_cast<int>(strlen(key));
    (void)pushJsonbValue(&state, WJB_KEY, &item);
    item.val.string.val = const_cast<char *>(value.data());
    item.val.string.len = static_cast<int>(value.size());
    (void)pushJsonbValue(&state, WJB_VALUE, &item);
    return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr)));
}

} // namespace

Datum reason_note(std::optional<std::string_view> reason)
{
    return reason ? object_of("reason", *reason) : 0;
}

Datum error_note(std::string_view message)
{
    return object_of("message", message);
}

} // namespace tasker::workflow
