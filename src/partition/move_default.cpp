// Moves rows out of a set's own DEFAULT partition, into partitions of their own.
//
// A partition can only be attached when the DEFAULT partition has no row of its range, so its rows cannot
// come batch by batch: the partition is made, filled and attached in one transaction, which nobody sees half
// done. ATTACH takes ACCESS EXCLUSIVE on the DEFAULT partition to look through it. So most rows are moved
// before that lock is asked for, and only what came meanwhile is looked for under it; readers and writers
// wait for so long.
//
// Whoever wants one of the rows meanwhile waits, and holds a lock that this waits for: it gives way after
// kGiveWayMs and begins anew. When that has happened a few times the lock is taken first.
#include "partition/bounds.hpp"
#include "partition/create.hpp"
#include "partition/locks.hpp"
#include "partition/move.hpp"
#include "partition/move_sink.hpp"
#include "partition/move_source.hpp"
#include "partition/retirement.hpp"
#include "partition/set_failure.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr int kGiveWayMs = 100;
constexpr int kOptimisticTries = 3;

// The range that a new partition for `key` has. The creation lock is held.
core::NumberRange free_range(const SetConfig &config, int64_t key)
{
    const BoundList list = pg::pg_call([&] {
        Relation parent = table_open(config.parent, ShareUpdateExclusiveLock);
        const BoundList found = read_bounds(parent, true);
        table_close(parent, NoLock);
        return found;
    });
    pg::ContextResource memory;
    pg::Vector<DirectoryEntry> detached(&memory);
    add_detached_tables(config.parent, detached);
    const core::NumberRange range = fit_around(
        fit_around(aligned_range(config, key), key, {list.entries, static_cast<size_t>(list.count)}), key,
        {detached.data(), detached.size()});
    if (range.lower >= range.upper)
        throw pg::Error(ERRCODE_LOCK_NOT_AVAILABLE,
                        "the range of key %s of \"%s\" is being made a partition or retired",
                        key_text(config.control, key), NameStr(config.parent_name));
    return range;
}

class DefaultMove
{
  public:
    DefaultMove(Steps &steps, const MoveOptions &options)
        : steps_(steps), options_(options), batches_(options)
    {
    }

    MoveOutcome run()
    {
        steps_.transaction([&] {
            book_move(options_.source, options_.target, false, "moving rows");
            config_ = *read_set(options_.set);
        });
        while (pass()) {
        }
        return outcome_;
    }

  private:
    bool pass()
    {
        int64_t key = 0;
        bool found_any = false;
        ReaderPosition position = first_position(std::nullopt, 0);
        while (find_key(&position, &key)) {
            found_any = true;
            const int64_t rows = fill_partition(key);
            outcome_.rows += rows;
            if (!batches_.add(rows, true) || steps_.should_stop())
                return false;
        }
        outcome_.complete = !found_any;
        return found_any;
    }

    // The first row from the position on that a partition could hold.
    bool find_key(ReaderPosition *position, int64_t *key)
    {
        bool found = false;
        steps_.transaction([&] {
            pg::OwnedContext context("tasker move");
            pg::MemoryContextScope scope(context.get());
            const Placement placement = open_placement(config_, options_.source);
            Reader *reader = open_reader(options_.source, config_, position);
            found = pg::pg_call([&] {
                bool missing = false;
                while (!missing && read_row(reader)) {
                    CHECK_FOR_INTERRUPTS();
                    missing = place_row(&placement, reader->row, key) == Place::missing;
                    if (!missing)
                        pass_row(reader);
                }
                close_reader(reader, position);
                return missing;
            });
        });
        return found;
    }

    int64_t fill_partition(int64_t key)
    {
        int tries = 0;
        int64_t rows = 0;
        retry_locks(steps_, [&] {
            const bool optimistic = tries++ < kOptimisticTries;
            LockTimeoutScope limit(optimistic ? std::min(LockTimeout, kGiveWayMs) : LockTimeout);
            rows = make_and_fill(key, optimistic);
            book_progress(
                options_.source, "moving rows",
                {rows, estimate_left(options_.source, 0, 0, blocks_left()), options_.source, 0, InvalidOid});
        });
        return rows;
    }

    int64_t blocks_left() const
    {
        return pg::pg_call([&] {
            Relation table = table_open(options_.source, NoLock);
            const BlockNumber blocks = RelationGetNumberOfBlocks(table);
            table_close(table, NoLock);
            return static_cast<int64_t>(blocks);
        });
    }

    int64_t make_and_fill(int64_t key, bool optimistic)
    {
        pg::OwnedContext context("tasker move");
        pg::MemoryContextScope scope(context.get());
        pg::pg_call([&] { lock_for_transaction(options_.set, LockKind::creation, ExclusiveLock); });
        const core::NumberRange range = free_range(config_, key);
        if (!optimistic)
            lock_source();
        const Oid partition = make_partition_table(config_, free_partition_name(config_, range), true);
        int64_t rows = move_range(partition, range);
        if (optimistic) {
            lock_source();
            rows += move_range(partition, range);
        }
        attach_partition_table(config_, partition, range);
        return rows;
    }

    // A writer that has chosen the DEFAULT partition and waits for it would be refused after the ATTACH,
    // because its row does not belong there any more. So writers are held at the parent, before they choose.
    void lock_source()
    {
        pg::pg_call([&] {
            LockRelationOid(options_.set, ShareRowExclusiveLock);
            LockRelationOid(options_.source, AccessExclusiveLock);
        });
    }

    int64_t move_range(Oid partition, core::NumberRange range)
    {
        pg::AsOwner owner(config_.owner);
        const AttrNumber column =
            pg::pg_call([&] { return get_attnum(options_.source, NameStr(config_.control_name)); });
        pg::pg_call([] {
            CommandCounterIncrement();
            PushActiveSnapshot(GetLatestSnapshot());
        });
        const ReaderPosition start = first_position(std::nullopt, 0);
        Reader *reader = open_reader(options_.source, config_, &start);
        const int64_t rows = pg::pg_call([&] { return move_rows(reader, partition, column, range); });
        pg::pg_call([] {
            PopActiveSnapshot();
            CommandCounterIncrement();
        });
        return rows;
    }

    // Plain C. A row that somebody changes at this moment is looked for again under the lock.
    int64_t move_rows(Reader *reader, Oid partition, AttrNumber column, core::NumberRange range) const
    {
        int64_t rows = 0;
        Sink *sink = open_sink(partition, reader->table, nullptr);
        for (; read_row(reader); pass_row(reader)) {
            CHECK_FOR_INTERRUPTS();
            bool null = false;
            Datum value = slot_getattr(reader->row, column, &null);
            if (null || !range.contains(key_of_datum(config_.control.type, value)))
                continue;
            TM_FailureData failure;
            if (table_tuple_delete(reader->table, &reader->row->tts_tid, GetCurrentCommandId(true),
                                   GetActiveSnapshot(), InvalidSnapshot, false, &failure, true) != TM_Ok)
                continue;
            add_to_sink(sink, reader->row);
            rows++;
        }
        close_sink(sink);
        ReaderPosition end;
        close_reader(reader, &end);
        return rows;
    }

    Steps &steps_;
    const MoveOptions &options_;
    BatchCount batches_;
    SetConfig config_{};
    MoveOutcome outcome_{};
};

} // namespace

MoveOutcome run_default_move(Steps &steps, const MoveOptions &options)
{
    return DefaultMove(steps, options).run();
}

} // namespace tasker::partition
