// A definition on its way to a template: the steps as they were given, and what is known of them by and by.
#pragma once

#include "workflow/template.hpp"
#include "workflow/template_json.hpp"

namespace tasker::workflow {

struct Draft
{
    Place place;
    MemoryContext keep; // of what the template is made of; all else lies in the current one
    Template *result;
    StepTemplate *steps;
    JsonbContainer **depends_on; // null: on nothing
    int32_t count;
    int32_t *by_name;      // numbers of the steps, ordered by name
    int32_t *first_parent; // core::NodeLists
    int32_t *parents;
    int32_t edge_count;
    int32_t *order; // the steps so that parents come before their children
    int32_t depth;
    int32_t *cycle;
    int32_t cycle_length;
};

// Fills in the steps with their policies and what they say of their parents, description and lifecycle.
// Errors: invalid_parameter_value. Plain C: may ereport.
void read_definition(Draft &draft, Jsonb *definition);

// Zeros; plain C, as the next two.
template <class T> T *array_of(int32_t count, MemoryContext memory = CurrentMemoryContext)
{
    return static_cast<T *>(
        MemoryContextAllocZero(memory, static_cast<size_t>(std::max(count, 1)) * sizeof(T)));
}

inline const char *copy_of(std::string_view text, MemoryContext memory)
{
    auto *copy = static_cast<char *>(MemoryContextAlloc(memory, text.size() + 1));
    memcpy(copy, text.data(), text.size());
    copy[text.size()] = '\0';
    return copy;
}

inline Jsonb *copy_of(const Jsonb *json, MemoryContext memory)
{
    auto *copy = static_cast<Jsonb *>(MemoryContextAlloc(memory, VARSIZE(json)));
    memcpy(copy, json, VARSIZE(json));
    return copy;
}

} // namespace tasker::workflow
