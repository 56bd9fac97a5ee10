// The arguments of a trigger, after the queue's name.
#include "stream/triga.hpp"

namespace tasker::stream::triga {
namespace {

// What starts an argument that has a value, and where the value goes: an expression's number, or a list.
struct Prefix
{
    std::string_view text;
    int expression;
};

constexpr int kIgnoreList = -1;
constexpr int kKeyList = -2;

constexpr Prefix kPrefixes[] = {
    {"ignore=", kIgnoreList}, {"pkey=", kKeyList}, {"ev_type=", kType},
    {"ev_data=", kData},      {"ev_extra1=", 2},   {"ev_extra2=", 3},
    {"ev_extra3=", 4},        {"ev_extra4=", 5},   {"when=", kWhen},
};

bool is_separator(char c)
{
    return c == ',' || isspace(static_cast<unsigned char>(c));
}

void take_value(TriggerInfo *trigger, const Prefix &prefix, const char *value)
{
    const char *copy = MemoryContextStrdup(trigger->context, value);
    if (prefix.expression == kIgnoreList)
        trigger->options.ignore = copy;
    else if (prefix.expression == kKeyList)
        trigger->options.key = copy;
    else if (trigger->expressions[prefix.expression].text == nullptr) // of several, the first counts
        trigger->expressions[prefix.expression].text = copy;
}

void read_option(TriggerInfo *trigger, const char *trigger_name, const char *option)
{
    const std::string_view text(option);
    Options &options = trigger->options;
    if (text == "SKIP" || text == "skip") {
        options.skip = true;
    } else if (text == "backup") {
        options.backup = true;
    } else if (text == "deny") {
        options.deny = true;
    } else {
        for (const Prefix &prefix : kPrefixes) {
            if (text.starts_with(prefix.text))
                return take_value(trigger, prefix, option + prefix.text.size());
        }
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "trigger \"%s\" has an unknown argument \"%s\"",
                        trigger_name, option)
            .hint("The arguments after the queue's name are SKIP, backup, deny, ignore=columns, "
                  "pkey=columns, when=expression, and ev_type=, ev_data=, ev_extra1= to "
                  "ev_extra4=expression.");
    }
}

void check_for_truncate(const TriggerInfo &trigger, const char *trigger_name)
{
    const char *what = nullptr;
    if (trigger.options.ignore != nullptr)
        what = "ignore=";
    else if (trigger.options.key != nullptr)
        what = "pkey=";
    else if (trigger.options.backup)
        what = "backup";
    else if (trigger.has_expressions)
        what = "an expression";
    if (what != nullptr)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "trigger \"%s\" for TRUNCATE has an argument that is about rows: %s", trigger_name,
                        what);
}

} // namespace

bool list_names(const char *list, const char *name)
{
    const std::string_view names(list);
    const std::string_view wanted(name);
    for (size_t at = names.find(wanted); at != names.npos; at = names.find(wanted, at + 1)) {
        const size_t end = at + wanted.size();
        if ((at == 0 || is_separator(names[at - 1])) && (end == names.size() || is_separator(names[end])))
            return true;
    }
    return false;
}

void read_options(TriggerInfo *trigger, const Trigger &definition, Operation operation)
{
    for (int i = 1; i < definition.tgnargs; i++)
        read_option(trigger, definition.tgname, definition.tgargs[i]);
    for (const Expression &expression : trigger->expressions)
        trigger->has_expressions |= expression.text != nullptr;
    if (operation == kTruncate)
        check_for_truncate(*trigger, definition.tgname);
}

} // namespace tasker::stream::triga
