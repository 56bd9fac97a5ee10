// The flows that a worker claims from.
#pragma once

#include "workflow/instance.hpp"

namespace tasker::workflow {

// The flows of the handlers (text), or of all of the namespace. Errors: undefined_object for a namespace or a
// handler that does not exist.
Growing<int32_t> flows_of_handlers(std::string_view space, const std::optional<std::span<Datum>> &handlers);

} // namespace tasker::workflow
