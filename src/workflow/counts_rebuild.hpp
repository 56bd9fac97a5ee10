// Building the counts of states from the tables.
#pragma once

#include "workflow/counts_state.hpp"

namespace tasker::workflow {

// Makes sure that the counts of this database are built and know how prepared transactions have ended, by
// building them or by waiting for whoever does. Null when counts are not kept.
CountedDatabase *built_counts();

} // namespace tasker::workflow
