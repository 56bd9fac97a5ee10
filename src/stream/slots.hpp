// The three tables of subscriptions and the three of ticks, of which one each is written to.
//
// Where consumers stand is written twice a batch, and ticks many times a second. While somebody keeps an old
// snapshot, nothing that an update or a delete leaves behind can be cleaned up. So nothing is updated or
// deleted here: rows are only appended, and whole tables are emptied in turn (rotate_metadata.cpp). For that,
// what is still wanted of the oldest table is first appended to the active one.
//
// The row of tasker.metadata_rotation says which tables are active. It is cached as queues are (queue.hpp).
// Rows are looked for in all three tables, so it does not matter which one somebody has written to who looked
// for the active one just before a rotation.
#pragma once

#include "stream/queue.hpp"

namespace tasker::stream {

struct Slots
{
    int32_t subscription; // active
    int32_t tick;         // active
    Oid subscriptions[kTables];
    Oid ticks[kTables];
    Oid registration; // names what is locked: see lock_key
};

// As it is committed at this moment or changed by this transaction. Errors: object_not_in_prerequisite_state
// before the first queue.
Slots current_slots();

// Locks the active table in ROW EXCLUSIVE mode to the end of the transaction, and returns its number. Errors:
// object_not_in_prerequisite_state while after_restore() is due.
int32_t hold_subscriptions();
int32_t hold_ticks();

// Makes the row where there is none.
void prepare_slots();

// A row of such a table: its columns in order, in the current memory context.
inline constexpr int kSlotColumns = 8; // ticks have fewer
struct SlotRow
{
    int32_t slot; // the table that it is in
    Datum values[kSlotColumns];
    bool nulls[kSlotColumns];

    int64_t i64(int column) const { return DatumGetInt64(values[column]); }
    std::optional<int64_t> optional_i64(int column) const
    {
        return nulls[column] ? std::nullopt : std::optional(DatumGetInt64(values[column]));
    }
};

// All six tables have a primary key of (integer, bigint). Each call looks at one entry of each of three
// indexes, whatever else the tables hold.
enum class Seek
{
    last,       // the row with the greatest bigint
    equal,      // the row with that bigint
    next_after, // the row with the least bigint above
    last_before // the row with the greatest bigint below
};

// With `keep` all three tables are locked in ACCESS SHARE mode to the end of the transaction, so that what
// was found cannot be emptied away before others see that it is wanted.
std::optional<SlotRow> find_row(const Oid (&tables)[kTables], int32_t key, Seek seek, int64_t value = 0,
                                bool keep = false);

// Locks the tables of subscriptions, or of ticks, in ACCESS SHARE mode to the end of the transaction. A query
// over more than one of them needs that before its snapshot is taken: else a table may be emptied between the
// snapshot and the query's own lock, and what was appended elsewhere meanwhile is not in the snapshot.
void pin_subscriptions();
void pin_ticks();

// Appends a row to one of the tables, which is held; it is visible to what this transaction does next.
void append_row(Oid table, const Datum (&values)[kSlotColumns], const bool (&nulls)[kSlotColumns]);

// Locks a subscription (its sub_key) to the end of the transaction: whoever changes one holds this lock. With
// `wait` false, returns whether the lock was to be had.
bool lock_key(int32_t sub_key, bool wait = true);

} // namespace tasker::stream
