// What the functions of this module share: objects that count whether their destructors ran.
#pragma once

#include "pg/memory.hpp"

namespace tasker::border {

// How many objects of the kind are alive in this backend. After each statement it must be zero.
extern int live_witnesses;

class Witness
{
  public:
    Witness() noexcept { live_witnesses++; }
    ~Witness() { live_witnesses--; }
    Witness(const Witness &) = delete;
    Witness &operator=(const Witness &) = delete;
};

// An object like those that request code holds: a container in a memory context of its own, which is the
// current one as long as the object lives. What an error copies there would die with it.
class Holder
{
  public:
    explicit Holder(size_t elements);

    size_t size() const noexcept { return elements_.size(); }

  private:
    Witness witness_;
    pg::OwnedContext context_;
    pg::MemoryContextScope scope_;
    pg::ContextResource resource_;
    pg::Vector<int64_t> elements_;
};

// Raises an ERROR that has every field an error can have. Plain C.
[[noreturn]] void raise_with_all_fields();

// Throws the C++ exception of that name: see errors.cpp.
[[noreturn]] void throw_kind(std::string_view kind);

// Calls `bottom` three calls deep, each of which holds objects with destructors.
void three_calls_deep(void (*bottom)(const void *), const void *argument);

} // namespace tasker::border
