// What is said about a move in the log.
#pragma once

#include "pg/error.hpp"

namespace tasker::workflow {

// jsonb: {"reason": …}; 0 without one.
Datum reason_note(std::optional<std::string_view> reason);

// jsonb: {"message": …}, the error of an attempt that nobody else has described.
Datum error_note(std::string_view message);

} // namespace tasker::workflow
