// Compiling a definition into a template: every check that a definition must pass stands here.
#pragma once

#include "workflow/template.hpp"

namespace tasker::workflow {

inline constexpr int kMaxTemplateDepth = 10'000;
inline constexpr int kMaxTemplateEdges = 1'000'000;

// Compiles into the memory context `keep`, and leaves scratch in the current one; uuids and flow ids are
// still to be filled in. Errors: invalid_parameter_value that names task and step. Plain C: may ereport.
Template *compile_template(Jsonb *definition, std::string_view namespace_name, std::string_view name,
                           std::string_view version, MemoryContext keep);

} // namespace tasker::workflow
