// The plain move, see move.hpp.
#include "partition/create.hpp"
#include "partition/move.hpp"
#include "partition/move_sink.hpp"
#include "partition/move_source.hpp"
#include "partition/set_failure.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

// A pass that moved nothing, because others hold what is left, is tried again after a pause that doubles up
// to the second; after so many of them in a row the rest is left to the next call.
constexpr int64_t kShortestPauseUs = 10'000;
constexpr int64_t kLongestPauseUs = 1'000'000;
constexpr int64_t kPatienceUs = 30'000'000;

// Deletes the row from the source unless somebody else holds it or has changed it since the snapshot. As a
// row that moves to another partition, so that a writer who waits for it is told.
TM_Result take_row(Relation source, TupleTableSlot *row)
{
    TM_FailureData failure;
    return table_tuple_delete(source, &row->tts_tid, GetCurrentCommandId(true), GetActiveSnapshot(),
                              InvalidSnapshot, false, &failure, true);
}

// What one transaction moves out of one table. Plain C: the relations go with the transaction.
class Portion
{
  public:
    Portion(const MoveOptions &options, Reader *reader, const Placement *placement, int64_t room)
        : options_(options), reader_(reader), placement_(placement), room_(room)
    {
    }

    PortionResult move()
    {
        const TimestampTz deadline = GetCurrentTimestamp() + kPortionUs;
        Sink *sink = open_sink(options_.target, reader_->table, nullptr);
        while (result_.rows < room_ && next(sink)) {
            if (++looked_at_ % 64 == 0 && GetCurrentTimestamp() >= deadline)
                break;
            CHECK_FOR_INTERRUPTS();
        }
        close_sink(sink);
        return result_;
    }

  private:
    bool next(Sink *sink)
    {
        if (!read_row(reader_)) {
            result_.at_end = is_at_end(reader_);
            result_.range_ends = reader_->at.by_key;
            return false;
        }
        switch (place_row(placement_, reader_->row, &result_.missing_key)) {
        case Place::none:
            result_.unplaced++;
            break;
        case Place::missing:
            result_.lacks_partition = true;
            return false;
        case Place::there:
            take(sink);
            break;
        }
        pass_row(reader_);
        return true;
    }

    void take(Sink *sink)
    {
        switch (take_row(reader_->table, reader_->row)) {
        case TM_Ok:
            add_to_sink(sink, reader_->row);
            result_.rows++;
            break;
        case TM_BeingModified:
        case TM_WouldBlock:
            result_.locked++;
            break;
        case TM_Updated:
        case TM_Deleted:
            result_.changed++;
            break;
        default:
            elog(ERROR, "a row of \"%s\" was changed by this command itself",
                 RelationGetRelationName(reader_->table));
        }
    }

    const MoveOptions &options_;
    Reader *reader_;
    const Placement *placement_;
    int64_t room_;
    int64_t looked_at_ = 0;
    PortionResult result_{};
};

class PlainMove
{
  public:
    PlainMove(Steps &steps, const MoveOptions &options)
        : steps_(steps), options_(options), batches_(options), sources_(&memory_)
    {
    }

    MoveOutcome run()
    {
        begin();
        while (pass()) {
        }
        return outcome_;
    }

  private:
    // Another run goes on where the last one stopped; what lies before comes with the next pass.
    void begin()
    {
        steps_.transaction([&] {
            if (const std::optional<MoveBook> book = read_move(options_.source); book)
                resume_at_ = *book;
            book_move(options_.source, options_.target, false, "moving rows");
            config_ = *read_set(options_.set);
        });
    }

    // One look at all rows of the source. False when the move is over, complete or not.
    bool pass()
    {
        steps_.transaction([&] { list_source_tables(options_.source, sources_); });
        moved_ = outcome_.locked = outcome_.unplaced = changed_ = 0;
        passes_++;
        size_t first = 0;
        int64_t block = 0;
        const bool whole = !resume(&first, &block) && !(passes_ == 1 && options_.batch);
        for (size_t i = first; i < sources_.size(); i++, block = 0) {
            if (!read_table(i, block))
                return false;
        }
        if (whole && moved_ == 0 && changed_ == 0 && outcome_.locked == 0 && nobody_writes()) {
            outcome_.complete = outcome_.unplaced == 0;
            return false;
        }
        return moved_ > 0 || !whole ? be_patient_again() : wait_for_others();
    }

    bool resume(size_t *first, int64_t *block)
    {
        const MoveBook book = std::exchange(resume_at_, MoveBook{});
        for (size_t i = 0; i < sources_.size(); i++) {
            if (sources_[i].relid == book.at_table && (i > 0 || book.next_block > 0)) {
                *first = i;
                *block = book.next_block;
                return true;
            }
        }
        return false;
    }

