// What the target takes over from the source in the end.
#include "partition/move.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {

// A sequence that is ahead already stays so.
void advance_identity(Oid source, Oid target)
{
    static pg::Statement query(
        "select pg_catalog.setval(t.seq, p.last_value) from pg_catalog.pg_attribute a "
        "join pg_catalog.pg_attribute b on b.attrelid = $2 and b.attname = a.attname "
        "cross join lateral (select pg_catalog.pg_get_serial_sequence($1::pg_catalog.regclass::text, "
        "a.attname)::pg_catalog.regclass, pg_catalog.pg_get_serial_sequence($2::pg_catalog.regclass::text, "
        "b.attname)::pg_catalog.regclass) t (old, seq) "
        "cross join lateral (select pg_catalog.pg_sequence_last_value(t.old)) p (last_value) "
        "where a.attrelid = $1 and b.attidentity <> '' and t.old <> t.seq and p.last_value is not null and "
        "p.last_value > coalesce(pg_catalog.pg_sequence_last_value(t.seq), p.last_value - 1)",
        {OIDOID, OIDOID});
    pg::Spi().run(query, {source, target});
}

void end_management(Oid set)
{
    static pg::Statement remove("delete from tasker.part_config where parent = $1", {OIDOID});
    static pg::Statement forget("delete from tasker.part_retirement where parent = $1", {OIDOID});
    static pg::Statement absolve("delete from tasker.part_failure where parent = $1", {OIDOID});
    pg::Spi spi;
    spi.run(remove, {set});
    spi.run(forget, {set});
    spi.run(absolve, {set});
}

} // namespace tasker::partition
namespace tasker::partition {

MoveOutcome run_swap_move(Steps &, const MoveOptions &)
{
    throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "moving rows with a swap of names is not supported");
}

} // namespace tasker::partition
