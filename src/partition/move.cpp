// The procedures that move rows.
#include "partition/move.hpp"

#include "partition/call_steps.hpp"
#include "partition/locks.hpp"
#include "partition/move_mirror.hpp"
#include "partition/move_shape.hpp"
#include "partition/move_source.hpp"
#include "partition/parent.hpp"
#include "partition/set_failure.hpp"

namespace tasker::partition {
namespace {

const char *table_name(Oid table)
{
    const char *name = pg::pg_call([&] { return get_rel_name(table); });
    return name != nullptr ? name : "?";
}

// One move of a table at a time.
class MoveLock
{
  public:
    explicit MoveLock(Oid source) : lock_(source, LockKind::move)
    {
        if (!lock_.held())
            throw pg::Error(ERRCODE_OBJECT_IN_USE, "rows of table \"%s\" are already being moved",
                            table_name(source))
                .hint("tasker.partition_data_progress shows by whom.");
    }

  private:
    SessionLock lock_;
};

[[noreturn]] void refuse_other_move(const MoveBook &book)
{
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "rows of table \"%s\" are on their way to table \"%s\"%s", table_name(book.source),
                    table_name(book.target), book.swap ? ", to be swapped" : "")
        .hint("Finish that move first, or end it with tasker.cancel_partition_move().");
}

// A move that was begun in another way, or to or from another table, is not mixed with this one.
void check_book(const MoveOptions &options)
{
    const std::optional<MoveBook> book = read_move(options.source);
    if (book && (book->target != options.target || book->swap != options.swap))
        refuse_other_move(*book);
    if (const std::optional<MoveBook> other = read_move(options.target); other)
        refuse_other_move(*other);
}

MoveOptions read_options(const pg::Args &args, bool undo, int shift)
{
    MoveOptions options{};
    options.source = args.oid(undo ? 0 : 1, undo ? "parent" : "source");
    options.target = args.oid(undo ? 1 : 0, undo ? "target" : "parent");
    options.set = undo ? options.source : options.target;
    options.batch_rows = args.i32(2 + shift, "batch_rows");
    options.wait_us = args.duration_us(3 + shift, "wait");
    options.max_batches = args.optional_i32(4 + shift);
    options.swap = args.boolean(5 + shift, "swap");
    if (options.batch_rows <= 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "batch_rows must be positive, not %d",
                        options.batch_rows);
    if (options.max_batches && *options.max_batches <= 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_batches must be positive, not %d",
                        *options.max_batches);
    return options;
}

void read_batch(const pg::Args &args, MoveOptions *options)
{
    if (!args.optional_duration_us(2, "batch"))
        return;
    options->batch = *DatumGetIntervalP(args.datum(2));
    if (pg::interval_us(*options->batch) <= 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "batch must be positive");
    if (options->swap)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"batch\" and \"swap\" exclude each other")
            .hint("Rows are copied in physical order. Leave out \"batch\".");
}

void check_batch(const MoveOptions &options)
{
    const std::optional<SetConfig> config = read_set(options.set);
    if (options.batch && config && !has_time(config->control.kind))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "\"batch\" is an interval, but \"%s\" is partitioned by a number",
                        NameStr(config->parent_name))
            .hint("Leave out \"batch\": rows are then moved in physical order.");
}

bool is_own_default(const MoveOptions &options)
{
    return options.source != options.set &&
           pg::pg_call([&] { return get_default_partition_oid(options.set) == options.source; });
}

