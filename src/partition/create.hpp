// Making partitions.
//
// A partition is a table of its own until it is attached: CREATE TABLE ... LIKE, keys, ATTACH. So the parent
// is locked in SHARE UPDATE EXCLUSIVE mode, which readers and writers do not notice; CREATE TABLE ...
// PARTITION OF would lock everybody out. A table that was just created is empty, so ATTACH has nothing to
// scan and no check constraint is needed to spare it that. What the table gets is written in shape.hpp.
//
// ATTACH also locks what the parent is tied to, to the end of the transaction: tables that its foreign keys
// reference, and that reference it, against writers (SHARE ROW EXCLUSIVE); a DEFAULT partition against
// everybody, which it scans too. lock_timeout limits the wait.
//
// A CHECK constraint on the DEFAULT partition (NOT VALID, validated, dropped after ATTACH) would spare ATTACH
// the scan and is not made: it takes the same lock to add it; from then on, rows of the range are errors
// instead of being kept in the DEFAULT partition; and a kill leaves it there. Rows of the range are looked
// for before the lock is asked for, so that the scan is not for nothing, and a DEFAULT partition that is
// empty, as it should be, costs nothing.
//
// Everything happens in the current transaction: it is there with the caller's work or not at all.
#pragma once

#include "partition/owned_set.hpp"
#include "partition/set_config.hpp"

namespace tasker::partition {

// The registered shape of a parent, null when nobody registered it.
const OwnedSet *find_owned_set(Oid parent);

// The set's settings; opens the set of an owner, in the current transaction, which holds its creation lock.
SetConfig open_set(Oid parent);

// The settings that the set has, or, of an owner's set that is not open yet, will have. Throws
// undefined_object when it is no set.
SetConfig describe_set(Oid parent);

// Throws numeric_value_out_of_range when no value of the set's column has this key.
void check_key(const SetConfig &config, int64_t key);

// Makes the partition for `key` unless it exists, opening an owned set first, and returns it. In the current
// transaction, which holds the set's creation lock and SHARE UPDATE EXCLUSIVE on the parent from then on.
// Refused while the caller's own session has the parent open (ATTACH is: object_in_use), and while the
// DEFAULT partition holds rows of the range (check_violation).
Oid create_partition_for(Oid parent, int64_t key);

// The two halves of making a partition of a set that no plane owns, for who fills the table in between: the
// table by itself, with the indexes of the parent too if that is wanted, and its ATTACH with all that can
// only follow it. The set's creation lock is held.
Oid make_partition_table(const SetConfig &config, const char *name, bool with_indexes);
void attach_partition_table(const SetConfig &config, Oid partition, core::NumberRange range);

} // namespace tasker::partition
