// The plane's tables, read without SPI: with a snapshot of this moment, whatever the transaction's isolation.
//
// A partition made by somebody else a moment ago exists for our DDL, so its set and what is known about its
// neighbours must be seen as well. Everything here is plain C inside: it may ereport.
#pragma once

#include "pg/error.hpp"

namespace tasker::partition {

// A relation of schema tasker; InvalidOid when it is missing.
Oid tasker_relation(const char *name);

Oid owner_of(Oid relid);

// The rows of a table of ours whose primary key begins with an OID.
struct RowScan
{
    Relation relation;
    Snapshot snapshot;
    SysScanDesc scan;
};
RowScan begin_rows(Oid table, AttrNumber column, Oid value);
// Copies the next row into the current memory context.
bool next_row(RowScan *scan, Datum *values, bool *nulls);
void end_rows(RowScan *scan);

} // namespace tasker::partition
