// The end of a move with a swap: are the tables equal, and the exchange of their names.
#pragma once

#include "partition/move.hpp"

namespace tasker::partition {

// Compares number and contents of the rows in one snapshot, the active one.
bool have_equal_rows(Oid source, Oid target);

// Takes the triggers away and gives the target the source's name, in one short transaction. Tries again while
// the locks cannot be had at once; throws lock_not_available when that does not help.
void swap_names(Steps &steps, Oid source, Oid target, bool undo);

} // namespace tasker::partition
