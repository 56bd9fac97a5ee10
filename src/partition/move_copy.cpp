// The move with a swap, see move.hpp: mirror, copy, verify, and at last exchange the names.
#include "partition/create.hpp"
#include "partition/move_mirror.hpp"
#include "partition/move_sink.hpp"
#include "partition/move_source.hpp"
#include "partition/move_swap.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr int64_t kShortestPauseUs = 10'000;
constexpr int64_t kLongestPauseUs = 500'000;
constexpr int64_t kPatienceUs = 30'000'000;

// What one transaction has copied.
struct CopyResult
{
    int64_t rows;
    int64_t unplaced;
    bool lacks_partition;
    int64_t missing_key;
    bool at_end;
};

// The rows that were held by others; to be looked at again. In physical order, as they are read.
using RowList = pg::Vector<ItemPointerData>;

// Copies rows of one table in one transaction. `left` gets what is held by others, and has room for it.
class CopyPortion
{
  public:
    CopyPortion(Relation table, Sink *sink, const Placement *placement, RowList *left)
        : table_(table), sink_(sink), placement_(placement), left_(left),
          newest_(table_slot_create(table, nullptr))
    {
    }

    void end() { ExecDropSingleTupleTableSlot(newest_); }

    // False when the row's partition has to be made first.
    bool copy(TupleTableSlot *row, CopyResult *result)
    {
        switch (place_row(placement_, row, &result->missing_key)) {
        case Place::none:
            result->unplaced++;
            return true;
        case Place::missing:
            result->lacks_partition = true;
            return false;
        case Place::there:
            break;
        }
        TM_FailureData failure;
        ItemPointerData tid = row->tts_tid;
        switch (table_tuple_lock(table_, &tid, GetActiveSnapshot(), newest_, GetCurrentCommandId(false),
                                 LockTupleShare, LockWaitSkip, 0, &failure)) {
        case TM_Ok:
            result->rows += add_unless_there(sink_, newest_) ? 1 : 0;
            break;
        case TM_WouldBlock:
        case TM_BeingModified:
            left_->push_back(tid);
            break;
        case TM_Updated:
        case TM_Deleted:
            break; // and mirrored
        default:
            elog(ERROR, "a row of \"%s\" was changed by this command itself",
                 RelationGetRelationName(table_));
        }
        ExecClearTuple(newest_);
        return true;
    }

  private:
    Relation table_;
    Sink *sink_;
    const Placement *placement_;
    RowList *left_;
    TupleTableSlot *newest_;
};

class SwapMove
{
  public:
    SwapMove(Steps &steps, const MoveOptions &options)
        : steps_(steps), options_(options), batches_(options), sources_(&memory_), held_(&memory_)
    {
    }

    MoveOutcome run()
    {
        begin();
        if (!copy_all())
            return outcome_;
        verify();
        swap_names(steps_, options_.source, options_.target, options_.source == options_.set);
        outcome_.complete = true;
        return outcome_;
    }

  private:
    // The triggers and the row of the book come together.
    void begin()
    {
        retry_locks(steps_, [&] {
            resume_at_ = read_move(options_.source).value_or(MoveBook{});
            config_ = *read_set(options_.set);
            if (!OidIsValid(resume_at_.source)) {
                check_swap(options_.source, options_.target);
                create_mirror(options_.source);
            } else if (!has_mirror(options_.source)) {
                refuse_lost_mirror();
            }
            key_ = choose_key(options_.source, options_.target);
            book_move(options_.source, options_.target, true, "copying rows");
            if (options_.source == options_.set)
                hold_set(options_.source);
        });
        steps_.transaction([&] { warn_of_order(options_.source, options_.target); });
    }

