// What is wrong with the stream: for health_check() and status().
#pragma once

#include "stream/state.hpp"

namespace tasker::stream {

struct Problem
{
    bool serious;      // the stream does not work
    const char *check; // what was looked at
    const char *message;
    const char *hint;
};

// Appends a problem for each thing that is wrong; the worst case of each kind is named. The texts are in the
// current memory context.
void find_problems(const StreamState &state, pg::Vector<Problem> &problems);

} // namespace tasker::stream
