#include "partition/move_book.hpp"

#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

// The row is gone when somebody has cancelled the move.
void require_row(const pg::Rows &rows, Oid source)
{
    if (!rows.empty())
        return;
    const char *name = pg::pg_call([&] { return get_rel_name(source); });
    throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the move out of table \"%s\" was cancelled",
                    name != nullptr ? name : "?");
}

} // namespace

std::optional<MoveBook> read_move(Oid source)
{
    static pg::Statement query("select target::oid, swap, coalesce(at_table::oid, 0), next_block, at_file "
                               "from tasker.part_move where source = $1",
                               {OIDOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {source});
    if (rows.empty())
        return std::nullopt;
    return MoveBook{source,         rows.oid(0, 1), rows.boolean(0, 2),
                    rows.oid(0, 3), rows.i64(0, 4), rows.oid(0, 5)};
}

void book_move(Oid source, Oid target, bool swap, const char *phase)
{
    static pg::Statement strike("delete from tasker.part_move m where not exists "
                                "(select from pg_catalog.pg_class c where c.oid = m.source)",
                                {});
    static pg::Statement upsert(
        "insert into tasker.part_move (source, target, swap, phase) values ($1, $2, $3, $4) "
        "on conflict (source) do update set target = excluded.target, swap = excluded.swap, "
        "phase = excluded.phase, run_started_at = excluded.run_started_at, run_rows = 0",
        {OIDOID, OIDOID, BOOLOID, TEXTOID});
    pg::Spi spi;
    spi.run(strike);
    spi.run(upsert, {source, target, swap, phase});
}

void book_progress(Oid source, const char *phase, const MoveProgress &progress)
{
    static pg::Statement update(
        "update tasker.part_move set phase = $2, rows_moved = rows_moved + $3, run_rows = run_rows + $3, "
        "rows_left = $4, at_table = $5, next_block = $6, at_file = $7, "
        "last_batch_at = pg_catalog.clock_timestamp() "
        "where source = $1 returning true",
        {OIDOID, TEXTOID, INT8OID, INT8OID, OIDOID, INT8OID, OIDOID});
    pg::Spi spi;
    require_row(spi.run_latest(update, {source, phase, progress.rows, progress.rows_left, progress.at_table,
                                        progress.next_block, progress.at_file}),
                source);
}

void book_phase(Oid source, const char *phase)
{
    static pg::Statement update("update tasker.part_move set phase = $2 where source = $1 returning true",
                                {OIDOID, TEXTOID});
    pg::Spi spi;
    require_row(spi.run_latest(update, {source, phase}), source);
}

void strike_move(Oid source)
{
    static pg::Statement remove("delete from tasker.part_move where source = $1", {OIDOID});
    pg::Spi().run_latest(remove, {source});
}

void hold_set(Oid source)
{
    static pg::Statement update(
        "with hold as (update tasker.part_config set legal_hold = true where parent = $1 and not legal_hold "
        "returning true) update tasker.part_move set held = true where source = $1 and exists (table hold)",
        {OIDOID});
    pg::Spi().run_latest(update, {source});
}

void release_set(Oid source)
{
    static pg::Statement update("update tasker.part_config set legal_hold = false where parent = $1 and "
                                "exists (select from tasker.part_move where source = $1 and held)",
                                {OIDOID});
    pg::Spi().run_latest(update, {source});
}

} // namespace tasker::partition