    [[noreturn]] void refuse_lost_mirror() const
    {
        const char *name = pg::pg_call([&] { return get_rel_name(options_.source); });
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "the triggers that mirror changes of table \"%s\" are gone", name)
            .hint(
                "End this move with tasker.cancel_partition_move(), empty the other table, and begin anew.");
    }

    // False when it stopped before the end.
    bool copy_all()
    {
        steps_.transaction([&] { list_source_tables(options_.source, sources_); });
        size_t first = 0;
        int64_t block = 0;
        for (size_t i = 0; i < sources_.size(); i++) {
            if (sources_[i].relid == resume_at_.at_table) {
                first = i;
                block = resume_at_.next_block;
                file_ = resume_at_.at_file;
            }
        }
        for (size_t i = first; i < sources_.size(); i++, block = 0, file_ = InvalidOid) {
            do {
                if (!copy_table(i, block) || !copy_held(i))
                    return false;
                block = 0;
            } while (!is_read_);
        }
        return outcome_.unplaced == 0;
    }

    // VACUUM FULL and the like write a table anew, each row in another place; so does a restore. To be looked
    // at in every transaction, which holds the lock against it from then on.
    bool is_written_anew(size_t index)
    {
        const Oid file = pg::pg_call([&] {
            Relation table = table_open(sources_[index].relid, RowExclusiveLock);
            const Oid found = table->rd_rel->relfilenode;
            table_close(table, NoLock);
            return found;
        });
        const Oid before = std::exchange(file_, file);
        if (!OidIsValid(before) || before == file)
            return false;
        held_.clear();
        return true;
    }

    bool copy_table(size_t index, int64_t block)
    {
        ReaderPosition position = first_position(std::nullopt, block);
        for (bool at_end = false; !at_end;) {
            CopyResult result{};
            steps_.transaction([&] {
                if (is_written_anew(index))
                    position = first_position(std::nullopt, 0);
                result = copy_portion(index, &position);
                book(index, result, static_cast<int64_t>(position.block));
            });
            at_end = result.at_end;
            if (!account(result))
                return false;
        }
        return true;
    }

    CopyResult copy_portion(size_t index, ReaderPosition *position)
    {
        pg::OwnedContext context("tasker copy");
        pg::MemoryContextScope scope(context.get());
        pg::AsOwner owner(config_.owner);
        const Placement placement = placement_of(index);
        Reader *reader = open_reader(sources_[index].relid, config_, position);
        const TimestampTz deadline = GetCurrentTimestamp() + kPortionUs;
        return pg::pg_call([&] {
            CopyResult result{};
            Sink *sink = open_sink(options_.target, reader->table, &key_);
            CopyPortion portion(reader->table, sink, &placement, &held_);
            for (int looked_at = 1; result.rows < batches_.room(); looked_at++) {
                if (!read_row(reader)) {
                    result.at_end = true;
                    break;
                }
                if (!portion.copy(reader->row, &result))
                    break;
                pass_row(reader);
                CHECK_FOR_INTERRUPTS();
                if (looked_at % 64 == 0 && GetCurrentTimestamp() >= deadline)
                    break;
            }
            portion.end();
            close_sink(sink);
            close_reader(reader, position);
            return result;
        });
    }

    // Rows that others held, until none is left. False when they are held for too long.
    bool copy_held(size_t index)
    {
        int64_t pause_us = kShortestPauseUs;
        int64_t waited_us = 0;
        is_read_ = true;
        while (!held_.empty()) {
            const size_t before = held_.size();
            CopyResult result{};
            steps_.transaction([&] {
                is_read_ = !is_written_anew(index);
                if (!is_read_)
                    return;
                result = copy_list(index);
                book(index, result, sources_[index].blocks);
            });
            if (!is_read_)
                return true;
            if (!account(result))
                return false;
            if (held_.size() < before || result.lacks_partition)
                continue;
            if (waited_us >= kPatienceUs) {
                outcome_.locked = static_cast<int64_t>(held_.size());
                return false;
            }
            steps_.transaction([&] { book_phase(options_.source, "waiting for other transactions"); });
            pause_move(pause_us);
            waited_us += pause_us;
            pause_us = std::min(pause_us * 2, kLongestPauseUs);
        }
        return true;
    }

    CopyResult copy_list(size_t index)
    {
        pg::OwnedContext context("tasker copy");
        pg::MemoryContextScope scope(context.get());
        pg::AsOwner owner(config_.owner);
        const Placement placement = placement_of(index);
        RowList list(&memory_);
        list.swap(held_);
        held_.reserve(list.size());
        size_t next = 0;
        const CopyResult result = pg::pg_call([&] {
            CopyResult copied{};
            Relation table = table_open(sources_[index].relid, RowExclusiveLock);
            TupleTableSlot *row = table_slot_create(table, nullptr);
            Sink *sink = open_sink(options_.target, table, &key_);
            CopyPortion portion(table, sink, &placement, &held_);
            for (; next < list.size(); next++) {
                CHECK_FOR_INTERRUPTS();
                // What is not there any more was changed, and mirrored.
                if (table_tuple_fetch_row_version(table, &list[next], GetActiveSnapshot(), row) &&
                    !portion.copy(row, &copied))
                    break;
            }
            portion.end();
            close_sink(sink);
            ExecDropSingleTupleTableSlot(row);
            table_close(table, NoLock);
            return copied;
        });
        for (; next < list.size(); next++)
            held_.push_back(list[next]);
        return result;
    }

    Placement placement_of(size_t index) const
    {
        return options_.target == options_.set ? open_placement(config_, sources_[index].relid) : Placement{};
    }

    // Another call begins at the first row that was held, so none is forgotten when this one is killed.
    void book(size_t index, const CopyResult &result, int64_t block)
    {
        book_progress(options_.source, "copying rows",
                      {result.rows, rows_left(index, block), sources_[index].relid,
                       std::min(block, first_held()), file_});
    }

    int64_t first_held() const
    {
        return held_.empty() ? PG_INT64_MAX : ItemPointerGetBlockNumberNoCheck(&held_.front());
    }

    int64_t rows_left(size_t index, int64_t block) const
    {
        int64_t left = std::max<int64_t>(sources_[index].blocks - block, 0);
        for (size_t i = index + 1; i < sources_.size(); i++)
            left += sources_[i].blocks;
        return estimate_left(sources_[index].relid, 0, 0, left);
    }

    // False when this is enough for one call.
    bool account(const CopyResult &result)
    {
        outcome_.rows += result.rows;
        outcome_.unplaced += result.unplaced;
        if (result.lacks_partition)
            retry_locks(steps_, [&] { (void)create_partition_for(options_.set, result.missing_key); });
        return batches_.add(result.rows) && !steps_.should_stop();
    }

    void verify()
    {
        steps_.transaction([&] { book_phase(options_.source, "verifying"); });
        bool equal = false;
        steps_.transaction([&] { equal = have_equal_rows(options_.source, options_.target); });
        if (equal)
            return;
        // Rows of the copy that are not in the source would stay for ever: the next call begins anew. A
        // change that is mirrored waits for this or is waited for, and a copy is made by younger snapshots
        // only.
        retry_locks(steps_, [&] {
            empty_copy(options_.target, config_.owner);
            book_progress(options_.source, "copying rows", {0, 0, options_.source, 0, InvalidOid});
        });
        const char *source = pg::pg_call([&] { return get_rel_name(options_.source); });
        const char *target = pg::pg_call([&] { return get_rel_name(options_.target); });
        throw pg::Error(ERRCODE_DATA_CORRUPTED, "tables \"%s\" and \"%s\" differ after the copy", source,
                        target)
            .detail("Something has changed one of them past the triggers: by TRUNCATE of a partition, by "
                    "attaching or detaching one, or by writing to the copy.")
            .hint(
                "The copy has been emptied: call again to copy anew. tasker.cancel_partition_move() ends the "
                "move and leaves the source as it is.");
    }

    Steps &steps_;
    const MoveOptions &options_;
    BatchCount batches_;
    pg::ContextResource memory_;
    pg::Vector<SourceTable> sources_;
    RowList held_;
    SetConfig config_{};
    MoveKey key_{};
    MoveBook resume_at_{};
    MoveOutcome outcome_{};
    Oid file_ = InvalidOid; // of the table that is being read
    bool is_read_ = false;  // whole, and not written anew before its end
};

} // namespace

MoveOutcome run_swap_move(Steps &steps, const MoveOptions &options)
{
    return SwapMove(steps, options).run();
}

} // namespace tasker::partition
