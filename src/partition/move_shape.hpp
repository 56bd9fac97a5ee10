// Do two tables fit, so that the rows of one can go into the other?
//
// Columns are matched by name. What does not fit is refused before anything is moved.
#pragma once

#include "partition/set_config.hpp"

namespace tasker::partition {

// Columns by which a row is found again in the other table: those of a unique key of the target. The source
// has a unique key of its own among them, so that they are unique there too.
struct MoveKey
{
    int count;
    NameData columns[INDEX_MAX_KEYS];
    int source_count;
    NameData source_columns[INDEX_MAX_KEYS];
};

// The columns of `target` as columns of `source`; 0 where the target generates its own. Throws
// datatype_mismatch or undefined_column, naming the column. In the current memory context.
AttrMap *map_columns(Relation source, Relation target);
// The same without a check; plain C.
AttrMap *map_columns_by_name(TupleDesc source, TupleDesc target);

// Finds such columns. Throws object_not_in_prerequisite_state when there are none.
MoveKey choose_key(Oid source, Oid target);

// Refuses tables that rows must not be moved between, see the errors, and a caller who does not own both.
// `source` is what the rows come from.
void check_pair(Oid source, Oid target, Oid caller);

// Refuses what a swap of their names would break.
void check_swap(Oid source, Oid target);

// Statements that name no columns see them in another order after a swap: says so where it is so.
void warn_of_order(Oid source, Oid target);

} // namespace tasker::partition
