// Finding the index to look through a table of the stream with.
//
// A table may have indexes of somebody else's as well: partial ones, which do not hold all rows, ones in the
// other order, ones that are being built or could not be, and ones of other access methods. They are passed
// over.
#pragma once

#include "pg/error.hpp"

namespace tasker::stream {

// A valid btree of all rows of the table that begins with a column, in ascending order; plain C, may ereport.
// Errors: object_not_in_prerequisite_state, when there is none.
Relation open_index_on(Relation heap, AttrNumber column, LOCKMODE mode);

} // namespace tasker::stream
