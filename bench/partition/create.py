"""Making partitions: time and WAL of each, when many are missing ahead of an open set."""

from bench.lib.rounds import add_rows, alternate
from bench.partition import cost

PARTITIONS = 100
AHEAD = 4


def _one(ctx, contestant, partitions):
    contestant.fresh()
    with contestant.connect() as conn:
        contestant.make_set(conn, "event", 0, AHEAD)
        # A second index beside the key, as most tables have.
        conn.execute("create index on event (key)")
        # pg_partman makes partitions ahead of the data, Tasker ahead of the clock.
        conn.execute("insert into event values (1, now(), 1, '')")
        contestant.premake(conn)
        contestant.want_ahead(conn, "event", AHEAD + partitions)
        conn.execute("checkpoint")
        lsn = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
        before = conn.execute(lsn).fetchone()[0]
        spent = cost.measure(conn.info.backend_pid, lambda: contestant.premake(conn))
        wal = conn.execute(lsn).fetchone()[0] - before
        made = contestant.partition_count(conn, "event") - 1 - AHEAD
        if made < partitions:
            raise RuntimeError(f"{contestant.label} made {made} of {partitions} partitions")
    found = {"time": spent.ms / made, "wal": wal / 1024.0 / made}
    if spent.cpu_ms is not None:
        found["cpu"] = spent.cpu_ms / made
    return found


def create_partitions(ctx):
    """100 partitions with a key and a second index, made by one call of maintenance."""
    partitions = ctx.scaled(PARTITIONS, 20)
    found = alternate(ctx, ctx.able(), ctx.options.rounds, "create_partitions", lambda c: _one(ctx, c, partitions))
    add_rows(ctx, "create_partitions", found, {
        "time": (f"{partitions} by one call", "ms each"), "cpu": (f"{partitions} by one call, CPU", "ms each"),
        "wal": (f"{partitions} by one call, WAL", "KiB each")})
