"""The share of updates that are HOT, and index entries per record: law 3 of the architecture."""

from bench.lib import pgbench
from bench.lib.report import Bar, Row
from bench.queue.payload import make

RECORDS = 40_000
BATCH = 10

UPDATES_SQL = """
    select coalesce(sum(n_tup_upd), 0)::float8, coalesce(sum(n_tup_hot_upd), 0)::float8
    from pg_stat_user_tables where relname ~ %s"""


def _share(ctx, contestant, records, payload, snapshot):
    """Claim and complete a whole backlog, perhaps beside an open snapshot; return HOT updates / updates."""
    contestant.reset(records, payload)
    holder = contestant.connect(autocommit=False)
    try:
        if snapshot:
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select count(*) from pg_class")
        with contestant.connect() as conn:
            before = conn.execute(UPDATES_SQL, [contestant.record_tables]).fetchone()
        pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("claim", "complete"),
                    clients=ctx.options.clients, transactions=max(1, records // BATCH // ctx.options.clients),
                    defines=contestant.defines(batch=BATCH))
        # Sessions report their counts when they end; pgbench has ended.
        with contestant.connect() as conn:
            after = conn.execute(UPDATES_SQL, [contestant.record_tables]).fetchone()
    finally:
        holder.close()
    updates = after[0] - before[0]
    return (after[1] - before[1]) / updates if updates else float("nan")


def hot_ratio(ctx):
    """Payloads of 100 and 500 bytes, with and without an old snapshot."""
    able = ctx.able("claim", "complete", only={"tasker", "seed"})
    records = ctx.scaled(RECORDS, 4_000)
    for size in (100, 500):
        for snapshot in (False, True):
            variant = f"{size} bytes" + (", snapshot open" if snapshot else "")
            found = ctx.interleaved(able, 1, f"hot_ratio, {variant}",
                                    lambda c: _share(ctx, c, records, make(size), snapshot))
            row = ctx.report.add(Row("hot_ratio", variant, "share", found))
            row.bars.append(Bar("HOT updates / updates", row.value(ctx.report.subject), ">=", 0.98, ""))
