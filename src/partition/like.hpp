// A partitioned table of the shape of a plain one.
//
// What CREATE TABLE ... (LIKE) does not carry over is read from the catalogs of the source and made again:
// indexes and keys, to which the control column is added where a partitioned table needs it there; foreign
// keys; triggers; policies; rights and all that shape.hpp knows. What a partitioned table cannot have is
// refused before anything is made. Not carried: foreign keys of other tables that reference the source, and
// its membership in publications, because they belong to the name that a swap gives away later.
#pragma once

#include "partition/parent.hpp"

namespace tasker::partition {

// Makes the table `name` in the schema of `source`, owned by its owner, and manages it as `request` says; its
// `parent` is not read. Without a start_at it begins at the smallest control value of the source.
Oid create_like(Oid source, const NameData &name, ParentRequest request);

} // namespace tasker::partition
