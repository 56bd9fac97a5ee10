// The book of moves under way: tasker.part_move, one row for each table that rows are moved out of.
//
// A row is written in the transaction of what it tells, so it is as true after a crash as before. It says
// where the next call goes on; rows moved are in the other table whatever it says.
#pragma once

#include "partition/set_config.hpp"

namespace tasker::partition {

struct MoveBook
{
    Oid source;
    Oid target;
    bool swap;
    Oid at_table;       // the table that was being read, InvalidOid before the first
    int64_t next_block; // of that table
    Oid at_file;        // where that block is, InvalidOid when that does not matter
};

// What one transaction has done.
struct MoveProgress
{
    int64_t rows;
    int64_t rows_left; // estimated
    Oid at_table;
    int64_t next_block;
    Oid at_file;
};

std::optional<MoveBook> read_move(Oid source);

// Makes the row, or begins another run of a move that was there. Strikes rows of tables that are gone.
void book_move(Oid source, Oid target, bool swap, const char *phase);
void book_progress(Oid source, const char *phase, const MoveProgress &progress);
void book_phase(Oid source, const char *phase);
void strike_move(Oid source);

// Retires nothing of the set that is the source until the move is over or cancelled.
void hold_set(Oid source);
void release_set(Oid source);

} // namespace tasker::partition