void report(const MoveOptions &options, const char *source, const char *target, const MoveOutcome &outcome)
{
    pg::pg_call([&] {
        if (outcome.locked > 0 && !outcome.complete)
            ereport(WARNING, errcode(ERRCODE_LOCK_NOT_AVAILABLE),
                    errmsg(INT64_FORMAT " rows of table \"%s\" are held by other transactions",
                           outcome.locked, source),
                    errhint("Call again when these have ended."));
        if (outcome.unplaced > 0)
            ereport(WARNING, errcode(ERRCODE_CHECK_VIOLATION),
                    errmsg("no partition of table \"%s\" can hold " INT64_FORMAT " rows of table \"%s\"",
                           target, outcome.unplaced, source),
                    errdetail("They stay where they are: their control column is null or out of range."));
        ereport(NOTICE,
                errmsg(options.swap ? INT64_FORMAT " rows of table \"%s\" copied to table \"%s\"%s"
                                    : INT64_FORMAT " rows of table \"%s\" moved to table \"%s\"%s",
                       outcome.rows, source, target,
                       outcome.complete ? (options.swap ? ", names swapped" : "") : "; not complete yet"));
    });
}

void finish(Steps &steps, const MoveOptions &options, const MoveOutcome &outcome)
{
    steps.transaction([&] {
        if (outcome.complete && !options.swap) {
            advance_identity(options.source, options.target);
            strike_move(options.source);
            if (options.source == options.set)
                end_management(options.set);
        } else if (!outcome.complete) {
            book_phase(options.source, "interrupted");
        }
    });
}

// The names as the caller knows them; a swap changes them.
struct Names
{
    NameData source;
    NameData target;
};

void run(Steps &steps, const MoveOptions &options)
{
    MoveLock lock(options.source);
    MoveLock other(options.target);
    Names names{};
    bool of_default = false;

    const Oid caller = GetUserId();
    steps.transaction([&] {
        check_pair(options.source, options.target, caller);
        check_book(options);
        check_batch(options);
        of_default = is_own_default(options);
        namestrcpy(&names.source, table_name(options.source));
        namestrcpy(&names.target, table_name(options.target));
    });
    MoveOutcome outcome{};
    if (options.swap)
        outcome = run_swap_move(steps, options);
    else
        outcome = of_default ? run_default_move(steps, options) : run_plain_move(steps, options);
    finish(steps, options, outcome);
    report(options, NameStr(names.source), NameStr(names.target), outcome);
}

void cancel(Steps &steps, Oid source)
{
    MoveLock lock(source);
    const Oid caller = GetUserId();
    bool copied = false;
    retry_locks(steps, [&] {
        const std::optional<MoveBook> book = read_move(source);
        if (!book)
            throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "no rows of table \"%s\" are on their way elsewhere",
                            table_name(source));
        if (!pg::pg_call([&] { return tasker_is_owner(RelationRelationId, source, caller); }))
            throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "must be owner of table %s", table_name(source));
        copied = book->swap;
        if (copied) {
            drop_mirror(source);
            release_set(source);
        }
        strike_move(source);
    });
    pg::pg_call([&] {
        ereport(NOTICE, errmsg("the move of rows of table \"%s\" is cancelled", get_rel_name(source)),
                copied ? errdetail("It is as it was before; the copies in the other table stay.")
                       : errdetail("Rows that have been moved stay where they are."));
    });
}

} // namespace
} // namespace tasker::partition

using namespace tasker;

// partition_data_proc(parent regclass, source regclass, batch interval, batch_rows int, wait interval,
// max_batches int, swap boolean)
TASKER_FUNCTION(partition_data_proc)
{
    partition::MoveOptions options = partition::read_options(args, false, 1);
    partition::read_batch(args, &options);
    partition::CallSteps steps(args, "tasker.partition_data_proc()");
    partition::run(steps, options);
    return 0;
}

// undo_partition_proc(parent regclass, target regclass, batch_rows int, wait interval, max_batches int,
// swap boolean)
TASKER_FUNCTION(undo_partition_proc)
{
    const partition::MoveOptions options = partition::read_options(args, true, 0);
    partition::CallSteps steps(args, "tasker.undo_partition_proc()");
    partition::run(steps, options);
    return 0;
}

// cancel_partition_move(source regclass)
TASKER_FUNCTION(cancel_partition_move)
{
    const Oid source = args.oid(0, "source");
    partition::CallSteps steps(args, "tasker.cancel_partition_move()");
    partition::cancel(steps, source);
    return 0;
}
