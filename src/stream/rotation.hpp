// What the rotations of event tables and of the tables of subscriptions and ticks have in common: their
// outcome, and how it is said who is in the way.
#pragma once

#include "pg/error.hpp"

namespace tasker::stream {

enum class Rotation
{
    done,
    not_due,
    deferred
};

// When a rotation is put off: who asks for it now and then counts each time. The worker tries every second,
// and would leave a dead row each time; it counts once in a rotation period, or when somebody else is in the
// way.
enum class Counting
{
    always,
    when_new
};

// Between two changes of who is in the way, for Counting::when_new.
constexpr int64_t kHoldersUs = 10 * USECS_PER_SEC;

// The format has one %s, for the name.
inline const char *in_words(const char *format, const char *name)
{
    return pg::pg_call([&] { return psprintf(format, name); });
}

} // namespace tasker::stream
