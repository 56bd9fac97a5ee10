// The shape of a partition.
//
// CREATE TABLE ... (LIKE parent) takes over the columns with their types, defaults, NOT NULL, storage,
// compression, generation expressions and comments, the CHECK constraints and the extended statistics. ATTACH
// adds the indexes, the keys, the foreign keys in both directions and the row triggers. What else a table has
// PostgreSQL leaves to whoever makes it:
//
//   from the parent           owner, rights (of the table and of columns, with grant options), statistics
//                             targets and n_distinct of columns and of expressions in indexes, replica
//                             identity, row security (enabled and forced, so that a partition is no way
//                             around the parent's policies), unlogged, tablespace, comments of the table and
//                             of indexes
//   from the newest ordinary  what a partitioned table cannot have: storage parameters (those of the TOAST
//   partition, the model      table too), access method, the index that it is clustered by, membership in
//                             publications that list the partitions themselves; and where the parent says
//                             nothing, statistics targets, n_distinct and replica identity
//
// Not passed on, because it is one partition's own: statement triggers, rules, policies, security labels, and
// indexes and constraints that the parent does not have.
//
// The functions below that take no Spi are plain C and may ereport. All change the current transaction.
#pragma once

#include "partition/directory.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {

// Inside of AsOwner, which puts the session's settings back with the search_path that it pins: the defaults
// of whoever asks for a partition must not matter.
void forget_session_defaults();

// The newest partition that is an ordinary table. A set that has none takes the FirstModel, else InvalidOid.
Oid find_model(std::span<const DirectoryEntry> bounds);

// The table that the first partitions of a new set are shaped after, for a scope.
class FirstModel
{
  public:
    explicit FirstModel(Oid table) noexcept;
    ~FirstModel();
    FirstModel(const FirstModel &) = delete;
    FirstModel &operator=(const FirstModel &) = delete;
};

// The statement that makes a table like another one, but for what `options` exclude: a partition, with the
// storage of the model, or a parent when `partition_by` names its column. Names are quoted.
const char *table_text(Oid like, const char *name, const char *options, Oid model, const char *partition_by);

// Rights on the table and its columns, instead of what default privileges have given it. Both tables have the
// same owner.
void copy_rights(Oid from, Oid to);

// Of columns with the same names, of tables or indexes; where `from` says nothing, those of `model`.
void copy_statistics_targets(Oid from, Oid model, Oid to);
void copy_column_options(pg::Spi &spi, Oid from, Oid model, Oid to); // n_distinct; as the current user

void copy_comment(Oid from, Oid to);

// Enables, and forces, row security as `from` does. As the current user.
void copy_row_security(pg::Spi &spi, Oid from, Oid to);

// Replica identity by what pg_class.relreplident says, and the index when it says so. As the current user.
void set_replica_identity(pg::Spi &spi, Oid table, char identity, Oid index);

// What a partition gets before it is attached, and what needs the indexes that ATTACH gives it. As the
// current user, who is the owner.
void shape_partition(pg::Spi &spi, Oid parent, Oid model, Oid partition);
void shape_attached(pg::Spi &spi, Oid parent, Oid model, Oid partition);

// Adds the partition to the publications that list the model but not the parent. As the extension's owner: a
// publication need not belong to who owns its tables.
void join_publications(Oid parent, Oid model, Oid partition);

} // namespace tasker::partition
