// The triggers that mirror each change of a table into another one. See move.hpp.
#pragma once

#include "partition/move.hpp"

namespace tasker::partition {

// Sorts before every name that is not meant to come first: row triggers fire in the order of their names.
inline constexpr const char *kMirrorTrigger = "!tasker_mirror";
inline constexpr const char *kMirrorTruncateTrigger = "!tasker_mirror_truncate";

// In the current transaction, which waits for all who have written to the source.
void create_mirror(Oid source);
void drop_mirror(Oid source);
bool has_mirror(Oid source);

// Empties the target, as its owner. In the current transaction: changes are mirrored before it or after.
void empty_copy(Oid target, Oid owner);

} // namespace tasker::partition
