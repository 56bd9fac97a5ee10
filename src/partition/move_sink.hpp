// The table that moved rows go to: a partitioned parent, or a plain one.
//
// Rows are written through the access methods, many at a time, as COPY does it: no trigger fires and no
// foreign key is checked, because a row that moves is no business event and was checked when it came in.
// NOT NULL and CHECK constraints, unique keys and generated columns are seen to.
//
// Everything here is plain C and may ereport; what it holds is given back by the end of the transaction.
#pragma once

#include "partition/move_shape.hpp"

namespace tasker::partition {

struct Sink;

// Opens `target` for rows of `source`. The shape was checked; `key` is null where rows are not looked for.
Sink *open_sink(Oid target, Relation source, const MoveKey *key);
void close_sink(Sink *sink);

// Adds a row of the source; it is there after a flush at the latest. Where there is no partition for it, it
// is an error.
void add_to_sink(Sink *sink, TupleTableSlot *row);
void flush_sink(Sink *sink);

// By the key. Adds the row unless it is there already, in whatever version; false when it is. Writes the
// newest version of a row; removes it. The last two find rows that have been flushed.
bool add_unless_there(Sink *sink, TupleTableSlot *row);
void put_into_sink(Sink *sink, TupleTableSlot *row);
void remove_from_sink(Sink *sink, TupleTableSlot *row);

// An equality search of one unique index, prepared once for many rows.
struct KeyProbe
{
    Relation table;
    Relation index;
    IndexScanDesc scan;
    ScanKeyData keys[INDEX_MAX_KEYS];
    TupleTableSlot *found;
};

// Opens the unique index of `table` over exactly these columns.
void open_probe(KeyProbe *probe, Relation table, const NameData *columns, int count);
void close_probe(KeyProbe *probe);
// The row with the key that `row` (laid out like the table) has, as it is after all commits and our own
// changes; it is in probe->found then.
bool probe_key(KeyProbe *probe, TupleTableSlot *row);

} // namespace tasker::partition