    // Moves what is in one table, in as many transactions as it takes. False when the last batch is complete.
    bool read_table(size_t index, int64_t block)
    {
        ReaderPosition position =
            first_position(passes_ == 1 ? options_.batch : std::optional<Interval>(), block);
        for (bool at_end = false; !at_end;) {
            const PortionResult result = move_with_patience(index, &position);
            moved_ += result.rows;
            outcome_.rows += result.rows;
            outcome_.locked += result.locked;
            outcome_.unplaced += result.unplaced;
            changed_ += result.changed;
            at_end = result.at_end;
            if (result.lacks_partition)
                make_partition(result.missing_key);
            if (!batches_.add(result.rows, result.range_ends) || steps_.should_stop())
                return false;
        }
        return true;
    }

    // A row whose key somebody is writing into the target has to be waited for. Others may wait for rows of
    // ours meanwhile, so after a short wait it all is undone, to be tried again.
    PortionResult move_with_patience(size_t index, ReaderPosition *position)
    {
        for (int64_t pause_us = kShortestPauseUs; pause_us < kLongestPauseUs; pause_us *= 2) {
            PortionResult result{};
            ReaderPosition at = *position;
            std::optional<pg::CaughtError> error;
            LockTimeoutScope limit(LockTimeout > 0 ? LockTimeout : patience_ms(0));
            steps_.transaction(
                [&] { error = pg::try_in_subtransaction([&] { result = move_portion(index, &at); }); });
            if (!error) {
                *position = at;
                return result;
            }
            if (!is_lock_failure(*error))
                break;
            pause_move(pause_us);
        }
        // What fails now is thrown as it comes.
        PortionResult result{};
        steps_.transaction([&] { result = move_portion(index, position); });
        return result;
    }

    PortionResult move_portion(size_t index, ReaderPosition *position)
    {
        pg::OwnedContext context("tasker move");
        pg::MemoryContextScope scope(context.get());
        PortionResult result{};
        {
            pg::AsOwner owner(config_.owner);
            const Placement placement = options_.target == options_.set
                                            ? open_placement(config_, sources_[index].relid)
                                            : Placement{};
            result = pg::pg_call([&] {
                Reader *reader = open_reader(sources_[index].relid, config_, position);
                PortionResult moved = Portion(options_, reader, &placement, batches_.room()).move();
                close_reader(reader, position);
                return moved;
            });
        }
        if (result.rows > 0 || result.at_end)
            book_progress(options_.source, "moving rows",
                          {result.rows, rows_left(index, *position), sources_[index].relid,
                           static_cast<int64_t>(position->block), InvalidOid});
        return result;
    }

    // From the rows that were found in the blocks so far; a later pass finds only what came meanwhile.
    int64_t rows_left(size_t index, const ReaderPosition &position) const
    {
        int64_t left = sources_[index].blocks - static_cast<int64_t>(position.block);
        int64_t done = static_cast<int64_t>(position.block);
        for (size_t i = 0; i < sources_.size(); i++)
            (i < index ? done : left) += i == index ? 0 : sources_[i].blocks;
        return estimate_left(sources_[index].relid, moved_, done, std::max<int64_t>(left, 0));
    }

    void make_partition(int64_t key)
    {
        retry_locks(steps_, [&] { (void)create_partition_for(options_.set, key); });
    }

    // Is there no transaction that may have added rows which we cannot see yet?
    bool nobody_writes()
    {
        bool nobody = true;
        steps_.transaction([&] {
            for (const SourceTable &source : sources_)
                nobody = nobody &&
                         pg::pg_call([&] { return ConditionalLockRelationOid(source.relid, ShareLock); });
        });
        return nobody;
    }

    bool be_patient_again()
    {
        pause_us_ = kShortestPauseUs;
        waited_us_ = 0;
        return true;
    }

    bool wait_for_others()
    {
        if (waited_us_ >= kPatienceUs)
            return false;
        steps_.transaction([&] { book_phase(options_.source, "waiting for other transactions"); });
        pause_move(pause_us_);
        waited_us_ += pause_us_;
        pause_us_ = std::min(pause_us_ * 2, kLongestPauseUs);
        return !steps_.should_stop();
    }

    Steps &steps_;
    const MoveOptions &options_;
    BatchCount batches_;
    pg::ContextResource memory_;
    pg::Vector<SourceTable> sources_;
    SetConfig config_{};
    MoveBook resume_at_{};
    MoveOutcome outcome_{};
    int passes_ = 0; // only the first is by ranges: rows without a key are found in physical order
    int64_t moved_ = 0;
    int64_t changed_ = 0;
    int64_t pause_us_ = kShortestPauseUs;
    int64_t waited_us_ = 0;
};

} // namespace

MoveOutcome run_plain_move(Steps &steps, const MoveOptions &options)
{
    return PlainMove(steps, options).run();
}

} // namespace tasker::partition
