// Reading a definition: members of JSON objects, with their types and ranges, and errors that say where.
//
// Plain C with trivially destructible locals: what is called here may ereport.
#pragma once

#include "pg/error.hpp"

namespace tasker::workflow {

// Where in a definition something stands; only for what errors say.
struct Place
{
    std::string_view namespace_name;
    std::string_view task_name;
    int32_t step_number = 0;       // from 1 as given; 0: not in a step
    std::string_view step_name{};  // empty while it is not known
    const char *section = nullptr; // an object inside, "backoff" for example
};

// `"backoff" of step "send" of task "billing/invoice"`; palloc'd.
const char *describe(const Place &place);

// The error of a bad definition: invalid_parameter_value that begins with the place.
__attribute__((format(printf, 2, 3))) pg::Error refusal(const Place &place, const char *format, ...);

// One key that an object may have, and what is done with its value, which is never a JSON null: that is as if
// the key were not there.
template <class Target> struct Key
{
    const char *name;
    void (*read)(const Place &place, const char *name, JsonbValue &value, Target &target);
};

// Typed values; anything else is refused.
std::string_view read_string(const Place &place, const char *key, const JsonbValue &value);
// 1 to 128 bytes, no control characters.
std::string_view read_name(const Place &place, const char *key, const JsonbValue &value);
bool read_boolean(const Place &place, const char *key, const JsonbValue &value);
int32_t read_integer(const Place &place, const char *key, const JsonbValue &value, int32_t low, int32_t high);
double read_number(const Place &place, const char *key, const JsonbValue &value, double low, double high);
JsonbContainer *read_object(const Place &place, const char *key, const JsonbValue &value);
JsonbContainer *read_array(const Place &place, const char *key, const JsonbValue &value);

// Is it a JSON object?
bool is_object(const JsonbValue &value);

// Walks over the elements of an array.
class Elements
{
  public:
    explicit Elements(JsonbContainer *array);
    // False at the end.
    bool next(JsonbValue &value);

  private:
    JsonbIterator *iterator_;
};

// Walks over the members of an object.
class Members
{
  public:
    explicit Members(JsonbContainer *object);
    bool next(std::string_view &key, JsonbValue &value);

  private:
    JsonbIterator *iterator_;
};

[[noreturn]] void refuse_key(const Place &place, std::string_view key, const char *known);

template <class Target, size_t count>
void read_members(const Place &place, JsonbContainer *object, const Key<Target> (&keys)[count],
                  Target &target)
{
    Members members(object);
    std::string_view name;
    JsonbValue value;
    while (members.next(name, value)) {
        const auto key = std::find_if(std::begin(keys), std::end(keys),
                                      [&](const Key<Target> &each) { return name == each.name; });
        if (key == std::end(keys)) {
            const char *known = keys[0].name;
            for (size_t i = 1; i < count; i++)
                known = psprintf("%s%s%s", known, i + 1 < count ? ", " : " and ", keys[i].name);
            refuse_key(place, name, known);
        }
        if (value.type != jbvNull)
            key->read(place, key->name, value, target);
    }
}

} // namespace tasker::workflow
